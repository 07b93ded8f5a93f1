"""Trainings that test_crashes.py kills, in processes of their own.

As a program this is the server of which each is a fork, with all imported:

    echo FOLDER SECONDS_BETWEEN_CHECKPOINTS | python tests/crashes.py TRAINING
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.training import loop
from pyro_vae_zoo.training.checkpoint import load_checkpoint

PATIENCE = 120  # seconds until something has gone wrong


@dataclass(frozen=True)
class Training:
    """What is trained: a guide with its options, and how."""

    guide: str
    options: dict = field(default_factory=dict)
    epochs: int = 6
    compile: bool = False
    mapped: bool = False  # the data, out of a file

    def run(self, folder: Path, seconds_between: float) -> None:
        torch.set_num_threads(1)
        loop._SECONDS_BETWEEN_CHECKPOINTS = seconds_between
        torch.manual_seed(0)
        data = zoo.load_dataset("digits_binary").first(160)
        data = _in_a_file(data, folder.parent) if self.mapped else data
        vae = zoo.create(self.guide, data, **SIZES | self.options)
        how = {"device": "cpu", "progress": False, "compile": self.compile}
        zoo.fit(
            vae, data, epochs=self.epochs, batch_size=20, out=folder, resume=True, **how
        )


def _in_a_file(data: zoo.Dataset, folder: Path) -> zoo.Dataset:
    """The same, mapped; the training part is of probabilities, drawn every epoch."""
    splits = []
    for name in ("train", "valid", "test"):
        path = folder / f"{name}.npy"
        x = getattr(data, name).numpy()
        if not path.exists():
            np.save(path, x * np.float32(0.9) if name == "train" else x)
        splits.append(np.load(path, mmap_mode="r"))
    return zoo.Dataset(*splits, dynamic=True)


SIZES = {"latent_dim": 2, "hidden_dims": (8,)}


class Server:
    """Forks a training whenever it is asked to."""

    def __init__(self, training):
        self.training = training
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(training))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, folder, seconds_between=0.0):
        print(folder, seconds_between, file=self.process.stdin, flush=True)
        return Child(int(self.process.stdout.readline()))

    def finish(self, folder):
        child = self.start(folder)
        wait_for(lambda: False, child)
        assert epochs_done(folder) == self.training.epochs

    def close(self):
        self.process.communicate()


@dataclass
class Child:
    """A training that goes on in another process."""

    pid: int

    def is_alive(self):
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self):
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: False, self)


def serve(training):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    if not training.compile:  # which starts threads, and these are not forked
        with tempfile.TemporaryDirectory() as folder:
            training.run(Path(folder), 10.0)
    for line in sys.stdin:
        folder, seconds_between = line.rsplit(maxsplit=1)
        pid = os.fork()
        if pid == 0:
            training.run(Path(folder), float(seconds_between))
            os._exit(0)
        print(pid, flush=True)


def epochs_done(folder):
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def wait_for(condition, child):
    """Until it holds; whether it did before the child was done."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if not child.is_alive():
            return False
        assert time.monotonic() < end, "waited in vain"
        time.sleep(1e-4)
    return True


def kill_after_a_while(server, folder, number, first, last):
    """At a random moment of the epochs from `first` to `last`; whether it was in time."""
    child = server.start(folder)
    there = wait_for(lambda: epochs_done(folder) >= first, child)
    begun, epoch = time.monotonic(), random.Random(number).uniform(first, last)
    if there:
        wait_for(lambda: epochs_done(folder) >= math.floor(epoch), child)
        of_one = (time.monotonic() - begun) / max(epochs_done(folder) - first, 1)
        time.sleep((epoch - math.floor(epoch)) * min(of_one, 0.2))
    in_time = child.is_alive()
    child.kill()
    return in_time


def kill_while_writing(server, folder):
    """While a checkpoint is written, in some epoch after the first."""
    child = server.start(folder)
    wait_for(lambda: epochs_done(folder) >= 2, child)
    wait_for(lambda: list(folder.glob("checkpoint.pt.*.tmp")), child)
    child.kill()
    return bool(list(folder.glob("checkpoint.pt.*.tmp")))


def end_of(folder):
    """What a training came to, but for the seconds that it took."""
    state = load_checkpoint(folder / "checkpoint.pt")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["seconds"]
    return records, state


def same(one, other):
    """Whether two trainings ended alike, bit for bit."""
    (records, state), (others, theirs) = one, other
    assert records == others
    for part in ("vae", "best"):
        assert state[part].keys() == theirs[part].keys()
        for name, tensor in state[part].items():
            assert torch.equal(tensor, theirs[part][name]), name
    for mine, yours in zip(
        state["random_states"], theirs["random_states"], strict=True
    ):
        assert all(map(torch.equal, mine, yours))
    return True


if __name__ == "__main__":
    serve(Training(**json.loads(sys.argv[1])))
