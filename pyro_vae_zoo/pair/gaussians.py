r"""Gaussians, alone or under a flow, shifted and scaled for each datum.

\[z_0 = \mu + a + S M \epsilon\]

of a Gaussian of mean \(\mu\) and scale S, by a shift a and a matrix M, which is diagonal or
lower triangular and has a positive diagonal.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from pyro_vae_zoo.errors import UserError

__all__ = ["Move", "at_rest", "flow_in", "given", "moved", "of_vectors"]

# a, the logarithm of the diagonal of M, and M below it, if it is not diagonal.
Move = tuple[nn.Parameter, nn.Parameter, nn.Parameter | None]


def at_rest(q: TorchDistributionMixin, full: bool) -> Move:
    """The a and M that leave a distribution as it is.

    Args:
        q: a Gaussian of vectors, or a flow on one.
        full: whether M is lower triangular for a diagonal Gaussian, too.

    Raises:
        UserError: for another distribution.

    >>> [p.shape for p in given(at_rest(dist.Normal(torch.zeros(3), 1).to_event(1), True))]
    [torch.Size([3]), torch.Size([3]), torch.Size([3, 3])]
    """
    base = _base(q)
    zeros = torch.zeros_like(base.mean)
    lower = None
    if full or isinstance(base, dist.MultivariateNormal):
        lower = nn.Parameter(zeros.new_zeros(*zeros.shape, zeros.shape[-1]))
    return nn.Parameter(zeros), nn.Parameter(zeros.clone()), lower


def given(move: Move) -> list[nn.Parameter]:
    """The parameters that there are."""
    return [p for p in move if p is not None]


def moved(q: TorchDistributionMixin, move: Move) -> TorchDistributionMixin:
    """A distribution with its Gaussian shifted and scaled.

    >>> q = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    >>> moved(q, (torch.ones(2), torch.zeros(2), None)).mean
    tensor([1., 1.])
    """
    q, (shift, log_scale, lower) = of_vectors(q), move
    base = _base(q)
    loc = base.mean + shift
    if lower is None:
        base = dist.Normal(loc, base.stddev * log_scale.exp()).to_event(1)
    else:
        factor = lower.tril(-1) + log_scale.exp().diag_embed()
        is_full = isinstance(base, dist.MultivariateNormal)
        tril = base.scale_tril if is_full else base.stddev.diag_embed()
        base = dist.MultivariateNormal(loc, scale_tril=tril @ factor)
    steps = getattr(q, "transforms", None)
    return dist.TransformedDistribution(base, steps) if steps else base


def flow_in(q: Any) -> Any:
    """The flow of numbers in a distribution of vectors, if it is one; else itself."""
    inner = q.base_dist if isinstance(q, dist.Independent) else q
    return inner if hasattr(inner, "transforms") else q


def of_vectors(q: TorchDistributionMixin) -> TorchDistributionMixin:
    """A flow of numbers, one for each latent, as one of vectors; another q as it is."""
    inner = flow_in(q)
    if inner is q:
        return q
    base = dist.Independent(inner.base_dist, q.reinterpreted_batch_ndims)
    return dist.TransformedDistribution(base, inner.transforms)


def _base(q: TorchDistributionMixin) -> TorchDistributionMixin:
    """The Gaussian under a flow, or q itself."""
    q = of_vectors(q)
    steps = getattr(q, "transforms", ())
    base = q.base_dist if steps else q
    inner = getattr(base, "base_dist", base)
    is_gaussian = isinstance(inner, Normal) or isinstance(base, MultivariateNormal)
    if is_gaussian and all(step.bijective for step in steps):
        return base
    kinds = dict.fromkeys((type(base).__name__, type(inner).__name__))
    raise UserError(
        f"expected a Gaussian or a flow on a Gaussian, got {' of '.join(kinds)}"
    )
