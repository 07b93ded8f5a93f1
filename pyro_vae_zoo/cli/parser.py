"""The parser of the command line."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyro_vae_zoo._version import __version__
from pyro_vae_zoo.cli.arguments import (
    INSTALLED,
    KINDS,
    Formatter,
    add_shared,
    completed_by,
    key_values,
    numbers,
)
from pyro_vae_zoo.cli.config import add_config
from pyro_vae_zoo.cli.for_runs import add_commands_for_runs
from pyro_vae_zoo.models.registry import list_density_models, list_guides

__all__ = ["make_parser"]


class Command(argparse.ArgumentParser):
    """A command's parser, whose errors are a line, and guess which flag was meant."""

    def parse_known_args(  # type: ignore[override]  # overloaded by the namespace
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """All arguments, or an error: what is left would be one of the main parser."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            flags = [name for action in self._actions for name in action.option_strings]
            typed = next((word for word in left if word.startswith("-")), "")
            name = typed.partition("=")[0]
            close = difflib.get_close_matches(name, flags, n=1, cutoff=0.7)
            hint = f"; did you mean {close[0]}?" if close else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{hint}")
        return found, left

    def error(self, message: str) -> NoReturn:
        """Exit without the usage, which has more lines than a screen."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.command` says which one was given."""
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="Variational auto-encoders with rich posteriors, in Pyro: train one, "
        "evaluate it by importance sampling, compare several.",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=Command
    )
    _add_train(commands)
    _add_density(commands)
    add_commands_for_runs(commands)
    _add_compare(commands)
    _add_list(commands)
    script = Path(sys.argv[0])
    if script.suffix == ".py" and script.stem in commands.choices:  # in examples/
        commands.choices[script.stem].prog = f"python {script}"
    return parser


def _program() -> str:
    """The program as it was started: of the package, or its module."""
    script = Path(sys.argv[0])
    is_module = (script.parent.name, script.name) == ("pyro_vae_zoo", "__main__.py")
    return "python -m pyro_vae_zoo" if is_module else INSTALLED


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        usage="%(prog)s [options]",
        help="train a VAE, evaluate it, draw its pictures",
        description="Train a VAE with a guide of your choice. Writes a run folder: the "
        "trained pair (model and guide), its log-likelihood with standard errors, and "
        "pictures.",
        epilog=f"guides: {', '.join(list_guides())}. Examples: %(prog)s --guide iaf "
        "--data mnist_static --epochs 50; %(prog)s --guide iaf --help-options; "
        "%(prog)s --config runs/iaf-digits-s0/config.json --out runs/again",
        formatter_class=Formatter,
    )
    one_of = command.add_mutually_exclusive_group()
    guide = one_of.add_argument(
        "--guide",
        default="mean_field",
        metavar="NAME|FILE.py:Class",
        help="guide q(z|x): a name of the zoo (see below) or a class of your own",
    )
    completed_by(guide, list_guides())
    one_of.add_argument(
        "--model",
        metavar="FILE.py:Name",
        help="function of your own that makes the whole VAE, instead of --guide",
    )
    _add_run(command, "runs/<guide>-<data>-s<seed>")
    _add_help_options(command)
    add_shared(command)
    command.set_defaults(command="train")


def _add_density(commands: Any) -> None:
    command = commands.add_parser(
        "density",
        usage="%(prog)s [options]",
        help="train a density model (a normalising flow) of real numbers",
        description="Train a normalising flow, alone or in a hierarchy, on real numbers. "
        "The default learning rate is 1e-4. Results are in nats (of the "
        "logits, for dequantised images) and in bits per dimension.",
        epilog="example: %(prog)s --model self_reflective_maf --train-size 5000 "
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
        "--train-size",
        type=int,
        metavar="N",
        help="use only the first N data of the train split (default: all)",
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
        help="continue the run in the folder from its checkpoint; flags that you leave "
        "out have the run's values",
    )
    add_config(command)


def _add_help_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--help-options",
        action="store_true",
        help="list the options of the guide and of the other given parts, and exit",
    )


def _add_list(commands: Any) -> None:
    command = commands.add_parser(
        "list",
        help="list the guides, priors, likelihoods, data sets, pretrained weights, ...",
        description="List the names of the zoo, a line for each: what it is, and its "
        "source.",
        epilog="example: %(prog)s guides priors",
        formatter_class=Formatter,
    )
    add = command.add_argument
    kinds = add(
        "kinds",
        nargs="*",
        metavar="KIND",
        help=f"what to list: {', '.join(KINDS)} (default: all)",
    )
    completed_by(kinds, list(KINDS))
    add("--json", action="store_true", help="print one JSON object and nothing else")
    command.set_defaults(command="list")


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        usage="%(prog)s [options] [RUN ...]",
        help="compare several guides, all else equal: a table and a figure",
        description="Compare finished runs, or train several guides on one data set with "
        "the same budget and seeds. Finished runs are not trained again, and "
        "unfinished ones are resumed.",
        epilog="examples: %(prog)s --guides mean_field planar:num_flows=4 iaf --seeds "
        "0,1; %(prog)s --guides iaf,examples/my_guide.py:MyGuide; %(prog)s --guides iaf "
        "--sweep latent_dim=2,8,32 --sweep lr=1e-3,3e-4",
        formatter_class=Formatter,
    )
    command.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="finished run folders"
    )
    guides = command.add_argument(
        "--guides",
        nargs="+",
        metavar="GUIDE[:OPTIONS]",
        help="guides to train, separated by spaces or commas: names of the zoo or "
        "FILE.py:Class, each with its own OPTIONS KEY=VALUE,... (default: all that can "
        "be trained on the data with the other flags)",
    )
    completed_by(guides, list_guides())
    command.add_argument(
        "--model",
        metavar="FILE.py:Name",
        help="function of your own that makes a whole VAE, to train beside --guides",
    )
    command.add_argument(
        "--sweep",
        type=key_values,
        action="append",
        default=[],
        metavar="KEY=A,B,...",
        help="values of an option of `train` or of the guides; each gives a row of the "
        "table, and several --sweep make a grid. The line below the table names "
        "the row that is best on the validation data",
    )
    command.add_argument(
        "--seeds",
        type=numbers,
        default=(0,),
        metavar="A,B",
        help="seeds; a run for each",
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
        help="folder of the run folders (default: that of --out)",
    )
    add_config(command)
    add_shared(command)
    command.set_defaults(command="compare")
