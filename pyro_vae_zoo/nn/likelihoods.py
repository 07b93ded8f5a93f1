"""Decoder output -> p(x|z) as a Pyro distribution.

Each likelihood is a module: `num_params` says how many numbers for each element of
a datum the decoder must give, `forward` turns the flat `(..., num_params * numel)`
output into a distribution of event shape `event_shape`.
"""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae_zoo.distributions import BernoulliLogits, DiscretizedLogistic
from pyro_vae_zoo.errors import UserError

__all__ = ["LIKELIHOODS", "Likelihood", "make_likelihood"]

MIN_SCALE = 1e-3  # a Gaussian's density is unbounded without it
MIN_LOG_SCALE = -7.0  # a quarter of a grey level; keeps the inverse scale finite
FRESH_LOG_SCALE = -2.3  # of a fresh network: some 25 grey levels


class Likelihood(nn.Module):
    """Base of the likelihoods: cuts the decoder's flat output to shape."""

    name: str
    num_params: int

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Cut `(..., num_params * numel)` into tensors `(..., *event_shape)`."""
        shape = (self.num_params, *self.event_shape)
        return params.unflatten(-1, shape).unbind(-1 - len(self.event_shape))

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The name and the shape, as `print` shows them."""
        return f"{self.name}, event_shape={self.event_shape}"


class BernoulliLikelihood(Likelihood):
    """Bits: one logit for each pixel."""

    name, num_params = "bernoulli", 1

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (logits,) = self.split(params)
        return BernoulliLogits(logits=logits).to_event(len(self.event_shape))


class GaussianLikelihood(Likelihood):
    """Real values: a mean for each element, one learned scale >= 1e-3 for all."""

    name, num_params = "gaussian", 1

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        self.raw_scale = nn.Parameter(torch.tensor(math.log(math.expm1(0.5))))

    @property
    def scale(self) -> Tensor:
        """The learned standard deviation, a scalar."""
        return MIN_SCALE + F.softplus(self.raw_scale)

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (loc,) = self.split(params)
        return dist.Normal(loc, self.scale).to_event(len(self.event_shape))


class DiscretizedLogisticLikelihood(Likelihood):
    """8-bit grey levels `k / 255`: a centre and a scale for each element."""

    name, num_params = "discretized_logistic", 2

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        loc, log_scale = self.split(params)
        # A fresh network centres on mid-grey.
        above = F.softplus(log_scale + FRESH_LOG_SCALE - MIN_LOG_SCALE)
        log_scale = above + MIN_LOG_SCALE
        loc = torch.sigmoid(loc)
        return DiscretizedLogistic(loc, log_scale).to_event(len(self.event_shape))


LIKELIHOODS: dict[str, type[Likelihood]] = {
    cls.name: cls
    for cls in (
        BernoulliLikelihood,
        GaussianLikelihood,
        DiscretizedLogisticLikelihood,
    )
}


def make_likelihood(name: str, event_shape: Sequence[int]) -> Likelihood:
    """The likelihood of that name: `bernoulli`, `gaussian`, `discretized_logistic`.

    Raises:
        UserError: for an unknown name; the message lists the known ones.

    >>> p = make_likelihood("gaussian", (4, 4))(torch.zeros(3, 2, 16))
    >>> p.batch_shape, p.event_shape
    (torch.Size([3, 2]), torch.Size([4, 4]))
    """
    if name not in LIKELIHOODS:
        raise UserError(f"unknown likelihood {name!r}; known: {', '.join(LIKELIHOODS)}")
    return LIKELIHOODS[name](event_shape)
