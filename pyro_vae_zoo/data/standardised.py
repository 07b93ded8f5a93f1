r"""Real numbers of any units, standardised for training and told of as they were given.

A Gaussian likelihood with one scale, and any network, wants features of mean 0 and scale
1. With the mean m and the scale s of the training data,

\[y = (x - m) / s, \qquad \log p(x) = \log p(y) - \sum_i \log s_i\]

The second term is a constant, which every density of a `Dataset` has: numbers of a
standardised data set and of the same data as they are can be put side by side.

The features of a table are different quantities, each with a scale of its own. The pixels
of a channel are one quantity: a picture is standardised channel by channel, so that it
stays the picture that it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.errors import UserError

__all__ = ["Standardisation", "standardisation_of"]

_MOST_VALUES = 2**24  # that are read at a time


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and scale of training data, float64 on the CPU, broadcast over a datum.

    Attributes:
        mean: m, `(D,)` for a table, `(C, 1, 1)` for colours, `(1, 1)` for grey.
        scale: s, of the same shape.
        event_shape: of a datum.
    """

    mean: Tensor
    scale: Tensor
    event_shape: tuple[int, ...]

    @property
    def log_jacobian(self) -> float:
        """Minus the sum of log s over the elements of a datum, in nats."""
        return -self.scale_of_each.log().sum().item()

    @property
    def mean_of_each(self) -> Tensor:
        """The mean of each element of a datum, `(numel,)`."""
        return self.mean.expand(self.event_shape).flatten()

    @property
    def scale_of_each(self) -> Tensor:
        """The scale of each element of a datum, `(numel,)`."""
        return self.scale.expand(self.event_shape).flatten()

    def words(self) -> str:
        """Mean and scale, to tell one standardisation from another."""
        return " ".join(
            f"{v:.6g}" for t in (self.mean, self.scale) for v in t.flatten()
        )

    def standardise(self, x: Tensor) -> Tensor:
        """The y of x, float32."""
        return ((x.double() - self.mean.to(x.device)) / self.scale.to(x.device)).float()

    def after(self, other: "Standardisation") -> "Standardisation":
        """The step from the y of another one to the y of this one."""
        if self.event_shape != other.event_shape:  # one column would become several
            raise UserError(
                f"expected data of shape {self.event_shape}, as those that gave the mean "
                f"and the scale, got {other.event_shape}"
            )
        mean, scale = (self.mean - other.mean) / other.scale, self.scale / other.scale
        return Standardisation(mean, scale, self.event_shape)

    def undo(self, y: Tensor) -> Tensor:
        """The x of y, of its dtype.

        >>> known = standardisation_of(torch.tensor([[1.0], [3.0]]))
        >>> known.undo(known.standardise(torch.tensor([[4.0]])))
        tensor([[4.]])
        """
        return (y.double() * self.scale.to(y.device) + self.mean.to(y.device)).to(y)


def standardisation_of(train: Tensor | Rows) -> Standardisation:
    """Mean and scale of training data `(N, *event_shape)`; all of `Rows` are read.

    Raises:
        UserError: for a feature that is constant, which has no density.

    >>> standardisation_of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    Traceback (most recent call last):
    ...
    pyro_vae_zoo.errors.UserError: standardise: feature 1 is 5 in all of train, and a \
constant has no density; leave that feature out
    """
    shape = train.shape[1:]
    over = (0,) if len(shape) == 1 else (0, -2, -1)
    scale, mean = _moments(train, over)
    # What is left of a constant's scale is the rounding of its mean.
    constant = scale <= 1e-12 * mean.abs()
    if constant.any():
        which = int(constant.flatten().nonzero()[0])
        part = "feature" if len(shape) == 1 else "channel"
        raise UserError(
            f"standardise: {part} {which} is {mean.flatten()[which].item():.6g} in all of "
            "train, and a constant has no density; leave that feature out"
        )
    # Of centred data the mean is rounding, which depends on the number of threads.
    mean = torch.where(mean.abs() > 1e-12 * scale, mean, 0.0)
    return Standardisation(mean, scale, tuple(shape))


def _moments(train: Tensor | Rows, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Scale and mean, of parts put together as Chan et al. 1979 do."""
    if isinstance(train, Tensor):
        x = train.double().cpu()
        scale, mean = torch.std_mean(x, over, correction=0, keepdim=True)
        return scale[0], mean[0]
    num, squares, mean = 0, *(torch.zeros((), device="cpu") for _ in range(2))
    for x in train.split(max(_MOST_VALUES // math.prod(train.shape[1:]), 1)):
        scale, own = torch.std_mean(x.double(), over, correction=0, keepdim=True)
        scale, own = scale[0], own[0]
        step, total = own - mean, num + len(x)
        squares = (
            squares + scale.square() * len(x) + step.square() * num * len(x) / total
        )
        mean, num = mean + step * len(x) / total, total
    return (squares / num).sqrt(), mean
