"""How long savers block their caller, and how soon what they saved is durable. See checkpoint.sh.

The peers run under their own Pythons, each in a worker (checkpoint_savers.py) that answers orders.
"""

import argparse
import csv
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import peer_options

SAVERS = {
    "torch.save + fsync + rename": ("torch", "torch_save"),
    "torch DCP async_save, thread": ("torch", "dcp_thread"),
    "torch DCP async_save, overlapped": ("torch", "dcp_staged"),
    "torch DCP async_save, process": ("torch", "dcp_process"),
    "safetensors save_file": ("safetensors", "safetensors_plain"),
    "safetensors + fsync + rename": ("safetensors", "safetensors_fsync"),
    "Keras ModelCheckpoint": ("keras", "keras_checkpoint"),
    "Keras BackupAndRestore": ("keras", "keras_backup"),
}
PEERS = ("torch", "safetensors", "keras")
NOT_DURABLE = ("safetensors_plain", "keras_checkpoint", "keras_backup")  # nothing is synced to the disk
CAIRN_MODES = ("sync+zstd", "async", "async+zstd")
WORKER = pathlib.Path(__file__).with_name("checkpoint_savers.py")
STARTED = time.monotonic()
ATTEMPTS = 5  # at a round of Cairn's in which each save ends before the next begins


def progress(text):
    seconds = time.monotonic() - STARTED
    print(f"checkpoint.sh: {seconds:3.0f} s, {text}", file=sys.stderr, flush=True)


# ---- workers ---------------------------------------------------------------------------------------------


class Worker:
    def __init__(self, kind, python, step_ms, checkpoint):
        command = [python, str(WORKER), kind, str(step_ms), str(checkpoint)]
        environment = dict(os.environ, KERAS_BACKEND=os.environ.get("KERAS_BACKEND", "tensorflow"),
            TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
        self.kind, self.log = kind, tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, env=environment)
        self.bytes = self.version = self.savers = None

    def meet(self):
        """Waits until it has imported its packages and read its tensors."""
        hello = self.read()
        self.bytes, self.version, self.savers = hello["bytes"], hello["version"], hello["savers"]

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            sys.exit(f"{self.log.read()[-4000:]}\ncheckpoint.sh: the {self.kind} worker ended with exit code "
                f"{code}")
        return json.loads(line)

    def ask(self, saver, directory, saves, steps_ms=0.0):
        """What the saver returned for each of `saves` saves, behind each of which come steps of so long."""
        try:
            order = {"saver": saver, "directory": directory, "saves": saves, "steps_seconds": steps_ms / 1e3}
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: read() says how
        return self.read()["times"]

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


# ---- Cairn -----------------------------------------------------------------------------------------------


class Cairn:
    """Rounds of `cairn bench checkpoint`, with as many steps between two saves as a save takes."""

    def __init__(self, arguments, directory):
        self.arguments, self.directory = arguments, directory
        expected_ms = 50 + 3 * arguments.megabytes
        self.interval = math.ceil(expected_ms / arguments.step_ms)
        self.version = self.revision = None
        self.made_again = 0  # rounds of which nothing is in the figures

    def run(self, *options):
        """{mode: CSV row, its "stalls" in ms added}, {part of a warm restore: ms}"""
        figures = pathlib.Path(self.directory, "figures")
        command = [self.arguments.cairn, "bench", "checkpoint", "--sizes", f"{self.arguments.megabytes:g}",
            "--storage", "dir", "--dir", self.directory, "--repeats", "1", "--kills", "0",
            "--csv", f"{figures}.csv", "--stalls", f"{figures}.stalls", "--json", f"{figures}.json", *options]
        try:
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                errors="replace")
        except OSError as error:
            sys.exit(f"checkpoint.sh: {self.arguments.cairn} cannot be started: {error.strerror}")
        if done.returncode != 0:
            sys.exit(f"{done.stderr}checkpoint.sh: cairn ended with exit code {done.returncode}")
        with open(f"{figures}.csv", encoding="utf-8") as file:
            lines = [line for line in csv.DictReader(file) if line["kind"] == "repeat"]
        rows = {line["mode"]: {**line, "stalls": []} for line in lines}
        with open(f"{figures}.stalls", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                rows[line["mode"]]["stalls"].append(float(line["stall_us"]) / 1e3)
        with open(f"{figures}.json", encoding="utf-8") as file:
            report = json.load(file)
        self.version, self.revision = report["version"], report["revision"]
        restore = {figure["name"]: figure["median"] for figure in report["figures"]
            if figure["section"].endswith("restore, warm")}
        if not restore:
            sys.exit(f"checkpoint.sh: cairn measured nothing in {self.directory}: it has too little room, or "
                "the machine too little memory")
        return rows, restore

    def restore(self, *options):
        _, restore = self.run("--modes", "off", "--intervals", "1", "--step-ms", "1", "--saves", "1",
            *options)
        return restore

    def make_state(self):
        """The path of a checkpoint of the tensors that its rows are of."""
        path = pathlib.Path(self.directory, "state.safetensors.zst")
        self.restore("--keep-state", str(path))
        return path

    def overlapping(self, row):
        """A save of this mode may have begun before the one before had ended, its clean-up included."""
        room_ms = self.interval * self.arguments.step_ms
        return (float(row["durable_max_ms"]) + float(row["retain_ms"]) > room_ms
            or float(row["saves_done"]) < float(row["saves_asked"]) or float(row["saves_delayed"]) > 0)

    def round(self):
        for _ in range(ATTEMPTS):
            rows, restore = self.run("--modes", ",".join(CAIRN_MODES), "--saves", str(self.arguments.saves),
                "--intervals", str(self.interval), "--step-ms", f"{self.arguments.step_ms:g}")
            late = [mode for mode in CAIRN_MODES if "async" in mode and self.overlapping(rows[mode])]
            if not late:
                return rows, restore
            self.made_again += 1
            self.interval += -(-self.interval // 2)
            progress(f"a save ({', '.join(late)}) had not ended when the next one was due: again with one "
                f"every {self.interval} steps")
        sys.exit("checkpoint.sh: a save had never ended when the next one was due: pass a longer --step-ms")


# ---- the rounds ------------------------------------------------------------------------------------------


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1]


def percentile_99(values):
    return percentile(values, 99) if len(values) >= 100 else None  # of fewer it would be the longest


def describe(blocked, total):
    """Of one round, in ms: the times of all saves in their order, and what they show."""
    return {"p50": percentile(blocked, 50), "p99": percentile_99(blocked), "max": max(blocked),
        "total": total, "blocked": blocked}


def together(rounds):
    """What the saves of all rounds show as one."""
    blocked = [one for row in rounds for one in row["blocked"]]
    return {"p99": percentile_99(blocked), "max": max(blocked)}


def cairn_saves(cairn, results):
    rows, restore = cairn.round()
    for mode in CAIRN_MODES:
        row = describe(rows[mode]["stalls"], float(rows[mode]["durable_p50_ms"]))
        results.setdefault(f"cairn {mode}", []).append(row)
    results.setdefault("restore: cairn, verified", []).append({"total": restore["whole"]})


def cairn_restore(cairn, results):
    results.setdefault("restore: cairn, verified", []).append({"total": cairn.restore()["whole"]})


def torch_load(worker, directory, results):
    (times, _), = worker.ask("torch_load", directory, 1)
    seconds = {"restore: torch.load": times["first"],
        "restore: torch.load, copied": times["first"] + times["copied"],
        "restore: torch.load, later ones": statistics.median(times["later"])}
    for name, value in seconds.items():
        results.setdefault(name, []).append({"total": 1e3 * value})


def turn(names, index):
    """The order of a round: each other one is the reverse of the one before it, and who begins changes, so
    that nobody always comes after the same one."""
    first = index // 2 % len(names)
    order = names[first:] + names[:first]
    return order if index % 2 == 0 else order[::-1]


def measure(arguments, workers, cairn, directory):
    """{name: [what describe() returns, per round]}, in interleaved rounds."""
    results, tasks = {}, {}

    def add_saver(name, worker, method):
        def saves():
            times = worker.ask(method, directory, arguments.saves, cairn.interval * arguments.step_ms)
            total = percentile([1e3 * t[1] for t in times], 50)
            results.setdefault(name, []).append(describe([1e3 * t[0] for t in times], total))

        tasks[name] = saves
        progress(f"first saves: {name}")
        worker.ask(method, directory, 2)  # the first saves of a process allocate

    if arguments.saves > 0:
        tasks["cairn, saves and restore"] = lambda: cairn_saves(cairn, results)
        for name, (kind, method) in SAVERS.items():
            if kind in workers and method in workers[kind].savers:
                add_saver(name, workers[kind], method)
    else:
        tasks["cairn, restore"] = lambda: cairn_restore(cairn, results)
    if "torch" in workers:
        tasks["torch.load"] = lambda: torch_load(workers["torch"], directory, results)
    for index in range(arguments.rounds):
        for name in turn(list(tasks), index):
            progress(f"round {index + 1} of {arguments.rounds}: {name}")
            os.sync()  # what one has not synced is not another's to write
            tasks[name]()
    return results


# ---- what is printed -------------------------------------------------------------------------------------


def print_header(arguments, cairn, workers):
    saves = f" of {arguments.saves} saves" if arguments.saves > 0 else ""
    print(f"{arguments.megabytes:g} MB, {arguments.rounds} rounds{saves}; "
        + "; ".join(worker.version for worker in workers.values()))
    if arguments.saves > 0:
        again = f"; rounds of Cairn's made again: {cairn.made_again}" if cairn.made_again > 0 else ""
        print(f"a save every {cairn.interval} steps of {arguments.step_ms:g} ms{again}")


def shown(value):
    return f"{'-':>10}" if value is None else f"{value:10.3f}"


def medians(rounds):
    """Of each figure over the rounds; None where one of them lacks it."""
    figures = {key: [row[key] for row in rounds] for key in ("p50", "p99", "total") if key in rounds[0]}
    return {key: None if None in values else statistics.median(values) for key, values in figures.items()}


def print_table(results):
    order = sorted(results, key=lambda name: name.startswith("restore"))
    print(f"{'ms; all: saves of all rounds':34}{'blocked':>10}{'p99':>10}{'p99':>10}{'max':>10}{'total':>10}")
    print(f"{'med: median of the rounds':34}{'p50, med':>10}{'all':>10}{'med':>10}{'all':>10}{'med':>10}"
        "  (least to most)")
    for name in order:
        rounds = results[name]
        median, blocked = medians(rounds), f"{'':40}"
        if "p50" in median:
            whole = together(rounds)
            blocked = "".join(map(shown, (median["p50"], whole["p99"], median["p99"], whole["max"])))
        totals = [row["total"] for row in rounds]
        synced = "" if SAVERS.get(name, ("", ""))[1] not in NOT_DURABLE else "   not synced to the disk"
        print(f"{name:34}{blocked}{median['total']:10.2f}  ({min(totals):.2f} to {max(totals):.2f}){synced}")


def write_json(path, arguments, cairn, workers, results):
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {"version": cairn.version, "revision": cairn.revision, "date": date,
        "megabytes": arguments.megabytes, "rounds": arguments.rounds, "saves": arguments.saves,
        "step_ms": arguments.step_ms, "interval": cairn.interval, "made again": cairn.made_again,
        "versions": {kind: worker.version for kind, worker in workers.items()}, "results": results,
        "all rounds": {name: together(rounds) for name, rounds in results.items() if "p50" in rounds[0]}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ---- options ---------------------------------------------------------------------------------------------


def number_from(least, convert):
    def parse(word):
        try:
            value = convert(word)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{word}: must be a number from {least}")
        return value

    return parse


def folder(word):
    if not os.path.isdir(word):
        raise argparse.ArgumentTypeError(f"{word}: no such directory")
    return word


def parse_arguments(words):
    parser = argparse.ArgumentParser(prog="checkpoint.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cairn", default="build/cairn", help="the program (default %(default)s)")
    add("--megabytes", type=number_from(0.01, float), default=1.7,
        help="of weights and moments (default %(default)s)")
    add("--checkpoint", type=pathlib.Path, help="the peers save the F32 tensors of this checkpoint instead")
    add("--dir", type=folder, default=None, help="save below this directory (default: a temporary one)")
    add("--rounds", type=number_from(1, int), default=3, help="(default %(default)s)")
    add("--saves", type=number_from(0, int), default=40,
        help="per saver and round (default %(default)s); 0: only restores are measured")
    add("--step-ms", type=number_from(1, float), default=10.0,
        help="length of a training step (default %(default)s)")
    add("--json", type=peer_options.new_file, help="write the figures of all rounds to this file")
    for kind in PEERS:
        add(f"--{kind}-python", help=f"a Python that has {kind}")
    arguments = parser.parse_args(words)
    arguments.pythons = {kind: python for kind in PEERS if (python := getattr(arguments, f"{kind}_python"))}
    if not arguments.pythons:
        parser.error("nobody to compare with: call bench/peers/checkpoint.sh, which finds the peers, or name "
            + ", ".join(f"--{kind}-python" for kind in PEERS))
    return arguments


def run(arguments, workers, directory):
    for kind, worker in workers.items():
        progress(f"starting the {kind} worker")
        worker.meet()
    if arguments.checkpoint is not None:
        arguments.megabytes = next(iter(workers.values())).bytes / 1e6
    cairn = Cairn(arguments, directory)
    results = measure(arguments, workers, cairn, directory)
    print_header(arguments, cairn, workers)
    print_table(results)
    if arguments.json:
        write_json(arguments.json, arguments, cairn, workers, results)


def main(words=None):
    arguments = parse_arguments(words)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        workers = {}
        try:
            checkpoint = arguments.checkpoint
            if checkpoint is None:
                progress(f"making the tensors that all save, {arguments.megabytes:g} MB")
                checkpoint = Cairn(arguments, directory).make_state()
            for kind, python in arguments.pythons.items():  # they import while the first ones are waited for
                workers[kind] = Worker(kind, python, arguments.step_ms, checkpoint)
            run(arguments, workers, directory)
        finally:
            for worker in workers.values():
                worker.close()


if __name__ == "__main__":
    main()
