"""Results -> rows: what may be compared, and seeds averaged."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, mean
from typing import Any

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.statistics import number, standard_error

__all__ = [
    "SAME",
    "Result",
    "Row",
    "average",
    "has_latents",
    "planned_epochs",
    "rank",
    "refuse_unlike",
]

Result = dict[str, Any]
Row = dict[str, Any]

SAME = ("data", "variant", "split", "num_data", "num_particles", "epochs", "weights")


def refuse_unlike(results: Sequence[Result], where: str = "") -> None:
    """Raise where results differ in what must be the same for a comparison.

    Of the epochs those that were planned count: with patience a run may end before.
    Models without latents are exact; their number of draws says nothing.

    Raises:
        UserError: that names the setting and its values.
    """
    for key in SAME:
        those = [r for r in results if key != "num_particles" or has_latents(r)]
        of = planned_epochs if key == "epochs" else lambda r, key=key: r[key]
        values = list(dict.fromkeys(map(of, those)))
        if len(values) > 1:
            shown = ", ".join(map(repr, values))
            raise UserError(
                f"{where}results of different {key} ({shown}) cannot be in one table; "
                "compare them in separate tables"
            )


def has_latents(result: Result) -> bool:
    """True where log p is an estimate; one datum has latents, and no active ones."""
    return bool(result.get("kl_per_site", result["active_units"]))


def planned_epochs(result: Result) -> int:
    """Those that training was to have; `epochs` are those that it had."""
    return result["training"].get("epochs", result["epochs"])


def average(label: str, runs: Sequence[Result]) -> Row:
    """One row of the runs of its seeds: means, and their standard errors.

    `..._seed_error` is over the seeds (None for one seed), `..._std_error` over the
    data, `..._mc_error` from the finite number of draws. `seeds` has the runs.

    Raises:
        UserError: where one seed comes twice.
    """
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{label}: one seed comes twice in {seeds}; give each run once")
    numbers = {
        key: [number(run[key]) for run in runs]
        for key in ("elbo", "log_likelihood", "kl")
    }
    both = zip(numbers["log_likelihood"], numbers["elbo"], strict=True)
    numbers["gap"] = [log_likelihood - elbo for log_likelihood, elbo in both]
    row: Row = {"label": label, "num_seeds": len(runs)}
    for key in ("elbo", "log_likelihood", "gap", "kl"):
        row[key] = fmean(numbers[key])
        row[f"{key}_seed_error"] = standard_error(numbers[key])
    for key in ("elbo_std_error", "log_likelihood_std_error"):
        row[key] = fmean(number(run[key]) for run in runs)  # the data are the same
    mc_errors = [number(run["log_likelihood_mc_error"]) for run in runs]
    row["log_likelihood_mc_error"] = math.hypot(*mc_errors) / len(runs)
    units = [[u.split("/") for u in run["active_units"].values()] for run in runs]
    row["active_units"] = fmean(sum(int(active) for active, _ in u) for u in units)
    row["latent_units"] = sum(int(of) for _, of in units[0])
    for key, name in (("khat_median", "median"), ("khat_above_0.7", "above_0.7")):
        row[key] = _mean_or_none((run["khat"] or {}).get(name) for run in runs)
    row["ess"] = _mean_or_none(run.get("ess") for run in runs)
    row["num_parameters"] = runs[0]["num_parameters"]
    row["seconds_per_epoch"] = fmean(run["seconds"] / run["epochs"] for run in runs)
    row["epochs"] = mean(run["epochs"] for run in runs)
    row["seed_list"] = sorted(seeds)
    return row | {"seeds": sorted(runs, key=lambda run: run["seed"])}


def rank(row: Row) -> float:
    """To sort rows by: the best log-likelihood first, what is not finite last."""
    value = row["log_likelihood"]
    return math.inf if math.isnan(value) else -value


def _mean_or_none(values: Iterable[float | None]) -> float | None:
    values = list(values)
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
