"""The notebooks: each runs from top to bottom, on a small budget, without a warning."""

import os
import re
from pathlib import Path

import pytest
import torch
from pairs import quick

nbformat = pytest.importorskip("nbformat", reason="needs jupyter")
nbclient = pytest.importorskip("nbclient", reason="needs jupyter")

TUTORIALS = Path(__file__).parent.parent / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
LARGEST = 1_000_000  # bytes, with its pictures


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def small(notebook):
    """The notebook with the budget of its metadata in place of that of its first cell."""
    first = code_of(notebook)[0]
    for name, value in notebook.metadata["smoke"].items():
        pattern = rf"^{name} = [^#\n]*"
        assert len(re.findall(pattern, first.source, re.M)) == 1, name
        first.source = re.sub(pattern, f"{name} = {value!r}", first.source, flags=re.M)
    return notebook


def texts_of(cell):
    """What a cell wrote to the screen, and under which name."""
    return [(o.name, o.text) for o in cell.outputs if o.output_type == "stream"]


@pytest.mark.parametrize("path", quick(NOTEBOOKS, *NOTEBOOKS[:1]), ids=lambda p: p.stem)
def test_a_notebook_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(TUTORIALS.parent))
    for name in ("PYRO_VAE_ZOO_DATA", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)  # `digits` only, pictures inline
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = small(read(path))
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=dict(os.environ))
    said = [text for c in code_of(notebook) for text in texts_of(c)]
    errors = [text for name, text in said if name == "stderr"]
    if torch.__version__.startswith("2.6."):
        # It logs that it cannot trace a branch, before the zoo's own error says so.
        errors = [text for text in errors if "evaluate_expr" not in text]
    assert errors == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_as_it_was_run(path):
    """It is committed as it came out of one run, with its pictures."""
    notebook = read(path)
    cells = code_of(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_shows_no_path_of_a_machine(path):
    assert not re.search(r"/(?:home|tmp|root|work|Users)/", path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_lead_to_files(path):
    """From where the notebook is; the documentation moves them with its copy."""
    text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)
    assert links
    assert [link for link in links if not (TUTORIALS / link).is_file()] == []


def test_the_tutorials_are_numbered_without_a_gap():
    numbers = [int(p.stem[:2]) for p in NOTEBOOKS]
    assert numbers == list(range(1, len(NOTEBOOKS) + 1))
