"""What a study estimates of a finished run beside the result that `make_run` leaves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.evaluation.evaluate import evaluate, log_likelihood
from pyro_vae_zoo.evaluation.local import local_log_likelihood
from pyro_vae_zoo.evaluation.statistics import error_over_data
from pyro_vae_zoo.files import read_json
from pyro_vae_zoo.pair.vae import VAE
from studies.tables import Budget, Table

__all__ = ["estimates_of", "stored_estimates"]


def estimates_of(
    vae: Callable[[], VAE],
    data: Dataset,
    table: Table,
    budget: Budget,
    elbo: float,
    seed: int,
) -> dict[str, Any]:
    """What a budget asks for beside the result of a run."""
    found: dict[str, Any] = {}
    particles = budget.fewer_particles
    if particles is not None:
        ll = log_likelihood(vae(), data.test, particles, seed=seed)
        found["log_likelihood_with"] = {str(particles): ll.log_prob.mean().item()}
    if table.by_split:
        found["elbo_by_split"] = _bounds(vae(), data, seed) | {"test": elbo}
    if budget.local:
        found |= _local(vae(), data, budget.local, seed)
    return found


def stored_estimates(
    path: Path, result: Mapping[str, Any], table: Table, budget: Budget, num_test: int
) -> dict[str, Any] | None:
    """Estimates in the row's file, where it is of this run and has all of them."""
    if not path.exists():
        return None
    stored = read_json(path)
    fewer = budget.fewer_particles
    wanted = {
        "log_likelihood_with": [] if fewer is None else [str(fewer)],
        "elbo_by_split": ["train", "valid", "test"] if table.by_split else [],
    }
    local = stored.get("local", {}).get("num_data", 0)
    has_all = local == min(budget.local, num_test) and all(
        list(stored.get(key, {})) == parts for key, parts in wanted.items()
    )
    same = all(key in stored and stored[key] == result[key] for key in result)
    names = (*wanted, "local_log_likelihood", "local")
    return {k: stored[k] for k in names if k in stored} if has_all and same else None


def _bounds(vae: VAE, data: Dataset, seed: int) -> dict[str, float]:
    """The bound by one draw for each datum, of train and valid."""
    splits = {"train": data.epoch(seed, 0), "valid": data.valid}
    return {
        split: evaluate(vae, x, num_particles=1, seed=seed).elbo
        for split, x in splits.items()
    }


def _local(vae: VAE, data: Dataset, most: int, seed: int) -> dict:
    """Log p of test data, evenly spread, by a q that is optimised for each of them."""
    n = len(data.test)
    size = min(most, n)
    x = data.test[[i * n // size for i in range(size)]]
    ll = local_log_likelihood(vae, x, seed=seed)
    return {
        "local_log_likelihood": ll.log_prob.mean().item(),
        "local": {
            "num_data": size,
            "num_particles": ll.num_particles,
            "std_error": error_over_data(ll.log_prob),
            "khat_above_0.7": (ll.khat > 0.7).double().mean().item(),
        },
    }
