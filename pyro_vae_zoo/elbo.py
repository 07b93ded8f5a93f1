r"""What Pyro's ELBOs lack for VAEs: bounds per datum, and annealed objectives.

`bound_terms` runs a pair once and gives every term of the bound for each particle
and each datum; training objectives and the evaluator are built on it. `AnnealedELBO`
is a Pyro ELBO (a drop-in for `Trace_ELBO`) with the devices that papers train with.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae_zoo._process import random_states
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.mixture import Mixture
from pyro_vae_zoo.vae import latent_sites

__all__ = [
    "AnnealedELBO",
    "BoundTerms",
    "ObjectiveELBO",
    "bound_terms",
    "only_mixture",
    "score_latents",
]

_DATA_DIM = -1  # of `pyro.plate("data", ...)`; particles are one to its left


@dataclass
class BoundTerms:
    r"""Terms of the bound, each of shape `(num_particles, batch)`, in nats.

    Attributes:
        log_likelihood: \(\log p(x|z)\), summed over the observed sites.
        log_prior: \(\log p(z_s|\cdot)\) of each latent site s.
        log_guide: \(\log q(z_s|\cdot, x)\) of each latent site s.
        closed_kl: \(\mathrm{KL}(q(z_s|\cdot, x) \,\|\, p(z_s|\cdot))\) of the sites that
            are in neither of the two, given the draws above them.
        log_shares: logarithm of what each particle counts in a mean over q: minus log K,
            or, for K draws of each component of a mixture, \(\log \alpha_m - \log K\).
        guide_trace: the trace that the draws came from.
        model_trace: the model's trace on those draws.
    """

    log_likelihood: Tensor
    log_prior: dict[str, Tensor]
    log_guide: dict[str, Tensor]
    closed_kl: dict[str, Tensor]
    log_shares: Tensor
    guide_trace: poutine.Trace
    model_trace: poutine.Trace

    @property
    def kl(self) -> dict[str, Tensor]:
        r"""KL of each latent site: the closed form, or one draw's \(\log q - \log p\)."""
        drawn = {s: self.log_guide[s] - self.log_prior[s] for s in self.log_guide}
        return drawn | self.closed_kl

    @property
    def log_weights(self) -> Tensor:
        r"""\(\log p(x, z) - \log q(z|x)\): its mean is the ELBO."""
        return self.log_likelihood - sum(self.kl.values())

    def mean(self, values: Tensor) -> Tensor:
        """The mean over q of a number for each particle, shape `(batch,)`."""
        return (self.log_shares.exp() * values).sum(0)


def bound_terms(
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    num_particles: int = 1,
    *,
    analytic_kl: bool = False,
    scaled: bool = True,
    by_component: bool = False,
) -> BoundTerms:
    """Draw `num_particles` latents for each datum and score both sides.

    The pair runs once, several particles in a plate at dim -2. A latent site outside
    the data plate is allowed where both sides give it the same score (a draw that
    model and guide share); it then cancels and appears in no term.

    With `analytic_kl` a site's two scores give way to its KL where PyTorch knows a
    closed form, as between Gaussians (not for flows): Pyro's `TraceMeanField_ELBO`,
    save that a site keeps its scores where its prior is given draws that the guide
    makes only after it, since there the closed form is of another quantity.

    Pyro's masks count, and so do its scales (`poutine.scale`, subsampling plates),
    which a training objective has; without `scaled` the densities are as they are.

    With `by_component` a guide whose only draw is of a `Mixture` of M gives
    `num_particles` draws of every component, M times as many terms, each with its share
    in the mean: a sum over the components in place of a random choice, which has less
    variance and a gradient to the weights. Other guides are not affected.

    Raises:
        UserError: where the sites of the two sides do not match, or where a shared
            site does not cancel; the message names the site.
    """
    guide_trace = poutine.trace(_with_particles).get_trace(guide, x, num_particles)
    shape = torch.Size((num_particles, len(x)))
    log_shares = x.new_full(shape, -math.log(num_particles))
    mixture = only_mixture(guide_trace) if by_component else None
    if mixture is not None:
        log_shares = _draw_components(mixture) - math.log(num_particles)
        shape = log_shares.shape
    replayed = poutine.replay(_with_particles, trace=guide_trace)
    num_components = None if mixture is None else len(log_shares)
    model_trace = poutine.trace(replayed).get_trace(
        model, x, num_particles, num_components
    )
    _check_sites(model_trace, guide_trace)
    if not scaled:
        for trace in (model_trace, guide_trace):
            for site in trace.nodes.values():
                site["scale"] = 1.0
    log_shares = log_shares.reshape(-1, len(x))
    traces = guide_trace, model_trace
    terms = BoundTerms(x.new_zeros(()), {}, {}, {}, log_shares, *traces)
    for name, site in model_trace.nodes.items():
        if _is_observed(site):
            log_prob = _log_prob(name, site, shape)
            terms.log_likelihood = terms.log_likelihood + log_prob
    ordered = _in_the_guides_order(model_trace, guide_trace) if analytic_kl else ()
    for name, site in latent_sites(guide_trace).items():
        prior = model_trace.nodes[name]
        if name in ordered and _in_data_plate(site):
            kl = _closed_kl(site, prior)
            if kl is not None:
                terms.closed_kl[name] = _shaped(name, kl, shape)
                continue
        log_q, log_p = _site_log_prob(site), _site_log_prob(prior)
        if not _in_data_plate(site):
            _check_cancels(name, log_p, log_q)
            continue
        terms.log_prior[name] = _shaped(name, log_p, shape)
        terms.log_guide[name] = _shaped(name, log_q, shape)
    return terms


def score_latents(model: nn.Module, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    r"""\(\log p(x|z)\) and \(\log p(z)\) of given z, for a model of one latent `"z"`.

    Args:
        model: p.
        x: data, shape `(batch, *event_shape)`.
        z: any number of them for each datum, `(*particles, batch, latent_dim)`.

    Returns:
        Two tensors `(*particles, batch)`, in nats.
    """
    particles = z.shape[:-2]
    with ExitStack() as plates:
        for i, size in enumerate(reversed(particles)):
            plates.enter_context(pyro.plate(f"_{i}", size, dim=_DATA_DIM - 1 - i))
        conditioned = poutine.condition(model, data={"z": z})
        trace = poutine.trace(conditioned).get_trace(x)
    shape = torch.Size((*particles, len(x)))
    prior = _site_log_prob(trace.nodes["z"]).expand(shape)
    terms = [
        _site_log_prob(site).expand(shape)
        for name, site in trace.nodes.items()
        if _is_observed(site) and name != "z"
    ]
    return sum(terms[1:], terms[0]), prior


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
            mean (Kingma et al. 2016, appendix C.8).
        joint_weight: weight of \(\log p(x, z)\), prior included: the tempering of
            Rezende & Mohamed 2015, section 6.1; `fit` moves it.
        sticking_the_landing: drop the score of the guide's parameters from the
            gradient (Roeder et al. 2017); needs a guide that can score any z.
        analytic_kl: take the closed form of each site's KL where there is one, with
            less variance than its one-draw estimate.

    Raises:
        UserError: for an unknown bound and for options that exclude each other.

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
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        if bound not in ("elbo", "iwae"):
            raise UserError(f"unknown bound {bound!r}; known: elbo, iwae")
        if bound == "iwae" and free_bits:
            raise UserError("free bits have no meaning for the bound 'iwae'")
        if bound == "iwae" and sticking_the_landing:
            # The score that is dropped has mean zero under q, not under the weights
            # of several particles (Tucker et al. 2019).
            raise UserError("sticking-the-landing biases the bound 'iwae'; use 'elbo'")
        if (free_bits or analytic_kl) and joint_weight != 1:
            what = "free bits act" if free_bits else "analytic_kl acts"
            raise UserError(f"{what} on the KL, which joint_weight takes apart")
        if analytic_kl and bound == "iwae":
            raise UserError(
                "the bound 'iwae' weighs draws, and an analytic KL has none; use 'elbo'"
            )
        if analytic_kl and sticking_the_landing:
            raise UserError(
                "sticking-the-landing changes the score of a draw, and an analytic KL "
                "has none; choose one of them"
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
        kl = paid = [terms.mean(value).mean() for value in terms.kl.values()]
        if self.free_bits:
            paid = [value.clamp(min=self.free_bits) for value in kl]
        reconstruction = terms.mean(terms.log_likelihood).mean()
        objective = num_data * (self.kl_weight * sum(paid) - reconstruction)
        return objective, num_data * (reconstruction - sum(kl)).detach()

    def _bound(self, terms: BoundTerms, log_weights: Tensor) -> Tensor:
        if self.bound == "elbo":
            return terms.mean(log_weights).sum()
        return (terms.log_shares + log_weights).logsumexp(0).sum()


def _with_particles(
    fn: nn.Module, x: Tensor, num_particles: int, num_components: int | None = None
) -> None:
    sizes = {}
    if num_particles > 1:  # a plate of one would double Pyro's own work
        sizes["num_particles"] = num_particles
    if num_components is not None:
        sizes["components"] = num_components
    with ExitStack() as plates:
        for i, (name, size) in enumerate(sizes.items()):
            plates.enter_context(pyro.plate(name, size, dim=_DATA_DIM - 1 - i))
        fn(x)


def only_mixture(guide_trace: poutine.Trace) -> dict | None:
    """The site of a guide that draws nothing but one mixture."""
    sites = list(latent_sites(guide_trace).values())
    return sites[0] if [type(s["fn"]) for s in sites] == [Mixture] else None


def _draw_components(site: dict) -> Tensor:
    """Put draws of every component in a site; log-weights `(M, *batch_shape)`."""
    q = site["fn"]
    site["value"] = q.rsample_components()
    return q.log_weights.expand(*q.batch_shape, -1).movedim(-1, 0)


def _in_the_guides_order(
    model_trace: poutine.Trace, guide_trace: poutine.Trace
) -> set[str]:
    """The sites whose prior is given nothing that the guide draws after them."""
    p, q = list(latent_sites(model_trace)), list(latent_sites(guide_trace))
    return {name for name in p if set(p[: p.index(name)]) <= set(q[: q.index(name)])}


def _closed_kl(site: dict, prior: dict) -> Tensor | None:
    if not all(_same(prior[key], site[key]) for key in ("scale", "mask")):
        return None
    try:
        kl = kl_divergence(site["fn"], prior["fn"])
    except NotImplementedError:  # PyTorch's word for: none is known
        return None
    return scale_and_mask(kl, site["scale"], site["mask"])


def _same(a: Tensor | float | None, b: Tensor | float | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())


def _is_observed(site: dict) -> bool:
    """Whether a site is data; `pyro.deterministic` records are of the same kind."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    return not site["infer"].get("_deterministic", False)


def _site_log_prob(site: dict) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"])
    return scale_and_mask(log_prob, site["scale"], site["mask"])


def _log_prob(name: str, site: dict, shape: torch.Size) -> Tensor:
    return _shaped(name, _site_log_prob(site), shape)


def _shaped(name: str, log_prob: Tensor, shape: torch.Size) -> Tensor:
    try:
        return log_prob.expand(shape).reshape(-1, shape[-1])
    except RuntimeError:
        raise UserError(
            f"site {name!r}: expected a log-probability for each particle and datum, "
            f"of shape {shape}, got {tuple(log_prob.shape)}; is a `.to_event()` missing?"
        ) from None


def _in_data_plate(site: dict) -> bool:
    return any(frame.dim == _DATA_DIM for frame in site["cond_indep_stack"])


def _check_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    p, q = set(latent_sites(model_trace)), set(latent_sites(guide_trace))
    if p - q:
        raise UserError(f"the guide draws no {sorted(p - q)}, which the model does")
    if q - p:
        raise UserError(f"the guide draws {sorted(q - p)}, which the model does not")


def _check_cancels(name: str, log_p: Tensor, log_q: Tensor) -> None:
    if not torch.allclose(log_p, log_q):
        raise UserError(
            f"site {name!r} lies outside the plate 'data' and its scores in model and "
            "guide differ; draw it inside the plate, or share one distribution"
        )


def _check_reparametrised(guide_trace: poutine.Trace) -> None:
    for name, site in latent_sites(guide_trace).items():
        if not site["fn"].has_rsample:
            raise UserError(
                f"site {name!r} is drawn without reparametrisation, which these options "
                "need; train it with a plain Trace_ELBO"
            )
        if _holds_mixture(site["fn"]) and only_mixture(guide_trace) is None:
            raise UserError(
                f"site {name!r} draws a mixture, whose weights have a gradient here only "
                "where it is the guide's single latent site and in no wrapper; train it "
                "with a plain Trace_ELBO, and mask it by poutine.mask"
            )


def _holds_mixture(fn: object) -> bool:
    while fn is not None and not isinstance(fn, Mixture):
        fn = getattr(fn, "base_dist", None)
    return fn is not None


def _score_without_parameters(
    guide: nn.Module, x: Tensor, terms: BoundTerms, num_particles: int
) -> dict[str, Tensor]:
    """Log q(z|x) of the same z, with a gradient to z but none to the parameters."""
    replayed = poutine.replay(_with_particles, trace=terms.guide_trace)
    before = random_states(x.device)
    with _frozen(guide):
        trace = poutine.trace(replayed).get_trace(guide, x, num_particles)
        if not all(map(torch.equal, before, random_states(x.device))):
            raise UserError(
                "sticking-the-landing scores the guide's draws anew, and this guide draws "
                "more than its latent sites: each run has another density for them"
            )
        scores = {
            name: _score_anew(name, trace.nodes[name]).reshape(-1, len(x))
            for name in terms.log_guide
        }
        return {
            name: _shaped(name, score, terms.log_guide[name].shape)
            for name, score in scores.items()
        }


def _score_anew(name: str, site: dict) -> Tensor:
    transforms = getattr(site["fn"], "transforms", ())
    refusal = UserError(
        f"sticking-the-landing scores site {name!r} anew, which "
        f"{', '.join({type(t).__name__ for t in transforms})} cannot do at an affordable "
        "cost; choose a guide with a cheap inverse (Gaussian, planar, couplings)"
    )
    if any(getattr(t, "autoregressive", False) for t in transforms):
        raise refusal
    try:
        return _site_log_prob(site)
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
