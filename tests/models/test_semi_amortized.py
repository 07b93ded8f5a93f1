"""Semi-amortised inference: what the gradient steps do, and what goes back through them."""

import pytest
import torch
from pairs import LinearGaussian, perturb, small
from test_mixture import bits
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.semi_amortized import SemiAmortizedGuide, clip
from pyro_vae_zoo.models.standard import DiagonalGaussian


def test_no_steps_are_mean_field_bit_for_bit():
    """X4: the same seed gives the same weights and the same numbers."""
    x, results = bits().float(), []
    for name, options in (("mean_field", {}), ("semi_amortized", {"num_steps": 0})):
        torch.manual_seed(3)
        vae = small(name, **options)
        results.append(zoo.log_likelihood(vae, x, 50).log_prob)
    assert torch.equal(*results)


@pytest.fixture(scope="module")
def truth():
    """Two latents that are independent given x: mean field can be exact."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]])
    return LinearGaussian(weight, torch.tensor([0.3, -0.2, 0.1]), scale=0.5)


def from_the_prior(truth, **options):
    """The true model, and a guide that starts every datum from N(0, I)."""
    posterior = DiagonalGaussian(3, 2).double()
    for p in posterior.parameters():
        nn.init.zeros_(p)
    model = truth.model()
    settings = {"num_steps": 0, "step_size": 0.03, "max_norm": 100.0} | options
    guide = SemiAmortizedGuide(nn.Identity(), posterior, model, **settings)
    return zoo.VAE(model, guide, (3,))


def test_steps_lead_from_the_prior_to_the_posterior(truth):
    x = truth.marginal.sample((64,))
    exact = truth.marginal.log_prob(x).mean().item()
    gaps = []
    for num_steps in (0, 2, 8, 64):
        vae = from_the_prior(truth, num_steps=num_steps)
        gaps.append(exact - zoo.evaluate(vae, x, 500, chunk_rows=64 * 20).elbo)
    assert gaps[0] > 1.5
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.03 * gaps[0]


def test_the_kl_to_a_learned_prior_is_right_on_average():
    """That of a mixture of one component, which is a Gaussian."""
    vae = small("semi_amortized", prior="mixture", prior_components=1).double()
    perturb(vae, 0.5)
    loc, log_variance = torch.randn(2, 1, 2, dtype=torch.double)
    q = torch.distributions.Normal(loc, (0.5 * log_variance).exp())
    q = torch.distributions.Independent(q, 1)
    estimates = vae.guide.kl(q.sample((100_000,)), loc, log_variance)
    expected = torch.distributions.kl_divergence(q, vae.model.prior())
    error = estimates.std().item() / 100_000**0.5
    assert estimates.mean().item() == pytest.approx(expected.item(), abs=4 * error)


def test_a_step_is_no_longer_than_its_bound():
    slopes = [torch.randn(50, 3) * 10, torch.randn(50, 3)]
    slopes[0][0] = slopes[1][0] = 0
    slopes[0][1:3] *= 1e-3
    slopes[1][1:3] *= 1e-3
    clipped = clip(slopes, 2.0)
    before, after = (torch.cat(s, -1).norm(dim=-1) for s in (slopes, clipped))
    torch.testing.assert_close(after, before.clamp(max=2.0))
    assert (before[:3] < 2).all()
    assert (before[3:] > 2).any()  # and all below, which are left as they are


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_the_gradient_goes_back_through_the_steps(max_norm):
    """Of the refined parameters to the encoder's and the decoder's, by differences."""
    torch.manual_seed(0)
    vae = small("semi_amortized", num_steps=3, max_norm=max_norm, activation="tanh")
    vae = vae.double()
    perturb(vae)
    x, guide = bits(), vae.guide
    weights = [guide.posterior.linear.weight, vae.model.decoder[0].weight]

    def refined(*_):
        torch.manual_seed(1)
        q = guide.refine(x, guide.posterior(guide.encoder(x))).base_dist
        return q.loc, q.scale

    assert torch.autograd.gradcheck(refined, weights)


def test_evaluation_leaves_no_graph_behind():
    vae = small("semi_amortized", num_steps=2)
    with torch.no_grad():
        z = vae.guide(torch.ones(3, 2, 3))
    assert not z.requires_grad
    with torch.inference_mode():
        assert vae.guide(torch.ones(3, 2, 3)).shape == (3, 2)
    zoo.log_likelihood(vae, torch.ones(3, 2, 3), 10)
    assert all(p.grad is None for p in vae.parameters())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_steps", -1, "num_steps must not be negative, got -1"),
        ("step_size", 0.0, "step_size must be positive, got 0.0"),
        ("max_norm", -1.0, "max_norm must be positive, got -1.0"),
    ],
)
def test_options_out_of_range(option, value, message):
    with pytest.raises(zoo.UserError, match=message):
        small("semi_amortized", **{option: value})


@pytest.mark.parametrize("step_size", [1e-5, 0.1])
def test_sticking_the_landing_is_refused_however_small_the_steps(step_size):
    vae = small("semi_amortized", step_size=step_size)
    loss = zoo.AnnealedELBO(sticking_the_landing=True)
    with pytest.raises(zoo.UserError, match="draws more than its latent sites"):
        loss.differentiable_loss(vae.model, vae.guide, torch.ones(3, 2, 3))


def test_no_bound_on_the_steps():
    far, none = (
        small("semi_amortized", max_norm=bound) for bound in (1e20, float("inf"))
    )
    none.load_state_dict(far.state_dict())
    x = torch.ones(3, *far.event_shape)
    codes = []
    for vae in (far, none):
        torch.manual_seed(0)
        codes.append(vae.encode(x))
    assert codes[0].isfinite().all()
    assert torch.equal(*codes)


def test_a_guide_runs_in_inference_mode():
    vae = small("semi_amortized")
    x = torch.ones(3, *vae.event_shape)
    with torch.inference_mode():
        z = vae.guide(x)
    assert z.isfinite().all()


def test_reflections_take_the_noise_of_first_order_from_a_step(truth):
    """A linear model's bound is a parabola in z: the step of the mean has no noise left."""
    x = truth.marginal.sample((5,))
    spread = []
    for antithetic in (True, False):
        guide = from_the_prior(truth, num_steps=1, antithetic=antithetic).guide
        q = guide.posterior(guide.encoder(x))
        means = torch.stack([guide.refine(x, q).base_dist.loc for _ in range(50)])
        spread.append(means.std(0).max().item())
    assert spread[0] < 1e-12
    assert spread[1] > 0.01


def test_weights_of_version_0_1_0_have_one_draw():
    assert zoo.load("semi_amortized-mnist_static").guide.antithetic is False
    assert small("semi_amortized").guide.antithetic is True
