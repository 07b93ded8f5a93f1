"""Checks that memory stays flat over a long training: 20,000 steps, eager and compiled.

    python benchmarks/soak.py [--out results/benchmark_soak.json]

Each training is a process of its own, of `iaf` on `digits`, with its resident memory
taken after each epoch. It is flat where the median of the last tenth is at most 5 % above
that of the second: the first tenth fills caches, and compiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyro_vae_zoo as zoo
from pyro_vae_zoo.files import write_json
from pyro_vae_zoo.runtime import hardware

LIMIT = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """The memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE / 2**20


def train(compile: bool, steps: int) -> list[float]:
    """The memory after each epoch of a training with checkpoints."""
    data, taken = zoo.load_dataset("digits"), []
    vae = zoo.create("iaf", data, latent_dim=8, hidden_dims=(64,))

    def monitor(_vae: zoo.VAE) -> dict:
        taken.append(round(resident(), 1))
        return {}

    vae.monitor = monitor
    epochs = -(-steps // -(-len(data.train) // 100))
    with tempfile.TemporaryDirectory() as folder:
        zoo.fit(
            vae, data, epochs=epochs, compile=compile, out=folder, device="cpu",
            progress=False,
        )  # fmt: skip
    return taken


def growth(taken: list[float]) -> float:
    """The last tenth over the second, as a change of their medians."""
    tenth = max(len(taken) // 10, 1)
    early, late = taken[tenth : 2 * tenth], taken[-tenth:]
    return statistics.median(late) / statistics.median(early) - 1


def main() -> int:
    """Run both trainings, print and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=("eager", "compiled"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(args.one == "compiled", args.steps)))
        return 0
    result = {"steps": args.steps, "limit": LIMIT}
    for name in ("eager", "compiled"):
        words = [sys.executable, __file__, "--one", name, "--steps", str(args.steps)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        taken = json.loads(done.stdout.splitlines()[-1])
        result[name] = {
            "growth": growth(taken),
            "megabytes": taken[:: len(taken) // 20],
        }
        first, last = taken[len(taken) // 10], taken[-1]
        print(f"{name:9} {first:.0f} -> {last:.0f} MB, {growth(taken):+.1%}")
    vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    result |= hardware(vae.device)
    if args.out:
        write_json(args.out, result)
    flat = all(result[name]["growth"] < LIMIT for name in ("eager", "compiled"))
    print("flat" if flat else f"not flat: more than {LIMIT:.0%}")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
