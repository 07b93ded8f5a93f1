"""A finished run -> pretrained weights in 16 bits, with the number that they have.

    python examples/publish.py runs/iaf-mnist_static-s0 --commit HASH

rounds the weights to 16 bits, loads them back, evaluates them on the test split and
leaves `iaf-mnist_static.safetensors` and `.json` in the package's folder of weights,
for `zoo.load("iaf-mnist_static")` and `python examples/evaluate.py iaf-mnist_static`.
It prints the number, and what the 16 bits cost.
"""

import argparse
import sys
from pathlib import Path

from pyro_vae_zoo.report.summary import summary
from pyro_vae_zoo.data.datasets import load_dataset
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.pretrained import weights_folder
from studies.publish import MOST_BYTES, MOST_BYTES_TOGETHER, publish
from pyro_vae_zoo.runs.run.folder import open_run


def main() -> int:
    """Publish a run and print what it came to."""
    args = _parse()
    try:
        info = publish(
            args.run_folder,
            load_dataset(open_run(args.run_folder)["source"], args.data_dir),
            name=args.name,
            commit=args.commit,
            recipe=args.recipe,
            folder=args.folder,
            num_particles=args.num_particles,
            seed=args.seed,
            device=args.device,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was published", file=sys.stderr)
        return 130
    cost = info["log_likelihood"] - info["float32"]["log_likelihood"]
    rounding = info["rounding"]
    print(summary(info))
    print(f"  16 bits         {cost:+9.4f} nats against the weights in 32")
    print(
        f"                  (off by {rounding['largest_error']:.1e} at most, "
        f"{rounding['to_zero']} became zero)"
    )
    print(f"  size            {info['bytes'] / 1e6:9.3f} MB")
    print(f"  in {args.folder / info['name']}.safetensors, .json")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Publish a finished run as pretrained weights: round them to 16 bits, "
        "evaluate them as they are stored, write <NAME>.safetensors and <NAME>.json.",
        epilog=f"Refused are files over {MOST_BYTES / 1e6:.0f} MB, or over "
        f"{MOST_BYTES_TOGETHER / 1e6:.0f} MB together, weights beyond 65504, guides that "
        "are not the zoo's, and runs on other data than those that are found now.",
    )
    add = parser.add_argument
    add("run_folder", type=Path, metavar="RUN", help="a finished run folder")
    add(
        "name",
        nargs="?",
        metavar="NAME",
        help="default: <guide>-<data>; another must begin like that, as in "
        "iaf-mnist_static-wide",
    )
    add(
        "--commit",
        required=True,
        metavar="HASH",
        help="of the project, that trained it",
    )
    add(
        "--recipe",
        metavar="COMMAND",
        help="that trains it again (default: made of the run's config.json)",
    )
    add(
        "--num-particles",
        type=int,
        default=500,
        metavar="N",
        help="draws per datum (default: 500; as many as the run's own evaluation "
        "took save a second one)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    add(
        "--folder",
        type=Path,
        default=weights_folder(),
        metavar="DIR",
        help="where to (default: the package's weights)",
    )
    add("--data-dir", type=Path, metavar="DIR", help="where data sets lie")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="to evaluate on (default: auto); the number comes back exactly on its kind",
    )
    add("--overwrite", action="store_true", help="replace weights of this name")
    add("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
