"""Parts of all tables: numbers as text, columns, Markdown, CSV and captions."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pyro_vae_zoo.report.averages import Result, Row, has_latents, planned_epochs

__all__ = [
    "AVERAGED",
    "COLUMNS",
    "LEGEND",
    "MISSING",
    "Column",
    "comma_separated",
    "error_text",
    "hardware",
    "markdown",
    "number_text",
    "plural",
    "precisions",
    "settings",
]

MISSING = "–"


def error_text(value: float | None) -> str:
    """Two digits of an error, or one where two take more than two decimals.

    >>> error_text(0.256), error_text(0.0038), error_text(36.3), error_text(None)
    ('0.26', '0.004', '36', '–')
    """
    if value is None or not math.isfinite(value) or value == 0:
        return MISSING
    return f"{value:.{_decimals(value)}f}"


def number_text(value: float | None, error: float | None = 0.1, sign: str = "") -> str:
    """A number as fine as its error lets it be quoted, but not finer than 0.01.

    >>> number_text(-90.123, 0.25), number_text(431.66, 1.5), number_text(None)
    ('-90.12', '431.7', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    decimals = 2
    if error is not None and math.isfinite(error) and error > 0:
        decimals = min(_decimals(error), 2)
    return f"{value:{sign}.{decimals}f}"


def _decimals(error: float) -> int:
    power = math.floor(math.log10(error))
    return max(0, 1 - power) if power >= -1 else -power


class Column(NamedTuple):
    """A header, and the text of a row's cell."""

    header: str
    text: Callable[[Row], str]


def _bound(key: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        shown = number_text(row[key], row[f"{key}_std_error"])
        error = row[f"{key}_seed_error"]
        if shown == MISSING or error is None:
            return shown
        return f"{shown} ± {error_text(error)}"

    return text


def _of(key: str, form: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        known = row[key] is not None and math.isfinite(row[key])
        return format(row[key], form) if known else MISSING

    return text


def _active(row: Row) -> str:
    units = f"{row['active_units']:.3g}/{row['latent_units']}"
    return units if row["latent_units"] else MISSING


def _share(row: Row) -> str:
    percent = row["khat_above_0.7"]
    return MISSING if percent is None else f"{100 * percent:.0f} %"


def _ess(row: Row) -> str:
    none = row["ess"] is None or not row["latent_units"]
    return MISSING if none else f"{row['ess']:.3g}"


COLUMNS = {
    "elbo": Column("ELBO", _bound("elbo")),
    "log_likelihood": Column("log-likelihood", _bound("log_likelihood")),
    "data_error": Column(
        "± data", lambda row: error_text(row["log_likelihood_std_error"])
    ),
    "draws_error": Column(
        "± MC", lambda row: error_text(row["log_likelihood_mc_error"])
    ),
    "gap": Column(
        "gap", lambda row: number_text(row["gap"], row["log_likelihood_std_error"])
    ),
    "kl": Column("KL", _of("kl", ".2f")),
    "active": Column("active", _active),
    "khat": Column("k-hat", _of("khat_median", ".2f")),
    "khat_share": Column("> 0.7", _share),
    "ess": Column("ESS", _ess),
    "parameters": Column("parameters", _of("num_parameters", ",")),
    "seconds": Column("s/epoch", _of("seconds_per_epoch", ".3g")),
    "epochs": Column("epochs", _of("epochs", ".4g")),
    "seeds": Column("seeds", _of("num_seeds", "")),
}


def markdown(
    lines: Sequence[Mapping[str, str]], left: int = 1, *, padded: bool = True
) -> str:
    """Cells by header -> a table whose columns line up, the first `left` ones left.

    Not `padded` for one that would get too wide.

    >>> print(markdown([{"guide": "iaf", "ELBO": "-92.00"}]), end="")
    | guide |   ELBO |
    | ----- | -----: |
    | iaf   | -92.00 |
    """
    headers = list(lines[0])
    body = [[line.get(header, "") for header in headers] for line in lines]
    table = [headers, *body]
    widths = [max(3, *map(len, column)) for column in zip(*table, strict=True)]
    widths = widths if padded else [3] * len(headers)
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    table.insert(1, rule)
    text = ""
    for cells in table:
        shown = [
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        text += f"| {' | '.join(shown)} |\n"
    return text


def comma_separated(rows: Sequence[Row]) -> str:
    """All numbers of rows, to twelve digits; a list of seeds becomes `0 1 2`.

    What comes after these differs from one version of Python to the next.
    """
    rows = [{k: _written(v) for k, v in row.items() if k != "seeds"} for row in rows]
    for row in rows:
        row["seed_list"] = " ".join(map(str, row["seed_list"]))
    out = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(out, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _written(value: Any) -> Any:
    return float(f"{value:.12g}") if isinstance(value, float) else value


LEGEND = (
    "± data: standard error over the data; ± MC: Monte Carlo standard error of the "
    "importance sampling; k-hat: median, and share of the data where it is above 0.7, so "
    "that log p is a lower bound, and its MC error too small."
)
AVERAGED = "Rows of several seeds have the mean over seeds ± its standard error."


def plural(word: str, count: int) -> str:
    """A word, with an s where there are several of it."""
    return word if count == 1 else f"{word}s"


def settings(results: Sequence[Result]) -> str:
    """The data, split, draws, budget and seeds of all rows, in a sentence."""
    latents = [r for r in results if has_latents(r)]
    first = latents[0] if latents else results[0]
    seeds = sorted({r["seed"] for r in results})
    training = _common(r["training"] for r in results)
    budget = [f"{planned_epochs(first)} epochs"]
    keys = ("batch_size", "lr", "patience")
    budget += [f"{key} {training[key]}" for key in keys if training.get(key)]
    budget += [lower] if (lower := precisions(results)) else []
    return (
        f"Data: {first['data']} ({first['variant']}), {first['split']} split, "
        f"{first['num_data']} data. Numbers in nats per datum, larger is better; the "
        f"log-likelihood {'by importance sampling with ' if latents else ''}"
        f"{effort(results)}. Budget: {', '.join(budget)}; {first['weights']} weights; "
        f"{plural('seed', len(seeds))} {', '.join(map(str, seeds))}."
    )


def precisions(results: Sequence[Result]) -> str:
    """The networks' precision, where any is not float32."""
    lower = [r.get("precision") == "bf16" for r in results]
    if all(lower):
        return "networks in bfloat16"
    return "networks in bfloat16 where a row says so" if any(lower) else ""


def effort(results: Sequence[Result]) -> str:
    """The particles by which log-likelihoods are estimated, where any is."""
    counts = [r["num_particles"] for r in results if has_latents(r)]
    return f"{counts[0]} particles" if counts else "exact"


def hardware(results: Sequence[Result]) -> str:
    """Devices, threads and versions."""
    return f"Hardware: {'; '.join(dict.fromkeys(map(_hardware, results)))}."


def _common(dicts: Any) -> dict[str, Any]:
    first, *others = dicts
    return {k: v for k, v in first.items() if all(d.get(k) == v for d in others)}


def _hardware(result: Result) -> str:
    device, threads = result.get("device", "unknown"), result.get("num_threads")
    versions = result.get("versions") or {}
    named = [f"{threads} {plural('thread', threads)}"] if threads else []
    named += [f"{k} {v}" for k, v in versions.items() if k in ("torch", "pyro")]
    return str(device) + (f" ({', '.join(named)})" if named else "")
