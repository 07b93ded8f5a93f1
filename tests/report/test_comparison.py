"""Tables: numbers equal the runs', seeds are averaged, unlike runs are refused."""

import csv
import io
import json
import math

import pytest
from reports import markdown_rows, result

from pyro_vae_zoo import report
from pyro_vae_zoo.errors import DataFileError, UserError


def test_markdown_shows_the_numbers_of_a_run():
    (row,) = markdown_rows(report.markdown_table([result()]))
    assert row == {
        "guide": "iaf (K = 4)",
        "ELBO": "-92.00",
        "log-likelihood": "-90.00",
        "± data": "0.25",
        "± MC": "0.004",
        "gap": "2.00",
        "KL": "20.50",
        "active": "6/8",
        "k-hat": "0.35",
        "> 0.7": "6 %",
        "ESS": "432",
        "parameters": "123,456",
        "s/epoch": "2.5",
        "epochs": "10",
        "seeds": "1",
    }


def test_columns_line_up_and_numbers_are_right_aligned():
    rows = [result(), result("mean_field", log_likelihood=-100.0)]
    lines = [x for x in report.markdown_table(rows).splitlines() if x.startswith("|")]
    assert len(set(map(len, lines))) == 1
    assert all(cell.endswith(":") for cell in lines[1].strip("| ").split(" | ")[1:])


def test_seeds_are_averaged_with_their_standard_error():
    values = [-90.0, -90.4, -91.4]
    runs = [result(seed=s, log_likelihood=v) for s, v in enumerate(values)]
    (row,) = report.summarise(runs)
    assert row["num_seeds"] == 3
    assert row["seed_list"] == [0, 1, 2]
    assert row["log_likelihood"] == pytest.approx(-90.6)
    variance = ((0.6**2) + (0.2**2) + (0.8**2)) / 2
    error = math.sqrt(variance / 3)
    assert row["log_likelihood_seed_error"] == pytest.approx(error)
    assert row["elbo_seed_error"] == 0
    assert row["gap"] == pytest.approx(1.4)
    # the data are the same for every seed, the draws are not
    assert row["log_likelihood_std_error"] == pytest.approx(0.25)
    assert row["log_likelihood_mc_error"] == pytest.approx(0.004 / math.sqrt(3))
    (cells,) = markdown_rows(report.markdown_table(runs))
    assert cells["log-likelihood"] == f"-90.60 ± {error:.2f}"


def test_rows_are_sorted_and_the_best_is_bold_only_where_it_is_clear():
    def names(difference):
        second = -90.0 - difference
        rows = [result("mean_field", log_likelihood=second), result()]
        return [r["guide"] for r in markdown_rows(report.markdown_table(rows))]

    two_errors = 2 * math.sqrt(2 * (0.25**2 + 0.004**2))
    assert names(two_errors + 0.01) == ["**iaf (K = 4)**", "mean_field"]
    assert names(two_errors - 0.01) == ["iaf (K = 4)", "mean_field"]
    (alone,) = markdown_rows(report.markdown_table([result()]))
    assert "*" not in alone["guide"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", "mnist_static"),
        ("variant", "another draw"),
        ("split", "valid"),
        ("num_particles", 100),
        ("epochs", 20),
        ("weights", "last"),
        ("num_data", 10),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(key, value):
    runs = [result(), result("planar", **{key: value})]
    with pytest.raises(UserError, match=f"different {key} .*{value}"):
        report.markdown_table(runs)


def test_other_settings_that_differ_are_in_the_labels():
    runs = [
        result(options={"num_flows": 2, "latent_dim": 8}),
        result(options={"num_flows": 2, "latent_dim": 4}),
        result("mean_field", options={"latent_dim": 8}),
        result("planar", options={"latent_dim": 8}),  # K = 2 by default
    ]
    labels = {row["label"] for row in report.summarise(runs)}
    assert labels == {
        "iaf (K = 2, latent_dim = 8)",
        "iaf (K = 2, latent_dim = 4)",
        "mean_field (latent_dim = 8)",
        "planar (K = 2, latent_dim = 8)",
    }


def test_defaults_of_guides_are_not_in_the_labels():
    runs = [
        result(options={"num_flows": 2}),
        result("ladder", options={"num_layers": 3}),  # of its own sizes and networks
        result("mean_field", options={"latent_dim": 40}),  # what it has anyway
    ]
    labels = [row["label"] for row in report.summarise(runs)]
    assert sorted(labels) == ["iaf (K = 2)", "ladder (L = 3)", "mean_field"]
    small = [*runs, result("mean_field", options={"latent_dim": 8}, seed=1)]
    assert "mean_field (latent_dim = 8)" in {
        row["label"] for row in report.summarise(small)
    }


@pytest.mark.parametrize(
    ("others", "labels"),
    [
        ((None, 0), {"iaf (K = 4)"}),
        ((10, None), {"iaf (K = 4)"}),
        ((10, 3), {"iaf (K = 4)", "iaf (K = 4, patience = 3)"}),
        ((4, 3), {"iaf (K = 4, patience = 4)", "iaf (K = 4, patience = 3)"}),
    ],
)
def test_the_usual_patience_is_as_good_as_none(others, labels):
    """Which is ten of ten epochs."""
    runs = [result(seed=0), result(seed=1)]
    for run, patience in zip(runs, others, strict=True):
        run["training"] |= {"patience": patience}
    assert {row["label"] for row in report.summarise(runs)} == labels


@pytest.mark.parametrize(
    ("key", "values"), [("patience", (0, 10)), ("clip_norm", (0, None))]
)
def test_what_comes_to_the_same_is_told_apart_if_need_be(key, values):
    runs = [result(), result()]
    for run, value in zip(runs, values, strict=True):
        run["training"] |= {key: value}
    labels = [row["label"] for row in report.summarise(runs)]
    assert len({*labels}) == 2
    assert all(label.startswith("iaf (K = 4") for label in labels)


def test_one_datum_has_no_active_units_and_is_estimated_all_the_same():
    one = {"active_units": {}, "kl_per_site": {"z": 1.0}, "num_data": 1}
    table = report.markdown_table([result(**one)])
    assert "by importance sampling with 1000 particles" in table
    with pytest.raises(UserError, match="different num_particles"):
        report.markdown_table([result(**one), result(seed=1, **one, num_particles=3)])
    exact = result("maf", active_units={}, kl_per_site={})
    assert "log-likelihood exact" in report.markdown_table([exact])


def test_one_run_given_twice_is_refused():
    with pytest.raises(UserError, match="seed comes twice"):
        report.summarise([result(), result()])


def test_nothing_to_report_is_an_error():
    with pytest.raises(UserError, match="no results"):
        report.markdown_table([])


def test_missing_diagnostics_leave_a_dash():
    run = result(active_units={}, khat={"median": None, "above_0.7": None})
    (row,) = markdown_rows(report.markdown_table([run]))
    assert (row["active"], row["k-hat"], row["> 0.7"]) == ("–", "–", "–")


def test_units_of_several_sites_are_added():
    run = result(active_units={"z_1": "3/8", "z_2": "1/4"})
    assert markdown_rows(report.markdown_table([run]))[0]["active"] == "4/12"


def test_hierarchies_are_named_by_their_layers():
    runs = [result("ladder", options={"num_layers": n}) for n in (2, 3)]
    labels = [row["guide"] for row in markdown_rows(report.markdown_table(runs))]
    assert labels == ["ladder (L = 2)", "ladder (L = 3)"]


def test_caption_names_what_the_numbers_depend_on():
    text = report.caption([result(), result(seed=3)])
    for part in ("digits", "one draw", "test split", "1000 particles", "10 epochs"):
        assert part in text
    for part in (
        "seeds 0, 3",
        "best weights",
        "lr 0.001",
        "cpu (2 threads, torch 2.6)",
    ):
        assert part in text


def test_csv_holds_the_unrounded_numbers():
    runs = [result(log_likelihood=-90.123456789), result(seed=1)]
    (row,) = csv.DictReader(io.StringIO(report.csv_table(runs)))
    assert float(row["log_likelihood"]) == (-90.123456789 - 90.0) / 2
    assert row["label"] == "iaf (K = 4)"
    assert row["seed_list"] == "0 1"


def test_collect_reads_folders_parents_and_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result(name)))
    (tmp_path / "c.json").write_text(json.dumps(result("c")))
    found = report.collect([tmp_path / "a", tmp_path, tmp_path / "c.json"])
    assert [r["guide"] for r in found] == ["a", "a", "b", "c"]
    assert found[0]["folder"] == str(tmp_path / "a")


def test_runs_of_version_0_1_0_are_of_the_data_that_they_are_called_now(tmp_path):
    (tmp_path / "then.json").write_text(
        json.dumps(result(variant="one Bernoulli draw, 1297/250/250"))
    )
    today = result(
        seed=1, data="digits_binary", variant="one Bernoulli draw, 1297/250/250"
    )
    (tmp_path / "now.json").write_text(json.dumps(today))
    with pytest.warns(UserWarning, match="is now called 'digits_binary'"):
        then, now = report.collect([tmp_path / "then.json", tmp_path / "now.json"])
    assert then["data"] == now["data"] == "digits_binary"
    assert len(report.summarise([then, now])) == 1


def test_collect_says_what_is_wrong(tmp_path):
    with pytest.raises(DataFileError, match="no result.json in or below"):
        report.collect([tmp_path])
    with pytest.raises(DataFileError, match="none.json"):
        report.collect([tmp_path / "none.json"])
    broken = result()
    del broken["elbo"]
    (tmp_path / "result.json").write_text(json.dumps(broken))
    with pytest.raises(DataFileError, match="missing required field elbo"):
        report.collect([tmp_path])
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(DataFileError, match="no result of a run"):
        report.collect([tmp_path])


def test_write_report(tmp_path):
    runs = []
    for seed in (0, 1):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        record = {"epoch": 1, "valid_elbo": -99.0, "train_elbo": -98.0}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        runs.append(result(seed=seed) | {"folder": str(folder)})
    folder = report.write_report([*runs, result("mean_field")], tmp_path / "out")
    assert (folder / "comparison.md").read_text() == report.markdown_table(
        [*runs, result("mean_field")]
    )
    assert (folder / "comparison.csv").read_text().count("\n") == 3
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.iterdir())) == 3


def test_broken_metrics_are_named(tmp_path):
    assert report.read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1')
    with pytest.raises(DataFileError, match="metrics.jsonl is not JSON lines"):
        report.read_metrics(tmp_path)
    good = '{"epoch": 1, "valid_elbo": null}\n'
    for line, said in (
        (
            '{"epoch": 2, "valid_elbo": "a"}',
            r"valid_elbo: expected float \| null, got str",
        ),
        ('{"valid_elbo": -1.0}', "object missing required field epoch"),
        ("[]", "expected object, got array"),
    ):
        (tmp_path / "metrics.jsonl").write_text(good + line)
        with pytest.raises(DataFileError, match=rf"\(line 2\): {said}"):
            report.read_metrics(tmp_path)


def test_runs_of_ones_own_guide_by_other_options_are_other_rows():
    """Nobody knows the default of an option that only one of them was given."""
    one = result("custom:Mine", 0, -90.0, options={})
    other = result("custom:Mine", 1, -140.0, options={"width": 8})
    assert report.labels_of([one, other]) == ["custom:Mine", "custom:Mine (width = 8)"]
    assert [row["num_seeds"] for row in report.summarise([one, other])] == [1, 1]
    again = result("custom:Mine", 1, -91.0, options={})
    assert report.labels_of([one, again]) == 2 * ["custom:Mine"]


def test_a_ladder_that_says_nothing_of_skip_connections_had_none(tmp_path):
    """As in the results of version 0.1.0, which are no seeds of later ones."""
    options = ({"skip": True}, {"skip": False}, {})
    for name, given in zip("abc", options, strict=True):
        run = result("ladder", options=given, seed="abc".index(name))
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    found = report.collect([tmp_path / f"{name}.json" for name in "abc"])
    new, off, old = report.comparison.labels_of(found)
    assert old == off == "ladder (L = 5, skip = False)"
    assert new == "ladder (L = 5, skip = True)"
