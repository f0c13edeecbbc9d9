"""torch_model of python/cairn_io.py: the logits of `cairn predict`.

check(cairn, work) runs everything; `work` is an empty folder.
"""

import numpy
import torch

from program import expect_close, made_up_texts, predict, train
import cairn_io  # program.py makes it importable


def check_torch(checkpoint, texts, wanted):
    ids, lengths = checkpoint.batch(texts)
    model = cairn_io.torch_model(checkpoint)
    with torch.no_grad():
        expect_close(model(torch.from_numpy(ids), torch.from_numpy(lengths)), wanted, "torch_model")
        for at in [0, 1, len(texts) - 1]:  # alone, an empty one too: neighbours make no difference
            ids, lengths = checkpoint.batch(texts[at:at + 1])
            found = model(torch.from_numpy(ids), torch.from_numpy(lengths))
            expect_close(found, wanted[at:at + 1], f"torch_model, text {at} alone")
    names = set(cairn_io.torch_state_dict(checkpoint))
    assert names == set(model.state_dict()) and "lstm.bias_hh_l0_reverse" in names
    # It can be trained: a step moves the weights, and never the checkpoint's arrays.
    before = checkpoint.weights()["output.weight"].copy()
    ids, lengths = checkpoint.batch(texts[:4])
    logits = model.train()(torch.from_numpy(ids), torch.from_numpy(lengths))
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1, 0, 1])).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not numpy.allclose(model.output.weight.detach().numpy(), before)
    assert (checkpoint.weights()["output.weight"] == before).all()


def check(cairn, work):
    texts = made_up_texts([0, 1, 2, 3, 30, 300, 2000])
    train(cairn, work / "default", "--epochs", 3, "--learning-rate", "1e-3")  # and the tutorial's sizes
    wanted = predict(cairn, texts, "--model-dir", work / "default", "--checkpoint", "best")
    checkpoint = cairn_io.load_best(work / "default")
    assert texts[0] == "" and checkpoint.sizes()["hidden"] == 64
    check_torch(checkpoint, texts, wanted)
    train(cairn, work / "rules", "--steps", 300, "--learning-rate", 0.003, "--strip-html", "--max-length", 40,
          "--embedding-size", 6, "--hidden-size", 5, "--dense-size", 7)
    wanted = predict(cairn, texts, "--model-dir", work / "rules")
    check_torch(cairn_io.load_latest(work / "rules"), texts, wanted)
