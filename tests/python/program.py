"""Running the program from Python tests, and comparing its logits with those of other software."""

import json
import os
import pathlib
import random
import subprocess
import sys

import numpy

# 5e-5 + 1e-5 |logit| is the project's tolerance for another runtime. Both sides compute in binary32 and sum
# in another order; the recurrence carries such rounding along, but its gates contract. Seen here: 3e-6.
ABSOLUTE, RELATIVE = 5e-5, 1e-5

WORDS = ["the", "film", "was", "not", "boring", "never", "brilliant", "dull", "but", "superb", "unheardof"]

# So that a module can `import cairn_io`.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))


def run(cairn, *arguments, code=0, text=None):
    """Run the program; its stdout as bytes, or what it said on stderr where it is expected to fail."""
    words = [str(cairn)] + [str(argument) for argument in arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CAIRN_")}
    done = subprocess.run(words, input=text, capture_output=True, env=environment)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == code, f"{' '.join(words)}: exit code {done.returncode}, not {code}\n{said}"
    return done.stdout if code == 0 else said


def train(cairn, model_dir, *more):
    run(cairn, "train", "--data", "demo", "--model-dir", model_dir, "--threads", 1, "--progress", "none",
        *more)


def json_lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def predict(cairn, texts, *which):
    """The logits of `cairn predict`, one per text."""
    out = run(cairn, "predict", "--input-format", "jsonl", "--format", "jsonl", "--threads", 1, *which,
              text=json_lines(texts))
    return numpy.array([json.loads(line)["logit"] for line in out.splitlines()])


def tokenize(cairn, texts, *which):
    """The token ids of `cairn tokenize`, one list per text."""
    out = run(cairn, "tokenize", "--input-format", "jsonl", *which, text=json_lines(texts))
    return [[int(word) for word in line.split()] for line in out.decode().split("\n")[:-1]]


def made_up_texts(lengths):
    """Texts of so many tokens, and some with capitals, punctuation, tags, bytes beyond ASCII, and white space
    that does and does not split."""
    source = random.Random(3)
    texts = [" ".join(source.choices(WORDS, k=length)) for length in lengths]
    return texts + ["?! --", "It's GREAT!<br /><br />The film, was\tnot\x0bboring\x0c.",
                    "\u00c9t\u00e9 the\u00a0film", "I\u0307 \u65e5\u672c \u201cdull\u201d",
                    "\x1fthe\x01 \u2003film", "<b unclosed film", "</>", "a<br/>film <i>was</i> <1> <!-- x -->dull"]


def expect_close(found, wanted, what):
    found = numpy.asarray(found, numpy.float64).reshape(-1)
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    assert numpy.ptp(wanted) > 0.05 or len(wanted) == 1, f"{what}: nearly equal logits compare nothing"
    excess = numpy.abs(found - wanted) - (ABSOLUTE + RELATIVE * numpy.abs(wanted))
    worst = int(numpy.argmax(excess))
    assert excess[worst] <= 0, f"{what}: text {worst}: {found[worst]}, but cairn predict says {wanted[worst]}"
    print(f"{what}: {len(wanted)} logits, largest difference {numpy.abs(found - wanted).max():.1e}")
