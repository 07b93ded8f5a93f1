"""Times the choice of a library for each matrix product, alone: chosen against BLAS.

    python benchmarks/matmul.py [--out results/benchmark_matmul.json]

One compiled training step of the same pair with the same data, side by side in turns of a
hundred steps: with oneDNN where `choose_products` found it faster, and with PyTorch's BLAS
throughout. Ratios are to BLAS.
"""

from functools import partial

import pyro
from timing import images, in_turn, main, make, ratio, step, summary

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.compiled import CompiledELBO
from pyro_vae_zoo.inference.tracing import Inductor
from pyro_vae_zoo.training.steps import make_optimizer

NETWORKS = {
    "mean_field": ("mean_field", {}),
    "iaf(2)": ("iaf", {"num_flows": 2}),
    "iaf(10)": ("iaf", {"num_flows": 10}),
    "mean_field, width 1000": ("mean_field", {"hidden_dims": (1000, 1000)}),
}
STEPS = 100  # of a turn: caches are as warm as they are in a training


def turn(guide, options, x, products):
    """A turn of training steps, and the products that were chosen."""
    vae = make(guide, **options)
    loss = CompiledELBO(zoo.AnnealedELBO(), compiler=Inductor(products))
    adam = make_optimizer("adam", vae.parameters(), 1e-3)
    one = partial(step, adam, lambda: loss.differentiable_loss(vae.model, vae.guide, x))

    def steps():
        with pyro.validation_enabled(False):
            for _ in range(STEPS):
                one()

    one()
    return steps


def time_choices(batch_size, device, repeats):
    x, rows = images(batch_size, device), []
    for name, (guide, options) in NETWORKS.items():
        chosen = {}
        runs = {
            "blas": turn(guide, options, x, None),
            "chosen": turn(guide, options, x, chosen),
        }
        times = in_turn(runs, device, repeats, warmup=1)
        onednn = sum(library == "onednn" for library in chosen.values())
        for what, values in times.items():
            values = [v / STEPS for v in values]
            about = {"what": what, "network": name, "batch_size": batch_size}
            over = ratio(values, [v / STEPS for v in times["blas"]])
            about |= {
                "by_onednn": onednn if what == "chosen" else 0,
                "kinds": len(chosen),
            }
            rows.append(about | summary(values) | {"over_blas": over})
    return rows


def show(rows):
    print(f"{'':28}{'':8}{'ms':>8}{'/ BLAS':>8}  products by oneDNN")
    for row in rows:
        numbers = f"{row['milliseconds']:8.2f}{row['over_blas']:8.2f}"
        by = f"{row['by_onednn']} of {row['kinds']}"
        print(f"{row['network']:28}{row['what']:8}{numbers}  {by}")


if __name__ == "__main__":
    main(__doc__, time_choices, show, batch_size=100, repeats=10)
