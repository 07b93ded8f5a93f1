"""What a log-likelihood is held against: a model without latents, and `mean_field`.

Without latents the decoder has its biases alone: independent bits or counts, for real
values a mean for each element and the one scale that the likelihood has, for grey levels a
discretised logistic for each. A density model is held against a Gaussian for each, and so
is a likelihood with a scale for each feature.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.streamed.rows import some
from pyro_vae_zoo.distributions import DiscretizedLogistic
from pyro_vae_zoo.nn.likelihoods import MIN_LOG_SCALE, MIN_SCALE

__all__ = ["baseline", "has_own_likelihood", "references_of"]

_ENOUGH = 10_000  # data, of those that are not in memory
_WITH_A_BASELINE = (
    *("bernoulli", "gaussian", "discretized_logistic"),
    *("binomial", "poisson", "categorical"),
)


def has_own_likelihood(result: Mapping[str, Any]) -> bool:
    """True where the likelihood is not that of the data, or may be another."""
    return bool(result.get("likelihood") or result.get("model"))


def references_of(
    result: Mapping[str, Any], data: Dataset, x: Tensor
) -> dict[str, dict[str, Any]]:
    """Log-likelihoods to hold a result against, in nats, by their names.

    `independent` is `baseline`. `mean_field` is what that guide reaches by the defaults, on
    the test split of a named data set and by as many particles.

    Args:
        result: as in `result.json`.
        data: the data set.
        x: the data that were evaluated.
    """
    found: dict[str, dict[str, Any]] = {}
    if data.likelihood in _WITH_A_BASELINE and not has_own_likelihood(result):
        each = result.get("options", {}).get("feature_scales")
        one = bool(result["kl_per_site"]) and not each
        without = baseline(data, x, shared_scale=one)
        found["independent"] = {"log_likelihood": without}
    known = _stored().get(data.name)
    evaluated = data.variant, "test", len(data.test), result["num_particles"]
    if known is None or result["guide"] == "mean_field":
        return found
    if evaluated == (known["variant"], result["split"], len(x), known["num_particles"]):
        found["mean_field"] = {k: v for k, v in known.items() if k != "variant"}
    return found


def _stored() -> dict[str, Any]:
    """What `mean_field` reaches by the defaults, by names of data."""
    return json.loads((Path(__file__).parent / "references.json").read_text())


def baseline(data: Dataset, x: Tensor, *, shared_scale: bool = True) -> float:
    """Mean log p(x) of a model without latents, fitted to the training data, in nats.

    Args:
        data: whose likelihood it has.
        x: data, shape `(n, *event_shape)`.
        shared_scale: whether all real values have one scale.

    >>> bits = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    >>> round(baseline(Dataset(bits, bits, bits), bits), 3)  # log(1/2) + log(5/6)
    -0.875
    """
    # The training part of dequantised data keeps grey levels.
    train = some(data.train if data.logit is None else data.valid, _ENOUGH).flatten(1)
    x = some(x, _ENOUGH).flatten(1).to(train)
    match data.likelihood:
        case "bernoulli":
            log_prob = _of_counts(train, x, 1)
        case "binomial":
            log_prob = _of_counts(train, x, int(data.largest))
        case "poisson":
            rate = (train.sum(0) + 0.5) / (len(train) + 1)
            log_prob = torch.distributions.Poisson(rate).log_prob(x)
        case "categorical":
            log_prob = _of_classes(train, x, int(data.largest) + 1)
        case "gaussian":
            mean = train.mean(0)
            variance = (train - mean).square().mean(0)
            variance = variance.mean() if shared_scale else variance
            scale = variance.sqrt().clamp(min=MIN_SCALE)
            log_prob = torch.distributions.Normal(mean, scale).log_prob(x)
        case _:
            scale = train.std(0, correction=0) * math.sqrt(3) / math.pi
            log_scale = scale.log().clamp(min=MIN_LOG_SCALE)
            log_prob = DiscretizedLogistic(train.mean(0), log_scale).log_prob(x)
    return log_prob.sum(1, dtype=torch.double).mean().item() + data.log_jacobian


def _of_counts(train: Tensor, x: Tensor, total: int) -> Tensor:
    """Binomial log-probabilities; half a success and half a failure are added to each."""
    p = (train.sum(0) + 0.5) / (total * len(train) + 1)
    return torch.distributions.Binomial(total, p).log_prob(x)


def _of_classes(train: Tensor, x: Tensor, num_classes: int) -> Tensor:
    """Categorical log-probabilities; half a datum is added to each class."""
    counts = F.one_hot(train.long(), num_classes).sum(0) + 0.5
    return torch.distributions.Categorical(counts).log_prob(x)
