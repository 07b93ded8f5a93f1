"""What inference costs: milliseconds to draw z from q(z|x) for a batch of images.

    python benchmarks/inference.py [--out results/benchmark_inference.json]

The guides of `examples/reproduce.py --table recursive_mixture`, untrained, side by side
in one process and in alternation, at evaluation: no gradient is asked for, though
`semi_amortized` needs those of its own steps. Ratios are to `mean_field`.
"""

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path

import pyro
import torch
from evaluate import images, seconds  # the other benchmark, beside this one

import pyro_vae_zoo as zoo
from pyro_vae_zoo.checkpoint import write_json
from pyro_vae_zoo.evaluate import evaluating
from pyro_vae_zoo.runs import hardware

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
        f"semi_amortized({k})": ("semi_amortized", {"num_steps": k})
        for k in (1, 2, 4, 8)
    },
}


def make(guide, device, options):
    torch.manual_seed(0)
    sizes = {"latent_dim": 50, "hidden_dims": (500, 500)}
    return zoo.create(guide, event_shape=(28, 28), **sizes, **options).to(device)


def time_guides(batch_size, device, repeats):
    """Medians over `repeats` rounds, each of which runs every contestant once."""
    x = images(batch_size, device)
    vaes = {
        name: make(guide, device, options)
        for name, (guide, options) in CONTESTANTS.items()
    }
    times = {name: [] for name in vaes}
    for i in range(5 + repeats):  # the first rounds warm up
        for name, vae in vaes.items():
            with evaluating(vae.model, vae.guide, x.device, seed=0):
                elapsed = seconds(partial(vae.guide, x), device)
            if i >= 5:
                times[name].append(1000 * elapsed)
    base = statistics.median(times["mean_field"])
    return [
        {
            "what": name,
            "batch_size": batch_size,
            "device": device,
            "milliseconds": round(statistics.median(values), 3),
            "quartiles": [round(q, 3) for q in statistics.quantiles(values)[::2]],
            "over_mean_field": round(statistics.median(values) / base, 3),
            "num_parameters": sum(p.numel() for p in vaes[name].guide.parameters()),
        }
        for name, values in times.items()
    ]


def show(rows):
    print(f"{'':36}{'ms':>8}{'/ mean_field':>14}")
    for row in rows:
        numbers = f"{row['milliseconds']:8.2f}{row['over_mean_field']:14.2f}"
        print(f"{row['what']:36}{numbers}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with pyro.validation_enabled(False):  # as the evaluation does
        rows = time_guides(args.batch_size, args.device, args.repeats)
    show(rows)
    report = {
        "time": rows,
        "command": " ".join(["python benchmarks/inference.py", *sys.argv[1:]]),
        "hardware": hardware(torch.device(args.device)),
    }
    if args.out:
        write_json(args.out, report)
    else:
        print(json.dumps(report["hardware"]))


if __name__ == "__main__":
    main()
