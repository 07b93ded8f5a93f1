"""Two-dimensional posteriors: the guide's contours on the exact ones."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.scales import Scale, range_note, scale_of
from pyro_vae_zoo.evaluation.grid import GridDensity, posterior_densities
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.plots.images import known_of, pixels_of
from pyro_vae_zoo.plots.raster import draw_thumbnail, fit_columns
from pyro_vae_zoo.plots.style import (
    GUIDE,
    INK,
    add_legend,
    dress,
    figure_title,
    key_of,
    make_figure,
    tint,
)

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
    x = vae.check_data(x)
    num_rows = -(-len(x) // columns)
    pixels = pixels_of(x, data)
    scale = scale_of(known_of(data, pixels), pixels, likelihood=vae.likelihood)
    title = with_range("Posteriors: " + figure_title(vae, data), scale, pixels)
    fig = make_figure(max(2.5 * columns + 0.3, 3.6), 3.0 * num_rows + 0.9, title)
    axes = list(fig.subplots(num_rows, columns, squeeze=False).flat)
    for i, ax in enumerate(axes):
        if i >= len(x):
            ax.remove()
            continue
        datum = x[i : i + 1].to(vae.device)
        with evaluating(vae.model, vae.guide, vae.device, seed):
            q, p, gap = posterior_densities(vae, datum)
        shade(ax, p, masses)
        outline(ax, q, masses, colors=GUIDE, linestyles="-", linewidths=1.2)
        frame(ax, torch.cat([p.region(masses[-1]), q.region(masses[-1])]))
        dress(ax, "", "$z_1$", "$z_2$" if i % columns == 0 else "")
        ax.set_title(f"gap {gap:.3f} nats", loc="right", y=1.03, fontsize=9, color=INK)
        draw_thumbnail(ax.inset_axes((0, 1.03, 0.2, 0.2)), pixels[i], scale)
    guide = key_of(r"guide $q(z\,|\,x)$: the same regions", color=GUIDE)
    draw_legend(fig, [exact_key(masses), guide])
    return fig


def with_range(title: str, scale: Scale, pixels: Tensor) -> str:
    """A title that names the scale of the thumbnails, where they are not in [0, 1]."""
    note = range_note(scale, tuple(pixels.shape[1:]))
    return f"{title}\nx: {note}" if note else title


def shade(ax: Axes, density: GridDensity, masses: Sequence[float]) -> None:
    """Fill the smallest regions that hold the masses, rising; the inner are darker."""
    levels = _edges(density, masses)
    shades = [tint(0.2 + 0.55 * k / len(levels)) for k in range(len(levels))]
    for grid in _on_grids(density):
        ax.contourf(*grid, [*levels, math.inf], colors=shades)


def outline(
    ax: Axes, density: GridDensity, masses: Sequence[float], **lines: Any
) -> None:
    """Draw the edges of the smallest regions that hold the masses."""
    levels = _edges(density, masses)
    # Where a mixture's grids overlap, each has the same lines.
    for x, y, log_prob in _on_grids(density):
        if any(log_prob.min() < level < log_prob.max() for level in levels):
            ax.contour(x, y, log_prob, levels, **lines)


def region_edges(
    density: GridDensity, masses: Sequence[float]
) -> list[list[np.ndarray]]:
    """For each mass, rising, the lines `(n, 2)` around its smallest region."""
    ax = Figure().add_subplot()
    levels = density.levels(masses)
    found: list[list[np.ndarray]] = [[] for _ in levels]
    for x, y, log_prob in _on_grids(density):
        for lines, level in zip(reversed(found), levels, strict=True):
            if log_prob.min() < level < log_prob.max():
                lines += ax.contour(x, y, log_prob, [level]).allsegs[0]
    return found


def frame(ax: Axes, points: Tensor) -> None:
    """Square limits around the points, with some air."""
    low, high = points.amin(0).cpu(), points.amax(0).cpu()
    centre, half = (low + high) / 2, 0.58 * (high - low).max().item()
    (x, y) = centre.tolist()
    ax.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")


def exact_key(masses: Sequence[float]) -> Patch:
    """The legend's entry for what `shade` has drawn of the exact posterior."""
    percent = ", ".join(f"{100 * m:g}" for m in masses)
    label = rf"exact $p(z\,|\,x)$: regions of {percent} % mass"
    return Patch(color=tint(0.5), label=label)


def draw_legend(fig: Figure, keys: Sequence[Artist]) -> None:
    """A legend under all panels, in as many columns as the figure has room for."""
    add_legend(fig, keys, ncols=max(int(fig.get_figwidth() / 3.2), 1))


def _edges(density: GridDensity, masses: Sequence[float]) -> list[float]:
    """The levels of the regions; one, where a point of the grid has all their mass."""
    return sorted(set(density.levels(masses)))


def _on_grids(density: GridDensity) -> Iterator[list[np.ndarray]]:
    """Coordinates and log-densities, grid by grid, as matplotlib's contours take them."""
    values = (*density.z.T, density.log_prob)
    shape = -1, density.side, density.side
    grids = [np.ma.masked_invalid(v.reshape(shape).numpy()) for v in values]
    yield from zip(*grids, strict=True)
