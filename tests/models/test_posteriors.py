"""X8, FL7: what each guide can represent, on a posterior where mean field cannot.

The model is linear-Gaussian at its truth, so that log p(x), the posterior and the
bound of the best mean-field guide are known in closed form. Only the guide is
trained; it must close 90 % of the gap between that bound and log p(x).
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import MIXTURES, LinearGaussian, one_latent, quick, small
from torch import nn

import pyro_vae_zoo as zoo

CLOSE = 0.9

# Options that each guide gets here; all see the data through linear heads.
CORRELATED = {
    "full_rank": {},
    "planar": {"num_flows": 4},
    "householder": {"num_flows": 1},
    "sylvester_orthogonal": {"num_flows": 2},
    "sylvester_householder": {"num_flows": 2},
    "sylvester_triangular": {"num_flows": 2},
    "affine_autoregressive": {"num_flows": 1},
    "iaf": {"num_flows": 2},
    "neural_autoregressive": {"num_flows": 1},
    "affine_coupling": {"num_flows": 2},
    "spline_coupling": {"num_flows": 2},
}
# Guides that a correlated Gaussian is not for, and why.
EXCLUDED = {
    "mean_field": "is the reference: independent by construction",
    "semi_amortized": "ends with an independent Gaussian; see test_semi_amortized.py",
    **dict.fromkeys(MIXTURES, "adds up Gaussians; see test_recursive_mixture.py"),
    "radial": "is the same in all directions around a point, so it cannot rotate; "
    "its own posterior is in test_radial_makes_a_ring",
}


def test_every_guide_is_tried_or_excluded_with_a_reason():
    assert sorted([*CORRELATED, *EXCLUDED]) == one_latent()


@pytest.fixture(scope="module")
def truth():
    """Two latents that the data tell apart badly: posterior correlation -0.95."""
    # Both columns nearly parallel: W'W / s^2 + I = [[a, c], [c, a]], c/a = 0.95.
    angle = 0.5 * math.acos(0.9577)
    column = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    weight = torch.stack([column, column * torch.tensor([1.0, -1.0, 1.0])], 1)
    truth = LinearGaussian(weight, torch.tensor([0.3, -0.2, 0.1]), scale=0.09)
    correlation = truth.covariance[0, 1] / truth.covariance.diagonal().prod().sqrt()
    assert -0.96 < correlation < -0.94
    return truth


class PosteriorMean(nn.Module):
    """E[z|x]: features of which the right guide is a linear function."""

    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def forward(self, x):
        return (x - self.truth.bias) @ self.truth.gain.T


def guide_of(name, event_dim, feature_dim, seed, **options):
    torch.manual_seed(seed)
    sizes = {"event_shape": (event_dim,), "hidden_dims": (feature_dim,)}
    return small(name, **sizes, likelihood="gaussian", **options).guide.double()


def train(vae, x, num_steps=500):
    """Adam on the guide alone, its rate falling to 0."""
    loss = zoo.AnnealedELBO(num_particles=4)
    optimizer = torch.optim.Adam(vae.guide.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        (loss.differentiable_loss(vae.model, vae.guide, x) / len(x)).backward()
        nn.utils.clip_grad_norm_(vae.guide.parameters(), 10.0)
        optimizer.step()
        schedule.step()


def train_guide(name, truth, seed=0, **options):
    """The true model with a guide trained on 64 of its data."""
    guide = guide_of(name, truth.event_dim, truth.latent_dim, seed, **options)
    guide.encoder = PosteriorMean(truth)
    vae = truth.vae(guide)
    x = truth.marginal.sample((64,))
    train(vae, x)
    return vae, x


def closed(vae, x, truth):
    """The share of the mean-field gap that a guide closes."""
    result = zoo.evaluate(vae, x, num_particles=500)
    gap = truth.marginal.log_prob(x).mean().item() - result.elbo
    return 1 - gap / truth.mean_field_gap


def test_the_gap_of_mean_field_is_the_closed_form(truth):
    assert truth.mean_field_gap == pytest.approx(-0.5 * math.log(1 - 0.95**2), rel=0.02)
    vae, x = train_guide("mean_field", truth)
    assert -0.1 < closed(vae, x, truth) < 0.01


@pytest.mark.parametrize("name", quick(CORRELATED, "iaf"))
def test_closes_the_gap_of_a_correlated_posterior(name, truth, record_property):
    vae, x = train_guide(name, truth, **CORRELATED[name])
    share = closed(vae, x, truth)
    record_property("closed", share)
    # An ELBO cannot lie above log p(x); the Monte-Carlo error of the share is 0.01.
    assert CLOSE < share < 1.01


@pytest.mark.slow
def test_reflections_find_the_rotation_from_most_starts(truth):
    """A start where v(h) passes 0 on the data was left by two seeds in five only."""
    found = []
    for seed in range(1, 9):
        vae, x = train_guide("householder", truth, seed, num_flows=1)
        found.append(closed(vae, x, truth))
    assert sum(CLOSE < share < 1.01 for share in found) >= 6
    assert max(found) < 1.01


class Ring(nn.Module):
    """z ~ N(0, I) in the plane, x = |z| + noise: the posterior of x is a ring."""

    scale = 0.3

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            r = z.norm(dim=-1, keepdim=True)
            pyro.sample("x", dist.Normal(r, self.scale).to_event(1), obs=x)

    def log_prob(self, x):
        """log p(x) by quadrature over the radius, which is Rayleigh distributed."""
        r = torch.linspace(1e-4, 10, 100_001).double()
        log_joint = r.log() - r.square() / 2 + dist.Normal(r, self.scale).log_prob(x)
        return torch.trapezoid(log_joint.exp(), r).log().item()


@pytest.mark.slow
def test_radial_makes_a_ring():
    """What `radial` is for: pushing mass away from a point, alike in all directions."""
    x = torch.full((64, 1), 2.0).double()
    elbo = {}
    for name, options in (("mean_field", {}), ("radial", {"num_flows": 1})):
        guide = guide_of(name, 1, 1, seed=0, **options)
        guide.encoder = nn.Flatten(-1)
        vae = zoo.VAE(Ring(), guide, (1,))
        train(vae, x)
        elbo[name] = zoo.evaluate(vae, x, 500).elbo
    log_prob = Ring().log_prob(x[0])
    gap = log_prob - elbo["mean_field"]
    assert gap > 1  # mean field covers a part of the ring
    share = 1 - (log_prob - elbo["radial"]) / gap
    assert CLOSE < share < 1.01


@pytest.mark.slow
def test_radial_cannot_rotate(truth):
    """The reason for its exclusion above holds; if it fails, include it."""
    vae, x = train_guide("radial", truth, num_flows=2)
    assert closed(vae, x, truth) < CLOSE
