"""Cairn's files in Python: checkpoints, texts, models, history. One file, to be copied anywhere.

Needs numpy, safetensors and zstandard; xxhash to verify digests; torch or keras for models; pandas where
asked for. Nothing of Cairn itself has to be installed.

    import cairn_io

    checkpoint = cairn_io.load_latest("runs/imdb")          # or load("model.ckpt-391.safetensors.zst")
    print(checkpoint)                                       # step, sizes, every tensor
    ids, lengths = checkpoint.batch(["What a great film!", ""])

    model = cairn_io.torch_model(checkpoint)                # torch.nn.Module
    logits = model(torch.from_numpy(ids), torch.from_numpy(lengths))

    model = cairn_io.keras_model(checkpoint)                # keras.Model on token ids ...
    logits = model.predict(ids)[:, 0]
    model = cairn_io.keras_model(checkpoint, text=True)     # ... or on strings
    model.export("saved_model")                             # TensorFlow's SavedModel

    epochs = cairn_io.read_history("runs/imdb")             # {"epoch": [0, 1, ...], "loss": [...], ...}

`python cairn_io.py FILE` lists a checkpoint. A logit above 0 means class 1; its sigmoid is the probability.
Errors are CairnError, with a message for people; a damaged file is a DamagedError.
The format of checkpoints is in docs/checkpoint-format.md.
"""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
import re
import struct
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any, Iterable, Sequence, Union

import numpy as np
import safetensors
import zstandard

try:
    import xxhash
except ImportError:  # digests cannot be verified then; zstd's checksums are
    xxhash = None

__all__ = ["CairnError", "DamagedError", "Checkpoint", "Tokenizer", "load", "load_latest", "load_best",
           "list_checkpoints", "latest", "best", "read_history", "torch_model", "torch_state_dict",
           "keras_model"]

Path = Union[str, os.PathLike]


class CairnError(Exception):
    """Something cannot be done; the message says what, where and why."""


class DamagedError(CairnError):
    """A file that is not what its writer wrote: cut, changed, or of an unknown version."""


# ---- texts ----------------------------------------------------------------------------------------------

_PUNCTUATION = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_UPPER_TO_LOWER = bytes(b + 32 if 65 <= b <= 90 else b for b in range(256))
_SPLIT = re.compile(b"[ \t\n\v\f\r]+")
_TAG = re.compile(b"<[A-Za-z/!][^>]*>")


@dataclass(frozen=True)
class Tokenizer:
    """Texts to token ids, byte for byte as Cairn and Keras' TextVectorization do it.

    A-Z become a-z, the 32 ASCII punctuation characters vanish (what they stood between grows together), and
    ASCII white space separates; all other bytes stay. Tokens are bytes, because texts need not be UTF-8.
    """

    vocabulary: Sequence[bytes]  # index order; 0 is padding (b""), 1 is unknown (b"[UNK]")
    strip_html: bool = False  # tags become a space first
    max_length: int = 0  # tokens that a text keeps; 0 = all
    _ids: dict[bytes, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {token: i for i, token in enumerate(self.vocabulary) if i >= 2}
        object.__setattr__(self, "_ids", ids)

    def tokens(self, text: str | bytes) -> list[bytes]:
        """The words of a text, cut at max_length. A str counts as its UTF-8."""
        if isinstance(text, str):
            text = text.encode("utf-8", "surrogateescape")
        if self.strip_html:
            end = text.rfind(b">") + 1  # behind it nothing can be a tag; looking there takes square time
            text = _TAG.sub(b" ", text[:end]) + text[end:]
        words = [word for word in _SPLIT.split(text.translate(_UPPER_TO_LOWER, _PUNCTUATION)) if word]
        return words[: self.max_length] if self.max_length else words

    def ids(self, text: str | bytes) -> list[int]:
        """Token ids of one text; 1 for unknown words, none for a text without words."""
        return [self._ids.get(word, 1) for word in self.tokens(text)]

    def batch(self, texts: Iterable[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [B, T] (int64, padded with 0 behind each text, T >= 1) and lengths [B] (int64)."""
        if isinstance(texts, (str, bytes)):
            raise CairnError("batch() takes a list of texts, not one text")
        rows = [self.ids(text) for text in texts]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids = np.zeros((len(rows), max(1, lengths.max(initial=0))), dtype=np.int64)
        for row, out in zip(rows, ids):
            out[: len(row)] = row
        return ids, lengths


# ---- checkpoints ----------------------------------------------------------------------------------------

_WEIGHTS = ("embedding.weight",
            "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_l0",
            "lstm.weight_ih_l0_reverse", "lstm.weight_hh_l0_reverse", "lstm.bias_l0_reverse",
            "dense.weight", "dense.bias", "output.weight", "output.bias")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BF16": "<u2"}


@dataclass
class Checkpoint:
    """What a file holds: every tensor, the metadata, and views of both that mean something.

    `tensors` has them all, by the names of docs/checkpoint-format.md: weights, `adam.*`, `state.*`, ...
    """

    path: str
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]  # without format_version and digests
    verified: bool  # the digests were there and were right

    @property
    def step(self) -> int | None:
        """Training steps behind these weights; None where the file does not say."""
        if "state.step" in self.tensors:
            return int(self.tensors["state.step"])
        return int(self.metadata["step"]) if self.metadata.get("step", "").isdigit() else None

    @property
    def options(self) -> dict[str, str]:
        """The run's options, as texts; empty where the file does not say."""
        lines = (line.split("=", 1) for line in self.metadata.get("options", "").splitlines())
        return {pair[0].strip(): pair[1].strip() for pair in lines if len(pair) == 2}

    def weights(self) -> dict[str, np.ndarray]:
        """The eleven arrays of the model; CairnError when this is a checkpoint of another one."""
        missing = [name for name in _WEIGHTS if name not in self.tensors]
        if missing:
            raise CairnError(f"{self.path}: not Cairn's text model: it has no tensor {missing[0]}")
        return {name: self.tensors[name] for name in _WEIGHTS}

    def sizes(self) -> dict[str, int]:
        """vocabulary, embedding, hidden, dense: the sizes of the model."""
        weights = self.weights()
        vocabulary, embedding = weights["embedding.weight"].shape
        return {"vocabulary": vocabulary, "embedding": embedding,
                "hidden": weights["lstm.weight_hh_l0"].shape[1], "dense": weights["dense.bias"].shape[0]}

    def vocabulary(self) -> list[bytes]:
        """Tokens in index order; 0 is padding, 1 is unknown."""
        return self._lines("vocabulary")

    def labels(self) -> list[str]:
        """Names of class 0 and class 1."""
        return [name.decode("utf-8", "replace") for name in self._lines("text.label_names")]

    def tokenizer(self) -> Tokenizer:
        """The text rules of this model."""
        return Tokenizer(self.vocabulary(), bool(self.tensors.get("text.strip_html", 0)),
                         int(self.tensors.get("text.max_length", 0)))

    def batch(self, texts: Iterable[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizer.batch with the text rules of this model."""
        return self.tokenizer().batch(texts)

    def _lines(self, name: str) -> list[bytes]:
        if name not in self.tensors:
            raise CairnError(f"{self.path}: it holds no {name}; a plain safetensors file has weights only")
        return self.tensors[name].tobytes().split(b"\n")[:-1]

    def __str__(self) -> str:
        rows = [f"{self.path}: step {self.step}, digests {'verified' if self.verified else 'not verified'}"]
        rows += [f"  {key} = {value}" for key, value in self.metadata.items() if "\n" not in value]
        for name, tensor in self.tensors.items():
            shape = str(list(tensor.shape))
            rows.append(f"  {name:34} {str(tensor.dtype):8} {shape:14} {tensor.nbytes:,} bytes")
        return "\n".join(rows)


def load(path: Path, verify: bool | None = None) -> Checkpoint:
    """Read one checkpoint: .safetensors.zst of any kind, what `zstd -d` makes of it, or plain safetensors.

    The file is treated as untrusted bytes; sizes are checked before memory is taken. `verify`: check the
    digests (XXH3-128), by default where xxhash is installed; zstd's own checksums are always checked.
    Raises DamagedError, CairnError.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise CairnError(f"{path} is a directory: use load_latest or load_best for a model directory")
    if verify and xxhash is None:
        raise CairnError("verify=True needs the package xxhash")
    verify = xxhash is not None if verify is None else verify
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise CairnError(f"cannot read {path}: {error.strerror}") from error
    try:
        content = _decompress(data, verify) if data[:4] == b"\x28\xb5\x2f\xfd" else data
        tensors, metadata, verified = _read_safetensors(content, verify)
    except (_Damage, ValueError, KeyError, TypeError, AttributeError, struct.error, zstandard.ZstdError,
            safetensors.SafetensorError) as error:
        raise DamagedError(f"{path}: {error}") from error
    return Checkpoint(path, tensors, metadata, verified)


class _Damage(Exception):
    pass


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _Damage(reason)


def _decompress(data: bytes, verify: bool) -> bytes:
    """The safetensors file in a checkpoint: n zstd frames, a frame with a digest, a seek table."""
    _require(len(data) >= 17, "cut off")
    count, descriptor, magic = struct.unpack("<IBI", data[-9:])
    _require((descriptor, magic) == (0x80, 0x8F92EAB1), "no seek table at its end: cut off, or no checkpoint")
    table = len(data) - 17 - 12 * count
    _require(count >= 2 and table >= 24, "the seek table is larger than the file")
    _require(struct.unpack_from("<II", data, table) == (0x184D2A5E, 12 * count + 9), "bad seek table")
    entries = list(struct.iter_unpack("<III", data[table + 8 : -9]))
    end = table - 24
    _require(entries[-1] == (24, 0, 0x51D8E999) and struct.unpack_from("<II", data, end) == (0x184D2A5D, 16)
             and sum(entry[0] for entry in entries) == table, "bad digest frame or seek table")
    if verify:
        _require(xxhash.xxh3_128_digest(memoryview(data)[:end]) == data[end + 8 : table],
                 "its digest is not that of its bytes")
    parts, at = [], 0
    for i, (frame_bytes, content_bytes, checksum) in enumerate(entries[:-1]):
        frame = data[at : at + frame_bytes]
        at += frame_bytes
        limit = (1 << 20) + 8 if i == 0 else 4 << 20
        _require(content_bytes <= limit and frame[-4:] == struct.pack("<I", checksum)
                 and zstandard.get_frame_parameters(frame).content_size == content_bytes, f"bad frame {i}")
        parts.append(zstandard.ZstdDecompressor().decompress(frame, max_output_size=content_bytes))
        _require(len(parts[-1]) == content_bytes, f"bad frame {i}")
    return b"".join(parts)


def _read_safetensors(content: bytes, verify: bool) -> tuple[dict[str, np.ndarray], dict[str, str], bool]:
    _require(len(content) >= 8, "cut off, or not a checkpoint")
    (length,) = struct.unpack_from("<Q", content)
    _require(length <= len(content) - 8, "cut off, or not a checkpoint")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    version = metadata.pop("format_version", None)
    _require(version in (None, "1"), f"format version {version}; this reader knows version 1")
    tensors, verified = {}, verify and version is not None
    for name, info in sorted(safetensors.deserialize(content)):
        digest = metadata.pop("digest." + name, None)
        _require(digest is not None or version is None, f"tensor {name} has no digest")
        if verify and digest is not None:
            found = xxhash.xxh3_128_hexdigest(info["data"])
            _require(found == digest, f"tensor {name} is not what its digest says")
        tensors[name] = _to_array(name, info)
    return tensors, metadata, verified


def _to_array(name: str, info: dict[str, Any]) -> np.ndarray:
    _require(info["dtype"] in _DTYPES, f"tensor {name}: this reader does not know the type {info['dtype']}")
    array = np.frombuffer(bytes(info["data"]), dtype=_DTYPES[info["dtype"]]).reshape(info["shape"])
    if info["dtype"] == "BF16":  # numpy has none: the upper half of an F32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array


# ---- model directories ----------------------------------------------------------------------------------


def list_checkpoints(model_dir: Path) -> list[tuple[int, pathlib.Path]]:
    """(step, path) of every model.ckpt-* in a model directory, oldest step first."""
    directory = pathlib.Path(model_dir)
    if not directory.is_dir():
        raise CairnError(f"{directory} is not a directory")
    found = []
    for path in directory.iterdir():
        match = re.fullmatch(r"model\.ckpt-(\d+)\.safetensors\.zst", path.name)
        if match and path.is_file():
            found.append((int(match[1]), path))
    return sorted(found)


def latest(model_dir: Path) -> pathlib.Path:
    """The checkpoint with the highest step. Not opened: load_latest also passes over damaged ones."""
    found = list_checkpoints(model_dir)
    if not found:
        raise CairnError(f"no checkpoint (model.ckpt-*.safetensors.zst) in {os.fspath(model_dir)}")
    return found[-1][1]


def best(model_dir: Path) -> pathlib.Path:
    """The best model so far by the run's --monitor."""
    path = pathlib.Path(model_dir) / "best.safetensors.zst"
    if not path.is_file():
        raise CairnError(f"no {path}: a run writes it when it has validation data")
    return path


def load_latest(model_dir: Path, verify: bool | None = None) -> Checkpoint:
    """The newest checkpoint that is whole; damaged newer ones are named in warnings, as Cairn does."""
    latest(model_dir)
    for _, path in reversed(list_checkpoints(model_dir)):
        try:
            return load(path, verify)
        except DamagedError as error:
            warnings.warn(f"passed over, damaged: {error}", stacklevel=2)
    raise DamagedError(f"every checkpoint in {os.fspath(model_dir)} is damaged")


def load_best(model_dir: Path, verify: bool | None = None) -> Checkpoint:
    """load(best(model_dir))."""
    return load(best(model_dir), verify)


# ---- history --------------------------------------------------------------------------------------------


def read_history(path: Path, event: str = "epoch", pandas: bool = False) -> Any:
    """A run's history as a table: a dict of columns (numpy arrays), or a pandas.DataFrame.

    `path`: a model directory, its history.jsonl, or its history.csv (epochs only). `event`: which lines of
    history.jsonl: "epoch", "step", "save", "start", "end". Numbers that a line lacks are NaN; columns that
    are not numbers are lists of objects. A last line that is still being written is left out.
    """
    path = pathlib.Path(path)
    path = path / "history.jsonl" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CairnError(f"cannot read {path}: {error.strerror}") from error
    text = text[: text.rfind("\n") + 1]
    if path.suffix == ".csv":
        if event != "epoch":
            raise CairnError(f"{path} has epochs only; {event!r} lines are in history.jsonl")
        rows: list[dict[str, Any]] = [dict(row) for row in csv.DictReader(text.splitlines())]
    else:
        rows = [row for row in _json_lines(path, text) if row.pop("event", None) == event]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = {name: _column([row.get(name) for row in rows]) for name in names}
    if pandas:
        import pandas as pd

        return pd.DataFrame({name: list(column) for name, column in table.items()})
    return table


def _json_lines(path: pathlib.Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise CairnError(f"{path}:{number}: expected a JSON object: {error}") from error
    return rows


def _column(values: list[Any]) -> Any:
    """Numbers ("nan" and "inf" as Cairn writes them, too) as an array, anything else as it is."""
    try:
        floats = [math.nan if value is None or value == "" else float(value) for value in values]
    except (TypeError, ValueError):
        return values
    whole = all(abs(value) < 2**53 and value.is_integer() and "." not in str(text)
                for value, text in zip(floats, values))
    return np.array(floats).astype(np.int64) if whole else np.array(floats)


# ---- PyTorch --------------------------------------------------------------------------------------------


def torch_state_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """The weights under the names of torch_model: nn.LSTM's two biases are ours and zero."""
    import torch

    state = {}
    for name, value in checkpoint.weights().items():
        tensor = torch.from_numpy(value.copy())
        if name.startswith("lstm.bias_"):
            state[name.replace("bias_", "bias_ih_")] = tensor
            state[name.replace("bias_", "bias_hh_")] = torch.zeros_like(tensor)
        else:
            state[name] = tensor
    return state


def torch_model(checkpoint: Checkpoint) -> Any:
    """A torch.nn.Module with these weights: module(ids [B, T], lengths [B]) -> logits [B].

    Padding is never seen (packed sequences); a text of length 0 has zero states, as in Cairn. It is in
    evaluation mode and can be trained on.
    """
    import torch

    sizes = checkpoint.sizes()

    class TextClassifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(sizes["vocabulary"], sizes["embedding"], padding_idx=0)
            self.lstm = torch.nn.LSTM(sizes["embedding"], sizes["hidden"], batch_first=True,
                                      bidirectional=True)
            self.dense = torch.nn.Linear(2 * sizes["hidden"], sizes["dense"])
            self.output = torch.nn.Linear(sizes["dense"], 1)

        def forward(self, ids: Any, lengths: Any) -> Any:
            # A packed sequence has at least one step; what an empty text computes there is dropped.
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                self.embedding(ids), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            _, (hidden, _) = self.lstm(packed)
            states = torch.cat([hidden[0], hidden[1]], dim=1)
            states = torch.where((lengths > 0).to(states.device)[:, None], states, torch.zeros_like(states))
            return self.output(torch.relu(self.dense(states)))[:, 0]

    model = TextClassifier()
    model.load_state_dict(torch_state_dict(checkpoint))
    return model.eval()


# ---- Keras ----------------------------------------------------------------------------------------------


def keras_model(checkpoint: Checkpoint, text: bool = False) -> Any:
    """A keras.Sequential with these weights: token ids [B, T] -> logits [B, 1]; with `text`, strings [B].

    Ids are padded with 0 behind each text, which the embedding masks; a row of zeros only has zero states,
    as in Cairn. `text` needs the TensorFlow backend. With the checkpoint's --strip-html the text layer has a
    function of ours: export the model (model.export) rather than saving it as .keras.
    """
    from keras import Input, Sequential, layers

    sizes = checkpoint.sizes()
    if text:
        head = [Input((), dtype="string", name="texts"), _text_layer(checkpoint)]
    else:
        head = [Input((None,), dtype="int64", name="token_ids")]
    model = Sequential(head + [
        layers.Embedding(sizes["vocabulary"], sizes["embedding"], mask_zero=True, name="embedding"),
        layers.Bidirectional(layers.LSTM(sizes["hidden"]), name="bidirectional"),
        layers.Dense(sizes["dense"], activation="relu", name="dense"),
        layers.Dense(1, name="output"),
    ], name="cairn")
    # Kernels have the inputs first, gates the same order (i, f, c, o): nothing but a transpose.
    weights = [value.T if value.ndim == 2 and name != "embedding.weight" else value
               for name, value in checkpoint.weights().items()]
    model.set_weights(weights)
    return model


def _text_layer(checkpoint: Checkpoint) -> Any:
    from keras import layers

    tokenizer = checkpoint.tokenizer()
    try:
        vocabulary = [token.decode("utf-8") for token in tokenizer.vocabulary]
    except UnicodeDecodeError as error:
        raise CairnError(f"{checkpoint.path}: Keras needs a vocabulary in UTF-8: {error}") from error
    standardize: Any = _strip_html_then_standardize if tokenizer.strip_html else "lower_and_strip_punctuation"
    return layers.TextVectorization(standardize=standardize, vocabulary=vocabulary,
                                    output_sequence_length=tokenizer.max_length or None,
                                    name="text_vectorization")


def _strip_html_then_standardize(texts: Any) -> Any:
    import tensorflow as tf

    texts = tf.strings.regex_replace(texts, _TAG.pattern.decode(), " ")
    return tf.strings.regex_replace(tf.strings.lower(texts), "[" + re.escape(_PUNCTUATION.decode()) + "]", "")


# ---- command line ---------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """List the checkpoint named on the command line. Exit code 65 when it is damaged, 2 for wrong usage."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: cairn_io.py FILE | MODEL_DIRECTORY", file=sys.stderr)
        return 2
    try:
        print(load_latest(arguments[0]) if os.path.isdir(arguments[0]) else load(arguments[0]))
    except CairnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 65 if isinstance(error, DamagedError) else 66
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
