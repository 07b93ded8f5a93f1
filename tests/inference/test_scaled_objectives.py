"""Pyro's scales in objectives that are not linear in the densities."""

import math

import pyro
import pytest
import torch
from pairs import linear_gaussian, small
from pyro import poutine
from pyro.infer import RenyiELBO

import pyro_vae_zoo as zoo
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.terms import bound_terms

OBJECTIVES = {
    "elbo": {},
    "analytic_kl": {"analytic_kl": True},
    "iwae": {"bound": "iwae"},
    "iwae_weighted": {"bound": "iwae", "kl_weight": 0.3},
    "iwae_tempered": {"bound": "iwae", "joint_weight": 0.2},
    "free_bits": {"free_bits": 0.7},
    "free_bits_analytic": {"free_bits": 0.7, "analytic_kl": True},
}
SCALES = [0.25, 1.0, 10.0, 1000.0, torch.tensor(10.0, dtype=torch.double)]


@pytest.fixture
def vae():
    torch.manual_seed(0)
    vae = small("mean_field").double()
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return vae


@pytest.fixture
def x():
    return torch.ones(6, 2, 3, dtype=torch.double).bernoulli()


def sides(vae, scale):
    return poutine.scale(vae.model, scale=scale), poutine.scale(vae.guide, scale=scale)


def both(loss, model, guide, x):
    torch.manual_seed(1)
    with torch.no_grad():
        return torch.stack(loss.loss_and_elbo(model, guide, x))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
def test_one_scale_is_a_factor(options, scale, vae, x):
    """As N/B is of a batch of B out of N, whatever the objective."""
    loss = zoo.AnnealedELBO(8, **options)
    plain = both(loss, vae.model, vae.guide, x)
    scaled = both(loss, *sides(vae, scale), x)
    torch.testing.assert_close(scaled, scale * plain)


def test_the_scaled_bound_is_pyros_without_a_scale(vae, x):
    loss = zoo.AnnealedELBO(8, bound="iwae")
    stock = RenyiELBO(
        alpha=0, num_particles=8, vectorize_particles=True, max_plate_nesting=1
    )
    torch.manual_seed(1)
    expected = stock.loss(vae.model, vae.guide, x)
    assert both(loss, *sides(vae, 50.0), x)[0].item() / 50 == pytest.approx(expected)


@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_scale_around_both_sides_is_a_factor(options):
    truth = linear_gaussian()
    torch.manual_seed(0)
    data = truth.marginal.sample((6,))
    vae = truth.vae(truth.gaussian_guide(widen=1.5))
    loss = zoo.AnnealedELBO(8, **options)
    plain = both(loss, vae.model, vae.guide, data)
    scale = pyro.poutine.scale(scale=60 / len(data))
    with scale:
        scaled = both(loss, vae.model, vae.guide, data)
    torch.testing.assert_close(scaled, 10 * plain)


def test_a_scale_for_each_datum_weighs_its_bound(vae, x):
    scale = torch.tensor([0.1, 1.0, 2.0, 0.5, 10.0, 3.0], dtype=torch.double)
    loss = zoo.AnnealedELBO(8, bound="iwae")
    torch.manual_seed(1)
    with torch.no_grad():
        weights = bound_terms(vae.model, vae.guide, x, 8).log_weights
    bounds = weights.logsumexp(0) - math.log(8)
    expected = (scale * bounds).sum()
    found = both(loss, *sides(vae, scale), x)
    torch.testing.assert_close(found, torch.stack([-expected, expected]))


def test_free_bits_of_weighed_data_are_of_the_weighed_mean(vae, x):
    scale = torch.tensor([0.5, 1.0, 2.0, 0.5, 10.0, 3.0], dtype=torch.double)
    torch.manual_seed(1)
    with torch.no_grad():
        terms = bound_terms(vae.model, vae.guide, x, 8)
    ((_, kl),) = terms.kl.items()
    mean = ((scale * kl.mean(0)).sum() / scale.sum()).item()
    reconstruction = (scale * terms.log_likelihood.mean(0)).sum()
    for floor in (0.5 * mean, 2 * mean):
        loss = zoo.AnnealedELBO(8, free_bits=floor)
        expected = scale.sum() * max(mean, floor) - reconstruction
        found = both(loss, *sides(vae, scale), x)[0]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{"bound": "iwae"}, {"free_bits": 0.5}])
def test_different_scales_are_refused_where_they_have_no_meaning(options, vae, x):
    loss = zoo.AnnealedELBO(8, **options)
    model, guide = sides(vae, 3.0)
    for pair in ((model, vae.guide), (vae.model, guide)):
        with pytest.raises(UserError, match="needs one scale for all sites"):
            loss.loss_and_elbo(*pair, x)
    of_draws = torch.linspace(0.5, 1, 8 * 6, dtype=torch.double).reshape(8, 6)
    with pytest.raises(UserError, match="which differ between particles"):
        loss.loss_and_elbo(*sides(vae, of_draws), x)
