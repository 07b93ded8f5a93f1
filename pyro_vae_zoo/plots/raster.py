"""Images side by side in one picture, on a scale of grey that it names."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae_zoo.data.scales import UNIT, Scale, range_note
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.plots.style import FAINT, INK, make_figure, wrap_title
from pyro_vae_zoo.plots.vectors import MODEL, draw_curves

__all__ = ["draw_images", "draw_thumbnail", "fit_columns", "image_figure"]


def image_figure(
    images: Tensor,
    columns: int,
    title: str | None,
    scale: Scale = UNIT,
    *,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
    group: int = 0,
) -> Figure:
    """A grid of images with names for its rows and columns, and its scale of grey."""
    columns = fit_columns(images, columns)
    num_rows = -(-len(images) // columns)
    aspect = images.shape[-2] / images.shape[-1]
    width = max(columns * 0.6 + (1.3 if rows else 0.2), 3.2)
    height = num_rows * 0.6 * aspect
    height += 0.3 if heads else 0.0
    height += 0.45 if scale != UNIT else 0.0
    lines = wrap_title(title, width).count("\n") + 1 if title else 0
    fig = make_figure(width, height + (0.18 * lines + 0.15 if title else 0.1), title)
    ax = fig.add_subplot()
    x, y = draw_images(ax, images, columns, group, scale)
    ax.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    ax.set_xticks(x if heads else [], heads)
    ax.set_yticks(y if rows else [], rows)
    if scale != UNIT:
        _draw_scale(fig, ax, images, scale)
    return fig


def fit_columns(images: Tensor, columns: int) -> int:
    """As many columns as asked for, where there are so many images."""
    if columns < 1 or len(images) < 1:
        got = f"{len(images)} and {columns}"
        raise UserError(f"expected at least one image and one column, got {got}")
    return min(columns, len(images))


def draw_images(
    ax: Axes, images: Tensor, columns: int, group: int = 0, scale: Scale = UNIT
) -> tuple[list[float], list[float]]:
    """Draw images in one axes; returns the centres of its columns and its rows."""
    values = scale.share(images.detach().float().cpu().numpy()).clip(0, 1)
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        got = tuple(images.shape[1:])
        raise UserError(f"expected images (H, W), (3, H, W) or vectors (D,), got {got}")
    height, width = values.shape[2:]
    gap = -(-max(height, width) // 14)
    row, column = np.divmod(np.arange(len(values)), columns)
    top = row * (height + gap) + (row // group * 2 * gap if group else 0)
    left = column * (width + gap)
    canvas = np.ones((top.max() + height, left.max() + width, 3))
    for image, y, u in zip(values, top, left, strict=True):
        pixels = np.nan_to_num(image.transpose(1, 2, 0), nan=1.0)
        canvas[y : y + height, u : u + width] = pixels
    ax.imshow(canvas)
    ax.set(xticks=[], yticks=[], frame_on=False)
    # `imshow` counts from the first pixel's centre.
    x, y = left[:columns] + width / 2 - 0.5, top[::columns] + height / 2 - 0.5
    return x.tolist(), y.tolist()


def draw_thumbnail(ax: Axes, datum: Tensor, scale: Scale) -> None:
    """One datum, shape `event_shape`: an image, or a vector with its axis."""
    if datum.dim() > 1:
        draw_images(ax, datum[None], 1, scale=scale)
        return
    draw_curves(ax, [(datum, MODEL)], scale)
    ax.set_xticks([])
    ax.tick_params(labelsize=6, pad=1, length=2)


def _draw_scale(fig: Figure, ax: Axes, images: Tensor, scale: Scale) -> None:
    """A bar of the grey levels; pointed where values lie beyond, which are clipped."""
    if images.shape[1:-2] == (3,):
        note = range_note(scale, tuple(images.shape[1:]))
        ax.set_xlabel(note, fontsize=8, color=INK, loc="left")
        return
    values = images[images.isfinite()]
    below, above = bool((values < scale.low).any()), bool((values > scale.high).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}
    bar = fig.colorbar(
        ScalarMappable(Normalize(*scale), "gray"),
        ax=ax,
        orientation="horizontal",
        extend=extend.get((below, above), "neither"),
        aspect=40,
        fraction=0.05,
        pad=0.02,
    )
    bar.outline.set(edgecolor=FAINT, linewidth=0.6)
    bar.ax.tick_params(labelsize=7, color=FAINT, labelcolor=INK, length=2.5)
