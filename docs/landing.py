"""Draws the landing page's picture: one decoder, one digit, four posteriors of it.

    python docs/landing.py

The decoder is trained with the mean-field guide on `digits`, and then held: all panels
have one exact posterior. Two minutes on one core; seed 0.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation.grid import posterior_densities
from pyro_vae_zoo.plots import save_figure
from pyro_vae_zoo.plots.posterior import draw_legend, exact_key, outline, shade
from pyro_vae_zoo.plots.raster import draw_images
from pyro_vae_zoo.plots.style import GUIDE, INK, key_of, make_figure

MASSES = (0.5, 0.9, 0.99)
GUIDES = {
    "mean_field": {},
    "planar": {"num_flows": 8},
    "spline_coupling": {"num_flows": 4},
    "mixture": {"num_components": 3},
}


def train(data: zoo.Dataset) -> dict[str, zoo.VAE]:
    """A VAE for each guide, all with the decoder that the first has learned."""
    shared = {"latent_dim": 2, "hidden_dims": (64,)}
    vaes: dict[str, zoo.VAE] = {}
    for name, options in GUIDES.items():
        torch.manual_seed(0)
        vae = zoo.create(name, data, **shared, **options)
        if vaes:
            vae.model.load_state_dict(vaes["mean_field"].model.state_dict())
            vae.phases = (zoo.Phase("guide", modules=(vae.guide,)),)
        how = {"lr": 3e-3, "schedule": "cosine", "kl_warmup": 0}
        zoo.fit(vae, data, epochs=200, device="cpu", **how)
        vaes[name] = vae
    return vaes


def draw(vaes: dict[str, zoo.VAE], data: zoo.Dataset, candidates: int = 60) -> Figure:
    """A panel for each guide, for the digit whose posterior the first misses by most."""
    x = data.train[:candidates].split(1)
    with torch.no_grad():
        gaps = [posterior_densities(vaes["mean_field"], datum)[2] for datum in x]
        worst = x[max(range(candidates), key=gaps.__getitem__)]
        densities = [posterior_densities(vae, worst) for vae in vaes.values()]
    fig = make_figure(5.8, 4.2, None)
    panels = fig.subplots(2, 2, sharex=True, sharey=True).flat
    for ax, name, (q, p, gap) in zip(panels, vaes, densities, strict=True):
        shade(ax, p, MASSES)
        outline(ax, q, MASSES, colors=GUIDE, linestyles="-", linewidths=1.4)
        ax.set_title(f"{name}: {gap:.2f} nats off", fontsize=10.5, color=INK)
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_visible(False)
    (low_1, low_2), (high_1, high_2) = p.region(0.995).amin(0), p.region(0.995).amax(0)
    air = 0.04 * (high_1 - low_1)
    ax.set(xlim=(low_1 - air, high_1 + air), ylim=(low_2 - 4 * air, high_2 + 4 * air))
    guide = key_of(r"guide $q(z\,|\,x)$: the same regions", color=GUIDE)
    draw_legend(fig, [exact_key(MASSES), guide])
    draw_images(fig.axes[0].inset_axes([0, 0.66, 0.2, 0.33]), worst, 1)
    return fig


if __name__ == "__main__":
    digits = zoo.load_dataset("digits_binary")
    figure = draw(train(digits), digits)
    save_figure(figure, Path(__file__).parent / "pictures" / "posteriors.png", dpi=130)
