"""Our best beside the highest published figures."""

import json

import pytest
from reports import markdown_rows, row_result, write

from pyro_vae_zoo.errors import DataFileError, UserError
from studies.report.generated import generate
from studies.report.marks import MARKS_FILE, Mark, marks_table, read_marks
from studies.report.rows import read_folders

ENTRY = {
    "data": "static MNIST",
    "models": "one vector, MLPs",
    "pair": "`iaf`",
    "folder": "flows",
    "row": "iaf",
    "published": -84.56,
    "source": "A 2020",
}


@pytest.fixture
def folders(tmp_path):
    results = [
        row_result("iaf", 0, -84.0, elbo=-88.0),
        row_result("iaf", 1, -84.4, elbo=-88.0),
        row_result("mean_field", 0, -86.0, elbo=-90.0),
    ]
    for result in results:
        write(tmp_path / "flows", result)
    return read_folders(tmp_path)


def cells(folders, **changes):
    (row,) = markdown_rows(marks_table([Mark(**ENTRY | changes)], folders))
    return row


def test_seeds_are_averaged_and_the_published_figure_is_taken_off(folders):
    assert cells(folders) == {
        "data": "static MNIST",
        "models": "one vector, MLPs",
        "ours": "`iaf`",
        "log p": "-84.20 ± 0.20",
        "highest that we know of": "-84.56, A 2020",
        "ahead by": "+0.36",
    }


def test_a_bound_is_compared_with_a_bound(folders):
    row = cells(folders, row="mean_field", number="elbo", published=-89.5)
    assert row["log p"] == "-90.00 (ELBO)"
    assert row["ahead by"] == "-0.50"


def test_what_the_numbers_depend_on_is_said(folders):
    text = " ".join(marks_table([Mark(**ENTRY)], folders).split())
    result = folders["flows"][0]
    assert f"{result['num_particles']:,} particles" in text
    share = 100 * result["khat"]["above_0.7"]
    assert f"k-hat is above 0.7 for {share:.0f} to {share:.0f} %" in text
    error = result["log_likelihood_std_error"]
    assert f"over the data: {error:.2f} to {error:.2f}." in text


def test_it_is_a_block_of_a_page(tmp_path, folders):
    (tmp_path / MARKS_FILE).write_text(json.dumps([ENTRY]))
    page = tmp_path / "page.md"
    page.write_text("<!-- begin table: marks -->\n<!-- end table: marks -->\n")
    assert page in generate(tmp_path, [page])
    assert "| `iaf` |" in page.read_text()
    assert read_marks(tmp_path / MARKS_FILE) == [Mark(**ENTRY)]


def test_a_row_that_is_not_there_is_an_error(folders):
    for changes in ({"row": "planar"}, {"folder": "other"}):
        with pytest.raises(DataFileError, match="expected a row"):
            cells(folders, **changes)
    for run in folders["flows"]:
        run["is_bound"] = False
    with pytest.raises(UserError, match="row 'iaf' in folder 'flows' is no bound"):
        cells(folders)
    with pytest.raises(UserError, match="unknown number 'kl'"):
        Mark(**ENTRY | {"number": "kl"})


def test_a_file_with_wrong_fields_is_named(tmp_path):
    path = tmp_path / MARKS_FILE
    path.write_text(json.dumps([ENTRY | {"colour": "red"}]))
    with pytest.raises(DataFileError, match=r"marks.json: .* 'colour'"):
        read_marks(path)
