"""`cairn export --format onnx`, judged by ONNX's own checker and by ONNX Runtime.

1. Token ids in: the file is valid, in the versions that onnx 1.12 (Debian 12) knows; its metadata are
   enough to turn texts into ids; its logits are those of `cairn predict`, for 1,000 made-up reviews of
   0 to 2,000 tokens, alone and in padded batches.
2. Sizes that all differ, random weights, biases that are not zero: nothing is transposed or swapped.
3. Strings in: token ids as `cairn tokenize`, answers as `cairn predict`, for every ASCII character,
   tags, spaces that only look like spaces, and texts of nothing.

usage: onnx_export.py CAIRN
"""

import json
import os
import pathlib
import random
import string
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnx.checker
import onnx.shape_inference
import onnxruntime
import safetensors.numpy

REVIEWS, LONGEST = 1000, 2000
WORDS = ["the", "movie", "was", "not", "never", "good", "great", "bad", "awful", "caf\u00e9", "\u65e5\u672c"]
FILLERS = ["w%d" % i for i in range(600)]


def require(condition, reason):
    if not condition:
        raise AssertionError(reason)


# ---- the program ----


class Cairn:
    def __init__(self, binary, directory):
        self.binary, self.directory = binary, pathlib.Path(directory)

    def run(self, *arguments, text=None):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CAIRN_")}
        done = subprocess.run([self.binary, *map(str, arguments)], input=text, capture_output=True,
                              env=environment)
        require(done.returncode == 0, f"cairn {arguments}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode()

    def lines(self, *arguments, texts):
        """One line out for each text; as JSON, because a text may hold line ends."""
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        out = self.run(*arguments, "--input-format", "jsonl", text=rows.encode()).split("\n")
        require(len(out) == len(texts) + 1 and out[-1] == "", f"cairn {arguments}: one line for each text")
        return out[:-1]

    def train(self, name, texts, *options):
        """A model directory: a few steps that move the weights far from where they started."""
        data = self.directory / (name + ".jsonl")
        data.write_text("".join(json.dumps({"text": t, "label": i % 2}) + "\n" for i, t in enumerate(texts)))
        self.run("train", "--data", data, "--model-dir", self.directory / name, "--steps", 40,
                 "--epochs", 100, "--learning-rate", 1e-2, "--progress", "none", *options)
        return ["--model-dir", self.directory / name]

    def export(self, name, *options):
        path = self.directory / (name + ".onnx")
        self.run("export", "--format", "onnx", "--output", path, *options)
        return path


# ---- what is expected of every file ----


def load_checked(path, text):
    """The parsed model; it has passed ONNX's checker and both ways of type inference."""
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    for propagate in (False, True):
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=propagate)
        require(all(o.type.tensor_type.elem_type for o in inferred.graph.output), "types of the outputs")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    wanted = ({"": 20, "ai.onnx.ml": 3}, 9) if text else ({"": 17}, 8)
    require((opsets, model.ir_version) == wanted, f"opsets {opsets}, IR {model.ir_version}")
    domains = {node.domain for node in model.graph.node}
    require(domains <= {"", "ai.onnx.ml"}, f"operators of others: {domains}")
    return model


def close(logits, expected, what):
    logits, expected = numpy.asarray(logits, "f8"), numpy.asarray(expected, "f8")
    bound = 5e-5 + 1e-5 * numpy.abs(expected)
    worst = numpy.argmax(numpy.abs(logits - expected) / bound)
    require(logits.shape == expected.shape and numpy.all(numpy.abs(logits - expected) <= bound),
            f"{what}: {logits[worst]} is not {expected[worst]} (row {worst})")


def check_answers(outputs, rows, what, names=None):
    """Outputs by name against the rows of `cairn predict --format jsonl`."""
    logit = numpy.array([row["logit"] for row in rows])
    close(outputs["logit"], logit, what)
    probability = numpy.array([row["probability"] for row in rows])
    require(numpy.allclose(outputs["probability"], probability, rtol=1e-5, atol=2e-5), f"{what}: probability")
    if names:
        decided = numpy.abs(logit) > 1e-4  # nearer to zero rounding decides
        labels = numpy.array([names[int(row["logit"] > 0)] for row in rows])
        require(numpy.all((outputs["label"] == labels) | ~decided), f"{what}: labels")
        require(len(set(labels[decided])) == 2, f"{what}: both labels occur")


class Session:
    def __init__(self, model):
        self.runtime = onnxruntime.InferenceSession(model.SerializeToString())
        self.outputs = [output.name for output in self.runtime.get_outputs()]

    def __call__(self, **inputs):
        return dict(zip(self.outputs, self.runtime.run(None, inputs)))


# ---- token ids in ----


def metadata_of(model):
    pairs = {pair.key: pair.value for pair in model.metadata_props}
    for key in ("vocabulary", "label_names", "strip_html", "max_length", "unknown_id"):
        pairs[key] = json.loads(pairs[key])
    pairs["step"] = json.loads(pairs["step"]) if "step" in pairs else None
    return pairs


def ids_of(text, metadata):
    """The text rules as the metadata say them."""
    require(metadata["standardize"] == "lower_and_strip_punctuation" and metadata["split"] == "whitespace",
            "rules that this reader knows")
    lower = dict(zip(string.ascii_uppercase, string.ascii_lowercase))
    kept = "".join(lower.get(c, c) for c in text if c not in string.punctuation)
    for space in "\t\n\v\f\r":
        kept = kept.replace(space, " ")
    tokens = [token for token in kept.split(" ") if token]
    index = {token: i for i, token in enumerate(metadata["vocabulary"])}
    ids = [index.get(token, metadata["unknown_id"]) for token in tokens]
    return ids[:metadata["max_length"]] if metadata["max_length"] else ids


def padded(batch):
    width = max(len(ids) for ids in batch)
    rows = numpy.zeros((len(batch), width), "i8")
    for row, ids in zip(rows, batch):
        row[:len(ids)] = ids
    return {"token_ids": rows, "lengths": numpy.array([len(ids) for ids in batch], "i8")}


def reviews(generator):
    """Lengths from 1 to LONGEST, short ones more often; and some texts with no token at all."""
    def word():
        kind = generator.random()
        if kind < 0.5:
            return generator.choice(WORDS)
        return generator.choice(FILLERS) if kind < 0.9 else "x%d" % generator.randrange(10**6)

    def decorate(token):
        return generator.choice([token, token, token, token.upper(), token + ",", "\"" + token + "!\""])

    lengths = [round(LONGEST**generator.random()) for _ in range(REVIEWS - 12)] + [1, 2, LONGEST, LONGEST]
    texts = [generator.choice([" ", "  ", "\n"]).join(decorate(word()) for _ in range(n)) for n in lengths]
    texts += ["", " ", "...", "!?", "\t\n", "-- --", "'", " . "]
    generator.shuffle(texts)
    return texts


def in_batches(session, token_ids, order, size):
    """Logits and probabilities of all texts, computed in batches of `size` along `order`."""
    results = {"logit": numpy.zeros(len(order), "f4"), "probability": numpy.zeros(len(order), "f4")}
    for begin in range(0, len(order), size):
        places = order[begin:begin + size]
        answers = session(**padded([token_ids[i] for i in places]))
        for name, values in results.items():
            values[places] = answers[name]
    return results


def check_ids(cairn, generator):
    texts = reviews(generator)
    chosen = cairn.train("ids", [" ".join(text.split()[:40]) for text in texts if 2 < len(text.split())])
    model = load_checked(cairn.export("ids", *chosen), text=False)
    metadata = metadata_of(model)
    vocabulary = cairn.run("vocabulary", "--data", cairn.directory / "ids.jsonl").split("\n")[:-1]
    require(metadata["vocabulary"] == vocabulary and len(vocabulary) > 500, "the vocabulary")
    require((metadata["label_names"], metadata["max_length"]) == (["0", "1"], 0), f"metadata {metadata}")
    require((metadata["step"], model.model_version) == (40, 40), "the step")

    token_ids = [ids_of(text, metadata) for text in texts]
    rows = [json.loads(line) for line in cairn.lines("predict", *chosen, "--format", "jsonl", texts=texts)]
    logits = [row["logit"] for row in rows]
    require(max(logits) > 0.1 and min(logits) < -0.1, "a range of logits")
    lengths = [len(ids) for ids in token_ids]
    require((min(lengths), max(lengths), len(lengths)) == (0, LONGEST, REVIEWS), "lengths of the reviews")
    session = Session(model)
    by_length = sorted(range(REVIEWS), key=lambda i: lengths[i])
    check_answers(in_batches(session, token_ids, by_length, 50), rows, "batches of similar length")
    mixed = generator.sample(range(REVIEWS), 48) + [by_length[0], by_length[-1]]
    check_answers(session(**padded([token_ids[i] for i in mixed])), [rows[i] for i in mixed], "mixed lengths")
    for place in by_length[:3] + by_length[300:303]:
        check_answers(session(**padded([token_ids[place]])), [rows[place]], "a text by itself")
    empty = [i for i in by_length if lengths[i] == 0][:4]
    check_answers(session(**padded([[] for _ in empty])), [rows[i] for i in empty], "no time steps at all")
    return chosen, texts, rows


def check_sizes(cairn, generator):
    """A model that nobody trained: V, E, H, D all differ, and no weight is zero."""
    v, e, h, d = 23, 6, 10, 7
    random_weights = numpy.random.default_rng(generator.randrange(2**32))
    shapes = {"embedding.weight": (v, e), "dense.weight": (d, 2 * h), "dense.bias": (d,),
              "output.weight": (1, d), "output.bias": (1,)}
    for suffix in ("", "_reverse"):
        shapes["lstm.weight_ih_l0" + suffix] = (4 * h, e)
        shapes["lstm.weight_hh_l0" + suffix] = (4 * h, h)
        shapes["lstm.bias_l0" + suffix] = (4 * h,)
    weights = {name: random_weights.normal(0, 0.7, shape).astype("f4") for name, shape in shapes.items()}
    safetensors.numpy.save_file(weights, str(cairn.directory / "sizes.safetensors"))
    tokens = ["", "[UNK]"] + ["t%d" % i for i in range(v - 2)]
    (cairn.directory / "sizes.txt").write_text("".join(token + "\n" for token in tokens))
    chosen = ["--checkpoint", cairn.directory / "sizes.safetensors",
              "--vocabulary", cairn.directory / "sizes.txt"]
    model = load_checked(cairn.export("sizes", *chosen), text=False)
    texts = [" ".join("t%d" % generator.randrange(v + 3) for _ in range(n)) for n in list(range(12)) * 3]
    rows = [json.loads(line) for line in cairn.lines("predict", *chosen, "--format", "jsonl", texts=texts)]
    metadata = metadata_of(model)
    require(metadata["vocabulary"] == tokens, "the vocabulary of --vocabulary")
    require(metadata["step"] is None and model.model_version == 0, "the file says no step, so nobody does")
    check_answers(Session(model)(**padded([ids_of(text, metadata) for text in texts])), rows, "unlike sizes")


# ---- strings in ----


def tricky_texts(generator):
    """Every ASCII character but NUL, alone and in words; tags of all kinds; spaces of Unicode."""
    pieces = WORDS + ["<br />", "<BR>", "<p class=\"a\">", "</p", "<!-- x -->", "< b>", "<3", "<", ">", "a<b",
                      "<a <b> c>", "well-made", "don't", "[UNK]"]
    pieces += list("\u00c9\u0130\u00a0\u2003\u0085\u2014\u201d") + [chr(code) for code in range(1, 128)]
    pieces += [" "] * 40
    texts = ["".join(generator.choices(pieces, k=generator.randrange(60))) for _ in range(300)]
    texts += [chr(code) for code in range(1, 128)] + ["the%cMOVIE" % code for code in range(1, 128)]
    return texts + [string.ascii_uppercase, string.punctuation, string.whitespace, "", "<", "<b", "<b>",
                    "<b>x", "x<b>", "a<b<c>d", "<b>the</b> movie", "</", "<!>", "a < b > c", "<a>>the",
                    "<<a>the", "<a\nb>the"]


def with_ids(model):
    """The same graph with its token ids and lengths as outputs."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.output.extend([
        onnx.helper.make_tensor_value_info("token_ids", onnx.TensorProto.INT64, ["batch", "time"]),
        onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT64, ["batch"])])
    return Session(wider)


def check_text_rules(cairn, generator, name, *options):
    texts = tricky_texts(generator)
    sizes = ["--vocabulary-size", 0, "--embedding-size", 8, "--hidden-size", 8, "--dense-size", 8]
    chosen = cairn.train(name, [text for text in texts if text.strip()], *sizes, *options)
    model = load_checked(cairn.export(name, "--with-text", *chosen), text=True)
    expected = [[int(i) for i in line.split()] for line in cairn.lines("tokenize", *chosen, texts=texts)]
    rows = [json.loads(line) for line in cairn.lines("predict", *chosen, "--format", "jsonl", texts=texts)]
    require(max(map(max, filter(None, expected))) > 50, "words of the vocabulary are met")
    session = with_ids(model)
    answers = session(text=numpy.array(texts, object))
    for text, ids, length, wanted in zip(texts, answers["token_ids"].tolist(), answers["lengths"], expected):
        same = ids[:length] == wanted and not any(ids[length:])
        require(same, f"{name}: {text!r} gives {ids[:length]}, not {wanted}")
    check_answers(answers, rows, name)
    for text, row in list(zip(texts, rows))[-16:]:
        check_answers(session(text=numpy.array([text], object)), [row], f"{name}: {text!r} by itself")
    nothing = session(text=numpy.array(["", "..", ""], object))
    require(nothing["lengths"].tolist() == [0, 0, 0], "a batch without tokens")


def check_text(cairn, generator, chosen, texts, rows):
    model = load_checked(cairn.export("text", "--with-text", *chosen), text=True)
    session = Session(model)
    names = metadata_of(model)["label_names"]
    require(session.outputs == ["label", "probability", "logit"], f"outputs {session.outputs}")
    some = [i for i in range(REVIEWS) if len(texts[i]) < 3000][:200]
    answers = session(text=numpy.array([texts[i] for i in some], object))
    check_answers(answers, [rows[i] for i in some], "reviews as strings", names)
    check_text_rules(cairn, generator, "plain")
    check_text_rules(cairn, generator, "cut", "--strip-html", "--max-length", 5)


def main():
    generator = random.Random(20)
    with tempfile.TemporaryDirectory() as directory:
        cairn = Cairn(sys.argv[1], directory)
        chosen, texts, rows = check_ids(cairn, generator)
        check_sizes(cairn, generator)
        check_text(cairn, generator, chosen, texts, rows)
    print(f"onnx {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}: all as `cairn predict`")


if __name__ == "__main__":
    main()
