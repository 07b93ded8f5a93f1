"""The diagnostics of a pair together; `findings` says what they come to.

Each part is left out, with the reason, where it does not apply: annealing wants one
latent vector, the gaps want an encoder and a posterior.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.ais import (
    AnnealedLikelihood,
    BidirectionalBounds,
    annealed_log_likelihood,
    bidirectional,
)
from pyro_vae_zoo.evaluation.diagnostics import (
    ParticleCurve,
    PosteriorCovariances,
    curve_of,
    posterior_covariances,
)
from pyro_vae_zoo.evaluation.evaluate import draw_log_weights
from pyro_vae_zoo.evaluation.gaps import InferenceGaps, inference_gaps
from pyro_vae_zoo.evaluation.importance import LogLikelihood, summarise
from pyro_vae_zoo.evaluation.local import local_log_likelihood
from pyro_vae_zoo.pair.vae import VAE

__all__ = ["DiagnoseOptions", "Diagnosis", "diagnose", "subset"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class DiagnoseOptions:
    """How much is spent on each part.

    Attributes:
        num_particles: draws of q for each datum.
        chains: of annealing, for each datum; 0 for no annealing.
        temps: T, steps from the prior to the posterior.
        leapfrog: leapfrog steps of a transition.
        simulated: data drawn from the model, for annealing's own error; 0 for none.
        steps: of the optimisation of each datum's q.
        lr: its first rate.
        seed: of all draws.
    """

    num_particles: int = 10_000
    chains: int = 16
    temps: int = 1000
    leapfrog: int = 10
    simulated: int = 20
    steps: int = 500
    lr: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Diagnosis:
    """What was found; None for what does not apply, whose reason `skipped` holds.

    Attributes:
        importance: log p(x) by importance sampling from the guide.
        curve: its mean over the number of particles.
        annealed: log p(x) by annealing.
        bounds: annealing's error on simulated data.
        local: log p(x) by importance sampling from a q of each datum's own.
        gaps: counted from the highest estimate of mean log p(x) that there is, of three
            that are lower bounds in expectation.
        covariances: of q(z|x), step by step.
        skipped: reasons, by the part's name.
        seconds: that each part took.
    """

    importance: LogLikelihood
    curve: ParticleCurve
    annealed: AnnealedLikelihood | None
    bounds: BidirectionalBounds | None
    local: LogLikelihood | None
    gaps: InferenceGaps | None
    covariances: PosteriorCovariances | None
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def log_prob_from(self) -> str:
        """Which estimate of log p(x) the gaps are counted from."""
        return _best(self.importance, self.annealed, self.local)[0]


def diagnose(
    vae: VAE, x: Tensor, options: DiagnoseOptions, *, progress: bool = False
) -> Diagnosis:
    """Every diagnostic of a pair on some data."""
    skipped: dict[str, str] = {}
    seconds: dict[str, float] = {}
    how = {"seed": options.seed, "progress": progress}
    chains = options.chains, options.temps, options.leapfrog

    def part(name: str, function: Callable[[], _T]) -> _T | None:
        start = time.perf_counter()
        try:
            return function()
        except UserError as error:
            skipped[name] = str(error)
            return None
        finally:
            seconds[name] = round(time.perf_counter() - start, 2)

    start = time.perf_counter()
    log_weights = draw_log_weights(vae, x, options.num_particles, **how)
    importance, curve = summarise(log_weights), curve_of(log_weights)
    seconds["importance"] = round(time.perf_counter() - start, 2)
    annealed = bounds = None
    if options.chains:
        annealed = part(
            "annealing", lambda: annealed_log_likelihood(vae, x, *chains, **how)
        )
    if annealed and options.simulated:
        bounds = part(
            "bidirectional",
            lambda: bidirectional(vae, options.simulated, *chains, **how),
        )
    fit = {"num_steps": options.steps, "lr": options.lr}
    local = part("local", lambda: local_log_likelihood(vae, x, **fit, **how))
    best = _best(importance, annealed, local)[1]
    fit["log_prob"] = best.log_prob
    gaps = part("gaps", lambda: inference_gaps(vae, x, **fit, **how))
    covariances = part("covariances", lambda: posterior_covariances(vae, x, **how))
    parts = importance, curve, annealed, bounds, local, gaps, covariances
    return Diagnosis(*parts, skipped, seconds)


def _best(
    importance: LogLikelihood,
    annealed: AnnealedLikelihood | None,
    local: LogLikelihood | None,
) -> tuple[str, LogLikelihood | AnnealedLikelihood]:
    """The highest mean and what it comes from."""
    estimates = {
        "importance sampling": importance,
        "annealing": annealed,
        "importance sampling from each datum's q": local,
    }
    there = ((name, found) for name, found in estimates.items() if found)
    return max(there, key=lambda pair: pair[1].log_prob.mean().item())


def subset(x: Tensor, num_data: int, seed: int) -> Tensor:
    """So many of the data, drawn without replacement; all of them where that is less."""
    if num_data < 1:
        raise UserError(f"num_data must be at least 1, got {num_data}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(x), generator=generator)[:num_data]
    return x[chosen.sort().values.to(x.device)]
