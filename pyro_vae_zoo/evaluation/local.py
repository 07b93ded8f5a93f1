r"""A q for each datum: what the encoder gives, optimised for that datum alone.

\[q(z|\lambda), \qquad \lambda = (h, a, M): \quad
  z_0 = \mu(h) + a + S(h) M \epsilon, \qquad z = f_K(\dots f_1(z_0; h) \dots; h),\]

the context h, at first as the encoder gave it, and shift a and scale M of the Gaussian
base: M is diagonal for a diagonal Gaussian and lower triangular for a full one, or for all
of them where it may be. The weights that turn h into flows stay as they are.

A guide that is built otherwise keeps what it draws from, a Gaussian or a flow, and has a
and M. Of a mixture, or what else it draws from, nothing is known but the draws: there
\(q = N(m + a, S M M^\top S)\), M lower triangular, m and S mean and scales of its draws.

Where the latents are several, as in a hierarchy, each Gaussian of the guide keeps its mean
and scale, which depend on the latents before it, and has a shift and an M of its own.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.chunks import PARTICLES_PER_CHUNK, chunk_rows_for
from pyro_vae_zoo.evaluation.importance import LogLikelihood, summarise
from pyro_vae_zoo.inference.terms import bound_terms, with_particles
from pyro_vae_zoo.models.standard import AmortizedGuide
from pyro_vae_zoo.options import count, real
from pyro_vae_zoo.pair.door import Data, apart, sides_and_data, units_of
from pyro_vae_zoo.pair.gaussians import Move, at_rest, given, moved, of_vectors
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import Site, check_one_vector, in_data_plate, latent_sites
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import tqdm

__all__ = [
    "Fit",
    "LocalGuide",
    "local_draws",
    "local_log_likelihood",
    "weights_of_each",
]


@apart
def local_log_likelihood(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int = 2000,
    num_steps: int = 500,
    lr: float = 0.02,
    *,
    step_particles: int = 8,
    seed: int | None = 0,
    progress: bool = False,
) -> LogLikelihood:
    r"""Log p(x) by importance sampling from a q that is optimised for each datum.

    From the guide's output on, over context, shift and scale of the module's equations,
    with a lower triangular M whatever the guide: the base's covariance is full. Of several
    latents each has a shift and an M; how they depend on each other stays the guide's.
    Where the guide's own draws are too few, which a k-hat above 0.7 tells, these are often
    enough, at the price of `num_steps` steps of Adam for each datum.

    Args:
        vae: as in `inference_gaps`.
        x: data, shape `(n, *event_shape)`.
        num_particles: draws for each datum.
        num_steps: of the optimisation.
        lr: Adam's first rate.
        step_particles: draws for each datum in a step.
        seed: of the draws; None draws from the caller's random state.
        progress: show a progress bar.

    Raises:
        UserError: for a single latent that is no real vector, for one of several whose q
            is not a Gaussian of a vector or a flow on one, for data that the likelihood
            cannot score, and for numbers out of range.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> ll = local_log_likelihood(vae, torch.zeros(3, 8, 8), 100, num_steps=50)
    >>> ll.log_prob.shape, ll.num_particles
    (torch.Size([3]), 100)
    """
    fit = Fit(num_steps, lr, step_particles)
    found, shared = weights_of_each(
        vae, x, num_particles, fit, seed, progress, amortised=False, full=True
    )
    ends = [0, *accumulate(len(local) for (local,) in found)]
    groups = [slice(*rows) for rows in pairwise(ends)] if shared else []
    return summarise(torch.cat([local for (local,) in found]), groups)


class Fit(NamedTuple):
    """The settings by which each datum's q is found."""

    num_steps: int
    lr: float
    step_particles: int


def weights_of_each(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int,
    fit: Fit,
    seed: int | None,
    progress: bool,
    *,
    amortised: bool,
    full: bool,
) -> tuple[list[list[Tensor]], bool]:
    """Log-weights of each batch, the guide's and its q's; and whether data share draws."""
    units = units_of(x)
    model, guide, x, device = sides_and_data(vae, x)
    num_particles, fit = _checked(num_particles, fit)
    found = []
    with evaluating(model, guide, device, seed):
        latents, shared = _latents(guide, x[:1].to(device))
        if amortised or len(latents) < 2:
            _check_one_vector(model, guide, x[:1].to(device))
        rows = chunk_rows_for(model, guide, x[:2].to(device))
        draws = max(fit.step_particles, PARTICLES_PER_CHUNK // 4)
        batches = x.split(max(rows // draws, 1))
        total = len(batches) * fit.num_steps
        with tqdm(total=total, desc="optimise q", disable=not progress) as bar:
            for batch in batches:
                batch = batch.to(device)
                q = _local(guide, batch, full)
                _optimise(model, q, batch, fit, bar)
                block = max(rows // len(batch), 1)
                sides = [guide, q] if amortised else [q]
                weights = (
                    _log_weights(model, side, batch, num_particles, block)
                    for side in sides
                )
                found.append([w + units for w in weights])
    return found, shared


def local_draws(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Tensor,
    num_particles: int = 2000,
    num_steps: int = 200,
    *,
    seed: int | None = 0,
) -> tuple[Tensor, Tensor]:
    """Draws of each datum's own q, and their log-weights log p(x, z) - log q(z).

    A few data at a time: all of their draws are in memory at once.

    Args:
        vae: as in `local_log_likelihood`.
        x: data, shape `(n, *event_shape)`.
        num_particles: draws for each datum.
        num_steps: of the optimisation.
        seed: of the draws.

    Returns:
        z of shape `(n, num_particles, latent_dim)` and log-weights `(n, num_particles)`,
        float64 on the CPU.

    Raises:
        UserError: for pairs of other latents than one real vector.
    """
    model, guide, x, device = sides_and_data(vae, x)
    num_particles, fit = _checked(num_particles, Fit(num_steps, 0.02, 8))
    with evaluating(model, guide, device, seed):
        x = x.to(device)
        _check_one_vector(model, guide, x[:1])
        q = _local(guide, x, full=True)
        with tqdm(disable=True) as bar:
            _optimise(model, q, x, fit, bar)
        terms = bound_terms(model, q, x, num_particles, scaled=False)
        z = latent_sites(terms.guide_trace)["z"]["value"]
    return z.double().transpose(0, 1).cpu(), terms.log_weights.double().T.cpu()


class LocalGuide(nn.Module):
    """q(z; lambda) for these data, at first the guide's; see the module's equations.

    As those below it has a list of what is optimised, `of_the_data`.

    Args:
        guide: whose encoder says where to start.
        x: the data, one lambda for each.
        full: whether M is lower triangular for a diagonal Gaussian, too.
    """

    def __init__(self, guide: AmortizedGuide, x: Tensor, full: bool = False) -> None:
        super().__init__()
        context = guide.encoder(x)
        self.posterior = guide.posterior
        self.context = nn.Parameter(context.detach().clone())
        self.move = at_rest(guide.posterior(context), full)
        self.of_the_data = [self.context, *given(self.move)]

    def forward(self, x: Tensor) -> Tensor:
        """Draw z."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", moved(self.posterior(self.context), self.move))


class LocalLayers(nn.Module):
    """The guide, with the Gaussian of each of its latents shifted and scaled.

    Args:
        guide: whose latents are Gaussians, or flows on them.
        x: the data, one lambda for each.
        full: whether M is lower triangular for a diagonal Gaussian, too.
    """

    def __init__(self, guide: nn.Module, x: Tensor, full: bool = True) -> None:
        super().__init__()
        self.guide = guide
        self.moves: dict[str, Move] = {}
        for name, site in _latents(guide, x)[0].items():
            if len(shape := tuple(site["fn"].event_shape)) != 1:
                raise UserError(
                    f"a q for each datum needs vectors, got {name!r} of event shape {shape}"
                )
            self.moves[name] = at_rest(site["fn"], full)
        self.of_the_data = [p for move in self.moves.values() for p in given(move)]

    def forward(self, x: Tensor) -> Any:
        """Draw the latents."""
        with _Moves(self.moves):
            return self.guide(x)


class _Moves(Messenger):
    """Shifts and scales the distributions of some sites, by name."""

    def __init__(self, moves: Mapping[str, Move]) -> None:
        super().__init__()
        self.moves = moves

    def _pyro_sample(self, msg: Message) -> None:
        if (name := msg["name"] or "") in self.moves:
            q = cast(TorchDistributionMixin, msg["fn"])
            msg["fn"] = moved(q, self.moves[name])


class LocalGaussian(nn.Module):
    """A Gaussian for each datum.

    Args:
        start: that it is at first.
        full: whether M is lower triangular for a diagonal one, too.
    """

    def __init__(self, start: TorchDistributionMixin, full: bool) -> None:
        super().__init__()
        self.start = start
        self.move = at_rest(start, full)
        self.of_the_data = given(self.move)

    def forward(self, x: Tensor) -> Tensor:
        """Draw z."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", moved(self.start, self.move))


def _of_draws(guide: nn.Module, x: Tensor, num_draws: int = 200) -> LocalGaussian:
    """The full Gaussian, at first of the mean and the scales of a guide's draws."""
    trace = poutine.trace(with_particles).get_trace(guide, x, num_draws)
    z = latent_sites(trace)["z"]["value"]
    start = dist.Normal(z.mean(0), z.std(0).clamp(min=1e-4)).to_event(1)
    return LocalGaussian(start, full=True)


Local = LocalGuide | LocalGaussian | LocalLayers


def _local(guide: nn.Module, x: Tensor, full: bool) -> Local:
    """The q of each datum that a guide's kind allows."""
    sites = _latents(guide, x)[0]
    if len(sites) > 1:
        return LocalLayers(guide, x)
    try:
        if isinstance(guide, AmortizedGuide):
            return LocalGuide(guide, x, full)
        (q,) = (of_vectors(site["fn"]) for site in sites.values())
        if getattr(q, "transforms", None):
            return LocalLayers(guide, x, full)
        return LocalGaussian(q, full)
    except UserError:  # no flow and no Gaussian
        return _of_draws(guide, x)


def _latents(guide: nn.Module, x: Tensor) -> tuple[dict[str, Site], bool]:
    """The sites of a guide with a draw for each datum; and whether there are others."""
    with _draws_aside(x):
        found = latent_sites(poutine.trace(guide).get_trace(x))
    each = {name: site for name, site in found.items() if in_data_plate(site)}
    return each, len(each) < len(found)


def _draws_aside(x: Tensor) -> AbstractContextManager[None]:
    """Draws in the block leave those that count the same."""
    devices = [x.device] if x.device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)


def _optimise(
    model: nn.Module,
    q: Local,
    x: Tensor,
    fit: Fit,
    bar: tqdm,
) -> None:
    free = q.of_the_data
    adam = torch.optim.Adam(free, lr=fit.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(fit.num_steps, 1))
    for _ in range(fit.num_steps):
        with torch.enable_grad():
            terms = bound_terms(model, q, x, fit.step_particles, scaled=False)
            loss = -terms.log_weights.mean(0).sum()
            slopes = torch.autograd.grad(loss, free, allow_unused=True)
        for p, slope in zip(free, slopes, strict=True):
            p.grad = slope
        adam.step()
        schedule.step()
        bar.update()


def _log_weights(
    model: nn.Module, q: nn.Module, x: Tensor, num_particles: int, block: int
) -> Tensor:
    """Log-weights `(len(x), num_particles)` of draws of q, float64 on the CPU."""
    parts = []
    for start in range(0, num_particles, block):
        draws = min(block, num_particles - start)
        terms = bound_terms(model, q, x, draws, scaled=False)
        parts.append(terms.log_weights.double().T.cpu())
    return torch.cat(parts, 1)


def _check_one_vector(model: nn.Module, guide: nn.Module, x: Tensor) -> None:
    with _draws_aside(x):
        terms = bound_terms(model, guide, x)
    check_one_vector(terms.model_trace, "a q for each datum")


def _checked(num_particles: int, fit: Fit) -> tuple[int, Fit]:
    steps = count("num_steps", fit.num_steps, least=0)
    step_particles = count("step_particles", fit.step_particles)
    if not 0 < real("lr", fit.lr) < math.inf:
        raise UserError(f"lr must be positive and finite, got {fit.lr}")
    num_particles = count("num_particles", num_particles, least=2)
    return num_particles, Fit(steps, fit.lr, step_particles)
