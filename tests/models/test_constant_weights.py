"""Weights that all data share: where equation 2 of `recursive_mixture` leaves them."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, quick, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.inference.terms import score_latents
from pyro_vae_zoo.models.mixture import ConstantWeights, MixtureGuide
from pyro_vae_zoo.models.recursive_mixture import (
    Criterion,
    RecursiveELBO,
    mirror_step,
    mixture_of,
)
from pyro_vae_zoo.pair.vae import Phase


class Linear(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 0.5^2)."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(1), 1.0).to_event(1).expand([len(x)])
            z = pyro.sample("z", prior)
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


class Fixed(nn.Module):
    """q_m(z|x) = N(slope x + offset, scale^2), which nothing trains."""

    def __init__(self, slope, offset, scale):
        super().__init__()
        self.values = slope, offset, scale

    def forward(self, x):
        slope, offset, scale = self.values
        return dist.Normal(slope * x + offset, scale).to_event(1)


# The first two suit different halves of the data, and each is bad for the other half.
COMPONENTS = (Fixed(0.3, 1.1, 0.6), Fixed(0.3, -1.1, 0.6), Fixed(0.8, 0.0, 0.25))


def fixed_pair(weight_step, num_components=3):
    """A pair whose weights alone move, by equation 2."""
    guide = MixtureGuide(
        [nn.Identity()] * num_components,
        COMPONENTS[:num_components],
        ConstantWeights(1, num_components),
    ).double()
    loss = partial(
        RecursiveELBO,
        size=num_components,
        fit=False,
        criterion=Criterion(),
        weight_step=weight_step,
    )
    phase = Phase("weights", 1.0, loss, (guide.weights,))
    return zoo.VAE(Linear(), guide, (1,), phases=(phase,))


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    x = torch.randn(200, 1).double() * 1.5 + 0.5
    return zoo.Dataset(x, x[:40], x[:40], likelihood="gaussian")


class Bound:
    """L(Q) as a function of shared weights, by the same many draws for all of them."""

    def __init__(self, vae, x, num_draws=100):
        torch.manual_seed(11)
        with torch.no_grad():
            q = mixture_of(vae.guide, x)
            z = q.rsample_components((num_draws,))
            self.log_joint = sum(score_latents(vae.model, x, z))
            self.log_q = q.component_log_prob(z)

    def advantages(self, log_weights):
        """Of each component for each datum."""
        log_mixture = (log_weights + self.log_q).logsumexp(-1)
        return (self.log_joint - log_mixture).mean(1)

    def __call__(self, log_weights):
        return (log_weights.exp() @ self.advantages(log_weights)).mean().item()

    def optimum(self, num_components):
        """By mirror steps without noise, to the KKT conditions; and the advantages."""
        log_weights = torch.zeros(num_components).double().log_softmax(0)
        for _ in range(500):
            advantages = self.advantages(log_weights)
            log_weights = mirror_step(log_weights, advantages.mean(-1), 1.0)
        mean = advantages.mean(-1)
        in_use = log_weights.exp() > 1e-3
        assert mean[in_use].max() - mean[in_use].min() < 1e-2
        assert (mean <= mean[in_use].max() + 1e-2).all()
        return log_weights, advantages


def in_the_end(vae):
    return vae.guide.weights.logits.detach().log_softmax(0)


@pytest.mark.parametrize("num_components", quick([2, 3], 3))
@pytest.mark.parametrize("weight_step", quick([0.1, 1.0], 1.0))
def test_they_end_at_the_optimum(weight_step, num_components, data):
    """Within 0.1 nats, from batches of 20 and one draw each, as `fit` trains them."""
    vae = fixed_pair(weight_step, num_components)
    bound = Bound(vae, data.train)
    best, advantages = bound.optimum(num_components)
    # Data want different components, and an even mixture is no answer.
    assert (advantages[0] - advantages[1]).std() > 3
    zoo.fit(
        vae, data, epochs=50, batch_size=20, lr=0.03, schedule="cosine", seed=0,
        keep="last", progress=False, device="cpu",
    )  # fmt: skip
    assert (
        bound(torch.zeros(num_components).double().log_softmax(0)) < bound(best) - 0.2
    )
    assert bound(in_the_end(vae)) > bound(best) - 0.1


@pytest.mark.parametrize("weight_step", [0.1, 1.0])
@pytest.mark.parametrize("guide", ["recursive_mixture", "boosted"])
def test_the_gradient_is_the_bounds_whatever_the_step(guide, weight_step):
    """Not in the limit of small steps only: noise then moves no point of rest."""
    torch.manual_seed(0)
    vae = small(guide, num_components=3, weights="constant").double()
    perturb(vae)
    x = torch.rand(6, 2, 3).bernoulli().double()
    logits = vae.guide.weights.logits
    bound = zoo.AnnealedELBO(500)
    loss = RecursiveELBO(
        500, size=3, fit=False, criterion=Criterion(), weight_step=weight_step
    )
    ours, theirs = [], []
    for objective, draws in ((loss, ours), (bound, theirs)):
        for _ in range(30):
            value = objective.differentiable_loss(vae.model, vae.guide, x)
            draws += torch.autograd.grad(value, logits)
    (mean, error), (expected, other) = (
        (g.mean(0), g.std(0) / len(g) ** 0.5)
        for g in (torch.stack(ours), torch.stack(theirs))
    )
    assert ((mean - expected).abs() < 4 * (error**2 + other**2).sqrt()).all()
    assert (expected.abs() > 10 * other).any()


@pytest.mark.parametrize("weight_step", [0.1, 1.0])
def test_what_the_data_want_on_average_is_what_counts(weight_step):
    """Two data that want different components as strongly leave even weights alone."""
    logits = torch.zeros(2).double().requires_grad_()
    components = [dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(1)] * 2
    loss = RecursiveELBO(
        1, size=2, fit=False, criterion=Criterion(), weight_step=weight_step
    )
    for advantage, expected in (([100.0, -100.0], 0.0), ([100.0, -98.0], 1.0)):
        q = Mixture(logits.log_softmax(-1), components).expand((2,)).first(2)
        log_weights = q.log_weights.expand(2, 2).T
        gains = torch.tensor([advantage, [-a for a in advantage]]).double()
        value = loss._weights_loss(q, log_weights, gains)
        (gradient,) = torch.autograd.grad(value, logits)
        torch.testing.assert_close(
            gradient, torch.tensor([-expected, expected]).double()
        )


def test_weights_know_whether_the_data_share_them():
    """In a plate too, and in one of particles around it."""
    for weights, shape in (("constant", (3,)), ("amortized", (5, 3))):
        vae = small("recursive_mixture", num_components=3, weights=weights)
        x = torch.ones(5, 2, 3)
        assert mixture_of(vae.guide, x).log_weights.shape == shape
        assert mixture_of(vae.guide, x).first(2).log_weights.shape == (*shape[:-1], 2)
        with pyro.plate("particles", 7, dim=-2):
            q = mixture_of(vae.guide, x)
        assert q.log_weights.shape == shape
        assert q.batch_shape == (7, 5)
        assert q.log_prob(torch.zeros(7, 5, 2)).shape == (7, 5)
        assert q.mean.shape == (7, 5, 2)
        assert q.rsample().shape == (7, 5, 2)


def test_weights_of_each_datum_follow_its_own_advantage():
    """Amortised weights take a step for each datum, as before."""
    generator = torch.Generator().manual_seed(0)
    log_weights = torch.randn(3, 4, generator=generator).double().log_softmax(0)
    advantage = 5 * torch.randn(3, 4, generator=generator).double()
    components = [dist.Normal(torch.zeros(4, 1).double(), 1.0).to_event(1)] * 3
    logits = log_weights.T.clone().requires_grad_()
    q = Mixture(logits.log_softmax(-1), components)
    loss = RecursiveELBO(1, size=3, fit=False, criterion=Criterion(), weight_step=0.5)
    value = loss._weights_loss(q, q.log_weights.T, advantage)
    (gradient,) = torch.autograd.grad(value, logits)
    step = mirror_step(log_weights, advantage, 0.5).exp()
    torch.testing.assert_close(gradient, (log_weights.exp() - step).T / 0.5)
