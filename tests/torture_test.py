#!/usr/bin/env python3
"""tests/torture: what it reads off a log of strace, and what it aims its trials at, without the program; and
how it and the other scripts of tests/ refuse a wrong command."""
import importlib.util
import pathlib
import subprocess
import sys
import types
import unittest

TORTURE = pathlib.Path(__file__).resolve().parent / "torture"
sys.dont_write_bytecode = True
sys.path.insert(0, str(TORTURE))

import processes  # pylint: disable=wrong-import-position
import runs  # pylint: disable=wrong-import-position
import syscalls  # pylint: disable=wrong-import-position

SPEC = importlib.util.spec_from_file_location("torture", TORTURE / "__main__.py")
torture = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(torture)


class Log(unittest.TestCase):
    def test_a_call_in_one_line(self):
        log = (
            '7 write(5</m/a>, ""..., 9) = 9\n'
            '7 write(5</m/a>, ""..., 9) = -1 EIO (Input/output error) (INJECTED)\n'
            '8 write(2</dev/null>, ""..., 4) = 4 (DELAYED)\n'
        )
        self.assertEqual(log.splitlines()[1:], syscalls.injected(log))

    def test_a_call_in_two_lines_has_its_path(self):
        log = (
            '7 write(9</m/.cairn-tmp-a>, ""..., 387 <unfinished ...>\n'
            '8 write(5</m/history.jsonl>, ""..., 104 <unfinished ...>\n'
            "8 <... write resumed>) = 104\n"
            "7 <... write resumed>)              = 387 (DELAYED)\n"
            "8 fsync(5</m/history.jsonl>) = 0\n"
        )
        self.assertEqual(
            ['7 write(9</m/.cairn-tmp-a>, ""..., 387)              = 387 (DELAYED)'], syscalls.injected(log)
        )

    def test_two_calls_of_two_threads(self):
        log = (
            "7 fsync(9</m/a> <unfinished ...>\n"
            "8 fsync(5</m/b> <unfinished ...>\n"
            "7 <... fsync resumed>) = -1 EIO (Input/output error) (INJECTED)\n"
            "8 <... fsync resumed>) = -1 EIO (Input/output error) (INJECTED)\n"
        )
        first, second = syscalls.injected(log)
        self.assertIn("</m/a>", first)
        self.assertIn("</m/b>", second)


def row_of(function):
    return torture.Row("attack", function, "", True)


def trial_with(*hits):
    return types.SimpleNamespace(faults=1, noticed=0, details={}, hits=set(hits))


class Words(unittest.TestCase):
    def test_progress_is_no_reason(self):
        progress = '{"event":"step","step":1}\n\n{"event":"end"}\n'
        self.assertEqual([], runs.reasons(progress))
        for said in ('{"event":"warning","text":"not saved"}', "cairn train: the disk is full"):
            self.assertEqual([said], runs.reasons(progress + said + "\n"))


class Aims(unittest.TestCase):
    def test_the_first_trials_take_one_each(self):
        for function, demanded in torture.DEMANDED.items():
            row = row_of(function)
            aims = [row.aim(index, 3) for index in range(len(demanded))]
            self.assertEqual(sorted(demanded), sorted(aims))
            self.assertNotEqual(aims, [row.aim(index, 4) for index in range(len(demanded))])

    def test_every_phase_is_demanded_of_kills_and_of_stop_signals(self):
        for function in (processes.kills, processes.stop_signals):
            self.assertIn("validation", row_of(function).missing())
        self.assertEqual([], row_of(processes.two_trainers).missing())

    def test_a_trial_alone_is_the_one_that_failed(self):
        row, first = row_of(syscalls.faults), len(torture.DEMANDED[syscalls.faults])
        self.assertEqual(row.aim(first - 1, 5), row.aim(first - 1, 5, alone=True))
        self.assertIsNotNone(row.aim(first, 5))
        self.assertIsNone(row.aim(first, 5, alone=True), "what it aimed at is printed with it, as --aim")

    def test_what_was_missed_is_aimed_at_again(self):
        row = row_of(processes.kills)
        first = len(processes.PHASES)
        row.add(trial_with(*set(processes.PHASES) - {"validation", "end"}), 1, False)
        self.assertEqual(["validation", "end"], row.missing())
        self.assertEqual({"validation", "end"}, {row.aim(first, 3), row.aim(first + 1, 3)})
        row.large.add(trial_with("end"), 1, False)
        self.assertEqual(["validation"], [row.aim(first, 3)])
        row.add(trial_with("validation"), 1, False)
        self.assertIsNone(row.aim(first, 3))

    def test_a_long_run_goes_on_until_nothing_is_missing(self):
        row = row_of(processes.stop_signals)
        self.assertFalse(row.has_enough(False))
        row.add(trial_with(*processes.PHASES[1:]), 1, False)
        self.assertTrue(row.has_enough(False))
        self.assertFalse(row.has_enough(True))
        row.add(trial_with(processes.PHASES[0]), 1, False)
        self.assertTrue(row.has_enough(True))

    def test_it_gives_up_what_it_cannot_hit(self):
        row = row_of(processes.stop_signals)
        for _ in range(torture.AIMS_MAX * len(processes.PHASES)):
            self.assertFalse(row.has_enough(True))
            row.add(trial_with(*processes.PHASES[1:]), 1, False)
        self.assertTrue(row.has_enough(True))
        self.assertEqual([processes.PHASES[0]], row.missing())


class Command(unittest.TestCase):
    def test_an_option_without_its_value(self):
        for script, option in (
            ("torture.sh", "--binary"),
            ("coverage.sh", "--build"),
            ("fuzz/run.sh", "--seconds"),
            ("fuzz/run.sh", "--only"),
        ):
            done = subprocess.run(
                [TORTURE.parent / script, option], capture_output=True, text=True, check=False
            )
            self.assertEqual(2, done.returncode, done.stderr)
            self.assertIn(f"{option} needs a ", done.stderr)

    def test_a_wrong_command_is_refused_with_a_word(self):
        for arguments, word in (
            (["--binary", "/nonexistent"], "no such program: /nonexistent"),
            (["--binary", "/"], "no such program: /"),
            (["--binary", "/bin/true", "--only", "nothing"], "no such attack: nothing"),
            (["--binary", "/bin/true", "--aim", "end"], "--aim needs --trial"),
            (["--binary", "/bin/true", "--only", "kill", "--trial", "0", "--aim", "x"], "chosen: x"),
        ):
            done = subprocess.run(
                [sys.executable, "-B", str(TORTURE), *arguments], capture_output=True, text=True, check=False
            )
            self.assertEqual(2, done.returncode, done.stderr)
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
