"""The closed form of a site's KL: what Pyro computes, the same mean, less variance."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import FAMILIES, linear_gaussian, others, quick, seeded, small
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.pair.sites import in_data_plate, latent_sites
from pyro_vae_zoo.training.losses import make_loss
from pyro_vae_zoo.training.options import TrainOptions

GAUSSIAN = (
    "mean_field",
    "self_reflective",
    "self_reflective_iaf",
    "bottom_up",
    "semi_amortized",
    "ladder",
    "gated_dag",
)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("name", quick(others(), *FAMILIES))
def test_it_is_pyros_mean_field_elbo(name, num_particles):
    """With its fall back to one draw where no closed form is known."""
    vae = small(name).double()
    x = torch.rand(5, 2, 3).double().bernoulli()
    ours = zoo.AnnealedELBO(num_particles, analytic_kl=True)
    theirs = TraceMeanField_ELBO(
        num_particles, max_plate_nesting=1, vectorize_particles=True
    )
    value, gradients = seeded(ours.differentiable_loss, vae, x)
    expected, expected_gradients = seeded(theirs.differentiable_loss, vae, x)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("name", zoo.list_guides())
def test_it_is_known_between_diagonal_gaussians_alone(name):
    vae = small(name)
    terms = bound_terms(vae.model, vae.guide, torch.zeros(4, 2, 3), analytic_kl=True)
    assert bool(terms.closed_kl) == (name in GAUSSIAN)
    assert bool(terms.log_guide) == bool(terms.log_prior) == (name not in GAUSSIAN)
    sites = latent_sites(terms.guide_trace).items()
    assert set(terms.kl) == {name for name, site in sites if in_data_plate(site)}
    for kl in terms.kl.values():
        assert kl.shape == (1, 4)


def test_it_is_the_formula_of_two_gaussians():
    truth = linear_gaussian()
    vae = truth.vae(truth.gaussian_guide(widen=1.3, shift=0.1))
    x = truth.marginal.sample((5,))
    full = bound_terms(vae.model, vae.guide, x, 3, analytic_kl=True)
    assert not full.closed_kl  # a full covariance against a product: none is known
    vae = small("mean_field", (4,), likelihood="gaussian").double()
    terms = bound_terms(vae.model, vae.guide, x, 3, analytic_kl=True)
    q = terms.guide_trace.nodes["z"]["fn"].base_dist
    expected = 0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()
    torch.testing.assert_close(terms.kl["z"], expected.sum(-1).expand(3, 5))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_bound_has_the_same_mean(name):
    """Against the one-draw estimate on the very same draws."""
    vae = small(name).double()
    x = torch.rand(3, 2, 3).double().bernoulli()
    with torch.no_grad():
        torch.manual_seed(1)
        drawn = bound_terms(vae.model, vae.guide, x, 20_000)
        torch.manual_seed(1)
        closed = bound_terms(vae.model, vae.guide, x, 20_000, analytic_kl=True)
    difference = (closed.log_weights - drawn.log_weights).flatten()
    error = difference.std() / math.sqrt(len(difference))
    assert abs(difference.mean()) < 4 * error
    assert 0 < error < 0.05  # the test would see a mistake of a twentieth of a nat
    for site, kl in closed.kl.items():
        # Each draw's KL is the mean of the estimate given the draws above it.
        assert kl.var() < drawn.kl[site].var()
        assert (kl >= 0).all()


@pytest.mark.slow
def test_gradients_have_the_same_mean_and_less_variance():
    vae = small("self_reflective").double()
    x = torch.rand(1, 2, 3).double().bernoulli()
    # The first layer's posterior, which all that follows depends on, is moved away
    # from its prior.
    bias = vae.guide.posteriors[0].correction.rest[-1].bias
    with torch.no_grad():
        bias.add_(1.0)

    def gradients(analytic):
        loss = zoo.AnnealedELBO(1, analytic_kl=analytic)
        torch.manual_seed(3)
        rows = []
        for _ in range(400):
            vae.guide.zero_grad()
            loss.loss_and_grads(vae.model, vae.guide, x)
            rows.append(bias.grad.clone())
        return torch.stack(rows)

    drawn, closed = gradients(False), gradients(True)
    error = ((drawn.var(0) + closed.var(0)) / 400).sqrt()
    assert ((drawn.mean(0) - closed.mean(0)).abs() < 4 * error).all()
    assert (closed.mean(0).abs() > 4 * error).any()  # it is not zero against zero
    assert closed.var(0).sum() < drawn.var(0).sum()


def test_weight_and_free_bits_act_on_it():
    vae = small("ladder").double()
    x = torch.rand(5, 2, 3).double().bernoulli()
    torch.manual_seed(7)
    terms = bound_terms(vae.model, vae.guide, x, 2, analytic_kl=True)
    kl = [value.mean() for value in terms.kl.values()]
    floor = sorted(kl)[1].item()
    paid = sum(max(value.item(), floor) for value in kl)
    loss = zoo.AnnealedELBO(2, kl_weight=0.3, free_bits=floor, analytic_kl=True)
    value, _ = seeded(loss.differentiable_loss, vae, x)
    expected = 5 * (0.3 * paid - terms.log_likelihood.mean().item())
    assert value.item() == pytest.approx(expected)
    torch.manual_seed(7)
    _, elbo = loss.loss_and_elbo(vae.model, vae.guide, x)
    torch.testing.assert_close(elbo, terms.log_weights.mean(0).sum().detach())


class GlobalSite(pyro.nn.PyroModule):
    """A draw outside the data plate, shared by both sides."""

    def __init__(self, scale):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(scale))
        self.observed = False

    def forward(self, x):
        pyro.sample("gate", dist.Normal(0.0, self.weight))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, self.weight))
            if self.observed:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_sites_outside_the_data_must_cancel_all_the_same():
    model, x = GlobalSite(1.0), torch.randn(5)
    model.observed = True
    terms = bound_terms(model, GlobalSite(1.0), x, 2, analytic_kl=True)
    assert set(terms.kl) == {"z"}
    with pytest.raises(zoo.UserError, match="'gate' lies outside the plate"):
        bound_terms(model, GlobalSite(1.5), x, 2, analytic_kl=True)


class Downwards(pyro.nn.PyroModule):
    """z_2 -> z_1 -> x, of scales 1, 1/2 and 1/2."""

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z_2 = pyro.sample("z_2", dist.Normal(x.new_zeros(len(x)), 1.0))
            z_1 = pyro.sample("z_1", dist.Normal(z_2, 0.5))
            pyro.sample("x", dist.Normal(z_1, 0.5), obs=x)


class Upwards(pyro.nn.PyroModule):
    """Its exact posterior, drawn in the other order: z_1 given x, z_2 given z_1."""

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            precision = 1 / 1.25 + 4
            z_1 = pyro.sample("z_1", dist.Normal(4 * x / precision, precision**-0.5))
            pyro.sample("z_2", dist.Normal(4 * z_1 / 5, 5**-0.5))


def test_a_prior_given_later_draws_has_no_closed_form():
    """KL(q(z_1|x) || p(z_1|z_2)) at a z_2 drawn after z_1 is of no bound."""
    x = torch.randn(6).double()
    terms = bound_terms(Downwards(), Upwards(), x, 20_000, analytic_kl=True)
    assert set(terms.closed_kl) == {"z_2"}  # whose prior is given nothing
    log_p = dist.Normal(0.0, 1.5**0.5).log_prob(x)
    error = terms.log_weights.std(0) / math.sqrt(20_000)
    assert ((terms.log_weights.mean(0) - log_p).abs() < 4 * error).all()
    one_draw = bound_terms(Downwards(), Upwards(), x, 3).log_weights
    torch.testing.assert_close(one_draw, log_p.expand(3, 6), check_dtype=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": "iwae"}, "weighs particles, but an analytic KL has no"),
        ({"joint_weight": 0.5}, "analytic_kl acts on the KL"),
        ({"sticking_the_landing": True}, "choose one of them"),
    ],
)
def test_options_that_exclude_it(options, message):
    with pytest.raises(zoo.UserError, match=message):
        zoo.AnnealedELBO(analytic_kl=True, **options)


def test_fit_takes_it():
    x = torch.rand(40, 2, 3).bernoulli()
    data = zoo.Dataset(x[:20], x[20:30], x[30:])
    weights = []
    for analytic in (False, True):
        torch.manual_seed(0)
        vae = small("mean_field")
        zoo.fit(vae, data, epochs=2, analytic_kl=analytic, progress=False)
        weights.append(torch.nn.utils.parameters_to_vector(vae.parameters()))
    assert not torch.equal(*weights)
    loss = make_loss(TrainOptions(analytic_kl=True))
    assert isinstance(loss, zoo.AnnealedELBO)
    assert loss.analytic_kl


def test_pytorch_and_the_bound_mean_the_same_divergence():
    """KL(q || p), not the other way round."""
    vae = small("mean_field", (3,))
    terms = bound_terms(vae.model, vae.guide, torch.ones(4, 3), analytic_kl=True)
    q, p = (t.nodes["z"]["fn"] for t in (terms.guide_trace, terms.model_trace))
    assert not torch.allclose(kl_divergence(q, p), kl_divergence(p, q))
    torch.testing.assert_close(terms.kl["z"][0], kl_divergence(q, p))
