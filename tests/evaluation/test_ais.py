"""Annealed importance sampling against closed forms, and its bound on its own error.

Tolerances are multiples of standard errors, as in `test_estimators`.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import linear_gaussian, small
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.hmc import State, temperatures, transition

SHORT = {"num_temps": 20, "num_leapfrog": 3}
BRIEF = {"num_temps": 4, "num_leapfrog": 2}  # for what does not ask how good it is


@pytest.fixture
def truth():
    return linear_gaussian()


def test_agrees_with_the_closed_form_within_its_errors(truth):
    x = truth.marginal.sample((200,))
    ais = zoo.annealed_log_likelihood(truth.vae(), x, num_temps=40, num_leapfrog=4)
    difference = ais.log_prob - truth.marginal.log_prob(x)
    bias = -ais.std_error.square().mean().item() / 2  # of the logarithm, to 2nd order
    error = ais.std_error.square().mean().sqrt().item() / math.sqrt(200)
    assert error < 0.02
    assert abs(difference.mean().item() - bias) < 4 * error
    ratio = (difference / ais.std_error).square().mean().sqrt().item()
    assert 0.8 < ratio < 1.4  # 16 chains tell their own error to some 20 %
    assert 0.5 < ais.acceptance.mean() < 0.8  # what the step sizes aim at
    assert ((1 <= ais.ess) & (ais.ess <= 16)).all()


def test_the_estimate_of_p_itself_is_unbiased_with_few_temperatures(truth):
    x = truth.marginal.sample((4,)).repeat(400, 1)
    ais = zoo.annealed_log_likelihood(truth.vae(), x, 8, num_temps=5, num_leapfrog=3)
    ratio = (ais.log_prob - truth.marginal.log_prob(x)).exp()
    error = ratio.std().item() / math.sqrt(len(ratio))
    assert error < 0.05
    assert (
        ais.log_prob.mean() < truth.marginal.log_prob(x).mean() - 0.1
    )  # the log is not
    assert abs(ratio.mean().item() - 1) < 4 * error


def test_bidirectional_brackets_the_truth_and_the_gap_shrinks(truth):
    gaps = []
    for num_temps in (5, 40):
        bounds = zoo.bidirectional(truth.vae(), 80, 8, num_temps, 5)
        log_p = truth.marginal.log_prob(bounds.x)
        for side, sign in ((bounds.lower, 1), (bounds.upper, -1)):
            excess = sign * (side - log_p)  # below zero in expectation
            error = excess.std().item() / math.sqrt(80)
            assert excess.mean().item() < 3 * error
        torch.testing.assert_close(bounds.gap, bounds.upper - bounds.lower)
        gaps.append(bounds.gap.mean().item())
    few, many = gaps
    assert few > 0.3
    assert abs(many) < 0.25 * few


def test_simulated_data_are_the_models(truth):
    x = zoo.bidirectional(truth.vae(), 3000, 1, num_temps=1).x
    expected = truth.marginal.covariance_matrix
    sampling = (
        expected.square() + expected.diagonal()[:, None] * expected.diagonal()
    ).div(3000)
    assert ((x.T.cov() - expected).abs() < 5 * sampling.sqrt()).all()


def test_one_temperature_is_importance_sampling_from_the_prior(truth):
    """Without transitions the weights are p(x|z) of the prior's draws."""
    x = truth.marginal.sample((3,))
    ais = zoo.annealed_log_likelihood(truth.vae(), x, 20_000, num_temps=1)
    z = (ais.log_prob - truth.marginal.log_prob(x)) / ais.std_error
    assert z.abs().max() < 5
    assert ais.acceptance.isnan().all()  # of none


def test_is_right_where_the_guide_is_not(truth):
    """A guide that is far too narrow: IS is nats too low, and AIS does not ask it."""
    x = truth.marginal.sample((30,))
    log_p = truth.marginal.log_prob(x).mean().item()
    vae = truth.vae(truth.gaussian_guide(widen=0.2, shift=0.5))
    importance = zoo.log_likelihood(vae, x, 1000).log_prob.mean().item()
    ais = zoo.annealed_log_likelihood(vae, x, num_temps=60, num_leapfrog=5)
    error = ais.std_error.square().mean().sqrt().item() / math.sqrt(30)
    assert importance < log_p - 1
    assert abs(ais.log_prob.mean().item() - log_p) < 4 * error < 0.2


def test_any_prior_is_asked_for_its_density():
    """z ~ N(2, 0.1^2), x ~ N(z, 1): another scale and place than the zoo's prior."""

    class Narrow(PyroModule):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(2.0, 0.1).expand([1]).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.tensor([[0.0], [3.0]], dtype=torch.double)
    ais = zoo.annealed_log_likelihood((Narrow(), nn.Identity()), x, **SHORT)
    expected = dist.Normal(2.0, math.sqrt(1.01)).log_prob(x)[:, 0]
    assert ((ais.log_prob - expected).abs() < 5 * ais.std_error).all()
    assert ais.std_error.max() < 0.1
    assert ais.acceptance.min() > 0.4


def test_pyros_scales_leave_log_p_alone(truth):
    x = truth.marginal.sample((4,))

    class Scaled(PyroModule):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            with poutine.scale(scale=0.1):
                self.inner(x)

    found = [
        zoo.annealed_log_likelihood((model, nn.Identity()), x, **BRIEF).log_prob
        for model in (truth.model(), Scaled(truth.model()))
    ]
    assert torch.equal(*found)


def test_a_transition_leaves_its_density_as_it_is():
    """From exact draws of p(z) p(x|z)^beta, here N(1, 1/(1 + beta)) of z, to others."""
    beta, n = 0.5, 40_000

    def score(z):
        return State(
            z,
            -0.5 * (z - 3).square().sum(-1),
            -0.5 * z.square().sum(-1),
            3 - z,
            -z,
        )

    z = 1 + torch.randn(n, 1, 1, dtype=torch.double) / math.sqrt(1 + beta)
    step = torch.ones(1, dtype=torch.double)  # so long that it is often refused
    new, probability = transition(score, score(z), beta, step, 3)
    assert 0.5 < probability.mean() < 0.95
    assert abs(new.z.mean() - 1) < 4 * new.z.std() / math.sqrt(n)
    expected = 1 / (1 + beta)
    assert abs(new.z.var() - expected) < 4 * expected * math.sqrt(2 / n)
    assert (new.z != z).double().mean() > 0.5


def test_diverged_trajectories_are_refused():
    def score(z):
        return State(z, -z.pow(4).sum(-1), -z.pow(2).sum(-1), -4 * z**3, -2 * z)

    z = torch.full((5, 2, 1), 3.0)
    new, probability = transition(score, score(z), 1.0, torch.full((2,), 1e10), 10)
    assert (probability == 0).all()
    assert torch.equal(new.z, z)
    assert all(part.isfinite().all() for part in new)


def test_temperatures_rise_from_zero_to_one():
    betas = temperatures(100)
    assert (betas[0], betas[-1], len(betas)) == (0, 1, 101)
    steps = betas.diff()
    assert (steps > 0).all()
    assert steps[0] < steps[50] / 5
    torch.testing.assert_close(steps, steps.flip(0))


@pytest.mark.parametrize(
    "measure",
    [
        lambda vae, x, seed: zoo.annealed_log_likelihood(vae, x, seed=seed, **BRIEF),
        lambda vae, x, seed: zoo.bidirectional(vae, 3, seed=seed, **BRIEF),
    ],
)
def test_seeds_reproduce_and_leave_the_caller_alone(truth, measure):
    vae, x = truth.vae(), truth.marginal.sample((3,))
    vae.train()
    vae.model.decoder.eval()
    before = torch.get_rng_state()
    parts = [vars(measure(vae, x, seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first = next(iter(parts[0]))
    assert torch.equal(parts[0][first], parts[1][first])
    assert not torch.equal(parts[0][first], parts[2][first])
    measure(vae, x, None)
    assert not torch.equal(torch.get_rng_state(), before)
    assert vae.training
    assert not vae.model.decoder.training
    assert all(p.grad is None for p in vae.parameters())
    assert all(part.dtype == torch.double for part in (parts[0][first],))


def test_every_chunk_is_kept(truth):
    x = truth.marginal.sample((7,))
    short = {"num_temps": 10, "num_leapfrog": 3, "chunk_rows": 48}  # three data
    ais = zoo.annealed_log_likelihood(truth.vae(), x, **short)
    z = (ais.log_prob - truth.marginal.log_prob(x)) / ais.std_error
    assert len(z) == 7
    assert z.abs().max() < 5
    bounds = zoo.bidirectional(truth.vae(), 5, **BRIEF, chunk_rows=48)
    assert len(bounds.x) == len(bounds.gap) == len(bounds.acceptance) == 5
    assert ((bounds.acceptance > 0) & (bounds.acceptance <= 1)).all()


def test_a_trained_kind_of_model_in_single_precision():
    vae = small("iaf")
    x = torch.rand(4, 2, 3).bernoulli()
    ais = zoo.annealed_log_likelihood(vae, x, **SHORT)
    exact = zoo.log_likelihood(vae, x, 20_000)
    error = (ais.std_error.square() + exact.std_error.square()).sqrt()
    assert ais.log_prob.dtype == torch.double
    assert ((ais.log_prob - exact.log_prob).abs() < 5 * error).all()


class Sites(PyroModule):
    """A model that draws a site of a distribution, in the plate or outside."""

    def __init__(self, fn, inside=True):
        super().__init__()
        self.fn, self.inside = fn, inside

    def forward(self, x):
        if not self.inside:
            pyro.sample("gate", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            if self.fn is not None:
                pyro.sample("z", self.fn)
            pyro.sample("x", dist.Normal(torch.zeros(2), 1).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("fn", "inside", "words"),
    [
        (dist.Bernoulli(torch.ones(2) / 2).to_event(1), True, ["'z'", "discrete"]),
        (dist.Normal(0.0, 1.0), True, ["'z'", "event shape ()"]),
        (dist.Beta(torch.ones(2), 1.0).to_event(1), True, ["'z'", "Interval"]),
        (dist.Normal(torch.zeros(2), 1).to_event(1), False, ["'gate'", "outside"]),
        (None, True, ["none"]),
    ],
)
def test_other_latents_are_refused_by_name(fn, inside, words):
    pair = Sites(fn, inside), nn.Identity()
    with pytest.raises(UserError, match="needs a model whose only latent") as error:
        zoo.annealed_log_likelihood(pair, torch.zeros(2, 2))
    for word in words:
        assert word in str(error.value)


def test_hierarchies_are_refused_by_name():
    vae = small("gated_dag")
    for measure in (
        lambda: zoo.annealed_log_likelihood(vae, torch.zeros(2, 2, 3)),
        lambda: zoo.bidirectional(vae, 2),
    ):
        with pytest.raises(UserError, match="'z_1'"):
            measure()


def test_bidirectional_wants_one_observed_site(truth):
    class Twice(PyroModule):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1).to_event(1))
                pyro.deterministic("twice", 2 * z)
                pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)
                if self.more:
                    pyro.sample("y", dist.Normal(z, 1).to_event(1), obs=x)

    model, guide = Twice(), nn.Linear(1, 1)
    model.more = False
    vae = zoo.VAE(model, guide, (2,))
    assert zoo.bidirectional(vae, 2, **BRIEF).lower.shape == (2,)
    model.more = True
    with pytest.raises(
        UserError, match=r"observes one site 'x', got \['x', 'y', 'z'\]"
    ):
        zoo.bidirectional(vae, 2, **SHORT)


def test_bidirectional_wants_a_vae(truth):
    vae = truth.vae()
    with pytest.raises(UserError, match="expected a VAE, got tuple"):
        zoo.bidirectional((vae.model, vae.guide), 2)


@pytest.mark.parametrize("name", ["num_chains", "num_temps", "num_leapfrog"])
def test_refuses_less_than_one(truth, name):
    x = truth.marginal.sample((2,))
    with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
        zoo.annealed_log_likelihood(truth.vae(), x, **{name: 0})
    with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
        zoo.bidirectional(truth.vae(), 2, **{name: 0})
    with pytest.raises(UserError, match="num_data must be at least 1, got 0"):
        zoo.bidirectional(truth.vae(), 0)
