"""Seconds per IMDB training epoch on the CPU: Cairn, Keras, PyTorch and oneDNN in turn. See cpu_epoch.sh."""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import peer_options
import peer_plan
from peer_worker import TICKS, Examples, Worker

HERE = pathlib.Path(__file__).resolve().parent
BASELINE = "cairn"
WINDOW = 4096


@dataclasses.dataclass(frozen=True)
class System:
    kind: str  # cairn, keras, torch or onednn
    what: str
    order: str  # random, or windows: batches of similar length
    options: tuple = ()


SYSTEMS = {
    "cairn": System("cairn", "masked, best instruction set", "windows"),
    "cairn-bf16": System("cairn", "masked, bf16", "windows", ("--precision", "bf16")),
    "cairn-avx2": System("cairn", "masked, AVX2", "windows", ("--isa", "avx2")),
    "cairn-portable": System("cairn", "masked, portable", "windows", ("--isa", "portable")),
    "cairn-reference": System("cairn", "masked, reference", "windows", ("--isa", "reference")),
    "cairn-random": System("cairn", "masked, random order", "random", ("--bucket-window", "0")),
    "keras-mask": System("keras", "masked", "random"),
    "keras-nomask": System("keras", "padding not masked", "random", ("--no-mask",)),
    "torch-packed": System("torch", "masked (PackedSequence)", "random", ("--container", "packed")),
    "torch-padded": System("torch", "padding not masked", "random", ("--container", "padded")),
    "torch-windows": System("torch", "padding not masked", "windows", ("--container", "padded")),
    "onednn-f32": System("onednn", "LSTM only, padding not masked", "windows", ("f32",)),
    "onednn-bf16": System("onednn", "LSTM only, not masked, bf16", "windows", ("bf16",)),
}
ON_REQUEST = ("cairn-random", "torch-padded")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(prog="cpu_epoch.sh", description=__doc__)
    add = parser.add_argument
    add("aclimdb", type=pathlib.Path, help="the unpacked aclImdb folder")
    add("--cairn", default="build/cairn", help="the program (default %(default)s)")
    add("--only", metavar="A,B,...", help="these systems only: " + ", ".join(SYSTEMS))
    add("--repeats", type=peer_plan.at_least_one, default=5, help="rounds (default %(default)s)")
    add("--peer-steps", type=int, default=40, metavar="N", help="the peers train N batches that stand for"
        " the epoch, and their seconds are scaled to it; 0 = the whole epoch (default %(default)s)")
    add("--whole", default="", metavar="A,B,...", help="peers that train whole epochs all the same")
    add("--steps", type=int, default=0, metavar="N", help="a quick look: N batches of every system, Cairn's"
        " too, scaled by their number; 0 = off (default)")
    cores = len(os.sched_getaffinity(0))
    add("--threads", type=peer_plan.at_least_one, default=cores, help="of each (default %(default)s)")
    add("--batch-size", type=peer_plan.at_least_one, default=64)
    add("--vocabulary-size", type=int, default=1000)
    add("--embedding-size", type=int, default=64)
    add("--hidden-size", type=int, default=64)
    add("--json", type=peer_options.new_file, metavar="FILE", help="write everything measured here, too")
    add("--keras-python", default="", help="set by cpu_epoch.sh")
    add("--torch-python", default="", help="set by cpu_epoch.sh")
    add("--onednn", default="", help="set by cpu_epoch.sh")
    arguments = parser.parse_args(argv)
    for name in [n for option in (arguments.only, arguments.whole) if option for n in option.split(",")]:
        if name not in SYSTEMS:
            parser.error(f"{name}: no such system; there are {', '.join(SYSTEMS)}")
    return arguments


def read_reviews(folder):
    """The texts and labels of folder/{neg,pos}/*.txt."""
    texts, labels = [], []
    for label, name in enumerate(("neg", "pos")):
        for path in sorted((folder / name).glob("*.txt")):
            texts.append(path.read_text(encoding="utf-8"))
            labels.append(label)
    if not texts:
        sys.exit(f"{folder}: no neg/*.txt and pos/*.txt")
    return texts, labels


def run_cairn(arguments, *words, text=None):
    """Standard output of the program; ends the script where it fails."""
    command = [arguments.cairn, *words]
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def write_examples(arguments, folder):
    """Cairn's vocabulary and token ids as the files that every worker reads."""
    texts, labels = read_reviews(arguments.aclimdb / "train")
    size = str(arguments.vocabulary_size)
    entries = run_cairn(arguments, "vocabulary", "--data", str(arguments.aclimdb), "--vocabulary-size", size)
    vocabulary = pathlib.Path(folder, "vocabulary.txt")
    vocabulary.write_text(entries, encoding="utf-8")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    words = ["tokenize", "--vocabulary", str(vocabulary), "--input-format", "jsonl"]
    ids = run_cairn(arguments, *words, text=lines)
    rows = [[int(word) for word in line.split()] for line in ids.splitlines()]
    if len(rows) != len(texts) or not all(rows):
        sys.exit("cairn tokenize: not one line of ids, with at least one id, for each review")
    Examples.write(folder, rows, labels)
    return Examples(folder), entries.count("\n")


def model_options(arguments):
    return [
        *("--embedding-size", str(arguments.embedding_size)),
        *("--hidden-size", str(arguments.hidden_size)),
    ]


class CairnSystem:
    """A fresh process a measurement, by its own clock: `train_seconds`, which leaves reading data out."""

    def __init__(self, arguments, system):
        self.arguments, self.system = arguments, system
        self.versions = ", ".join(run_cairn(arguments, "--version").splitlines()[:2])
        self.kernels = self.measure_demo()

    def measure_demo(self):
        """One step on built-in texts: does this machine have what the options ask for?"""
        with tempfile.TemporaryDirectory() as folder:
            events = self.train(folder, ["--data", "demo", "--max-steps", "1"])
        return next(event["kernel_path"] for event in events if event["event"] == "start")

    def train(self, folder, words):
        command = [self.arguments.cairn, "train", "--model-dir", folder, "--validation-data", "none"]
        command += ["--device", "cpu", "--threads", str(self.arguments.threads), "--progress", "none"]
        command += ["--epochs", "1", *model_options(self.arguments), *self.system.options, *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{done.stderr.strip()}\n{' '.join(command)} ended with {done.returncode}")
        lines = pathlib.Path(folder, "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def epoch_seconds(self, batches, repeat):
        steps = self.arguments.steps
        words = ["--data", str(self.arguments.aclimdb), "--seed", str(repeat + 1)]
        words += ["--vocabulary-size", str(self.arguments.vocabulary_size)]
        words += ["--batch-size", str(self.arguments.batch_size)]
        if steps:
            words += ["--max-steps", str(steps), "--log-step-count-steps", str(steps)]
        with tempfile.TemporaryDirectory() as folder:
            events = self.train(folder, words)
        for event in events:
            if steps and event["event"] == "step":
                seconds = self.arguments.batch_size * steps / event["examples_per_second"]
                return seconds * len(batches) / steps, steps
            if not steps and event["event"] == "epoch":
                return event["train_seconds"], len(batches)
        raise RuntimeError("cairn's history.jsonl has no measurement")

    def cpu_seconds(self):
        return 0.0  # what its processes used is among this process' children

    def close(self):
        pass


def worker_command(arguments, system, folder, entries):
    """The command of a peer, or None and why there is none."""
    if system.kind == "onednn":
        sizes = [str(arguments.embedding_size), str(arguments.hidden_size)]
        command = [arguments.onednn, str(folder), *system.options, *sizes]
        return (command, "") if arguments.onednn else (None, "no oneDNN 2 (Debian: libdnnl-dev)")
    python = arguments.keras_python if system.kind == "keras" else arguments.torch_python
    if not python:
        return None, f"no Python with {system.kind}"
    command = [python, str(HERE / f"{system.kind}_worker.py"), str(folder), *system.options]
    command += ["--threads", str(arguments.threads), *model_options(arguments)]
    if system.kind == "keras":
        command += ["--aclimdb", str(arguments.aclimdb)]
        return [*command, "--vocabulary-size", str(arguments.vocabulary_size)], ""
    return [*command, "--vocabulary-size", str(entries)], ""


class PeerSystem:
    """A worker that keeps its model; it trains the epoch or batches that stand for it."""

    def __init__(self, arguments, name, command, lengths):
        self.lengths = lengths
        self.worker = Worker(name, command, {"OMP_NUM_THREADS": str(arguments.threads)})
        self.versions = self.worker.versions
        self.kernels = None
        whole = not arguments.steps and name in arguments.whole.split(",")
        self.steps = 0 if whole else arguments.steps or arguments.peer_steps

    def epoch_seconds(self, batches, _):
        sample = peer_plan.sample_batches(batches, self.lengths, self.steps)
        seconds = self.worker.train(sample)
        return seconds * peer_plan.scale_of(sample, batches, self.lengths), len(sample)

    def cpu_seconds(self):
        return self.worker.cpu_seconds()

    def close(self):
        self.worker.close()


def start_systems(arguments, examples, entries, folder):
    """{name: running system}, and {name: reason} of what is left out. Asked for by name, it must run."""
    asked = arguments.only.split(",") if arguments.only else []
    running, left_out = {}, {}
    for name in asked or [name for name in SYSTEMS if name not in ON_REQUEST]:
        system, reason = SYSTEMS[name], ""
        print(f"starting {name}", file=sys.stderr, flush=True)
        if system.kind == "cairn":
            try:
                running[name] = CairnSystem(arguments, system)
            except RuntimeError as failure:
                reason = str(failure).splitlines()[0]
        else:
            command, reason = worker_command(arguments, system, folder, entries)
            if command:
                running[name] = PeerSystem(arguments, name, command, examples.lengths)
        if reason:
            left_out[name] = reason
    for name in left_out:
        if asked or name == BASELINE:
            sys.exit(f"{name}: {left_out[name]}")
    return running, left_out


def check_ids(running):
    """Keras' own encoder must give Cairn's vocabulary and ids; asked of one worker."""
    for name, system in running.items():
        if SYSTEMS[name].kind == "keras":
            return system.worker.ask("check", "checked")
    return None


def make_epochs(arguments, lengths, repeat):
    return {
        "random": peer_plan.random_batches(len(lengths), arguments.batch_size, repeat),
        "windows": peer_plan.window_batches(lengths, arguments.batch_size, WINDOW, repeat),
    }


def machine_cpu_seconds():
    """Processor time that everything on the machine has used, hypervisor's steal included; 0 if unknown."""
    try:
        first = pathlib.Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


class Measurement:
    """All rounds. `pairs`: seconds per epoch of systems measured side by side.

    Two things are watched during each measurement, in cores: what the waiting workers used (nothing, if
    they wait) and what processes used that are not ours (a machine that was not left alone).
    """

    def __init__(self, arguments, running, lengths):
        self.arguments, self.running, self.lengths = arguments, running, lengths
        self.pairs, self.steps = [], {}
        self.waiting_cores, self.foreign_cores = [], []

    def run(self):
        for repeat in range(self.arguments.repeats):
            epochs = make_epochs(self.arguments, self.lengths, repeat)
            for names in peer_plan.round_schedule(list(self.running), BASELINE, repeat):
                pair = {name: self.measure(name, epochs, repeat) for name in names}
                self.pairs.append(pair)
                shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in pair.items())
                print(f"round {repeat + 1}: {shown}", file=sys.stderr, flush=True)

    def own_cpu_seconds(self):
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return own + sum(system.cpu_seconds() for system in self.running.values())

    def measure(self, name, epochs, repeat):
        waiting = [system for other, system in self.running.items() if other != name]
        batches = epochs[SYSTEMS[name].order]
        begin, machine, own = time.perf_counter(), machine_cpu_seconds(), self.own_cpu_seconds()
        before = sum(system.cpu_seconds() for system in waiting)
        seconds, self.steps[name] = self.running[name].epoch_seconds(batches, repeat)
        used = sum(system.cpu_seconds() for system in waiting) - before
        foreign = machine_cpu_seconds() - machine - (self.own_cpu_seconds() - own)
        wall = time.perf_counter() - begin
        self.waiting_cores.append(used / wall)
        self.foreign_cores.append(max(foreign, 0.0) / wall)
        return seconds


def processor_name():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_epoch(arguments, lengths):
    epochs = make_epochs(arguments, lengths, 0)
    return {
        "reviews": len(lengths),
        "tokens": sum(lengths),
        "steps_per_epoch": len(epochs["random"]),
        "padded_positions": {name: peer_plan.positions(e, lengths) for name, e in epochs.items()},
    }


def make_report(arguments, measurement, data, agreed, left_out):
    running, total = measurement.running, data["steps_per_epoch"]
    entries = peer_plan.summarise(list(running), BASELINE, measurement.pairs, total)
    for entry in entries:
        name = entry["system"]
        entry.update(what=SYSTEMS[name].what, order=SYSTEMS[name].order)
        entry.update(kernels=running[name].kernels, versions=running[name].versions)
        entry.update(steps_measured=measurement.steps[name], scaled=measurement.steps[name] < total)
    peers = [name for name in running if SYSTEMS[name].kind != "cairn"]
    ours = [name for name in running if SYSTEMS[name].kind == "cairn"]
    options = {key: value for key, value in vars(arguments).items() if isinstance(value, (int, str))}
    return {
        "program": "cpu_epoch.py",
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": processor_name(), "system": platform.platform()},
        "options": options,
        "data": data,
        "ids_checked_against_keras": agreed,
        "left_out": left_out,
        "cores_used_by_waiting_workers": peer_plan.spread(measurement.waiting_cores),
        "cores_used_by_others": peer_plan.spread(measurement.foreign_cores),
        "entries": entries,
        "peers_over_cairn": peer_plan.compare(peers, ours, entries, BASELINE),
        "pairs": measurement.pairs,
    }


def show_comparison(comparison):
    """A row for each peer, a column for each of Cairn's systems."""
    rows = [(peer, ratios) for peer, ratios in comparison.items() if ratios]
    if not rows:
        return
    print(
        f"peer / Cairn's rows: ratio (least favourable); {BASELINE}: median and worst of the pairs; others,"
        " which have no pairs: of the medians, and the peer's least seconds / Cairn's most"
    )
    print(f"{'':16}" + "".join(f" {name:>16}" for name in rows[0][1]))
    for peer, ratios in rows:
        cells = [f"{one['ratio']:.2f} ({one['worst']:.2f})" for one in ratios.values()]
        print(f"{peer:16}" + "".join(f" {cell:>16}" for cell in cells))


def show(report):
    data, options = report["data"], report["options"]
    versions = ", ".join(dict.fromkeys(entry["versions"] for entry in report["entries"]))
    padded = data["padded_positions"]
    print(f"{report['machine']['processor']}, {options['threads']} threads; {versions}")
    print(
        f"an epoch: {data['reviews']:,} reviews, {data['tokens']:,} tokens, {data['steps_per_epoch']} steps"
        f" of {options['batch_size']}; V {options['vocabulary_size']}, E {options['embedding_size']}, H"
        f" {options['hidden_size']}; padded positions {padded['random']:,} in random order,"
        f" {padded['windows']:,} in windows"
    )
    if report["ids_checked_against_keras"]:
        print(f"token ids are those of Keras' TextVectorization: {report['ids_checked_against_keras']}")
    print(
        f"{'system':16} {'s per epoch: median (min to max)':34} {'ms per step':>11}"
        f"  {'times cairn: median (min to max)':34} how"
    )
    for entry in report["entries"]:
        ratio = peer_plan.show_spread(entry["ratios"], 2) if "ratios" in entry else ""
        measured = f"{entry['steps_measured']} of {data['steps_per_epoch']} steps, scaled"
        print(
            f"{entry['system']:16} {peer_plan.show_spread(entry['seconds'], 2):34}"
            f" {entry['ms_per_step']['median']:11.2f}  {ratio:34} {entry['what']}, {entry['order']};"
            f" {measured if entry['scaled'] else 'whole epochs'} x {len(entry['seconds'])}"
        )
    show_comparison(report["peers_over_cairn"])
    for name, reason in report["left_out"].items():
        print(f"{name:16} left out: {reason}")
    waiting, foreign = report["cores_used_by_waiting_workers"], report["cores_used_by_others"]
    print(
        f"used meanwhile by waiting workers: at most {waiting['max']:.3f} cores; by other processes of this"
        f" machine: {foreign['median']:.3f} (median), {foreign['max']:.3f} cores (most)"
    )


def main(argv=None):
    arguments = parse_arguments(argv)
    running = {}
    with tempfile.TemporaryDirectory(prefix="cairn-peers-") as folder:
        examples, entries = write_examples(arguments, folder)
        try:
            running, left_out = start_systems(arguments, examples, entries, folder)
            agreed = check_ids(running)
            measurement = Measurement(arguments, running, examples.lengths)
            measurement.run()
        finally:
            for system in running.values():
                system.close()
    data = describe_epoch(arguments, examples.lengths)
    report = make_report(arguments, measurement, data, agreed, left_out)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
