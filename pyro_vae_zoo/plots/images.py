"""Images: samples, reconstructions and traversals of the latents."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from pyro_vae_zoo.datasets import Dataset
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.modes import evaluating
from pyro_vae_zoo.plots.style import (
    COLOURS,
    figure_title,
    make_figure,
    wrap_title,
)
from pyro_vae_zoo.vae import VAE

__all__ = ["plot_images", "plot_reconstructions", "plot_samples", "plot_traversal"]


def plot_images(
    images: Tensor, *, columns: int = 8, title: str | None = None
) -> Figure:
    """A grid of images `(n, H, W)`, `(n, 3, H, W)` or of vectors `(n, D)` as lines.

    Values are clipped to [0, 1].
    """
    return image_figure(images, columns, title)


def plot_samples(
    vae: VAE, n: int = 64, *, seed: int = 0, data: Dataset | str | None = None
) -> Figure:
    """E[x|z] for `n` draws z ~ p(z)."""
    with evaluating(vae.model, vae.guide, vae.device, seed):
        images = pixels_of(vae.sample(n, mean=True), data)
    columns = min(math.ceil(math.sqrt(n)), 16)
    return image_figure(images, columns, "Samples: " + figure_title(vae, data))


def plot_reconstructions(
    vae: VAE,
    x: Tensor,
    *,
    columns: int = 8,
    seed: int = 0,
    data: Dataset | str | None = None,
) -> Figure:
    """Each datum above E[x|z] for one z ~ q(z|x)."""
    x, columns = x.to(vae.device), fit_columns(x, columns)
    with evaluating(vae.model, vae.guide, vae.device, seed):
        again = pixels_of(vae.reconstruct(x), data)
    x = pixels_of(x, data)
    pairs = [
        torch.cat([_filled(part, columns) for part in rows])
        for rows in zip(x.split(columns), again.split(columns), strict=True)
    ]
    return image_figure(
        torch.cat(pairs),
        columns,
        "Reconstructions: " + figure_title(vae, data),
        rows=["$x$", r"$E[x\,|\,z]$"] * len(pairs),
        group=2,
    )


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

    The others stay at the posterior mean of `x[0]`. The rows are the most active
    latents: those of the least posterior variance, averaged over `x`.

    Raises:
        UserError: where the model has other latent sites than one vector `"z"`.
    """
    x = x.to(vae.device)
    with evaluating(vae.model, vae.guide, vae.device, seed):
        draws = vae.encode(x, num_samples=100)
        if isinstance(draws, dict) or draws.dim() != 3:
            raise UserError("a traversal needs a model with one latent vector 'z'")
        sd = draws.var(0).mean(0).sqrt()
        dims = sd.argsort()[:max_rows].tolist()
        values = torch.linspace(-3, 3, columns)
        z = draws[:, 0].mean(0).repeat(len(dims), columns, 1)
        for row, dim in enumerate(dims):
            z[row, :, dim] = values
        z = z.flatten(0, 1)
        decode = poutine.condition(poutine.uncondition(vae.model), data={"z": z})
        trace = poutine.trace(decode).get_trace(vae._blank(len(z)))
        images = pixels_of(trace.nodes["x"]["fn"].mean, data)
    return image_figure(
        images,
        columns,
        "Traversal: " + figure_title(vae, data),
        rows=[f"$z_{{{dim + 1}}}$  (sd {sd[dim]:.2f})" for dim in dims],
        heads=[f"${value:g}$" for value in values.tolist()],
    )


def image_figure(
    images: Tensor,
    columns: int,
    title: str | None,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
    group: int = 0,
) -> Figure:
    """A grid of images with names for its rows and columns."""
    columns = fit_columns(images, columns)
    num_rows = -(-len(images) // columns)
    vectors = images.dim() == 2
    aspect = 0.5 if vectors else images.shape[-2] / images.shape[-1]
    width = max(columns * (1.1 if vectors else 0.6) + (1.3 if rows else 0.2), 3.2)
    height = num_rows * (1.1 if vectors else 0.6) * aspect + 0.3 * bool(heads)
    lines = wrap_title(title, width).count("\n") + 1 if title else 0
    fig = make_figure(width, height + (0.18 * lines + 0.15 if title else 0.1), title)
    ax = fig.add_subplot()
    x, y = draw_images(ax, images, columns, group)
    ax.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    ax.set_xticks(x if heads else [], heads)
    ax.set_yticks(y if rows else [], rows)
    return fig


def fit_columns(images: Tensor, columns: int) -> int:
    """As many columns as asked for, where there are so many images."""
    if columns < 1 or len(images) < 1:
        got = f"{len(images)} and {columns}"
        raise UserError(f"expected at least one image and one column, got {got}")
    return min(columns, len(images))


def draw_images(
    ax: Axes, images: Tensor, columns: int, group: int = 0
) -> tuple[list[float], list[float]]:
    """Draw images in one axes; returns the centres of its columns and its rows."""
    values = images.detach().float().clamp(0, 1).cpu().numpy()
    vectors = values.ndim == 2
    if values.ndim == 3:
        values = values[:, None]
    if not vectors and (values.ndim != 4 or values.shape[1] not in (1, 3)):
        got = tuple(images.shape[1:])
        raise UserError(f"expected images (H, W), (3, H, W) or vectors (D,), got {got}")
    height, width = (1, 2) if vectors else values.shape[2:]
    gap = 0.15 if vectors else -(-max(height, width) // 14)
    row, column = np.divmod(np.arange(len(values)), columns)
    top = row * (height + gap) + (row // group * 2 * gap if group else 0)
    left = column * (width + gap)
    if vectors:
        t = np.linspace(0, width, values.shape[1])
        lines = [
            np.stack([u + t, y + height * (1 - v)], axis=1)
            for v, y, u in zip(values, top, left, strict=True)
        ]
        floors = [
            [(u, y + height), (u + width, y + height)]
            for u, y in zip(left, top, strict=True)
        ]
        ax.add_collection(LineCollection(floors, colors="#CCCCCC", linewidths=0.6))
        ax.add_collection(LineCollection(lines, colors=COLOURS[0], linewidths=0.9))
        ax.set_xlim(-gap, left.max() + width + gap)
        ax.set_ylim(top.max() + height + gap, -gap)
    else:
        canvas = np.ones((top.max() + height, left.max() + width, 3))
        for image, y, u in zip(values, top, left, strict=True):
            pixels = np.nan_to_num(image.transpose(1, 2, 0), nan=1.0)
            canvas[y : y + height, u : u + width] = pixels
        ax.imshow(canvas)
    ax.set(xticks=[], yticks=[], frame_on=False)
    edge = 0 if vectors else 0.5  # `imshow` counts from the first pixel's centre
    centres = left[:columns] + width / 2 - edge, top[::columns] + height / 2 - edge
    return tuple(c.tolist() for c in centres)


def pixels_of(x: Tensor, data: Dataset | str | None) -> Tensor:
    """What a picture of `x` shows, where the data know a map to pixels."""
    return data.pixels(x) if isinstance(data, Dataset) else x


def _filled(images: Tensor, columns: int) -> Tensor:
    """A row that is not full, filled up with blanks."""
    blank = images.new_full((columns - len(images), *images.shape[1:]), math.nan)
    return torch.cat([images, blank])
