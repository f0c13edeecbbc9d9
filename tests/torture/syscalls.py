"""Faults in the system calls of the real program, by `strace --inject`.

An undisturbed life is traced first, so that a fault can be aimed at the nth call of a thread that touches the
model directory. What was really hit is read off strace's log. The first trials walk through DEMANDED, so that
none of it is left to chance; those that follow draw from all calls and errors.
"""

import re
import shutil
import subprocess

from runs import ring

CALLS = (
    "openat,read,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,"
    "close,newfstatat,getdents64,flock"
)
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES")
# What every long run must have tried: each of these faults in each of these calls, whatever this kind of
# machine calls them.
MEANT = {
    "open": ("openat", "open"),
    "write": ("write", "pwrite64"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("rename", "renameat", "renameat2"),
    "unlink": ("unlink", "unlinkat"),
}
DEMANDED = tuple(f"{call} {kind}" for call in MEANT for kind in ("EIO", "ENOSPC", "EINTR", "delay"))
TRIES_MAX = 8  # for one trial to hit what it was aimed at
# After EINTR. The others are none that a local file system interrupts: a refusal like any other.
RESTARTED = (
    "openat",
    "read",
    "write",
    "fsync",
    "fdatasync",
    "ftruncate",
    "flock",
    "newfstatat",
    "getdents64",
)
LINE = re.compile(r"(\d+) +(\w+)\((.*)")
# When another thread has a word while a call lasts, strace -f writes two lines; only the first has the path.
UNFINISHED = re.compile(r"((\d+) .*?) *<unfinished \.\.\.>")
RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
# A failed one of these on one of those files means that a save failed.
SAVING_CALLS = ("openat", "write", "fsync", "rename")
SAVED_FILE = re.compile(r"\.cairn-tmp-(model\.ckpt|best\.|checkpoint\.)")
OPTIONS = (
    "--save-checkpoints-steps",
    "3",
    "--checkpoint-busy",
    "wait",
    "--threads",
    "1",
    "--keep-checkpoint-max",
    "2",
)


def why_not():
    """Why this attack cannot be tried here; '' when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "--inject=fsync:error=EIO", "true"],
        capture_output=True,
        check=False,
    )
    return (
        ""
        if done.returncode == 0
        else "ptrace is not allowed: " + done.stderr.decode(errors="replace").strip()
    )


def strace(log, extra=()):
    return ["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", "-o", str(log), "-e", f"trace={CALLS}", *extra]


def aims(log, directory):
    """Calls that touch the directory, as {name: [n, ...]}: the nth call of that name in its thread."""
    counts, found = {}, {}
    for line in log.read_text(errors="replace").splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        thread, name, rest = match.groups()
        counts[thread, name] = counts.get((thread, name), 0) + 1
        if str(directory) in rest:
            found.setdefault(name, []).append(counts[thread, name])
    return found


def injected(log):
    """The calls of a log that strace made fail or last, each in one line."""
    begun, found = {}, []
    for line in log.splitlines():
        unfinished, resumed = UNFINISHED.match(line), RESUMED.match(line)
        if unfinished:
            begun[unfinished[2]] = unfinished[1]
        elif resumed:
            line = begun.pop(resumed[1], "") + resumed[2]
        if "INJECTED" in line or "DELAYED" in line:
            found.append(line)
    return found


def aims_of(trial, resumed):
    """Made once for fresh and once for resumed lives of each recipe."""
    known = trial.workshop.__dict__.setdefault("aims", {})
    key = (trial.recipe.name, resumed)
    if key not in known:
        if resumed:
            trial.call(["--max-steps", trial.recipe.early_steps // 2, *OPTIONS])
        log = trial.workshop.work / f"{trial.directory.name}.profile"
        outcome = trial.call(OPTIONS, prefix=strace(log))
        trial.demand(outcome.code == 0, f"ended with {outcome.code} under strace: {outcome.err}")
        known[key] = aims(log, trial.directory)
        trial.clean()
    return known[key]


def plain_name(name):
    """Of a system call, for the table and for DEMANDED."""
    return next((call for call, names in MEANT.items() if name in names), name)


def draw_fault(trial, found):
    """(name of the call, what strace shall do, kind for the table)"""
    rng = trial.rng
    forever = False
    if trial.aim is not None:
        call, kind = trial.aim.split()
        names = sorted(name for name in found if plain_name(name) == call)
        trial.demand(names, f"the program makes no call of the kind '{call}' in its model directory")
        name = rng.choice(names)
    else:
        name = rng.choice(sorted(found))
        kind = rng.choice(("error", "error", "error", "for ever", "EINTR", "delay"))
        forever = kind == "for ever"
        kind = rng.choice(ERRORS) if kind in ("error", "for ever") else kind
    when = str(rng.choice(found[name]))
    if kind == "delay":
        return name, f"delay_enter={rng.choice((1000, 30000, 150000))}:when={when}", kind
    if kind == "EINTR" and name in RESTARTED:
        when = f"{when}..{int(when) + rng.randint(0, 3)}"
    return name, f"error={kind}:when={when}{'+' if forever else ''}", kind


def faults(trial):
    """One call fails, once or for ever, is interrupted, or takes long; then the run is started again."""
    resumed = trial.rng.random() < 0.4
    for _ in range(TRIES_MAX):
        if one_fault(trial, resumed):
            return
        trial.clean()


def one_fault(trial, resumed):
    """Whether a call that touches the model directory was hit."""
    trial.excused = set()
    found = aims_of(trial, resumed)
    if resumed:
        trial.call(["--max-steps", trial.rng.randint(1, trial.recipe.early_steps), *OPTIONS])
    before = max([-1, *ring(trial.directory)])
    name, what, kind = draw_fault(trial, found)
    log = trial.workshop.work / f"{trial.directory.name}.strace"
    # Other options make the nth call another one than in the traced life: what was hit is read off the log.
    options = trial.saving_options() if trial.large else OPTIONS
    outcome = trial.call(
        [*options, "--checkpoint-on-error", trial.rng.choice(("warn", "stop"))],
        prefix=strace(log, [f"--inject={name}:{what}"]),
    )
    hits = injected(log.read_text(errors="replace"))
    trial.note("\n".join(hits[:5]))
    ours = [line for line in hits if str(trial.directory) in line]
    if not hits:
        trial.demand(outcome.code == 0, f"ended with {outcome.code} undisturbed: {outcome.err[-600:]}")
        trial.details["missed"] += 1
        return False
    trial.faults += 1
    trial.noticed += outcome.code != 0 or '"warning"' in outcome.err
    fault = f"{plain_name(name)} {kind}"
    trial.details[fault + ("" if ours else " elsewhere")] += 1
    if ours:
        trial.hits.add(fault)
    check(trial, outcome, name, kind, hits, ours)
    trial.demand_whole(before)
    trial.excuse(outcome)
    if may_be_silent(hits):
        trial.excused |= {"best", "history"}
    trial.finish()
    return bool(ours)


def may_be_silent(hits):
    """What the program had to say may have been hit itself."""
    return any(re.search(r"write\(2<", line) for line in hits)


def check(trial, outcome, name, kind, hits, ours):
    if outcome.code == 127 and len(ours) < len(hits):
        return  # the dynamic linker: main was never reached
    trial.demand_documented(outcome, may_be_silent(hits))
    if kind == "delay" or (kind == "EINTR" and name in RESTARTED):
        trial.demand(
            outcome.code == 0, f"{kind} in {name} gave exit code {outcome.code}: {outcome.err[-600:]}"
        )
    elif name in SAVING_CALLS and any(SAVED_FILE.search(line) for line in ours):
        trial.demand(
            outcome.code in (73, 74),
            f"a save failed and the exit code is {outcome.code}: {outcome.err[-600:]}",
        )
