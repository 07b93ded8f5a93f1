"""Training on data that are not in memory: as on those that are, bit for bit."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import crashes
import numpy as np
import pytest
import torch
from pairs import interrupt_at

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.data.streamed.sources import Items
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.training import feed
from pyro_vae_zoo.training.feed import Feed
from pyro_vae_zoo.training.options import TrainOptions

SMALL = {"latent_dim": 3, "hidden_dims": (8,)}
HOW = {"epochs": 3, "batch_size": 16, "device": "cpu", "progress": False}


def bits(n=75):
    return np.random.default_rng(0).random((n, 2, 3)) < 0.3


@pytest.fixture
def file(tmp_path):
    """A function: an array as it is mapped from its file."""

    def mapped(array):
        np.save(tmp_path / "x.npy", array)
        return np.load(tmp_path / "x.npy", mmap_mode="r")

    return mapped


def trained(data, guide="mean_field", **how):
    torch.manual_seed(0)
    vae = zoo.create(guide, data, **SMALL)
    history = zoo.fit(vae, data, **HOW | how)
    return vae, [{**record, "seconds": 0} for record in history.epochs]


def assert_same(one, other):
    (vae, records), (other_vae, other_records) = one, other
    for (name, p), q in zip(
        vae.state_dict().items(), other_vae.state_dict().values(), strict=True
    ):
        assert torch.equal(p, q), name
    assert records == other_records


@pytest.mark.parametrize("how", [{}, {"ema": 0.9, "clip_norm": 1.0}], ids=["", "ema"])
def test_a_mapped_array_trains_as_the_array_does(file, how):
    here = trained(zoo.Dataset(bits()), **how)
    there = zoo.Dataset(file(bits()))
    assert_same(trained(there, **how), here)
    vae, x = here[0], zoo.Dataset(bits())
    assert zoo.evaluate(vae, there, 30) == zoo.evaluate(vae, x, 30)
    assert zoo.evaluate(vae, there.test, 30) == zoo.evaluate(vae, x.test, 30)


@pytest.mark.parametrize(
    "array", [bits().astype(np.uint8), bits().astype(np.float64)], ids=["u1", "f8"]
)
def test_bits_of_any_kind(file, array):
    assert_same(trained(zoo.Dataset(file(array))), trained(zoo.Dataset(bits())))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_compiled_steps_too(file, num_workers):
    how = {"compile": True, "num_workers": num_workers}
    here = trained(zoo.Dataset(bits()), **how)
    assert_same(trained(zoo.Dataset(file(bits())), **how), here)


@pytest.mark.parametrize("kind", ["mapped", "dynamic", "items"])
def test_the_number_of_workers_changes_nothing(file, kind):
    if kind == "items":
        x = torch.from_numpy(bits()).float()
        rows = Rows(Items(torch.utils.data.TensorDataset(x)))
        data = zoo.Dataset(rows)
    else:
        array = bits() if kind == "mapped" else bits() * np.float32(0.7)
        data = zoo.Dataset(file(array), dynamic=kind == "dynamic")
    assert_same(trained(data, num_workers=2, epochs=2), trained(data, epochs=2))


def test_epochs_of_probabilities_are_drawn_anew(file):
    grey = bits() * np.float32(0.7)
    data = zoo.Dataset(file(grey), dynamic=True)
    vae = zoo.create("mean_field", data, **SMALL)
    source = Feed(data, TrainOptions(batch_size=30, seed=5), vae, Ranks())
    seen = []
    for epoch in (0, 1, 0):
        source.begin(epoch, 0)
        x = torch.cat([source.batch(step) for step in range(source.num_steps)])
        order = feed.epoch_order(len(data.train), 5, epoch)
        assert torch.equal(x, data.epoch(5, epoch)[order])
        seen.append(x)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0].sum(0), seen[1].sum(0))


def test_a_batch_can_be_had_again(file):
    data = zoo.Dataset(file(bits()))
    vae = zoo.create("mean_field", data, **SMALL).double()
    source = Feed(data.read_by(1), TrainOptions(batch_size=16), vae, Ranks())
    source.begin(epoch=0, step=1)
    first = source.batch(1)
    assert first.dtype == torch.double
    assert torch.equal(source.batch(1), first)
    assert not torch.equal(source.batch(2), first)
    assert torch.equal(source.batch(1), first)
    assert [source.size(step) for step in range(4)] == [16, 16, 16, 13]
    source.close()


def test_ranks_share_a_batch(file):
    data = zoo.Dataset(file(bits()))
    vae = zoo.create("mean_field", data, **SMALL)
    parts = []
    for rank in range(3):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 3
        source = Feed(data, TrainOptions(batch_size=16), vae, ranks)
        source.begin(epoch=0, step=0)
        parts.append([source.batch(step) for step in range(4)])
    alone = Feed(data, TrainOptions(batch_size=16), vae, Ranks())
    alone.begin(epoch=0, step=0)
    for step, of_ranks in enumerate(zip(*parts, strict=True)):
        assert torch.equal(torch.cat(of_ranks), alone.batch(step))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_it_resumes_in_the_middle_of_an_epoch(file, tmp_path, monkeypatch, num_workers):
    data = zoo.Dataset(file(bits() * np.float32(0.7)), dynamic=True)
    whole = trained(data)
    out = {"out": tmp_path / "run", "num_workers": num_workers}
    interrupt_at(monkeypatch, 1, 5)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            trained(data, resume=resume, **out)
    assert_same(trained(data, resume=True, **out), whole)


def test_a_file_that_was_changed_is_no_file_to_go_on_with(file, tmp_path, monkeypatch):
    array = bits(3000)
    data = zoo.Dataset(file(array))
    out = {"out": tmp_path / "run", "batch_size": 500}
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        trained(data, **out)
    array[1234] = ~array[1234]
    changed = zoo.Dataset(file(array))
    with pytest.raises(zoo.UserError, match="was made with other data"):
        trained(changed, resume=True, **out)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_row_ends_a_training_with_its_number(file, num_workers):
    array = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
    array[1001, 2] = np.inf
    data = zoo.Dataset(*[file(array)] * 3, likelihood="gaussian")
    with pytest.raises(
        zoo.UserError, match="row 1001 of x.npy: train: .* infinite of 3"
    ):
        trained(data, batch_size=300, num_workers=num_workers)


def test_one_number_beyond_a_float_is_diagnosed(file, monkeypatch):
    data = zoo.Dataset(file(bits().astype(np.float32)), likelihood="gaussian")
    batch = Feed.batch
    monkeypatch.setattr(Feed, "batch", lambda self, step: 1e30 * batch(self, step))
    with pytest.raises(zoo.DivergedError, match="step 1"):
        trained(data, epochs=1)


PROGRAM = """
import pathlib, sys, time, torch
import pyro_vae_zoo as zoo

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 300
    def __getitem__(self, i):
        if torch.utils.data.get_worker_info():
            pathlib.Path(sys.argv[1], "reading").touch()
        time.sleep(0.01)
        return torch.zeros(2, 3)

if __name__ == "__main__":
    data = zoo.Dataset.from_torch(Slow(), likelihood="bernoulli", in_memory=False)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(4,))
    try:
        zoo.fit(vae, data, epochs=99, batch_size=10, num_workers=2, device="cpu",
                out=sys.argv[1], progress=False)
    finally:
        print(time.time(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_group_ends_it_at_once_and_leaves_nobody(sign, tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun = time.monotonic()
    while not (tmp_path / "run" / "reading").exists():
        assert time.monotonic() - begun < 60, "it never began"
        time.sleep(0.01)
    time.sleep(1)
    begun, sent = time.monotonic(), time.time()
    if sign == signal.SIGKILL:  # which reaches the first process alone
        os.kill(program.pid, sign)
    else:
        os.killpg(program.pid, sign)
    ended, error = program.communicate(timeout=60)
    if sign != signal.SIGKILL:
        assert float(ended) - sent < 1
        assert "KeyboardInterrupt" in error
        assert "DataLoader" not in error
        assert (tmp_path / "run" / "checkpoint.pt").exists()
    while alive(program.pid):
        assert time.monotonic() - begun < 30, "somebody was left"
        time.sleep(0.1)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def killed_and_resumed(times, folder):
    """How often a training on a file was killed before it was done; it must end alike."""
    training = crashes.Training("mean_field", mapped=True)
    server = crashes.Server(training)
    try:
        server.finish(folder / "undisturbed")
        expected = crashes.end_of(folder / "undisturbed")
        in_time = 0
        for number in range(times):
            run = folder / str(number)
            in_time += crashes.kill_after_a_while(server, run, number, 0, 6)
            server.finish(run)
            assert crashes.same(crashes.end_of(run), expected)
        return in_time
    finally:
        server.close()


@pytest.mark.slow
def test_killed_fifty_times(tmp_path):
    assert killed_and_resumed(50, tmp_path) > 35


def test_the_benchmark_runs_small(tmp_path, monkeypatch):
    folder = Path(zoo.__file__).parent.parent / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    benchmark = importlib.import_module("larger_than_memory")
    monkeypatch.setattr(benchmark, "TURN", 2)
    monkeypatch.setattr(benchmark, "KINDS", ("in memory", "file"))
    rows = benchmark.write_file(tmp_path / "x.npy", 0.001)
    assert np.load(tmp_path / "x.npy", mmap_mode="r").shape == (rows, 28, 28)
    args = SimpleNamespace(batch_size=10, compile=False, repeats=2)
    times = benchmark.time_steps(tmp_path / "x.npy", args)
    assert times["in memory"]["over"] == 1
    assert times["file"]["milliseconds"] > 0


@pytest.mark.slow
def test_the_benchmark_runs_as_a_program(tmp_path):
    program = Path(zoo.__file__).parent.parent / "benchmarks" / "larger_than_memory.py"
    command = [sys.executable, program, "--gigabytes", "0.01", "--repeats", "2"]
    command += ["--folder", tmp_path, "--out", tmp_path / "found.json"]
    subprocess.run(command, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    peaks = found["peak_mb"]
    assert abs(peaks["file"] - peaks["small file"]) < 50
    assert not list(tmp_path.glob("*/*.npy"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    """16 MB on disk, in float32 63 MB: trained on, validated, evaluated."""
    shape = 20_000, 28, 28
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.bool_, shape)
    array[:] = np.random.default_rng(0).random((28, 28)) < 0.3
    del array
    x = np.load(tmp_path / "x.npy", mmap_mode="r")

    def used(train):
        zoo.fit(vae, zoo.Dataset(train, x[19_000:19_500], x[19_500:]), **how)
        zoo.evaluate(vae, x[19_500:], 1)
        return anonymous()

    how = {"epochs": 1, "batch_size": 200, "device": "cpu", "progress": False}
    vae = zoo.create("mean_field", event_shape=(28, 28), **SMALL)
    little = used(x[:600])  # with whatever is loaded and allocated once
    assert used(x[:19_000]) - little < 30e6


def anonymous():
    """Bytes of the process's own, without what the system caches of files."""
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return 1024 * int(lines["RssAnon"].split()[0])
