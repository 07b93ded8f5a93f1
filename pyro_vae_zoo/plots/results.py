"""A figure for each kind of result: what its `plot()` shows."""

import math
from functools import singledispatch
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.ais import AnnealedLikelihood, BidirectionalBounds
from pyro_vae_zoo.evaluation.covariances import PosteriorCovariances
from pyro_vae_zoo.evaluation.gaps import InferenceGaps
from pyro_vae_zoo.evaluation.importance import LogLikelihood
from pyro_vae_zoo.evaluation.particle_curve import ParticleCurve
from pyro_vae_zoo.evaluation.probe import Probe
from pyro_vae_zoo.evaluation.statistics import error_over_data
from pyro_vae_zoo.evaluation.totals import Evaluation
from pyro_vae_zoo.plots.estimates import plot_correlations, plot_gaps, plot_particles
from pyro_vae_zoo.plots.style import (
    COLOURS,
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
from pyro_vae_zoo.plots.training import plot_training
from pyro_vae_zoo.training.history import History

__all__ = ["plot_result"]

_LOG_P = r"$\log\,\hat p(x)$"
_DOTS: Look = {"s": 14, "alpha": 0.7, "lw": 0}
_POINT: Look = {"fmt": "o", "ms": 6, "capsize": 3, "elinewidth": 1}
_UNRELIABLE = 0.7
_MOST_CLASSES = 20  # whose names and counts can be read


@singledispatch
def plot_result(result: Any, *, title: str | None = None) -> Figure:
    """The figure of a result, by its kind; the same as `result.plot()`.

    Args:
        result: of `fit`, `evaluate`, `log_likelihood`, `inference_gaps`,
            `annealed_log_likelihood`, `bidirectional`, `particle_curve`,
            `posterior_covariances`, `linear_probe` or `nearest_neighbours`.
        title: guide and data; see `figure_title`.

    Raises:
        UserError: for anything else.

    >>> import torch, pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> ll = zoo.log_likelihood(vae, torch.zeros(5, 8, 8), num_particles=50)
    >>> len(plot_result(ll, title="mean_field").axes)
    2
    """
    raise UserError(f"expected a result that has a figure, got {type(result).__name__}")


@plot_result.register
def _(result: History, *, title: str | None = None) -> Figure:
    return plot_training(result, title=title)


@plot_result.register
def _(result: InferenceGaps, *, title: str | None = None) -> Figure:
    return plot_gaps({"": result}, title=title)


@plot_result.register
def _(result: ParticleCurve, *, title: str | None = None) -> Figure:
    return plot_particles({"particles of the guide": result}, title=title)


@plot_result.register
def _(result: PosteriorCovariances, *, title: str | None = None) -> Figure:
    return plot_correlations(result, title=title)


@plot_result.register
def _(result: LogLikelihood, *, title: str | None = None) -> Figure:
    fig = make_figure(8.4, 3.4, title)
    spread, points = fig.subplots(1, 2)
    _draw_spread(spread, result.log_prob)
    khat = result.khat.nan_to_num(math.nan, posinf=math.nan)
    points.scatter(result.log_prob, khat, color=COLOURS[0], **_DOTS)
    points.axhline(_UNRELIABLE, color=COLOURS[1], lw=1, ls="--")
    lost = int((~khat.isfinite()).sum())
    name = f"Each datum; {lost} without a finite k-hat" if lost else "Each datum"
    dress(points, name, f"{_LOG_P} (nats)", "Pareto k-hat")
    dashes: Look = {"color": COLOURS[1], "lw": 1, "ls": "--"}
    add_legend(fig, [_mean_key(), key_of("above it: a lower bound", **dashes)], ncols=2)
    return fig


@plot_result.register
def _(result: AnnealedLikelihood, *, title: str | None = None) -> Figure:
    fig = make_figure(8.4, 3.4, title)
    spread, points = fig.subplots(1, 2)
    _draw_spread(spread, result.log_prob)
    points.scatter(result.log_prob, result.ess, color=COLOURS[0], **_DOTS)
    points.set_ylim(0, 1.05 * result.num_chains)
    what = f"effective chains, of {result.num_chains}"
    dress(points, "Each datum", f"{_LOG_P} (nats)", what)
    add_legend(fig, [_mean_key()])
    return fig


@plot_result.register
def _(result: BidirectionalBounds, *, title: str | None = None) -> Figure:
    fig = make_figure(6.4, 3.8, title)
    ax = fig.subplots()
    order = (result.lower + result.upper).argsort()
    lower, upper, x = result.lower[order], result.upper[order], torch.arange(len(order))
    ax.vlines(x, lower, upper, color=FAINT, lw=1)
    looks: dict[str, Look] = {
        "upper": {"color": COLOURS[1], "marker": "v", "ms": 5, "ls": ""},
        "lower": {"color": COLOURS[0], "marker": "^", "ms": 5, "ls": ""},
    }
    ax.plot(x, upper, **looks["upper"])
    ax.plot(x, lower, **looks["lower"])
    ax.xaxis.set_major_locator(whole_numbers(5))
    gap, error = result.gap.mean().item(), error_over_data(result.gap)
    name = rf"Bounds of $\log\,p(x)$; mean gap {gap:.3f} $\pm$ {error:.3f}"
    dress(ax, name, "simulated datum, sorted by its bounds", NATS)
    names = {"upper": "upper bound", "lower": "lower bound"}
    add_legend(fig, [key_of(names[k], **look) for k, look in looks.items()], ncols=2)
    return fig


@plot_result.register
def _(result: Evaluation, *, title: str | None = None) -> Figure:
    sites = result.kl_per_site
    fig = make_figure(7.2, 3.2, title)
    ax = fig.subplots()
    start, keys = result.elbo, []
    for i, (site, kl) in enumerate(sites.items()):
        colour = COLOURS[(2 + i) % len(COLOURS)]
        ax.barh(1, kl, left=start, height=0.5, color=colour, alpha=0.6)
        start += kl
        of = f" of {site}" if len(sites) > 1 else ""
        keys.append(Patch(color=colour, alpha=0.6, label=f"KL{of}: {kl:.2f}"))
    gap = result.log_likelihood - result.elbo
    if sites:
        ax.barh(2, gap, left=result.elbo, height=0.5, color=COLOURS[0], alpha=0.4)
        label = rf"$\log\,\hat p(x)$ - ELBO: {gap:.2f}"
        keys.append(Patch(color=COLOURS[0], alpha=0.4, label=label))
        ax.plot(result.reconstruction, 0, "o", color=INK, ms=6)
        ax.axvline(result.elbo, color=FAINT, lw=0.8, ls=":", zorder=0)
    rows = {
        "reconstruction": (result.reconstruction, math.nan),
        "ELBO = reconstruction - KL": (result.elbo, result.elbo_std_error),
        _LOG_P: (result.log_likelihood, result.log_likelihood_std_error),
    }
    for y, (value, error) in enumerate(rows.values()):
        if sites or y == 2:
            ax.errorbar(value, y, xerr=error, color=INK, **_POINT)
    ax.set_yticks(range(3) if sites else [2], [*rows] if sites else [_LOG_P])
    ax.set_ylim(2.6, -0.6)
    name = f"Means over {result.num_data} data, {result.num_particles} particles each"
    dress(ax, name, f"{NATS}, with standard error over the data", "")
    if keys:
        add_legend(fig, keys, ncols=min(len(keys), 4))
    return fig


@plot_result.register
def _(result: Probe, *, title: str | None = None) -> Figure:
    names, size = [name[:12] for name in result.names], len(result.names)
    side = min(max(0.42 * size + 1.6, 3.2), 10)
    fig = make_figure(side + 0.9, side + 0.5, title)
    ax = fig.subplots()
    shares = result.confusion / result.confusion.sum(1, keepdim=True)
    image = ax.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    accuracy = rf"accuracy {result.accuracy:.3f} $\pm$ {result.std_error:.3f}"
    dress(ax, f"{result.classifier}: {accuracy}", "predicted class", "true class")
    ax.grid(False)
    if size <= _MOST_CLASSES:
        ax.set_xticks(
            range(size), names, rotation=90 if max(map(len, names)) > 2 else 0
        )
        ax.set_yticks(range(size), names)
        for i, j in result.confusion.nonzero().tolist():
            ink = "white" if shares[i, j] > 0.6 else INK
            text = f"{result.confusion[i, j]}"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=ink)
    bar = fig.colorbar(image, ax=ax, shrink=0.8)
    bar.set_label("share of the true class", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    bar.outline.set_visible(False)
    return fig


def _draw_spread(ax: Axes, values: Tensor) -> None:
    """How many data have which value, and their mean."""
    finite = values[values.isfinite()]
    bins = min(max(len(finite) // 8, 5), 40)
    ax.hist(finite.numpy(), bins=bins, color=COLOURS[0], alpha=0.6)
    ax.axvline(values.mean().item(), color=INK, lw=1.2)
    dress(ax, f"{len(values)} data", f"{_LOG_P} (nats)", "data")


def _mean_key() -> Any:
    return key_of("mean", color=INK, lw=1.2)
