"""The diagnostics of a run together: numbers, pictures, and a summary in words.

Each part is left out, with the reason, where it does not apply: annealing wants one
latent vector, the gaps want an encoder and a posterior.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae_zoo.annealing import (
    AnnealedLikelihood,
    BidirectionalBounds,
    annealed_log_likelihood,
    bidirectional,
)
from pyro_vae_zoo.datasets import Dataset
from pyro_vae_zoo.diagnostics import (
    ParticleCurve,
    PosteriorCovariances,
    curve_of,
    posterior_covariances,
)
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluate import draw_log_weights
from pyro_vae_zoo.gaps import InferenceGaps, inference_gaps
from pyro_vae_zoo.importance import LogLikelihood, summarise
from pyro_vae_zoo.vae import VAE

__all__ = [
    "PICTURES",
    "DiagnoseOptions",
    "Diagnosis",
    "describe",
    "diagnose",
    "draw_diagnosis",
    "subset",
]

PICTURES = ("particles", "gaps", "correlations")
_T = TypeVar("_T")


@dataclass(frozen=True)
class DiagnoseOptions:
    """How much is spent on each part.

    Attributes:
        num_particles: draws of q for each datum.
        chains: of annealing, for each datum.
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
    gaps: InferenceGaps | None
    covariances: PosteriorCovariances | None
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def log_prob_from(self) -> str:
        """Which estimate of log p(x) the gaps are counted from."""
        return _best(self.importance, self.annealed, self.gaps)[0]

    def to_dict(self) -> dict:
        """All of it but the single covariances, ready for JSON."""
        importance, annealed = self.importance, self.annealed
        found: dict[str, Any] = {
            "importance": _sampled(importance),
            "curve": asdict(self.curve),
        }
        per_datum = {"importance": importance.log_prob.tolist()}
        if annealed:
            found["annealing"] = _estimate(annealed) | {
                "ess": annealed.ess.mean().item(),
                "acceptance": annealed.acceptance.mean().item(),
            }
            estimates = {"importance": importance}
            if self.gaps:
                estimates["local_importance"] = self.gaps.local_importance
            found["agreement"] = {
                name: agreement(estimate, annealed)
                for name, estimate in estimates.items()
            }
            per_datum["annealing"] = annealed.log_prob.tolist()
        if self.bounds:
            found["bidirectional"] = {
                **{
                    k: getattr(self.bounds, k).mean().item() for k in ("lower", "upper")
                },
                **_mean("gap", self.bounds.gap),
                "num_data": len(self.bounds.gap),
            }
        if self.gaps:
            names = (
                "approximation_gap",
                "amortisation_gap",
                "amortised_elbo",
                "local_elbo",
            )
            values = {name: getattr(self.gaps, name) for name in names}
            local = self.gaps.local_importance
            found["local_importance"] = _sampled(local)
            per_datum["local_importance"] = local.log_prob.tolist()
            found["gaps"] = {"log_prob_from": self.log_prob_from}
            for name, value in values.items():
                found["gaps"] |= _mean(name, value)
                per_datum[name] = value.tolist()
        if self.covariances:
            found["covariances"] = {
                "steps": list(self.covariances.steps),
                "mean_abs_correlation": self.covariances.mean_abs_correlation.mean(
                    1
                ).tolist(),
                "noise": self.covariances.noise,
                "log_det": self.covariances.log_det.mean(1).tolist(),
            }
        rest = {
            "skipped": self.skipped,
            "seconds": self.seconds,
            "per_datum": per_datum,
        }
        return found | rest


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
    annealed = part(
        "annealing", lambda: annealed_log_likelihood(vae, x, *chains, **how)
    )
    bounds = None
    if annealed and options.simulated:
        bounds = part(
            "bidirectional",
            lambda: bidirectional(vae, options.simulated, *chains, **how),
        )
    fit = {"num_steps": options.steps, "lr": options.lr}
    gaps = part("gaps", lambda: inference_gaps(vae, x, **fit, **how))
    if gaps:
        best = _best(importance, annealed, gaps)[1]
        gaps = replace(gaps, log_prob=best.log_prob)
    covariances = part("covariances", lambda: posterior_covariances(vae, x, **how))
    parts = importance, curve, annealed, bounds, gaps, covariances
    return Diagnosis(*parts, skipped, seconds)


def agreement(importance: LogLikelihood, annealed: AnnealedLikelihood) -> dict:
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
    if diagnosis.gaps:
        local = diagnosis.gaps.local_importance
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


def _best(
    importance: LogLikelihood,
    annealed: AnnealedLikelihood | None,
    gaps: InferenceGaps | None,
) -> tuple[str, LogLikelihood | AnnealedLikelihood]:
    """The highest mean and what it comes from."""
    estimates = {
        "importance sampling": importance,
        "annealing": annealed,
        "importance sampling from each datum's q": gaps and gaps.local_importance,
    }
    there = ((name, found) for name, found in estimates.items() if found)
    return max(there, key=lambda pair: pair[1].log_prob.mean().item())


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
    khat = found.khat[~found.khat.isnan()]
    if not len(khat):
        return {"median": None, "above_0.7": None}
    share = (khat > 0.7).double().mean().item()
    return {"median": khat.median().item(), "above_0.7": share}


def _mean(name: str, values: Tensor) -> dict[str, float]:
    """The mean over the data and its standard error."""
    error = (
        values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    )
    return {name: values.mean().item(), f"{name}_std_error": error}


def subset(x: Tensor, num_data: int, seed: int) -> Tensor:
    """So many of the data, drawn without replacement; all of them where that is less."""
    if num_data < 1:
        raise UserError(f"num_data must be at least 1, got {num_data}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(x), generator=generator)[:num_data]
    return x[chosen.sort().values.to(x.device)]
