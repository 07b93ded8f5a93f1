"""What the values in a run's JSON files must be, before anything is made of them.

Files of a run are edited, cut short and sent around. A value of another kind than it was
written with is named when the file is read, and not where a sum or a table trips over it.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae_zoo.errors import DataFileError

__all__ = ["CONFIG", "EPOCH", "RESULT", "Kind", "check_record"]

_LARGEST = 2**63


class Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    is_int = type(value) is int and abs(value) < _LARGEST
    return is_int or isinstance(value, float)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < _LARGEST


def _is_units(value: Any) -> bool:
    texts = value.values() if isinstance(value, dict) else [None]
    return all(
        isinstance(t, str) and re.fullmatch(r"\d{1,9}/\d{1,9}", t) for t in texts
    )


def _is_khat(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_NUMBER_OR_NULL.holds, value.values()))


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.words} or null", lambda v: v is None or kind.holds(v))


_TEXT = Kind("text", lambda v: isinstance(v, str))
_DICT = Kind("an object", lambda v: isinstance(v, dict))
_COUNT = Kind("a positive whole number", _is_count)
_SEED = Kind("a whole number", lambda v: type(v) is int and abs(v) <= _LARGEST)
_NUMBER = Kind("a number", _is_number)
_NUMBER_OR_NULL = _or_null(_NUMBER)  # JSON has null for what is not finite

_TRAINING = {"epochs": _COUNT}
RESULT: dict[str, Kind | dict] = {
    **dict.fromkeys(("guide", "data", "variant", "split", "weights"), _TEXT),
    **dict.fromkeys(("elbo", "elbo_std_error", "kl", "ess"), _NUMBER_OR_NULL),
    **dict.fromkeys(
        [f"log_likelihood{of}" for of in ("", "_std_error", "_mc_error")],
        _NUMBER_OR_NULL,
    ),
    **dict.fromkeys(("num_data", "num_particles", "num_parameters", "epochs"), _COUNT),
    "num_threads": _or_null(_COUNT),
    "seconds": _NUMBER,
    "seed": _SEED,
    "options": _DICT,
    "training": _TRAINING,
    "versions": _or_null(_DICT),
    "active_units": Kind("numbers such as '3/40' by site", _is_units),
    "khat": _or_null(Kind("numbers by name", _is_khat)),
    "cautions": Kind("sentences by name", _is_texts),
}
CONFIG: dict[str, Kind | dict] = {
    **dict.fromkeys(("guide", "variant", "source"), _TEXT),
    "vae": _DICT,
    "training": _TRAINING,
    "eval_particles": _COUNT,
}
EPOCH: dict[str, Kind | dict] = {
    "epoch": _COUNT,
    **dict.fromkeys(
        (
            *("train_elbo", "valid_elbo", "train_bound", "valid_bound"),
            *("kl", "reconstruction", "lr", "kl_weight"),
            *("initial_log_density", "final_log_density", "log_det", "seconds"),
        ),
        _NUMBER_OR_NULL,
    ),
}


def check_record(
    record: Any,
    kinds: Mapping[str, Kind | Mapping],
    path: Path,
    what: str,
    needed: Collection[str] = (),
) -> dict[str, Any]:
    """`record`, if it has what is needed, and what it has of `kinds` is of these.

    Args:
        record: what a JSON file holds.
        kinds: what must hold of the values of some keys; other keys are free.
        path: the file.
        what: it is to be, for the error.
        needed: keys that it must have.

    Raises:
        DataFileError: that names the file, the key, what was expected and what was got.

    >>> check_record({"elbo": [1]}, RESULT, Path("result.json"), "result of a run")
    Traceback (most recent call last):
    ...
    pyro_vae_zoo.errors.DataFileError: result.json is no result of a run: expected elbo...
    """
    wrong = _first_wrong("it", record, kinds)
    if wrong:
        raise DataFileError(f"{path} is no {what}: {wrong}; was it changed by hand?")
    if missing := [key for key in needed if key not in record]:
        raise DataFileError(f"{path} is no {what}: no {', '.join(missing)}")
    return record


def _first_wrong(name: str, value: Any, kind: Kind | Mapping) -> str | None:
    """The first value that is not of its kind, with what was expected of it."""
    nested = not isinstance(kind, Kind)
    words, holds = _DICT if nested else kind
    if not holds(value):
        got = repr(value)
        return f"expected {name} to be {words}, got {got[:40]}{'...' * (len(got) > 40)}"
    if nested:
        inside = ((key, kind[key]) for key in kind if key in value)
        found = (_first_wrong(key, value[key], one) for key, one in inside)
        return next(filter(None, found), None)
    return None
