"""keras_model of python/cairn_io.py: the logits of `cairn predict`.

check(cairn, work) runs everything; `work` is an empty folder.
"""

import keras
import tensorflow as tf

from program import expect_close, made_up_texts, predict, train
import cairn_io  # program.py makes it importable


def check_keras(checkpoint, texts, wanted, saved):
    ids, _ = checkpoint.batch(texts)
    model = cairn_io.keras_model(checkpoint)
    expect_close(model.predict(ids, verbose=0), wanted, "keras_model on ids")
    alone, _ = checkpoint.batch([""])
    expect_close(model(alone), wanted[:1], "keras_model, an empty text alone")
    model = cairn_io.keras_model(checkpoint, text=True)
    expect_close(model(tf.constant(texts)), wanted, "keras_model on strings")
    model.export(saved, verbose=False)
    served = tf.saved_model.load(saved)
    expect_close(served.serve(tf.constant(texts)), wanted, "keras_model, SavedModel")
    return model


def check(cairn, work):
    texts = made_up_texts([0, 1, 2, 3, 30])
    train(cairn, work / "default", "--epochs", 3, "--learning-rate", "1e-3")  # and the tutorial's sizes
    wanted = predict(cairn, texts, "--model-dir", work / "default", "--checkpoint", "best")
    checkpoint = cairn_io.load_best(work / "default")
    assert texts[0] == "" and checkpoint.sizes()["hidden"] == 64
    model = check_keras(checkpoint, texts, wanted, work / "saved")
    model.save(work / "saved.keras")
    again = keras.models.load_model(work / "saved.keras")
    expect_close(again(tf.constant(texts)), wanted, "keras_model, saved")
    # Text rules that Keras does not have.
    train(cairn, work / "rules", "--steps", 300, "--learning-rate", 0.003, "--strip-html", "--max-length", 40)
    wanted = predict(cairn, texts, "--model-dir", work / "rules")
    check_keras(cairn_io.load_latest(work / "rules"), texts, wanted, work / "rules-saved")
