"""bench/peers/checkpoint.sh beside the real PyTorch, safetensors and Keras, on a state of half a megabyte:
every row is there, and says something that can be. tests/checkpoint_peers_test.py has the rest.

usage: checkpoint_peers.py CAIRN
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "bench" / "peers" / "checkpoint.sh"
SAVERS = [
    "cairn sync+zstd", "cairn async", "cairn async+zstd", "torch.save + fsync + rename",
    "torch DCP async_save, thread", "torch DCP async_save, process", "safetensors save_file",
    "safetensors + fsync + rename", "Keras ModelCheckpoint", "Keras BackupAndRestore",
]
OVERLAPPED = "torch DCP async_save, overlapped"  # not before PyTorch 2.9
RESTORES = ["restore: cairn, verified", "restore: torch.load", "restore: torch.load, copied",
            "restore: torch.load, later ones"]


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


def check_dead_worker(cairn, folder):
    done = run(cairn, folder, "--saves", "1", "--only", "torch", TORCH_PYTHON="false")
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.endswith("checkpoint.sh: the torch worker ended with exit code 1\n"), done.stderr
    assert not list(folder.iterdir()), list(folder.iterdir())


def main():
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        check_comparison(sys.argv[1], folder)
        check_dead_worker(sys.argv[1], folder)


main()
