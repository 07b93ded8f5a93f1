"""A paper's table: its rows, and the budgets that they are run with."""

from dataclasses import dataclass, field
from typing import Any

from pyro_vae_zoo.files import resolve
from pyro_vae_zoo.models.create import guide_options
from pyro_vae_zoo.nn.options import completed
from pyro_vae_zoo.training.options import BARE

__all__ = ["BF16", "SMOKE", "Budget", "Row", "Table", "options_of", "repeated"]


@dataclass(frozen=True)
class Row:
    """A guide with its options, and what the paper has for it."""

    guide: str  # a registry name, or a class in a file
    options: dict[str, Any] = field(default_factory=dict)
    published: float | None = None  # log-likelihood on the test split
    published_elbo: tuple[float | None, ...] | None = None  # train, valid, test
    note: str | None = None  # what must be said wherever its numbers are shown
    is_bound: bool = True  # whether its ELBO is one
    seeds: tuple[int, ...] = (0,)
    train_size: int | None = None  # all there are
    data: str | None = None  # in place of the table's
    training: dict[str, Any] = field(default_factory=dict)  # on top of a budget's


@dataclass(frozen=True)
class Budget:
    """The size of a study: the training, and the draws of the final evaluation."""

    training: dict[str, Any]
    eval_particles: int = 1000
    fewer_particles: int | None = None  # a second log-likelihood, for comparison
    steps: int | None = None  # in place of epochs
    warmup: float | None = None  # of the KL, as a share of the epochs
    data: str | None = None  # in place of the table's
    options: dict[str, Any] = field(default_factory=dict)  # of guides that have them
    train_size: int | None = None  # at most
    local: int = 0  # test data whose log p is estimated by a q of each, too


@dataclass(frozen=True)
class Table:
    """Rows on one data set, with all else equal."""

    source: str
    data: str
    rows: dict[str, Row]
    budgets: dict[str, Budget]
    by_split: bool = False  # bounds on train and valid besides those on test
    curves: bool = False  # in one picture, where the rows are few


BF16 = {"precision": "bf16"}
SMOKE = Budget({"epochs": 2}, eval_particles=10, data="digits_binary")


def options_of(row: Row, budget: Budget) -> dict[str, Any]:
    """The options of a row's pair; what neither says is as in version 0.1.0."""
    known = guide_options(resolve(row.guide))
    extra = {name: budget.options[name] for name in budget.options if name in known}
    return completed(row.guide, known, row.options | extra, then=True)


def repeated(table: Table, budget: Budget) -> dict[str, str]:
    """Rows whose recipe is another's by a budget, and which; apart from the data.

    A row that only adds bfloat16 is one of a budget that has it anyway.
    """
    rows: dict[str, str] = {}
    found = {}
    for name, row in table.rows.items():
        known = guide_options(resolve(row.guide))
        options = options_of(row, budget)
        by_size = {"epochs": budget.steps, "kl_warmup": budget.warmup}
        known_sizes = {k: v for k, v in by_size.items() if v is not None}
        training = BARE | budget.training | known_sizes | row.training
        of = (row.guide, known | options, training, row.data, row.train_size)
        key = repr([sorted(x.items()) if isinstance(x, dict) else x for x in of])
        if rows.setdefault(key, name) != name:
            found[name] = rows[key]
    return found
