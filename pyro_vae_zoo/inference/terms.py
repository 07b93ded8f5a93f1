"""The terms of the bound, for each particle and each datum.

`bound_terms` runs a pair once; training objectives (`elbo`) and the evaluator are built
on what it gives.
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions import kl_divergence

from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.pair.modes import floating_of
from pyro_vae_zoo.pair.sites import (
    DATA_DIM,
    Site,
    in_data_plate,
    latent_sites,
    observed_sites,
)

__all__ = [
    "BoundTerms",
    "bound_terms",
    "each_datum",
    "only_mixture",
    "score_latents",
    "site_log_prob",
    "with_particles",
]


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
        scales: Pyro's scale of each site for each datum, counted in the terms or not.
        guide_trace: the trace that the draws came from.
        model_trace: the model's trace on those draws.
    """

    log_likelihood: Tensor
    log_prior: dict[str, Tensor]
    log_guide: dict[str, Tensor]
    closed_kl: dict[str, Tensor]
    log_shares: Tensor
    scales: dict[str, Tensor | float]
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

    def common_scale(self, what: str) -> Tensor | float:
        """The scale that all sites have, a number or one for each datum, `(batch,)`.

        Args:
            what: needs one, for the error.

        Raises:
            UserError: where sites have different ones, or particles have.
        """
        (first, scale), *others = self.scales.items()
        for site, other in others:
            traced = isinstance(scale, FakeTensor) or isinstance(other, FakeTensor)
            if not (traced or _same(scale, other)):  # `compiled` runs the pair before
                raise UserError(
                    f"{what} needs one scale for all sites, but those of {first} and "
                    f"{site} differ; put model and guide in one `poutine.scale`, and weigh "
                    "KL or joint density by kl_weight or joint_weight"
                )
        if not isinstance(scale, Tensor):
            return scale
        if scale.numel() == 1:
            return scale.reshape(())
        if scale.numel() != scale.shape[-1]:
            raise UserError(
                f"{what} needs one scale, or one for each datum, got scales of shape "
                f"{tuple(scale.shape)}, which differ between particles"
            )
        return scale.reshape(-1)


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
    guide_trace, model_trace, log_shares = _run(
        model, guide, x, num_particles, by_component
    )
    shape = log_shares.shape
    _check_sites(model_trace, guide_trace)
    scales = _scales(model_trace, guide_trace)
    if not scaled:
        _without_scales(model_trace)
        _without_scales(guide_trace)
    log_shares = log_shares.reshape(-1, len(x))
    traces = guide_trace, model_trace
    zero = log_shares.new_zeros(())
    terms = BoundTerms(zero, {}, {}, {}, log_shares, scales, *traces)
    for name, site in observed_sites(model_trace).items():
        log_prob = each_datum(name, site_log_prob(site), shape)
        terms.log_likelihood = terms.log_likelihood + log_prob
    ordered = _in_the_guides_order(model_trace, guide_trace) if analytic_kl else ()
    for name, site in latent_sites(guide_trace).items():
        prior = model_trace.nodes[name]
        if name in ordered and in_data_plate(site):
            kl = _closed_kl(site, prior)
            if kl is not None:
                terms.closed_kl[name] = each_datum(name, kl, shape)
                continue
        log_q, log_p = site_log_prob(site), site_log_prob(prior)
        if not in_data_plate(site):
            _check_cancels(name, log_p, log_q)
            continue
        terms.log_prior[name] = each_datum(name, log_p, shape)
        terms.log_guide[name] = each_datum(name, log_q, shape)
    return terms


def _run(
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    num_particles: int,
    by_component: bool,
) -> tuple[poutine.Trace, poutine.Trace, Tensor]:
    """Traces of the guide and of the model on its draws, and each draw's log-share."""
    guide_trace = poutine.trace(with_particles).get_trace(guide, x, num_particles)
    log_shares = torch.full(
        (num_particles, len(x)),
        -math.log(num_particles),
        dtype=floating_of(x, model, guide),
        device=x.device,
    )
    num_components = None
    mixture = only_mixture(guide_trace) if by_component else None
    if mixture is not None:
        log_shares = _draw_components(guide_trace, mixture) - math.log(num_particles)
        num_components = len(log_shares)
    replayed = poutine.replay(with_particles, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(
        model, x, num_particles, num_components
    )
    return guide_trace, model_trace, log_shares


def score_latents(
    model: nn.Module, x: Tensor, z: Tensor, *, scaled: bool = True
) -> tuple[Tensor, Tensor]:
    r"""\(\log p(x|z)\) and \(\log p(z)\) of given z, for a model of one latent `"z"`.

    Args:
        model: p.
        x: data, shape `(batch, *event_shape)`.
        z: any number of them for each datum, `(*particles, batch, latent_dim)`.
        scaled: whether Pyro's scales count, as in `bound_terms`.

    Returns:
        Two tensors `(*particles, batch)`, in nats.
    """
    particles = z.shape[:-2]
    with ExitStack() as plates:
        for i, size in enumerate(reversed(particles)):
            plates.enter_context(pyro.plate(f"_{i}", size, dim=DATA_DIM - 1 - i))
        conditioned = poutine.condition(model, data={"z": z})
        trace = poutine.trace(conditioned).get_trace(x)
    if not scaled:
        _without_scales(trace)
    shape = torch.Size((*particles, len(x)))
    prior = site_log_prob(trace.nodes["z"]).expand(shape)
    terms = [
        site_log_prob(site).expand(shape)
        for name, site in observed_sites(trace).items()
        if name != "z"
    ]
    return sum(terms[1:], terms[0]), prior


def with_particles(
    fn: nn.Module, x: Tensor, num_particles: int, num_components: int | None = None
) -> None:
    """Run one side in a plate of particles, and one of components, left of the data."""
    sizes = {}
    if num_particles > 1:  # a plate of one would double Pyro's own work
        sizes["num_particles"] = num_particles
    if num_components is not None:
        sizes["components"] = num_components
    with ExitStack() as plates:
        for i, (name, size) in enumerate(sizes.items()):
            plates.enter_context(pyro.plate(name, size, dim=DATA_DIM - 1 - i))
        fn(x)


def only_mixture(guide_trace: poutine.Trace) -> Mixture | None:
    """The mixture of a guide that draws nothing else."""
    drawn = [site["fn"] for site in latent_sites(guide_trace).values()]
    return drawn[0] if [type(fn) for fn in drawn] == [Mixture] else None


def _draw_components(guide_trace: poutine.Trace, q: Mixture) -> Tensor:
    """Put draws of every component in the site; log-weights `(M, *batch_shape)`."""
    (name,) = latent_sites(guide_trace)
    guide_trace.nodes[name]["value"] = q.rsample_components()
    return q.log_weights.expand(*q.batch_shape, -1).movedim(-1, 0)


def _in_the_guides_order(
    model_trace: poutine.Trace, guide_trace: poutine.Trace
) -> set[str]:
    """The sites whose prior is given nothing that the guide draws after them."""
    p, q = list(latent_sites(model_trace)), list(latent_sites(guide_trace))
    return {name for name in p if set(p[: p.index(name)]) <= set(q[: q.index(name)])}


def _closed_kl(site: Site, prior: Site) -> Tensor | None:
    if not all(_same(prior[key], site[key]) for key in ("scale", "mask")):
        return None
    try:
        kl = kl_divergence(site["fn"], prior["fn"])
    except NotImplementedError:  # PyTorch's word for: none is known
        return None
    return scale_and_mask(kl, site["scale"], site["mask"])


def _scales(
    model_trace: poutine.Trace, guide_trace: poutine.Trace
) -> dict[str, Tensor | float]:
    """The scales of all sites that are terms of the bound, by a name for an error."""
    found = {
        f"{side} site {name!r}": site["scale"]
        for side, trace in (("model", model_trace), ("guide", guide_trace))
        for name, site in latent_sites(trace).items()
        if in_data_plate(site)
    }
    observed = {
        f"observed site {name!r}": site["scale"]
        for name, site in observed_sites(model_trace).items()
    }
    return observed | found


def _same(a: Tensor | float | None, b: Tensor | float | None) -> bool:
    if a is b:
        return True
    if not (isinstance(a, Tensor) or isinstance(b, Tensor)):
        return a == b
    if a is None or b is None:
        return False
    return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())


def _without_scales(trace: poutine.Trace) -> None:
    for site in trace.nodes.values():
        site["scale"] = 1.0


def site_log_prob(site: Site) -> Tensor:
    """A site's score with its scale and its mask."""
    log_prob = site["fn"].log_prob(site["value"])
    return scale_and_mask(log_prob, site["scale"], site["mask"])


def each_datum(name: str, log_prob: Tensor, shape: torch.Size) -> Tensor:
    """A score for each particle and each datum; where it is none of that, an error."""
    try:
        return log_prob.expand(shape).reshape(-1, shape[-1])
    except RuntimeError:
        raise UserError(
            f"site {name!r}: expected a log-probability for each particle and datum, "
            f"of shape {shape}, got {tuple(log_prob.shape)}; is a `.to_event()` missing?"
        ) from None


def _check_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    p, q = set(latent_sites(model_trace)), set(latent_sites(guide_trace))
    if p - q:
        missing = sorted(p - q)
        raise UserError(f"the model has latent sites {missing}, but the guide does not")
    if q - p:
        missing = sorted(q - p)
        raise UserError(f"the guide has latent sites {missing}, but the model does not")


def _check_cancels(name: str, log_p: Tensor, log_q: Tensor) -> None:
    if isinstance(log_p, FakeTensor):
        return  # it is being traced, and has no values; `compiled` runs the pair before
    if not torch.allclose(log_p, log_q):
        raise UserError(
            f"site {name!r} lies outside the plate 'data', and its log_prob in model "
            "and guide differ; draw it inside the plate, or give both the same "
            "distribution"
        )
