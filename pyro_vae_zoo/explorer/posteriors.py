"""Codes and posteriors of a pair with one latent vector, in principal coordinates."""

from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.chunks import stream
from pyro_vae_zoo.evaluation.importance import summarise
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import latent_sites
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import tqdm

__all__ = [
    "MASSES",
    "add_outlines",
    "draws_of",
    "posteriors_of",
]

MASSES = (0.5, 0.9, 0.99)  # of the regions that are outlined
Draws = dict[str, Tensor]  # of a chunk, and what goes with them


def _draw(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> Draws:
    """Draws of q and their log-weights, a row for each datum."""
    terms = bound_terms(model, guide, x, draws, scaled=False)
    z = latent_sites(terms.guide_trace)["z"]["value"].reshape(draws, len(x), -1)
    return {"z": z.transpose(0, 1), "log_weights": terms.log_weights.double().T}


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
