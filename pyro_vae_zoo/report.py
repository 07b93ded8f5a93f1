"""Runs -> a table in Markdown and CSV, and its figure.

One table compares guides, so everything else must be equal: `summarise` refuses
runs of different data, splits, numbers of draws or epochs, and puts every other
setting that differs into the label of its row. Seeds of one row are averaged.
"""

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pyro_vae_zoo.checkpoint import (
    METRICS_FILE,
    RESULT_FILE,
    read_json,
    write_atomically,
)
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.registry import depth, guide_options, list_guides

__all__ = [
    "caption",
    "collect",
    "csv_table",
    "markdown_table",
    "read_metrics",
    "summarise",
    "write_report",
]

_SAME = ("data", "variant", "split", "num_data", "num_particles", "epochs", "weights")
_NEEDED = (
    *("guide", "elbo", "elbo_std_error", "log_likelihood", "log_likelihood_std_error"),
    *("log_likelihood_mc_error", "kl", "active_units", "khat", "num_parameters"),
    *("seconds", "seed", "options", "training", *_SAME),
)

Result = dict[str, Any]


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
                raise DataFileError(f"there is no {RESULT_FILE} in or below {path}")
            files += found
        else:
            files.append(path / RESULT_FILE if path.is_dir() else path)
    return [_read(file) for file in files]


def _read(file: Path) -> Result:
    result = read_json(file)
    missing = _NEEDED
    if isinstance(result, dict):
        missing = [key for key in _NEEDED if key not in result]
    if missing:
        raise DataFileError(f"{file} is no result of a run: no {', '.join(missing)}")
    run = file.parent.name if file.name == RESULT_FILE else file.stem
    return result | {"folder": str(file.parent), "run": run}


def read_metrics(folder: str | os.PathLike) -> list[dict]:
    """The records of a run's epochs; empty where it has none."""
    path = Path(folder) / METRICS_FILE
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise DataFileError(f"{path} is not JSON lines: {error}") from None


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
    for key in _SAME:
        values = list(dict.fromkeys(r[key] for r in results))
        if len(values) > 1:
            shown = ", ".join(map(repr, values))
            raise UserError(
                f"results of different {key} ({shown}) do not belong in one table; "
                "report them apart"
            )
    groups: dict[str, list[Result]] = {}
    for result, label in zip(results, _labels(results), strict=True):
        groups.setdefault(label, []).append(result)
    rows = [_row(label, runs) for label, runs in groups.items()]
    return sorted(rows, key=lambda row: -row["log_likelihood"])


def markdown_table(results: Sequence[Result]) -> str:
    """The table with its caption; the best guide in bold where that is safe.

    Safe means: ahead of the second by more than two standard errors, those of the
    data, the draws and the seeds together and as if the data were not the same.
    """
    rows = summarise(results)
    several = any(row["num_seeds"] > 1 for row in rows)
    lines = [_cells(row, several) for row in rows]
    if _clearly_best(rows):
        for name in ("guide", "log-likelihood"):
            lines[0][name] = f"**{lines[0][name]}**"
    table = [list(lines[0]), *(list(line.values()) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    table.insert(1, rule)
    text = "\n".join(
        "| "
        + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        + " |"
        for row in table
    )
    return f"{caption(results)}\n\n{text}\n"


def csv_table(results: Sequence[Result]) -> str:
    """All numbers of the table, unrounded, one line for each guide."""
    rows = [
        {k: v for k, v in row.items() if k != "seeds"} for row in summarise(results)
    ]
    for row in rows:
        row["seed_list"] = " ".join(map(str, row["seed_list"]))
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def caption(results: Sequence[Result]) -> str:
    """What all rows share: data, split, draws, budget, seeds, hardware."""
    first = results[0]
    seeds = sorted({r["seed"] for r in results})
    training = _common(r["training"] for r in results)
    budget = [f"{first['epochs']} epochs"]
    budget += [f"{k} {training[k]}" for k in ("batch_size", "lr") if k in training]
    hardware = "; ".join(dict.fromkeys(map(_hardware, results)))
    text = (
        f"Data: {first['data']} ({first['variant']}), {first['split']} split, "
        f"{first['num_data']} data. Numbers in nats per datum, larger is better; the "
        f"log-likelihood by importance sampling with {first['num_particles']} draws "
        f"of the guide. Budget: {', '.join(budget)}; {first['weights']} weights; "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}. "
        "± data: standard error over the data; ± draws: that of the importance "
        "sampling; k-hat: median, and share of the data where it is above 0.7, which "
        "marks an unreliable estimate. "
    )
    if len(results) > len(set(_labels(results))):
        text += "Numbers are means over seeds, ± their standard error. "
    return text + f"Hardware: {hardware}."


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
        f"{first['num_particles']} draws, {first['epochs']} epochs"
    )
    fig = plot_results(rows, runs if any(runs.values()) else None, title=title)
    write_atomically(folder / "comparison.md", markdown_table(results).encode())
    write_atomically(folder / "comparison.csv", csv_table(results).encode())
    save_figure(fig, folder / "comparison.png")
    return folder


def _labels(results: Sequence[Result]) -> list[str]:
    """The guide with its flows or layers, and what else differs between the runs."""
    settings = []
    for r in results:
        defaults = guide_options(r["guide"]) if r["guide"] in list_guides() else {}
        settings.append(defaults | r["options"] | r["training"])
    for one in settings:
        one.pop("seed", None)
    differing = {
        key: None
        for one in settings
        for key, value in one.items()
        if any(other.get(key, value) != value for other in settings)
    }
    labels = []
    for r, one in zip(results, settings, strict=True):
        shown = depth(one)
        said = "num_layers" if "L" in shown else "num_flows"
        shown |= {k: one[k] for k in differing if k in one and k != said}
        extra = ", ".join(f"{key} = {value}" for key, value in shown.items())
        labels.append(r["guide"] + (f" ({extra})" if extra else ""))
    return labels


def _row(label: str, runs: list[Result]) -> dict[str, Any]:
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{label}: one seed comes twice among {seeds}; give a run once")
    runs = [run | {"gap": run["log_likelihood"] - run["elbo"]} for run in runs]
    runs.sort(key=lambda run: run["seed"])
    row: dict[str, Any] = {"label": label, "num_seeds": len(runs)}
    for key in ("elbo", "log_likelihood", "gap", "kl"):
        values = [run[key] for run in runs]
        row[key] = fmean(values)
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        row[f"{key}_seed_error"] = error
    for key in ("elbo_std_error", "log_likelihood_std_error"):
        row[key] = fmean(_number(run[key]) for run in runs)  # the data are the same
    mc_errors = [_number(run["log_likelihood_mc_error"]) for run in runs]
    row["log_likelihood_mc_error"] = math.hypot(*mc_errors) / len(runs)
    units = [[u.split("/") for u in run["active_units"].values()] for run in runs]
    row["active_units"] = fmean(sum(int(active) for active, _ in u) for u in units)
    row["latent_units"] = sum(int(of) for _, of in units[0])
    for key, name in (("khat_median", "median"), ("khat_above_0.7", "above_0.7")):
        values = [(run["khat"] or {}).get(name) for run in runs]
        row[key] = None if None in values else fmean(values)
    row["num_parameters"] = runs[0]["num_parameters"]
    row["seconds_per_epoch"] = fmean(run["seconds"] / run["epochs"] for run in runs)
    row |= {"epochs": runs[0]["epochs"], "seed_list": sorted(seeds), "seeds": runs}
    return row


def _number(value: float | None) -> float:
    """JSON has null where an error is unknown, of one draw or of one datum."""
    return math.nan if value is None else value


def _cells(row: dict[str, Any], several: bool) -> dict[str, str]:
    """A row of the Markdown table: header -> text."""
    percent, median = row["khat_above_0.7"], row["khat_median"]
    units = f"{row['active_units']:.3g}/{row['latent_units']}"
    cells = {"guide": row["label"]}
    for name, key in (("ELBO", "elbo"), ("log-likelihood", "log_likelihood")):
        cells[name] = f"{row[key]:.2f}"
        if several:
            error = row[f"{key}_seed_error"]
            cells[name] += " ± –" if error is None else f" ± {_error(error)}"
    return cells | {
        "± data": _error(row["log_likelihood_std_error"]),
        "± draws": _error(row["log_likelihood_mc_error"]),
        "gap": f"{row['gap']:.2f}",
        "KL": f"{row['kl']:.2f}",
        "active": units if row["latent_units"] else "–",
        "k-hat": "–" if median is None else f"{median:.2f}",
        "> 0.7": "–" if percent is None else f"{100 * percent:.0f} %",
        "parameters": f"{row['num_parameters']:,}",
        "s/epoch": f"{row['seconds_per_epoch']:.3g}",
        "epochs": str(row["epochs"]),
        "seeds": str(row["num_seeds"]),
    }


def _error(value: float) -> str:
    """Two decimals, or as many as show one digit that is not zero."""
    if not math.isfinite(value) or value == 0:
        return "–"
    return f"{value:.{max(2, -math.floor(math.log10(value)))}f}"


def _clearly_best(rows: Sequence[dict[str, Any]]) -> bool:
    if len(rows) < 2:
        return False
    parts = ("std_error", "mc_error", "seed_error")
    errors = [row[f"log_likelihood_{part}"] or 0 for row in rows[:2] for part in parts]
    return rows[0]["log_likelihood"] - rows[1]["log_likelihood"] > 2 * math.hypot(
        *errors
    )


def _common(dicts: Any) -> dict[str, Any]:
    first, *others = dicts
    return {k: v for k, v in first.items() if all(d.get(k) == v for d in others)}


def _hardware(result: Result) -> str:
    device, threads = result.get("device", "unknown"), result.get("num_threads")
    versions = result.get("versions") or {}
    named = [f"{threads} thread{'s' * (threads > 1)}"] if threads else []
    named += [f"{k} {v}" for k, v in versions.items() if k in ("torch", "pyro")]
    return str(device) + (f" ({', '.join(named)})" if named else "")
