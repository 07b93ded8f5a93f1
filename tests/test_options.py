"""Numbers of NumPy and PyTorch count wherever one is asked for, and are stored plainly."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import small

import pyro_vae_zoo as zoo
from pyro_vae_zoo.options import count, plain, real
from pyro_vae_zoo.training.options import TrainOptions

NUMBERS = (np.int64, np.int8, np.uint16, np.float32, np.array, torch.tensor, float)


@given(st.integers(0, 100))
def test_every_kind_of_number_is_the_same_count(n):
    assert [count("n", kind(n), least=0) for kind in NUMBERS] == [n] * len(NUMBERS)
    assert {type(count("n", kind(n), least=0)) for kind in NUMBERS} == {int}


@pytest.mark.parametrize("value", [1.5, np.float64(0.1), True, "3", None, [1], np.nan])
def test_what_is_no_count_is_named(value):
    with pytest.raises(zoo.UserError, match="num_particles: expected a whole number"):
        count("num_particles", value)


def test_what_is_too_small_is_named():
    with pytest.raises(zoo.UserError, match="num_particles must be at least 1, got 0"):
        count("num_particles", np.int64(0))
    with pytest.raises(zoo.UserError, match="lr: expected a number, got 'fast'"):
        real("lr", "fast")


def test_arrays_become_tuples():
    assert plain(np.arange(3)) == (0, 1, 2)
    assert plain((np.int64(1), [torch.tensor(2.5)])) == (1, [2.5])
    assert plain("word") == "word"


@pytest.mark.parametrize("kind", [np.int64, np.int32, torch.tensor])
def test_sweeps_over_numpy_numbers_train_and_are_saved(kind, tmp_path):
    """Hours of training are not to end in an error of JSON."""
    data = zoo.load_dataset("digits_binary").first(np.int64(40))
    options = {"latent_dim": kind(3), "num_flows": kind(1)}
    options["hidden_dims"] = np.array([8, 8])
    vae = zoo.create("planar", data, **options)
    assert json.loads(json.dumps(vae.config))["options"]["hidden_dims"] == [8, 8]
    how = {"batch_size": kind(20), "lr": np.float64(1e-3), "seed": kind(2)}
    out = tmp_path / "run"
    history = zoo.fit(vae, data, epochs=kind(1), progress=False, out=out, **how)
    again = zoo.load(zoo.save(vae, tmp_path / "saved"))
    assert again.config == json.loads(json.dumps(vae.config))
    same = {"batch_size": 20, "lr": 1e-3, "seed": 2, "resume": True, "out": out}
    assert len(zoo.fit(vae, data, epochs=1, progress=False, **same).epochs) == 1
    assert len(history.epochs) == 1


def test_options_of_a_training_are_pythons():
    options = TrainOptions(
        epochs=np.int64(3),
        lr=np.float32(0.5),
        patience=torch.tensor(2),
        compile=np.True_,
    )
    kinds = [type(getattr(options, n)) for n in ("epochs", "lr", "patience", "compile")]
    assert kinds == [int, float, int, bool]
    assert options == TrainOptions(epochs=3, lr=0.5, patience=2, compile=True)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("epochs", 2.5, "epochs: expected a whole number, got 2.5"),
        ("lr", "0.1", "lr: expected a number, got '0.1'"),
        ("lr", math.nan, "lr: expected a number, got nan"),
        ("free_bits", np.float32("nan"), "free_bits: expected a number, got nan"),
        ("bound", 3, "bound: expected str, got 3"),
        ("analytic_kl", "yes", "analytic_kl: expected bool, got 'yes'"),
        ("seed", None, "seed: expected a whole number, got None"),
        ("patience", "soon", "patience: expected a whole number"),
    ],
)
def test_options_of_another_kind_are_named(option, value, expected):
    with pytest.raises(zoo.UserError, match=expected):
        TrainOptions(**{option: value})


def test_an_option_of_a_guide_is_no_nan():
    with pytest.raises(zoo.UserError, match="gate_bias: expected a number, got nan"):
        zoo.create("iaf", event_shape=(4,), gate_bias=math.nan)


JOBS = {
    "evaluate": lambda vae, x, n, s: zoo.evaluate(vae, x, n, seed=s).elbo,
    "log_likelihood": lambda vae, x, n, s: zoo.log_likelihood(vae, x, n, seed=s).ess,
    "annealed": lambda vae, x, n, s: (
        zoo.annealed_log_likelihood(vae, x, n, n, n, seed=s).log_prob
    ),
    "bidirectional": lambda vae, x, n, s: (
        zoo.bidirectional(vae, n, n, n, n, seed=s).gap
    ),
    "gaps": lambda vae, x, n, s: (
        zoo.inference_gaps(vae, x, n, num_particles=n, seed=s).local_elbo
    ),
    "local": lambda vae, x, n, s: (
        zoo.local_log_likelihood(vae, x, n, n, seed=s).log_prob
    ),
    "curve": lambda vae, x, n, s: zoo.particle_curve(vae, x, n, seed=s).log_prob[-1],
    "covariances": lambda vae, x, n, s: (
        zoo.posterior_covariances(vae, x, n, seed=s).covariance
    ),
    "encode": lambda vae, x, n, s: vae.encode(x, n).shape[0],
    "sample": lambda vae, x, n, s: vae.sample(n).shape[0],
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_tool_counts_alike(job):
    vae, x = small("iaf"), torch.rand(3, 2, 3).bernoulli()
    expected = job(vae, x, 3, 5)
    for kind in (np.int64, torch.tensor, float):
        got = job(vae, x, kind(3), np.int64(5))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    with pytest.raises(zoo.UserError, match="expected a whole number, got 2.5"):
        job(vae, x, 2.5, 5)
