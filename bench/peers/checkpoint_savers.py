"""The peers of checkpoint.py: runs under each peer's own Python, which has the packages.

    checkpoint_savers.py KIND STEP_MS CHECKPOINT
    checkpoint_savers.py load FILE

reads the checkpoint's tensors once and says what it has in a line of JSON, then does what each line of JSON
on its standard input asks, and answers with a line of JSON. `load` is a process that does nothing but
torch.load.
"""

import json
import mmap
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

ROW = 256  # weights in a row of Keras' layer
LATER_LOADS = 3  # of a process, after its first one


# ---- tensors ---------------------------------------------------------------------------------------------


def checkpoint_tensors(path):
    """The F32 tensors of a checkpoint of Cairn, which `zstd -d` turns into a safetensors file."""
    import numpy

    try:
        content = subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout
    except FileNotFoundError:
        sys.exit("checkpoint.sh: the program zstd, which decodes the tensors' checkpoint, is not installed "
            "(Debian: apt-get install zstd)")
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, about in header.items():
        begin, end = (8 + size + offset for offset in about["data_offsets"])
        if about["dtype"] == "F32":
            tensors[name] = numpy.frombuffer(content[begin:end], dtype="<f4").reshape(about["shape"]).copy()
    return tensors


# ---- savers ----------------------------------------------------------------------------------------------
# Each begins one save and returns (seconds blocked, a function that waits for its end and returns the seconds
# that it took in all).


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
    return seconds, lambda: seconds


def make_steps(seconds):
    """Steps of one core's arithmetic, on numbers that stay in its cache."""
    import numpy

    numbers, result = numpy.ones(1 << 16, dtype="f4"), numpy.empty(1 << 16, dtype="f4")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        numpy.multiply(numbers, 0.999, out=result)


def end_of(future, begin):
    """A function that waits for it and returns its seconds, which are taken when it ends."""
    seconds, noted = [], threading.Event()

    def note(_):
        seconds.append(time.perf_counter() - begin)
        noted.set()

    def wait():
        future.result()
        noted.wait()  # the callback comes after the result
        return seconds[0]

    future.add_done_callback(note)
    return wait


def without_old(path):
    """The path, when what an earlier save has left there is deleted: nobody is charged for that, as Cairn's
    total is not for the checkpoints that it deletes."""
    pathlib.Path(path).unlink(missing_ok=True)
    return path


class Torch:
    savers = ("torch_save", "dcp_thread", "dcp_staged", "dcp_process", "torch_load")

    def __init__(self, tensors, step_seconds):
        import torch
        import torch.distributed
        import torch.distributed.checkpoint
        try:
            from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType
        except ImportError:
            sys.exit(f"PyTorch {torch.__version__} is too old: it takes 2.7 to save from a process of its own")

        self.torch, self.dcp, self.kinds = torch, torch.distributed.checkpoint, AsyncCheckpointerType
        self.tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
        self.step_seconds = step_seconds
        self.version = f"PyTorch {torch.__version__}"
        self.path = self.stager = None
        try:
            from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
        except ImportError:  # PyTorch before 2.9 copies in the call only
            self.savers = tuple(saver for saver in self.savers if saver != "dcp_staged")
        else:
            # Pinned and shared memory are for devices and for other processes.
            self.stager = DefaultStager(StagingOptions(use_pinned_memory=False, use_shared_memory=False,
                use_async_staging=True, use_non_blocking_copy=False))

    def close(self):
        if self.stager is not None:
            self.stager.close()
        if self.torch.distributed.is_initialized():
            self.torch.distributed.destroy_process_group()

    def torch_save(self, directory, number):
        path = without_old(f"{directory}/torch-{number % 2}.pt")
        return timed(lambda: (self.torch.save(self.tensors, path + ".tmp"), publish(path + ".tmp", path)))

    def dcp_save(self, directory, number, kind, **options):
        if not self.torch.distributed.is_initialized():
            self.torch.distributed.init_process_group(
                "gloo", init_method=f"file://{directory}/group", rank=0, world_size=1)
        target = f"{directory}/dcp-{number % 2}"
        shutil.rmtree(target, ignore_errors=True)
        begin = time.perf_counter()
        response = self.dcp.async_save(
            self.tensors, checkpoint_id=target, async_checkpointer_type=kind, **options)
        blocked = time.perf_counter() - begin
        staged = hasattr(response, "staging_completion")
        finish = end_of(response.upload_completion if staged else response, begin)
        if staged:  # the copy goes on beside the next step
            make_steps(self.step_seconds)
            waiting = time.perf_counter()
            response.staging_completion.result()
            blocked += time.perf_counter() - waiting
        return blocked, finish

    def dcp_thread(self, directory, number):
        return self.dcp_save(directory, number, self.kinds.THREAD)

    def dcp_staged(self, directory, number):
        return self.dcp_save(directory, number, self.kinds.THREAD, async_stager=self.stager)

    def dcp_process(self, directory, number):
        return self.dcp_save(directory, number, self.kinds.PROCESS)

    def torch_load(self, directory, _):
        """The seconds that load_only() prints, of a new process: there a restart begins."""
        if self.path is None:
            self.path = f"{directory}/load.pt"
            self.torch.save(self.tensors, self.path)
            sync_path(self.path)
        command = [sys.executable, __file__, "load", self.path]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout), lambda: None


class Safetensors:
    savers = ("safetensors_plain", "safetensors_fsync")

    def __init__(self, tensors, _):
        import safetensors
        from safetensors.numpy import save_file

        self.save_file, self.tensors = save_file, tensors
        self.version = f"safetensors {safetensors.__version__}"

    def close(self):
        pass

    def safetensors_plain(self, directory, number):
        path = without_old(f"{directory}/plain-{number % 2}.safetensors")
        return timed(lambda: self.save_file(self.tensors, path))

    def safetensors_fsync(self, directory, number):
        path = without_old(f"{directory}/synced-{number % 2}.safetensors")
        return timed(lambda: (self.save_file(self.tensors, path + ".tmp"), publish(path + ".tmp", path)))


class Keras:
    """One layer with as many weights as the state has, and Adam's moments of it."""

    savers = ("keras_checkpoint", "keras_backup")

    def __init__(self, tensors, _):
        import keras
        import numpy

        floats = sum(value.size for value in tensors.values()) // 3
        rows = max(1, floats // ROW)
        self.keras = keras
        self.version = f"Keras {keras.__version__} on {keras.backend.backend()}"
        self.model = keras.Sequential([keras.Input((1,), dtype="int32"), keras.layers.Embedding(rows, ROW)])
        self.model.compile(optimizer=keras.optimizers.Adam(), loss="mse")
        self.model.optimizer.build(self.model.trainable_variables)
        values = numpy.concatenate([value.reshape(-1) for value in tensors.values()])
        variables = [self.model.layers[0].embeddings]
        variables += [v for v in self.model.optimizer.variables if tuple(v.shape) == (rows, ROW)]
        for i, variable in enumerate(variables):
            variable.assign(values[i * floats : i * floats + rows * ROW].reshape(rows, ROW))
        self.backup = None

    def close(self):
        pass

    def keras_checkpoint(self, directory, number):
        path = without_old(f"{directory}/keras-{number % 2}.keras")
        callback = self.keras.callbacks.ModelCheckpoint(path)
        callback.set_model(self.model)
        return timed(lambda: callback.on_epoch_end(number, {"loss": 1.0}))

    def keras_backup(self, directory, number):
        if self.backup is None:
            self.backup = self.keras.callbacks.BackupAndRestore(f"{directory}/backup")
            self.backup.set_model(self.model)
            self.backup.on_train_begin()
        return timed(lambda: self.backup.on_epoch_end(number))


# ---- what a worker does ----------------------------------------------------------------------------------


def load_only(path):
    """Prints the seconds of this process' first torch.load, of copying its tensors into others that are
    there as a model's are, and of the later loads, which find the memory of the earlier ones.

    Both options are torch.load's own defaults."""
    import torch

    def load():
        begin = time.perf_counter()
        tensors = torch.load(path, weights_only=True, mmap=False)
        return tensors, time.perf_counter() - begin

    sizes = {name: tensor.shape for name, tensor in torch.load(path, weights_only=True, mmap=True).items()}
    state = {name: torch.ones(size) for name, size in sizes.items()}
    # Nothing is read from the disk later, and there is free memory that was used just now: what a virtual
    # machine has handed back to its host costs more than the load when it is touched again. Cairn's warm
    # restores come after its cold ones.
    with open(path, "rb", buffering=0) as file, mmap.mmap(-1, os.path.getsize(path)) as used:
        while file.readinto(memoryview(used)[used.tell() :]):
            used.seek(file.tell())
    tensors, first = load()
    begin = time.perf_counter()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
    copied = time.perf_counter() - begin
    later = []
    for _ in range(LATER_LOADS):
        del tensors
        tensors, seconds = load()
        later.append(seconds)
    print(json.dumps({"first": first, "copied": copied, "later": later}))


def work(kind, step_ms, checkpoint):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    tensors = checkpoint_tensors(checkpoint)
    peer = {"torch": Torch, "safetensors": Safetensors, "keras": Keras}[kind](tensors, float(step_ms) / 1e3)
    number = 0

    def answer(what):
        print(json.dumps(what), file=answers, flush=True)

    answer({"bytes": sum(value.nbytes for value in tensors.values()), "version": peer.version,
        "savers": peer.savers})
    for line in sys.stdin:
        order = json.loads(line)
        times = []
        for _ in range(order["saves"]):
            blocked, finish = getattr(peer, order["saver"])(order["directory"], number)
            make_steps(order["steps_seconds"])
            times.append((blocked, finish()))
            number += 1
        answer({"times": times})
    peer.close()


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load_only(sys.argv[2])
    else:
        work(*sys.argv[1:])
