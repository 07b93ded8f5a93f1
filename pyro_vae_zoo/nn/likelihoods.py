r"""Decoder output -> p(x|z) as a Pyro distribution.

Each likelihood is a module: `num_params` says how many numbers for each element of
a datum the decoder must give, `forward` turns the flat `(..., num_params * numel)`
output into a distribution of event shape `event_shape`.

| name                   | an element of x     | its distribution, of outputs a, b        |
|------------------------|---------------------|------------------------------------------|
| `bernoulli`            | 0, 1                | \(\sigma(a)\)                            |
| `binomial`             | 0 .. n              | n trials, \(\sigma(a)\) each             |
| `gaussian`             | real                | mean a; one scale, or one for a feature  |
| `discretized_logistic` | k/255               | centre \(\sigma(a)\), scale of b         |
| `poisson`              | 0, 1, ...           | rate \(e^a\)                             |
| `negative_binomial`    | 0, 1, ...           | mean \(e^a\), dispersion learned         |
| `categorical`          | a class, 0 .. C - 1 | softmax of C outputs                     |

A likelihood of your own is any module of this kind; `name` and this base are the zoo's.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae_zoo.distributions import BernoulliLogits, DiscretizedLogistic
from pyro_vae_zoo.errors import UserError, one_line
from pyro_vae_zoo.nn.counts import Binomial, Classes, NegativeBinomial, Poisson
from pyro_vae_zoo.options import count

__all__ = [
    "LIKELIHOODS",
    "Likelihood",
    "check_likelihood",
    "make_likelihood",
    "sizes_in",
]

MIN_SCALE = 1e-3  # a Gaussian's density is unbounded without it
MIN_LOG_SCALE = -7.0  # a quarter of a grey level; keeps the inverse scale finite
FRESH_LOG_SCALE = -2.3  # of a fresh network: some 25 grey levels
MAX_LOG_RATE = 15.0  # of counts: up to three millions, and no less than 3e-7


class Likelihood(nn.Module):
    """Base of the likelihoods: cuts the decoder's flat output to shape."""

    name: str
    num_params: int

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Cut `(..., num_params * numel)` into tensors `(..., *event_shape)`."""
        shape = (self.num_params, *self.event_shape)
        return params.unflatten(-1, shape).unbind(-1 - len(self.event_shape))

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The name and the shape, as `print` shows them."""
        return f"{self.name}, event_shape={self.event_shape}"


class BernoulliLikelihood(Likelihood):
    """Bits: one logit for each pixel."""

    name, num_params = "bernoulli", 1

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (logits,) = self.split(params)
        return BernoulliLogits(logits=logits).to_event(len(self.event_shape))


class GaussianLikelihood(Likelihood):
    """Real values: a mean for each element, a learned scale >= 1e-3 for all of them.

    Args:
        event_shape: shape of a datum.
        feature_scales: whether each element has a scale of its own.
    """

    name, num_params = "gaussian", 1

    def __init__(
        self, event_shape: Sequence[int], *, feature_scales: bool = False
    ) -> None:
        super().__init__(event_shape)
        shape = self.event_shape if feature_scales else ()
        self.raw_scale = nn.Parameter(torch.full(shape, math.log(math.expm1(0.5))))

    @property
    def scale(self) -> Tensor:
        """The learned standard deviation, a scalar or of shape `event_shape`."""
        return MIN_SCALE + F.softplus(self.raw_scale)

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (loc,) = self.split(params)
        return dist.Normal(loc, self.scale).to_event(len(self.event_shape))


class DiscretizedLogisticLikelihood(Likelihood):
    """8-bit grey levels `k / 255`: a centre and a scale for each element."""

    name, num_params = "discretized_logistic", 2

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        loc, log_scale = self.split(params)
        # A fresh network centres on mid-grey.
        above = F.softplus(log_scale + FRESH_LOG_SCALE - MIN_LOG_SCALE)
        log_scale = above + MIN_LOG_SCALE
        loc = torch.sigmoid(loc)
        return DiscretizedLogistic(loc, log_scale).to_event(len(self.event_shape))


class BinomialLikelihood(Likelihood):
    """Counts out of n: one logit for each element.

    Args:
        event_shape: shape of a datum.
        total_count: n; of a data set the largest count.
    """

    name, num_params = "binomial", 1

    def __init__(self, event_shape: Sequence[int], *, total_count: int | None = None):
        super().__init__(event_shape)
        self.total_count = _size("total_count", total_count, self.name)

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (logits,) = self.split(params)
        return Binomial(self.total_count, logits).to_event(len(self.event_shape))


class PoissonLikelihood(Likelihood):
    """Counts without a limit: one log-rate for each element, within +-15."""

    name, num_params = "poisson", 1

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (log_rate,) = self.split(params)
        return Poisson(_within(log_rate)).to_event(len(self.event_shape))


class NegativeBinomialLikelihood(Likelihood):
    r"""Counts that scatter more than a Poisson's: variance \(m + m^2 / r\), m the mean.

    One log-mean for each element, within +-15, and one learned dispersion r >= 1e-3.
    """

    name, num_params = "negative_binomial", 1

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        start = torch.full(self.event_shape, math.log(math.expm1(1.0)))
        self.raw_dispersion = nn.Parameter(start)

    @property
    def dispersion(self) -> Tensor:
        """r, shape `event_shape`."""
        return MIN_SCALE + F.softplus(self.raw_dispersion)

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        (log_mean,) = self.split(params)
        logits = _within(log_mean) - self.dispersion.log()
        p = NegativeBinomial(self.dispersion, logits=logits)
        return p.to_event(len(self.event_shape))


def _within(log_mean: Tensor) -> Tensor:
    """Within +-15, with the gradient of what was given.

    That of a clamp is 0 outside, where the loss is worst, and nothing would lead back.
    """
    kept = log_mean.clamp(-MAX_LOG_RATE, MAX_LOG_RATE).detach()
    nothing = log_mean - log_mean.detach()
    return kept + nothing.nan_to_num()  # of one that is infinite


class CategoricalLikelihood(Likelihood):
    """Classes 0 .. C - 1: C logits for each element.

    Args:
        event_shape: shape of a datum.
        num_classes: C; of a data set one more than the largest number.
    """

    name = "categorical"

    def __init__(self, event_shape: Sequence[int], *, num_classes: int | None = None):
        super().__init__(event_shape)
        self.num_params = _size("num_classes", num_classes, self.name)

    def forward(self, params: Tensor) -> dist.Distribution:
        """p(x|z) of event shape `event_shape`."""
        logits = torch.stack(self.split(params), -1)
        return Classes(logits=logits).to_event(len(self.event_shape))


def _size(option: str, value: int | None, name: str) -> int:
    if value is None:
        raise UserError(
            f"the likelihood {name!r} needs {option}, got none; give it, or give the "
            "data set, which has it"
        )
    return count(option, value)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    cls.name: cls
    for cls in (
        BernoulliLikelihood,
        BinomialLikelihood,
        GaussianLikelihood,
        DiscretizedLogisticLikelihood,
        PoissonLikelihood,
        NegativeBinomialLikelihood,
        CategoricalLikelihood,
    )
}


def sizes_in(name: str, largest: float) -> dict[str, Any]:
    """The options of a likelihood that data say, by their largest value.

    >>> sizes_in("binomial", 16.0), sizes_in("categorical", 9.0), sizes_in("poisson", 9.0)
    ({'total_count': 16}, {'num_classes': 10}, {})
    """
    known = {"binomial": ("total_count", 0), "categorical": ("num_classes", 1)}
    if name not in known:
        return {}
    option, more = known[name]
    return {option: max(int(largest) + more, 1)}


def make_likelihood(
    likelihood: str | nn.Module | Callable[..., nn.Module], event_shape: Sequence[int]
) -> Any:
    """The likelihood of a name, one of `LIKELIHOODS`; a module, or what makes one.

    Raises:
        UserError: for an unknown name; the message lists the known ones. For what is no
            module.

    >>> p = make_likelihood("gaussian", (4, 4))(torch.zeros(3, 2, 16))
    >>> p.batch_shape, p.event_shape
    (torch.Size([3, 2]), torch.Size([4, 4]))
    """
    if isinstance(likelihood, nn.Module):
        return likelihood
    if isinstance(likelihood, str):
        if likelihood not in LIKELIHOODS:
            known = ", ".join(LIKELIHOODS)
            raise UserError(f"unknown likelihood {likelihood!r}; known: {known}")
        return LIKELIHOODS[likelihood](event_shape)
    make: Callable[..., Any] = likelihood
    wanted = "event_shape" in inspect.signature(make).parameters
    made = make(event_shape=event_shape) if wanted else make()
    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        raise UserError(f"expected the likelihood to be an nn.Module, got {kind}")
    return made


def check_likelihood(likelihood: nn.Module, event_shape: Sequence[int]) -> None:
    """Refuse a likelihood of the user's that does not give p(x|.) of one datum each.

    Raises:
        UserError: for one without `num_params`, that does not run on as many, or whose
            distribution has another shape.
    """
    who, event_shape = type(likelihood).__name__, tuple(event_shape)
    num_params = getattr(likelihood, "num_params", None)
    if not isinstance(num_params, int) or num_params < 1:
        raise UserError(
            f"{who} needs an attribute num_params, the number of outputs of the "
            "decoder for each element of x: expected a whole number, got "
            f"{num_params!r}"
        )
    held = [*likelihood.parameters(), *likelihood.buffers()]
    like = next((t for t in held if t.is_floating_point()), torch.zeros(()))
    params = like.new_zeros(3, num_params * math.prod(event_shape))
    try:
        p = likelihood(params)
        got = tuple(p.batch_shape), tuple(p.event_shape)
    except Exception as error:  # whatever the user's code may raise
        raise UserError(
            f"{who} does not run on parameters of shape {tuple(params.shape)}: "
            f"{one_line(error)}"
        ) from error
    if got != ((3,), event_shape):
        hint = "; is `.to_event()` missing?" if got == ((3, *event_shape), ()) else ""
        raise UserError(
            f"{who}: expected a distribution of batch shape (3,) and event shape "
            f"{event_shape} for three data, got {got[0]} and {got[1]}{hint}"
        )
