"""Each kind of a user's data goes through all that there is for a run."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.evaluation.diagnose import diagnose, findings
from pyro_vae_zoo.evaluation.options import DiagnoseOptions
from pyro_vae_zoo.report import collect, markdown_table
from pyro_vae_zoo.runs.run import make_run
from pyro_vae_zoo.training.options import TrainOptions

RANDOM = np.random.RandomState(0)
KINDS = np.array(["rain", "sun"] * 20)
REAL = RANDOM.randn(40, 3) * [1, 30, 500] + [0, 5, 900]
FAST = ["--latent-dim", 2, "--hidden-dims", 4, "--device", "cpu", "--quiet"]
FAST += ["--epochs", 1, "--eval-particles", 5, "--no-compile"]
SMALL = {"num_particles": 20, "chains": 2, "temps": 3, "simulated": 2}
SMALL |= {"steps": 3, "leapfrog": 2}
ZEROS_AND_ONES = ", only 0 and 1: store bool for Bernoulli"


def folder(root):
    for i, kind in enumerate(KINDS):
        path = root / "sky" / kind / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = RANDOM.randint(0, 256, (6, 4, 3)).astype(np.uint8)
        Image.fromarray(levels).save(path)
    return root / "sky", {}


def table(root):
    frame = pd.DataFrame(REAL, columns=list("abc")).assign(kind=KINDS)
    frame.to_csv(root / "sky.csv", index=False)
    return root / "sky.csv", {"labels": "kind", "standardise": "true"}


def counts(root):
    frame = pd.DataFrame(RANDOM.poisson(4, (40, 3)), columns=list("abc"))
    frame.to_csv(root / "sky.csv", index=False)
    return root / "sky.csv", {"likelihood": "poisson"}


def array(root):
    np.save(root / "sky.npy", REAL / 100)
    return root / "sky.npy", {"test": "0.2"}


def archive(root):
    np.savez(root / "sky.npz", x=RANDOM.rand(40, 6, 4) < 0.3, labels=KINDS)
    return root / "sky.npz", {}


def run(*words):
    return cli.main([str(word) for word in words])


@pytest.mark.slow
@pytest.mark.parametrize("make", [table, folder, counts, array, archive])
def test_a_path_goes_through_every_command(make, tmp_path, capsys):
    path, options = make(tmp_path)
    how = [w for k, v in options.items() for w in ("--data-option", f"{k}={v}")]
    out, small = tmp_path / "run", [f"--{k}={v}" for k, v in SMALL.items()]
    small = [word.replace("_", "-") for word in small]
    train = ["train", "--guide", "mean_field", "--data", path, *how, *FAST]
    assert run(*train, "--out", out) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["source"] == str(path)
    assert [*config.get("data_options", {})] == [*options]
    result = json.loads((out / "result.json").read_text())
    assert result["variant"].startswith(path.name)
    assert run(*train, "--out", out, "--resume") == 0  # finished, and of these data
    if options:
        capsys.readouterr()
        other = ["--data-option", "seed=1", "--resume", "--out", out]
        assert run(*train, *other) == 2
        assert "has data_options" in capsys.readouterr().err
    capsys.readouterr()
    assert run("evaluate", out, "--num-particles", 5, "--json", "--quiet") == 0
    again = json.loads(capsys.readouterr().out)
    for name in ("log_likelihood", "elbo", "bits_per_dim", "variant"):
        assert again[name] == result[name]
    assert run("diagnose", out, "--num-data", 50, *small, "--quiet") == 0
    found = json.loads((out / "diagnostics.json").read_text())
    assert found["importance"]["log_likelihood"] == pytest.approx(
        result["log_likelihood"], abs=max(8, abs(result["log_likelihood"]) / 10)
    )
    assert run("explore", out, "--num-data", 3, "--num-samples", 5, "--quiet") == 0
    compare = ["compare", "--guides", "mean_field", "--data", path, *how, *FAST]
    assert run(*compare, "--seeds", "1", "--out", tmp_path / "both") == 0
    assert run("compare", out, tmp_path / "both" / "mean_field-s1") == 0
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    assert run("evaluate", out, "--quiet") == 2
    assert "not found" in capsys.readouterr().err
    where = ["--data", moved, "--num-particles", 5, "--json", "--quiet"]
    assert run("evaluate", out, *where) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["log_likelihood"] == result["log_likelihood"]


def frame(root):
    data = pd.DataFrame(REAL, columns=list("abc")).assign(kind=KINDS)
    return zoo.Dataset.from_frame(data, labels="kind", standardise=True)


def items(root):
    x = torch.from_numpy(RANDOM.randint(0, 256, (40, 4, 4)).astype(np.uint8))
    return zoo.Dataset.from_torch(TensorDataset(x, torch.arange(40) % 2))


@pytest.mark.parametrize("make", [frame, pytest.param(items, marks=pytest.mark.slow)])
def test_an_object_goes_through_every_function(make, tmp_path):
    data = make(tmp_path)
    assert data.labels is not None
    torch.manual_seed(0)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(4,))
    zoo.fit(vae, data, epochs=1, device="cpu", progress=False, compile=False)
    ev = zoo.evaluate(vae, data, 20)
    found = findings(diagnose(vae, data.judged_on(data.test), DiagnoseOptions(**SMALL)))
    assert found["importance"]["log_likelihood"] == pytest.approx(ev.log_likelihood)
    page = zoo.explore(
        vae, data.test, tmp_path / "page.html", data=data, num_data=2, num_samples=4
    )
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("levels", "then"),
    [(9, ""), pytest.param(2, ZEROS_AND_ONES, marks=pytest.mark.slow)],
)
def test_a_run_of_version_0_1_0_goes_on(levels, then, tmp_path):
    numbers = {s: RANDOM.randint(0, levels, (40, 3)) for s in ("train", "test")}
    np.savez(tmp_path / "x.npz", **{s: x / 1.0 for s, x in numbers.items()})
    data, out = zoo.load_dataset(tmp_path / "x.npz"), tmp_path / "run"
    how = {"latent_dim": 2, "hidden_dims": (4,)}
    last = {"eval_particles": 2, "progress": False}
    make_run(out, "mean_field", data, how, TrainOptions(epochs=1), **last)
    config = json.loads((out / "config.json").read_text())
    variant = "x.npz, float64 -> gaussian, valid is 10 % of train (seed 0)"
    config["variant"] = f"{variant}{then}, 36/4/40"
    (out / "config.json").write_text(json.dumps(config))
    more = TrainOptions(epochs=2)
    result = make_run(out, "mean_field", data, how, more, resume=True, **last)
    assert result["epochs"] == 2


@pytest.mark.slow
def test_runs_of_an_object_are_compared(tmp_path):
    data, results = frame(tmp_path), []
    for seed in (0, 1):
        options = {"latent_dim": 2, "hidden_dims": (4,)}
        training = TrainOptions(epochs=1, seed=seed, compile=False)
        make_run(
            tmp_path / f"{seed}",
            "mean_field",
            data,
            options,
            training,
            device="cpu",
            eval_particles=5,
            progress=False,
        )
        results.append(tmp_path / f"{seed}")
    assert data.name in markdown_table(collect(results))
    recorded = json.loads((results[0] / "result.json").read_text())
    again = zoo.evaluate(zoo.load(results[0]), data, 5)
    assert again.log_likelihood == recorded["log_likelihood"]


def test_the_example_goes_from_a_table_to_codes(capsys):
    example = Path(__file__).parents[2] / "examples" / "my_data.py"
    assert len(example.read_text().splitlines()) <= 40
    runpy.run_path(str(example), run_name="__main__")
    out = capsys.readouterr().out
    assert "('setosa', 'versicolor', 'virginica')" in out
    value = float(out.split("log p(x) = ")[1].split(" nats")[0])
    assert -6 < value < 0  # nats of four lengths in cm; -6.4 if they were independent


def test_a_run_measures_the_training_data_that_it_had(tmp_path):
    path, options = table(tmp_path)
    how = [w for k, v in options.items() for w in ("--data-option", f"{k}={v}")]
    out, file = tmp_path / "run", tmp_path / "e.json"
    words = ["--model", "maf", "--data", path, *how, "--train-size", 10, "--out", out]
    rest = ["--epochs", 1, "--device", "cpu", "--quiet"]
    assert run("density", *words, *rest) == 0
    assert run("evaluate", out, "--split", "train", *rest[2:], "--out", file) == 0
    result = json.loads(file.read_text())
    assert result["num_data"] == 10
    assert result["variant"] == json.loads((out / "config.json").read_text())["variant"]


def test_standardised_data_that_have_changed_are_refused(tmp_path, capsys):
    path, options = table(tmp_path)
    how = [w for k, v in options.items() for w in ("--data-option", f"{k}={v}")]
    out, evaluate = (
        tmp_path / "run",
        ["--num-particles", 2, "--device", "cpu", "--quiet"],
    )
    words = ["--guide", "mean_field", "--data", path, *how, "--out", out]
    assert run("train", *words, *FAST) == 0
    assert run("evaluate", out, *evaluate) == 0
    path.write_text(path.read_text() + "1.0,2.0,3.0,sun\n" * 40)
    capsys.readouterr()
    assert run("evaluate", out, *evaluate) == 2
    assert "sky.csv has changed since the run was trained" in capsys.readouterr().err


def test_an_anew_begun_run_keeps_no_draws_of_the_old(tmp_path):
    path, _ = archive(tmp_path)
    out = tmp_path / "run"
    train = ["train", "--guide", "mean_field", "--data", path, "--out", out, *FAST]
    assert run(*train) == 0
    for name in ("samples.npz", "codes.npz"):
        (out / name).touch()
    assert run(*train, "--overwrite") == 0
    assert not list(out.glob("*.npz"))


def test_a_seed_that_is_none_is_refused(tmp_path, capsys):
    path, _ = archive(tmp_path)
    out = tmp_path / "run"
    words = ["--guide", "mean_field", "--data", path, "--out", out]
    assert run("train", *words, *FAST) == 0
    capsys.readouterr()
    assert run("sample", out, "--seed", 10**20, "--device", "cpu", "--quiet") == 2
    assert "seed: expected a number of 64 bits" in capsys.readouterr().err
