"""Mixtures that all data share, as learned priors are: scored at many z, drawn seldom.

`distributions.Mixture` has components for each datum and draws with gradients. These have
one set of components, of which there may be hundreds, and draw without.
"""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["GaussianMixture", "UniformMixture"]


class GaussianMixture(dist.TorchDistribution):
    r"""\(\sum_k w_k N(m_k, \mathrm{diag}\,s_k^2)\), one for all data.

    With \(P = s^{-2}\) all K quadratic forms of all z are one product of matrices,

    \[\sum_d P_{kd} (z_d - m_{kd})^2 =
      [z^2, z] \cdot [P_k, -2 m_k P_k] + \textstyle\sum_d P_{kd} m_{kd}^2,\]

    in float64, since the terms cancel. No tensor of shape `(*batch, K, D)` is made.

    Args:
        log_weights: \(\log w\), normalised, shape `(K,)`.
        loc: m, shape `(K, D)`.
        scale: s > 0, same shape.

    >>> p = GaussianMixture(torch.zeros(1), torch.zeros(1, 3), torch.ones(1, 3))
    >>> z = torch.ones(5, 3)
    >>> torch.allclose(p.log_prob(z), dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    True
    >>> p.expand((5,)).sample((7,)).shape
    torch.Size([7, 5, 3])
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        log_weights: Tensor,
        loc: Tensor,
        scale: Tensor,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.log_weights, self.loc, self.scale = log_weights, loc, scale
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: None = None
    ) -> "GaussianMixture":
        """The same mixture with a larger batch shape."""
        parts = self.log_weights, self.loc, self.scale
        return GaussianMixture(*parts, batch_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        r"""\(\sum_k w_k m_k\)."""
        mean = (self.log_weights.exp()[:, None] * self.loc).sum(0)
        return mean.expand(*self.batch_shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats."""
        z, loc, log_scale = value.double(), self.loc.double(), self.scale.double().log()
        precision = (-2 * log_scale).exp()
        by_component = torch.cat([precision, -2 * loc * precision], -1)
        forms = torch.cat([z.square(), z], -1) @ by_component.T
        forms = forms + (loc.square() * precision).sum(-1)
        log_norm = log_scale.sum(-1) + loc.shape[-1] / 2 * math.log(2 * math.pi)
        terms = self.log_weights.double() - log_norm - forms / 2
        return _broadcast(terms.logsumexp(-1).to(value.dtype), self.batch_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape + (D,)`."""
        shape = self._extended_shape(torch.Size(sample_shape))[:-1]
        edges = self.log_weights.exp().cumsum(-1)
        uniform = torch.rand(shape, dtype=edges.dtype, device=edges.device)
        k = torch.searchsorted(edges[:-1] / edges[-1], uniform, right=True)
        return torch.normal(self.loc[k], self.scale[k])


class UniformMixture(dist.TorchDistribution):
    r"""\(\frac1K \sum_k q_k(z)\) of a batch of K distributions, one for all data.

    Args:
        q: any distribution of batch shape `(K,)` and event shape `(D,)` that scores what
            it has not drawn.

    >>> p = UniformMixture(dist.Normal(torch.zeros(4, 3), 1.0).to_event(1))
    >>> p.log_prob(torch.zeros(7, 5, 3)).shape, p.expand((5,)).sample((7,)).shape
    (torch.Size([7, 5]), torch.Size([7, 5, 3]))
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        q: dist.TorchDistribution,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.q = q
        super().__init__(torch.Size(batch_shape), q.event_shape, validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: None = None
    ) -> "UniformMixture":
        """The same mixture with a larger batch shape."""
        return UniformMixture(self.q, batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats."""
        (k,) = self.q.batch_shape
        each = value.unsqueeze(-2).expand(*value.shape[:-1], k, -1)
        score = self.q.log_prob(each).logsumexp(-1) - math.log(k)
        return _broadcast(score, self.batch_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape + (D,)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        (k,) = self.q.batch_shape
        chosen = torch.randint(k, (shape[:-1].numel(),))
        # Each component draws as often as the one that is chosen most; the n-th choice of
        # a component is its n-th draw.
        counts = chosen.bincount(minlength=k)
        draws = self.q.sample((max(int(counts.max()), 1),))
        order = chosen.argsort(stable=True)
        first = counts.cumsum(0) - counts
        turn = torch.empty_like(chosen)
        turn[order] = torch.arange(len(chosen)) - first[chosen[order]]
        return draws[turn, chosen].reshape(shape)


def _broadcast(score: Tensor, batch_shape: torch.Size) -> Tensor:
    """A value that all of a batch share counts for each of it."""
    return score.expand(torch.broadcast_shapes(score.shape, batch_shape))
