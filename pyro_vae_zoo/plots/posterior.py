"""Two-dimensional posteriors: the guide's contours on the exact ones."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from pyro_vae_zoo.datasets import Dataset
from pyro_vae_zoo.evaluate import evaluating
from pyro_vae_zoo.plots.grid import GridDensity, posterior_densities
from pyro_vae_zoo.plots.images import draw_images, fit_columns
from pyro_vae_zoo.plots.style import (
    GUIDE,
    INK,
    dress,
    figure_title,
    make_figure,
    tint,
)
from pyro_vae_zoo.vae import VAE

__all__ = ["plot_posterior"]


def plot_posterior(
    vae: VAE,
    x: Tensor,
    *,
    masses: Sequence[float] = (0.5, 0.9, 0.99),
    columns: int = 4,
    seed: int = 0,
    data: Dataset | str | None = None,
) -> Figure:
    """q(z|x) against the exact p(z|x) of each datum, for two-dimensional latents.

    Both are contoured at the edges of their smallest regions that hold the given
    masses. The exact posterior is p(x, z) on a grid. The guide's density is exact
    too, for flows without an inverse as well: a grid in front of the flow is pushed
    through it. The gap in each panel is KL(q(z|x) || p(z|x)), by quadrature.

    Raises:
        UserError: where the latent is not one vector `"z"` of size two, and where
            the guide can score nothing but its own draws.
    """
    masses = sorted(masses)
    columns = fit_columns(x, columns)
    num_rows = -(-len(x) // columns)
    title = "Posteriors: " + figure_title(vae, data)
    fig = make_figure(2.5 * columns + 0.3, 3.0 * num_rows + 0.9, title)
    axes = list(fig.subplots(num_rows, columns, squeeze=False).flat)
    for i, ax in enumerate(axes):
        if i >= len(x):
            ax.remove()
            continue
        datum = x[i : i + 1].to(vae.device)
        with evaluating(vae.model, vae.guide, vae.device, seed):
            q, p, gap = posterior_densities(vae, datum)
        p_levels, q_levels = p.levels(masses), q.levels(masses)
        shades = [tint(0.2 + 0.55 * k / len(masses)) for k in range(len(masses))]
        ax.contourf(*_on_grid(p), [*p_levels, math.inf], colors=shades)
        lines = {"colors": GUIDE, "linestyles": "-", "linewidths": 1.2}
        ax.contour(*_on_grid(q), q_levels, **lines)
        _frame(ax, torch.cat([p.region(p_levels[0]), q.region(q_levels[0])]))
        dress(ax, "", "$z_1$", "$z_2$" if i % columns == 0 else "")
        ax.set_title(f"gap {gap:.3f} nats", loc="right", y=1.03, fontsize=9, color=INK)
        draw_images(ax.inset_axes([0, 1.03, 0.2, 0.2]), datum, 1)
    percent = ", ".join(f"{100 * m:g}" for m in masses)
    label = rf"exact $p(z\,|\,x)$: regions of {percent} % mass"
    keys = [
        Patch(color=tint(0.5), label=label),
        Line2D([], [], color=GUIDE, label=r"guide $q(z\,|\,x)$: the same regions"),
    ]
    fig.legend(
        handles=keys, frameon=False, fontsize=9, loc="outside lower center", ncols=3
    )
    return fig


def _on_grid(density: GridDensity) -> list[np.ndarray]:
    """Coordinates and log-densities as matplotlib's contours take them."""
    size = math.isqrt(len(density.z))
    values = (*density.z.T, density.log_prob)
    return [np.ma.masked_invalid(v.reshape(size, size).numpy()) for v in values]


def _frame(ax: Axes, points: Tensor) -> None:
    """Square limits around the points, with some air."""
    low, high = points.amin(0).cpu(), points.amax(0).cpu()
    centre, half = (low + high) / 2, 0.58 * (high - low).max().item()
    (x, y) = centre.tolist()
    ax.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
