"""Draws the pictures of the systems' pages.

    python docs/portraits.py [GUIDE ...]

Of a guide of one vector: what its posterior makes of one digit, beside the Gaussian. The
decoder is that of the landing page, trained with `mean_field` and then held, so that all
pictures have one exact posterior. Of a hierarchy or a graph: the picture of its layers
that a run on `digits` leaves. Of a density: what it learns of two half circles. Some
twenty minutes on one core; seed 0.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import landing
import torch
from sklearn.datasets import make_moons

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation.grid import GridDensity
from pyro_vae_zoo.plots import save_figure
from pyro_vae_zoo.plots.posterior import shade
from pyro_vae_zoo.plots.style import GUIDE, INK, make_figure
from pyro_vae_zoo.runs.run import make_run
from pyro_vae_zoo.training.options import TrainOptions

FOLDER = Path(__file__).parent / "pictures" / "systems"
# Longer where a step does little, shorter where it does much.
OPTIONS = {
    **dict.fromkeys(("planar", "radial"), {"num_flows": 8}),
    **dict.fromkeys(("householder", "affine_autoregressive", "iaf"), {"num_flows": 4}),
    **dict.fromkeys(("affine_coupling", "spline_coupling"), {"num_flows": 4}),
    **dict.fromkeys(("mixture", "recursive_mixture", "boosted"), {"num_components": 3}),
}

OF_RUNS = {
    **dict.fromkeys(("bottom_up", "ladder"), "layers.png"),
    "self_reflective": "growth.png",
    "gated_dag": "graph.png",
}


def one_vector() -> list[str]:
    """The guides of one latent vector, but for the one that all are held against."""
    names = [name for name in zoo.list_guides() if name != "mean_field"]
    made = {name: zoo.create(name, event_shape=(2, 3), latent_dim=2) for name in names}
    return [n for n, vae in made.items() if isinstance(vae.model, zoo.StandardModel)]


def of_run(name: str, data: zoo.Dataset) -> None:
    """Train by the defaults, and keep one picture of the run."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder, "run"), name, data, {}, TrainOptions(seed=0))
        shutil.copy(Path(folder, "run", OF_RUNS[name]), FOLDER / f"{name}.png")


# Two numbers of a datum allow no more layers, and need no wide networks.
OF_DENSITIES = {
    "maf": {},
    "self_reflective_maf": {
        **{"num_layers": 2, "block_sizes": (1, 1)},
        **{"latent_dim": 2, "hidden_dims": (64,)},
    },
}
SIDE, EDGES = 160, ((-1.6, 2.6), (-0.9, 1.4))


def of_density(name: str) -> None:
    """Points in two half circles, and the density that is learned of them."""
    points = torch.as_tensor(make_moons(3000, noise=0.07, random_state=0)[0]).float()
    data = zoo.Dataset.split(points, likelihood="gaussian")
    torch.manual_seed(0)
    vae = zoo.create(name, data, flow_hidden_dims=(64,), **OF_DENSITIES[name])
    zoo.fit(vae, data, epochs=150, device="cpu")
    across, up = (torch.linspace(*edge, SIDE) for edge in EDGES)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1).reshape(-1, 2)
    log_prob = zoo.log_likelihood(vae, grid, 200).log_prob.double().cpu()
    density = GridDensity(grid.double(), log_prob, log_prob.softmax(0), SIDE)
    fig = make_figure(5.8, 2.3, None)
    left, right = fig.subplots(1, 2, sharex=True, sharey=True)
    left.scatter(*data.train[:1000].T, s=1.5, color=GUIDE, linewidths=0)
    left.set_title("data", fontsize=10.5, color=INK)
    shade(right, density, (0.5, 0.9, 0.99))
    test = zoo.evaluate(vae, data.test, 200, seed=0).log_likelihood
    right.set_title(f"{name}: log p = {test:.2f} nats", fontsize=10.5, color=INK)
    for ax in (left, right):
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=EDGES[0], ylim=EDGES[1])
        ax.spines[:].set_visible(False)
    save_figure(fig, FOLDER / f"{name}.png", dpi=130)


def main(names: list[str]) -> None:
    """Draw the pictures of these guides."""
    for name in [n for n in names if n in OF_RUNS]:
        of_run(name, zoo.load_dataset("digits"))
    for name in [n for n in names if n in OF_DENSITIES]:
        of_density(name)
    flat = [n for n in names if n not in OF_RUNS and n not in OF_DENSITIES]
    if not flat:
        return
    data = zoo.load_dataset("digits_binary")
    gaussian = landing.train("mean_field", data, None)
    digit = landing.worst_of(gaussian, data)
    for name in flat:
        vae = landing.train(name, data, gaussian, **OPTIONS.get(name, {}))
        pair = {"mean_field": gaussian, name: vae}
        save_figure(landing.draw(pair, digit, rows=1), FOLDER / f"{name}.png", dpi=130)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    main(sys.argv[1:] or [*OF_RUNS, *OF_DENSITIES, *one_vector()])
