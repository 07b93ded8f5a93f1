"""Whatever is called a mean is one: the average of its distribution's own draws."""

import math
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, small
from pyro import poutine

from pyro_vae_zoo import plots
from pyro_vae_zoo.distributions import DiscretizedLogistic, Mixture, RankOnePrecision
from pyro_vae_zoo.explorer import decoder as portable
from pyro_vae_zoo.nn.likelihoods import LIKELIHOODS, make_likelihood

LEVELS = torch.arange(256).double() / 255
GREY = "discretized_logistic"
OF_VECTORS = ("mean_field", "iaf", "recursive_mixture", "ladder", "self_reflective")


def average_level(p):
    """Sum of k / 255 times p(k / 255), in float64."""
    loc, log_scale = (v.double()[..., None] for v in (p.loc, p.log_scale))
    probs = DiscretizedLogistic(loc, log_scale).log_prob(LEVELS).exp()
    assert (probs.sum(-1) - 1).abs().max() < 1e-9
    return (probs * LEVELS).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_of_grey_levels_is_that_of_their_probabilities(dtype):
    locs = [-3.0, -0.01, 0.0, 1e-6, 0.02, 0.3, 0.5, 127.5 / 255, 0.98, 1.0, 4.0]
    log_scales = [-7.0, -6.5, -5.0, -3.6, -2.3, -1.0, 0.0, 3.0]
    grid = torch.cartesian_prod(torch.tensor(locs), torch.tensor(log_scales))
    p = DiscretizedLogistic(*grid.to(dtype).unbind(1))
    expected = average_level(p)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(p.mean.double(), expected, rtol=0, atol=tolerance)
    # The centre is no mean where a bound of the scale is near: it was shown as one.
    assert (p.loc.clamp(0, 1) - expected).abs().max() > 0.1


def test_the_mean_of_grey_levels_as_a_trained_decoder_gives_them():
    likelihood = make_likelihood(GREY, (9, 9))
    params = torch.cat([4 * torch.randn(50, 81), 3 * torch.randn(50, 81) - 1], -1)
    p = likelihood(params)
    torch.testing.assert_close(
        p.mean.double(), average_level(p.base_dist), atol=3e-6, rtol=0
    )
    layers = portable.mean_layers(likelihood)
    found = portable.apply(layers, params.double().numpy())
    np.testing.assert_allclose(found, p.mean.flatten(1), atol=3e-6)


def test_the_mean_has_a_gradient():
    loc = torch.tensor([0.02, 0.4], dtype=torch.double, requires_grad=True)
    log_scale = torch.tensor([-2.0, -4.0], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b: DiscretizedLogistic(a, b).mean, (loc, log_scale)
    )


def bundle():
    """Distributions of the zoo that have a mean, by what they are."""
    parts = [
        dist.Normal(torch.tensor([0.0, 1.0]), 1.0).to_event(1),
        dist.MultivariateNormal(torch.tensor([3.0, -2.0]), torch.eye(2)),
        dist.Normal(torch.tensor([40.0, 40.0]), 1.0).to_event(1),
    ]
    loc, diag = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 4.0, 2.0])
    found = {
        "mixture": Mixture(torch.tensor([0.3, 0.7, 0.0]).log(), parts),
        "rank one": RankOnePrecision(loc, diag, torch.ones(3)),
    }
    for name in LIKELIHOODS:
        sizes = {"binomial": {"total_count": 16}, "categorical": {"num_classes": 4}}
        make = partial(LIKELIHOODS[name], **sizes.get(name, {}))
        likelihood = make_likelihood(make, (2, 3))
        found[name] = likelihood(2 * torch.randn(6 * likelihood.num_params))
    return found


@pytest.mark.parametrize("name", ["mixture", "rank one", *LIKELIHOODS])
def test_a_mean_is_the_average_of_draws(name):
    p, n = bundle()[name], 100_000
    draws = p.sample((n,))
    error = draws.std(0) / math.sqrt(n)
    assert ((draws.mean(0) - p.mean).abs() < 5 * error + 1e-6).all()


def faint(guide, **options):
    """A pair whose grey levels crowd at black, where the centre is not the mean."""
    vae = small(guide, likelihood=GREY, **options)
    perturb(vae)
    return vae


def averages_of(vae, z, x):
    """E[x|z] of a standard model, from the probabilities of its levels."""
    conditioned = poutine.condition(poutine.uncondition(vae.model), data={"z": z})
    with torch.no_grad():
        p = poutine.trace(conditioned).get_trace(x).nodes["x"]["fn"]
    return average_level(p.base_dist)


def test_every_entry_point_shows_the_mean():
    vae, x = faint("mean_field"), torch.full((5, 2, 3), 3 / 255)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        z = vae.encode(x)[0]
    expected = averages_of(vae, z, x)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        torch.testing.assert_close(
            vae.reconstruct(x).double(), expected, atol=1e-5, rtol=0
        )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        prior = poutine.trace(poutine.uncondition(vae.model)).get_trace(x)
        torch.manual_seed(4)
        means = vae.sample(5, mean=True).double()
    expected = averages_of(vae, prior.nodes["z"]["value"], x)
    torch.testing.assert_close(means, expected, atol=1e-5, rtol=0)


def test_pictures_show_the_mean():
    vae, x = faint("mean_field"), torch.full((4, 2, 3), 3 / 255)
    canvas = plots.plot_traversal(vae, x, columns=3).axes[0].images[0].get_array()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        draws = vae.encode(x, 100)
        z = draws[:, 0].mean(0)
        z[draws.var(0).mean(0).argmin()] = -3.0
    expected = averages_of(vae, z[None], x[:1])[0]
    np.testing.assert_allclose(canvas[:2, :3, 0], expected, atol=1e-5)


@pytest.mark.parametrize("guide", OF_VECTORS)
def test_means_average_what_is_drawn(guide):
    """Of the model as a whole: x and E[x|z] have one average, whatever z is."""
    vae, n = faint(guide), 20_000
    with torch.random.fork_rng():
        torch.manual_seed(1)
        draws, means = vae.sample(n), vae.sample(n, mean=True)
    error = (draws.var(0) + means.var(0)).div(n).sqrt()
    assert ((draws.mean(0) - means.mean(0)).abs() < 5 * error).all()
