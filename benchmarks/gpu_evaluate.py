"""Times importance sampling on a GPU: log p(x) of 10,000 images with 5,000 draws each.

    python benchmarks/gpu_evaluate.py --device cuda --out results/gpu/importance.json

A row for each guide and for the decoder with its likelihood by hand, as in `evaluate.py`:
the seconds of the first call, compilation included, which is what a user waits for; those
of a second one; and the most memory that tensors had on the GPU. The mark, 60 s, is for the
first. Networks have random weights and images random pixels, on which the time does not
depend. Each row is written when it is there, those of first calls first.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from evaluate import LATENT_DIM, by_hand, softplus
from timing import images, make, seconds, write

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation.chunks import chunk_rows_for

MARK = 60  # seconds


def measured(run, device):
    """Seconds, and megabytes on the GPU."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    row = {"seconds": round(seconds(run, device), 3)}
    if device == "cuda":
        row["megabytes"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return row


def contestants(guides, x, num_particles):
    """What computes log p(x), by name."""
    device = x.device.type
    runs = {}
    for guide in guides:
        vae = make(guide, device, latent_dim=LATENT_DIM)
        runs[guide] = partial(zoo.log_likelihood, vae, x, num_particles)
        if guide == "mean_field":
            rows = chunk_rows_for(vae.model, vae.guide, x[:2])
            hand = partial(by_hand, vae, x, num_particles, rows, softplus)
            runs["decoder by hand"] = hand
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--num-data", type=int, default=10_000)
    parser.add_argument("--num-particles", type=int, default=5000)
    parser.add_argument("--guides", nargs="+", default=["mean_field", "iaf"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    x = images(args.num_data, args.device)
    runs = contestants(args.guides, x, args.num_particles)
    report = {
        "num_data": args.num_data,
        "num_particles": args.num_particles,
        "images": "random pixels, random weights",
        "mark_seconds": MARK,
        "time": [],
    }
    for call in ("first", "second"):
        for name, run in runs.items():
            row = {"what": name, "call": call} | measured(run, args.device)
            print(row, flush=True)
            report["time"].append(row)
            write(report, args.out, args.device)
    late = [
        row["what"]
        for row in report["time"]
        if row["call"] == "first" and row["seconds"] > MARK
    ]
    if late:
        raise SystemExit(f"more than {MARK} s: {', '.join(late)}")


if __name__ == "__main__":
    main()
