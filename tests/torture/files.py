"""Attacks on what lies on the disk: no room for a save; files that are damaged, swapped, old or foreign."""

import re
import shutil
import subprocess

from runs import COMMON, RECIPES, checkpoint, reasons, ring

# A file system of $1 KiB at the model directory $2, in a mount namespace of its own; then with room again,
# so that what is there can be copied to $3. The rest is the program and its arguments.
SMALL_DISK = """
mount -t tmpfs -o "size=$1k" none "$2" || exit 99
room=$1 directory=$2 saved=$3; shift 3
"$@"
code=$?
mount -o remount,size=64m "$directory" && cp -a "$directory/." "$saved/" || exit 98
exit $code
"""


# ---- a full disk ----


def why_no_mount():
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    done = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return (
        "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip() or "unshare -rm failed"
    )


def after_full(trial, outcome, before, kind):
    trial.faults += outcome.code != 0 or bool(reasons(outcome.err))  # else nothing met the limit
    trial.noticed += outcome.code != 0
    trial.details[f"{kind}: exit {outcome.code}"] += 1
    trial.demand(
        outcome.code in (0, 73, 74), f"exit code {outcome.code} on a full disk: {outcome.err[-600:]}"
    )
    trial.demand(
        outcome.code == 0 or reasons(outcome.err),
        f"exit code {outcome.code} without a word: {outcome.err[-600:]}",
    )
    failed = "not saved" in outcome.err or re.search(r"[1-9]\d* failed", outcome.err)
    trial.demand(
        outcome.code != 0 or not failed, f"a save failed and the exit code is 0: {outcome.err[-600:]}"
    )
    trial.demand_whole(before)
    trial.excuse(outcome)
    trial.finish()


def small_disk(trial):
    """A tmpfs that is full at a random page: of a lock, a temporary, a checkpoint, the state file, a log."""
    saved = trial.directory.with_name(trial.directory.name + ".saved")
    shutil.rmtree(saved, ignore_errors=True)
    saved.mkdir()
    trial.directory.mkdir()
    pages = (800, 12000) if trial.large else (20, 120)  # one checkpoint; all that a run keeps
    kibibytes = 4 * trial.rng.choice([trial.rng.randint(1, most) for most in pages])
    prefix = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        SMALL_DISK,
        "sh",
        str(kibibytes),
        str(trial.directory),
        str(saved),
    ]
    outcome = trial.call(prefix=prefix)
    trial.demand(outcome.code not in (98, 99), f"the small disk could not be made: {outcome.err}")
    trial.directory.rmdir()
    saved.rename(trial.directory)
    after_full(trial, outcome, -1, "tmpfs")


def file_limit(trial):
    """No file may grow beyond a random byte (RLIMIT_FSIZE): a save that fails at any offset."""
    before = -1
    if trial.rng.random() < 0.7:
        trial.demand(
            trial.call(["--max-steps", trial.rng.randint(1, trial.recipe.early_steps)]).code == 0,
            "ended with an error undisturbed",
        )
        before = ring(trial.directory)[-1]
    limits = (200, 4_000_000, 16_000_000) if trial.large else (200, 4000, 32000)
    limit = trial.rng.choice([trial.rng.randint(0, most) for most in limits])
    outcome = trial.call(prefix=["prlimit", f"--fsize={limit}"])
    after_full(trial, outcome, before, "file size")


# ---- damage ----


def flip(rng, data):
    place = rng.choice(
        (
            rng.randrange(min(64, len(data))),
            len(data) - 1 - rng.randrange(min(200, len(data))),
            rng.randrange(len(data)),
        )
    )
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def overwrite(rng, data):
    place, size = rng.randrange(len(data)), rng.choice((1, 16, 512, 4096))
    new = bytes(size) if rng.random() < 0.5 else rng.randbytes(size)
    changed = (data[:place] + new + data[place + size :])[: len(data)]
    return changed if changed != data else flip(rng, data)


DAMAGES = {
    "bit flipped": flip,
    "overwritten": overwrite,
    "cut": lambda rng, data: data[: rng.choice((rng.randrange(len(data)), len(data) - rng.randint(1, 40)))],
    "appended": lambda rng, data: data + rng.randbytes(rng.choice((1, 12, 4096))),
    "empty": lambda rng, data: b"",
    "zeros": lambda rng, data: bytes(len(data)),
    "noise": lambda rng, data: rng.randbytes(len(data)),
    "block repeated": lambda rng, data: data[:4096] + data,
}


def prepare(trial):
    """A run that was stopped on its way, with several checkpoints."""
    trial.call(
        [
            "--max-steps",
            trial.rng.randint(25, 47),
            "--save-checkpoints-steps",
            "4",
            "--checkpoint-busy",
            "wait",
            "--keep-checkpoint-max",
            "5",
        ]
    )
    return ring(trial.directory)


def refused(trial, path):
    """Every reader refuses the file, by name and with a reason."""
    for command in (["inspect", path], ["evaluate", "--data", "demo", "--checkpoint", path]):
        outcome = trial.workshop.call(command)
        trial.demand(
            outcome.code == 65, f"{command[0]} of a damaged file gave exit code {outcome.code}: {outcome.err}"
        )
        trial.demand(path.name in outcome.err, f"{command[0]} does not name the file: {outcome.err}")


def damaged_files(trial):
    """Some of the newest checkpoints are damaged: each is named with the reason, the newest good one used."""
    steps = prepare(trial)
    count = trial.rng.randint(1, len(steps) - 1)
    for step in steps[-count:]:
        kind = trial.rng.choice(sorted(DAMAGES))
        path = checkpoint(trial.directory, step)
        path.write_bytes(DAMAGES[kind](trial.rng, path.read_bytes()))
        trial.note(f"{path.name}: {kind}")
        trial.faults += 1
        trial.details[kind] += 1
        refused(trial, path)
        trial.noticed += 1
    names = [checkpoint(trial.directory, step).name for step in steps[-count:]]
    trial.finish(may_start_from=steps[-count - 1], say=names)


def all_damaged(trial):
    """No checkpoint is good: never a silent fresh start, and nothing is touched."""
    steps = prepare(trial)
    paths = [checkpoint(trial.directory, step) for step in steps]
    good = {path: path.read_bytes() for path in paths}
    kind = trial.rng.choice(sorted(DAMAGES))
    for path in paths:
        path.write_bytes(DAMAGES[kind](trial.rng, path.read_bytes()))
    bad = {path: path.read_bytes() for path in paths}
    outcome = trial.call()
    trial.faults += len(paths)
    trial.noticed += len(paths)
    trial.details["all of them: " + kind] += len(paths)
    trial.demand(
        outcome.code == 65, f"exit code {outcome.code} with nothing but damaged checkpoints: {outcome.err}"
    )
    for path in paths:
        trial.demand(path.name in outcome.err, f"{path.name} is not named: {outcome.err}")
        trial.demand(path.read_bytes() == bad[path], f"{path.name} was changed")
        path.write_bytes(good[path])
    trial.finish()


def damaged_best(trial):
    """The best model is damaged, or an older checkpoint lies in its place: the start of the run that goes on
    names it, unless it is made again, and keeps what it knows of it."""
    steps = prepare(trial)
    if trial.rng.random() < 0.7:  # else most are made again, by a later epoch that is better
        trial.finish()
        steps = ring(trial.directory)
    path = trial.directory / "best.safetensors.zst"
    if not path.exists():
        trial.finish()
        return
    good = path.read_bytes()
    kind = trial.rng.choice([*sorted(DAMAGES), "older"])
    if kind == "older":
        bad = checkpoint(trial.directory, steps[0]).read_bytes()
    else:
        bad = DAMAGES[kind](trial.rng, good)
    path.write_bytes(bad)
    trial.note(f"{path.name}: {kind}")
    trial.faults += 1
    trial.details["best: " + kind] += 1
    if kind != "older":
        refused(trial, path)
    outcome = trial.call()
    trial.demand(outcome.code == 0, f"the restart ended with {outcome.code}: {outcome.err[-600:]}")
    if path.read_bytes() == bad and bad != good:
        trial.demand(path.name in outcome.err, f"the restart does not name {path.name}: {outcome.err[-600:]}")
        trial.noticed += 1
        path.write_bytes(good)
    trial.compare()


def exchanged_files(trial):
    """Whole checkpoints under wrong names: swapped, an old one in the place of the newest."""
    steps = prepare(trial)
    a, b = (checkpoint(trial.directory, step) for step in trial.rng.sample(steps, 2))
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    swap = trial.rng.random() < 0.5
    a.write_bytes(b_bytes)
    if swap:
        b.write_bytes(a_bytes)
    trial.note(f"{b.name} now also under the name {a.name}" + (" and the other way round" if swap else ""))
    trial.faults += 1 + swap
    trial.details["swapped" if swap else "older or newer in its place"] += 1 + swap
    wrong = {a.name, b.name} if swap else {a.name}
    good = [step for step in steps if checkpoint(trial.directory, step).name not in wrong]
    tried = [checkpoint(trial.directory, step).name for step in steps if not good or step > good[-1]]
    trial.noticed += 1 + swap
    trial.finish(may_start_from=good[-1], say=tried)


def foreign_files(trial):
    """The newest file is a good checkpoint of another run: refused, with what differs."""
    trial.recipe = RECIPES[0]
    steps = prepare(trial)
    path = checkpoint(trial.directory, steps[-1])
    own = path.read_bytes()
    options, code, says = trial.rng.choice(
        (
            (("--seed", "2"), 78, "seed"),
            (("--hidden-size", "16"), 76, "hidden-size"),
            (("--batch-size", "125"), 78, "batch-size"),
            (("--vocabulary-size", "50"), 76, "vocabulary"),
        )
    )
    other = trial.directory.with_name(trial.directory.name + ".other")
    shutil.rmtree(other, ignore_errors=True)
    # The last of a repeated option counts.
    made = trial.workshop.call([*COMMON, *options, "--model-dir", other, "--max-steps", steps[-1]])
    trial.demand(made.code == 0, f"the other run ended with {made.code}: {made.err}")
    path.write_bytes(checkpoint(other, steps[-1]).read_bytes())
    shutil.rmtree(other)
    outcome = trial.call()
    trial.faults += 1
    trial.noticed += 1
    trial.details["another " + says] += 1
    trial.demand(outcome.code == code, f"exit code {outcome.code}, not {code}: {outcome.err}")
    trial.demand(says in outcome.err, f"the refusal does not name {says}: {outcome.err}")
    path.write_bytes(own)
    trial.finish()


def other_files(trial):
    """State file, history, options, stray files are damaged: hints and logs, from which nothing is lost."""
    steps = prepare(trial)
    rng = trial.rng
    newest = checkpoint(trial.directory, steps[-1]).name
    texts = {
        "checkpoint": (
            b"",
            b"garbage",
            b'model_checkpoint_path: "../../etc/passwd"\n',
            b'model_checkpoint_path: "model.ckpt-999999.safetensors.zst"\n',
            rng.randbytes(300),
            f'model_checkpoint_path: "{newest}"\nall_model_checkpoint_paths: "{newest}"\n'
            "all_model_checkpoint_timestamps: 1e300\nlast_preserved_timestamp: 1e300\n".encode(),
            None,
        ),
        "history.jsonl": (b"", rng.randbytes(1000), b'{"event":"step","step":', b"[]\n" * 50, None),
        "history.csv": (b"", rng.randbytes(1000), None),
        "config.ini": (b"", b"nonsense\n", rng.randbytes(1000), None),
        ".cairn-lock": (b"", b"pid 1 on host elsewhere\n", rng.randbytes(5000), None),
        ".cairn-tmp-model.ckpt-9.safetensors.zst.1.0": (b"", rng.randbytes(100)),
        "model.ckpt-007.safetensors.zst": (rng.randbytes(100),),
        "model.ckpt-99999999999999999999.safetensors.zst": (b"",),
    }
    for name in rng.sample(sorted(texts), rng.randint(1, 3)):
        path, new = trial.directory / name, rng.choice(texts[name])
        path.unlink(missing_ok=True)
        if new is not None:
            path.write_bytes(new)
        trial.note(f"{name}: {new!r:.100}")
        trial.faults += 1
        trial.details[name[:30]] += 1
    trial.finish(may_start_from=steps[-1])
