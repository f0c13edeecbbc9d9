"""Checkpoints read by Python, in two ways that share no code with Cairn.

1. `zstd -d`, then the safetensors package: every tensor against values computed here.
2. A reader written from docs/checkpoint-format.md alone (read_checkpoint below), which verifies all
   that the document says can be verified; then damage, which it must notice.

Both also open what a training run of the program itself has saved.

usage: checkpoint_python.py MAKE_CHECKPOINT CAIRN
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy
import safetensors
import safetensors.numpy
import xxhash

# ---- the reader of docs/checkpoint-format.md ----

FRAME_MAGIC, DIGEST_MAGIC, SEEK_MAGIC, FOOTER_MAGIC = 0xFD2FB528, 0x184D2A5D, 0x184D2A5E, 0x8F92EAB1
FRAME_BYTES = 4 << 20
DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1", "F16": "<f2", "I32": "<i4"}
DTYPES["BF16"] = "<u2"  # its bits: numpy has no such numbers


def require(condition, reason):
    if not condition:
        raise ValueError(reason)


def decompress(frame):
    done = subprocess.run(["zstd", "-dc"], input=frame, capture_output=True)
    require(done.returncode == 0, "zstd: " + done.stderr.decode(errors="replace").strip())
    return done.stdout


def read_frames(data):
    """Contents of the zstd frames, found by the seek table at the end of the file."""
    require(len(data) >= 17, "too short")
    count, descriptor, magic = struct.unpack("<IBI", data[-9:])
    require((descriptor, magic) == (0x80, FOOTER_MAGIC), "no seek table at the end")
    table = len(data) - 17 - 12 * count
    require(count >= 2 and table >= 0, "seek table larger than the file")
    require(struct.unpack("<II", data[table:table + 8]) == (SEEK_MAGIC, 12 * count + 9), "seek table")
    entries = [struct.unpack("<III", data[table + 8 + 12 * i:table + 20 + 12 * i]) for i in range(count)]
    at, contents = 0, []
    for frame_bytes, content_bytes, checksum in entries[:-1]:
        frame = data[at:at + frame_bytes]
        require(len(frame) > 4 and struct.unpack("<I", frame[:4])[0] == FRAME_MAGIC, "no zstd frame")
        require(frame[-4:] == struct.pack("<I", checksum), "checksum of the frame and of its entry")
        content = decompress(frame)
        require(len(content) == content_bytes, "size of a frame's content")
        require(xxhash.xxh64_intdigest(content) & 0xFFFFFFFF == checksum, "checksum of the content")
        contents.append(content)
        at += frame_bytes
    require(entries[-1] == (24, 0, xxhash.xxh64_intdigest(b"") & 0xFFFFFFFF), "digest frame's entry")
    require(at + 24 == table, "frames end elsewhere")
    require(struct.unpack("<II", data[at:at + 8]) == (DIGEST_MAGIC, 16), "digest frame")
    require(data[at + 8:at + 24] == xxhash.xxh3_128_digest(data[:at]), "digest of the file")
    return contents


def read_checkpoint(data):
    """Tensors and metadata of a checkpoint; ValueError when anything about it is wrong."""
    header, *parts = read_frames(data)
    require(all(len(part) == FRAME_BYTES for part in parts[:-1]), "a short frame that is not the last")
    (length,) = struct.unpack("<Q", header[:8])
    require(length == len(header) - 8 <= 1 << 20 and length % 8 == 0, "length of the JSON")
    description = json.loads(header[8:])
    metadata = description.pop("__metadata__")
    require(metadata["format_version"] == "1", "format version")
    content, end, tensors = b"".join(parts), 0, {}
    for name, entry in sorted(description.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        require(begin == end, "hole or overlap")
        end = stop
        require(metadata.pop("digest." + name) == xxhash.xxh3_128_hexdigest(content[begin:stop]), name)
        values = numpy.frombuffer(content[begin:stop], dtype=DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    require(end == len(content), "bytes that belong to no tensor")
    require(not any(key.startswith("digest.") for key in metadata), "digest without a tensor")
    return tensors, metadata


# ---- what tests/make_checkpoint.cc writes ----


def expected_tensors():
    counter = numpy.arange(1300 * 1000, dtype=numpy.int64)
    weight = (counter * 7919 % 65536 / 256.0 - 128.0).astype(numpy.float32)
    return {
        "output.bias": numpy.array([-0.5], dtype=numpy.float32),
        "embedding.weight": weight.reshape(1300, 1000),
        "vocabulary": numpy.frombuffer("\n[UNK]\nthe\ncaf\u00e9\n".encode(), dtype=numpy.uint8),
        "history.epochs": numpy.array([[0.5, 0.25, 0.125, -1e300], [5e-324, 3, 2, 1]]),
        "state.step": numpy.array(2**63 - 1, dtype=numpy.int64),
        "state.many": numpy.array([-(2**63), -1, 0, 1, 2**53], dtype=numpy.int64).reshape(1, 5, 1, 1),
        "state.nothing": numpy.zeros((0, 3), dtype=numpy.float32),
    }


def check_tensors(found, how):
    expected = expected_tensors()
    assert set(found) == set(expected), (how, sorted(found))
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, (how, name, found[name].dtype)
        assert found[name].shape == value.shape, (how, name, found[name].shape)
        assert found[name].tobytes() == value.tobytes(), (how, name)
    print(f"{how}: {len(expected)} tensors equal")


def check_damage(data):
    """The independent reader notices damage too: the document names every byte."""
    places = list(range(0, 20)) + list(range(len(data) - 100, len(data)))
    places += range(20, len(data) - 100, len(data) // 20)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        for what, candidate in (("flip", bytes(damaged)), ("cut", data[:place])):
            try:
                read_checkpoint(candidate)
            except (ValueError, KeyError):
                continue
            raise AssertionError(f"{what} at byte {place} was not noticed")
    print(f"independent reader: {2 * len(places)} damaged files refused")


# ---- what the program writes ----


def parameter_shapes(vocabulary, embedding, hidden, dense):
    """The names and shapes that the format promises (gates i, f, g, o below each other)."""
    shapes = {"embedding.weight": (vocabulary, embedding)}
    for direction in ("l0", "l0_reverse"):
        shapes["lstm.weight_ih_" + direction] = (4 * hidden, embedding)
        shapes["lstm.weight_hh_" + direction] = (4 * hidden, hidden)
        shapes["lstm.bias_" + direction] = (4 * hidden,)
    shapes["dense.weight"] = (dense, 2 * hidden)
    shapes["dense.bias"] = (dense,)
    shapes["output.weight"] = (1, dense)
    shapes["output.bias"] = (1,)
    return shapes


def check_trained(cairn, directory):
    sizes = {"vocabulary": 50, "embedding": 6, "hidden": 5, "dense": 7}
    command = [cairn, "train", "--data", "demo", "--max-steps", "3", "--model-dir", directory / "model"]
    for name, size in sizes.items():
        command += [f"--{name}-size", str(size)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    path = directory / "model" / "model.ckpt-3.safetensors.zst"
    plain = directory / "trained.safetensors"
    subprocess.run(["zstd", "-q", "-d", path, "-o", plain], check=True)
    shapes = parameter_shapes(**sizes)
    assert len(shapes) == 11
    independent, _ = read_checkpoint(path.read_bytes())
    with safetensors.safe_open(plain, framework="numpy") as file:
        names = list(file.keys())
        found = {name: file.get_tensor(name) for name in names}
        assert file.metadata()["step"] == "3", file.metadata()
    assert set(found) == set(independent), sorted(set(found) ^ set(independent))
    for name, value in independent.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name
    for name, shape in shapes.items():
        for prefix in ("", "adam.m.", "adam.v."):
            tensor = found[prefix + name]
            assert tensor.dtype == numpy.float32 and tensor.shape == shape, (prefix + name, tensor.shape)
            assert numpy.isfinite(tensor).all(), prefix + name
    assert (found["adam.v.output.weight"] > 0).any(), "three steps have moved nothing"
    assert found["state.step"] == 3 and found["state.step"].dtype == numpy.int64
    words = found["vocabulary"].tobytes().decode()
    assert words.endswith("\n") and words.count("\n") == sizes["vocabulary"], words
    print(f"cairn train: {len(found)} tensors read, {len(shapes)} parameters of the right shape")


def main():
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "model.ckpt-1.safetensors.zst"
        subprocess.run([sys.argv[1], path], check=True)
        plain = path.with_suffix("")
        subprocess.run(["zstd", "-q", "-d", path, "-o", plain], check=True)
        check_tensors(safetensors.numpy.load_file(plain), "zstd -d and the safetensors package")
        with safetensors.safe_open(plain, framework="numpy") as file:
            assert file.metadata()["options"] == 'seed = 1\nnote = "caf\u00e9"\n', file.metadata()
            assert file.metadata()["format_version"] == "1"
        tensors, metadata = read_checkpoint(path.read_bytes())
        check_tensors(tensors, "independent reader")
        assert metadata == {"format_version": "1", "options": 'seed = 1\nnote = "caf\u00e9"\n'}, metadata
        tiny = pathlib.Path(directory) / "tiny.safetensors.zst"
        subprocess.run([sys.argv[1], "--tiny", tiny], check=True)
        tensors, metadata = read_checkpoint(tiny.read_bytes())
        assert tensors["w"].tolist() == [[1.0, -2.0]] and tensors["state.step"] == 7
        check_damage(tiny.read_bytes())
        check_trained(sys.argv[2], pathlib.Path(directory))


main()
