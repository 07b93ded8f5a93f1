"""What the command line understands; `cli` does it."""

import argparse
import ast
import math
from pathlib import Path
from typing import Any

from pyro_vae_zoo import __version__
from pyro_vae_zoo.datasets import list_datasets
from pyro_vae_zoo.diagnose import DiagnoseOptions
from pyro_vae_zoo.networks import ACTIVATIONS, NETWORKS
from pyro_vae_zoo.options import OPTIMIZERS, SCHEDULES, TrainOptions
from pyro_vae_zoo.pretrained import list_pretrained
from pyro_vae_zoo.registry import list_density_models, list_guides

__all__ = ["STEPS_BY_DEFAULT", "key_value", "make_parser"]

STEPS_BY_DEFAULT = 2000  # of training, where that is more than 20 epochs


def key_value(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`, the value a Python literal where it is one, else a word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        words = {"true": True, "false": False, "inf": math.inf}
        if value.lower() in words:
            return key, words[value.lower()]
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a plain word


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas, as in 300,300; got {text!r}"
        ) from None


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that are None or False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or action.default == []:
            return action.help
        return super()._get_help_string(action)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.command` says which one was given."""
    parser = argparse.ArgumentParser(
        prog="pyro_vae_zoo",
        description="Variational auto-encoders with rich posteriors, in Pyro: train one, "
        "evaluate it by importance sampling, compare several.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_density(commands)
    _add_evaluate(commands)
    _add_diagnose(commands)
    _add_compare(commands)
    _add_report(commands)
    return parser


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train a VAE, evaluate it, draw its pictures",
        description="Train a VAE with the guide of your choice. Leaves a run folder with "
        "the model, its log-likelihood with an error bar, and pictures.",
        epilog="guides: " + ", ".join(list_guides()),
        formatter_class=_Formatter,
    )
    command.add_argument(
        "--guide",
        default="mean_field",
        metavar="NAME|FILE.py:Class",
        help="posterior q(z|x): a name of the zoo or a class of your own",
    )
    _add_run(command, "runs/<guide>-<data>-s<seed>")
    _add_shared(command)
    command.set_defaults(command="train")


def _add_density(commands: Any) -> None:
    command = commands.add_parser(
        "density",
        help="train a density model of real data, say its nats and bits",
        description="Train a normalising flow, alone or in a hierarchy, on data with a "
        "density. Results are in nats of the logit space and in bits per dimension.",
        epilog="example: density --model self_reflective_maf --train-size 5000 "
        "--option flow_hidden_dims=256,",
        formatter_class=_Formatter,
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
    _add_run(command, "runs/<model>-<data>-n<train size>-s<seed>")
    _add_shared(command)
    # A flow's steps multiply; large ones diverge within an epoch.
    command.set_defaults(
        command="density", data="cifar10", lr=1e-4, clip_norm=1e3, eval_particles=None
    )


def _add_run(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--seed", type=int, default=0, metavar="N", help="random seed")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help=f"run folder (default: {default})"
    )
    command.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the folder"
    )


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="evaluate a run again, or pretrained weights",
        description="Evaluate a trained run by importance sampling, or pretrained "
        "weights by their name, whose number is then put beside the published one.",
        epilog="pretrained: " + (", ".join(list_pretrained()) or "none"),
        formatter_class=_Formatter,
    )
    _add_reading(command)
    add = command.add_argument
    add(
        "--num-particles",
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
    _add_compile(add, "importance sampling", "there is much of it")
    _add_machine(command)
    command.set_defaults(command="evaluate")


def _add_diagnose(commands: Any) -> None:
    command = commands.add_parser(
        "diagnose",
        help="check a run's log-likelihood by annealing, find what its bound loses",
        description="Diagnostics of a trained run, or of pretrained weights, on some of "
        "its data: log p(x) over the number of particles beside annealed importance "
        "sampling, approximation and amortisation gap, correlations of q(z|x) before and "
        "after each flow step. Leaves diagnostics.json and pictures.",
        epilog="pretrained: " + (", ".join(list_pretrained()) or "none"),
        formatter_class=_Formatter,
    )
    _add_reading(command)
    default = DiagnoseOptions()
    add = command.add_argument
    add("--num-data", type=int, default=100, metavar="N", help="drawn from the split")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the results (default: RUN, or runs/NAME)",
    )
    for name, text in (
        ("num_particles", "draws per datum"),
        ("chains", "of annealing, for each datum"),
        ("temps", "annealing's steps from the prior to the posterior"),
        ("leapfrog", "leapfrog steps of a transition"),
        ("simulated", "data drawn from the model to bound annealing's error; 0: none"),
        ("steps", "of the optimisation of each datum's q"),
        ("seed", "of the data and of all draws"),
    ):
        flag, value = f"--{name.replace('_', '-')}", getattr(default, name)
        add(flag, type=int, default=value, metavar="N", help=text)
    add("--lr", type=float, default=default.lr, metavar="F", help="its first rate")
    _add_machine(command)
    command.set_defaults(command="diagnose")


def _add_reading(command: argparse.ArgumentParser) -> None:
    """What `evaluate` and `diagnose` have in common."""
    add = command.add_argument
    add(
        "run_folder",
        type=Path,
        metavar="RUN|NAME",
        help="a run folder, or the name of pretrained weights",
    )
    add(
        "--split",
        choices=("test", "valid", "train"),
        default="test",
        help="of the data",
    )
    add("--guide", metavar="FILE.py:Class", help="the class of a guide of your own")
    add("--data", metavar="FILE.npz", help="where the data lie now")
    add("--json", action="store_true", help="print one JSON object and nothing else")


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="several guides, all else equal: a table and a figure",
        description="Compare finished runs, or train several guides on one data set with "
        "the same budget and seeds. Guides that are trained already are not trained again.",
        epilog="example: compare --guides mean_field planar:num_flows=4 iaf --seeds 0,1",
        formatter_class=_Formatter,
    )
    command.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders"
    )
    command.add_argument(
        "--guides",
        nargs="+",
        metavar="GUIDE[:KEY=VALUE,...]",
        help="guides to train, each with options of its own (default: all)",
    )
    command.add_argument(
        "--seeds", type=_numbers, default=(0,), metavar="A,B", help="one run for each"
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
    _add_shared(command)
    command.set_defaults(command="compare")


def _add_report(commands: Any) -> None:
    command = commands.add_parser(
        "report",
        help="tables, figures and the README from the files in results/",
        description="Write what is stale of the files made from --results: table.md, "
        "table.csv and table.png where rows of a paper's table are, comparison.md and "
        "comparison.csv where `compare` left its runs; and in the README all that "
        "stands between the comments `begin table: NAME` and `end table: NAME`, where "
        "NAME is a folder or a benchmark's file. tables.json, in --results, says which "
        "panels, rows and columns a table has. A figure is stale where its numbers have "
        "changed; delete it to have it drawn anew.",
        epilog="example: report --check, before a commit",
        formatter_class=_Formatter,
    )
    command.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="the folder of all folders of results",
    )
    command.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="with the blocks (default: README.md beside DIR, where there is one)",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="write nothing; name what is stale, and exit with 1 if anything is",
    )
    command.set_defaults(command="report")


def _add_shared(command: argparse.ArgumentParser) -> None:
    """What `train` and `compare` have in common."""
    command.add_argument(
        "--data",
        default="digits",
        metavar="NAME|FILE.npz",
        help=f"data set: {', '.join(list_datasets())}, or your own arrays",
    )
    command.add_argument(
        "--overwrite", action="store_true", help="start a run anew where there is one"
    )
    _add_machine(command)
    add = command.add_argument_group("the pair").add_argument
    add("--latent-dim", type=int, metavar="N", help="size of z (default: 40)")
    add("--num-flows", type=int, metavar="N", help="steps of a flow guide (default: 2)")
    add(
        "--hidden-dims",
        type=_numbers,
        metavar="A,B",
        help="widths of the encoder, and in reverse of the decoder (default: 300,300)",
    )
    add(
        "--network", choices=NETWORKS, help="kind of encoder and decoder (default: mlp)"
    )
    add(
        "--structure-epochs",
        type=int,
        metavar="N",
        help="epochs in which a gated graph learns its edges, out of all; the rest is "
        "trained with those that it has found (default: a quarter)",
    )
    add("--activation", choices=sorted(ACTIVATIONS), help="of an mlp (default: relu)")
    add(
        "--option",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any further option of the guide; may be given several times",
    )
    _add_training(command)


def _add_training(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("training").add_argument
    add(
        "--epochs",
        type=int,
        metavar="N",
        help=f"passes over the data (default: 20, or as many as make "
        f"{STEPS_BY_DEFAULT} steps)",
    )
    default = TrainOptions()
    add("--batch-size", type=int, default=default.batch_size, metavar="N", help="data")
    add("--lr", type=float, default=default.lr, metavar="F", help="learning rate")
    add("--optimizer", choices=OPTIMIZERS, default=default.optimizer, help="of torch")
    add(
        "--schedule",
        choices=SCHEDULES,
        default=default.schedule,
        help="of the rate; inverse: lr / (1 + epoch/100)",
    )
    add(
        "--kl-warmup",
        type=int,
        default=default.kl_warmup,
        metavar="N",
        help="epochs over which the KL's weight grows from 0 to 1",
    )
    add(
        "--free-bits",
        type=float,
        default=default.free_bits,
        metavar="F",
        help="nats of KL that cost nothing, per latent site on the batch mean",
    )
    add(
        "--tempering-steps",
        type=int,
        default=default.tempering_steps,
        metavar="N",
        help="steps over which log p(x,z) gains its weight (Rezende & Mohamed: 10000)",
    )
    add(
        "--clip-norm", type=float, metavar="F", help="largest norm of the mean gradient"
    )
    add(
        "--num-particles",
        type=int,
        default=default.num_particles,
        metavar="N",
        help="draws per datum in training",
    )
    add(
        "--bound",
        choices=("elbo", "iwae"),
        default=default.bound,
        help="what training maximises",
    )
    add(
        "--sticking-the-landing",
        action="store_true",
        help="gradient without the score of the guide's parameters",
    )
    add(
        "--analytic-kl",
        action="store_true",
        help="closed form of each latent site's KL where there is one",
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N epochs without a better validation ELBO",
    )
    add(
        "--keep",
        choices=("best", "last"),
        default=default.keep,
        help="weights to end with: best on validation, or last",
    )
    add(
        "--eval-particles",
        type=int,
        default=1000,
        metavar="N",
        help="draws per datum of the final log-likelihood",
    )
    _add_compile(add, "training steps", "there are 5000 of them or more")


def _add_compile(add: Any, what: str, when: str) -> None:
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help=f"compile the {what} (default: where {when})",
    )


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where data sets lie (default: $PYRO_VAE_ZOO_DATA, else the user's cache)",
    )
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="to compute on",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
