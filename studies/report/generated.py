"""All that is generated from `results/`: tables, figures, and the blocks of pages.

`generate` writes what is stale, `stale` names it. Text is compared byte for byte. A
figure carries the digest of its table: drawn from other numbers it is stale, drawn by
another matplotlib, or by an older version of ours, it is not; delete it to have it
drawn anew.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.diagnose import DIAGNOSTICS_FILE
from pyro_vae_zoo.files import read_json, write_atomically
from pyro_vae_zoo.report import comparison
from pyro_vae_zoo.report.averages import Result
from pyro_vae_zoo.weights.pretrained import list_pretrained, pretrained_info
from studies.report.blocks import benchmark_table, block_names, brief_table, fill_blocks
from studies.report.diagnoses import diagnoses_table
from studies.report.layout import Layout, layout_of, read_layouts
from studies.report.marks import MARKS_FILE, marks_table, read_marks
from studies.report.paper import csv_panels, markdown_panels
from studies.report.rows import Panels, read_folders, read_panels
from studies.report.weights import weights_table

__all__ = ["LAYOUTS_FILE", "generate", "stale"]

LAYOUTS_FILE = "tables.json"
COMMAND = "python -m studies.report"


class _File(NamedTuple):
    """A generated file: what is stale in it, by name, and what writes it."""

    path: Path
    stale: list[str]
    write: Callable[[], None]


class _Table(NamedTuple):
    layout: Layout
    panels: Panels


def generate(results: Path, pages: Sequence[Path] = ()) -> list[Path]:
    """Write every table and figure below `results` that is stale, and blocks of pages.

    Args:
        results: the folder of the folders of results; `tables.json` in it says how
            they become tables (`layout.Layout`), where the default is not good.
        pages: files that may have blocks: README, the documentation.

    Returns:
        what was written.

    Raises:
        DataFileError: for results that are not there, or corrupt.
        UserError: for results that do not belong together, or wrong markers.
    """
    files = [file for file in _files(results, pages) if file.stale]
    for file in files:  # after all of them are known to be made without a mistake
        file.write()
    return [file.path for file in files]


def stale(results: Path, pages: Sequence[Path] = ()) -> list[str]:
    """Names of files, and of blocks of pages, that `generate` would change.

    Args:
        results: as of `generate`.
        pages: as of `generate`.

    Raises:
        DataFileError: as `generate`.
        UserError: as `generate`.
    """
    return [name for file in _files(results, pages) for name in file.stale]


def _files(results: Path, pages: Sequence[Path]) -> list[_File]:
    """All that is generated, of results that are read once."""
    layouts = read_layouts(results / LAYOUTS_FILE)
    folders = {
        name: runs
        for name, runs in read_folders(results).items()
        if runs[0].get("budget") != "smoke"  # that only shows that it runs
    }
    tables = {
        name: _table(folders, name, layouts)
        for name, runs in folders.items()
        if "row" in runs[0]
    }
    files = [_text(results / name, text) for name, text in _texts(folders, tables)]
    block = partial(_block, results, folders, layouts, tables)
    files += [_page(page, block) for page in pages]
    for name, table in tables.items():
        files.append(_figure(results / name / "table.png", table))
    return files


def _table(
    folders: Mapping[str, Sequence[Result]], name: str, layouts: Mapping[str, Layout]
) -> _Table:
    layout = layout_of(layouts, name, folders.get(name, ()))
    return _Table(layout, read_panels(folders, name, layout))


# --------------------------------------------------------------------------- texts


def _texts(
    folders: Mapping[str, Sequence[Result]], tables: Mapping[str, _Table]
) -> Iterator[tuple[str, str]]:
    """Each text file below the results, and what should be in it."""
    for name, (layout, panels) in tables.items():
        yield f"{name}/table.md", markdown_panels(panels, layout, COMMAND)
        yield f"{name}/table.csv", csv_panels(panels)
    for name, runs in folders.items():
        if name not in tables:
            yield f"{name}/comparison.md", comparison.markdown_table(runs)
            yield f"{name}/comparison.csv", comparison.csv_table(runs)


def _text(path: Path, text: str) -> _File:
    content = text.encode()
    same = path.exists() and path.read_bytes() == content
    write = partial(write_atomically, path, content)
    return _File(path, [] if same else [str(path)], write)


def _page(path: Path, block: Callable[[str], str]) -> _File:
    """The file with its blocks filled; what stands between them stays as it is."""
    old = path.read_bytes().decode()
    try:
        names = block_names(old)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    new = fill_blocks(old, {name: block(name) for name in names})
    changed = [name for name in names if _content(old, name) != _content(new, name)]
    write = partial(write_atomically, path, new.encode())
    return _File(path, [f"{path}: table {name}" for name in changed], write)


def _content(text: str, name: str) -> str:
    end = text.index(f"<!-- end table: {name} -->")
    return text[text.index(f"<!-- begin table: {name} -->") : end]


def _block(
    results: Path,
    folders: Mapping[str, Sequence[Result]],
    layouts: Mapping[str, Layout],
    tables: Mapping[str, _Table],
    name: str,
) -> str:
    """The table of a block by its name."""
    if name == "marks":
        return marks_table(read_marks(results / MARKS_FILE), folders)
    if name == "pretrained":
        return weights_table([pretrained_info(name) for name in list_pretrained()])
    layout = layout_of(layouts, name)
    benchmark = results / f"{layout.benchmark or name}.json"
    found = sorted((results / name).glob(f"*/{DIAGNOSTICS_FILE}"))
    if found:
        return diagnoses_table({path.parent.name: read_json(path) for path in found})
    if benchmark.exists():
        return benchmark_table(read_json(benchmark)["time"], layout)
    table = tables.get(name) or _table(folders, name, layouts)
    return brief_table(table.panels, table.layout)


# ------------------------------------------------------------------------- figures


def _figure(path: Path, table: _Table) -> _File:
    digest = hashlib.sha256(csv_panels(table.panels).encode()).hexdigest()
    same = path.exists() and digest.encode() in path.read_bytes()
    write = partial(_draw, table, digest, path)
    return _File(path, [] if same else [str(path)], write)


def _draw(table: _Table, digest: str, path: Path) -> None:
    from pyro_vae_zoo.plots import plot_scores, save_figure

    panels = table.panels
    runs = [run for rows in panels.values() for row in rows for run in row["seeds"]]
    scores = {
        name or runs[0]["data"]: {row["label"]: row["seeds"] for row in rows}
        for name, rows in panels.items()
    }
    title = f"{runs[0]['source']}: budget {runs[0]['budget']}"
    if table.layout.note:
        title += f"\n{table.layout.note}"
    fig = plot_scores(scores, reference=table.layout.reference, title=title)
    save_figure(fig, path, metadata={"Description": f"table.csv {digest}"})
