"""Standard errors of means, over data and over seeds, differences, principal axes."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from pyro_vae_zoo.data.display import Row, digits

__all__ = [
    "difference",
    "error_of_draws",
    "error_over_data",
    "mean_row",
    "number",
    "principal_axes",
    "standard_error",
]


def number(value: float | None) -> float:
    """The number of a JSON value: nan for null, which stands for what is not finite.

    >>> number(None), number(-90.0)
    (nan, -90.0)
    """
    return math.nan if value is None else value


def error_over_data(values: Tensor) -> float:
    """Standard error of the mean of a number for each datum; nan for a single one.

    >>> error_over_data(Tensor([-96.0, -88.0, -88.0, -88.0]))
    2.0
    """
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def error_of_draws(std_errors: Tensor) -> float:
    """Monte-Carlo error of the mean of independent estimates, from the error of each.

    >>> error_of_draws(Tensor([3.0, 4.0]))
    2.5
    """
    return std_errors.square().sum().sqrt().item() / max(len(std_errors), 1)


def mean_row(name: str, values: Tensor, more: str = "") -> Row:
    """The mean of a number for each datum, and its standard error over them.

    >>> mean_row("log p(x)", Tensor([-96.0, -88.0, -88.0, -88.0]))
    ('log p(x)', '-90.000', '+- 2.000 over the data')
    """
    error = f"+- {digits(error_over_data(values))} over the data"
    return name, digits(values.mean().item()), error + more


def principal_axes(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Centre, principal axes as rows, and standard deviations along them, falling.

    Each axis points to where its largest component is positive. Codes of two dimensions
    keep their own axes and the origin.

    Args:
        codes: shape `(n, latent_dim)`.

    >>> line = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    >>> principal_axes(line)[1][0]
    tensor([0.6000, 0.8000, 0.0000], dtype=torch.float64)
    """
    codes = codes.double()
    if codes.shape[1] == 2:
        axes = torch.eye(2, dtype=codes.dtype, device=codes.device)
        return codes.new_zeros(2), axes, codes.std(0, correction=0)
    centre = codes.mean(0)
    covariance = (codes - centre).T @ (codes - centre) / len(codes)
    variances, columns = torch.linalg.eigh(covariance)  # rising
    axes = columns.T.flip(0)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return centre, axes * largest.sign(), variances.flip(0).clamp(min=0).sqrt()


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of several seeds; None for one, nan if not finite.

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
    """The lead of `runs` over `others`, and its standard error over the seeds.

    Errors are added as if the two were independent. That is conservative where a seed
    gives both the same start, so that part of its luck cancels. The error is over
    seeds on this test set: it says nothing of another one. With one seed on either
    side there is none.

    >>> ours = [{"elbo": -89.0}, {"elbo": -91.0}]
    >>> difference(ours, [{"elbo": -92.0}, {"elbo": -92.0}], "elbo")
    (2.0, 1.0)
    """
    ours = [number(run[key]) for run in runs]
    theirs = [number(run[key]) for run in others]
    error, other_error = standard_error(ours), standard_error(theirs)
    ahead = fmean(ours) - fmean(theirs)
    if error is None or other_error is None:
        return ahead, None
    return ahead, math.hypot(error, other_error)
