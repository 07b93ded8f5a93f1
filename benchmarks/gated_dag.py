"""Times a training step of the gated graph.

    python benchmarks/gated_dag.py [--out results/benchmark_gated_dag.json]

Times, side by side in one process and in alternation, the steps (forward, backward,
fused Adam) with which `fit` begins, of graphs with 80 latent dimensions in all: 5 nodes
of 16, then other numbers of nodes. Ratios are to `mean_field` with 80 dimensions and
the same encoder and decoder.
"""

from functools import partial

import pyro
from timing import images, in_turn, main, make, ratio, step, summary

from pyro_vae_zoo.training.losses import make_loss
from pyro_vae_zoo.training.optimisers import make_optimizer
from pyro_vae_zoo.training.options import TrainOptions

LATENT_DIM = 80
CONTESTANTS = {
    "mean_field": (
        "mean_field",
        {
            "latent_dim": LATENT_DIM,
            "hidden_dims": (512, 512, 256),
            "network": "resnet",
            "activation": "elu",
        },
    ),
    "gated_dag": ("gated_dag", {}),
    "gated_dag, full": ("gated_dag", {"structure": "full"}),
    "gated_dag_iaf": ("gated_dag_iaf", {}),
    **{
        f"gated_dag, {n} x {LATENT_DIM // n}": (
            "gated_dag",
            {"num_nodes": n, "latent_dim": LATENT_DIM // n},
        )
        for n in (2, 10, 20)
    },
}


def training(x, guide, options):
    """A training step on x, ready to run."""
    vae = make(guide, x.device, **options)
    loss = make_loss(TrainOptions(), vae.phases[0].loss)
    adam = make_optimizer("adam", vae.parameters(), TrainOptions.lr)
    return partial(
        step, adam, partial(loss.differentiable_loss, vae.model, vae.guide, x)
    )


def time_steps(batch_size, device, repeats):
    x = images(batch_size, device)
    with (
        pyro.validation_enabled(False),  # as `fit` does
        pyro.settings.context(module_local_params=True),
    ):
        runs = {name: training(x, *pair) for name, pair in CONTESTANTS.items()}
        times = in_turn(runs, device, repeats)
    return [
        {
            "what": name,
            "batch_size": batch_size,
            "device": device,
            **summary(values),
            "over_mean_field": ratio(values, times["mean_field"]),
        }
        for name, values in times.items()
    ]


def show(rows):
    print(f"{'':18}{'ms':>8}{'quartiles':>18}{'/ mean_field':>14}")
    for row in rows:
        low, high = row["quartiles"]
        print(
            f"{row['what']:18}{row['milliseconds']:8.2f}{low:9.2f}{high:9.2f}"
            f"{row['over_mean_field']:14.2f}"
        )


if __name__ == "__main__":
    main(__doc__, time_steps, show, batch_size=100, repeats=100)
