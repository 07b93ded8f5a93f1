"""Our best beside the highest figure that we know of in each class, for README."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyro_vae_zoo.errors import DataFileError, UserError, unknown_name
from pyro_vae_zoo.files import read_json
from pyro_vae_zoo.report import tables
from pyro_vae_zoo.report.averages import Result, Row, average

__all__ = ["MARKS_FILE", "Mark", "marks_table", "read_marks"]

MARKS_FILE = "marks.json"
_NUMBERS = {"log_likelihood": "", "elbo": " (ELBO)"}


@dataclass(frozen=True)
class Mark:
    """A class of models on a data set, our row in it, and the highest figure of others.

    Args:
        data: the data set, as readers know it.
        models: the class: what must be alike for a fair comparison.
        pair: ours, in words.
        folder: of the results that have our row.
        row: its name there; of several seeds the mean counts.
        published: the figure, in nats on the test split.
        source: who published it.
        number: `log_likelihood` or `elbo`, the one that is published.
    """

    data: str
    models: str
    pair: str
    folder: str
    row: str
    published: float
    source: str
    number: str = "log_likelihood"

    def __post_init__(self) -> None:
        if self.number not in _NUMBERS:
            raise unknown_name("number", self.number, _NUMBERS)


def read_marks(path: Path) -> list[Mark]:
    """The marks in a JSON file, a list of objects with the fields of `Mark`.

    Raises:
        DataFileError: for fields that a mark has not, or that are not there.
    """
    try:
        return [Mark(**entry) for entry in read_json(path)]
    except TypeError as error:
        raise DataFileError(f"{path}: expected the fields of a mark; {error}") from None


def marks_table(marks: Sequence[Mark], folders: Mapping[str, Sequence[Result]]) -> str:
    """A line for each mark; under it what the numbers depend on.

    Raises:
        DataFileError: where a folder lacks the row.
        UserError: for a row whose bound is none.
    """
    rows = [_row(mark, folders.get(mark.folder, ())) for mark in marks]
    lines = [_line(mark, row) for mark, row in zip(marks, rows, strict=True)]
    runs = [run for row in rows for run in row["seeds"]]
    particles = dict.fromkeys(f"{run['num_particles']:,}" for run in runs)
    errors = [r[f"{m.number}_std_error"] for m, r in zip(marks, rows, strict=True)]
    shares = [row["khat_above_0.7"] for row in rows]
    below = (
        f"Nats per datum of the test split; {' / '.join(particles)} particles. A mean over "
        "seeds is ± its standard error; without ±: one seed. Standard error over the data: "
        f"{tables.error_text(min(errors))} to {tables.error_text(max(errors))}. k-hat is "
        f"above 0.7 for {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the data: "
        "read log p as a lower bound."
    )
    return f"{tables.markdown(lines, 3).rstrip()}\n\n{textwrap.fill(below, 90)}\n"


def _row(mark: Mark, results: Sequence[Result]) -> Row:
    runs = [r for r in results if r.get("row", r["guide"]) == mark.row]
    if not runs:
        raise DataFileError(f"expected a row {mark.row!r} in folder {mark.folder!r}")
    if not all(run.get("is_bound", True) for run in runs):
        raise UserError(f"row {mark.row!r} in folder {mark.folder!r} is no bound")
    return average(mark.row, runs)


def _line(mark: Mark, row: Row) -> dict[str, str]:
    value, error = row[mark.number], row[f"{mark.number}_seed_error"]
    ours = tables.number_text(value, row[f"{mark.number}_std_error"])
    ours += "" if error is None else f" ± {tables.error_text(error)}"
    return {
        "data": mark.data,
        "models": mark.models,
        "ours": mark.pair,
        "log p": ours + _NUMBERS[mark.number],
        "highest that we know of": f"{mark.published}, {mark.source}",
        "ahead by": f"{value - mark.published:+.2f}",
    }
