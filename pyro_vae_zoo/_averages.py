"""Results -> rows: what may be compared, seeds averaged, differences and their errors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from pyro_vae_zoo.errors import UserError

__all__ = ["SAME", "Result", "Row", "average", "difference", "rank", "refuse_unlike"]

Result = dict[str, Any]
Row = dict[str, Any]

SAME = ("data", "variant", "split", "num_data", "num_particles", "epochs", "weights")


def refuse_unlike(results: Sequence[Result], where: str = "") -> None:
    """Raise where results differ in what must be the same for a comparison.

    Models without latents are exact; their number of draws says nothing.

    Raises:
        UserError: that names the setting and its values.
    """
    for key in SAME:
        those = [r for r in results if key != "num_particles" or r["active_units"]]
        values = list(dict.fromkeys(r[key] for r in those))
        if len(values) > 1:
            shown = ", ".join(map(repr, values))
            raise UserError(
                f"{where}results of different {key} ({shown}) do not belong in one "
                "table; report them apart"
            )


def average(label: str, runs: Sequence[Result]) -> Row:
    """One row of the runs of its seeds: means, and their standard errors.

    `..._seed_error` is over the seeds (None for one seed), `..._std_error` over the
    data, `..._mc_error` from the finite number of draws. `seeds` has the runs.

    Raises:
        UserError: where one seed comes twice.
    """
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{label}: one seed comes twice among {seeds}; give a run once")
    numbers = {key: [_number(r[key]) for r in runs] for key in ("elbo", "kl")}
    likelihoods = numbers["log_likelihood"] = [
        _number(r["log_likelihood"]) for r in runs
    ]
    numbers["gap"] = [
        ll - elbo for ll, elbo in zip(likelihoods, numbers["elbo"], strict=True)
    ]
    row: Row = {"label": label, "num_seeds": len(runs)}
    for key in ("elbo", "log_likelihood", "gap", "kl"):
        row[key] = fmean(numbers[key])
        row[f"{key}_seed_error"] = _standard_error(numbers[key])
    for key in ("elbo_std_error", "log_likelihood_std_error"):
        row[key] = fmean(_number(run[key]) for run in runs)  # the data are the same
    mc_errors = [_number(run["log_likelihood_mc_error"]) for run in runs]
    row["log_likelihood_mc_error"] = math.hypot(*mc_errors) / len(runs)
    units = [[u.split("/") for u in run["active_units"].values()] for run in runs]
    row["active_units"] = fmean(sum(int(active) for active, _ in u) for u in units)
    row["latent_units"] = sum(int(of) for _, of in units[0])
    for key, name in (("khat_median", "median"), ("khat_above_0.7", "above_0.7")):
        row[key] = _mean_or_none((run["khat"] or {}).get(name) for run in runs)
    row["ess"] = _mean_or_none(run.get("ess") for run in runs)
    row["num_parameters"] = runs[0]["num_parameters"]
    row["seconds_per_epoch"] = fmean(run["seconds"] / run["epochs"] for run in runs)
    row |= {"epochs": runs[0]["epochs"], "seed_list": sorted(seeds)}
    return row | {"seeds": sorted(runs, key=lambda run: run["seed"])}


def difference(
    runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], key: str
) -> tuple[float, float | None]:
    """How far `runs` are ahead of `others`, and its standard error over the seeds.

    Both were tested on the same data, whose luck cancels. A seed does not make two
    guides alike: errors add as those of independent runs. With one seed on either
    side there is no error.

    >>> ours = [{"elbo": -89.0}, {"elbo": -91.0}]
    >>> difference(ours, [{"elbo": -92.0}, {"elbo": -92.0}], "elbo")
    (2.0, 1.0)
    """
    sides = [[_number(run[key]) for run in side] for side in (runs, others)]
    errors = [_standard_error(values) for values in sides]
    ahead = fmean(sides[0]) - fmean(sides[1])
    return ahead, None if None in errors else math.hypot(*errors)


def rank(row: Row) -> float:
    """To sort rows by: the best log-likelihood first, what is not finite last."""
    value = row["log_likelihood"]
    return math.inf if math.isnan(value) else -value


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    finite = all(map(math.isfinite, values))
    return stdev(values) / math.sqrt(len(values)) if finite else math.nan


def _number(value: float | None) -> float:
    """JSON has null for what is not finite, and for errors that are not known."""
    return math.nan if value is None else value


def _mean_or_none(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else fmean(values)
