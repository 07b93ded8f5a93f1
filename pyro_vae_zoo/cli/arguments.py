"""Arguments that several commands have, and how their text is read."""

import argparse
import ast
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae_zoo.data.datasets import list_datasets
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models.registry import list_density_models, list_guides
from pyro_vae_zoo.nn.networks import ACTIVATIONS, NETWORKS
from pyro_vae_zoo.training.options import OPTIMIZERS, SCHEDULES, TrainOptions

__all__ = [
    "STEPS_BY_DEFAULT",
    "Formatter",
    "add_compile",
    "add_machine",
    "add_shared",
    "add_training",
    "guide_specs",
    "key_value",
    "numbers",
]

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


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas, as in 300,300; got {text!r}"
        ) from None


def guide_specs(texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Guides, each with its own options, as `compare --guides` takes them.

    Commas part guides as spaces do. One that KEY=VALUE follows goes on with the options of
    the guide before it, one that a Python literal or nothing follows with their last value.

    Raises:
        UserError: for an option without a guide, an empty guide, and after a comma for
            what is neither an option nor a guide.

    >>> guide_specs(["planar:num_flows=4,a=0.5,iaf", "mine.py:G:sizes=8,8"])
    [('planar', {'num_flows': 4, 'a': 0.5}), ('iaf', {}), ('mine.py:G', {'sizes': (8, 8)})]
    """
    return [spec for text in texts for spec in _between_commas(text)]


def _between_commas(text: str) -> list[tuple[str, dict[str, Any]]]:
    wanted = f"--guides {text}: expected GUIDE or GUIDE:KEY=VALUE,..."
    specs: list[tuple[str, list[str]]] = []
    for part in re.split(r",(?![^(\[]*[)\]])", text):  # at those outside of brackets
        is_option = re.match(r"\w+=", part)
        if specs and is_option:
            specs[-1][1].append(part)
        elif specs and specs[-1][1] and _is_literal_or_empty(part):
            specs[-1][1][-1] += f",{part}"
        elif is_option:
            raise UserError(f"{wanted}, got {part!r}; which guide's option is it?")
        elif not part:
            raise UserError(f"{wanted}, got nothing; is there a comma too many?")
        else:
            guide, *option = re.split(r":(?=\w+=)", part, maxsplit=1)
            if specs and not guide.count(".py:") and guide not in _named():
                unknown = unknown_name("guide", guide, _named())
                cause = f"or is {guide!r} an option without its value?"
                raise UserError(f"{wanted}, got {unknown}; {cause}")
            specs.append((guide, option))
    return [(guide, dict(map(key_value, options))) for guide, options in specs]


def _named() -> list[str]:
    return list_guides() + list_density_models()


def _is_literal_or_empty(text: str) -> bool:
    try:
        ast.literal_eval(text or "None")
    except (ValueError, SyntaxError):
        return False
    return True


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that are None or False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def add_shared(command: argparse.ArgumentParser) -> None:
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
    add_machine(command)
    add = command.add_argument_group("the pair").add_argument
    add("--latent-dim", type=int, metavar="N", help="size of z (default: 40)")
    add("--num-flows", type=int, metavar="N", help="steps of a flow guide (default: 2)")
    add(
        "--hidden-dims",
        type=numbers,
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
    add_training(command)


def add_training(command: argparse.ArgumentParser) -> None:
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
    add_compile(add, "training steps", "there are 5000 of them or more")


def add_compile(add: Any, what: str, when: str) -> None:
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help=f"compile the {what} (default: where {when})",
    )


def add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where data sets lie (default: $PYRO_VAE_ZOO_DATA, else the user's cache)",
    )
    command.add_argument(
        "--device",
        metavar="DEVICE",
        default="auto",
        help="to compute on",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
