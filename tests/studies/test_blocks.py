"""The tables of pages, and the markers that they stand between."""

import json

import pytest
from reports import full, markdown_rows, panels_of, result, row_result, write

from pyro_vae_zoo.errors import UserError
from studies.report.blocks import benchmark_table, block_names, brief_table, fill_blocks
from studies.report.diagnoses import diagnoses_table
from studies.report.layout import Layout
from studies.report.rows import read_folders, read_panels

SIZES = {"small": "*-z2", "large": "*"}


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


def test_panels_in_a_stack(tmp_path):
    values = {"iaf-z2": -88.0, "iaf": -90.0}
    rows = [row_result(name, 0, v) for name, v in values.items()]
    changes = {"panels": SIZES, "columns": ["log_likelihood"]}
    stack = Layout(**changes, arrange="stack", headers={"panel": "size"})
    panels = panels_of(tmp_path, *rows, layout=stack)
    assert markdown_rows(brief_table(panels, stack)) == [
        {"size": "small", "row": "`iaf`", "log p": "-88.00"},
        {"size": "large", "row": "`iaf`", "log p": "-90.00"},
    ]


def test_seeds_are_averaged(tmp_path):
    rows = [row_result("iaf", s, v) for s, v in enumerate([-88.0, -89.0])]
    panels = panels_of(tmp_path, *rows, row_result("planar"))
    text = brief_table(panels, Layout())
    iaf, planar = markdown_rows(text)
    assert iaf == {"row": "`iaf`", "ELBO": "-92.00 ± –", "log p": "-88.50 ± 0.50"}
    assert planar["log p"] == "-90.00"
    below = "seeds 0, 1: means ± standard error over seeds; without ±: one seed."
    assert below in " ".join(text.split())
    alone = panels_of(tmp_path / "alone", *rows)
    assert "one seed" not in brief_table(alone, Layout())


def test_bold_is_explained_where_something_may_be(tmp_path):
    layout = Layout(columns=["log_likelihood", "difference"])
    rows = [row_result(name, s) for name in ("mean_field", "iaf") for s in (0, 1)]
    single = panels_of(tmp_path / "single", *rows[:3], layout=layout)
    assert "Bold" not in brief_table(single, layout)
    assert "by chance" not in full(single)
    several = panels_of(tmp_path / "several", *rows, layout=layout)
    below = " ".join(brief_table(several, layout).split())
    assert "Bold: differs from `mean_field` by more than two standard errors" in below
    assert below.endswith(". If all were equal, 18 to 30 % would be bold by chance.")
    assert "12 to 18 % would be bold by chance with three" in full(several)


def test_ranges_are_of_valid_rows_with_a_number(tmp_path):
    def below(*rows):
        write(tmp_path / str(len(rows)) / "flows_cpu", *rows)
        folders = read_folders(tmp_path / str(len(rows)))
        text = brief_table(read_panels(folders, "flows_cpu", Layout()), Layout())
        return " ".join(text.split())

    wrong = {"log_likelihood_std_error": 99.0, "log_likelihood_mc_error": 9.0}
    wrong |= {"khat": {"median": 9.0, "above_0.7": 1.0}, "is_bound": False}
    unknown = {"log_likelihood_std_error": None, "log_likelihood_mc_error": None}
    invalid, null = row_result("a", **wrong), row_result("b", **unknown)
    text = below(invalid, null, row_result("c"))
    assert "of a data set): 0.25; MC error: at most 0.004." in text
    assert "above 0.7 for 6 % of the data" in text
    text = below(invalid)
    assert "Standard error" not in text
    assert "k-hat" not in text
    assert text.endswith("seed 0. Struck out: no bounds, not to be quoted.")


def test_what_the_numbers_depend_on_stands_below(tmp_path):
    panels = panels_of(tmp_path, row_result("iaf"), row_result("planar", seed=4))
    text = " ".join(brief_table(panels, Layout()).split())
    for part in (
        "`digits`, test split, 250 data; 1,000 particles; seeds 0, 4",
        "Standard error over the data (shared by the rows of a data set): 0.25",
        "MC error: at most 0.004",
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
    rows = markdown_rows(
        brief_table(read_panels(read_folders(tmp_path), "compared", layout), layout)
    )
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


# ---------------------------------------------------------------------- diagnoses


def diagnosis(guide, **parts):
    about = {"data": "six", "split": "test", "num_data": 9, "options": {"num_flows": 2}}
    settings = {"chains": 4, "temps": 1000}
    khat = {"median": 0.514}
    importance = {"log_likelihood": -8.0, "mc_error": 0.2, "num_particles": 5000}
    named = {"guide": guide, "settings": settings}
    return about | named | {"importance": importance | {"khat": khat}} | parts


def test_diagnoses_stand_side_by_side():
    annealing = {"log_likelihood": -7.5, "mc_error": None}
    gaps = {
        "approximation_gap": 1.25,
        "approximation_gap_std_error": 0.04,
        "amortisation_gap": 2.5,
        "amortisation_gap_std_error": 0.5,
    }
    runs = {
        "iaf-s0": diagnosis("iaf", annealing=annealing, gaps=gaps),
        # What does not apply is not in the file, and has a dash.
        "mixture-s0": diagnosis("mixture"),
    }
    text = diagnoses_table(runs)
    rows = [list(row.values()) for row in markdown_rows(text)]
    assert "|     | `iaf`, K = 2 | `mixture`, K = 2 |" in text
    assert rows == [
        ["importance sampling, 5,000 particles of the guide", *["-8.00 ± 0.20"] * 2],
        ["k-hat of these 5,000 particles", "0.51", "0.51"],
        ["annealing, 4 chains of 1,000 steps", "-7.50 ± –", "–"],
        ["approximation gap (family of q)", "1.25 ± 0.04", "–"],
        ["amortisation gap (encoder)", "2.50 ± 0.50", "–"],
    ]
    assert "`six`, 9 data drawn at random from the test split" in text
