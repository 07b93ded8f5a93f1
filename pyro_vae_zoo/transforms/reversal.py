"""The order of the coordinates reversed, where a flag says so.

A flow whose steps treat coordinates by their place, as orders and halves do, treats them
the other way round between two of these. The flag is a tensor, so that it can be saved
with the weights that it gives a meaning to, and changes no graph.
"""

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

__all__ = ["Reversal"]


class Reversal(Transform):
    """`y = x` in reversed order, its own inverse; `y = x` where the flag is false.

    Args:
        is_on: A boolean of no dimension.

    Example:
        >>> Reversal(torch.tensor(True))(torch.arange(3.0))
        tensor([2., 1., 0.])
        >>> Reversal(torch.tensor(False))(torch.arange(3.0))
        tensor([0., 1., 2.])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, is_on: Tensor):
        super().__init__(cache_size=1)
        self.is_on = is_on

    def _call(self, x):
        return torch.where(self.is_on, x.flip(-1), x)

    def _inverse(self, y):
        return torch.where(self.is_on, y.flip(-1), y)

    def log_abs_det_jacobian(self, x, y):
        """Returns zeros, of shape `(*particles, *batch)`."""
        return torch.zeros_like(x[..., 0])
