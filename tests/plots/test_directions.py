"""Posteriors of any size, in the plane where they are widest."""

import numpy as np
import pytest
import torch
from pairs import linear_gaussian, small

from pyro_vae_zoo import plots
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.local import local_draws
from pyro_vae_zoo.plots.directions import _density


@pytest.fixture(scope="module")
def truth():
    return linear_gaussian(latent_dim=3, event_dim=4)


def sds(truth):
    """Standard deviations of p(z|x), from the widest direction on."""
    return torch.linalg.eigvalsh(truth.covariance).sqrt().flip(0)


def test_weighted_draws_are_of_the_posterior(truth):
    torch.manual_seed(0)
    x = truth.marginal.sample((2,))
    vae = truth.vae(truth.gaussian_guide(widen=1.4, shift=0.2))
    z, log_weights = local_draws(vae, x, 4000, num_steps=50)
    assert z.shape == (2, 4000, 3)
    weights = log_weights.softmax(1)
    mean = (weights[..., None] * z).sum(1)
    spread = z - mean[:, None]
    found = torch.einsum("nk,nki,nkj->nij", weights, spread, spread)
    posterior = truth.posterior(x)
    assert torch.allclose(mean, posterior.mean, atol=0.05)
    assert torch.allclose(found, truth.covariance.expand(2, 3, 3), atol=0.05)


def test_the_axes_are_the_widest_directions(truth, tmp_path):
    torch.manual_seed(0)
    x = truth.marginal.sample((3,))
    fig = plots.plot_directions(truth.vae(), x, num_draws=2000)
    widest, following = sds(truth)[:2].tolist()
    for ax in fig.axes:
        assert float(ax.get_xlabel().split()[-1]) == pytest.approx(widest, rel=0.1)
        if ax.get_ylabel():
            found = float(ax.get_ylabel().split()[-1])
            assert found == pytest.approx(following, rel=0.1)
        assert "effective draws" in ax.get_title(loc="right")
    assert plots.save_figure(fig, tmp_path / "posterior.png").stat().st_size > 10_000


def test_a_density_of_draws_has_their_mass():
    torch.manual_seed(0)
    scale = torch.tensor([2.0, 0.5]).double()
    points = torch.randn(3000, 2).double() * scale + 1
    found = _density(points, torch.full((3000,), 1 / 3000).double())
    p = torch.distributions.Normal(torch.ones(2).double(), scale)
    exact = p.log_prob(found.z).sum(1)
    near = exact > exact.max() - 2
    assert (found.log_prob - exact)[near].abs().max() < 0.35
    mean = (found.mass[:, None] * found.z).sum(0)
    np.testing.assert_allclose(mean, [1, 1], atol=0.15)


def test_draws_that_count_as_a_few_are_called_so(truth):
    vae, x = truth.vae(), 40 * torch.ones(1, 4).double()
    fig = plots.plot_directions(vae, x, num_draws=31)
    assert fig.axes[0].get_title(loc="right") != ""
    few = plots.plot_directions(vae, x, num_draws=20)
    assert few.axes[0].get_title(loc="right").endswith("fitted q")


@pytest.mark.parametrize("guide", ["ladder", "gated_dag"])
def test_other_latents_are_refused(guide):
    vae = small(guide)
    with pytest.raises(UserError, match="whose only latent is a real vector"):
        plots.plot_directions(vae, torch.zeros(1, 2, 3))


def test_one_dimension_is_refused():
    vae = small("mean_field", latent_dim=1)
    with pytest.raises(UserError, match="at least two dimensions, got one"):
        plots.plot_directions(vae, torch.zeros(1, 2, 3), num_draws=10)
