"""keras_model of python/cairn_io.py: the logits of `cairn predict`.

check(cairn, work) runs everything; `work` is an empty folder.
"""

import keras
import numpy
import tensorflow as tf

from program import expect_close, made_up_texts, predict, train
import cairn_io  # program.py makes it importable


def check_keras(checkpoint, texts, wanted, saved):
    ids, _ = checkpoint.batch(texts)
    model = cairn_io.keras_model(checkpoint)
    expect_close(model.predict(ids, verbose=0), wanted, "keras_model on ids")
    for at in [0, 1, 4]:  # alone, an empty one too: neighbours make no difference
        alone, _ = checkpoint.batch(texts[at:at + 1])
        expect_close(model(alone), wanted[at:at + 1], f"keras_model, text {at} alone")
    # It can be trained: a step moves the weights, and never the checkpoint's arrays.
    before = checkpoint.weights()["output.weight"].copy()
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), optimizer=keras.optimizers.SGD(1.0))
    model.fit(ids[:4, :30], numpy.array([0.0, 1, 0, 1]), verbose=0)
    assert not numpy.allclose(model.get_layer("output").get_weights()[0].T, before)
    assert (checkpoint.weights()["output.weight"] == before).all()
    model = cairn_io.keras_model(checkpoint, text=True)
    expect_close(model.predict(tf.constant(texts), verbose=0), wanted, "keras_model on strings")
    model.export(saved, verbose=False)
    served = tf.saved_model.load(saved)
    expect_close(served.serve(tf.constant(texts)), wanted, "keras_model, SavedModel")
    return model


def check_vocabulary(checkpoint):
    """Vocabularies that Keras' TextVectorization refuses or takes for something else."""
    rows = checkpoint.weights()["embedding.weight"]
    for words in [b"\n[UNK]\n", b"\n[UNK]\nthe\nthe\n", b"\n[UNK]\nthe\n\xff\n"]:
        tensors = {**checkpoint.tensors, "vocabulary": numpy.frombuffer(words, numpy.uint8),
                   "embedding.weight": rows[:words.count(b"\n")]}
        other = cairn_io.Checkpoint("made up", tensors, {}, False)
        try:
            cairn_io.keras_model(other, text=True)
            raise AssertionError(f"accepted: {words}")
        except cairn_io.CairnError as error:
            assert "made up: Keras needs a vocabulary" in str(error), error
        tensors["embedding.weight"] = rows  # more rows than words: refused as well
    try:
        cairn_io.keras_model(other, text=True)
        raise AssertionError("accepted: fewer words than rows")
    except cairn_io.CairnError as error:
        assert f"{len(rows)} rows" in str(error), error


def check(cairn, work):
    texts = made_up_texts([0, 1, 2, 3, 30, 300, 2000])
    train(cairn, work / "default", "--epochs", 3, "--learning-rate", "1e-3")  # and the tutorial's sizes
    wanted = predict(cairn, texts, "--model-dir", work / "default", "--checkpoint", "best")
    checkpoint = cairn_io.load_best(work / "default")
    assert texts[0] == "" and checkpoint.sizes()["hidden"] == 64
    model = check_keras(checkpoint, texts, wanted, work / "saved")
    model.save(work / "saved.keras")
    again = keras.models.load_model(work / "saved.keras")
    expect_close(again.predict(tf.constant(texts), verbose=0), wanted, "keras_model, saved")
    # Text rules that Keras does not have.
    train(cairn, work / "rules", "--steps", 300, "--learning-rate", 0.003, "--strip-html", "--max-length", 40,
          "--embedding-size", 6, "--hidden-size", 5, "--dense-size", 7)
    wanted = predict(cairn, texts, "--model-dir", work / "rules")
    checkpoint = cairn_io.load_latest(work / "rules")
    check_keras(checkpoint, texts, wanted, work / "rules-saved")
    check_vocabulary(checkpoint)
