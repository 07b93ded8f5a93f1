"""`studies/flow_figures.py`, which draws the flow study's figures from results."""

import json
import math
import sys

import pytest

import pyro_vae_zoo as zoo
from studies.flow_figures import METHODS, figures, main

PLANAR = [f"{row}_{k}" for row in ("planar", "planar_as_published") for k in (1, 2, 10)]
IAF = [f"iaf_{k}" for k in (1, 2, 10)]
ROWS = sorted({*METHODS, *PLANAR, *IAF})


def curve(row):
    """Sixteen epochs whose terms tell the row and the epoch."""
    first = ROWS.index(row)
    terms = {
        "kl": 25.0,
        "initial_log_density": -40.0,
        "final_log_density": -30.0 - first,
        "log_det": -10.0,
    }
    bounds = [-200 / math.sqrt(epoch) - first for epoch in range(1, 17)]
    return [
        {"step": 500 * epoch, "train_elbo": bound, "valid_elbo": bound - 1} | terms
        for epoch, bound in enumerate(bounds, start=1)
    ]


@pytest.fixture
def folder(tmp_path):
    for row in ROWS:
        path = tmp_path / f"{row}-s0.json"
        path.write_text(json.dumps({"row": row, "curve": curve(row)}))
    return tmp_path


def lines(ax):
    return [[list(values) for values in line.get_data()] for line in ax.lines]


def test_the_curves_are_those_of_the_rows(folder):
    found = figures(folder, 0)
    whole, end = found["training_curves"].axes
    steps = [500 * epoch for epoch in range(1, 17)]
    for ax in (whole, end):
        assert lines(ax) == [
            [steps, [r["train_elbo"] for r in curve(row)]] for row in METHODS
        ]
    assert end.get_xlim() == (7500, 8000)
    ours, theirs = found["planar_prior"].axes
    prior = [-55.0 - ROWS.index(f"planar_as_published_{k}") for k in (1, 2, 10)]
    assert [line[1][0] for line in lines(theirs)] == prior
    assert lines(ours) != lines(theirs)
    keys = ("initial_log_density", "final_log_density", "log_det")
    for ax, key in zip(found["iaf_densities"].axes, keys, strict=True):
        assert lines(ax) == [[steps, [r[key] for r in curve(row)]] for row in IAF]


def test_the_command_writes_them(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flow_figures", str(folder)])
    assert main() == 0
    names = ("training_curves", "planar_prior", "iaf_densities")
    assert all((folder / f"{name}.png").stat().st_size > 5000 for name in names)
    assert capsys.readouterr().out.count("written: ") == 3


def test_a_row_that_is_not_there(folder, monkeypatch, capsys):
    (folder / "iaf_10-s0.json").unlink()
    monkeypatch.setattr(sys, "argv", ["flow_figures", str(folder)])
    assert main() == 2
    assert "run the row iaf_10 first" in capsys.readouterr().err


def test_a_row_without_the_terms_of_a_flow(folder):
    bare = [{k: r[k] for k in ("step", "train_elbo")} for r in curve("planar_2")]
    (folder / "planar_2-s0.json").write_text(json.dumps({"curve": bare}))
    with pytest.raises(zoo.UserError, match="records with final_log_density; run"):
        figures(folder, 0)
