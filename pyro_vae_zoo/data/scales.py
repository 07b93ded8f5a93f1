"""The scale of a picture: from which value to which one it is drawn.

Bits, probabilities and grey levels lie in [0, 1], and so do many real-valued images.
Other images and all real-valued vectors are drawn on the scale of the data.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.streamed.rows import some

__all__ = ["UNIT", "Scale", "range_note", "scale_of"]

_UNIT_LIKELIHOODS = ("bernoulli", "discretized_logistic")
_BEYOND = 1e-3  # share of the data on either side that an image's scale leaves out
_ROUNDING = 1e-6  # of what was standardised and is as it was given
_ENOUGH = 1_000_000  # values, for a quantile of them
_ROWS = 10_000  # of data that are not in memory, likewise


class Scale(NamedTuple):
    """Limits of what is drawn."""

    low: float
    high: float

    def share(self, values: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Values as shares of the scale: 0 at its lower limit, 1 at its upper one.

        >>> Scale(-2.0, 2.0).share(np.array([-2.0, 0.0, 4.0])).tolist()
        [0.0, 0.5, 1.5]
        """
        return (values - self.low) / (self.high - self.low)


UNIT = Scale(0.0, 1.0)


def scale_of(
    known: Tensor | Dataset, *drawn: Tensor, likelihood: str | None = None
) -> Scale:
    """The limits for a picture of data, or of what a model makes of them.

    They are [0, 1] for bits, grey levels and dequantised data, and for images within
    it. For other images they hold all but a thousandth of the known values to either
    side, so that one outlier does not make the others grey. For vectors they hold that
    and all that is drawn.

    Args:
        known: the data, of which a data set has its training part; where there are
            none, what is drawn.
        drawn: what must fit in, shape `(n, D)`, if it is vectors.
        likelihood: name of the model's; a data set knows its own.

    >>> images = torch.linspace(-2, 4, 32).reshape(2, 4, 4)
    >>> [round(limit, 2) for limit in scale_of(images)]
    [-1.99, 3.99]
    >>> scale_of(images.clamp(0, 1)), scale_of(images, likelihood="bernoulli")
    (Scale(low=0.0, high=1.0), Scale(low=0.0, high=1.0))
    """
    if isinstance(known, Dataset):
        likelihood = known.likelihood if known.logit is None else "bernoulli"
        known = known.as_given(some(known.train, _ROWS))
    if likelihood in _UNIT_LIKELIHOODS:
        return UNIT
    low, high = _range(known)
    if known.dim() > 2:
        unit = -_ROUNDING <= low and high <= 1 + _ROUNDING
        return UNIT if unit else _widened(*_usual(known))
    ranges = [_usual(known), *map(_range, drawn)]
    return _widened(min(r[0] for r in ranges), max(r[1] for r in ranges))


def range_note(scale: Scale, event_shape: Sequence[int]) -> str:
    """The values between which an image is drawn, where they are no matter of course.

    >>> range_note(Scale(2.0, 3.5), (8, 8)), range_note(Scale(0, 9), (3, 8, 8))
    ('from 2 (black) to 3.5 (white)', 'each channel from 0 to 9')
    >>> range_note(UNIT, (8, 8)), range_note(Scale(2.0, 3.5), (5,))
    ('', '')
    """
    if scale == UNIT or len(event_shape) < 2:
        return ""
    low, high = (f"{v:.3g}".replace("-", "\N{MINUS SIGN}") for v in scale)
    if event_shape[:-2] == (3,):
        return f"each channel from {low} to {high}"
    return f"from {low} (black) to {high} (white)"


def _range(values: Tensor) -> tuple[float, float]:
    """The least and the largest of the finite values."""
    if not values.isfinite().all():  # blanks, or a model that has diverged
        values = values[values.isfinite()]
    if not values.numel():
        return UNIT
    low, high = values.detach().aminmax()
    return low.item(), high.item()


def _usual(known: Tensor) -> tuple[float, float]:
    """The limits between which nearly all of the values lie."""
    rows = max(_ENOUGH // known[0].numel(), 1)
    some = known.detach()[:: -(-len(known) // rows)].flatten().double().cpu().numpy()
    some = some[np.isfinite(some)]
    if not len(some):
        return UNIT
    low, high = np.quantile(some, [_BEYOND, 1 - _BEYOND]).tolist()
    return (low, high) if low < high else _range(known)


def _widened(low: float, high: float) -> Scale:
    """The limits as a scale; a single value has some air around it."""
    air = 0.0 if low < high else 0.5 * max(abs(low), 1.0)
    return Scale(low - air, high + air)
