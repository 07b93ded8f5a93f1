"""Colours, frames, titles and legends of all figures, and `save_figure`."""

import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.files import write_atomically
from pyro_vae_zoo.models.create import depth, guide_options
from pyro_vae_zoo.models.parts import PLACES
from pyro_vae_zoo.models.registry import list_density_models, list_guides
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "Look",
    "add_legend",
    "dress",
    "figure_title",
    "key_of",
    "make_figure",
    "save_figure",
    "tint",
    "whole_numbers",
    "wrap_title",
]

Look = dict[str, Any]  # keywords of matplotlib, each of which has a type of its own

# Okabe & Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
INK, FAINT, GUIDE = "#333333", "#888888", COLOURS[1]
DASHES = ("-", "-.", ":")  # one for each round through the colours
NATS = "nats per datum"


def save_figure(
    fig: Figure,
    path: str | os.PathLike,
    *,
    dpi: int = 150,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a figure as PNG, whole or not at all, with texts of its own in the file."""
    path, buffer = Path(path), io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata=metadata)
    write_atomically(path, buffer.getvalue())
    return path


def figure_title(vae: VAE, data: Dataset | str | None = None) -> str:
    """Guide, number of flows or layers, and on a second line the data's variant.

    >>> import pyro_vae_zoo as zoo
    >>> figure_title(zoo.create("iaf", event_shape=(8, 8)))
    'iaf, K = 2'
    """
    config = vae.config or {"guide": type(vae.guide).__name__, "options": {}}
    guide, options = config["guide"], config["options"]
    if guide in list_guides() + list_density_models():
        options = guide_options(guide) | options
    guide += "".join(f", {symbol} = {n}" for symbol, n in depth(options).items())
    guide += "".join(
        f", {name} {config[name]}"
        for name in PLACES
        if name in config and name != "likelihood"
    )
    if isinstance(data, Dataset):
        data = f"{data.name}: {data.variant}"
    return f"{guide}\n{data}" if data else guide


class NotebookFigure(Figure):
    """A figure that a notebook shows, whether or not pyplot has been used in it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", facecolor="white")
        return buffer.getvalue()


def make_figure(width: float, height: float, title: str | None) -> Figure:
    """An empty figure with its title on the left."""
    fig = NotebookFigure(figsize=(width, height), layout="constrained")
    if title:
        title = wrap_title(title, width)
        # Names of a user's are in it, whose dollars are no formulas.
        fig.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK, parse_math=False)
    return fig


def wrap_title(title: str, width: float) -> str:
    """Lines of a title that fit a figure so many inches wide, at 10 points."""
    lines = [textwrap.wrap(line, int(12.5 * width)) for line in title.split("\n")]
    return "\n".join(part for line in lines for part in line)


def dress(ax: Axes, title: str, x_label: str, y_label: str) -> None:
    """A light frame, small ticks, a title on the left."""
    ax.set_title(title, loc="left", fontsize=9.5, color=INK)
    ax.set_xlabel(x_label, fontsize=9, color=INK)
    ax.set_ylabel(y_label, fontsize=9, color=INK)
    ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK, length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.grid(color="#EEEEEE", lw=0.6)
    ax.set_axisbelow(True)


def key_of(label: str, **look: Any) -> Line2D:
    """An entry of a legend: a line, or a marker, that looks so."""
    return Line2D([], [], label=label, **look)


def add_legend(to: Figure | Axes, keys: Sequence[Artist], **look: Any) -> None:
    """A legend below all panels, or where it is told to be."""
    usual: Look = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    to.legend(handles=keys, **(usual | look))


def whole_numbers(most: int) -> MaxNLocator:
    """Ticks at round whole numbers, with at most so many steps between them."""
    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def tint(strength: float) -> tuple[float, float, float]:
    """The first colour, thinned with white."""
    red, green, blue = (1 + strength * (c - 1) for c in to_rgb(COLOURS[0]))
    return red, green, blue
