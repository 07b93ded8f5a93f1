"""The parser of the command line."""

import argparse
import sys
from pathlib import Path
from typing import Any

from pyro_vae_zoo._version import __version__
from pyro_vae_zoo.cli.arguments import (
    INSTALLED,
    KINDS,
    Formatter,
    add_compile,
    add_data_options,
    add_machine,
    add_options,
    add_places,
    add_shared,
    completed_by,
    key_values,
    numbers,
)
from pyro_vae_zoo.cli.config import add_config
from pyro_vae_zoo.evaluation.options import DiagnoseOptions
from pyro_vae_zoo.models.registry import list_density_models, list_guides
from pyro_vae_zoo.weights.pretrained import list_pretrained

__all__ = ["make_parser"]


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.command` says which one was given."""
    parser = argparse.ArgumentParser(
        prog=INSTALLED,
        description="Variational auto-encoders with rich posteriors, in Pyro: train one, "
        "evaluate it by importance sampling, compare several.",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_density(commands)
    _add_evaluate(commands)
    _add_diagnose(commands)
    _add_explore(commands)
    _add_sample(commands)
    _add_encode(commands)
    _add_compare(commands)
    _add_list(commands)
    script = Path(sys.argv[0])
    if script.suffix == ".py" and script.stem in commands.choices:  # in examples/
        commands.choices[script.stem].prog = f"python {script}"
    return parser


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train a VAE, evaluate it, draw its pictures",
        description="Train a VAE with the guide of your choice. Leaves a run folder with "
        "the model, its log-likelihood with an error bar, and pictures.",
        epilog="guides: " + ", ".join(list_guides()) + ". Examples: train --guide iaf "
        "--data mnist_static --epochs 50; train --guide iaf --help-options; train --config "
        "runs/iaf-digits-s0/config.json --out runs/again",
        formatter_class=Formatter,
    )
    guide = command.add_argument(
        "--guide",
        default="mean_field",
        metavar="NAME|FILE.py:Class",
        help="posterior q(z|x): a name of the zoo or a class of your own",
    )
    completed_by(guide, list_guides())
    _add_run(command, "runs/<guide>-<data>-s<seed>")
    _add_help_options(command)
    add_shared(command)
    command.set_defaults(command="train")


def _add_density(commands: Any) -> None:
    command = commands.add_parser(
        "density",
        help="train a density model of real data, say its nats and bits",
        description="Train a normalising flow, alone or in a hierarchy, on data with a "
        "density, at a rate of 1e-4 unless you give one. Results are in nats of the logit "
        "space and in bits per dimension.",
        epilog="example: density --model self_reflective_maf --train-size 5000 "
        "--option flow_hidden_dims=256,",
        formatter_class=Formatter,
    )
    command.add_argument(
        "--model",
        dest="guide",
        choices=list_density_models(),
        default="maf",
        help="the density model",
    )
    command.add_argument(
        "--train-size", type=int, metavar="N", help="train on the first N images only"
    )
    _add_run(command, "runs/<model>-<data>-s<seed>")
    _add_help_options(command)
    add_shared(command, density=True)
    # A flow's steps multiply; large ones diverge within an epoch.
    command.set_defaults(
        command="density", data="cifar10", lr=None, clip_norm=1e3, eval_particles=None
    )


def _add_run(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--seed", type=int, default=0, metavar="N", help="random seed")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help=f"run folder (default: {default})"
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint in the folder; what is not given is the run's",
    )
    add_config(command)


def _add_help_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--help-options",
        action="store_true",
        help="say which options the guide and the other given parts have, and end",
    )


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="evaluate a run again, or pretrained weights",
        description="Evaluate a trained run by importance sampling, or pretrained "
        "weights by their name, whose number is then put beside the published one.",
        epilog=_pretrained("evaluate runs/iaf-digits-s0 --num-particles 5000"),
        formatter_class=Formatter,
    )
    _add_reading(command)
    add = command.add_argument
    add(
        "--num-particles",
        "--eval-particles",  # as `train` has it, where the other ones are of a step
        type=int,
        metavar="N",
        help="draws per datum (default: 1000, or as many as were published)",
    )
    add(
        "--num-data",
        type=int,
        metavar="N",
        help="only the first N images (default: all of the split)",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="of the draws (default: 0, or the published one)",
    )
    add("--out", type=Path, metavar="FILE", help="write the result here")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add_compile(add, "importance sampling", "there is much of it")
    add_machine(command)
    command.set_defaults(command="evaluate")


def _add_diagnose(commands: Any) -> None:
    command = commands.add_parser(
        "diagnose",
        help="check a run's log-likelihood by annealing, find what its bound loses",
        description="Diagnostics of a trained run, or of pretrained weights, on some of "
        "its data: log p(x) over the number of particles beside annealed importance "
        "sampling, approximation and amortisation gap, correlations of q(z|x) before and "
        "after each flow step. Leaves diagnostics.json and pictures.",
        epilog=_pretrained("diagnose runs/iaf-digits-s0 --num-data 50"),
        formatter_class=Formatter,
    )
    _add_reading(command)
    add = command.add_argument
    add("--num-data", type=int, default=100, metavar="N", help="drawn from the split")
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
        help="a page to explore a run's latent space in a browser",
        description="Write one HTML file, which needs neither a server nor the network: "
        "point at a latent and see it decoded, pick a datum and see its posterior under "
        "the guide. For pairs of one latent vector of two dimensions or more.",
        epilog=_pretrained("explore runs/iaf-digits-s0"),
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
        ("--num-data", 50, "data that show their posterior, drawn from the split"),
        ("--num-samples", 200, "draws of q(z|x) for each of them"),
        ("--seed", 0, "of their choice and of all draws"),
    ):
        add(flag, type=int, default=value, metavar="N", help=text)
    add_machine(command)
    command.set_defaults(command="explore")


def _add_sample(commands: Any) -> None:
    command = commands.add_parser(
        "sample",
        help="draw data from a run's model, into arrays or a picture",
        description="Draws of x from the model of a run, on the scale of the data: z from "
        "the prior, x given z.",
        epilog=_pretrained("sample runs/iaf-digits-s0 -n 16 --out samples.png"),
        formatter_class=Formatter,
    )
    _add_pair(command)
    add = command.add_argument
    add("-n", "--num-samples", type=int, default=64, metavar="N", help="how many")
    add("--mean", action="store_true", help="E[x|z] of each draw of z in place of x")
    add("--seed", type=int, default=0, metavar="N", help="of the draws")
    add("--data", metavar="NAME|FILE", help="where the data lie now, whose scale it is")
    _add_out(
        command, "samples.npz", "array x; .csv has a line for each, .png a picture"
    )
    add_machine(command)
    command.set_defaults(command="sample")


def _add_encode(commands: Any) -> None:
    command = commands.add_parser(
        "encode",
        help="the codes z of data under a run's guide, into arrays",
        description="Codes of data under q(z|x): means, which are in closed form where "
        "there is one and else over 100 draws, or the draws. Labels of the data, if they "
        "are known, go with them.",
        epilog=_pretrained("encode runs/iaf-digits-s0 digits --out codes.csv"),
        formatter_class=Formatter,
    )
    _add_pair(command)
    add = command.add_argument
    add(
        "data",
        nargs="?",
        metavar="DATA",
        help="a data set, by its name or path (default: that of the run)",
    )
    _add_split(command)
    add(
        "--num-samples",
        type=int,
        default=0,
        metavar="N",
        help="draws of q(z|x) for each datum, 0 for its mean",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the draws")
    _add_out(command, "codes.npz", "arrays z and label; .csv has a line for each datum")
    add_machine(command)
    command.set_defaults(command="encode")


def _add_out(command: argparse.ArgumentParser, name: str, what: str) -> None:
    add = command.add_argument
    text = f"{what} (default: {name} in RUN, or in runs/NAME)"
    add("--out", type=Path, metavar="FILE", help=text)
    add("--json", action="store_true", help="print one JSON object and nothing else")


def _add_list(commands: Any) -> None:
    command = commands.add_parser(
        "list",
        help="what there is: guides, priors, likelihoods, data, pretrained, ...",
        description="The names of the zoo, a line for each: what it is, and where from.",
        epilog="example: list guides priors",
        formatter_class=Formatter,
    )
    add = command.add_argument
    kinds = add(
        "kinds",
        nargs="*",
        metavar="KIND",
        help=f"of {', '.join(KINDS)} (default: all)",
    )
    completed_by(kinds, list(KINDS))
    add("--json", action="store_true", help="print one JSON object and nothing else")
    command.set_defaults(command="list")


def _pretrained(example: str) -> str:
    """An example, and the names that may stand for a run."""
    return f"example: {example}; pretrained: {', '.join(list_pretrained()) or 'none'}"


def _add_reading(command: argparse.ArgumentParser) -> None:
    """Add what the commands that evaluate a run have in common."""
    _add_pair(command)
    _add_split(command)
    command.add_argument("--data", metavar="PATH", help="where the data lie now")


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
    add("--guide", metavar="FILE.py:Class", help="the class of a guide of your own")
    add_places(add)
    add_data_options(command)


def _add_split(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--split",
        choices=("test", "valid", "train"),
        default="test",
        help="of the data",
    )


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="several guides, all else equal: a table and a figure",
        description="Compare finished runs, or train several guides on one data set with "
        "the same budget and seeds. Guides that are trained already are not trained again.",
        epilog="examples: compare --guides mean_field planar:num_flows=4 iaf --seeds 0,1; "
        "compare --guides iaf,examples/my_guide.py:MyGuide; compare --guides iaf --sweep "
        "latent_dim=2,8,32 --sweep lr=1e-3,3e-4",
        formatter_class=Formatter,
    )
    command.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders"
    )
    guides = command.add_argument(
        "--guides",
        nargs="+",
        metavar="GUIDE[:OPTIONS]",
        help="guides to train, with spaces or commas between them: names of the zoo or "
        "FILE.py:Class, each with OPTIONS KEY=VALUE,... of its own (default: all)",
    )
    completed_by(guides, list_guides())
    command.add_argument(
        "--sweep",
        type=key_values,
        action="append",
        default=[],
        metavar="KEY=A,B,...",
        help="values of an option of train or of the guides, each of them a row; several "
        "make a grid. Which row is best on validation is said below the table",
    )
    command.add_argument(
        "--seeds", type=numbers, default=(0,), metavar="A,B", help="one run for each"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("runs", "comparison"),
        metavar="DIR",
        help="folder of the report: table, figure, each run's result as JSON",
    )
    command.add_argument(
        "--runs-dir",
        type=Path,
        metavar="DIR",
        help="folder of the run folders (default: that of the report)",
    )
    add_config(command)
    add_shared(command)
    command.set_defaults(command="compare")
