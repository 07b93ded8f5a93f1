"""A transformed distribution whose draws have gradients in their density, however drawn.

Pyro's transforms keep what their last pass computed, and score the value that it returned
by that. After `sample` it has no graph: the density of the draw would be right, and have
no gradient to the transform.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform

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

    _has_graph = True  # what the transforms have kept, if anything

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
            for step in self.transforms:
                _forget(step)
        self._has_graph = torch.is_grad_enabled()
        return super().log_prob(value)

    def expand(
        self, batch_shape: Sequence[int], _instance: None = None
    ) -> "Transformed":
        """The same distribution with a larger batch shape."""
        new = super().expand(torch.Size(batch_shape), _instance)
        new._has_graph = self._has_graph
        return new


def _forget(step: Transform) -> None:
    """Have a transform of PyTorch's kind compute anew; it and its inverse keep a pair."""
    both = step, step.inv
    for part in (part for each in both for part in getattr(each, "parts", ())):
        _forget(part)
    if not any(isinstance(each, ConditionedTransform) for each in both):
        for each in both:
            each._cached_x_y = None, None
