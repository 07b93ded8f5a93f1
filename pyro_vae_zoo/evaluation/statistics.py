"""Numbers of several seeds: the standard error of their mean, and differences."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

__all__ = ["difference", "number", "standard_error"]


def number(value: float | None) -> float:
    """JSON has null for what is not finite, and for errors that are not known.

    >>> number(None), number(-90.0)
    (nan, -90.0)
    """
    return math.nan if value is None else value


def standard_error(values: Sequence[float]) -> float | None:
    """That of the mean of several seeds; None for one, nan where one is not finite.

    >>> standard_error([-91.0, -89.0]), standard_error([-90.0])
    (1.0, None)
    """
    if len(values) < 2:
        return None
    finite = all(map(math.isfinite, values))
    return stdev(values) / math.sqrt(len(values)) if finite else math.nan


def difference(
    runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], key: str
) -> tuple[float, float | None]:
    """How far `runs` are ahead of `others`, and its standard error over the seeds.

    Errors are added as if the two were independent. That is conservative where a seed
    gives both the same start, so that part of its luck cancels. The error is over
    seeds on this test set: it says nothing of another one. With one seed on either
    side there is none.

    >>> ours = [{"elbo": -89.0}, {"elbo": -91.0}]
    >>> difference(ours, [{"elbo": -92.0}, {"elbo": -92.0}], "elbo")
    (2.0, 1.0)
    """
    sides = [[number(run[key]) for run in side] for side in (runs, others)]
    errors = [standard_error(values) for values in sides]
    ahead = fmean(sides[0]) - fmean(sides[1])
    return ahead, None if None in errors else math.hypot(*errors)
