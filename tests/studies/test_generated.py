"""What is generated from `results/` is up to date, and written whole or not at all."""

import json
import re
import shutil
from pathlib import Path

import pytest
from reports import row_result, write

from pyro_vae_zoo.errors import DataFileError, UserError
from studies.recipes import TABLES
from studies.report import generate, stale
from studies.report.__main__ import main
from studies.report.layout import read_layouts

ROOT = Path(__file__).parents[2]


def test_no_table_figure_or_block_of_the_repository_is_stale():
    """Where this fails: `python -m studies.report`, and commit what it wrote."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert stale(ROOT / "results", pages) == []


@pytest.fixture
def copy(tmp_path):
    """Two folders of results, a benchmark and a page with blocks of these."""
    results = tmp_path / "results"
    for name in ("self_reflective_cpu", "mnist_static", "mnist_static_60"):
        shutil.copytree(ROOT / "results" / name, results / name)
    for name in ("tables.json", "benchmark_svi_step.json"):
        shutil.copy(ROOT / "results" / name, results)
    names = ("self_reflective_cpu", "mnist_static", "benchmark_svi_step")
    markers = [f"<!-- begin table: {n} -->\n<!-- end table: {n} -->" for n in names]
    readme = tmp_path / "README.md"
    readme.write_text("\n\nsome words\n\n".join(markers) + "\n")
    generate(results, [readme])
    return results, readme


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_number_that_is_edited_makes_all_that_shows_it_stale(copy):
    results, readme = copy
    assert stale(results, [readme]) == []
    folder = results / "self_reflective_cpu"
    edit(folder / "iaf-s0.json", log_likelihood=-89.7)
    assert stale(results, [readme]) == [
        str(folder / "table.md"),
        str(folder / "table.csv"),
        f"{readme}: table self_reflective_cpu",
        str(folder / "table.png"),
    ]
    edit(results / "mnist_static" / "mean_field-s0.json", elbo=-1.0)
    assert f"{readme}: table mnist_static" in stale(results, [readme])
    assert str(results / "mnist_static" / "comparison.csv") in stale(results, [readme])
    first, second = results / "mnist_static", results / "mnist_static_60"
    assert generate(results, [readme]) == [
        folder / "table.md",
        folder / "table.csv",
        first / "comparison.md",
        first / "comparison.csv",
        readme,
        folder / "table.png",
    ]
    assert generate(results, [readme]) == stale(results, [readme]) == []
    assert second.is_dir()  # was up to date, and left alone
    assert "-89.70" in readme.read_text()


def test_a_table_is_made_of_the_benchmark_that_its_layout_names(copy):
    results, readme = copy
    layout = {"benchmark": "benchmark_svi_step", "columns": ["ours"]}
    (results / "tables.json").write_text(json.dumps({"costs": layout}))
    readme.write_text("<!-- begin table: costs -->\n<!-- end table: costs -->\n")
    generate(results, [readme])
    times = json.loads((results / "benchmark_svi_step.json").read_text())["time"]
    networks = dict.fromkeys(row["network"] for row in times)
    assert [
        line for line in networks if f"| `{line}` |" not in readme.read_text()
    ] == []
    assert "| ours |" in readme.read_text()


def test_edited_tables_and_missing_files_are_stale(copy):
    results, readme = copy
    folder = results / "self_reflective_cpu"
    text = readme.read_text()
    readme.write_text(text.replace("-86.44", "-83.44"))
    assert stale(results, [readme]) == [f"{readme}: table self_reflective_cpu"]
    readme.write_text(text.replace("some words", "other words"))
    assert stale(results, [readme]) == []  # what stands between the blocks is free
    table = (folder / "table.md").read_bytes()
    (folder / "table.md").write_bytes(table.replace(b"\n", b"\r\n"))
    assert stale(results, [readme]) == [str(folder / "table.md")]  # each byte counts
    (folder / "table.md").write_bytes(table)
    (folder / "table.png").unlink()
    (folder / "table.csv").unlink()
    assert stale(results, [readme]) == [
        str(folder / "table.csv"),
        str(folder / "table.png"),
    ]
    assert stale(results) == stale(results, [readme])


def test_results_of_the_smoke_budget_get_no_tables(copy):
    results, readme = copy
    write(results / "flows_smoke", row_result("iaf", budget="smoke"))
    assert stale(results, [readme]) == []


def test_json_that_is_no_result_is_left_alone(copy):
    results, readme = copy
    (results / "self_reflective_cpu" / "structure.json").write_text('{"rows": []}')
    (results / "diagnostics").mkdir()
    (results / "diagnostics" / "some.json").write_text('[{"guide": "iaf"}]')
    assert stale(results, [readme]) == []
    (results / "diagnostics" / "some.json").write_text('{"guide": ')
    with pytest.raises(DataFileError, match="some.json is not valid JSON"):
        stale(results, [readme])
    lacking = {"guide": "iaf", "log_likelihood": -90.0}
    (results / "diagnostics" / "some.json").write_text(json.dumps(lacking))
    with pytest.raises(
        DataFileError, match="some.json is no result of a run: object missing required"
    ):
        stale(results, [readme])


def test_a_readme_without_blocks_is_not_written(copy):
    results, readme = copy
    words = b"no markers\r\nhere"
    readme.write_bytes(words)
    before = readme.stat()
    assert generate(results, [readme]) == []
    assert readme.read_bytes() == words
    assert readme.stat().st_ino == before.st_ino


def test_a_mistake_leaves_everything_as_it_was(copy):
    results, readme = copy
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    readme.write_text(readme.read_text() + "<!-- begin table: nonesuch -->\n")
    with pytest.raises(UserError, match=r"README.md: table nonesuch has no end marker"):
        generate(results, [readme])
    readme.write_text(readme.read_text() + "<!-- end table: nonesuch -->\n")
    with pytest.raises(DataFileError, match="expected results in .*nonesuch"):
        generate(results, [readme])
    assert {p: p.read_bytes() for p in results.rglob("*") if p.is_file()} == before
    with pytest.raises(DataFileError, match="expected a folder of results"):
        stale(results / "nowhere")


def test_the_rows_have_the_order_of_the_recipes():
    """`tables.json` lists what `studies/reproduce.py` has, in its order."""
    layouts = read_layouts(ROOT / "results" / "tables.json")
    known = {name: layouts.get(name) for name in TABLES}
    assert sum(layout is not None for layout in known.values()) >= 4
    for name, layout in known.items():
        if layout is None:  # the default: the best row first
            continue
        specs = [spec.split("*") for spec in layout.panels.values()] or [("", "")]
        labels = []
        for row in TABLES[name].rows:
            start, end = next(
                (a, b) for a, b in specs if row.startswith(a) and row.endswith(b)
            )
            labels.append(row.removeprefix(start).removesuffix(end))
        assert list(dict.fromkeys(labels)) == list(layout.rows), name


@pytest.mark.parametrize("page", ["README.md", "docs/results/flows.md"])
def test_what_a_page_links_in_files_is_there(page):
    page = ROOT / page
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    files = [link for link in links if "://" not in link]
    assert files
    assert [link for link in files if not (page.parent / link).exists()] == []


def test_the_command_writes_and_checks(tmp_path, capsys):
    results = tmp_path / "results"
    write(results / "flows_cpu", row_result("iaf"), row_result("mean_field"))
    readme = tmp_path / "README.md"
    block = "<!-- begin table: flows_cpu -->\n<!-- end table: flows_cpu -->\n"
    readme.write_text(block)
    argv = ["--results", str(results)]
    assert main([*argv, "--check"]) == 1
    out = capsys.readouterr().out
    for name in ("table.md", "table.csv", "table.png", "README.md: table flows_cpu"):
        assert f"{name}\n" in out
    assert not (results / "flows_cpu" / "table.md").exists()
    assert main(argv) == 0
    assert main([*argv, "--check"]) == 0
    assert "nothing is stale" in capsys.readouterr().out
    assert "| `iaf` " in readme.read_text()
    assert main([*argv, "--pages", str(tmp_path / "none.md")]) == 2
    assert "none.md" in capsys.readouterr().err
    readme.unlink()
    assert main([*argv, "--check"]) == 0
    assert main(["--results", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "expected a folder of results" in error


def test_the_results_are_by_default_those_of_the_checkout(
    tmp_path, monkeypatch, capsys
):
    """Called from elsewhere, too."""
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 0
    assert "nothing is stale" in capsys.readouterr().out
