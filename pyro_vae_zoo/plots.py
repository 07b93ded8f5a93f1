r"""Figures; the only file that imports matplotlib, and never its global state.

Each function returns a `matplotlib.figure.Figure`, which `save_figure` writes. What
`fit` records becomes Figures 1 to 4 of Henrion & Welleck (`plot_training`,
`plot_comparison`); two-dimensional posteriors are drawn against the exact one
(`plot_posterior`). Functions that run a VAE take a seed, leave the caller's random
state as it was, and name the guide, and the data where they are told, in the title.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from pyro import poutine
from torch import Tensor

from pyro_vae_zoo._posterior import GridDensity, posterior_densities
from pyro_vae_zoo.checkpoint import write_atomically
from pyro_vae_zoo.datasets import Dataset
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluate import _evaluating
from pyro_vae_zoo.registry import guide_options, list_guides
from pyro_vae_zoo.train import History
from pyro_vae_zoo.vae import VAE

__all__ = [
    "figure_title",
    "plot_comparison",
    "plot_images",
    "plot_posterior",
    "plot_reconstructions",
    "plot_results",
    "plot_samples",
    "plot_training",
    "plot_traversal",
    "save_figure",
]

# Okabe & Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
_INK, _FAINT, _GUIDE = "#333333", "#888888", COLOURS[1]
_DASHES = ("-", "-.", ":")  # one for each round through the colours
_TRAINING = {"color": _FAINT, "ls": "--"}
_RING = {"ls": "", "marker": "o", "ms": 6, "mew": 1.2, "mfc": "white"}
_NATS = "nats per datum"

Records = History | Sequence[Mapping[str, Any]]


def save_figure(fig: Figure, path: str | os.PathLike, *, dpi: int = 150) -> Path:
    """Write a figure as PNG, whole or not at all."""
    path, buffer = Path(path), io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    write_atomically(path, buffer.getvalue())
    return path


def figure_title(vae: VAE, data: Dataset | str | None = None) -> str:
    """Guide, number of flows, and on a second line the data's variant.

    >>> import pyro_vae_zoo as zoo
    >>> figure_title(zoo.create("iaf", event_shape=(8, 8)))
    'iaf, K = 2'
    """
    config = vae.config or {"guide": type(vae.guide).__name__, "options": {}}
    guide, options = config["guide"], config["options"]
    if guide in list_guides():
        options = guide_options(guide) | options
    if "num_flows" in options:
        guide += f", K = {options['num_flows']}"
    if isinstance(data, Dataset):
        data = f"{data.name}: {data.variant}"
    return f"{guide}\n{data}" if data else guide


# ------------------------------------------------------------------------- images


def plot_images(
    images: Tensor, *, columns: int = 8, title: str | None = None
) -> Figure:
    """A grid of images `(n, H, W)`, `(n, 3, H, W)` or of vectors `(n, D)` as lines.

    Values are clipped to [0, 1].
    """
    return _image_figure(images, columns, title)


def plot_samples(
    vae: VAE, n: int = 64, *, seed: int = 0, data: Dataset | str | None = None
) -> Figure:
    """E[x|z] for `n` draws z ~ p(z)."""
    with _evaluating(vae.model, vae.guide, vae.device, seed):
        images = vae.sample(n, mean=True)
    columns = min(math.ceil(math.sqrt(n)), 16)
    return _image_figure(images, columns, "Samples: " + figure_title(vae, data))


def plot_reconstructions(
    vae: VAE,
    x: Tensor,
    *,
    columns: int = 8,
    seed: int = 0,
    data: Dataset | str | None = None,
) -> Figure:
    """Each datum above E[x|z] for one z ~ q(z|x)."""
    x, columns = x.to(vae.device), _columns(x, columns)
    with _evaluating(vae.model, vae.guide, vae.device, seed):
        again = vae.reconstruct(x)
    pairs = [
        torch.cat([_filled(part, columns) for part in rows])
        for rows in zip(x.split(columns), again.split(columns), strict=True)
    ]
    return _image_figure(
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
    with _evaluating(vae.model, vae.guide, vae.device, seed):
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
        images = trace.nodes["x"]["fn"].mean
    return _image_figure(
        images,
        columns,
        "Traversal: " + figure_title(vae, data),
        rows=[f"$z_{{{dim + 1}}}$  (sd {sd[dim]:.2f})" for dim in dims],
        heads=[f"${value:g}$" for value in values.tolist()],
    )


def _image_figure(
    images: Tensor,
    columns: int,
    title: str | None,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
    group: int = 0,
) -> Figure:
    columns = _columns(images, columns)
    num_rows = -(-len(images) // columns)
    vectors = images.dim() == 2
    aspect = 0.5 if vectors else images.shape[-2] / images.shape[-1]
    width = columns * (1.1 if vectors else 0.6) + (1.3 if rows else 0.2)
    height = num_rows * (1.1 if vectors else 0.6) * aspect + 0.3 * bool(heads)
    title_height = 0.22 * len(title.split("\n")) + 0.15 if title else 0.1
    fig = _figure(max(width, 3.2), height + title_height, title)
    ax = fig.add_subplot()
    x, y = _draw_images(ax, images, columns, group)
    ax.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    ax.set_xticks(x if heads else [], heads)
    ax.set_yticks(y if rows else [], rows)
    return fig


def _columns(images: Tensor, columns: int) -> int:
    """As many columns as asked for, where there are so many images."""
    if columns < 1 or len(images) < 1:
        got = f"{len(images)} and {columns}"
        raise UserError(f"expected at least one image and one column, got {got}")
    return min(columns, len(images))


def _draw_images(
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


def _filled(images: Tensor, columns: int) -> Tensor:
    """A row that is not full, filled up with blanks."""
    blank = images.new_full((columns - len(images), *images.shape[1:]), math.nan)
    return torch.cat([images, blank])


# ----------------------------------------------------------------------- training


def plot_training(history: Records, *, title: str | None = None) -> Figure:
    """Bound, KL, reconstruction and the flow's log-densities over the epochs.

    Args:
        history: of `fit`, or its records, or the lines of `metrics.jsonl`.
        title: guide and data; see `figure_title`.

    >>> record = {"epoch": 1, "train_elbo": -90.0, "valid_elbo": -91.0}
    >>> [ax.get_title(loc="left") for ax in plot_training([record]).axes[:2]]
    ['ELBO', 'ELBO, last epochs']
    """
    return _training_figure({"": history}, title)


def plot_comparison(runs: Mapping[str, Records], *, title: str | None = None) -> Figure:
    """The panels of `plot_training` with one line for each run, by its label."""
    if title is None and len(runs) == 1:
        (title,) = runs  # one run has no legend for its label
    return _training_figure(runs, title)


_FLOW_PANELS = (
    (r"Initial log-density  $\log\,q_0(z_0)$", ("initial_log_density",), False),
    (r"Final log-density  $\log\,q_K(z_K)$", ("final_log_density",), False),
    (r"Sum of log-determinants", ("log_det",), False),
)


def _training_figure(runs: Mapping[str, Records], title: str | None) -> Figure:
    runs = {label: _records(label, records) for label, records in runs.items()}
    if not runs:
        raise UserError("there are no runs to draw")
    single = len(runs) == 1
    if single:
        both = ("train_elbo", "valid_elbo")
        panels = [("ELBO", both, False), ("ELBO, last epochs", both, True)]
    else:
        panels = [
            ("Training ELBO", ("train_elbo",), False),
            ("Validation ELBO", ("valid_elbo",), False),
            ("Validation ELBO, last epochs", ("valid_elbo",), True),
        ]
    panels += [
        (r"KL divergence of $q(z\,|\,x)$ from $p(z)$", ("kl",), False),
        (r"Reconstruction  $E_q[\log\,p(x\,|\,z)]$", ("reconstruction",), False),
    ]
    flows = any(r.get("log_det") is not None for rs in runs.values() for r in rs)
    panels += _FLOW_PANELS if flows else ()
    columns = 3 if len(panels) == 5 else 4
    num_rows = -(-len(panels) // columns)
    fig = _figure(3 * columns, 2.6 * num_rows + 0.7, title)
    axes = list(fig.subplots(num_rows, columns, squeeze=False).flat)
    for ax, (name, keys, last) in zip(axes, panels, strict=False):
        for i, (label, records) in enumerate(runs.items()):
            for key in keys:
                training = single and key == "train_elbo"
                style = _TRAINING if training else _run_style(i)
                _draw_curve(ax, records, key, {"label": label, **style}, last)
        _dress(ax, name, "epoch", _NATS)
    for ax in axes[len(panels) :]:
        ax.remove()
    _training_legend(fig, runs, len(panels) < len(axes))
    return fig


def _records(label: str, records: Records) -> list[Mapping[str, Any]]:
    records = list(getattr(records, "epochs", records))
    if not records:
        raise UserError(f"there are no epochs to draw{f' in {label!r}' * bool(label)}")
    return records


def _draw_curve(
    ax: Axes,
    records: list[Mapping[str, Any]],
    key: str,
    style: Mapping[str, Any],
    last: bool = False,
) -> None:
    """One quantity of one run, of all epochs or of the last fifth of them."""
    best = _best_epoch(records)
    if last:
        records = records[-max(len(records) // 5, min(5, len(records))) :]
    epochs = [r["epoch"] for r in records]
    values = [math.nan if r.get(key) is None else r[key] for r in records]
    marker = "." if len(records) <= 20 else None
    ax.plot(epochs, values, marker=marker, **{"lw": 1.2, **style})
    if "label" in style and key == "valid_elbo" and best in epochs:
        y = values[epochs.index(best)]
        ax.plot(best, y, color=style["color"], zorder=3, **_RING)
    ax.xaxis.set_major_locator(
        MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )


def _best_epoch(records: list[Mapping[str, Any]]) -> int | None:
    """The epoch whose validation ELBO is highest."""
    found = [r for r in records if math.isfinite(r.get("valid_elbo") or math.nan)]
    return max(found, key=lambda r: r["valid_elbo"])["epoch"] if found else None


def _run_style(i: int) -> dict[str, Any]:
    dashes = _DASHES[i // len(COLOURS) % len(_DASHES)]
    return {"color": COLOURS[i % len(COLOURS)], "ls": dashes}


def _training_legend(fig: Figure, runs: Mapping[str, list], hole: bool) -> None:
    """What the lines mean: in the empty cell of the panels, or else below them."""
    ring_label, ring_colour = "best epoch", _INK
    if len(runs) == 1:
        (records,) = runs.values()
        ring_label, ring_colour = f"best epoch: {_best_epoch(records)}", COLOURS[0]
        styles = {"validation": _run_style(0), "training": _TRAINING}
    else:
        styles = {label: _run_style(i) for i, label in enumerate(runs)}
    lines = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    lines.append(Line2D([], [], color=ring_colour, label=ring_label, **_RING))
    place = {
        "loc": "outside lower center",
        "ncols": -(-len(lines) // -(-len(lines) // 6)),
    }
    if hole:
        place = {"loc": "lower right", "bbox_to_anchor": (0.97, 0.1)}
    fig.legend(handles=lines, frameon=False, fontsize=9, **place)


# ------------------------------------------------------------------------ results


def plot_results(
    rows: Sequence[Mapping[str, Any]],
    runs: Mapping[str, Sequence[Records]] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """ELBO and log-likelihood of each guide, with validation curves where given.

    Args:
        rows: of `report.summarise`: `label`, `elbo`, `log_likelihood`, their
            `..._std_error` over the data, and `seeds`, the single runs.
        runs: the records of each label's seeds.
        title: names the data.
    """
    fig = _figure(12 if runs else 6.4, max(2 + 0.3 * len(rows), 3.4), title)
    ratios = [2, 1.2, 1.2] if runs else [1]
    ax, *curves = fig.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    for y, row in enumerate(rows):
        colour = _run_style(y)["color"]
        for key, face, shift in (
            ("elbo", "white", 0.16),
            ("log_likelihood", colour, -0.16),
        ):
            bar = {"fmt": "o", "mfc": face, "capsize": 3, "elinewidth": 1, "ms": 6}
            error = row[f"{key}_std_error"]
            ax.errorbar(row[key], y + shift, xerr=error, color=colour, **bar)
            if len(row["seeds"]) > 1:
                values = [run[key] for run in row["seeds"]]
                ax.plot(values, [y + shift] * len(values), "x", color=_INK, ms=4)
    _dress(ax, "Bound and importance-sampled likelihood", _NATS, "")
    ax.set_yticks(range(len(rows)), [row["label"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ring = {"ls": "", "marker": "o", "color": _INK}
    keys = [
        Line2D([], [], mfc="white", label="ELBO", **ring),
        Line2D([], [], label="log-likelihood", **ring),
        Line2D([], [], color=_INK, lw=1, label="standard error over data"),
        Line2D([], [], color=_INK, marker="x", ms=4, ls="", label="single seeds"),
    ]
    several = any(len(row["seeds"]) > 1 for row in rows)
    keys = keys if several else keys[:-1]
    fig.legend(
        handles=keys, frameon=False, fontsize=9, loc="outside lower center", ncols=4
    )
    for panel, last in zip(curves, (False, True), strict=False):
        for i, row in enumerate(rows):
            for records in (runs or {}).get(row["label"], ()):
                style = _run_style(i)
                style["lw"] = 1
                _draw_curve(panel, _records("", records), "valid_elbo", style, last)
        name = "Validation ELBO" + ", last epochs" * last
        _dress(panel, name, "epoch", _NATS)
    return fig


# --------------------------------------------------------------------- posteriors


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
    columns = _columns(x, columns)
    num_rows = -(-len(x) // columns)
    title = "Posteriors: " + figure_title(vae, data)
    fig = _figure(2.5 * columns + 0.3, 3.0 * num_rows + 0.9, title)
    axes = list(fig.subplots(num_rows, columns, squeeze=False).flat)
    for i, ax in enumerate(axes):
        if i >= len(x):
            ax.remove()
            continue
        datum = x[i : i + 1].to(vae.device)
        with _evaluating(vae.model, vae.guide, vae.device, seed):
            q, p, gap = posterior_densities(vae, datum)
        p_levels, q_levels = p.levels(masses), q.levels(masses)
        shades = [_tint(0.2 + 0.55 * k / len(masses)) for k in range(len(masses))]
        ax.contourf(*_on_grid(p), [*p_levels, math.inf], colors=shades)
        lines = {"colors": _GUIDE, "linestyles": "-", "linewidths": 1.2}
        ax.contour(*_on_grid(q), q_levels, **lines)
        _frame(ax, torch.cat([p.region(p_levels[0]), q.region(q_levels[0])]))
        _dress(ax, "", "$z_1$", "$z_2$" if i % columns == 0 else "")
        ax.set_title(f"gap {gap:.3f} nats", loc="right", y=1.03, fontsize=9, color=_INK)
        _draw_images(ax.inset_axes([0, 1.03, 0.2, 0.2]), datum, 1)
    percent = ", ".join(f"{100 * m:g}" for m in masses)
    label = rf"exact $p(z\,|\,x)$: regions of {percent} % mass"
    keys = [
        Patch(color=_tint(0.5), label=label),
        Line2D([], [], color=_GUIDE, label=r"guide $q(z\,|\,x)$: the same regions"),
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


# ---------------------------------------------------------------------- the looks


def _figure(width: float, height: float, title: str | None) -> Figure:
    fig = Figure(figsize=(width, height), layout="constrained")
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10, color=_INK)
    return fig


def _dress(ax: Axes, title: str, x_label: str, y_label: str) -> None:
    """A light frame, small ticks, a title on the left."""
    ax.set_title(title, loc="left", fontsize=9.5, color=_INK)
    ax.set_xlabel(x_label, fontsize=9, color=_INK)
    ax.set_ylabel(y_label, fontsize=9, color=_INK)
    ax.tick_params(labelsize=8, color=_FAINT, labelcolor=_INK, length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_FAINT)
    ax.grid(color="#EEEEEE", lw=0.6)
    ax.set_axisbelow(True)


def _tint(strength: float) -> tuple[float, ...]:
    """The first colour, thinned with white."""
    return tuple(1 + strength * (c - 1) for c in to_rgb(COLOURS[0]))
