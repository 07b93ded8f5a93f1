"""A transformed distribution whose draws have gradients in their density, however drawn.

Pyro's transforms keep what their last pass computed, and score the value that it returned
by that. After `sample` it has no graph: the density of the draw would be right, and have
no gradient to the transform.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae_zoo.transforms.conditioning import ConditionedTransform

__all__ = ["Transformed"]


class Transformed(dist.TransformedDistribution):
    """Pyro's `TransformedDistribution`, which computes anew what has no graph.

    It costs the inverse, as the density of any other value does. Transforms of this
    package see to it by themselves.

    >>> import pyro.distributions.transforms as T
    >>> net = torch.nn.Linear(2, 4)
    >>> coupling = T.AffineCoupling(2, lambda h: net(h).chunk(2, -1))
    >>> q = Transformed(dist.Normal(torch.zeros(4), 1.0).to_event(1), [coupling])
    >>> q.log_prob(q.sample()).requires_grad
    True
    """

    _has_graph = True  # what the transforms have kept of a draw, if anything

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws of shape `(*sample_shape, *batch_shape, D)`, with a gradient."""
        self._has_graph = torch.is_grad_enabled()
        return super().rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws of the same shape, without a gradient."""
        self._has_graph = False
        return super().sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats."""
        if torch.is_grad_enabled() and not self._has_graph:
            for both in ((step, step.inv) for step in self.transforms):
                if not any(isinstance(each, ConditionedTransform) for each in both):
                    for each in both:  # the one that is the other's inverse asks it
                        each._cached_x_y = None, None
            self._has_graph = True
        return super().log_prob(value)
