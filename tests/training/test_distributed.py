"""Several processes: the same gradients, the same numbers, and no waiting for the dead."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

import pyro_vae_zoo as zoo
from pyro_vae_zoo import runtime
from pyro_vae_zoo import runtime as distributed
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.errors import LostRankError
from pyro_vae_zoo.runtime import Ranks, joined
from pyro_vae_zoo.training.checkpoint import load_checkpoint

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
SMALL = [
    "--latent-dim",
    "2",
    "--hidden-dims",
    "16",
    "--eval-particles",
    "20",
    "--quiet",
]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no gloo")


def start(number, *words):
    """`torchrun`, with what it prints kept."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env.pop("PYRO_VAE_ZOO_DATA", None)
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, str(number), *map(str, words)],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def torchrun(number, *words):
    process = start(number, *words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of two processes, with a run of theirs, and what they printed."""
    folder = tmp_path_factory.mktemp("ranks")
    how = words(folder / "run", "--epochs", "2", "--device", "cpu")
    return folder, torchrun(2, TESTS / "ranks.py", folder, *how)


@pytest.fixture(scope="module")
def found(ran):
    """What each of two processes found."""
    folder, _ = ran
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_no_thread_of_the_group_outlives_it(ran):
    """One that does can abort the process while it ends, now and then."""
    folder, _ = ran
    for rank in range(2):
        assert "gloo" not in (folder / f"{rank}.threads").read_text()


def test_both_are_there(found):
    assert [f["size"] for f in found] == [2, 2]
    assert [f["gather"] for f in found] == [[0, 1], [0, 1]]
    assert [f["any"] for f in found] == [[False, True], [False, True]]


@pytest.mark.parametrize("num_data", ["8", "7", "1"])
def test_the_gradient_is_that_of_the_shares(found, num_data):
    """Of a batch that is shared evenly, unevenly, and that leaves a process none."""
    for of_rank in found:
        assert of_rank["gradients"][num_data]["gradient"] < 1e-12
        assert of_rank["gradients"][num_data]["elbo"] < 1e-9


def test_an_evaluation_is_the_same_in_both(found):
    assert found[0]["elbo"] == found[1]["elbo"]
    assert found[0]["khat"] == found[1]["khat"]
    assert found[0]["units"] == found[1]["units"]


def test_data_are_evaluated_in_their_order(found):
    expected = pytest.approx(ranks.exact_densities(), rel=1e-5)
    assert found[0]["densities"] == expected
    assert found[1]["densities"] == found[0]["densities"]


def test_an_evaluation_has_the_number_of_one_process(found):
    torch.manual_seed(0)
    ev = zoo.evaluate(ranks.make(), ranks.images(9), num_particles=2000)
    assert found[0]["elbo"] == pytest.approx(ev.elbo, abs=0.5)


def test_an_error_of_the_first_is_raised_by_all(found):
    assert {f["refused"] for f in found} == {"only the first one looks"}


def test_gradients_that_some_or_none_have(found):
    assert found[0]["unused"] == found[1]["unused"] == [[2, 2], [1, 1], None]


def test_gradients_lie_as_their_parameters(found):
    assert found[0]["strides"] == found[1]["strides"] == [True, True]


def test_callbacks_run_in_the_first_and_stop_all(found):
    """One that evaluates would wait for the others for ever, if it were not alone."""
    assert [f["watched"] for f in found] == [[2, 2, True], [0, 2, True]]


def test_all_begin_with_the_weights_of_the_first(found):
    assert found[0]["start"] == found[1]["start"] == [0, 0, 0]


# ------------------------------------------------------------------ the command line


def words(folder, *more):
    return ["train", "--guide", "iaf", "--out", str(folder), *SMALL, *map(str, more)]


def train(folder, *more):
    """The command line as a script, for `torchrun`."""
    return [ROOT / "examples/train.py", *words(folder, *more)[1:]]


@pytest.fixture
def trained(ran):
    """A run of two processes, and what they printed."""
    folder, said = ran
    return folder / "run", said


def test_only_the_first_writes_and_speaks(trained):
    folder, said = trained
    assert said.count("log-likelihood") == 1
    assert not list(folder.glob("*.tmp"))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((folder / "result.json").read_text())["num_processes"] == 2


@pytest.mark.usefixtures("undrawn")
def test_one_process_goes_on_where_two_were(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    before = load_checkpoint(folder / "checkpoint.pt")
    assert len(before["random_states"]) == 2
    assert cli.main(words(folder, "--epochs", "3", "--resume")) == 0
    after = load_checkpoint(folder / "checkpoint.pt")
    assert (before["epoch"], after["epoch"]) == (2, 3)
    assert after["history"]["epochs"][:2] == before["history"]["epochs"]
    assert len(after["random_states"]) == 1


@pytest.mark.slow
def test_a_killed_process_ends_the_other(tmp_path):
    """With an error, in well under a minute, and the checkpoint can be read."""
    process = start(2, *train(tmp_path / "run", "--epochs", "100000"))
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    try:
        wait_until(checkpoint.exists, 120)
        victim = children_of(process.pid)[-1]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert time.monotonic() - killed < 60
    assert "SIGKILL" in said or "another process of this training has stopped" in said
    assert load_checkpoint(checkpoint)["epoch"] >= 0


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def children_of(pid):
    return [
        int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def test_what_is_for_one_process_alone(monkeypatch, capsys):
    class Two(Ranks):
        def __init__(self):
            self.rank, self.size = 0, 2

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(runtime, "joined", lambda device: contextlib.nullcontext(Two()))
    assert cli.main(["explore", "nothing"]) == 2
    assert "explore runs in one process, got 2" in capsys.readouterr().err


# --------------------------------------------------------------------- one process


def test_alone_everything_is_as_it_is():
    alone = Ranks()
    assert (alone.rank, alone.size, alone.several, alone.is_first) == (
        0,
        1,
        False,
        True,
    )
    assert [alone.seed(s) for s in (0, 7, -5, 2**63 - 1)] == [0, 7, -5, 2**63 - 1]
    assert alone.total(1.5, 2.0) == [1.5, 2.0]
    assert alone.gather("x") == ["x"]
    assert (alone.any(True), alone.any(False)) == (True, False)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(2, 64))
def test_seeds_of_ranks_differ_and_fit(seed, size):
    of_ranks = []
    for rank in range(size):
        process = Ranks()
        process.rank, process.size = rank, size
        of_ranks.append(process.seed(seed))
    assert len(set(of_ranks)) == size
    assert all(-(2**63) <= s < 2**63 for s in of_ranks)
    torch.Generator().manual_seed(of_ranks[-1])


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_the_batch(num_data, size):
    batch, parts = torch.arange(num_data), []
    for rank in range(size):
        process = Ranks()
        process.rank, process.size = rank, size
        parts.append(process.share(batch))
    assert torch.equal(torch.cat(parts), batch)
    lengths = [len(p) for p in parts]
    assert max(lengths) - min(lengths) <= 1


def test_too_many_processes_for_the_devices(monkeypatch):
    of_torchrun = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    of_torchrun |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in of_torchrun.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(zoo.UserError, match="expected at most 1 processes"), joined():
        pass


def test_a_collective_that_fails_names_the_cause():
    def closed():
        raise RuntimeError("Connection closed by peer\nmore")

    with pytest.raises(
        LostRankError, match=r"stopped \(Connection closed by peer more\)"
    ):
        distributed._collective(closed)


def test_a_batch_smaller_than_the_processes(monkeypatch):
    monkeypatch.setattr(Ranks, "size", 3, raising=False)
    monkeypatch.setattr(Ranks, "__init__", lambda self: setattr(self, "rank", 0))
    data = zoo.load_dataset("digits_binary")
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    with pytest.raises(zoo.UserError, match="a datum for each of 3 processes"):
        zoo.fit(vae, data, epochs=1, batch_size=2, progress=False)


# -------------------------------------------------------------------------- by hand


@pytest.mark.slow
def test_sigterm_stops_all_and_the_same_number_goes_on_bit_for_bit(tmp_path):
    how = ("--epochs", "30", "--batch-size", "33", "--seed", "1")
    torchrun(2, *train(tmp_path / "whole", *how))
    process = start(2, *train(tmp_path / "parts", *how))
    wait_until((tmp_path / "parts" / "metrics.jsonl").exists, 120)
    process.terminate()
    process.communicate(timeout=60)
    stopped = load_checkpoint(tmp_path / "parts" / "checkpoint.pt")
    assert 0 < stopped["epoch"] < 30
    torchrun(2, *train(tmp_path / "parts", *how, "--resume"))
    whole, parts = (
        load_checkpoint(tmp_path / name / "checkpoint.pt")
        for name in ("whole", "parts")
    )
    for name, tensor in whole["vae"].items():
        assert torch.equal(tensor, parts["vae"][name]), name


@pytest.mark.slow
def test_two_processes_train_as_well_as_one(tmp_path):
    """The final bound over five seeds lies within two standard errors."""
    final = {1: [], 2: []}
    for seed in range(5):
        for size, of_size in final.items():
            folder = tmp_path / f"{size}-{seed}"
            torchrun(size, *train(folder, "--epochs", "20", "--seed", seed))
            result = json.loads((folder / "result.json").read_text())
            of_size.append(result["elbo"])
    one, two = (torch.tensor(final[size], dtype=torch.double) for size in (1, 2))
    error = ((one.var() + two.var()) / len(one)).sqrt()
    assert (one.mean() - two.mean()).abs() < 2 * error
