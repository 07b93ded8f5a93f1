"""`--config FILE`: values for the flags that a command line leaves out.

The file is the `config.json` of a run, which it repeats bit for bit, or one of the user's,
in JSON or YAML, with names of flags:

    guide: iaf
    data: digits
    latent_dim: 8
    options: {num_flows: 4, gate_bias: 1.5}

Its values become the defaults of the flags, so that what is typed goes first. Nothing that
it names is run: a part that is a `FILE.py:Name` has to be typed again.
"""

import argparse
import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae_zoo.cli.arguments import key_value, key_values, number, numbers
from pyro_vae_zoo.data.names import name_now
from pyro_vae_zoo.errors import DataFileError, UserError, unknown_name
from pyro_vae_zoo.files import CONFIG_FILE, read_json
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.options import declared
from pyro_vae_zoo.training.options import TrainOptions, training_then

__all__ = ["add_config", "parse"]

_PLACES = ("prior", "likelihood", "encoder", "decoder", "model")
_TRAINING = tuple(option.name for option in declared(TrainOptions))
_PAIR = (*(option.name for option in declared(PairOptions)), "num_flows", *_PLACES)
# What a run's own file says beside its flags, since it follows from them and the data.
_FOLLOWS = ("variant", "vae", "fingerprint")
_SIZES = ("total_count", "num_classes")  # options which `create` reads off the data
_FOLLOWS_IN_VAE = ("guide", "event_shape", "likelihood", "prior", "encoder", "decoder")
_SECTIONS = ("training", "places", "options", "source", *_FOLLOWS)
# Flags of one call, not of what is trained.
_OF_A_CALL = (
    "help",
    "config",
    "out",
    "runs_dir",
    "resume",
    "overwrite",
    "help_options",
)


def add_config(command: argparse.ArgumentParser) -> None:
    """Add `--config`, by which `parse` finds the flags that it stands for."""
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="values for the flags that you leave out: config.json of a run, which is "
        "then repeated bit for bit, or JSON or YAML of your own. It cannot set --out: "
        "results go to the default folder",
    )
    command.set_defaults(flags=command, recorded=None)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """The arguments of a command line; those of its `--config` where it has none.

    `--resume` takes them from the run that goes on.

    Raises:
        DataFileError: for a file that is not there or cannot be read.
        UserError: for a key that no flag has, a value of another kind, and a part of the
            user's own that is not typed again.
    """
    args = parser.parse_args(argv)
    given = getattr(args, "config", None)
    path = given or _of_run(args)
    if path is None:
        return args
    defaults = _defaults(_contents(path), args.flags, path)
    if getattr(args, "guide", None) != args.flags.get_default("guide"):
        defaults.pop("model", None)  # in whose place a guide was typed
    if given is None:  # the run says itself what differs
        defaults.pop("recorded", None)
    args.flags.set_defaults(**defaults)
    filled = parser.parse_args(argv)
    if given is None and not _has_pair_of(filled, defaults):
        return args  # another pair was typed, whose options are not the run's
    _refuse_untyped(filled, path)
    # A run goes on with its data, wherever they are; others are read in their own way.
    if given is not None and not _has_data_of(filled, defaults):
        num_of_others = len(defaults.get("data_options", ()))  # what is typed is behind
        filled.data_options = filled.data_options[num_of_others:]
        _forget_sizes(filled, defaults)
    elif given is not None and _likelihood(filled) != defaults.get("likelihood"):
        _forget_sizes(filled, defaults)
    return filled


def _likelihood(args: argparse.Namespace) -> Any:
    return getattr(args, "likelihood", None)


def _forget_sizes(args: argparse.Namespace, file: Mapping[str, Any]) -> None:
    """Leave out options of a file that were read off its data, by its likelihood."""
    of_file = len(file.get("option", ()))  # what is typed is behind
    args.option = [
        (name, value)
        for i, (name, value) in enumerate(args.option)
        if i >= of_file or name not in _SIZES
    ]


def _has_pair_of(args: argparse.Namespace, run: Mapping[str, Any]) -> bool:
    """Whether arguments name the pair of a run, whose files may have moved."""
    from pyro_vae_zoo.models.create import find_guide  # which takes PyTorch

    # Beside a model, the guide is only the default of its flag.
    places = _PLACES if "model" in run else ("guide", *_PLACES)
    pairs = [(getattr(args, place, None), run.get(place)) for place in places]
    return all(find_guide(str(now)) == find_guide(str(then)) for now, then in pairs)


def _has_data_of(args: argparse.Namespace, file: Mapping[str, Any]) -> bool:
    """Whether arguments name the data of a file, however their path is written."""
    from pyro_vae_zoo.cli.train import source_of  # which takes PyTorch

    return source_of(args.data) == source_of(file.get("data", args.data))


def _of_run(args: argparse.Namespace) -> Path | None:
    """The configuration of the run that `--resume` goes on with, if there is one."""
    if not getattr(args, "resume", False) or args.overwrite:
        return None
    from pyro_vae_zoo.cli.train import folder_of  # which takes PyTorch, as what follows

    path = folder_of(args) / CONFIG_FILE
    return path if path.is_file() else None


class _ToBeTyped(str):
    """A `FILE.py:Name` that a configuration has in a place."""

    def __str__(self) -> str:
        return self  # as it is, where a flag reads its default once more


def _contents(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise DataFileError(f"{path} is a folder; expected {path / 'config.json'}")
    is_yaml = path.suffix in (".yaml", ".yml")
    return _names_and_values(_yaml(path) if is_yaml else read_json(path), path, "")


def _yaml(path: Path) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise UserError(
            f"{path}: YAML needs the package pyyaml: pip install pyyaml; or write the "
            "file as JSON"
        ) from None
    try:
        return yaml.safe_load(path.read_bytes())  # which says how it is encoded
    except FileNotFoundError:
        raise DataFileError(f"file {path} not found") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataFileError(f"{path} is not valid YAML: {reason}") from None


def _names_and_values(
    value: Any, path: Path, section: str, known: Collection[str] = ()
) -> dict[str, Any]:
    """A section of a file, whose names are among the known ones."""
    where = f"{path}, {section}" if section else str(path)
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise DataFileError(f"{where}: expected names and their values, got {value!r}")
    for name in value:
        if known and name not in known:
            raise unknown_name(f"key of {where}:", name, known)
    return dict(value)


def _defaults(
    record: dict[str, Any], flags: argparse.ArgumentParser, path: Path
) -> dict[str, Any]:
    """What a file says, by the names of the arguments that it stands for."""
    known = {
        name: action
        for action in flags._actions
        if action.option_strings and action.dest != "option"  # the file has `options`
        for name in (*map(_name_of, action.option_strings), action.dest)
    }
    words, options = _flat(record, path)
    for name in _PAIR:  # with a flag of its own, or without one as for density models
        if name in options and name in known:
            words.setdefault(name, options.pop(name))
        elif name in words and name not in known:
            options[name] = words.pop(name)
    found: dict[str, Any] = {"option": [(k, _option(v)) for k, v in options.items()]}
    for name, value in words.items():
        if name not in known and f"{name}s" in known:  # `compare` takes several
            action = known[f"{name}s"]
        elif name in known:
            action = known[name]
        else:
            names = {action.dest for action in known.values()} - {*_OF_A_CALL}
            raise unknown_name(f"key of {path}:", name, sorted({*names, *_SECTIONS}))
        if action.dest in _OF_A_CALL:
            raise UserError(
                f"{path}: {name} cannot be set in a file; give it on the command line"
            )
        found[action.dest] = _value(action, value, f"{path}: {name}")
    if "variant" in record:
        same = {key: words.get(key) for key in ("data", "data_options", "train_size")}
        found["recorded"] = same | {"variant": record["variant"]}
    return found


def _name_of(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _flat(record: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file without its sections: names of flags, and options of the pair."""
    in_vae = (*_FOLLOWS_IN_VAE, "options")
    vae = _names_and_values(record.get("vae", {}), path, "vae", in_vae)
    places = _names_and_values(record.get("places", {}), path, "places", _PLACES)
    training = record.get("training", {})
    training = _names_and_values(training, path, "training", _TRAINING)
    options = _names_and_values(vae.get("options", {}), path, "options")
    if "guide" in vae:
        from pyro_vae_zoo.models.create import options_then  # which takes PyTorch

        options = options_then(str(vae["guide"]), options)
    options |= _names_and_values(record.get("options", {}), path, "options")
    words = {k: v for k, v in record.items() if k not in _SECTIONS} | training | places
    if "source" in record:  # which finds the data again; `data` is their name
        variant = str(record.get("variant", ""))
        words["data"] = name_now(str(record["source"]), variant, path)
    if "variant" in record:  # a run's own file; what it does not say was so
        words = {
            k: v for k, v in training_then(words).items() if k in words or k != "epochs"
        }
    if "model" in words:  # a run has it as its guide, too
        words.pop("guide", None)
    return words, {k: v for k, v in options.items() if k not in places}


def _value(action: argparse.Action, value: Any, name: str) -> Any:
    """A value as the flag reads it, once it is written as it would be typed."""
    if value is None and action.default is None:
        return None
    if ".py:" in str(value) and action.type is key_values:
        raise UserError(f"{name}: give code of your own on the command line")
    if action.nargs == 0:  # yes or no
        own = [o for o in declared(TrainOptions) if o.name == action.dest]
        words = own[0].option.choices if own else ()
        if not isinstance(value, bool) and value not in words:
            expected = " or ".join(["true", "false", *words])
            raise UserError(f"{name}: expected {expected}, got {value!r}")
        return value
    several = action.nargs == "+" or isinstance(action, argparse._AppendAction)
    if not several:
        return _typed(action, _text(value), name, value)
    if isinstance(value, Mapping):  # KEY=VALUE for each, or several values for each
        swept = action.type is key_values
        return [
            (k, [*map(_said, _listed(v))] if swept else _option(v))
            for k, v in value.items()
        ]
    return [_typed(action, _text(part), name, part) for part in _listed(value)]


def _said(value: Any) -> Any:
    """A value as it would be typed: nothing as `none`, 1e-3 as YAML's word for it."""
    if isinstance(value, list):
        return [*map(_said, value)]
    if isinstance(value, str):
        return key_value(f"={value}")[1]
    return "none" if value is None else value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _typed(action: argparse.Action, text: str, name: str, value: Any) -> Any:
    """What a flag makes of a word."""
    read: Any = action.type or str
    try:
        found = read(text)
    except (ValueError, argparse.ArgumentTypeError):
        expected = _EXPECTED.get(getattr(read, "__name__", ""), action.metavar)
        raise UserError(f"{name}: expected {expected}, got {value!r}") from None
    if action.choices and found not in action.choices:
        raise UserError(f"{name}: {unknown_name('value', text, action.choices)}")
    return _marked(found)


def _option(value: Any) -> Any:
    return value if value is None else _marked(_said(value))


def _marked(value: Any) -> Any:
    is_code = isinstance(value, str) and ".py:" in value
    return _ToBeTyped(value) if is_code else value


_EXPECTED = {
    "int": "a whole number",
    number.__name__: "a number",
    numbers.__name__: "whole numbers",
}


def _text(value: Any) -> str:
    """A value of JSON as it is typed: `300,300` for a list."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _refuse_untyped(args: argparse.Namespace, path: Path) -> None:
    """Refuse code that a file names and nobody has asked for."""
    words: list[str] = []
    for action in args.flags._actions:
        for part in _listed(getattr(args, action.dest, None)):
            if isinstance(part, _ToBeTyped):
                words += [action.option_strings[0], part]
    for name, value in dict(args.option).items():
        if isinstance(value, _ToBeTyped):
            words += ["--option", f"{name}={value}"]
    if words:
        raise UserError(
            f"{path} names code of your own, which is only run when you name it: add "
            f"{' '.join(words)}"
        )
