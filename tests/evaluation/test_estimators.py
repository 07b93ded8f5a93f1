"""The estimators on a pair whose log p(x) and posterior are known in closed form.

Tolerances are multiples of standard errors: 4 for a single comparison, 5 where many
are made, so that a right estimator fails at none of the seeds that one is likely to
try and a wrong one does.
"""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import (
    FAMILIES,
    MIXTURES,
    linear_gaussian,
    one_latent,
    others,
    perturb,
    quick,
    seeded,
    small,
)
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.distributions.kl import kl_divergence

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.streamed.randomness import permutation
from pyro_vae_zoo.evaluation.evaluate import weighted_bound
from pyro_vae_zoo.evaluation.importance import summary_of_khat
from pyro_vae_zoo.evaluation.totals import ActiveUnits
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.models.flow_guides import FLOWS
from pyro_vae_zoo.models.standard import AmortizedGuide, DiagonalGaussian
from pyro_vae_zoo.nn.likelihoods import GaussianLikelihood

# ----------------------------------------------------------- importance sampling


@pytest.fixture
def truth():
    return linear_gaussian()


@pytest.fixture
def wide(truth):
    """The true model with a guide wider than the posterior and off its centre.

    Since it is wider, its weights are bounded: the central limit theorem holds and
    the reported errors must be right.
    """
    return truth.vae(truth.gaussian_guide(widen=1.3, shift=0.1))


@torch.no_grad()
def log_weights(vae, x, num_particles):
    return bound_terms(vae.model, vae.guide, x, num_particles).log_weights


def test_log_likelihood_is_right_within_its_error_bars(truth, wide):
    x = truth.marginal.sample((400,))
    ll = zoo.log_likelihood(wide, x, num_particles=1000)
    z = (ll.log_prob - truth.marginal.log_prob(x)) / ll.std_error
    # z is standard normal: its mean has error 1/20, its variance sqrt(2/400) = 0.07.
    # The logarithm's bias, se/2 in these units, is below 0.02.
    assert ll.std_error.max() < 0.04
    assert abs(z.mean()) < 4 / 20 + 0.02
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / 400)
    assert z.abs().max() < 5
    assert ll.khat.max() < 0.7


def test_standard_errors_are_those_of_repeated_estimates(truth, wide):
    x = truth.marginal.sample((4,))
    ll = zoo.log_likelihood(wide, x.repeat(200, 1), 200)
    estimates = ll.log_prob.reshape(200, 4)
    reported = ll.std_error.reshape(200, 4).square().mean(0).sqrt()
    # A standard deviation from 200 values has a relative error of 1/sqrt(400) = 0.05.
    assert (estimates.std(0) / reported - 1).abs().max() < 4 * 0.05


def test_elbo_is_log_likelihood_less_the_divergence(truth, wide):
    x = truth.marginal.sample((50,))
    result = zoo.evaluate(wide, x, num_particles=2000)
    q = wide.guide.posterior(x)
    gap = kl_divergence(q, truth.posterior(x)).mean()
    expected = (truth.marginal.log_prob(x).mean() - gap).item()
    error = log_weights(wide, x, 2000).std(0).mean() / math.sqrt(2000 * 50)
    assert abs(result.elbo - expected) < 4 * error
    assert gap > 20 * error  # else the two could not be told apart
    assert result.elbo < result.log_likelihood


def test_bounds_rise_with_the_number_of_particles(truth, wide):
    x = truth.marginal.sample((20,))
    bounds = []
    for k in (1, 4, 16, 64):
        lw = log_weights(wide, x, 500 * k).reshape(500, k, len(x))
        bounds.append((lw.logsumexp(1) - math.log(k)).mean(1))  # 500 of IS(k)
    for fewer, more in zip(bounds, bounds[1:], strict=False):
        error = math.sqrt((fewer.var() + more.var()) / 500)
        assert more.mean() - fewer.mean() > -4 * error
    error = math.sqrt((bounds[0].var() + bounds[-1].var()) / 500)
    assert bounds[-1].mean() - bounds[0].mean() > 10 * error
    assert bounds[-1].mean() < truth.marginal.log_prob(x).mean() + 4 * error


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_exact_posterior_has_no_variance(latent_dim):
    truth = linear_gaussian(latent_dim)
    x = truth.marginal.sample((7,))
    ll = zoo.log_likelihood(truth.vae(), x, num_particles=100)
    torch.testing.assert_close(ll.log_prob, truth.marginal.log_prob(x))
    assert ll.std_error.max() < 1e-6
    assert (ll.ess - 100).abs().max() < 1e-6
    assert ll.khat.max() < 0.1


@pytest.mark.parametrize("chunk_rows", [None, 1, 7, 300, 301, 2999, 10**6])
def test_every_chunk_is_kept(truth, chunk_rows):
    # Weights of the exact posterior are constant: a column that is not filled, or
    # filled with another datum's, shows without any Monte-Carlo error.
    x = truth.marginal.sample((11,))
    ll = zoo.log_likelihood(truth.vae(), x, 301, chunk_rows=chunk_rows)
    torch.testing.assert_close(ll.log_prob, truth.marginal.log_prob(x))


def test_chunks_change_the_draws_and_nothing_else(truth, wide):
    x = truth.marginal.sample((11,))
    whole = zoo.evaluate(wide, x, 600)
    first = zoo.log_likelihood(wide, x, 600)
    for chunk_rows in (64, 1000):
        part = zoo.log_likelihood(wide, x, 600, chunk_rows=chunk_rows)
        error = (part.std_error.square() + first.std_error.square()).sqrt()
        assert ((part.log_prob - first.log_prob) / error).abs().max() < 5
        result = zoo.evaluate(wide, x, 600, chunk_rows=chunk_rows)
        error = 2 * log_weights(wide, x, 600).std(0).mean() / math.sqrt(600 * 11)
        assert abs(result.elbo - whole.elbo) < 4 * error
        assert result.elbo == pytest.approx(result.reconstruction - result.kl)
        assert result.active_units == whole.active_units


def test_estimates_are_per_datum(truth):
    wide = truth.vae(truth.gaussian_guide(widen=2.0, shift=0.1))
    x = truth.marginal.sample((40,))
    together = zoo.log_likelihood(wide, x, num_particles=2000)
    alone = [zoo.log_likelihood(wide, datum[None], 2000, seed=1) for datum in x]
    log_prob = torch.cat([ll.log_prob for ll in alone])
    error = (
        together.std_error**2 + torch.cat([ll.std_error for ll in alone]) ** 2
    ).sqrt()
    assert ((together.log_prob - log_prob) / error).abs().max() < 5
    # A log-sum-exp over sums of the batch is another, far lower number.
    shared = log_weights(wide, x, 2000).sum(1).logsumexp(0) - math.log(2000)
    assert shared < together.log_prob.sum() - 20 * error.square().sum().sqrt()


@pytest.mark.parametrize("num_particles", [2, 10])
def test_agrees_with_pyros_renyi_bound(truth, wide, num_particles):
    x = truth.marginal.sample((3,))
    renyi = RenyiELBO(
        0, num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True
    )
    theirs = torch.tensor([-renyi.loss(wide.model, wide.guide, x) for _ in range(400)])
    lw = log_weights(wide, x, 4000 * num_particles).reshape(4000, num_particles, 3)
    ours = (lw.logsumexp(1) - math.log(num_particles)).sum(1)
    reported = zoo.log_likelihood(wide, x.repeat(4000, 1), num_particles).log_prob
    reported = reported.reshape(4000, 3).sum(1)
    for mine in (ours, reported):
        error = math.sqrt(theirs.var() / 400 + mine.var() / 4000)
        assert abs(theirs.mean() - mine.mean()) < 4 * error
    # The error is small enough to tell this bound from the ELBO.
    assert ours.mean() - lw.mean() * 3 > 10 * error


def test_accepts_a_model_and_a_guide(truth, wide):
    x = truth.marginal.sample((5,))
    pair = zoo.log_likelihood((wide.model, wide.guide), x, 50)
    assert torch.equal(pair.log_prob, zoo.log_likelihood(wide, x, 50).log_prob)
    assert zoo.evaluate((wide.model, wide.guide), x, 50) == zoo.evaluate(wide, x, 50)
    unrooted = truth.model(), truth.gaussian_guide()  # has never been in a VAE
    ll = zoo.log_likelihood(unrooted, x, 50)
    torch.testing.assert_close(ll.log_prob, truth.marginal.log_prob(x))


@pytest.mark.parametrize("buffers", [{}, {"seen": torch.tensor(3)}], ids=len)
def test_accepts_a_pair_without_parameters(buffers):
    class Model(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    model = Model()
    for name, value in buffers.items():  # x is of no type that counts
        model.register_buffer(name, value)
    x = torch.randn(4)
    ll = zoo.log_likelihood((model, Guide()), x, 10)
    expected = dist.Normal(0.0, 2**0.5).log_prob(x).double()
    torch.testing.assert_close(ll.log_prob, expected, rtol=1e-5, atol=1e-5)


def test_accumulates_in_float64(wide):
    vae = wide.float()
    ll = zoo.log_likelihood(vae, torch.randn(3, 4), num_particles=30)
    for values in (ll.log_prob, ll.std_error, ll.ess, ll.khat):
        assert values.dtype == torch.double
        assert values.shape == (3,)
        assert values.device.type == "cpu"


@pytest.mark.parametrize("measure", [zoo.log_likelihood, zoo.evaluate])
def test_seeds_reproduce_and_leave_the_caller_alone(wide, measure):
    x = torch.randn(5, 4).double()

    def value(**options):
        result = measure(wide, x, 40, **options)
        return result.elbo if measure is zoo.evaluate else result.log_prob.sum().item()

    wide.train()
    wide.guide.encoder.eval()
    modes = [m.training for m in wide.modules()]
    state = torch.get_rng_state()
    assert value(seed=3) == value(seed=3)
    assert value(seed=3) != value(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in wide.modules()] == modes
    torch.manual_seed(9)
    drawn = value(seed=None)
    assert not torch.equal(torch.get_rng_state(), torch.manual_seed(9).get_state())
    assert value(seed=None) == drawn
    assert torch.is_grad_enabled()


def test_everything_is_restored_after_an_error(truth, wide):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    wide.guide.encoder = Broken()
    wide.train()
    x = torch.randn(2, 4).double()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        zoo.log_likelihood(wide, x, 10)
    assert wide.model.training
    assert wide.guide.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_an_error_in_the_summary_leaves_no_context_open(wide, monkeypatch):
    """Even while its traceback is held, as notebooks do."""

    def fail(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(ActiveUnits, "add", fail)
    with pytest.raises(RuntimeError, match="ours") as error:
        zoo.evaluate(wide, torch.randn(2, 4).double(), 10)
    assert torch.is_grad_enabled()
    assert error.tb is not None


def test_evaluates_in_eval_mode(truth):
    guide = truth.gaussian_guide()
    guide.encoder = nn.Dropout(0.5)
    x = truth.marginal.sample((6,))
    ll = zoo.log_likelihood(truth.vae(guide).train(), x, 20)
    torch.testing.assert_close(ll.log_prob, truth.marginal.log_prob(x))


@pytest.mark.parametrize("num_particles", [0, -1])
def test_refuses_no_particles(wide, num_particles):
    with pytest.raises(zoo.UserError, match="num_particles"):
        zoo.log_likelihood(wide, torch.randn(2, 4).double(), num_particles)


def test_one_particle_has_no_error_bar(wide):
    ll = zoo.log_likelihood(wide, torch.randn(2, 4).double(), 1)
    assert ll.std_error.isnan().all()
    assert ll.khat.isnan().all()
    assert torch.equal(ll.ess, torch.ones(2).double())


# ------------------------------------------------------------------ diagnostics


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_recovers_the_shape_of_a_pareto_tail(shape):
    # Quantiles of uniforms: the generalised Pareto law with scale one.
    u = torch.rand(300, 4000).double()
    weights = ((1 - u) ** -shape - 1) / shape
    khat = zoo.pareto_khat(weights.log())
    num_tail = math.ceil(3 * math.sqrt(4000))
    raw = (khat * (num_tail + 10) - 5) / num_tail  # without the prior
    # The law's tail is of the same law; asymptotically sd = (1 + k)/sqrt(tail), and
    # the estimator's bias is of order 1/tail.
    error = (1 + shape) / math.sqrt(num_tail)
    assert abs(raw.mean() - shape) < 4 * error / math.sqrt(300) + 2 / num_tail
    assert abs(raw.std() / error - 1) < 0.25


@pytest.mark.parametrize("level", [0.3, 22.0, 700.0])
def test_khat_takes_rounding_for_what_it_is(level):
    """The exact posterior as guide: log p - log q is the same for all draws, nearly."""
    rounding = torch.finfo(torch.float).eps * max(level, 10)
    noise = rounding * torch.randn(50, 2000, dtype=torch.double)
    assert zoo.pareto_khat(noise - level).eq(0).all()
    assert zoo.pareto_khat(1e3 * noise - level).ne(0).all()


def test_khat_warns_of_a_guide_that_is_too_narrow(truth):
    x = truth.marginal.sample((20,))
    narrow = truth.vae(truth.gaussian_guide(widen=0.4))
    assert zoo.evaluate(narrow, x, 2000).khat_median > 0.7
    assert zoo.evaluate(truth.vae(), x, 2000).khat_above_07 == 0


# --------------------------------------------------------------------- evaluate


def test_kl_is_that_of_gaussians():
    vae = small("mean_field", latent_dim=3)
    perturb(vae)
    x = torch.rand(20, 2, 3).bernoulli()
    result = zoo.evaluate(vae, x, num_particles=2000)
    q = vae.guide.posterior(vae.guide.encoder(x))
    prior = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    expected = kl_divergence(q, prior.expand(q.batch_shape)).mean().item()
    terms = bound_terms(vae.model, vae.guide, x, 2000)
    error = terms.kl["z"].std(0).mean().item() / math.sqrt(2000 * 20)
    assert abs(result.kl - expected) < 4 * error
    assert expected > 20 * error
    assert result.kl_per_site == {"z": result.kl}
    assert result.elbo == pytest.approx(result.reconstruction - result.kl)
    bits = -result.log_likelihood / (6 * math.log(2))
    assert result.bits_per_dim == pytest.approx(bits)
    assert result.num_data == 20
    assert result.num_particles == 2000


def test_standard_errors_over_data(truth, wide):
    x = truth.marginal.sample((30,))
    result = zoo.evaluate(wide, x, 50)
    ll = zoo.log_likelihood(wide, x, 50)
    sd = ll.log_prob.std().item()
    assert result.log_likelihood == pytest.approx(ll.log_prob.mean().item())
    assert result.log_likelihood_std_error == pytest.approx(sd / math.sqrt(30))
    mc_error = ll.std_error.square().sum().sqrt().item() / 30
    assert result.log_likelihood_mc_error == pytest.approx(mc_error)
    assert result.ess == pytest.approx(ll.ess.mean().item())


@pytest.mark.parametrize("num_particles", [2, 3, 5, 100])
@pytest.mark.parametrize(("spread", "active"), [(0.08, 1), (0.12, 2)])
def test_active_units(num_particles, spread, active):
    # Posterior means with variance 1 and spread^2 over the data; the threshold is
    # 0.01. Scales of 1e-3 leave no Monte-Carlo error to speak of.
    guide = AmortizedGuide(nn.Flatten(), DiagonalGaussian(4, 3))
    with torch.no_grad():
        for p in guide.parameters():
            p.zero_()
        guide.posterior.linear.weight[0, 0] = 1.0
        guide.posterior.linear.weight[1, 1] = spread
        guide.posterior.linear.bias[3:] = -7.4
    x = torch.randn(200, 4)
    x = (x - x.mean(0)) / x.std(0)
    model = zoo.StandardModel(nn.Linear(3, 4), GaussianLikelihood((4,)), 3)
    vae = zoo.VAE(model, guide, (4,))
    result = zoo.evaluate(vae, x, num_particles)
    assert result.active_units == active
    assert result.active_units_per_site == {"z": (active, 3)}
    assert result.to_dict()["active_units"] == {"z": f"{active}/3"}


@pytest.mark.parametrize("chunk_rows", [None, 999])
def test_active_units_do_not_count_monte_carlo_noise(chunk_rows):
    # The guide ignores x: means over few draws vary, the posterior's does not.
    vae = small("mean_field")
    with torch.no_grad():
        for p in vae.guide.posterior.parameters():
            p.zero_()
    x = torch.rand(3000, 2, 3).bernoulli()
    result = zoo.evaluate(vae, x, num_particles=8, chunk_rows=chunk_rows)
    # Covariance of two means of 4 draws: sd 1/4 / sqrt(3000) = 0.0046, two sigma
    # below the threshold where a naive variance, 1/8, is far above it.
    assert result.active_units_per_site == {"z": (0, 2)}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("num_flows", [1, 3])
@torch.no_grad()
def test_density_of_a_flow_is_the_hand_formula(flow, num_flows):
    """FL8: log q0(z0) - sum of log-dets, these by autograd, at trained weights."""
    vae = small(flow, latent_dim=3, num_flows=num_flows).double()
    perturb(vae.guide)
    guide = vae.guide
    x = torch.rand(4, 2, 3).double().bernoulli()
    terms = bound_terms(vae.model, guide, x, 2)
    site = terms.guide_trace.nodes["z"]
    context = guide.encoder(x)
    z = site["value"]
    for step in reversed(site["fn"].transforms):
        z = step.inv(z)
    base = guide.posterior.base(context)

    def push(z0, h):
        for step in guide.posterior.flows:
            z0 = step.condition(h)(z0)
        return z0

    torch.testing.assert_close(push(z, context), site["value"])
    log_dets = torch.empty(2, 4).double()
    for k in range(2):
        for i in range(4):
            with torch.enable_grad():
                jacobian = torch.autograd.functional.jacobian(
                    lambda z0, i=i: push(z0, context[i]), z[k, i]
                )
            log_dets[k, i] = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(terms.log_guide["z"], base.log_prob(z) - log_dets)

    result = zoo.evaluate(vae, x, 2, seed=5)
    assert result.log_det == pytest.approx(
        result.initial_log_density - result.final_log_density
    )
    again = zoo.evaluate(vae, x, 2, seed=5)
    assert again == result


@pytest.mark.parametrize("flow", FLOWS)
def test_evaluation_splits_the_density_of_a_flow(flow):
    vae = small(flow, latent_dim=3, num_flows=2)
    perturb(vae.guide)
    x = torch.rand(6, 2, 3).bernoulli()
    result = zoo.evaluate(vae, x, 512, chunk_rows=1000)
    base = vae.guide.posterior.base(vae.guide.encoder(x))
    entropy = base.entropy().mean().item()
    # One draw of log q0 has variance 3/2: three squared normals over two. Densities
    # are taken from the first chunk of draws, at least 166 for each datum.
    error = math.sqrt(1.5 / (6 * 166))
    assert abs(result.initial_log_density + entropy) < 4 * error
    if flow == "householder":
        assert result.log_det == pytest.approx(0, abs=1e-5)
    else:
        assert abs(result.log_det) > 1e-3


def test_gaussians_have_no_log_det():
    for name in ("mean_field", "full_rank"):
        result = zoo.evaluate(small(name), torch.ones(3, 2, 3), 30)
        assert result.log_det == 0


# ------------------------------------------------------------------ shared sites


class GatedModel(PyroModule):
    """A z gated by one global bit, drawn outside the data plate."""

    def __init__(self, logit=0.3):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 4))
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, x):
        gate = pyro.sample("gate", dist.Bernoulli(logits=self.logit))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = gate.unsqueeze(-1) * z @ self.weight
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class GatedGuide(PyroModule):
    def __init__(self, model, logit=None):
        super().__init__()
        self.own = logit
        self.model = model
        self.net = nn.Linear(4, 2)

    def forward(self, x):
        logit = self.model.logit if self.own is None else torch.tensor(self.own)
        pyro.sample("gate", dist.Bernoulli(logits=logit))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def test_a_shared_global_site_cancels():
    model = GatedModel()
    vae = zoo.VAE(model, GatedGuide(model), (4,))
    x = torch.randn(6, 4)
    terms = bound_terms(vae.model, vae.guide, x, 5)
    assert list(terms.log_guide) == ["z"]
    gate = terms.guide_trace.nodes["gate"]["value"]
    assert gate.shape == (5, 1)  # one draw for each particle
    z = terms.guide_trace.nodes["z"]["value"]
    log_q = dist.Normal(vae.guide.net(x), 1.0).log_prob(z).sum(-1)
    log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    loc = gate.unsqueeze(-1) * z @ model.weight
    log_p = log_p + dist.Normal(loc, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(terms.log_weights, log_p - log_q)
    assert zoo.log_likelihood(vae, x, 30).log_prob.isfinite().all()


@pytest.mark.parametrize("how", [{}, {"chunk_rows": 20, "compile": True}], ids=len)
def test_a_global_site_that_does_not_cancel_is_refused(how):
    model = GatedModel()
    vae = zoo.VAE(model, GatedGuide(model, logit=-1.0), (4,))
    x = torch.randn(6, 4)
    for measure in (zoo.log_likelihood, zoo.evaluate):
        with pytest.raises(zoo.UserError, match="site 'gate' lies outside the plate"):
            measure(vae, x, 30, **how)


# ------------------------------------------------------------------ AnnealedELBO


class TwoSites(PyroModule):
    """z_1 -> z_2 -> x, and its guide, for what is done for each latent site."""

    def __init__(self, observed):
        super().__init__()
        self.observed = observed
        self.first, self.second = nn.Linear(4, 2), nn.Linear(2, 3)
        self.decoder = nn.Linear(3, 4)
        if observed:
            del self.first
        else:
            del self.decoder

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            loc = x.new_zeros(len(x), 2) if self.observed else self.first(x)
            z_1 = pyro.sample("z_1", dist.Normal(loc, 1.0).to_event(1))
            loc = self.second(z_1)
            scale = 1.0 if self.observed else 0.1
            z_2 = pyro.sample("z_2", dist.Normal(loc, scale).to_event(1))
            if self.observed:
                loc = self.decoder(z_2)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


@pytest.fixture
def chain():
    return zoo.VAE(TwoSites(True), TwoSites(False), (4,)).double()


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("name", quick(others(), *FAMILIES))
def test_annealed_elbo_is_trace_elbo_by_default(name, num_particles):
    vae = small(name).double()
    x = torch.rand(5, 2, 3).double().bernoulli()
    ours = zoo.AnnealedELBO(num_particles)
    theirs = Trace_ELBO(num_particles, max_plate_nesting=1, vectorize_particles=True)
    value, gradients = seeded(ours.differentiable_loss, vae, x)
    expected, expected_gradients = seeded(theirs.differentiable_loss, vae, x)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, expected_gradients)


class Handled(PyroModule):
    """A model some of whose sites are scaled, masked, or a factor."""

    def __init__(self, inner, handler):
        super().__init__()
        self.inner, self.handler = inner, handler

    def forward(self, x):
        with self.handler():
            return self.inner(x)


HANDLERS = {
    "scale": lambda: pyro.poutine.scale(scale=0.5),
    "mask": lambda: pyro.poutine.mask(mask=torch.tensor([True, False] * 3)),
}


@pytest.mark.parametrize("analytic_kl", [False, True])
@pytest.mark.parametrize("sides", ["model", "both"])
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_pyros_scales_and_masks_count(handler, sides, analytic_kl):
    """As they do in `Trace_ELBO`, and in its analytic form."""
    vae, x = small("mean_field").double(), torch.rand(6, 2, 3).double().bernoulli()
    model = Handled(vae.model, handler)
    guide = Handled(vae.guide, handler) if sides == "both" else vae.guide
    ours = zoo.AnnealedELBO(analytic_kl=analytic_kl)
    stock = TraceMeanField_ELBO if analytic_kl and sides == "both" else Trace_ELBO
    values = []
    for loss in (ours, stock(), zoo.AnnealedELBO()):
        torch.manual_seed(7)
        values.append(loss.loss(model, guide, x))
    assert values[0] == pytest.approx(values[1])
    plain = zoo.AnnealedELBO().loss(vae.model, vae.guide, x)
    assert abs(plain - values[2]) > 0.1


@pytest.mark.parametrize("scale", [0.1, 4.0, torch.full((30,), 0.3)])
def test_a_scaled_objective_leaves_log_p_alone(truth, scale):
    """As of a beta-VAE: the guide is trained on it, and evaluated without it."""
    vae, x = truth.vae(), truth.marginal.sample((30,))
    model, guide = (
        Handled(side, lambda: pyro.poutine.scale(scale=scale))
        for side in (vae.model, vae.guide)
    )
    ll = zoo.log_likelihood((model, guide), x, 20)
    torch.testing.assert_close(ll.log_prob, truth.marginal.log_prob(x))
    for sides in ((model, guide), (model, vae.guide)):
        loss = zoo.AnnealedELBO(analytic_kl=True).loss(*sides, x)
        assert math.isfinite(loss)


CASES = {
    "kl_weight": {"kl_weight": 0.3},
    "kl_weight_iwae": {"kl_weight": 0.3, "bound": "iwae"},
    "free_bits": {"free_bits": 1.0},
    "free_bits_slack": {"free_bits": 1e-3},
    "free_bits_and_weight": {"free_bits": 1.0, "kl_weight": 0.5},
    "joint_weight": {"joint_weight": 0.2},
    "joint_weight_iwae": {"joint_weight": 0.2, "bound": "iwae"},
    "iwae": {"bound": "iwae"},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_annealed_elbo_is_its_formula(chain, options):
    x = torch.randn(5, 4).double()
    loss = zoo.AnnealedELBO(3, **options)
    beta = options.get("kl_weight", 1.0)
    joint = options.get("joint_weight", 1.0)
    floor = options.get("free_bits", 0.0)

    def expected(model, guide, x):
        terms = bound_terms(model, guide, x, 3)
        kl = terms.kl
        if floor:
            # lambda * batch <= sum over the batch: one clamp for each site.
            total = [torch.clamp(v.sum() / 15, min=floor) for v in kl.values()]
            assert len(total) == 2
            return -terms.log_likelihood.sum() / 3 + 5 * beta * sum(total)
        prior = sum(terms.log_prior.values())
        posterior = sum(terms.log_guide.values())
        weights = joint * (terms.log_likelihood + beta * prior) - beta * posterior
        if options.get("bound") == "iwae":
            return -sum(weights[:, i].exp().mean().log() for i in range(5))
        return -weights.sum() / 3

    value, gradients = seeded(loss.differentiable_loss, chain, x)
    hand, hand_gradients = seeded(expected, chain, x)
    torch.testing.assert_close(value, hand)
    torch.testing.assert_close(gradients, hand_gradients)


def test_free_bits_act_on_each_site_by_its_batch_mean(chain):
    """A floor between the two sites' divergences binds one of them only."""
    x = torch.randn(50, 4).double()
    torch.manual_seed(7)
    terms = bound_terms(chain.model, chain.guide, x, 3)
    low, high = sorted(v.mean().item() for v in terms.kl.values())
    floor = (low + high) / 2
    value, _ = seeded(
        zoo.AnnealedELBO(3, free_bits=floor).differentiable_loss, chain, x
    )
    expected = 50 * (floor + high) - terms.log_likelihood.mean(0).sum()
    torch.testing.assert_close(value, expected.detach())


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_loss_and_elbo_gives_the_plain_bound_too(chain, options):
    x = torch.randn(5, 4).double()
    torch.manual_seed(7)
    loss, elbo = zoo.AnnealedELBO(3, **options).loss_and_elbo(
        chain.model, chain.guide, x
    )
    bound = options.get("bound", "elbo")
    plain, _ = seeded(zoo.AnnealedELBO(3, bound=bound).differentiable_loss, chain, x)
    torch.testing.assert_close(elbo, -plain)
    assert not elbo.requires_grad
    assert loss.requires_grad


def test_options_that_exclude_each_other():
    for options in (
        {"bound": "renyi"},
        {"bound": "iwae", "free_bits": 1.0},
        {"joint_weight": 0.5, "free_bits": 1.0},
    ):
        with pytest.raises(zoo.UserError):
            zoo.AnnealedELBO(**options)


def test_annealing_needs_reparametrisation():
    model = GatedModel()
    vae = zoo.VAE(model, GatedGuide(model), (4,))
    with pytest.raises(zoo.UserError, match="site 'gate'"):
        zoo.AnnealedELBO().loss(vae.model, vae.guide, torch.randn(3, 4))


# ------------------------------------------------------- sticking the landing


def exact(name, truth):
    """A guide that can score any z, moved away from its start."""
    vae = small(name, (truth.event_dim,), likelihood="gaussian", hidden_dims=(4,))
    perturb(vae.guide, 0.3)
    return zoo.VAE(truth.model(), vae.guide.double(), (truth.event_dim,))


SCORES_ANY = (
    "affine_coupling", "full_rank", "householder", "mean_field", "planar", "radial",
    "spline_coupling",
)  # fmt: skip
SCORES_ITS_OWN = (
    "affine_autoregressive", "iaf", "neural_autoregressive", "sylvester_householder",
    "sylvester_orthogonal", "sylvester_triangular",
)  # fmt: skip

DRAWS_MORE = ("semi_amortized",)  # than z: each run has another density


def test_every_guide_is_known_to_score_any_z_or_not():
    known = (*SCORES_ANY, *SCORES_ITS_OWN, *MIXTURES, *DRAWS_MORE)
    assert sorted(known) == one_latent()


@pytest.mark.parametrize("name", SCORES_ANY + MIXTURES)
def test_sticking_the_landing_has_the_same_expected_gradient(name, truth):
    vae = exact(name, truth)
    x = truth.marginal.sample((4,))
    mean, square = [], []
    for sticking in (False, True):
        loss = zoo.AnnealedELBO(500, sticking_the_landing=sticking)
        groups = []
        for _ in range(24):
            vae.zero_grad()
            loss.differentiable_loss(vae.model, vae.guide, x).backward()
            gradients = [p.grad.flatten() for p in vae.guide.parameters()]
            groups.append(torch.cat(gradients))
        groups = torch.stack(groups)
        mean.append(groups.mean(0))
        square.append(groups.var(0) / 24)
    error = (square[0] + square[1]).sqrt()
    moved = error > 1e-12
    z = ((mean[0] - mean[1]) / error)[moved]
    # A t-value with some 46 degrees of freedom: above 5.5 once in a million.
    assert z.abs().max() < 5.5
    assert (mean[0].abs() > 10 * error).sum() > 3  # the gradient itself is not noise


def test_sticking_the_landing_has_no_variance_at_the_posterior(truth):
    x = truth.marginal.sample((5,))
    vae = truth.vae()
    for sticking, quiet in ((True, True), (False, False)):
        loss = zoo.AnnealedELBO(sticking_the_landing=sticking).differentiable_loss
        vae.zero_grad()
        loss(vae.model, vae.guide, x).backward()
        largest = max(p.grad.abs().max() for p in vae.guide.parameters())
        assert (largest < 1e-8) == quiet


@pytest.mark.parametrize("name", SCORES_ITS_OWN + DRAWS_MORE)
def test_sticking_the_landing_refuses_flows_without_inverse(name):
    vae = small(name)
    vae.eval()  # in training mode Pyro warns of frozen parameters
    frozen = next(vae.guide.parameters()).requires_grad_(False)
    loss = zoo.AnnealedELBO(sticking_the_landing=True)
    with pytest.raises(zoo.UserError, match="sticking-the-landing"):
        loss.differentiable_loss(vae.model, vae.guide, torch.ones(3, 2, 3))
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in vae.parameters() if p is not frozen)


def test_sticking_the_landing_leaves_the_parameters_trainable(truth):
    vae = exact("planar", truth)
    vae.eval()  # in training mode Pyro warns of frozen parameters
    frozen = next(vae.guide.parameters()).requires_grad_(False)
    loss = zoo.AnnealedELBO(sticking_the_landing=True).differentiable_loss
    loss(vae.model, vae.guide, truth.marginal.sample((3,))).backward()
    assert not frozen.requires_grad
    assert frozen.grad is None
    assert all(p.requires_grad for p in vae.guide.parameters() if p is not frozen)


# ------------------------------------------------- counts, units, and numbers that are none


def test_bits_of_grey_levels_behind_a_logit_are_of_the_grey_levels():
    """Uniform levels have eight bits each, and no model has fewer."""
    grey = torch.randint(256, (60, 4, 4), dtype=torch.uint8)
    data = zoo.Dataset(grey, grey[:20], grey[:20], likelihood="gaussian", logit=0.05)
    vae = zoo.create("maf", data, flow_hidden_dims=(8,), num_flows=1)
    found = zoo.evaluate(vae, data, 5)
    assert found.bits_per_dim == data.bits_per_dim(found.log_likelihood, data.test)
    assert found.bits_per_dim > 8


@pytest.mark.parametrize("n", [0, -1, 1.5, "3"])
def test_counts_of_particles_are_checked_by_every_bound(n):
    vae = zoo.create("mean_field", event_shape=(3,), latent_dim=2, hidden_dims=(4,))
    for call in (
        lambda: weighted_bound(vae, torch.zeros(2, 3), n),
        lambda: zoo.AnnealedELBO(num_particles=n),
    ):
        with pytest.raises(zoo.UserError, match="num_particles"):
            call()
    assert weighted_bound(vae, torch.zeros(2, 3), 10.0) < 0


def test_a_flow_of_numbers_has_its_log_determinant():
    class Tripled(nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.loc, self.inside = nn.Linear(3, 2), inside

        def forward(self, x):
            base = dist.Normal(self.loc(x), 0.5)
            scale = [torch.distributions.AffineTransform(0.0, 3.0)]
            q = dist.TransformedDistribution(base, scale).to_event(1)
            if self.inside:
                q = dist.TransformedDistribution(base.to_event(1), scale)
            with pyro.plate("data", len(x)):
                pyro.sample("z", q)

    model = zoo.create("mean_field", event_shape=(3,), latent_dim=2).model
    for inside in (True, False):
        found = zoo.evaluate((model, Tripled(inside)), torch.zeros(4, 3), 50)
        assert found.log_det == pytest.approx(2 * math.log(3.0), abs=1e-5)


def test_an_evaluation_of_one_datum_is_json():
    vae = zoo.create("mean_field", event_shape=(3,), latent_dim=2, hidden_dims=(4,))
    values = zoo.evaluate(vae, torch.zeros(1, 3), 5).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False))["elbo_std_error"] is None


def test_the_median_of_an_even_number_is_between_the_middle_two():
    assert summary_of_khat(torch.tensor([0.0, 1.0])) == (0.5, 0.5)
    assert summary_of_khat(torch.tensor([0.25, math.inf])) == (math.inf, 0.5)


def test_ties_at_the_top_of_bounded_weights_are_no_heavy_tail():
    torch.manual_seed(0)
    log_w = torch.cat([torch.zeros(105), -1 - torch.rand(1195)]).double()
    assert zoo.pareto_khat(log_w[None]).item() < 0.2


def test_probes_and_subsets_leave_the_default_device_alone():
    with torch.device("meta"):
        order = permutation(10, 0)
    assert order.device.type == "cpu"
