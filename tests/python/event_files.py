"""Event files read by TensorBoard's own loaders, against history.jsonl, config.ini and the weights.

    event_files.py CAIRN

Three loaders: EventAccumulator (what scripts use), the accumulator behind `tensorboard --load_fast=false`,
and the data server, which `tensorboard` uses by default and which here watches the directory over all
restarts.
"""

import glob
import html.parser
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import types
import unittest

# TensorBoard's own file reader, not TensorFlow's where that is installed too: it takes seconds to load.
sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")

import numpy as np
from safetensors.numpy import load as load_safetensors
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.compat.proto import graph_pb2
from tensorboard.context import RequestContext
from tensorboard.data import provider as provider_module
from tensorboard.data import server_ingester
from tensorboard.plugins.histogram import summary_v2 as histogram_summary
from tensorboard.plugins.text import text_plugin
from tensorboard.util import grpc_util, tensor_util

CAIRN = sys.argv.pop(1)
ALL = {"scalars": 0, "tensors": 0}
BATCHES = 13  # per epoch
TIMED = ("checkpoint/", "global_step/sec")  # tags whose values differ from run to run
TIMEOUT = 60.0


def write_data(path, examples, seed):
    words = "film plot music actor scene story ending cast".split()
    draw = random.Random(seed)
    with open(path, "w", encoding="utf-8") as out:
        out.write("text,label\n")
        for _ in range(examples):
            label = draw.randrange(2)
            mood = ["dull", "poor"] if label == 0 else ["great", "fine"]
            out.write(" ".join(draw.sample(words, 5) + [draw.choice(mood)]) + f",{label}\n")


def history(directory, event):
    with open(os.path.join(directory, "history.jsonl"), encoding="utf-8") as lines:
        events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [e for e in events if e["event"] == event]


def last_step(directory):
    try:
        return max((e["step"] for e in history(directory, "step")), default=0)
    except FileNotFoundError:
        return 0


def accumulate(directory):
    """{tag: [(step, value)]} of one directory by EventAccumulator."""
    loaded = event_accumulator.EventAccumulator(directory, size_guidance=ALL).Reload()
    return {tag: [(e.step, e.value) for e in loaded.Scalars(tag)] for tag in loaded.Tags()["scalars"]}


def accumulate_plugin(directory):
    """The same by the accumulator of the server."""
    loaded = plugin_event_accumulator.EventAccumulator(
        directory, size_guidance={"tensors": 0}, tensor_size_guidance={"scalars": 0}
    ).Reload()
    tags = loaded.PluginTagToContent("scalars")
    return {
        tag: [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in loaded.Tensors(tag)]
        for tag in tags
    }


class DataServer:
    """The server's own process; closed with this one."""

    def __init__(self, directory):
        try:
            binary = server_ingester.get_server_binary()
        except server_ingester.NoDataServerError as error:  # there is none for this processor
            if os.environ.get("CI") == "true":
                raise
            print(f"SKIPPED: the comparison with TensorBoard's data server: {error}", file=sys.stderr)
            self.provider = None
            return
        ingester = server_ingester.SubprocessServerDataIngester(
            binary, directory, reload_interval=1, channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
            samples_per_plugin={"scalars": 0},
        )
        ingester.start()
        self.ingester, self.provider = ingester, ingester.data_provider

    def close(self):
        if self.provider:
            self.ingester._stdin_handle.close()  # it ends with its standard input

    def scalars(self, run):
        read = self.provider.read_scalars(
            RequestContext(), experiment_id="", plugin_name="scalars", downsample=1000000,
            run_tag_filter=provider_module.RunTagFilter(runs=[run]),
        )
        return {tag: [(p.step, p.value) for p in points] for tag, points in read.get(run, {}).items()}

    def wait_for(self, run, expected):
        """Until it has read what is in the files."""
        end = time.monotonic() + TIMEOUT
        while self.scalars(run) != expected and time.monotonic() < end:
            time.sleep(0.1)
        return self.scalars(run)


class Rows(html.parser.HTMLParser):
    """Cells of the table that the Text tab draws, row by row."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


class TensorBoard(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.join(folder.name, 200 * "x")  # more than a line of config.ini holds
        os.makedirs(self.folder)
        self.data = os.path.join(self.folder, "some_*data* <&.csv")  # Markdown must not see any of it
        self.validation = os.path.join(self.folder, "validation.csv")
        write_data(self.data, 32 * BATCHES, 1)
        write_data(self.validation, 96, 2)

    def command(self, directory, *more):
        sizes = "--embedding-size 8 --hidden-size 8 --dense-size 8 --batch-size 32 --learning-rate 1e-3"
        logs = "--log-step-count-steps 5 --save-summary-steps 5 --progress none --patience none"
        return [CAIRN, "train", "--data", self.data, "--validation-data", self.validation, "--model-dir",
                directory, *sizes.split(), *logs.split(), "--epochs", "1000000", *more]

    def train(self, directory, *more):
        done = subprocess.run(self.command(directory, *more), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def interrupt(self, directory, step, number, *more):
        """Train until `step` is logged, then send the signal."""
        with subprocess.Popen(self.command(directory, *more), stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + TIMEOUT
            while last_step(directory) < step and process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            process.send_signal(number)
        self.assertEqual(process.returncode, 75 if number == signal.SIGTERM else -number)
        self.assertGreaterEqual(last_step(directory), step)

    def runs(self, directory):
        return os.path.join(directory, "train"), os.path.join(directory, "validation")

    def check_equals_history(self, directory):
        """Every curve of the history is there, every step once, equal to the last bit of a float."""
        train, validation = (accumulate(run) for run in self.runs(directory))
        for run, scalars in zip(self.runs(directory), (train, validation)):
            for tag, points in scalars.items():
                steps = [step for step, _ in points]
                self.assertEqual(steps, sorted(set(steps)), f"{run} {tag}")
            self.assertEqual(accumulate_plugin(run), scalars)
        def curve(events, x, y):
            return [(e[x], float(np.float32(e[y]))) for e in events]
        steps, epochs = history(directory, "step"), history(directory, "epoch")
        self.assertGreater(len(epochs), 1)
        self.assertEqual(train["loss"], curve(steps, "step", "loss"))
        self.assertEqual([s for s, _ in train["accuracy"]], [e["step"] for e in steps])
        for name in ("loss", "accuracy"):
            self.assertEqual(train[f"epoch_{name}"], curve(epochs, "epoch", name))
            self.assertEqual(validation[f"epoch_{name}"], curve(epochs, "epoch", "val_" + name))
            by_step = curve(epochs, "step", "val_" + name)
            self.assertEqual(validation[f"evaluation_{name}_vs_iterations"], by_step)
            self.assertEqual(validation[name], by_step)
        rate = float(np.float32(1e-3))
        self.assertEqual(train["epoch_learning_rate"], [(e["epoch"], rate) for e in epochs])
        return train, validation

    def test_straight_run(self):
        run = os.path.join(self.folder, "run")
        files = os.path.join(self.folder, "epoch-{epoch}.safetensors.zst")
        self.train(run, "--max-steps", str(3 * BATCHES), "--histogram-freq", "2", "--save-checkpoints-steps",
                   "10", "--checkpoint-filepath", files, "--save-weights-only")
        train, validation = self.check_equals_history(run)
        self.assertEqual(set(validation), {
            "epoch_loss", "epoch_accuracy", "loss", "accuracy", "evaluation_loss_vs_iterations",
            "evaluation_accuracy_vs_iterations"})
        self.assertEqual(set(train), {
            "epoch_loss", "epoch_accuracy", "epoch_learning_rate", "loss", "accuracy", "global_step/sec",
            "checkpoint/stall_us", "checkpoint/durable_ms", "checkpoint/bytes"})
        last = [value for step, value in train["accuracy"] if step == 35][0]
        self.assertAlmostEqual(last * 9 * 32, round(last * 9 * 32), places=4)  # mean of the epoch so far
        self.check_rates(run, train["global_step/sec"])
        self.check_saves(run, train)
        loaded = event_accumulator.EventAccumulator(self.runs(run)[0], size_guidance=ALL).Reload()
        self.check_graph(loaded)
        self.check_options(run, loaded)
        self.check_histograms(loaded, files)

    def check_rates(self, run, rates):
        steps = history(run, "step")
        self.assertEqual([step for step, _ in rates], [e["step"] for e in steps])
        for (_, rate), event in zip(rates, steps):
            self.assertAlmostEqual(rate * 32 / event["examples_per_second"], 1.0, places=6)

    def check_saves(self, run, train):
        saves = {}
        for save in history(run, "save"):
            saves.setdefault(save["step"], save)
        self.assertGreater(len(saves), 3)
        for key in ("stall_us", "durable_ms", "bytes"):
            expected = [(step, float(np.float32(saves[step][key]))) for step in sorted(saves)]
            self.assertEqual(train[f"checkpoint/{key}"], expected)

    def check_graph(self, loaded):
        graph = graph_pb2.GraphDef.FromString(loaded.Graph().SerializeToString())
        nodes = {node.name: node for node in graph.node}
        self.assertEqual(len(nodes), len(graph.node))
        for node in graph.node:
            for name in node.input:
                self.assertIn(name, nodes)
        def shape(name):
            return [dim.size for dim in nodes[name].attr["_output_shapes"].list.shape[0].dim]
        self.assertEqual(shape("embedding/weight"), [14, 8])  # 12 words and two special entries
        self.assertEqual(shape("lstm/weight_hh_l0_reverse"), [32, 8])
        self.assertEqual(shape("lstm/concat"), [-1, 16])
        self.assertEqual(shape("output/BiasAdd"), [-1, 1])
        seen, left = set(), ["loss/mean"]
        while left:
            seen.add(left[0])
            left = left[1:] + [name for name in nodes[left[0]].input if name not in seen]
        weights = {name for name, node in nodes.items() if node.op == "Variable"}
        self.assertEqual(len(weights), 11)
        self.assertLessEqual(weights | {"inputs/tokens", "inputs/lengths", "inputs/labels"}, seen)

    def check_options(self, run, loaded):
        points = loaded.Tensors("options")
        self.assertEqual([point.step for point in points], [0])
        table = Rows()
        table.feed(text_plugin.text_array_to_html(tensor_util.make_ndarray(points[0].tensor_proto), True))
        with open(os.path.join(run, "config.ini"), encoding="utf-8") as lines:
            expected = []
            for line in lines:
                if line[0] == " ":
                    expected[-1][1] += "\n" + line.strip()
                else:
                    name, _, value = line.rstrip("\n").partition(" =")
                    expected.append([name, value.removeprefix(" ")])
        self.assertGreater(len(expected), 50)
        self.assertEqual(table.rows, expected)
        self.assertIn("\\\n", dict(expected)["data"])

    def check_histograms(self, loaded, files):
        tags = [tag for tag in loaded.Tags()["tensors"] if tag.endswith("/histogram")]
        self.assertEqual(len(tags), 11)
        for tag in tags:
            self.assertEqual([point.step for point in loaded.Tensors(tag)], [0, 2])
        for index, epoch in enumerate((0, 2)):
            unpacked = subprocess.run(["zstd", "-dc", files.format(epoch=epoch + 1)], capture_output=True,
                                      check=True).stdout
            weights = load_safetensors(unpacked)
            for tag in tags:
                name = tag.removesuffix("/histogram").replace("/", ".")
                point = loaded.Tensors(tag)[index]
                expected = histogram_summary.histogram_pb(tag, weights[name]).value[0]
                self.assertEqual(loaded.SummaryMetadata(tag).plugin_data.plugin_name, "histograms")
                found = tensor_util.make_ndarray(point.tensor_proto)
                wanted = tensor_util.make_ndarray(expected.tensor)
                np.testing.assert_array_equal(found[:, 2], wanted[:, 2])
                np.testing.assert_allclose(found[:, :2], wanted[:, :2], rtol=1e-12, atol=1e-15)

    def test_restarts(self):
        whole, run = os.path.join(self.folder, "whole"), os.path.join(self.folder, "run")
        server = DataServer(run)
        self.addCleanup(server.close)
        os.makedirs(run)
        self.train(run, "--max-steps", "40")
        self.check_equals_history(run)

        # Killed far behind the only checkpoint: epochs and steps are lost and come once more.
        self.interrupt(run, 150, signal.SIGKILL, "--save-checkpoints-secs", "0")
        lost = accumulate(self.runs(run)[1])
        self.assertGreater(lost["loss"][-1][0], 100)
        self.assertGreater(len(lost["epoch_loss"]), 7)
        watcher = event_accumulator.EventAccumulator(self.runs(run)[0], size_guidance=ALL).Reload()
        self.assertGreater(watcher.Scalars("loss")[-1].step, 100)
        self.train(run, "--max-steps", "45")  # before the next epoch ends: what it cut is seen
        self.assertEqual([step for step, _ in accumulate(self.runs(run)[1])["loss"]], [13, 26, 39])
        # One that had read them goes by the restart marker: it keeps what the marker does not name.
        steps = [event.step for event in watcher.Reload().Scalars("loss")]
        self.assertEqual(steps, list(range(5, 46, 5)))
        self.check_equals_history(run)

        # Killed with newer checkpoints; stopped.
        often = "--save-checkpoints-steps", "30", "--checkpoint-busy", "wait"
        self.interrupt(run, 120, signal.SIGKILL, *often)
        self.interrupt(run, last_step(run) + 20, signal.SIGTERM, *often)
        self.check_equals_history(run)
        end = last_step(run) + 2 * BATCHES
        self.train(run, "--max-steps", str(end), *often)
        self.train(whole, "--max-steps", str(end))
        self.check_same(run, whole, server)

        # Back to a checkpoint in the middle of an epoch: one of which the history tells, since a kill may come
        # between a checkpoint and the line about it.
        told = {save["step"] for save in history(run, "save")}
        step = min(step for step in told.intersection(self.saved_steps(run, 46))
                   if step % 30 == 0 and step % BATCHES > 0)
        self.assertLess(step, end - BATCHES)
        back = os.path.join(run, f"model.ckpt-{step}.safetensors.zst")
        self.train(run, "--max-steps", str(step + 5), "--resume", back)
        self.check_equals_history(run)
        train = accumulate(self.runs(run)[0])
        self.assertLess(train["loss"][-1][0], step + 6)
        # What became of that save was written later than what came after it, and is there all the same.
        self.assertIn(step, [at for at, _ in train["checkpoint/bytes"]])
        self.train(run, "--max-steps", str(end))
        self.check_same(run, whole, server)

        # Back to a checkpoint between the last step of an epoch and its validation, which comes once more.
        self.train(run, "--max-steps", str(end + 3 * BATCHES), "--save-checkpoints-steps", str(BATCHES))
        step = min(step for step in self.saved_steps(run, end + 1) if step % BATCHES == 0)
        back = os.path.join(run, f"model.ckpt-{step}.safetensors.zst")
        self.train(run, "--max-steps", str(step + 3), "--resume", back)
        train, validation = self.check_equals_history(run)
        self.assertEqual(validation["loss"][-1][0], step)
        self.assertEqual(train["epoch_loss"][-1][0], step // BATCHES - 1)
        self.check_files(run)

    def test_a_checkpoint_never_overtakes_its_events(self):
        run = os.path.join(self.folder, "run")
        command = self.command(run, "--data", "demo", "--validation-data", "none", "--batch-size", "1",
                               "--hidden-size", "64", "--save-checkpoints-steps", "20")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + TIMEOUT
            while time.monotonic() < end and not self.saved_steps(run, 40):
                time.sleep(0.001)
            process.kill()
        newest = max(self.saved_steps(run, 40))  # in the middle of the first epoch
        steps = [step for step, _ in accumulate(self.runs(run)[0])["loss"]]
        self.assertEqual(steps[: newest // 5], list(range(5, newest + 1, 5)))

    def test_a_start_that_writes_none_goes_back_too(self):
        run = os.path.join(self.folder, "run")
        often = "--save-checkpoints-steps", "20", "--keep-checkpoint-max", "0", "--checkpoint-busy", "wait"
        self.train(run, "--max-steps", "60", *often)
        def back(step, *more):
            name = f"model.ckpt-{step}.safetensors.zst"
            self.train(run, "--max-steps", str(step + 1), "--resume", name, "--allow-change", *more)
            return [accumulate(directory) for directory in self.runs(run)]
        train, validation = back(40, "--validation-data", "none")
        self.assertEqual(train["loss"][-1][0], 40)
        self.assertEqual([step for step, _ in validation["loss"]], [13, 26, 39])
        files = [len(os.listdir(directory)) for directory in self.runs(run)]
        train, validation = back(20, "--tensorboard", "off")
        self.assertEqual([step for step, _ in train["loss"]], [5, 10, 15, 20])
        self.assertEqual([step for step, _ in train["checkpoint/bytes"]], [0, 13, 20])
        self.assertEqual([step for step, _ in validation["epoch_loss"]], [0])
        self.assertEqual([len(os.listdir(directory)) for directory in self.runs(run)], files)

    def test_a_run_that_begins_anew_empties_what_was_there(self):
        run = os.path.join(self.folder, "run")
        said = self.train(run, "--max-steps", "20", "--progress", "lines")
        self.assertNotIn("were emptied", said)
        for name in glob.glob(os.path.join(run, "*.zst")):
            os.remove(name)
        said = self.train(run, "--max-steps", "10", "--progress", "lines", "--validation-data", "none")
        self.assertEqual(said.count("the earlier event files were emptied"), 1, said)
        train, validation = (accumulate(directory) for directory in self.runs(run))
        self.assertEqual([step for step, _ in train["loss"]], [5, 10])
        self.assertEqual(validation, {})

    def test_directories_of_others_are_not_followed(self):
        theirs, run = os.path.join(self.folder, "theirs"), os.path.join(self.folder, "run")
        self.train(theirs, "--max-steps", "20")
        before = accumulate(self.runs(theirs)[0])
        os.makedirs(run)
        os.symlink(self.runs(theirs)[0], self.runs(run)[0])
        said = self.train(run, "--max-steps", "14", "--progress", "lines")
        self.assertEqual(said.count("train is a symbolic link"), 1, said)
        self.assertIn("or pass --tensorboard off", said)
        self.assertEqual(accumulate(self.runs(theirs)[0]), before)

    def saved_steps(self, run, least):
        names = [os.path.basename(name) for name in glob.glob(os.path.join(run, "model.ckpt-*"))]
        return [step for step in (int(n.split("-")[1].split(".")[0]) for n in names) if step >= least]

    def check_same(self, run, whole, server):
        """The curves are those of the run that was never stopped; in the server's memory too."""
        self.check_equals_history(run)
        for ours, theirs in zip(self.runs(run), self.runs(whole)):
            found, expected = accumulate(ours), accumulate(theirs)
            for tag in expected:
                if not tag.startswith(TIMED):
                    self.assertEqual(found[tag], expected[tag], f"{ours} {tag}")
            if server.provider:
                self.assertEqual(server.wait_for(os.path.basename(ours), found), found)

    def check_files(self, run):
        """One file and one start marker per start; the graph once; nothing of it taken for a checkpoint."""
        for directory in self.runs(run):
            names = sorted(glob.glob(os.path.join(directory, "*")))
            self.assertGreater(len(names), 5)
            for name in names:
                self.assertIn("events.out.tfevents.", name)
        graphs = 0
        for name in glob.glob(os.path.join(self.runs(run)[0], "*")):
            with open(name, "rb") as file:
                graphs += b"SigmoidCrossEntropyWithLogits" in file.read()
        self.assertEqual(graphs, 1)
        listed = subprocess.run([CAIRN, "checkpoints", "--model-dir", run, "--verify"], capture_output=True,
                                text=True)
        self.assertEqual(listed.returncode, 0, listed.stderr)
        self.assertNotIn("tfevents", listed.stdout + listed.stderr)

    def test_off_and_sparse(self):
        run = os.path.join(self.folder, "off")
        self.train(run, "--max-steps", "14", "--tensorboard", "off")
        self.assertEqual([n for n in os.listdir(run) if n in ("train", "validation")], [])
        self.train(run, "--max-steps", "30", "--save-summary-steps", "7")
        self.assertEqual([step for step, _ in accumulate(self.runs(run)[0])["loss"]], [21, 28])
        blocked = os.path.join(self.folder, "blocked")
        os.makedirs(blocked)
        with open(os.path.join(blocked, "train"), "w", encoding="utf-8"):
            pass
        said = self.train(blocked, "--max-steps", "14", "--progress", "lines")
        self.assertEqual(said.count("event files for TensorBoard are not written"), 1, said)
        self.assertEqual(len(history(blocked, "end")), 1)
        alone = os.path.join(self.folder, "alone")
        self.train(alone, "--max-steps", "14", "--save-summary-steps", "0", "--validation-data", "none")
        self.assertNotIn("loss", accumulate(self.runs(alone)[0]))
        self.assertFalse(os.path.exists(self.runs(alone)[1]))


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # those of the packages
