"""`sample` and `encode`: what the VAE gives under the seed, in files of each kind."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli.main import main

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("default:.*is now called 'digits_binary'")
SAVED = ROOT / "tests/saved/0.1.0/iaf"  # two latents of digits


def run(*argv):
    return main([str(word) for word in argv])


def rows(path):
    return list(csv.reader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def vae():
    return zoo.load(SAVED)


def test_samples_are_those_of_the_seed(vae, tmp_path, capsys):
    out = tmp_path / "new" / "samples.npz"
    assert run("sample", SAVED, "-n", 5, "--seed", 7, "--out", out) == 0
    assert capsys.readouterr().out.strip() == f"in {out}: x (5, 8, 8); seed 7"
    torch.manual_seed(7)
    expected = vae.sample(5)
    with np.load(out) as found:
        assert [*found] == ["x"]
        assert np.array_equal(found["x"], expected.numpy())
    table = tmp_path / "samples.csv"
    assert (
        run("sample", SAVED, "-n", 5, "--seed", 7, "--mean", "--out", table, "--json")
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(table)
    assert said["arrays"] == {"x": [5, 8, 8]}
    torch.manual_seed(7)
    head, *body = rows(table)
    assert head == [f"x_{i}" for i in range(64)]
    assert np.array_equal(np.float32(body), vae.sample(5, mean=True).flatten(1).numpy())
    assert run("sample", SAVED, "-n", 3, "--out", tmp_path / "s.png") == 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_codes_are_those_of_the_seed_and_have_their_labels(vae, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    assert run("encode", SAVED, "digits_binary", "--out", out, "--seed", 3) == 0
    assert f"in {out}: z (250, 2), label (250,); seed 3" in capsys.readouterr().out
    data = zoo.load_dataset("digits_binary")
    torch.manual_seed(3)
    expected = vae.embed(data.test)
    with np.load(out) as found:
        assert np.array_equal(found["z"], expected.numpy())
        assert np.array_equal(found["label"], data.labels["test"].numpy())
        assert found["label_names"].tolist() == list(data.label_names)
    table = tmp_path / "codes.csv"
    words = ["--split", "valid", "--num-samples", 2, "--seed", 3]
    assert run("encode", SAVED, "--out", table, *words) == 0
    torch.manual_seed(3)
    draws = vae.encode(data.valid, 2)
    head, *body = rows(table)
    assert head == ["datum", "draw", "z_0", "z_1", "label"]
    assert [row[:2] for row in body[:3]] == [["0", "0"], ["0", "1"], ["1", "0"]]
    codes = np.float32([row[2:4] for row in body]).reshape(250, 2, 2)
    assert np.array_equal(codes.swapaxes(0, 1), draws.numpy())
    names = [data.label_names[i] for i in data.labels["valid"]]
    assert [row[-1] for row in body[::2]] == names


def test_data_without_labels_and_several_latents(npz, tmp_path, capsys):
    data = zoo.load_dataset(npz)
    vae = zoo.create("ladder", data, num_layers=2, latent_dim=2, hidden_dims=(4,))
    zoo.save(vae, tmp_path)
    config = {"guide": "ladder", "variant": data.variant, "source": npz, "training": {}}
    config |= {"vae": vae.config, "eval_particles": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run("encode", tmp_path) == 2
    assert (
        "got latents z_2, z_1; give --num-samples 1 for draws"
        in capsys.readouterr().err
    )
    assert run("encode", tmp_path, "--num-samples", 3, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["arrays"] == {"z_2": [3, 10, 2], "z_1": [3, 10, 2]}
    with np.load(tmp_path / "codes.npz") as found:  # in the folder of the run
        assert {*found} == {"z_1", "z_2"}
    table = tmp_path / "codes.csv"
    assert run("encode", tmp_path, "--num-samples", 1, "--out", table) == 0
    assert rows(table)[0] == ["datum", "draw", "z_2_0", "z_2_1", "z_1_0", "z_1_1"]


def test_a_density_model_has_no_codes(tmp_path, capsys):
    data = zoo.Dataset(torch.randn(40, 3), likelihood="gaussian")
    np.savez(tmp_path / "x.npz", data.train)
    words = ["--data", tmp_path / "x.npz", "--out", tmp_path / "run", "--quiet"]
    words += ["--epochs", 1, "--option"]
    words += ["flow_hidden_dims=4,", "--model", "maf"]
    assert run("density", *words) == 0
    for samples in (0, 2):
        capsys.readouterr()
        assert run("encode", tmp_path / "run", "--num-samples", samples) == 2
        assert "a density model has no latents" in capsys.readouterr().err
    assert not (tmp_path / "run" / "codes.npz").exists()


NO_MEAN = """
import pyro.distributions as dist
import torch
from torch import nn

class Bounded(nn.Module):
    num_params = 1

    def __init__(self, event_shape):
        super().__init__()
        self.event_shape = event_shape

    def forward(self, params):
        loc = params.unflatten(-1, self.event_shape)
        steps = [dist.transforms.TanhTransform()]
        return dist.TransformedDistribution(dist.Normal(loc, 1.0), steps).to_event(1)
"""


def test_a_likelihood_without_a_mean_is_drawn(tmp_path, capsys):
    """Pictures show draws, and say so; what asks for a mean is refused."""
    (tmp_path / "own.py").write_text(NO_MEAN)
    np.savez(
        tmp_path / "x.npz", 0.5 * np.tanh(np.random.default_rng(0).normal(size=(40, 3)))
    )
    own = ["--likelihood", f"{tmp_path}/own.py:Bounded"]
    words = ["--data", tmp_path / "x.npz", "--out", tmp_path / "run", "--quiet", *own]
    words += ["--epochs", 1, "--latent-dim", 2, "--hidden-dims", 4]
    assert run("train", *words, "--eval-particles", 5) == 0
    assert "was not drawn" not in capsys.readouterr().err
    assert {"result.json", "traversal.png"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert run("sample", tmp_path / "run", *own, "-n", 2) == 0
    assert run("sample", tmp_path / "run", *own, "-n", 2, "--mean") == 2
    assert "no mean in closed form" in capsys.readouterr().err
    assert run("explore", tmp_path / "run", *own, "--out", tmp_path / "e.html") == 0
    assert "draw of x | z" in (tmp_path / "e.html").read_text()


def test_an_evaluation_keeps_what_was_said_of_the_training(tmp_path):
    (tmp_path / "run").mkdir()
    for path in SAVED.iterdir():
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    result = tmp_path / "run" / "result.json"
    said = {name: name for name in ("rising", "fell", "overfits", "absurd")}
    result.write_text(json.dumps(json.loads(result.read_text()) | {"cautions": said}))
    words = ["--num-particles", 2, "--quiet", "--out", tmp_path / "again.json"]
    assert run("evaluate", tmp_path / "run", *words) == 0
    cautions = json.loads((tmp_path / "again.json").read_text())["cautions"]
    assert {k: v for k, v in cautions.items() if k == v} == {
        "rising": "rising",
        "fell": "fell",
        "overfits": "overfits",
    }


def run_of(path, folder, **options):
    """A VAE and its data, standardised by these options, in the folder of a run."""
    options |= {"standardise": True}
    data = zoo.load_dataset(path, options=options)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(4,))
    zoo.save(vae, folder)
    config = {"guide": "mean_field", "variant": data.variant, "source": str(path)}
    config |= {"vae": vae.config, "eval_particles": 5, "training": {}}
    (folder / "config.json").write_text(json.dumps(config | {"data_options": options}))
    return vae, data


def test_samples_of_a_standardised_set_are_on_its_scale(tmp_path):
    x, path = 100 + 5 * torch.randn(40, 3), tmp_path / "mine.npy"
    np.save(path, x.numpy())
    vae, data = run_of(path, tmp_path)
    assert run("sample", tmp_path) == 0
    torch.manual_seed(0)
    with np.load(tmp_path / "samples.npz") as found:
        assert np.array_equal(found["x"], data.pixels(vae.sample(64)).numpy())
        assert found["x"].mean() == pytest.approx(100, abs=5)


@pytest.fixture
def months(tmp_path):
    """Files of one name and size, of other numbers; `wide` has a column more."""
    kinds = {"jan": (3, 0), "feb": (3, 9), "wide": (4, 0)}
    for month, (columns, mean) in kinds.items():
        (tmp_path / month).mkdir()
        np.save(tmp_path / month / "x.npy", (torch.randn(40, columns) + mean).numpy())
    return tmp_path


def codes(folder, *words):
    out = folder / "codes.npz"
    assert run("encode", folder, *words, "--out", out) == 0
    with np.load(out) as found:
        return found["z"]


def test_other_data_have_the_mean_and_the_scale_of_the_runs(months, capsys):
    vae, data = run_of(months / "jan/x.npy", months)
    other = zoo.load_dataset(months / "feb/x.npy", options={"standardise": True})
    assert other.variant == data.variant
    expected = vae.embed(other.standardised_as(data).test).numpy()
    assert not np.array_equal(expected, vae.embed(other.test).numpy())
    assert np.array_equal(codes(months, months / "feb/x.npy"), expected)
    assert run("encode", months, months / "wide/x.npy") == 2
    assert "expected data of shape (3,)" in capsys.readouterr().err
    # Of data that are gone, others of their variant are taken for a copy.
    own = codes(months)
    (months / "new").mkdir()
    (months / "jan/x.npy").rename(months / "new/x.npy")
    assert np.array_equal(codes(months, months / "new/x.npy"), own)
    (months / "feb/x.npy").rename(months / "feb/y.npy")
    assert run("encode", months, months / "feb/y.npy") == 2
    assert "run's data, which cannot be read: " in capsys.readouterr().err


def test_data_of_another_format_are_read_by_those_options_that_it_has(months):
    x = np.load(months / "jan/x.npy")
    rows_of_x = (f"{a},{b},{c},{'pq'[i % 2]}" for i, (a, b, c) in enumerate(x))
    (months / "x.csv").write_text("\n".join(["a,b,c,kind", *rows_of_x]))
    vae, data = run_of(months / "x.csv", months, labels="kind", test=0.5)
    options = {"standardise": True, "test": 0.5}
    other = zoo.load_dataset(months / "feb/x.npy", options=options)
    expected = vae.embed(other.standardised_as(data).test).numpy()
    assert np.array_equal(codes(months, months / "feb/x.npy"), expected)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["sample", SAVED, "--out", "x.txt"], "a file that ends in .npz, .csv or .png"),
        (["sample", SAVED, "-n", 0], "number of samples must be at least 1, got 0"),
        (["encode", SAVED, "--out", "x.png"], "that ends in .npz or .csv, got x.png"),
        (["encode", SAVED, "digitss"], "'digitss'; did you mean 'digits'?"),
        (["encode", SAVED, "--num-samples", -1], "num_samples must not be negative"),
        (["encode", "iaf-mnist_static", "digits_binary"], "got (250, 8, 8)"),
        (["sample", "iaf-mnist_statik"], "did you mean 'iaf-mnist_static'?"),
        (["sample", "nowhere/run"], "nowhere/run is not a run"),
    ],
)  # fmt: skip
def test_mistakes(argv, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_parts_of_ones_own_are_typed_again(tmp_path, capsys):
    data = zoo.load_dataset("digits_binary")
    guide = f"{ROOT}/examples/my_guide.py:MyGuide"
    words = ["train", "--guide", guide, "--latent-dim", 2, "--hidden-dims", 4]
    words += ["--epochs", 1, "--eval-particles", 2, "--batch-size", 1297, "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae_zoo.plots.run.draw", lambda *args: None)
        assert run(*words, "--out", tmp_path) == 0
    capsys.readouterr()
    for argv in (["sample", tmp_path], ["encode", tmp_path]):
        assert run(*argv) == 2
        assert f"add --guide {guide}" in capsys.readouterr().err
        assert run(*argv, "--guide", guide, "--json") == 0
        arrays = json.loads(capsys.readouterr().out)["arrays"]
        assert {"x": [64, 8, 8], "z": [len(data.test), 2]}.items() >= {
            k: v for k, v in arrays.items() if k != "label"
        }.items()
