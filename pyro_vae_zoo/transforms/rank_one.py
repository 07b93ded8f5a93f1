r"""Affine map with a diagonal and a rank-one part (Apostolopoulou et al. 2020).

\[y = \mu + (\mathrm{diag}\,d + u u^\top)\, x, \qquad
  \log|\det| = \sum_i \log d_i + \log\Big(1 + \sum_i \frac{u_i^2}{d_i}\Big)\]

The matrix is symmetric and, since \(d > 0\), positive definite. Its inverse is that of
Sherman and Morrison: with \(r = y - \mu\) and \(v = u / d\),

\[x = \frac{r}{d} - v\, \frac{v^\top r}{1 + u^\top v}.\]

The paper allows \(d \ge 0\). At \(d = 0\) the matrix has rank one and no inverse; here
\(d\) is a softplus plus \(10^{-3}\).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_vae_zoo.transforms.conditioning import (
    ConditionedTransform,
    Head,
    Parts,
    both_forms,
    check_sizes,
)

__all__ = [
    "ConditionedRankOneAffine",
    "conditional_rank_one_affine",
    "rank_one_affine",
    "rank_one_parameters",
]

MIN_DIAG = 1e-3
_RAW_OF_ONE = math.log(math.expm1(1 - MIN_DIAG))


class ConditionedRankOneAffine(ConditionedTransform):
    """`y = loc + (diag(d) + u u^T) x` with given parameters.

    Args:
        loc: Shape `(*batch, D)`.
        diag: `d`, positive, same shape.
        u: Same shape.

    Example:
        >>> one = torch.ones(2)
        >>> flow = ConditionedRankOneAffine(loc=0 * one, diag=one, u=one)
        >>> flow(torch.tensor([1.0, 0.0]))
        tensor([2., 1.])
        >>> flow.inv(torch.tensor([2.0, 1.0])).round(decimals=4)
        tensor([1., 0.])
    """

    def __init__(self, loc: Tensor, diag: Tensor, u: Tensor):
        super().__init__()
        self.loc, self.diag, self.u = loc, diag, u

    def _log_det(self, x: Tensor) -> Tensor:
        gain = (self.u.square() / self.diag).sum(-1)
        log_det = self.diag.log().sum(-1) + gain.log1p()
        return log_det.expand(torch.broadcast_shapes(x.shape[:-1], log_det.shape))

    def _call(self, x: Tensor) -> Tensor:
        self._kept.has_graph = torch.is_grad_enabled()
        along = (self.u * x).sum(-1, keepdim=True)
        return self.loc + self.diag * x + self.u * along

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(x), self._log_det(x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log|det dy/dx|`, on demand: it is the same for every x."""
        return self._log_det(x)

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r = (y - self.loc) / self.diag
        v = self.u / self.diag
        along = (self.u * r).sum(-1, keepdim=True)
        x = r - v * along / (1 + (self.u * v).sum(-1, keepdim=True))
        return x, self._log_det(x)


def rank_one_parameters(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts the free numbers of a network into `loc`, `d >= 1e-3` and `u`.

    Args:
        raw: Shape `(*batch, 3 D)`; zeros are the identity.

    Example:
        >>> [p.round(decimals=4).tolist() for p in rank_one_parameters(torch.zeros(3))]
        [[0.0], [1.0], [0.0]]
    """
    loc, raw_diag, u = raw.chunk(3, dim=-1)
    return loc, F.softplus(raw_diag + _RAW_OF_ONE) + MIN_DIAG, u


def _build(raw: Tensor) -> ConditionedRankOneAffine:
    return ConditionedRankOneAffine(*rank_one_parameters(raw))


def _rank_one_affine(input_dim: int, context_dim: int) -> Parts:
    """Returns a rank-one affine map; `loc, d, u` are free, or depend on the context.

    Args:
        input_dim: Dimension of the variable.
        context_dim: Dimension of the context, for the conditional form alone.

    Raises:
        UserError: If a size is below 1, or a context of another width is given.

    Example:
        >>> rank_one_affine(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
        >>> flow = conditional_rank_one_affine(3, 4).condition(torch.zeros(5, 4))
        >>> flow(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    check_sizes(input_dim=input_dim)
    # Small, but not zero: u enters as u u^T, whose gradient vanishes at u = 0.
    start = torch.zeros(3 * input_dim)
    start[2 * input_dim :] = 0.1 * torch.randn(input_dim)
    return Head(context_dim, [(3 * input_dim,)], [start]), _build


rank_one_affine, conditional_rank_one_affine = both_forms(_rank_one_affine)
