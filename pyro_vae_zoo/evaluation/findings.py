"""What a diagnosis comes to: numbers for JSON, a summary in words, pictures."""

import math
from dataclasses import asdict

from torch import Tensor

from pyro_vae_zoo.evaluation.ais import AnnealedLikelihood, BidirectionalBounds
from pyro_vae_zoo.evaluation.diagnose import Diagnosis
from pyro_vae_zoo.evaluation.diagnostics import PosteriorCovariances
from pyro_vae_zoo.evaluation.gaps import InferenceGaps
from pyro_vae_zoo.evaluation.importance import LogLikelihood, summary_of_khat

__all__ = ["DIAGNOSTICS_FILE", "findings"]

DIAGNOSTICS_FILE = "diagnostics.json"


def findings(diagnosis: Diagnosis) -> dict:
    """The numbers of a diagnosis, ready for JSON; what does not apply is not there.

    Means over the data and their errors over it, and the single data under `per_datum`.
    """
    importance, annealed, gaps = (
        diagnosis.importance,
        diagnosis.annealed,
        diagnosis.gaps,
    )
    found: dict[str, dict] = {"importance": _sampled(importance)}
    found["curve"] = asdict(diagnosis.curve)
    per_datum = {"importance": importance.log_prob}
    if diagnosis.local:
        found["local_importance"] = _sampled(diagnosis.local)
        per_datum["local_importance"] = diagnosis.local.log_prob
    if gaps:
        found["gaps"] = {"log_prob_from": diagnosis.log_prob_from} | _gaps(gaps)
        per_datum |= {name: getattr(gaps, name) for name in _GAPS}
    if annealed:
        found["annealing"] = _estimate(annealed) | {
            "ess": annealed.ess.mean().item(),
            "acceptance": annealed.acceptance.mean().item(),
        }
        estimates = {"importance": importance}
        if diagnosis.local:
            estimates["local_importance"] = diagnosis.local
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
    found = {"num_particles": gaps.num_particles, "num_steps": gaps.num_steps}
    for name in _GAPS:
        found |= _mean(name, getattr(gaps, name))
    return found


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
        "std_error_of_data": _mean("_", difference)["__std_error"],
    }


def _estimate(found: LogLikelihood | AnnealedLikelihood) -> dict:
    n = len(found.log_prob)
    mc_error = found.std_error.square().sum().sqrt().item() / n
    return _mean("log_likelihood", found.log_prob) | {"mc_error": mc_error}


def _sampled(found: LogLikelihood) -> dict:
    return _estimate(found) | {
        "num_particles": found.num_particles,
        "khat": _khat(found),
    }


def _khat(found: LogLikelihood) -> dict:
    median, share = summary_of_khat(found.khat)
    return {"median": median, "above_0.7": share}


def _mean(name: str, values: Tensor) -> dict[str, float]:
    """The mean over the data and its standard error."""
    error = (
        values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    )
    return {name: values.mean().item(), f"{name}_std_error": error}
