r"""Annealed importance sampling: log p(x) from the model alone, with a bound on its error.

It never asks the guide, so that it checks what importance sampling from the guide says.
From draws of the prior, Hamiltonian Monte Carlo follows the densities

\[f_t(z) = p(z)\, p(x|z)^{\beta_t}, \qquad 0 = \beta_0 < \dots < \beta_T = 1,\]

each transition leaving one of them as it is, and with \(z_{t-1}\) the state before that of
\(f_t\)

\[\log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log p(x|z_{t-1}), \qquad
  E[w] = p(x)\]

(Neal 2001, https://arxiv.org/abs/physics/9803008). The logarithm of a mean of such w is
below log p(x) in expectation. Run backwards from an exact draw of p(z|x), which whoever
has drawn x from the model has, the same chain gives 1/p(x), and a bound from above:
bidirectional Monte Carlo (Grosse et al. 2015, https://arxiv.org/abs/1511.02543). Schedule
and acceptance are those of Wu et al. 2017 (https://arxiv.org/abs/1611.04273), who judge
decoders so.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae_zoo.data.display import Summary, digits, figure, frame
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.hmc import Annealing, State
from pyro_vae_zoo.evaluation.importance import summarise
from pyro_vae_zoo.evaluation.statistics import error_of_draws, mean_row
from pyro_vae_zoo.inference.terms import score_latents
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import Data, apart, sides_and_data, units_of
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import check_one_vector, is_record, latent_sites
from pyro_vae_zoo.pair.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = [
    "AnnealedLikelihood",
    "BidirectionalBounds",
    "annealed_log_likelihood",
    "bidirectional",
]


@dataclass(frozen=True)
class AnnealedLikelihood:
    """Log-likelihoods by annealing; tensors have shape `(len(x),)`, float64.

    Attributes:
        log_prob: estimates of log p(x), in nats; lower bounds in expectation.
        std_error: Monte-Carlo standard error of each over its chains (delta method), in
            nats; too small where few chains carry the weight, which `ess` tells.
        ess: effective number of chains, between 1 and `num_chains`.
        acceptance: mean probability of a transition to be accepted; NaN for T = 1,
            which has none.
        num_chains: chains for each datum.
        num_temps: T, steps from the prior to the posterior.
        num_leapfrog: leapfrog steps of a transition.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> x = torch.zeros(3, 8, 8)
    >>> ais = zoo.annealed_log_likelihood(vae, x, num_chains=4, num_temps=5)
    >>> ais.std_error.shape, ais.num_temps
    (torch.Size([3]), 5)
    """

    log_prob: Tensor
    std_error: Tensor
    ess: Tensor
    acceptance: Tensor
    num_chains: int
    num_temps: int
    num_leapfrog: int

    @property
    def mc_error(self) -> float:
        """Monte-Carlo standard error of the mean of `log_prob`, in nats."""
        return error_of_draws(self.std_error)

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        n, chains = len(self.log_prob), self.num_chains
        mc_error = f", MC error {digits(self.mc_error)}"
        rows = [
            mean_row("log p(x)", self.log_prob, mc_error),
            ("ESS", digits(self.ess.mean().item(), 1), f"of {chains} chains"),
            ("acceptance", digits(self.acceptance.mean().item(), 2)),
        ]
        what = f"AnnealedLikelihood of {n} data, {chains} chains each"
        return Summary(f"{what}, T = {self.num_temps}, nats per datum", rows)

    def to_frame(self) -> "DataFrame":
        """A data frame with a row for each datum.

        Raises:
            UserError: without pandas.
        """
        names = ("log_prob", "std_error", "ess", "acceptance")
        return frame({name: getattr(self, name) for name in names}, "datum")

    def plot(self, *, title: str | None = None) -> "Figure":
        """The spread of log p(x) over the data, and each datum's effective chains."""
        return figure(self, title)


@dataclass(frozen=True)
class BidirectionalBounds:
    """Log p(x) of simulated data between two bounds; tensors `(num_data,)`, float64.

    Attributes:
        lower: by annealing from the prior, below log p(x) in expectation, in nats.
        upper: by annealing from an exact draw of p(z|x), above it in expectation.
        x: the data, drawn from the model.
        acceptance: mean probability of a transition to be accepted; NaN for T = 1,
            which has none.
        num_chains: chains for each datum and direction.
        num_temps: T, steps from the prior to the posterior.
        num_leapfrog: leapfrog steps of a transition.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> bounds = zoo.bidirectional(vae, num_data=5, num_chains=4, num_temps=5)
    >>> bounds.x.shape, torch.equal(bounds.gap, bounds.upper - bounds.lower)
    (torch.Size([5, 8, 8]), True)
    """

    lower: Tensor
    upper: Tensor
    x: Tensor
    acceptance: Tensor
    num_chains: int
    num_temps: int
    num_leapfrog: int

    @property
    def gap(self) -> Tensor:
        """Upper minus lower: in expectation at least the error of either."""
        return self.upper - self.lower

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        rows = [
            mean_row("upper", self.upper),
            mean_row("lower", self.lower),
            mean_row("gap", self.gap),
            ("acceptance", digits(self.acceptance.mean().item(), 2)),
        ]
        what = f"BidirectionalBounds of log p(x) of {len(self.gap)} simulated data, "
        what += f"{self.num_chains} chains each, T = {self.num_temps}, nats per datum"
        return Summary(what, rows)

    def to_frame(self) -> "DataFrame":
        """A data frame with a row for each datum, which do without `x`.

        Raises:
            UserError: without pandas.
        """
        names = ("lower", "upper", "gap", "acceptance")
        return frame({name: getattr(self, name) for name in names}, "datum")

    def plot(self, *, title: str | None = None) -> "Figure":
        """Each datum's two bounds, and the gap between them."""
        return figure(self, title)


@apart
def annealed_log_likelihood(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
    num_chains: int = 16,
    num_temps: int = 1000,
    num_leapfrog: int = 10,
    *,
    seed: int | None = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
) -> AnnealedLikelihood:
    r"""Log p(x) of each datum by annealed importance sampling, without the guide.

    Step sizes are found for each datum and temperature in a run ahead, with a quarter of
    the chains, that aims at an acceptance of 0.65, and are fixed before the chains that
    count are drawn. A chain whose transitions depended on its own past would leave
    \(f_t\) no more, and \(\hat p(x)\) would be biased; so it is not.

    Args:
        vae: a `VAE`, or any pair `(model, guide)`. The model draws one real vector `"z"`
            for each datum, from any prior.
        x: data, shape `(n, *event_shape)`.
        num_chains: for each datum.
        num_temps: T; each costs `num_leapfrog` gradients of log p(x|z) with respect to z.
        num_leapfrog: leapfrog steps of a transition.
        seed: of the draws; the caller's random state is left as it was. None draws from
            the caller's.
        chunk_rows: datum-chains at a time; by default as many as suit the device.
        progress: show a progress bar.

    Raises:
        UserError: for models with other latent sites, which it names, for data that the
            likelihood cannot score, and for numbers below one.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("iaf", event_shape=(8, 8), latent_dim=2)
    >>> x = torch.zeros(3, 8, 8)
    >>> ais = annealed_log_likelihood(vae, x, num_chains=4, num_temps=5)
    >>> ais.log_prob.shape, ais.num_chains
    (torch.Size([3]), 4)
    """
    chain = Annealing.of(num_chains, num_temps, num_leapfrog)
    num_chains = chain.num_chains
    units = units_of(x)
    model, guide, x, device = sides_and_data(vae, x)
    weights, accepted = [], []
    with evaluating(model, guide, device, seed):
        trace = poutine.trace(model).get_trace(x[:1].to(device))
        check_one_vector(trace, "annealing")
        batches = x.split(chain.batch_size(device, chunk_rows))
        with chain.bar(len(batches), 1, progress) as bar:
            for batch in batches:
                score = partial(_score, model, batch.to(device))
                start = partial(_draw_prior, model, batch.to(device))
                steps = chain.find_steps(score, start, bar)
                z = start(num_chains)
                log_weights, acceptance = chain.run(score, z, steps, bar)
                weights.append(log_weights.T.cpu() + units)
                accepted.append(acceptance.cpu())
    found = summarise(torch.cat(weights))
    return AnnealedLikelihood(
        found.log_prob, found.std_error, found.ess, torch.cat(accepted), *chain
    )


@apart
def bidirectional(
    vae: VAE,
    num_data: int = 20,
    num_chains: int = 16,
    num_temps: int = 1000,
    num_leapfrog: int = 10,
    *,
    seed: int | None = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
) -> BidirectionalBounds:
    r"""The error of annealing with these settings, on data drawn from the model.

    With \((z^*, x)\) drawn from the model \(z^*\) is an exact draw of p(z|x), and

    \[E\big[\log \tfrac1C \textstyle\sum_c w_c\big] \le \log p(x) \le
      E\big[-\log \tfrac1C \textstyle\sum_c v_c\big],\]

    w of C chains from the prior, v of C chains that start at \(z^*\) and run through the
    same transitions backwards. On other data, whose log p(x) nobody knows, the gap is a
    guess: as good as those data are like the model's own.

    \(E[v\,p(x)] = 1\), but a mean of some v lies below, by several of its own errors: v
    has heavy tails. With T = 1 it is \(1/p(x|z^*)\), which for \(z \sim N(0, 1)\) and
    \(x \sim N(wz, s^2)\) has moments of order below \(1 + s^2/w^2\) alone, so no variance
    where w > s. Its logarithm and the bounds are not concerned. The test of the chains is
    \(E[\min(1, v\,p(x))] = E[\min(1, w/p(x))]\), of numbers in [0, 1].

    Args:
        vae: a `VAE` whose model draws one real vector `"z"` and observes `"x"`.
        num_data: how many data are drawn.
        num_chains: for each datum, in each direction.
        num_temps: T, as in `annealed_log_likelihood`.
        num_leapfrog: leapfrog steps of a transition.
        seed: of data and chains; None draws from the caller's random state.
        chunk_rows: datum-chains at a time.
        progress: show a progress bar.

    Raises:
        UserError: for models with other sites, which it names, and for numbers below one.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> bounds = bidirectional(vae, num_data=5, num_chains=4, num_temps=5)
    >>> bool(bounds.gap.mean() > -0.1)
    True
    """
    if not isinstance(vae, VAE):
        raise UserError(f"expected a VAE, got {type(vae).__name__}")
    chain = Annealing.of(num_chains, num_temps, num_leapfrog)
    num_chains, num_data = chain.num_chains, count("num_data", num_data)
    model, device = vae.model, vae.device
    lower, upper, accepted = [], [], []
    with evaluating(model, vae.guide, device, seed):
        z, x = _simulate(vae, num_data)
        size = chain.batch_size(device, chunk_rows)
        pairs = list(zip(z.split(size), x.split(size), strict=True))
        with chain.bar(len(pairs), 2, progress) as bar:
            for exact, batch in pairs:
                score = partial(_score, model, batch)
                start = partial(_draw_prior, model, batch)
                steps = chain.find_steps(score, start, bar)
                forward, there = chain.run(score, start(num_chains), steps, bar)
                z = exact.expand(num_chains, *exact.shape)
                reverse, back = chain.run(score, z, steps, bar, reverse=True)
                lower.append(summarise(forward.T.cpu()).log_prob)
                upper.append(-summarise(reverse.T.cpu()).log_prob)
                accepted.append((there + back).cpu() / 2)
    bounds = torch.cat(lower), torch.cat(upper)
    return BidirectionalBounds(*bounds, x.cpu(), torch.cat(accepted), *chain)


def _score(model: nn.Module, x: Tensor, z: Tensor) -> State:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        densities = score_latents(model, x, z, scaled=False)
        slopes = [_slope(density, z) for density in densities]
    return State(z.detach(), *(d.detach() for d in densities), *slopes)


def _slope(density: Tensor, z: Tensor) -> Tensor:
    """Its gradient to z; zero for one that does not depend on z."""
    if not density.requires_grad:
        return torch.zeros_like(z)
    (slope,) = torch.autograd.grad(
        density.sum(), z, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return slope


def _draw_prior(model: nn.Module, x: Tensor, num_chains: int) -> Tensor:
    """Draws of p(z), shape `(num_chains, batch, dim)`."""
    fn = latent_sites(poutine.trace(model).get_trace(x))["z"]["fn"]
    z = fn.sample((num_chains,))
    return z.expand(num_chains, len(x), *fn.event_shape)


def _simulate(vae: VAE, num_data: int) -> tuple[Tensor, Tensor]:
    """Draws of p(x, z)."""
    blank = torch.zeros(num_data, *vae.event_shape, device=vae.device, dtype=vae.dtype)
    check_one_vector(poutine.trace(vae.model).get_trace(blank[:1]), "annealing")
    trace = poutine.trace(poutine.uncondition(vae.model)).get_trace(blank)
    found = {
        name: site for name, site in latent_sites(trace).items() if not is_record(site)
    }
    if sorted(found) != ["x", "z"]:
        raise UserError(
            f"expected a model that observes one site 'x', got {sorted(found)}"
        )
    return found["z"]["value"], found["x"]["value"]
