"""`list` and `--help-options` say what there is, and nothing is left undescribed."""

import json
import sys
from pathlib import Path

import pytest

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli.arguments import KINDS
from pyro_vae_zoo.cli.listing import named
from pyro_vae_zoo.cli.main import main
from pyro_vae_zoo.models.priors import PRIORS
from pyro_vae_zoo.nn.names import LIKELIHOODS, NETWORKS

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "guides": zoo.list_guides(),
    "densities": zoo.list_density_models(),
    "priors": [*PRIORS],
    "likelihoods": [*LIKELIHOODS],
    "networks": [*NETWORKS],
    "data": zoo.list_datasets(),
    "pretrained": zoo.list_pretrained(),
}


def test_all_that_is_registered_is_listed_with_a_sentence(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [*listed] == [*KINDS]
    for kind, names in EXPECTED.items():
        assert sorted(one["name"] for one in listed[kind]) == sorted(names)
    assert {"planar", "sylvester"} <= {one["name"] for one in listed["transforms"]}
    lines = [one["about"] for of in listed.values() for one in of]
    assert [line for line in lines if not 10 < len(line) < 90] == []
    sources = {one["name"]: one["source"] for one in listed["guides"]}
    without = [name for name, source in sources.items() if not source]
    assert without == ["full_rank", "mixture"]  # which no paper has as it is here
    assert sources["ladder"] == "Sonderby et al. 2016"
    assert {one.source for one in named("priors")} > {"Chen et al. 2017, sec. 3.2"}


def test_some_kinds_are_asked_for(capsys):
    assert main(["list", "priors", "networks"]) == 0
    out = capsys.readouterr().out
    first, *rest = out.splitlines()
    assert first == f"priors: {KINDS['priors']}"
    assert len(rest) == len(PRIORS) + 2 + len(NETWORKS)
    assert "  flow      a flow of N(0, I). (Chen et al. 2017, sec. 3.2)" in rest
    assert main(["list", "prior"]) == 2
    assert "unknown kind 'prior'; did you mean 'priors'?" in capsys.readouterr().err


def test_names_fit_the_terminal_and_are_lines_elsewhere(capsys, monkeypatch):
    assert main(["list", "guides"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(zoo.list_guides())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "guides"]) == 0
    wrapped = capsys.readouterr().out
    assert max(map(len, wrapped.splitlines())) <= 80
    assert wrapped.split() == " ".join(lines).split()


def test_a_declaration_says_more_than_a_sentence_that_has_the_name(capsys):
    assert main(["train", "--guide", "sylvester_orthogonal", "--help-options"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("  --latent-dim  int, default 40")
    assert lines[at + 1] == "      size of the latent vector z."
    assert "  --hidden-dims  tuple[int, ...], default 300,300" in lines


@pytest.mark.parametrize("name", zoo.list_guides() + zoo.list_density_models())
def test_each_option_of_a_guide_has_type_default_and_help(name, capsys):
    density = name in zoo.list_density_models()
    words = ["density", "--model"] if density else ["train", "--guide"]
    assert main([*words, name, "--help-options"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"options of guide {name}"
    assert max(map(len, lines)) <= 80
    found = [line for line in lines if not line.startswith("      ")]
    assert len(found) == len(zoo.guide_options(name))
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line in found:
            assert ", default " in line
            assert following.startswith("      "), line
            assert "make_" not in following  # what is said of a function, not of it


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--prior", "flow"],
            ["options of prior flow", "--option prior_num_flows=  int, default 6"],
        ),
        (
            ["--guide", f"{ROOT}/examples/my_guide.py:MyGuide", "--likelihood", "gaussian"],
            ["--option df=  float, default 10", "--option feature_scales=  bool"],
        ),
        (
            ["--model", f"{ROOT}/examples/my_model.py:make_vae"],
            ["options of model", "--latent-dim  int, default 8"],
        ),
    ],
)  # fmt: skip
def test_options_of_what_is_given(words, expected, capsys):
    assert main(["train", *words, "--help-options"]) == 0
    out = capsys.readouterr().out
    for text in expected:
        assert text in out


def test_options_of_what_is_not_there(capsys):
    assert main(["train", "--guide", "iaff", "--help-options"]) == 2
    assert "did you mean 'iaf'?" in capsys.readouterr().err
