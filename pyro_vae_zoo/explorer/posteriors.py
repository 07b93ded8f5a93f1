"""Codes and posteriors of a pair with one latent vector, in principal coordinates."""

from contextlib import closing
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.chunks import stream
from pyro_vae_zoo.evaluation.importance import summarise
from pyro_vae_zoo.inference.terms import bound_terms, with_particles
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import latent_sites
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import tqdm

__all__ = [
    "MASSES",
    "add_outlines",
    "codes_of",
    "draws_of",
    "posteriors_of",
]

MASSES = (0.5, 0.9, 0.99)  # of the regions that are outlined
Draws = dict[str, Tensor]  # of a chunk, and what goes with them
_CODE_DRAWS = 50  # of q(z|x) for each code


def _draw(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> Draws:
    """Draws of q and their log-weights, a row for each datum."""
    terms = bound_terms(model, guide, x, draws, scaled=False)
    z = latent_sites(terms.guide_trace)["z"]["value"].reshape(draws, len(x), -1)
    return {"z": z.transpose(0, 1), "log_weights": terms.log_weights.double().T}


def _sum(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> Draws:
    """The sum of so many draws of q for each datum."""
    trace = poutine.trace(with_particles).get_trace(guide, x, draws)
    z = latent_sites(trace)["z"]["value"].reshape(draws, len(x), -1)
    return {"z": z.double().sum(0)}


def draws_of(
    vae: VAE, x: Tensor, num_samples: int, seed: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """Draws `(n, num_samples, latent_dim)` and their log-weights, float64 on the CPU."""
    z: list[Tensor] = []
    log_weights = torch.empty(len(x), num_samples, dtype=torch.double)
    found = stream(vae, x, num_samples, _draw, seed=seed, progress=progress)
    with closing(found) as chunks:
        for rows, columns, chunk in chunks:
            log_weights[rows, columns] = chunk["log_weights"].cpu()
            part = chunk["z"].double().cpu()
            if columns.start == 0:
                z.append(part)
            else:
                z[-1] = torch.cat([z[-1], part], 1)
    return torch.cat(z), log_weights


def codes_of(vae: VAE, x: Tensor, seed: int, progress: bool) -> Tensor:
    """E[z] under q(z|x) of each datum, from draws; `(n, latent_dim)`, float64."""
    sums: dict[int, Tensor] = {}
    found = stream(vae, x, _CODE_DRAWS, _sum, seed=seed, progress=progress)
    with closing(found) as chunks:
        for rows, _, chunk in chunks:
            sums[rows.start] = sums.get(rows.start, 0) + chunk["z"].cpu()
    return torch.cat(list(sums.values())) / _CODE_DRAWS


def posteriors_of(
    draws: Tensor, log_weights: Tensor, centre: Tensor, axes: Tensor
) -> list[dict[str, Any]]:
    """Code, draws and estimates of each posterior, in coordinates u and in nats."""
    ll = summarise(log_weights)
    u = (draws - centre) @ axes.T
    code = u.mean(1)
    offsets = (u - code[:, None]).half()  # of the size of the posterior: little is lost
    return [
        {
            "code": code[k].float().numpy(),
            "draws": offsets[k].numpy(),
            "elbo": log_weights[k].mean().item(),
            "log_prob": ll.log_prob[k].item(),
            "khat": ll.khat[k].item(),
        }
        for k in range(len(draws))
    ]


def add_outlines(
    vae: VAE, x: Tensor, posteriors: list[dict], seed: int, progress: bool
) -> None:
    """Outlines of q(z|x) and p(z|x) and KL(q || p), where the guide can score a grid."""
    from pyro_vae_zoo.evaluation.grid import posterior_densities
    from pyro_vae_zoo.plots.posterior import region_edges

    pairs = zip(x.split(1), posteriors, strict=True)
    for datum, found in tqdm(pairs, "grids", len(x), disable=not progress):
        with evaluating(vae.model, vae.guide, vae.device, seed):
            try:
                q, p, gap = posterior_densities(vae, datum.to(vae.device))
            except UserError:  # the guide scores nothing but its own draws
                return
        found["gap"] = gap
        for name, density in (("guide", q), ("exact", p)):
            found[name] = [
                [(line - found["code"]).astype(np.float16) for line in region]
                for region in region_edges(density, MASSES)
            ]
