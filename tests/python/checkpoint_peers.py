"""bench/peers/checkpoint.sh beside the real PyTorch, safetensors and Keras, on a state of half a megabyte:
every row is there, and says something that can be, and what each peer saves are Cairn's tensors.
tests/checkpoint_peers_test.py has the rest.

usage: checkpoint_peers.py CAIRN
"""

import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import h5py
import numpy
import safetensors.numpy

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "bench" / "peers" / "checkpoint.sh"
SAVERS = [
    "cairn sync+zstd", "cairn async", "cairn async+zstd", "torch.save + fsync + rename",
    "torch DCP async_save, thread", "torch DCP async_save, process", "safetensors save_file",
    "safetensors + fsync + rename", "Keras ModelCheckpoint", "Keras BackupAndRestore",
]
OVERLAPPED = "torch DCP async_save, overlapped"  # not before PyTorch 2.9
RESTORES = ["restore: cairn, verified", "restore: torch.load", "restore: torch.load, copied",
            "restore: torch.load, later ones"]
PARTS = ["", "adam.m.", "adam.v."]
FLOATS = 500_000 // 12  # of each


def run(cairn, folder, *words, **environment):
    pythons = {f"{kind}_PYTHON": sys.executable for kind in ("TORCH", "SAFETENSORS", "KERAS")}
    # Keras loads TensorFlow where it is installed; beside PyTorch it may not agree with it.
    environment = {**os.environ, **pythons, "KERAS_BACKEND": "tensorflow", **environment}
    return subprocess.run([SCRIPT, "--cairn", cairn, "--dir", folder, "--megabytes", "0.5", "--rounds", "1",
        *words], capture_output=True, text=True, env=environment)


def check_rows(results):
    assert set(results) - {OVERLAPPED} == set(SAVERS + RESTORES), sorted(results)
    for name, rounds in results.items():
        row, = rounds
        assert row["total"] > 0, (name, row)
        if name in RESTORES:
            continue
        assert 0 < row["p50"] <= row["max"] and row["p99"] is None, (name, row)
        if not name.startswith("cairn"):  # "total" is of the same saves as "blocked"
            assert row["p50"] <= row["total"], (name, row)
    assert results["restore: torch.load, copied"][0]["total"] > results["restore: torch.load"][0]["total"]


def check_comparison(cairn, folder):
    report = folder / "report.json"
    done = run(cairn, folder, "--saves", "2", "--json", report)
    assert done.returncode == 0, done.stderr
    content = json.loads(report.read_text(encoding="utf-8"))
    report.unlink()
    check_rows(content["results"])
    assert set(content["versions"]) == {"torch", "safetensors", "keras"}, content["versions"]
    lines = done.stdout.splitlines()
    for name in content["results"]:
        line, = (line for line in lines if line[:34].rstrip() == name)
        unsynced = name in ("safetensors save_file", "Keras ModelCheckpoint", "Keras BackupAndRestore")
        assert line.endswith("not synced to the disk") == unsynced, line
        assert f"round 1 of 1: {name}\n" in done.stderr or name.startswith(("cairn", "restore")), done.stderr
    assert not list(folder.iterdir()), list(folder.iterdir())


def peer_file(kind, saver, state, folder, name):
    """The file that this peer makes of the state."""
    order = {"saver": saver, "directory": str(folder), "saves": 1, "steps_seconds": 0}
    done = subprocess.run([sys.executable, SCRIPT.with_name("checkpoint_savers.py"), kind, "1", state],
        input=json.dumps(order) + "\n", capture_output=True, text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"})
    assert done.returncode == 0, done.stderr
    hello, answer = map(json.loads, done.stdout.splitlines())
    assert hello["bytes"] == 12 * FLOATS and len(answer["times"]) == 1, done.stdout
    return folder / name


def torch_tensors(path):
    """In a process of its own: PyTorch and TensorFlow in one may not agree."""
    numbers = subprocess.run([sys.executable, "-c", """
import sys, safetensors.torch, torch
sys.stdout.buffer.write(safetensors.torch.save(torch.load(sys.argv[1])))
""", path], capture_output=True, check=True).stdout
    return safetensors.numpy.load(numbers)


def check_same_tensors(cairn, folder):
    state = folder / "state"
    subprocess.run([cairn, "bench", "checkpoint", "--sizes", "0.5", "--storage", "dir", "--dir", folder,
        "--repeats", "1", "--kills", "0", "--modes", "off", "--intervals", "1", "--step-ms", "1", "--saves",
        "1", "--keep-state", state], check=True, capture_output=True)
    content = subprocess.run(["zstd", "-dcq", state], check=True, capture_output=True).stdout
    expected = safetensors.numpy.load(content)
    names = [[f"{part}layer{i}.weight" for i in range(4)] for part in PARTS]
    assert sorted(expected) == sorted(sum(names, [])), list(expected)
    parts = [numpy.concatenate([expected[name] for name in part]) for part in names]
    assert all(part.size == FLOATS and part.std() > 0 for part in parts), parts
    for tensors in (torch_tensors(peer_file("torch", "torch_save", state, folder, "torch-0.pt")),
        safetensors.numpy.load_file(
            peer_file("safetensors", "safetensors_plain", state, folder, "plain-0.safetensors"))):
        assert set(tensors) == set(expected), list(tensors)
        for name, value in tensors.items():
            assert value.dtype == numpy.float32 and numpy.array_equal(value, expected[name]), name
    with zipfile.ZipFile(peer_file("keras", "keras_checkpoint", state, folder, "keras-0.keras")) as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    layers = [value for _, layer in sorted(weights["layers"].items()) for value in layer["vars"].values()]
    moments = [value for value in weights["optimizer/vars"].values() if value.ndim == 2]
    for value, part in zip(layers + moments, parts, strict=True):  # whole rows only
        assert part.size - 256 < value.size, value
        assert numpy.array_equal(numpy.ravel(value), part[: value.size]), value
    for path in folder.iterdir():
        path.unlink()


def check_dead_worker(cairn, folder):
    done = run(cairn, folder, "--saves", "1", "--only", "torch", TORCH_PYTHON="false")
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.endswith("checkpoint.sh: the torch worker ended with exit code 1\n"), done.stderr
    assert not list(folder.iterdir()), list(folder.iterdir())


def main():
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        check_same_tensors(sys.argv[1], folder)
        check_comparison(sys.argv[1], folder)
        check_dead_worker(sys.argv[1], folder)


main()
