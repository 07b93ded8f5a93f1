"""Runs -> a table in Markdown and CSV, and its figure.

One table compares guides, so everything else must be equal: `summarise` refuses
runs of different data, splits, numbers of draws or epochs, and puts every other
setting that differs into the label of its row. Seeds of one row are averaged.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pyro_vae_zoo.data.names import name_now
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.evaluation.statistics import number
from pyro_vae_zoo.files import (
    METRICS_FILE,
    RESULT_FILE,
    checked,
    read_json,
    write_atomically,
)
from pyro_vae_zoo.models.create import depth, guide_options
from pyro_vae_zoo.models.parts import PLACES
from pyro_vae_zoo.models.registry import list_guides
from pyro_vae_zoo.nn.options import LATE
from pyro_vae_zoo.pair.vae import CLIP_NORM
from pyro_vae_zoo.report import tables
from pyro_vae_zoo.report.averages import (
    Result,
    average,
    planned_epochs,
    rank,
    refuse_unlike,
)
from pyro_vae_zoo.report.tables import COLUMNS
from pyro_vae_zoo.runs import records as kinds
from pyro_vae_zoo.training.history import Epoch, validated_by
from pyro_vae_zoo.training.losses import usual_patience

__all__ = [
    "caption",
    "choice",
    "collect",
    "csv_table",
    "labels_of",
    "markdown_table",
    "read_metrics",
    "results_in",
    "summarise",
    "write_report",
]


def collect(paths: Sequence[str | os.PathLike]) -> list[Result]:
    """Read results: of run folders, of folders of those, or of JSON files.

    Each result gets the keys `folder`, where `metrics.jsonl` is looked for, and
    `run`, the name of its run.

    Raises:
        DataFileError: for a missing or corrupt file, or one that is no result.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir() and not (path / RESULT_FILE).exists():
            found = sorted(path.glob(f"*/{RESULT_FILE}"))
            if not found:
                raise DataFileError(
                    f"there is no {RESULT_FILE} in or below {path}; is the run "
                    "finished?"
                )
            files += found
        else:
            files.append(path / RESULT_FILE if path.is_dir() else path)
    return [_checked(read_json(file), file) for file in files]


def results_in(folder: Path) -> list[Result]:
    """The results among the JSON files of a folder, in the order of their names.

    A file without a guide or a log-likelihood is something else, and left alone.

    Raises:
        DataFileError: for a file that is no JSON, or a result that lacks something.
    """
    found = {file: read_json(file) for file in sorted(folder.glob("*.json"))}
    return [_checked(value, file) for file, value in found.items() if _is_result(value)]


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and {"guide", "log_likelihood"} <= set(value)


def _checked(result: Any, file: Path) -> Result:
    checked(result, kinds.Result, file, "result of a run")
    file = file.resolve()  # of `.` there is no name
    run = file.parent.name if file.name == RESULT_FILE else file.stem
    options = LATE.get(result["guide"], {}) | result["options"]
    data = name_now(result["data"], result["variant"], file)
    where = {"folder": str(file.parent), "run": run}
    return result | where | {"options": options, "data": data}


def read_metrics(folder: str | os.PathLike) -> list[dict]:
    """The records of a run's epochs; empty where it has none."""
    path = Path(folder) / METRICS_FILE
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not JSON lines: {error}") from None
    for line, record in enumerate(records, start=1):
        what = f"record of epochs (line {line})"
        checked(record, Epoch, path, what)
    return records


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each guide with its settings, the best log-likelihood first.

    Numbers are means over the seeds, and `..._seed_error` their standard errors
    (None for one seed); `..._std_error` is over the data, `..._mc_error` from the
    finite number of draws.

    Raises:
        UserError: where there are no results, where they differ in what must be
            the same for a comparison, or where one run comes twice.
    """
    if not results:
        raise UserError("there are no results to compare")
    refuse_unlike(results)
    groups: dict[str, list[Result]] = {}
    for result, label in zip(results, labels_of(results), strict=True):
        groups.setdefault(label, []).append(result)
    rows = [average(label, runs) for label, runs in groups.items()]
    return sorted(rows, key=rank)


def markdown_table(results: Sequence[Result]) -> str:
    """The table with its caption; the best guide in bold where that is safe.

    Safe means: ahead of the second by more than two standard errors, those of the
    data, the draws and the seeds together and as if the data were not the same.
    """
    rows = summarise(results)
    lines = [
        {"guide": row["label"]}
        | {column.header: column.text(row) for column in COLUMNS.values()}
        for row in rows
    ]
    if _clearly_best(rows):
        for name in ("guide", "log-likelihood"):
            lines[0][name] = f"**{lines[0][name]}**"
    return f"{caption(results)}\n\n{tables.markdown(lines)}"


def csv_table(results: Sequence[Result]) -> str:
    """All numbers of the table to twelve digits, one line for each guide."""
    return tables.comma_separated(summarise(results))


def caption(results: Sequence[Result]) -> str:
    """A sentence on what all rows share: data, split, draws, budget, seeds, hardware."""
    parts = [tables.settings(results), tables.LEGEND]
    if len(results) > len(set(labels_of(results))):
        parts.append(tables.AVERAGED)
    return " ".join([*parts, tables.hardware(results)])


def choice(results: Sequence[Result]) -> str:
    """The row that the validation data choose, in a sentence.

    By the mean over seeds of what the kept epoch was validated by, or of its ELBO where
    the rows were trained by different bounds. Empty for one row, and where a run's
    records are not there.
    """
    rows = summarise(results)
    kept = [[_kept_epoch(run) for run in row["seeds"]] for row in rows]
    if len(rows) < 2 or not all(record for records in kept for record in records):
        return ""
    objectives = [[r["training"].get(k) for k in _OBJECTIVE] for r in results]
    names = {validated_by(record) for records in kept for record in records}
    alike = len(names) == 1 and all(one == objectives[0] for one in objectives)
    by = names.pop() if alike else "valid_elbo"
    values = [fmean(number(record.get(by)) for record in records) for records in kept]
    ranked = sorted(
        (value, row["label"])
        for value, row in zip(values, rows, strict=True)
        if math.isfinite(value)
    )
    if len(ranked) < 2:
        return ""
    (second, _), (first, label) = ranked[-2:]
    name = "ELBO" if by == "valid_elbo" else "bound"
    return (
        f"Best on the validation data: {label}, with {name} {first:.2f} nats at the "
        f"kept epoch, {first - second:.2f} above the next row. Choose a row by this "
        "number: the test score of a row that was chosen by its test score is too high."
    )


_OBJECTIVE = ("bound", "num_particles", "beta")


def _kept_epoch(run: Result) -> dict[str, Any]:
    """The record of the epoch whose weights a run has; empty where it is not known."""
    records = read_metrics(run["folder"]) if "folder" in run else []
    if run["weights"] == "best":
        records = [r for r in records if r["epoch"] == run.get("best_epoch")]
    return records[-1] if records else {}


def write_report(results: Sequence[Result], folder: str | os.PathLike) -> Path:
    """Write `comparison.md`, `comparison.csv` and `comparison.png`."""
    from pyro_vae_zoo.plots import plot_results, save_figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows, first = summarise(results), results[0]
    runs = {}
    for row in rows:
        metrics = [
            read_metrics(run["folder"]) for run in row["seeds"] if "folder" in run
        ]
        runs[row["label"]] = [records for records in metrics if records]
    title = (
        f"{first['data']}: {first['variant']}\n{first['split']} split, "
        f"{tables.effort(results)}, {planned_epochs(first)} epochs"
    )
    fig = plot_results(rows, runs if any(runs.values()) else None, title=title)
    text = "\n".join(
        part for part in (markdown_table(results), choice(results)) if part
    )
    write_atomically(folder / "comparison.md", (text.rstrip("\n") + "\n").encode())
    write_atomically(folder / "comparison.csv", csv_table(results).encode())
    save_figure(fig, folder / "comparison.png")
    return folder


def labels_of(results: Sequence[Result]) -> list[str]:
    """For each result the guide, its depth, and what else differs between the runs.

    Guides have defaults of their own: that these differ is not said. A patience or a limit
    on gradients that comes to the same is said only where runs differ in nothing else.
    """
    usual = [
        _with_tuples(guide_options(r["guide"]) if r["guide"] in list_guides() else {})
        for r in results
    ]
    settings = [
        own | _with_tuples(r["options"] | r["training"]) | {"seed": None}
        for own, r in zip(usual, results, strict=True)
    ]
    for own, r in zip(usual, results, strict=True):
        own |= _defaults_then(r["guide"], results)
        clips = {"L", "N"} & {*depth(own | r["options"])} or r[
            "guide"
        ] == "spline_coupling"
        own["clip_norm"] = CLIP_NORM if clips else 0.0
    alike = [_alike(one, r) for one, r in zip(settings, results, strict=True)]
    labels = _labels(results, usual, alike)
    runs = {(label, r["seed"]) for label, r in zip(labels, results, strict=True)}
    return labels if len(runs) == len(results) else _labels(results, usual, settings)


def _defaults_then(guide: str, results: Sequence[Result]) -> dict[str, Any]:
    """Defaults of version 0.1.0 that all runs of a guide have."""
    mine = [r["options"] for r in results if r["guide"] == guide]
    then = _with_tuples(LATE.get(guide, {}))
    return {k: v for k, v in then.items() if all(o.get(k) == v for o in mine)}


def _alike(settings: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """Settings of which those that come to the same are the same."""
    one = {**settings, "clip_norm": settings.get("clip_norm") or 0.0}
    # To wait as long as is usual is to keep the weights that a whole run would.
    if one.get("patience") in (None, 0, usual_patience(planned_epochs(result))):
        one["patience"] = None
    return one


def _labels(
    results: Sequence[Result], usual: Sequence[dict], settings: Sequence[dict]
) -> list[str]:
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = [
        key
        for key in keys
        if _differs(key, settings, usual) or _is_given_to_some(key, results, usual)
    ]
    labels = []
    for r, one in zip(results, settings, strict=True):
        shown: dict[str, Any] = {n: r[n] for n in PLACES if n in r}
        shown |= depth(one)
        said = "num_layers" if "L" in shown else "num_flows"
        unsaid = {said} if one.get("patience") else {said, "patience"}
        shown |= {k: one[k] for k in differing if k in one and k not in unsaid}
        extra = ", ".join(f"{key} = {value}" for key, value in shown.items())
        labels.append(r["guide"] + (f" ({extra})" if extra else ""))
    return labels


def _with_tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose lists, as JSON has them, are tuples again."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def _differs(key: str, settings: Sequence[dict], usual: Sequence[dict]) -> bool:
    """True where two runs have other values, not both of them their guide's default."""
    pairs = [(s[key], u) for s, u in zip(settings, usual, strict=True) if key in s]
    chosen = [value for value, own in pairs if key not in own or own[key] != value]
    return any(value != one for value, _ in pairs for one in chosen)


def _is_given_to_some(
    key: str, results: Sequence[Result], usual: Sequence[dict]
) -> bool:
    """True for an option of one guide's that only some runs have, of unknown default."""
    given: dict[str, set[bool]] = {}
    for r, own in zip(results, usual, strict=True):
        if key not in own:
            given.setdefault(r["guide"], set()).add(key in r["options"])
    return any(len(answers) == 2 for answers in given.values())


def _clearly_best(rows: Sequence[dict[str, Any]]) -> bool:
    if len(rows) < 2:
        return False
    errors = []
    for row in rows[:2]:
        parts = ["std_error", "seed_error"]
        if row["latent_units"]:  # else the number is exact
            parts.append("mc_error")
        errors += [row[f"log_likelihood_{part}"] or 0 for part in parts]
    return rows[0]["log_likelihood"] - rows[1]["log_likelihood"] > 2 * math.hypot(
        *errors
    )
