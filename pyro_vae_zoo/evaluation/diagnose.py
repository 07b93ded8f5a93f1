"""The diagnostics of a pair together, and the numbers that they come to.

Each part is left out, with the reason, where it does not apply: annealing wants one
latent vector, the gaps want an encoder and a posterior.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from pyro_vae_zoo.data.streamed.randomness import permutation
from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.ais import (
    AnnealedLikelihood,
    BidirectionalBounds,
    annealed_log_likelihood,
    bidirectional,
)
from pyro_vae_zoo.evaluation.covariances import (
    PosteriorCovariances,
    posterior_covariances,
)
from pyro_vae_zoo.evaluation.evaluate import draw_log_weights
from pyro_vae_zoo.evaluation.gaps import InferenceGaps, inference_gaps
from pyro_vae_zoo.evaluation.importance import (
    LogLikelihood,
    summarise,
    summary_of_khat,
)
from pyro_vae_zoo.evaluation.local import local_log_likelihood
from pyro_vae_zoo.evaluation.options import DiagnoseOptions
from pyro_vae_zoo.evaluation.particle_curve import ParticleCurve, curve_of
from pyro_vae_zoo.evaluation.statistics import error_over_data
from pyro_vae_zoo.pair.door import Data, units_of
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import check_seed

__all__ = [
    "DIAGNOSTICS_FILE",
    "Diagnosis",
    "diagnose",
    "findings",
    "subset",
]

DIAGNOSTICS_FILE = "diagnostics.json"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Diagnosis:
    """The results of all diagnostics; None for one that does not apply; see `skipped`.

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
        """The estimate of log p(x) that the gaps are counted from."""
        return _best(self.importance, self.annealed, self.local)[0]


def diagnose(
    vae: VAE, x: Data, options: DiagnoseOptions, *, progress: bool = False
) -> Diagnosis:
    """Every diagnostic of a pair on some data; of a `Dataset` on its test split."""
    check_seed(options.seed)
    skipped: dict[str, str] = {}
    seconds: dict[str, float] = {}
    seed, steps, lr = options.seed, options.steps, options.lr
    chains = options.chains, options.temps, options.leapfrog

    def part(
        name: str, function: Callable[..., _T], *args: object, **kwargs: object
    ) -> _T | None:
        start = time.perf_counter()
        try:
            return function(vae, *args, seed=seed, progress=progress, **kwargs)
        except UserError as error:
            skipped[name] = str(error)
            return None
        finally:
            seconds[name] = round(time.perf_counter() - start, 2)

    start = time.perf_counter()
    drawn = draw_log_weights(
        vae, x, options.num_particles, seed=seed, progress=progress
    )
    importance, curve = summarise(*drawn), curve_of(*drawn)
    seconds["importance"] = round(time.perf_counter() - start, 2)
    annealed = bounds = None
    if options.chains:
        annealed = part("annealing", annealed_log_likelihood, x, *chains)
    if annealed and options.simulated:
        bounds = part("bidirectional", bidirectional, options.simulated, *chains)
    if bounds:  # of draws of the model, which are in the units that it was trained in
        units = units_of(x)
        bounds = replace(bounds, lower=bounds.lower + units, upper=bounds.upper + units)
    local = part("local", local_log_likelihood, x, num_steps=steps, lr=lr)
    best = _best(importance, annealed, local)[1].log_prob
    gaps = part("gaps", inference_gaps, x, steps, lr, log_prob=best)
    covariances = part("covariances", posterior_covariances, x)
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
    check_seed(seed)
    if num_data < 1:
        raise UserError(f"num_data must be at least 1, got {num_data}")
    chosen = permutation(len(x), seed)[:num_data].sort().values
    return x[chosen] if isinstance(x, Rows) else x[chosen.to(x.device)]


def findings(diagnosis: Diagnosis) -> dict:
    """The numbers of a diagnosis, ready for JSON; what does not apply is not there.

    Means over the data and their errors over it, and the single data under `per_datum`.
    """
    importance, local = diagnosis.importance, diagnosis.local
    annealed, gaps = diagnosis.annealed, diagnosis.gaps
    found: dict[str, dict[str, Any]] = {"importance": _sampled(importance)}
    found["curve"] = asdict(diagnosis.curve)
    per_datum = {"importance": importance.log_prob}
    if local:
        found["local_importance"] = _sampled(local)
        per_datum["local_importance"] = local.log_prob
    if gaps:
        found["gaps"] = {"log_prob_from": diagnosis.log_prob_from} | _gaps(gaps)
        per_datum |= {name: getattr(gaps, name) for name in _GAPS}
    if annealed:
        found["annealing"] = _estimate(annealed) | {
            "ess": annealed.ess.mean().item(),
            "acceptance": annealed.acceptance.mean().item(),
        }
        estimates = {"importance": importance}
        if local:
            estimates["local_importance"] = local
        found["agreement"] = {k: _agreement(v, annealed) for k, v in estimates.items()}
        per_datum["annealing"] = annealed.log_prob
    if diagnosis.bounds:
        found["bidirectional"] = _bounds(diagnosis.bounds)
    if diagnosis.covariances:
        found["covariances"] = _covariances(diagnosis.covariances)
    return found | {
        "skipped": diagnosis.skipped,
        "seconds": diagnosis.seconds,
        "per_datum": {name: values.tolist() for name, values in per_datum.items()},
    }


_GAPS = "approximation_gap", "amortisation_gap", "amortised_elbo", "local_elbo"


def _gaps(gaps: InferenceGaps) -> dict:
    found: dict[str, float] = {}
    for name in _GAPS:
        found |= _mean(name, getattr(gaps, name))
    settings = {"num_particles": gaps.num_particles, "num_steps": gaps.num_steps}
    return settings | found


def _bounds(bounds: BidirectionalBounds) -> dict:
    lower, upper = bounds.lower.mean().item(), bounds.upper.mean().item()
    found = {"lower": lower, "upper": upper, "num_data": len(bounds.gap)}
    return found | _mean("gap", bounds.gap)


def _covariances(covariances: PosteriorCovariances) -> dict:
    return {
        "steps": list(covariances.steps),
        "mean_abs_correlation": covariances.mean_abs_correlation.mean(1).tolist(),
        "noise": covariances.noise,
        "log_det": covariances.log_det.mean(1).tolist(),
        "num_particles": covariances.num_particles,
    }


def _agreement(importance: LogLikelihood, annealed: AnnealedLikelihood) -> dict:
    r"""Importance sampling minus annealing, mean over the data, in nats.

    `std_error` is that of the draws and chains of both, `z` the difference in units of
    it, and `std_error_of_data` that which the scatter of the single differences has.
    """
    difference = importance.log_prob - annealed.log_prob
    n = len(difference)
    squares = importance.std_error.square() + annealed.std_error.square()
    error = squares.sum().sqrt().item() / n
    mean = difference.mean().item()
    return {
        "difference": mean,
        "std_error": error,
        "z": mean / error if error else math.nan,
        "std_error_of_data": error_over_data(difference),
    }


def _estimate(found: LogLikelihood | AnnealedLikelihood) -> dict:
    return _mean("log_likelihood", found.log_prob) | {"mc_error": found.mc_error}


def _sampled(found: LogLikelihood) -> dict:
    own = {"num_particles": found.num_particles, "khat": _khat(found)}
    return _estimate(found) | own


def _khat(found: LogLikelihood) -> dict:
    median, share = summary_of_khat(found.khat)
    return {"median": median, "above_0.7": share}


def _mean(name: str, values: Tensor) -> dict[str, float]:
    """The mean over the data and its standard error."""
    return {name: values.mean().item(), f"{name}_std_error": error_over_data(values)}
