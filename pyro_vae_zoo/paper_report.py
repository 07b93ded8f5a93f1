"""A paper's figures beside ours: the rows of `paper_rows` -> Markdown and CSV."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pyro_vae_zoo import _tables
from pyro_vae_zoo._averages import Row
from pyro_vae_zoo._tables import COLUMNS, MISSING, Column
from pyro_vae_zoo.paper_rows import SPLITS, Layout, Panels

__all__ = ["columns_of", "csv_panels", "footnotes", "markdown_panels"]

_BRIEF = ("latents", "published_elbo_test")  # of the compact table only


def columns_of(rows: Sequence[Row], reference: str) -> dict[str, Column]:
    """The columns that a table of these rows may have, by key, in their order.

    Beside those of `report`, `published` and `published_elbo` are the paper's;
    `elbo_by_split` ours of train, valid and test; `log_likelihood_100` that of 100
    draws; `difference` and `elbo_difference` are to the reference.
    """
    draws = dict.fromkeys(d for row in rows for d in row["fewer_draws"])
    fewer = {
        f"log_likelihood_{d}": Column(f"log p, {int(d):,} draws", partial(_fewer, d))
        for d in draws
    }
    own = {
        "latents": Column("latents", lambda row, _: row["latents"] or MISSING),
        "published_elbo_test": Column(
            "paper's ELBO",
            lambda row, _: _as_printed(row["published_elbo_test"]),
        ),
        "published_elbo": Column(
            "paper's ELBO by split", partial(_splits, "published_elbo", _as_printed)
        ),
        "elbo_by_split": Column(
            "ELBO by split", partial(_splits, "elbo", _tables.number_text)
        ),
        "elbo": _struck(COLUMNS["elbo"]),
        "elbo_difference": Column(f"ELBO - {reference}", partial(_difference, "elbo")),
        "published": Column(
            "paper's log p", lambda row, _: _as_printed(row["published"])
        ),
        **fewer,
        "log_likelihood": _struck(COLUMNS["log_likelihood"]._replace(header="log p")),
        "difference": Column(
            f"log p - {reference}", partial(_difference, "log_likelihood")
        ),
    }
    rest = {key: column for key, column in COLUMNS.items() if key not in own}
    return own | rest | {"gap": _struck(rest["gap"]), "kl": _struck(rest["kl"])}


def _struck(column: Column) -> Column:
    """The column with the numbers of rows struck out whose bound is none."""
    return Column(
        column.header, lambda row, several: _strike(row, column.text, several)
    )


def _strike(row: Row, text: Callable[[Row, bool], str], several: bool) -> str:
    shown = text(row, several)
    return f"~~{shown}~~" if row["invalid"] and shown != MISSING else shown


def _fewer(draws: str, row: Row, several: bool) -> str:
    def text(row: Row, _: bool) -> str:
        value = row["fewer_draws"].get(draws)
        return _tables.number_text(value, row["log_likelihood_std_error"])

    return _strike(row, text, several)


def _splits(key: str, text: Callable, row: Row, _: bool) -> str:
    values = [row[f"{key}_{split}"] for split in SPLITS]
    if all(value is None for value in values):
        return MISSING
    shown = " / ".join(map(text, values))
    return f"~~{shown}~~" if row["invalid"] and key == "elbo" else shown


def _as_printed(value: float | None) -> str:
    """A paper's figure with the digits that it has there."""
    return MISSING if value is None else str(value)


def _difference(key: str, row: Row, several: bool) -> str:
    ahead, error = row[f"{key}_difference"], row[f"{key}_difference_error"]
    if ahead is None:
        return MISSING
    fine = row[f"{key}_std_error"] if error is None else error
    text = _tables.number_text(ahead, fine, "+")
    text += f" ± {_tables.error_text(error)}" * several
    clear = error is not None and abs(ahead) > 2 * error
    return f"**{text}**" if clear else text


def footnotes(panels: Panels) -> dict[str, str]:
    """Note -> its mark, in the order of the rows."""
    notes = dict.fromkeys(
        row["note"] for rows in panels.values() for row in rows if row["note"]
    )
    return {note: f"[{i}]" for i, note in enumerate(notes, 1)}


def markdown_panels(panels: Panels, layout: Layout, command: str) -> str:
    """Every number of a table, rounded: a table for each panel, under one caption.

    Columns that are empty in all rows of a panel are left out. A row whose note begins
    with "invalid" has no bound: its numbers are struck out, and it has no difference.
    """
    marks = footnotes(panels)
    text = f"{_caption(panels, layout, command)}\n"
    for title, rows in panels.items():
        runs = [run for row in rows for run in row["seeds"]]
        several = any(row["num_seeds"] > 1 for row in rows)
        text += f"\n## {title}\n" * bool(title)
        text += f"\n{_tables.settings(runs)} {_tables.hardware(runs)}\n\n"
        columns = {
            column.header: [column.text(row, several) for row in rows]
            for key, column in columns_of(rows, layout.reference).items()
            if key not in _BRIEF
        }
        lines = [{"row": _marked(row, marks)} for row in rows]
        for header, texts in columns.items():
            if set(texts) != {MISSING}:
                for line, shown in zip(lines, texts, strict=True):
                    line[header] = shown
        text += _tables.markdown(lines)
    return text + "".join(f"\n{mark} {note}.\n" for note, mark in marks.items())


def _marked(row: Row, marks: Mapping[str, str]) -> str:
    note = f" {marks[row['note']]}" if row["note"] else ""
    return row["label"] + " **INVALID**" * row["invalid"] + note


def _caption(panels: Panels, layout: Layout, command: str) -> str:
    rows = [row for rows in panels.values() for row in rows]
    runs = [run for row in rows for run in row["seeds"]]
    sources = dict.fromkeys(f"{r['source']}; budget `{r['budget']}`" for r in runs)
    text = f"{'; '.join(sources)}. Written by `{command}`. {_tables.LEGEND}"
    if any(row["num_seeds"] > 1 for row in rows):
        text += f" {_tables.AVERAGED}"
    if any(row["elbo_test"] is not None for row in rows):
        text += " Bounds by split: train / valid / test, one draw for a datum."
    if any(row["elbo_difference"] is not None for row in rows):
        text += f" Differences to {layout.reference} are on the same data"
        text += ", ± their standard error over the seeds of both; bold: beyond two of "
        text += "these, which luck alone does in one row of eight with three seeds and "
        text += "in one of five with two."
    return text


def csv_panels(panels: Panels) -> str:
    """All numbers, unrounded, a line for each row; `invalid` marks what is no bound."""
    rows = [{"panel": t} | row for t, rows in panels.items() for row in rows]
    for row in rows:
        fewer = row.pop("fewer_draws").items()
        row |= {f"log_likelihood_{draws}": value for draws, value in fewer}
    return _tables.comma_separated(rows)
