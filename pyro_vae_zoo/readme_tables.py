"""The README's tables: compact, and between markers that say which one they are.

A block is all that stands between a line `<!-- begin table: NAME -->` and the next
`<!-- end table: NAME -->`; `fill_blocks` puts the tables in.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae_zoo import _tables
from pyro_vae_zoo._averages import Row
from pyro_vae_zoo._tables import MISSING, Column
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.paper_report import columns_of, footnotes
from pyro_vae_zoo.paper_rows import Layout, Panels, paper_row

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


def fill_blocks(text: str, tables: Mapping[str, str]) -> str:
    r"""The text with each block's content replaced by its table.

    Raises:
        UserError: for markers that do not match, or a block without a table.

    >>> text = "<!-- begin table: a -->\nold\n<!-- end table: a -->\n"
    >>> fill_blocks(text, {"a": "new\n"}).splitlines()[2]
    'new'
    """
    for name in block_names(text):
        if name not in tables:
            raise unknown_name("table", name, tables)
        begin, end = f"<!-- begin table: {name} -->", f"<!-- end table: {name} -->"
        before, rest = text.split(begin, 1)
        _, after = rest.split(end, 1)
        text = f"{before}{begin}\n\n{tables[name].rstrip()}\n\n{end}{after}"
    return text


# ------------------------------------------------------------------------- tables


def brief_table(panels: Panels, layout: Layout) -> str:
    """A table of the layout's columns, and under it what the numbers depend on.

    A row whose note begins with "invalid" has its numbers struck out.

    Raises:
        UserError: for a column that the rows do not have.
    """
    several = layout.seeds == "mean" and any(
        row["num_seeds"] > 1 for rows in panels.values() for row in rows
    )
    shown = {
        title: {
            _name(row["label"], layout) + _marks(row, footnotes(panels)): {
                column.header: column.text(row, several)
                for column in _columns(rows, layout)
            }
            for row in rows
        }
        for title, rows in panels.items()
    }
    lines = _ARRANGE[layout.arrange](shown, layout)
    left = 2 if layout.arrange == "stack" else 1
    empty = {h for h in lines[0] if all(x.get(h, MISSING) == MISSING for x in lines)}
    lines = [{h: x[h] for h in x if h not in empty} for x in lines]
    below = textwrap.fill(_below(panels, layout, several), _WIDTH)
    notes = [f"{mark} {note}." for note, mark in footnotes(panels).items()]
    return "\n\n".join([_tables.markdown(lines, left).rstrip(), below, *notes]) + "\n"


def _columns(rows: Sequence[Row], layout: Layout) -> list[Column]:
    known = columns_of(rows, layout.reference)
    for name in layout.columns:
        if name not in known:
            raise unknown_name("column", name, known)
    headers = {key: layout.headers.get(key, known[key].header) for key in known}
    if layout.seeds == "mean":
        return [known[key]._replace(header=headers[key]) for key in layout.columns]
    return [
        Column(headers[key], lambda row, _, text=known[key].text: _each(row, text))
        for key in layout.columns
    ]


def _each(row: Row, text: Any) -> str:
    """The cell of each seed, where they differ."""
    singles = [row | paper_row(row["label"], [run]) for run in row["seeds"]]
    texts = [text(single, False) for single in singles]
    return " / ".join(texts if len(set(texts)) > 1 else texts[:1])


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


def _transpose(shown: Shown, layout: Layout) -> list[dict[str, str]]:
    """A line for each panel, a column for each row, of the first of the columns."""
    panel = layout.headers.get("panel", "data")
    rows = dict.fromkeys(row for by_row in shown.values() for row in by_row)
    return [
        {panel: title}
        | {row: next(iter(by_row.get(row, {"": ""}).values())) for row in rows}
        for title, by_row in shown.items()
    ]


_ARRANGE = {"beside": _beside, "stack": _stack, "transpose": _transpose}


def _below(panels: Panels, layout: Layout, several: bool) -> str:
    """Data, split, draws, seeds and errors of all rows."""
    rows = [row for rows in panels.values() for row in rows]
    runs = [run for row in rows for run in row["seeds"]]
    seeds = sorted({run["seed"] for run in runs})
    sizes = _listed(f"{run['num_data']:,}" for run in runs)
    text = f"{_listed(_code(run['data']) for run in runs)}, "
    text += f"{_listed(run['split'] for run in runs)} split, {sizes} data; "
    draws = _listed(f"{run['num_particles']:,}" for run in runs if run["active_units"])
    text += f"{draws} draws; " if draws else ""
    text += f"seed{'s' * (len(seeds) > 1)} {_listed(map(str, seeds), ', ')}"
    if several:
        text += ", means ± their standard error (– for one seed)"
    elif len(seeds) > 1:
        text += ", each where a row has several"
    text += _errors(panels, layout)
    shares = [
        row["khat_above_0.7"] for row in rows if row["khat_above_0.7"] is not None
    ]
    if shares:
        percent = _range(shares, lambda share: f"{100 * share:.0f}")
        text += f". k-hat is above 0.7 for {percent} % of the data"
    if several and any(key.endswith("difference") for key in layout.columns):
        text += f". Bold: beyond two standard errors (seeds) from `{layout.reference}`"
    if any(row["invalid"] for row in rows):
        text += ". Struck out: no bounds, not to be quoted"
    return text + "."


def _errors(panels: Panels, layout: Layout) -> str:
    """The errors over the data of each panel, and that of the draws."""
    sampled = any(key.startswith("log_likelihood") for key in layout.columns)
    key = "log_likelihood" if sampled else "elbo"
    errors = {
        title: _range([row[f"{key}_std_error"] for row in rows], _tables.error_text)
        for title, rows in panels.items()
    }
    shown = [f"{error} ({title})" for title, error in errors.items()]
    shown = shown if len(set(errors.values())) > 1 else list(errors.values())[:1]
    text = ". Standard error over the data (the same for all rows of a data set): "
    text += ", ".join(shown)
    rows = [row for rows in panels.values() for row in rows]
    of_draws = [e for row in rows if (e := row["log_likelihood_mc_error"]) > 0]
    if sampled and of_draws:
        text += f"; of the draws: at most {_tables.error_text(max(of_draws))}"
    return text


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
    return _tables.markdown(lines, padded=False)


def _milliseconds(row: Mapping[str, Any]) -> str:
    if "fails" in row:
        return "fails"
    return f"{row['milliseconds']:.{1 if row['milliseconds'] < 99.95 else 0}f}"
