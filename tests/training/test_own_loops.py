"""Loops of one's own, in plain PyTorch and in Lightning, train a pair of the zoo."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from pairs import graphs_as_traced, small
from torch.utils.data import DataLoader

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference import compiled

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def data():
    torch.manual_seed(3)
    x = (torch.rand(60, 2, 3) < torch.rand(2, 3)).float()
    return zoo.Dataset(x[:40], x[40:50], x[50:])


def make():
    torch.manual_seed(0)
    return small("mean_field")


@pytest.mark.parametrize("name", ["my_loop", "my_lightning"])
def test_they_are_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 40


def test_a_loop_in_plain_pytorch_is_that_of_fit(data, monkeypatch):
    """To the bound: the order of the data is another, and so are the draws."""
    graphs = graphs_as_traced(monkeypatch, compiled)
    train = runpy.run_path(str(EXAMPLES / "my_loop.py"))["train"]
    ours, theirs = make(), make()
    elbos = train(ours, data, epochs=40, batch_size=20, lr=0.03)
    options = {"optimizer": "adamw", "schedule": "cosine", "lr": 0.03, "epochs": 40}
    zoo.fit(theirs, data, **options, batch_size=20, keep="last", progress=False)
    assert len(graphs) == 1
    assert elbos[-1] > elbos[0] + 0.1
    assert not ours.training
    bounds = [zoo.evaluate(vae, data.train, 100).elbo for vae in (ours, theirs)]
    assert bounds[0] == pytest.approx(bounds[1], abs=0.1)


def test_a_loop_takes_fewer_data_than_a_batch(data, monkeypatch):
    graphs_as_traced(monkeypatch, compiled)
    train = runpy.run_path(str(EXAMPLES / "my_loop.py"))["train"]
    (elbo,) = train(make(), data, epochs=1)  # of 40 data, in batches of 100
    assert math.isfinite(elbo)


@pytest.mark.filterwarnings("ignore")  # of Lightning's advice
def test_a_pair_is_trained_by_lightning(data, monkeypatch, tmp_path):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    graphs = graphs_as_traced(monkeypatch, compiled)
    training = runpy.run_path(str(EXAMPLES / "my_lightning.py"))["Training"]
    vae = make()
    before = zoo.evaluate(vae, data.train, 100).elbo
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=15, accelerator="cpu", logger=False, default_root_dir=tmp_path,
        enable_checkpointing=False, **quiet,
    )  # fmt: skip
    batches = DataLoader(data.train, 20, shuffle=True, drop_last=True)
    trainer.fit(training(vae, lr=0.02), batches)
    assert len(graphs) == 1
    assert zoo.evaluate(vae, data.train, 100).elbo > before + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my_loop", "my_lightning"])
def test_they_run_as_they_are(name, capsys, tmp_path, monkeypatch):
    if name == "my_lightning":
        pytest.importorskip("lightning", reason="Lightning is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **keywords: None)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    found = float(capsys.readouterr().out.split()[-1])
    assert found > -400  # of digits whose first bound is -600 and less
