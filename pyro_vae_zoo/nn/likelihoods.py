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
from torch.distributions import constraints

from pyro_vae_zoo.errors import UserError

__all__ = [
    "LIKELIHOODS",
    "BernoulliLogits",
    "DiscretizedLogistic",
    "make_likelihood",
]

MIN_SCALE = 1e-3  # a Gaussian's density is unbounded without it
MIN_LOG_SCALE = -7.0  # a quarter of a grey level; keeps the inverse scale finite
FRESH_LOG_SCALE = -2.3  # of a fresh network: some 25 grey levels


class BernoulliLogits(dist.Bernoulli):
    r"""Pyro's Bernoulli whose density takes two passes over memory instead of five.

    \(\log p(x) = -\mathrm{softplus}((1 - 2x)\, \mathrm{logit})\) for x in {0, 1}, in
    nats. Every term is accurate by itself: no difference of large numbers.

    >>> p = BernoulliLogits(logits=torch.tensor([-40.0, 0.0]))
    >>> p.log_prob(torch.tensor([0.0, 1.0]))
    tensor([-4.2484e-18, -6.9315e-01])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each element of `value`, 0 or 1, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        # The sign is in beta: a pass of its own costs as much as the rest, and one in
        # place takes from TorchScript what it differentiates by.
        return F.softplus((2 * value - 1) * self.logits, beta=-1)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic density integrated over the 256 bins of 8-bit grey levels.

    For x = k/255, k = 0..255, and half a bin \(\delta = 1/510\),

    \[\log p(x) = \log\big[\sigma((x + \delta - \mu)/s)
      - \sigma((x - \delta - \mu)/s)\big],\]

    where the first and the last bin reach to minus and plus infinity, so that the
    256 probabilities sum to one. Source: Kingma et al. 2016, section 5.2 (with bins
    centred on the grey levels).

    >>> x = torch.arange(256) / 255
    >>> DiscretizedLogistic(torch.tensor(0.3), torch.tensor(-2.0)).log_prob(
    ...     x).exp().sum().round(decimals=4)
    tensor(1.)
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}
    support = constraints.interval(0.0, 1.0)
    has_rsample = False

    def __init__(
        self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        """The same distribution with a larger batch shape."""
        return DiscretizedLogistic(
            self.loc.expand(batch_shape),
            self.log_scale.expand(batch_shape),
            validate_args=False,
        )

    @property
    def mean(self) -> Tensor:
        r"""E[x], which is `loc` only where the logistic lies well inside the grey scale.

        \[E[x] = \frac{1}{255} \sum_{k=1}^{255} P(x \ge k/255), \qquad
          P(x \ge k/255) = \sigma\big((\mu - (k - \tfrac12)/255)/s\big).\]

        One level after the other, so that memory is that of a few tensors of the shape
        of `loc`, unless gradients are recorded.

        >>> x = torch.arange(256) / 255
        >>> p = DiscretizedLogistic(torch.tensor(0.02), torch.tensor(-2.0))
        >>> round(p.mean.item(), 4), round((p.log_prob(x).exp() * x).sum().item(), 4)
        (0.1041, 0.1041)
        """
        inv_scale = torch.exp(-self.log_scale)
        total = torch.zeros_like(self.loc)
        for k in range(1, 256):
            total = total + torch.sigmoid((self.loc - (k - 0.5) / 255) * inv_scale)
        return total / 255

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of grey levels `k / 255`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        inv_scale = torch.exp(-self.log_scale)
        upper = (value - self.loc + 0.5 / 255) * inv_scale
        lower = (value - self.loc - 0.5 / 255) * inv_scale
        # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)): no cancellation.
        inner = (
            F.logsigmoid(upper)
            + F.logsigmoid(-lower)
            + torch.log(-torch.expm1(-inv_scale / 255))
        )
        first, last = value < 0.5 / 255, value > 1 - 0.5 / 255
        inner = torch.where(first, F.logsigmoid(upper), inner)
        return torch.where(last, F.logsigmoid(-lower), inner)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Grey levels `k / 255` of shape `sample_shape + batch_shape`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(1e-6, 1 - 1e-6)
            x = self.loc + self.log_scale.exp() * (u.log() - (-u).log1p())
            return (x.clamp(0, 1) * 255).round() / 255


class _Likelihood(nn.Module):
    """What the likelihoods share: cutting the decoder's flat output to shape."""

    name: str
    num_params: int

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Cut `(..., num_params * numel)` into tensors `(..., *event_shape)`."""
        shape = (self.num_params, *self.event_shape)
        return params.unflatten(-1, shape).unbind(-1 - len(self.event_shape))

    def extra_repr(self) -> str:
        return f"{self.name}, event_shape={self.event_shape}"


class BernoulliLikelihood(_Likelihood):
    """Bits: one logit for each pixel."""

    name, num_params = "bernoulli", 1

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (logits,) = self.split(params)
        return BernoulliLogits(logits=logits).to_event(len(self.event_shape))


class GaussianLikelihood(_Likelihood):
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


class DiscretizedLogisticLikelihood(_Likelihood):
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


LIKELIHOODS = {
    cls.name: cls
    for cls in (
        BernoulliLikelihood,
        GaussianLikelihood,
        DiscretizedLogisticLikelihood,
    )
}


def make_likelihood(name: str, event_shape: Sequence[int]) -> nn.Module:
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
