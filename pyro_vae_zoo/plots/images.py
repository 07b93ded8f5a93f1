"""Data and their images under a model: samples, reconstructions, traversals.

Images lie side by side, on a scale of grey levels; vectors are curves in panels with an
axis. Both are on the scale of the data: see `scales`.
"""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.scales import Scale, scale_of
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.draws import means_of
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import data_sites, mean_or_draw
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.plots.raster import fit_columns, image_figure
from pyro_vae_zoo.plots.style import Look, figure_title, key_of
from pyro_vae_zoo.plots.vectors import DATA, MODEL, shades, vector_figure

__all__ = ["plot_images", "plot_reconstructions", "plot_samples", "plot_traversal"]

_IN_A_ROW = 4  # panels of vectors, where each has several curves


def plot_images(
    images: Tensor,
    *,
    columns: int = 8,
    title: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A grid of images `(n, H, W)`, `(n, 3, H, W)`, or of vectors `(n, D)` as curves.

    Args:
        images: what is drawn.
        columns: in a row.
        title: of the figure.
        limits: the least and the largest value that is drawn, others being clipped.
            By default [0, 1] for images within it, and what there is for others.

    Raises:
        UserError: for no images, and for other shapes.
    """
    scale = Scale(*limits) if limits else scale_of(images, images)
    return sheet(images, columns, title, scale)


def plot_samples(
    vae: VAE,
    n: int = 64,
    *,
    seed: int = 0,
    data: Dataset | str | None = None,
    beside: Tensor | None = None,
) -> Figure:
    """E[x|z] for `n` draws z ~ p(z), beside data where they are given.

    Where p(x|z) is a flow, which has no mean in closed form, a draw stands for it. Of
    dequantised data it is the pixel of the mean, which is the pixel's median.

    Args:
        vae: the pair.
        n: number of draws.
        seed: of the draws.
        data: their name, scale and pixels.
        beside: images `(m, H, W)` or `(m, 3, H, W)` for the left half. Where there are
            fewer than n, so many are drawn.
    """
    n = count("n", n if beside is None else min(n, len(beside)))
    with evaluating(vae.model, vae.guide, vae.device, seed):
        images = pixels_of(vae.sample(n, mean=True), data)
        name = _name_of_mean(vae, data)
    columns = min(math.ceil(math.sqrt(n)), 16)
    scale = scale_of(known_of(data, images), images, likelihood=vae.likelihood)
    title = "Samples: " + figure_title(vae, data)
    if beside is None or images.dim() == 2:
        return sheet(images, columns, title, scale)
    halves = (pixels_of(beside[:n].to(images), data), images)
    rows = zip(*(half.split(columns) for half in halves), strict=True)
    parts = [
        [_filled(left, columns + 1), _filled(right, columns)] for left, right in rows
    ]
    heads = [""] * (2 * columns + 1)
    heads[(columns - 1) // 2] = "data"
    heads[columns + 1 + (columns - 1) // 2] = f"samples of $z$, {name}"
    sides = torch.cat([part for row in parts for part in row])
    return sheet(sides, len(heads), title, scale, heads)


def plot_reconstructions(
    vae: VAE,
    x: Tensor,
    *,
    columns: int = 8,
    seed: int = 0,
    data: Dataset | str | None = None,
) -> Figure:
    """Each datum above E[x|z] for one z ~ q(z|x); vectors in one panel with it.

    The picture names what stands for E[x|z] where there is none in closed form.
    """
    x = vae.check_data(x).to(vae.device)
    columns = fit_columns(x, columns)
    with evaluating(vae.model, vae.guide, vae.device, seed):
        again = pixels_of(vae.reconstruct(x), data)
        name = _name_of_mean(vae, data)
    x = pixels_of(x, data)
    title = "Reconstructions: " + figure_title(vae, data)
    scale = scale_of(known_of(data, x), x, again, likelihood=vae.likelihood)
    if x.dim() == 2:
        panels = [[(a, DATA), (b, MODEL)] for a, b in zip(x, again, strict=True)]
        keys = [key_of("$x$", **DATA), key_of(name, **MODEL)]
        return vector_figure(panels, min(columns, _IN_A_ROW), title, scale, keys=keys)
    pairs = [
        torch.cat([_filled(part, columns) for part in rows])
        for rows in zip(x.split(columns), again.split(columns), strict=True)
    ]
    rows = ["$x$", name] * len(pairs)
    return image_figure(torch.cat(pairs), columns, title, scale, rows=rows, group=2)


def plot_traversal(
    vae: VAE,
    x: Tensor,
    *,
    max_rows: int = 10,
    columns: int = 9,
    seed: int = 0,
    data: Dataset | str | None = None,
) -> Figure:
    """E[x|z] as one latent after the other moves from -3 to 3.

    The others stay at the posterior mean of `x[0]`. The rows, or for vectors the panels,
    are the most active latents: those of the least posterior variance, averaged over
    `x`.

    Raises:
        UserError: where the model has other latent sites than one vector `"z"`.
    """
    x = vae.check_data(x).to(vae.device)
    columns, max_rows = count("columns", columns), count("max_rows", max_rows)
    with evaluating(vae.model, vae.guide, vae.device, seed):
        draws = vae.encode(x, num_samples=100)
        if isinstance(draws, dict) or draws.dim() != 3:
            raise UserError("a traversal needs a model of one latent vector 'z'")
        sd = draws.var(0).mean(0).sqrt()
        dims = sd.argsort()[:max_rows].tolist()
        values = torch.linspace(-3, 3, columns)
        z = draws[:, 0].mean(0).repeat(len(dims), columns, 1)
        for row, dim in enumerate(dims):
            z[row, :, dim] = values
        z = z.flatten(0, 1)
        decode = poutine.condition(poutine.uncondition(vae.model), data={"z": z})
        trace = poutine.trace(decode).get_trace(vae._blank(len(z)))
        images = pixels_of(mean_or_draw(data_sites(trace)["x"]), data)
    title = "Traversal: " + figure_title(vae, data)
    known = known_of(data, pixels_of(x, data))
    scale = scale_of(known, images, likelihood=vae.likelihood)
    names = [f"$z_{{{dim + 1}}}$  (sd {sd[dim]:.2f})" for dim in dims]
    heads = [f"${value:g}$" for value in values.tolist()]
    if images.dim() == 2:
        looks: list[Look] = [{"color": c, "lw": 0.9} for c in shades(columns)]
        panels = [list(zip(v, looks, strict=True)) for v in images.split(columns)]
        shown = sorted({0, columns // 2, columns - 1})
        keys = [key_of(f"latent at {heads[i]}", **looks[i]) for i in shown]
        return vector_figure(panels, _IN_A_ROW, title, scale, names=names, keys=keys)
    return image_figure(images, columns, title, scale, rows=names, heads=heads)


def sheet(
    images: Tensor,
    columns: int,
    title: str | None,
    scale: Scale,
    heads: Sequence[str] = (),
) -> Figure:
    """A grid of images, or of vectors, with names for its columns."""
    columns = fit_columns(images, columns)
    if images.dim() != 2:
        return image_figure(images, columns, title, scale, heads=heads)
    panels = [[(vector, MODEL)] for vector in images]
    return vector_figure(panels, columns, title, scale, heads=heads)


def pixels_of(x: Tensor, data: Dataset | str | None) -> Tensor:
    """The pixels of `x`, where the data know a map to them, else `x`."""
    return data.pixels(x) if isinstance(data, Dataset) else x


def known_of(data: Dataset | str | None, x: Tensor) -> Dataset | Tensor:
    """The whole data where they are given, or `x`, of which `scale_of` is the scale."""
    return data if isinstance(data, Dataset) else x


def _name_of_mean(vae: VAE, data: Dataset | str | None) -> str:
    """The name of what `vae.reconstruct` gives, as `pixels_of` shows it."""
    parts, known = means_of(vae)
    if not known:
        return r"draw of $x\,|\,z$"
    if parts > 1:  # those of a block are given a draw of the block before
        return r"$E[x_l\,|\,z_l, x_{l-1}]$"
    dequantised = isinstance(data, Dataset) and data.logit is not None
    return r"median of $x\,|\,z$" if dequantised else r"$E[x\,|\,z]$"


def _filled(images: Tensor, columns: int) -> Tensor:
    """A row that is not full, filled up with blanks."""
    blank = images.new_full((columns - len(images), *images.shape[1:]), math.nan)
    return torch.cat([images, blank])
