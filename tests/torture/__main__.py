"""Torture for the checkpoints of the real program; tests/torture.sh says how to call it."""

import argparse
import os
import random
import shutil
import sys
import tempfile
import textwrap
import time
import traceback

import files
import processes
import syscalls
from runs import Loss, Trial, Workshop

QUICK_SECONDS = 20
LARGE_KILLS_MIN = 2  # trials, however short the time
LONG_MINUTES = 5  # from here on a run must have tried all that is demanded of it
AIMS_MAX = 3  # trials for each thing demanded, until a long run says that it cannot hit it
EXIT_NOTHING_TRIED = 77  # ctest: skipped
EXIT_USAGE = 2
COLUMNS = 110


def attacks():
    """(name, function, why it cannot be tried here or '', whether a share of its trials has a large state)"""
    no_trace = syscalls.why_not()
    no_mount = files.why_no_mount()
    no_limit = "" if shutil.which("prlimit") else "prlimit is not installed"
    no_clock = "" if processes.find_libfaketime() else "libfaketime is not installed (Debian: faketime)"
    return (
        ("kill", processes.kills, "", True),
        ("stop-signal", processes.stop_signals, "", True),
        ("stop-reader", processes.stop_readers, "", True),
        ("two-trainers", processes.two_trainers, "", False),
        ("system-call", syscalls.faults, no_trace, True),
        ("small-disk", files.small_disk, no_mount, True),
        ("file-limit", files.file_limit, no_limit, True),
        ("damaged", files.damaged_files, "", False),
        ("all-damaged", files.all_damaged, "", False),
        ("damaged-best", files.damaged_best, "", False),
        ("exchanged", files.exchanged_files, "", False),
        ("foreign", files.foreign_files, "", False),
        ("other-files", files.other_files, "", False),
        ("clock-jump", processes.clock_jumps, no_clock, False),
        ("clock-fires", processes.clock_fires, no_clock, False),
    )


# What a long run must have hit.
DEMANDED = {
    processes.kills: processes.PHASES,
    processes.stop_signals: processes.PHASES,
    syscalls.faults: syscalls.DEMANDED,
}


class Row:
    """One line of the table; trials with a large state have one of their own."""

    def __init__(self, name, function, why_not, may_be_large):
        self.name, self.function, self.why_not = name, function, why_not
        self.demanded = DEMANDED.get(function, ())
        self.large = Row(f"{name}, large", function, why_not, False) if may_be_large else None
        self.trials = self.faults = self.noticed = self.lost = 0
        self.seconds = 0.0
        self.details = {}
        self.hits = set()

    def has_enough(self, is_long):
        """Of trials, when the time is over."""
        trials = self.trials + (self.large.trials if self.large else 0)
        large_min = LARGE_KILLS_MIN if self.function is processes.kills else 0
        if trials < 1 or (self.large and self.large.trials < large_min):
            return False
        return not is_long or not self.missing() or trials >= AIMS_MAX * len(self.demanded)

    def missing(self):
        """What a long run must have hit and this one has not."""
        hits = self.hits | (self.large.hits if self.large else set())
        return [name for name in self.demanded if name not in hits]

    def aim(self, index, seed, alone=False):
        """What a trial shall hit: each demanded thing in turn, ordered by the seed; then what was missed, which
        a trial that runs alone cannot know: --aim says it."""
        order = random.Random(seed).sample(self.demanded, len(self.demanded))
        if index < len(order):
            return order[index]
        missing = [] if alone else self.missing()
        return missing[index % len(missing)] if missing else None

    def add(self, trial, seconds, lost):
        self.trials += 1
        self.faults += trial.faults
        self.noticed += trial.noticed
        self.lost += lost
        self.seconds += seconds
        self.hits |= trial.hits
        for name, count in trial.details.items():
            self.details[name] = self.details.get(name, 0) + count


def attack(workshop, row, index, options):
    """One trial. True when nothing was lost."""
    begin = time.monotonic()
    aim = options.aim or row.aim(index, options.seed, options.trial is not None)
    trial = Trial(workshop, row.name, index, options.seed, row.large is not None, aim)
    reason = None
    try:
        row.function(trial)
    except Loss as loss:
        reason = str(loss)
    except Exception:  # a fault of this script must not pass for a success
        reason = traceback.format_exc()
    (row.large if trial.large else row).add(trial, time.monotonic() - begin, reason is not None)
    if reason is None:
        trial.clean()
        return True
    print(f"\nLOST in {row.name} {index} ({trial.recipe.name}): {reason}", file=sys.stderr)
    for line in trial.log:
        print("    " + line, file=sys.stderr)
    print(
        f"  left for a look: {trial.directory}\n  once more: tests/torture.sh --binary {workshop.program} "
        f"--seed {options.seed} --only {row.name} --trial {index}" + (f" --aim '{aim}'" if aim else ""),
        file=sys.stderr,
        flush=True,
    )
    options.keep = True
    return False


def print_table(rows, seconds, seed):
    print(f"\n{'attack':<20}{'trials':>7}{'faults':>8}{'noticed':>9}{'lost':>6}{'s/fault':>9}")
    for row in rows:
        if row.why_not and row.trials == 0:
            print(f"{row.name:<20}{'-':>7}{'-':>8}{'-':>9}{'-':>6}{'-':>9}  NOT TRIED: {row.why_not}")
            continue
        each = row.seconds / row.faults if row.faults else 0
        print(f"{row.name:<20}{row.trials:>7}{row.faults:>8}{row.noticed:>9}{row.lost:>6}{each:>9.2f}")
        hit = sorted(row.details.items(), key=lambda item: (-item[1], item[0]))
        # A line ends between two of them: textwrap does not break at a no-break space.
        shown = ", ".join(f"{count} {name}".replace(" ", "\u00a0") for name, count in hit)
        for line in textwrap.wrap(shown, COLUMNS - 4, break_on_hyphens=False):
            print("    " + line.replace("\u00a0", " "))
    faults, lost = sum(row.faults for row in rows), sum(row.lost for row in rows)
    trials = sum(row.trials for row in rows)
    print(f"\n{faults} faults in {trials} trials, {seconds:.0f} s, seed {seed}: {lost} lost")
    return lost


def parse():
    parser = argparse.ArgumentParser(
        prog="tests/torture.sh",
        description="Disturb the real program in every way that "
        "is known, and demand that nothing is lost.",
    )
    parser.add_argument("--binary", required=True, help="the program under test")
    parser.add_argument("--minutes", type=float, default=5, help="how long (default 5)")
    parser.add_argument("--quick", action="store_true", help="about half a minute, for the suite")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    parser.add_argument(
        "--only", action="append", metavar="ATTACK", help="this attack only (may be repeated)"
    )
    parser.add_argument("--trial", type=int, help="this one trial of --only")
    parser.add_argument("--aim", help="what this one trial shall hit, as a failure prints it")
    parser.add_argument("--work", help="directory to work in (default: a fresh temporary one)")
    options = parser.parse_args()
    options.keep = options.work is not None
    options.binary = os.path.abspath(options.binary)
    if not (os.path.isfile(options.binary) and os.access(options.binary, os.X_OK)):
        refuse(f"no such program: {options.binary}")
    if options.aim and options.trial is None:
        refuse("--aim needs --trial")
    return options


def is_long(options):
    return options.trial is None and not options.quick and options.minutes >= LONG_MINUTES


def run(rows, workshop, options):
    seconds = QUICK_SECONDS if options.quick else options.minutes * 60
    begin = time.monotonic()
    index = 0 if options.trial is None else options.trial
    while True:
        for row in rows:
            late = time.monotonic() - begin > seconds
            if not row.why_not and not (late and row.has_enough(is_long(options))):
                attack(workshop, row, index, options)
        late = time.monotonic() - begin > seconds
        enough = all(row.why_not or row.has_enough(is_long(options)) for row in rows)
        if options.trial is not None or (late and enough):
            return time.monotonic() - begin
        index += 1


def refuse(text):
    print(text, file=sys.stderr)
    sys.exit(EXIT_USAGE)


def main():
    options = parse()
    rows = [Row(*entry) for entry in attacks()]
    if options.only:
        unknown = set(options.only) - {row.name for row in rows}
        if unknown:
            known = ", ".join(row.name for row in rows)
            refuse(f"no such attack: {', '.join(sorted(unknown))}; there are {known}")
        rows = [row for row in rows if row.name in options.only]
    if options.aim and any(options.aim not in row.demanded for row in rows):
        refuse(f"no aim of every attack chosen: {options.aim}")
    if all(row.why_not for row in rows):
        for row in rows:
            print(f"{row.name}: NOT TRIED: {row.why_not}", file=sys.stderr)
        sys.exit(EXIT_NOTHING_TRIED)
    processes.hear_signals()
    workshop = Workshop(options.binary, options.work or tempfile.mkdtemp(prefix="cairn-torture-"))
    seconds = run(rows, workshop, options)
    lines = [line for row in rows for line in (row, row.large) if line is not None]
    lost = print_table(lines, seconds, options.seed)
    missing = [f"{row.name} {name}" for row in rows if not row.why_not for name in row.missing()]
    if missing and is_long(options):
        print(f"NOT HIT, in a run as long as this: {', '.join(missing)}", file=sys.stderr)
    if not options.keep:
        shutil.rmtree(workshop.work, ignore_errors=True)
    sys.exit(1 if lost or (missing and is_long(options)) else 0)


if __name__ == "__main__":
    main()
