"""Curves of trainings, and results beside each other.

What `fit` records becomes Figures 1 to 4 of Henrion & Welleck.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.plots.style import (
    COLOURS,
    DASHES,
    FAINT,
    INK,
    NATS,
    dress,
    make_figure,
)
from pyro_vae_zoo.training.history import History

__all__ = [
    "Records",
    "mark_phases",
    "plot_comparison",
    "plot_curves",
    "plot_results",
    "plot_training",
    "records_of",
]

_TRAINING = {"color": FAINT, "ls": "--"}
_THIN = {"ls": "--", "lw": 0.9}
_RING = {"ls": "", "marker": "o", "ms": 6, "mew": 1.2, "mfc": "white"}

_FLOW_PANELS = (
    (r"Initial log-density  $\log\,q_0(z_0)$", ("initial_log_density",), False),
    (r"Final log-density  $\log\,q_K(z_K)$", ("final_log_density",), False),
    (r"Sum of log-determinants", ("log_det",), False),
)

Records = History | Sequence[Mapping[str, Any]]


def plot_training(history: Records, *, title: str | None = None) -> Figure:
    """Bound, KL, reconstruction and the flow's log-densities over the epochs.

    Where a training has phases, a dotted line stands between one and the next.

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


def _training_figure(runs: Mapping[str, Records], title: str | None) -> Figure:
    runs = {label: records_of(label, records) for label, records in runs.items()}
    if not runs:
        raise UserError("there are no runs to draw")
    single = len(runs) == 1
    if single:
        (records,) = runs.values()
        kind, name = "elbo", "ELBO"
        if any(r.get("train_bound") is not None for r in records):
            kind, name = "bound", "Importance-weighted bound"
        both = (f"train_{kind}", f"valid_{kind}")
        panels = [(name, both, False), (f"{name}, last epochs", both, True)]
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
    fig = make_figure(3 * columns, 2.6 * num_rows + 0.7, title)
    axes = list(fig.subplots(num_rows, columns, squeeze=False).flat)
    for ax, (name, keys, last) in zip(axes, panels, strict=False):
        for i, (label, records) in enumerate(runs.items()):
            for key in keys:
                training = single and key.startswith("train_")
                style = _TRAINING if training else _run_style(i)
                _draw_curve(ax, records, key, {"label": label, **style}, last)
        dress(ax, name, "epoch", NATS)
        if single and not last:
            mark_phases(ax, records, 0.02 if ax is axes[0] else None)
    for ax in axes[len(panels) :]:
        ax.remove()
    _training_legend(fig, runs, len(panels) < len(axes))
    return fig


def records_of(label: str, records: Records) -> list[Mapping[str, Any]]:
    """The records as a list, which has some; errors name the label."""
    records = list(getattr(records, "epochs", records))
    if not records:
        raise UserError(f"there are no epochs to draw{f' in {label!r}' * bool(label)}")
    return records


def mark_phases(
    ax: Axes, records: list[Mapping[str, Any]], name_at: float | None
) -> None:
    """A line where a phase of the training ends and the next begins.

    The name of that is written upwards from `name_at`, a share of the height, if any.
    """
    for before, after in zip(records, records[1:], strict=False):
        if before.get("phase") != after.get("phase"):
            border = before["epoch"] + 0.5
            ax.axvline(border, color=FAINT, lw=0.8, ls=":", zorder=0)
            if name_at is not None:
                place = {"transform": ax.get_xaxis_transform(), "rotation": 90}
                text = f" {after['phase']}"
                look = {"color": FAINT, "fontsize": 7, "va": "bottom"}
                ax.text(border, name_at, text, **look, **place)


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
    if "label" in style and key.startswith("valid_") and best in epochs:
        y = values[epochs.index(best)]
        ax.plot(best, y, color=style["color"], zorder=3, **_RING)
    ax.xaxis.set_major_locator(
        MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )


def _best_epoch(records: list[Mapping[str, Any]]) -> int | None:
    """The epoch that is best on validation, by the bound that was trained."""
    key = "valid_bound"
    if not any(r.get(key) is not None for r in records):
        key = "valid_elbo"
    found = [r for r in records if math.isfinite(r.get(key) or math.nan)]
    return max(found, key=lambda r: r[key])["epoch"] if found else None


def _run_style(i: int) -> dict[str, Any]:
    dashes = DASHES[i // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[i % len(COLOURS)], "ls": dashes}


def _training_legend(fig: Figure, runs: Mapping[str, list], hole: bool) -> None:
    """What the lines mean: in the empty cell of the panels, or else below them."""
    ring_label, ring_colour = "best epoch", INK
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
    fig = make_figure(12 if runs else 6.4, max(2 + 0.3 * len(rows), 3.4), title)
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
                ax.plot(values, [y + shift] * len(values), "x", color=INK, ms=4)
    dress(ax, "Bound and importance-sampled likelihood", NATS, "")
    ax.set_yticks(range(len(rows)), [row["label"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ring = {"ls": "", "marker": "o", "color": INK}
    keys = [
        Line2D([], [], mfc="white", label="ELBO", **ring),
        Line2D([], [], label="log-likelihood", **ring),
        Line2D([], [], color=INK, lw=1, label="standard error over data"),
        Line2D([], [], color=INK, marker="x", ms=4, ls="", label="single seeds"),
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
                _draw_curve(panel, records_of("", records), "valid_elbo", style, last)
        name = "Validation ELBO" + ", last epochs" * last
        dress(panel, name, "epoch", NATS)
    return fig


def plot_curves(
    panels: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
    *,
    title: str | None = None,
) -> Figure:
    """Validation (solid) and training (dashed) over the steps, in panels of one scale.

    Args:
        panels: for each panel's name its curves by label, a curve being records with
            `step`, `train_elbo` and `valid_elbo`.
        title: names the data.

    Raises:
        UserError: where there are no curves, or no finite validation ELBO.

    >>> curve = [{"step": 10, "train_elbo": -90.0, "valid_elbo": -91.0}]
    >>> [ax.get_title(loc="left") for ax in plot_curves({"all": {"iaf": curve}}).axes]
    ['all']
    """
    curves = [curve for by_label in panels.values() for curve in by_label.values()]
    if not curves or not all(curves):
        raise UserError("expected at least one curve, and a record in each")
    labels = list(dict.fromkeys(label for by in panels.values() for label in by))
    styles = {label: _run_style(i) for i, label in enumerate(labels)}
    fig = make_figure(max(3.4 * len(panels), 6.4), 4.2, title)
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (name, by_label) in zip(axes, panels.items(), strict=True):
        for label, curve in by_label.items():
            steps = [record["step"] for record in curve]
            style = styles[label] | {"marker": "." if len(curve) <= 20 else None}
            for key, look in (("valid_elbo", {"lw": 1.3}), ("train_elbo", _THIN)):
                values = [math.nan if r[key] is None else r[key] for r in curve]
                ax.plot(steps, values, **style | look)
        dress(ax, name, "step", NATS if ax is axes[0] else "")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0].set_ylim(*_around_the_best(curves))
    keys = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    keys.append(Line2D([], [], color=INK, label="validation"))
    keys.append(Line2D([], [], color=INK, label="training", **_THIN))
    fig.legend(
        handles=keys,
        frameon=False,
        fontsize=9,
        loc="outside lower center",
        ncols=4 if len(panels) > 2 else 3,
    )
    return fig


def _around_the_best(
    curves: Sequence[Sequence[Mapping[str, float]]],
) -> tuple[float, float]:
    """Limits that show each curve's best validation, and what led to it.

    The first steps, and what an overfitted flow gives validation data, lie by orders
    of magnitude below; a training curve may leave the frame at the top.
    """
    valid = [[r["valid_elbo"] for r in curve] for curve in curves]
    valid = [
        [v for v in values if v is not None and math.isfinite(v)] for values in valid
    ]
    valid = [values for values in valid if values]
    if not valid:
        raise UserError("there is no finite validation ELBO to draw")
    best = [max(values) for values in valid]
    climbs = [b - v[len(v) // 5] for b, v in zip(best, valid, strict=True)]
    spread = max(max(best) - min(best), min(climbs)) or 1.0
    return min(best) - spread, max(best) + spread / 2
