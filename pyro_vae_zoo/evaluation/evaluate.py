r"""The quality of a VAE: bounds, importance-sampled likelihoods, diagnostics.

Everything is in nats per datum, larger is better. The estimate of a datum's
log-likelihood from K draws of the guide is

\[\log \hat p(x) = \log \frac1K \sum_{k=1}^{K} w_k, \qquad
  w_k = \frac{p(x, z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)\]

(Burda et al. 2016): \(\hat p\) is unbiased, its logarithm a lower bound in
expectation. Draws are streamed in chunks sized to memory; what is kept are the
log-weights, in float64. Where `torchrun` started several processes, each takes a part of
the data and all get the whole result; all of them must call.
"""

import math
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor, nn

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.evaluation.chunks import How, stream_over_ranks
from pyro_vae_zoo.evaluation.importance import LogLikelihood, summarise
from pyro_vae_zoo.evaluation.totals import Evaluation, Totals, empty_weights
from pyro_vae_zoo.inference.terms import BoundTerms, bound_terms, only_mixture
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import Data, apart, data_of, units_of
from pyro_vae_zoo.pair.gaussians import flow_in
from pyro_vae_zoo.pair.sites import in_data_plate, latent_sites
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "draw_log_weights",
    "evaluate",
    "log_likelihood",
    "weighted_bound",
]


@apart
def log_likelihood(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int = 1000,
    *,
    seed: int | None = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
    compile: bool | str = "auto",
) -> LogLikelihood:
    """Importance-sampled log p(x) of each datum, with its error bars.

    Args:
        vae: a `VAE`, or any pair `(model, guide)` with its data plate at dim -1.
        x: data, shape `(n, *event_shape)`; of a `Dataset` its test split. What is
            standardised in a `Dataset` has its density in the units that it was given in.
        num_particles: draws for each datum.
        seed: of the draws; the caller's random state is left as it was. None draws
            from the caller's.
        chunk_rows: datum-draws at a time; sized to memory by default.
        progress: show a progress bar.
        compile: whether chunks of draws are computed by a compiled graph; `auto` for
            where there are so many that it pays, and the pair can be compiled.

    Raises:
        UserError: for data that the likelihood cannot score, for numbers below one, and
            where the pair cannot be compiled and was to be.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> log_likelihood(vae, torch.zeros(3, 8, 8), num_particles=100).log_prob.shape
    torch.Size([3])
    """
    how: How = {"seed": seed, "chunk_rows": chunk_rows, "progress": progress}
    return summarise(*draw_log_weights(vae, x, num_particles, compile=compile, **how))


@apart
def draw_log_weights(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int,
    *,
    seed: int | None = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
    compile: bool | str = "auto",
) -> tuple[Tensor, list[slice]]:
    r"""The draws' \(\log w_k\), and the groups of data that share draws, if any do.

    Arguments and errors of `log_likelihood`, which summarises them.

    Returns:
        Log-weights `(len(x), num_particles)`, float64 on the CPU, and rows of them.
    """
    units, x = units_of(x), data_of(x)
    num_particles = count("num_particles", num_particles)
    log_weights = empty_weights(len(x), num_particles)
    groups: list[slice] = []
    how: How = {"seed": seed, "chunk_rows": chunk_rows, "progress": progress}
    chunks = stream_over_ranks(
        vae, x, num_particles, _log_weights, compile=compile, **how
    )
    with closing(chunks):  # an error in the loop must not leave its contexts open
        for rows, columns, chunk in chunks:
            log_weights[rows, columns] = chunk["log_weights"].cpu() + units
            if chunk["shared"] and columns.start == 0:
                groups.append(rows)
    return log_weights, groups


@apart
def evaluate(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int = 1000,
    *,
    seed: int | None = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
    compile: bool | str = "auto",
) -> Evaluation:
    """ELBO, log-likelihood and what explains them; arguments of `log_likelihood`.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("iaf", event_shape=(8, 8), latent_dim=2)
    >>> result = evaluate(vae, torch.zeros(3, 8, 8), num_particles=100)
    >>> result.elbo <= result.log_likelihood
    True
    """
    given, units, x = x, units_of(x), data_of(x)
    num_particles = count("num_particles", num_particles)
    totals = Totals(len(x), num_particles, units)
    how: How = {"seed": seed, "chunk_rows": chunk_rows, "progress": progress}
    chunks = stream_over_ranks(
        vae, x, num_particles, _summaries, compile=compile, **how
    )
    with closing(chunks):
        for rows, columns, chunk in chunks:
            totals.add(rows, columns, chunk)
    found = totals.evaluation(math.prod(x.shape[1:]))
    if isinstance(given, Dataset) and given.logit is not None:
        # Those of the grey levels, not of their logits.
        bits = given.bits_per_dim(found.log_likelihood, given.test)
        found = replace(found, bits_per_dim=bits)
    return found


@apart
def weighted_bound(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_particles: int,
    *,
    seed: int | None = 0,
    chunk_rows: int | None = None,
) -> float:
    r"""The bound that `bound="iwae"` trains, mean over the data, in nats.

    \(\log \tfrac1K \sum_k w_k\) of K draws, and of a guide that draws a mixture
    \(\log \sum_m \alpha_m \tfrac1K \sum_k w_{mk}\) of K draws of each component, which
    is nearer to log p(x) than the first (Burda et al. 2016, eq. 8). Arguments and errors
    of `log_likelihood`.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8))
    >>> x = torch.zeros(1000, 8, 8)
    >>> weighted_bound(vae, x, 1) < weighted_bound(vae, x, 100)
    True
    """
    units, x = units_of(x), data_of(x)
    num_particles = count("num_particles", num_particles)
    bounds = torch.full((len(x),), -math.inf, dtype=torch.double, device="cpu")
    chunks = stream_over_ranks(
        *(vae, x, num_particles, _weighted_bounds),
        seed=seed,
        chunk_rows=chunk_rows,
        by_component=True,
    )
    with closing(chunks):
        for rows, columns, chunk in chunks:
            share = math.log((columns.stop - columns.start) / num_particles)
            bounds[rows] = bounds[rows].logaddexp(chunk["bounds"].cpu() + share)
    return bounds.mean().item() + units


def _weighted_bounds(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> dict:
    """The numbers of a chunk that `weighted_bound` wants."""
    terms = bound_terms(model, guide, x, draws, scaled=False, by_component=True)
    weights = (terms.log_shares + terms.log_weights).double()
    return {"bounds": weights.logsumexp(0)}


def _log_weights(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> dict:
    """The numbers of a chunk that `log_likelihood` wants."""
    terms = bound_terms(model, guide, x, draws, scaled=False)
    return {"log_weights": terms.log_weights.double().T, "shared": _share(terms)}


def _summaries(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> dict:
    """The numbers of a chunk that `evaluate` wants."""
    terms = bound_terms(model, guide, x, draws, scaled=False)
    return {
        "log_weights": terms.log_weights.double().T,
        "reconstruction": terms.log_likelihood.double().sum(),
        "kl": {site: value.double().sum() for site, value in terms.kl.items()},
        "halves": _sums_of_halves(terms),
        "densities": _flow_densities(terms),
        "weights": _mixture_weights(terms),
        "shared": _share(terms),
    }


def _share(terms: BoundTerms) -> bool:
    """True where data have a draw in common."""
    return not all(map(in_data_plate, latent_sites(terms.guide_trace).values()))


def _sums_of_halves(terms: BoundTerms) -> dict[str, Tensor]:
    """Each site's draws, summed over every other one and over the rest: (2, n, dim)."""
    halves, sites = {}, latent_sites(terms.guide_trace)
    for name, log_prob in terms.log_guide.items():
        z = sites[name]["value"].double().reshape(*log_prob.shape, -1)
        halves[name] = torch.stack([z[0::2].sum(0), z[1::2].sum(0)])
    return halves


def _flow_densities(terms: BoundTerms) -> list[Tensor]:
    """Initial and final log-density of a single latent site with a flow: (2, draws)."""
    if len(terms.log_guide) != 1:
        return []
    ((name, final),) = terms.log_guide.items()
    site = latent_sites(terms.guide_trace)[name]
    z, fn = site["value"], flow_in(site["fn"])
    if not hasattr(fn, "transforms"):
        return [torch.stack([final, final]).double().flatten(1)]
    for transform in reversed(fn.transforms):
        z = transform.inv(z)  # out of the cache of the draw
    initial = fn.base_dist.log_prob(z)
    if initial.ndim > final.ndim:
        initial = initial.sum(-1)
    initial = initial.expand_as(final)
    return [torch.stack([initial, final]).double().flatten(1)]


def _mixture_weights(terms: BoundTerms) -> list[Tensor]:
    """Weights for each datum, (n, M), of a mixture that is the only latent site."""
    q = only_mixture(terms.guide_trace)
    if q is None:
        return []
    weights = q.log_weights.double().exp().expand(*q.batch_shape, -1)
    num_data = q.batch_shape[-1]
    return [weights.reshape(-1, num_data, len(q.components))[0]]  # any particle
