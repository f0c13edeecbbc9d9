#!/usr/bin/env python3
"""Time and memory of whole processes: read IMDB, train, evaluate on the 25,000 test reviews; predict them.

    bench/peers/whole_process.py ACLIMDB [--repeats N] [--threads N] [--cairn PATH] [--json FILE]

Each run of `cairn train` is one epoch at the defaults from the start of the process to its end, final
checkpoint included.
The measure of its overhead is the epoch itself, `train_seconds` of the same process: a run should take at
most 1.4 times that and 1.5 s, and 400 MB of memory (the kernel's ru_maxrss). Exit code 1 if a median
does not. The first run is not counted: it fills the page cache.

After each, `cairn predict` takes the test reviews, one a line, from standard input with the checkpoint
that was just trained, and again with the lines ten times over: its memory should not grow with them.
This has no part in the exit code, and needs ACLIMDB to be a folder.
"""

import argparse
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import peer_plan

FACTOR, EXTRA_SECONDS, MEMORY_MB = 1.4, 1.5, 400
TIMES_OVER = (1, 10)

# Runs argv[2:] and writes its figures to the file argv[1]. The kernel counts the memory of the process that
# starts a program as the program's, so that must be a small one: a bare Python has about 10 MB.
WATCHER = """
import os, sys, time
begin = time.perf_counter()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - begin
with open(sys.argv[1], "w") as file:
    print(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss * 1024 / 1e6, file=file)
"""


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("aclimdb", help="what --data of cairn train takes, with a test part")
    parser.add_argument("--cairn", default="build/cairn", help="the program (default %(default)s)")
    parser.add_argument(
        "--repeats", type=peer_plan.at_least_one, default=5, help="runs that count (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=0, help="of cairn train; 0 = its default")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here, too")
    return parser.parse_args(argv)


def watch(command, text=subprocess.DEVNULL, output=subprocess.DEVNULL):
    """Seconds and MB of a process that reads the file `text`; ends the script if it fails."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as messages:
        figures = pathlib.Path(folder, "figures")
        watched = [sys.executable, "-I", "-S", "-c", WATCHER, str(figures), *command]
        subprocess.run(watched, stdin=text, stdout=output, stderr=messages, check=False)
        code, seconds, memory = figures.read_text(encoding="ascii").split() if figures.exists() else (1, 0, 0)
        if int(code) != 0:
            messages.seek(0)
            shown = messages.read().decode(errors="replace")
            sys.exit(f"{' '.join(command)} ended with {code}:\n{shown}")
    return {"seconds": float(seconds), "memory_mb": float(memory)}


def write_lines(aclimdb, path):
    """The test reviews, one a line; how many there are, 0 where the data is not a folder."""
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for part in ("neg", "pos"):
            for review in sorted(pathlib.Path(aclimdb, "test", part).glob("*.txt")):
                print(" ".join(review.read_text(encoding="utf-8").splitlines()), file=file)
                count += 1
    return count


def predict(arguments, model, lines, count, times):
    """One `cairn predict` that gets the lines so many times over."""
    command = [arguments.cairn, "predict", "--model-dir", model, "--threads", str(arguments.threads)]
    # A file, as in `cairn predict < reviews.txt`: out of a pipe come fewer lines at a time.
    with tempfile.TemporaryFile() as text, tempfile.TemporaryFile() as output:
        for _ in range(times):
            with open(lines, "rb") as file:
                shutil.copyfileobj(file, text)
        text.seek(0)
        result = watch(command, text, output)
        output.seek(0)
        lines_out = sum(1 for _ in output)
    if lines_out != times * count:
        sys.exit(f"{' '.join(command)}: {times * count} lines in, but {lines_out} out")
    rate = lines_out / result["seconds"]
    return {"lines_in": times * count, "lines_out": lines_out, "lines_per_second": rate, **result}


def run_once(arguments, lines=None, count=0):
    """Seconds, memory and the share of each part, of one process; predictions, where there are lines."""
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.cairn, "train", "--data", arguments.aclimdb, "--model-dir", folder]
        command += ["--epochs", "1", "--threads", str(arguments.threads), "--progress", "none"]
        result = watch(command)
        history = pathlib.Path(folder, "history.jsonl").read_text(encoding="utf-8").splitlines()
        predictions = [predict(arguments, folder, lines, count, times) for times in TIMES_OVER if count]
    epoch = next(event for event in map(json.loads, history) if event["event"] == "epoch")
    return {
        "seconds": result["seconds"],
        "epoch_seconds": epoch["train_seconds"],
        "limit_seconds": FACTOR * epoch["train_seconds"] + EXTRA_SECONDS,
        "memory_mb": result["memory_mb"],
        "predict": predictions,
    }


def show_predictions(runs):
    for group in zip(*(run["predict"] for run in runs)):
        seconds, rate, memory = (
            peer_plan.show_spread([one[key] for one in group], digits)
            for key, digits in (("seconds", 2), ("lines_per_second", 0), ("memory_mb", 2))
        )
        print(f"predict, {group[0]['lines_in']} lines: {seconds} s, {rate} lines/s, {memory} MB")
    if not runs[0]["predict"]:
        print("predict: not measured; ACLIMDB is not a folder with a test part")


def main(argv=None):
    arguments = parse_arguments(argv)
    run_once(arguments)
    with tempfile.TemporaryDirectory() as folder:
        lines = pathlib.Path(folder, "reviews.txt")
        count = write_lines(arguments.aclimdb, lines)
        runs = [run_once(arguments, lines, count) for _ in range(arguments.repeats)]
    for key in ("seconds", "epoch_seconds", "limit_seconds", "memory_mb"):
        print(f"{key:14} {peer_plan.show_spread([run[key] for run in runs], 2)} over {len(runs)} runs")
    headroom = peer_plan.spread([run["limit_seconds"] - run["seconds"] for run in runs])
    memory = peer_plan.spread([run["memory_mb"] for run in runs])
    good = headroom["median"] >= 0 and memory["median"] <= MEMORY_MB
    print(
        f"seconds left to {FACTOR} x epoch + {EXTRA_SECONDS} s: {headroom['median']:.2f} (median);"
        f" {'within' if good else 'NOT within'} the limits of time and memory ({MEMORY_MB} MB)"
    )
    show_predictions(runs)
    if arguments.json:
        said = subprocess.run([arguments.cairn, "--version"], capture_output=True, text=True, check=True)
        report = {"program": "whole_process.py", "version": ", ".join(said.stdout.splitlines()[:2]),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "runs": runs, "within_limits": good}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
