"""The covariances of q(z|x): what each step of a flow does to its shape."""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pyro import poutine
from pyro.distributions.transforms import Permute
from torch import Tensor, nn

from pyro_vae_zoo.data.display import Summary, digits, figure, frame
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.chunks import stream
from pyro_vae_zoo.inference.terms import with_particles
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import Data, apart, data_of
from pyro_vae_zoo.pair.gaussians import flow_in
from pyro_vae_zoo.pair.sites import latent_sites
from pyro_vae_zoo.pair.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["PosteriorCovariances", "posterior_covariances"]


@dataclass(frozen=True)
class PosteriorCovariances:
    r"""Covariances of \(z_0, \dots, z_K\) under q(z|x), before and after each step.

    Attributes:
        steps: names of the states, `"z_0"` of the base and then one for each step.
        covariance: of each, shape `(len(steps), n, dim, dim)`, float64 on the CPU.
        num_particles: draws that they were estimated from.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("householder", event_shape=(8, 8), latent_dim=2, num_flows=1)
    >>> found = zoo.posterior_covariances(vae, torch.zeros(3, 8, 8), num_particles=99)
    >>> found.correlation.shape, found.mean_abs_correlation.shape
    (torch.Size([2, 3, 2, 2]), torch.Size([2, 3]))
    """

    steps: tuple[str, ...]
    covariance: Tensor
    num_particles: int

    @property
    def correlation(self) -> Tensor:
        """The correlations of the same shape, with ones on the diagonal."""
        scale = self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        return self.covariance / (scale[..., None] * scale[..., None, :])

    @property
    def mean_abs_correlation(self) -> Tensor:
        """Mean |correlation| off the diagonal, shape `(len(steps), n)`; 0 for one latent.

        Where there is none it is `noise` on average and not zero.
        """
        dim = self.covariance.shape[-1]
        off = self.correlation.abs().sum((-2, -1)) - dim
        return off / max(dim * (dim - 1), 1)

    @property
    def noise(self) -> float:
        r"""The `mean_abs_correlation` of independent latents: \(\sqrt{2/\pi N}\)."""
        return math.sqrt(2 / (math.pi * self.num_particles))

    @property
    def log_det(self) -> Tensor:
        r"""Log generalised variance \(\log \det \Sigma\), shape `(len(steps), n)`.

        Without the bias that N draws of a Gaussian give it (Wishart's law).
        """
        dim, free = self.covariance.shape[-1], self.num_particles - 1
        device = self.covariance.device
        half = (free - torch.arange(dim, dtype=torch.double, device=device)) / 2
        bias = torch.digamma(half).sum() - dim * math.log(free / 2)
        return torch.logdet(self.covariance) - bias

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        numbers = zip(
            self.mean_abs_correlation.mean(1), self.log_det.mean(1), strict=True
        )
        rows = [
            (step, *(digits(value.item()) for value in found))
            for step, found in zip(self.steps, numbers, strict=True)
        ]
        _, n, dim, _ = self.covariance.shape
        what = f"PosteriorCovariances of {n} data, {dim} latents, {self.num_particles} "
        what += "particles each; independent latents have |correlation| "
        what += digits(self.noise)
        return Summary(what, rows, ("mean |correlation|", "log det"))

    def to_frame(self) -> "DataFrame":
        """A data frame with a row for each step and datum.

        Raises:
            UserError: without pandas.
        """
        _, n, _, _ = self.covariance.shape
        columns = {
            "step": [step for step in self.steps for _ in range(n)],
            "datum": [*range(n)] * len(self.steps),
            "mean_abs_correlation": self.mean_abs_correlation.flatten(),
            "log_det": self.log_det.flatten(),
        }
        return frame(columns).set_index(["step", "datum"])

    def plot(self, *, title: str | None = None) -> "Figure":
        """Mean |correlation| of each two latents; see `plots.plot_correlations`."""
        return figure(self, title)


@apart
def posterior_covariances(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int = 10_000,
    *,
    seed: int | None = 0,
    progress: bool = False,
) -> PosteriorCovariances:
    """The covariance of q(z|x) before its flow and after each of its steps.

    A guide without a flow has the one state `z_0`, which is z. A permutation of the
    latents is no step of its own, and reflections that are applied at once are one.

    Args:
        vae: a `VAE`, or any pair `(model, guide)`, whose guide draws one vector `"z"`.
        x: data, shape `(n, *event_shape)`; memory grows as n times dim squared.
        num_particles: draws for each datum, more than the size of z.
        seed: of the draws; None draws from the caller's random state.
        progress: show a progress bar.

    Raises:
        UserError: for guides with other sites, which it names, and for too few draws.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("iaf", event_shape=(8, 8), latent_dim=2, num_flows=2)
    >>> found = posterior_covariances(vae, torch.zeros(3, 8, 8), num_particles=100)
    >>> found.steps, found.covariance.shape
    (('z_0', 'z_1', 'z_2'), torch.Size([3, 3, 2, 2]))
    """
    x, num_particles = data_of(x), count("num_particles", num_particles, least=2)
    first = second = torch.zeros((), device="cpu")
    chunks = stream(vae, x, num_particles, _moments, seed=seed, progress=progress)
    with closing(chunks):
        for rows, _, chunk in chunks:
            one, two = chunk["first"].cpu(), chunk["second"].cpu()
            if first.ndim == 0:
                _check_draws(num_particles, one.shape[-1])
                first = one.new_zeros(len(one), len(x), *one.shape[2:])
                second = two.new_zeros(len(two), len(x), *two.shape[2:])
            first[:, rows] += one
            second[:, rows] += two
    mean = first / num_particles
    scatter = second - num_particles * mean[..., None] * mean[..., None, :]
    steps = tuple(f"z_{k}" for k in range(len(first)))
    return PosteriorCovariances(steps, scatter / (num_particles - 1), num_particles)


def _check_draws(num_particles: int, dim: int) -> None:
    if num_particles <= dim:
        raise UserError(
            f"a covariance of {dim} latents needs more than {dim} particles, got "
            f"num_particles={num_particles}"
        )


def _moments(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> dict:
    """Sums of z and of its outer products, of each state: `(steps, n, dim[, dim])`."""
    trace = poutine.trace(with_particles).get_trace(guide, x, draws)
    states = [z.double().view(draws, len(x), -1) for z in _states(trace)]
    return {
        "first": torch.stack([z.sum(0) for z in states]),
        "second": torch.stack([torch.einsum("kni,knj->nij", z, z) for z in states]),
    }


def _states(guide_trace: poutine.Trace) -> Sequence[Tensor]:
    """z_0 to z_K of the draw, out of the caches of the steps."""
    sites = latent_sites(guide_trace)
    if list(sites) != ["z"] or len(sites["z"]["fn"].event_shape) != 1:
        raise UserError(
            f"expected a guide that draws one vector 'z', got {sorted(sites) or 'none'}"
        )
    z, fn = sites["z"]["value"], flow_in(sites["z"]["fn"])
    states = [z]
    for step in reversed(getattr(fn, "transforms", ())):
        z = step.inv(z)
        if isinstance(step, Permute):  # belongs to the step after it
            states[-1] = z if len(states) > 1 else states[-1]
        else:
            states.append(z)
    return states[::-1]
