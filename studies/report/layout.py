"""Layouts of tables: the entries of `results/tables.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from pyro_vae_zoo.errors import unknown_name
from pyro_vae_zoo.files import read_json
from pyro_vae_zoo.report.averages import Result

__all__ = ["SPLITS", "Layout", "layout_of", "read_layouts"]

ARRANGEMENTS = ("beside", "stack")
SPLITS = ("train", "valid", "test")
PUBLISHED = ("log_likelihood", *(f"elbo_{split}" for split in SPLITS))


@dataclass(frozen=True)
class Layout:
    """The layout of a table that results become.

    Args:
        panels: title -> pattern for the names of the rows in it, where what stands for
            the star is the label, or folder/pattern for rows of another folder. A row
            belongs to the first panel that it fits. Titles are formatted with the
            panel's first result: "{train_size:,} images". By default a panel for each
            data set.
        rows: labels in their order; by default, and for others, the best first.
        only: the labels that are shown; by default all.
        columns: of the compact table in a page, by the keys of
            `paper.columns_of`.
        headers: other headers than the usual ones, by key.
        names: how the compact table writes a label.
        arrange: panels `beside` each other, or in a `stack`.
        reference: the label to which differences are taken, where it is there.
        benchmark: the file of times that a table of another name is made of, such as
            `benchmark_svi_step`; its columns are contestants.
        published: by the rows' names in their files, what the paper has where these do
            not say it, or say it wrongly: `log_likelihood`, `elbo_test` and so on, as
            the paper prints it.
        note: what all readers of the table must know.

    Raises:
        UserError: for an unknown arrangement, or an unknown figure in `published`.
    """

    panels: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[str] = ()
    only: Sequence[str] = ()
    columns: Sequence[str] = ("elbo", "log_likelihood", "published")
    headers: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    arrange: str = "beside"
    reference: str = "mean_field"
    benchmark: str = ""
    published: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self):
        if self.arrange not in ARRANGEMENTS:
            raise unknown_name("arrange", self.arrange, ARRANGEMENTS)
        for row, figures in self.published.items():
            for key in set(figures) - set(PUBLISHED):
                raise unknown_name(f"published figure of {row}", key, PUBLISHED)


def read_layouts(path: Path) -> dict[str, Layout]:
    """The layouts in a JSON file, by the tables' names; none where there is no file.

    Raises:
        UserError: for a key that no layout has.
    """
    if not path.exists():
        return {}
    known = [f.name for f in fields(Layout)]
    layouts = {}
    for name, entry in read_json(path).items():
        for key in set(entry) - set(known):
            raise unknown_name(f"key of {name} in {path}", key, known)
        layouts[name] = Layout(**entry)
    return layouts


def layout_of(
    layouts: Mapping[str, Layout], name: str, results: Sequence[Result] = ()
) -> Layout:
    """A folder's layout, else that of its results' table at any budget, else the default.

    >>> layouts = {"flows": Layout(rows=["iaf"])}
    >>> layout_of(layouts, "flows_full", [{"table": "flows"}]).rows
    ['iaf']
    """
    table = results[0].get("table") if results else None
    return layouts.get(name) or layouts.get(table) or Layout()
