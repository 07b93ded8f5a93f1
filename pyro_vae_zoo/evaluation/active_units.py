"""Active units (Burda et al. 2016): the latents that the data move."""

import math

import torch
from torch import Tensor

__all__ = ["ActiveUnits"]


class ActiveUnits:
    """Posterior means of each latent dimension, from two independent halves.

    The covariance over the data between the halves' means estimates the variance of
    the true mean without the bias that a finite number of draws would add to it.
    """

    def __init__(self, num_data: int) -> None:
        self.num_data = num_data
        self.draws = 0, 0  # of each datum in each half
        self.sums: dict[str, Tensor] = {}

    def add(self, rows: slice, columns: slice, halves: dict[str, Tensor]) -> None:
        """Add sums of the draws of some data, `(2, len(rows), D)`, by site."""
        self.draws = -(-columns.stop // 2), columns.stop // 2
        for name, sums in halves.items():
            if columns.start % 2:  # its first draw is of the second half
                sums = sums.flip(0)
            if name not in self.sums:
                shape = (2, self.num_data, sums.shape[-1])
                self.sums[name] = torch.zeros(shape, dtype=torch.double, device="cpu")
            self.sums[name][:, rows] += sums.cpu()

    def count(self) -> dict[str, tuple[int, int]]:
        """Latents of a variance above 0.01, and all, by site; empty for too few draws."""
        if min(self.draws) < 1 or self.num_data < 2:
            return {}
        active = {}
        for name, sums in self.sums.items():
            first, second = (s - s.mean(0) for s in sums)
            covariance = (first * second).sum(0) / (self.num_data - 1)
            variance = covariance / math.prod(self.draws)
            active[name] = (int((variance > 0.01).sum()), len(variance))
        return active
