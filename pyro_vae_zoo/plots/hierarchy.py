"""Hierarchies: samples that grow block by block, and the KL that each layer carries."""

import torch
from matplotlib.figure import Figure
from pyro import poutine

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.scales import scale_of
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.totals import Evaluation
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import data_sites, mean_or_draw
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.plots.images import known_of, pixels_of, sheet
from pyro_vae_zoo.plots.style import COLOURS, dress, figure_title, make_figure

__all__ = ["plot_growth", "plot_layers"]

_MAX_COLUMNS = 10


def plot_growth(
    vae: VAE, n: int = 6, *, seed: int = 0, data: Dataset | str | None = None
) -> Figure:
    """`n` ancestral samples, a row each, with one more block in each column.

    Shown is E[x_l|z_l, x_{l-1}], or where that has no closed form a draw; the block
    x_{l-1} that a layer sees is a draw.

    Raises:
        UserError: where the model does not observe blocks `x_1`, `x_2`, ..., and for
            no samples.
    """
    n = count("number of samples", n)
    with evaluating(vae.model, vae.guide, vae.device, seed):
        generate = poutine.trace(poutine.uncondition(vae.model))
        sites = data_sites(generate.get_trace(vae._blank(n)))
        blocks = [mean_or_draw(site) for site in sites.values()]
        join = getattr(vae.model, "join", None)
        if "x_1" not in sites or join is None:
            raise UserError(
                "this picture needs a model that observes blocks x_1, x_2, ..."
            )
        # Many layers: as many stages as fit, evenly spread, the last one whole.
        columns = min(len(blocks), _MAX_COLUMNS)
        shown = [(i + 1) * len(blocks) // columns - 1 for i in range(columns)]
        blank = [torch.full_like(block, torch.nan) for block in blocks]
        stages = [join(blocks[: l + 1] + blank[l + 1 :]) for l in shown]
    images = pixels_of(torch.stack(stages, 1).flatten(0, 1), data)
    scale = scale_of(known_of(data, images), images, likelihood=vae.likelihood)
    title = "Growth: " + figure_title(vae, data)
    heads = [f"$x_{{{l + 1}}}$" for l in shown]
    return sheet(images, len(shown), title, scale, heads)


def plot_layers(evaluation: Evaluation | dict, *, title: str | None = None) -> Figure:
    """KL and active units of each latent site, top layer first.

    A unit is active where its posterior mean varies over the data. Below the top layer
    it does so with the prior's mean, too: what a layer says itself is its KL.

    Args:
        evaluation: of `evaluate`, or a run's `result.json`.
        title: guide and data; see `figure_title`.

    >>> result = {"kl_per_site": {"eps_1": 8.0, "eps_2": 1.5},
    ...           "active_units": {"eps_1": "7/10", "eps_2": "2/10"}}
    >>> [ax.get_title(loc="left") for ax in plot_layers(result).axes]
    ['KL divergence from the prior', 'Active units']
    """
    if isinstance(evaluation, Evaluation):
        evaluation = evaluation.to_dict()
    kl, active = evaluation["kl_per_site"], evaluation["active_units"]
    if not kl:
        raise UserError("there are no latent sites to draw")
    sites = list(kl)
    fig = make_figure(7.0, 0.28 * len(sites) + 1.4, title)
    left, right = fig.subplots(1, 2, sharey=True)
    rows = range(len(sites))
    left.barh(rows, [kl[site] for site in sites], color=COLOURS[0], height=0.7)
    dress(left, "KL divergence from the prior", "nats per datum", "")
    counts = [[int(n) for n in active.get(s, "0/0").split("/")] for s in sites]
    right.barh(rows, [of for _, of in counts], color="#DDDDDD", height=0.7)
    right.barh(rows, [some for some, _ in counts], color=COLOURS[2], height=0.7)
    dress(right, "Active units", "of the latents of a layer", "")
    left.set_yticks(rows, sites)
    left.invert_yaxis()
    return fig
