"""All that is generated from `results/`: tables, figures, and the README's blocks.

`generate` writes them, `stale` names those that are not what `generate` would write.
Text is compared byte for byte. A figure carries the digest of its table: drawn from
other numbers it is stale, drawn by another matplotlib it is not.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pyro_vae_zoo import report
from pyro_vae_zoo.checkpoint import read_json, write_atomically
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.paper_report import csv_panels, markdown_panels
from pyro_vae_zoo.paper_rows import Layout, Panels, read_layouts, read_panels
from pyro_vae_zoo.readme_tables import (
    benchmark_table,
    block_names,
    brief_table,
    fill_blocks,
)

__all__ = ["LAYOUTS_FILE", "generate", "stale"]

LAYOUTS_FILE = "tables.json"
COMMAND = "python examples/report.py"


def generate(results: Path, readme: Path | None = None) -> list[Path]:
    """Write every table and figure below `results`, and the blocks of the README.

    Args:
        results: the folder of the folders of results; `tables.json` in it says how
            they become tables (`paper_rows.Layout`), where the default is not good.
        readme: a file with blocks; None for none.

    Returns:
        what was written.

    Raises:
        DataFileError: for results that are not there, or corrupt.
        UserError: for results that do not belong together, or wrong markers.
    """
    texts = dict(_texts(results, readme))  # all of them before the first is written
    figures = list(_figures(results))
    for path, text in texts.items():
        write_atomically(path, text.encode())
    for path, _, draw in figures:
        draw(path)
    return [*texts, *(path for path, _, _ in figures)]


def stale(results: Path, readme: Path | None = None) -> list[str]:
    """Names of files, and of README blocks, that `generate` would change.

    Args:
        results: as of `generate`.
        readme: as of `generate`.

    Raises:
        DataFileError: as `generate`.
        UserError: as `generate`.
    """
    names = []
    for path, text in _texts(results, readme):
        now = path.read_text(encoding="utf-8") if path.exists() else ""
        if now != text and path == readme:
            names += [f"{path}: table {name}" for name in _changed(now, text)]
        elif now != text:
            names.append(str(path))
    for path, digest, _ in _figures(results):
        if not path.exists() or digest.encode() not in path.read_bytes():
            names.append(str(path))
    return names


def _changed(old: str, new: str) -> list[str]:
    """The blocks whose content is not the same."""
    return [
        name for name in block_names(old) if _content(old, name) != _content(new, name)
    ]


def _content(text: str, name: str) -> str:
    end = text.index(f"<!-- end table: {name} -->")
    return text[text.index(f"<!-- begin table: {name} -->") : end]


# -------------------------------------------------------------------------- tables


def _texts(results: Path, readme: Path | None) -> Iterator[tuple[Path, str]]:
    """Each text file, and what should be in it."""
    for folder, panels in _papers(results):
        layout = _layout(results, folder.name)
        yield folder / "table.md", markdown_panels(panels, layout, COMMAND)
        yield folder / "table.csv", csv_panels(panels)
    for folder, runs in _folders(results):
        if "row" not in runs[0]:
            yield folder / "comparison.md", report.markdown_table(runs)
            yield folder / "comparison.csv", report.csv_table(runs)
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        names = _block_names(readme, text)
        yield readme, fill_blocks(text, {n: _block(results, n) for n in names})


def _block_names(readme: Path, text: str) -> list[str]:
    try:
        return block_names(text)
    except UserError as error:
        raise UserError(f"{readme}: {error}") from None


def _folders(results: Path) -> Iterator[tuple[Path, list[report.Result]]]:
    """Folders that have results, in the order of their names."""
    if not results.is_dir():
        raise DataFileError(f"expected a folder of results {results}; there is none")
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        runs = report.collect(sorted(folder.glob("*.json")))
        if runs and runs[0].get("budget") != "smoke":  # that only shows that it runs
            yield folder, runs


def _papers(results: Path) -> Iterator[tuple[Path, Panels]]:
    """The folders of papers' tables, with their panels."""
    for folder, runs in _folders(results):
        if "row" in runs[0]:
            layout = _layout(results, folder.name)
            yield folder, read_panels(results, folder.name, layout)


def _layout(results: Path, name: str) -> Layout:
    return read_layouts(results / LAYOUTS_FILE).get(name, Layout())


def _block(results: Path, name: str) -> str:
    """The README's table of a name: of a benchmark's file, or a folder's panels."""
    layout, benchmark = _layout(results, name), results / f"{name}.json"
    if benchmark.exists():
        return benchmark_table(read_json(benchmark)["time"], layout)
    return brief_table(read_panels(results, name, layout), layout)


# ------------------------------------------------------------------------- figures


def _figures(results: Path) -> Iterator[tuple[Path, str, Callable[[Path], None]]]:
    """Each figure's path, the digest of its numbers, and what draws it."""
    for folder, panels in _papers(results):
        digest = hashlib.sha256(csv_panels(panels).encode()).hexdigest()
        draw = partial(_draw, panels, _layout(results, folder.name), digest)
        yield folder / "table.png", digest, draw


def _draw(panels: Panels, layout: Layout, digest: str, path: Path) -> None:
    from pyro_vae_zoo.plots import plot_scores, save_figure

    runs = [run for rows in panels.values() for row in rows for run in row["seeds"]]
    scores = {
        name or runs[0]["data"]: {row["label"]: row["seeds"] for row in rows}
        for name, rows in panels.items()
    }
    title = f"{runs[0]['source']}: budget {runs[0]['budget']}"
    fig = plot_scores(scores, reference=layout.reference, title=title)
    save_figure(fig, path, metadata={"Description": f"table.csv {digest}"})
