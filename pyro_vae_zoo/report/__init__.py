"""Results -> tables in Markdown and CSV, figures, and the README's tables.

`comparison` is the table of `compare`, one for guides under equal conditions; `rows`
and `paper` are the papers' tables with ours beside, `readme` the compact ones, and
`generated` keeps all files up to date that are made of `results/`.
"""

from pyro_vae_zoo.report.comparison import (
    caption,
    collect,
    csv_table,
    labels_of,
    markdown_table,
    read_metrics,
    summarise,
    write_report,
)
from studies.report.generated import generate, stale

__all__ = [
    "caption",
    "collect",
    "csv_table",
    "generate",
    "labels_of",
    "markdown_table",
    "read_metrics",
    "stale",
    "summarise",
    "write_report",
]
