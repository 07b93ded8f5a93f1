"""Numbers of the caller's as Python's own: what options are stored and counted by."""

from typing import Any

import numpy as np
import torch

from pyro_vae_zoo.errors import UserError

__all__ = ["count", "plain", "real"]


def plain(value: Any) -> Any:
    """NumPy's and PyTorch's numbers as Python's, arrays of them as tuples.

    >>> plain(np.int64(3)), plain([np.float32(0.5), torch.tensor(2)]), plain(np.arange(2))
    (3, [0.5, 2], (0, 1))
    """
    if isinstance(value, np.generic) or (
        isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0
    ):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor):
        return tuple(value.tolist())
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


def real(name: str, value: Any) -> float:
    """A number.

    Raises:
        UserError: for what is none; it names the argument.

    >>> real("lr", np.float64(0.5))
    0.5
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(f"{name}: expected a number, got {value!r}")
    return number
