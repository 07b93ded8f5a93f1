"""Options declared once: the type, default, help and range of each in one place.

An option is a field of a dataclass, `lr: Annotated[float, Option("learning rate", above=0)]
= 1e-3`. Given values are checked and stored as Python's own by `normalise`; signatures,
documentation, the command line and recorded commands are made of the fields.
"""

import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import (
    Annotated,
    Any,
    Concatenate,
    NamedTuple,
    ParamSpec,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pyro_vae_zoo.errors import UserError

__all__ = [
    "Declared",
    "Option",
    "checked_value",
    "count",
    "declared",
    "keywords_of",
    "normalise",
    "plain",
    "real",
]


A = TypeVar("A")
B = TypeVar("B")
O = TypeVar("O")
R = TypeVar("R")
P = ParamSpec("P")


@dataclass(frozen=True)
class Option:
    """The help of an option, and the values that it may have.

    Attributes:
        help: what it is; its first sentence stands alone.
        choices: the words that it may be.
        own: whether it may be something of the user's too, by `FILE.py:Name`.
        least: the least number that it may be.
        above: a number that it must be above.
        below: a number that it must be below.
    """

    help: str
    choices: Sequence[str] = ()
    least: float | None = None
    above: float | None = None
    below: float | None = None
    own: bool = False


class Declared(NamedTuple):
    """A field of a dataclass of options."""

    name: str
    kinds: tuple[Any, ...]
    default: Any
    option: Option


def declared(cls: type) -> Iterator[Declared]:
    """The options of a dataclass, in their order.

    >>> @dataclass
    ... class Cooking:
    ...     minutes: Annotated[float | None, Option("how long", above=0)] = None
    >>> next(declared(Cooking)).kinds
    (<class 'float'>, <class 'NoneType'>)
    """
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        kind, option = get_args(hints[field.name])
        sequence = get_origin(kind) in (tuple, Sequence)
        kinds = (tuple,) if sequence else get_args(kind)
        default = None if field.default is MISSING else field.default
        yield Declared(field.name, kinds or (kind,), default, option)


def normalise(options: Any) -> None:
    """Have each option of a dataclass as Python's own value, and within its range.

    Raises:
        UserError: for another kind of value, or one out of range; it names the option.
    """
    for option in declared(type(options)):
        object.__setattr__(
            options, option.name, checked_value(option, getattr(options, option.name))
        )


def checked_value(option: Declared, value: Any) -> Any:
    """A value of one option, as Python's own.

    Raises:
        UserError: for another kind of value, or one out of range; it names the option.

    >>> lr = Declared("lr", (float,), 1e-3, Option("learning rate", above=0))
    >>> checked_value(lr, torch.tensor(0.5))
    0.5
    """
    name, kinds, _, about = option
    value = _converted(name, plain(value), kinds, about)
    if isinstance(value, int | float):
        _check_range(name, value, about)
    return value


def _converted(name: str, value: Any, kinds: tuple[Any, ...], option: Option) -> Any:
    if option.choices and bool in kinds:
        if not isinstance(value, bool) and value not in option.choices:
            words = " or ".join(map(repr, option.choices))
            raise UserError(f"{name}: expected True, False or {words}, got {value!r}")
    elif option.choices and isinstance(value, str) and value not in option.choices:
        if option.own and names_a_file(value):
            return value
        known = ", ".join(option.choices) + (", FILE.py:Name" if option.own else "")
        raise UserError(f"unknown {name} {value!r}; known: {known}")
    if type(value) in kinds and not (isinstance(value, float) and math.isnan(value)):
        return value
    if int in kinds:
        return count(name, value, least=-math.inf)
    if float in kinds:
        return real(name, value)
    if tuple in kinds and isinstance(value, list):
        return tuple(value)
    if isinstance(value, kinds):
        return value
    expected = " or ".join(kind.__name__ for kind in kinds)
    raise UserError(f"{name}: expected {expected}, got {value!r}")


def names_a_file(text: str) -> bool:
    """True for `FILE.py:Name`, also without the name.

    >>> names_a_file("mine.py:Lion"), names_a_file("lion.pyx")
    (True, False)
    """
    return text.endswith(".py") or ".py:" in text


def _check_range(name: str, value: float, option: Option) -> None:
    if option.above is not None and not value > option.above:
        bound = "positive" if option.above == 0 else f"above {option.above}"
        raise UserError(f"{name} must be {bound}, got {value}")
    if option.least is not None and not value >= option.least:
        bound = (
            "not be negative" if option.least == 0 else f"be at least {option.least}"
        )
        raise UserError(f"{name} must {bound}, got {value}")
    if option.below is not None and not value < option.below:
        raise UserError(f"{name} must be below {option.below}, got {value}")


def keywords_of(
    cls: Callable[P, O],
) -> Callable[[Callable[[A, B, O], R]], Callable[Concatenate[A, B, P], R]]:
    """Decorator: a function of one set of options is called by these as keywords.

    The third argument of the function is an instance of the dataclass `cls`. Its signature
    then has the fields of `cls`, and its docstring their help where `{options}` stands.
    """

    def enter(function: Callable[[A, B, O], R]) -> Callable[Concatenate[A, B, P], R]:
        make = cast(Callable[..., O], cls)
        own = list(inspect.signature(function).parameters.values())[:-1]
        options = inspect.signature(cls).parameters.values()
        signature = inspect.Signature([*own, *map(_without_option, options)])

        @functools.wraps(function)
        def called(*args: Any, **keywords: Any) -> R:
            given = signature.bind(*args, **keywords).arguments
            first, second = (given.pop(p.name) for p in own)
            return function(first, second, make(**given))

        called.__signature__ = signature  # type: ignore[attr-defined]
        called.__doc__ = _with_help(function.__doc__, cls)
        return cast(Callable[Concatenate[A, B, P], R], called)

    return enter


def _without_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """A keyword with its type alone, as readers of a signature want it."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    return parameter.replace(annotation=get_args(parameter.annotation)[0])


def _with_help(doc: str | None, cls: Any) -> str | None:
    if doc is None:  # python -OO
        return None
    lines = [f"{name}: {option.help}" for name, _, _, option in declared(cls)]
    for i, (_, kinds, _, option) in enumerate(declared(cls)):
        if str in kinds and bool not in kinds and option.choices:
            lines[i] += f" One of {', '.join(f'`{word}`' for word in option.choices)}."
    texts = [
        textwrap.fill(line, 88, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for line in lines
    ]
    return doc.replace("        options: {options}", "\n".join(texts))


def plain(value: Any) -> Any:
    """Numbers of NumPy and PyTorch as Python's, arrays of them as tuples.

    >>> import numpy as np
    >>> plain(np.int64(3)), plain([np.float32(0.5), torch.tensor(2)]), plain(np.arange(2))
    (3, [0.5, 2], (0, 1))
    """
    if hasattr(value, "tolist"):
        found = value.tolist()
        return tuple(found) if isinstance(found, list) else found
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value


def count(name: str, value: Any, least: float = 1) -> int:
    """A whole number that is not too small; a float such as 1e3 is one.

    Raises:
        UserError: for anything else; it names the argument.

    >>> count("num_particles", 1e3)
    1000
    """
    number = plain(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise UserError(f"{name}: expected a whole number, got {value!r}")
    if number < least:
        raise UserError(f"{name} must be at least {least}, got {number}")
    return number


def sizes_of(event_shape: Any) -> tuple[int, ...]:
    """The shape of a datum; one number is a vector's.

    Raises:
        UserError: for what is no shape.

    >>> sizes_of([8, 8]), sizes_of(5)
    ((8, 8), (5,))
    """
    sizes = plain(event_shape)
    if not isinstance(sizes, Iterable) or isinstance(sizes, str):
        sizes = (sizes,)
    return tuple(count("event_shape", size) for size in sizes)


def real(name: str, value: Any) -> float:
    """A number.

    Raises:
        UserError: for what is none; it names the argument.

    >>> real("lr", 1)
    1
    """
    number = plain(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or math.isnan(number):
        raise UserError(f"{name}: expected a number, got {value!r}")
    return number
