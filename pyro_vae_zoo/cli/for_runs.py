"""The flags of the commands for a finished run, from `evaluate` to `encode`."""

import argparse
from pathlib import Path
from typing import Any

from pyro_vae_zoo.cli.arguments import (
    Formatter,
    add_compile,
    add_data_options,
    add_machine,
    add_options,
    completed_by,
)
from pyro_vae_zoo.evaluation.options import DiagnoseOptions
from pyro_vae_zoo.weights.pretrained import list_pretrained

__all__ = ["add_commands_for_runs"]

# Only code of the user's own is asked for: parts of the zoo are found by their names.
_PARTS = {
    "guide": "class of the run's guide",
    "prior": "the run's prior",
    "likelihood": "the run's likelihood",
    "encoder": "the run's encoder",
    "decoder": "the run's decoder",
    "model": "function that made the run's whole VAE",
}


def add_commands_for_runs(commands: Any) -> None:
    """Add `evaluate`, `diagnose`, `explore`, `sample` and `encode`."""
    _add_evaluate(commands)
    _add_diagnose(commands)
    _add_explore(commands)
    _add_sample(commands)
    _add_encode(commands)


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="evaluate a run again, or pretrained weights",
        description="Estimate the log-likelihood of a trained run by importance "
        "sampling. Given the name of pretrained weights, compare it with the published "
        "number.",
        epilog=_pretrained("runs/iaf-digits-s0 --num-particles 5000"),
        formatter_class=Formatter,
    )
    _add_reading(command)
    add = command.add_argument
    add(
        "--num-particles",
        "--eval-particles",  # as `train` has it, where the other ones are of a step
        type=int,
        metavar="N",
        help="particles (draws of z from the guide) per datum (default: 1000; for "
        "pretrained weights, as published)",
    )
    add(
        "--num-data",
        type=int,
        metavar="N",
        help="use only the first N data of the split (default: all)",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="random seed (default: 0; for pretrained weights, as published)",
    )
    add("--out", type=Path, metavar="FILE", help="write the result here, as JSON")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add_compile(add, "importance sampling", "if it is long enough for that to pay")
    add_machine(command)
    command.set_defaults(command="evaluate")


def _add_diagnose(commands: Any) -> None:
    command = commands.add_parser(
        "diagnose",
        help="check a run's log-likelihood by annealing; measure its inference gaps",
        description="Diagnose a trained run, or pretrained weights, on data drawn at "
        "random from a split: log p(x) against the number of particles, and by "
        "annealed importance sampling (AIS); the approximation gap (due to the family "
        "of q) and the amortisation gap (due to the encoder); correlations of q(z|x) "
        "before and after each flow step. Writes diagnostics.json and pictures.",
        epilog=_pretrained("runs/iaf-digits-s0 --num-data 50"),
        formatter_class=Formatter,
    )
    _add_reading(command)
    add = command.add_argument
    add(
        "--num-data",
        type=int,
        default=100,
        metavar="N",
        help="use N data, drawn at random from the split by --seed",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the results (default: RUN, or runs/NAME)",
    )
    add_options(add, DiagnoseOptions)
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add_machine(command)
    command.set_defaults(command="diagnose")


def _add_explore(commands: Any) -> None:
    command = commands.add_parser(
        "explore",
        help="write a page to explore a run's latent space in a browser",
        description="Write one HTML file, which works offline. Point at a latent z to see "
        "it decoded; pick a datum to see its posterior under the guide. For pairs of "
        "one latent vector with at least two dimensions.",
        epilog=_pretrained("runs/iaf-digits-s0"),
        formatter_class=Formatter,
    )
    _add_reading(command)
    add = command.add_argument
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: explore.html in RUN, or in runs/NAME)",
    )
    for flag, value, text in (
        ("--num-data", 50, "show N data, drawn at random from the split by --seed"),
        ("--num-samples", 200, "draws of q(z|x) for each of these data"),
        ("--seed", 0, "random seed of the choice of data and of all draws"),
    ):
        add(flag, type=int, default=value, metavar="N", help=text)
    add_machine(command)
    command.set_defaults(command="explore")


def _add_sample(commands: Any) -> None:
    command = commands.add_parser(
        "sample",
        help="draw samples of x from a run's model, as arrays or a picture",
        description="Draw samples of x from the model of a run: z from the prior, then x "
        "given z. They are on the scale of the data.",
        epilog=_pretrained("runs/iaf-digits-s0 -n 16 --out samples.png"),
        formatter_class=Formatter,
    )
    _add_pair(command)
    add = command.add_argument
    add(
        "-n",
        "--num-samples",
        type=int,
        default=64,
        metavar="N",
        help="number of samples",
    )
    add("--mean", action="store_true", help="write E[x|z] instead of a sample of x")
    add("--seed", type=int, default=0, metavar="N", help="random seed")
    add(
        "--data",
        metavar="NAME|FILE",
        help="the run's data, whose scale is used (default: where the run found them)",
    )
    _add_out(
        command,
        "samples.npz",
        "file to write: .npz (array x), .csv (a line per sample) or .png (a picture)",
    )
    add_machine(command)
    command.set_defaults(command="sample")


def _add_encode(commands: Any) -> None:
    command = commands.add_parser(
        "encode",
        help="encode data: codes z under a run's guide, as arrays",
        description="Write the code of each datum: the mean of q(z|x), in closed form or "
        "else over 100 draws; with --num-samples, draws of q(z|x) instead. Known "
        "labels of the data are written too.",
        epilog=_pretrained("runs/iaf-digits-s0 digits --out codes.csv"),
        formatter_class=Formatter,
    )
    _add_pair(command)
    add = command.add_argument
    add(
        "data",
        nargs="?",
        metavar="DATA",
        help="data set to encode, a name or a path (default: that of the run)",
    )
    _add_split(command)
    add(
        "--num-samples",
        type=int,
        default=0,
        metavar="N",
        help="draws of q(z|x) for each datum; 0: the mean of q(z|x)",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed of the draws")
    _add_out(
        command,
        "codes.npz",
        "file to write: .npz (arrays z and label) or .csv (a line per datum)",
    )
    add_machine(command)
    command.set_defaults(command="encode")


def _add_out(command: argparse.ArgumentParser, name: str, what: str) -> None:
    add = command.add_argument
    text = f"{what} (default: {name} in RUN, or in runs/NAME)"
    add("--out", type=Path, metavar="FILE", help=text)
    add("--json", action="store_true", help="print one JSON object and nothing else")


def _pretrained(example: str) -> str:
    """An example of the arguments, and the names that may stand for a run."""
    names = ", ".join(list_pretrained()) or "none"
    return f"example: %(prog)s {example}. Pretrained weights: {names}"


def _add_reading(command: argparse.ArgumentParser) -> None:
    """Add what the commands that evaluate a run have in common."""
    _add_pair(command)
    _add_split(command)
    command.add_argument(
        "--data",
        metavar="NAME|PATH",
        help="data to use (default: the run's, where the run found them)",
    )


def _add_pair(command: argparse.ArgumentParser) -> None:
    """Add what says which pair it is."""
    add = command.add_argument
    run = add(
        "run_folder",
        type=Path,
        metavar="RUN|NAME",
        help="a run folder, or the name of pretrained weights",
    )
    completed_by(run, list_pretrained())
    for place, what in _PARTS.items():
        text = f"{what}, if it is your own"
        add(f"--{place}", metavar="FILE.py:Name", help=text)
    add_data_options(command)


def _add_split(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--split",
        choices=("test", "valid", "train"),
        default="test",
        help="split of the data to use",
    )
