#!/usr/bin/env python3
"""Time and memory of whole `cairn train` processes: read IMDB, train, evaluate on the 25,000 test reviews.

    bench/peers/whole_process.py ACLIMDB [--repeats N] [--threads N] [--cairn PATH] [--json FILE]

Each run is one epoch at the defaults from the start of the process to its end, final checkpoint included.
The measure of its overhead is the epoch itself, `train_seconds` of the same process: a run should take at
most 1.4 times that and 1.5 s, and 400 MB of memory (the kernel's ru_maxrss). Exit code 1 if a median
does not. The first run is not counted: it fills the page cache.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import peer_plan

FACTOR, EXTRA_SECONDS, MEMORY_MB = 1.4, 1.5, 400


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("aclimdb", help="what --data of cairn train takes, with a test part")
    parser.add_argument("--cairn", default="build/cairn", help="the program (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs that count (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of cairn train; 0 = its default")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here, too")
    return parser.parse_args()


def run_once(arguments):
    """Seconds, memory and the share of each part, of one process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.cairn, "train", "--data", arguments.aclimdb, "--model-dir", folder]
        command += ["--epochs", "1", "--threads", str(arguments.threads), "--progress", "none"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        messages = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{messages}")
        lines = pathlib.Path(folder, "history.jsonl").read_text(encoding="utf-8").splitlines()
    epoch = next(event for event in map(json.loads, lines) if event["event"] == "epoch")
    return {
        "seconds": seconds,
        "epoch_seconds": epoch["train_seconds"],
        "limit_seconds": FACTOR * epoch["train_seconds"] + EXTRA_SECONDS,
        "memory_mb": usage.ru_maxrss * 1024 / 1e6,
    }


def main():
    arguments = parse_arguments()
    run_once(arguments)
    runs = [run_once(arguments) for _ in range(arguments.repeats)]
    for key in ("seconds", "epoch_seconds", "limit_seconds", "memory_mb"):
        print(f"{key:14} {peer_plan.show_spread([run[key] for run in runs], 2)} over {len(runs)} runs")
    headroom = peer_plan.spread([run["limit_seconds"] - run["seconds"] for run in runs])
    memory = peer_plan.spread([run["memory_mb"] for run in runs])
    good = headroom["median"] >= 0 and memory["median"] <= MEMORY_MB
    print(
        f"seconds left to {FACTOR} x epoch + {EXTRA_SECONDS} s: {headroom['median']:.2f} (median);"
        f" {'within' if good else 'NOT within'} the limits of time and memory ({MEMORY_MB} MB)"
    )
    if arguments.json:
        report = {"program": "whole_process.py", "runs": runs, "within_limits": good}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
