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
SHARED = {"latent_dim": 2, "hidden_dims": (64,), "network": "mlp"}
GUIDES = {
    "mean_field": {},
    "planar": {"num_flows": 8},
    "spline_coupling": {"num_flows": 4},
    "mixture": {"num_components": 3},
}


def train(name: str, data: zoo.Dataset, first: zoo.VAE | None, **options) -> zoo.VAE:
    """A VAE; its guide alone is trained where the decoder is that of a first one."""
    torch.manual_seed(0)
    vae = zoo.create(name, data, **SHARED, **options)
    if first is not None:
        vae.model.load_state_dict(first.model.state_dict())
        vae.model.requires_grad_(False)
        vae.phases = tuple(phase for phase in vae.phases if moves(phase))
    how = {"lr": 3e-3, "schedule": "cosine", "kl_warmup": 0, "ema": 0}
    zoo.fit(vae, data, epochs=200, device="cpu", **how)
    return vae


def moves(phase: zoo.Phase) -> bool:
    """True where a phase has something to train, once the decoder is held."""
    modules = phase.modules
    return modules is None or any(
        p.requires_grad for module in modules for p in module.parameters()
    )


def worst_of(vae: zoo.VAE, data: zoo.Dataset, candidates: int = 60) -> torch.Tensor:
    """The digit whose posterior a guide misses by most."""
    x = data.train[:candidates].split(1)
    with torch.no_grad():
        gaps = [posterior_densities(vae, datum)[2] for datum in x]
    return x[max(range(candidates), key=gaps.__getitem__)]


def draw(vaes: dict[str, zoo.VAE], worst: torch.Tensor, rows: int = 2) -> Figure:
    """A panel for each guide: its posterior of a digit on the exact one."""
    with torch.no_grad():
        densities = [posterior_densities(vae, worst) for vae in vaes.values()]
    fig = make_figure(5.8, 2.1 * rows, None)
    panels = fig.subplots(rows, 2, sharex=True, sharey=True).flat
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
    vaes: dict[str, zoo.VAE] = {}
    for guide, own in GUIDES.items():
        vaes[guide] = train(guide, digits, vaes.get("mean_field"), **own)
    figure = draw(vaes, worst_of(vaes["mean_field"], digits))
    save_figure(figure, Path(__file__).parent / "pictures" / "posteriors.png", dpi=130)
