"""Arguments that several commands have, and how their text is read."""

import argparse
import ast
import glob
import math
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from pyro_vae_zoo.data.names import list_datasets
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models.registry import list_density_models, list_guides
from pyro_vae_zoo.nn.names import LIKELIHOODS, NETWORKS
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.options import Declared, declared
from pyro_vae_zoo.training.options import TrainOptions

__all__ = [
    "INSTALLED",
    "KINDS",
    "Formatter",
    "add_compile",
    "add_data_options",
    "add_machine",
    "add_options",
    "add_shared",
    "completed_by",
    "guide_specs",
    "key_value",
    "key_values",
    "numbers",
    "typed",
]

INSTALLED = "pyro-vae-zoo"  # the program of the package
# What `list` knows, for whoever does without PyTorch.
KINDS = {
    "guides": "q(z|x), for --guide",
    "densities": "density models of real numbers, for density --model",
    "priors": "p(z) of one latent vector, for --prior",
    "likelihoods": "p(x|z), for --likelihood",
    "networks": "encoders and decoders, for --network",
    "transforms": "flow steps, plain and conditional, in pyro_vae_zoo.transforms",
    "data": "data sets, for --data, which takes files of your own too",
    "pretrained": "weights, for evaluate, diagnose, explore, sample and encode",
}


def typed(command: str, words: Iterable[object]) -> str:
    """A command and its arguments as they are typed where this one was.

    They are those of a script in `examples/`, of the module, or of the program.
    """
    script = Path(sys.argv[0])
    beside = script.with_name(
        f"{command}.py"
    )  # in examples/, of which each has its own
    if (
        script.parent.name == "examples"
        and beside.exists()
        or script.name == beside.name
    ):
        program = f"python {beside}"
    elif script.stem == INSTALLED:
        program = f"{INSTALLED} {command}"
    else:
        program = f"python -m pyro_vae_zoo {command}"
    return " ".join([program, *map(shlex.quote, map(str, words))]).strip()


def completed_by(action: argparse.Action, names: Sequence[str]) -> None:
    """Have a shell complete an argument by names, and by files as it does without."""

    def complete(prefix: str, **_: Any) -> list[str]:
        return [*names, *glob.glob(f"{glob.escape(prefix)}*")]

    action.completer = complete  # type: ignore[attr-defined]  # where argcomplete looks


def key_value(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`, the value a Python literal where it is one, else a word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    words = {"true": True, "false": False, "inf": math.inf}
    if value.lower() in words:
        return key, words[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a plain word


def key_values(text: str) -> tuple[str, list[Any]]:
    """`KEY=A,B,...`, each value as `key_value` reads it; commas in brackets part nothing.

    >>> key_values("hidden_dims=(8,),(8,8)"), key_values("prior=standard,mixture")
    (('hidden_dims', [(8,), (8, 8)]), ('prior', ['standard', 'mixture']))
    """
    key, equals, values = text.partition("=")
    if not equals or not all(parts := re.split(_COMMA, values)):
        raise argparse.ArgumentTypeError(f"expected KEY=A,B,..., got {text!r}")
    return key, [key_value(f"{key}={part}")[1] for part in parts]


_COMMA = r",(?![^(\[]*[)\]])"  # outside of brackets


def number(text: str) -> float:
    """A number, whole where it is written so."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers separated by commas, as in 300,300; got {text!r}"
        ) from None


def guide_specs(texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Guides, each with its own options, as `compare --guides` takes them.

    Parts are between spaces, and between commas outside of brackets. A part is a guide,
    which may have `:KEY=VALUE` after it, or the `KEY=VALUE` of the guide before it.

    Raises:
        UserError: for an option without a guide, an empty part, and after a comma for
            what is neither an option nor a guide.

    >>> guide_specs(["planar:num_flows=4,a=0.5,iaf", "mine.py:G:sizes=(8,8)"])
    [('planar', {'num_flows': 4, 'a': 0.5}), ('iaf', {}), ('mine.py:G', {'sizes': (8, 8)})]
    """
    return [spec for text in texts for spec in _between_commas(text)]


def _between_commas(text: str) -> list[tuple[str, dict[str, Any]]]:
    wanted = f"--guides {text}: expected GUIDE or GUIDE:KEY=VALUE,..."
    known = list_guides() + list_density_models()
    specs: list[tuple[str, dict[str, Any]]] = []
    for part in re.split(_COMMA, text):
        is_option = re.match(r"\w+=", part)
        if not part:
            raise UserError(f"{wanted}, got an empty part; is there a comma too many?")
        if is_option and not specs:
            raise UserError(
                f"{wanted}, got {part!r} before any guide; put it after one"
            )
        if is_option:
            specs[-1][1].update([key_value(part)])
            continue
        guide, *options = re.split(r":(?=\w+=)", part, maxsplit=1)
        if specs and ".py:" not in guide and guide not in known:
            unknown = unknown_name("guide", guide, known)
            cause = f"if {guide!r} is part of an option's value, put that in brackets"
            raise UserError(f"{wanted}, got {unknown}; {cause}")
        specs.append((guide, dict(map(key_value, options))))
    return specs


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that are None or False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        if isinstance(action.default, tuple):
            return f"{action.help} (default: {','.join(map(str, action.default))})"
        return super()._get_help_string(action)


def add_options(
    add: Callable[..., Any],
    cls: type,
    *,
    unless: Collection[str] = (),
    of_each: bool = False,
) -> None:
    """A flag for each option of a dataclass.

    Args:
        add: `add_argument` of a parser or a group.
        cls: the dataclass.
        unless: names of options that have no flag, or one of their own.
        of_each: for options whose default is another for each guide: none is set, and
            that of `cls` is shown.
    """
    for option in declared(cls):
        if option.name not in unless:
            _add_option(add, option, of_each)


def _add_option(add: Callable[..., Any], option: Declared, of_each: bool) -> None:
    name, kinds, default, about = option
    flag, text = f"--{name.replace('_', '-')}", about.help.split(". ")[0].rstrip(".")
    yes_or_no = argparse.BooleanOptionalAction
    if kinds == (bool,):
        add(flag, action=yes_or_no, default=default, help=text)
    elif bool in kinds:
        add(flag, action=yes_or_no, default=argparse.SUPPRESS, help=text)
    else:
        shown = default
        if of_each:
            shown = ",".join(map(str, default)) if tuple in kinds else default
            default, text = None, f"{text} (default: {shown})"
        parse, metavar = next(_READ[kind] for kind in _READ if kind in kinds)
        if type(None) in kinds:
            parse, metavar = _or_none(parse), f"{metavar}|none"
        if about.own:
            metavar, text = "NAME|FILE.py:Name", f"{text} ({', '.join(about.choices)})"
        if about.choices and not about.own:
            add(flag, choices=about.choices, default=default, help=text)
        else:
            add(flag, type=parse, default=default, metavar=metavar, help=text)


def _or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same reader, to which `none` is None: a configuration may have something."""

    def read(text: str) -> Any:
        return None if text.lower() == "none" else parse(text)

    read.__name__ = parse.__name__  # which errors show
    return read


_READ: dict[type, tuple[Callable[[str], Any], str]] = {
    tuple: (numbers, "A,B"),
    int: (int, "N"),
    float: (number, "F"),
    str: (str, "WORD"),
}


def add_shared(command: argparse.ArgumentParser, density: bool = False) -> None:
    """Add what `train`, `density` and `compare` have in common."""
    data = command.add_argument(
        "--data",
        default="digits",
        metavar="NAME|PATH",
        help=f"data set: {', '.join(list_datasets())}, or your own: a folder of images, a "
        "table .csv, arrays .npy or .npz",
    )
    completed_by(data, list_datasets())
    add_data_options(command)
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="delete a run that is in the folder, and start anew",
    )
    add_machine(command)
    add = command.add_argument_group("the pair (model and guide)").add_argument
    add_options(add, PairOptions, of_each=True)
    add(
        "--num-flows",
        type=int,
        metavar="N",
        help="flow steps, for flow guides (default: 2)",
    )
    if not density:
        _add_places(add)
    add(
        "--option",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another option of the guide, the prior, the likelihood or a network; may "
        "be given several times",
    )
    add = command.add_argument_group("training").add_argument
    add_options(add, TrainOptions, unless=("seed",))
    add(
        "--eval-particles",
        type=int,
        default=1000,
        metavar="N",
        help="particles per datum for the final log-likelihood",
    )
    add(
        "--log",
        action="append",
        choices=("csv", "tensorboard", "wandb"),
        default=[],
        help="log each epoch in this way too, in the run folder; may be given several "
        "times",
    )
    add(
        "--callbacks",
        nargs="+",
        default=[],
        metavar="FILE.py:Name",
        help="callbacks of your own, called after each epoch; a class is instantiated "
        "without arguments",
    )


def add_data_options(command: argparse.ArgumentParser) -> None:
    """Add how data of the user's own are read."""
    command.add_argument(
        "--data-option",
        dest="data_options",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how to read your own data; may be given several times: likelihood=, "
        "standardise=true, valid=0.2, test=0.2, seed=; for tables labels=COLUMN, "
        "drop=COLUMN; for images size=, grey=true, threshold=0.5; for images and "
        "arrays dynamic=true, logit=",
    )


def _add_places(add: Callable[..., Any]) -> None:
    """Add what stands in the places of a pair beside the guide's."""
    networks = f"{', '.join(NETWORKS)}, or your own"
    texts = {
        "prior": "p(z): standard (default), mixture, vamp, flow, or your own",
        "likelihood": f"p(x|z): {', '.join(LIKELIHOODS)}, or your own (default: as the "
        "data need it)",
        "encoder": f"encoder of a guide of one latent vector: {networks}",
        "decoder": f"decoder: {networks}",
    }
    names = {
        "prior": ("standard", "mixture", "vamp", "flow"),
        "likelihood": LIKELIHOODS,
    }
    for place, text in texts.items():
        action = add(f"--{place}", metavar="NAME|FILE.py:Name", help=text)
        completed_by(action, names.get(place, NETWORKS))


def add_compile(add: Callable[..., Any], what: str, when: str) -> None:
    """Add `--compile` and `--no-compile`."""
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help=f"compile the {what} (default: {when})",
    )


def add_machine(command: argparse.ArgumentParser) -> None:
    """Add what is of the machine that computes."""
    command.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder of the data sets (default: $PYRO_VAE_ZOO_DATA, else the user's "
        "cache)",
    )
    command.add_argument(
        "--device",
        metavar="DEVICE",
        default="auto",
        help="auto, cpu, cuda or cuda:N",
    )
    command.add_argument(
        "--num-workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read data ahead, where they are not in memory; results do "
        "not depend on it",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
