"""Do the steps of a planar flow bend, or do they only shift?

    python -m studies.planar_steps runs/flows-cpu/planar_10-s0 [RUN ...] [--out FILE]

A step is z + u_hat tanh(w.z + b), and its slope 1 - tanh^2. Where |w.z + b| is large the
slope is 0: the step adds u_hat or -u_hat, and |det| is 1. Counted here is, for every step
of every run, the share of test images at which its slope is below 0.01, by one draw each;
a step is flat if it is so for nine images in ten.
"""

import argparse
import sys
from pathlib import Path

import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.files import write_json
from pyro_vae_zoo.runtime import hardware
from pyro_vae_zoo.transforms.planar import ConditionedPlanar

FLAT = 0.01  # a slope below


@torch.no_grad()
def steps_of(vae: zoo.VAE, x: torch.Tensor) -> list[dict[str, float]]:
    """For each step |b|, the share of data at which it is flat, and its log|det|."""
    q = vae.guide.posterior(vae.guide.encoder(x))
    if not hasattr(q, "transforms"):
        raise zoo.UserError(f"expected planar steps, got {type(q).__name__}")
    z = q.base_dist.sample()
    found = []
    for step in q.transforms:
        if not isinstance(step, ConditionedPlanar):
            raise zoo.UserError(f"expected planar steps, got {type(step).__name__}")
        slope = 1 - torch.tanh((step.w * z).sum(-1, keepdim=True) + step.bias) ** 2
        before, z = z, step(z)
        found.append(
            {
                "abs_bias": step.bias.abs().mean().item(),
                "flat": (slope < FLAT).float().mean().item(),
                "log_det": step.log_abs_det_jacobian(before, z).mean().item(),
            }
        )
    return found


def main() -> int:
    """Print a line for each step of each run, and what is flat."""
    args = _parse()
    try:
        runs = count(args)
    except (zoo.UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out:
        command = " ".join(["python -m studies.planar_steps", *sys.argv[1:]])
        report = {"runs": runs, "data": args.data, "num_data": args.num_data}
        report |= {"seed": args.seed, "command": command}
        write_json(args.out, report | {"hardware": hardware(torch.device("cpu"))})
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.planar_steps", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of `planar`")
    parser.add_argument(
        "--data", default="mnist_static", help="data set, for its test images"
    )
    parser.add_argument(
        "--num-data", type=int, default=200, metavar="N", help="first N test images"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--out", type=Path, help="a JSON file")
    return parser.parse_args()


def count(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """The steps of each run, shown as they are counted."""
    x = zoo.load_dataset(args.data).test[: args.num_data].float()
    found = {}
    for run in args.runs:
        vae = zoo.load(run)
        torch.manual_seed(args.seed)
        try:
            found[run.name] = steps_of(vae, x)
        except zoo.UserError as error:
            raise zoo.UserError(f"{run.name}: {error}") from None
        show(run.name, found[run.name])
    return found


def show(name: str, steps: list[dict[str, float]]) -> None:
    """A line for each step."""
    print(
        f"{name}: {sum(step['flat'] > 0.9 for step in steps)} of {len(steps)} steps flat"
    )
    for number, step in enumerate(steps, start=1):
        print(
            f"  {number:2}  |b| {step['abs_bias']:5.1f}  flat at {step['flat']:4.0%}  "
            f"log|det| {step['log_det']:+.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
