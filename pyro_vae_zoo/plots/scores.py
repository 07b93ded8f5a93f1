"""Log-likelihoods of many guides side by side, and over a number that they have."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.statistics import difference, number, standard_error
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
)

__all__ = ["plot_scores", "plot_sweep"]

Results = Sequence[Mapping[str, Any]]  # of one guide, a seed each
Rows = Mapping[str, Results]  # by the label of the guide

_AHEAD, _BEHIND, _LEVEL = COLOURS[0], COLOURS[1], INK
_KEYS = {"elbo": "ELBO", "log_likelihood": r"$\log \hat p(x)$"}
_DOT: Look = {"ls": "none", "marker": "o", "ms": 5}
_PAPER: Look = {"ls": "none", "marker": "D", "ms": 4.5, "mec": COLOURS[2]}
_SHIFTS = {"elbo": 0.2, "log_likelihood": -0.2}
_SWEEP_WIDTH = 7.2
_MOST_TICKS = 10  # whose numbers do not overlap
_CROSS: Look = {"ls": "none", "marker": "x", "ms": 5, "color": FAINT}


def plot_scores(
    panels: Mapping[str, Rows],
    *,
    reference: str | None = None,
    title: str | None = None,
) -> Figure:
    """ELBO and log-likelihood of each guide, a panel for each data set.

    Where the reference and another guide have several seeds, a second panel shows how
    far each is ahead of the reference, with two standard errors. Blue is ahead by more
    than these, red behind, black within; grey has too few seeds, and no verdict. Axes
    are those of valid runs: what lies far from them is an arrow at the edge, with its
    number (the mean over seeds).

    Args:
        panels: for each panel's name its results by the guide's label, several where
            there are several seeds; with `elbo` and `log_likelihood`, in nats or
            None, and where they are known `published`, `published_elbo` (of `test`),
            and `is_bound`, which is false where the number is no bound.
        reference: the guide whose mean log-likelihood is drawn as a line.
        title: of the figure.

    Raises:
        UserError: where there is nothing to draw.

    >>> result = {"elbo": -91.0, "log_likelihood": -90.0}
    >>> len(plot_scores({"digits": {"iaf": [result]}}).axes)
    1
    """
    if not panels or not all(panels.values()):
        raise UserError("expected at least one panel, and a result in each")
    labels = list(dict.fromkeys(label for by in panels.values() for label in by))
    judged = [name for name, by in panels.items() if _is_judged(by, reference)]
    columns = len(panels) + len(judged)
    height = 0.27 * len(labels) + 1.9
    longest = max(len(_tick(label, panels)) for label in labels)
    fig = make_figure(0.075 * longest + 0.6 + 2.6 * columns, height, title)
    axes = list(fig.subplots(1, columns, sharey=True, squeeze=False)[0])
    axes[0].set_yticks(range(len(labels)), [_tick(x, panels) for x in labels])
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    left = iter(axes)
    for name, by_label in panels.items():
        others = _runs_of(reference, by_label)
        ax = next(left)
        dress(ax, name, NATS, "")
        _draw_scores(ax, by_label, labels, others, bool(judged))
        if others and name in judged:
            ax = next(left)
            text = f"{name}: difference" if len(panels) > 1 else "difference"
            dress(ax, text, f"{NATS}, ± 2 standard errors", "")
            _draw_differences(ax, by_label, labels, others)
    _legend(fig, panels, reference, bool(judged))
    return fig


def plot_sweep(
    lines: Mapping[str, Mapping[float, Results]],
    name: str,
    *,
    title: str | None = None,
) -> Figure:
    """ELBO and log-likelihood over a number that was swept, a colour for each guide.

    Bars are two standard errors over the seeds, where there are several.

    Args:
        lines: for each guide's label its results by the number, several where there are
            several seeds; with `elbo` and `log_likelihood`, in nats or None.
        name: of the number.
        title: of the figure.

    Raises:
        UserError: where there is nothing to draw.

    >>> small, large = ({"elbo": e, "log_likelihood": e + 1} for e in (-92.0, -91.0))
    >>> figure = plot_sweep({"iaf": {2: [small], 8: [large]}}, "latent_dim")
    >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    ['2', '8']
    """
    if not lines or not all(lines.values()):
        raise UserError("expected at least one line, and a result in each")
    columns = max(1, min(4, int(_SWEEP_WIDTH / (0.075 * max(map(len, lines)) + 0.6))))
    rows = -(-(len(lines) + len(_KEYS)) // columns)
    fig = make_figure(_SWEEP_WIDTH, 3.6 + 0.22 * rows, title)
    ax = fig.subplots()
    keys = [key_of(shown, **_look(key, _LEVEL)) for key, shown in _KEYS.items()]
    for i, (label, by_number) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        dashes: Look = {"color": colour, "ls": DASHES[i // len(COLOURS) % len(DASHES)]}
        keys += [key_of(label, **dashes)] * (len(lines) > 1)
        for key in _KEYS:
            numbers = sorted(by_number)
            values = [_values(by_number[x], key) for x in numbers]
            for x, bar in zip(numbers, map(_bar, values), strict=True):
                ax.plot([x] * len(bar), bar, color=colour, lw=1.2, zorder=1)
            line: Look = {"lw": 1, "alpha": 0.6, "zorder": 1}
            ax.plot(numbers, [*map(fmean, values)], **dashes, **line)
            ax.plot(numbers, [*map(fmean, values)], **_look(key, colour))
    dress(ax, "", name, NATS)
    _mark_numbers(ax, sorted({x for by_number in lines.values() for x in by_number}))
    add_legend(fig, keys, ncols=min(len(keys), columns), labelcolor=INK)
    return fig


def _mark_numbers(ax: Axes, numbers: Sequence[float]) -> None:
    """Ticks where the numbers are; a logarithmic axis where they span a decade.

    Beside zero it begins as a line, up to the smallest of the others.
    """
    positive = [x for x in numbers if x > 0]
    if numbers[0] >= 0 and positive and positive[-1] >= 10 * positive[0]:
        if numbers[0] == 0:
            ax.set_xscale("symlog", linthresh=positive[0])
        else:
            ax.set_xscale("log")
    if len(numbers) <= _MOST_TICKS:
        ax.set_xticks(numbers, [f"{x:.6g}" for x in numbers])
        ax.set_xticks([], minor=True)


def _runs_of(reference: str | None, by_label: Rows) -> Results | None:
    return None if reference is None else by_label.get(reference)


def _is_judged(by_label: Rows, reference: str | None) -> bool:
    """True where the reference and another guide have several seeds."""
    several = {label for label, runs in by_label.items() if len(runs) > 1}
    return reference in several and len(several) > 1


def _is_invalid(runs: Results) -> bool:
    return not all(run.get("is_bound", True) for run in runs)


def _tick(label: str, panels: Mapping[str, Rows]) -> str:
    runs = [by_label[label] for by_label in panels.values() if label in by_label]
    return f"{label} (INVALID)" if any(map(_is_invalid, runs)) else label


def _verdict(runs: Results, others: Results | None, key: str) -> str:
    """The colour of a row: ahead or behind by more than two errors, or within them."""
    if others is None or runs is others:
        return _LEVEL
    ahead, error = difference(runs, others, key)
    if error is None or not math.isfinite(error):
        return FAINT
    if not abs(ahead) > 2 * error:
        return _LEVEL
    return _AHEAD if ahead > 0 else _BEHIND


def _draw_scores(
    ax: Axes, rows: Rows, labels: Sequence[str], others: Results | None, judged: bool
) -> None:
    """Each seed's ELBO and log-likelihood, and the paper's figures."""
    ax.set_xlim(*_limits(rows))
    if others:
        centre = fmean(_values(others, "log_likelihood"))
        ax.axvline(centre, color=FAINT, lw=1, zorder=0)
    for label, runs in rows.items():
        y = labels.index(label)
        for key in _KEYS:
            values, look = _values(runs, key), _CROSS
            if not _is_invalid(runs):
                look = _look(key, _verdict(runs, others if judged else None, key))
                bar = _bar(values)
                if bar:
                    ax.plot(bar, [y, y], color=look["mec"], lw=1.2, zorder=1)
            _mark(ax, values, y, key, look)
        for key, value in _published(runs[0]).items():
            _mark(ax, [number(value)], y, key, _paper_look(key) | {"zorder": 1.5})
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _limits(by_label: Rows) -> tuple[float, float]:
    """The range of valid runs, and of what the paper has within as much again.

    There is room for the numbers of what lies beyond.
    """
    valid = [runs for runs in by_label.values() if not _is_invalid(runs)]
    numbers = [_values(runs, key) for runs in valid for key in _KEYS]
    ours = _finite(x for values in numbers for x in [*values, *_bar(values)])
    published = [_published(runs[0]) for runs in by_label.values()]
    paper = _finite(number(x) for figures in published for x in figures.values())
    invalid = [runs for runs in by_label.values() if _is_invalid(runs)]
    wrong = _finite(x for runs in invalid for key in _KEYS for x in _values(runs, key))
    ours = ours or wrong or paper or [0.0]
    width = max(ours) - min(ours) or 1.0
    paper_near = [x for x in paper if min(ours) - width <= x <= max(ours) + width]
    low, high = min([*ours, *paper_near]), max([*ours, *paper_near])
    edge, room = 0.05 * (high - low or 1.0), 0.3 * (high - low or 1.0)
    below = any(x < low - edge for x in [*paper, *wrong])
    above = any(x > high + edge for x in [*paper, *wrong])
    return low - (room if below else edge), high + (room if above else edge)


def _mark(ax: Axes, values: Sequence[float], y: float, key: str, look: Look) -> None:
    """Points; for those beyond the axis an arrow at its edge, with their mean."""
    low, high = ax.get_xlim()
    inside = [x for x in values if low <= x <= high]
    if inside:
        ax.plot(inside, [y] * len(inside), **look)
    y += _SHIFTS[key]
    text: Look = {"textcoords": "offset points", "fontsize": 7, "color": INK}
    for marker, edge, points, side, beyond in (
        ("<", low, 5, "left", [x for x in values if x < low]),
        (">", high, -5, "right", [x for x in values if x > high]),
    ):
        if beyond:
            ax.plot([edge], [y], **(look | {"marker": marker, "clip_on": False}))
            mean = f"{fmean(beyond):.5g}"
            ax.annotate(mean, (edge, y), (points, 0), ha=side, va="center", **text)


def _bar(values: Sequence[float]) -> list[float]:
    """The ends of the mean ± two standard errors; nothing where there are none."""
    error = number(standard_error(values))
    return _finite([fmean(values) - 2 * error, fmean(values) + 2 * error])


def _draw_differences(
    ax: Axes, rows: Rows, labels: Sequence[str], others: Results
) -> None:
    """The lead of each guide over the reference, ± two standard errors."""
    ax.axvline(0, color=FAINT, lw=1, zorder=0)
    for label, runs in rows.items():
        if runs is others or _is_invalid(runs):
            continue
        for key, shift in _SHIFTS.items():
            ahead, error = difference(runs, others, key)
            look = _look(key, _verdict(runs, others, key))
            y = labels.index(label) + shift
            if error is not None:
                ends = [ahead - 2 * error, ahead + 2 * error]
                ax.plot(ends, [y, y], color=look["mec"], lw=1.2, zorder=1)
            ax.plot([ahead], [y], **look)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _values(runs: Results, key: str) -> list[float]:
    return [number(run[key]) for run in runs]


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _published(run: Mapping[str, Any]) -> dict[str, float | None]:
    elbo = (run.get("published_elbo") or {}).get("test")
    return {"elbo": elbo, "log_likelihood": run.get("published")}


def _look(key: str, colour: str) -> Look:
    return _DOT | {"mec": colour, "mfc": "white" if key == "elbo" else colour}


def _paper_look(key: str) -> Look:
    return _PAPER | {"mfc": "white" if key == "elbo" else _PAPER["mec"]}


def _legend(
    fig: Figure, panels: Mapping[str, Rows], reference: str | None, judged: bool
) -> None:
    """The legend, of all that is in the figure and of nothing else."""
    rows = [runs for by_label in panels.values() for runs in by_label.values()]
    keys = [key_of(name, **_look(key, _LEVEL)) for key, name in _KEYS.items()]
    for key, name in _KEYS.items():
        if any(_published(runs[0])[key] is not None for runs in rows):
            keys.append(key_of(f"published {name}", **_paper_look(key)))
    if any(map(_is_invalid, rows)):
        keys.append(key_of("invalid: no bound", **_CROSS))
    if any(line.get_marker() in ("<", ">") for ax in fig.axes for line in ax.lines):
        keys.append(key_of("beyond the axis", color=FAINT, ls="none", marker=">", ms=5))
    if reference and any(reference in by_label for by_label in panels.values()):
        keys.append(key_of(reference, color=FAINT, lw=1))
    if judged:
        keys += _verdict_keys(panels, reference)
    columns = max(2, min(4, int(fig.get_figwidth() / 1.9)))
    add_legend(fig, keys, ncols=columns, labelcolor=INK)


def _verdict_keys(panels: Mapping[str, Rows], reference: str | None) -> list[Line2D]:
    """The legend's entries for the colours of the verdicts."""
    verdicts = {
        _AHEAD: f"ahead of {reference}",
        _BEHIND: f"behind {reference}",
        _LEVEL: "within two errors",
        FAINT: "too few seeds: no verdict",
    }
    used = {
        _verdict(runs, _runs_of(reference, by_label), key)
        for by_label in panels.values()
        for label, runs in by_label.items()
        for key in _KEYS
        if label != reference and not _is_invalid(runs)
    }
    shown = {colour: text for colour, text in verdicts.items() if colour in used}
    square: Look = {"ls": "none", "marker": "s", "ms": 6}
    return [key_of(text, color=colour, **square) for colour, text in shown.items()]
