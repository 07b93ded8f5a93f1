"""The table of several runs' diagnoses, side by side."""

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from pyro_vae_zoo.models.create import depth
from pyro_vae_zoo.report import tables
from pyro_vae_zoo.report.tables import MISSING

__all__ = ["diagnoses_table"]

_Found = Mapping[str, Any]  # a `diagnostics.json`


def diagnoses_table(runs: Mapping[str, _Found]) -> str:
    """A column for each run; a line for each estimate of log p(x), and for each gap.

    Args:
        runs: the contents of each run's `diagnostics.json`, by the name of its folder.

    >>> found = {"guide": "iaf", "data": "digits", "split": "test", "num_data": 9,
    ...          "settings": {"seed": 0}, "options": {"num_flows": 2},
    ...          "importance": {"log_likelihood": -20.0, "mc_error": 0.1,
    ...                         "num_particles": 50, "khat": {"median": 0.5}}}
    >>> print(diagnoses_table({"iaf-s0": found}).splitlines()[2])
    | importance sampling, 50 particles of the guide | -20.00 ± 0.10 |
    """
    parts = {
        "importance": _importance("of the guide"),
        "local_importance": _importance("of a q for each datum"),
        "annealing": _annealing,
        "bidirectional": _bidirectional,
        "gaps": _gaps,
    }
    columns = {_name(found): _lines(found, parts) for found in runs.values()}
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    lines = [
        {"": label}
        | {run: column.get(label, MISSING) for run, column in columns.items()}
        for label in labels
    ]
    first = next(iter(runs.values()))
    below = (
        f"`{first['data']}`, {first['num_data']} data drawn at random from the "
        f"{first['split']} split; errors of estimates are Monte Carlo standard errors, "
        "those of the bound and of the gaps are over the data."
    )
    table = tables.markdown(lines, padded=False).rstrip()
    return f"{table}\n\n{textwrap.fill(below, 90)}\n"


def _name(found: _Found) -> str:
    shown = [f"{symbol} = {n}" for symbol, n in depth(found["options"]).items()]
    return ", ".join([f"`{found['guide']}`", *shown])


def _lines(found: _Found, parts: Mapping[str, Callable]) -> dict[str, str]:
    """Label -> text, of the parts that there are."""
    there = {key: line for key, line in parts.items() if found.get(key)}
    return {k: v for key, line in there.items() for k, v in line(found[key], found)}


def _importance(of: str) -> Callable:
    def lines(part: _Found, _: _Found) -> list[tuple[str, str]]:
        draws = f"importance sampling, {part['num_particles']:,} particles {of}"
        khat = tables.number_text(part["khat"]["median"])
        return [
            (draws, _with(part["log_likelihood"], part["mc_error"])),
            (f"k-hat of these {part['num_particles']:,} particles", khat),
        ]

    return lines


def _annealing(part: _Found, found: _Found) -> list[tuple[str, str]]:
    s = found["settings"]
    label = f"annealing, {s['chains']} chains of {s['temps']:,} steps"
    return [(label, _with(part["log_likelihood"], part["mc_error"]))]


def _bidirectional(part: _Found, _: _Found) -> list[tuple[str, str]]:
    label = f"bound on annealing's error, on {part['num_data']} simulated data"
    return [(label, _with(part["gap"], part["gap_std_error"]))]


def _gaps(part: _Found, _: _Found) -> list[tuple[str, str]]:
    due_to = {"approximation": "family of q", "amortisation": "encoder"}
    return [
        (f"{gap} gap ({to})", _with(part[f"{gap}_gap"], part[f"{gap}_gap_std_error"]))
        for gap, to in due_to.items()
    ]


def _with(value: float | None, error: float | None) -> str:
    return f"{tables.number_text(value, error)} ± {tables.error_text(error)}"
