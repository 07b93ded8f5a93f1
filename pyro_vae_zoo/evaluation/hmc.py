r"""Chains of Hamiltonian Monte Carlo from a prior to a posterior, many side by side.

A transition at temperature \(\beta\) draws a momentum \(m \sim N(0, I)\), follows

\[\dot z = m, \qquad \dot m = \nabla \log p(z) + \beta \nabla \log p(x|z)\]

by leapfrog steps and accepts where it arrives with the probability that leaves
\(p(z)\, p(x|z)^\beta\) as it is (Neal 2011, https://arxiv.org/abs/1206.1901). What it needs
of the model is a `Score`: densities and slopes at z. Slopes in hand serve the next
temperature too, so that a transition costs one gradient for each leapfrog step.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae_zoo.options import count
from pyro_vae_zoo.runtime import tqdm

__all__ = ["Annealing", "Score", "State", "temperatures", "transition"]

_TARGET = 0.65  # acceptance that suits HMC best (Neal 2011)
_JITTER = 0.2  # relative, of step sizes: no orbit of a Gaussian closes each time
# A run ahead that finds step sizes: a quarter of the chains, a gain for each transition,
# some transitions to begin with, and so many in all at least.
_PILOT_SHARE, _PILOT_GAIN, _WARM_UP, _PILOT_LENGTH = 4, 0.2, 30, 100
_ROWS = {"cpu": 2_000, "cuda": 50_000}  # datum-chains at a time


def temperatures(num_temps: int) -> Tensor:
    r"""\(\beta_0 = 0, \dots, \beta_T = 1\) on a sigmoid, dense at both ends; float64.

    \(\beta_t \propto \sigma(4 (2t/T - 1)) - \sigma(-4)\), of Wu et al. 2017.

    >>> temperatures(4)
    tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    raw = torch.sigmoid(torch.linspace(-4, 4, num_temps + 1, dtype=torch.double))
    return (raw - raw[0]) / (raw[-1] - raw[0])


class State(NamedTuple):
    """The places of chains, `(chains, batch, dim)`, and what HMC wants to know there.

    Densities have shape `(chains, batch)` and are in nats, slopes that of z.
    """

    z: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    likelihood_slope: Tensor
    prior_slope: Tensor

    def log_density(self, beta: float) -> Tensor:
        r"""\(\log p(z) + \beta \log p(x|z)\)."""
        return self.log_prior + beta * self.log_likelihood

    def slope(self, beta: float) -> Tensor:
        """The gradient of `log_density`."""
        return self.prior_slope + beta * self.likelihood_slope


Score = Callable[[Tensor], State]


class Annealing(NamedTuple):
    """The settings of chains from the prior to the posterior, and how they run."""

    num_chains: int
    num_temps: int
    num_leapfrog: int

    @classmethod
    def of(cls, *numbers: int) -> "Annealing":
        """Settings of the caller's.

        Raises:
            UserError: for what is no count; it names the setting.
        """
        return cls(*map(count, cls._fields, numbers))

    def batch_size(self, device: torch.device, chunk_rows: int | None) -> int:
        """The number of data that are run at a time, in so many datum-chains."""
        rows = _ROWS.get(device.type, _ROWS["cpu"])
        if chunk_rows is not None:
            rows = count("chunk_rows", chunk_rows)
        return max(rows // self.num_chains, 1)

    def bar(self, num_batches: int, num_runs: int, progress: bool) -> tqdm:
        """A bar over the transitions of batches with so many runs after a pilot."""
        transitions = (num_runs + 1) * (self.num_temps - 1)
        total = num_batches * transitions
        return tqdm(total=total, desc="anneal", disable=not progress)

    def find_steps(
        self, score: Score, start: Callable[[int], Tensor], bar: tqdm
    ) -> list[Tensor]:
        """Step sizes of each transition, shape `(batch,)`, from chains of their own."""
        betas = temperatures(self.num_temps).tolist()[1:-1]
        state = score(start(max(self.num_chains // _PILOT_SHARE, 2)))
        log_step = state.log_prior.new_full(state.log_prior.shape[1:], math.log(0.3))
        steps = []
        for i, beta in enumerate(betas):
            for _ in range(_WARM_UP if i == 0 else -(-_PILOT_LENGTH // len(betas))):
                state, probability = transition(
                    score, state, beta, log_step.exp(), self.num_leapfrog
                )
                log_step = log_step + _PILOT_GAIN * (probability.mean(0) - _TARGET)
            steps.append(log_step.exp())
            bar.update()
        return steps

    def run(
        self,
        score: Score,
        z: Tensor,
        steps: list[Tensor],
        bar: tqdm,
        *,
        reverse: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log-weights `(chains, batch)` and each datum's acceptance.

        In reverse the chains go from z at temperature one to zero, and the weights are
        those of 1/p(x).
        """
        betas = temperatures(self.num_temps).tolist()
        if reverse:
            betas, steps = betas[::-1], steps[::-1]
        state = score(z)
        log_weights = torch.zeros_like(state.log_prior, dtype=torch.double)
        accepted = torch.zeros_like(log_weights[0])
        for t in range(self.num_temps):
            log_weights += (betas[t + 1] - betas[t]) * state.log_likelihood.double()
            if t + 1 < self.num_temps:
                state, probability = transition(
                    score, state, betas[t + 1], steps[t], self.num_leapfrog
                )
                accepted += probability.mean(0)
                bar.update()
        return log_weights, accepted / (self.num_temps - 1)  # NaN where none was tried


def transition(
    score: Score, state: State, beta: float, step: Tensor, num_leapfrog: int
) -> tuple[State, Tensor]:
    """One HMC transition of `p(z) p(x|z)^beta`: the new state, and how likely it was."""
    jitter = torch.empty_like(state.log_prior).uniform_(1 - _JITTER, 1 + _JITTER)
    step = (step * jitter)[..., None]
    momentum = torch.randn_like(state.z)
    before = state.log_density(beta) - momentum.square().sum(-1) / 2
    proposal = state
    for _ in range(num_leapfrog):
        momentum = momentum + step / 2 * proposal.slope(beta)
        proposal = score(proposal.z + step * momentum)
        momentum = momentum + step / 2 * proposal.slope(beta)
    after = proposal.log_density(beta) - momentum.square().sum(-1) / 2
    # Where a trajectory has diverged it is not a number, and refused.
    probability = (after - before).exp().clamp(max=1).nan_to_num(0.0)
    accept = torch.rand_like(probability) < probability
    chosen = (
        torch.where(accept.view(*accept.shape, *[1] * (new.ndim - 2)), new, old)
        for new, old in zip(proposal, state, strict=True)
    )
    return State(*chosen), probability
