r"""Annealed objectives, which Pyro's ELBOs lack for VAEs.

`AnnealedELBO` is a Pyro ELBO (a drop-in for `Trace_ELBO`) with the devices that papers
train with.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.terms import (
    BoundTerms,
    bound_terms,
    each_datum,
    only_mixture,
    site_log_prob,
    with_particles,
)
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.sites import Site, latent_sites
from pyro_vae_zoo.runtime import random_states

__all__ = ["AnnealedELBO", "ObjectiveELBO"]

# The default of `fit` weighs the KL, which Pyro's does not.
_OTHERWISE = (
    "train it with Pyro's Trace_ELBO, which fit takes under kl_warmup=0 and no other "
    "option of the objective"
)


class ObjectiveELBO(ELBO):
    """An objective that knows the plain bound too, as a Pyro ELBO.

    A subclass defines `loss_and_elbo`; `fit` minimises the first and shows the second.
    """

    def loss_and_elbo(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective to minimise and the plain bound, both summed over the batch."""
        raise NotImplementedError

    def differentiable_loss(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> Tensor:
        """The objective to minimise, summed over the batch, in nats."""
        return self.loss_and_elbo(model, guide, x)[0]

    def loss(self, model: nn.Module, guide: nn.Module, x: Tensor) -> float:
        """The objective's value."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, x).item()

    def loss_and_grads(self, model: nn.Module, guide: nn.Module, x: Tensor) -> float:
        """Add the objective's gradients to the parameters; what `pyro.infer.SVI` calls."""
        loss = self.differentiable_loss(model, guide, x)
        loss.backward()
        return loss.item()

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError(f"{type(self).__name__} runs the pair by itself")


class AnnealedELBO(ObjectiveELBO):
    r"""The ELBO or the importance-weighted bound with what papers train it with.

    With one particle and no option it is `Trace_ELBO` (tested), save that for a guide
    that draws a `Mixture` it takes a sum over the components:
    \[L(x) = E_q\big[\log p(x|z) - \beta \sum_s \max(\lambda,
      \overline{\mathrm{KL}}_s)\big].\]

    Args:
        num_particles: draws for each datum.
        bound: `elbo`, or `iwae` for
            \(\log \tfrac1K \sum_k p(x, z_k)/q(z_k|x)\) (Burda et al. 2016, eq. 8).
        kl_weight: \(\beta\), the KL's weight (Sonderby et al. 2016); `fit` moves it.
        free_bits: \(\lambda\) in nats for each latent site, applied to the batch
            mean (Kingma et al. 2016, appendix C.8); before any scale of Pyro's.
        joint_weight: weight of \(\log p(x, z)\), prior included: the tempering of
            Rezende & Mohamed 2015, section 6.1; `fit` moves it.
        sticking_the_landing: drop the score of the guide's parameters from the
            gradient (Roeder et al. 2017); needs a guide that can score any z.
        analytic_kl: take the closed form of each site's KL where there is one, with
            less variance than its one-draw estimate.

    A scale of Pyro's (`poutine.scale`, a subsampled plate) multiplies what a datum gives
    to the objective. Under `iwae` and free bits, which are not linear in the densities,
    model and guide must therefore have one, a number or one for each datum.

    Raises:
        UserError: for an unknown bound and for options that exclude each other; when
            called, where `iwae` or free bits meet sites of different scales.

    Example:
        >>> import pyro_vae_zoo as zoo
        >>> vae = zoo.create("mean_field", event_shape=(8, 8))
        >>> loss = AnnealedELBO(num_particles=3, bound="iwae")
        >>> loss(vae.model, vae.guide)(torch.zeros(5, 8, 8)).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        bound: str = "elbo",
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
        joint_weight: float = 1.0,
        sticking_the_landing: bool = False,
        analytic_kl: bool = False,
    ) -> None:
        num_particles = count("num_particles", num_particles)
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        if bound not in ("elbo", "iwae"):
            raise UserError(f"unknown bound {bound!r}; known: elbo, iwae")
        if bound == "iwae" and free_bits:
            raise UserError(
                "free bits have no meaning for the bound 'iwae'; use bound='elbo'"
            )
        if bound == "iwae" and sticking_the_landing:
            # The score that is dropped has mean zero under q, not under the weights
            # of several particles (Tucker et al. 2019).
            raise UserError(
                "sticking-the-landing biases the bound 'iwae'; use bound='elbo'"
            )
        if free_bits and sticking_the_landing:
            # The score has mean zero over all draws, but here the draws themselves
            # decide in which batches the KL, and its score with it, counts.
            raise UserError(
                "sticking-the-landing biases free bits, which the same draws switch on "
                "and off; choose one of them"
            )
        if (free_bits or analytic_kl) and joint_weight != 1:
            what = "free bits act" if free_bits else "analytic_kl acts"
            raise UserError(
                f"{what} on the KL, of which joint_weight weighs only log p(z); choose "
                "one of them"
            )
        if analytic_kl and bound == "iwae":
            raise UserError(
                "the bound 'iwae' weighs particles, but an analytic KL has no "
                "particles; use bound='elbo'"
            )
        if analytic_kl and sticking_the_landing:
            raise UserError(
                "sticking-the-landing changes the gradient of particles, but an "
                "analytic KL has no particles; choose one of them"
            )
        self.bound = bound
        self.kl_weight = kl_weight
        self.free_bits = free_bits
        self.joint_weight = joint_weight
        self.sticking_the_landing = sticking_the_landing
        self.analytic_kl = analytic_kl

    def loss_and_elbo(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective to minimise and the plain bound, both summed over the batch."""
        terms = bound_terms(
            model,
            guide,
            x,
            self.num_particles,
            analytic_kl=self.analytic_kl,
            scaled=not (self.free_bits or self.bound == "iwae"),
            by_component=True,
        )
        _check_reparametrised(terms.guide_trace)
        if self.free_bits or self.analytic_kl:
            return self._with_kl(terms, len(x))
        plain = self._bound(terms, terms.log_weights).detach()
        if self.sticking_the_landing and terms.log_guide:
            terms.log_guide = _score_without_parameters(
                guide, x, terms, self.num_particles
            )
        log_p = terms.log_likelihood + self.kl_weight * sum(terms.log_prior.values())
        log_q = self.kl_weight * sum(terms.log_guide.values())
        return -self._bound(terms, self.joint_weight * log_p - log_q), plain

    def _with_kl(self, terms: BoundTerms, num_data: int) -> tuple[Tensor, Tensor]:
        """Both results where the objective is built of the sites' KLs."""
        scale: Tensor | float = 1.0  # which the terms have, but for free bits
        if self.free_bits:
            scale = terms.common_scale("a number of free bits")

        def mean(values: Tensor) -> Tensor:
            return (scale * terms.mean(values)).mean()

        kl = paid = [mean(value) for value in terms.kl.values()]
        if self.free_bits:
            of_batch = scale.mean() if isinstance(scale, Tensor) else scale
            paid = [value.clamp(min=self.free_bits * of_batch) for value in kl]
        reconstruction = mean(terms.log_likelihood)
        objective = num_data * (self.kl_weight * sum(paid) - reconstruction)
        return objective, num_data * (reconstruction - sum(kl)).detach()

    def _bound(self, terms: BoundTerms, log_weights: Tensor) -> Tensor:
        if self.bound == "elbo":
            return terms.mean(log_weights).sum()
        # A scale is of the datum's bound: inside the logarithm it would be a power of
        # the weights, and the larger it is the less would the mean be one.
        scale = terms.common_scale("the bound 'iwae'")
        return (scale * (terms.log_shares + log_weights).logsumexp(0)).sum()


def _check_reparametrised(guide_trace: poutine.Trace) -> None:
    for name, site in latent_sites(guide_trace).items():
        if _holds_mixture(site["fn"]):
            if only_mixture(guide_trace) is not None:
                continue
            raise UserError(
                f"site {name!r} draws a mixture, whose weights have a gradient here "
                "only if it is the guide's single latent site, without a wrapper; "
                f"mask it by poutine.mask, and {_OTHERWISE}"
            )
        if not site["fn"].has_rsample:
            raise UserError(
                f"site {name!r} is drawn without reparametrisation, which AnnealedELBO "
                f"needs; {_OTHERWISE}"
            )


def _holds_mixture(fn: object) -> bool:
    while fn is not None and not isinstance(fn, Mixture):
        fn = getattr(fn, "base_dist", None)
    return fn is not None


def _score_without_parameters(
    guide: nn.Module, x: Tensor, terms: BoundTerms, num_particles: int
) -> dict[str, Tensor]:
    """Log q(z|x) of the same z, with a gradient to z but none to the parameters."""
    replayed = poutine.replay(with_particles, trace=terms.guide_trace)
    before = random_states(x.device)
    with _frozen(guide):
        trace = poutine.trace(replayed).get_trace(guide, x, num_particles)
        if not all(map(torch.equal, before, random_states(x.device))):
            raise UserError(
                "sticking-the-landing computes log q of the guide's draws a second "
                "time, but this guide draws more than its latent sites, so log q would "
                "differ; train it without sticking_the_landing"
            )
        scores = {
            name: _score_anew(name, trace.nodes[name]).reshape(-1, len(x))
            for name in terms.log_guide
        }
        return {
            name: each_datum(name, score, terms.log_guide[name].shape)
            for name, score in scores.items()
        }


def _score_anew(name: str, site: Site) -> Tensor:
    transforms = getattr(site["fn"], "transforms", ())
    refusal = UserError(
        f"sticking-the-landing computes log q of site {name!r} a second time, which "
        f"{', '.join({type(t).__name__ for t in transforms})} cannot do at an affordable "
        "cost; choose a guide with a cheap inverse (Gaussian, planar, couplings)"
    )
    if any(getattr(t, "autoregressive", False) for t in transforms):
        raise refusal
    try:
        return site_log_prob(site)
    except (KeyError, NotImplementedError) as error:  # a flow without an inverse
        raise refusal from error


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    trainable = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in trainable:
            p.requires_grad_(False)
        with warnings.catch_warnings():
            # Pyro warns of each frozen parameter in training mode.
            warnings.filterwarnings("ignore", ".*not registered in the param store")
            yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
