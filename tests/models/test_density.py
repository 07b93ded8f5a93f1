"""Density models: log-densities against autograd, quadrature and dense algebra."""

import math

import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, quick, small
from pyro import poutine
from torch.autograd.functional import jacobian
from torch.distributions import constraints

import pyro_vae_zoo as zoo
from pyro_vae_zoo.distributions import RankOnePrecision
from pyro_vae_zoo.testing import check_vae


def trained(name, event_shape, **options):
    vae = small(name, event_shape, **options).double()
    perturb(vae)
    return vae.eval()


@torch.no_grad()
def log_prob(vae, x, num_particles=1):
    return zoo.log_likelihood(vae, x, num_particles).log_prob


def grid(n=161, limit=8.0):
    """Points of the square and their share of it."""
    ticks = torch.linspace(-limit, limit, n).double()
    cell = (2 * limit / (n - 1)) ** 2
    return torch.cartesian_prod(ticks, ticks), cell


@pytest.mark.parametrize("name", quick(zoo.list_density_models(), "maf"))
def test_density_models_keep_the_contract(name):
    check_vae(small(name), torch.randn(8, 2, 3))


def test_density_models_are_no_guides():
    assert zoo.list_density_models() == ["maf", "self_reflective_maf"]
    assert not set(zoo.list_density_models()) & set(zoo.list_guides())


# ------------------------------------------------------------------------- maf


@pytest.mark.parametrize("num_flows", [1, 2, 3])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_maf_is_the_change_of_variables(num_flows, batch_norm):
    """log N(u; 0, I) + log|det du/dx| with the Jacobian of autograd."""
    vae = trained("maf", (5,), num_flows=num_flows, batch_norm=batch_norm)
    for flow in vae.model.flows:
        if hasattr(flow, "moving_variance"):
            flow.moving_mean.normal_()
            flow.moving_variance.uniform_(0.5, 2.0)
    x = torch.randn(4, 5).double()

    def to_noise(y):
        for flow in reversed(vae.model.flows):
            y = flow.inv(y)
        return y

    expected = torch.stack(
        [
            dist.Normal(0.0, 1.0).log_prob(to_noise(row)).sum()
            + jacobian(to_noise, row).slogdet().logabsdet
            for row in x
        ]
    )
    torch.testing.assert_close(log_prob(vae, x), expected.detach())
    assert len(vae.model.flows) == num_flows + batch_norm * (num_flows - 1)


def test_maf_reverses_the_order_from_step_to_step():
    """dy_i/dy_j of the inverse is zero above, or below, the diagonal."""
    vae = trained("maf", (5,), num_flows=2)
    first, second = (
        jacobian(flow.inv, torch.randn(5).double()) for flow in vae.model.flows
    )
    assert not first.triu(1).any()
    assert first.tril(-1).any()
    assert not second.tril(-1).any()
    assert second.triu(1).any()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_maf_integrates_to_one(batch_norm):
    vae = trained("maf", (2,), num_flows=3, batch_norm=batch_norm)
    x, cell = grid(401, 20.0)
    total = (log_prob(vae, x).exp() * cell).sum()
    assert total == pytest.approx(1.0, abs=0.01)


def test_maf_is_exact_whatever_the_number_of_draws():
    vae, x = trained("maf", (2, 3)), torch.randn(7, 2, 3).double()
    one, many = zoo.evaluate(vae, x, 1), zoo.evaluate(vae, x, 5)
    assert one.elbo == one.log_likelihood == pytest.approx(many.log_likelihood)
    assert many.log_likelihood_mc_error < 1e-7  # the root of rounding
    assert one.kl == 0
    assert one.kl_per_site == {}
    assert one.reconstruction == one.log_likelihood
    assert vae.encode(x) == {}


def test_maf_samples_are_of_its_density():
    """Taken back through the flow they are noise, and their blocks are in place."""
    vae = trained("maf", (2, 3))
    torch.manual_seed(0)
    u = vae.sample(20_000).flatten(1)
    for flow in reversed(vae.model.flows):
        u = flow.inv(u)
    error = 4 / math.sqrt(len(u))
    assert u.mean(0).abs().max() < error
    assert (u.T.cov() - torch.eye(6)).abs().max() < 2 * error


def test_batch_normalisation_is_not_trained_on_one_datum():
    vae = small("maf", batch_norm=True)
    x = torch.randn(3, 2, 3)
    data = zoo.Dataset(x, x, x, "gaussian")
    assert vae.sample(1).isfinite().all()
    with pytest.raises(zoo.UserError, match="batch_size=2 makes one of 1 out of 3"):
        zoo.fit(vae, data, epochs=1, batch_size=2, progress=False)
    zoo.fit(vae, data, epochs=1, batch_size=3, progress=False)
    assert log_prob(vae, x[:1]).isfinite().all()


def test_losses_that_act_on_latents_leave_maf_its_density():
    vae, x = trained("maf", (2, 3)), torch.randn(5, 2, 3).double()
    expected = -log_prob(vae, x).sum()
    for options in (
        {"sticking_the_landing": True}, {"analytic_kl": True}, {"free_bits": 1.0},
        {"bound": "iwae", "num_particles": 3},
    ):  # fmt: skip
        loss = zoo.AnnealedELBO(**options)(vae.model, vae.guide)(x)
        torch.testing.assert_close(loss, expected)


def test_maf_flattens_images_a_pixel_after_the_other():
    vae = small("maf", (3, 4, 4))
    x = torch.randn(2, 3, 4, 4)
    trace = poutine.trace(vae.model).get_trace(x)
    assert torch.equal(trace.nodes["x"]["value"], x.permute(0, 2, 3, 1).flatten(1))
    assert torch.equal(vae.model(x), x)


# ------------------------------------------------- the Gaussian of rank-one precision


@pytest.fixture
def gaussian():
    loc, u = torch.randn(2, 4, 6).double()
    diag = torch.rand(4, 6).double() + 0.1
    precision = diag.diag_embed() + u[..., None] * u[..., None, :]
    return RankOnePrecision(loc, diag, 3 * u), dist.MultivariateNormal(
        loc, precision_matrix=precision + 8 * u[..., None] * u[..., None, :]
    )


def test_rank_one_precision_is_the_dense_gaussian(gaussian):
    ours, dense = gaussian
    x = 2 * torch.randn(10, 4, 6).double()
    torch.testing.assert_close(ours.log_prob(x), dense.log_prob(x))
    assert (ours.batch_shape, ours.event_shape) == ((4,), (6,))
    torch.testing.assert_close(ours.mean, dense.mean)


def test_rank_one_precision_draws_have_its_covariance(gaussian, monkeypatch):
    """Draws are linear in the noise, so that unit noise shows the factor itself."""
    ours, dense = gaussian
    monkeypatch.setattr(
        torch, "randn_like", lambda like: torch.eye(6).double()[:, None]
    )
    factor = (ours.rsample((6,)) - ours.loc).permute(1, 2, 0)
    covariance = factor @ factor.transpose(-1, -2)
    torch.testing.assert_close(covariance, dense.covariance_matrix)


def test_rank_one_precision_draws_are_independent_and_have_gradients(gaussian):
    ours, _ = gaussian
    draws = ours.sample((3, 2))
    assert draws.shape == (3, 2, 4, 6)
    assert len(draws.flatten().unique()) == draws.numel()
    u = torch.ones(6, requires_grad=True)
    RankOnePrecision(torch.zeros(6), torch.ones(6), u).rsample().sum().backward()
    assert u.grad.abs().sum() > 0


def test_rank_one_precision_expands_and_validates(gaussian):
    ours, _ = gaussian
    wide = ours.expand((5, 4))
    x = torch.randn(5, 4, 6).double()
    torch.testing.assert_close(wide.log_prob(x), ours.log_prob(x))
    one = torch.ones(3)
    with pytest.raises(ValueError, match="diag"):
        RankOnePrecision(one, -one, one, validate_args=True)
    checked = RankOnePrecision(one, one, one, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(one * math.nan)
    assert checked.support is constraints.real_vector


# ------------------------------------------------------------ self_reflective_maf


def test_data_layers_are_the_change_of_variables():
    vae = trained("self_reflective_maf", (3, 4))
    layer = vae.model.data_layers[1]
    z, above = torch.randn(1, 2).double(), torch.randn(1, 4).double()
    p_x = layer(z, above)
    x = torch.randn(1, 4).double()

    def to_noise(y):
        for step in reversed(p_x.transforms):
            y = step.inv(y)
        return y

    log_det = jacobian(lambda y: to_noise(y[None])[0], x[0]).slogdet().logabsdet
    expected = p_x.base_dist.log_prob(to_noise(x)) + log_det
    torch.testing.assert_close(p_x.log_prob(x), expected)


def test_data_layers_see_z_and_the_block_above_in_base_and_steps():
    vae = trained("self_reflective_maf", (3, 4))
    layer = vae.model.data_layers[1]
    z, above = torch.randn(1, 2).double(), torch.randn(1, 4).double()

    def parts(z, above):
        p_x = layer(z, above)
        y = torch.ones(1, 4).double()
        return torch.cat(
            [p_x.base_dist.loc, p_x.base_dist.u, *(t.inv(y) for t in p_x.transforms)]
        )

    for gradient in jacobian(parts, (z, above)):
        assert (gradient.flatten(2).abs().sum((1, 2)) > 0).all()


@pytest.mark.slow
def test_the_hierarchical_flow_integrates_to_one():
    """Importance-sampled p(x) over a grid of the plane, two layers of one dimension."""
    torch.manual_seed(3)
    vae = small("self_reflective_maf", (2,), num_layers=2, block_sizes=(1, 1)).double()
    perturb(vae.model, 0.35)
    x, cell = grid(61, 10.0)
    ll = zoo.log_likelihood(vae, x, 200)
    p = ll.log_prob.exp() * cell
    error = (p * ll.std_error).square().sum().sqrt()
    assert error < 0.005
    assert abs(p.sum() - 1) < 4 * error + 0.01


def test_the_hierarchical_flow_has_ten_mades_like_maf():
    options = {"event_shape": (3, 4, 4), "likelihood": "gaussian"}
    flat = zoo.create("maf", flow_hidden_dims=(8,), **options)
    deep = zoo.create("self_reflective_maf", flow_hidden_dims=(8,), **options)
    steps = [step for layer in deep.model.data_layers for step in layer.steps]
    assert len(steps) == len(flat.model.flows) == 10


@pytest.mark.parametrize("bijector", quick(["affine", "iaf", "spline_coupling"]))
def test_bijectors_keep_the_contract(bijector):
    check_vae(small("self_reflective_maf", bijector=bijector), torch.randn(8, 2, 3))


# ------------------------------------------------------------------------ mistakes


def test_a_likelihood_that_is_refused_is_called_by_its_name():
    with pytest.raises(zoo.UserError, match="got 'binomial'; use --data"):
        zoo.create("maf", zoo.load_dataset("digits"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "maf",
            {"likelihood": "bernoulli"},
            "density model of real numbers.*--data cifar10",
        ),
        (
            "self_reflective_maf",
            {"likelihood": "bernoulli"},
            "expected likelihood 'gaussian', got 'bernoulli'",
        ),
        ("maf", {"num_flows": 0}, "num_flows must be at least 1, got 0"),
        ("self_reflective_maf", {"num_flows": -1}, "must not be negative, got -1"),
        ("self_reflective_maf", {"hidden_dims": ()}, "hidden_dims must be positive"),
        ("self_reflective_maf", {"num_layers": 7}, "7"),
        ("self_reflective_maf", {"bijector": "radial"}, "unknown bijector 'radial'"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(zoo.UserError, match=message):
        small(name, **options)


def test_grey_levels_have_no_density():
    """The likelihood of a point that comes again and again grows without bound."""
    grey = torch.randint(256, (8, 12, 12)) / 255
    quantised = zoo.Dataset(grey, grey, grey, "gaussian", "mnist_gray")
    for name in zoo.list_density_models():
        with pytest.raises(zoo.UserError, match="few values of mnist_gray; dequantise"):
            zoo.create(name, quantised)
    zoo.create("mean_field", quantised)
    real = zoo.Dataset(*[torch.randn(8, 12, 12)] * 3, "gaussian")
    dequantised = zoo.Dataset(grey, grey, grey, "gaussian", logit=0.05)
    for data in (real, dequantised):
        zoo.create("maf", data, num_flows=1, flow_hidden_dims=(8,))


def test_the_hierarchys_flows_reverse_their_order_too():
    vae = trained("self_reflective_maf", (3, 4))
    p_x = vae.model.data_layers[1](
        torch.randn(1, 2).double(), torch.randn(1, 4).double()
    )
    first, second = (
        jacobian(lambda y, t=t: t.inv(y[None])[0], torch.randn(4).double())
        for t in p_x.transforms
    )
    assert not first.triu(1).any()
    assert not second.tril(-1).any()
    assert second.triu(1).any()
