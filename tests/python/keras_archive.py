"""`cairn export --format keras`, opened by Keras, h5py and TensorFlow.

check(cairn, work) runs everything; `work` is an empty folder.
"""

import json
import subprocess
import zipfile

import h5py
import keras
import numpy
import safetensors.numpy
import tensorflow as tf

from program import expect_close, made_up_texts, predict, run, tokenize, train

V, E, H, D = 120, 12, 10, 7  # all different: a transposed matrix cannot pass for the right one
SIZES = ["--vocabulary-size", V, "--embedding-size", E, "--hidden-size", H, "--dense-size", D]


def weights_of(path):
    """The tensors of a checkpoint by zstd and the safetensors package."""
    content = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    return safetensors.numpy.load(content)


def words_of(tensors):
    return tensors["vocabulary"].tobytes().decode().split("\n")[:-1]


def in_keras_order(tensors):
    """What model.weights must be, from the definition of both: x W^T here, x W there."""
    wanted = [tensors["embedding.weight"]]
    for end in ["", "_reverse"]:
        wanted += [tensors["lstm.weight_ih_l0" + end].T, tensors["lstm.weight_hh_l0" + end].T,
                   tensors["lstm.bias_l0" + end]]
    return wanted + [tensors["dense.weight"].T, tensors["dense.bias"], tensors["output.weight"].T,
                     tensors["output.bias"]]


def expect_weights(model, tensors, what):
    wanted = in_keras_order(tensors)
    assert len(model.weights) == len(wanted), what
    for found, value in zip(model.get_weights(), wanted):
        assert found.shape == value.shape and (found == value).all(), what


def export(cairn, model_dir, path, *more):
    run(cairn, "export", "--format", "keras", "--model-dir", model_dir, "--output", path, *more)
    return path


def pad(rows):
    ids = numpy.zeros((len(rows), max(1, max(map(len, rows)))), "int64")
    for row, out in zip(rows, ids):
        out[:len(row)] = row
    return ids


# ---- the archive ----


def check_long(cairn, work, model):
    """In a graph: called as it is, Keras takes its time for each of 2,000 steps."""
    texts = made_up_texts([0, 2000, 1, 300])
    wanted = predict(cairn, texts, "--model-dir", work / "model")
    expect_close(model.predict(tf.constant(texts), verbose=0), wanted, ".keras, up to 2,000 tokens")
    served = tf.saved_model.load(work / "saved")
    expect_close(served.serve(tf.constant(texts)), wanted, "SavedModel, up to 2,000 tokens")


def check_archive(cairn, work, texts, wanted, tensors):
    path = export(cairn, work / "model", work / "film.keras")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        ours = json.loads(archive.read("metadata.json"))["cairn"]
    assert ours == {"labels": ["neg", "pos"], "max_length": 0, "strip_html": False, "step": 300,
                    "vocabulary": words_of(tensors)}, ours
    model = keras.models.load_model(path)
    expect_weights(model, tensors, "load_model")
    assert model.get_layer("text_vectorization").get_vocabulary() == words_of(tensors)
    expect_close(model(tf.constant(texts)), wanted, ".keras, called")
    # Keras saves and loads it again, and goes on training it.
    model.save(work / "again.keras")
    again = keras.models.load_model(work / "again.keras")
    expect_close(again(tf.constant(texts)), wanted, ".keras, saved by Keras")
    check_saved_model(work, model, texts, wanted)
    check_long(cairn, work, model)
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(tf.constant(texts), numpy.arange(len(texts)) % 2, epochs=1, verbose=0)
    assert not (model.get_weights()[0] == tensors["embedding.weight"]).all()
    # Written again it is the same file, in the place of what was there.
    first = path.read_bytes()
    path.write_bytes(b"something else")
    assert export(cairn, work / "model", path).read_bytes() == first
    said = run(cairn, "export", "--format", "keras", "--model-dir", work / "model", "--output",
               work / "film.h5", code=2)
    assert "NAME.keras" in said, said
    assert not (work / "film.h5").exists()


def check_saved_model(work, model, texts, wanted):
    """The TensorFlow world, without Keras: tf.saved_model alone."""
    model.export(work / "saved", verbose=False)
    served = tf.saved_model.load(work / "saved")
    expect_close(served.serve(tf.constant(texts)), wanted, "SavedModel, serve")
    answer = served.signatures["serving_default"](texts=tf.constant(texts))
    expect_close(answer["output_0"], wanted, "SavedModel, serving_default")


def check_empty(cairn, work):
    """A row of padding only has zero states in Keras as in Cairn, alone too, as long as it has a column."""
    model = keras.models.load_model(work / "film.keras")
    on_ids = keras.Sequential(model.layers[1:])
    wanted = predict(cairn, [""], "--model-dir", work / "model")
    for width in [1, 5]:
        expect_close(on_ids(numpy.zeros((3, width), "int64"))[:1], wanted, f"{width} columns of padding only")


# ---- the weights ----


def check_weights_file(cairn, work, texts, wanted, tensors):
    path = export(cairn, work / "model", work / "film.weights.h5")
    layers = keras.layers

    def body():
        return [layers.Embedding(V, E, mask_zero=True), layers.Bidirectional(layers.LSTM(H)),
                layers.Dense(D, activation="relu"), layers.Dense(1)]

    encoder = layers.TextVectorization(vocabulary=words_of(tensors))
    tutorial = keras.Sequential([keras.Input((), dtype="string"), encoder] + body())
    sequential = keras.Sequential([keras.Input((None,), dtype="int32")] + body())
    begin = end = keras.Input((None,), dtype="int64")
    for layer in body():
        end = layer(end)
    functional = keras.Model(begin, end)
    for what, model in [("tutorial", tutorial), ("sequential", sequential), ("functional", functional)]:
        model.load_weights(path)
        expect_weights(model, tensors, what)
    expect_close(tutorial(tf.constant(texts)), wanted, ".weights.h5 in the tutorial's model")
    model = keras.models.load_model(work / "film.keras")
    model.load_weights(path)
    expect_weights(model, tensors, ".weights.h5 in the archive's model")
    with h5py.File(path) as file:
        ours = file["cairn"]
        assert list(ours["vocabulary"].asstr()[:]) == words_of(tensors)
        assert list(ours["labels"].asstr()[:]) == ["neg", "pos"]
        assert (ours["step"][()], ours["max_length"][()], ours["strip_html"][()]) == (300, 0, 0)
    # The weights of a model of another size are Keras' to refuse.
    other = keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(V, E + 1)])
    try:
        other.load_weights(path)
    except ValueError:
        return
    raise AssertionError("weights of another model were loaded")


# ---- text rules ----


def check_max_length(cairn, work, texts):
    train(cairn, work / "short", "--max-steps", 300, "--learning-rate", 0.005, "--max-length", 4, *SIZES)
    model = keras.models.load_model(export(cairn, work / "short", work / "short.keras"))
    wanted = predict(cairn, texts, "--model-dir", work / "short")
    expect_close(model(tf.constant(texts)), wanted, "--max-length 4")
    assert model(tf.constant([""])).shape == (1, 1)  # padded to 4, so an empty text may stand alone


def check_strip_html(cairn, work, texts):
    """Not one of Keras' own rules: the model takes token ids, and everything else says how to make them."""
    train(cairn, work / "html", "--max-steps", 300, "--learning-rate", 0.005, "--strip-html", *SIZES)
    path = export(cairn, work / "html", work / "html.keras")
    model = keras.models.load_model(path)
    assert model.inputs[0].name == "token_ids"
    rows = tokenize(cairn, texts, "--model-dir", work / "html")
    wanted = predict(cairn, texts, "--model-dir", work / "html")
    expect_close(model(pad(rows)), wanted, "token ids")
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("metadata.json"))["cairn"]["strip_html"] is True


def check_vocabularies(cairn, work):
    """Words that JSON has to escape; no words at all and one that is not UTF-8, which Keras cannot hold."""
    texts = ["", "the \u65e5\u672c", "\x01\x7f film", "\u2028x \u2028 the", "\U0001f600! caf\u00e9"]
    special = ["the", "\u65e5\u672c", "\x01\x7f", "\u2028", "\U0001f600"]
    cases = [("two", [], "token_ids"), ("special", special, "texts"), ("bytes", [b"\xff"], "token_ids")]
    for name, words, takes in cases:
        file = work / (name + ".txt")
        lines = [b"", b"[UNK]"] + [word if isinstance(word, bytes) else word.encode() for word in words]
        file.write_bytes(b"".join(line + b"\n" for line in lines))
        train(cairn, work / name, "--steps", 1, "--vocabulary", file, *SIZES[2:])
        model = keras.models.load_model(export(cairn, work / name, work / (name + ".keras")))
        assert model.inputs[0].name == takes, (name, model.inputs[0].name)
        if takes == "texts":
            wanted = pad(tokenize(cairn, texts, "--model-dir", work / name))
            assert len(set(wanted.reshape(-1))) == len(lines), wanted  # each word is in the texts
            assert (model.layers[0](tf.constant(texts)).numpy() == wanted).all(), name


def check(cairn, work):
    train(cairn, work / "model", "--max-steps", 300, "--learning-rate", 0.005, *SIZES)
    texts = made_up_texts([0, 1, 2, 3, 7, 30])
    wanted = predict(cairn, texts, "--model-dir", work / "model")
    tensors = weights_of(work / "model" / "model.ckpt-300.safetensors.zst")
    assert tensors["embedding.weight"].shape == (V, E)
    check_archive(cairn, work, texts, wanted, tensors)
    check_empty(cairn, work)
    check_weights_file(cairn, work, texts, wanted, tensors)
    check_max_length(cairn, work, texts)
    check_strip_html(cairn, work, texts)
    check_vocabularies(cairn, work)
