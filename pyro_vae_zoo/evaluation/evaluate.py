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
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from pyro_vae_zoo.evaluation.active_units import ActiveUnits
from pyro_vae_zoo.evaluation.chunks import How, stream_over_ranks
from pyro_vae_zoo.evaluation.importance import (
    LogLikelihood,
    error_of_mean,
    summarise,
    summary_of_khat,
)
from pyro_vae_zoo.evaluation.statistics import error_over_data
from pyro_vae_zoo.inference.terms import BoundTerms, bound_terms, only_mixture
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import Data, apart, data_of, units_of
from pyro_vae_zoo.pair.sites import in_data_plate, latent_sites
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "Evaluation",
    "draw_log_weights",
    "evaluate",
    "log_likelihood",
    "weighted_bound",
]


@dataclass(frozen=True)
class Evaluation:
    """Means over the data, in nats per datum where not said otherwise.

    Attributes:
        elbo: the evidence lower bound.
        elbo_std_error: sd over the data / sqrt(number of data).
        log_likelihood: importance-sampled, with `num_particles` draws.
        log_likelihood_std_error: sd over the data / sqrt(number of data).
        log_likelihood_mc_error: error from the finite number of draws,
            sqrt(sum of squared standard errors) / number of data; where data share a
            draw, as that of a graph's gates, with the covariance that comes of it.
        kl: E[log q(z|x) - log p(z)], summed over the latent sites.
        kl_per_site: the same for each latent site.
        reconstruction: E[log p(x|z)].
        active_units: number of latent dimensions whose posterior mean varies over
            the data with a variance above 0.01 (Burda et al. 2016); None where one
            draw or one datum cannot tell.
        active_units_per_site: that number and all dimensions, for each latent site.
        khat_median: median Pareto shape of the weights; None for 20 draws or fewer.
        khat_above_07: share of data whose shape is above 0.7, or inf; likewise.
        ess: mean effective number of draws.
        initial_log_density: E[log q_0(z_0)] of a flow guide, before its flow.
        final_log_density: E[log q_K(z_K)], after it.
        log_det: E[sum of log-determinants]; the first minus the second.
        component_weights: of a guide that draws one mixture, the mean weight of each
            component over the data; else None.
        bits_per_dim: minus log_likelihood, in bits, for each element of a datum.
        num_particles: draws for each datum.
        num_data: number of data.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("iaf", event_shape=(8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ev = zoo.evaluate(vae, torch.zeros(5, 8, 8), num_particles=50)
    >>> abs(ev.elbo - (ev.reconstruction - ev.kl)) < 1e-3
    True
    """

    elbo: float
    elbo_std_error: float
    log_likelihood: float
    log_likelihood_std_error: float
    log_likelihood_mc_error: float
    kl: float
    kl_per_site: dict[str, float]
    reconstruction: float
    active_units: int | None
    active_units_per_site: dict[str, tuple[int, int]]
    khat_median: float | None
    khat_above_07: float | None
    ess: float
    initial_log_density: float | None
    final_log_density: float | None
    log_det: float | None
    component_weights: tuple[float, ...] | None
    bits_per_dim: float
    num_particles: int
    num_data: int

    def to_dict(self) -> dict:
        """The evaluation ready for JSON; active units of each site as in `"12/40"`."""
        values = asdict(self)
        per_site = values.pop("active_units_per_site")
        texts = {site: f"{active}/{of}" for site, (active, of) in per_site.items()}
        return values | {"active_units": texts}


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
        UserError: for data that the likelihood cannot score, and where the pair cannot
            be compiled and was to be.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> log_likelihood(vae, torch.zeros(3, 8, 8), num_particles=100).log_prob.shape
    torch.Size([3])
    """
    how: How = {"seed": seed, "chunk_rows": chunk_rows, "progress": progress}
    return summarise(draw_log_weights(vae, x, num_particles, compile=compile, **how))


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
) -> Tensor:
    r"""The draws' \(\log w_k\), shape `(len(x), num_particles)`, float64 on the CPU.

    Arguments and errors of `log_likelihood`, which summarises them.
    """
    units, x = units_of(x), data_of(x)
    num_particles = count("num_particles", num_particles)
    log_weights = _empty_weights(len(x), num_particles)
    how: How = {"seed": seed, "chunk_rows": chunk_rows, "progress": progress}
    chunks = stream_over_ranks(
        vae, x, num_particles, _log_weights, compile=compile, **how
    )
    with closing(chunks):  # an error in the loop must not leave its contexts open
        for rows, columns, chunk in chunks:
            log_weights[rows, columns] = chunk["log_weights"].cpu() + units
    return log_weights


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
    units, x = units_of(x), data_of(x)
    num_particles = count("num_particles", num_particles)
    totals = _Totals(len(x), num_particles, units)
    how: How = {"seed": seed, "chunk_rows": chunk_rows, "progress": progress}
    chunks = stream_over_ranks(
        vae, x, num_particles, _summaries, compile=compile, **how
    )
    with closing(chunks):
        for rows, columns, chunk in chunks:
            totals.add(rows, columns, chunk)
    return totals.evaluation(math.prod(x.shape[1:]))


@apart
def weighted_bound(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Tensor,
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
    >>> x = torch.zeros(3, 8, 8)
    >>> weighted_bound(vae, x, 1) < weighted_bound(vae, x, 100)
    True
    """
    bounds = torch.full((len(x),), -math.inf, dtype=torch.double, device="cpu")
    chunks = stream_over_ranks(
        vae, x, num_particles, _weighted_bounds, seed=seed, chunk_rows=chunk_rows
    )
    with closing(chunks):
        for rows, columns, chunk in chunks:
            share = math.log((columns.stop - columns.start) / num_particles)
            bounds[rows] = bounds[rows].logaddexp(chunk["bounds"].cpu() + share)
    return bounds.mean().item()


def _weighted_bounds(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> dict:
    """The numbers of a chunk that `weighted_bound` wants."""
    terms = bound_terms(model, guide, x, draws, scaled=False, by_component=True)
    weights = (terms.log_shares + terms.log_weights).double()
    return {"bounds": weights.logsumexp(0)}


def _empty_weights(num_data: int, num_particles: int) -> Tensor:
    return torch.empty(num_data, num_particles, dtype=torch.double, device="cpu")


def _log_weights(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> dict:
    """The numbers of a chunk that `log_likelihood` wants."""
    terms = bound_terms(model, guide, x, draws, scaled=False)
    return {"log_weights": terms.log_weights.double().T}


def _summaries(model: nn.Module, guide: nn.Module, x: Tensor, draws: int) -> dict:
    """The numbers of a chunk that `evaluate` wants."""
    terms = bound_terms(model, guide, x, draws, scaled=False)
    sites = latent_sites(terms.guide_trace).values()
    return {
        "log_weights": terms.log_weights.double().T,
        "reconstruction": terms.log_likelihood.double().sum(),
        "kl": {site: value.double().sum() for site, value in terms.kl.items()},
        "halves": _sums_of_halves(terms),
        "densities": _flow_densities(terms),
        "weights": _mixture_weights(terms),
        "shared": not all(map(in_data_plate, sites)),
    }


def _sums_of_halves(terms: BoundTerms) -> dict[str, Tensor]:
    """Each site's draws, summed over every other one and over the rest: (2, n, dim)."""
    halves, sites = {}, latent_sites(terms.guide_trace)
    for name, log_prob in terms.log_guide.items():
        z = sites[name]["value"].double().reshape(*log_prob.shape, -1)
        halves[name] = torch.stack([z[0::2].sum(0), z[1::2].sum(0)])
    return halves


class _Totals:
    """The numbers of all chunks together, and the evaluation that they come to.

    The log-weights of a chunk's data are summarised as soon as all draws are there: what
    is kept for each datum does not grow with the number of draws.
    """

    def __init__(self, num_data: int, num_particles: int, units: float) -> None:
        self.units_of_data = units  # see `units_of`
        self.num_data, self.num_particles = num_data, num_particles
        self.block = _empty_weights(0, num_particles)  # of the chunk's data
        self.summaries: list[tuple[Tensor, LogLikelihood]] = []  # and their bounds
        self.shared_squares = 0.0  # of errors, where data have a draw in common
        self.reconstruction = torch.zeros((), dtype=torch.double, device="cpu")
        self.kl: dict[str, Tensor] = {}
        self.units = ActiveUnits(num_data)
        self.densities: list[Tensor] = []  # sums
        self.num_densities = 0
        self.weights: list[Tensor] = []  # sums

    def add(self, rows: slice, columns: slice, chunk: dict) -> None:
        n = rows.stop - rows.start
        if columns.start == 0:
            self.block = _empty_weights(n, self.num_particles)
        self.block[:, columns] = chunk["log_weights"].cpu() + self.units_of_data
        if columns.stop == self.num_particles:
            self.summaries.append((self.block.mean(1), summarise(self.block)))
            if chunk["shared"]:
                error = n * error_of_mean(self.block, [slice(None)])
                self.shared_squares += error**2
        self.reconstruction += chunk["reconstruction"].cpu()
        for site, value in chunk["kl"].items():
            self.kl[site] = self.kl.get(site, 0) + value.cpu()
        self.units.add(rows, columns, chunk["halves"])
        if columns.start == 0:
            self.densities += [value.sum(1).cpu() for value in chunk["densities"]]
            self.num_densities += sum(value.shape[1] for value in chunk["densities"])
            self.weights += [value.sum(0).cpu() for value in chunk["weights"]]

    def evaluation(self, num_elements: int) -> Evaluation:
        n, num_particles = self.num_data, self.num_particles
        elbo = torch.cat([bound for bound, _ in self.summaries])
        log_prob, std_error, khat, ess = (
            torch.cat([getattr(found, name) for _, found in self.summaries])
            for name in ("log_prob", "std_error", "khat", "ess")
        )
        log_likelihood = log_prob.mean().item()
        mc_error = std_error.square().sum().sqrt().item() / n
        if self.shared_squares:
            mc_error = math.sqrt(self.shared_squares) / n
        draws, active = n * num_particles, self.units.count()
        per_site = {site: (value / draws).item() for site, value in self.kl.items()}
        khat_median, khat_above_07 = summary_of_khat(khat)
        initial = final = log_det = weights = None
        if self.densities:
            sums = torch.stack(self.densities).sum(0)
            initial, final = (sums / self.num_densities).tolist()
            log_det = initial - final
        if self.weights:
            weights = tuple((torch.stack(self.weights).sum(0) / n).tolist())
        return Evaluation(
            elbo=elbo.mean().item(),
            elbo_std_error=error_over_data(elbo),
            log_likelihood=log_likelihood,
            log_likelihood_std_error=error_over_data(log_prob),
            log_likelihood_mc_error=mc_error,
            kl=sum(per_site.values()),
            kl_per_site=per_site,
            reconstruction=(self.reconstruction / draws).item() + self.units_of_data,
            active_units=sum(n for n, _ in active.values()) if active else None,
            active_units_per_site=active,
            khat_median=khat_median,
            khat_above_07=khat_above_07,
            ess=ess.mean().item(),
            initial_log_density=initial,
            final_log_density=final,
            log_det=log_det,
            component_weights=weights,
            bits_per_dim=-log_likelihood / (num_elements * math.log(2)),
            num_particles=num_particles,
            num_data=n,
        )


def _flow_densities(terms: BoundTerms) -> list[Tensor]:
    """Initial and final log-density of a single latent site with a flow: (2, draws)."""
    if len(terms.log_guide) != 1:
        return []
    ((name, final),) = terms.log_guide.items()
    site = latent_sites(terms.guide_trace)[name]
    z, fn = site["value"], site["fn"]
    if not hasattr(fn, "transforms"):
        return [torch.stack([final, final]).double().flatten(1)]
    for transform in reversed(fn.transforms):
        z = transform.inv(z)  # out of the cache of the draw
    initial = fn.base_dist.log_prob(z).expand_as(final)
    return [torch.stack([initial, final]).double().flatten(1)]


def _mixture_weights(terms: BoundTerms) -> list[Tensor]:
    """Weights for each datum, (n, M), of a mixture that is the only latent site."""
    q = only_mixture(terms.guide_trace)
    if q is None:
        return []
    weights = q.log_weights.double().exp().expand(*q.batch_shape, -1)
    num_data = q.batch_shape[-1]
    return [weights.reshape(-1, num_data, len(q.components))[0]]  # any particle
