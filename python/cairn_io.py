"""Cairn's files in Python: checkpoints, texts, models, history. One file, to be copied anywhere.

Needs numpy and zstandard; xxhash to verify digests; torch or keras for models; pandas where asked for.
Nothing of Cairn itself has to be installed.

    import cairn_io

    checkpoint = cairn_io.load_latest("runs/imdb")          # or load("model.ckpt-391.safetensors.zst")
    print(checkpoint)                                       # step, sizes, every tensor
    ids, lengths = checkpoint.batch(["What a great film!", ""])

    model = cairn_io.torch_model(checkpoint)                # torch.nn.Module
    logits = model(torch.from_numpy(ids), torch.from_numpy(lengths))

    model = cairn_io.keras_model(checkpoint)                # keras.Model on token ids ...
    logits = model.predict(ids)[:, 0]
    model = cairn_io.keras_model(checkpoint, text=True)     # ... or on strings
    model.export("film-saved-model")                        # TensorFlow's SavedModel

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


def _shown(text: str) -> str:
    """Text from a file, without anything that a terminal would act on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class DamagedError(CairnError):
    """A file that is not what its writer wrote: cut, changed, or of an unknown version."""


# ---- texts ----------------------------------------------------------------------------------------------

_PUNCTUATION = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_UPPER_TO_LOWER = bytes(b + 32 if 65 <= b <= 90 else b for b in range(256))
_SPLIT = re.compile(b"[ \t\n\v\f\r]+")
_TAG = re.compile(b"<[A-Za-z/!][^>]*>")


def _utf8(text: str | bytes) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise CairnError(f"a text that UTF-8 cannot express: {error}") from error


@dataclass(frozen=True)
class Tokenizer:
    """Texts to token ids, byte for byte as Cairn and Keras' TextVectorization do it.

    A-Z become a-z, the 32 ASCII punctuation characters vanish (what they stood between grows together), and
    ASCII white space separates; all other bytes stay. Tokens are bytes, because texts need not be UTF-8; a
    str in the vocabulary or as a text counts as its UTF-8.
    """

    vocabulary: Sequence[bytes]  # index order; 0 is padding (b""), 1 is unknown (b"[UNK]")
    strip_html: bool = False  # tags become a space first
    max_length: int = 0  # tokens that a text keeps; 0 = all
    _ids: dict[bytes, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        words = [_utf8(word) for word in self.vocabulary]
        object.__setattr__(self, "vocabulary", words)
        object.__setattr__(self, "_ids", {word: i for i, word in enumerate(words) if i >= 2})

    def tokens(self, text: str | bytes) -> list[bytes]:
        """The words of a text, cut at max_length."""
        text = _utf8(text)
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

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BF16": "<u2"}
_OTHERS_DTYPES = {"I8": "i1", "I16": "<i2", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}


def _shapes(vocabulary: int, embedding: int, hidden: int, dense: int) -> dict[str, tuple[int, ...]]:
    """The eleven arrays of the model."""
    gates = 4 * hidden
    lstm = {"weight_ih_l0": (gates, embedding), "weight_hh_l0": (gates, hidden), "bias_l0": (gates,)}
    return {"embedding.weight": (vocabulary, embedding),
            **{"lstm." + name: shape for name, shape in lstm.items()},
            **{"lstm." + name + "_reverse": shape for name, shape in lstm.items()},
            "dense.weight": (dense, 2 * hidden), "dense.bias": (dense,),
            "output.weight": (1, dense), "output.bias": (1,)}


@dataclass
class Checkpoint:
    """What a file holds: every tensor, the metadata, and views of both that mean something.

    `tensors` has them all, by the names of docs/checkpoint-format.md: weights, `adam.*`, `state.*`, ... They
    are read-only.
    """

    path: str
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]  # without format_version and digests
    verified: bool  # the digests were there and were right

    @property
    def step(self) -> int | None:
        """Training steps behind these weights; None where the file does not say."""
        if "state.step" in self.tensors:
            return self._number("state.step")
        step = self.metadata.get("step", "")
        return int(step) if re.fullmatch("[0-9]{1,18}", step) else None

    @property
    def options(self) -> dict[str, str]:
        """The run's options, as texts; empty where the file does not say."""
        lines = (line.split("=", 1) for line in self.metadata.get("options", "").splitlines())
        return {pair[0].strip(): pair[1].strip() for pair in lines if len(pair) == 2}

    def weights(self) -> dict[str, np.ndarray]:
        """The eleven arrays of the model; CairnError when this is a checkpoint of another one."""
        found = {}
        for name, shape in _shapes(1, 1, 1, 1).items():
            found[name] = value = self._weight(name)
            if value.ndim != len(shape) or value.dtype.kind != "f":
                raise CairnError(f"{self.path}: not Cairn's text model: {name} is {value.dtype} "
                                 f"{list(value.shape)}; {len(shape)} dimensions of floats are expected")
        wanted = _shapes(*found["embedding.weight"].shape, found["lstm.weight_hh_l0"].shape[1],
                         found["dense.bias"].shape[0])
        for name, value in found.items():
            if value.shape != wanted[name]:
                raise CairnError(f"{self.path}: not Cairn's text model: {name} is {list(value.shape)}; "
                                 f"beside the others, {list(wanted[name])} is expected")
        return found

    def _weight(self, name: str) -> np.ndarray:
        if name in self.tensors:
            return self.tensors[name]
        both = [self.tensors.get(name.replace("bias_", "bias_" + part)) for part in ("ih_", "hh_")]
        if name.startswith("lstm.bias_") and all(bias is not None for bias in both):
            if both[0].shape == both[1].shape:  # PyTorch has two biases and adds them
                return both[0] + both[1]
        raise CairnError(f"{self.path}: not Cairn's text model: it has no tensor {name}")

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
        return Tokenizer(self.vocabulary(), self._number("text.strip_html") == 1,
                         self._number("text.max_length"))

    def batch(self, texts: Iterable[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizer.batch with the text rules of this model."""
        return self.tokenizer().batch(texts)

    def _number(self, name: str) -> int:
        value = self.tensors.get(name, np.array(0))
        if value.shape != () or value.dtype.kind != "i" or value < 0:
            raise CairnError(f"{self.path}: {name} is not one number from 0 on")
        return int(value)

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
        return "\n".join(map(_shown, rows))


def load(path: Path, verify: bool | None = None) -> Checkpoint:
    """Read one checkpoint: .safetensors.zst of any kind, what `zstd -d` makes of it, plain safetensors, or a
    folder that `cairn export --format safetensors` wrote.

    The file is treated as untrusted bytes; memory is taken only for what the tensors' descriptions add up to.
    `verify`: check the digests (XXH3-128), by default where xxhash is installed and the file has any; zstd's
    own checksums are always checked. Raises DamagedError, CairnError.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "model.safetensors")):
            raise CairnError(f"{path} is a directory: use load_latest or load_best for a model directory")
        return _load_folder(path, verify)
    if verify and xxhash is None:
        raise CairnError("verify=True needs the package xxhash")
    data = _read(path)
    check = verify is not False and xxhash is not None
    try:
        compressed = data[:4] == b"\x28\xb5\x2f\xfd"
        header, content = _read_compressed(data, check) if compressed else _read_plain(data)
        tensors = header.tensors(content, check)
    except (_Damage, ValueError, RecursionError, struct.error, zstandard.ZstdError) as error:
        raise DamagedError(f"{path}: {_shown(str(error))}") from error
    except _Unknown as error:
        raise CairnError(f"{path}: {_shown(str(error))}") from error
    if verify and not header.has_digests:
        raise CairnError(f"{path}: verify=True, but it has no digests")
    return Checkpoint(path, tensors, header.metadata, verified=check and header.has_digests)


class _Damage(Exception):
    pass


class _Unknown(Exception):
    pass


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CairnError(f"cannot read {path}: {error.strerror}") from error


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _Damage(reason)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require(len(dict(pairs)) == len(pairs), "a name appears twice in its JSON")
    return dict(pairs)


class _Header:
    """The JSON of a safetensors file: where every tensor lies in the `data_bytes` bytes behind it."""

    def __init__(self, text: bytes, is_checkpoint: bool) -> None:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        _require(isinstance(document, dict), "its JSON is no object")
        self.metadata = document.pop("__metadata__", {})
        _require(isinstance(self.metadata, dict)
                 and all(isinstance(value, str) for value in self.metadata.values()),
                 "its metadata are not strings")
        version = self.metadata.pop("format_version", None)
        _require(version is not None or not is_checkpoint, "its metadata lack format_version")
        _require(version in (None, "1"), f"format version {version}; this reader knows version 1")
        if is_checkpoint:
            _require(len(text) % 8 == 0 and text.rstrip(b" ").endswith(b"}"),
                     "its JSON is not padded with spaces to a multiple of 8")
            odd = [name for name in document if not all("!" <= letter <= "~" for letter in name)]
            _require(not odd, f"{odd[:1]} cannot be the name of a tensor")
        self.has_digests = version is not None
        self._digests = {name: self.metadata.pop("digest." + name) for name in document
                         if "digest." + name in self.metadata}
        if self.has_digests:
            missing = [name for name in document if name not in self._digests]
            _require(not missing, f"tensor {missing[:1]} has no digest")
            surplus = [name for name in self.metadata if name.startswith("digest.")]
            _require(not surplus, f"{surplus[:1]} in its metadata is of no tensor")
        self._places = [self._place(name, info, is_checkpoint) for name, info in document.items()]
        at = 0
        for begin, end, name, _, _ in sorted(self._places):
            _require(begin == at, f"tensor {name} does not begin where the one before it ends")
            at = end
        self.data_bytes = at

    @staticmethod
    def _place(name: str, info: Any, is_checkpoint: bool) -> tuple[int, int, str, str, list[int]]:
        _require(isinstance(info, dict) and info.keys() == {"dtype", "shape", "data_offsets"},
                 f"tensor {name} is not described by dtype, shape and data_offsets")
        dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
        _require(isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list)
                 and all(type(number) is int and number >= 0 for number in shape + offsets)
                 and len(offsets) == 2, f"tensor {name}: a bad description")
        if dtype not in (_DTYPES if is_checkpoint else {**_DTYPES, **_OTHERS_DTYPES}):
            raise _Unknown(f"tensor {name}: this reader does not know the type {dtype}")
        size = np.dtype(_DTYPES.get(dtype) or _OTHERS_DTYPES[dtype]).itemsize
        _require(offsets[1] - offsets[0] == size * math.prod(shape), f"tensor {name}: a bad place")
        return offsets[0], offsets[1], name, dtype, shape

    def tensors(self, content: bytes | bytearray | memoryview, verify: bool) -> dict[str, np.ndarray]:
        found = {}
        for begin, end, name, dtype, shape in sorted(self._places, key=lambda place: place[2]):
            if verify and name in self._digests:
                digest = xxhash.xxh3_128_hexdigest(memoryview(content)[begin:end])
                _require(digest == self._digests[name], f"tensor {name} is not what its digest says")
            array = np.ndarray(shape, _DTYPES.get(dtype) or _OTHERS_DTYPES[dtype], content, begin)
            if dtype == "BF16":  # numpy has none: the upper half of an F32
                array = (array.astype(np.uint32) << 16).view(np.float32)
            found[name] = array if array.flags.aligned else array.copy()
            found[name].flags.writeable = False
        return found


def _read_plain(data: bytes) -> tuple[_Header, memoryview]:
    _require(len(data) >= 8, "cut off, or not a checkpoint")
    (length,) = struct.unpack_from("<Q", data)
    _require(length <= len(data) - 8 and data[8:9] == b"{", "cut off, or not a checkpoint")
    header = _Header(data[8 : 8 + length], is_checkpoint=False)
    content = memoryview(data)[8 + length :]
    _require(len(content) == header.data_bytes, f"it holds {len(content)} bytes of tensors and describes "
             f"{header.data_bytes}")
    return header, content


_PIECE = 4 << 20  # bytes of tensors in a frame


def _read_compressed(data: bytes, verify: bool) -> tuple[_Header, bytearray]:
    """A checkpoint: a zstd frame with the JSON, n with the tensors, a frame with a digest, a seek table."""
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
    _require(8 <= entries[0][1] <= 8 + (1 << 20), "bad frame 0")
    text = _frame(data, 0, 0, entries[0])
    _require(struct.unpack_from("<Q", text) == (len(text) - 8,) and text[8:9] == b"{", "bad frame 0")
    header = _Header(text[8:], is_checkpoint=True)
    # Only the sizes that the JSON adds up to are believed.
    _require(header.data_bytes <= 1 << 36, "more tensors than the format allows")
    pieces = [min(_PIECE, header.data_bytes - at) for at in range(0, header.data_bytes, _PIECE)]
    _require(pieces == [entry[1] for entry in entries[1:-1]]
             and all(entry[1] <= 32768 * entry[0] for entry in entries[1:-1]),  # zstd cannot do more
             "its frames are not those of its tensors")
    content = bytearray(header.data_bytes)
    at = entries[0][0]
    for i, entry in enumerate(entries[1:-1]):
        content[i * _PIECE : i * _PIECE + entry[1]] = _frame(data, i + 1, at, entry)
        at += entry[0]
    return header, content


def _frame(data: bytes, number: int, at: int, entry: tuple[int, int, int]) -> bytes:
    """The content of a zstd frame, which is exactly what its entry in the seek table says."""
    frame_bytes, content_bytes, checksum = entry
    frame = data[at : at + frame_bytes]
    about = zstandard.get_frame_parameters(frame)
    _require(about.content_size == content_bytes and about.has_checksum and about.dict_id == 0
             and about.window_size <= 1 << 23 and frame[-4:] == struct.pack("<I", checksum),
             f"bad frame {number}")
    return zstandard.ZstdDecompressor().decompress(frame, content_bytes, allow_extra_data=False)


def _load_folder(path: str, verify: bool | None) -> Checkpoint:
    """model.safetensors with what lies beside it under the names that it has in a checkpoint."""
    checkpoint = load(os.path.join(path, "model.safetensors"), verify)
    checkpoint.path = path
    words = _read(os.path.join(path, "vocab.txt"))
    rows = checkpoint.sizes()["vocabulary"]
    if words.count(b"\n") != rows or not words.endswith(b"\n"):
        raise CairnError(f"{path}: vocab.txt does not have {rows} lines, one for each row of the embedding")
    try:
        config = json.loads(_read(os.path.join(path, "config.json")))
        rules, labels = config["text"], [config["id2label"][i] for i in ("0", "1")]
        numbers = {"text.strip_html": int(rules["strip_html"]), "text.max_length": int(rules["max_length"])}
        if "step" in config:
            checkpoint.metadata["step"] = str(config["step"])
        lines = {"vocabulary": words, "text.label_names": "".join(label + "\n" for label in labels).encode()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise CairnError(f"{path}: config.json is not as Cairn writes it: {_shown(repr(error))}") from error
    checkpoint.tensors.update({name: np.frombuffer(value, np.uint8) for name, value in lines.items()})
    checkpoint.tensors.update({name: np.array(value) for name, value in numbers.items()})
    return checkpoint


# ---- model directories ----------------------------------------------------------------------------------

_ROUNDS = 20  # listings of a directory that changes meanwhile


def list_checkpoints(model_dir: Path) -> list[tuple[int, pathlib.Path]]:
    """(step, path) of every model.ckpt-* in a model directory, oldest step first."""
    directory = pathlib.Path(model_dir)
    if not directory.is_dir():
        raise CairnError(f"{directory} is not a directory")
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            match = re.fullmatch(r"model\.ckpt-([0-9]{1,18})\.safetensors\.zst", entry.name)
            if match and entry.is_file():
                found.append((int(match[1]), directory / entry.name))
    return sorted(found)


def _list_some(model_dir: Path) -> list[tuple[int, pathlib.Path]]:
    # While a run replaces its only checkpoint, a listing may come too late for one, too early for the other.
    for _ in range(_ROUNDS):
        found = list_checkpoints(model_dir)
        if found:
            return found
    raise CairnError(f"no checkpoint (model.ckpt-*.safetensors.zst) in {os.fspath(model_dir)}")


def latest(model_dir: Path) -> pathlib.Path:
    """The checkpoint with the highest step. Not opened: load_latest also passes over damaged ones."""
    return _list_some(model_dir)[-1][1]


def best(model_dir: Path) -> pathlib.Path:
    """The best model so far by the run's --monitor."""
    path = pathlib.Path(model_dir) / "best.safetensors.zst"
    if not path.is_file():
        raise CairnError(f"no {path}: a run writes it when it has validation data")
    return path


def load_latest(model_dir: Path, verify: bool | None = None) -> Checkpoint:
    """The newest checkpoint that is whole; damaged newer ones are named in warnings, as Cairn does.

    A run may go on beside it: when it deletes a checkpoint that was listed, there is a newer one.
    """
    damaged = set()
    for _ in range(_ROUNDS):
        try:
            for _, path in reversed(_list_some(model_dir)):
                if path in damaged:
                    continue
                try:
                    return load(path, verify)
                except DamagedError as error:
                    damaged.add(path)
                    warnings.warn(f"passed over, damaged: {error}", stacklevel=2)
        except CairnError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        else:
            raise DamagedError(f"every checkpoint in {os.fspath(model_dir)} is damaged")
    raise CairnError(f"the checkpoints in {os.fspath(model_dir)} are deleted faster than they can be read")


def load_best(model_dir: Path, verify: bool | None = None) -> Checkpoint:
    """load(best(model_dir))."""
    return load(best(model_dir), verify)


# ---- history --------------------------------------------------------------------------------------------


def read_history(path: Path, event: str = "epoch", pandas: bool = False) -> Any:
    """A run's history as a table: a dict of columns (numpy arrays), or a pandas.DataFrame.

    `path`: a model directory, its history.jsonl, or its history.csv (epochs only). `event`: which lines of
    history.jsonl: "epoch", "step", "save", "start", "end". Numbers that a line lacks are NaN; columns that
    are not numbers are lists of objects (None where a line lacks one). A last line that is still being
    written is left out.
    """
    path = pathlib.Path(path)
    path = path / "history.jsonl" if path.is_dir() else path
    data = _read(os.fspath(path))
    try:
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError as error:
        raise CairnError(f"{path}: not UTF-8: {error}") from error
    if path.suffix == ".csv":
        if event != "epoch":
            raise CairnError(f"{path} has epochs only; {event!r} lines are in history.jsonl")
        rows = _csv_rows(path, text)
    else:
        rows = [row for row in _json_lines(path, text) if row.pop("event", None) == event]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = {name: _column([row.get(name) for row in rows]) for name in names}
    if pandas:
        import pandas as pd

        return pd.DataFrame({name: list(column) for name, column in table.items()})
    return table


def _csv_rows(path: pathlib.Path, text: str) -> list[dict[str, Any]]:
    def value(field: str) -> Any:
        try:
            return int(field) if re.fullmatch("-?[0-9]{1,18}", field) else float(field) if field else None
        except ValueError:
            return field

    try:
        names, *lines = list(csv.reader(text.split("\n")[:-1])) or [[]]
    except csv.Error as error:
        raise CairnError(f"{path}: {error}") from error
    return [dict(zip(names, map(value, line))) for line in lines]


def _json_lines(path: pathlib.Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n")[:-1], 1):  # splitlines() would cut inside of strings, too
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CairnError(f"{path}:{number}: expected a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise CairnError(f"{path}:{number}: expected a JSON object")
        rows.append(row)
    return rows


def _column(values: list[Any]) -> Any:
    """Numbers ("nan", "inf" and "-inf" as Cairn writes them, too) as an array, anything else as it is."""
    numbers = [float(value) if value in ("nan", "inf", "-inf") else value for value in values]
    kinds = {type(number) for number in numbers}
    if kinds == {int} and all(abs(number) < 2**63 for number in numbers):
        return np.array(numbers, dtype=np.int64)
    if not kinds <= {int, float, type(None)} or kinds == {type(None)}:
        return values
    try:
        return np.array([math.nan if number is None else float(number) for number in numbers])
    except OverflowError:  # an integer beyond any float
        return values


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
    function of ours: export the model (model.export) rather than saving it as .keras. Strings go in as a
    tf.constant, to predict() as well.
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
    words, size = tokenizer.vocabulary, checkpoint.sizes()["vocabulary"]
    if len(words) != size or len(set(words)) != size or size < 3:
        raise CairnError(f"{checkpoint.path}: Keras needs a vocabulary with at least one word, and a "
                         f"different one for each of the {size} rows of the embedding; this one has "
                         f"{len(words)} entries, {len(set(words))} different ones")
    try:
        vocabulary = [word.decode("utf-8") for word in words]
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
    """List the checkpoint named on the command line. Exit codes: 0; 2 wrong usage, 65 damaged, 66 not there,
    74 cannot be printed, 141 nobody reads on."""
    help_wanted = list(arguments) in (["-h"], ["--help"])
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: cairn_io.py FILE | MODEL_DIRECTORY", file=sys.stdout if help_wanted else sys.stderr)
        return 0 if help_wanted else 2
    path = arguments[0]
    exported = os.path.isfile(os.path.join(path, "model.safetensors"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_: print(f"warning: {_shown(str(message))}",
                                                             file=sys.stderr)
            checkpoint = load_latest(path) if os.path.isdir(path) and not exported else load(path)
        print(checkpoint, flush=True)
    except CairnError as error:
        print(f"error: {_shown(str(error))}", file=sys.stderr)
        return 65 if isinstance(error, DamagedError) else 66
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left there is lost, quietly
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"error: cannot print: {error.strerror}", file=sys.stderr)
        return 74
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a locale may lack characters that a file has
    sys.exit(main(sys.argv[1:]))
