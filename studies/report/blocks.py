"""The tables of README and of pages: compact, and between markers that name them.

A block is all that stands between a line `<!-- begin table: NAME -->` and the next
`<!-- end table: NAME -->`; `fill_blocks` puts the tables in.
"""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.report import tables
from pyro_vae_zoo.report.averages import Row
from pyro_vae_zoo.report.tables import MISSING, Column
from studies.report.layout import Layout
from studies.report.paper import LUCK, columns_of, footnotes, local_note
from studies.report.rows import Panels

__all__ = ["benchmark_table", "block_names", "brief_table", "fill_blocks"]

_MARKER = re.compile(r"^<!-- (begin|end) table: (\S+) -->$")
_WIDTH = 90


# ------------------------------------------------------------------------- blocks


def block_names(text: str) -> list[str]:
    r"""The names of a text's blocks.

    Raises:
        UserError: for a marker without its other half, blocks in each other, or a
            block that is there twice; with the number of the line.

    >>> block_names("<!-- begin table: flows -->\n<!-- end table: flows -->")
    ['flows']
    """
    names, open_name = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if "<!-- begin table" not in line and "<!-- end table" not in line:
            continue
        marker = _MARKER.match(line.strip())
        if marker is None:
            raise UserError(
                f"line {number}: expected <!-- begin table: NAME --> or "
                f"<!-- end table: NAME --> alone on a line, got {line.strip()!r}"
            )
        kind, name = marker.groups()
        if kind == "begin" and open_name is not None:
            raise UserError(
                f"line {number}: table {name} begins before {open_name} has its end marker"
            )
        if kind == "begin" and name in names:
            raise UserError(f"line {number}: table {name} is there twice")
        if kind == "end" and name != open_name:
            raise UserError(
                f"line {number}: the end of table {name}, which has not begun"
            )
        open_name = name if kind == "begin" else None
        names += [name] if kind == "begin" else []
    if open_name is not None:
        raise UserError(f"table {open_name} has no end marker")
    return names


def fill_blocks(text: str, contents: Mapping[str, str]) -> str:
    r"""The text with each block's content replaced by its table.

    Raises:
        UserError: for markers that do not match, or a block without a table.

    >>> text = "<!-- begin table: a -->\nold\n<!-- end table: a -->\n"
    >>> fill_blocks(text, {"a": "new\n"}).splitlines()[2]
    'new'
    """
    for name in block_names(text):
        if name not in contents:
            raise unknown_name("table", name, contents)
        begin, end = f"<!-- begin table: {name} -->", f"<!-- end table: {name} -->"
        before, rest = text.split(begin, 1)
        _, after = rest.split(end, 1)
        text = f"{before}{begin}\n\n{contents[name].rstrip()}\n\n{end}{after}"
    return text


# ------------------------------------------------------------------------- tables


def brief_table(panels: Panels, layout: Layout) -> str:
    """A table of the layout's columns, and under it what the numbers depend on.

    The numbers of invalid rows are struck out.

    Raises:
        UserError: for a column that the rows do not have.
    """
    shown = {
        title: {
            _name(row["label"], layout) + _marks(row, footnotes(panels)): {
                column.header: column.text(row) for column in _columns(rows, layout)
            }
            for row in rows
        }
        for title, rows in panels.items()
    }
    lines = _ARRANGE[layout.arrange](shown, layout)
    left = 2 if layout.arrange == "stack" else 1
    empty = {h for h in lines[0] if all(x.get(h, MISSING) == MISSING for x in lines)}
    lines = [{h: x[h] for h in x if h not in empty} for x in lines]
    below = textwrap.fill(_below(panels, layout), _WIDTH)
    notes = [f"{mark} {note}." for note, mark in footnotes(panels).items()]
    return "\n\n".join([tables.markdown(lines, left).rstrip(), below, *notes]) + "\n"


def _columns(rows: Sequence[Row], layout: Layout) -> list[Column]:
    known = columns_of(rows, layout.reference)
    for name in layout.columns:
        if name not in known:
            raise unknown_name("column", name, known)
    return [
        known[key]._replace(header=layout.headers.get(key, known[key].header))
        for key in layout.columns
    ]


def _name(label: str, layout: Layout) -> str:
    """`iaf (K = 2)` -> iaf as code, K = 2 as text."""
    name, space, rest = label.partition(" (")
    rest = f", {rest.removesuffix(')')}" if space else ""
    return layout.names.get(label, _code(name) + rest)


def _code(text: str) -> str:
    return f"`{text}`"


def _marks(row: Row, marks: Mapping[str, str]) -> str:
    note = f" {marks[row['note']]}" if row["note"] else ""
    return " **invalid**" * row["invalid"] + note


Shown = dict[str, dict[str, dict[str, str]]]  # panel -> row -> header -> text


def _beside(shown: Shown, layout: Layout) -> list[dict[str, str]]:
    """A line for each row; panels one after the other from left to right."""
    rows = dict.fromkeys(row for by_row in shown.values() for row in by_row)
    lines = {row: {layout.headers.get("row", "row"): row} for row in rows}
    for title, by_row in shown.items():
        headers = next(iter(by_row.values()))
        for row, line in lines.items():
            for header in headers:
                full = f"{header}, {title}" if title else header
                full = title if title and len(headers) == 1 else full
                line[full] = by_row.get(row, {}).get(header, "")
    return list(lines.values())


def _stack(shown: Shown, layout: Layout) -> list[dict[str, str]]:
    """A line for each row of each panel."""
    panel, row = layout.headers.get("panel", "data"), layout.headers.get("row", "row")
    return [
        {panel: title, row: name} | cells
        for title, by_row in shown.items()
        for name, cells in by_row.items()
    ]


_ARRANGE = {"beside": _beside, "stack": _stack}


def _below(panels: Panels, layout: Layout) -> str:
    """Data, split, particles, seeds and errors of all rows."""
    rows = [row for rows in panels.values() for row in rows]
    runs = [run for row in rows for run in row["seeds"]]
    seeds = sorted({run["seed"] for run in runs})
    sizes = _listed(f"{run['num_data']:,}" for run in runs)
    text = f"{_listed(_code(run['data']) for run in runs)}, "
    text += f"{_listed(run['split'] for run in runs)} split, {sizes} data; "
    sampled = (run["num_particles"] for run in runs if run["active_units"])
    particles = _listed(f"{number:,}" for number in sampled)
    text += f"{particles} particles; " if particles else ""
    lower = tables.precisions(runs)
    text += f"{lower}; " if lower else ""
    text += f"{tables.plural('seed', len(seeds))} {_listed(map(str, seeds), ', ')}"
    counts = {row["num_seeds"] for row in rows}
    if counts != {1}:
        text += ": means ± standard error over seeds"
        text += "; without ±: one seed" if 1 in counts else ""
    text += _errors(panels, layout)
    shares = _known(rows, "khat_above_0.7")
    if shares:
        percent = _range(shares, lambda share: f"{100 * share:.0f}")
        text += f". k-hat is above 0.7 for {percent} % of the data"
    judged = [key for key in layout.columns if key.endswith("difference")]
    if judged and _known(rows, "elbo_difference_error"):
        reference = layout.names.get(layout.reference, f"`{layout.reference}`")
        text += (
            f". Bold: differs from {reference} by more than two standard errors over "
        )
        text += f"seeds{' (never a row of one seed)' if 1 in counts else ''}"
        fewest = min(counts - {1})
        if fewest in LUCK:
            text += f". If all were equal, {LUCK[fewest]} would be bold by chance"
    if any(row["invalid"] for row in rows):
        text += ". Struck out: no bounds, not to be quoted"
    if "local_difference" in layout.columns and (note := local_note(rows)):
        text += f".{note}".removesuffix(".")
    return f"{text}. {layout.note}".removesuffix(". ") + "."


def _errors(panels: Panels, layout: Layout) -> str:
    """The errors over the data of each panel, and the largest MC error."""
    sampled = any(key.startswith("log_likelihood") for key in layout.columns)
    key = "log_likelihood" if sampled else "elbo"
    errors = {
        title: _range(known, tables.error_text)
        for title, rows in panels.items()
        if (known := _known(rows, f"{key}_std_error"))
    }
    text = ""
    if errors:
        shown = [f"{error} ({title})" for title, error in errors.items()]
        shown = shown if len(set(errors.values())) > 1 else list(errors.values())[:1]
        text = ". Standard error over the data (shared by the rows of a data set): "
        text += ", ".join(shown)
    mc_errors = _known(
        [r for rows in panels.values() for r in rows], "log_likelihood_mc_error"
    )
    if sampled and any(mc_errors):
        text += f"; MC error: at most {tables.error_text(max(mc_errors))}"
    return text


def _known(rows: Sequence[Row], key: str) -> list[float]:
    """The numbers of valid rows, where they have one."""
    values = [row[key] for row in rows if not row["invalid"]]
    return [value for value in values if value is not None and math.isfinite(value)]


def _listed(values: Any, by: str = " / ") -> str:
    return by.join(dict.fromkeys(values))


def _range(values: Sequence[float], text: Any) -> str:
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


# --------------------------------------------------------------------- benchmarks


def benchmark_table(times: Sequence[Mapping[str, Any]], layout: Layout) -> str:
    """Milliseconds of each network (rows) and contestant, small batch / large batch.

    Args:
        times: with `network`, `batch_size`, `what`, and `milliseconds` or `fails`.
        layout: its columns are the contestants; those that are nowhere are left out.
    """
    there = {row["what"] for row in times}
    columns = [what for what in layout.columns if what in there]
    found = {(r["network"], r["what"], r["batch_size"]): r for r in times}
    sizes = sorted({row["batch_size"] for row in times})
    lines = []
    for network in dict.fromkeys(row["network"] for row in times):
        line = {layout.headers.get("row", "network"): _name(network, layout)}
        for what in columns:
            cells = [found[key] for n in sizes if (key := (network, what, n)) in found]
            line[layout.headers.get(what, what)] = " / ".join(map(_milliseconds, cells))
        lines.append(line)
    return tables.markdown(lines, padded=False)


def _milliseconds(row: Mapping[str, Any]) -> str:
    if "fails" in row:
        return "fails"
    return f"{row['milliseconds']:.{1 if row['milliseconds'] < 99.95 else 0}f}"
