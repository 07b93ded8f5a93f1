"""Estimates of log p(x), the gaps of the bound, and the correlations that flows make."""

import math
from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.ais import AnnealedLikelihood
from pyro_vae_zoo.evaluation.covariances import PosteriorCovariances
from pyro_vae_zoo.evaluation.gaps import InferenceGaps
from pyro_vae_zoo.evaluation.importance import LogLikelihood
from pyro_vae_zoo.evaluation.particle_curve import ParticleCurve
from pyro_vae_zoo.evaluation.statistics import error_over_data
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
)

__all__ = ["plot_correlations", "plot_gaps", "plot_particles"]

_BAND = 2  # standard errors to each side
_LEVELS = ("--", "-.", ":")
_WEAK = 0.1  # a colour scale that ends below it would show noise


def plot_particles(
    curves: Mapping[str, ParticleCurve],
    levels: Mapping[str, LogLikelihood | AnnealedLikelihood] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Mean log p-hat over the number of particles, beside other estimates of log p(x).

    Bands are two Monte-Carlo standard errors wide to each side: of the draws, the data
    being the same. They are too narrow where the curve still rises.

    Args:
        curves: of `particle_curve`, by label.
        levels: other estimates for the same data, as by `annealed_log_likelihood`, by
            label; level lines.
        title: guide and data; see `figure_title`.

    Raises:
        UserError: where there is no curve.

    >>> curve = ParticleCurve((1, 2), (-91.0, -90.0), (1.0, 1.0), (0.1, 0.1), 10)
    >>> plot_particles({"iaf": curve}).axes[0].get_xscale()
    'log'
    """
    if not curves:
        raise UserError("there are no curves to draw")
    fig = make_figure(6.4, 4.2, title)
    ax = fig.subplots()
    keys: list[Artist] = []
    for i, (label, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        _draw_curve(ax, curve, colour)
        keys.append(key_of(label, color=colour, marker="."))
    for i, (label, level) in enumerate((levels or {}).items(), len(curves)):
        colour, dashes = COLOURS[i % len(COLOURS)], _LEVELS[i % len(_LEVELS)]
        _draw_level(ax, level, colour, dashes)
        keys.append(key_of(label, color=colour, ls=dashes))
    data = next(iter(curves.values())).num_data
    name = rf"$\log\,\hat p(x)$, mean over {data} data"
    dress(ax, name, "number of particles", NATS)
    ax.set_xscale("log")
    keys.append(Patch(color="#DDDDDD", label=f"{_BAND} MC standard errors"))
    add_legend(fig, keys, ncols=2, labelcolor=INK)
    return fig


def _draw_curve(ax: Axes, curve: ParticleCurve, colour: str) -> None:
    x, y = curve.num_particles, curve.log_prob
    ax.plot(x, y, color=colour, marker=".", lw=1.2)
    width = [_BAND * e for e in curve.mc_error]
    low = [a - b for a, b in zip(y, width, strict=True)]
    high = [a + b for a, b in zip(y, width, strict=True)]
    ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def _draw_level(
    ax: Axes, found: LogLikelihood | AnnealedLikelihood, colour: str, dashes: str
) -> None:
    level = found.log_prob.mean().item()
    width = _BAND * found.mc_error
    ax.axhline(level, lw=1.2, color=colour, ls=dashes)
    ax.axhspan(level - width, level + width, color=colour, alpha=0.12, lw=0)


def plot_gaps(gaps: Mapping[str, InferenceGaps], *, title: str | None = None) -> Figure:
    """The gap between ELBO and log p(x): mean parts as bars, and datum by datum.

    Whiskers are standard errors over the data.

    Args:
        gaps: of `inference_gaps`, by label.
        title: guide and data; see `figure_title`.

    Raises:
        UserError: where there are no gaps.
    """
    if not gaps:
        raise UserError("there are no gaps to draw")
    fig = make_figure(9, max(0.6 * len(gaps) + 1.2, 3.8), title)
    bars, points = fig.subplots(1, 2, width_ratios=[1.3, 1])
    for y, found in enumerate(gaps.values()):
        _draw_bars(bars, y, found)
        approximation, amortisation = _parts(found)
        colour = _SCATTER[y % len(_SCATTER)]
        points.scatter(approximation, amortisation, s=14, alpha=0.7, lw=0, color=colour)
    data = len(next(iter(gaps.values())).log_prob)
    dress(bars, r"$\log\,p(x) -$ ELBO" + f", mean over {data} data", NATS, "")
    bars.set_yticks(range(len(gaps)), list(gaps))
    margin = max(0.6, 1.5 - len(gaps) / 2)  # a single bar is not to fill the frame
    bars.set_ylim(len(gaps) - 1 + margin, -margin)
    dress(points, "Each datum", "approximation gap (nats)", "amortisation gap (nats)")
    points.axhline(0, color=FAINT, lw=0.8, zorder=0)
    points.axvline(0, color=FAINT, lw=0.8, zorder=0)
    keys: list[Artist] = [
        Patch(color=_GAP_COLOURS[0], label="approximation gap: family of q"),
        Patch(color=_GAP_COLOURS[1], label="amortisation gap: encoder"),
    ]
    if len(gaps) > 1:
        for i, name in enumerate(gaps):
            colour = _SCATTER[i % len(_SCATTER)]
            keys.append(key_of(name, ls="", marker=".", color=colour))
    add_legend(fig, keys, ncols=2, labelcolor=INK)
    return fig


_GAP_COLOURS = (COLOURS[0], COLOURS[4])
_SCATTER = (COLOURS[2], COLOURS[3], COLOURS[5], COLOURS[6], COLOURS[1])
_HEIGHT = 0.45  # of a bar; from one to the next it is 1
_BAR: Look = {"height": _HEIGHT, "ecolor": INK, "capsize": 3, "error_kw": {"lw": 1}}
_NUMBER: Look = {"textcoords": "offset points", "fontsize": 9, "color": INK}


def _draw_bars(ax: Axes, y: int, gaps: InferenceGaps) -> None:
    """The mean parts of a gap, one after the other, and their sizes above them."""
    start = 0.0
    means = [values.mean().item() for values in _parts(gaps)]
    for values, mean, colour in zip(_parts(gaps), means, _GAP_COLOURS, strict=True):
        error = error_over_data(values)
        ax.barh(y, mean, left=start, xerr=error, color=colour, **_BAR)
        start += mean
    sizes = " + ".join(f"{mean:.2f}" for mean in means)
    ax.annotate(sizes, (0, y - _HEIGHT / 2), (3, 3), va="bottom", **_NUMBER)


def _parts(gaps: InferenceGaps) -> tuple[Tensor, Tensor]:
    return gaps.approximation_gap, gaps.amortisation_gap


def plot_correlations(
    covariances: PosteriorCovariances, *, title: str | None = None
) -> Figure:
    """Mean |correlation| over the data of each two latents, before and after each step.

    Args:
        covariances: of `posterior_covariances`.
        title: guide and data; see `figure_title`.
    """
    matrices = covariances.correlation.abs().mean(1)
    matrices.diagonal(dim1=1, dim2=2).fill_(math.nan)  # is one, and says nothing
    count = len(matrices)
    columns = min(count, 4)
    rows = -(-count // columns)
    fig = make_figure(2.5 * columns + 0.9, 2.75 * rows + 0.9, title)
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    top = max(matrices.nan_to_num().max().item(), _WEAK, 3 * covariances.noise)
    means = covariances.mean_abs_correlation.mean(1).tolist()
    for k, (ax, matrix) in enumerate(zip(axes, matrices, strict=False)):
        image = ax.imshow(matrix.numpy(), cmap="viridis", vmin=0, vmax=top)
        name = rf"$z_{{{k}}}$: mean {means[k]:.3f}"
        dress(ax, name, "latent", "latent" if k % columns == 0 else "")
        ax.grid(False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
    for ax in axes[count:]:
        ax.remove()
    label = f"mean |correlation|; {covariances.noise:.3f} if independent"
    bar = fig.colorbar(image, ax=axes[:count], shrink=0.8)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    bar.outline.set_visible(False)
    return fig
