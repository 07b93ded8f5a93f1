"""Curves, covariances and gaps against closed forms.

Tolerances are multiples of standard errors, as in `test_estimators`.
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as torch_dist
from pairs import linear_gaussian, perturb, quick, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.diagnose import DiagnoseOptions, diagnose
from pyro_vae_zoo.evaluation.local import LocalGuide
from pyro_vae_zoo.models.flow_guides import AmortizedFlow
from pyro_vae_zoo.models.semi_amortized import SemiAmortizedGuide
from pyro_vae_zoo.models.standard import AmortizedGuide, DiagonalGaussian
from pyro_vae_zoo.pair.gaussians import moved


@pytest.fixture
def truth():
    return linear_gaussian()


def best_mean_field(truth, shift=0.0):
    """The diagonal Gaussian of least KL to p(z|x), its mean off by `shift`."""
    d = truth.latent_dim
    posterior = DiagonalGaussian(truth.event_dim, d).double()
    scale = truth.precision.diagonal().rsqrt()
    with torch.no_grad():
        posterior.linear.weight.zero_()
        posterior.linear.weight[:d] = truth.gain
        posterior.linear.bias[:d] = shift - truth.gain @ truth.bias
        raw = torch.log(torch.expm1(scale - 1e-6))
        posterior.linear.bias[d:] = raw - math.log(math.expm1(1.0))
    return AmortizedGuide(nn.Identity(), posterior)


# -------------------------------------------------------------------- the curve


def test_the_curve_goes_from_the_elbo_to_log_p(truth):
    x = truth.marginal.sample((50,))
    vae = truth.vae(truth.gaussian_guide(widen=1.5))
    curve = zoo.particle_curve(vae, x, 1000, seed=3)
    assert curve.num_particles == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    ends = zoo.evaluate(vae, x, 1000, seed=3)  # of the same draws
    assert curve.log_prob[0] == pytest.approx(ends.elbo)
    assert curve.std_error[0] == pytest.approx(ends.elbo_std_error)
    assert curve.log_prob[-1] == pytest.approx(ends.log_likelihood)
    assert curve.mc_error[-1] == pytest.approx(ends.log_likelihood_mc_error)
    assert list(curve.log_prob) == sorted(curve.log_prob)
    log_p = truth.marginal.log_prob(x).mean().item()
    assert curve.log_prob[-1] == pytest.approx(log_p, abs=4 * curve.mc_error[-1])
    assert curve.log_prob[0] < log_p - 0.1
    assert curve.num_data == 50


def test_each_point_of_the_curve_is_that_of_so_many_draws(truth):
    """All draws are used for each K: another run of only K draws agrees with it."""
    x = truth.marginal.sample((200,))
    vae = truth.vae(truth.gaussian_guide(widen=1.5))
    curve = zoo.particle_curve(vae, x, 700)
    assert curve.num_particles[-2:] == (500, 700)
    for k in (1, 5, 20):
        i = curve.num_particles.index(k)
        again = zoo.log_likelihood(vae, x, k, seed=9).log_prob.mean().item()
        alone = math.sqrt(700 / k) * curve.mc_error[i]  # of one block in place of all
        assert abs(again - curve.log_prob[i]) < 4 * math.hypot(alone, curve.mc_error[i])


def test_errors_of_the_curve_are_those_of_repetition(truth):
    x = truth.marginal.sample((5,))
    vae = truth.vae(truth.gaussian_guide(widen=1.5))
    curves = [zoo.particle_curve(vae, x, 100, seed=s) for s in range(100)]
    for i in (0, 3, -1):
        values = torch.tensor([c.log_prob[i] for c in curves])
        reported = torch.tensor([c.mc_error[i] for c in curves]).square().mean().sqrt()
        assert values.std() / reported == pytest.approx(1, abs=4 / math.sqrt(200))


def test_a_curve_of_one_draw_and_one_datum(truth):
    curve = zoo.particle_curve(truth.vae(), truth.marginal.sample((1,)), 1)
    assert curve.num_particles == (1,)
    assert math.isnan(curve.std_error[0])
    assert math.isnan(curve.mc_error[0])


# ------------------------------------------------------------------ covariances


def test_the_mean_correlation_is_over_pairs_of_other_latents():
    covariance = torch.eye(3, dtype=torch.double).expand(1, 4, 3, 3) + 0.1
    found = zoo.PosteriorCovariances(("z_0",), covariance, 50)
    torch.testing.assert_close(
        found.mean_abs_correlation, torch.full((1, 4), 0.1 / 1.1).double()
    )


def test_mean_field_is_diagonal(truth):
    x = truth.marginal.sample((6,))
    found = zoo.posterior_covariances(truth.vae(best_mean_field(truth)), x, 20_000)
    assert found.steps == ("z_0",)
    variance = 1 / truth.precision.diagonal()
    for covariance in found.covariance[0]:
        torch.testing.assert_close(covariance.diagonal(), variance, rtol=0.05, atol=0)
    off = found.correlation[0, :, 0, 1]
    assert off.abs().max() < 5 / math.sqrt(20_000)
    torch.testing.assert_close(found.mean_abs_correlation[0], off.abs())
    assert found.noise == pytest.approx(math.sqrt(2 / math.pi / 20_000))


def test_full_rank_is_the_posteriors(truth):
    x = truth.marginal.sample((6,))
    found = zoo.posterior_covariances(truth.vae(), x, 20_000)
    size = 5 * math.sqrt(2 / 20_000) * truth.covariance.diagonal().max()
    assert (found.covariance - truth.covariance).abs().max() < size
    log_det = found.log_det.mean()  # of six: error sqrt(2 d / (n N))
    assert abs(log_det - truth.covariance.logdet()) < 4 * math.sqrt(4 / (6 * 20_000))


def test_householder_turns_the_covariance(truth):
    """H diag(s^2) H^T with H of the guide's own vector."""
    d, x = 4, torch.randn(3, 5)
    posterior = AmortizedFlow(5, d, "householder", num_flows=1)
    perturb(posterior)
    vae = zoo.VAE(small("mean_field", (5,), latent_dim=d).model,
                  AmortizedGuide(nn.Identity(), posterior), (5,))  # fmt: skip
    found = zoo.posterior_covariances(vae, x.bernoulli_(0.5), 40_000)
    assert found.steps == ("z_0", "z_1")
    with torch.no_grad():
        (v,) = posterior.flows[0].nn(x)
        v = nn.functional.normalize(v[:, 0], dim=-1)
        scale = posterior.base(x).stddev
    turn = (torch.eye(d) - 2 * v[:, :, None] * v[:, None, :]).double()
    base = torch.diag_embed(scale.double() ** 2)
    expected = turn @ base @ turn.mT
    largest = expected.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    error = 5 * math.sqrt(2 / 40_000) * largest
    assert ((found.covariance[0] - base).abs() < error).all()
    assert ((found.covariance[1] - expected).abs() < error).all()
    assert (expected - base).abs().max() > 2 * error.max()  # which it does turn
    torch.testing.assert_close(*found.log_det, rtol=0, atol=1e-5)
    before, after = found.mean_abs_correlation
    assert (before < 5 * found.noise).all()
    assert (after > before).all()


@pytest.mark.parametrize(
    ("name", "num_flows", "steps"),
    [
        ("iaf", 0, 1),
        ("iaf", 3, 4),
        ("affine_coupling", 3, 4),  # the reversals between are no steps
        ("householder", 3, 2),  # at once
        ("recursive_mixture", None, 1),
    ],
)
@pytest.mark.parametrize("chunk_rows", quick([None, 70], None))
def test_the_last_is_the_covariance_of_the_guides_draws(
    name, num_flows, steps, chunk_rows, monkeypatch
):
    if chunk_rows:
        monkeypatch.setattr(
            "pyro_vae_zoo.evaluation.chunks.chunk_rows_for", lambda *a: chunk_rows
        )
    flows = {} if num_flows is None else {"num_flows": num_flows}
    vae = small(name, latent_dim=3, **flows)
    perturb(vae.guide)
    x = torch.rand(3, 2, 3).bernoulli()
    found = zoo.posterior_covariances(vae, x, 5000)
    assert found.steps == tuple(f"z_{k}" for k in range(steps))
    z = vae.encode(x, 5000).double()
    expected = torch.stack([z[:, i].T.cov() for i in range(3)])
    fourth = (z - z.mean(0)).pow(4).mean(0).amax(-1).sqrt()  # bounds sd of a product
    error = 5 * math.sqrt(2 / 5000) * fourth[:, None, None]
    assert ((found.covariance[-1] - expected).abs() < error).all()


def test_reversals_belong_to_the_step_after_them():
    """The steps of a coupling flow, one by one, from its own transforms."""
    vae = small("affine_coupling", latent_dim=3, num_flows=2)
    perturb(vae.guide)
    x = torch.rand(1, 2, 3).bernoulli()
    found = zoo.posterior_covariances(vae, x, 20_000)
    with torch.no_grad():
        q = vae.guide.posterior(vae.guide.encoder(x))
        z = q.transforms[0](q.base_dist.sample((20_000,)))
    expected = z[:, 0].double().T.cov()
    error = 5 * math.sqrt(2 / 20_000) * expected.diagonal().max()
    assert (found.covariance[1, 0] - expected).abs().max() < error


def test_the_determinant_has_no_bias_of_few_draws(truth):
    x = truth.marginal.sample((1,)).repeat(2000, 1)
    found = zoo.posterior_covariances(truth.vae(), x, 5)
    error = found.log_det.std() / math.sqrt(2000)
    assert abs(found.log_det.mean() - truth.covariance.logdet()) < 4 * error
    assert abs(found.covariance.logdet().mean() - truth.covariance.logdet()) > 8 * error


def test_covariances_of_what_has_none_are_refused():
    x = torch.rand(3, 2, 3).bernoulli()
    with pytest.raises(UserError, match="z_1"):
        zoo.posterior_covariances(small("gated_dag"), x, 100)
    with pytest.raises(UserError, match="2 latents needs more than 2 particles"):
        zoo.posterior_covariances(small("iaf"), x, 2)
    with pytest.raises(UserError, match="at least 2, got 0"):
        zoo.posterior_covariances(small("iaf"), x, 0)


def test_one_latent_has_no_correlation():
    vae = small("mean_field", latent_dim=1)
    found = zoo.posterior_covariances(vae, torch.rand(3, 2, 3).bernoulli(), 50)
    assert found.mean_abs_correlation.abs().max() < 1e-12


# ----------------------------------------------------------------------- the gaps


@pytest.mark.parametrize("shift", quick([0.0, 0.4], 0.4))
def test_gaps_of_mean_field_are_the_closed_forms(shift):
    """No amortisation gap at the optimum, KL of the two Gaussians elsewhere."""
    truth = linear_gaussian(latent_dim=4, event_dim=5)
    x = truth.marginal.sample((40,))
    log_p = truth.marginal.log_prob(x)
    vae = truth.vae(best_mean_field(truth, shift))
    gaps = zoo.inference_gaps(vae, x, 300, num_particles=1000, log_prob=log_p)
    best = truth.mean_field_gap
    off = torch.full((4,), shift, dtype=torch.double)
    lost = (0.5 * off @ truth.precision @ off).item()
    assert best > 0.1
    local = gaps.local_error.square().sum().sqrt().item() / 40
    both = math.hypot(local, gaps.amortised_error.square().sum().sqrt().item() / 40)
    assert both < 0.05
    # A hundredth of a nat is what the noise of the steps may cost.
    assert gaps.approximation_gap.mean().item() == pytest.approx(
        best, abs=4 * local + 0.01
    )
    assert gaps.amortisation_gap.mean().item() == pytest.approx(
        lost, abs=4 * both + 0.01
    )
    assert lost == 0 or lost > 0.2


class Own(nn.Module):
    """A guide of the user's, that draws from what another one draws from."""

    def __init__(self, other, change=lambda q: q):
        super().__init__()
        self.other, self.change = other, change

    def forward(self, x):
        q = self.change(self.other.posterior(self.other.encoder(x)))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", q)


def test_a_gaussian_of_the_users_keeps_its_family():
    """The gap of a diagonal Gaussian is of its family, however the guide is built."""
    truth = linear_gaussian(latent_dim=4, event_dim=5)
    x = truth.marginal.sample((40,))
    pair = truth.model(), Own(best_mean_field(truth))
    exact = truth.marginal.log_prob(x)
    gaps = zoo.inference_gaps(pair, x, 300, num_particles=1000, log_prob=exact)
    error = 4 * gaps.local_error.square().sum().sqrt().item() / 40 + 0.01
    best = pytest.approx(truth.mean_field_gap, abs=error)
    assert gaps.approximation_gap.mean().item() == best
    assert gaps.amortisation_gap.mean().item() == pytest.approx(0, abs=2 * error)
    full = zoo.local_log_likelihood(pair, x, 2000, 300)  # M may be triangular there
    assert (full.log_prob - exact).abs().max() < 0.05


def flow_of_numbers(q):
    """A flow on each latent by itself."""
    steps = [dist.transforms.TanhTransform(), dist.transforms.AffineTransform(0.5, 2.0)]
    return dist.TransformedDistribution(q.base_dist, steps).to_event(1)


def test_a_flow_of_the_users_is_where_the_search_starts():
    truth = linear_gaussian(latent_dim=2, event_dim=3)
    x = truth.marginal.sample((5,))
    pair = truth.model(), Own(best_mean_field(truth), flow_of_numbers)
    gaps = zoo.inference_gaps(pair, x, 0)
    error = (gaps.amortised_error.square() + gaps.local_error.square()).sqrt()
    assert (gaps.amortisation_gap.abs() < 5 * error).all()
    assert (zoo.inference_gaps(pair, x, 100).amortisation_gap > 5 * error).all()
    states = zoo.posterior_covariances(pair, x, 100)
    assert states.steps == ("z_0", "z_1", "z_2")
    assert zoo.evaluate(pair, x, 100).log_det != 0


def test_the_end_of_semi_amortised_steps_is_a_diagonal_gaussian():
    truth = linear_gaussian(latent_dim=4, event_dim=5)
    x, model, best = truth.marginal.sample((40,)), truth.model(), best_mean_field(truth)
    guide = SemiAmortizedGuide(best.encoder, best.posterior, model, 0, 0.1, 5.0)
    exact = truth.marginal.log_prob(x)
    gaps = zoo.inference_gaps((model, guide), x, 300, log_prob=exact)
    error = 4 * gaps.local_error.square().sum().sqrt().item() / 40 + 0.01
    gap = gaps.approximation_gap.mean().item()
    assert gap == pytest.approx(truth.mean_field_gap, abs=error)


@pytest.mark.parametrize(
    "law",
    [
        lambda loc: dist.Gumbel(loc, 1.0),
        lambda loc: torch_dist.TransformedDistribution(
            torch_dist.Normal(loc, 1.0), [torch_dist.AffineTransform(0.0, 2.0)]
        ),
    ],
)
def test_what_is_no_flow_of_pyros_has_a_q_all_the_same(law):
    class Draws(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                q = law(x.flatten(1)[:, :2])
                pyro.sample("z", dist.Independent(q, 1))

    vae = small("mean_field")
    x = torch.rand(3, 2, 3).bernoulli()
    ll = zoo.local_log_likelihood((vae.model, Draws()), x, 200, 100)
    exact = zoo.log_likelihood(vae, x, 5000)
    assert (ll.log_prob - exact.log_prob).abs().max() < 0.2


def test_a_covariance_is_told_under_any_default_device(truth):
    vae = truth.vae(truth.gaussian_guide())
    found = zoo.posterior_covariances(vae, truth.marginal.sample((3,)), 50)
    expected = found.log_det
    try:
        torch.set_default_device("meta")
        assert torch.equal(found.log_det, expected)
    finally:
        torch.set_default_device(None)


def test_full_rank_has_no_approximation_gap(truth):
    """From a guide whose factor lacks what lies below the diagonal."""
    x = truth.marginal.sample((20,))
    guide = truth.gaussian_guide(widen=1.3, shift=0.3)
    with torch.no_grad():
        guide.posterior.lower.bias.zero_()
    log_p = truth.marginal.log_prob(x)
    gaps = zoo.inference_gaps(truth.vae(guide), x, 300, log_prob=log_p)
    assert gaps.approximation_gap.abs().max() < 0.02
    assert (gaps.amortisation_gap > 0.1).all()
    total = gaps.approximation_gap + gaps.amortisation_gap
    torch.testing.assert_close(total, log_p - gaps.amortised_elbo)


def test_without_an_estimate_of_log_p_all_draws_give_one(truth):
    x = truth.marginal.sample((20,))
    vae = truth.vae(truth.gaussian_guide(widen=1.3, shift=0.1))
    gaps = zoo.inference_gaps(vae, x, 100)
    error = truth.marginal.log_prob(x) - gaps.log_prob
    assert error.abs().max() < 0.1


@pytest.mark.parametrize("name", ["mean_field", "full_rank", "iaf", "householder"])
def test_the_search_starts_at_the_guides_output(name):
    vae = small(name)
    perturb(vae.guide)
    x = torch.rand(3, 2, 3).bernoulli()
    with torch.no_grad():
        q = vae.guide.posterior(vae.guide.encoder(x))
        local = LocalGuide(vae.guide, x)
        same = moved(local.posterior(local.context), local.move)
        torch.manual_seed(1)
        z = q.rsample((7,))
        torch.manual_seed(1)
        torch.testing.assert_close(same.rsample((7,)), z)
    gaps = zoo.inference_gaps(vae, x, num_steps=0)
    error = (gaps.amortised_error.square() + gaps.local_error.square()).sqrt()
    assert (gaps.amortisation_gap.abs() < 5 * error).all()


@pytest.mark.parametrize(
    "name", quick(["iaf", "planar", "affine_coupling", "sylvester_orthogonal"], "iaf")
)
def test_flows_are_optimised_too(name):
    vae = small(name)
    perturb(vae.guide)
    x = torch.rand(8, 2, 3).bernoulli()
    gaps = zoo.inference_gaps(vae, x, 200)
    assert gaps.amortisation_gap.mean() > 0.05  # of a guide that was never trained
    exact = zoo.annealed_log_likelihood(vae, x, num_temps=50, num_leapfrog=3)
    assert (exact.log_prob - gaps.local_elbo).mean() > -4 * exact.std_error.mean()


def test_data_do_not_depend_on_each_other(truth, monkeypatch):
    """One batch or many: the same gaps, but for the draws."""
    x = truth.marginal.sample((6,))
    vae = truth.vae(truth.gaussian_guide(widen=1.5))
    whole = zoo.inference_gaps(vae, x, 200)
    monkeypatch.setattr("pyro_vae_zoo.evaluation.local.chunk_rows_for", lambda *a: 128)
    parts = zoo.inference_gaps(vae, x, 200)
    assert not torch.equal(whole.local_elbo, parts.local_elbo)
    error = 5 * (whole.local_error + parts.local_error) + 0.01
    assert ((whole.local_elbo - parts.local_elbo).abs() < error).all()


def test_the_caller_is_left_alone(truth):
    vae, x = truth.vae(truth.gaussian_guide(widen=1.5)), truth.marginal.sample((3,))
    vae.train()
    vae.guide.encoder.eval()
    state = {name: p.clone() for name, p in vae.state_dict().items()}
    before = torch.get_rng_state()
    first, again, other = (zoo.inference_gaps(vae, x, 20, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.local_elbo, again.local_elbo)
    assert not torch.equal(first.local_elbo, other.local_elbo)
    assert vae.training
    assert not vae.guide.encoder.training
    for name, p in vae.state_dict().items():
        assert torch.equal(p, state[name])
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())


class Laplace(nn.Module):
    def forward(self, context):
        loc = context[..., :2]
        return dist.Laplace(loc, torch.ones_like(loc)).to_event(1)


def test_any_guide_of_one_vector_has_gaps(truth):
    """Those of a full Gaussian, which finds the posterior of a linear model."""

    class Draws(nn.Module):  # of the user's: no encoder, no posterior
        def forward(self, x):
            q = truth.posterior(x)
            with pyro.plate("data", len(x)):
                law = dist.Laplace(q.mean + 0.3, 2 * q.variance.sqrt()).to_event(1)
                return pyro.sample("z", law)

    x = truth.marginal.sample((3,))
    exact = truth.marginal.log_prob(x)
    gaps = zoo.inference_gaps((truth.model(), Draws()), x, 400, log_prob=exact)
    assert (gaps.approximation_gap.abs() < 5 * gaps.local_error + 0.01).all()
    assert (gaps.amortisation_gap > 0.1).all()
    ll = zoo.local_log_likelihood((truth.model(), Draws()), x, 2000, 200)
    assert ((ll.log_prob - exact).abs() < 5 * ll.std_error + 1e-3).all()

    bits = torch.rand(3, 2, 3).bernoulli()
    guide = AmortizedGuide(nn.Flatten(), Laplace())
    for pair in (
        (small("mean_field").model, guide),
        small("semi_amortized"),
        small("mixture"),
    ):
        assert zoo.inference_gaps(pair, bits, 5).local_elbo.isfinite().all()


def test_gaps_of_several_latents_are_refused():
    x = torch.rand(3, 2, 3).bernoulli()
    for name in ("ladder", "gated_dag"):
        with pytest.raises(UserError, match="is a real vector 'z' for each datum, got"):
            zoo.inference_gaps(small(name), x)


class Draws(nn.Module):
    """A side that draws z from a law, and of it bits if it has a decoder."""

    def __init__(self, law, decoder=None):
        super().__init__()
        self.law, self.decoder = law, decoder

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.law().to_event(1))
            if self.decoder is not None:
                bits = dist.Bernoulli(logits=self.decoder(z)).to_event(1)
                pyro.sample("x", bits, obs=x)


def of_law(law):
    """A pair that draws z from it on both sides."""
    torch.manual_seed(0)
    return zoo.VAE(Draws(law, nn.Linear(4, 6)), Draws(law), (6,))


def halves():
    return dist.Bernoulli(torch.full((4,), 0.5))


def positive():
    return dist.LogNormal(torch.zeros(4), 1.0)


BITS = torch.tensor([[1.0, 0, 0, 1, 0, 1], [0, 1, 1, 1, 0, 1]])


@pytest.mark.parametrize("measure", [zoo.inference_gaps, zoo.local_log_likelihood])
@pytest.mark.parametrize(
    ("law", "kind"), [(halves, "discrete"), (positive, "in GreaterThan")]
)
def test_gaps_of_other_than_real_numbers_are_refused(measure, law, kind):
    """A Gaussian q has draws where such a prior has no density."""
    with pytest.raises(UserError, match=rf"real vector 'z'.*, got 'z' \({kind}"):
        measure(of_law(law), BITS)


def test_a_diagnosis_counts_from_no_q_that_does_not_apply():
    few = {"temps": 2, "leapfrog": 1, "simulated": 1, "steps": 2}
    options = DiagnoseOptions(num_particles=30, chains=2, **few)
    found = diagnose(of_law(halves), BITS, options)
    assert set(found.skipped) == {"annealing", "local", "gaps"}
    assert found.log_prob_from == "importance sampling"


def test_a_law_that_does_not_know_its_support_is_of_real_numbers():
    class Unknown(dist.Normal):
        @property
        def support(self):
            raise NotImplementedError

    laws = (partial(law, torch.zeros(4), 1.0) for law in (dist.Normal, Unknown))
    known, unknown = (
        zoo.local_log_likelihood(of_law(law), BITS, 20, 3) for law in laws
    )
    assert torch.equal(known.log_prob, unknown.log_prob)


def test_a_likelihood_that_does_not_know_its_support_scores_what_it_is_given():
    class Unknown(dist.Bernoulli):
        @property
        def support(self):
            raise NotImplementedError

    class Of(nn.Module):
        num_params = 1

        def forward(self, params):
            return Unknown(logits=params.unflatten(-1, (2, 3))).to_event(2)

    torch.manual_seed(0)
    vae, x = small("mean_field", likelihood=Of), torch.rand(4, 2, 3).bernoulli()
    torch.manual_seed(0)
    known = small("mean_field")
    found = [zoo.log_likelihood(v, x, 20).log_prob for v in (vae, known)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_steps": -1}, "num_steps must be at least 0, got -1"),
        ({"num_particles": 1}, "num_particles must be at least 2, got 1"),
        ({"step_particles": 0}, "step_particles must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"log_prob": torch.zeros(2)}, r"log_prob of shape \(3,\), got \(2,\)"),
    ],
)
def test_numbers_out_of_range_are_refused(truth, options, words):
    with pytest.raises(UserError, match=words):
        zoo.inference_gaps(truth.vae(), truth.marginal.sample((3,)), **options)


def test_draws_of_an_optimised_q_estimate_log_p_better(truth):
    """Of full covariance it is the exact posterior, and its weights are all the same."""
    x = truth.marginal.sample((20,))
    vae = truth.vae(truth.gaussian_guide(widen=0.3, shift=0.5))
    log_p = truth.marginal.log_prob(x)
    own = zoo.local_log_likelihood(vae, x, 500, 300)
    guides = zoo.log_likelihood(vae, x, 500)
    assert (own.log_prob - log_p).abs().max() < 0.005
    assert own.ess.min() > 490
    assert (guides.log_prob - log_p).abs().mean() > 0.1
    assert own.num_particles == 500
    with pytest.raises(UserError, match="num_steps must be at least 0, got -1"):
        zoo.local_log_likelihood(vae, x, num_steps=-1)


def test_a_q_of_its_own_moves_a_flow_too(truth):
    """What it samples from is scored right: the estimate is unbiased before it is good."""
    vae = zoo.create("iaf", event_shape=(2, 3), latent_dim=2, num_flows=2).double()
    x = torch.randn(4, 2, 3, dtype=torch.double)
    x = (x > 0).double()
    own = zoo.local_log_likelihood(vae, x, 20_000, 60)
    guides = zoo.log_likelihood(vae, x, 20_000)
    error = (own.std_error.square() + guides.std_error.square()).sqrt()
    assert ((own.log_prob - guides.log_prob).abs() < 4 * error + 1e-3).all()


class TwoLayers:
    """A linear Gaussian of two layers, and a guide that is off by a shift and a scale."""

    def __init__(self, shift=0.5, scale=0.8):
        g = torch.Generator().manual_seed(0)
        a, b = (torch.randn(n, 2, dtype=torch.double, generator=g) for n in (2, 3))
        eye = torch.eye(2, dtype=torch.double)
        self.a, self.b, self.shift, self.scale = a, b, shift, scale
        of_z1 = a @ a.T + 0.25 * eye
        cov = b @ of_z1 @ b.T + 0.09 * torch.eye(3, dtype=torch.double)
        self.marginal = dist.MultivariateNormal(cov.new_zeros(3), cov)
        self.gain = a.T @ b.T @ cov.inverse()  # of z_2 given x
        self.cov_1 = (eye / 0.25 + b.T @ b / 0.09).inverse()

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            zero = x.new_zeros(len(x), 2)
            z = pyro.sample("z_2", dist.Normal(zero, 1.0).to_event(1))
            z = pyro.sample("z_1", dist.Normal(z @ self.a.T, 0.5).to_event(1))
            p_x = dist.Normal(z @ self.b.T, 0.3).to_event(1)
            return pyro.sample("x", p_x, obs=x)

    def guide(self, x):
        scale = x.new_full((2,), self.scale)
        with pyro.plate("data", len(x), dim=-1):
            loc = x @ self.gain.T + self.shift
            z = pyro.sample("z_2", dist.Normal(loc, scale).to_event(1))
            mean = (z @ self.a.T / 0.25 + x @ self.b / 0.09) @ self.cov_1
            pyro.sample("z_1", dist.Normal(mean - self.shift, scale).to_event(1))

    def pair(self):
        return module_of(self.model), module_of(self.guide)


def module_of(function):
    module = nn.Module()
    module.forward = function
    module.unused = nn.Parameter(torch.zeros((), dtype=torch.double))  # says the dtype
    return module


def test_a_q_for_each_layer_is_the_exact_posterior():
    """As far as the guide's means follow the latents above, which here they do."""
    truth = TwoLayers()
    x = truth.marginal.sample((20,))
    log_p = truth.marginal.log_prob(x)
    own = zoo.local_log_likelihood(truth.pair(), x, 500, 500)
    guides = zoo.log_likelihood(truth.pair(), x, 500)
    assert ((own.log_prob - log_p).abs() < 4 * own.std_error + 1e-4).all()
    assert own.ess.min() > 450
    assert (guides.log_prob - log_p).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bottom_up", {}),
        ("self_reflective", {}),
        ("ladder", {}),
        ("gated_dag_iaf", {"structure": "chain"}),
    ],
)
def test_a_q_of_several_latents_is_scored_right(name, options):
    vae = small(name, **options).double()
    perturb(vae, 0.5)
    x = (torch.rand(4, *vae.event_shape) < 0.5).double()
    own = zoo.local_log_likelihood(vae, x, 4000, 40)
    guides = zoo.log_likelihood(vae, x, 4000)
    error = (own.std_error.square() + guides.std_error.square()).sqrt()
    assert ((own.log_prob - guides.log_prob).abs() < 4 * error + 1e-3).all()


def test_latents_of_which_one_is_no_gaussian_are_refused():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for name, of in (("a", dist.Normal), ("b", dist.Gamma)):
                pyro.sample(name, of(x.new_ones(len(x), 2), 1.0).to_event(1))

    def model(x):
        guide(x)
        with pyro.plate("again", len(x), dim=-1):
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)

    with pytest.raises(
        UserError, match="a flow on a Gaussian, got Independent of Gamma"
    ):
        zoo.local_log_likelihood((module_of(model), module_of(guide)), torch.ones(2, 3))


@pytest.mark.parametrize("ndim", [0, 2])
def test_several_latents_that_are_no_vectors_are_refused(ndim):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for name in ("a", "b"):
                loc = x.new_zeros(len(x), *(2,) * ndim)
                pyro.sample(name, dist.Normal(loc, 1.0).to_event(ndim))

    def model(x):
        guide(x)
        with pyro.plate("again", len(x), dim=-1):
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)

    pair = module_of(model), module_of(guide)
    with pytest.raises(UserError, match="needs vectors, got 'a' of event shape"):
        zoo.local_log_likelihood(pair, torch.ones(2, 3))


def test_a_model_without_latents_is_refused():
    vae, x = small("maf"), torch.randn(4, 2, 3)
    with pytest.raises(UserError, match="a real vector 'z' for each datum, got none"):
        zoo.local_log_likelihood(vae, x, 20, 3)
    few = {"temps": 2, "leapfrog": 1, "simulated": 1, "steps": 2}
    found = diagnose(vae, x, DiagnoseOptions(num_particles=30, chains=2, **few))
    assert "local" in found.skipped


def test_an_own_q_counts_what_data_share(truth):
    """Gates that are still random are drawn once for a batch, not for each datum."""
    vae, x = small("gated_dag"), torch.rand(6, 2, 3).bernoulli()
    own = zoo.local_log_likelihood(vae, x, 200, 0)
    alone = own.std_error.square().sum().sqrt() / 6
    assert own.mc_error != pytest.approx(alone.item())
    chain = small("gated_dag", structure="chain")
    own = zoo.local_log_likelihood(chain, x, 200, 0)
    alone = own.std_error.square().sum().sqrt() / 6
    assert own.mc_error == pytest.approx(alone.item())


def test_a_known_log_p_may_be_of_numpy(truth):
    x = truth.marginal.sample((3,))
    log_p = truth.marginal.log_prob(x)
    gaps = [
        zoo.inference_gaps(truth.vae(), x, 5, log_prob=known)
        for known in (log_p, log_p.numpy())
    ]
    assert torch.equal(gaps[0].log_prob, gaps[1].log_prob)
    with pytest.raises(zoo.UserError, match=r"log_prob of shape \(3,\), got \(2,\)"):
        zoo.inference_gaps(truth.vae(), x, 5, log_prob=log_p.numpy()[:2])


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (1.5, "seed: expected a whole number, got 1.5"),
        ("a", "seed: expected a whole number, got 'a'"),
        (True, "seed: expected a whole number, got True"),
        (2**64, "seed: expected a number of 64 bits"),
    ],
)
def test_seeds_are_whole_numbers(seed, words, truth):
    with pytest.raises(zoo.UserError, match=words):
        zoo.log_likelihood(truth.vae(), truth.marginal.sample((2,)), 3, seed=seed)
