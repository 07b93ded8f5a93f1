"""What is generated from `results/` is up to date, and says what the results say."""

import csv
import io
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from test_report import markdown_rows, result

from pyro_vae_zoo import cli
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.generated import generate, stale
from pyro_vae_zoo.paper_report import columns_of, csv_panels, footnotes, markdown_panels
from pyro_vae_zoo.paper_rows import Layout, paper_row, read_layouts, read_panels
from pyro_vae_zoo.readme_tables import (
    benchmark_table,
    block_names,
    brief_table,
    fill_blocks,
)

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "valid", "test")


def row_result(row, seed=0, log_likelihood=-90.0, elbo=-92.0, **changes):
    added = {
        "table": "flows",
        "row": row,
        "budget": "cpu",
        "source": "a paper, table 1",
        "published": None,
        "train_size": 1297,
        "ess": 321.0,
    }
    return result(row, seed, log_likelihood, elbo) | added | changes


def write(folder, *results):
    folder.mkdir(parents=True, exist_ok=True)
    for r in results:
        (folder / f"{r['row']}-s{r['seed']}.json").write_text(json.dumps(r))


def panels_of(tmp_path, *results, layout=None):
    write(tmp_path / "flows_cpu", *results)
    return read_panels(tmp_path, "flows_cpu", layout or Layout())


def full(panels, layout=None):
    return markdown_panels(panels, layout or Layout(), "a command")


# ------------------------------------------------------------------ the repository


def test_no_table_figure_or_block_of_the_repository_is_stale():
    """Where this fails: `python examples/report.py`, and commit what it wrote."""
    assert stale(ROOT / "results", ROOT / "README.md") == []


@pytest.fixture
def copy(tmp_path):
    """Two folders of results, a benchmark and the README's blocks of these."""
    results = tmp_path / "results"
    for name in ("self_reflective_cpu", "mnist_static", "mnist_static_60"):
        shutil.copytree(ROOT / "results" / name, results / name)
    for name in ("tables.json", "benchmark_svi_step.json"):
        shutil.copy(ROOT / "results" / name, results)
    names = ("self_reflective_cpu", "mnist_static", "benchmark_svi_step")
    markers = [f"<!-- begin table: {n} -->\n<!-- end table: {n} -->" for n in names]
    readme = tmp_path / "README.md"
    readme.write_text("\n\nsome words\n\n".join(markers) + "\n")
    generate(results, readme)
    return results, readme


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_number_that_is_edited_makes_all_that_shows_it_stale(copy):
    results, readme = copy
    assert stale(results, readme) == []
    folder = results / "self_reflective_cpu"
    edit(folder / "iaf-s0.json", log_likelihood=-89.7)
    assert stale(results, readme) == [
        str(folder / "table.md"),
        str(folder / "table.csv"),
        f"{readme}: table self_reflective_cpu",
        str(folder / "table.png"),
    ]
    edit(results / "mnist_static" / "mean_field-s0.json", elbo=-1.0)
    assert f"{readme}: table mnist_static" in stale(results, readme)
    assert str(results / "mnist_static" / "comparison.csv") in stale(results, readme)
    generate(results, readme)
    assert stale(results, readme) == []
    assert "-89.70" in readme.read_text()


def test_edited_tables_and_missing_files_are_stale(copy):
    results, readme = copy
    folder = results / "self_reflective_cpu"
    text = readme.read_text()
    readme.write_text(text.replace("-86.40", "-83.40"))
    assert stale(results, readme) == [f"{readme}: table self_reflective_cpu"]
    readme.write_text(text.replace("some words", "other words"))
    assert stale(results, readme) == []  # what stands between the blocks is free
    (folder / "table.png").unlink()
    (folder / "table.csv").unlink()
    assert stale(results, readme) == [
        str(folder / "table.csv"),
        str(folder / "table.png"),
    ]
    assert stale(results) == stale(results, readme)


def test_results_of_the_smoke_budget_get_no_tables(copy):
    results, readme = copy
    write(results / "flows_smoke", row_result("iaf", budget="smoke"))
    assert stale(results, readme) == []


def test_a_mistake_leaves_everything_as_it_was(copy):
    results, readme = copy
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    readme.write_text(readme.read_text() + "<!-- begin table: nonesuch -->\n")
    with pytest.raises(UserError, match=r"README.md: table nonesuch has no end marker"):
        generate(results, readme)
    readme.write_text(readme.read_text() + "<!-- end table: nonesuch -->\n")
    with pytest.raises(DataFileError, match="expected results in .*nonesuch"):
        generate(results, readme)
    assert {p: p.read_bytes() for p in results.rglob("*") if p.is_file()} == before
    with pytest.raises(DataFileError, match="expected a folder of results"):
        stale(results / "nowhere")


def test_the_rows_have_the_order_of_the_recipes():
    """`tables.json` lists what `examples/reproduce.py` has, in its order."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from reproduce import TABLES
    finally:
        sys.path.remove(str(ROOT / "examples"))
    layouts = read_layouts(ROOT / "results" / "tables.json")
    known = {name: layouts.get(f"{name}_cpu") for name in TABLES}
    assert sum(layout is not None for layout in known.values()) >= 4
    for name, layout in known.items():
        if layout is None:  # the default: the best row first
            continue
        ends = [spec.partition("*")[2] for spec in layout.panels.values()] or [""]
        labels = [
            row.removesuffix(next(end for end in ends if row.endswith(end)))
            for row in TABLES[name].rows
        ]
        assert list(dict.fromkeys(labels)) == list(layout.rows), name


def test_what_the_readme_links_in_results_is_there():
    targets = [
        part.split(")")[0] for part in (ROOT / "README.md").read_text().split("](")
    ]
    targets = [t for t in targets[1:] if t.startswith("results/")]
    assert "results/gated_dag_cpu/table.png" in targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


# ---------------------------------------------------------------- rows and panels


def test_seeds_are_averaged_and_compared_with_the_reference(tmp_path):
    ours, theirs = [-89.0, -89.2, -89.7], [-90.0, -90.4]
    panels = panels_of(
        tmp_path,
        *(row_result("iaf", s, v, elbo=v - 2) for s, v in enumerate(ours)),
        *(row_result("mean_field", s, v, elbo=v - 3) for s, v in enumerate(theirs)),
        row_result("planar", 0, -91.0),
    )
    iaf, mean_field, planar = panels[""]  # the best first
    assert iaf["log_likelihood"] == pytest.approx(-89.3)
    variance = ((0.3**2) + (0.1**2) + (0.4**2)) / 2
    assert iaf["log_likelihood_seed_error"] == pytest.approx(math.sqrt(variance / 3))
    assert iaf["ess"] == 321
    assert iaf["log_likelihood_difference"] == pytest.approx(0.9)
    error = math.sqrt(variance / 3 + 0.08 / 2)  # 0.08: variance of -90.0 and -90.4
    assert iaf["log_likelihood_difference_error"] == pytest.approx(error)
    assert iaf["elbo_difference"] == pytest.approx(1.9)
    assert mean_field["log_likelihood_difference"] is None
    assert planar["log_likelihood_difference"] == pytest.approx(-0.8)
    assert planar["log_likelihood_difference_error"] is None
    shown = {cells["row"]: cells for cells in markdown_rows(full(panels))}
    assert shown["iaf"]["log p - mean_field"] == f"**+0.90 ± {error:.2f}**"
    assert shown["planar"]["log p - mean_field"] == "-0.80 ± –"
    assert shown["mean_field"]["log p - mean_field"] == "–"
    assert shown["iaf"]["seeds"] == "3"


def test_a_difference_within_two_errors_is_not_bold(tmp_path):
    panels = panels_of(
        tmp_path,
        *(row_result("iaf", s, v) for s, v in enumerate([-90.0, -90.4])),
        *(row_result("mean_field", s, v) for s, v in enumerate([-90.5, -90.9])),
    )
    (row,) = [r for r in panels[""] if r["label"] == "iaf"]
    assert row["log_likelihood_difference"] == pytest.approx(0.5)
    assert row["log_likelihood_difference_error"] == pytest.approx(math.sqrt(0.08))
    assert "+0.50 ± 0.28 |" in full(panels)
    assert "**+0.50" not in full(panels)


def test_the_papers_figures_stand_beside_ours(tmp_path):
    paper = dict(zip(SPLITS, (-90.7, -97.4, -96.0), strict=True))
    split = dict(zip(SPLITS, (-88.123, -95.0, -94.5), strict=True))
    changes = {"published_elbo": paper, "published": -86.5, "elbo_by_split": split}
    panels = panels_of(tmp_path, row_result("iaf", **changes), row_result("mean_field"))
    iaf, mean_field = markdown_rows(full(panels))
    assert iaf["paper's ELBO by split"] == "-90.7 / -97.4 / -96.0"
    assert iaf["ELBO by split"] == "-88.12 / -95.00 / -94.50"
    assert iaf["paper's log p"] == "-86.5"
    assert mean_field["paper's log p"] == mean_field["ELBO by split"] == "–"
    first, second = csv.DictReader(io.StringIO(csv_panels(panels)))
    assert float(first["published_elbo_test"]) == -96.0
    assert float(first["elbo_train"]) == -88.123
    assert float(first["published"]) == -86.5
    assert second["published"] == second["elbo_train"] == ""


def test_columns_that_are_empty_in_all_rows_are_left_out(tmp_path):
    """Files of older tables lack the keys of newer ones."""
    panels = panels_of(tmp_path, row_result("iaf"), row_result("planar"))
    (cells, _) = markdown_rows(full(panels))
    for header in cells:
        assert "paper" not in header
        assert "split" not in header
        assert " - " not in header  # without mean_field there are no differences
    assert "differences" not in full(panels).lower()
    for header in ("ELBO", "log p", "gap", "k-hat", "ESS", "active", "s/epoch"):
        assert cells[header] != "–"
    known = columns_of(panels[""], "mean_field")
    assert {"published", "difference", "elbo_by_split"} < set(known)


def test_an_invalid_bound_cannot_be_taken_for_a_number(tmp_path):
    note = "invalid bound: the map is not invertible"
    panels = panels_of(
        tmp_path,
        row_result("planar_as_published", note=note, log_likelihood=-50.0),
        row_result("no_context", note="no context enters the steps", elbo=-91.0),
        row_result("mean_field"),
    )
    rows = {cells["row"].split(" ")[0]: cells for cells in markdown_rows(full(panels))}
    invalid = rows["planar_as_published"]
    assert invalid["row"] == "planar_as_published **INVALID** [1]"
    for header in ("ELBO", "log p", "gap", "KL"):
        assert invalid[header].startswith("~~"), header
    assert invalid["log p - mean_field"] == "–"
    assert rows["no_context"]["row"] == "no_context [2]"
    assert rows["no_context"]["ELBO"] == "-91.00"
    assert rows["no_context"]["ELBO - mean_field"] == "+1.00"
    assert full(panels).endswith(f"\n[1] {note}.\n\n[2] no context enters the steps.\n")
    assert footnotes(panels) == {note: "[1]", "no context enters the steps": "[2]"}
    brief = brief_table(panels, Layout())
    assert "`planar_as_published` **invalid** [1]" in brief
    assert "~~-50.00~~" in brief
    assert "not to be quoted" in " ".join(brief.split())
    assert f"[1] {note}." in brief
    flags = {
        r["label"]: r["invalid"]
        for r in csv.DictReader(io.StringIO(csv_panels(panels)))
    }
    assert flags["planar_as_published"] == "True"
    assert flags["no_context"] == flags["mean_field"] == "False"


def test_what_is_not_finite_is_a_dash(tmp_path):
    """JSON has null for a bound that is not finite."""
    panels = panels_of(tmp_path, row_result("a", elbo=None), row_result("b"))
    a, b = markdown_rows(full(panels))
    assert (a["ELBO"], a["gap"], a["log p"]) == ("–", "–", "-90.00")
    panels = panels_of(tmp_path, row_result("a", log_likelihood=None))
    assert [row["label"] for row in panels[""]] == ["b", "a"]


@pytest.mark.parametrize(("key", "value"), [("num_particles", 10), ("epochs", 3)])
def test_unlike_rows_are_refused(tmp_path, key, value):
    with pytest.raises(UserError, match=f"flows_cpu: results of different {key}"):
        panels_of(tmp_path, row_result("iaf"), row_result("planar", **{key: value}))


def test_an_exact_density_may_have_another_number_of_draws(tmp_path):
    exact = row_result("maf", num_particles=1, active_units={}, khat=None)
    panels = panels_of(tmp_path, exact, row_result("hierarchy"))
    assert "with 1000 draws" in full(panels)
    assert markdown_rows(full(panels))[1]["ESS"] == "–"


def test_data_sets_stand_in_different_panels(tmp_path):
    rows = [row_result("iaf"), row_result("planar", data="mnist_static")]
    panels = panels_of(tmp_path, *rows)
    assert {title: [r["label"] for r in by] for title, by in panels.items()} == {
        "digits": ["iaf"],
        "mnist_static": ["planar"],
    }
    assert full(panels).index("## digits") < full(panels).index("## mnist_static")
    written = csv.DictReader(io.StringIO(csv_panels(panels)))
    assert [row["panel"] for row in written] == ["digits", "mnist_static"]


SIZES = {"small": "flows_cpu/*-z2", "large": "flows_cpu/*"}


def test_a_layout_says_which_rows_a_panel_has(tmp_path):
    rows = [row_result(name) for name in ("iaf-z2", "iaf", "planar-z2")]
    layout = Layout(panels=SIZES, rows=["planar", "iaf"])
    panels = panels_of(tmp_path, *rows, layout=layout)
    labels = {title: [r["label"] for r in by] for title, by in panels.items()}
    assert labels == {"small": ["planar", "iaf"], "large": ["iaf"]}
    layout = Layout(panels={"small": "flows_cpu/*-z2"})
    with pytest.raises(UserError, match="row 'iaf' fits no panel of flows_cpu"):
        read_panels(tmp_path, "flows_cpu", layout)
    with pytest.raises(UserError, match="pattern with one"):
        read_panels(tmp_path, "flows_cpu", Layout(panels={"": "flows_cpu/z2"}))


def test_seeds_that_disagree_about_the_paper_are_refused(tmp_path):
    rows = [row_result("iaf", published=-80.0), row_result("iaf", 1, published=-81.0)]
    with pytest.raises(UserError, match="row iaf: its seeds have different published"):
        panels_of(tmp_path, *rows)
    with pytest.raises(UserError, match="seed comes twice"):
        paper_row("iaf", [row_result("iaf")] * 2)


def test_latents_are_said_as_layers_where_they_are_alike():
    def latents(**sites):
        return paper_row("a", [row_result("a", active_units=sites)])["latents"]

    assert latents(z="3/40") == "40"
    assert latents(z_1="1/10", z_2="9/10") == "2 x 10"
    assert latents(z_1="1/10", z_2="9/20") == "10 + 20"
    assert latents() == ""


# --------------------------------------------------------------- the README's tables


def test_panels_beside_each_other(tmp_path):
    values = {"iaf-z2": -88.0, "planar-z2": -89.0, "iaf": -90.0}
    rows = [row_result(name, 0, v) for name, v in values.items()]
    layout = Layout(panels=SIZES, columns=["log_likelihood"], names={"iaf": "IAF"})
    panels = panels_of(tmp_path, *rows, layout=layout)
    assert markdown_rows(brief_table(panels, layout)) == [
        {"row": "IAF", "small": "-88.00", "large": "-90.00"},
        {"row": "`planar`", "small": "-89.00", "large": ""},
    ]
    layout = Layout(panels=SIZES, columns=["elbo", "log_likelihood"])
    (first, _) = markdown_rows(brief_table(panels, layout))
    assert list(first)[1:3] == ["ELBO, small", "log p, small"]


def test_panels_in_a_stack_and_one_line_each(tmp_path):
    values = {"iaf-z2": -88.0, "iaf": -90.0}
    rows = [row_result(name, 0, v) for name, v in values.items()]
    changes = {"panels": SIZES, "columns": ["log_likelihood"]}
    stack = Layout(**changes, arrange="stack", headers={"panel": "size"})
    panels = panels_of(tmp_path, *rows, layout=stack)
    assert markdown_rows(brief_table(panels, stack)) == [
        {"size": "small", "row": "`iaf`", "log p": "-88.00"},
        {"size": "large", "row": "`iaf`", "log p": "-90.00"},
    ]
    transposed = Layout(**changes, arrange="transpose")
    assert markdown_rows(brief_table(panels, transposed)) == [
        {"data": "small", "`iaf`": "-88.00"},
        {"data": "large", "`iaf`": "-90.00"},
    ]


def test_seeds_are_shown_each_or_averaged(tmp_path):
    rows = [row_result("iaf", s, v) for s, v in enumerate([-88.0, -89.0])]
    panels = panels_of(tmp_path, *rows, row_result("planar"))
    each = brief_table(panels, Layout(seeds="each"))
    iaf, planar = markdown_rows(each)
    assert iaf == {"row": "`iaf`", "ELBO": "-92.00", "log p": "-88.00 / -89.00"}
    assert planar["log p"] == "-90.00"
    assert "seeds 0, 1, each where a row has several" in " ".join(each.split())
    mean = brief_table(panels, Layout())
    iaf, planar = markdown_rows(mean)
    assert (iaf["log p"], planar["log p"]) == ("-88.50 ± 0.50", "-90.00 ± –")
    assert "means ± their standard error" in " ".join(mean.split())


def test_what_the_numbers_depend_on_stands_below(tmp_path):
    panels = panels_of(tmp_path, row_result("iaf"), row_result("planar", seed=4))
    text = " ".join(brief_table(panels, Layout()).split())
    for part in (
        "`digits`, test split, 250 data; 1,000 draws; seeds 0, 4",
        "Standard error over the data (the same for all rows of a data set): 0.25",
        "of the draws: at most 0.004",
        "k-hat is above 0.7 for 6 % of the data",
    ):
        assert part in text
    bounds = " ".join(brief_table(panels, Layout(columns=["elbo"])).split())
    assert "of a data set): 0.30. k-hat" in bounds


def test_guides_of_a_comparison_are_written_as_code(tmp_path):
    folder = tmp_path / "compared"
    folder.mkdir()
    for i, run in enumerate([result(), result("mean_field", log_likelihood=-91.0)]):
        (folder / f"{i}.json").write_text(json.dumps(run))
    layout = Layout(headers={"row": "guide"})
    rows = markdown_rows(brief_table(read_panels(tmp_path, "compared", layout), layout))
    assert [row["guide"] for row in rows] == ["`iaf`, K = 4", "`mean_field`"]


def times(network, **milliseconds):
    return [
        {"network": network, "batch_size": n, "what": what, "milliseconds": value}
        for what, values in milliseconds.items()
        for n, value in zip((1000, 100), values, strict=True)
    ]


def test_a_benchmark_is_a_row_for_each_network():
    layout = Layout(
        columns=["SVI", "hand", "graph"],
        headers={"row": "", "hand": "by hand"},
        names={"iaf_2": "`iaf`, K = 2"},
    )
    rows = times("iaf_2", SVI=(99.96, 9.149), hand=(58.1, 7.46), other=(1, 1))
    rows += times("ladder", SVI=(460.4, 172.2))
    assert markdown_rows(benchmark_table(rows, layout)) == [
        {"": "`iaf`, K = 2", "SVI": "9.1 / 100", "by hand": "7.5 / 58.1"},
        {"": "`ladder`", "SVI": "172 / 460", "by hand": ""},
    ]
    rows += times("ladder", graph=(20.0, 10.0))
    rows[0] = {k: v for k, v in rows[0].items() if k != "milliseconds"} | {"fails": "x"}
    first, second = markdown_rows(benchmark_table(rows, layout))
    assert (first["graph"], second["graph"]) == ("", "10.0 / 20.0")
    assert first["SVI"] == "9.1 / fails"


# ---------------------------------------------------------------- markers, layouts


BEGIN, END = "<!-- begin table: {} -->", "<!-- end table: {} -->"


def test_blocks_are_filled_and_the_rest_is_left_alone():
    text = f"a\n{BEGIN.format('x')}\n| old |\n{END.format('x')}\nb `\\1`\n"
    filled = fill_blocks(text, {"x": "| \\1 |\n"})
    expected = f"a\n{BEGIN.format('x')}\n\n| \\1 |\n\n{END.format('x')}\nb `\\1`\n"
    assert filled == expected
    assert fill_blocks(filled, {"x": "| \\1 |\n", "y": ""}) == filled
    assert block_names(filled) == ["x"]
    with pytest.raises(UserError, match="unknown table 'x'; did you mean 'xx'"):
        fill_blocks(text, {"xx": ""})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([BEGIN.format("x")], "table x has no end marker"),
        ([END.format("x")], "line 1: the end of table x, which has not begun"),
        ([BEGIN.format("x"), END.format("y")], "line 2: the end of table y"),
        ([BEGIN.format("x"), BEGIN.format("y")], "line 2: table y begins before x"),
        ([BEGIN.format("x"), END.format("x")] * 2, "line 3: table x is there twice"),
        (["<!-- begin table x -->"], "line 1: expected <!-- begin table: NAME"),
        (["a " + BEGIN.format("x")], "alone on a line, got 'a <!-- begin"),
    ],
)
def test_markers_that_do_not_match_are_named(lines, message):
    with pytest.raises(UserError, match=message):
        block_names("\n".join(lines))


def test_layouts_are_read_and_checked(tmp_path):
    path = tmp_path / "tables.json"
    assert read_layouts(path) == {}
    path.write_text('{"flows": {"rows": ["a"], "seeds": "each"}}')
    assert read_layouts(path) == {"flows": Layout(rows=["a"], seeds="each")}
    path.write_text('{"flows": {"row": ["a"]}}')
    with pytest.raises(
        UserError, match=r"key of flows in .*'row'; did you mean 'rows'"
    ):
        read_layouts(path)
    for wrong in ({"arrange": "besides"}, {"seeds": "all"}):
        with pytest.raises(UserError, match="known: "):
            Layout(**wrong)
    layout = Layout(columns=["elbow"])
    panels = panels_of(tmp_path, row_result("iaf"), layout=layout)
    with pytest.raises(UserError, match="unknown column 'elbow'; did you mean 'elbo'"):
        brief_table(panels, layout)


# ------------------------------------------------------------------ the command line


def test_the_command_writes_and_checks(tmp_path, capsys):
    results = tmp_path / "results"
    write(results / "flows_cpu", row_result("iaf"), row_result("mean_field"))
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN.format('flows_cpu')}\n{END.format('flows_cpu')}\n")
    argv = ["report", "--results", str(results)]
    assert cli.main([*argv, "--check"]) == 1
    out = capsys.readouterr().out
    for name in ("table.md", "table.csv", "table.png", "README.md: table flows_cpu"):
        assert f"{name}\n" in out
    assert not (results / "flows_cpu" / "table.md").exists()
    assert cli.main(argv) == 0
    assert cli.main([*argv, "--check"]) == 0
    assert "nothing is stale" in capsys.readouterr().out
    assert "| `iaf` " in readme.read_text()
    assert cli.main([*argv, "--readme", str(tmp_path / "none.md")]) == 2
    assert "none.md" in capsys.readouterr().err
    readme.unlink()
    assert cli.main([*argv, "--check"]) == 0
