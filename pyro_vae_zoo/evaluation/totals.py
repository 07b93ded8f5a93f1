"""`Evaluation`, and the sums over chunks of data and draws that it is made of."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae_zoo.data.display import Row, Summary, digits, figure, frame
from pyro_vae_zoo.evaluation.importance import (
    LogLikelihood,
    error_of_mean,
    khat_rows,
    summarise,
    summary_of_khat,
)
from pyro_vae_zoo.evaluation.statistics import error_of_draws, error_over_data
from pyro_vae_zoo.files import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["ActiveUnits", "Evaluation", "Totals", "empty_weights"]


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
        """The evaluation ready for JSON, where None is no number.

        Active units of each site are as in `"12/40"`.
        """
        values = asdict(self)
        per_site = values.pop("active_units_per_site")
        texts = {site: f"{active}/{of}" for site, (active, of) in per_site.items()}
        return finite(values | {"active_units": texts})

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        n, k, latents = self.num_data, self.num_particles, bool(self.kl_per_site)
        error, mc = self.log_likelihood_std_error, self.log_likelihood_mc_error
        over = f"+- {digits(error)} over the data"
        draws = f", MC error {digits(mc)}" if latents else ", exact"
        rows: list[Row] = [
            ("log-likelihood", digits(self.log_likelihood), over + draws)
        ]
        if latents:
            over = f"+- {digits(self.elbo_std_error)} over the data"
            rows += [
                ("ELBO", digits(self.elbo), over),
                ("KL", digits(self.kl)),
                ("reconstruction", digits(self.reconstruction)),
            ]
        rows.append(("bits/dimension", digits(self.bits_per_dim, 4)))
        if self.active_units is not None and latents:
            dims = sum(of for _, of in self.active_units_per_site.values())
            rows.append(("active units", str(self.active_units), f"of {dims}"))
        rows += khat_rows(self.khat_median, self.khat_above_07)
        if latents:
            rows.append(("ESS", digits(self.ess, 1), f"of {k} particles"))
        return Summary(
            f"Evaluation of {n} data, {k} particles each, nats per datum", rows
        )

    def to_frame(self) -> "DataFrame":
        """A data frame of one row, to be put below others; a column for each number.

        What there is of each latent site has columns `kl_z`, `active_units_z`.

        Raises:
            UserError: without pandas.
        """
        values = asdict(self)
        for site, kl in values.pop("kl_per_site").items():
            values[f"kl_{site}"] = kl
        for site, (active, _) in values.pop("active_units_per_site").items():
            values[f"active_units_{site}"] = active
        for i, weight in enumerate(values.pop("component_weights") or ()):
            values[f"component_weight_{i}"] = weight
        return frame({name: [value] for name, value in values.items()})

    def plot(self, *, title: str | None = None) -> "Figure":
        """The bound and what it is the difference of, up to log p(x)."""
        return figure(self, title)


class Totals:
    """The numbers of all chunks together, and the evaluation that they come to.

    The log-weights of a chunk's data are summarised as soon as all draws are there: what
    is kept for each datum does not grow with the number of draws.
    """

    def __init__(self, num_data: int, num_particles: int, units: float) -> None:
        self.units_of_data = units  # see `units_of`
        self.num_data, self.num_particles = num_data, num_particles
        self.block = empty_weights(0, num_particles)  # of the chunk's data
        self.summaries: list[tuple[Tensor, LogLikelihood]] = []  # and their bounds
        self.shared_squares = 0.0  # of errors, where data have a draw in common
        self.reconstruction = torch.zeros((), dtype=torch.double, device="cpu")
        self.kl: dict[str, Tensor] = {}
        self.units = ActiveUnits(num_data)
        self.densities: list[Tensor] = []  # sums
        self.num_densities = 0
        self.weights: list[Tensor] = []  # sums

    def add(self, rows: slice, columns: slice, chunk: dict) -> None:
        """Add the numbers of some draws of some data."""
        n = rows.stop - rows.start
        if columns.start == 0:
            self.block = empty_weights(n, self.num_particles)
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
        """What they come to, of data of so many elements each."""
        n, num_particles = self.num_data, self.num_particles
        elbo = torch.cat([bound for bound, _ in self.summaries])
        log_prob, std_error, khat, ess = (
            torch.cat([getattr(found, name) for _, found in self.summaries])
            for name in ("log_prob", "std_error", "khat", "ess")
        )
        log_likelihood = log_prob.mean().item()
        mc_error = error_of_draws(std_error)
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


def empty_weights(num_data: int, num_particles: int) -> Tensor:
    """Room for the log-weights of all data and draws."""
    return torch.empty(num_data, num_particles, dtype=torch.double, device="cpu")


class ActiveUnits:
    """The latents that the data move, from posterior means of two independent halves.

    The covariance over the data between the halves' means estimates the variance of
    the true mean without the bias that a finite number of draws would add to it.
    """

    def __init__(self, num_data: int) -> None:
        self.num_data = num_data
        self.draws = 0, 0  # of each datum in each half
        self.sums: dict[str, Tensor] = {}

    def add(self, rows: slice, columns: slice, halves: dict[str, Tensor]) -> None:
        """Add sums of the draws of some data, `(2, len(rows), D)`, by site."""
        self.draws = -(-columns.stop // 2), columns.stop // 2
        for name, sums in halves.items():
            if columns.start % 2:  # its first draw is of the second half
                sums = sums.flip(0)
            if name not in self.sums:
                shape = (2, self.num_data, sums.shape[-1])
                self.sums[name] = torch.zeros(shape, dtype=torch.double, device="cpu")
            self.sums[name][:, rows] += sums.cpu()

    def count(self) -> dict[str, tuple[int, int]]:
        """Latents of a variance above 0.01, and all, by site; empty for too few draws."""
        if min(self.draws) < 1 or self.num_data < 2:
            return {}
        active = {}
        for name, sums in self.sums.items():
            first, second = (s - s.mean(0) for s in sums)
            covariance = (first * second).sum(0) / (self.num_data - 1)
            variance = covariance / math.prod(self.draws)
            active[name] = (int((variance > 0.01).sum()), len(variance))
        return active
