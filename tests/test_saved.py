"""Runs that earlier releases saved: they load for ever, and have the numbers they had.

`tests/saved/VERSION` holds a run folder of each of some guides, written once by

    python examples/train.py --guide iaf --num-flows 1 --option flow_hidden_dims=8, \
        --latent-dim 2 --hidden-dims 4 --epochs 4 --eval-particles 20 --device cpu

without its pictures. Nothing in them is ever changed; a new release adds its own.
"""

import json
import shutil
from pathlib import Path

import pytest

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.training.checkpoint import load_checkpoint

SAVED = Path(__file__).parent / "saved"
RUNS = sorted(path.parent for path in SAVED.glob("*/*/config.json"))
EACH_RUN = pytest.mark.parametrize(
    "run", RUNS, ids=lambda p: f"{p.parent.name}-{p.name}"
)


def result_in(run):
    return json.loads((run / "result.json").read_text())


def test_there_are_saved_runs():
    assert {run.parent.name for run in RUNS} == {"0.1.0"}
    assert {run.name for run in RUNS} == {"iaf", "recursive_mixture"}


@EACH_RUN
def test_a_saved_run_has_its_number(run):
    saved, vae = result_in(run), zoo.load(run)
    data = zoo.load_dataset(saved["data"])
    assert data.variant == saved["variant"]
    again = zoo.evaluate(vae, data.test, num_particles=2000)
    assert again.num_data == saved["num_data"]
    error = 3 * saved["log_likelihood_mc_error"]
    assert again.log_likelihood == pytest.approx(
        saved["log_likelihood"], abs=error + 0.05
    )


@EACH_RUN
def test_a_saved_run_is_evaluated_and_compared(run, tmp_path, capsys):
    words = ["--quiet", "--device", "cpu", "--num-particles", "20"]
    assert cli.main(["evaluate", str(run), *words]) == 0
    assert cli.main(["compare", str(run), "--out", str(tmp_path)]) == 0
    assert result_in(run)["guide"] in capsys.readouterr().out


@EACH_RUN
def test_a_saved_run_goes_on(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    vae = zoo.load(run)
    data = zoo.load_dataset(config["data"])
    training = config["training"] | {"device": "cpu", "progress": False}
    history = zoo.fit(vae, data, out=folder, resume=True, **training)
    assert len(history.epochs) == training["epochs"]
    assert load_checkpoint(folder / "checkpoint.pt")["epoch"] == training["epochs"]
