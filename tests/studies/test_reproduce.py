"""The tables of the papers: every one runs, and the study's faults are what they say."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import perturb, quick
from torch.autograd.functional import jacobian

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.files import resolve
from pyro_vae_zoo.models.create import guide_options
from studies import as_published, recipes
from studies.reproduce import _training, main
from studies.tables import Budget, Row, Table, options_of, repeated

ROOT = Path(__file__).parents[2]


def reproduce(folder, *argv):
    command = [
        sys.executable,
        "-m",
        "studies.reproduce",
        "--quiet",
        "--out",
        "out",
        *argv,
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)


def reproduce_here(folder, monkeypatch, *argv):
    """The same in this process, which has imported all of it."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["reproduce", "--quiet", "--out", "out", *argv])
    return main()


# ------------------------------------------------------------------- smoke budgets

SMOKE = {
    "flows": ("iaf_as_published_2", "planar_as_published_1"),
    "pretrained": ("full_rank", "boosted", "gated_dag_iaf"),
    "recursive_mixture": (
        "recursive_mixture_2-mnist_gray-z20",
        "mixture_3_one_hot-mnist_static-z50",
        "semi_amortized_1-mnist_static-z20",
    ),
    "gated_dag": (
        "gated_dag-mnist_threshold",
        "gated_dag_iaf-mnist_static",
        "mean_field-mnist_static",
    ),
    "self_reflective": ("self_reflective", "ladder", "mean_field"),
    "precision": ("mean_field_bf16", "iaf_2_bf16"),
    "levers": ("mean_field_gated_average", "iaf_residual"),
    "priors": ("mean_field_vamp", "iaf_flow", "mean_field_mixture"),
    "prior_posterior": (
        "householder_vamp-frey_faces",
        "sylvester_flow-caltech_silhouettes",
    ),
}


def test_an_option_of_a_budget_is_one_of_some_guide():
    """Guides that do not have it leave it out: none of them would refuse it."""
    for table in recipes.TABLES.values():
        known = {
            o for r in table.rows.values() for o in guide_options(resolve(r.guide))
        }
        assert all(set(budget.options) <= known for budget in table.budgets.values())


def test_options_of_a_budget_are_of_guides_that_have_them():
    rows, budgets = recipes.GATED_DAG.rows, recipes.GATED_DAG.budgets
    graph, vector = rows["gated_dag-mnist_static"], rows["iaf-mnist_static"]
    assert options_of(graph, budgets["long"])["least_scale"] == 0.01
    assert options_of(graph, budgets["cpu"])["least_scale"] == 0.0
    assert "least_scale" not in options_of(vector, budgets["long"])


@pytest.mark.parametrize(
    ("name", "epochs", "warmup"),
    [
        ("mean_field_flow-mnist_static", 80, 40.0),
        ("iaf_flow-caltech_silhouettes", 976, 488.0),
        ("mean_field_flow_short_warmup-mnist_static", 80, 10.0),
    ],
)
def test_a_budget_of_steps_is_as_long_for_all_data(name, epochs, warmup):
    """And what a row says of its own goes before."""
    row, budget = recipes.PRIOR_POSTERIOR.rows[name], recipes.PRIOR_POSTERIOR.budgets
    x = torch.zeros(4100 if "caltech" in name else 50_000, 2)
    data = Dataset(x, x, x)
    training, steps = _training(row, budget["long"], data, 3)
    assert steps == -(-len(x) // 100)
    assert (training.epochs, training.kl_warmup) == (epochs, warmup)
    assert training.seed == 3


def test_every_table_is_smoked():
    assert {*SMOKE, "self_reflective_maf"} == set(recipes.TABLES)


@pytest.mark.parametrize("table", quick(SMOKE, "precision"))
def test_some_rows_of_a_table(table, tmp_path):
    argv = ("--table", table, "--budget", "smoke", "--seed", "0")
    done = reproduce(tmp_path, *argv, "--rows", *SMOKE[table])
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    folder = tmp_path / "out" / f"{table}_smoke"
    for name in SMOKE[table]:
        result = json.loads((folder / f"{name}-s0.json").read_text())
        row = recipes.TABLES[table].rows[name]
        assert (result["row"], result["note"]) == (name, row.note)
        assert result["is_bound"] is row.is_bound is not ("planar_as" in name)
        assert result["data"] == "digits_binary"
        # What the papers have is of other data.
        assert result["published"] is result["published_elbo"] is None
        assert result["log_likelihood"] > result["elbo"] > -60
        assert f"--rows {name} --seed 0" in result["command"]
        if table == "flows":
            bounds = result["elbo_by_split"]
            assert set(bounds) == {"train", "valid", "test"}
            assert bounds["test"] == result["elbo"]
            assert abs(bounds["valid"] - bounds["test"]) < 3
        if table.startswith("prior"):  # two epochs leave what a local q makes good
            assert result["local"]["num_data"] == {"priors": 200}.get(table, 20)
            assert result["local_log_likelihood"] > result["elbo"]


def test_a_budget_that_a_table_has_not(tmp_path, monkeypatch, capsys):
    argv = ("--table", "pretrained", "--budget", "long")
    assert reproduce_here(tmp_path, monkeypatch, *argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: unknown budget of table pretrained 'long'; known")


@pytest.mark.slow
def test_three_rows_of_the_density_table(tmp_path):
    sizes = {"train": 210, "valid": 20, "test": 20}
    grey = np.random.default_rng(0).integers
    images = {k: grey(0, 256, (n, 32, 32, 3), np.uint8) for k, n in sizes.items()}
    np.savez(tmp_path / "cifar10_20k.npz", **images)
    rows = ("maf", "maf_2000", "self_reflective_maf_2000")
    argv = ("--table", "self_reflective_maf", "--data-dir", ".", "--rows", *rows)
    done = reproduce(tmp_path, *argv)
    assert done.returncode == 0, done.stderr
    for name in rows:
        path = tmp_path / "out" / "self_reflective_maf_smoke" / f"{name}-s0.json"
        assert json.loads(path.read_text())["train_size"] == 200


@pytest.mark.slow
def test_rows_run_side_by_side_as_they_do_in_turn(tmp_path, monkeypatch):
    """Each with one thread; which row is done first is not said."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = ("planar_1", "mean_field")
    argv = ("--table", "flows", "--seed", "1", "--rows", *rows)
    curves = {}
    for jobs in ("1", "2"):
        (tmp_path / jobs).mkdir()
        done = reproduce(tmp_path / jobs, *argv, "--jobs", jobs)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / jobs / "out" / "flows_smoke"
        results = [json.loads((folder / f"{r}-s1.json").read_text()) for r in rows]
        curves[jobs] = [result["curve"] for result in results]
    assert curves["1"] == curves["2"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_row_that_fails_is_told_and_leaves_the_others(jobs, tmp_path):
    """Of two rows one finds a folder that is no run."""
    taken = tmp_path / "runs" / "flows-smoke" / "planar_1-s0"
    taken.mkdir(parents=True)
    (taken / "something").touch()
    argv = ("--table", "flows", "--rows", "planar_1", "mean_field", "--seed", "0")
    done = reproduce(tmp_path, *argv, "--jobs", jobs)
    assert done.returncode == 2
    assert "planar_1-s0 exists and is not a run" in done.stderr
    assert (tmp_path / "out" / "flows_smoke" / "mean_field-s0.json").exists()
    *_, last = done.stdout.splitlines()
    assert last.startswith("mean_field")


@pytest.mark.slow
def test_reproduce_writes_a_table_and_takes_what_is_there(tmp_path):
    argv = ["--table", "self_reflective", "--rows", "mean_field", "ladder"]
    done = reproduce(tmp_path, *argv)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    folder = tmp_path / "out" / "self_reflective_smoke"
    result = json.loads((folder / "ladder-s0.json").read_text())
    assert result["source"] == "Apostolopoulou et al. 2020, table 1"
    assert result["budget"] == "smoke"
    assert result["data"] == "digits_binary"
    assert result["published"] is None  # the paper has it of other data
    assert [record["step"] for record in result["curve"]] == [13]
    assert result["command"].endswith("--rows ladder --seed 0")
    assert (folder / "curves-s0.png").stat().st_size > 1000
    weights = tmp_path / "runs" / "self_reflective-smoke" / "ladder-s0"
    before = (weights / "model.safetensors").stat().st_mtime_ns
    again = reproduce(tmp_path, *argv[:-1])
    assert again.returncode == 0
    assert (
        json.loads((folder / "mean_field-s0.json").read_text())["row"] == "mean_field"
    )
    assert (weights / "model.safetensors").stat().st_mtime_ns == before


def test_reproduce_names_the_rows(tmp_path, monkeypatch, capsys):
    argv = ("--table", "self_reflective", "--rows", "iaff")
    assert reproduce_here(tmp_path, monkeypatch, *argv) == 2
    said = capsys.readouterr().err
    assert "unknown row of table self_reflective 'iaff'; did you mean 'iaf'" in said


# ------------------------------------------------------------ the study's own flows


def steps(guide, context):
    """The transforms of a guide for given features."""
    return [flow.condition(context) for flow in guide.posterior.flows]


def make(guide, **options):
    torch.manual_seed(0)
    made = guide(event_shape=(3, 3), latent_dim=4, hidden_dims=(8,), **options)
    perturb(made.double())
    return made


FAULTS = {"reverse": False, "sees_context": False, "rectified": True}


@pytest.mark.parametrize(
    "options", [{}, *({name: value} for name, value in FAULTS.items()), FAULTS]
)
def test_autoregressive_flows_are_densities_with_any_fault(options):
    """Their log-determinants are those of autograd, so that their bounds are bounds."""
    guide = make(as_published.InverseAutoregressive, num_flows=3, **options)
    context = torch.randn(5, 8, dtype=torch.double)
    z = torch.randn(5, 4, dtype=torch.double)
    for i in range(5):
        log_det, now = 0.0, z[i]
        for step in steps(guide, context[i]):
            then = step(now)
            log_det += step.log_abs_det_jacobian(now, then)
            now = then

        def composed(value, i=i):
            for step in steps(guide, context[i]):
                value = step(value)
            return value

        expected = jacobian(composed, z[i]).slogdet().logabsdet
        torch.testing.assert_close(log_det, expected, rtol=0, atol=1e-10)


def jacobians(guide):
    """Of z_K in z_0 and in the features."""
    context = torch.randn(8, dtype=torch.double)

    def composed(z, h):
        for step in steps(guide, h):
            z = step(z)
        return z

    return jacobian(composed, (torch.randn(4, dtype=torch.double), context))


def test_each_fault_is_the_one_it_is_named_for():
    guides = {
        name: make(as_published.InverseAutoregressive, **{name: value})
        for name, value in FAULTS.items()
    }
    sound = make(as_published.InverseAutoregressive)
    in_z, in_context = jacobians(sound)
    assert (in_z != 0).all()
    assert (in_context != 0).all()
    in_z, _ = jacobians(guides["reverse"])  # one order: the first depends on itself
    assert (in_z.triu(1) == 0).all()
    _, in_context = jacobians(guides["sees_context"])
    assert (in_context == 0).all()
    z = torch.randn(100, 4, dtype=torch.double)
    context = torch.randn(100, 8, dtype=torch.double)
    for name, guide in {"rectified": guides["rectified"], "none": sound}.items():
        (step, *_) = steps(guide, context)
        log_det = step.log_abs_det_jacobian(z, step(z))
        contracts = bool((log_det <= 0).all())
        assert contracts is (name == "rectified")


def test_the_unconstrained_planar_map_is_no_density():
    """Where w.u < -1 it folds: several z_0 lead to one z_1, and mass is counted twice."""
    guide = make(as_published.Planar, num_flows=1)
    context = torch.zeros(8, dtype=torch.double)
    with torch.no_grad():
        (step,) = steps(guide, context)
        one = torch.tensor([1.0, 0, 0, 0], dtype=torch.double)
        fold = type(step)(torch.zeros(1, dtype=torch.double), -3 * one, one)
        line = torch.linspace(-4, 4, 401, dtype=torch.double)[:, None] * one
        moved = fold(line)
        slopes = moved[1:, 0] - moved[:-1, 0]
        assert (slopes < 0).any()
        assert (slopes > 0).any()
        # Of the zoo's own map of the same numbers all slopes have one sign.
        (base,) = type(step).__bases__
        mended = base(torch.zeros(1, dtype=torch.double), -3 * one, one)(line)
        assert (mended[1:, 0] > mended[:-1, 0]).all()
    # The slope that it scores is that of autograd all the same, where it is negative too.
    z = torch.zeros(4, dtype=torch.double)
    matrix = jacobian(fold, z)
    assert matrix.det() < 0
    score = fold.log_abs_det_jacobian(z, fold(z))
    torch.testing.assert_close(score, matrix.slogdet().logabsdet)
    # Where it is zero, what it scores is finite: else one draw in millions ends the run.
    flat = type(step)(torch.zeros(1, dtype=torch.double), -one, one)
    assert flat.log_abs_det_jacobian(z, flat(z)).isfinite()


@pytest.mark.usefixtures("undrawn")
def test_other_data_are_named(npz, tmp_path, monkeypatch):
    argv = ("--table", "flows", "--budget", "smoke", "--rows", "mean_field")
    argv += ("--seed", "0", "--data", npz)
    assert reproduce_here(tmp_path, monkeypatch, *argv) == 0
    path = tmp_path / "out" / "flows_smoke" / "mean_field-s0.json"
    result = json.loads(path.read_text())
    assert result["data"] == "six"
    assert result["published_elbo"] is None
    assert result["command"].endswith(f"--rows mean_field --seed 0 --data {npz}")


def test_no_budget_repeats_a_row():
    """But for rows whose only change is what the budget gives or takes anyway."""
    found = {
        (name, budget): repeated(table, size)
        for name, table in recipes.TABLES.items()
        for budget, size in table.budgets.items()
    }
    assert {key: rows for key, rows in found.items() if rows} == {
        ("self_reflective", "long"): {"self_reflective_bf16": "self_reflective"},
        ("self_reflective", "smoke"): {"no_warmup": "self_reflective"},
        ("levers", "smoke"): {
            "mean_field_no_warmup": "mean_field_plain",
            "iaf_no_warmup": "iaf_plain",
        },
    }


def test_what_is_finished_is_not_evaluated_again(tmp_path, monkeypatch, capsys):
    one = Budget({"epochs": 1}, 2, fewer_particles=3, data="digits_binary", local=4)
    rows = {"a": Row("mean_field", {"latent_dim": 2, "hidden_dims": (4,)})}
    table = Table("a test", "digits_binary", rows, {"smoke": one}, by_split=True)
    monkeypatch.setitem(recipes.TABLES, "flows", table)
    argv = ("--table", "flows", "--seed", "0")
    assert reproduce_here(tmp_path, monkeypatch, *argv) == 0
    path = tmp_path / "out" / "flows_smoke" / "a-s0.json"
    written = path.read_text()

    def refuse(*args, **kwargs):
        raise AssertionError("evaluated again")

    for name in ("evaluate", "log_likelihood", "local_log_likelihood"):
        monkeypatch.setattr(f"studies.estimates.{name}", refuse)
    assert reproduce_here(tmp_path, monkeypatch, *argv) == 0
    assert path.read_text() == written
    monkeypatch.undo()
    # Another budget's estimates are made anew; the training is not.
    more = replace(table, budgets={"smoke": replace(one, local=5)})
    monkeypatch.setitem(recipes.TABLES, "flows", more)
    assert reproduce_here(tmp_path, monkeypatch, *argv) == 0
    assert json.loads(path.read_text())["local"]["num_data"] == 5
    capsys.readouterr()
