"""A paper's rows: seeds averaged, differences, panels, and the full tables of them."""

import csv
import io
import math

import pytest
from reports import full, markdown_rows, panels_of, row_result, write

from pyro_vae_zoo.errors import DataFileError, UserError
from studies.report.blocks import brief_table
from studies.report.layout import Layout, layout_of, read_layouts
from studies.report.paper import columns_of, csv_panels, footnotes
from studies.report.rows import paper_row, read_folders, read_panels

SIZES = {"small": "*-z2", "large": "*"}
SPLITS = ("train", "valid", "test")


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
    assert shown["planar"]["log p - mean_field"] == "-0.80"
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
    assert iaf["published ELBO by split"] == "-90.7 / -97.4 / -96.0"
    assert iaf["ELBO by split"] == "-88.12 / -95.00 / -94.50"
    assert iaf["published log p"] == "-86.5"
    assert mean_field["published log p"] == mean_field["ELBO by split"] == "–"
    first, second = csv.DictReader(io.StringIO(csv_panels(panels)))
    assert float(first["published_elbo_test"]) == -96.0
    assert float(first["elbo_train"]) == -88.123
    assert float(first["published"]) == -86.5
    assert second["published"] == second["elbo_train"] == ""


def test_what_a_paper_is_ahead_by_is_said(tmp_path):
    bounds = {"published_elbo": {"test": -96.25}}
    results = [
        row_result("iaf", 0, -89.0, elbo=-92.0, published=-88.5, **bounds),
        row_result("planar", 0, -90.0, elbo=-93.0, published=-90.5, is_bound=False),
        row_result("mean_field", 0, -91.0),
    ]
    panels = panels_of(tmp_path, *results)
    iaf, planar, mean_field = markdown_rows(full(panels))
    assert iaf["log p - published"] == "-0.50"
    assert iaf["ELBO - published"] == "+4.25"
    assert planar["log p - published"] == "~~+0.50~~"
    assert planar["ELBO - published"] == mean_field["log p - published"] == "–"


def rises(*elbos, schedule="constant", kl_warmup=0):
    """A result whose validation ELBO was these, an epoch of 500 steps each."""
    curve = [{"step": 500 * n, "valid_elbo": e} for n, e in enumerate(elbos, 1)]
    given = {"schedule": schedule, "kl_warmup": kl_warmup}
    training = row_result("iaf")["training"] | given
    return {"curve": curve, "training": training}


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (rises(-120.0, -100.0, -97.0, -96.5), "+3.50"),
        (rises(-120.0, -95.0, -97.0, -98.0), "+0.00"),  # overfitted
        (rises(-120.0, -100.0, -99.0), "+21.00"),
        (rises(-120.0, None, -97.0, None), "+23.00"),
        (rises(-120.0), "–"),
        (rises(-120.0, -100.0, -97.0, -96.5, schedule="cosine"), "–"),
        (rises(-120.0, -100.0, -97.0, -96.5, kl_warmup=2), "+3.50"),
        (rises(-120.0, -100.0, -97.0, -96.5, kl_warmup=2.5), "–"),
        ({}, "–"),
    ],
)
def test_the_last_doubling_is_what_the_second_half_brought(tmp_path, result, shown):
    other = row_result("planar", **rises(-110.0, -100.0))
    panels = panels_of(tmp_path, row_result("iaf", **result), other)
    text = full(panels)
    (found,) = [c for c in markdown_rows(text) if c["row"] == "iaf"]
    assert found["last doubling"] == shown
    assert "first half of the steps" in text


def test_a_lead_by_local_posteriors_stands_beside_that_by_the_guides(tmp_path):
    of = {"num_data": 200, "num_particles": 2000, "std_error": 1.5}
    changes = [
        {"local_log_likelihood": value, "local": of | {"khat_above_0.7": share}}
        for value, share in ((-85.0, 0.04), (-87.0, 0.02))
    ]
    rows = map(row_result, ("iaf", "mean_field"), (0, 0))
    results = [row | change for row, change in zip(rows, changes, strict=True)]
    panels = panels_of(tmp_path, *results)
    text = full(panels)
    iaf, mean_field = markdown_rows(text)
    assert iaf["log p - mean_field, local q"] == "+2.0"
    assert mean_field["log p - mean_field, local q"] == "–"
    assert "Local q: of 200 of the data" in text
    assert "k-hat is above 0.7 for at most 4 % of these" in text
    (first, _) = csv.DictReader(io.StringIO(csv_panels(panels)))
    assert float(first["local_log_likelihood"]) == -85.0


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
    note = "the map is not invertible"
    panels = panels_of(
        tmp_path,
        row_result(
            "planar_as_published", note=note, is_bound=False, log_likelihood=-50.0
        ),
        row_result(
            "no_context", note="no context enters the steps", is_bound=True, elbo=-91.0
        ),
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


def test_a_null_of_one_seed_is_a_dash_and_no_error(tmp_path):
    known = {"log_likelihood_with": {"100": -91.0}}
    null = {"log_likelihood": None, "kl": None, "log_likelihood_with": {"100": None}}
    reference = [row_result("mean_field", seed, **known) for seed in (0, 1)]
    rows = [row_result("iaf", **known), row_result("iaf", 1, **known | null)]
    panels = panels_of(tmp_path, *rows, *reference)
    iaf = next(r for r in markdown_rows(full(panels)) if r["row"] == "iaf")
    for header in ("log p", "gap", "KL", "log p, 100 particles"):
        assert iaf[header] == "–", header
    assert iaf["ELBO"] == "-92.00 ± –"
    assert "log p - mean_field" not in iaf  # a column of dashes


def test_seeds_without_spread_give_no_error_to_judge_by(tmp_path):
    rows = [row_result("iaf", seed, -89.0) for seed in (0, 1)]
    rows += [row_result("mean_field", seed) for seed in (0, 1)]
    shown = {r["row"]: r for r in markdown_rows(full(panels_of(tmp_path, *rows)))}
    assert shown["iaf"]["log p - mean_field"] == "+1.00"


def test_validity_is_what_the_rows_say_and_not_their_notes(tmp_path):
    noted = row_result("a", note="invalid, some say")
    older, newer = row_result("b"), row_result("b", 1, is_bound=True)
    panels = panels_of(tmp_path, noted, older, newer)
    assert [row["invalid"] for row in panels[""]] == [False, False]
    with pytest.raises(UserError, match="row b: its seeds have different is_bound"):
        panels_of(tmp_path, row_result("b", 2, is_bound=False))


def test_an_invalid_reference_has_no_differences(tmp_path):
    rows = [row_result("mean_field", is_bound=False), row_result("iaf")]
    panels = panels_of(tmp_path, *rows)
    assert {row["elbo_difference"] for row in panels[""]} == {None}


def test_a_layout_has_the_papers_figures_that_the_files_lack(tmp_path):
    published = {
        "iaf": {"log_likelihood": 2670, "elbo_test": None},
        "maf": {"log_likelihood": None, "elbo_test": 3190},
    }
    layout = Layout(published=published, note="The paper's are of all images")
    old = {"published": 3190.0}
    rows = [row_result("iaf"), row_result("maf", **old), row_result("other", **old)]
    panels = panels_of(tmp_path, *rows, layout=layout)
    text = full(panels, layout)
    shown = {cells["row"]: cells for cells in markdown_rows(text)}
    assert shown["iaf"]["published log p"] == "2670"
    assert shown["maf"]["published log p"] == shown["iaf"]["published ELBO"] == "–"
    assert shown["maf"]["published ELBO"] == "3190"
    assert shown["other"]["published log p"] == "3190.0"
    assert "published ELBO by split" not in shown["maf"]
    assert " The paper's are of all images.\n" in text
    assert " The paper's are of all images.\n" in brief_table(panels, layout)
    (run,) = panels[""][1]["seeds"]  # what the figure is drawn of
    assert (run["published"], run["published_elbo"]) == (None, {"test": 3190})


def test_patience_may_end_some_runs_earlier(tmp_path):
    training = {"epochs": 50, "patience": 3}
    rows = [
        row_result("iaf", training=training, epochs=20),
        row_result("iaf", 1, training=training, epochs=23),
        row_result("planar", training=training, epochs=50),
    ]
    panels = panels_of(tmp_path, *rows)
    shown = {cells["row"]: cells["epochs"] for cells in markdown_rows(full(panels))}
    assert shown == {"iaf": "21.5", "planar": "50"}
    assert "Budget: 50 epochs, patience 3;" in full(panels)
    other = row_result("radial", training={"epochs": 40}, epochs=20)
    with pytest.raises(UserError, match="different epochs .50, 40."):
        panels_of(tmp_path, other)


@pytest.mark.parametrize(("key", "value"), [("num_particles", 10), ("epochs", 3)])
def test_unlike_rows_are_refused(tmp_path, key, value):
    with pytest.raises(UserError, match=f"flows_cpu: results of different {key}"):
        panels_of(tmp_path, row_result("iaf"), row_result("planar", **{key: value}))


def test_an_exact_density_may_have_another_number_of_draws(tmp_path):
    exact = row_result("maf", num_particles=1, active_units={}, khat=None)
    panels = panels_of(tmp_path, exact, row_result("hierarchy"))
    assert "with 1000 particles" in full(panels)
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


def test_a_layout_says_which_rows_a_panel_has(tmp_path):
    rows = [row_result(name) for name in ("iaf-z2", "iaf", "planar-z2")]
    layout = Layout(panels=SIZES, rows=["planar", "iaf"])
    panels = panels_of(tmp_path, *rows, layout=layout)
    labels = {title: [r["label"] for r in by] for title, by in panels.items()}
    assert labels == {"small": ["planar", "iaf"], "large": ["iaf"]}
    layout = Layout(panels={"small": "*-z2"})
    with pytest.raises(UserError, match="row 'iaf' fits no panel of flows_cpu"):
        read_panels(read_folders(tmp_path), "flows_cpu", layout)
    with pytest.raises(UserError, match="pattern with one"):
        read_panels(read_folders(tmp_path), "flows_cpu", Layout(panels={"": "z2"}))


def test_a_panel_may_have_the_rows_of_another_folder(tmp_path):
    write(tmp_path / "flows_full", row_result("planar", budget="full"))
    layout = Layout(panels={"{budget}": "*", "full": "flows_full/*"})
    panels = panels_of(tmp_path, row_result("iaf"), layout=layout)
    labels = {title: [r["label"] for r in by] for title, by in panels.items()}
    assert labels == {"cpu": ["iaf"], "full": ["planar"]}
    folders = read_folders(tmp_path)
    with pytest.raises(DataFileError, match="expected results in a folder 'none'"):
        read_panels(folders, "flows_cpu", Layout(panels={"": "none/*"}))
    with pytest.raises(UserError, match="title with keys of results.*'{nonesuch}'"):
        read_panels(folders, "flows_cpu", Layout(panels={"{nonesuch}": "*"}))


def test_a_layout_is_for_all_budgets_unless_one_has_its_own():
    layouts = {"a_maf": Layout(rows=["1"]), "a_maf_full": Layout(rows=["2"])}
    results = [{"table": "a_maf"}]
    for name, rows in {"a_maf_cpu": ["1"], "a_maf_full": ["2"], "a_maf": ["1"]}.items():
        assert layout_of(layouts, name, results).rows == rows
    assert layout_of(layouts, "b_cpu", [{"table": "b"}]) == Layout()
    assert layout_of(layouts, "compared", [{}]) == layout_of({}, "nothing") == Layout()


def test_seeds_that_disagree_about_the_paper_are_refused(tmp_path):
    rows = [row_result("iaf", published=-80.0), row_result("iaf", 1, published=-81.0)]
    with pytest.raises(UserError, match="row iaf: its seeds have different published"):
        panels_of(tmp_path, *rows)
    with pytest.raises(UserError, match="seed comes twice"):
        paper_row("iaf", [row_result("iaf")] * 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("options", {"num_flows": 10}),
        ("training", {"lr": 0.05, "batch_size": 100, "seed": 1}),
        ("training", {"lr": 0.001, "batch_size": 100, "seed": 1, "precision": "bf16"}),
    ],
)
def test_seeds_of_different_recipes_are_not_averaged(tmp_path, key, value):
    rows = [row_result("iaf"), row_result("iaf", 1, **{key: value})]
    with pytest.raises(UserError, match=f"row iaf: its seeds have different {key}"):
        panels_of(tmp_path, *rows)


def test_local_estimates_of_other_data_are_refused(tmp_path):
    known = {"num_particles": 2000, "std_error": 1.5, "khat_above_0.7": 0.0}
    rows = [
        row_result(name, local_log_likelihood=-85.0, local=known | {"num_data": n})
        for name, n in (("iaf", 200), ("mean_field", 100))
    ]
    with pytest.raises(UserError, match=r"different numbers of data \(200, 100\)"):
        panels_of(tmp_path, *rows)


def test_a_precision_below_float32_is_said(tmp_path):
    rows = [row_result("iaf", precision="bf16"), row_result("planar", precision="bf16")]
    assert "lr 0.001, networks in bfloat16;" in full(panels_of(tmp_path, *rows))
    rows[1] = row_result("planar")
    text = full(panels_of(tmp_path, *rows))
    assert "networks in bfloat16 where a row says so;" in text


def test_a_seed_of_today_joins_those_of_version_0_1_0(tmp_path):
    """Whose records lack the options that it had not."""
    then = row_result("iaf")
    now = then["training"] | {"seed": 1, "ema": 0, "beta": 1.0, "compile": True}
    panels_of(tmp_path, then, row_result("iaf", 1, training=now))


def test_latents_are_said_as_layers_where_they_are_alike():
    def latents(**sites):
        return paper_row("a", [row_result("a", active_units=sites)])["latents"]

    assert latents(z="3/40") == "40"
    assert latents(z_1="1/10", z_2="9/10") == "2 x 10"
    assert latents(z_1="1/10", z_2="9/20") == "10 + 20"
    assert latents() == ""


def test_layouts_are_read_and_checked(tmp_path):
    path = tmp_path / "tables.json"
    assert read_layouts(path) == {}
    path.write_text('{"flows": {"rows": ["a"], "arrange": "stack"}}')
    assert read_layouts(path) == {"flows": Layout(rows=["a"], arrange="stack")}
    path.write_text('{"flows": {"row": ["a"]}}')
    with pytest.raises(
        UserError, match=r"key of flows in .*'row'; did you mean 'rows'"
    ):
        read_layouts(path)
    for wrong in ({"arrange": "besides"}, {"published": {"iaf": {"elbow": 1}}}):
        with pytest.raises(UserError, match="known: "):
            Layout(**wrong)
    layout = Layout(columns=["elbow"])
    panels = panels_of(tmp_path, row_result("iaf"), layout=layout)
    with pytest.raises(UserError, match="unknown column 'elbow'; did you mean 'elbo'"):
        brief_table(panels, layout)
