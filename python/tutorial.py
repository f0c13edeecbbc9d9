# %% [markdown]
# # Text classification with an RNN, trained by Cairn, used from Python
#
# The steps of TensorFlow's tutorial of that name. Training is the program `cairn`; before and after it this
# is Python: `cairn_io.py` reads what the program writes, and PyTorch, Keras and TensorFlow take it from
# there.
#
# Open this file in VS Code or Jupyter (jupytext) and run it cell by cell, or run it as it is:
#
#     python python/tutorial.py
#
# It needs `pip install numpy zstandard xxhash keras tensorflow`, and shows more with `matplotlib` and
# `torch`. Four variables of the environment change what it does: CAIRN (the program,
# `build/cairn`), DATA (`demo`, a corpus that the program makes up; or the path of `aclImdb`), MODEL_DIR and
# LEARNING_RATE.

# %%
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

# The folder of cairn_io.py: this script's own. A notebook does not know its file, so it is looked for from
# the working directory upwards.
START = pathlib.Path(globals().get("__file__", "tutorial.py")).resolve().parent
HERE = next((place for folder in [START, *START.parents] for place in [folder, folder / "python"]
             if (place / "cairn_io.py").is_file()), START)
sys.path.insert(0, str(HERE))
import cairn_io

CAIRN = os.environ.get("CAIRN", str(HERE.parent / "build" / "cairn"))
DATA = os.environ.get("DATA", "demo")
MODEL_DIR = pathlib.Path(os.environ.get("MODEL_DIR") or tempfile.mkdtemp(prefix="cairn-tutorial-"))
LEARNING_RATE = os.environ.get("LEARNING_RATE", "1e-3" if DATA == "demo" else "1e-4")


def cairn(*arguments: object, text: str | None = None) -> str:
    """Run the program; what it prints on stdout. Progress and messages stay visible (stderr)."""
    words = [CAIRN, *map(str, arguments)]
    print("$", " ".join(words), flush=True)
    return subprocess.run(words, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


# %% [markdown]
# ## The text encoder
# The vocabulary is learned from the training part, most frequent words first, exactly as
# `TextVectorization.adapt`.

# %%
words = cairn("vocabulary", "--data", DATA).split("\n")[:-1]
print(len(words), "entries:", words[:20])
encoder = cairn_io.Tokenizer([word.encode() for word in words])
example = "The movie was great, and never dull. Zzyzx!"
print(encoder.tokens(example))
print(encoder.ids(example), "(1 is an unknown word)")

# %% [markdown]
# ## Train
# Interrupt it whenever you like (Ctrl-C, `kill`, a power cut): the same cell goes on where it was. Each
# epoch shows loss and accuracy, on the training data and on the validation data.

# %%
cairn("train", "--data", DATA, "--model-dir", MODEL_DIR, "--epochs", 4, "--learning-rate", LEARNING_RATE,
      "--verbose", 2)

# %% [markdown]
# ## Look at the history

# %%
history = cairn_io.read_history(MODEL_DIR)
for epoch, loss, val_loss, val_accuracy in zip(*(history[name] for name in
                                                 ["epoch", "loss", "val_loss", "val_accuracy"])):
    print(f"epoch {epoch + 1}: loss {loss:.4f}, validation loss {val_loss:.4f}, accuracy {val_accuracy:.3f}")
saves = cairn_io.read_history(MODEL_DIR, "save")
print(f"{len(saves['step'])} checkpoints; training stood still for {saves['stall_us'].sum():.0f} us in all")

if importlib.util.find_spec("matplotlib"):
    import matplotlib.pyplot as plt

    for at, metric in enumerate(["accuracy", "loss"], 1):
        plt.subplot(1, 2, at)
        plt.plot(history["epoch"] + 1, history[metric], history["epoch"] + 1, history["val_" + metric], "--")
        plt.xlabel("epoch")
        plt.ylabel(metric)
        plt.legend([metric, "val_" + metric])
    plt.tight_layout()
    plt.savefig(MODEL_DIR / "history.png")

# %% [markdown]
# ## The best model
# A checkpoint holds everything: weights, vocabulary, text rules, names of the classes.

# %%
checkpoint = cairn_io.load_best(MODEL_DIR)
print(checkpoint.path, "step", checkpoint.step, checkpoint.sizes(), checkpoint.labels())

texts = ["The movie was great. The plot was never boring.",
         "The film was dull and the acting was not good.",
         "I would recommend this movie.",
         ""]
answers = [json.loads(line) for line in cairn(
    "predict", "--model-dir", MODEL_DIR, "--checkpoint", "best",
    "--input-format", "jsonl", "--format", "jsonl",
    text="".join(json.dumps({"text": text}) + "\n" for text in texts)).splitlines()]
wanted = np.array([answer["logit"] for answer in answers])
for text, answer in zip(texts, answers):
    print(f"{answer['label']:9} {answer['probability']:.4f}  {text!r}")

# %% [markdown]
# ## The same model in Keras
# `text=True` puts a `TextVectorization` layer in front, so that strings go in. The embedding masks padding,
# so a text's score does not depend on its neighbours in the batch: alone or with a long one, it is the
# same.

# %%
import tensorflow as tf

model = cairn_io.keras_model(checkpoint, text=True)
model.summary()
logits = np.asarray(model(tf.constant(texts)))[:, 0]
print("largest difference to cairn predict:", np.abs(logits - wanted).max())
assert np.allclose(logits, wanted, rtol=1e-5, atol=5e-5)

alone = np.asarray(model(tf.constant(texts[2:3])))[0, 0]
padded = np.asarray(model(tf.constant([texts[2], "the " * 200])))[0, 0]
print("alone:", alone, "beside a long text:", padded)
assert abs(alone - padded) < 1e-5

# %% [markdown]
# ## ... and in PyTorch
# (With TensorFlow in the same process this is for looking; to train in PyTorch, use a process without it.)

# %%
if importlib.util.find_spec("torch"):
    import torch

    module = cairn_io.torch_model(checkpoint)
    ids, lengths = checkpoint.batch(texts)
    with torch.no_grad():
        logits = module(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy()
    print("largest difference to cairn predict:", np.abs(logits - wanted).max())
    assert np.allclose(logits, wanted, rtol=1e-5, atol=5e-5)

# %% [markdown]
# ## Evaluate, and go on training in Keras
# From here on it is an ordinary Keras model.

# %%
print(json.loads(cairn("evaluate", "--data", DATA, "--model-dir", MODEL_DIR, "--checkpoint", "best")))
tuned = tf.keras.models.clone_model(model)
tuned.set_weights(model.get_weights())
tuned.compile(loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
              optimizer=tf.keras.optimizers.Adam(1e-4),
              metrics=[tf.keras.metrics.BinaryAccuracy(threshold=0.0)])
tuned.fit(tf.constant(texts[:3]), np.array([1.0, 0.0, 1.0]), epochs=1, verbose=0)

# %% [markdown]
# ## Take it away
# A SavedModel is a graph: TensorFlow (Serving, C++, Java, Go) runs it without Keras and without any of our
# code. `cairn export --format keras` writes Keras' own archive without Python.

# %%
saved_model = MODEL_DIR / "film-saved-model"
model.export(saved_model, verbose=False)
served = tf.saved_model.load(str(saved_model))
logits = served.signatures["serving_default"](texts=tf.constant(texts))["output_0"].numpy()[:, 0]
assert np.allclose(logits, wanted, rtol=1e-5, atol=5e-5)
print("SavedModel:", saved_model)

cairn("export", "--format", "keras", "--model-dir", MODEL_DIR, "--checkpoint", "best", "--output",
      MODEL_DIR / "model.keras")
again = tf.keras.models.load_model(MODEL_DIR / "model.keras")
assert np.allclose(np.asarray(again(tf.constant(texts)))[:, 0], wanted, rtol=1e-5, atol=5e-5)
print("Keras archive:", MODEL_DIR / "model.keras")
