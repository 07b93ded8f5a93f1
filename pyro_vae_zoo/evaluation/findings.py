"""What a diagnosis comes to: numbers for JSON, a summary in words, pictures."""

import math
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from pyro_vae_zoo.evaluation.ais import AnnealedLikelihood, BidirectionalBounds
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.evaluation.diagnose import Diagnosis
from pyro_vae_zoo.evaluation.diagnostics import PosteriorCovariances
from pyro_vae_zoo.evaluation.gaps import InferenceGaps
from pyro_vae_zoo.evaluation.importance import LogLikelihood, summary_of_khat
from pyro_vae_zoo.pair.vae import VAE

__all__ = ["DIAGNOSTICS_FILE", "PICTURES", "describe", "draw_diagnosis", "findings"]

DIAGNOSTICS_FILE = "diagnostics.json"
PICTURES = ("particles", "gaps", "correlations")


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


def describe(result: dict) -> str:
    """What was found in lines of at most 80 columns, from the dictionary of a run."""
    settings = result["settings"]
    lines = [
        f"{result['guide']} on {result['data']}, {result['num_data']} of the "
        f"{result['split']} split, seed {settings['seed']}; nats per datum",
        _line("IS, draws of the guide", result["importance"]),
    ]
    if "local_importance" in result:
        lines.append(_line("IS, each datum's q", result["local_importance"]))
    if "annealing" in result:
        text = f"{settings['chains']} chains, T = {settings['temps']}"
        ess = f"ESS {result['annealing']['ess']:.1f}"
        lines.append(_line(f"AIS, {text}", result["annealing"], ess))
        for name, found in result["agreement"].items():
            z = math.nan if found["z"] is None else found["z"]
            lines.append(
                f"  {_DIFFERENCES[name]:<29}{_number(found, 'difference', 'std_error')}"
                f"  z = {z:.1f}: {_verdict(z)}"
            )
    if "bidirectional" in result:
        found = result["bidirectional"]
        text = f"{found['num_data']} simulated data"
        lines.append(
            f"  {'bound of AIS error':<29}{_number(found, 'gap', 'gap_std_error')}  {text}"
        )
    if "gaps" in result:
        found = result["gaps"]
        for name in ("approximation_gap", "amortisation_gap"):
            number = _number(found, name, f"{name}_std_error")
            lines.append(f"  {name.replace('_', ' '):<29}{number}  error over the data")
        lines.append(f"  (from log p(x) by {found['log_prob_from']})")
    if "covariances" in result:
        found = result["covariances"]
        values = [f"{v:.3f}" for v in found["mean_abs_correlation"]]
        shown = values if len(values) <= 5 else [*values[:2], "...", *values[-2:]]
        steps = " to ".join(dict.fromkeys(found["steps"][i] for i in (0, -1)))
        lines.append(
            f"  mean |correlation|, {steps}: {' '.join(shown)} (noise {found['noise']:.3f})"
        )
    lines += [
        f"  no {name}: {reason}"[:80] for name, reason in result["skipped"].items()
    ]
    return "\n".join(lines)


def _line(name: str, found: dict, text: str | None = None) -> str:
    """An estimate of log p(x) and what says whether to trust it."""
    if text is None:
        khat = found["khat"]["median"]
        text = f"{found['num_particles']} draws"
        text += "" if khat is None else f", k-hat {khat:.2f}"
    return f"  {name:<29}{_number(found, 'log_likelihood', 'mc_error')}  {text}"


def _verdict(z: float) -> str:
    if math.isnan(z):
        return "no error bars"
    if abs(z) <= _AGREE:
        return "they agree"
    return "IS is too low" if z < 0 else "AIS is too low"


_AGREE = 2  # standard errors
_DIFFERENCES = {
    "importance": "IS, draws of the guide - AIS",
    "local_importance": "IS, each datum's q - AIS",
}


def _number(values: dict, name: str, error: str) -> str:
    spread = math.nan if values[error] is None else values[error]
    return f"{values[name]:9.3f} +- {spread:.3f}"


def draw_diagnosis(
    folder: Path, diagnosis: Diagnosis, vae: VAE, data: Dataset, label: str
) -> None:
    """The pictures of what was found: `particles`, `gaps` and `correlations`."""
    from pyro_vae_zoo import plots

    title = plots.figure_title(vae, data)
    levels: dict[str, LogLikelihood | AnnealedLikelihood] = {}
    if diagnosis.annealed:
        settings = diagnosis.annealed
        text = f"annealing: {settings.num_chains} chains, T = {settings.num_temps}"
        levels[text] = settings
    if diagnosis.local:
        local = diagnosis.local
        levels[f"{local.num_particles} draws of each datum's own q"] = local
    figures = {
        "particles": plots.plot_particles(
            {"draws of the guide": diagnosis.curve}, levels, title=title
        )
    }
    if diagnosis.gaps:
        figures["gaps"] = plots.plot_gaps({label: diagnosis.gaps}, title=title)
    if diagnosis.covariances and diagnosis.covariances.covariance.shape[-1] > 1:
        found = diagnosis.covariances
        figures["correlations"] = plots.plot_correlations(found, title=title)
    for name in PICTURES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    for name, figure in figures.items():
        plots.save_figure(figure, folder / f"{name}.png")
