"""Times importance sampling against the decoder that nobody can do without.

    python benchmarks/evaluate.py [--out results/benchmark_evaluate.json]

Times, side by side in one process and in alternation, `zoo.log_likelihood` and the
decoder with its Bernoulli log-likelihood written by hand in PyTorch, on the same
chunks. Compiled ones compile each time anew, out of PyTorch's cache but in the first run,
which is not counted. Then the peak memory of one process each with 1,000 and 10,000
particles. Where there is CUDA, a row of 10,000 images with 5,000 particles is added.
"""

import argparse
import math
import statistics
import subprocess
import sys
from functools import partial

import torch
import torch.nn.functional as F
from timing import images, in_turn, make, parser, peak_memory, ratio, write

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation.chunks import chunk_rows_for, chunk_sizes

LATENT_DIM = 40


@torch.no_grad()
def by_hand(vae, x, num_particles, rows, log_likelihood):
    """Only p(x|z): no prior, no posterior, no bookkeeping but the result."""
    layers = [m for m in vae.model.decoder if isinstance(m, torch.nn.Linear)]
    size, step = chunk_sizes(len(x), num_particles, rows)
    x = x.flatten(1)
    out = torch.empty(len(x), num_particles, dtype=torch.double)
    for i in range(0, len(x), size):
        batch = x[i : i + size]
        for j in range(0, num_particles, step):
            draws = min(step, num_particles - j)
            h = torch.randn(draws, len(batch), LATENT_DIM, device=x.device)
            for layer in layers[:-1]:
                h = torch.relu(layer(h))
            value = log_likelihood(layers[-1](h), batch)
            out[i : i + size, j : j + draws] = value.double().T.cpu()
    return out.logsumexp(1) - math.log(num_particles)


def cross_entropy(logits, x):
    x = x.expand_as(logits)
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def softplus(logits, x):
    return -F.softplus((1 - 2 * x) * logits).sum(-1)


HAND = {"cross-entropy": cross_entropy, "softplus": softplus}


def time_rows(guides, num_data, num_particles, device, repeats):
    x = images(num_data, device)
    vaes = {guide: make(guide, device, latent_dim=LATENT_DIM) for guide in guides}
    base = vaes["mean_field"]
    rows = chunk_rows_for(base.model, base.guide, x[:2])
    runs = {
        f"by hand, {name}": lambda f=f: by_hand(base, x, num_particles, rows, f)
        for name, f in HAND.items()
    }
    hands = list(runs)
    for guide, vae in vaes.items():
        run = partial(zoo.log_likelihood, vae, x, num_particles, chunk_rows=rows)
        runs[guide] = partial(run, compile=False)
        runs[f"{guide}, compiled"] = partial(run, compile=True)
    times = in_turn(runs, device, repeats, warmup=1)
    fastest = min((times[hand] for hand in hands), key=statistics.median)
    return [
        {
            "what": name,
            "num_data": num_data,
            "num_particles": num_particles,
            "device": device,
            "chunk_rows": rows,
            "seconds": round(statistics.median(values), 3),
            "spread": [round(min(values), 3), round(max(values), 3)],
            "over_hand_cross_entropy": ratio(values, times["by hand, cross-entropy"]),
            "over_fastest_hand": ratio(values, fastest),
        }
        for name, values in times.items()
    ]


def peak_of_one(num_particles, num_data=1000):
    """Peak resident bytes of a process that evaluates once."""
    command = [sys.executable, __file__, "--memory", str(num_particles), str(num_data)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(out)


def memory_rows(num_data=1000):
    rows = []
    for num_particles in (1000, 10_000):
        rows.append(
            {
                "num_particles": num_particles,
                "num_data": num_data,
                "peak_mb": round(peak_of_one(num_particles, num_data) / 1e6, 1),
                "log_weights_mb": round(8 * num_data * num_particles / 1e6, 1),
            }
        )
    allowed = 1.1 * rows[0]["peak_mb"] + rows[1]["log_weights_mb"]
    rows[1]["allowed_mb"] = round(allowed, 1)
    return rows


def show(report):
    print(f"{'':24}{'seconds':>9}{'/ cross-entropy':>17}{'/ fastest hand':>16}")
    for row in report["time"]:
        size = f"{row['num_data']} x {row['num_particles']}, {row['device']}"
        print(
            f"{row['what']:24}{row['seconds']:9.2f}{row['over_hand_cross_entropy']:17.2f}"
            f"{row['over_fastest_hand']:16.2f}   {size}"
        )
    for row in report["memory"]:
        allowed = f", allowed {row['allowed_mb']} MB" if "allowed_mb" in row else ""
        print(
            f"peak with {row['num_particles']:6} particles: {row['peak_mb']:7.1f} MB "
            f"(log-weights {row['log_weights_mb']} MB{allowed})"
        )


def main():
    options = parser(__doc__, repeats=5)
    options.add_argument("--num-data", type=int, default=1000)
    options.add_argument("--num-particles", type=int, default=1000)
    options.add_argument("--guides", nargs="+", default=["mean_field", "iaf"])
    options.add_argument("--memory", type=int, nargs=2, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.memory:
        num_particles, num_data = args.memory
        vae = make("mean_field", latent_dim=LATENT_DIM)
        zoo.log_likelihood(vae, images(num_data), num_particles, compile=False)
        print(peak_memory())
        return
    guides = ["mean_field", *(g for g in args.guides if g != "mean_field")]
    size = args.num_data, args.num_particles
    report = {
        "time": time_rows(guides, *size, "cpu", args.repeats),
        "memory": memory_rows(),
    }
    gpu = {}
    if torch.cuda.is_available():
        report["time"] += time_rows(guides, 10_000, 5000, "cuda", args.repeats)
        gpu["cuda"] = torch.cuda.get_device_name()
    show(report)
    write(report, args.out, **gpu)


if __name__ == "__main__":
    main()
