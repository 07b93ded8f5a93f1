"""What all tables share: seeds averaged, numbers as text, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pyro_vae_zoo.errors import UserError

__all__ = [
    "COLUMNS",
    "AVERAGED",
    "LEGEND",
    "Column",
    "average",
    "comma_separated",
    "difference",
    "error_text",
    "hardware",
    "markdown",
    "number_text",
    "rank",
    "refuse_unlike",
    "settings",
]

Result = dict[str, Any]
Row = dict[str, Any]

SAME = ("data", "variant", "split", "num_data", "num_particles", "epochs", "weights")
MISSING = "–"


# ------------------------------------------------------------------------ numbers


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


# --------------------------------------------------------------------------- text


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
    known = error is not None and math.isfinite(error) and error > 0
    decimals = min(_decimals(error), 2) if known else 2
    return f"{value:{sign}.{decimals}f}"


def _decimals(error: float) -> int:
    power = math.floor(math.log10(error))
    return max(0, 1 - power) if power >= -1 else -power


class Column(NamedTuple):
    """A header, and the text of a row's cell, told whether some rows have seeds."""

    header: str
    text: Callable[[Row, bool], str]


def _bound(key: str) -> Callable[[Row, bool], str]:
    def text(row: Row, several: bool) -> str:
        shown = number_text(row[key], row[f"{key}_std_error"])
        if shown == MISSING:
            return shown
        return shown + f" ± {error_text(row[f'{key}_seed_error'])}" * several

    return text


def _of(key: str, form: str, scale: float = 1) -> Callable[[Row, bool], str]:
    return lambda row, _: (
        MISSING if row[key] is None else format(scale * row[key], form)
    )


def _active(row: Row, _: bool) -> str:
    units = f"{row['active_units']:.3g}/{row['latent_units']}"
    return units if row["latent_units"] else MISSING


def _share(row: Row, _: bool) -> str:
    percent = row["khat_above_0.7"]
    return MISSING if percent is None else f"{100 * percent:.0f} %"


def _ess(row: Row, _: bool) -> str:
    none = row["ess"] is None or not row["latent_units"]
    return MISSING if none else f"{row['ess']:.3g}"


COLUMNS = {
    "elbo": Column("ELBO", _bound("elbo")),
    "log_likelihood": Column("log-likelihood", _bound("log_likelihood")),
    "data_error": Column(
        "± data", lambda row, _: error_text(row["log_likelihood_std_error"])
    ),
    "draws_error": Column(
        "± draws", lambda row, _: error_text(row["log_likelihood_mc_error"])
    ),
    "gap": Column(
        "gap", lambda row, _: number_text(row["gap"], row["log_likelihood_std_error"])
    ),
    "kl": Column("KL", _of("kl", ".2f")),
    "active": Column("active", _active),
    "khat": Column("k-hat", _of("khat_median", ".2f")),
    "khat_share": Column("> 0.7", _share),
    "ess": Column("ESS", _ess),
    "parameters": Column("parameters", _of("num_parameters", ",")),
    "seconds": Column("s/epoch", _of("seconds_per_epoch", ".3g")),
    "epochs": Column("epochs", _of("epochs", "")),
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
        padded = [
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        text += f"| {' | '.join(padded)} |\n"
    return text


def comma_separated(rows: Sequence[Row]) -> str:
    """All numbers of rows, unrounded; a list of seeds becomes `0 1 2`."""
    rows = [{k: v for k, v in row.items() if k != "seeds"} for row in rows]
    for row in rows:
        row["seed_list"] = " ".join(map(str, row["seed_list"]))
    out = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(out, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


LEGEND = (
    "± data: standard error over the data; ± draws: that of the importance sampling; "
    "k-hat: median, and share of the data where it is above 0.7, which marks an "
    "unreliable estimate."
)
AVERAGED = "Numbers are means over seeds, ± their standard error."


def settings(results: Sequence[Result]) -> str:
    """What the numbers of all rows depend on: data, split, draws, budget, seeds."""
    first = next((r for r in results if r["active_units"]), results[0])
    seeds = sorted({r["seed"] for r in results})
    training = _common(r["training"] for r in results)
    budget = [f"{first['epochs']} epochs"]
    budget += [f"{k} {training[k]}" for k in ("batch_size", "lr") if k in training]
    return (
        f"Data: {first['data']} ({first['variant']}), {first['split']} split, "
        f"{first['num_data']} data. Numbers in nats per datum, larger is better; the "
        f"log-likelihood by importance sampling with {first['num_particles']} draws "
        f"of the guide. Budget: {', '.join(budget)}; {first['weights']} weights; "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}."
    )


def hardware(results: Sequence[Result]) -> str:
    """Devices, threads and versions."""
    return f"Hardware: {'; '.join(dict.fromkeys(map(_hardware, results)))}."


def _common(dicts: Any) -> dict[str, Any]:
    first, *others = dicts
    return {k: v for k, v in first.items() if all(d.get(k) == v for d in others)}


def _hardware(result: Result) -> str:
    device, threads = result.get("device", "unknown"), result.get("num_threads")
    versions = result.get("versions") or {}
    named = [f"{threads} thread{'s' * (threads > 1)}"] if threads else []
    named += [f"{k} {v}" for k, v in versions.items() if k in ("torch", "pyro")]
    return str(device) + (f" ({', '.join(named)})" if named else "")
