r"""Planar flow (Rezende & Mohamed 2015, equations 10-12 and appendix A.1).

\[y = x + \hat u \tanh(w^\top x + b), \qquad
  \log|\det| = \log\big(1 + (1 - \tanh^2(w^\top x + b))\, w^\top \hat u\big)\]

The map is a bijection if \(w^\top \hat u > -1\). The paper's constraint,
\(w^\top \hat u = \mathrm{softplus}(w^\top u) - 1\), lets \(\hat u\) diverge as
\(w \to 0\); at \(w = 0\) it is 0/0, and `pyro.distributions.transforms.Planar` returns
NaN. Here, with \(a = w^\top u\) and \(c = 1 - 10^{-3}\),

\[w^\top \hat u = m(a), \qquad m(a) = a \ \mathrm{for}\ a \ge 0, \qquad
  m(a) = \frac{a}{1 + |a| / c} > -c \ \mathrm{for}\ a < 0,\]

and \(\hat u\) differs from \(u\) only along \(w\). Since \(m\) has slope one at 0,
\(\hat u \to u\) as \(w \to 0\); since \(m(0) = 0\), \(u = 0\) is the identity; and the
determinant never falls below \(10^{-3}\).
"""

import torch
from torch import Tensor

from pyro_vae_zoo.transforms.conditioning import (
    ConditionedTransform,
    Head,
    Parts,
    both_forms,
    check_sizes,
    unit,
)

__all__ = ["ConditionedPlanar", "conditional_planar", "planar", "planar_head"]

LIMIT = 1 - 1e-3
BISECTIONS = 64


class ConditionedPlanar(ConditionedTransform):
    """`y = x + u_hat tanh(w.x + b)` with given parameters, invertible everywhere.

    The inverse solves `alpha + m tanh(alpha + b) = w.y` for the scalar
    `alpha = w.x` by bisection; a last Newton step carries the gradients.

    Args:
        bias: `b`, of shape `(*batch, 1)`.
        u: Shape `(*batch, D)`.
        w: Shape `(*batch, D)`.

    Example:
        >>> zero, one = torch.zeros(2), torch.ones(2)
        >>> flow = ConditionedPlanar(zero[:1], u=-3 * one, w=one)
        >>> x = torch.randn(5, 2)
        >>> y = flow(x)
        >>> torch.allclose(flow.inv(y.clone()), x, atol=1e-3)
        True
    """

    def __init__(self, bias: Tensor, u: Tensor, w: Tensor):
        super().__init__()
        self.bias, self.w = bias, w
        direction = unit(w)
        a = (w * u).sum(-1, keepdim=True)
        excess = (-a).relu() / LIMIT
        along = (direction * u).sum(-1, keepdim=True) * direction
        self.u_hat = u - excess / (1 + excess) * along
        self.m = a / (1 + excess)  # = w.u_hat, without the rounding of that product

    def _bend(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        bend = torch.tanh(alpha + self.bias)
        return bend, torch.log1p((1 - bend.square()) * self.m).squeeze(-1)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bend, log_det = self._bend((self.w * x).sum(-1, keepdim=True))
        return x + self.u_hat * bend, log_det

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        beta = (self.w * y).sum(-1, keepdim=True)
        alpha = beta - self.m * torch.tanh(self._root(beta) + self.bias)
        bend, log_det = self._bend(alpha)
        return y - self.u_hat * bend, log_det

    def _root(self, beta: Tensor) -> Tensor:
        with torch.no_grad():
            low, high = beta - self.m.abs(), beta + self.m.abs()
            for _ in range(BISECTIONS):
                alpha = (low + high) / 2
                above = alpha + self.m * torch.tanh(alpha + self.bias) > beta
                low, high = (
                    torch.where(above, low, alpha),
                    torch.where(above, alpha, high),
                )
            slope = 1 + self.m * (1 - torch.tanh(alpha + self.bias).square())
        # Newton from a constant: its derivative is that of the implicit function.
        return alpha - (alpha + self.m * torch.tanh(alpha + self.bias) - beta) / slope


def planar_head(input_dim: int, context_dim: int) -> Head:
    """Parameters `b, u, w`, near the identity; linear in the context where there is one."""
    check_sizes(input_dim=input_dim)
    # u near 0 is the identity; w of length one lets u's gradient be felt at once.
    w = torch.randn(input_dim) / input_dim**0.5
    return Head(context_dim, [(1,), (input_dim,), (input_dim,)], [0.0, 0.0, w])


def _planar(input_dim: int, context_dim: int) -> Parts:
    """Returns a planar flow; `b, u, w` are free, or linear in the context.

    Args:
        input_dim: Dimension of the variable.
        context_dim: Dimension of the context, for the conditional form alone.

    Raises:
        UserError: If a size is below 1, or a context of another width is given.

    Example:
        >>> planar(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
        >>> flow = conditional_planar(3, 4).condition(torch.zeros(5, 4))
        >>> flow(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    return planar_head(input_dim, context_dim), ConditionedPlanar


planar, conditional_planar = both_forms(_planar)
