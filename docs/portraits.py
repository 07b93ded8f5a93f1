"""Draws what each posterior of one vector makes of one digit, beside the Gaussian.

    python docs/portraits.py [GUIDE ...]

The decoder is that of the landing page, trained with `mean_field` and then held, so that
all pictures have one exact posterior. Some ten minutes on one core; seed 0.
"""

import sys
from pathlib import Path

import landing

import pyro_vae_zoo as zoo
from pyro_vae_zoo.plots import save_figure

FOLDER = Path(__file__).parent / "pictures" / "systems"
# Longer where a step does little, shorter where it does much.
OPTIONS = {
    **dict.fromkeys(("planar", "radial"), {"num_flows": 8}),
    **dict.fromkeys(("householder", "affine_autoregressive", "iaf"), {"num_flows": 4}),
    **dict.fromkeys(("affine_coupling", "spline_coupling"), {"num_flows": 4}),
    **dict.fromkeys(("mixture", "recursive_mixture", "boosted"), {"num_components": 3}),
}


def one_vector() -> list[str]:
    """The guides of one latent vector, but for the one that all are held against."""
    names = [name for name in zoo.list_guides() if name != "mean_field"]
    made = {name: zoo.create(name, event_shape=(2, 3), latent_dim=2) for name in names}
    return [n for n, vae in made.items() if isinstance(vae.model, zoo.StandardModel)]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    data = zoo.load_dataset("digits_binary")
    gaussian = landing.train("mean_field", data, None)
    digit = landing.worst_of(gaussian, data)
    for name in sys.argv[1:] or one_vector():
        vae = landing.train(name, data, gaussian, **OPTIONS.get(name, {}))
        pair = {"mean_field": gaussian, name: vae}
        save_figure(landing.draw(pair, digit, rows=1), FOLDER / f"{name}.png", dpi=130)
