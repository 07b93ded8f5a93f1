"""A paper's figures beside ours: the rows of `paper_rows` -> Markdown and CSV."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pyro_vae_zoo import _tables
from pyro_vae_zoo._tables import COLUMNS, MISSING, Column, Row
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
            lambda row, _: _tables.number_text(row["published_elbo_test"]),
        ),
        "published_elbo": Column(
            "paper's ELBO by split", partial(_splits, "published_elbo")
        ),
        "elbo_by_split": Column("ELBO by split", partial(_splits, "elbo")),
        "elbo": _struck(COLUMNS["elbo"]),
        "elbo_difference": Column(f"ELBO - {reference}", partial(_difference, "elbo")),
        "published": Column(
            "paper's log p", lambda row, _: _tables.number_text(row["published"])
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


def _splits(key: str, row: Row, _: bool) -> str:
    values = [row[f"{key}_{split}"] for split in SPLITS]
    if all(value is None for value in values):
        return MISSING
    shown = " / ".join(map(_tables.number_text, values))
    return f"~~{shown}~~" if row["invalid"] and key == "elbo" else shown


def _difference(key: str, row: Row, _: bool) -> str:
    ahead, error = row[f"{key}_difference"], row[f"{key}_difference_error"]
    if ahead is None:
        return MISSING
    fine = row[f"{key}_std_error"] if error is None else error
    text = f"{_tables.number_text(ahead, fine, '+')} ± {_tables.error_text(error)}"
    clear = error is not None and abs(ahead) > 2 * error
    return f"**{text}**" if clear else text


def footnotes(panels: Panels) -> dict[str, str]:
    """Note -> its mark, in the order of the rows."""
    notes = dict.fromkeys(
        row["note"] for rows in panels.values() for row in rows if row["note"]
    )
    return {note: f"[{i}]" for i, note in enumerate(notes, 1)}


def markdown_panels(panels: Panels, layout: Layout, command: str) -> str:
    """Every number of a table, rounded: a caption and a table for each panel.

    Columns that are empty in all rows of a panel are left out. A row whose note begins
    with "invalid" has no bound: its numbers are struck out, and it has no difference.
    """
    marks = footnotes(panels)
    runs = [run for rows in panels.values() for row in rows for run in row["seeds"]]
    sources = dict.fromkeys(f"{r['source']}; budget `{r['budget']}`" for r in runs)
    text = f"{'; '.join(sources)}. Written by `{command}`.\n"
    for title, rows in panels.items():
        several = any(row["num_seeds"] > 1 for row in rows)
        columns = columns_of(rows, layout.reference)
        columns = {
            key: column
            for key, column in columns.items()
            if key not in _BRIEF
            and any(column.text(row, several) != MISSING for row in rows)
        }
        lines = []
        for row in rows:
            marked = row["label"] + " **INVALID**" * row["invalid"]
            marked += f" {marks[row['note']]}" if row["note"] else ""
            shown = {c.header: c.text(row, several) for c in columns.values()}
            lines.append({"row": marked} | shown)
        text += f"\n## {title}\n" * bool(title)
        text += f"\n{_caption(rows, layout, several, columns)}\n\n"
        text += _tables.markdown(lines)
    return text + "".join(f"\n{mark} {note}.\n" for note, mark in marks.items())


def _caption(
    rows: Sequence[Row], layout: Layout, several: bool, columns: Mapping[str, Column]
) -> str:
    text = _tables.caption([run for row in rows for run in row["seeds"]], several)
    if {"elbo_by_split", "published_elbo"} & set(columns):
        text += " Bounds by split are of train / valid / test, one draw for a datum."
    if "difference" in columns:
        text += (
            f" Differences are to {layout.reference}, on the same data, ± standard error "
            "over the seeds; bold where they are beyond two of them, which with three "
            "seeds luck alone gives one row in eight."
        )
    return text


def csv_panels(panels: Panels) -> str:
    """All numbers, unrounded, a line for each row; `invalid` marks what is no bound."""
    rows = [{"panel": title} | row for title, rows in panels.items() for row in rows]
    return _tables.comma_separated(rows)
