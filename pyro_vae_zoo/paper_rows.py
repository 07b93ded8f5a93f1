"""Results of a paper's table -> its panels and rows.

A row is a result with the keys `row`, `published` and so on that
`examples/reproduce.py` adds. Seeds of one row are averaged. What must not be compared
stands in different panels: `read_panels` refuses to put unlike results into one.

What a folder is made of is said by a `Layout`, an entry of `results/tables.json`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from pyro_vae_zoo._averages import (
    Result,
    Row,
    average,
    difference,
    rank,
    refuse_unlike,
)
from pyro_vae_zoo.checkpoint import read_json
from pyro_vae_zoo.errors import DataFileError, UserError, unknown_name
from pyro_vae_zoo.report import collect, labels_of

__all__ = ["SPLITS", "Layout", "Panels", "paper_row", "read_layouts", "read_panels"]

Panels = dict[str, list[Row]]

ARRANGEMENTS = ("beside", "stack", "transpose")
SEEDS = ("mean", "each")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Layout:
    """How results become a table.

    Args:
        panels: title -> folder, or folder/pattern for the rows whose names fit, where
            what stands for the star is the label. A row belongs to the first panel
            that it fits. By default the folder of the table's name, a panel for each
            data set in it.
        rows: labels in their order; by default, and for others, the best first.
        columns: of the compact table in the README, by the keys of
            `paper_report.columns_of`; in a
            transposed one the only key.
        headers: other headers than the usual ones, by key.
        names: how the compact table writes a label.
        arrange: panels `beside` each other, in a `stack`, or each one line
            (`transpose`), a column for each row.
        seeds: `mean` with standard error, or `each`, in the compact table.
        reference: the label to which differences are taken, where it is there.

    Raises:
        UserError: for an unknown arrangement, or use of seeds.
    """

    panels: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[str] = ()
    columns: Sequence[str] = ("elbo", "log_likelihood", "published")
    headers: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    arrange: str = "beside"
    seeds: str = "mean"
    reference: str = "mean_field"

    def __post_init__(self):
        for kind, known in (("arrange", ARRANGEMENTS), ("seeds", SEEDS)):
            if getattr(self, kind) not in known:
                raise unknown_name(kind, getattr(self, kind), known)


def read_layouts(path: Path) -> dict[str, Layout]:
    """The layouts in a JSON file, by the tables' names; none where there is no file.

    Raises:
        UserError: for a key that no layout has.
    """
    if not path.exists():
        return {}
    known = [f.name for f in fields(Layout)]
    layouts = {}
    for name, entry in read_json(path).items():
        for key in set(entry) - set(known):
            raise unknown_name(f"key of {name} in {path}", key, known)
        layouts[name] = Layout(**entry)
    return layouts


# ---------------------------------------------------------------- results -> rows


def read_panels(results: Path, name: str, layout: Layout) -> Panels:
    """The rows of each panel of a table, seeds averaged; panels without any left out.

    Args:
        results: the folder of all folders of results.
        name: of the table.
        layout: of the table.

    Raises:
        DataFileError: where there are no results, or corrupt ones.
        UserError: where a panel's results differ in what must be the same, or a row
            fits no panel.
    """
    specs = [spec.partition("/") for spec in (layout.panels or {"": name}).values()]
    left = {folder: _labelled(results / folder) for folder, _, _ in specs}
    found: dict[str, list[tuple[str, Result]]] = {}
    for title, (folder, _, pattern) in zip(layout.panels or [""], specs, strict=True):
        fits = [(_star(pattern or "*", label), r) for label, r in left[folder]]
        left[folder] = [
            pair for pair, fit in zip(left[folder], fits, strict=True) if fit[0] is None
        ]
        found[title] = [fit for fit in fits if fit[0] is not None]
    for folder, pairs in left.items():
        if pairs:
            raise UserError(f"{folder}: row {pairs[0][0]!r} fits no panel of {name}")
    panels = found if layout.panels else _by_data(found[""])
    return {
        title: _rows(pairs, layout, f"{name}{f', {title}' * bool(title)}: ")
        for title, pairs in panels.items()
        if pairs
    }


def _labelled(folder: Path) -> list[tuple[str, Result]]:
    """Results with the names of their rows, or of their guides where they have none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataFileError(f"expected results in {folder}; there is no JSON file")
    results = collect(files)
    labels = labels_of(results)
    names = [r.get("row", label) for r, label in zip(results, labels, strict=True)]
    return list(zip(names, results, strict=True))


def _star(pattern: str, name: str) -> str | None:
    """What stands for the star of a pattern, or None where the name does not fit."""
    start, star, end = pattern.partition("*")
    if not star or "*" in end:
        raise UserError(f"expected a pattern with one *, got {pattern!r}")
    if not (name.startswith(start) and name.endswith(end)):
        return None
    return name[len(start) : len(name) - len(end)] or None


def _by_data(pairs: Sequence[tuple[str, Result]]) -> dict[str, list]:
    """A panel for each data set, without a title where there is one only."""
    panels: dict[str, list] = {}
    for label, result in pairs:
        panels.setdefault(result["data"], []).append((label, result))
    return panels if len(panels) > 1 else {"": list(pairs)}


def _rows(pairs: Sequence[tuple[str, Result]], layout: Layout, where: str) -> list[Row]:
    refuse_unlike([result for _, result in pairs], where)
    pairs = sorted(pairs, key=lambda pair: pair[0])
    rows = [
        paper_row(label, [run for _, run in group], where)
        for label, group in groupby(pairs, lambda pair: pair[0])
    ]
    places = {label: i for i, label in enumerate(layout.rows)}
    rows.sort(key=lambda r: (places.get(r["label"], len(places)), rank(r)))
    reference = next((r for r in rows if r["label"] == layout.reference), None)
    for row in rows:
        usable = reference is not None and row is not reference and not row["invalid"]
        for key in ("elbo", "log_likelihood"):
            pair = (None, None)
            if usable:
                pair = difference(row["seeds"], reference["seeds"], key)
            row[f"{key}_difference"], row[f"{key}_difference_error"] = pair
    return rows


def paper_row(label: str, runs: Sequence[Result], where: str = "") -> Row:
    """The averages of a row's seeds, with what only the rows of papers have.

    A result without the keys of these gives None.

    Raises:
        UserError: where the seeds disagree about what the paper has.
    """
    row = average(label, runs)
    published = {
        key: _agreed(runs, key, f"{where}row {label}")
        for key in ("published", "published_elbo", "note", "train_size")
    }
    splits = [run.get("elbo_by_split") or {} for run in runs]
    for split in SPLITS:
        values = [one.get(split) for one in splits]
        row[f"elbo_{split}"] = None if None in values else fmean(values)
        row[f"published_elbo_{split}"] = (published["published_elbo"] or {}).get(split)
    fewer = [run.get("log_likelihood_with") or {} for run in runs]
    row["fewer_draws"] = {
        draws: fmean(one.get(draws, math.nan) for one in fewer)
        for draws in dict.fromkeys(draws for one in fewer for draws in one)
    }
    sites = [u.split("/")[1] for u in runs[0]["active_units"].values()]
    alike = len(sites) > 1 and len(set(sites)) == 1
    row["latents"] = f"{len(sites)} x {sites[0]}" if alike else " + ".join(sites)
    row |= {key: published[key] for key in ("published", "note", "train_size")}
    return row | {"invalid": (row["note"] or "").startswith("invalid")}


def _agreed(runs: Sequence[Result], key: str, where: str) -> Any:
    """What all seeds of a row say, or None where none says anything."""
    first, *others = [run.get(key) for run in runs]
    if any(other != first for other in others):
        raise UserError(f"{where}: its seeds have different {key}; run them anew")
    return first
