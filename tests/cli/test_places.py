"""The places of a pair on the command line."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from pairs import quick

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli.main import main

pytestmark = pytest.mark.usefixtures("undrawn")

FAST = ["--latent-dim", "2", "--hidden-dims", "8", "--epochs", "1", "--quiet"]
FAST += ["--eval-particles", "5", "--no-compile"]


def run(*argv):
    return main([str(word) for word in argv])


def test_a_prior_is_trained_evaluated_and_compared(tmp_path, capsys):
    folder = tmp_path / "run"
    prior = ["--prior", "mixture", "--option", "prior_components=3"]
    assert run("train", "--out", folder, *prior, *FAST) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["places"] == {"prior": "mixture"}
    assert config["vae"]["prior"] == "mixture"
    assert json.loads((folder / "result.json").read_text())["prior"] == "mixture"
    assert run("train", "--out", folder, *prior, *FAST, "--resume") == 0
    capsys.readouterr()
    assert run("train", "--out", folder, "--prior", "flow", *FAST, "--resume") == 2
    assert "has places.prior = 'mixture', not 'flow'" in capsys.readouterr().err
    assert run("evaluate", folder, "--num-particles", 5, "--quiet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prior"] == "mixture"


def test_priors_are_compared_beside_each_other(tmp_path, capsys):
    guides = ["--guides", "mean_field", "mean_field:prior=mixture"]
    assert run("compare", "--out", tmp_path, *guides, *FAST) == 0
    table = capsys.readouterr().out
    assert "| mean_field " in table
    assert "mean_field (prior = mixture)" in table
    argv = ["--guides", "ladder", "--prior", "flow", "--out", tmp_path / "no"]
    assert run("compare", *argv, *FAST) == 2
    assert (
        "a prior can be chosen for guides of one latent vector only"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prior", "vampp"], "unknown prior 'vampp'; did you mean 'vamp'"),
        (
            ["--prior", "mine.py:P"],
            "file mine.py not found; expected the prior 'P' in it",
        ),
        (["--guide", "iaf", "--prior", "vamp"], "guide 'iaf': the prior 'vamp'"),
    ],
)
def test_what_cannot_be_is_said_before_a_folder_is_made(
    words, message, tmp_path, capsys
):
    folder = tmp_path / "run"
    assert run("train", "--out", folder, *words, *FAST) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "my_prior": {"prior": "MyPrior"},
    "my_likelihood": {"likelihood": "MyLikelihood"},
    "my_networks": {"encoder": "MyEncoder", "decoder": "my_decoder"},
    "my_model": {"model": "make_vae"},
}


def test_examples_take_rows_of_a_table():
    torch.manual_seed(0)
    x = (torch.rand(20, 6) < 0.4).float()
    files = {
        name: runpy.run_path(ROOT / "examples" / f"{name}.py") for name in EXAMPLES
    }
    decoder = files["my_networks"]["my_decoder"]
    pairs = [
        zoo.create("mean_field", event_shape=[6], latent_dim=2, decoder=decoder),
        files["my_model"]["make_vae"]([6]),
    ]
    for vae in pairs:
        zoo.testing.check_vae(vae, x)


def flags(example):
    places = EXAMPLES[example]
    path = ROOT / "examples" / f"{example}.py"
    words = [
        word for p, name in places.items() for word in (f"--{p}", f"{path}:{name}")
    ]
    bits = example in ("my_likelihood", "my_model")
    return words + ["--data", "digits_binary"] * bits


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_ones_own_are_trained_resumed_and_judged(example, tmp_path, capsys):
    """By one flag for each part, and never without it."""
    assert len((ROOT / "examples" / f"{example}.py").read_text().splitlines()) <= 40
    folder, own = tmp_path / "run", flags(example)
    options = [] if example == "my_model" else ["--hidden-dims", 8]
    how = [
        "--latent-dim",
        2,
        "--quiet",
        "--eval-particles",
        5,
        "--no-compile",
        *options,
    ]
    assert run("train", "--out", folder, *own, *how, "--epochs", 1) == 0
    config = json.loads((folder / "config.json").read_text())
    places = [word for word in own[1::2] if ".py" in word]
    assert list(config["places"].values()) == places
    more = ["--epochs", 2, "--resume", "--quiet"]  # all else as before
    assert run("train", "--out", folder, *own, *more) == 0
    capsys.readouterr()
    assert run("evaluate", folder, "--quiet") == 2
    assert f"add {own[0]} {own[1]}" in capsys.readouterr().err
    assert run("evaluate", folder, *own, "--num-particles", 5, "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 2
    small = ["--num-data", 3, "--num-particles", 20, "--steps", 3, "--quiet"]
    small += ["--chains", 2, "--temps", 3, "--simulated", 2, "--leapfrog", 2]
    assert run("diagnose", folder, *own, *small) == 0
    capsys.readouterr()
    code = run("explore", folder, *own, "--num-data", 3, "--num-samples", 5, "--quiet")
    said = capsys.readouterr().err
    if example in ("my_prior", "my_networks"):
        assert code == 0
    if example == "my_model":
        assert "the page needs a pair of one latent vector" in said
        assert run("evaluate", folder, *own, "--guide", "iaf") == 2
        assert "--guide: expected nothing" in capsys.readouterr().err


@pytest.mark.parametrize("example", quick(EXAMPLES, "my_model", "my_prior"))
def test_examples_of_ones_own_are_compared(example, tmp_path, capsys):
    guides = ["--guides", "mean_field"]
    how = ["--latent-dim", 2, "--epochs", 1, "--quiet", "--eval-particles", 5]
    how += ["--no-compile", "--out", tmp_path]
    assert run("compare", *guides, *flags(example), *how) == 0
    table = capsys.readouterr().out
    assert "mean_field" in table
    assert next(iter(EXAMPLES[example].values())) in table


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e != "my_model"])
def test_examples_check_themselves(example, capsys):
    runpy.run_path(ROOT / "examples" / f"{example}.py", run_name="__main__")
    assert "the pair keeps the contract" in capsys.readouterr().out


MONITORED = """
import torch
import pyro_vae_zoo as zoo

def make(event_shape):
    vae = zoo.create("mean_field", event_shape=event_shape, latent_dim=2)
    return zoo.VAE(
        vae.model,
        vae.guide,
        event_shape,
        monitor=lambda vae: {"norm": torch.tensor(1.5), "elbo": 99.0},
    )
"""


def test_what_a_pair_of_ones_own_records_is_in_the_result(tmp_path):
    """As in the records of its epochs: as plain numbers, in place of nothing."""
    (tmp_path / "mine.py").write_text(MONITORED)
    folder = tmp_path / "run"
    own = ["--model", f"{tmp_path / 'mine.py'}:make", "--data", "digits_binary"]
    how = ["--epochs", 1, "--eval-particles", 5, "--quiet", "--no-compile"]
    assert run("train", "--out", folder, *own, *how) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["norm"] == 1.5
    assert result["elbo"] < 0
