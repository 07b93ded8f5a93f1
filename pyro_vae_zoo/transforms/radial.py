r"""Radial flow (Rezende & Mohamed 2015, equation 14 and appendix A.2).

\[y = x + \frac{\beta}{\alpha + r} (x - x_0), \qquad r = |x - x_0|\]

with \(\alpha > 0\) and \(\gamma = \alpha + \beta > 0\), each a softplus of a parameter.
Pyro's radial flow has no inverse, and computes \(\log(1 + \beta / (\alpha + r))\), which
is -inf in float32 if \(\gamma\) is so small that \(\beta = \gamma - \alpha\) rounds to
\(-\alpha\). Here the determinant is a quotient of positive sums,

\[\det = \left(\frac{\gamma + r}{\alpha + r}\right)^{D-1}
  \frac{r^2 + 2 \alpha r + \alpha \gamma}{(\alpha + r)^2},\]

and the inverse is the positive root of \(r^2 + (\gamma - s) r - \alpha s = 0\) with
\(s = |y - x_0|\).
"""

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

__all__ = ["ConditionedRadial", "conditional_radial", "radial"]

FLOOR = 1e-6  # of alpha and gamma: a softplus may underflow to 0


class ConditionedRadial(ConditionedTransform):
    """Contraction (`beta < 0`) or expansion around `x_0`, with an exact inverse.

    Args:
        center: `x_0`, of shape `(*batch, D)`.
        alpha: Unconstrained; `softplus(alpha)` is the paper's alpha, `(*batch, 1)`.
        gamma: Unconstrained; `softplus(gamma)` is `alpha + beta`, `(*batch, 1)`.

    Example:
        >>> flow = ConditionedRadial(torch.ones(2), torch.zeros(1), torch.ones(1))
        >>> x = torch.randn(5, 2)
        >>> torch.allclose(flow.inv(flow(x).clone()), x, atol=1e-5)
        True
    """

    def __init__(self, center: Tensor, alpha: Tensor, gamma: Tensor):
        super().__init__()
        self.center = center
        self.alpha = F.softplus(alpha) + FLOOR
        self.gamma = F.softplus(gamma) + FLOOR

    def _log_det(self, r: Tensor) -> Tensor:
        inner = r.square() + self.alpha * (2 * r + self.gamma)
        log_stretch = torch.log(self.gamma + r) - torch.log(self.alpha + r)
        log_radial = torch.log(inner) - 2 * torch.log(self.alpha + r)
        across = self.center.shape[-1] - 1
        return (across * log_stretch + log_radial).squeeze(-1)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        offset = x - self.center
        r = offset.norm(dim=-1, keepdim=True)
        y = x + (self.gamma - self.alpha) / (self.alpha + r) * offset
        return y, self._log_det(r)

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        offset = y - self.center
        s = offset.norm(dim=-1, keepdim=True)
        # Of the two forms of the root, take the one that does not cancel.
        k = s - self.gamma
        q = k.abs() + torch.sqrt(k.square() + 4 * self.alpha * s)
        r = torch.where(k > 0, q / 2, 2 * self.alpha * s / q)
        x = self.center + (self.alpha + r) / (self.gamma + r) * offset
        return x, self._log_det(r)


def _radial(input_dim: int, context_dim: int) -> Parts:
    """Returns a radial flow; its parameters are free, or linear in the context.

    Args:
        input_dim: Dimension of the variable.
        context_dim: Dimension of the context, for the conditional form alone.

    Raises:
        UserError: If a size is below 1, or a context of another width is given.

    Example:
        >>> radial(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
        >>> flow = conditional_radial(3, 4).condition(torch.zeros(5, 4))
        >>> flow(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    check_sizes(input_dim=input_dim)
    # Equal alpha and gamma mean beta = 0, the identity.
    head = Head(context_dim, [(input_dim,), (1,), (1,)], [0.0, 0.0, 0.0])
    return head, ConditionedRadial


radial, conditional_radial = both_forms(_radial)
