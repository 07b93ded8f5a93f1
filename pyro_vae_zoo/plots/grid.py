r"""Two-dimensional posteriors on grids: the guide's and the exact one.

The exact \(p(z|x)\) is \(p(x, z)\) on a grid that zooms in to where it has mass,
normalised there. The guide's density is exact as well, without an inverse of its
flow: a grid in front of the flow is pushed through it, and its points are scored
out of the caches of the steps, as the draws of a training step are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae_zoo.elbo import score_latents
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.vae import VAE, latent_sites

__all__ = ["GridDensity", "posterior_densities"]

_SIDE = 81  # points a side of a grid: eight for each sd of a Gaussian
_COARSE = 61  # likewise, where the posterior is looked for
_CHUNK = 512  # points that the decoder sees at a time: no more fit the caches


@dataclass(frozen=True)
class GridDensity:
    """A density at the points of a (bent) grid, float64 on the CPU.

    Attributes:
        z: points, shape `(side**2, 2)`, row by row.
        log_prob: log-density at each.
        mass: probability that each point stands for; they sum to one.
    """

    z: Tensor
    log_prob: Tensor
    mass: Tensor

    def levels(self, masses: Sequence[float]) -> list[float]:
        """Edges, as log-densities, of the smallest regions of given masses, rising."""
        order = self.log_prob.nan_to_num(-torch.inf).argsort(descending=True)
        held = self.mass[order].cumsum(0)
        edges = torch.searchsorted(held, held.new_tensor(sorted(masses, reverse=True)))
        return self.log_prob[order][edges.clamp(max=len(held) - 1)].tolist()

    def region(self, level: float) -> Tensor:
        """The points whose log-density is at least `level`."""
        return self.z[self.log_prob >= level]


def posterior_densities(vae: VAE, x: Tensor) -> tuple[GridDensity, GridDensity, float]:
    """q(z|x), p(z|x) and KL(q || p) in nats, for one datum `(1, *event_shape)`.

    Raises:
        UserError: where the latent is not one vector `"z"` of size two, and where
            the guide can score nothing but its own draws.
    """
    sites = latent_sites(poutine.trace(vae.guide).get_trace(x))
    shapes = {name: tuple(site["value"].shape[1:]) for name, site in sites.items()}
    if shapes != {"z": (2,)}:
        found = ", ".join(f"{name!r} of {shape}" for name, shape in shapes.items())
        raise UserError(
            f"posteriors are drawn for one latent 'z' of shape (2,), got {found}; "
            "train with latent_dim=2"
        )
    z, q = _guide_density(sites["z"]["fn"])
    p, log_evidence = _exact_density(vae, x, z)
    log_ratio = q.log_prob - (_log_joint(vae, x, z) - log_evidence)
    return q, p, (q.mass * log_ratio)[q.mass > 1e-12].sum().item()


def _guide_density(fn: pyro.distributions.Distribution) -> tuple[Tensor, GridDensity]:
    """The density's points as the model takes them, and the density."""
    steps = getattr(fn, "transforms", ())
    base = fn.base_dist if steps else fn
    grid = z = _grid(*_box(base.sample((1000,))[:, 0]))[:, None]
    for step in steps:
        z = step(z)
    try:
        log_q = fn.log_prob(z)[:, 0]  # inverses out of the caches
    except (KeyError, NotImplementedError) as error:
        kind = type(fn).__name__
        raise UserError(
            f"the guide's {kind} scores nothing but its own draws"
        ) from error
    mass = base.log_prob(grid)[:, 0].double().softmax(0)
    z = z[:, 0]
    return z, GridDensity(z.double().cpu(), log_q.double().cpu(), mass.cpu())


def _exact_density(vae: VAE, x: Tensor, near: Tensor) -> tuple[GridDensity, float]:
    """The density, looked for under the prior and around `near`, and log p(x)."""
    prior = poutine.trace(vae.model).get_trace(x).nodes["z"]["fn"]
    low, high = _box(torch.cat([prior.sample((1000,))[:, 0], near]))
    for _ in range(3):  # zoom in to where the posterior is
        z = _grid(low, high, _COARSE)
        log_joint = _log_joint(vae, x, z)
        inside = z[(log_joint > log_joint.max() - 12).to(z.device)]
        margin = (high - low) / _COARSE
        low, high = inside.amin(0) - 2 * margin, inside.amax(0) + 2 * margin
    z = _grid(low, high)
    log_joint = _log_joint(vae, x, z)
    cell = ((high - low) / (_SIDE - 1)).double().log().sum().item()
    log_evidence = log_joint.logsumexp(0).item() + cell
    mass = log_joint.softmax(0)
    return GridDensity(z.double().cpu(), log_joint - log_evidence, mass), log_evidence


def _log_joint(vae: VAE, x: Tensor, z: Tensor) -> Tensor:
    """The model's log p(x, z) at points `(g, 2)` for one datum, shape `(g,)`."""
    chunks = []
    for part in z.split(_CHUNK):
        log_joint = sum(score_latents(vae.model, x, part[:, None]))
        chunks.append(log_joint[:, 0].double().cpu())
    return torch.cat(chunks)


def _box(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Corners around draws `(n, 2)`: for a Gaussian about five sd to each side."""
    low, high = draws.amin(0), draws.amax(0)
    return low - (high - low) / 4, high + (high - low) / 4


def _grid(low: Tensor, high: Tensor, side: int = _SIDE) -> Tensor:
    """Points of a regular grid, shape `(side**2, 2)`."""
    t = torch.linspace(0, 1, side, device=low.device, dtype=low.dtype)
    return low + (high - low) * torch.cartesian_prod(t, t)
