"""PyTorch's bidirectional nn.LSTM(64, 64), batch of 64: microseconds forward and backward.

    torch_lstm.py [--lengths-from OPS.json] [--json FILE] [--quick] [--device cuda|cpu]

The container of the lengths decides what cuDNN runs: `padded` tensors get its fast algorithm for small
hidden sizes, a PackedSequence the standard one (aten/src/ATen/native/cudnn/RNN.cpp). Measured:
    padded, uniform     all sequences T steps, for several T
    padded, <set>       ragged lengths, padded to the longest (the padding is computed, too)
    packed, <set>       the same lengths as a PackedSequence
each in fp32 with TF32 off and on. Lengths come from the JSON that `cairn bench ops` writes
(`length_sets`), so that both sides see the same batches; without it only uniform ones are measured.

Times: CUDA events around several repetitions, medians of interleaved samples. `forward` keeps what
backward needs. `backward` is the gradient of the sum of the outputs with respect to inputs and
weights. Embedding and head are not part of it; Cairn's lstm_forward includes the products with W_ih, as
nn.LSTM does.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import sys
import time

import torch

SIZE = 64
BATCH = 64


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths-from", type=pathlib.Path, help="JSON of `cairn bench ops`")
    parser.add_argument("--json", type=pathlib.Path, help="write the results here")
    parser.add_argument("--repeats", type=int, default=7, help="samples (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="short sequences, few repeats")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    return parser.parse_args()


class Clock:
    """Milliseconds between two moments of the device's stream; on the CPU by its own clock."""

    def __init__(self, device):
        self.cuda = device == "cuda"

    def now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin, end):
        if not self.cuda:
            return (end - begin) * 1e3
        end.synchronize()
        return begin.elapsed_time(end)


class Case:
    """One batch in one container, ready to run."""

    def __init__(self, what, name, lengths, packed, device):
        self.what, self.name, self.lengths = what, name, lengths
        torch.manual_seed(1)
        self.lstm = torch.nn.LSTM(SIZE, SIZE, bidirectional=True).to(device)
        values = torch.randn(max(lengths), len(lengths), SIZE, device=device)
        if packed:
            values = torch.nn.utils.rnn.pack_padded_sequence(values, torch.tensor(lengths))
            values.data.requires_grad_(True)
        else:
            values.requires_grad_(True)
        self.packed, self.values = packed, values

    def forward(self):
        output, _ = self.lstm(self.values)
        return output.data if self.packed else output

    def sample(self, clock, times):
        """Mean milliseconds of one forward and of one backward pass."""
        marks = []
        for _ in range(times):
            begin = clock.now()
            output = self.forward()
            middle = clock.now()
            output.backward(self.gradient(output))
            marks.append((begin, middle, clock.now()))
        forward = sum(clock.between(a, b) for a, b, _ in marks) / times
        backward = sum(clock.between(b, c) for _, b, c in marks) / times
        return forward, backward

    def gradient(self, output):
        """Made once, so that its kernel is not in the backward pass that is timed."""
        if not hasattr(self, "ones"):
            self.ones = torch.ones_like(output)
        return self.ones


def make_cases(arguments):
    """(what, name, lengths, packed)"""
    for steps in (16, 32) if arguments.quick else (64, 256, 1024, 2500):
        yield "padded", f"uniform {steps}", [steps] * BATCH, False
    if arguments.lengths_from is not None:
        sets = json.loads(arguments.lengths_from.read_text(encoding="utf-8"))["length_sets"]
        for name, lengths in sets.items():
            yield "padded", name, lengths, False
            yield "packed", name, lengths, True


def entries_of(case, tf32, samples, times):
    for part, values in zip(("forward", "backward"), zip(*samples)):
        microseconds = [1e3 * value for value in values]
        median = statistics.median(microseconds)
        yield {
            "what": f"{case.what} {part}",
            "lengths": case.name,
            "tf32": "on" if tf32 else "off",
            "sequences": len(case.lengths),
            "tokens": sum(case.lengths),
            "longest": max(case.lengths),
            "unit": "us",
            "repeats": len(samples),
            "times": times,
            "median": median,
            "min": min(microseconds),
            "max": max(microseconds),
            "per_step_of_longest": median / max(case.lengths),
        }


def measure(arguments, tf32):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    clock = Clock(arguments.device)
    repeats, times = (2, 1) if arguments.quick else (arguments.repeats, 5)
    cases = [Case(*row, arguments.device) for row in make_cases(arguments)]
    samples = [[] for _ in cases]
    for case in cases:
        case.sample(clock, 2)
    for _ in range(repeats):
        for case, taken in zip(cases, samples):
            taken.append(case.sample(clock, times))
    return [e for case, taken in zip(cases, samples) for e in entries_of(case, tf32, taken, times)]


def main():
    arguments = parse_arguments()
    cuda = arguments.device == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit("torch_lstm.py: this PyTorch sees no CUDA device (--device cpu tries the script)")
    result = {
        "program": "torch_lstm.py",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "entries": [],
    }
    for tf32 in (False, True) if cuda else (False,):
        result["entries"] += measure(arguments, tf32)
    print(f"PyTorch {result['torch']}, cuDNN {result['cudnn']}, {result['device']}")
    for entry in result["entries"]:
        print(
            f"{entry['what']:16} {entry['lengths']:14} TF32 {entry['tf32']:3}"
            f" {entry['median']:12.1f} us ({entry['min']:.1f} to {entry['max']:.1f})"
            f" {entry['per_step_of_longest']:8.3f} us per step of the longest"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
