"""Seconds per IMDB training epoch: Keras and Cairn, interleaved. Called by keras_epoch.sh.

The model is TensorFlow's text classification tutorial: TextVectorization(1000), Embedding(64,
mask_zero=True), Bidirectional(LSTM(64)), Dense(64, relu), Dense(1), binary cross-entropy from
logits, Adam 1e-4, batches of 64, shuffled. Texts are turned into ids before the clock starts, on
both sides: what is timed is training from ids that lie in memory. Keras pads every batch to its
longest review; its first steps (tracing) are not timed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH = 64


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("aclimdb", type=pathlib.Path, help="the unpacked aclImdb folder")
    parser.add_argument("--cairn", default="build/cairn", help="the program (default %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="steps per measurement; 0 = an epoch")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    parser.add_argument("--threads", type=int, default=0, help="threads of both; 0 = their default")
    return parser.parse_args()


def read_reviews(folder):
    """The texts and labels of folder/{neg,pos}/*.txt."""
    texts, labels = [], []
    for label, name in enumerate(("neg", "pos")):
        for path in sorted((folder / name).glob("*.txt")):
            texts.append(path.read_text(encoding="utf-8"))
            labels.append(label)
    if not texts:
        sys.exit(f"{folder}: no neg/*.txt and pos/*.txt")
    return texts, labels


class Keras:
    """One model that keeps training; an epoch's time does not depend on the weights."""

    def __init__(self, texts, labels, threads):
        import keras
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        keras.utils.set_random_seed(1)
        encoder = keras.layers.TextVectorization(max_tokens=1000, ragged=True)
        encoder.adapt(tf.data.Dataset.from_tensor_slices(texts).batch(512))
        ids = tf.concat([encoder(texts[i : i + 512]) for i in range(0, len(texts), 512)], axis=0)
        self.data = (
            tf.data.Dataset.from_tensor_slices((ids, labels))
            .shuffle(len(texts), reshuffle_each_iteration=True)
            .batch(BATCH)
            .map(lambda tokens, label: (tokens.to_tensor(), label))
            .prefetch(tf.data.AUTOTUNE)
        )
        self.model = keras.Sequential(
            [
                keras.Input(shape=(None,), dtype="int64"),
                keras.layers.Embedding(encoder.vocabulary_size(), 64, mask_zero=True),
                keras.layers.Bidirectional(keras.layers.LSTM(64)),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(1),
            ]
        )
        self.model.compile(
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
            optimizer=keras.optimizers.Adam(1e-4),
            metrics=["accuracy"],
        )
        self.model.fit(self.data.take(3), shuffle=False, verbose=0)
        self.version = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"

    def measure(self, steps):
        data = self.data.take(steps) if steps else self.data
        begin = time.perf_counter()
        self.model.fit(data, shuffle=False, verbose=0)
        return time.perf_counter() - begin


def measure_cairn(arguments):
    """A fresh run in a temporary directory; its own clock, without reading the data."""
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.cairn, "train", "--data", str(arguments.aclimdb)]
        command += ["--validation-data", "none", "--model-dir", folder, "--progress", "none"]
        command += ["--epochs", "1"]
        if arguments.threads:
            command += ["--threads", str(arguments.threads)]
        if arguments.steps:
            command += ["--max-steps", str(arguments.steps)]
            command += ["--log-step-count-steps", str(arguments.steps)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"cairn train ended with {done.returncode}:\n{done.stderr}")
        lines = pathlib.Path(folder, "history.jsonl").read_text(encoding="utf-8").splitlines()
    for event in map(json.loads, lines):
        if arguments.steps and event["event"] == "step":
            return BATCH * arguments.steps / event["examples_per_second"]
        if not arguments.steps and event["event"] == "epoch":
            return event["train_seconds"]
    sys.exit("cairn's history.jsonl has no measurement")


def show(name, seconds):
    print(
        f"{name:8} median {statistics.median(seconds):8.2f} s"
        f"   from {min(seconds):.2f} to {max(seconds):.2f} s over {len(seconds)}"
    )


def main():
    arguments = parse_arguments()
    texts, labels = read_reviews(arguments.aclimdb / "train")
    steps_per_epoch = -(-len(texts) // BATCH)
    if arguments.steps >= steps_per_epoch:
        sys.exit(f"--steps must be below {steps_per_epoch}, an epoch")
    keras = Keras(texts, labels, arguments.threads)
    what = f"{arguments.steps} steps" if arguments.steps else f"an epoch of {steps_per_epoch} steps"
    print(f"{what} of {BATCH} reviews, {len(os.sched_getaffinity(0))} cores, {keras.version}")
    results = {"Keras": [], "Cairn": []}
    for repeat in range(arguments.repeats):
        results["Keras"].append(keras.measure(arguments.steps))
        results["Cairn"].append(measure_cairn(arguments))
        print(
            f"  {repeat + 1}: Keras {results['Keras'][-1]:.2f} s, Cairn {results['Cairn'][-1]:.2f} s",
            flush=True,
        )
    for name, seconds in results.items():
        show(name, seconds)
    ratio = statistics.median(results["Keras"]) / statistics.median(results["Cairn"])
    print(f"Cairn is {ratio:.1f} times as fast as Keras")


if __name__ == "__main__":
    main()
