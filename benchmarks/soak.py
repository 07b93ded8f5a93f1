"""Checks that memory stays flat over a long training: 20,000 steps, eager and compiled.

    python benchmarks/soak.py [--out results/benchmark_soak.json]

Each training is a process of its own, of `iaf` on `digits`, with its resident memory
taken after each epoch, and on a GPU the largest amount that tensors had there in the epoch.
Each is flat where the median of the last tenth is at most 5 % above that of the second: the
first tenth fills caches, and compiles. A compiled training on a GPU replays its steps as a
CUDA graph; where it cannot, that is an error here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.files import write_json
from pyro_vae_zoo.runtime import hardware

LIMIT = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """The memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE / 2**20


def taken_on(device: str) -> dict[str, float]:
    """Megabytes of this process, and the most that its tensors had on a GPU since then."""
    taken = {"resident": round(resident(), 1)}
    if device == "cuda":
        taken["on_gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 2)
        taken["reserved_on_gpu"] = round(torch.cuda.max_memory_reserved() / 2**20, 2)
        torch.cuda.reset_peak_memory_stats()
    return taken


def train(compile: bool, args: argparse.Namespace) -> list[dict[str, float]]:
    """The memory after each epoch of a training with checkpoints."""
    data, taken = zoo.load_dataset(args.data), []
    vae = zoo.create("iaf", data, latent_dim=8, hidden_dims=(64,))

    def monitor(_vae: zoo.VAE) -> dict:
        taken.append(taken_on(args.device))
        return {}

    vae.monitor = monitor
    epochs = -(-args.steps // -(-len(data.train) // 100))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("error", message="steps are launched one by one")
        zoo.fit(
            vae, data, epochs=epochs, patience=0, compile=compile, out=folder,
            device=args.device, progress=False,
        )  # fmt: skip
    return taken


def growth(taken: list[float]) -> float:
    """The last tenth over the second, as a change of their medians."""
    tenth = max(len(taken) // 10, 1)
    early, late = taken[tenth : 2 * tenth], taken[-tenth:]
    return statistics.median(late) / statistics.median(early) - 1


def summary(taken: list[dict[str, float]]) -> dict:
    """The growth of each kind of memory, and twenty of its megabytes over time."""
    columns = {kind: [epoch[kind] for epoch in taken] for kind in taken[0]}
    return {
        "growth": max(growth(values) for values in columns.values()),
        **{
            "megabytes" if kind == "resident" else f"megabytes_{kind}": values[
                :: max(len(values) // 20, 1)
            ]
            for kind, values in columns.items()
        },
    }


def main() -> int:
    """Run the trainings, print and write what they took."""
    kinds = ("eager", "compiled")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--data", default="digits", help="a data set's name or an .npz")
    parser.add_argument("--only", choices=kinds, help="one of the trainings")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=kinds, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(args.one == "compiled", args)))
        return 0
    result = {"steps": args.steps, "data": args.data, "limit": LIMIT}
    kinds = (args.only,) if args.only else kinds
    for name in kinds:
        if args.only:  # nothing else has taken memory of this process
            taken = train(name == "compiled", args)
        else:
            words = [sys.executable, __file__, "--one", name]
            words += ["--steps", str(args.steps)]
            words += ["--device", args.device, "--data", args.data]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            taken = json.loads(done.stdout.splitlines()[-1])
        result[name] = summary(taken)
        for kind in taken[0]:
            values = [epoch[kind] for epoch in taken]
            first, last = values[len(values) // 10], values[-1]
            change = f"{first:.0f} -> {last:.0f} MB, {growth(values):+.1%}"
            print(f"{name:9} {kind:16} {change}")
    result |= hardware(torch.device(args.device))
    if args.out:
        write_json(args.out, result)
    flat = all(result[name]["growth"] < LIMIT for name in kinds)
    print("flat" if flat else f"not flat: more than {LIMIT:.0%}")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
