"""What is done with rows that were read: checks, and draws as functions of the row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data.checks import checked
from pyro_vae_zoo.data.dequantisation import dequantised
from pyro_vae_zoo.data.standardised import Standardisation
from pyro_vae_zoo.data.streamed.randomness import uniform_rows
from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.errors import UserError

__all__ = [
    "Binarised",
    "Check",
    "Dequantised",
    "Standardised",
    "checked_rows",
    "owned_rows",
    "standardised",
]


def checked_rows(
    x: Rows,
    event_shape: Sequence[int] | None,
    kind: str,
    what: str,
    bits: bool,
    wide: bool = False,
) -> Any:
    """What `checked` is for a tensor, for rows: each is checked where it is read."""
    shape = None if event_shape is None else tuple(event_shape)
    return x.then(Check(shape, kind, what, bits, wide))


def owned_rows(x: Rows, given: object) -> Rows:
    """What `owned` is for a tensor, for rows."""
    return x.then(single)


def standardised(x: Tensor | Rows, units: Standardisation) -> Any:
    """Data in units of their own."""
    if isinstance(x, Rows):
        return x.then(Standardised(units))
    return units.standardise(x)


@dataclass(frozen=True)
class Check:
    """Rows as `checked` makes them, whose arguments these are."""

    event_shape: tuple[int, ...] | None
    kind: str
    what: str
    bits: bool
    wide: bool

    def __call__(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """The check of a batch."""
        if self.bits and x.dtype == torch.uint8 and x.max() > 1:
            raise UserError(
                f"{self.what}: uint8 values up to {int(x.max())}, in a sample of the rows "
                "of 0 and 1 only: bits or grey levels? Store bits as bool"
            )
        return checked(x, self.event_shape, self.kind, self.what, self.bits, self.wide)


@dataclass(frozen=True)
class Standardised:
    """Rows in units of their own; see `Standardisation`."""

    units: Standardisation

    def __call__(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """The values of a batch."""
        return self.units.standardise(x)


def single(x: Tensor, rows: np.ndarray) -> Tensor:
    """Rows in float32."""
    return x.float()


@dataclass(frozen=True)
class Binarised:
    """Bernoulli draws from probabilities, functions of key and row."""

    key: bytes

    def __call__(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """The draws of a batch."""
        noise = uniform_rows(self.key, rows, x[0].numel()).view_as(x)
        return noise.lt(x).to(x)


@dataclass(frozen=True)
class Dequantised:
    """Grey levels with noise and through a logit, functions of key and row."""

    key: bytes
    logit: float

    def __call__(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """The draws of a batch."""
        noise = uniform_rows(self.key, rows, x[0].numel()).view_as(x)
        return dequantised(x, noise, self.logit)
