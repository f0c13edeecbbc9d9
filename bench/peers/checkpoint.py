"""How long savers block their caller, and how soon what they saved is durable. See checkpoint.sh.

This file is also the worker that runs under each peer's own Python (--worker KIND): it makes the tensors
once, then does what a line of JSON on its standard input asks, and answers with a line of JSON.
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROW = 256  # numbers with one deviation, as in Cairn's made-up states
TENSOR_FLOATS = 4 << 20
SAVERS = {
    "torch.save + fsync + rename": ("torch", "torch_save"),
    "torch DCP async_save, thread": ("torch", "dcp_thread"),
    "torch DCP async_save, process": ("torch", "dcp_process"),
    "safetensors save_file": ("safetensors", "safetensors_plain"),
    "safetensors + fsync + rename": ("safetensors", "safetensors_fsync"),
    "Keras ModelCheckpoint": ("keras", "keras_checkpoint"),
    "Keras BackupAndRestore": ("keras", "keras_backup"),
}
NOT_DURABLE = ("safetensors_plain", "keras_checkpoint", "keras_backup")  # nothing is synced to the disk
CAIRN_MODES = ("sync+zstd", "async", "async+zstd")


# ---- tensors ---------------------------------------------------------------------------------------------


def made_up_tensors(megabytes):
    """Weights, m and v of `megabytes` together, drawn as bench/bench_checkpoint_synthetic.c does."""
    import numpy

    random = numpy.random.default_rng(1)
    floats = int(megabytes * 1e6 / 12)
    rows = -(-floats // ROW)

    def rows_of(low, high):
        deviations = numpy.exp(random.uniform(numpy.log(low), numpy.log(high), rows)).astype("f4")
        return (random.standard_normal((rows, ROW), dtype="f4") * deviations[:, None]).reshape(-1)[:floats]

    parts = {"": rows_of(0.01, 0.1), "adam.m.": rows_of(1e-5, 1e-3)}
    parts["adam.v."] = parts["adam.m."] ** 2 + numpy.float32(1e-12)
    count = max(4, -(-floats // TENSOR_FLOATS))
    return {
        f"{prefix}layer{i}.weight": part[floats * i // count : floats * (i + 1) // count].copy()
        for prefix, part in parts.items()
        for i in range(count)
    }


def checkpoint_tensors(path):
    """The F32 tensors of a checkpoint of Cairn, which `zstd -d` turns into a safetensors file."""
    import numpy

    content = subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, about in header.items():
        begin, end = (8 + size + offset for offset in about["data_offsets"])
        if about["dtype"] == "F32":
            tensors[name] = numpy.frombuffer(content[begin:end], dtype="<f4").reshape(about["shape"]).copy()
    return tensors


# ---- savers: each makes one save and returns (seconds blocked, seconds in all) ---------------------------


def sync_path(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def publish(temporary, path):
    sync_path(temporary)
    os.rename(temporary, path)
    sync_path(os.path.dirname(path))


def timed(save):
    begin = time.perf_counter()
    save()
    seconds = time.perf_counter() - begin
    return seconds, seconds


class Torch:
    def __init__(self, tensors):
        import torch
        import torch.distributed
        import torch.distributed.checkpoint
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        self.torch, self.dcp, self.kinds = torch, torch.distributed.checkpoint, AsyncCheckpointerType
        self.tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
        self.path = None

    def torch_save(self, directory, number):
        self.path = f"{directory}/torch-{number % 2}.pt"
        temporary = self.path + ".tmp"
        return timed(lambda: (self.torch.save(self.tensors, temporary), publish(temporary, self.path)))

    def dcp_save(self, directory, number, kind):
        if not self.torch.distributed.is_initialized():
            self.torch.distributed.init_process_group(
                "gloo", init_method=f"file://{directory}/group", rank=0, world_size=1)
        target = f"{directory}/dcp-{number % 2}"
        shutil.rmtree(target, ignore_errors=True)
        begin = time.perf_counter()
        response = self.dcp.async_save(self.tensors, checkpoint_id=target, async_checkpointer_type=kind)
        blocked = time.perf_counter() - begin
        getattr(response, "upload_completion", response).result()
        return blocked, time.perf_counter() - begin

    def dcp_thread(self, directory, number):
        return self.dcp_save(directory, number, self.kinds.THREAD)

    def dcp_process(self, directory, number):
        return self.dcp_save(directory, number, self.kinds.PROCESS)

    def restore(self, directory, number):
        self.torch_save(directory, number)
        return timed(lambda: self.torch.load(self.path, weights_only=True))


class Safetensors:
    def __init__(self, tensors):
        from safetensors.numpy import save_file

        self.save_file, self.tensors = save_file, tensors

    def safetensors_plain(self, directory, number):
        return timed(lambda: self.save_file(self.tensors, f"{directory}/plain-{number % 2}.safetensors"))

    def safetensors_fsync(self, directory, number):
        path = f"{directory}/synced-{number % 2}.safetensors"
        return timed(lambda: (self.save_file(self.tensors, path + ".tmp"), publish(path + ".tmp", path)))


class Keras:
    """One layer with as many weights as the state has, and Adam's moments of it."""

    def __init__(self, tensors):
        import keras
        import numpy

        floats = sum(value.size for value in tensors.values()) // 3
        rows = max(1, floats // ROW)
        self.keras = keras
        self.model = keras.Sequential([keras.Input((1,), dtype="int32"), keras.layers.Embedding(rows, ROW)])
        self.model.compile(optimizer=keras.optimizers.Adam(), loss="mse")
        self.model.optimizer.build(self.model.trainable_variables)
        values = numpy.concatenate([value.reshape(-1) for value in tensors.values()])
        variables = [self.model.layers[0].embeddings]
        variables += [v for v in self.model.optimizer.variables if tuple(v.shape) == (rows, ROW)]
        for i, variable in enumerate(variables):
            variable.assign(values[i * floats : i * floats + rows * ROW].reshape(rows, ROW))
        self.backup = None

    def keras_checkpoint(self, directory, number):
        callback = self.keras.callbacks.ModelCheckpoint(f"{directory}/keras-{number % 2}.keras")
        callback.set_model(self.model)
        return timed(lambda: callback.on_epoch_end(number, {"loss": 1.0}))

    def keras_backup(self, directory, number):
        if self.backup is None:
            self.backup = self.keras.callbacks.BackupAndRestore(f"{directory}/backup")
            self.backup.set_model(self.model)
            self.backup.on_train_begin()
        return timed(lambda: self.backup.on_epoch_end(number))


def work(arguments):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    made = arguments.checkpoint is None
    tensors = made_up_tensors(arguments.megabytes) if made else checkpoint_tensors(arguments.checkpoint)
    peer = {"torch": Torch, "safetensors": Safetensors, "keras": Keras}[arguments.worker](tensors)
    number = 0

    def answer(what):
        print(json.dumps(what), file=answers, flush=True)

    answer({"bytes": sum(value.nbytes for value in tensors.values())})
    for line in sys.stdin:
        order = json.loads(line)
        times = []
        for _ in range(order["saves"]):
            times.append(getattr(peer, order["saver"])(order["directory"], number))
            number += 1
        answer({"times": times})


# ---- the rounds ------------------------------------------------------------------------------------------


class Worker:
    def __init__(self, kind, python, arguments):
        command = [python, __file__, "--worker", kind, "--megabytes", str(arguments.megabytes)]
        if arguments.checkpoint is not None:
            command += ["--checkpoint", str(arguments.checkpoint)]
        environment = dict(os.environ, KERAS_BACKEND=os.environ.get("KERAS_BACKEND", "tensorflow"),
            TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
        self.log = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, env=environment)
        self.bytes = self.read()["bytes"]

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            sys.exit(f"{self.log.read()[-4000:]}\ncheckpoint.py: a worker ended with exit code {code}")
        return json.loads(line)

    def ask(self, saver, directory, saves):
        self.process.stdin.write(json.dumps({"saver": saver, "directory": directory, "saves": saves}) + "\n")
        self.process.stdin.flush()
        return self.read()["times"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1]


def run_cairn(arguments, directory):
    """One round of Cairn: {mode: CSV row}, {part of a restore: ms}."""
    figures = pathlib.Path(directory, "figures")
    size = f"{arguments.megabytes:g}"
    # The 100 steps of an interval together take longer than the state needs to become durable: each save
    # begins when the one before has ended, as the peers are waited for, too.
    step = max(1.0, arguments.megabytes * 0.05)
    command = [arguments.cairn, "bench", "checkpoint", "--sizes", size, "--storage", "dir",
        "--dir", directory, "--modes", ",".join(CAIRN_MODES), "--intervals", "100", "--step-ms", str(step),
        "--repeats", "1", "--kills", "0", "--saves", str(arguments.saves), "--csv", f"{figures}.csv",
        "--json", f"{figures}.json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(f"{figures}.csv", encoding="utf-8") as file:
        rows = {row["mode"]: row for row in csv.DictReader(file)}
    with open(f"{figures}.json", encoding="utf-8") as file:
        restore = {figure["name"]: figure["median"] for figure in json.load(file)["figures"]
            if figure["section"].endswith("restore, warm")}
    return rows, restore


def describe(times):
    blocked, total = [1e3 * t[0] for t in times], [1e3 * t[1] for t in times]
    # Of fewer than 100 it would be the longest.
    return {"p50": percentile(blocked, 50), "p99": percentile(blocked, 99) if len(blocked) >= 100 else None,
        "max": max(blocked), "total": percentile(total, 50)}


def measure(arguments, workers, directory):
    """{name: [what describe() returns, per round]}, in interleaved rounds."""
    results = {}
    wanted = {name: saver for name, saver in SAVERS.items() if saver[0] in workers}
    for worker, method in wanted.values():
        workers[worker].ask(method, directory, 2)  # the first saves of a process allocate
    for _ in range(arguments.rounds):
        rows, restore = run_cairn(arguments, directory)
        for mode in CAIRN_MODES:
            fields = {key: rows[mode][f"stall_{key}_us"] for key in ("p50", "p99", "max")}
            row = {key: float(field) / 1e3 if field else None for key, field in fields.items()}
            row["total"] = float(rows[mode]["durable_p50_ms"])
            results.setdefault(f"cairn {mode}", []).append(row)
        results.setdefault("restore: cairn, verified", []).append({"total": restore["whole"]})
        for name, (worker, method) in wanted.items():
            results.setdefault(name, []).append(
                describe(workers[worker].ask(method, directory, arguments.saves)))
        if "torch" in workers:
            times = workers["torch"].ask("restore", directory, min(arguments.saves, 5))
            results.setdefault("restore: torch.load", []).append({"total": describe(times)["total"]})
    return results


def print_table(results):
    print(f"{'saver':34}{'blocked p50':>12}{'p99':>10}{'max':>10}{'total':>12}   ms, medians of rounds")
    for name, rounds in results.items():
        median = {key: None if None in (r[key] for r in rounds) else statistics.median(r[key] for r in rounds)
            for key in rounds[0]}
        if "p50" not in median:
            print(f"{name:34}{'':32}{median['total']:12.2f}")
            continue
        synced = "" if SAVERS.get(name, ("", ""))[1] not in NOT_DURABLE else "   not synced to the disk"
        p99 = "-" if median["p99"] is None else f"{median['p99']:.3f}"
        print(f"{name:34}{median['p50']:12.3f}{p99:>10}{median['max']:10.3f}"
            f"{median['total']:12.2f}{synced}")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="checkpoint.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cairn", default="build/cairn", help="the program (default %(default)s)")
    add("--megabytes", type=float, default=1.7, help="of weights and moments (default %(default)s)")
    add("--checkpoint", type=pathlib.Path, help="the peers save the F32 tensors of this checkpoint instead")
    add("--dir", default=None, help="save below this directory (default: a temporary one)")
    add("--rounds", type=int, default=3)
    add("--saves", type=int, default=20, help="per saver and round (default %(default)s)")
    add("--json", type=pathlib.Path, help="write the figures of all rounds to this file")
    for kind in ("torch", "safetensors", "keras"):
        add(f"--{kind}-python", help=argparse.SUPPRESS)
    add("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.worker:
        work(arguments)
        return
    kinds = {"torch": arguments.torch_python, "safetensors": arguments.safetensors_python,
        "keras": arguments.keras_python}
    workers = {kind: Worker(kind, python, arguments) for kind, python in kinds.items() if python}
    if arguments.checkpoint is not None and workers:
        arguments.megabytes = next(iter(workers.values())).bytes / 1e6
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        results = measure(arguments, workers, directory)
    for worker in workers.values():
        worker.close()
    print_table(results)
    if arguments.json:
        content = {"megabytes": arguments.megabytes, "rounds": arguments.rounds, "saves": arguments.saves,
            "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
