#!/usr/bin/env python3
"""bench/peers/checkpoint.py with a made-up Cairn and made-up workers: what is asked of whom, in which order,
and what becomes of the answers. tests/python/checkpoint_peers.py runs the real ones.

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

import checkpoint  # pylint: disable=wrong-import-position

# Notes the tensors that it is given, then its orders. Save n of its life blocks for n ms and takes 10 n ms in
# all.
WORKER = """
import json, os, sys
kind, log = sys.argv[1], open(os.environ["ORDERS"], "a")
with open(sys.argv[3]) as checkpoint:
    print(kind, "has", checkpoint.read(), file=log, flush=True)
savers = {"torch": ["torch_save", "torch_load"], "keras": ["keras_backup"]}[kind]
print(json.dumps({"bytes": 24000000, "version": "Made-up " + kind, "savers": savers}), flush=True)
saves = 0
for line in sys.stdin:
    order = json.loads(line)
    print(kind, order["saver"], order["saves"], order["steps_seconds"], file=log, flush=True)
    if order["saver"] == os.environ.get("DIES"):
        sys.exit("it hurts")
    times = []
    for _ in range(order["saves"]):
        if order["saver"] == "torch_load":
            times.append([{"first": 0.5, "copied": 0.25, "later": [0.2, 0.1, 0.3]}, None])
        else:
            saves += 1
            times.append([0.001 * saves, 0.01 * saves])
    print(json.dumps({"times": times}), flush=True)
"""

# Notes after how many steps it saves, and whether it keeps its state. A save takes 110 ms, the longest
# SAVE_MS, and 30 ms to clean up; training waits 100 us for each in the first mode, 101 us in the second and
# so on, and 200 us for the last. Its CSV has lines of other kinds, too.
CAIRN = f"""#!{sys.executable}
import json, os, pathlib, sys
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
assert sys.argv[1:3] == ["bench", "checkpoint"] and os.path.isdir(options["--dir"]), sys.argv
if "CAIRN_SAYS" in os.environ:
    sys.exit(os.environ["CAIRN_SAYS"])
with open(os.environ["ORDERS"], "a") as log:
    if "--keep-state" in options:
        state = pathlib.Path(options["--keep-state"])
        assert state.parent.samefile(options["--dir"]), sys.argv
        state.write_text(f"Cairn's {{options['--sizes']}} MB")
    keeps = ["keeps"] if "--keep-state" in options else []
    print("cairn", options["--modes"], options["--sizes"], options["--intervals"], *keeps, file=log)
saves = options["--saves"]
with open(options["--csv"], "w") as csv:
    print("kind,mode,durable_p50_ms,durable_max_ms,retain_ms,saves_asked,saves_done,saves_delayed", file=csv)
    for mode in options["--modes"].split(","):
        done = 0 if mode == os.environ.get("SKIPS") else saves
        longest = os.environ.get("SAVE_MS", "120")
        print(f"repeat,{{mode}},110,{{longest}},30,{{saves}},{{done}},0", file=csv)
        print(f"all repeats,{{mode}},,{{longest}},30,{{saves}},{{done}},0", file=csv)
    print("restore,,,,,,,", file=csv)
with open(options["--stalls"], "w") as stalls:
    print("storage,state,mode,interval,repeat,stall_us,stall_cpu_us", file=stalls)
    for number, mode in enumerate(options["--modes"].split(",")):
        for save in range(int(saves) if mode != "off" else 0):
            wait = 200 if save + 1 == int(saves) else 100 + number
            print(f"dir,24 MB,{{mode}},1,1,{{wait}},1", file=stalls)
figures = [{{"section": "dir, 24 MB, restore, warm", "name": "whole", "median": 90.0}}]
if os.environ.get("ROOM") == "none":
    figures = []
with open(options["--json"], "w") as out:
    json.dump({{"version": "0.1", "revision": "0123456789ab", "figures": figures}}, out)
"""


def rounded(value):
    return [round(one, 6) for one in value] if isinstance(value, list) else value and round(value, 6)


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "saves").mkdir()
        worker, cairn = self.folder / "worker.py", self.folder / "cairn"
        worker.write_text(WORKER, encoding="utf-8")
        cairn.write_text(CAIRN, encoding="utf-8")
        cairn.chmod(0o755)
        self.enterContext(mock.patch.object(checkpoint, "WORKER", worker))
        self.words = ["--cairn", str(cairn), "--dir", str(self.folder / "saves"),
            "--json", str(self.folder / "report.json"), "--megabytes", "24", "--step-ms", "10"]

    def enterContext(self, context):  # unittest has it since Python 3.11
        value = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return value

    def run_script(self, *options, kinds=("torch", "keras"), **environment):
        self.output, self.errors = io.StringIO(), io.StringIO()
        workers = [word for kind in kinds for word in (f"--{kind}-python", sys.executable)]
        environment["ORDERS"] = str(self.folder / "orders")
        with mock.patch.dict(os.environ, environment):
            with contextlib.redirect_stdout(self.output), contextlib.redirect_stderr(self.errors):
                checkpoint.main([*self.words, *workers, *options])
        self.assertEqual([], list((self.folder / "saves").iterdir()))
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    def ended(self, *options, **environment):
        """What a run says that ends by itself, which is an exit code of 1."""
        with self.assertRaises(SystemExit) as ended:
            self.run_script(*options, **environment)
        self.assertEqual([], list((self.folder / "saves").iterdir()))
        self.assertFalse((self.folder / "report.json").exists())
        self.assertIsInstance(ended.exception.code, str)
        return ended.exception.code

    def orders(self):
        """Those that come after every worker has been given its tensors."""
        lines = (self.folder / "orders").read_text(encoding="utf-8").splitlines()
        self.beginning = [line for line in lines if " has " in line or line.endswith(" keeps")]
        self.assertEqual(sorted(lines[: len(self.beginning)]), sorted(self.beginning))
        return lines[len(self.beginning) :]

    def line(self, name):
        line, = (line for line in self.output.getvalue().splitlines() if line.startswith(f"{name}  "))
        return line[len(name) :].split()

    def test_a_run(self):
        report = self.run_script("--rounds", "3", "--saves", "3")
        # 50 + 3 x 24 ms are 13 steps of 10 ms; 120 + 30 ms are more, and less than half as many again.
        cairn = "cairn sync+zstd,async,async+zstd 24 "
        self.assertEqual(
            ["torch torch_save 2 0.0", "keras keras_backup 2 0.0"]
            + [cairn + "13", cairn + "20"]
            + ["torch torch_save 3 0.2", "keras keras_backup 3 0.2", "torch torch_load 1 0.0"]
            + ["torch torch_load 1 0.0", "keras keras_backup 3 0.2", "torch torch_save 3 0.2", cairn + "20"]
            + ["torch torch_save 3 0.2", "keras keras_backup 3 0.2", "torch torch_load 1 0.0", cairn + "20"],
            self.orders())
        self.assertEqual((24.0, 3, 3, 10.0, 20, 1), tuple(
            report[key] for key in ("megabytes", "rounds", "saves", "step_ms", "interval", "made again")))
        self.assertEqual({"torch": "Made-up torch", "keras": "Made-up keras"}, report["versions"])
        # The first two saves do not count: 3, 4 and 5 in the first round, then 6 to 8, then 9 to 11.
        self.assertEqual(
            [{"p50": p50, "p99": None, "max": p50 + 1, "total": 10 * p50, "blocked": [p50 - 1, p50, p50 + 1]}
             for p50 in (4, 7, 10)],
            [{key: rounded(value) for key, value in one.items()}
             for one in report["results"]["torch.save + fsync + rename"]])
        self.assertEqual(
            [{"p50": 0.102, "p99": None, "max": 0.2, "total": 110.0, "blocked": [0.102, 0.102, 0.2]}] * 3,
            report["results"]["cairn async+zstd"])
        # The longest of all saves, not of the round in the middle.
        self.assertEqual(["7.000", "-", "-", "11.000", "70.00", "(40.00", "to", "100.00)"],
            self.line("torch.save + fsync + rename"))
        self.assertEqual({"p99": None, "max": 11.0}, report["all rounds"]["torch.save + fsync + rename"])
        self.assertEqual(("0.1", "0123456789ab"), (report["version"], report["revision"]))
        self.assertRegex(report["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")
        self.assertEqual("not synced to the disk".split(), self.line("Keras BackupAndRestore")[-5:])
        self.assertIn("a save every 20 steps of 10 ms; rounds of Cairn's made again: 1\n", self.output.getvalue())
        rows = self.output.getvalue().splitlines()[4:]
        self.assertEqual([False] * 5 + [True] * 4, [row.startswith("restore: ") for row in rows])
        self.assertIn(" s, round 2 of 3: torch.save + fsync + rename\n", self.errors.getvalue())
        self.assertIn(" s, a save (async, async+zstd) had not ended when the next one was due: again with "
            "one every 20 steps\n", self.errors.getvalue())

    def test_rounds_have_a_p99_together(self):
        report = self.run_script("--rounds", "3", "--saves", "40", kinds=("torch",))
        # 3 to 122: the first two do not count. 118.8 of 120 are 99 %.
        self.assertEqual([None] * 3, [one["p99"] for one in report["results"]["torch.save + fsync + rename"]])
        self.assertEqual({"p99": 121.0, "max": 122.0}, report["all rounds"]["torch.save + fsync + rename"])
        self.assertEqual(["62.000", "121.000", "-", "122.000"], self.line("torch.save + fsync + rename")[:4])
        self.assertEqual(["0.101", "0.200", "-", "0.200"], self.line("cairn async")[:4])

    def test_as_many_saves_as_a_p99_needs_are_the_default(self):
        self.run_script(kinds=("torch",))
        self.assertNotIn("-", self.line("cairn async")[:2])

    def test_all_save_the_tensors_that_cairn_has_made_up(self):
        self.run_script("--rounds", "1", "--saves", "0")
        self.orders()
        self.assertEqual("cairn off 24 1 keeps", self.beginning[0])
        self.assertEqual(["keras has Cairn's 24 MB", "torch has Cairn's 24 MB"], sorted(self.beginning[1:]))
        self.assertIn(" s, making the tensors that all save, 24 MB\n", self.errors.getvalue())

    def test_a_checkpoint_that_the_peers_save(self):
        given = self.folder / "given"
        given.write_text("a model's", encoding="utf-8")
        report = self.run_script("--rounds", "1", "--saves", "0", "--megabytes", "7", "--checkpoint",
            str(given))
        self.assertEqual("cairn off 24 1", self.orders()[0])  # of as many bytes as the workers have read
        self.assertEqual(24.0, report["megabytes"])
        self.assertEqual(["keras has a model's", "torch has a model's"], sorted(self.beginning))
        self.assertEqual("a model's", given.read_text(encoding="utf-8"))

    def test_there_must_be_a_peer(self):
        with self.assertRaises(SystemExit) as ended:
            self.run_script("--rounds", "1", "--saves", "0", kinds=())
        self.assertEqual(2, ended.exception.code)
        self.assertIn("call bench/peers/checkpoint.sh", self.errors.getvalue())
        self.assertFalse((self.folder / "orders").exists())

    def test_a_report_that_cannot_be_written(self):
        for path in (self.folder, self.folder / "none" / "report.json"):
            with self.assertRaises(SystemExit) as ended:
                self.run_script("--json", str(path))
            self.assertEqual(2, ended.exception.code)
            self.assertIn(f"{path} cannot be written: ", self.errors.getvalue())
            self.assertFalse((self.folder / "orders").exists())

    def test_an_older_report_stays_until_there_is_a_new_one(self):
        (self.folder / "old.json").write_text("old", encoding="utf-8")
        with self.assertRaises(SystemExit):
            self.run_script("--json", str(self.folder / "old.json"), CAIRN_SAYS="no such luck")
        self.assertEqual("old", (self.folder / "old.json").read_text(encoding="utf-8"))

    def test_saves_that_never_end_in_time(self):
        # 13, 20, 30, 45 and 68 steps are not enough.
        said = self.ended("--rounds", "1", "--saves", "1", SAVE_MS="651")
        self.assertIn("pass a longer --step-ms", said)
        self.assertEqual(["13", "20", "30", "45", "68"],
            [line.split()[-1] for line in self.orders() if line.startswith("cairn")])

    def test_a_skipped_save_is_one_that_came_too_early(self):
        self.ended("--rounds", "1", "--saves", "2", SAVE_MS="1", SKIPS="async")
        self.assertIn("a save (async) had not ended", self.errors.getvalue())

    def test_restores_only(self):
        report = self.run_script("--rounds", "2", "--saves", "0")
        self.assertEqual(["cairn off 24 1", "torch torch_load 1 0.0", "torch torch_load 1 0.0",
            "cairn off 24 1"], self.orders())
        self.assertEqual({"restore: cairn, verified": [{"total": 90.0}] * 2,
            "restore: torch.load": [{"total": 500.0}] * 2,
            "restore: torch.load, copied": [{"total": 750.0}] * 2,
            "restore: torch.load, later ones": [{"total": 200.0}] * 2}, report["results"])
        self.assertEqual(["90.00", "(90.00", "to", "90.00)"], self.line("restore: cairn, verified"))

    def test_a_worker_that_ends(self):
        said = self.ended("--rounds", "1", "--saves", "1", DIES="keras_backup")
        self.assertIn("it hurts\n", said)
        self.assertIn("checkpoint.sh: the keras worker ended with exit code 1", said)

    def test_a_worker_that_cannot_begin(self):
        (self.folder / "worker.py").write_text("import sys; sys.exit(7)", encoding="utf-8")
        said = self.ended("--saves", "1", kinds=("torch",))
        self.assertIn("the torch worker ended with exit code 7", said)

    def test_a_cairn_that_fails(self):
        said = self.ended("--saves", "0", CAIRN_SAYS="no such luck")
        self.assertEqual("no such luck\ncheckpoint.sh: cairn ended with exit code 1", said)

    def test_a_cairn_that_measures_nothing(self):
        self.assertIn("too little room", self.ended("--saves", "0", ROOM="none"))

    def test_no_cairn(self):
        said = self.ended("--saves", "0", "--cairn", str(self.folder / "none"))
        self.assertIn("none cannot be started: No such file or directory", said)

    def test_options(self):
        for option, value, message in (
            ("--rounds", "0", "0: must be a number from 1"), ("--saves", "-1", "-1: must be a number from 0"),
            ("--saves", "x", "x: must be a number from 0"),
            ("--step-ms", "nan", "nan: must be a number from 1"),
            ("--megabytes", "inf", "inf: must be a number from 0.01"),
            ("--dir", str(self.folder / "none"), "no such directory"),
        ):
            errors = io.StringIO()
            with self.assertRaises(SystemExit) as ended, contextlib.redirect_stderr(errors):
                checkpoint.main([option, value])
            self.assertEqual(2, ended.exception.code)
            self.assertIn(message, errors.getvalue())


class Turns(unittest.TestCase):
    def test_nobody_always_comes_after_the_same_one(self):
        names, neighbours = ["a", "b", "c"], []
        for index in range(6):
            order = checkpoint.turn(names, index)
            self.assertEqual(names, sorted(order))
            neighbours += zip(order, order[1:])
        self.assertEqual(6, len(set(neighbours)), "everyone comes after everyone else")
        self.assertEqual([2] * 6, [neighbours.count(pair) for pair in sorted(set(neighbours))])


class Percentiles(unittest.TestCase):
    def test_nearest_rank(self):
        times = list(range(100, 0, -1))
        self.assertEqual({"p50": 50, "p99": 99, "max": 100, "total": 7, "blocked": times},
            checkpoint.describe(times, 7))
        self.assertIsNone(checkpoint.describe(times[1:], 7)["p99"])
        self.assertEqual(7, checkpoint.percentile([9, 7], 50))


if __name__ == "__main__":
    unittest.main()
