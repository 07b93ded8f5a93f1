"""The places of a pair on the command line."""

import json

import pytest

from pyro_vae_zoo.cli.main import main

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
    assert "a prior is a place of guides of one latent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prior", "vampp"], "unknown prior 'vampp'; did you mean 'vamp'"),
        (
            ["--prior", "mine.py:P"],
            "expected a prior in mine.py; there is no such file",
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
