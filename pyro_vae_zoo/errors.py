"""The one exception that means *the caller can fix this*.

Whatever a user may get wrong (an unknown name, a wrong shape, a corrupt file)
raises `UserError` with one line that says what was expected, what was got and
the likely cause. The command line prints that line and exits with code 2;
everything else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "DataFileError",
    "DivergedError",
    "LostRankError",
    "UserError",
    "message_of",
    "one_line",
    "own_code",
    "unknown_name",
]


class UserError(ValueError):
    """A mistake that the caller can mend; the message is one readable line.

    >>> import pyro_vae_zoo as zoo
    >>> try:
    ...     zoo.create("iaf", event_shape=(8, 8), latent_dims=8)
    ... except UserError as error:
    ...     print(str(error).split(";")[0])
    unknown option of guide 'iaf': 'latent_dims'
    """


class DataFileError(UserError, OSError):
    """A file that is missing, truncated, corrupt or of another kind.

    >>> import pyro_vae_zoo as zoo
    >>> try:
    ...     zoo.load_dataset("no_such_file.npz")
    ... except DataFileError as error:
    ...     print(isinstance(error, UserError), isinstance(error, OSError))
    True True
    """


class DivergedError(RuntimeError):
    """Training met a number that is not finite; the last checkpoint is good.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    >>> try:
    ...     zoo.fit(vae, data, epochs=1, lr=1e30, device="cpu", progress=False)
    ... except DivergedError:
    ...     print("a smaller learning rate would do")
    a smaller learning rate would do
    """


class LostRankError(RuntimeError):
    """Another process of a training on several devices has died."""


def message_of(error: BaseException) -> str:
    r"""The whole message of an error in one line, or its name where it has none.

    >>> message_of(ValueError("too few\n  values")), message_of(KeyError())
    ('too few values', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def one_line(error: BaseException) -> str:
    """An error as one line of text, its name before its message.

    >>> one_line(ValueError("too few"))
    'ValueError: too few'
    """
    return " ".join(f"{type(error).__name__}: {error}".split())


def own_code(what: str, function: Any, *args: Any) -> Any:
    """The value of a function of the user's.

    Raises:
        UserError: for whatever it raises; it names the function.

    >>> own_code("schedule mine", lambda epoch: 1 / epoch, 0)
    Traceback (most recent call last):
    ...
    pyro_vae_zoo.errors.UserError: schedule mine failed: ZeroDivisionError: division by zero
    """
    try:
        return function(*args)
    except UserError:
        raise
    except Exception as error:  # whatever the user's code may raise
        raise UserError(f"{what} failed: {type(error).__name__}: {error}") from error


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error that lists the known names and guesses which one was meant.

    >>> print(unknown_name("fruit", "aple", ["apple", "pear"]))
    unknown fruit 'aple'; did you mean 'apple'? known: apple, pear
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return UserError(f"unknown {kind} {name!r}{hint} known: {', '.join(known)}")
