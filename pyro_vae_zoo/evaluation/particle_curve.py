r"""The particle curve: \(\log \hat p(x)\) as the number K of draws grows.

A curve that still rises at its end says that the draws are too few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyro_vae_zoo.data.display import Summary, digits, figure, frame
from pyro_vae_zoo.evaluation.evaluate import draw_log_weights
from pyro_vae_zoo.evaluation.importance import summarise
from pyro_vae_zoo.evaluation.statistics import error_over_data
from pyro_vae_zoo.pair.door import Data, apart
from pyro_vae_zoo.pair.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["ParticleCurve", "curve_of", "particle_curve"]


@dataclass(frozen=True)
class ParticleCurve:
    r"""Mean over the data of \(\log \hat p_K(x)\), for each K; in nats.

    Attributes:
        num_particles: K, rising.
        log_prob: the means.
        std_error: sd over the data / sqrt(number of data).
        mc_error: error from the finite number of draws. All K share them, so that the
            curve's shape is known better than its height.
        num_data: number of data.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> curve = zoo.particle_curve(vae, torch.zeros(3, 8, 8), num_particles=20)
    >>> curve.num_particles, len(curve.log_prob)
    ((1, 2, 5, 10, 20), 5)
    """

    num_particles: tuple[int, ...]
    log_prob: tuple[float, ...]
    std_error: tuple[float, ...]
    mc_error: tuple[float, ...]
    num_data: int

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        numbers = zip(
            self.num_particles,
            self.log_prob,
            self.std_error,
            self.mc_error,
            strict=True,
        )
        rows = [(str(k), *map(digits, at_k)) for k, *at_k in numbers]
        header = ("log p(x)", "+- over the data", "MC error")
        what = f"ParticleCurve: mean over {self.num_data} data, K particles each, nats"
        return Summary(what, rows, header)

    def to_frame(self) -> "DataFrame":
        """A data frame with a row for each number of particles.

        Raises:
            UserError: without pandas.
        """
        names = ("num_particles", "log_prob", "std_error", "mc_error")
        columns = {name: getattr(self, name) for name in names}
        return frame(columns).set_index("num_particles")

    def plot(self, *, title: str | None = None) -> "Figure":
        """The curve; see `plots.plot_particles`."""
        return figure(self, title)


@apart
def particle_curve(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int = 10_000,
    *,
    seed: int | None = 0,
    progress: bool = False,
) -> ParticleCurve:
    r"""\(\log \hat p_K\) for K = 1, 2, 5, 10, ..., `num_particles`, of one set of draws.

    For each K the draws are cut into \(\lfloor N/K \rfloor\) blocks and the estimates of
    the blocks averaged, each unbiased for \(E \log \hat p_K(x)\), which rises with K to
    log p(x) and begins at the ELBO. A curve that still rises at its end says that the
    draws are too few.

    Args:
        vae: a `VAE`, or any pair `(model, guide)`.
        x: data, shape `(n, *event_shape)`.
        num_particles: draws for each datum.
        seed: of the draws; None draws from the caller's random state.
        progress: show a progress bar.

    Raises:
        UserError: for data that the likelihood cannot score.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> particle_curve(vae, torch.zeros(3, 8, 8), 50).num_particles
    (1, 2, 5, 10, 20, 50)
    """
    drawn = draw_log_weights(vae, x, num_particles, seed=seed, progress=progress)
    return curve_of(*drawn)


def curve_of(log_weights: Tensor, groups: Sequence[slice] = ()) -> ParticleCurve:
    """The curve of given log-weights; arguments of `summarise`."""
    n, total = log_weights.shape
    sizes = _one_two_five(total)
    points = [_at(log_weights, groups, k) for k in sizes]
    log_prob, std_error, mc_error = zip(*points, strict=True)
    return ParticleCurve(tuple(sizes), log_prob, std_error, mc_error, n)


def _one_two_five(most: int) -> list[int]:
    """1, 2, 5, 10, ... and the largest itself."""
    decades = range(len(str(most)))
    sizes = [digit * 10**power for power in decades for digit in (1, 2, 5)]
    return [k for k in sizes if k < most] + [most]


def _at(
    log_weights: Tensor, groups: Sequence[slice], k: int
) -> tuple[float, float, float]:
    """The curve at K = k: mean, error over the data, error of the draws."""
    _, total = log_weights.shape
    blocks = log_weights[:, : total // k * k].unflatten(1, (-1, k))
    estimates = blocks.logsumexp(2) - math.log(k)
    if total // k == 1:  # a single block does not tell how blocks vary
        mc_error = summarise(log_weights[:, :k], groups).mc_error
    else:
        mc_error = _error_of_blocks(estimates, groups)
    mean = estimates.mean(1)
    return mean.mean().item(), error_over_data(mean), mc_error


def _error_of_blocks(estimates: Tensor, groups: Sequence[slice]) -> float:
    """Error of the mean over data and blocks, from how the blocks vary."""
    n, num_blocks = estimates.shape
    sums = estimates
    if groups:  # data that share draws vary together
        sums = torch.stack([estimates[rows].sum(0) for rows in groups])
    errors = sums.std(1) / math.sqrt(num_blocks)
    return errors.square().sum().sqrt().item() / n
