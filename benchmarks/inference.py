"""Times inference: milliseconds to draw z from q(z|x) for a batch of images.

    python benchmarks/inference.py [--out results/benchmark_inference.json]

The guides of `studies/reproduce.py --table recursive_mixture`, untrained, side by side
in one process and in alternation, at evaluation: no gradient is asked for, though
`semi_amortized` needs those of its own steps, which the table takes by one draw and the
default by two. Ratios are to `mean_field`.
"""

from functools import partial

import torch
from timing import images, in_turn, main, make, ratio, summary

from pyro_vae_zoo.pair.modes import evaluating

ONE_LAYER = {"latent_dim": 50, "hidden_dims": (500, 500)}
SIZES = (1, 2, 3, 5)  # of mixtures
CONTESTANTS = {
    "mean_field": ("mean_field", {}),
    **{
        f"recursive_mixture({m})": ("recursive_mixture", {"num_components": m})
        for m in SIZES
    },
    **{
        f"recursive_mixture({m}), shared trunk": (
            "recursive_mixture",
            {"num_components": m, "shared_trunk": True},
        )
        for m in SIZES
    },
    "iaf": ("iaf", {}),
    "householder": ("householder", {}),
    **{
        f"semi_amortized({k}){', one draw' * (not both)}": (
            "semi_amortized",
            {"num_steps": k, "antithetic": both},
        )
        for both in (False, True)
        for k in (1, 2, 4, 8)
    },
}


def time_guides(batch_size, device, repeats):
    x = images(batch_size, device)
    vaes = {
        name: make(guide, device, **ONE_LAYER, **options)
        for name, (guide, options) in CONTESTANTS.items()
    }
    modules = torch.nn.ModuleList(vaes.values())
    with evaluating(modules, modules, x.device, seed=0):
        runs = {name: partial(vae.guide, x) for name, vae in vaes.items()}
        times = in_turn(runs, device, repeats)
    return [
        {
            "what": name,
            "batch_size": batch_size,
            "device": device,
            **summary(values),
            "over_mean_field": ratio(values, times["mean_field"]),
            "num_parameters": sum(p.numel() for p in vaes[name].guide.parameters()),
        }
        for name, values in times.items()
    ]


def show(rows):
    print(f"{'':36}{'ms':>8}{'/ mean_field':>14}")
    for row in rows:
        numbers = f"{row['milliseconds']:8.2f}{row['over_mean_field']:14.2f}"
        print(f"{row['what']:36}{numbers}")


if __name__ == "__main__":
    main(__doc__, time_guides, show, batch_size=128, repeats=200)
