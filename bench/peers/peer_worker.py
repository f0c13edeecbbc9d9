"""Both ends of the talk between cpu_epoch.py and its long-lived workers: lines of text through pipes.

A worker is a process that holds one system's model. It says `ready VERSIONS` when it can work. Each request
is one line, each answer one line:

    train 3,1,2 9,8,7     train one step on each of these batches of examples;  answer: seconds 1.25
    check                 compare its own token ids with the files;             answer: checked ...
    (end of input)        the worker ends

The examples lie in files of a folder (`Examples`): `ids.bin` (int32, one after the other), `lengths.bin`
(int32), `labels.bin` (uint8), `vocabulary.txt`. Nothing but answers goes to standard output.

OpenMP's threads are told to spin between parallel regions (OMP_WAIT_POLICY=active, unless the environment
says something else): sleeping in between costs these systems a third to four fifths of their speed. So
that nobody spins in another system's turn, a worker is stopped (SIGSTOP) whenever it has no request.
"""

import array
import ctypes
import os
import pathlib
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
TICKS = os.sysconf("SC_CLK_TCK")


class Examples:
    """Token ids, lengths and labels of all examples, from the files of a folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.ids = self.read("ids.bin", "i")
        self.lengths = self.read("lengths.bin", "i")
        self.labels = self.read("labels.bin", "B")
        self.begins = [0]
        for length in self.lengths:
            self.begins.append(self.begins[-1] + length)

    def read(self, name, kind):
        values = array.array(kind)
        values.frombytes((self.folder / name).read_bytes())
        return values

    @staticmethod
    def write(folder, rows, labels):
        lengths = array.array("i", map(len, rows))
        with open(pathlib.Path(folder, "ids.bin"), "wb") as file:
            for row in rows:
                array.array("i", row).tofile(file)
        pathlib.Path(folder, "lengths.bin").write_bytes(lengths.tobytes())
        pathlib.Path(folder, "labels.bin").write_bytes(bytes(labels))


def serve(versions, train, check=None):
    """The worker's loop. `train(batches)` returns seconds; `check()` returns a text."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    print("ready", versions, file=answers, flush=True)
    for line in sys.stdin:
        what, *rest = line.split()
        if what == "train":
            batches = [[int(i) for i in word.split(",")] for word in rest]
            print("seconds", repr(train(batches)), file=answers, flush=True)
        elif what == "check" and check is not None:
            print("checked", check(), file=answers, flush=True)
        else:
            sys.exit(f"{sys.argv[0]}: unknown request {what!r}")


def die_with_parent():
    """A stopped worker would otherwise outlive a coordinator that was killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Worker:
    """The other end: starts the process, sends requests and waits for the answers."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"OMP_WAIT_POLICY": "active", **os.environ, **(environment or {})},
            preexec_fn=die_with_parent,
        )
        self.versions = self.answer("ready")
        self.stop()

    def answer(self, expected):
        line = self.process.stdout.readline()
        what, _, rest = line.strip().partition(" ")
        if what != expected:
            ended = "ended" if not line else f"answered {line.strip()[:200]!r}"
            sys.exit(f"worker {self.name}: {ended} where {expected!r} was expected; its messages are above")
        return rest

    def ask(self, request, expected):
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            sys.exit(f"worker {self.name} has ended; its messages are above")
        answer = self.answer(expected)
        self.stop()
        return answer

    def stop(self):
        """Returns when all its threads stand still, or it has ended: a signal alone takes effect later."""
        self.process.send_signal(signal.SIGSTOP)
        if self.process.returncode is None:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def train(self, batches):
        return float(self.ask(" ".join(["train", *(",".join(map(str, b)) for b in batches)]), "seconds"))

    def cpu_seconds(self):
        """Processor time of all its threads so far; 0 where there is no /proc."""
        try:
            text = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS

    def close(self):
        """End of input ends the worker; one that is busy (after an error elsewhere) is killed."""
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.close()
            self.process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
