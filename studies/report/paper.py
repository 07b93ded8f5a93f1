"""A paper's figures beside ours: the rows of `rows` -> Markdown and CSV."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pyro_vae_zoo.report import tables
from pyro_vae_zoo.report.averages import Row
from pyro_vae_zoo.report.tables import COLUMNS, MISSING, Column
from studies.report.layout import SPLITS, Layout
from studies.report.rows import Panels

__all__ = [
    "LUCK",
    "columns_of",
    "csv_panels",
    "footnotes",
    "local_note",
    "markdown_panels",
]


def columns_of(rows: Sequence[Row], reference: str) -> dict[str, Column]:
    """The columns that a table of these rows may have, by key, in their order.

    Ours stand before the paper's. Beside those of `report`, `published` and
    `published_elbo` are the paper's; `elbo_by_split` ours of train, valid and test;
    `log_likelihood_100` that of 100 particles; `difference` and `elbo_difference` are to
    the reference, `local_difference` by a q of each of some test data; `ahead` and
    `elbo_ahead` are to the paper's figures. `last_doubling` is what the second half of a
    training brought.
    """
    numbers = dict.fromkeys(n for row in rows for n in row["fewer_particles"])
    fewer = {
        f"log_likelihood_{n}": Column(
            f"log p, {int(n):,} particles", partial(_fewer, n)
        )
        for n in numbers
    }
    own = {
        "latents": Column("latents", lambda row: row["latents"] or MISSING),
        "elbo_by_split": Column(
            "ELBO by split", partial(_splits, "elbo", tables.number_text)
        ),
        "elbo": _struck(COLUMNS["elbo"]),
        "elbo_difference": Column(f"ELBO - {reference}", partial(_difference, "elbo")),
        "published_elbo_test": Column(
            "published ELBO",
            lambda row: _as_printed(row["published_elbo_test"]),
        ),
        "published_elbo": Column(
            "published ELBO by split", partial(_splits, "published_elbo", _as_printed)
        ),
        "elbo_ahead": _ahead("ELBO - published", "elbo"),
        **fewer,
        "log_likelihood": _struck(COLUMNS["log_likelihood"]._replace(header="log p")),
        "difference": Column(
            f"log p - {reference}", partial(_difference, "log_likelihood")
        ),
        "local_difference": Column(
            f"log p - {reference}, local q",
            partial(_difference, "local_log_likelihood"),
        ),
        "published": Column(
            "published log p", lambda row: _as_printed(row["published"])
        ),
        "ahead": _ahead("log p - published", "log_likelihood"),
        "last_doubling": Column(
            "last doubling", lambda row: _signed(row["last_doubling"])
        ),
    }
    rest = {key: column for key, column in COLUMNS.items() if key not in own}
    return own | rest | {"gap": _struck(rest["gap"]), "kl": _struck(rest["kl"])}


def _struck(column: Column) -> Column:
    """The column with the numbers of rows struck out whose bound is none."""
    return Column(column.header, lambda row: _strike(row, column.text(row)))


def _strike(row: Row, shown: str) -> str:
    return f"~~{shown}~~" if row["invalid"] and shown != MISSING else shown


def _fewer(number: str, row: Row) -> str:
    value, error = row["fewer_particles"].get(number), row["log_likelihood_std_error"]
    return _strike(row, tables.number_text(value, error))


def _splits(key: str, text: Callable, row: Row) -> str:
    values = [row[f"{key}_{split}"] for split in SPLITS]
    if all(value is None for value in values):
        return MISSING
    shown = " / ".join(map(text, values))
    return _strike(row, shown) if key == "elbo" else shown


def _ahead(header: str, key: str) -> Column:
    """Ours less the paper's, with two decimals, since the paper's has no error."""
    return Column(header, lambda row: _strike(row, _signed(row[f"{key}_ahead"])))


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.2f}"


def _as_printed(value: float | None) -> str:
    """A paper's figure with the digits that it has there."""
    return MISSING if value is None else str(value)


def _difference(key: str, row: Row) -> str:
    ahead, error = row[f"{key}_difference"], row[f"{key}_difference_error"]
    if ahead is None:
        return MISSING
    if not error or not math.isfinite(error):  # one seed, or seeds that are one
        return tables.number_text(ahead, row[f"{key}_std_error"], "+")
    text = f"{tables.number_text(ahead, error, '+')} ± {tables.error_text(error)}"
    return f"**{text}**" if abs(ahead) > 2 * error else text


def footnotes(panels: Panels) -> dict[str, str]:
    """Note -> its mark, in the order of the rows."""
    notes = dict.fromkeys(
        row["note"] for rows in panels.values() for row in rows if row["note"]
    )
    return {note: f"[{i}]" for i, note in enumerate(notes, 1)}


def markdown_panels(panels: Panels, layout: Layout, command: str) -> str:
    """Every number of a table, rounded: a table for each panel, under one caption.

    Columns that are empty in all rows of a panel are left out. Of an invalid row, whose
    bound is none, the numbers are struck out, and there is no difference.
    """
    marks = footnotes(panels)
    text = f"{_caption(panels, layout, command)}\n"
    for title, rows in panels.items():
        runs = [run for row in rows for run in row["seeds"]]
        text += f"\n## {title}\n" if title else ""
        text += f"\n{tables.settings(runs)} {tables.hardware(runs)}\n\n"
        columns = {
            column.header: [column.text(row) for row in rows]
            for key, column in columns_of(rows, layout.reference).items()
            if key not in _left_out(rows)
        }
        lines = [{"row": _marked(row, marks)} for row in rows]
        for header, texts in columns.items():
            if set(texts) != {MISSING}:
                for line, shown in zip(lines, texts, strict=True):
                    line[header] = shown
        text += tables.markdown(lines)
    return text + "".join(f"\n{mark} {note}.\n" for note, mark in marks.items())


def _left_out(rows: Sequence[Row]) -> tuple[str, str]:
    """Of the full table: what the guide's settings say, and one of the paper's bounds."""
    keys = [f"published_elbo_{split}" for split in SPLITS if split != "test"]
    by_split = any(row[key] is not None for row in rows for key in keys)
    return "latents", "published_elbo_test" if by_split else "published_elbo"


def _marked(row: Row, marks: Mapping[str, str]) -> str:
    note = f" {marks[row['note']]}" if row["note"] else ""
    return row["label"] + " **INVALID**" * row["invalid"] + note


def _caption(panels: Panels, layout: Layout, command: str) -> str:
    rows = [row for rows in panels.values() for row in rows]
    runs = [run for row in rows for run in row["seeds"]]
    sources = dict.fromkeys(f"{r['source']}; budget `{r['budget']}`" for r in runs)
    text = f"{'; '.join(sources)}. Written by `{command}`. {tables.LEGEND}"
    if any(row["num_seeds"] > 1 for row in rows):
        text += f" {tables.AVERAGED}"
    if any(row["elbo_test"] is not None for row in rows):
        text += " Bounds by split: train / valid / test, those of train and valid with "
        text += "one particle for a datum."
    if any(row["elbo_difference"] is not None for row in rows):
        text += f" Differences to {layout.reference} are on the same data."
    if any(row["elbo_difference_error"] is not None for row in rows):
        text += f" {_JUDGED}"
    if any(row["last_doubling"] is not None for row in rows):
        text += (
            " Last doubling: the best ELBO on validation less that of the first half of "
            "the steps, at a constant rate and after the KL warm-up."
        )
    text += local_note(rows)
    return f"{text} {layout.note}." if layout.note else text


def local_note(rows: Sequence[Row]) -> str:
    """Of how many data a log p by local q's is, and how many of these to trust."""
    found = [run["local"] for row in rows for run in row["seeds"] if "local" in run]
    if not found:
        return ""
    sizes = " / ".join(dict.fromkeys(str(local["num_data"]) for local in found))
    share = max(local["khat_above_0.7"] for local in found)
    return (
        f" Local q: of {sizes} of the data, each from a q that is optimised for it; "
        f"k-hat is above 0.7 for at most {100 * share:.0f} % of these."
    )


# By the number of seeds: the rows that would be bold if nothing differed, for Gaussian
# seeds. The share of Student's t beyond two: of 2n - 2 degrees of freedom for two sides
# that spread alike, and of n - 1 where one spreads much more than the other.
LUCK = {2: "18 to 30 %", 3: "12 to 18 %"}
_JUDGED = (
    "They are ± their standard error over the seeds of both, on this test set. Bold: "
    f"more than two of these. If all rows were equal, {LUCK[3]} would be bold by chance "
    f"with three seeds, and {LUCK[2]} with two, which estimate an error poorly."
)


def csv_panels(panels: Panels) -> str:
    """All numbers to twelve digits, a line for each row; `invalid` marks no bound."""
    rows = [{"panel": t} | row for t, rows in panels.items() for row in rows]
    for row in rows:
        fewer = row.pop("fewer_particles").items()
        row |= {f"log_likelihood_{number}": value for number, value in fewer}
    return tables.comma_separated(rows)
