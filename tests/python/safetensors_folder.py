"""The folder of `cairn export --format safetensors` and the file of `--format checkpoint`, opened by
PyTorch and the safetensors package; and files of PyTorch and Keras, taken in by `--checkpoint` and
`--init-from`.

check(cairn, work) runs everything; `work` is an empty folder. frameworks.py calls it.
"""

import contextlib
import io
import json
import os
import pathlib
import random
import re
import subprocess

import numpy
import safetensors.numpy
import safetensors.torch
import torch

from program import expect_close, predict, run, tokenize

V_LIMIT, E, H, D = 60, 12, 10, 7  # all different: a transposed matrix cannot pass for the right one
SIZES = ["--embedding-size", E, "--hidden-size", H, "--dense-size", D]


def write_data(path):
    """Texts whose label hangs on some of their words, so that a few steps teach a model something."""
    source = random.Random(11)
    with open(path, "w") as file:
        for _ in range(640):
            label = source.randrange(2)
            words = [f"word{source.randrange(70)}" for _ in range(source.randrange(2, 30))]
            for at in range(0, len(words), 3):
                words[at] = source.choice(["fine", "dear"] if label else ["dull", "grim"])
            file.write(json.dumps({"text": " ".join(words), "label": ["negative", "positive"][label]}) + "\n")


def train(cairn, data, model_dir, *more):
    run(cairn, "train", "--data", data, "--validation-data", "none", "--model-dir", model_dir,
        *SIZES, "--threads", 1, "--progress", "none", *more)


def made_up_texts(words, lengths, seed=5):
    """Texts of so many tokens, with capitals, punctuation and words that no vocabulary has."""
    source = random.Random(seed)
    texts = []
    for length in lengths:
        tokens = [source.choice(words + ["zzzunknown", "caf\u00e9"]) for _ in range(length)]
        texts.append(" ".join(source.choice([word, word.upper() + "!", f"({word})", word + "\t\n"])
                              for word in tokens))
    return texts + ["?!", " <br />good</p> and < bad", "\u00c9t\u00e9 I\u0307STANBUL a\u00a0b"]


TRAINED = ["--vocabulary-size", V_LIMIT, "--max-steps", 40, "--learning-rate", 0.01]
LENGTHS = [0, 1, 2, 3, 5, 8, 13, 64, 200, 777, 2000] + list(range(1, 400, 9))


def read_vocabulary(path):
    return path.read_bytes().decode().split("\n")[:-1]


# ---- what PyTorch makes of an exported folder ----


def check_files(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "vocab.txt"]
    config = json.loads((folder / "config.json").read_text())
    words = read_vocabulary(folder / "vocab.txt")
    V = len(words)
    assert (config["vocab_size"], config["embedding_size"]) == (V, E), config
    assert (config["hidden_size"], config["dense_size"]) == (H, D), config
    assert config["id2label"] == {"0": "negative", "1": "positive"}, config
    assert words[:2] == ["", "[UNK]"] and len(set(words)) == V
    shapes = {"embedding.weight": [V, E], "dense.weight": [D, 2 * H], "dense.bias": [D],
              "output.weight": [1, D], "output.bias": [1]}
    for end in ["", "_reverse"]:
        shapes |= {"lstm.weight_ih_l0" + end: [4 * H, E], "lstm.weight_hh_l0" + end: [4 * H, H],
                   "lstm.bias_ih_l0" + end: [4 * H], "lstm.bias_hh_l0" + end: [4 * H]}
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
        assert found == shapes, found
        for end in ["", "_reverse"]:
            assert not file.get_tensor("lstm.bias_hh_l0" + end).any()
            assert file.get_tensor("lstm.bias_ih_l0" + end).any()
    return config, words


def run_card(folder):
    """The Python code of the folder's README.md, as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    names = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    before, printed = pathlib.Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(blocks[1], "README.md", "exec"), names)
    finally:
        os.chdir(before)
    assert re.fullmatch(r"((negative|positive) 0\.\d+\n){2}", printed.getvalue()), printed.getvalue()
    return names["load"](str(folder))


def check_folder(cairn, work):
    model_dir, folder = work / "model", work / "folder"
    run(cairn, "export", "--model-dir", model_dir, "--output", folder)
    config, words = check_files(folder)
    module, tokenizer, labels = run_card(folder)
    texts = made_up_texts(words[2:], LENGTHS)
    ids = [tokenizer(text) for text in texts]
    assert [len(row) for row in ids[:len(LENGTHS)]] == LENGTHS
    assert [row.tolist() for row in ids] == tokenize(cairn, texts, "--model-dir", model_dir)
    with torch.no_grad():
        found = module(ids).numpy()
    wanted = predict(cairn, texts, "--model-dir", model_dir)
    expect_close(found, wanted, "PyTorch on the exported folder")
    assert labels == {"0": "negative", "1": "positive"}
    # And back: the same bits.
    assert (predict(cairn, texts, "--checkpoint", folder) == wanted).all()
    assert (predict(cairn, texts, "--checkpoint", folder / "model.safetensors") == wanted).all()
    return texts, wanted


def check_text_rules(cairn, work):
    """--strip-html and --max-length travel with the folder."""
    model_dir, folder = work / "rules", work / "rules-folder"
    train(cairn, work / "data.jsonl", model_dir, *TRAINED, "--strip-html", "--max-length", 9)
    run(cairn, "export", "--model-dir", model_dir, "--output", folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["text"]["strip_html"] is True and config["text"]["max_length"] == 9
    module, tokenizer, _ = run_card(folder)
    words = read_vocabulary(folder / "vocab.txt")[2:]
    texts = made_up_texts(words, [3, 9, 10, 50])
    texts += ["a<br/>b <i>c</i> <1> <!-- x --> d", "<b unclosed e", "</>"]
    wanted = predict(cairn, texts, "--model-dir", model_dir)
    with torch.no_grad():
        expect_close(module([tokenizer(text) for text in texts]).numpy(), wanted, "text rules in PyTorch")
    assert (predict(cairn, texts, "--checkpoint", folder) == wanted).all()


# ---- the file for our own program ----


def check_checkpoint_file(cairn, work, texts, wanted):
    model_dir, path = work / "model", work / "film.safetensors.zst"
    run(cairn, "export", "--model-dir", model_dir, "--format", "checkpoint", "--output", path)
    plain = work / "film.safetensors"
    subprocess.run(["zstd", "-dqf", path, "-o", plain], check=True)
    tensors = safetensors.numpy.load_file(plain)
    assert sorted(name for name in tensors if not name.startswith(("lstm.", "dense.", "output."))) == [
        "embedding.weight", "text.label_names", "text.max_length", "text.strip_html", "vocabulary"]
    weights = safetensors.numpy.load_file(work / "folder" / "model.safetensors")
    for name, value in weights.items():
        ours = name.replace("bias_ih", "bias")
        assert "bias_hh" in name or (tensors[ours] == value).all(), name
    assert (predict(cairn, texts, "--checkpoint", path) == wanted).all()
    evaluate = ["evaluate", "--data", work / "data.jsonl", "--threads", 1]
    by_directory = json.loads(run(cairn, *evaluate, "--model-dir", model_dir))
    by_file = json.loads(run(cairn, *evaluate, "--checkpoint", path))
    assert by_file | {"checkpoint": ""} == by_directory | {"checkpoint": ""}
    assert run(cairn, "tokenize", "--checkpoint", path, text=b"a good film") == run(
        cairn, "tokenize", "--model-dir", model_dir, text=b"a good film")
    # Exported again it is the same, from the file as from the folder.
    again = work / "again"
    for source in [path, work / "folder"]:
        run(cairn, "export", "--checkpoint", source, "--output", again)  # replaces what is there
        for name in ["model.safetensors", "config.json", "vocab.txt", "README.md"]:
            assert (again / name).read_bytes() == (work / "folder" / name).read_bytes(), (source, name)


def first_weights(cairn, work, name, *arguments):
    """The weights that a run began with, by the names of PyTorch."""
    model_dir, folder = work / name, work / (name + "-folder")
    train(cairn, work / "data.jsonl", model_dir, "--steps", 1, "--keep-checkpoint-max", 0, *arguments)
    run(cairn, "export", "--checkpoint", model_dir / "model.ckpt-0.safetensors.zst", "--output", folder)
    return (folder / "model.safetensors").read_bytes(), (folder / "vocab.txt").read_bytes()


def check_init_from(cairn, work):
    folder = work / "folder"
    wanted = ((folder / "model.safetensors").read_bytes(), (folder / "vocab.txt").read_bytes())
    for number, source in enumerate([work / "folder", work / "folder" / "model.safetensors",
                                     work / "film.safetensors.zst", work / "film.safetensors"]):
        assert first_weights(cairn, work, f"init{number}", "--init-from", source) == wanted, source


# ---- files of PyTorch ----


class Module(torch.nn.Module):
    """As people write it, with names of their own."""

    def __init__(self, rows, rnn=torch.nn.LSTM, outputs=1, **more):
        super().__init__()
        self.emb = torch.nn.Embedding(rows, E, padding_idx=0)
        self.encoder = rnn(E, H, batch_first=True, **({"bidirectional": True} | more))
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(H * (1 + self.encoder.bidirectional), D), torch.nn.ReLU(),
            torch.nn.Dropout(0.5), torch.nn.Linear(D, outputs))

    def forward(self, row):
        _, (last, _) = self.encoder(self.emb(row[None]))
        return self.classifier(torch.cat([last[0], last[1]], dim=1))[0, 0]


def torch_logits(module, tokenizer, texts):
    module.eval()
    with torch.no_grad():
        return [float(module(tokenizer(text))) for text in texts]


def place(work, name, words):
    folder = work / name
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in words))
    return folder


def check_torch_files(cairn, work, words, tokenizer):
    torch.manual_seed(3)
    module = Module(len(words))
    texts = made_up_texts(words[2:], [1, 2, 3, 9, 40, 300])
    texts = [text for text in texts if len(tokenizer(text)) > 0]
    wanted = torch_logits(module, tokenizer, texts)
    folder = place(work, "torch", ["<pad>", "<unk>"] + words[2:])
    for name, save in [("model", lambda path: safetensors.torch.save_model(module, path)),
                       ("state", lambda path: safetensors.torch.save_file(module.state_dict(), path))]:
        path = folder / (name + ".safetensors")
        save(path)
        expect_close(wanted, predict(cairn, texts, "--checkpoint", path), f"PyTorch's {name}.safetensors")
    expect_close(wanted, predict(cairn, texts, "--checkpoint", folder), "a folder with a PyTorch model")
    # Without vocab.txt beside it the vocabulary must be named, and a named one goes first.
    alone = work / "alone.safetensors"
    alone.write_bytes((folder / "model.safetensors").read_bytes())
    assert "--vocabulary" in run(cairn, "predict", "--checkpoint", alone, code=2, text=b"a")
    vocabulary = work / "folder" / "vocab.txt"
    found = predict(cairn, texts, "--checkpoint", alone, "--vocabulary", vocabulary)
    expect_close(wanted, found, "--vocabulary")
    # A run that begins with it.
    weights, _ = first_weights(cairn, work, "from-torch", "--init-from", folder)
    began = safetensors.torch.load(weights)
    state = module.state_dict()
    assert (began["lstm.weight_hh_l0_reverse"] == state["encoder.weight_hh_l0_reverse"]).all()
    assert (began["lstm.bias_ih_l0"] == state["encoder.bias_ih_l0"] + state["encoder.bias_hh_l0"]).all()
    check_half(cairn, folder, module, tokenizer, texts)


def check_half(cairn, folder, module, tokenizer, texts):
    for dtype in [torch.float16, torch.bfloat16, torch.float64]:
        path = folder / "other.safetensors"
        safetensors.torch.save_file({k: v.to(dtype) for k, v in module.state_dict().items()}, path)
        rounded = Module(module.emb.num_embeddings)
        rounded.load_state_dict({k: v.to(dtype).float() for k, v in module.state_dict().items()})
        found = predict(cairn, texts, "--checkpoint", path)
        expect_close(torch_logits(rounded, tokenizer, texts), found, dtype)


def check_other_models(cairn, work, words):
    """What is another model is refused, by name."""
    folder = place(work, "other", words)
    V = len(words)
    path = folder / "model.safetensors"
    cases = [
        (Module(V, rnn=torch.nn.GRU), ["encoder.weight_ih_l0", f"[{3 * H}, {E}]", f"[{4 * H}, {E}]"]),
        (Module(V, num_layers=2), ["_l1", "one layer"]),
        (Module(V, bidirectional=False), ["encoder.weight_ih_l0_reverse"]),
        (Module(V, outputs=2), ["classifier.3.weight", f"[2, {D}]"]),
    ]
    for module, parts in cases:
        safetensors.torch.save_model(module, path)
        said = run(cairn, "predict", "--checkpoint", folder, code=76, text=b"a")
        assert all(part in said for part in parts), (parts, said)
    safetensors.torch.save_model(Module(V), path)
    said = run(cairn, "train", "--data", work / "data.jsonl", "--init-from", folder, *SIZES,
               "--hidden-size", H + 6, "--model-dir", work / "misfit", code=76)
    for part in ["encoder.weight_ih_l0", f"[{4 * H}, {E}]", f"[{4 * H + 24}, {E}]", f"--hidden-size {H}",
                 f"{H + 6} asked for", "leave --init-from away"]:
        assert part in said, (part, said)


# ---- files of Keras ----


def keras_model(keras, rows):
    return keras.Sequential([
        keras.layers.Embedding(rows, E, keras.initializers.RandomNormal(stddev=1.0), mask_zero=True),
        keras.layers.Bidirectional(keras.layers.LSTM(H, bias_initializer="uniform")),
        keras.layers.Dense(D, activation="relu", bias_initializer="uniform"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, bias_initializer="uniform")])


def check_keras_files(cairn, work, words, tokenizer):
    import keras

    keras.utils.set_random_seed(4)
    model = keras_model(keras, len(words))
    texts = [text for text in made_up_texts(words[2:], [1, 2, 7, 30]) if len(tokenizer(text)) > 0]
    rows = [tokenizer(text).numpy() for text in texts]
    padded = numpy.zeros((len(rows), max(len(row) for row in rows)), "int32")
    for at, row in enumerate(rows):
        padded[at, :len(row)] = row
    wanted = model.predict(padded, verbose=0)[:, 0]
    folder = place(work, "keras", words)
    path = folder / "model.safetensors"
    spellings = {
        "path": {w.path: keras.ops.convert_to_numpy(w) for w in model.weights},
        "variables": {w.path: keras.ops.convert_to_numpy(w) for w in model.variables},
        "TensorFlow 2": {w.path + ":0": keras.ops.convert_to_numpy(w) for w in model.weights},
    }
    for name, tensors in spellings.items():
        safetensors.numpy.save_file(tensors, path)
        expect_close(wanted, predict(cairn, texts, "--checkpoint", folder), f"Keras by {name}")
    said = run(cairn, "train", "--data", work / "data.jsonl", "--init-from", path, *SIZES,
               "--dense-size", D + 1, "--model-dir", work / "keras-misfit", code=76)
    dense = next(w.path for w in model.weights if w.path.endswith("dense/kernel"))
    assert dense in said and f"--dense-size {D}" in said, said


def check(cairn, work):
    write_data(work / "data.jsonl")
    train(cairn, work / "data.jsonl", work / "model", *TRAINED)
    texts, wanted = check_folder(cairn, work)
    check_text_rules(cairn, work)
    check_checkpoint_file(cairn, work, texts, wanted)
    check_init_from(cairn, work)
    words = read_vocabulary(work / "folder" / "vocab.txt")
    _, tokenizer, _ = run_card(work / "folder")
    check_torch_files(cairn, work, words, tokenizer)
    check_other_models(cairn, work, words)
    check_keras_files(cairn, work, words, tokenizer)
