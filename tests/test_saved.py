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
from pairs import quick

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


OLD_NAME = pytest.mark.filterwarnings("default:.*is now called 'digits_binary'")


@EACH_RUN
def test_a_saved_run_has_its_number(run):
    saved, vae = result_in(run), zoo.load(run)
    data = zoo.load_dataset("digits_binary")  # which was called digits
    assert data.variant == saved["variant"]
    again = zoo.evaluate(vae, data.test, num_particles=2000)
    assert again.num_data == saved["num_data"]
    error = 3 * saved["log_likelihood_mc_error"]
    assert again.log_likelihood == pytest.approx(
        saved["log_likelihood"], abs=error + 0.05
    )


@OLD_NAME
@EACH_RUN
def test_a_saved_run_is_evaluated_and_compared(run, tmp_path, capsys):
    words = ["--quiet", "--device", "cpu", "--num-particles", "20"]
    with pytest.warns(UserWarning, match="written by version 0.1.0; its data set"):
        assert cli.main(["evaluate", str(run), *words]) == 0
    assert f"{run.name} on digits_binary" in capsys.readouterr().out
    assert cli.main(["compare", str(run), "--out", str(tmp_path)]) == 0
    assert result_in(run)["guide"] in capsys.readouterr().out


@EACH_RUN
def test_a_saved_run_goes_on(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    vae = zoo.load(run)
    data = zoo.load_dataset("digits_binary")
    training = config["training"] | {"device": "cpu", "progress": False}
    history = zoo.fit(vae, data, out=folder, resume=True, **training)
    assert len(history.epochs) == training["epochs"]
    assert load_checkpoint(folder / "checkpoint.pt")["epoch"] == training["epochs"]


@OLD_NAME
@pytest.mark.parametrize("run", quick(RUNS, RUNS[0]), ids=lambda p: p.name)
def test_a_saved_run_is_resumed_by_the_words_of_its_day(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    words = ["--guide", config["guide"], "--out", str(folder), "--quiet"]
    assert cli.main(["train", *words, "--resume"]) == 0
    assert result_in(folder) == result_in(run)  # it was finished, and is
    (folder / "result.json").unlink()
    more = ["--eval-particles", "5"]
    assert cli.main(["train", *words, *more, "--resume"]) == 0
    now = json.loads((folder / "config.json").read_text())
    assert (now["data"], now["eval_particles"]) == ("digits_binary", 5)
    assert (now["training"]["kl_warmup"], now["training"]["schedule"]) == (
        0,
        "constant",
    )
    assert (folder / "model.safetensors").stat().st_size > 0
