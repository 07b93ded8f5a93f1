"""Pretrained weights: published, loaded by name, and held to the number they claim."""

import functools
import hashlib
import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from pairs import FAMILIES, nothing_drawn, quick
from safetensors import safe_open
from safetensors.torch import save_file

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.cli import train
from pyro_vae_zoo.cli.parser import make_parser
from pyro_vae_zoo.models.create import options_then
from pyro_vae_zoo.models.gates import Gates
from pyro_vae_zoo.report import summary as _summary
from pyro_vae_zoo.runs.run import make_run
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.weights import pretrained
from pyro_vae_zoo.weights.pretrained import NEEDED, against_published
from studies import publish as publishing
from studies.publish import (
    MOST_BYTES,
    MOST_BYTES_TOGETHER,
    command_of,
    publish,
    rounded,
)

REAL_DATA = os.environ.get("PYRO_VAE_ZOO_DATA")
HIERARCHIES = {
    *("self_reflective", "self_reflective_iaf", "bottom_up", "ladder"),
    *("gated_dag", "gated_dag_iaf"),
}
EXPECTED = {
    f"{guide}-{'mnist_dynamic' if guide in HIERARCHIES else 'mnist_static'}"
    for guide in zoo.list_guides()
}
FILES = {  # that tell whether a data set is there
    "mnist_static": "binarized_mnist/binarized_mnist_test.amat",
    "mnist_dynamic": "MNIST/raw/t10k-images-idx3-ubyte",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a second on six-pixel images, and its data."""
    folder = tmp_path_factory.mktemp("trained")
    random = np.random.RandomState(0)
    x = random.random_sample((180, 2, 3)) < [0.1, 0.5, 0.8]
    np.savez(folder / "six.npz", train=x[:40], valid=x[40:50], test=x[50:])
    data = zoo.load_dataset(folder / "six.npz")
    options = {"latent_dim": 2, "hidden_dims": (16,), "num_flows": 1}
    source = str(folder / "six.npz")
    run = folder / "run"
    how = {"source": source, "device": "cpu", "eval_particles": 30, "progress": False}
    with nothing_drawn():
        make_run(run, "iaf", data, options, TrainOptions(epochs=2), **how)
    return run, data


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder in the place of the package's own."""
    folder = tmp_path / "weights"
    monkeypatch.setattr(pretrained, "weights_folder", lambda: folder)
    return folder


@pytest.fixture
def published(trained, weights):
    run, data = trained
    how = {"commit": "abc", "num_particles": 30, "device": "cpu"}
    return publish(run, data, folder=weights, **how), data, weights


def refused(trained, weights, *parts, name=None, data=None, **options):
    how = {"commit": "abc", "num_particles": 5, "device": "cpu"} | options
    with pytest.raises(zoo.UserError) as error:
        publish(trained[0], data or trained[1], name=name, folder=weights, **how)
    for part in parts:
        assert part in str(error.value), error.value


# ------------------------------------------------------------------------- publish


def test_the_number_is_that_of_the_weights_as_stored(published):
    info, data, _ = published
    vae = zoo.load("iaf-six")
    again = zoo.evaluate(vae, data.test, 30, seed=0)
    assert again.log_likelihood == pytest.approx(info["log_likelihood"], abs=1e-6)
    assert again.elbo == pytest.approx(info["elbo"], abs=1e-6)
    assert info["num_data"] == 130
    other = zoo.evaluate(vae, data.test, 30, seed=1)
    assert other.log_likelihood != info["log_likelihood"]
    compared = against_published(info, info | asdict(other))
    assert abs(compared["mc_errors"]) < 2
    first = zoo.evaluate(vae, data.test[:100], 30, seed=0)
    assert first.log_likelihood == pytest.approx(info["first"]["log_likelihood"])
    assert info["first"]["num_data"] == 100


def test_what_sixteen_bits_cost_is_measured_by_the_same_draws(published, trained):
    info, data, weights = published
    own = json.loads((trained[0] / "result.json").read_text())
    assert info["float32"]["log_likelihood"] == own["log_likelihood"]
    cost = info["log_likelihood"] - own["log_likelihood"]
    assert 0 < abs(cost) < 0.01
    # With other draws than those of the run, it is evaluated again.
    how = {"commit": "abc", "num_particles": 30, "seed": 3, "device": "cpu"}
    other = publish(trained[0], data, folder=weights, overwrite=True, **how)
    float32 = zoo.evaluate(zoo.load(trained[0]), data.test, 30, seed=3)
    assert other["float32"]["log_likelihood"] == pytest.approx(float32.log_likelihood)
    assert other["eval_seed"] == 3


def test_the_json_says_where_weights_come_from(published, trained):
    info, data, weights = published
    stored = (weights / "iaf-six.safetensors").read_bytes()
    assert json.loads((weights / "iaf-six.json").read_text()) == json.loads(
        json.dumps(info)
    )
    assert zoo.pretrained_info("iaf-six")["commit"] == "abc"
    assert info["sha256"] == hashlib.sha256(stored).hexdigest()
    assert info["bytes"] == len(stored)
    assert info["recipe"] == command_of(
        json.loads((trained[0] / "config.json").read_text())
    )
    assert info["trained"]["epochs"] == 2
    assert (info["name"], info["variant"]) == ("iaf-six", data.variant)
    assert sorted(p.name for p in weights.iterdir()) == [
        "iaf-six.json",
        "iaf-six.safetensors",
    ]


def test_weights_are_stored_in_16_bits_and_loaded_in_32(published, trained):
    _, _, weights = published
    with safe_open(weights / "iaf-six.safetensors", framework="pt") as file:
        dtypes = {file.get_tensor(name).dtype for name in file.keys()}
    assert dtypes == {torch.float16}
    vae, original = zoo.load("iaf-six"), zoo.load(trained[0])
    assert vae.dtype == torch.float32
    assert vae.config == original.config
    state = vae.state_dict()
    for name, weight in original.state_dict().items():
        assert state[name].dtype == weight.dtype
        assert torch.equal(state[name], weight.half().to(weight.dtype))


@pytest.mark.parametrize("guide", quick(zoo.list_guides(), *FAMILIES))
def test_every_guide_survives_16_bits(guide, tmp_path):
    vae = zoo.create(guide, event_shape=(4, 4))
    for gates in (m for m in vae.modules() if isinstance(m, Gates)):
        gates.freeze()  # as they are once trained, with a buffer of bools
    path = zoo.save(vae, tmp_path / "half.safetensors", dtype=torch.float16)
    again = zoo.load(path)
    stored = {id(t): t for t in vae.state_dict(keep_vars=True).values()}.values()
    with safe_open(path, framework="pt") as file:
        assert len(list(file.keys())) == len(stored)  # what is shared is there once
    state = again.state_dict()
    for name, weight in vae.state_dict().items():
        assert state[name].dtype == weight.dtype
        if weight.is_floating_point():
            weight = weight.half().float()
        assert torch.equal(state[name], weight), name
    assert again.dtype == torch.float32


def test_a_name_that_shares_nothing_must_be_in_the_file(tmp_path):
    vae = zoo.create("ladder", event_shape=(4, 4))
    path = zoo.save(vae, tmp_path)
    small = zoo.create("mean_field", event_shape=(4, 4))
    small.config = vae.config
    with pytest.raises(zoo.UserError, match="do not fit"):
        zoo.load(zoo.save(small, path))


def test_what_rounding_does_is_counted():
    vae = zoo.create("mean_field", event_shape=(4, 4), latent_dim=2)
    weight = next(vae.parameters()).data
    weight[0, 0], weight[0, 1] = 1e-9, 1e-7  # below the least, and a subnormal one
    assert rounded(vae)["to_zero"] == 1
    weight[1, 0] = 1001.3
    assert rounded(vae)["largest_error"] == pytest.approx(0.2, abs=0.01)
    for value in (7e4, float("nan"), float("inf")):
        weight[1, 0] = value
        with pytest.raises(zoo.UserError, match="at most 65504"):
            rounded(vae)


def test_sizes_are_limited(trained, weights, monkeypatch):
    monkeypatch.setattr(publishing, "MOST_BYTES", 1000)
    refused(trained, weights, "safetensors is 0.017 MB", "0.016 MB more than the 0 MB")
    monkeypatch.setattr(publishing, "MOST_BYTES", MOST_BYTES)
    weights.mkdir()
    (weights / "other-six.safetensors").write_bytes(bytes(69_999_000))
    parts = "the 2 files are 70.016 MB", "0.016 MB more than the 70 MB"
    refused(trained, weights, *parts)
    assert [p.name for p in weights.iterdir()] == ["other-six.safetensors"]


def test_what_is_not_published(trained, published, tmp_path):
    _, data, weights = published
    refused(trained, weights, "is there already", "--overwrite")
    refused(trained, weights, "expected the name iaf-six", name="planar-six")
    refused(trained, weights, "expected the name", name="iaf-six-/../x")
    refused(
        trained,
        weights,
        "trained on data 'six'",
        data=zoo.load_dataset("digits_binary"),
    )
    other = zoo.Dataset(data.train, data.valid, data.test, name="six", note="another")
    refused(trained, weights, "trained on variant 'six.npz", data=other)
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"guide": "mine.py:Guide"}))
    refused((run, data), weights, "guide to publish", "known: ")
    (run / "config.json").write_text(json.dumps(config))
    (run / "result.json").unlink()
    refused((run, data), weights, "is not finished")
    how = {"folder": weights, "commit": "abc", "num_particles": 5}
    assert (
        publish(trained[0], data, name="iaf-six-wide", **how)["name"] == "iaf-six-wide"
    )


def test_the_recipe_is_read_as_the_run_was():
    options = {"hidden_dims": [80], "num_layers": 5, "block_sizes": None, "prior": "x"}
    training = TrainOptions(
        epochs=60, lr=5e-4, kl_warmup=3, clip_norm=5.0, analytic_kl=True, compile=False
    )
    config = {
        "guide": "self_reflective",
        "source": "a folder/my.npz",
        "eval_particles": 200,
        "vae": {"options": options},
        "training": asdict(training),
    }
    program, script, *words = shlex.split(command_of(config))
    assert (program, script) == ("python", "examples/train.py")
    args = make_parser().parse_args(["train", *words])
    assert (args.guide, args.data) == ("self_reflective", "a folder/my.npz")
    assert args.eval_particles == 200
    assert train.training_of(args, args.seed) == training
    assert train.options_of(args) == options | {"hidden_dims": (80,)}


def test_the_script_publishes_a_run(trained, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    argv = ["publish", str(trained[0]), "--folder", str(folder), "--quiet"]
    argv += ["--num-particles", "5", "--commit", "c0ffee"]
    monkeypatch.setattr(sys, "argv", argv)
    assert publishing.main() == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[:-1])) <= 80
    assert "nats against the weights in 32" in said
    info = json.loads((folder / "iaf-six.json").read_text())
    assert (info["commit"], info["num_particles"]) == ("c0ffee", 5)
    assert publishing.main() == 2
    assert "is there already" in capsys.readouterr().err


# ---------------------------------------------------------------------------- load


def test_names_are_listed(published, weights):
    assert zoo.list_pretrained() == ["iaf-six"]
    (weights / "a-six.safetensors").write_bytes(b"")
    (weights / "b-six.json").write_text("{}")
    assert zoo.list_pretrained() == ["a-six", "iaf-six"]


def test_an_unknown_name_lists_the_known(published):
    with pytest.raises(zoo.UserError) as error:
        zoo.load("iaf-sux")
    for part in ("did you mean 'iaf-six'?", "known: iaf-six", "nor is there a file"):
        assert part in str(error.value)
    with pytest.raises(zoo.UserError, match="known: iaf-six"):
        zoo.pretrained_info("../iaf-six")
    for path in ("nowhere/iaf-six", "iaf-six.safetensors"):
        with pytest.raises(zoo.DataFileError, match="model file .* not found"):
            zoo.load(path)


def test_a_path_goes_before_a_name(published, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = zoo.create("planar", event_shape=(2, 3), latent_dim=1)
    zoo.save(mine, "iaf-six")
    assert zoo.load("iaf-six").config["guide"] == "planar"
    shutil.rmtree("iaf-six")
    assert zoo.load("iaf-six").config["guide"] == "iaf"


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("change", [flipped, lambda c: c[:-9], lambda c: b""])
def test_weights_that_are_not_the_published_ones_are_refused(change, published):
    path = published[2] / "iaf-six.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(
        zoo.DataFileError, match=r"iaf-six.safetensors: expected sha256"
    ):
        zoo.load("iaf-six")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file .*iaf-six.json not found"),
        ("{half", "iaf-six.json is not valid JSON"),
        ("[1, 2]", "lacks log_likelihood, "),
        ('{"sha256": "0"}', "does not describe weights: it lacks log_likelihood, "),
    ],
)
def test_a_json_that_is_no_description_is_named(content, message, published):
    path = published[2] / "iaf-six.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(zoo.DataFileError, match=message):
        zoo.load("iaf-six")


# -------------------------------------------------------------------- command line


def evaluated(capsys, *argv):
    capsys.readouterr()
    argv = ["evaluate", "iaf-six", "--device", "cpu", *argv]
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert cli.main([*argv, "--quiet"]) == 0
    return result, capsys.readouterr().out


def test_evaluate_gives_the_number_back(published, capsys):
    info, _, _ = published
    result, printed = evaluated(capsys)
    assert result["log_likelihood"] == pytest.approx(info["log_likelihood"], abs=1e-6)
    assert result["num_particles"] == 30
    assert result["pretrained"]["log_likelihood"] == info["log_likelihood"]
    assert abs(result["pretrained"]["mc_errors"]) < 1e-3
    assert result["commit"] == "abc"
    assert f"published       {info['log_likelihood']:9.3f} nats  (30 part" in printed
    assert "0.000 nats" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_evaluate_with_other_draws_says_how_far_it_is(published, capsys):
    info, _, _ = published
    result, printed = evaluated(capsys, "--num-particles", "60", "--seed", "2")
    assert "more particles raise the log-likelihood" in printed
    own, compared = result["log_likelihood_mc_error"], result["pretrained"]
    error = (own**2 + info["log_likelihood_mc_error"] ** 2) ** 0.5
    assert compared["difference"] == result["log_likelihood"] - info["log_likelihood"]
    assert compared["mc_errors"] == pytest.approx(compared["difference"] / error)
    assert 0 < abs(compared["mc_errors"]) < 3
    single, printed = evaluated(capsys, "--num-particles", "1")
    assert single["pretrained"]["mc_errors"] is None
    assert "(? MC errors" in printed


def test_errors_that_are_too_small_are_called_so():
    published = {"log_likelihood": -9.0, "log_likelihood_mc_error": 0.1}
    published |= {"num_particles": 9, "difference": 0.4, "mc_errors": 3.0}
    note = "the true MC errors are larger"
    assert note in _summary._pretrained(published, 9, 0.9)[-1]
    for share, errors in ((0.1, 3.0), (None, 3.0), (0.9, 1e-6), (0.9, None)):
        lines = _summary._pretrained(published | {"mc_errors": errors}, 9, share)
        assert note not in "".join(lines)


def test_evaluate_of_the_first_images(published, capsys):
    info, _, _ = published
    result, printed = evaluated(capsys, "--num-data", "100")
    assert result["num_data"] == 100
    assert result["pretrained"]["difference"] == pytest.approx(0, abs=1e-6)
    assert "100 data" in printed
    for argv in (["--num-data", "7"], ["--split", "valid"]):
        result, printed = evaluated(capsys, *argv)
        assert result["pretrained"] is None
        assert "published" not in printed
    for n in ("0", "131"):
        assert cli.main(["evaluate", "iaf-six", "--num-data", n, "--quiet"]) == 2
        assert (
            "expected 1 to 130, the size of the test split" in capsys.readouterr().err
        )


def test_evaluate_of_an_unknown_name(published, capsys):
    assert cli.main(["evaluate", "iaf-sux"]) == 2
    error = capsys.readouterr().err
    assert "known: iaf-six" in error
    assert "nor is there a file or folder iaf-sux" in error
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    assert "Pretrained weights: iaf-six" in capsys.readouterr().out


# ------------------------------------------------------- the weights of the package


def test_every_guide_has_weights():
    """Single-latent guides and mixtures on static MNIST, hierarchies on dynamic."""
    assert set(zoo.list_pretrained()) == EXPECTED


def test_weights_fit_in_the_package():
    files = list(pretrained.weights_folder().glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES_TOGETHER
    described = {path.stem for path in pretrained.weights_folder().glob("*.json")}
    assert described == {path.stem for path in files}


@pytest.mark.parametrize("name", zoo.list_pretrained())
def test_weights_are_as_described(name):
    info, vae = zoo.pretrained_info(name), zoo.load(name)
    path = pretrained.weights_folder() / f"{name}.safetensors"
    assert set(NEEDED) <= info.keys()
    assert path.stat().st_size == info["bytes"] <= MOST_BYTES
    assert info["name"] == name
    proper = f"{info['guide']}-{info['data']}"
    assert name == proper or name.startswith(f"{proper}-")
    assert vae.config["guide"] == info["guide"] in info["recipe"].split()
    # What version 0.1.0 left out is filled in where its default was another.
    assert vae.config["options"] == options_then(info["guide"], info["options"])
    assert vae.dtype == torch.float32
    assert all(p.isfinite().all() for p in vae.parameters())
    assert sum(p.numel() for p in vae.parameters()) == info["num_parameters"]
    with safe_open(path, framework="pt") as file:
        dtypes = {file.get_tensor(key).dtype for key in file.keys()}
    assert not dtypes & {torch.float32, torch.float64}
    assert info["split"] == "test"
    assert info["num_particles"] >= 500
    assert info["elbo"] < info["log_likelihood"] < 0
    assert len(info["commit"]) == 40
    # What 16 bits cost is no more than the error over the data by far.
    cost = info["log_likelihood"] - info["float32"]["log_likelihood"]
    assert abs(cost) < 0.1 * info["log_likelihood_std_error"]


@functools.cache
def real_data(name):
    return zoo.load_dataset(name, REAL_DATA)


@pytest.mark.parametrize("name", quick(zoo.list_pretrained(), "iaf-mnist_static"))
def test_weights_give_their_number_back(name):
    """On the first 100 test images, within two Monte-Carlo standard errors."""
    info = zoo.pretrained_info(name)
    file = FILES.get(info["data"], "?")
    if not REAL_DATA or not os.path.exists(os.path.join(REAL_DATA, file)):
        pytest.skip(f"needs {file} under $PYRO_VAE_ZOO_DATA")
    data = real_data(info["data"])
    assert data.variant == info["variant"]
    x = data.test[: info["first"]["num_data"]]
    ev = zoo.evaluate(zoo.load(name), x, info["num_particles"], seed=info["eval_seed"])
    result = {"variant": data.variant, "split": "test", **asdict(ev)}
    compared = against_published(info, result)
    assert compared["log_likelihood"] == info["first"]["log_likelihood"]
    assert abs(compared["mc_errors"]) < 2, compared
    assert abs(compared["difference"]) < 0.01, compared  # by the same draws


# --------------------------------------------------------------- files of other people

GOOD = {"guide": "mean_field", "event_shape": [2, 3], "likelihood": "bernoulli"}


@pytest.mark.parametrize(
    "config",
    [
        [],
        {},
        GOOD,
        GOOD | {"options": {}, "guide": 5},
        GOOD | {"options": {}, "event_shape": "wide"},
        GOOD | {"options": {"likelihood": "gaussian"}},
        GOOD | {"options": {"data": "digits"}},
    ],
)
def test_a_header_that_describes_no_vae_is_refused(config, tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"pyro_vae_zoo": json.dumps(config)}
    save_file({"x": torch.zeros(1)}, path, metadata=header)
    with pytest.raises(
        zoo.DataFileError, match=r"model.safetensors (is no VAE of|does not describe)"
    ):
        zoo.load(path)


def test_a_header_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    deep = "[" * 100_000
    save_file({"x": torch.zeros(1)}, path, metadata={"pyro_vae_zoo": deep})
    with pytest.raises(zoo.DataFileError, match="corrupt"):
        zoo.load(path)
