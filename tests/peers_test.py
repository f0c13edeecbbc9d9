#!/usr/bin/env python3
"""bench/peers: what is computed without running a peer, and whole runs with made-up peers beside Cairn.

    peers_test.py CAIRN

Every expected figure is worked out by hand from the small examples below.
"""
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

PEERS = pathlib.Path(__file__).resolve().parent.parent / "bench" / "peers"
sys.dont_write_bytecode = True
sys.path.insert(0, str(PEERS))

import cpu_epoch  # pylint: disable=wrong-import-position
import peer_plan  # pylint: disable=wrong-import-position
import peer_worker  # pylint: disable=wrong-import-position
import whole_process  # pylint: disable=wrong-import-position

CAIRN = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None

# Says that a padded position takes a millisecond; spins between requests unless it is stopped.
FAKE_WORKER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import peer_plan, peer_worker
examples = peer_worker.Examples(sys.argv[2])
def spin():
    while True:
        pass
threading.Thread(target=spin, daemon=True).start()
peer_worker.serve("Fake 1.0", lambda b: 1e-3 * peer_plan.positions(b, examples.lengths), lambda: "agreed")
"""


class Batches(unittest.TestCase):
    def test_random_batches_hold_every_example_once(self):
        batches = peer_plan.random_batches(10, 4, 3)
        self.assertEqual([4, 4, 2], [len(batch) for batch in batches])
        self.assertEqual(list(range(10)), sorted(i for batch in batches for i in batch))
        self.assertNotEqual(batches, peer_plan.random_batches(10, 4, 4))

    def test_windows_make_batches_of_similar_length(self):
        lengths = list(range(100, 0, -1))
        batches = peer_plan.window_batches(lengths, 10, 100, 1)
        self.assertEqual(list(range(100)), sorted(i for batch in batches for i in batch))
        # One window over all: each batch holds ten neighbouring lengths, 10 x (10 + 20 + ... + 100).
        self.assertEqual(5500, peer_plan.positions(batches, lengths))
        self.assertNotEqual(sorted(batches, key=lambda b: lengths[b[0]]), batches)

    def test_a_window_is_rounded_up_to_whole_batches(self):
        lengths = [1, 2] * 6
        sizes = [len(batch) for batch in peer_plan.window_batches(lengths, 4, 5, 1)]
        self.assertEqual([4, 4, 4], sizes)

    def test_positions_and_tokens(self):
        self.assertEqual(2 * 7 + 1 * 2, peer_plan.positions([[0, 1], [2]], [7, 3, 2]))
        self.assertEqual(12, peer_plan.tokens([[0, 1], [2]], [7, 3, 2]))


class Samples(unittest.TestCase):
    def test_the_middle_of_each_part(self):
        lengths = [60, 10, 50, 20, 40, 30]
        batches = [[i] for i in range(6)]
        # Ranked: 10 20 | 30 40 | 50 60; the later one of each pair is its middle.
        self.assertEqual([[0], [3], [4]], peer_plan.sample_batches(batches, lengths, 3))

    def test_in_the_order_of_the_epoch(self):
        ranked = [0, 2, 3, 8, 4, 5, 6, 7, 9, 1, 10, 11]
        lengths = [ranked.index(i) + 1 for i in range(12)]
        batches = [[i] for i in range(12)]
        # Of two halves the middles are 8 and 1.
        self.assertEqual([[1], [8]], peer_plan.sample_batches(batches, lengths, 2))

    def test_all_of_a_short_epoch(self):
        batches = [[0], [1]]
        for count in (0, 2, 40):
            self.assertEqual(batches, peer_plan.sample_batches(batches, [5, 6], count))

    def test_scaling_is_by_padded_positions(self):
        lengths = [10, 20, 30]
        batches = [[0], [1], [2]]
        self.assertEqual(60 / 30, peer_plan.scale_of([[2]], batches, lengths))
        self.assertEqual(1, peer_plan.scale_of(batches, batches, lengths))


class Schedule(unittest.TestCase):
    def test_each_system_stands_next_to_the_baseline(self):
        names = ["base", "a", "b", "c"]
        self.assertEqual(
            [["a", "base"], ["base", "b"], ["c", "base"]], peer_plan.round_schedule(names, "base", 0)
        )
        self.assertEqual(
            [["base", "c"], ["b", "base"], ["base", "a"]], peer_plan.round_schedule(names, "base", 1)
        )

    def test_without_baseline_or_without_others(self):
        self.assertEqual([["a"], ["b"]], peer_plan.round_schedule(["a", "b"], "base", 0))
        self.assertEqual([["base"]], peer_plan.round_schedule(["base"], "base", 0))


class Statistics(unittest.TestCase):
    def test_ratios_are_taken_pair_by_pair(self):
        # The machine was ten times slower in the second pair: the ratio does not move with it.
        pairs = [{"a": 6.0, "base": 2.0}, {"base": 20.0, "a": 80.0}, {"a": 10.0, "base": 2.0}]
        base, a = peer_plan.summarise(["base", "a"], "base", pairs, 10)
        self.assertEqual([3.0, 4.0, 5.0], a["ratios"])
        self.assertEqual({"median": 4.0, "min": 3.0, "max": 5.0}, a["ratio"])
        self.assertEqual({"median": 10.0, "min": 6.0, "max": 80.0}, a["seconds_per_epoch"])
        self.assertEqual(1000.0, a["ms_per_step"]["median"])
        self.assertEqual([2.0, 20.0, 2.0], base["seconds"])
        self.assertNotIn("ratio", base)

    def test_a_peer_against_each_of_cairns_rows(self):
        pairs = [{"a": 6.0, "base": 2.0}, {"base": 2.0, "a": 8.0}, {"a": 12.0, "base": 2.0}]
        pairs += [{"slow": seconds, "base": 2.0} for seconds in (3.0, 4.0, 5.0)]
        entries = peer_plan.summarise(["base", "slow", "a"], "base", pairs, 10)
        expected = {"base": {"ratio": 4.0, "worst": 3.0}, "slow": {"ratio": 8 / 4, "worst": 6 / 5}}
        self.assertEqual({"a": expected}, peer_plan.compare(["a"], ["base", "slow"], entries, "base"))


class Options(unittest.TestCase):
    def test_counts_start_at_one(self):
        for parse, option in (
            (cpu_epoch.parse_arguments, "--repeats"), (cpu_epoch.parse_arguments, "--threads"),
            (whole_process.parse_arguments, "--repeats"),
        ):
            for value in ("0", "-1", "x"):
                errors = io.StringIO()
                with self.assertRaises(SystemExit) as ended, contextlib.redirect_stderr(errors):
                    parse(["aclImdb", option, value])
                self.assertEqual(2, ended.exception.code)
                self.assertIn(f"{option}: must be a whole number from 1", errors.getvalue())


class Run(unittest.TestCase):
    """The whole script, with the workers of the peers replaced."""

    def setUp(self):
        if CAIRN is None:
            self.skipTest("no program given")
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.write_reviews("train")

    def write_reviews(self, part):
        for index in range(12):
            path = self.folder / "aclImdb" / part / ("neg", "pos")[index % 2] / f"{index}_1.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("good film " * (index + 1), encoding="utf-8")

    def enterContext(self, context):  # unittest has it since Python 3.11
        value = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return value

    def run_script(self, worker, *options):
        def command(_, system, folder, entries):
            if system.kind == "onednn":
                return None, "not here"
            return [sys.executable, "-c", worker, str(PEERS), str(folder), str(entries)], ""

        report = self.folder / "report.json"
        words = [str(self.folder / "aclImdb"), "--cairn", CAIRN, "--batch-size", "4", "--json", str(report)]
        self.output = io.StringIO()
        with mock.patch.object(cpu_epoch, "worker_command", command):
            with contextlib.redirect_stdout(self.output), contextlib.redirect_stderr(io.StringIO()):
                cpu_epoch.main([*words, *options])
        return json.loads(report.read_text(encoding="utf-8"))

    def test_a_run(self):
        report = self.run_script(
            FAKE_WORKER, "--only", "cairn,keras-mask,torch-windows", "--repeats", "2",
            "--peer-steps", "1", "--whole", "torch-windows",
        )
        cairn, keras, torch = report["entries"]
        # Lengths 2, 4, ... 24; one window, so batches end at 8, 16 and 24: 4 x 48 positions of a millisecond.
        self.assertEqual([0.192, 0.192], [round(s, 9) for s in torch["seconds"]])
        self.assertEqual((3, False), (torch["steps_measured"], torch["scaled"]))
        # One of three batches, scaled to an epoch of random batches: between 4 x 48 and 4 x (24 + 22 + 20).
        self.assertEqual((1, True), (keras["steps_measured"], keras["scaled"]))
        self.assertTrue(all(0.192 <= s <= 0.264 for s in keras["seconds"]), keras["seconds"])
        self.assertEqual(4, len(cairn["seconds"]))
        self.assertEqual([{"cairn", name} for name in ("keras-mask", "torch-windows")],
                         [set(pair) for pair in report["pairs"][:2]])
        self.assertEqual("agreed", report["ids_checked_against_keras"])
        self.assertEqual("Fake 1.0", torch["versions"])
        self.assertEqual(2 * sum(range(1, 13)), report["data"]["tokens"])
        self.assertIn("1 of 3 steps, scaled", self.output.getvalue())
        worst = min(keras["ratios"])
        self.assertEqual(worst, report["peers_over_cairn"]["keras-mask"]["cairn"]["worst"])
        self.assertIn(f"({worst:.2f})", self.output.getvalue().partition("peer / Cairn's rows")[2])

    def test_waiting_workers_are_stopped(self):
        report = self.run_script(FAKE_WORKER, "--only", "cairn,torch-windows", "--repeats", "3")
        self.assertEqual(0, report["cores_used_by_waiting_workers"]["max"])

    def test_a_system_that_was_asked_for_must_be_there(self):
        with self.assertRaises(SystemExit) as ended:
            self.run_script(FAKE_WORKER, "--only", "cairn,onednn-f32")
        self.assertEqual("onednn-f32: not here", str(ended.exception))

    def test_a_worker_that_ends_is_named(self):
        with self.assertRaises(SystemExit) as ended:
            self.run_script("print('ready x', flush=True); input()", "--only", "cairn,torch-padded")
        self.assertIn("worker torch-padded: ended where 'seconds' was expected", str(ended.exception))

    def test_a_whole_process_and_its_predictions(self):
        self.write_reviews("test")
        report, output = self.folder / "report.json", io.StringIO()
        words = [str(self.folder / "aclImdb"), "--cairn", CAIRN, "--repeats", "1", "--json", str(report)]
        with self.assertRaises(SystemExit), contextlib.redirect_stdout(output):
            whole_process.main(words)
        report = json.loads(report.read_text(encoding="utf-8"))
        self.assertRegex(report["version"], r"^cairn [0-9.]+, revision: \w+")
        self.assertRegex(report["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")
        run, = report["runs"]
        self.assertGreater(run["memory_mb"], 1)
        self.assertEqual([(12, 12), (120, 120)], [(p["lines_in"], p["lines_out"]) for p in run["predict"]])
        for one in run["predict"]:
            self.assertGreater(one["memory_mb"], 1)
            self.assertGreater(one["seconds"], 0)
        self.assertIn("predict, 120 lines: ", output.getvalue())


class Files(unittest.TestCase):
    def test_examples_come_back(self):
        with tempfile.TemporaryDirectory() as folder:
            peer_worker.Examples.write(folder, [[5, 6, 7], [8]], [1, 0])
            examples = peer_worker.Examples(folder)
        self.assertEqual([5, 6, 7, 8], list(examples.ids))
        self.assertEqual([3, 1], list(examples.lengths))
        self.assertEqual([0, 3, 4], examples.begins)
        self.assertEqual([1, 0], list(examples.labels))


if __name__ == "__main__":
    os.environ.pop("OMP_WAIT_POLICY", None)
    unittest.main()
