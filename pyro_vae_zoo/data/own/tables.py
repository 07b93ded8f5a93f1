"""Tables of a user's: CSV files and data frames, one datum a row.

All columns are numbers of one kind, except that of the labels and those that are left out.
What is not a number is named by its row and column.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae_zoo.data.own.arrays import SHARE, likelihood_of
from pyro_vae_zoo.data.sources import expanded
from pyro_vae_zoo.errors import DataFileError, UserError, one_line, unknown_name

if TYPE_CHECKING:
    from pyro_vae_zoo.data.datasets import Dataset

__all__ = ["from_csv", "from_frame"]

Column = str | int


@dataclass(frozen=True)
class _Table:
    """Numbers `(N, D)` with the names of their columns, and the labels if there are."""

    values: np.ndarray
    names: Sequence[str]
    labels: Sequence[Any] | np.ndarray | None


def from_csv(
    _cls: "type[Dataset]",
    path: str | os.PathLike,
    *,
    labels: Column | None = None,
    drop: Column | Sequence[Column] = (),
    header: bool | None = None,
    likelihood: str | None = None,
    valid: float = SHARE,
    test: float = SHARE,
    seed: int = 0,
    standardise: bool = False,
) -> "Dataset":
    r"""A data set of a CSV file, one datum a row, its columns the features.

    The separator is the comma, semicolon or tab that the first line has most of. That line
    holds names if none of its fields is a number, and data if all are.

    Args:
        path: the file.
        labels: the column of the classes, by its name or its place from 0.
        drop: columns to leave out.
        header: whether the first line holds names, where that cannot be told; without
            names columns are `#1`, `#2`, ...
        likelihood: by default a Gaussian for real numbers, a Bernoulli for bits; tables of
            other whole numbers want it said.
        valid: share of the rows that is taken off for validation.
        test: likewise for the test.
        seed: of the permutation by which they are.
        standardise: take off each feature's mean, divide by its scale; see `Dataset`.

    Raises:
        DataFileError: for what is no number, an empty field, a row of another length; it
            names the row, its line in the file and the column.

    >>> import tempfile, pyro_vae_zoo as zoo
    >>> path = Path(tempfile.mkdtemp(), "lengths.csv")
    >>> rows = (f"{i}.5,{i % 7},{'ab'[i % 2]}" for i in range(20))
    >>> _ = path.write_text("\n".join(["long,wide,kind", *rows]))
    >>> data = zoo.Dataset.from_csv(path, labels="kind", standardise=True)
    >>> data.event_shape, data.likelihood, data.label_names
    ((2,), 'gaussian', ('a', 'b'))
    >>> data.note.split(", valid")[0]
    'lengths.csv, float64 -> gaussian, whole numbers in wide taken for real'
    """
    path = expanded(os.fspath(path))
    try:
        table = _read_csv(path, labels, drop, header)
        return _dataset(
            _cls,
            table,
            path.name,
            path.stem,
            likelihood,
            valid,
            test,
            seed,
            standardise,
        )
    except DataFileError:
        raise
    except UserError as error:
        raise DataFileError(f"{path}: {error}") from error


def from_frame(
    _cls: "type[Dataset]",
    frame: Any,
    *,
    labels: Column | None = None,
    drop: Column | Sequence[Column] = (),
    likelihood: str | None = None,
    valid: float = SHARE,
    test: float = SHARE,
    seed: int = 0,
    standardise: bool = False,
    name: str = "frame",
) -> "Dataset":
    """A data set of a `DataFrame` of pandas, one datum a row, its columns the features.

    Args:
        frame: the frame; its index is no feature.
        labels: the column of the classes, by its name.
        drop: columns to leave out.
        likelihood: by default a Gaussian for real numbers, a Bernoulli for bits; tables of
            other whole numbers want it said.
        valid: share of the rows that is taken off for validation.
        test: likewise for the test.
        seed: of the permutation by which they are.
        standardise: take off each feature's mean, divide by its scale; see `Dataset`.
        name: short name, used for run folders and tables.

    Raises:
        UserError: for a column that is not of numbers, and for a missing value; it names
            column and row.
    """
    if not all(hasattr(frame, a) for a in ("columns", "iloc", "isna")):
        raise UserError(
            f"frame: expected a pandas DataFrame, got {type(frame).__name__}"
        )
    table = _table_of_frame(frame, labels, drop)
    return _dataset(
        _cls, table, "frame", name, likelihood, valid, test, seed, standardise
    )


def _dataset(
    _cls: "type[Dataset]",
    table: _Table,
    source: str,
    name: str,
    likelihood: str | None,
    valid: float,
    test: float,
    seed: int,
    standardise: bool,
) -> "Dataset":
    """The data set of a table, whose note says how its numbers were taken."""
    x, notes = table.values, [source]
    if likelihood is None:
        likelihood, why = likelihood_of(x, "table")
        notes.append(why)
    else:
        notes.append(f"as {likelihood}")
    if likelihood == "gaussian":
        whole = [n for n, c in zip(table.names, x.T, strict=True) if (c % 1 == 0).all()]
        if whole:
            shown = ", ".join(whole[:3]) + (", ..." if len(whole) > 3 else "")
            notes.append(f"whole numbers in {shown} taken for real")
    if standardise:
        for name_, column in zip(table.names, x.T, strict=True):
            if column.min() == column.max():
                raise UserError(
                    f"standardise: column {name_!r} is {column[0]:.6g} in all rows, and a "
                    f"constant has no density; drop={name_!r} leaves it out"
                )
    return _cls(
        x,
        valid,
        test,
        likelihood,
        name,
        labels=table.labels,
        standardise=standardise,
        seed=seed,
        note=", ".join(notes),
    )


def _places(
    names: Sequence[str], labels: Column | None, drop: Column | Sequence[Column]
) -> tuple[list[int], int | None]:
    """Where the features and the labels are among the columns."""
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise UserError(f"expected columns of different names, got {twice!r} twice")

    def place(column: Column) -> int:
        if isinstance(column, int) and str(column) not in names:
            if -len(names) <= column < len(names):
                return column % len(names)
            raise UserError(
                f"expected a column from 0 to {len(names) - 1}, got {column}"
            )
        if str(column) not in names:
            raise unknown_name("column", str(column), names)
        return names.index(str(column))

    if isinstance(drop, str) and drop not in names:  # as a command line has several
        drop = drop.split(",")
    several: Iterable[Any] = (
        drop if isinstance(drop, Iterable) and not isinstance(drop, str) else [drop]
    )
    left_out = {place(column) for column in several}
    of_labels = None if labels is None else place(labels)
    features = [i for i in range(len(names)) if i not in left_out and i != of_labels]
    if not features:
        raise UserError("expected at least one column of numbers, got none")
    return features, of_labels


# ------------------------------------------------------------------------------- CSV


def _read_csv(
    path: Path,
    labels: Column | None,
    drop: Column | Sequence[Column],
    header: bool | None,
) -> _Table:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "not found"
        raise DataFileError(f"data file {path} {what}: looked for {path.absolute()}")
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(
                file, delimiter=max(",;\t", key=first.count), strict=True
            )
            for fields in reader:
                if fields:
                    rows.append([field.strip() for field in fields])
                    lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataFileError(
            f"{path}: cannot be read as a table ({one_line(error)}); expected text in "
            "UTF-8, with columns separated by commas, semicolons or tabs"
        ) from error
    if not rows:
        raise DataFileError(f"{path}: expected rows of numbers, got an empty file")
    names = [f"#{i + 1}" for i in range(len(rows[0]))]
    if _has_names(path, rows[0]) if header is None else header:
        names = [own or name for own, name in zip(rows[0], names, strict=True)]
        rows, lines = rows[1:], lines[1:]
    if not rows:
        raise DataFileError(
            f"{path}: expected rows of numbers, got a line of column names only"
        )
    features, of_labels = _places(names, labels, drop)
    values = np.empty((len(rows), len(features)))
    for r, (fields, line) in enumerate(zip(rows, lines, strict=True)):
        where = f"{path}: row {r} (line {line})"
        if len(fields) != len(names):
            raise DataFileError(
                f"{where}: expected {len(names)} fields, got {len(fields)}"
            )
        try:
            values[r] = [_number(fields[i]) for i in features]
        except ValueError:
            i = next(i for i in features if not _is_number(fields[i]))
            raise _no_number(where, names[i], fields[i]) from None
        if of_labels is not None and not fields[of_labels]:
            raise DataFileError(
                f"{where}, column {names[of_labels]!r}: expected a label, got an empty "
                "field"
            )
    if (bad := ~np.isfinite(values)).any():
        r, c = (int(index[0]) for index in bad.nonzero())
        i = features[c]
        raise _no_number(f"{path}: row {r} (line {lines[r]})", names[i], rows[r][i])
    kept = [names[i] for i in features]
    _check_no_index(values, kept, "#")
    found = None if of_labels is None else _words([row[of_labels] for row in rows])
    return _Table(values, kept, found)


def _has_names(path: Path, first: Sequence[str]) -> bool:
    """True for a line of names, False for one of data.

    Raises:
        DataFileError: for a line that may be either.
    """
    numbers = [_is_number(text) for text in first]
    counted = list(first) == [str(i) for i in range(len(first))]
    if len(set(numbers)) > 1 or (counted and len(first) > 1):
        shown = ",".join(first)[:40]
        raise DataFileError(
            f"{path}: is the first line, {shown!r}, names or data? Give header=True "
            "for names, header=False for data"
        )
    return not numbers[0]


def _number(text: str) -> float:
    if "_" in text:  # which Python leaves out of numbers, and codes have in them
        raise ValueError(text)
    return float(text)


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _no_number(where: str, column: str, text: str) -> DataFileError:
    got = repr(text[:40]) if text else "an empty field"
    return DataFileError(
        f"{where}, column {column!r}: expected a finite number, got {got}; fill it in "
        f"or leave the row out; drop={column!r} leaves the column out, "
        f"labels={column!r} takes it for class labels"
    )


def _words(texts: list[str]) -> list[str] | list[int]:
    """Labels as whole numbers, where all of them are written so: `01` is a word."""
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return texts
    return numbers if [*map(str, numbers)] == texts else texts


def _check_no_index(values: np.ndarray, names: Sequence[str], unnamed: str) -> None:
    """Refuse a column without a name that numbers the rows, among others with names.

    Of a table that was sorted or filtered the numbers are in any order, with gaps.
    """
    first = names[0].startswith(unnamed) and not all(
        n.startswith(unnamed) for n in names
    )
    column = values[:, 0]
    all_differ = len(np.unique(column)) == len(column) > 1
    if first and all_differ and (column % 1 == 0).all():
        raise UserError(
            "the first column has no name and numbers the rows; is it an index? "
            f"drop={names[0]!r} leaves it out"
        )


# ------------------------------------------------------------------------ data frames


def _table_of_frame(
    frame: Any, labels: Column | None, drop: Column | Sequence[Column]
) -> _Table:
    names = [str(column) for column in frame.columns]
    features, of_labels = _places(names, labels, drop)
    if not len(frame):
        raise UserError("frame: expected at least one row, got none")
    columns = [_numbers(frame.iloc[:, i], names[i]) for i in features]
    found = None
    if of_labels is not None:
        column = frame.iloc[:, of_labels]
        _check_none_missing(column, names[of_labels])
        found = column.to_numpy(dtype=object)
    kind = bool if all(c.dtype == bool for c in columns) else np.float64
    values, kept = np.stack(columns, 1).astype(kind), [names[i] for i in features]
    _check_no_index(values, kept, "Unnamed: ")
    return _Table(values, kept, found)


def _numbers(column: Any, name: str) -> np.ndarray:
    """A column as numbers."""
    _check_none_missing(column, name)
    kind = getattr(getattr(column.dtype, "subtype", column.dtype), "kind", "O")
    if kind not in "buif":
        row, value = 0, column.iloc[0]
        for r, v in enumerate(column):
            if not isinstance(v, int | float | np.number):
                row, value = r, v
                break
        raise UserError(
            f"frame: row {row}, column {name!r}: expected numbers, got {column.dtype} "
            f"{str(value)[:40]!r}; drop={name!r} leaves the column out, labels={name!r} "
            "takes it for class labels"
        )
    return column.to_numpy(dtype=bool if kind == "b" else np.float64)


def _check_none_missing(column: Any, name: str) -> None:
    if (missing := np.asarray(column.isna(), bool)).any():
        raise UserError(
            f"frame: row {int(missing.argmax())}, column {name!r}: expected a value, "
            f"got none ({int(missing.sum())} of {len(missing)} are missing); fill them "
            "in or leave their rows out"
        )
