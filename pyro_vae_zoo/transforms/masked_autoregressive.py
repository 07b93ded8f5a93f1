r"""Masked autoregressive flow (Papamakarios et al. 2017, equations 3 and 4).

\[y_i = x_i\, e^{\alpha_i} + \mu_i, \qquad
  (\mu_i, \alpha_i) = \mathrm{net}(y_1, \dots, y_{i-1}; h), \qquad
  \log|\det| = \sum_i \alpha_i\]

The network reads the output y of the map. A given y is therefore scored in one pass, but
a draw is made entry by entry; in an inverse autoregressive flow it is the other way
round. This direction is the one for density estimation, where y is the data.

A tanh keeps \(\alpha\) within +-5, so that a scale cannot collapse onto a single datum.
For \(|\alpha| < 0.9\) it changes \(\alpha\) by about a per cent at most.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae_zoo.transforms.conditioning import (
    ConditionedTransform,
    Parts,
    both_forms,
)
from pyro_vae_zoo.transforms.made import MADE, Bound, Deferred

__all__ = [
    "ConditionedMaskedAutoregressive",
    "conditional_masked_autoregressive",
    "masked_autoregressive",
]

MAX_LOG_SCALE = 5.0


class ConditionedMaskedAutoregressive(ConditionedTransform):
    """`y = x exp(alpha(y)) + mu(y)` with a given network.

    Args:
        net: Maps `y` to `mu` and to raw `alpha`, each of the shape of `y`; entry i of
            either sees those entries of `y` that come before it.

    Example:
        >>> net = MADE(3, 0, [16])
        >>> flow = ConditionedMaskedAutoregressive(net)
        >>> y = torch.randn(5, 3)
        >>> x = flow.inv(y)
        >>> torch.allclose(flow(x.clone()), y, atol=1e-5)
        True
    """

    def __init__(self, net: MADE | Bound[MADE]):
        super().__init__()
        self.net = net

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.net(y)
        log_scale = _log_scale(raw)
        return (y - loc) * torch.exp(-log_scale), log_scale.sum(-1)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net.solve(
            x, lambda x_i, loc, raw: x_i * torch.exp(_log_scale(raw)) + loc
        )
        _, raw = self.net(y)
        return y, _log_scale(raw).sum(-1)


def _log_scale(raw: Tensor) -> Tensor:
    return MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)


def _masked_autoregressive(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] = (320,),
    permutation: Tensor | None = None,
    activation: str = "relu",
) -> Parts:
    """Returns a masked autoregressive flow, whose network may also read a context.

    The context has degree 0 in the MADE: it is masked for no output.

    Args:
        input_dim: Dimension of the variable.
        context_dim: Dimension of the context, for the conditional form alone.
        hidden_dims: Widths of the MADE's hidden layers.
        permutation: Order of the dimensions; natural by default.
        activation: One of elu, relu, silu, softplus, tanh.

    Raises:
        UserError: If a size is below 1, the activation is unknown, or a context of
            another width is given.

    Example:
        >>> masked_autoregressive(3, [16]).inv(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
        >>> flow = conditional_masked_autoregressive(3, 4, [16])
        >>> flow.condition(torch.zeros(5, 4)).inv(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    net = MADE(input_dim, context_dim, hidden_dims, (1, 1), permutation, activation)
    return Deferred(net), ConditionedMaskedAutoregressive


masked_autoregressive, conditional_masked_autoregressive = both_forms(
    _masked_autoregressive
)
