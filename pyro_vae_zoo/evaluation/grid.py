r"""Two-dimensional posteriors on grids: the guide's and the exact one.

The exact \(p(z|x)\) is \(p(x, z)\) on a grid that zooms in to where it has mass,
normalised there. The guide's density is exact as well, without an inverse of its
flow: a grid in front of the flow is pushed through it, and its points are scored
out of the caches of the steps, as the draws of a training step are. A mixture has a
grid for each component, as fine as that component needs: with \(\alpha_m\) times its
own mass at the points of each,

\[\mathrm{KL}(Q \,\|\, p) = \sum_m \alpha_m\, E_{q_m}[\log Q(z|x) - \log p(z|x)]\]

is exact to quadrature however far apart the components are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.terms import score_latents
from pyro_vae_zoo.pair.sites import latent_sites
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "GridDensity",
    "MixtureSteps",
    "mixture_densities",
    "posterior_densities",
]

_SIDE = 81  # points a side of a grid: eight for each sd of a Gaussian
_COARSE = 61  # likewise, where the posterior is looked for
# One grid over modes that lie far apart is refined until the mass is spread over so many
# rows and columns (a Gaussian's is over 3.5 for each sd), or it has so many a side.
_FEWEST, _LARGEST = 12, 300
_CHUNK = 512  # points that the decoder sees at a time: no more fit the caches


@dataclass(frozen=True)
class GridDensity:
    """A density at the points of (bent) grids, float64 on the CPU.

    Attributes:
        z: points, shape `(n * side**2, 2)`: n grids, each row by row.
        log_prob: log-density at each.
        mass: probability that each point stands for; they sum to one.
        side: number of points on a side of each grid.
    """

    z: Tensor
    log_prob: Tensor
    mass: Tensor
    side: int

    def levels(self, masses: Sequence[float]) -> list[float]:
        """Edges, as log-densities, of the smallest regions of given masses, rising.

        Raises:
            UserError: for masses that are not between 0 and 1, and for none.
        """
        if not masses or not all(0 < mass < 1 for mass in masses):
            raise UserError(
                "masses: expected parts of the probability, between 0 and 1, got "
                f"{list(masses)}"
            )
        order = self.log_prob.nan_to_num(-torch.inf).argsort(descending=True)
        held = self.mass[order].cumsum(0)
        edges = torch.searchsorted(held, held.new_tensor(sorted(masses, reverse=True)))
        return self.log_prob[order][edges.clamp(max=len(held) - 1)].tolist()

    def region(self, mass: float) -> Tensor:
        """The points of the smallest region that holds the mass."""
        return self.z[self.log_prob >= self.levels([mass])[0]]


@dataclass(frozen=True)
class MixtureSteps:
    r"""The make-up of a mixture posterior of one datum, component by component.

    Attributes:
        numbers: of the M components that take part, counted from 1.
        log_weights: their \(\log \alpha_m\), normalised, shape `(M,)`.
        components: their densities \(q_m\).
        mixtures: \(Q_m\), the mixture of the first m of them, weights renormalised.
        gaps: \(\mathrm{KL}(Q_m \,\|\, p(z|x))\) in nats.
        exact: p(z|x).
    """

    numbers: list[int]
    log_weights: Tensor
    components: list[GridDensity]
    mixtures: list[GridDensity]
    gaps: list[float]
    exact: GridDensity


def posterior_densities(vae: VAE, x: Tensor) -> tuple[GridDensity, GridDensity, float]:
    """q(z|x), p(z|x) and KL(q || p) in nats, for one datum `(1, *event_shape)`.

    Raises:
        UserError: where the latent is not one vector `"z"` of size two, and where
            the guide can score nothing but its own draws.
    """
    z, q = _guide_density(_posterior_of(vae, x))
    log_joint = _log_joint(vae, x, z)
    p, log_evidence = _exact_density(vae, x, z, log_joint)
    return q, p, _divergence(q, log_joint - log_evidence)


def mixture_densities(vae: VAE, x: Tensor) -> MixtureSteps:
    """The guide's mixture for one datum `(1, *event_shape)`, step by step.

    Components of weight zero are left out.

    Raises:
        UserError: where the latent is not one vector `"z"` of size two, and where
            the guide does not draw it from a `Mixture`, or from one of components
            that can score nothing but their own draws.
    """
    fn = _posterior_of(vae, x)
    if not isinstance(fn, Mixture):
        raise UserError(
            f"expected a guide that draws z from a Mixture, got {type(fn).__name__}; "
            "'mixture', 'recursive_mixture' and 'boosted' do"
        )
    kept = [m for m, w in enumerate(fn.log_weights.flatten()) if w > -torch.inf]
    fn = Mixture(fn.log_weights[..., kept], [fn.components[m] for m in kept])
    components = [_guide_density(q) for q in fn.components]
    z = torch.cat([z for z, _ in components])
    log_joint = _log_joint(vae, x, z)
    p, log_evidence = _exact_density(vae, x, z, log_joint)
    sizes = range(1, len(kept) + 1)
    mixtures = [_mix(fn.first(m), components[:m])[1] for m in sizes]
    log_p = log_joint - log_evidence
    return MixtureSteps(
        numbers=[m + 1 for m in kept],
        log_weights=fn.log_weights.flatten().cpu(),
        components=[q for _, q in components],
        mixtures=mixtures,
        gaps=[_divergence(q, log_p[: len(q.z)]) for q in mixtures],
        exact=p,
    )


def _posterior_of(vae: VAE, x: Tensor) -> pyro.distributions.Distribution:
    """The distribution that the guide draws a z of size two from."""
    sites = latent_sites(poutine.trace(vae.guide).get_trace(x))
    shapes = {name: tuple(site["value"].shape[1:]) for name, site in sites.items()}
    if shapes != {"z": (2,)}:
        found = ", ".join(f"{name!r} of {shape}" for name, shape in shapes.items())
        raise UserError(
            f"this picture needs one latent 'z' of shape (2,), got {found}; "
            "train with latent_dim=2"
        )
    return sites["z"]["fn"]


def _guide_density(fn: pyro.distributions.Distribution) -> tuple[Tensor, GridDensity]:
    """The density's points as the model takes them, and the density."""
    if isinstance(fn, Mixture):
        return _mix(fn, [_guide_density(q) for q in fn.components])
    steps = getattr(fn, "transforms", ())
    base = getattr(fn, "base_dist", fn) if steps else fn
    grid = z = _grid(*_box(base.sample((1000,))[:, 0]))[:, None]
    for step in steps:
        z = step(z)
    log_q = _score(fn, z)  # inverses out of the caches
    mass = base.log_prob(grid)[:, 0].double().softmax(0).cpu()
    return z[:, 0], GridDensity(z[:, 0].double().cpu(), log_q, mass, _SIDE)


def _mix(
    fn: Mixture, components: Sequence[tuple[Tensor, GridDensity]]
) -> tuple[Tensor, GridDensity]:
    """The points and the density of a mixture, on the grids of its components."""
    z = torch.cat([z for z, _ in components])
    weights = fn.log_weights.flatten().double().exp().cpu()
    mass = [w * q.mass for w, (_, q) in zip(weights, components, strict=True)]
    log_q = _score(fn, z[:, None])
    return z, GridDensity(z.double().cpu(), log_q, torch.cat(mass), _SIDE)


def _score(fn: pyro.distributions.Distribution, z: Tensor) -> Tensor:
    """Log q at points `(n, 1, 2)`, shape `(n,)`."""
    try:
        return fn.log_prob(z)[:, 0].double().cpu()
    except (KeyError, NotImplementedError) as error:
        kind = type(fn).__name__
        raise UserError(
            f"the guide's {kind} has log q(z|x) only at its own draws, not on a grid"
        ) from error


def _divergence(q: GridDensity, log_p: Tensor) -> float:
    """KL(q || p) in nats, given log p at the points of q."""
    return (q.mass * (q.log_prob - log_p))[q.mass > 1e-12].sum().item()


def _exact_density(
    vae: VAE, x: Tensor, near: Tensor, log_joint_near: Tensor
) -> tuple[GridDensity, float]:
    """The density, looked for under the prior and at the points `near`, and log p(x)."""
    prior = latent_sites(poutine.trace(vae.model).get_trace(x))["z"]["fn"]
    low, high = _box(prior.sample((1000,))[:, 0])
    for _ in range(3):  # zoom in to where the posterior is
        grid = _grid(low, high, _COARSE)
        z = torch.cat([near, grid])
        log_joint = torch.cat([log_joint_near, _log_joint(vae, x, grid)])
        inside = z[(log_joint > log_joint.max() - 12).to(z.device)]
        margin = (high - low) / _COARSE
        low, high = inside.amin(0) - 2 * margin, inside.amax(0) + 2 * margin
    side = _SIDE
    p, log_evidence = _normalise(vae, x, low, high, side)
    while _effective_lines(p) < _FEWEST and side < _LARGEST:
        side = 2 * side - 1
        p, log_evidence = _normalise(vae, x, low, high, side)
    return p, log_evidence


def _effective_lines(density: GridDensity) -> float:
    """The number of rows or columns, whichever are fewer, that the mass is spread over."""
    mass = density.mass.view(density.side, density.side)
    return min(1 / mass.sum(dim).square().sum().item() for dim in (0, 1))


def _normalise(
    vae: VAE, x: Tensor, low: Tensor, high: Tensor, side: int
) -> tuple[GridDensity, float]:
    """p(z|x) on one grid and log p(x), by quadrature."""
    z = _grid(low, high, side)
    log_joint = _log_joint(vae, x, z)
    cell = ((high - low) / (side - 1)).double().log().sum().item()
    log_evidence = log_joint.logsumexp(0).item() + cell
    log_prob, mass = log_joint - log_evidence, log_joint.softmax(0)
    return GridDensity(z.double().cpu(), log_prob, mass, side), log_evidence


def _log_joint(vae: VAE, x: Tensor, z: Tensor) -> Tensor:
    """The model's log p(x, z) at points `(g, 2)` for one datum, shape `(g,)`."""
    chunks = []
    for part in z.split(_CHUNK):
        log_likelihood, log_prior = score_latents(
            vae.model, x, part[:, None], scaled=False
        )
        chunks.append((log_likelihood + log_prior)[:, 0].double().cpu())
    return torch.cat(chunks)


def _box(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Corners around draws `(n, 2)`: for a Gaussian about five sd to each side."""
    low, high = draws.amin(0), draws.amax(0)
    return low - (high - low) / 4, high + (high - low) / 4


def _grid(low: Tensor, high: Tensor, side: int = _SIDE) -> Tensor:
    """Points of a regular grid, shape `(side**2, 2)`."""
    t = torch.linspace(0, 1, side, device=low.device, dtype=low.dtype)
    return low + (high - low) * torch.cartesian_prod(t, t)
