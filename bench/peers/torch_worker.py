"""Worker of cpu_epoch.py: the same model in PyTorch on the CPU.

    torch_worker.py FOLDER --container packed|padded [--threads N] [sizes...]

Embedding, bidirectional nn.LSTM, Linear(64) with ReLU, Linear(1), BCEWithLogitsLoss, Adam 1e-4. `packed`
gives the LSTM a PackedSequence, the mathematics of a mask; `padded` gives it padded tensors and lets it
run over the padding, which is fast (oneDNN) and not the same mathematics. To its advantage: tensors are
time-major, batches are padded before the clock starts, denormals are flushed.
"""

import argparse
import re
import time

import torch

import peer_worker


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="the examples")
    parser.add_argument("--container", choices=("packed", "padded"), required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary-size", type=int, default=1000)
    parser.add_argument("--embedding-size", type=int, default=64)
    parser.add_argument("--hidden-size", type=int, default=64)
    return parser.parse_args()


class Model(torch.nn.Module):
    def __init__(self, arguments):
        super().__init__()
        embedding, hidden = arguments.embedding_size, arguments.hidden_size
        self.packed = arguments.container == "packed"
        self.embedding = torch.nn.Embedding(arguments.vocabulary_size, embedding)
        self.lstm = torch.nn.LSTM(embedding, hidden, bidirectional=True)
        self.dense = torch.nn.Linear(2 * hidden, 64)
        self.output = torch.nn.Linear(64, 1)

    def forward(self, ids, lengths):
        """`ids`: [T, B], padded with 0; `lengths`: [B]. Returns logits [B]."""
        values = self.embedding(ids)
        if self.packed:
            values = torch.nn.utils.rnn.pack_padded_sequence(values, lengths, enforce_sorted=False)
        _, (state, _) = self.lstm(values)
        both = torch.cat((state[0], state[1]), dim=1)
        return self.output(torch.relu(self.dense(both))).squeeze(1)


class Trainer:
    """One model that keeps training; an epoch's time does not depend on the weights."""

    def __init__(self, arguments):
        self.examples = peer_worker.Examples(arguments.folder)
        self.ids = torch.frombuffer(self.examples.ids, dtype=torch.int32).to(torch.int64)
        self.model = Model(arguments)
        self.loss = torch.nn.BCEWithLogitsLoss()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def make_batch(self, batch):
        begins = self.examples.begins
        rows = [self.ids[begins[i] : begins[i + 1]] for i in batch]
        lengths = torch.tensor([len(row) for row in rows])
        labels = torch.tensor([float(self.examples.labels[i]) for i in batch])
        return torch.nn.utils.rnn.pad_sequence(rows), lengths, labels

    def train(self, batches):
        ready = [self.make_batch(batch) for batch in batches]
        begin = time.perf_counter()
        for ids, lengths, labels in ready:
            self.optimiser.zero_grad()
            self.loss(self.model(ids, lengths), labels).backward()
            self.optimiser.step()
        return time.perf_counter() - begin


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    trainer = Trainer(arguments)
    trainer.train([[0, 1], [2, 3], [4]])
    onednn = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    inside = f" with oneDNN {onednn.group(1)}" if onednn else ""
    peer_worker.serve(f"PyTorch {torch.__version__}{inside}", trainer.train)


if __name__ == "__main__":
    main()
