"""Log-likelihoods of many guides side by side, and which of them differ."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_vae_zoo._averages import difference
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.plots.style import COLOURS, FAINT, INK, NATS, dress, make_figure

__all__ = ["plot_scores"]

Results = Sequence[Mapping[str, Any]]

_AHEAD, _BEHIND, _LEVEL = COLOURS[0], COLOURS[1], INK
_KEYS = {"elbo": "ELBO", "log_likelihood": r"$\log \hat p(x)$"}
_DOT = {"ls": "none", "marker": "o", "ms": 5}
_PAPER = {"ls": "none", "marker": "D", "ms": 4.5, "mec": COLOURS[2]}
_CROSS = {"ls": "none", "marker": "x", "ms": 5, "color": FAINT}


def plot_scores(
    panels: Mapping[str, Mapping[str, Results]],
    *,
    reference: str | None = None,
    title: str | None = None,
) -> Figure:
    """ELBO and log-likelihood of each guide, a panel for each data set.

    Where the reference and another guide have several seeds, a second panel shows how
    far each is ahead of the reference, with two standard errors. Blue is ahead by more
    than these, red behind, black within; grey has a single seed, and no verdict.

    Args:
        panels: for each panel's name its results by the guide's label, several where
            there are several seeds; with `elbo` and `log_likelihood`, in nats, and
            where they are known `published`, `published_elbo` (of `test`), and
            `note`, which begins with "invalid" where a bound is none.
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
    judged = {name: _is_judged(by, reference) for name, by in panels.items()}
    columns = len(panels) + sum(judged.values())
    height = 0.27 * len(labels) + 1.9
    longest = max(len(_tick(label, panels)) for label in labels)
    fig = make_figure(0.075 * longest + 0.6 + 2.6 * columns, height, title)
    axes = list(fig.subplots(1, columns, sharey=True, squeeze=False)[0])
    axes[0].set_yticks(range(len(labels)), [_tick(x, panels) for x in labels])
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    left = iter(axes)
    for name, by_label in panels.items():
        _draw_scores(
            next(left), name, by_label, labels, reference, any(judged.values())
        )
        if judged[name]:
            title = f"{name}: difference" if len(panels) > 1 else "difference"
            _draw_differences(next(left), title, by_label, labels, reference)
    _legend(fig, panels, reference, any(judged.values()))
    return fig


def _is_judged(by_label: Mapping[str, Results], reference: str | None) -> bool:
    others = [runs for label, runs in by_label.items() if label != reference]
    several = any(len(runs) > 1 for runs in others)
    return several and len(by_label.get(reference, ())) > 1


def _is_invalid(runs: Results) -> bool:
    return (runs[0].get("note") or "").startswith("invalid")


def _tick(label: str, panels: Mapping[str, Mapping[str, Results]]) -> str:
    runs = [by_label[label] for by_label in panels.values() if label in by_label]
    return label + " (INVALID)" * any(map(_is_invalid, runs))


def _verdict(runs: Results, others: Results | None, key: str) -> str:
    """The colour of a row: is it beyond two standard errors from the reference?"""
    if others is None or runs is others:
        return _LEVEL
    ahead, error = difference(runs, others, key)
    if error is None:
        return FAINT
    if not abs(ahead) > 2 * error:
        return _LEVEL
    return _AHEAD if ahead > 0 else _BEHIND


def _draw_scores(
    ax: Axes,
    name: str,
    by_label: Mapping[str, Results],
    labels: Sequence[str],
    reference: str | None,
    judged: bool,
) -> None:
    """Each seed's ELBO and log-likelihood, and the paper's figures."""
    dress(ax, name, NATS, "")
    others = by_label.get(reference)
    if others:
        values = [_value(run, "log_likelihood") for run in others]
        ax.axvline(fmean(values), color=FAINT, lw=1, zorder=0)
    for label, runs in by_label.items():
        y = labels.index(label)
        for key in _KEYS:
            values = [_value(run, key) for run in runs]
            look = _look(key, _verdict(runs, others if judged else None, key))
            look = _CROSS if _is_invalid(runs) else look
            if len(values) > 1 and not _is_invalid(runs):
                error = 2 * stdev(values) / math.sqrt(len(values))
                bar = {"color": look["mec"], "lw": 1.2, "zorder": 1}
                ax.plot([fmean(values) - error, fmean(values) + error], [y, y], **bar)
            ax.plot(values, [y] * len(values), **look)
        for key, value in _published(runs[0]).items():
            if value is not None:
                ax.plot([value], [y], **_paper_look(key), zorder=1.5)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _draw_differences(
    ax: Axes,
    title: str,
    by_label: Mapping[str, Results],
    labels: Sequence[str],
    reference: str,
) -> None:
    """How far each guide is ahead of the reference, ± two standard errors."""
    dress(ax, title, f"{NATS}, ± 2 standard errors", "")
    ax.axvline(0, color=FAINT, lw=1, zorder=0)
    others = by_label[reference]
    for label, runs in by_label.items():
        if label == reference or _is_invalid(runs):
            continue
        for key, shift in (("elbo", 0.17), ("log_likelihood", -0.17)):
            ahead, error = difference(runs, others, key)
            look = _look(key, _verdict(runs, others, key))
            y = labels.index(label) + shift
            if error is not None:
                ends = [ahead - 2 * error, ahead + 2 * error]
                ax.plot(ends, [y, y], color=look["mec"], lw=1.2, zorder=1)
            ax.plot([ahead], [y], **look)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _value(run: Mapping[str, Any], key: str) -> float:
    return math.nan if run[key] is None else run[key]


def _published(run: Mapping[str, Any]) -> dict[str, float | None]:
    elbo = (run.get("published_elbo") or {}).get("test")
    return {"elbo": elbo, "log_likelihood": run.get("published")}


def _look(key: str, colour: str) -> dict[str, Any]:
    return _DOT | {"mec": colour, "mfc": "white" if key == "elbo" else colour}


def _paper_look(key: str) -> dict[str, Any]:
    return _PAPER | {"mfc": "white" if key == "elbo" else _PAPER["mec"]}


def _legend(
    fig: Figure,
    panels: Mapping[str, Mapping[str, Results]],
    reference: str | None,
    judged: bool,
) -> None:
    """Only what is in the figure."""
    rows = [runs for by_label in panels.values() for runs in by_label.values()]
    keys = [Line2D([], [], label=_KEYS[k], **_look(k, _LEVEL)) for k in _KEYS]
    for key, name in _KEYS.items():
        if any(_published(runs[0])[key] is not None for runs in rows):
            keys.append(Line2D([], [], label=f"paper's {name}", **_paper_look(key)))
    if any(map(_is_invalid, rows)):
        keys.append(Line2D([], [], label="invalid: no bound", **_CROSS))
    if any(reference in by_label for by_label in panels.values()):
        keys.append(Line2D([], [], color=FAINT, lw=1, label=reference))
    verdicts = {
        _AHEAD: f"ahead of {reference}",
        _BEHIND: f"behind {reference}",
        _LEVEL: "within two errors",
        FAINT: "one seed: no verdict",
    }
    used = {
        _verdict(runs, by_label.get(reference), key)
        for by_label in panels.values()
        for label, runs in by_label.items()
        for key in _KEYS
        if label != reference and not _is_invalid(runs)
    }
    for colour in [colour for colour in verdicts if judged and colour in used]:
        patch = {"color": colour, "ls": "none", "marker": "s", "ms": 6}
        keys.append(Line2D([], [], label=verdicts[colour], **patch))
    columns = max(2, min(4, int(fig.get_figwidth() / 1.9)))
    place = {"loc": "outside lower center", "ncols": columns}
    fig.legend(handles=keys, frameon=False, fontsize=9, labelcolor=INK, **place)
