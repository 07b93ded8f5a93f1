"""What importance weights say: an estimate, its errors, and whether to trust them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LogLikelihood", "error_of_mean", "pareto_khat", "summarise"]

_SUMMARY_BLOCK = 1_000_000  # log-weights that are summarised at a time


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-sampled log-likelihoods; each tensor has shape `(len(x),)`, float64.

    Attributes:
        log_prob: estimates of log p(x), in nats.
        std_error: Monte-Carlo standard error of each (delta method), in nats.
        ess: effective number of draws, between 1 and `num_particles`.
        khat: Pareto shape of each datum's largest weights (Vehtari et al. 2024):
            above 0.7 the estimate is unreliable, whatever `std_error` says. NaN
            for fewer than 25 draws, 0 where all weights are equal to rounding.
        num_particles: draws for each datum.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> ll = zoo.log_likelihood(vae, torch.zeros(5, 8, 8), num_particles=50)
    >>> ll.log_prob.shape, ll.num_particles
    (torch.Size([5]), 50)
    """

    log_prob: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    num_particles: int


def summarise(log_weights: Tensor) -> LogLikelihood:
    """Summaries of rows of log-weights, some rows at a time to save memory."""
    num_particles = log_weights.shape[1]
    rows = max(_SUMMARY_BLOCK // num_particles, 1)
    parts = [_summary_of_block(block) for block in log_weights.split(rows)]
    return LogLikelihood(*map(torch.cat, zip(*parts, strict=True)), num_particles)


def error_of_mean(log_weights: Tensor, groups: Sequence[slice]) -> float:
    r"""Monte-Carlo standard error of the mean of log p-hat over the data, in nats.

    The delta method, which takes a draw's share in its datum's weights, less 1/K, for its
    influence. Within a group of data the draws have something in common, and their
    influences are added before they are squared:

    \[\frac1N \sqrt{\frac{K}{K - 1} \sum_g \sum_k \Big(\sum_{i \in g} \tilde w_{ik} -
      \tfrac1K\Big)^2}.\]

    Args:
        log_weights: shape `(n, num_particles)`.
        groups: rows whose draws depend on each other.

    >>> log_weights = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    >>> alone = error_of_mean(log_weights, [slice(0, 1), slice(1, 2)])
    >>> round(error_of_mean(log_weights, [slice(0, 2)]) / alone, 3)
    1.414
    """
    n, num_particles = log_weights.shape
    squares = 0.0
    for rows in groups:
        shares = log_weights[rows].softmax(1) - 1 / num_particles
        squares += shares.sum(0).square().sum().item()
    if num_particles == 1:
        return math.nan
    return math.sqrt(squares * num_particles / (num_particles - 1)) / n


def _summary_of_block(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_particles = log_weights.shape[1]
    log_sum = log_weights.logsumexp(1)
    squares = (2 * (log_weights - log_sum[:, None])).logsumexp(1).exp()
    # Relative variance of the mean of the weights: that of log p-hat to first order.
    variance = (num_particles * squares - 1).clamp(min=0) / max(num_particles - 1, 1)
    std_error = variance.sqrt() if num_particles > 1 else variance * math.nan
    log_prob = log_sum - math.log(num_particles)
    return log_prob, std_error, 1 / squares, pareto_khat(log_weights)


def pareto_khat(log_weights: Tensor) -> Tensor:
    r"""Shape of a generalised Pareto law fitted to each row's largest weights.

    The \(M = \min(K/5, 3\sqrt K)\) largest of a row's K weights are fitted by the
    estimator of Zhang & Stephens (2009), with the weak prior of Vehtari et al.
    (2024, appendix), for all rows at once.

    Args:
        log_weights: shape `(n, num_particles)`.

    Returns:
        Shape `(n,)`; NaN for fewer than 25 draws, 0 where all weights are equal, but for
        the rounding of single precision.

    >>> pareto_khat(torch.zeros(2, 100))
    tensor([0., 0.], dtype=torch.float64)
    """
    lw = log_weights.double()
    num_tail = int(min(lw.shape[1] / 5, 3 * math.sqrt(lw.shape[1])))
    if num_tail < 5:
        return lw.new_full((len(lw),), math.nan)
    top = (lw - lw.amax(1, keepdim=True)).exp().topk(num_tail + 1, dim=1).values
    excess = (top[:, :-1] - top[:, -1:]).flip(1)  # ascending
    # Log-weights are differences in single precision as a rule: where they are equal but
    # for its rounding, what would be fitted is the rounding.
    rounding = 16 * torch.finfo(torch.float).eps * lw.abs().amax(1).clamp(min=10)
    constant = excess[:, -1] <= rounding
    excess = torch.where(constant[:, None], torch.ones_like(excess), excess)
    # Candidates for b = -shape / scale, weighted by their profile likelihoods.
    m = 30 + int(math.sqrt(num_tail))
    grid = (
        1
        - (m / (torch.arange(1, m + 1, dtype=lw.dtype, device=lw.device) - 0.5)) ** 0.5
    )
    quartile = excess[:, int(num_tail / 4 + 0.5) - 1, None].clamp(min=1e-300)
    b = 1 / excess[:, -1:] + grid / (3 * quartile)
    shape = torch.stack([_profile_shape(b[:, i], excess) for i in range(m)], dim=1)
    log_profile = num_tail * (torch.log(-b / shape) - shape - 1)
    b = (b * log_profile.softmax(1)).sum(1)
    khat = _profile_shape(b, excess)
    khat = (num_tail * khat + 5) / (num_tail + 10)
    return torch.where(constant, torch.zeros_like(khat), khat)


def _profile_shape(b: Tensor, excess: Tensor) -> Tensor:
    return torch.log1p(-b[:, None] * excess).mean(1)
