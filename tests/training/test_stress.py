"""Data and settings at the edge: each trains, or stops with an error that says why."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import FAMILIES, MIXTURES, one_latent, quick, small
from pyro import poutine

import pyro_vae_zoo as zoo

FLOWS = [
    name
    for name in one_latent()
    if "num_flows" in zoo.guide_options(name) and name not in MIXTURES
]
QUIET = {"device": "cpu", "progress": False}
COUPLINGS = ("affine_coupling", "spline_coupling")  # which need two latents


def binary(*splits):
    return zoo.Dataset(*splits, name="stress")


def images(num_data, value=None):
    if value is not None:
        return torch.full((num_data, 2, 3), float(value))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_data, 2, 3, generator=generator).lt(0.4).float()


DATA = {
    "all_zero": lambda: binary(*(images(n, 0) for n in (12, 4, 4))),
    "all_one": lambda: binary(*(images(n, 1) for n in (12, 4, 4))),
    "constant": lambda: binary(
        *(images(1).expand(n, 2, 3).clone() for n in (12, 4, 4))
    ),
    "one_datum": lambda: binary(*(images(1) for _ in range(3))),
    "single_pixel": lambda: binary(*(images(n)[:, :1, :1] for n in (12, 4, 4))),
}


def trained(vae, data, **options):
    """Two epochs; whether they came to an end, with what is finite, or to the error."""
    try:
        history = zoo.fit(vae, data, epochs=2, **{"batch_size": 5} | QUIET | options)
    except zoo.DivergedError:
        return False
    assert all(math.isfinite(record["valid_elbo"]) for record in history.epochs)
    assert all(p.isfinite().all() for p in vae.parameters())
    return True


@pytest.mark.parametrize("kind", quick(DATA, "one_datum"))
@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FAMILIES))
def test_odd_data(name, kind):
    data = DATA[kind]()
    layers = {"num_layers": 1} if "num_layers" in zoo.guide_options(name) else {}
    vae = small(name, data.event_shape, **layers)  # each has a pixel at least
    assert trained(vae, data)
    assert zoo.evaluate(vae, data.test, num_particles=3).num_data == len(data.test)
    assert zoo.log_likelihood(vae, data.test[:1], num_particles=30).log_prob.isfinite()


@pytest.mark.parametrize("value", [1e-30, 1e3, 1e18, 3e38])
@pytest.mark.parametrize("name", ["mean_field", "iaf", "maf"])
def test_extreme_values(name, value):
    x = value * (2 * images(12) - 1)
    data = zoo.Dataset(x, x[:4], x[4:8], "gaussian", "extreme")
    ended = trained(small(name, likelihood="gaussian"), data)
    assert ended or value > 1e3


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.list_guides())
def test_a_batch_of_one(name):
    assert trained(small(name), binary(*(images(n) for n in (7, 4, 4))), batch_size=1)


@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FAMILIES))
@pytest.mark.parametrize("latent_dim", quick([1, 512], 1))
def test_one_latent_and_many(name, latent_dim):
    if latent_dim == 1 and name in COUPLINGS:
        with pytest.raises(zoo.UserError, match="latent_dim >= 2"):
            small(name, latent_dim=1)
        return
    data = binary(*(images(n) for n in (6, 2, 2)))
    assert trained(small(name, latent_dim=latent_dim), data)


@pytest.mark.parametrize("name", quick(FLOWS, "planar", "iaf", "spline_coupling"))
def test_fifty_steps_of_a_flow(name):
    data = binary(*(images(n) for n in (6, 2, 2)))
    assert trained(small(name, latent_dim=4, num_flows=50), data)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.list_guides())
def test_double_precision(name):
    data = binary(*(images(n) for n in (6, 2, 2)))
    vae = small(name).double()
    assert trained(vae, data)
    assert {p.dtype for p in vae.parameters()} == {torch.double}


@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FAMILIES))
def test_a_learning_rate_of_one(name):
    """It trains or says that it cannot; which of the two is its own affair."""
    data = binary(*(images(n) for n in (12, 4, 4)))
    trained(small(name, latent_dim=4), data, lr=1.0)


def log_densities(vae, x, dtype, noise_seed):
    """log q(z|x) in one precision, of draws that are the same in both."""
    vae = vae.to(dtype)
    generator = torch.Generator().manual_seed(noise_seed)
    latent_dim = vae.encode(x.to(dtype)).shape[-1]
    noise = torch.randn(len(x), latent_dim, generator=generator, dtype=torch.double)
    with torch.no_grad():
        q = poutine.trace(vae.guide).get_trace(x.to(dtype)).nodes["z"]["fn"]
        base = q.base_dist if hasattr(q, "transforms") else q
        normal = base.base_dist if hasattr(base, "base_dist") else base
        z0 = normal.loc + normal.scale * noise.to(dtype)
        log_q, z = base.log_prob(z0), z0
        for transform in getattr(q, "transforms", ()):
            moved = transform(z)
            log_q, z = log_q - transform.log_abs_det_jacobian(z, moved), moved
    return log_q.double()


@pytest.mark.parametrize("num_flows", quick([1, 10, 50], 10))
@pytest.mark.parametrize("name", FLOWS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_float32_has_the_densities_of_float64(name, num_flows, seed):
    """To 1e-3 nats at initialisation for ten steps at most; beyond, they are finite."""
    torch.manual_seed(seed)
    vae = small(name, latent_dim=20, num_flows=num_flows)
    x = images(20)
    single = log_densities(vae, x, torch.float, seed)
    double = log_densities(vae, x, torch.double, seed)
    assert single.isfinite().all()
    if num_flows <= 10:
        torch.testing.assert_close(single, double, atol=1e-3, rtol=0)
