"""Log-likelihoods of many guides side by side."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.plots.style import COLOURS, FAINT, INK, dress, make_figure

__all__ = ["plot_scores"]


def plot_scores(
    panels: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
    *,
    reference: str | None = None,
    title: str | None = None,
) -> Figure:
    """ELBO and log-likelihood of each guide, a panel for each data set.

    Args:
        panels: for each panel's name its results by the guide's label, several where
            there are several seeds; with `elbo` and `log_likelihood`, in nats.
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
    height = 0.27 * len(labels) + 1.5
    fig = make_figure(1.7 + 2.6 * len(panels), height, title)
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (name, by_label) in zip(axes, panels.items(), strict=True):
        dress(ax, name, "nats per datum", "")
        if reference in by_label:
            values = [r["log_likelihood"] for r in by_label[reference]]
            ax.axvline(sum(values) / len(values), color=FAINT, lw=1, zorder=0)
        for label, results in by_label.items():
            y = [labels.index(label)] * len(results)
            for key, look in _LOOKS.items():
                ax.plot([r[key] for r in results], y, **look)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.5)
    keys = [Line2D([], [], label=_KEYS[key], **look) for key, look in _LOOKS.items()]
    if any(reference in by_label for by_label in panels.values()):
        keys.append(Line2D([], [], color=FAINT, lw=1, label=reference))
    fig.legend(
        handles=keys,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        loc="outside lower center",
        ncols=3,
    )
    return fig


_DOT = {"ls": "none", "marker": "o", "ms": 5, "mec": COLOURS[0]}
_LOOKS = {
    "elbo": _DOT | {"mfc": "white"},
    "log_likelihood": _DOT | {"mfc": COLOURS[0]},
}
_KEYS = {"elbo": "ELBO", "log_likelihood": r"$\log \hat p(x)$"}
