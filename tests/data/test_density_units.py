"""A density of standardised data is that of the data as they were given."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation.diagnose import diagnose, findings
from pyro_vae_zoo.evaluation.evaluate import weighted_bound
from pyro_vae_zoo.evaluation.options import DiagnoseOptions
from pyro_vae_zoo.plots.images import pixels_of
from pyro_vae_zoo.training.validation import validated

SCALE, SHIFT = torch.tensor([300.0, 0.01, 2.0]), torch.tensor([1e4, -3.0, 0.5])


class Linear(nn.Module):
    """y = Wz + b + noise with z ~ N(0, I), where x = a + s y has these of its own."""

    def __init__(self, a, s):
        super().__init__()
        w = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, -1.1]], dtype=torch.double)
        # Of x: loadings in its units, and noise of a half of each unit.
        loadings, loc, noise = SCALE.double()[:, None] * w, SHIFT.double(), SCALE / 2
        self.register_buffer("w", loadings / s[:, None])
        self.register_buffer("b", (loc - a) / s)
        self.register_buffer("noise", noise.double() / s)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            mean = z @ self.w.T + self.b
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)

    def log_prob(self, x):
        cov = self.w @ self.w.T + self.noise.square().diag()
        return dist.MultivariateNormal(self.b, cov).log_prob(x)


class Exact(nn.Module):
    """p(z|x)."""

    def __init__(self, model):
        super().__init__()
        precision = torch.eye(2).double()
        precision += model.w.T @ (model.w / model.noise.square()[:, None])
        self.register_buffer("cov", precision.inverse())
        self.model = model

    def forward(self, x):
        m = self.model
        mean = ((x - m.b) / m.noise.square()) @ m.w @ self.cov
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(mean, self.cov))


@pytest.fixture(scope="module")
def data():
    random = torch.Generator().manual_seed(0)
    x = SHIFT + SCALE * torch.randn(300, 3, generator=random)
    return zoo.Dataset(x, likelihood="gaussian", standardise=True)


@pytest.fixture(scope="module")
def pair(data):
    known = data.standardisation
    model = Linear(known.mean, known.scale)
    return model, Exact(model)


@pytest.fixture(scope="module")
def expected(data):
    """Log p(x) of the same law of the data as they were given, in closed form."""
    given = Linear(torch.zeros(3).double(), torch.ones(3).double())
    return given.log_prob(data.as_given(data.test.double()))


def test_every_estimate_has_the_units_that_were_given(data, pair, expected):
    test = {"abs": 1e-8}
    found = zoo.log_likelihood(pair, data, 10).log_prob
    assert found.tolist() == pytest.approx(expected.tolist(), **test)
    ev = zoo.evaluate(pair, data, 10)
    mean = expected.mean().item()
    assert (ev.elbo, ev.log_likelihood) == pytest.approx((mean, mean), **test)
    assert ev.reconstruction - ev.kl == pytest.approx(ev.elbo, **test)
    assert ev.bits_per_dim == pytest.approx(-mean / 3 / math.log(2))
    assert data.bits_per_dim(mean, data.test) == pytest.approx(ev.bits_per_dim)
    assert weighted_bound(pair, data, 5) == pytest.approx(mean, **test)
    curve = zoo.particle_curve(pair, data, 5)
    assert curve.log_prob == pytest.approx((mean,) * len(curve.log_prob), **test)
    some = data.judged_on(data.test[:3])
    local = zoo.local_log_likelihood(pair, some, 500, num_steps=20)
    gaps = zoo.inference_gaps(pair, some, 10, num_particles=200)
    chains = zoo.annealed_log_likelihood(pair, some, 30, 60, 4)
    expected = expected[:3].tolist()
    assert gaps.amortised_elbo.tolist() == pytest.approx(expected, **test)
    for estimate in (local.log_prob, gaps.log_prob, chains.log_prob):
        assert estimate.tolist() == pytest.approx(expected, abs=0.3)


def test_a_bare_tensor_is_judged_as_it_is(data, pair, expected):
    found = zoo.log_likelihood(pair, data.test, 2).log_prob + data.log_jacobian
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-8)
    assert data.log_jacobian == pytest.approx(
        -data.standardisation.scale.log().sum().item()
    )


def test_a_run_is_recorded_in_these_units(data):
    torch.manual_seed(0)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(4,))
    history = zoo.fit(vae, data, epochs=1, device="cpu", progress=False, compile=False)
    last = history.epochs[-1]
    on_valid = data.judged_on(data.valid)
    again = zoo.evaluate(vae, on_valid, 1, seed=0).elbo
    assert last["valid_elbo"] == pytest.approx(again, abs=1e-4)
    assert last["train_elbo"] == pytest.approx(again, abs=3)  # and not 3 features off
    assert abs(data.log_jacobian) > 1
    weighted = zoo.AnnealedELBO(num_particles=3, bound="iwae")
    record = validated(vae, data, weighted, 0.0, seed=0)
    assert record["train_bound"] == data.log_jacobian
    assert record["valid_bound"] == pytest.approx(again, abs=3)
    options = DiagnoseOptions(
        num_particles=50, chains=4, temps=10, leapfrog=2, simulated=4, steps=5
    )
    found = findings(diagnose(vae, data.judged_on(data.test[:4]), options))
    for name in ("importance", "annealing", "local_importance"):
        ours = found[name]["log_likelihood"]
        assert ours == pytest.approx(found["importance"]["log_likelihood"], abs=1.5)
    assert found["bidirectional"]["lower"] == pytest.approx(ours, abs=6)


def test_pictures_and_samples_are_in_these_units(data):
    given = data.as_given(data.train)
    assert torch.allclose(given.mean(0), data.standardisation.mean.float(), rtol=1e-4)
    assert torch.equal(data.pixels(data.test), data.as_given(data.test))
    assert torch.equal(pixels_of(data.test, data), data.pixels(data.test))
    assert data.train.std(0, correction=0).tolist() == pytest.approx([1] * 3)


def test_images_are_standardised_channel_by_channel():
    x = torch.rand(40, 3, 4, 5) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    data = zoo.Dataset(x, x, x, "gaussian", standardise=True)
    assert data.standardisation.scale.shape == (3, 1, 1)
    assert torch.allclose(data.as_given(data.test), x, rtol=1e-5, atol=1e-5)
    scales = x.double().std((0, 2, 3), correction=0)
    assert data.log_jacobian == pytest.approx(-20 * scales.log().sum().item())


def test_other_data_are_standardised_as_those_that_were_trained_on(data):
    other = zoo.Dataset(
        data.as_given(data.test) * 3, likelihood="gaussian", standardise=True
    )
    moved = other.standardised_as(data)
    assert torch.allclose(
        data.as_given(moved.test), other.as_given(other.test), rtol=1e-4
    )
    assert moved.log_jacobian == data.log_jacobian


def test_what_cannot_be_standardised():
    constant = np.full((30, 2), 0.1)
    constant[:, 0] = np.arange(30)
    with pytest.raises(zoo.UserError, match="feature 1 is 0.1 in all of train"):
        zoo.Dataset(constant, likelihood="gaussian", standardise=True)
    with pytest.raises(zoo.UserError, match="standardise=True: expected likelihood"):
        zoo.Dataset(constant > 1, standardise=True)
    # Far from zero for float32, and no matter for what is standardised before.
    far = 1e9 + np.arange(60.0)[:, None] ** 1.5
    data = zoo.Dataset(far, likelihood="gaussian", standardise=True)
    assert len(data.train.unique()) == 48
