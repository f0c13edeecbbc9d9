"""Worker of cpu_epoch.py: the model of TensorFlow's text classification tutorial in Keras.

    keras_worker.py FOLDER [--no-mask] [--aclimdb DIR] [--threads N] [sizes...]

Embedding(mask_zero=True), Bidirectional(LSTM), Dense(64, relu), Dense(1), binary cross-entropy from
logits, Adam 1e-4, trained by model.fit() from a tf.data pipeline that pads every batch to its longest
review while the batch before it trains. The clock is around fit(); building the pipeline and the first
steps (tracing) are outside.
"""

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would train on a GPU where it finds one

import keras
import numpy
import tensorflow as tf

import peer_worker


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="the examples")
    parser.add_argument("--no-mask", action="store_true")
    parser.add_argument("--aclimdb", type=pathlib.Path, help="the texts, for `check`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary-size", type=int, default=1000)
    parser.add_argument("--embedding-size", type=int, default=64)
    parser.add_argument("--hidden-size", type=int, default=64)
    return parser.parse_args()


def make_model(arguments, entries):
    model = keras.Sequential(
        [
            keras.Input(shape=(None,), dtype="int64"),
            keras.layers.Embedding(entries, arguments.embedding_size, mask_zero=not arguments.no_mask),
            keras.layers.Bidirectional(keras.layers.LSTM(arguments.hidden_size)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(1e-4),
        metrics=["accuracy"],
    )
    return model


class Trainer:
    """One model that keeps training; an epoch's time does not depend on the weights."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.examples = peer_worker.Examples(arguments.folder)
        self.ids = numpy.asarray(self.examples.ids, dtype=numpy.int64)
        vocabulary = pathlib.Path(arguments.folder, "vocabulary.txt").read_text(encoding="utf-8")
        self.vocabulary = vocabulary.split("\n")[:-1]
        self.model = make_model(arguments, len(self.vocabulary))

    def train(self, batches):
        rows = [i for batch in batches for i in batch]
        begins = self.examples.begins
        ids = tf.RaggedTensor.from_row_lengths(
            numpy.concatenate([self.ids[begins[i] : begins[i + 1]] for i in rows]),
            [self.examples.lengths[i] for i in rows],
        )
        labels = numpy.array([self.examples.labels[i] for i in rows])
        data = (
            tf.data.Dataset.from_tensor_slices((ids, labels))
            .batch(max(len(batch) for batch in batches))
            .map(lambda tokens, label: (tokens.to_tensor(), label))
            .prefetch(tf.data.AUTOTUNE)
        )
        begin = time.perf_counter()
        self.model.fit(data, shuffle=False, verbose=0)
        return time.perf_counter() - begin

    def check(self):
        """TextVectorization must give the vocabulary and the ids that the files have."""
        texts = []
        for part in ("neg", "pos"):
            for path in sorted((self.arguments.aclimdb / "train" / part).glob("*.txt")):
                texts.append(path.read_text(encoding="utf-8"))
        encoder = keras.layers.TextVectorization(max_tokens=self.arguments.vocabulary_size, ragged=True)
        encoder.adapt(tf.data.Dataset.from_tensor_slices(texts).batch(512))
        if encoder.get_vocabulary() != self.vocabulary:
            sys.exit("the vocabularies of Cairn and Keras differ")
        for i in range(0, len(texts), 512):
            ids = encoder(texts[i : i + 512])
            begins = self.examples.begins
            expected = self.ids[begins[i] : begins[min(i + 512, len(texts))]]
            lengths = self.examples.lengths[i : i + 512]
            if list(ids.row_lengths()) != list(lengths) or (ids.flat_values.numpy() != expected).any():
                sys.exit(f"the token ids of Cairn and Keras differ in reviews {i} to {i + 511}")
        if len(texts) != len(self.examples.lengths):
            sys.exit(f"{len(texts)} texts, but {len(self.examples.lengths)} examples")
        return f"{len(texts)} reviews, {len(self.ids)} token ids, {len(self.vocabulary)} entries"


def main():
    arguments = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    keras.utils.set_random_seed(1)
    trainer = Trainer(arguments)
    trainer.train([[0, 1], [2, 3], [4]])
    versions = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
    peer_worker.serve(versions, trainer.train, trainer.check)


if __name__ == "__main__":
    main()
