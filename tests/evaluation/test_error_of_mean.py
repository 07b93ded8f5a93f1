"""The error of a mean over data that share a draw, against closed forms.

Log-weights a g_k + b e_ik - (a^2 + b^2)/2, g shared by all data: log-normal, of mean one.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, small
from pyro.nn import PyroModule

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation.evaluate import draw_log_weights
from pyro_vae_zoo.evaluation.importance import error_of_mean, summarise
from pyro_vae_zoo.evaluation.particle_curve import curve_of


def replicates(a, b, n, draws, count):
    """Means of log p-hat, whose truth is 0, and the errors stated for them."""
    torch.manual_seed(0)
    means, errors = [], []
    for _ in range(count):
        g = torch.randn(1, draws, dtype=torch.double)
        e = torch.randn(n, draws, dtype=torch.double)
        rows = a * g + b * e - (a**2 + b**2) / 2
        means.append((rows.logsumexp(1) - math.log(draws)).mean())
        errors.append(error_of_mean(rows, [slice(0, n)]))
    return torch.stack(means), torch.tensor(errors, dtype=torch.double)


@pytest.mark.parametrize("n", [1, 20])
def test_is_the_covariances_closed_form_with_many_effective_draws(n):
    a, b, draws, count = 0.4, 0.4, 1000, 2000
    means, errors = replicates(a, b, n, draws, count)
    alone, shared = math.expm1(a**2 + b**2), math.expm1(a**2)
    expected = math.sqrt((alone + (n - 1) * shared) / (n * draws))
    assert errors.square().mean().sqrt().item() == pytest.approx(expected, rel=0.02)
    assert abs(means.std().item() / expected - 1) < 4 / math.sqrt(2 * count)


TAILS = {1.0: (0.970, 0.0), 1.5: (0.886, 0.0006), 2.0: (0.774, 0.0035)}


@pytest.mark.parametrize("spread", TAILS)
def test_is_low_where_weights_have_long_tails(spread):
    """Of independent draws of a known law: the share of the true error that is stated."""
    torch.manual_seed(0)
    rows = spread * torch.randn(50_000, 100, dtype=torch.double) - spread**2 / 2
    log_prob = rows.logsumexp(1) - math.log(100)
    stated = torch.stack([summarise(part).std_error for part in rows.split(25_000)])
    stated = stated.flatten()
    share, six_low = TAILS[spread]
    ratio = (stated.square().mean().sqrt() / log_prob.std()).item()
    assert ratio == pytest.approx(share, abs=0.01)
    found = (log_prob < -6 * stated).double().mean().item()
    assert abs(found - six_low) < 4 * math.sqrt((six_low + 1e-4) / 50_000)


@pytest.mark.parametrize("spread", [1.0, 1.5])
def test_is_no_lower_for_a_draw_that_is_shared(spread):
    """All data weigh the shared draw alike: as one datum, whose share is known."""
    count = 10_000
    means, errors = replicates(spread, 0.0, 2, 100, count)
    ratio = errors.square().mean().sqrt().item() / means.std().item()
    assert ratio == pytest.approx(TAILS[spread][0], abs=4 / math.sqrt(2 * count) + 0.01)


@pytest.mark.slow
def test_is_as_low_with_learned_gates_as_without_what_they_share():
    """The same weights, their draws shuffled from datum to datum, have the same share."""
    torch.manual_seed(0)
    vae, x = small("gated_dag"), torch.rand(20, 2, 3).bernoulli()
    perturb(vae)
    rows = [draw_log_weights(vae, x, 1000, seed=seed)[0] for seed in range(200)]
    shared = torch.stack(rows).unflatten(2, (10, 100)).transpose(1, 2).flatten(0, 1)
    apart = torch.stack([w[torch.randperm(len(w))] for w in shared.unbind(1)], 1)
    ratios = []
    for weights, groups in (
        (shared, [slice(0, 20)]),
        (apart, [slice(i, i + 1) for i in range(20)]),
    ):
        means = (weights.logsumexp(2) - math.log(100)).mean(1)
        errors = torch.tensor([error_of_mean(w, groups) for w in weights])
        ratios.append((errors.square().mean().sqrt() / means.std()).item())
    assert ratios[0] < 0.7  # k-hat is 0.87 here
    error = ratios[0] * math.sqrt(2 / (2 * len(shared)))
    assert abs(ratios[0] - ratios[1]) < 4 * error


class Shifted(PyroModule):
    """x ~ N(z + 0.7 g, 1) of one g for all data, and q(z|x, g), the exact posterior."""

    def __init__(self, is_guide):
        super().__init__()
        self.is_guide = is_guide

    def forward(self, x):
        g = pyro.sample("g", dist.Normal(x.new_zeros(()), 1))
        g = 0.7 * (g.unsqueeze(-1) if g.dim() else g)
        with pyro.plate("data", len(x), dim=-1):
            if self.is_guide:
                q = dist.Normal((x - g) / 2, 0.5**0.5)
                return pyro.sample("z", q.to_event(1))
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z + g, 1).to_event(1), obs=x)


def test_an_evaluation_in_parts_states_the_error_that_it_makes():
    """Of known p(x), with rows and draws in several chunks."""
    torch.manual_seed(0)
    x, count = (torch.randn(12, 1) * 2.49**0.5).abs(), 100  # g moves all alike
    pair = Shifted(False), Shifted(True)
    how = {"chunk_rows": 6 * 150, "compile": False}
    found = [zoo.evaluate(pair, x, 300, seed=seed, **how) for seed in range(count)]
    estimates = torch.tensor([ev.log_likelihood for ev in found])
    errors = torch.tensor([ev.log_likelihood_mc_error for ev in found])
    stated = errors.square().mean().sqrt().item()
    assert abs(stated / estimates.std().item() - 1) < 4 / math.sqrt(2 * count)
    exact = dist.Normal(0.0, 2.49**0.5).log_prob(x).mean().item()
    assert abs(estimates.mean().item() - exact) < 4 * stated / math.sqrt(count) + 1e-3
    alone = [zoo.log_likelihood(pair, x, 300, seed=seed, **how) for seed in range(3)]
    for ll, ev in zip(
        alone, found, strict=False
    ):  # what is left out without covariance
        independent = ll.std_error.square().sum().sqrt().item() / 12
        assert ev.log_likelihood_mc_error > 1.2 * independent
        assert ll.mc_error == pytest.approx(ev.log_likelihood_mc_error)


def test_a_curve_states_the_errors_that_it_makes():
    """For each K, with rows in several chunks, whose data share draws."""
    torch.manual_seed(0)
    x, count = (torch.randn(12, 1) * 2.49**0.5).abs(), 100
    pair = Shifted(False), Shifted(True)
    how = {"chunk_rows": 6 * 100, "compile": False}
    drawn = [draw_log_weights(pair, x, 100, seed=seed, **how) for seed in range(count)]
    assert all(groups == [slice(0, 6), slice(6, 12)] for _, groups in drawn)
    curves = [curve_of(*weights_and_groups) for weights_and_groups in drawn]
    for k in (1, 10, 100):
        i = curves[0].num_particles.index(k)
        estimates = torch.tensor([curve.log_prob[i] for curve in curves])
        errors = torch.tensor([curve.mc_error[i] for curve in curves])
        stated = errors.square().mean().sqrt().item()
        assert abs(stated / estimates.std().item() - 1) < 4 / math.sqrt(2 * count)
    ll = zoo.log_likelihood(pair, x, 100, seed=0, **how)
    assert curves[0].mc_error[-1] == ll.mc_error
