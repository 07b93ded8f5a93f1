"""Draws the pictures of the systems' pages.

    python docs/portraits.py [GUIDE ...]

Of a guide of one vector: what its posterior makes of one digit, beside the Gaussian. The
decoder is that of the landing page, trained with `mean_field` and then held, so that all
pictures have one exact posterior. Of a hierarchy or a graph: the picture of its layers
that a run on `digits` leaves. Some twenty minutes on one core; seed 0.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import landing

import pyro_vae_zoo as zoo
from pyro_vae_zoo.plots import save_figure
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


def main(names: list[str]) -> None:
    """Draw the pictures of these guides."""
    for name in [n for n in names if n in OF_RUNS]:
        of_run(name, zoo.load_dataset("digits"))
    flat = [n for n in names if n not in OF_RUNS]
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
    main(sys.argv[1:] or [*OF_RUNS, *one_vector()])
