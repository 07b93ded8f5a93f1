"""Vectors as curves over the index of their elements, in panels of one scale."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae_zoo.data.scales import Scale
from pyro_vae_zoo.plots.style import (
    COLOURS,
    FAINT,
    INK,
    Look,
    add_legend,
    make_figure,
    whole_numbers,
    wrap_title,
)

__all__ = ["DATA", "MODEL", "Curve", "draw_curves", "shades", "vector_figure"]

Curve = tuple[Tensor, Look]  # a vector, and how its line looks

MODEL: Look = {"color": COLOURS[0], "lw": 1.0}
DATA: Look = {"color": INK, "lw": 1.0, "alpha": 0.55}
_FEW = 30  # elements, each of which has a dot
_WIDTHS = 1.5, 2.7  # inches of a panel, the least and the most


def vector_figure(
    panels: Sequence[Sequence[Curve]],
    columns: int,
    title: str | None,
    scale: Scale,
    *,
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    keys: Sequence[Artist] = (),
) -> Figure:
    """Panels of curves with equal axes, row by row.

    Args:
        panels: the curves of each.
        columns: panels in a row.
        title: of the figure.
        scale: limits of the values.
        names: a title for each panel.
        heads: a title for each column.
        keys: entries of the legend.
    """
    columns = min(columns, len(panels))
    num_rows = -(-len(panels) // columns)
    named, headed = 0.22 if names else 0.0, 0.22 if heads else 0.0
    wide = min(max(11 / columns, _WIDTHS[0]), _WIDTHS[1])
    left = 0.4 + 0.062 * max(map(len, _labels(_ticks(scale))))
    width = max(wide * columns + left + 0.1, 3.6)
    lines = wrap_title(title, width).count("\n") + 1 if title else 0
    top = 0.18 * lines + 0.14 + headed + (0.25 if keys else 0.0) + named
    height = (0.6 * wide + named) * num_rows - named + top + 0.5
    fig = make_figure(width, height, None)
    if title:
        text = fig.suptitle(wrap_title(title, width), fontsize=10, color=INK)
        text.set(x=0.1 / width, y=1 - 0.08 / height, ha="left", va="top")
    # Sizes are known, and to find them anew takes seconds where there are many panels.
    fig.set_layout_engine("none")
    edges = {"left": left / width, "right": 1 - 0.1 / width}
    edges |= {"bottom": 0.5 / height, "top": 1 - top / height}
    gaps = {"wspace": 0.07, "hspace": 0.1 + named / (0.55 * wide)}
    # Their limits are equal; axes that share them take time with the square of the number.
    axes = fig.subplots(num_rows, columns, squeeze=False, gridspec_kw=edges | gaps)
    for i, (ax, curves) in enumerate(zip(axes.flat, panels, strict=False)):
        draw_curves(ax, curves, scale)
        lowest = i + columns >= len(panels)
        ax.tick_params(labelleft=i % columns == 0, labelbottom=lowest)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, names, strict=False):
        ax.set_title(name, loc="left", fontsize=8.5, color=INK)
    for ax, head in zip(axes[0], heads, strict=False):
        ax.set_title(head, fontsize=9, color=INK)
    x, y = (edges["left"] + edges["right"]) / 2, (edges["bottom"] + edges["top"]) / 2
    look: Look = {"fontsize": 9, "color": INK}
    name = "feature, counted from 0"
    fig.supxlabel(name, x=x, y=0.08 / height, ha="center", va="bottom", **look)
    fig.supylabel("value", x=0.08 / width, y=y, va="center", **look)
    if keys:
        # In a line between the title and the panels, on the left.
        corner = edges["left"], 1 - (0.18 * lines + 0.12) / height
        place: Look = {"loc": "upper left", "bbox_to_anchor": corner, "ncols": 9}
        add_legend(fig, keys, borderpad=0, borderaxespad=0, **place)
    return fig


def draw_curves(ax: Axes, curves: Sequence[Curve], scale: Scale) -> None:
    """Curves over the index of their elements, between the limits of a scale."""
    for values, look in curves:
        dots: Look = {"marker": ".", "ms": 4} if len(values) <= _FEW else {}
        ax.plot(values.detach().cpu().numpy(), **(dots | look))
    last = max(len(curves[0][0]) - 1, 0.5)
    ax.set_xlim(-0.03 * last, 1.03 * last)
    ax.set_ylim(*_with_air(scale))
    if scale.low < 0 < scale.high:
        ax.axhline(0, color="#DDDDDD", lw=0.8, zorder=0)
    ax.xaxis.set_major_locator(whole_numbers(4))
    ax.set_yticks(_ticks(scale), _labels(_ticks(scale)))
    ax.tick_params(labelsize=7, color=FAINT, labelcolor=INK, length=2.5, pad=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def _with_air(scale: Scale) -> tuple[float, float]:
    air = 0.06 * (scale.high - scale.low)
    return scale.low - air, scale.high + air


def _ticks(scale: Scale) -> list[float]:
    low, high = _with_air(scale)
    steps = MaxNLocator(3, steps=[1, 2, 5, 10], min_n_ticks=2).tick_values(low, high)
    return [float(v) for v in steps if low <= v <= high]


def _labels(ticks: Sequence[float]) -> list[str]:
    return [f"{v:.6g}".replace("-", "\N{MINUS SIGN}") for v in ticks]


def shades(n: int) -> list[tuple[float, ...]]:
    """So many colours in order, from dark violet to light green."""
    colours = mpl.colormaps["viridis"]
    return [colours(0.88 * i / max(n - 1, 1)) for i in range(n)]
