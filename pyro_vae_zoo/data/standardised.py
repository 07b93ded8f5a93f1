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

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError

__all__ = ["Standardisation", "standardisation_of"]


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and scale of training data, float64 on the CPU, broadcast over a datum.

    Attributes:
        mean: m, `(D,)` for a table, `(C, 1, 1)` for colours, `(1, 1)` for grey.
        scale: s, of the same shape.
        log_jacobian: minus the sum of log s over the elements of a datum, in nats.
    """

    mean: Tensor
    scale: Tensor
    log_jacobian: float

    def standardise(self, x: Tensor) -> Tensor:
        """The y of x, float32."""
        return ((x.double() - self.mean.to(x.device)) / self.scale.to(x.device)).float()

    def undo(self, y: Tensor) -> Tensor:
        """The x of y, of its dtype.

        >>> known = standardisation_of(torch.tensor([[1.0], [3.0]]))
        >>> known.undo(known.standardise(torch.tensor([[4.0]])))
        tensor([[4.]])
        """
        return (y.double() * self.scale.to(y.device) + self.mean.to(y.device)).to(y)


def standardisation_of(train: Tensor) -> Standardisation:
    """Mean and scale of training data `(N, *event_shape)`.

    Raises:
        UserError: for a feature that is constant, which has no density.

    >>> standardisation_of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    Traceback (most recent call last):
    ...
    pyro_vae_zoo.errors.UserError: standardise: feature 1 is 5 in all of train, and a \
constant has no density; leave it out
    """
    shape = train.shape[1:]
    over = (0,) if len(shape) == 1 else (0, -2, -1)
    x = train.double().cpu()
    scale, mean = torch.std_mean(x, over, correction=0, keepdim=True)
    scale, mean = scale[0], mean[0]
    # What is left of a constant's scale is the rounding of its mean.
    constant = scale <= 1e-12 * mean.abs()
    if constant.any():
        which = int(constant.flatten().nonzero()[0])
        part = "feature" if len(shape) == 1 else "channel"
        raise UserError(
            f"standardise: {part} {which} is {mean.flatten()[which].item():.6g} in all of "
            "train, and a constant has no density; leave it out"
        )
    log_jacobian = -scale.log().expand(shape).sum().item()
    return Standardisation(mean, scale, log_jacobian)
