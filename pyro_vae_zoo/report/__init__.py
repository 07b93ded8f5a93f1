"""Comparisons of a user's runs: tables, a figure, a summary in words."""

from pyro_vae_zoo.report.comparison import (
    caption,
    choice,
    collect,
    csv_table,
    labels_of,
    markdown_table,
    read_metrics,
    summarise,
    write_report,
)

__all__ = [
    "caption",
    "choice",
    "collect",
    "csv_table",
    "labels_of",
    "markdown_table",
    "read_metrics",
    "summarise",
    "write_report",
]
