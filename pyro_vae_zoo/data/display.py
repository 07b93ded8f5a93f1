"""Results at a prompt and in a notebook: a few lines, a table, a data frame, a figure.

A result is put in words by a `Summary`, of which its `__repr__` and `_repr_html_` are made;
its numbers, one a datum or an epoch, go to a data frame by `frame` and to a figure by
`figure`. No tensor is printed: a prompt shows what a call returns.
"""

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vae_zoo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["Row", "Summary", "digits", "figure", "frame"]

Row = tuple[str, ...]  # a name, and texts beside it
_ENDS = 4  # rows that are shown of many, at either end
_WIDTH = 80  # columns of a line


@dataclass(frozen=True)
class Summary:
    """A result in words: a sentence, and a table of a few rows.

    Attributes:
        title: what it is, of how many data and draws, in which unit.
        rows: names, numbers and what there is to say of these.
        header: names of the columns of numbers, if they have any.

    >>> print(Summary("Tosses of two coins", [("first", "7", "heads"), ("other", "12")]))
    Tosses of two coins
      first   7  heads
      other  12
    """

    title: str
    rows: Sequence[Row]
    header: Row = ()

    def __str__(self) -> str:
        """Lines of at most 80 columns, as long as no name is longer."""
        table = self._table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = textwrap.wrap(self.title, _WIDTH, subsequent_indent="  ")
        for name, *cells in table:
            shown = [name.ljust(widths[0])]
            for cell, width, right in zip(
                cells, widths[1:], self._right(), strict=True
            ):
                shown.append(cell.rjust(width) if right else cell)
            lines.append(("  " + "  ".join(shown)).rstrip()[:_WIDTH])
        return "\n".join(lines)

    def html(self) -> str:
        """A table that has no colours of its own: those of the page, light or dark."""
        caption = f'<caption style="{_CAPTION}">{html.escape(self.title)}</caption>'
        text = ""
        for i, (name, *cells) in enumerate(self._table()):
            kind = "th" if self.header and i == 0 else "td"
            text += f'<tr><th scope="row" style="{_LEFT}">{html.escape(name)}</th>'
            for cell, right in zip(cells, self._right(), strict=True):
                style = _RIGHT if right else _LEFT
                text += f'<{kind} style="{style}">{html.escape(cell)}</{kind}>'
            text += "</tr>"
        return f"<table>{caption}<tbody>{text}</tbody></table>"

    def _table(self) -> list[list[str]]:
        """The header and the rows, as many cells in each; the middle of many left out."""
        rows = [[*row] for row in self.rows]
        if len(rows) > 2 * _ENDS + 1:
            rows[_ENDS:-_ENDS] = [["..."]]
        rows = [["", *self.header], *rows] if self.header else rows
        width = max(map(len, rows), default=0)
        return [row + [""] * (width - len(row)) for row in rows]

    def _right(self) -> list[bool]:
        """Whether a column is of numbers: all that have a name, else the first."""
        width = max(map(len, self._table()), default=1) - 1
        return [bool(self.header) or i == 0 for i in range(width)]


_CAPTION = "caption-side: top; text-align: left; color: inherit; padding: 0.3em 0"
_RIGHT = "text-align: right; font-variant-numeric: tabular-nums; padding: 0.1em 0.6em"
_LEFT = "text-align: left; padding: 0.1em 0.6em"


def digits(number: float | None, decimals: int = 3) -> str:
    """A number with so many decimals; `?` for what is not finite, or null in JSON.

    >>> digits(-89.1234), digits(0.25, 2), digits(-1.5e7), digits(math.nan)
    ('-89.123', '0.25', '-1.5e+07', '?')
    """
    if number is None or not math.isfinite(number):
        return "?"
    return f"{number:.6g}" if abs(number) >= 1e5 else f"{number:.{decimals}f}"


def frame(columns: Mapping[str, Any], index: str | None = None) -> "DataFrame":
    """A data frame of columns, tensors as NumPy's arrays.

    Args:
        columns: as many numbers in each.
        index: what the rows are, one name for all of them: `"datum"` counts from 0.

    Raises:
        UserError: without pandas.

    >>> frame({"log_prob": Tensor([-90.0, -91.0])}, "datum").index.name
    'datum'
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError(
            "to_frame() needs pandas, which is not installed: "
            'pip install "pyro_vae_zoo[data]"'
        ) from error
    arrays = {
        name: values.numpy() if isinstance(values, Tensor) else values
        for name, values in columns.items()
    }
    found = pandas.DataFrame(arrays)
    return found if index is None else found.rename_axis(index)


def figure(result: Any, title: str | None) -> "Figure":
    """The figure of a result, which `plots` draws by its kind.

    The one import that leads up, made where it is called: figures stand on results.
    """
    from pyro_vae_zoo.plots import plot_result

    return plot_result(result, title=title)
