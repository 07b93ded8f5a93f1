r"""Is the reverse chain of `bidirectional` right, where its mean cannot tell?

With u = w / p(x) of a forward chain and v p(x) of a reverse one, whose paths are those of
the forward chain weighted by u,

\[E_{\text{reverse}}[h(v\,p(x))] = E_{\text{forward}}[u\,h(1/u)]\]

for every h. For h the identity that is \(E[v\,p(x)] = 1\), of a variable without variance
on these pairs; for \(h(y) = \min(1, y)\) both sides are means of numbers in [0, 1]
(Bennett 1976), whose errors can be trusted.
"""

import math

import pytest
import torch
from pairs import linear_gaussian
from tqdm import tqdm

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation import hmc
from pyro_vae_zoo.evaluation.hmc import Annealing, State, temperatures, transition

NOISE, WEIGHT = 0.5, 1.0
RATIO = (WEIGHT / NOISE) ** 2


def tempered(x, beta):
    """Mean and variance of f_beta: z ~ N(0, 1), x ~ N(WEIGHT z, NOISE^2)."""
    variance = 1 / (1 + beta * RATIO)
    return variance * beta * WEIGHT / NOISE**2 * x, variance


def score(x, z):
    residual = (x - WEIGHT * z)[..., 0]
    log_likelihood = -0.5 * (residual / NOISE) ** 2
    log_likelihood = log_likelihood - math.log(NOISE * math.sqrt(2 * math.pi))
    log_prior = -0.5 * z[..., 0] ** 2 - 0.5 * math.log(2 * math.pi)
    slope = residual[..., None] * WEIGHT / NOISE**2
    return State(z, log_likelihood, log_prior, slope, -z)


def log_p(x):
    variance = WEIGHT**2 + NOISE**2
    return -0.5 * x**2 / variance - 0.5 * math.log(2 * math.pi * variance)


def exact_transition(x):
    """Instead of Hamiltonian Monte Carlo: draws of f_beta, whatever was before."""

    def draw(_, state, beta, *__):
        mean, variance = tempered(x, beta)
        z = mean + math.sqrt(variance) * torch.randn_like(state.z)
        return score(x, z), torch.ones_like(state.log_prior)

    return draw


def log_weights(x, chains, num_temps, reverse, steps=None):
    """Of chains that start exactly; x is a number."""
    mean, variance = tempered(x, 1.0 if reverse else 0.0)
    z = mean + math.sqrt(variance) * torch.randn(chains, 1, 1, dtype=torch.double)
    if steps is None:
        steps = [torch.ones(1, dtype=torch.double)] * (num_temps - 1)
    chain = Annealing(chains, num_temps, 3)
    with tqdm(disable=True) as bar:
        found, _ = chain.run(lambda z: score(x, z), z, steps, bar, reverse=reverse)
    return found[:, 0]


def moment(x, order, num_temps):
    """E[(v p(x))^order] of reverse chains by exact draws: a product of Gaussians'."""
    betas = temperatures(num_temps).tolist()
    log_moment = order * log_p(x)
    constant = math.log(NOISE * math.sqrt(2 * math.pi))
    for low, high in zip(betas, betas[1:], strict=False):
        # E over f_high of exp(a (x - WEIGHT z)^2), a = order (high - low) / (2 NOISE^2).
        mean, variance = tempered(x, high)
        residual, spread = x - WEIGHT * mean, WEIGHT**2 * variance
        a = order * (high - low) / (2 * NOISE**2)
        left = 1 - 2 * a * spread
        if left <= 0:
            return math.inf
        log_moment += a * residual**2 / left - 0.5 * math.log(left)
        log_moment += order * (high - low) * constant
    return math.exp(log_moment)


@pytest.mark.parametrize("num_temps", [5, 20])
def test_the_reverse_weights_are_right_with_exact_transitions(num_temps, monkeypatch):
    """Mean and variance of v p(x), where it has one, are those of the closed form."""
    torch.manual_seed(0)
    x, chains = 0.7, 200_000
    monkeypatch.setattr(hmc, "transition", exact_transition(x))
    ratio = (log_weights(x, chains, num_temps, True) + log_p(x)).exp()
    assert moment(x, 1, num_temps) == pytest.approx(1)
    variance = moment(x, 2, num_temps) - 1
    assert abs(ratio.mean().item() - 1) < 4 * math.sqrt(variance / chains)
    assert math.sqrt(variance / chains) < 0.01
    if moment(x, 4, num_temps) < 100:  # else the sample's variance tells nothing
        assert ratio.var().item() == pytest.approx(variance, rel=0.1)


def test_moments_of_the_reverse_weight_end_at_the_stated_order():
    """1 + NOISE^2 / WEIGHT^2 of one temperature: no variance where WEIGHT is larger."""
    order = 1 + 1 / RATIO
    assert moment(0.7, order - 0.05, 1) < math.inf
    assert moment(0.7, order + 0.05, 1) == math.inf
    assert moment(0.7, 2, 1) == math.inf
    assert moment(0.7, 2, 5) < math.inf  # of exact draws


@pytest.mark.parametrize("beta", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("step", [0.3, 0.8])
def test_a_transition_is_reversible(beta, step):
    """From f_beta it goes from z to z' as often as back, under its jitter too."""
    torch.manual_seed(0)
    x, chains = 0.7, 400_000
    mean, variance = tempered(x, beta)
    z = mean + math.sqrt(variance) * torch.randn(chains, 1, 1, dtype=torch.double)
    sizes = torch.full((1,), step * math.sqrt(variance) * 2, dtype=torch.double)
    after, _ = transition(lambda z: score(x, z), score(x, z), beta, sizes, 3)
    a, b = ((s - mean)[:, 0, 0] / math.sqrt(variance) for s in (z, after.z))
    assert (a != b).double().mean() > 0.3
    for flow in (a - b, a**2 - b**2, a**3 * b - a * b**3, a * b**2 - a**2 * b):
        assert abs(flow.mean()) < 4 * flow.std() / math.sqrt(chains)


@pytest.mark.parametrize("num_temps", [1, 2, 5, 20])
def test_both_directions_of_hmc_are_of_one_path_measure(num_temps):
    torch.manual_seed(0)
    x, chains = 0.7, 100_000
    # Too large for some temperatures and too small for others: chains mix poorly.
    steps = [
        torch.tensor([s]).double() for s in torch.linspace(0.9, 0.1, num_temps)[1:]
    ]
    forward = log_weights(x, chains, num_temps, False, steps) - log_p(x)
    reverse = log_weights(x, chains, num_temps, True, steps) + log_p(x)
    there, back = forward.exp().clamp(max=1), reverse.exp().clamp(max=1)
    error = math.sqrt((there.var() + back.var()).item() / chains)
    assert error < 0.003
    assert abs((there.mean() - back.mean()).item()) < 4 * error


@pytest.mark.parametrize("num_temps", [1, 3, 8])
def test_both_directions_of_bidirectional_are_of_one_path_measure(num_temps):
    """Step sizes as they are found, on the pair whose mean ratio is below one."""
    truth = linear_gaussian()
    bounds = zoo.bidirectional(truth.vae(), 4000, 1, num_temps, 3)
    log_p = truth.marginal.log_prob(bounds.x)
    there = (bounds.lower - log_p).exp().clamp(max=1)
    back = (log_p - bounds.upper).exp().clamp(max=1)
    error = (there - back).std().item() / math.sqrt(4000)
    assert error < 0.012
    assert abs((there - back).mean().item()) < 4 * error
