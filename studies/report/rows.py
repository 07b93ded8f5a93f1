"""Results of a paper's table -> its panels and rows.

A row is a result with the keys `row`, `published` and so on that
`studies/reproduce.py` adds. Seeds of one row are averaged. What must not be compared
stands in different panels: `read_panels` refuses to put unlike results into one.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.evaluation.statistics import difference, number
from pyro_vae_zoo.report.averages import Result, Row, average, rank, refuse_unlike
from pyro_vae_zoo.report.comparison import labels_of, results_in
from pyro_vae_zoo.training.options import TrainOptions, training_then
from studies.report.layout import SPLITS, Layout

__all__ = ["Panels", "paper_row", "read_folders", "read_panels"]

Panels = dict[str, list[Row]]
Folders = Mapping[str, Sequence[Result]]  # by their names


def read_folders(results: Path) -> dict[str, list[Result]]:
    """The folders that have results, by their names; in the order of these.

    Raises:
        DataFileError: where there is no such folder, or for a corrupt file.
    """
    if not results.is_dir():
        raise DataFileError(f"expected a folder of results {results}; there is none")
    folders = sorted(path for path in results.iterdir() if path.is_dir())
    found = {folder.name: results_in(folder) for folder in folders}
    return {name: runs for name, runs in found.items() if runs}


def read_panels(folders: Folders, name: str, layout: Layout) -> Panels:
    """The rows of each panel of a table, seeds averaged; panels without any left out.

    Args:
        folders: results by the names of their folders.
        name: of the table's folder.
        layout: of the table.

    Raises:
        DataFileError: where a folder has no results.
        UserError: where a panel's results differ in what must be the same, or a row
            fits no panel.
    """
    specs = {
        title: (folder or name, pattern)
        for title, spec in (layout.panels or {"": "*"}).items()
        for folder, _, pattern in [spec.rpartition("/")]
    }
    left = {folder: _labelled(folders, folder, layout) for folder, _ in specs.values()}
    found: dict[str, list[tuple[str, Result]]] = {}
    for title, (folder, pattern) in specs.items():
        fits = [(_star(pattern, label), result) for label, result in left[folder]]
        left[folder] = [
            pair for pair, fit in zip(left[folder], fits, strict=True) if fit[0] is None
        ]
        fits = [fit for fit in fits if fit[0] is not None]
        if fits:
            found[_formatted(title, fits[0][1])] = fits
    for folder, pairs in left.items():
        if pairs:
            raise UserError(f"{folder}: row {pairs[0][0]!r} fits no panel of {name}")
    panels = found if layout.panels else _by_data(found[""])
    return {
        title: _rows(pairs, layout, f"{name}, {title}: " if title else f"{name}: ")
        for title, pairs in panels.items()
    }


def _labelled(
    folders: Folders, folder: str, layout: Layout
) -> list[tuple[str, Result]]:
    """Results with the names of their rows, or of their guides where they have none."""
    if folder not in folders:
        raise DataFileError(f"expected results in a folder {folder!r}; there are none")
    results = folders[folder]
    labels = labels_of(results)
    names = [r.get("row", label) for r, label in zip(results, labels, strict=True)]
    return [
        (name, result | _published(result, layout.published.get(name, {})))
        for name, result in zip(names, results, strict=True)
    ]


def _published(
    result: Result, figures: Mapping[str, float | None]
) -> dict[str, float | dict | None]:
    """A layout's figures of the paper, by the keys of a result."""
    known: dict[str, float | dict | None] = {}
    if "log_likelihood" in figures:
        known["published"] = figures["log_likelihood"]
    bounds = {s: figures[f"elbo_{s}"] for s in SPLITS if f"elbo_{s}" in figures}
    if bounds:
        known["published_elbo"] = (result.get("published_elbo") or {}) | bounds
    return known


def _formatted(title: str, result: Result) -> str:
    try:
        return title.format_map(result)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"expected a title with keys of results in braces, got {title!r}: {error!r}"
        ) from None


def _star(pattern: str, name: str) -> str | None:
    """The text in place of a pattern's star, or None where the name does not fit."""
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
    results = [result for _, result in pairs]
    refuse_unlike(results, where)
    _refuse_unlike_local(results, where)
    pairs = sorted(pairs, key=lambda pair: pair[0])
    rows = [
        paper_row(label, [run for _, run in group], where)
        for label, group in groupby(pairs, lambda pair: pair[0])
    ]
    places = {label: i for i, label in enumerate(layout.rows)}
    rows.sort(key=lambda r: (places.get(r["label"], len(places)), rank(r)))
    reference = next((r for r in rows if r["label"] == layout.reference), None)
    for row in rows:
        usable = reference is not None and row is not reference
        usable = usable and not (row["invalid"] or reference["invalid"])
        for key in ("elbo", "log_likelihood", "local_log_likelihood"):
            pair = (None, None)
            if usable and None not in (row[key], reference[key]):
                pair = difference(row["seeds"], reference["seeds"], key)
            row[f"{key}_difference"], row[f"{key}_difference_error"] = pair
    return [row for row in rows if not layout.only or row["label"] in layout.only]


def paper_row(label: str, runs: Sequence[Result], where: str = "") -> Row:
    """The averages of a row's seeds, with what only the rows of papers have.

    A result without the keys of these gives None, and is valid.

    Raises:
        UserError: where the seeds have different recipes, or disagree about what the
            paper has.
    """
    row = average(label, runs)
    published = {
        key: _agreed(runs, key, f"{where}row {label}")
        for key in ("published", "published_elbo", "note", "train_size")
    }
    is_bound = _agreed(runs, "is_bound", f"{where}row {label}", True)
    recipes = [run | {"training": _recipe(run["training"])} for run in runs]
    for key in ("options", "training"):
        _agreed(recipes, key, f"{where}row {label}")
    splits = [run.get("elbo_by_split") or {} for run in runs]
    for split in SPLITS:
        values = [one.get(split) for one in splits]
        row[f"elbo_{split}"] = None if None in values else fmean(values)
        row[f"published_elbo_{split}"] = (published["published_elbo"] or {}).get(split)
    fewer = [run.get("log_likelihood_with") or {} for run in runs]
    row["fewer_particles"] = {
        count: fmean(number(one.get(count)) for one in fewer)
        for count in dict.fromkeys(count for one in fewer for count in one)
    }
    for key, figure in (
        ("log_likelihood", published["published"]),
        ("elbo", row["published_elbo_test"]),
    ):
        row[f"{key}_ahead"] = None if figure is None else row[key] - figure
    rises = [_last_doubling(run) for run in runs]
    row["last_doubling"] = None if None in rises else fmean(rises)
    local = [run.get("local_log_likelihood") for run in runs]
    row["local_log_likelihood"] = None if None in local else fmean(local)
    errors = [run["local"]["std_error"] for run in runs if "local" in run]
    row["local_log_likelihood_std_error"] = fmean(errors) if errors else None
    sites = [u.split("/")[1] for u in runs[0]["active_units"].values()]
    alike = len(sites) > 1 and len(set(sites)) == 1
    row["latents"] = f"{len(sites)} x {sites[0]}" if alike else " + ".join(sites)
    row |= {key: published[key] for key in ("published", "note", "train_size")}
    return row | {"invalid": not is_bound}


def _last_doubling(run: Result) -> float | None:
    """The best ELBO on validation less that of the first half of the steps.

    None where a rate that fell, or the end of the KL warm-up, raised it, too.
    """
    bounds = [
        (record["step"], record["valid_elbo"])
        for record in run.get("curve", ())
        if record.get("valid_elbo") is not None
    ]
    first = [elbo for step, elbo in bounds if 2 * step <= bounds[-1][0]]
    recipe = _recipe(run["training"])
    is_steady = recipe["schedule"] == "constant"
    if not first or not is_steady or 2 * (recipe["kl_warmup"] or 0) > len(bounds):
        return None
    return max(elbo for _, elbo in bounds) - max(first)


def _recipe(training: Mapping[str, Any]) -> dict[str, Any]:
    """The options that seeds share, as the version that wrote them took them."""
    shared = vars(TrainOptions()) | training_then(training)
    return shared | {"seed": None, "compile": None}


def _agreed(runs: Sequence[Result], key: str, where: str, unsaid: Any = None) -> Any:
    """The value that all seeds of a row have, and `unsaid` where they have none."""
    first, *others = [run.get(key, unsaid) for run in runs]
    if any(other != first for other in others):
        raise UserError(f"{where}: its seeds have different {key}; run them anew")
    return first


def _refuse_unlike_local(results: Sequence[Result], where: str) -> None:
    """Raise where estimates by local q's are of different numbers of data."""
    sizes = dict.fromkeys(r["local"]["num_data"] for r in results if "local" in r)
    if len(sizes) > 1:
        raise UserError(
            f"{where}log p by local q's of different numbers of data "
            f"({', '.join(map(str, sizes))}) cannot be in one table; run the rows anew"
        )
