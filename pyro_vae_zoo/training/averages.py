"""`Average`: an exponential moving average of a pair's weights, to be judged by."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro.distributions import transforms as T
from torch import Tensor, nn

from pyro_vae_zoo.pair.vae import VAE

__all__ = ["BATCH_NORMS", "Average", "decay_at"]

BATCH_NORMS = (T.BatchNorm, nn.modules.batchnorm._BatchNorm)


def decay_at(step: int, decay: float) -> float:
    """The decay after a step, counted from 0: smaller at first, to forget the start.

    >>> decay_at(0, 0.999), decay_at(10**6, 0.999)
    (0.1, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


class Average:
    r"""The weights \(\bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t) \theta_t\) of a pair.

    With them go the running statistics of batch normalisation: those of \(\theta_t\) are
    of another network than \(\bar\theta_t\). Other buffers stay as they are.

    Args:
        vae: the pair, whose weights of now are where the average begins.

    Attributes:
        values: the average by the name of the parameter or statistic.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8))
    >>> average, p = Average(vae), next(vae.parameters())
    >>> with torch.no_grad():
    ...     moved = p.add_(1.0)
    >>> average.move(0.75)
    >>> with average.in_place():
    ...     averaged = p.detach().clone()
    >>> round((p - averaged).mean().item(), 4)
    0.75
    """

    def __init__(self, vae: VAE) -> None:
        named = dict(vae.named_parameters()) | _statistics(vae)
        self._held = list(named.values())  # found once: a step has no time to look
        self.values = {name: p.detach().clone() for name, p in named.items()}

    @property
    def _weights(self) -> list[Tensor]:
        return [p.detach() for p in self._held]

    def move(self, decay: float | Tensor) -> None:
        """Take the weights of now into the average."""
        if isinstance(decay, float):
            torch._foreach_lerp_(list(self.values.values()), self._weights, 1 - decay)
            return
        for value, weight in zip(self.values.values(), self._weights, strict=True):
            value.lerp_(weight, 1 - decay)

    def load(self, values: dict[str, Tensor]) -> None:
        """Go on from stored values.

        Raises:
            ValueError: where they are not of this pair's weights.
        """
        shapes = {name: value.shape for name, value in self.values.items()}
        if {name: value.shape for name, value in values.items()} != shapes:
            raise ValueError("the averaged weights are not those of this VAE")
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def take_over(self) -> None:
        """Give the pair the averaged weights for good."""
        torch._foreach_copy_(self._weights, list(self.values.values()))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The pair has the averaged weights in the block, and its own after it."""
        own = [p.clone() for p in self._weights]
        self.take_over()
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, own)


def _statistics(vae: VAE) -> dict[str, Tensor]:
    """The running statistics of batch normalisation, by name."""
    return {
        name: buffer
        for path, norm in vae.named_modules()
        if isinstance(norm, BATCH_NORMS)
        for name, buffer in norm.named_buffers(path, recurse=False)
        if buffer.is_floating_point()  # and no count of batches
    }
