"""Distributions of counts and of classes, as exact for large counts as for small ones."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Binomial", "Classes", "NegativeBinomial", "Poisson"]

_MANY = 255  # trials, from which terms that cancel are too large for float32


class Binomial(dist.TorchDistribution):
    r"""Counts out of n trials, of log-odds a, accurate at both ends.

    \[\log p(k) = \log \binom nk + k \log \sigma(a) + (n - k) \log \sigma(-a)\]

    PyTorch's has its n in a tensor, and so a support that no data can be checked against.
    The binomial coefficient is computed in float64, and all of it where n is large.

    >>> Binomial(3, torch.zeros(())).log_prob(torch.arange(4.0)).exp()
    tensor([0.1250, 0.3750, 0.3750, 0.1250])
    """

    arg_constraints = {"logits": constraints.real}
    has_rsample = False

    def __init__(
        self, total_count: int, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self.total_count, self.logits = total_count, logits
        super().__init__(logits.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 to n."""
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        r"""\(n \sigma(a)\)."""
        return self.total_count * self.logits.sigmoid()

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Binomial":
        """The same distribution with a larger batch shape."""
        logits = self.logits.expand(batch_shape)
        return Binomial(self.total_count, logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of counts, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        hits = value.double()
        misses = self.total_count - hits
        all_orders = math.lgamma(self.total_count + 1)
        ways = all_orders - torch.lgamma(hits + 1) - torch.lgamma(misses + 1)
        kind = self.logits.dtype
        logits = self.logits
        if self.total_count > _MANY:
            logits = logits.double()
        else:
            ways, hits, misses = ways.to(kind), hits.to(kind), misses.to(kind)
        scored = ways - hits * F.softplus(-logits) - misses * F.softplus(logits)
        return scored.to(kind)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Counts of shape `sample_shape + batch_shape`."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            p = self.logits.sigmoid().expand(shape)
            return torch.binomial(torch.full_like(p, self.total_count), p)


class Poisson(dist.Poisson):
    r"""PyTorch's, by the logarithm of its rate, and scored in double precision.

    \[\log p(k) = k \log \lambda - \lambda - \log k!\]

    In float32 the three terms, which nearly cancel, lose whole nats of an image from a
    rate of some ten thousand on.

    >>> round(Poisson(torch.tensor(14.0)).log_prob(torch.tensor(1202604.0)).item(), 2)
    -7.92
    """

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Poisson":
        """The same distribution with a larger batch shape."""
        return Poisson(self.log_rate.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of counts, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        k, log_rate = value.double(), self.log_rate.double()
        scored = k * log_rate - log_rate.exp() - torch.lgamma(k + 1)
        return scored.to(self.log_rate.dtype)


class NegativeBinomial(dist.NegativeBinomial):
    """PyTorch's, scored in double precision.

    log Gamma(r + x) - log Gamma(r) loses its digits where r is large, and so does its
    slope: in float32 a dispersion in the hundreds or more follows rounding errors.

    >>> r = torch.tensor(3000.0)
    >>> NegativeBinomial(r, logits=-r.log()).log_prob(torch.tensor(3.0))
    tensor(-2.7916)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the probability, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        total, logits = self.total_count.double(), self.logits.double()
        wide = dist.NegativeBinomial(total, logits=logits, validate_args=False)
        return wide.log_prob(value.double()).to(self.logits.dtype)


class Classes(dist.Categorical):
    """PyTorch's categorical, whose draws have the type of data and whose mean is one.

    >>> Classes(logits=torch.zeros(2, 3)).mean
    tensor([1., 1.])
    """

    @property
    def mean(self) -> Tensor:
        """The mean number of the class, which pictures show."""
        return self.probs @ torch.arange(
            self._num_events, dtype=self.probs.dtype, device=self.probs.device
        )

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Numbers of classes, of shape `sample_shape + batch_shape`."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)
