r"""Neural autoregressive flow (Huang et al. 2018, equation 8: deep sigmoidal flow).

\[y = \mathrm{logit}\, p, \qquad p = \sum_j w_j\, \sigma(a_j x + b_j), \qquad a_j > 0\]

for each dimension, with \(a, b\) and the softmax \(w\) from a network of the dimensions
before it. All of it is computed in logarithms: with \(c_j = a_j x + b_j\),

\[\log p = \mathrm{logsumexp}_j\big(\log w_j + \log\sigma(c_j)\big), \qquad
  \log(1 - p) = \mathrm{logsumexp}_j\big(\log w_j + \log\sigma(-c_j)\big),\]

\[\log \frac{dy}{dx} = \mathrm{logsumexp}_j\big(\log w_j + \log a_j + \log\sigma(c_j)
  + \log\sigma(-c_j)\big) - \log p - \log(1 - p).\]

`pyro.distributions.transforms.NeuralAutoregressive` computes \(p\) itself, which rounds to
1 in float32 from \(c = 17\) on, so that the tails collapse. Its \(a\) is the softplus of
an output. Here \(\log(e - 1)\) is added to the output first, so that outputs of zero give
\(a = 1\), \(b = 0\) and equal weights: the identity.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.transforms.conditioning import (
    ConditionedTransform,
    Parts,
    both_forms,
)
from pyro_vae_zoo.transforms.made import MADE, Deferred

__all__ = [
    "ConditionedNeuralAutoregressive",
    "conditional_neural_autoregressive",
    "neural_autoregressive",
]

SOFTPLUS_INVERSE_OF_1 = math.log(math.expm1(1.0))
MIN_SLOPE = 1e-6  # log a must stay finite where softplus underflows


class ConditionedNeuralAutoregressive(ConditionedTransform):
    """The deep sigmoidal flow with one hidden layer of sigmoids per dimension.

    Only values that it has produced itself can be scored: the inverse would
    need a search in each dimension after the other.

    Args:
        net: Called as `net(x)`; returns `a, b` and the logits of `w` before
            their constraints, each of shape `(*particles, *batch, width, D)`.

    Example:
        >>> flow = ConditionedNeuralAutoregressive(lambda x: torch.zeros(3, 8, 2))
        >>> x = torch.tensor([-40.0, 40.0])
        >>> torch.allclose(flow(x), x)
        True
    """

    def __init__(self, net: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]):
        super().__init__()
        self.net = net

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b, logits = self.net(x)
        a = F.softplus(a + SOFTPLUS_INVERSE_OF_1)
        a = MIN_SLOPE + (1 - MIN_SLOPE) * a
        c = a * x.unsqueeze(-2) + b
        log_w = logits.log_softmax(-2)
        log_on = F.logsigmoid(c)
        log_off = log_on - c  # = logsigmoid(-c)
        log_d = torch.logsumexp(log_w + log_on, dim=-2)
        log_not_d = torch.logsumexp(log_w + log_off, dim=-2)
        log_slope = torch.logsumexp(log_w + a.log() + log_on + log_off, dim=-2)
        y = log_d - log_not_d
        return y, (log_slope - log_d - log_not_d).sum(-1)


def _neural_autoregressive(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] = (64,),
    width: int = 8,
    permutation: Tensor | None = None,
    activation: str = "elu",
) -> Parts:
    """Returns a neural autoregressive flow, whose network may also read a context.

    Args:
        input_dim: Dimension of the variable.
        context_dim: Dimension of the context, for the conditional form alone.
        hidden_dims: Hidden layers of its MADE.
        width: Number of sigmoids per dimension.
        permutation: Order of the dimensions, natural by default.
        activation: Hidden nonlinearity of its MADE.

    Raises:
        UserError: If `width` is below 2, or as `MADE` does.

    Example:
        >>> neural_autoregressive(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
        >>> flow = conditional_neural_autoregressive(3, 4)
        >>> flow.condition(torch.zeros(5, 4))(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    if width < 2:
        raise UserError(
            f"expected width >= 2, got {width}: one sigmoid makes an affine flow"
        )
    params = (width, width, width)
    net = MADE(input_dim, context_dim, hidden_dims, params, permutation, activation)
    return Deferred(net), ConditionedNeuralAutoregressive


neural_autoregressive, conditional_neural_autoregressive = both_forms(
    _neural_autoregressive
)
