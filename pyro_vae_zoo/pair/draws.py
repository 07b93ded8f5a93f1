"""Samples, reconstructions and codes of a pair, in parts that fit in memory.

What a model draws once for all data, as the gates of a graph while they are learned, the
parts have in common.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.memory import rows_that_fit
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import (
    data_sites,
    in_data_plate,
    latent_sites,
    mean_or_draw,
)

if TYPE_CHECKING:
    from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "codes",
    "decoded",
    "embeddings",
    "means_of",
    "prior_draws",
    "reconstructions",
    "samples",
]

T = TypeVar("T")

# Up to so many rows and numbers are small, whatever the networks: none is measured.
_FEW_ROWS, _FEW_NUMBERS = 256, 2**20


def samples(vae: "VAE", n: int, mean: bool) -> Tensor:
    """`n` data of the model, or means of the last draw."""
    n = count("number of samples", n)
    generate = poutine.uncondition(vae.model)

    def run(blank: Tensor) -> Tensor:
        return _data_of(vae.model, poutine.trace(generate).get_trace(blank), mean)

    blank = torch.zeros((), dtype=vae.dtype, device="cpu").expand(n, *vae.event_shape)
    return _in_parts(vae, blank, run, torch.cat)


def reconstructions(vae: "VAE", x: Tensor) -> Tensor:
    """Means of p(x|z) for one draw of q(z|x) for each datum."""

    def run(batch: Tensor) -> Tensor:
        guide_trace = poutine.trace(vae.guide).get_trace(batch)
        decode = poutine.replay(poutine.uncondition(vae.model), trace=guide_trace)
        return _data_of(vae.model, poutine.trace(decode).get_trace(batch), mean=True)

    return _in_parts(vae, x, run, torch.cat)


def codes(vae: "VAE", x: Tensor, num_samples: int) -> dict[str, Tensor]:
    """Draws of each latent site of the guide, `(num_samples, len(x), ...)`."""
    num_samples = count("num_samples", num_samples)

    def run(batch: Tensor) -> dict[str, Tensor]:
        with pyro.plate("particles", num_samples, dim=-2):
            sites = latent_sites(poutine.trace(vae.guide).get_trace(batch))
        return {n: site["value"] for n, site in sites.items() if in_data_plate(site)}

    def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    return _in_parts(vae, x, run, join, draws=num_samples)


def embeddings(vae: "VAE", x: Tensor, num_samples: int) -> Tensor:
    """Means of q(z|x), in closed form or over draws; `(len(x), latent_dim)`.

    Raises:
        UserError: for guides of other latents than one vector `"z"`.
    """
    num_samples = count("num_samples", num_samples)

    def run(batch: Tensor) -> Tensor:
        sites = latent_sites(poutine.trace(vae.guide).get_trace(batch))
        if [*sites] != ["z"] or sites["z"]["value"].ndim != 2:
            raise UserError(
                "embed needs a guide of one latent vector 'z', got latents "
                f"{', '.join(map(repr, sites)) or 'none'}; encode gives draws of each"
            )
        try:
            return sites["z"]["fn"].mean
        except NotImplementedError:  # of a flow none is known
            with pyro.plate("particles", num_samples, dim=-2):
                trace = poutine.trace(vae.guide).get_trace(batch)
            return latent_sites(trace)["z"]["value"].mean(0)

    return _in_parts(vae, x, run, torch.cat, draws=num_samples)


def decoded(vae: "VAE", z: Tensor) -> Tensor:
    """E[x|z] for given latents `(n, latent_dim)`, `(n, *event_shape)`.

    Raises:
        UserError: for models of other latents than one vector `"z"`, and z of another
            size.
    """

    def run(z: Tensor) -> Tensor:
        blank = vae._blank(len(z))
        conditioned = poutine.condition(poutine.uncondition(vae.model), data={"z": z})
        return _data_of(
            vae.model, poutine.trace(conditioned).get_trace(blank), mean=True
        )

    with evaluating(vae.model, vae.guide, vae.device, seed=None):
        size = tuple(_prior_of(vae, 1).event_shape)
    if z.ndim != 2 or tuple(z.shape[1:]) != size or not len(z):
        raise UserError(
            f"expected z of shape (n, {size[0]}), n at least 1, got {tuple(z.shape)}"
        )
    return _in_parts(vae, z, run, torch.cat)


def prior_draws(vae: "VAE", n: int) -> Tensor:
    """`n` draws of p(z), `(n, latent_dim)`; errors as of `decoded`."""
    n = count("number of draws", n)
    with evaluating(vae.model, vae.guide, vae.device, seed=None):
        return _prior_of(vae, 1).expand((n,)).sample()


def _prior_of(vae: "VAE", n: int) -> TorchDistributionMixin:
    """p(z) of n data, for a model of one latent vector."""
    trace = poutine.trace(vae.model).get_trace(vae._blank(n))
    sites = latent_sites(trace)
    if [*sites] != ["z"] or len(sites["z"]["fn"].event_shape) != 1:
        raise UserError(
            "this needs a model of one latent vector 'z', got latents "
            f"{', '.join(map(repr, sites)) or 'none'}"
        )
    return sites["z"]["fn"]


def means_of(vae: "VAE") -> tuple[int, bool]:
    """The number of parts that x is drawn in, and whether all have a mean in closed form.

    Of a flow none is known: there a draw stands for E[x|z].
    """
    trace = poutine.trace(poutine.uncondition(vae.model)).get_trace(vae._blank(1))
    sites = data_sites(trace).values()
    try:
        return len([site["fn"].mean for site in sites]), True
    except NotImplementedError:
        return len(sites), False


def _in_parts(
    vae: "VAE",
    x: Tensor,
    run: Callable[[Tensor], T],
    join: Callable[[list[T]], T],
    draws: int = 1,
) -> T:
    """The results of `run` for one part of the data after another, joined."""
    device = vae.device
    with evaluating(vae.model, vae.guide, device, seed=None):
        rows, numbers = len(x) * draws, x.numel() * draws
        if rows > _FEW_ROWS or numbers > _FEW_NUMBERS:
            probe = x[:2].to(device).contiguous()
            rows = rows_that_fit(lambda: run(probe), len(probe) * draws, device)
        parts = []
        with _DrawnOnce():
            for batch in x.split(max(rows // draws, 1)):
                parts.append(run(batch.to(device).contiguous()))
        return join(parts)


class _DrawnOnce(Messenger):
    """Keeps the draws outside the plate of data for the runs that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str | None, Tensor | None] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values and not msg["done"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _pyro_post_sample(self, msg: Message) -> None:
        latent = not (msg["is_observed"] or site_is_subsample(msg))
        if latent and not in_data_plate(msg):
            self.values[msg["name"]] = msg["value"]


def _data_of(model: nn.Module, trace: poutine.Trace, mean: bool) -> Tensor:
    """The drawn data, or their means; a model of blocks puts them together."""
    sites = data_sites(trace).values()
    parts = [mean_or_draw(site) if mean else site["value"] for site in sites]
    join = getattr(model, "join", None)
    if join is not None:
        return join(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
