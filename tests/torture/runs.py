"""One small training run that can be started, disturbed, restarted and compared.

A `Workshop` knows the program and, for each recipe, how the run ends when nobody disturbs it. A `Trial`
is one model directory with a random generator of its own: it starts lives of the run, one after the
other, and at its end demands what an undisturbed run gives. Whatever is not as promised raises `Loss`.
"""

import collections
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

RING_NAME = re.compile(r"model\.ckpt-(0|[1-9]\d{0,18})\.safetensors\.zst")
TEMPORARY_PREFIX = ".cairn-tmp-"
LIFE_SECONDS_MAX = 120  # a run takes a fraction of a second; what takes this long hangs

# 6,000 made-up examples in batches of 250: 24 steps an epoch, checkpoints of 30 KB. The last of a repeated
# option counts: a recipe may choose others.
COMMON = (
    "train --data demo --embedding-size 8 --hidden-size 8 --dense-size 8 --batch-size 250 "
    "--learning-rate 1e-2 --progress json --log-step-count-steps 1"
).split()

# What a fault in a system call may lead to. Not 1 (internal error), nor the codes that blame the command, the
# numbers or another run: 2, 70, 75, 76, 78.
CODES_AFTER_FAULT = {0, 65, 66, 69, 73, 74}


class Loss(Exception):
    """Something was lost, silently different, or not said."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Options that decide how the run ends. What may change between lives is drawn by `saving_options`."""

    name: str
    arguments: tuple
    last_step: int  # 0: early stopping decides
    steps_per_epoch: int = 24
    early_steps: int = 40  # a run that is stopped after so many has something left to do

    def validates(self):
        return "none" not in self.arguments


RECIPES = (
    Recipe("three epochs", ("--epochs", "3"), 72),
    Recipe(
        "early stopping, best weights back",
        ("--epochs", "9", "--patience", "2", "--min-delta", "0.05", "--restore-best-weights"),
        0,
    ),
    Recipe("no validation", ("--epochs", "2", "--validation-data", "none"), 48),
)

# Weights and moments are not copied when a save is asked for, but beside the next step: by the writer, or by
# the trainer before the update (io/snapshot.h). With so many bytes that takes a while; these recipes have
# twice as many, 8 MB.
# Steps are few and short, four an epoch, so that many saves are still to be copied when an epoch ends.
LARGE_BYTES_MIN = 4 << 20
LARGE_EXAMPLES = 64
LARGE = (
    "--embedding-size 8192 --batch-size 16 --data LARGE_DATA --validation-data LARGE_DATA"
).split()  # LARGE_DATA: made by the workshop
LARGE_RECIPES = (
    Recipe("large state, four epochs", (*LARGE, "--epochs", "4"), 16, 4, 12),
    Recipe(
        "large state, early stopping, best weights back",
        (*LARGE, "--epochs", "8", "--patience", "2", "--min-delta", "0.2", "--restore-best-weights"),
        0,
        4,
        12,
    ),
)
LARGE_SHARE = 1 / 3  # of the trials of an attack that can be made on either
OLDER_TRIED_MAX = 2  # each costs a life
LARGE_STRETCH = 2.5  # so much longer than the undisturbed life, which saves rarely, takes one that waits


@dataclasses.dataclass
class Ending:
    """What a finished run leaves: tensors by file name, the table of epochs, the last step."""

    tensors: dict
    history: str
    last_step: int
    seconds: float = 0.0


@dataclasses.dataclass
class Outcome:
    code: int  # exit code, or minus the signal
    err: str


def ring(directory):
    """Steps of the checkpoints in a directory, ascending."""
    try:
        matches = [RING_NAME.fullmatch(name) for name in os.listdir(directory)]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in matches if match)


def checkpoint(directory, step):
    return pathlib.Path(directory) / f"model.ckpt-{step}.safetensors.zst"


def temporaries(directory):
    return [name for name in os.listdir(directory) if name.startswith(TEMPORARY_PREFIX)]


def history_events(directory):
    try:
        text = (pathlib.Path(directory) / "history.jsonl").read_text(errors="replace")
    except FileNotFoundError:
        return []
    events = []
    for line in text.split("\n")[:-1]:
        try:
            events.append(json.loads(line))
        except ValueError:
            break  # a torn line: nothing behind it counts
    return events


def last_step(events):
    steps = [event["step"] for event in events if event.get("event") == "step"]
    return steps[-1] if steps else 0


def warnings(err):
    """Texts of the warnings among the JSON lines of --progress json."""
    texts = []
    for line in err.splitlines():
        if '"warning"' in line:
            texts.append(line)
    return texts


def reasons(err):
    """What is said in words, among the JSON lines of --progress json: warnings, and the error that ends a run."""
    lines = [line for line in err.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith("{") or '"warning"' in line]


class Workshop:
    """The program, a place to work in, and how each recipe ends."""

    def __init__(self, program, work):
        self.program = str(program)
        pathlib.Path(work).mkdir(parents=True, exist_ok=True)
        self.work = pathlib.Path(work).resolve()  # as strace -y prints it, where a fault shall hit
        self.endings = {}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CAIRN_")
        }

    def call(self, arguments, prefix=(), environment=None, directory=None, seconds=LIFE_SECONDS_MAX):
        """Run the program to its end."""
        command = [*prefix, self.program, *map(str, arguments)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**self.environment, **(environment or {})},
                cwd=directory,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Loss(f"still running after {seconds} s: {' '.join(command)}") from error
        return Outcome(done.returncode, done.stderr.decode(errors="replace"))

    def tensors(self, path):
        """Name, type, shape, bytes and digest of every tensor, as the program's own reader verified them."""
        done = subprocess.run(
            [self.program, "inspect", str(path)],
            capture_output=True,
            env=self.environment,
            timeout=LIFE_SECONDS_MAX,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0 or "\ntensors" not in text:
            raise Loss(
                f"{path} cannot be read: exit code {done.returncode}: {done.stderr.decode(errors='replace')}"
            )
        return text[text.index("\ntensors") :]

    def read_ending(self, directory):
        directory = pathlib.Path(directory)
        steps = ring(directory)
        if not steps:
            raise Loss(f"{directory} has no checkpoint at the end")
        files = {"the last checkpoint": checkpoint(directory, steps[-1])}
        if (directory / "best.safetensors.zst").exists():
            files["the best checkpoint"] = directory / "best.safetensors.zst"
        tensors = {name: self.tensors(path) for name, path in files.items()}
        history = directory / "history.csv"  # there may be none, where its writing failed: see excuse
        return Ending(tensors, history.read_text() if history.exists() else None, steps[-1])

    def demand_large(self, ending):
        """Otherwise the trial would not be what it says."""
        size = 0
        for line in ending.tensors["the last checkpoint"].splitlines():
            match = re.fullmatch(r" *(\S+) +F32 +\[.*\] +(\d+) +[0-9a-f]+", line)
            if match and not match[1].startswith(("best.", "last.")):
                size += int(match[2])
        if size < LARGE_BYTES_MIN:
            raise Loss(f"weights and moments have {size} bytes, that is no large state")

    def large_data(self):
        """A few examples; the same ones always."""
        path = self.work / "large.jsonl"
        if not path.exists():
            rng = random.Random(1)
            moods = ("awful", "dull", "poor"), ("fine", "good", "great")
            words = "a film the plot music actor and of it was".split()
            with open(path, "w", encoding="utf-8") as file:
                for i in range(LARGE_EXAMPLES):
                    label = i % 2
                    text = rng.choices(words, k=rng.randint(1, 20)) + [rng.choice(moods[label])]
                    file.write(json.dumps({"text": " ".join(text), "label": label}) + "\n")
        return str(path)

    def recipe_arguments(self, recipe):
        """With paths in the places of their names."""
        return [self.large_data() if word == "LARGE_DATA" else word for word in recipe.arguments]

    def ending(self, recipe):
        """How the recipe ends undisturbed; computed once."""
        if recipe.name not in self.endings:
            directory = self.work / f"undisturbed-{len(self.endings)}"
            shutil.rmtree(directory, ignore_errors=True)
            begin = time.monotonic()
            outcome = self.call(
                [
                    *COMMON,
                    *self.recipe_arguments(recipe),
                    "--model-dir",
                    directory,
                    "--save-checkpoints-steps",
                    "10",
                    "--threads",
                    "1",
                ]
            )
            seconds = time.monotonic() - begin
            if outcome.code != 0:
                raise Loss(f"the undisturbed run ended with {outcome.code}: {outcome.err}")
            self.endings[recipe.name] = self.read_ending(directory)
            self.endings[recipe.name].seconds = seconds
            if recipe in LARGE_RECIPES:
                self.demand_large(self.endings[recipe.name])
            if recipe.last_step and self.endings[recipe.name].last_step != recipe.last_step:
                raise Loss(f"the undisturbed run ended at step {self.endings[recipe.name].last_step}")
        return self.endings[recipe.name]


class Life:
    """One running process of a trial; its words go to a file, so that it never waits for us."""

    def __init__(self, workshop, arguments, directory, prefix=(), environment=None):
        self.err_path = pathlib.Path(str(directory) + ".err")
        self.directory = directory
        with open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(
                [*prefix, workshop.program, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                env={**workshop.environment, **(environment or {})},
            )

    def freeze(self):
        """Stop every thread of it; False when it had ended."""
        if self.process.poll() is not None:
            return False
        self.process.send_signal(signal.SIGSTOP)
        result = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return result.si_code == os.CLD_STOPPED

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def wait(self):
        try:
            code = self.process.wait(LIFE_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            self.process.wait()
            raise Loss(f"still running after {LIFE_SECONDS_MAX} s") from error
        return Outcome(code, self.err_path.read_text(errors="replace"))


class Trial:
    """One model directory and all that happens to it."""

    def __init__(self, workshop, attack, index, seed, may_be_large, aim=None):
        self.workshop = workshop
        self.aim = aim  # what this trial shall hit, of what a long run must have hit
        self.rng = random.Random(f"{seed}:{attack}:{index}")
        self.directory = workshop.work / f"{attack}-{index}"
        self.again = workshop.work / f"{attack}-{index}.again"  # a copy, for a second end
        self.faults = 0  # what was done to it
        self.noticed = 0  # faults that the program spoke of
        self.details = collections.Counter()  # by kind, for the table
        self.hits = set()  # what can be an aim and was hit
        self.log = []  # for a failure
        self.large = may_be_large and self.rng.random() < LARGE_SHARE
        self.recipes = LARGE_RECIPES if self.large else RECIPES
        self.recipe = self.rng.choice(self.recipes)
        self.stretch = 1
        self.old_starts = 0
        self.excused = set()
        self.clean()

    def clean(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        for leftover in self.directory.parent.glob(self.directory.name + ".*"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def moment(self):
        """A random time within an undisturbed life."""
        seconds = self.workshop.ending(self.recipe).seconds
        return self.rng.uniform(0, seconds * self.stretch)

    def note(self, text):
        self.log.append(text)

    def saving_options(self):
        """What may differ between two lives of one run without a bit of its end."""
        rng = self.rng
        if self.large:
            return self.large_saving_options()
        when = rng.choice(
            [
                ("--save-checkpoints-steps", rng.randint(1, 25)),
                ("--save-checkpoints-secs", round(rng.uniform(0.002, 0.1), 3)),
            ]
        )
        return [
            *when,
            "--checkpoint-busy",
            rng.choice(("skip", "latest", "wait")),
            "--threads",
            rng.randint(1, 3),
            "--keep-checkpoint-max",
            rng.choice((0, 1, 2, 5)),
            "--compression-level",
            rng.choice((-5, 1, 3, 9)),
            "--checkpoint-on-error",
            rng.choice(("warn", "stop")),
        ]

    def large_saving_options(self):
        """So often that a copy is nearly always still to be made, or being made, when an update comes."""
        rng = self.rng
        busy = rng.choice(("skip", "latest", "wait"))
        self.stretch = LARGE_STRETCH if busy == "wait" else 1
        return [
            "--save-checkpoints-steps",
            rng.randint(1, 3),
            "--checkpoint-busy",
            busy,
            "--threads",
            rng.randint(1, 3),
            "--keep-checkpoint-max",
            rng.choice((1, 5, 5)),
            "--compression-level",
            rng.choice((-5, 1, 3)),
            "--checkpoint-on-error",
            rng.choice(("warn", "stop")),
        ]

    def arguments(self, more=()):
        recipe = self.workshop.recipe_arguments(self.recipe)
        return [*COMMON, *recipe, "--model-dir", str(self.directory), *map(str, more)]

    def start(self, more=None, **how):
        arguments = self.arguments(self.saving_options() if more is None else more)
        self.old_starts = sum(event.get("event") == "start" for event in history_events(self.directory))
        self.note("started: " + " ".join(arguments))
        return Life(self.workshop, arguments, self.directory, **how)

    def call(self, more=None, **how):
        arguments = self.arguments(self.saving_options() if more is None else more)
        self.note(" ".join([*how.get("prefix", ()), "cairn", *arguments]))
        outcome = self.workshop.call(arguments, **how)
        self.note(f"exit code {outcome.code}: {outcome.err[-600:]}")
        return outcome

    def excuse(self, outcome):
        """Two things a run goes on without once it has said so: the best model of an epoch that could not be
        saved (the next better one is), and the log files."""
        for warning in warnings(outcome.err):
            if "best.safetensors.zst" in warning:
                self.excused.add("best")
            if "history" in warning:
                self.excused.add("history")

    def last_logged_step(self):
        return last_step(history_events(self.directory))

    def phase(self):
        """Where a frozen life stands, by its files."""
        events = history_events(self.directory)
        starts = sum(event.get("event") == "start" for event in events)
        if starts <= self.old_starts:
            return "loading"
        if temporaries(self.directory):
            return "saving"
        epochs = sum(event.get("event") == "epoch" for event in events)
        step = last_step(events)
        if events[-1].get("event") == "end":
            return "end"
        if step % self.recipe.steps_per_epoch:
            return "mid-epoch"
        validating = self.recipe.validates() and step // self.recipe.steps_per_epoch > epochs
        return "validation" if validating else "between"

    # ---- demands ----

    def demand(self, condition, text):
        if not condition:
            raise Loss(text)

    def demand_documented(self, outcome, may_be_silent):
        self.demand(
            outcome.code in CODES_AFTER_FAULT,
            f"exit code {outcome.code} is none for a failed system call: {outcome.err[-600:]}",
        )
        self.demand(
            outcome.code == 0 or may_be_silent or reasons(outcome.err),
            f"exit code {outcome.code} without a word: {outcome.err[-600:]}",
        )

    def demand_whole(self, at_least):
        """Every published checkpoint verifies, and none that was there has gone backwards."""
        steps = ring(self.directory)
        newest = steps[-1] if steps else -1
        self.demand(newest >= at_least, f"the newest checkpoint was of step {at_least}, now of {newest}")
        if steps:
            outcome = self.workshop.call(["checkpoints", "--model-dir", self.directory, "--verify"])
            self.demand(outcome.code == 0, f"a published checkpoint does not verify: {outcome.err}")
        return newest

    def finish(self, may_start_from=None, say=None):
        """Let the run go to its end, from its newest checkpoint, and compare it with the undisturbed one.

        `may_start_from`: the step it must go on from (default: the newest one there is)."""
        outcome = self.go_on(may_start_from, say)
        if self.large:
            self.go_on_from_older()
        return outcome

    def go_on_from_older(self):
        """Of the checkpoints in the ring nobody has started from most. They lead to the same end too."""
        older = ring(self.directory)[:-1]
        for step in self.rng.sample(older, min(len(older), OLDER_TRIED_MAX)):
            self.note(f"once more, from step {step}")
            shutil.copytree(self.directory, self.again)
            for other in ring(self.again):
                if other != step:
                    checkpoint(self.again, other).unlink()
            own, self.directory = self.directory, self.again
            self.go_on(may_start_from=step)
            shutil.rmtree(self.again)
            self.directory = own

    def go_on(self, may_start_from, say=None):
        """One end of it; `finish` says how."""
        steps = ring(self.directory)
        expected = may_start_from if may_start_from is not None else (steps[-1] if steps else None)
        outcome = self.call()
        self.demand(outcome.code == 0, f"the restart ended with {outcome.code}: {outcome.err[-800:]}")
        resumed = re.search(r"Resumed from \S*?: step (\d+)", outcome.err)
        if resumed and expected is not None:
            self.demand(
                int(resumed[1]) == expected, f"went on from step {resumed[1]}, step {expected} was there"
            )
        if expected and not resumed and "nothing to do" not in outcome.err:
            raise Loss(
                f"step {expected} was there, the restart does not say that it went on from it: {outcome.err}"
            )
        for text in say or ():
            self.demand(text in outcome.err, f"the restart does not say '{text}': {outcome.err[-800:]}")
        self.compare()
        return outcome

    def compare(self):
        wanted = self.workshop.ending(self.recipe)
        found = self.workshop.read_ending(self.directory)
        self.demand(
            found.last_step == wanted.last_step, f"ended at step {found.last_step}, not {wanted.last_step}"
        )
        self.demand(found.tensors.keys() == wanted.tensors.keys(), f"files: {sorted(found.tensors)}")
        for name, tensors in wanted.tensors.items():
            theirs = found.tensors[name]
            if "best" in self.excused:
                if name == "the best checkpoint":
                    continue
                tensors, theirs = (
                    re.sub(r"(?m)^ *state\.best\..*\n", "", text) for text in (tensors, theirs)
                )
            self.demand(theirs == tensors, f"{name} differs from that of the undisturbed run")
        self.demand(
            found.history == wanted.history or "history" in self.excused,
            "history.csv differs from that of the undisturbed run",
        )
        self.demand(not temporaries(self.directory), f"temporary files stayed: {temporaries(self.directory)}")
