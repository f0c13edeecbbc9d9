"""python/cairn_io.py without PyTorch and Keras: checkpoints, texts, model directories, history.

usage: helper.py CAIRN
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings

import numpy
import safetensors.numpy
import xxhash
import zstandard

from program import run, tokenize, train
import cairn_io  # program.py makes it importable

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fails(kind, part, function, *arguments, **named):
    """The call raises exactly `kind`, with `part` in its message."""
    try:
        function(*arguments, **named)
    except cairn_io.CairnError as error:
        assert type(error) is kind and part in str(error), (kind, part, repr(error))
        return
    raise AssertionError(f"{function.__name__}{arguments} did not fail")


# ---- texts ----


def check_golden():
    """Every case of Keras' TextVectorization; False where the golden cases are missing."""
    path = pathlib.Path(os.environ.get("CAIRN_GOLDEN_DIR", ROOT / ".." / "shared" / "golden")) / "text.jsonl"
    if not path.is_file():
        return False
    documents = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        words = [word.encode() for word in case["vocabulary"]]
        tokenizer = cairn_io.Tokenizer(words, max_length=case["output_sequence_length"] or 0)
        ids, lengths = tokenizer.batch(case["documents"])
        documents += len(ids)
        for found, length, wanted in zip(ids.tolist(), lengths, case["ids"]):
            width = len(wanted)
            assert (found + [0] * width)[:width] == wanted and length <= width, (found, wanted)
            assert not any(found[length:]) and all(found[:length]), found
    assert documents > 100, documents
    print(f"texts: {documents} documents as Keras' TextVectorization")
    return True


def random_texts(words):
    source = random.Random(11)
    pieces = [word.decode() for word in words[2:30]]
    pieces += list("AZaz09!-<>/&;'\"\t\n\v\f\r \u00a0\u2003\u00c9\u00df")
    pieces += ["<br />", "</p>", "<!-- x -->", "< b>", "<b", "\x1f", "\u65e5\u672c", "I\u0307"]
    return ["".join(source.choice(pieces) for _ in range(source.randrange(60))) for _ in range(400)]


def check_tokenizer(cairn, work):
    for name, options in {"plain": [], "rules": ["--strip-html", "--max-length", 7]}.items():
        train(cairn, work / name, "--steps", 1, *options)
        checkpoint = cairn_io.load_latest(work / name)
        tokenizer = checkpoint.tokenizer()
        assert (tokenizer.strip_html, tokenizer.max_length) == ((True, 7) if options else (False, 0))
        texts = random_texts(checkpoint.vocabulary())
        assert [tokenizer.ids(text) for text in texts] == tokenize(cairn, texts, "--model-dir", work / name)
        # Bytes that are not UTF-8: one text a line.
        source = random.Random(5)
        lines = [bytes(source.choices(range(1, 256), k=80)) + b" The movie" for _ in range(50)]
        lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
        out = run(cairn, "tokenize", "--model-dir", work / name, text=b"\n".join(lines)).decode()
        assert [tokenizer.ids(line) for line in lines] == [[int(i) for i in row.split()]
                                                           for row in out.split("\n")[:-1]]
    ids, lengths = tokenizer.batch(["", "?!"])
    assert ids.shape == (2, 1) and not ids.any() and not lengths.any()
    assert tokenizer.batch([])[0].shape == (0, 1)
    fails(cairn_io.CairnError, "list of texts", tokenizer.batch, "one text")
    fails(cairn_io.CairnError, "UTF-8", tokenizer.tokens, "\ud800")
    assert cairn_io.Tokenizer(["", "[UNK]", "caf\u00e9"]).ids("caf\u00e9 the") == [2, 1]  # words of type str


# ---- checkpoints ----


def check_equal(checkpoint, path):
    """All tensors as zstd and the safetensors package read them."""
    content = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    wanted = safetensors.numpy.load(content)
    assert set(checkpoint.tensors) == set(wanted)
    for name, value in wanted.items():
        found = checkpoint.tensors[name]
        assert found.dtype == value.dtype and found.shape == value.shape, name
        assert found.tobytes() == value.tobytes(), name
    return content


def check_load(cairn, work):
    sizes = {"vocabulary": 50, "embedding": 6, "hidden": 5, "dense": 7}
    options = [word for name, size in sizes.items() for word in (f"--{name}-size", size)]
    train(cairn, work / "model", "--epochs", 2, "--save-checkpoints-steps", 50, "--checkpoint-busy", "wait",
          "--checkpoint-filepath", work / "weights-{epoch:02d}.safetensors.zst", "--save-weights-only",
          *options)
    path = cairn_io.latest(work / "model")
    checkpoint = cairn_io.load(path)
    content = check_equal(checkpoint, path)
    assert not any(tensor.flags.writeable for tensor in checkpoint.tensors.values())
    assert checkpoint.verified and checkpoint.step == 188 and checkpoint.sizes() == sizes
    assert checkpoint.labels() == ["neg", "pos"] and checkpoint.options["hidden-size"] == "5"
    assert checkpoint.vocabulary()[:2] == [b"", b"[UNK]"] and len(checkpoint.vocabulary()) == 50
    assert "lstm.bias_l0" in str(checkpoint) and "digest." not in str(checkpoint)
    for other in [work / "model" / "best.safetensors.zst", work / "weights-02.safetensors.zst"]:
        found = cairn_io.load(other)
        check_equal(found, other)
        assert found.verified and found.sizes() == sizes
    plain = work / "plain.safetensors"
    plain.write_bytes(content)
    found = cairn_io.load(plain)
    assert found.verified
    assert all((value == checkpoint.tensors[name]).all() for name, value in found.weights().items())
    # Somebody else's file: nothing to verify, and not this model.
    bare = work / "bare.safetensors"
    safetensors.numpy.save_file({"a": numpy.arange(3.0)}, bare)
    found = cairn_io.load(bare)
    assert not found.verified and found.step is None and (found.tensors["a"] == [0, 1, 2]).all()
    fails(cairn_io.CairnError, "no tensor embedding.weight", found.weights)
    fails(cairn_io.CairnError, "holds no vocabulary", found.vocabulary)
    fails(cairn_io.CairnError, "cannot read", cairn_io.load, work / "absent")
    fails(cairn_io.CairnError, "is a directory", cairn_io.load, work)
    fails(cairn_io.CairnError, "no digests", cairn_io.load, bare, verify=True)
    assert cairn_io.load(path, verify=True).verified and not cairn_io.load(path, verify=False).verified
    return path, content


def check_types(work):
    """Every type that the safetensors package writes for numpy, and BF16, which numpy lacks."""
    path = work / "types.safetensors"
    wanted = {name: numpy.array([1, 0, 3]).astype(name) for name in (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "float32", "float64")}
    wanted["int32"][0], wanted["float16"][0], wanted["uint32"][0] = -70000, 1.5, 2**32 - 1
    wanted["empty"] = numpy.zeros((0, 4), numpy.float32)
    safetensors.numpy.save_file(wanted, path, metadata={"step": "\u00b2", "note": "\x1b[31m\rred"})
    found = cairn_io.load(path)
    for name, value in wanted.items():
        tensor = found.tensors[name]
        assert tensor.dtype == value.dtype and numpy.array_equal(tensor, value), name
        assert not tensor.flags.writeable and tensor.flags.aligned
    assert found.step is None and "\\x1b[31m\\rred" in str(found) and "\x1b" not in str(found)
    tensor = {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}
    path.write_bytes(safetensors_bytes({"x": tensor}, b"\x80\x3f\x00\xc0\x20\x42"))
    assert cairn_io.load(path).tensors["x"].tolist() == [1.0, -2.0, 40.0]
    tensor = {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}
    path.write_bytes(safetensors_bytes({"x": tensor}, b"1"))
    fails(cairn_io.CairnError, "F8_E4M3", cairn_io.load, path)


def check_weights(work, path):
    """Whose model it is: PyTorch's two biases are one, other shapes are refused."""
    weights = cairn_io.load(path).weights()
    other = work / "other.safetensors"

    def changed(**change):
        tensors = {**weights, **{name.replace("__", "."): value for name, value in change.items()}}
        tensors = {name: value for name, value in tensors.items() if value is not None}
        safetensors.numpy.save_file(tensors, other)
        return cairn_io.load(other)

    two = changed(lstm__bias_l0=None, lstm__bias_ih_l0=weights["lstm.bias_l0"] - 1,
                  lstm__bias_hh_l0=numpy.ones_like(weights["lstm.bias_l0"]))
    assert numpy.allclose(two.weights()["lstm.bias_l0"], weights["lstm.bias_l0"], atol=1e-6)
    for name, shape in {"embedding__weight": 5, "dense__bias": (), "dense__weight": (5, 7),
                        "lstm__weight_hh_l0": (24, 7), "output__bias": 2, "lstm__bias_l0": 4}.items():
        found = changed(**{name: numpy.zeros(shape, numpy.float32)})
        fails(cairn_io.CairnError, "not Cairn's text model", found.sizes)
    found = changed(output__bias=numpy.zeros(1, numpy.int32))
    fails(cairn_io.CairnError, "output.bias is int32", found.weights)
    found = changed(**{"text.max_length": numpy.array([1, 2]), "vocabulary": numpy.array([10], numpy.uint8)})
    fails(cairn_io.CairnError, "text.max_length", found.tokenizer)


def check_folder(cairn, work, path):
    """What `cairn export` writes unless told otherwise."""
    folder = work / "exported"
    run(cairn, "export", "--checkpoint", path, "--output", folder)
    found, wanted = cairn_io.load(folder), cairn_io.load(path)
    assert all((value == wanted.weights()[name]).all() for name, value in found.weights().items())
    assert found.tokenizer() == wanted.tokenizer() and found.labels() == wanted.labels()
    assert found.step == json.loads((folder / "config.json").read_bytes()).get("step")
    assert found.sizes() == wanted.sizes() and found.path == str(folder)
    (folder / "config.json").write_text('{"text": 1}')
    fails(cairn_io.CairnError, "config.json", cairn_io.load, folder)
    (folder / "vocab.txt").write_text("\n[UNK]\n")
    fails(cairn_io.CairnError, "vocab.txt", cairn_io.load, folder)


# ---- files that nobody's writer makes ----


def safetensors_bytes(document, body, padding=b" "):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text += padding * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def pack(document, pieces, change=lambda frame: frame, claims=None, padding=b" ", **how):
    """A checkpoint as docs/checkpoint-format.md says, around this JSON and these pieces of tensors. `change`:
    what becomes of the last frame; `claims`: content sizes in the seek table; `how`: for the compressor."""
    compressor = zstandard.ZstdCompressor(**{"write_checksum": True, **how})
    contents = [safetensors_bytes(document, b"", padding), *pieces]
    frames = [compressor.compress(content) for content in contents]
    frames[-1] = change(frames[-1])
    sizes = [len(content) for content in contents]
    if claims:
        sizes[-len(claims):] = claims
    entries = [struct.pack("<II", len(frame), size) + frame[-4:] for frame, size in zip(frames, sizes)]
    entries = b"".join(entries) + struct.pack("<III", 24, 0, 0x51D8E999)
    frames = b"".join(frames)
    return (frames + struct.pack("<II", 0x184D2A5D, 16) + xxhash.xxh3_128_digest(frames)
            + struct.pack("<II", 0x184D2A5E, len(entries) + 9) + entries
            + struct.pack("<IBI", len(contents) + 1, 0x80, 0x8F92EAB1))


def check_hostile(cairn, work):
    """Checksums and digests are right, and yet it is no checkpoint; to `cairn inspect` neither."""
    body = bytes(range(8))
    document = {"__metadata__": {"format_version": "1", "digest.a": xxhash.xxh3_128_hexdigest(body)},
                "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}
    metadata, tensor = document["__metadata__"], {"a": document["a"]}
    text = json.dumps(document)
    twice = text[:-1] + ', "a": ' + json.dumps(document["a"]) + "}"
    second_frame = zstandard.compress(b"") + bytes.fromhex("99e9d851")  # the checksum of nothing

    def of_size(count):
        return {"__metadata__": metadata, "a": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}

    def says_8(frame):
        return frame[:5] + bytes([8]) + frame[6:]

    def large_window(frame):  # 1 GiB, and the same bytes in a raw block
        return b"\x28\xb5\x2f\xfd\x84\xa0" + struct.pack("<I", 8) + b"\x41\0\0" + body + frame[-4:]

    zeros = [bytes(4 << 20)] * 30
    files = {
        "no format_version": pack({"__metadata__": {"digest.a": metadata["digest.a"]}, **tensor}, [body]),
        "no digest": pack({"__metadata__": {"format_version": "1"}, **tensor}, [body]),
        "wrong digest": pack({"__metadata__": {**metadata, "digest.a": "0" * 32}, **tensor}, [body]),
        "digest of no tensor": pack({"__metadata__": {**metadata, "digest.b": "0" * 32}, **tensor}, [body]),
        "the same, plain": safetensors_bytes(
            {"__metadata__": {**metadata, "digest.b": "0" * 32}, **tensor}, body),
        "not padded": pack(document, [body], padding=b""),
        "padded with something else": pack(document, [body], padding=b"\n"),
        "a name with a space": pack(
            {"__metadata__": {**metadata, "digest.a b": metadata["digest.a"]}, **tensor,
             "a b": {**document["a"], "data_offsets": [8, 16]}}, [body + body]),
        "twice": pack(twice.encode(), [body]),
        "twice, plain": safetensors_bytes(twice.encode(), body),
        "other pieces": pack(document, [body[:3], body[3:]]),
        "behind a frame": pack(document, [body], change=lambda frame: frame + second_frame),
        "a large window": pack(document, [body], change=large_window),
        "no checksum": pack(document, [body], write_checksum=False),
        "no size": pack(document, [body], write_content_size=False),
        "less than the table says": pack(document, [body[:5]], claims=[8]),
        "less than the JSON says": pack(document, [body[:5]]),
        "more than the JSON says": pack(document, [body + body]),
        "more, and the table lies": pack(document, [body + body], claims=[8]),
        "more, and the frame lies": pack(document, [body + body], claims=[8], change=says_8),
        "less, and the frame lies": pack(document, [body[:5]], claims=[8], change=says_8),
        "frames too small for what they say": pack(of_size(40 << 20), [body] * 10, claims=[4 << 20] * 10),
        "more than 64 GiB": pack(of_size(1 << 60), [body]),
        "more frames": pack(document, [body, *zeros]),
        "larger than the format allows": pack(text.encode() + b" " * (30 << 20), [body]),
        "a hole": pack({**document, "a": {**document["a"], "data_offsets": [8, 16]}}, [body + body]),
        "deep": pack(b'{"a":' * 100000, [body]),
        "a list": safetensors_bytes(b"[" * 100000, b""),
        "behind the tensors, plain": safetensors_bytes(document, body + b"x"),
        "numbers as metadata": safetensors_bytes({"__metadata__": {"step": 5}, **tensor}, body),
    }
    path = work / "hostile"
    assert len(text) % 8 != 0  # so that it must be padded
    path.write_bytes(pack(document, [body]))
    run(cairn, "inspect", path)
    assert cairn_io.load(path).tensors["a"].tobytes() == body
    for name, data in files.items():
        path.write_bytes(data)
        run(cairn, "inspect", path, code=65)
        tracemalloc.start()
        try:
            cairn_io.load(path)
            raise AssertionError(f"accepted: {name}")
        except cairn_io.DamagedError:
            pass
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < 4 << 20, f"{name}: took {taken} bytes"


def check_damage(work, path, content):
    data = path.read_bytes()
    damaged = work / "damaged.safetensors.zst"
    source = random.Random(2)
    places = list(range(12)) + list(range(len(data) - 150, len(data)))
    places += [source.randrange(len(data)) for _ in range(60)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        for candidate in (bytes(flipped), data[:place]):
            damaged.write_bytes(candidate)
            fails(cairn_io.DamagedError, str(damaged), cairn_io.load, damaged)
    print(f"damage: {2 * len(places)} files refused")
    dtype = content.index(b'"F32"') + 1
    for place in source.sample(range(8, len(content)), 40) + [0, dtype, len(content) - 1]:
        flipped = bytearray(content)
        flipped[place] ^= 4
        damaged.write_bytes(flipped)
        try:
            found = cairn_io.load(damaged)
        except cairn_io.DamagedError:
            assert place != dtype
            continue
        except cairn_io.CairnError as error:  # "B32" may be a type of somebody else's
            assert "does not know the type" in str(error), error
            continue
        # Only the description is not covered: it has no digest of its own outside the container.
        assert place < 8 + struct.unpack_from("<Q", content)[0] and found.tensors, place
    future = content.replace(b'"format_version":"1"', b'"format_version":"2"')
    assert future != content
    damaged.write_bytes(future)
    fails(cairn_io.DamagedError, "format version 2", cairn_io.load, damaged)


def check_without_xxhash(path):
    module, cairn_io.xxhash = cairn_io.xxhash, None
    try:
        assert not cairn_io.load(path).verified
        fails(cairn_io.CairnError, "xxhash", cairn_io.load, path, verify=True)
    finally:
        cairn_io.xxhash = module


# ---- model directories ----


def check_directory(work):
    model_dir = work / "model"
    steps = [step for step, _ in cairn_io.list_checkpoints(model_dir)]
    assert steps == [0, 50, 100, 150, 188], steps
    assert cairn_io.latest(model_dir).name == "model.ckpt-188.safetensors.zst"
    assert cairn_io.load_best(model_dir).path == str(cairn_io.best(model_dir))
    copy = work / "copy"
    shutil.copytree(model_dir, copy)
    cairn_io.latest(copy).write_bytes(b"cut")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cairn_io.load_latest(copy).step == 150
    assert len(caught) == 1 and "model.ckpt-188" in str(caught[0].message)
    check_retention(copy)
    (copy / "model.ckpt-1000.safetensors.zst").mkdir()  # a name alone is no checkpoint
    (copy / "model.ckpt-\u0663.safetensors.zst").write_bytes(b"")  # nor are digits of other scripts
    for _, path in cairn_io.list_checkpoints(copy):
        if path.is_file():
            path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fails(cairn_io.DamagedError, "every checkpoint", cairn_io.load_latest, copy)
    (copy / "best.safetensors.zst").unlink()
    fails(cairn_io.CairnError, "best.safetensors.zst", cairn_io.best, copy)
    (work / "empty").mkdir()
    fails(cairn_io.CairnError, "no checkpoint", cairn_io.load_latest, work / "empty")
    fails(cairn_io.CairnError, "not a directory", cairn_io.latest, work / "absent")


def check_retention(model_dir):
    """A run deletes old checkpoints while they are listed and read."""
    load, listing = cairn_io.load, cairn_io.list_checkpoints
    loads = []

    def load_late(path, verify=None):
        loads.append(path)
        if deleted and deleted.pop():
            path.unlink()
        return load(path, verify)

    def listing_late(directory):
        return [] if missed and missed.pop() else listing(directory)

    last = listing(model_dir)[-1][1]
    data = last.read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cairn_io.load, cairn_io.list_checkpoints = load_late, listing_late
        try:
            missed, deleted = [True], [True]
            assert cairn_io.load_latest(model_dir).step == 150  # 188 went before it was read
            missed, deleted = [True], []
            assert cairn_io.latest(model_dir).name == "model.ckpt-150.safetensors.zst"
            last.write_bytes(data)
            missed, deleted = [True], [True, False]
            assert cairn_io.load_latest(model_dir).step == 100  # 188 is damaged, and 150 went
            missed, deleted = [], [True] * 100
            directory = model_dir.with_name("vanishing")
            shutil.copytree(model_dir, directory)
            fails(cairn_io.CairnError, "no checkpoint", cairn_io.load_latest, directory)
        finally:
            cairn_io.load, cairn_io.list_checkpoints = load, listing
    assert len(caught) == 1 and len(loads) == 2 + 3 + 4, (caught, loads)


def check_history(work):
    model_dir = work / "model"
    with open(model_dir / "history.csv", newline="") as file:
        wanted = list(csv.DictReader(file))
    for path in [model_dir, model_dir / "history.jsonl", model_dir / "history.csv"]:
        table = cairn_io.read_history(path)
        assert table["epoch"].tolist() == [0, 1] and table["epoch"].dtype == numpy.int64
        for name in wanted[0]:
            assert table[name].tolist() == [float(row[name]) for row in wanted], (path, name)
    assert cairn_io.read_history(model_dir, "step")["step"].tolist() == [100]
    saves = cairn_io.read_history(model_dir, "save")
    assert 188 in saves["step"].tolist() and (saves["bytes"] > 0).all() and saves["path"][0].endswith(".zst")
    assert cairn_io.read_history(model_dir, "start")["options"][0]["hidden-size"] == "5"
    assert cairn_io.read_history(model_dir, "nothing") == {}
    torn = work / "torn.jsonl"
    torn.write_text('{"event":"epoch","epoch":0,"loss":0.5}\n'
                    '{"event":"epoch","epoch":1,"loss":"nan","x":1}\n{"ev')
    table = cairn_io.read_history(torn)
    assert table["epoch"].tolist() == [0, 1] and table["loss"][0] == 0.5 and numpy.isnan(table["loss"][1])
    assert numpy.isnan(table["x"][0]) and table["x"][1] == 1
    for bad in ["nothing", "[]", '[["event", "epoch"]]', "[" * 100000]:
        torn.write_text("{}\n" + bad + "\n")
        fails(cairn_io.CairnError, "torn.jsonl:2", cairn_io.read_history, torn)
    torn.write_bytes(b'{"event": "\xff"}\n')
    fails(cairn_io.CairnError, "not UTF-8", cairn_io.read_history, torn)
    # Line ends inside of strings, a line torn inside of a character, strings that look like numbers.
    line = {"event": "start", "run": "14e4371202075083", "data": "a\u2028b\u2029c\u0085d", "on": True,
            "no": None, "large": 2**60, "larger": 2**64, "huge": 10**400, "list": [1, 2], "loss": "-inf"}
    torn.write_bytes((json.dumps(line, ensure_ascii=False) + "\n").encode() + b'{"data": "\xc3')
    table = cairn_io.read_history(torn, "start")
    assert list(table) == list(line)[1:] and table["loss"].tolist() == [-numpy.inf]
    assert table["large"].dtype == numpy.int64 and table["large"][0] == 2**60
    assert table["larger"].tolist() == [2.0**64]
    for name in ["run", "data", "on", "no", "huge", "list"]:
        assert table[name] == [line[name]] and type(table[name][0]) is type(line[name]), name
    fails(cairn_io.CairnError, "epochs only", cairn_io.read_history, model_dir / "history.csv", "save")
    fails(cairn_io.CairnError, "cannot read", cairn_io.read_history, work / "absent")


def check_command(work, path):
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        assert cairn_io.main([str(path)]) == 0 and cairn_io.main([str(work / "model")]) == 0
        assert "step 188" in out.getvalue() and "embedding.weight" in out.getvalue()
        assert cairn_io.main([]) == 2 and cairn_io.main(["--nothing"]) == 2
        assert cairn_io.main([str(work / "absent")]) == 66
        assert cairn_io.main([str(work / "damaged.safetensors.zst")]) == 65
    assert "usage" in said.getvalue()

    def command(*arguments, **how):
        words = [sys.executable, str(ROOT / "python" / "cairn_io.py"), *map(str, arguments)]
        return subprocess.run(words, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how})

    done = command("--help")
    assert done.returncode == 0 and done.stdout.startswith(b"usage") and not done.stderr
    # A name that neither the locale nor a terminal should see as it is, and a damaged newer checkpoint.
    odd = work / "m\u00e9\x1b[31m"
    odd.mkdir()
    shutil.copy(path, odd)
    (odd / "model.ckpt-200.safetensors.zst").write_bytes(b"cut")
    done = command(odd, env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0 and b"m\\xe9\\x1b[31m" in done.stdout, done
    assert done.stderr.startswith(b"warning: passed over, damaged: ") and done.stderr.count(b"\n") == 1, done
    with open("/dev/full", "wb") as full:
        done = command(path, stdout=full)
    assert done.returncode == 74 and done.stderr == b"error: cannot print: No space left on device\n", done
    reader, writer = os.pipe()
    os.close(reader)
    done = command(path, stdout=writer)
    os.close(writer)
    assert done.returncode == 141 and not done.stderr, done


def main():
    cairn = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        golden = check_golden()
        check_tokenizer(cairn, work)
        path, content = check_load(cairn, work)
        check_types(work)
        check_weights(work, path)
        check_folder(cairn, work, path)
        check_hostile(cairn, work)
        check_damage(work, path, content)
        check_without_xxhash(path)
        check_directory(work)
        check_history(work)
        check_command(work, path)
    print("cairn_io.py: ok")
    if not golden:
        print("SKIPPED: no golden cases (CAIRN_GOLDEN_DIR); all else was checked")
        sys.exit(77)


main()
