"""`PhasePlan`: the epochs of a training, shared out among the pair's phases."""

from collections.abc import Sequence

from pyro_vae_zoo.pair.vae import Phase

__all__ = ["PhasePlan"]


class PhasePlan:
    """Epochs, counted from 0, shared out among phases.

    >>> plan = PhasePlan(10, [Phase("first", share=1), Phase("then", share=4)])
    >>> plan.ends, plan.number(1), plan.number(2), plan.part(6)
    ([2, 10], 0, 1, 0.5)
    """

    def __init__(self, epochs: int, phases: Sequence[Phase]) -> None:
        self.epochs = epochs
        self.ends = _share_out(epochs, phases)

    @property
    def last_start(self) -> int:
        """The first epoch of the last phase that has any."""
        return max([0, *(end for end in self.ends if end < self.epochs)])

    def number(self, epoch: int) -> int:
        """The phase of an epoch, or the last one where all are done."""
        epoch = min(epoch, self.epochs - 1)
        return sum(end <= epoch for end in self.ends)

    def length(self, number: int) -> int:
        """The number of epochs of a phase."""
        return self.ends[number] - self.start(number)

    def begins(self, epoch: int) -> bool:
        """True where another phase begins."""
        return epoch in self.ends and epoch < self.epochs

    def part(self, epoch: int) -> float:
        """The part of its phase that is done as an epoch begins, in [0, 1)."""
        number = self.number(epoch)
        return (epoch - self.start(number)) / self.length(number)

    def start(self, number: int) -> int:
        """The first epoch of a phase."""
        return self.ends[number - 1] if number else 0


def _share_out(epochs: int, phases: Sequence[Phase]) -> list[int]:
    """The epoch at which each phase ends, in proportion to the shares.

    Each has an epoch at least, where there are as many; else some are left out.
    """
    total, ends, share = sum(p.share for p in phases), [0], 0.0
    for number, phase in enumerate(phases, start=1):
        share += phase.share
        end = round(epochs * share / total)
        if epochs >= len(phases):
            end = min(max(end, ends[-1] + 1), epochs - len(phases) + number)
        ends.append(end)
    return ends[1:]
