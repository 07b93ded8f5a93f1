"""What claims are computed from: the JSON files in `results/`."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pyro_vae_zoo.evaluation.diagnose import DIAGNOSTICS_FILE
from pyro_vae_zoo.evaluation.statistics import difference
from pyro_vae_zoo.files import read_json
from pyro_vae_zoo.report.averages import Row
from pyro_vae_zoo.report.comparison import labels_of
from studies.report.rows import paper_row, read_folders

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
Scored = tuple[float, float | None]  # a mean, and its standard error over seeds
folders = cache(lambda: read_folders(RESULTS))


@cache
def load(name: str) -> Any:
    """A JSON file of the results."""
    return read_json(RESULTS / name)


@cache
def rows(folder: str) -> dict[str, Row]:
    """The rows of a folder by their names, seeds averaged.

    Of a comparison's rows the name is the guide's, with its K where several have it.
    """
    runs = folders()[folder]
    by_label: dict[str, list] = {}
    for run, label in zip(runs, labels_of(runs), strict=True):
        by_label.setdefault(run.get("row", label), []).append(run)
    return {label: paper_row(label, runs) for label, runs in by_label.items()}


def row(folder: str, label: str) -> Row:
    """One row; the options behind its guide's name may be left out."""
    known = rows(folder)
    (name,) = [n for n in known if label in (n, n.partition(" (")[0])]
    return known[name]


def scored(folder: str, label: str, key: str = "log_likelihood") -> Scored:
    """The mean of a row over its seeds, and the error over them."""
    found = row(folder, label)
    return found[key], found[f"{key}_seed_error"]


def lead(
    folder: str,
    label: str,
    over: str = "mean_field",
    key: str = "log_likelihood",
) -> Scored:
    """How far a row is ahead of another one, and the error over the seeds of both."""
    return difference(row(folder, label)["seeds"], row(folder, over)["seeds"], key)


def shown(score: Scored) -> str:
    """A score as pages write it."""
    value, error = score
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def seeds(folder: str, label: str, key: str = "log_likelihood") -> list[float]:
    """A number of each run of a row."""
    return [run[key] for run in row(folder, label)["seeds"]]


def ends(values: Iterable[float]) -> tuple[float, float]:
    """The least and the largest of them."""
    values = list(values)
    return min(values), max(values)


def spread(values: Iterable[float]) -> float:
    """How far apart the ends are."""
    low, high = ends(values)
    return high - low


def diagnosis(folder: str, run: str) -> Any:
    """What `diagnose` found of a run."""
    return load(f"{folder}/{run}/{DIAGNOSTICS_FILE}")
