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
import warnings

import numpy
import safetensors.numpy

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
    return path, content


def check_bf16(work):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    path = work / "bf16.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x80\x3f\x00\xc0\x20\x42")
    assert cairn_io.load(path).tensors["x"].tolist() == [1.0, -2.0, 40.0]


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
    for place in source.sample(range(8, len(content)), 40) + [0, len(content) - 1]:
        flipped = bytearray(content)
        flipped[place] ^= 4
        damaged.write_bytes(flipped)
        try:
            found = cairn_io.load(damaged)
        except cairn_io.DamagedError:
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
    (copy / "model.ckpt-1000.safetensors.zst").mkdir()  # a name alone is no checkpoint
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
    torn.write_text("[]\nnothing\n")
    fails(cairn_io.CairnError, "torn.jsonl:2", cairn_io.read_history, torn)
    fails(cairn_io.CairnError, "epochs only", cairn_io.read_history, model_dir / "history.csv", "save")
    fails(cairn_io.CairnError, "cannot read", cairn_io.read_history, work / "absent")


def check_command(work, path):
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        assert cairn_io.main([str(path)]) == 0 and cairn_io.main([str(work / "model")]) == 0
        assert "step 188" in out.getvalue() and "embedding.weight" in out.getvalue()
        assert cairn_io.main([]) == 2 and cairn_io.main(["--help"]) == 2
        assert cairn_io.main([str(work / "absent")]) == 66
        assert cairn_io.main([str(work / "damaged.safetensors.zst")]) == 65
    assert "usage" in said.getvalue()


def main():
    cairn = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        golden = check_golden()
        check_tokenizer(cairn, work)
        path, content = check_load(cairn, work)
        check_bf16(work)
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
