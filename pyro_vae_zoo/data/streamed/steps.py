"""What is done with rows that were read: checks, and draws that are functions of the row."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data.checks import checked
from pyro_vae_zoo.data.dequantisation import dequantised
from pyro_vae_zoo.data.streamed.randomness import uniform_rows
from pyro_vae_zoo.errors import UserError

__all__ = ["Binarised", "Check", "Dequantised"]


@dataclass(frozen=True)
class Check:
    """Rows as `checked` makes them, in float32.

    Args:
        event_shape: of a datum; None for any.
        kind: of the values; see `checked`.
        what: the split, for errors.
        bits: whether uint8 values are bits.
    """

    event_shape: tuple[int, ...] | None
    kind: str
    what: str
    bits: bool

    def __call__(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """The check of a batch."""
        if self.bits and x.dtype == torch.uint8 and x.max() > 1:
            raise UserError(
                f"{self.what}: uint8 values up to {int(x.max())}, in a sample of the rows "
                "of 0 and 1 only: bits or grey levels? store bits as bool"
            )
        return checked(x, self.event_shape, self.kind, self.what, self.bits).float()


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
