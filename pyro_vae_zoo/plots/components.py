"""Mixture posteriors, component by component: each takes up what others left."""

from collections.abc import Sequence

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.scales import scale_of
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.grid import MixtureSteps, mixture_densities
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.plots.images import known_of, pixels_of
from pyro_vae_zoo.plots.posterior import (
    draw_legend,
    exact_key,
    frame,
    outline,
    shade,
    with_range,
)
from pyro_vae_zoo.plots.raster import draw_thumbnail
from pyro_vae_zoo.plots.style import (
    COLOURS,
    FAINT,
    GUIDE,
    INK,
    Look,
    dress,
    figure_title,
    key_of,
    make_figure,
)

__all__ = ["plot_components"]

# None of them the guide's colour or the exact posterior's.
_COLOURS = tuple(COLOURS[i] for i in (2, 3, 6, 4, 5))
_MASS = 0.9  # that a component's outline holds
_NOTICEABLE = 0.01  # weight from which on a component belongs into the picture


def plot_components(
    vae: VAE,
    x: Tensor,
    *,
    masses: Sequence[float] = (0.5, 0.9, 0.99),
    max_rows: int = 3,
    data: Dataset | str | None = None,
    seed: int = 0,
) -> Figure:
    r"""A mixture posterior step by step, for guides that draw a `Mixture` of size two.

    A row for each of the first data, a column for each step m. It shows the mixture of
    the first m components,

    \[Q_m(z|x) = \sum_{j \le m} \alpha_j\, q_j(z|x) \Big/ \sum_{j \le m} \alpha_j,\]

    on the exact p(z|x), both contoured at the edges of their smallest regions that
    hold the given masses; the components, each by its 90 % region, the newest solid
    and heavier lines for larger weights; the weights in \(Q_m\) as a bar; and the gap
    KL(Q_m || p(z|x)) in nats, by quadrature. It need not fall at each step, since one
    guide serves all data. Components of weight zero are left out. The limits are those
    of a row; where a component that weighs under 1 % lies beyond them, the panel says
    so.

    Args:
        vae: the pair.
        x: data, shape `(n, *event_shape)`.
        masses: of the regions.
        max_rows: number of data that are drawn.
        data: where `x` is from, for the title.
        seed: of the draws by which the grids are placed.

    Raises:
        UserError: where the guide draws no `Mixture`, where its latent is not one
            vector `"z"` of size two, and for no data.
    """
    if max_rows < 1 or len(x) < 1:
        got = f"{max_rows} and {len(x)}"
        raise UserError(f"expected at least one row and one datum, got {got}")
    masses, x = sorted(masses), vae.check_data(x[:max_rows]).to(vae.device)
    with evaluating(vae.model, vae.guide, vae.device, seed):
        rows = [mixture_densities(vae, datum[None]) for datum in x]
    columns = max(len(steps.gaps) for steps in rows)
    pixels = pixels_of(x, data)
    scale = scale_of(known_of(data, pixels), pixels, likelihood=vae.likelihood)
    title = with_range(
        "Mixture, step by step: " + figure_title(vae, data), scale, pixels
    )
    fig = make_figure(max(2.7 * columns + 1.1, 6.5), 3.3 * len(x) + 1.3, title)
    ratios = {"width_ratios": [0.25] + [1] * columns}
    grid = fig.subplots(len(x), 1 + columns, squeeze=False, gridspec_kw=ratios)
    for steps, datum, (left, *axes) in zip(rows, pixels, grid, strict=True):
        left.set_axis_off()
        draw_thumbnail(left.inset_axes((0, 0.4, 1, 0.2)), datum, scale)
        for m, ax in enumerate(axes):
            if m < len(steps.gaps):
                dress(ax, "", "$z_1$" if ax in grid[-1] else "", "" if m else "$z_2$")
                _draw_step(ax, steps, m, masses)
            else:
                ax.remove()
    draw_legend(fig, _keys(masses))
    return fig


def _draw_step(ax: Axes, steps: MixtureSteps, m: int, masses: Sequence[float]) -> None:
    """The panel of the first m + 1 components."""
    shade(ax, steps.exact, masses)
    weights = steps.log_weights[: m + 1].softmax(0).tolist()
    for j, weight in enumerate(weights):
        outline(
            ax,
            steps.components[j],
            [_MASS],
            colors=[_colour(steps, j)],
            linestyles="-" if j == m else "--",
            linewidths=1 + 1.6 * weight,
        )
    outline(ax, steps.mixtures[m], masses, colors=GUIDE, linestyles="-", linewidths=1.1)
    frame(ax, _points_to_show(steps, masses[-1]))
    ax.tick_params(labelleft=m == 0)
    weight = f"weight {weights[m]:.2f}" if weights[m] > 0.005 else "weight < 0.01"
    digits = 3 if steps.gaps[m] < 1000 else 0
    gap = f"gap {steps.gaps[m]:.{digits}f} nats"
    look: Look = {"y": 1.1, "fontsize": 9, "color": INK}
    ax.set_title(f"$m = {steps.numbers[m]}$, {weight}", loc="left", **look)
    ax.set_title(gap, loc="right", **look)
    _draw_weights(ax.inset_axes((0, 1.02, 1, 0.065)), steps, weights)
    _name_outside(ax, steps, m)


def _points_to_show(steps: MixtureSteps, mass: float) -> Tensor:
    """Points where the posterior, the mixture and all that weighs something have mass."""
    shown = [steps.exact.region(mass), steps.mixtures[-1].region(mass)]
    for log_weight, q in zip(steps.log_weights, steps.components, strict=True):
        if log_weight.exp() > _NOTICEABLE:
            shown.append(q.region(_MASS))
    return torch.cat(shown)


def _draw_weights(ax: Axes, steps: MixtureSteps, weights: Sequence[float]) -> None:
    """A bar as long as their sum, one, in the components' colours."""
    look: Look = {"ha": "center", "va": "center_baseline", "color": "white"}
    start = 0.0
    for j, weight in enumerate(weights):
        ax.barh(0, weight, left=start, color=_colour(steps, j), ec="white", lw=0.8)
        if weight > 0.07:  # as wide as the number
            text = f"{weight:.2f}".removeprefix("0")
            ax.text(start + weight / 2, 0, text, fontsize=7, **look)
        start += weight
    ax.set(xlim=(0, 1), ylim=(-0.4, 0.4))
    ax.set_axis_off()


def _name_outside(ax: Axes, steps: MixtureSteps, m: int) -> None:
    """Say which of the components lie beyond the limits with most of their mass."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    low, high = torch.tensor([left, bottom]), torch.tensor([right, top])
    outside = []
    for number, q in list(zip(steps.numbers, steps.components, strict=True))[: m + 1]:
        beyond = ((q.z < low) | (q.z > high)).any(-1)
        if q.mass[beyond].sum() > 0.5:
            outside.append(str(number))
    if outside:
        text = f"not shown, far outside: component {', '.join(outside)}"
        place: Look = {"transform": ax.transAxes, "ha": "left", "va": "bottom"}
        ax.text(0.03, 0.02, text, color=FAINT, fontsize=7.5, style="italic", **place)


def _colour(steps: MixtureSteps, j: int) -> str:
    return _COLOURS[(steps.numbers[j] - 1) % len(_COLOURS)]


def _keys(masses: Sequence[float]) -> list[Artist]:
    mixture = r"first $m$ components: the same regions"
    newest = f"newest component: region of {100 * _MASS:g} % mass"
    earlier = "earlier components; bar: all weights"
    return [
        exact_key(masses),
        key_of(mixture, color=GUIDE),
        key_of(newest, color=_COLOURS[0], lw=2),
        key_of(earlier, color=_COLOURS[0], lw=2, ls="--"),
    ]
