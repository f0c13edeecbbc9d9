"""Attacks on the process: SIGKILL, stop signals, a second trainer, clocks that jump."""

import glob
import os
import re
import signal
import subprocess
import time

from runs import LIFE_SECONDS_MAX, RECIPES, history_events, ring

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
PHASES = ("loading", "mid-epoch", "saving", "validation", "between", "end")  # of a life: Trial.phase
CODE_STOPPED = 75
MEETINGS_MAX = 5  # tries for two trainers to run at the same time


def hear_signals():
    """What is ignored here, under nohup or behind a shell's &, would be ignored in what is started.

    A handler is not inherited."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def newest(trial):
    steps = ring(trial.directory)
    return steps[-1] if steps else -1


def let_run(trial, life):
    """For a random time; with a large state half of the lives until an epoch's last step has been saved.

    The save that follows has the same step, other counters, the same weights, perhaps still to be copied."""
    seconds = trial.moment()
    ends = range(newest(trial) + 1, trial.recipe.early_steps + 1)
    ends = [step for step in ends if step % trial.recipe.steps_per_epoch == 0]
    if not (trial.large and ends and trial.rng.random() < 0.5):
        time.sleep(seconds)
        return
    step = trial.rng.choice(ends)
    trial.note(f"until step {step} has been saved")
    deadline = time.monotonic() + LIFE_SECONDS_MAX
    while newest(trial) < step and life.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(trial.rng.choice((0, trial.rng.uniform(0, 0.02))))


def freeze(trial, life):
    """At a random moment, or until it has been hit in the phase aimed at. False when it is too late."""
    if trial.aim is None or trial.aim in trial.hits:
        let_run(trial, life)
        return life.freeze()
    deadline = time.monotonic() + LIFE_SECONDS_MAX
    while life.process.poll() is None and time.monotonic() < deadline:
        if trial.phase() == trial.aim:
            time.sleep(trial.rng.choice((0, 0, trial.rng.uniform(0, 0.005))))
            if not life.freeze():
                return False
            if trial.phase() == trial.aim:
                return True
            life.thaw()
        time.sleep(0.0002)
    return False


def kills(trial):
    """SIGKILL at random moments, the same run again with other saving options and threads, to its end."""
    for _ in range(trial.rng.randint(1, 5)):
        before = newest(trial)
        life = trial.start()
        if not freeze(trial, life):
            outcome = life.wait()
            trial.demand(outcome.code == 0, f"ended with {outcome.code} undisturbed: {outcome.err[-600:]}")
            continue
        phase = trial.phase()
        life.process.kill()
        life.wait()
        trial.faults += 1
        trial.details[phase] += 1
        trial.hits.add(phase)
        trial.note(f"SIGKILL in phase: {phase}; checkpoints {ring(trial.directory)}")
        trial.demand_whole(before)
    trial.finish()


def stop_signals(trial):
    """A stop signal at a random moment: a good save, exit code 75, and the run goes on from that step."""
    for _ in range(trial.rng.randint(1, 3)):
        before = newest(trial)
        life = trial.start()
        if not freeze(trial, life):
            trial.demand(life.wait().code == 0, "ended with an error undisturbed")
            continue
        phase = trial.phase()
        # So early in the run that it cannot end before it hears of the signal.
        must_stop = phase == "mid-epoch" and trial.last_logged_step() <= trial.recipe.early_steps // 2
        number = trial.rng.choice(STOP_SIGNALS)
        life.process.send_signal(number)
        life.thaw()
        outcome = life.wait()
        trial.faults += 1
        trial.details[f"{number.name} {phase}"] += 1
        trial.hits.add(phase)
        trial.note(f"{number.name} in phase {phase}: exit code {outcome.code}: {outcome.err[-600:]}")
        check_stop(trial, outcome, number, phase, must_stop)
        trial.demand_whole(before)
    trial.finish()


def check_stop(trial, outcome, number, phase, must_stop):
    trial.demand(
        not must_stop or (outcome.code == CODE_STOPPED and "everything is saved" in outcome.err),
        f"{number.name} in {phase}: exit code {outcome.code}, no good save: {outcome.err[-600:]}",
    )
    if outcome.code == CODE_STOPPED:
        trial.noticed += 1
        trial.demand(
            number.name in outcome.err, f"the message does not name {number.name}: {outcome.err[-600:]}"
        )
        stopped = re.search(r"after step (\d+); everything is saved", outcome.err)
        if stopped:
            trial.demand(
                newest(trial) == int(stopped[1]),
                f"stopped after step {stopped[1]}, the newest checkpoint is {newest(trial)}",
            )
    elif outcome.code == -number:
        # The program has not come as far as main yet: nothing has been begun.
        trial.demand(phase == "loading" and not outcome.err, f"{number.name} killed it in phase {phase}")
    else:
        trial.demand(outcome.code == 0, f"{number.name} in phase {phase} gave exit code {outcome.code}")


# Commands that only read: a stop signal ends them with 75, or comes too late and the answer is whole; it
# changes nothing.
READERS = (
    ("vocabulary", "--data", "demo"),
    ("evaluate", "--data", "demo", "--model-dir", "DIR"),
    ("checkpoints", "--verify", "--model-dir", "DIR"),
    ("predict", "--model-dir", "DIR", "TEXTS"),
)


def blocks(pid, number):
    """Whether the first thread blocks the signal, as it does once main has begun: the watcher takes it."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            mask = re.search(r"SigBlk:\s*([0-9a-f]+)", status.read())
    except OSError:
        return False
    return bool(mask) and bool(int(mask[1], 16) >> (number - 1) & 1)


def stop_reader(trial, arguments, number, delay, output):
    """The signal after a delay, or (None) as soon as the command has begun.

    Returns (whether it was sent: the command was not over, whether that had begun, bytes of output by then, exit
    code, stderr)."""
    with open(output, "wb") as out:
        process = subprocess.Popen(
            [trial.workshop.program, *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            env=trial.workshop.environment,
        )
    if delay is None:
        # SIGTERM: nobody lets a process start with that one ignored.
        while process.poll() is None and not blocks(process.pid, signal.SIGTERM):
            pass
    else:
        time.sleep(delay)
    process.send_signal(signal.SIGSTOP)  # nothing changes between the look and the signal
    if process.poll() is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    sent = process.poll() is None
    begun, written = blocks(process.pid, number), output.stat().st_size
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    err = process.communicate(timeout=60)[1].decode(errors="replace")
    return sent, begun, written, process.returncode, err


def stop_readers(trial):
    """A stop signal while the vocabulary is learned, in an evaluation, a prediction, a verification."""
    trial.recipe = trial.recipes[0]
    trial.finish()
    before = sorted(path.name for path in trial.directory.iterdir())
    texts = trial.workshop.work / "texts"
    if not texts.exists():
        texts.write_text("The film was not bad.\n" * 800000)
    output = trial.workshop.work / f"{trial.directory.name}.out"
    for _ in range(3):
        command = trial.rng.choice(READERS)
        arguments = [{"DIR": str(trial.directory), "TEXTS": str(texts)}.get(word, word) for word in command]
        begin = time.monotonic()
        whole = subprocess.run(
            [trial.workshop.program, *arguments],
            capture_output=True,
            env=trial.workshop.environment,
            check=False,
        )
        seconds = time.monotonic() - begin
        trial.demand(whole.returncode == 0, f"{command[0]} ended with {whole.returncode}: {whole.stderr}")
        number = trial.rng.choice(STOP_SIGNALS)
        at_once = trial.rng.random() < 0.5
        delay = None if at_once else trial.rng.uniform(0, seconds)
        sent, begun, written, code, err = stop_reader(trial, arguments, number, delay, output)
        trial.faults += sent
        trial.details[f"{number.name} {command[0]}"] += sent
        trial.noticed += code != 0
        trial.note(
            f"{number.name} in {' '.join(arguments)}, {'begun' if begun else 'not begun or over'}: "
            f"exit code {code}: {err}"
        )
        # Only the prediction, when half of it is still to be written, is surely not over before the
        # program hears of the signal.
        in_time = begun and command[0] == "predict" and 2 * written < len(whole.stdout)
        allowed = {CODE_STOPPED} if in_time else {CODE_STOPPED, 0} if begun else {-number, 0}
        trial.demand(code in allowed, f"{command[0]} ended with {code}, not one of {sorted(allowed)}")
        trial.demand(
            code != 0 or output.read_bytes() == whole.stdout,
            f"{command[0]} says that all went well, and its output is not whole",
        )
    trial.demand(
        before == sorted(path.name for path in trial.directory.iterdir()), "a reader changed the directory"
    )
    trial.compare()


def two_trainers(trial):
    """A second trainer in the same directory: one of them is refused, and says who has it."""
    for _ in range(MEETINGS_MAX):
        if meet(trial):
            return
        trial.clean()


def meet(trial):
    """False when they did not: one came after the other, and neither had to be refused."""
    first = trial.start()
    first_pid = first.process.pid
    time.sleep(trial.moment())
    frozen = trial.rng.random() < 0.7 and first.freeze()  # so that it cannot come to its end meanwhile
    phase = trial.phase() if frozen else "running"
    # At the end it may have released the lock already.
    has_lock = frozen and phase != "end" and bool(history_events(trial.directory))
    # Frozen before it took the lock it would leave the directory to the second.
    second = trial.call()
    if frozen:
        first.thaw()
    outcome = first.wait()
    trial.note(f"first ({phase}) ended with {outcome.code}: {outcome.err[-400:]}")
    codes = (outcome.code, second.code)
    met = codes != (0, 0)
    trial.faults += met
    trial.details[f"{phase}: {outcome.code}/{second.code}" if met else "one after the other (no fault)"] += 1
    trial.demand(set(codes) <= {0, 73}, f"exit codes {codes}")
    trial.demand(0 in codes, "both were refused")
    if has_lock:
        trial.demand(second.code == 73, "the second trainer was let in")
    if second.code == 73:
        trial.noticed += 1
        # Whoever has the lock writes its pid into the file a moment later and takes it out a moment before.
        named = str(first_pid) in second.err
        may_be_unnamed = phase in ("loading", "end", "running") and "did not say its pid yet" in second.err
        trial.demand(
            named or may_be_unnamed, f"the refusal does not name process {first_pid}: {second.err}"
        )
    trial.noticed += outcome.code == 73
    trial.finish()
    return met


# ---- clocks ----


def find_libfaketime():
    places = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
    return next((path for place in places for path in glob.glob(place)), None)


def clock_jumps(trial):
    """The wall clock jumps, forwards or backwards, by hours: the 600-second timer does not care. Time that
    really passes (the monotonic clock too) makes it fire once for each 600 seconds, not more."""
    library = find_libfaketime()
    moved = trial.workshop.work / f"{trial.directory.name}.clock"
    moved.write_text("+0\n")
    passes = trial.rng.random() < 0.3
    environment = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(moved),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "0" if passes else "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "0" if passes else "1",
    }
    options = [
        "--save-checkpoints-secs",
        "600",
        "--keep-checkpoint-max",
        "0",
        "--threads",
        "1",
        "--keep-checkpoint-every-n-hours",
        trial.rng.choice(("0", "1")),
    ]
    life = trial.start(options, environment=environment)
    offset, jumps = 0, 0
    for _ in range(trial.rng.randint(1, 4)):
        time.sleep(trial.moment() / 2)
        if life.process.poll() is not None:
            break
        if not life.freeze():
            break
        started = trial.phase() != "loading"
        jump = 700 if passes else trial.rng.choice((-86400, -7200, -700, 700, 7200, 86400))
        offset += jump
        replacement = moved.with_suffix(".new")
        replacement.write_text(f"{offset:+d}\n")
        os.replace(replacement, moved)
        jumps += started
        trial.faults += 1
        trial.details["time passes" if passes else ("forwards" if jump > 0 else "backwards")] += 1
        trial.note(f"clock {jump:+d} s, monotonic {'too' if passes else 'not'}, in phase {trial.phase()}")
        life.thaw()
    outcome = life.wait()
    trial.demand(outcome.code == 0, f"ended with {outcome.code}: {outcome.err[-600:]}")
    last = trial.workshop.ending(trial.recipe).last_step
    between = [step for step in ring(trial.directory) if step not in (0, last)]
    most = jumps if passes else 0
    trial.demand(
        len(between) <= most, f"{len(between)} timer saves ({between}) with {most} times 600 seconds passed"
    )
    trial.noticed += len(between)
    trial.compare()
    # What such times leave behind must not confuse retention or resume.
    if trial.rng.random() < 0.5:
        resumed = trial.call(["--save-checkpoints-secs", "600", "--keep-checkpoint-max", "2"])
        trial.demand(resumed.code == 0, f"the restart ended with {resumed.code}")
        trial.compare()


def clock_fires(trial):
    """600 seconds pass in mid-run: the timer must fire."""
    trial.recipe = RECIPES[0]
    library = find_libfaketime()
    environment = {"LD_PRELOAD": library, "FAKETIME": f"+0 x{trial.rng.choice((50000, 100000, 200000))}"}
    outcome = trial.call(
        ["--save-checkpoints-secs", "600", "--keep-checkpoint-max", "0", "--threads", "1"],
        environment=environment,
    )
    trial.demand(outcome.code == 0, f"ended with {outcome.code}: {outcome.err[-600:]}")
    between = [step for step in ring(trial.directory) if step not in (0, trial.recipe.last_step)]
    trial.faults += 1
    trial.noticed += len(between) > 0
    trial.details["time flies"] += 1
    trial.demand(between, "hours passed and the timer never fired")
    trial.compare()
