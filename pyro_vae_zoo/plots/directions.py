"""Posteriors of any size: the guide's in the two directions that are widest."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.stats import gaussian_kde
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.scales import scale_of
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.grid import GridDensity
from pyro_vae_zoo.evaluation.local import local_draws
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.plots.images import known_of, pixels_of
from pyro_vae_zoo.plots.posterior import draw_legend, frame, outline, shade, with_range
from pyro_vae_zoo.plots.raster import draw_thumbnail
from pyro_vae_zoo.plots.style import (
    GUIDE,
    INK,
    dress,
    figure_title,
    key_of,
    make_figure,
    tint,
)

__all__ = ["plot_directions"]

_SIDE = 61  # points on a side of a density's grid
_FEWEST = 30.0  # draws that weights have to count as, to be a posterior's


def plot_directions(
    vae: VAE,
    x: Tensor,
    *,
    num_draws: int = 2000,
    masses: Sequence[float] = (0.5, 0.8),
    seed: int = 0,
    data: Dataset | str | None = None,
) -> Figure:
    r"""q(z|x) of single data on their posteriors, where these are widest.

    Of each datum the posterior is draws of a q of its own, weighted by p(x, z) / q(z) (see
    `local_log_likelihood`), none by more than sqrt(num_draws) times the mean (Ionides
    2008). Its two principal directions are the axes; both densities are kernel estimates
    of the draws in that plane, and contoured at the edges of their smallest regions of the
    given masses. Where the weights count as fewer than 30 draws the q is drawn as it is,
    and the panel says so.

    Args:
        vae: a pair of one latent vector, of size two or more.
        x: a few data, one for each panel.
        num_draws: of each q, for each datum.
        masses: of the regions.
        seed: of the draws.
        data: names them, and gives the scale of their pictures.

    Raises:
        UserError: for other latents.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("iaf", event_shape=(8, 8), latent_dim=3)
    >>> len(plot_directions(vae, torch.zeros(2, 8, 8), num_draws=50).axes)
    2
    """
    x = vae.check_data(x)
    z, log_weights = local_draws(vae, x, num_draws, seed=seed)
    if z.shape[-1] < 2:
        raise UserError("expected a latent vector of at least two dimensions, got one")
    with evaluating(vae.model, vae.guide, vae.device, seed):
        guide = vae.encode(x, num_draws).double().transpose(0, 1).cpu()
    pixels = pixels_of(x, data)
    scale = scale_of(known_of(data, pixels), pixels, likelihood=vae.likelihood)
    title = with_range("Posteriors: " + figure_title(vae, data), scale, pixels)
    lines = title.count("\n")  # pictures of the data reach up to the last one
    fig = make_figure(max(2.6 * len(x) + 0.3, 3.6), 3.6 + 0.25 * lines, title)
    axes = fig.subplots(1, len(x), squeeze=False)[0]
    for i, ax in enumerate(axes):
        _draw(ax, z[i], _truncated(log_weights[i]), guide[i], sorted(masses))
        if ax is not axes[0]:
            ax.set_ylabel("")
        draw_thumbnail(ax.inset_axes((0, 1.03, 0.2, 0.2)), pixels[i], scale)
    percent = ", ".join(f"{100 * m:g}" for m in masses)
    posterior = Patch(
        color=tint(0.5), label=rf"$p(z\,|\,x)$: regions of {percent} % mass"
    )
    same = key_of(r"guide $q(z\,|\,x)$: the same regions", color=GUIDE)
    draw_legend(fig, [posterior, same])
    return fig


def _truncated(log_weights: Tensor) -> Tensor:
    """Weights of draws, normalised, none above sqrt(their number) times their mean."""
    weights = log_weights.softmax(0)
    weights = weights.clamp(max=len(weights) ** -0.5)
    return weights / weights.sum()


def _draw(
    ax: Axes, z: Tensor, weights: Tensor, guide: Tensor, masses: Sequence[float]
) -> None:
    """One datum's panel: draws of its own q with their weights, draws of the guide."""
    ess = 1 / weights.square().sum().item()
    if known := ess >= _FEWEST:
        note = f"{ess:.0f} effective draws"
    else:
        weights, note = (
            torch.full_like(weights, 1 / len(weights)),
            f"ESS {ess:.0f}: fitted q",
        )
    centre = weights @ z
    spread = (z - centre) * weights[:, None].sqrt()
    _, sizes, axes = torch.linalg.svd(spread, full_matrices=False)
    plane = axes[:2].T
    on_plane = [(points - centre) @ plane for points in (z, guide)]
    p = _density(on_plane[0], weights)
    q = _density(on_plane[1], torch.full((len(guide),), 1 / len(guide)).double())
    shade(ax, p, masses)
    outline(ax, q, masses, colors=GUIDE, linestyles="-", linewidths=1.2)
    frame(ax, torch.cat([p.region(masses[-1]), q.region(masses[-1])]))
    dress(ax, "", f"widest, sd {sizes[0]:.2f}", f"next, sd {sizes[1]:.2f}")
    ax.set_title(note, loc="right", y=1.03, fontsize=8.5, color=INK if known else GUIDE)


def _density(points: Tensor, weights: Tensor) -> GridDensity:
    """A kernel estimate of weighted points `(n, 2)`, on a grid of their range."""
    centre = weights @ points
    sd = (weights @ (points - centre).square()).sqrt().clamp(min=1e-6)
    steps = torch.linspace(-4.5, 4.5, _SIDE).double()
    across, up = torch.meshgrid(steps, steps, indexing="xy")
    grid = torch.stack([across.flatten(), up.flatten()], -1)  # in standard deviations
    kernels = gaussian_kde(((points - centre) / sd).T.numpy(), weights=weights.numpy())
    log_prob = torch.from_numpy(kernels.logpdf(np.ascontiguousarray(grid.T.numpy())))
    log_prob = log_prob - math.log(sd.prod().item())
    return GridDensity(centre + grid * sd, log_prob, log_prob.softmax(0), _SIDE)
