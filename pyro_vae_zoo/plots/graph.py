"""Learned graphs: their gates over the epochs, and the edges that are open."""

import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.plots.style import (
    COLOURS,
    DASHES,
    FAINT,
    INK,
    Look,
    add_legend,
    dress,
    figure_title,
    key_of,
    make_figure,
    whole_numbers,
)
from pyro_vae_zoo.plots.training import Records, mark_phases, records_of

__all__ = ["plot_gates", "plot_graph"]

_DASHES = (*DASHES, "--")
_RADIUS = 0.25  # of a node; from one to the next it is 1
_CLOSED: Look = {"color": "#AAAAAA", "lw": 0.9, "ls": (0, (4, 3))}
_SHADE = "#F2F2F2"  # of what the decoder is about
_DECODER: Look = {"color": "#C4C4C4", "lw": 1.4}


def plot_gates(history: Records, *, title: str | None = None) -> Figure:
    """The probability that each gate of a gated DAG is open, over the epochs.

    A line has the colour of the edge's child and the dashes of its parent. It is broken
    where a phase ends: when the gates are frozen they jump to 0 or 1.

    Args:
        history: of `fit`, or its records, or the lines of `metrics.jsonl`.
        title: guide and data; see `figure_title`.

    Raises:
        UserError: for no records, and for records without gates.

    >>> records = [{"epoch": 1, "gates": {"z_2->z_1": 0.6}},
    ...            {"epoch": 2, "gates": {"z_2->z_1": 0.9}}]
    >>> [line.get_ydata().tolist() for line in plot_gates(records).axes[0].lines]
    [[0.6, 0.9]]
    """
    records = records_of("", history)
    if not all(record.get("gates") for record in records):
        raise UserError(
            "expected records with gates, as those of a gated DAG are; got none"
        )
    phases = [list(rs) for _, rs in groupby(records, lambda r: r.get("phase"))]
    edges = list(records[0]["gates"])
    nodes = _nodes(edges)
    columns = -(-len(edges) // 15)
    fig = make_figure(6 + 1.4 * columns, 3.8, title)
    ax = fig.subplots()
    keys = []
    for edge in edges:
        style = _style(nodes, edge)
        parent, child = map(_symbol, _ends(edge))
        keys.append(key_of(rf"{parent} $\to$ {child}", **style))
        for phase in phases:
            epochs = [record["epoch"] for record in phase]
            values = [record["gates"][edge] for record in phase]
            marker = "." if len(records) <= 20 or len(phase) == 1 else None
            ax.plot(epochs, values, marker=marker, **style)
    dress(ax, "Gates", "epoch", "probability of an open gate")
    ax.set_ylim(-0.03, 1.03)
    ax.xaxis.set_major_locator(whole_numbers(5))
    mark_phases(ax, records, 0.4)
    beside: Look = {"loc": "upper left", "bbox_to_anchor": (1, 1), "ncols": columns}
    add_legend(ax, keys, labelcolor=INK, handlelength=3.2, **beside)
    return fig


def plot_graph(gates: Mapping[str, float] | VAE, *, title: str | None = None) -> Figure:
    """The graph of a gated DAG, from its root down to z_1 and to x, which sees them all.

    An edge is open where that is likelier than not: then it is solid, in the colour of
    its child, and the likelier the wider. On a gate that is not frozen stands its
    probability.

    Args:
        gates: the probabilities by edge, as in a record's `"gates"`; or a VAE that has
            gates, as they are now.
        title: guide and data; see `figure_title`.

    Raises:
        UserError: for a VAE without gates, for no edges, and for edges in a circle.

    >>> fig = plot_graph({"z_3->z_2": 1.0, "z_3->z_1": 0.0, "z_2->z_1": 0.75})
    >>> [text.get_text() for text in fig.axes[0].texts]
    ['$z_{3}$', '$z_{2}$', '$z_{1}$', '$x$', '0.75']
    """
    gates = _probabilities(gates)
    nodes = _nodes(gates)
    count = len(nodes)
    reach = max(2.6, 0.38 * count)  # of the longest arc, and its number
    fig = make_figure(1.85 * reach, 0.8 * count + 1.6, title)
    ax = fig.subplots()
    band = (-_RADIUS, 1 - count - _RADIUS), 2 * _RADIUS, count - 1 + 2 * _RADIUS
    rounded = f"round, pad=0.1, rounding_size={_RADIUS + 0.1}"
    ax.add_patch(FancyBboxPatch(*band, boxstyle=rounded, color=_SHADE, zorder=0))
    for n, node in enumerate(nodes):
        _draw_node(ax, -n, _symbol(node), fc="white", ec=_colour(n))
    _draw_node(ax, -count - 0.2, "$x$", fc=_SHADE, ec=FAINT)
    down = [(0, 1 - count - _RADIUS - 0.1), (0, -count - 0.2 + _RADIUS)]
    _draw_arrow(ax, Path(down), label="decoder", **_DECODER)
    for edge, p in gates.items():
        parent, child = map(nodes.index, _ends(edge))
        path, look = _arc(-parent, -child), _CLOSED
        if p > 0.5:
            look = {"color": _colour(child), "lw": 0.6 + 1.4 * p, "zorder": 3}
        _draw_arrow(ax, path, label=edge, **look)
        if 0 < p < 1:
            middle = np.array([1, 3, 3, 1]) / 8 @ np.asarray(path.vertices)
            _write(ax, middle, f"{p:.2f}", INK if p > 0.5 else FAINT)
    ax.set(aspect="equal", xlim=(-reach, reach), ylim=(-count - 0.55, 0.4))
    ax.set_axis_off()
    keys = [key_of("decoder: from all nodes", **_DECODER)]
    if gates:
        keys = [key_of("open", color=INK, lw=2), key_of("closed", **_CLOSED), *keys]
    add_legend(fig, keys, ncols=3, labelcolor=INK)
    return fig


def _probabilities(gates: Mapping[str, float] | VAE) -> Mapping[str, float]:
    if isinstance(gates, VAE):
        monitored = gates.monitor(gates) if gates.monitor else {}
        if "gates" not in monitored:
            raise UserError(f"expected a gated DAG, got {figure_title(gates)}")
        return monitored["gates"]
    if not gates:
        raise UserError("there are no edges to draw: expected at least two nodes")
    return gates


def _nodes(edges: Iterable[str]) -> list[str]:
    """The nodes from the root down.

    >>> _nodes(["z_3->z_1", "z_2->z_1", "z_3->z_2"])
    ['z_3', 'z_2', 'z_1']
    """
    graph = nx.DiGraph(map(_ends, edges))
    graph.add_node("z_1")  # alone, it has no edges
    try:
        return list(nx.topological_sort(graph))
    except nx.NetworkXUnfeasible as error:
        raise UserError(f"edges in a circle make no DAG: {', '.join(edges)}") from error


def _ends(edge: str) -> list[str]:
    """Parent and child of an edge."""
    ends = edge.split("->")
    if len(ends) != 2:
        raise UserError(f"expected an edge such as 'z_2->z_1', got {edge!r}")
    return ends


def _symbol(node: str) -> str:
    letter, _, number = node.partition("_")
    return f"${letter}_{{{number}}}$"


def _colour(n: int) -> str:
    """The colour of the n-th node and of the edges to it; the root has none."""
    return COLOURS[(n - 1) % len(COLOURS)] if n > 0 else INK


def _style(nodes: list[str], edge: str) -> Look:
    """Colour by child; dashes by parent, and when they run out thinner lines."""
    parent, child = map(nodes.index, _ends(edge))
    again, dashes = divmod(parent, len(_DASHES))
    lw = 0.9 if again else 1.6
    return {"color": _colour(child), "ls": _DASHES[dashes], "lw": lw}


def _arc(parent: float, child: float) -> Path:
    """The path of an edge: straight to the next node, around all that it skips.

    The more they skip, the flatter arcs leave a node and the farther they reach; odd
    ones run on the right and even ones on the left.
    """
    span = parent - child
    angle = math.radians(36 * math.sqrt(span - 1))
    across = math.sin(angle) * (1 if span % 2 else -1)
    radii = np.array([_RADIUS, _RADIUS + 0.45 * span])
    x, down = across * radii, math.cos(angle) * radii
    y = np.concatenate([parent - down, child + down[::-1]])
    points = np.stack([np.concatenate([x, x[::-1]]), y], -1)
    return Path(points, [Path.MOVETO, *[Path.CURVE4] * 3])


def _draw_arrow(ax: Axes, path: Path, **look: Any) -> None:
    head = "-|>, head_length=5, head_width=2.2"
    arrow = FancyArrowPatch(path=path, arrowstyle=head, mutation_scale=1, **look)
    ax.add_patch(arrow)


def _draw_node(ax: Axes, y: float, name: str, **look: Any) -> None:
    ax.add_patch(Circle((0, y), _RADIUS, lw=1.2, zorder=4, **look))
    centre: Look = {"ha": "center", "va": "center_baseline"}
    ax.text(0, y, name, fontsize=10, color=INK, zorder=5, **centre)


def _write(ax: Axes, place: np.ndarray, text: str, colour: str) -> None:
    """Write on white, so that lines do not run through it."""
    halo = [withStroke(linewidth=3, foreground="white")]
    look: Look = {"fontsize": 7.5, "color": colour, "path_effects": halo, "zorder": 6}
    x, y = place
    ax.text(x, y, text, ha="center", va="center", **look)
