"""The command `diagnose`: what it writes, what it says, and where parts do not apply."""

import json
import math
from dataclasses import replace

import pytest
import torch
from pairs import linear_gaussian, nothing_drawn, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.diagnose import (
    DiagnoseOptions,
    diagnose,
    findings,
    subset,
)
from pyro_vae_zoo.files import finite
from pyro_vae_zoo.report.summary import _line, describe

FAST = DiagnoseOptions(
    num_particles=200, chains=4, temps=10, leapfrog=2, simulated=4, steps=20
)
BRIEF = DiagnoseOptions(**(vars(FAST) | {"temps": 2, "simulated": 1, "steps": 2}))
ARGS = [
    "--num-data", "6", "--num-particles", "50", "--chains", "4", "--temps", "8",
    "--leapfrog", "2", "--simulated", "3", "--steps", "10", "--device", "cpu",
]  # fmt: skip


@pytest.fixture
def make_run(npz, tmp_path):
    def make(guide, *options):
        folder = tmp_path / guide
        argv = ["train", "--guide", guide, "--data", npz, "--out", str(folder)]
        argv += ["--hidden-dims", "8", "--epochs", "1", "--eval-particles", "10"]
        with nothing_drawn():
            assert cli.main([*argv, "--device", "cpu", "--quiet", *options]) == 0
        return folder

    return make


def test_a_run_is_diagnosed(make_run, capsys):
    folder = make_run("iaf", "--latent-dim", "3")
    capsys.readouterr()
    assert cli.main(["diagnose", str(folder), "--quiet", *ARGS]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert max(map(len, out.splitlines()[:-1])) <= 80
    for words in ("6 data drawn at random from the test split, seed 0)", "z = ",
                  "AIS, 4 chains, T = 8", "3 simulated data",
                  "approximation gap", "z_0 to z_2"):  # fmt: skip
        assert words in out
    result = json.loads((folder / "diagnostics.json").read_text())
    expected = {
        "guide": "iaf", "data": "six", "split": "test", "num_data": 6, "seed": 0,
        "skipped": {}, "num_threads": torch.get_num_threads(),
    }  # fmt: skip
    assert {key: result[key] for key in expected} == expected
    assert result["settings"]["temps"] == 8
    assert result["settings"]["num_particles"] == 50
    assert result["covariances"]["steps"] == ["z_0", "z_1", "z_2"]
    assert len(result["per_datum"]["annealing"]) == 6
    for name in ("device", "versions", "variant", "seconds"):
        assert result[name]
    for name in ("particles", "gaps", "correlations"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("undrawn")
def test_json_alone_in_another_folder(make_run, capsys, tmp_path):
    folder = make_run("mean_field", "--latent-dim", "2")
    before = {p.name for p in folder.iterdir()}
    capsys.readouterr()
    out = tmp_path / "elsewhere" / "deep"
    argv = ["diagnose", str(folder), *ARGS, "--json", "--out", str(out), "--seed", "5"]
    assert cli.main(argv) == 0
    printed, err = capsys.readouterr()
    assert not err
    assert json.loads(printed) == json.loads((out / "diagnostics.json").read_text())
    assert json.loads(printed)["settings"]["seed"] == 5
    assert {p.name for p in folder.iterdir()} == before


def test_what_does_not_apply_is_left_out_and_named(make_run, capsys):
    folder = make_run("gated_dag", "--option", "num_nodes=2")
    capsys.readouterr()
    assert cli.main(["diagnose", str(folder), "--quiet", *ARGS]) == 0
    out = capsys.readouterr().out
    result = json.loads((folder / "diagnostics.json").read_text())
    assert set(result["skipped"]) == {"annealing", "gaps", "covariances"}
    assert "'z_1'" in result["skipped"]["annealing"]
    assert "no annealing: " in out
    assert not {"annealing", "gaps", "covariances", "bidirectional"} & result.keys()
    assert (folder / "particles.png").exists()
    assert not (folder / "gaps.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_mistake_is_one_line(make_run, capsys, tmp_path):
    assert cli.main(["diagnose", str(tmp_path / "none")]) == 2
    assert "is not a run" in capsys.readouterr().err
    folder = make_run("mean_field")
    assert cli.main(["diagnose", str(folder), "--num-data", "0"]) == 2
    assert "num_data must be at least 1, got 0" in capsys.readouterr().err
    assert cli.main(["diagnose", str(folder), "--num-particles", "0", "--quiet"]) == 2
    assert "num_particles" in capsys.readouterr().err


def test_numbers_are_those_of_the_parts():
    truth = linear_gaussian()
    vae = truth.vae(truth.gaussian_guide(widen=1.3))
    x = truth.marginal.sample((20,))
    found = diagnose(vae, x, FAST)
    importance = zoo.log_likelihood(vae, x, 200)
    torch.testing.assert_close(found.importance.log_prob, importance.log_prob)
    annealed = zoo.annealed_log_likelihood(vae, x, 4, 10, 2)
    torch.testing.assert_close(found.annealed.log_prob, annealed.log_prob)
    result = findings(found)
    agreement = result["agreement"]["importance"]
    difference = importance.log_prob - annealed.log_prob
    squares = importance.std_error.square() + annealed.std_error.square()
    error = squares.sum().sqrt().item() / 20
    assert agreement["difference"] == pytest.approx(difference.mean().item())
    assert agreement["std_error"] == pytest.approx(error)
    assert agreement["z"] == pytest.approx(difference.mean().item() / error)
    spread = difference.std().item() / math.sqrt(20)
    assert agreement["std_error_of_data"] == pytest.approx(spread)
    assert result["bidirectional"]["num_data"] == 4
    assert result["bidirectional"]["gap"] == pytest.approx(
        found.bounds.gap.mean().item()
    )


def test_the_error_of_draws_that_data_share_is_that_of_an_evaluation():
    vae, x = small("gated_dag"), torch.rand(6, 2, 3).bernoulli()
    found = findings(diagnose(vae, x, FAST))
    expected = zoo.evaluate(vae, x, FAST.num_particles).log_likelihood_mc_error
    assert found["importance"]["mc_error"] == pytest.approx(expected)
    assert found["curve"]["mc_error"][-1] == pytest.approx(expected)


def test_gaps_are_counted_from_the_highest_estimate():
    truth = linear_gaussian()
    x = truth.marginal.sample((10,))
    narrow = truth.vae(truth.gaussian_guide(widen=0.2, shift=0.5))  # IS is nats too low
    found = diagnose(narrow, x, FAST)
    estimates = {
        "importance sampling": found.importance,
        "annealing": found.annealed,
        "importance sampling from each datum's q": found.local,
    }
    assert found.log_prob_from != "importance sampling"
    best = estimates[found.log_prob_from].log_prob
    assert all(e.log_prob.mean() <= best.mean() for e in estimates.values())
    torch.testing.assert_close(found.gaps.log_prob, best)
    assert findings(found)["gaps"]["log_prob_from"] == found.log_prob_from


@pytest.mark.parametrize(
    ("difference", "words"),
    [(0.1, "they agree"), (-1.0, "IS is too low"), (1.0, "AIS is too low")],
)
def test_the_verdict(difference, words):
    found = findings(diagnose(small("mean_field"), torch.zeros(3, 2, 3), BRIEF))
    named = {"guide": "a", "data": "b", "split": "test", "num_data": 3}
    result = found | named | {"settings": {"seed": 0, "chains": 4, "temps": 10}}
    result["agreement"] = {
        "importance": {
            "difference": difference,
            "std_error": 0.1,
            "z": difference / 0.1,
        }
    }
    (line,) = [s for s in describe(result).splitlines() if " - AIS" in s]
    assert line.endswith(words)


def test_simulated_data_may_be_none():
    options = DiagnoseOptions(**(vars(BRIEF) | {"simulated": 0}))
    found = diagnose(small("mean_field"), torch.zeros(3, 2, 3), options)
    assert found.bounds is None
    assert "bidirectional" not in findings(found)
    assert not found.skipped


def test_a_subset_is_drawn_without_replacement():
    x = torch.arange(100.0)[:, None]
    chosen = subset(x, 30, seed=1)[:, 0]
    assert len(set(chosen.tolist())) == 30
    assert torch.equal(chosen, subset(x, 30, seed=1)[:, 0])
    assert not torch.equal(chosen, subset(x, 30, seed=2)[:, 0])
    assert torch.equal(subset(x, 500, seed=1), x)
    with pytest.raises(UserError, match="at least 1"):
        subset(x, 0, seed=1)


def test_there_may_be_no_annealing(make_run, capsys):
    folder = make_run("mean_field", "--latent-dim", "3")
    assert cli.main(["diagnose", str(folder), "--quiet", *ARGS, "--chains", "0"]) == 0
    result = json.loads((folder / "diagnostics.json").read_text())
    assert not {"annealing", "agreement", "bidirectional"} & result.keys()
    assert result["skipped"] == {}
    assert result["local_importance"]["log_likelihood"] < 0
    assert (folder / "particles.png").exists()
    assert "AIS" not in capsys.readouterr().out


def test_a_diagnosis_of_a_pair_without_a_finite_density_is_described():
    vae = small("mean_field")
    with torch.no_grad():
        for p in vae.model.decoder.parameters():
            p.fill_(math.nan)
    options = replace(BRIEF, simulated=0)
    found = findings(diagnose(vae, torch.ones(4, 2, 3), options))
    about = {"guide": "mean_field", "data": "six", "split": "test", "num_data": 4}
    text = describe(finite(about | {"settings": vars(options)} | found))
    assert "IS, guide                            ? +- ?" in text


def test_the_worst_khat_is_shown():
    line = {"log_likelihood": -87.0, "mc_error": 0.5, "num_particles": 100}
    line |= {"khat": {"median": None, "above_0.7": 1.0}}
    assert "100 particles, k-hat inf" in _line("IS, guide", line)
    unknown = line | {"khat": {"median": None, "above_0.7": None}}
    assert "k-hat" not in _line("IS, guide", unknown)


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", -1.0), ("chains", -3), ("temps", 0), ("leapfrog", 0), ("num_particles", 1)],
)
def test_efforts_out_of_range_are_refused_before_anything_is_done(option, value):
    with pytest.raises(UserError, match=option):
        DiagnoseOptions(**{option: value})


def test_a_likelihood_that_does_not_look_at_z_is_annealed():
    class Blind(nn.Module):
        def forward(self, z):
            return z.new_zeros(*z.shape[:-1], 3)

    vae = zoo.create("mean_field", event_shape=(3,), latent_dim=2, decoder=Blind())
    found = zoo.annealed_log_likelihood(vae, torch.zeros(4, 3), 4, 3, 2)
    expected = torch.full((4,), -3 * math.log(2), dtype=torch.double)
    torch.testing.assert_close(found.log_prob, expected)
    alone = zoo.annealed_log_likelihood(vae, torch.zeros(4, 3), 4, 1, 2)
    assert alone.acceptance.isnan().all()  # there was no transition
