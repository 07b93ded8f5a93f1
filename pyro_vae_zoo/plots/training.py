"""Curves of trainings, and results beside each other.

What `fit` records becomes Figures 1 to 4 of Henrion & Welleck.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.plots.style import (
    COLOURS,
    DASHES,
    FAINT,
    INK,
    NATS,
    Look,
    add_legend,
    dress,
    key_of,
    make_figure,
    whole_numbers,
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

_TRAINING: Look = {"color": FAINT, "ls": "--"}
_THIN: Look = {"ls": "--", "lw": 0.9}
_RING: Look = {"ls": "", "marker": "o", "ms": 6, "mew": 1.2, "mfc": "white"}

Record = Mapping[str, Any]  # of an epoch
Records = History | Sequence[Record]
Steps = Sequence[Mapping[str, float | None]]  # records of a curve over the steps


class _Panel(NamedTuple):
    """Quantities of one panel, of all epochs or of the last ones."""

    name: str
    keys: tuple[str, ...]
    last: bool = False


_MODEL_PANELS = (
    _Panel(r"KL divergence of $q(z\,|\,x)$ from $p(z)$", ("kl",)),
    _Panel(r"Reconstruction  $E_q[\log\,p(x\,|\,z)]$", ("reconstruction",)),
)
_FLOW_PANELS = (
    _Panel(r"Initial log-density  $\log\,q_0(z_0)$", ("initial_log_density",)),
    _Panel(r"Final log-density  $\log\,q_K(z_K)$", ("final_log_density",)),
    _Panel(r"Sum of log-determinants", ("log_det",)),
)


def plot_training(history: Records, *, title: str | None = None) -> Figure:
    """Bound, KL and reconstruction over the epochs.

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
    """The panels of `plot_training` with one line for each run, by its label.

    Flows have three more, of their log-densities and their sum of log-determinants.
    """
    if title is None and len(runs) == 1:
        (title,) = runs  # one run has no legend for its label
    return _training_figure(runs, title)


def _training_figure(histories: Mapping[str, Records], title: str | None) -> Figure:
    runs = {label: records_of(label, found) for label, found in histories.items()}
    if not runs:
        raise UserError("there are no runs to draw")
    single = len(runs) == 1
    panels = _panels(list(runs.values()))
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


def _panels(runs: Sequence[Sequence[Record]]) -> list[_Panel]:
    """Bounds, of one run by name and of many by side; KL, reconstruction, flows."""
    if len(runs) == 1:
        kind, name = "elbo", "ELBO"
        if any(r.get("train_bound") is not None for r in runs[0]):
            kind, name = "bound", "Importance-weighted bound"
        both = (f"train_{kind}", f"valid_{kind}")
        panels = [_Panel(name, both), _Panel(f"{name}, last epochs", both, last=True)]
    else:
        panels = [
            _Panel("Training ELBO", ("train_elbo",)),
            _Panel("Validation ELBO", ("valid_elbo",)),
            _Panel("Validation ELBO, last epochs", ("valid_elbo",), last=True),
        ]
    panels += _MODEL_PANELS
    flows = any(r.get("log_det") is not None for records in runs for r in records)
    return panels + [*_FLOW_PANELS] * (flows and len(runs) > 1)


def records_of(label: str, history: Records) -> list[Record]:
    """The records as a list, which has some; errors name the label."""
    records = [*(history.epochs if isinstance(history, History) else history)]
    if not records:
        where = f" in {label!r}" if label else ""
        raise UserError(f"there are no epochs to draw{where}")
    return records


def mark_phases(ax: Axes, records: Sequence[Record], name_at: float | None) -> None:
    """A line where a phase of the training ends and the next begins.

    The name of that is written upwards from `name_at`, a share of the height, if any.
    """
    for before, after in zip(records, records[1:], strict=False):
        if before.get("phase") != after.get("phase"):
            border = before["epoch"] + 0.5
            ax.axvline(border, color=FAINT, lw=0.8, ls=":", zorder=0)
            if name_at is not None:
                upwards: Look = {"color": FAINT, "fontsize": 7, "rotation": 90}
                upwards |= {"transform": ax.get_xaxis_transform(), "va": "bottom"}
                ax.text(border, name_at, f" {after['phase']}", **upwards)


def _draw_curve(
    ax: Axes, records: Sequence[Record], key: str, style: Look, last: bool = False
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
        i = epochs.index(best)
        ax.plot(epochs[i], values[i], color=style["color"], zorder=3, **_RING)
    ax.xaxis.set_major_locator(whole_numbers(5))


def _best_epoch(records: Sequence[Record]) -> int | None:
    """The epoch of the last phase that is best on validation, by the bound it trained."""
    records = [r for r in records if r.get("phase") == records[-1].get("phase")]
    key = "valid_bound"
    if not any(r.get(key) is not None for r in records):
        key = "valid_elbo"
    found = [r for r in records if math.isfinite(r.get(key) or math.nan)]
    return max(found, key=lambda r: r[key])["epoch"] if found else None


def _run_style(i: int) -> Look:
    dashes = DASHES[i // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[i % len(COLOURS)], "ls": dashes}


def _training_legend(
    fig: Figure, runs: Mapping[str, Sequence[Record]], hole: bool
) -> None:
    """The legend, in the empty cell of the panels or else below them."""
    ring_label, ring_colour = "best epoch", INK
    if len(runs) == 1:
        (records,) = runs.values()
        ring_label, ring_colour = f"best epoch: {_best_epoch(records)}", COLOURS[0]
        styles = {"validation": _run_style(0), "training": _TRAINING}
    else:
        styles = {label: _run_style(i) for i, label in enumerate(runs)}
    keys = [key_of(label, **style) for label, style in styles.items()]
    keys.append(key_of(ring_label, color=ring_colour, **_RING))
    if hole:
        add_legend(fig, keys, loc="lower right", bbox_to_anchor=(0.97, 0.1))
    else:
        num_rows = -(-len(keys) // 6)
        add_legend(fig, keys, ncols=-(-len(keys) // num_rows))


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
        _draw_result(ax, row, "elbo", y + 0.16, colour, "white")
        _draw_result(ax, row, "log_likelihood", y - 0.16, colour, colour)
    dress(ax, "Bound and importance-sampled likelihood", NATS, "")
    ax.set_yticks(range(len(rows)), [row["label"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    keys = [
        key_of("ELBO", color=INK, ls="", marker="o", mfc="white"),
        key_of("log-likelihood", color=INK, ls="", marker="o"),
        key_of("standard error over data", color=INK, lw=1),
    ]
    if any(len(row["seeds"]) > 1 for row in rows):
        keys.append(key_of("single seeds", color=INK, ls="", marker="x", ms=4))
    add_legend(fig, keys, ncols=4)
    names = {"Validation ELBO": False, "Validation ELBO, last epochs": True}
    drawn = [
        (i, records_of("", records))
        for i, row in enumerate(rows)
        for records in (runs or {}).get(row["label"], ())
    ]
    for panel, (name, last) in zip(curves, names.items(), strict=False):
        for i, records in drawn:
            _draw_curve(panel, records, "valid_elbo", _run_style(i) | {"lw": 1}, last)
        _keep_near_the_best(panel, [records for _, records in drawn])
        dress(panel, name, "epoch", NATS)
    return fig


def _keep_near_the_best(ax: Axes, curves: Sequence[Sequence[Record]]) -> None:
    """Cut off what lies far below: one curve that fell would make all others a line."""
    if any(math.isfinite(r.get("valid_elbo") or math.nan) for c in curves for r in c):
        (least, most), (low, high) = _around_the_best(curves), ax.get_ylim()
        ax.set_ylim(max(low, least), min(high, most))


def _draw_result(
    ax: Axes, row: Mapping[str, Any], key: str, y: float, colour: str, face: str
) -> None:
    """A number of one guide with its error over the data, and those of its seeds."""
    look: Look = {"fmt": "o", "mfc": face, "capsize": 3, "elinewidth": 1, "ms": 6}
    ax.errorbar(row[key], y, xerr=row[f"{key}_std_error"], color=colour, **look)
    if len(row["seeds"]) > 1:
        values = [run[key] for run in row["seeds"]]
        ax.plot(values, [y] * len(values), "x", color=INK, ms=4)


def plot_curves(
    panels: Mapping[str, Mapping[str, Steps]], *, title: str | None = None
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
    keys = [key_of(label, **style) for label, style in styles.items()]
    keys += [key_of("validation", color=INK), key_of("training", color=INK, **_THIN)]
    add_legend(fig, keys, ncols=4 if len(panels) > 2 else 3)
    return fig


def _around_the_best(curves: Sequence[Steps]) -> tuple[float, float]:
    """Limits that show each curve's best validation, and what led to it.

    The first steps, and what an overfitted flow gives validation data, lie by orders
    of magnitude below; a training curve may leave the frame at the top.
    """
    every = [[r.get("valid_elbo") for r in curve] for curve in curves]
    known = [[v for v in values if v is not None] for values in every]
    finite = [[v for v in values if math.isfinite(v)] for values in known]
    valid = [values for values in finite if values]
    if not valid:
        raise UserError("there is no finite validation ELBO to draw")
    best = [max(values) for values in valid]
    climbs = [b - v[len(v) // 5] for b, v in zip(best, valid, strict=True)]
    spread = max(max(best) - min(best), min(climbs)) or 1.0
    return min(best) - spread, max(best) + spread / 2
