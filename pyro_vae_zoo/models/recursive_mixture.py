r"""Recursive mixture inference: components that each learn what the others miss.

Minyoung Kim, Vladimir Pavlovic: *Recursive Inference for Variational Autoencoders*,
2020. Equations (1) and (2) are numbered here; we do not have the paper's numbering.

Generative process: that of `standard`. Inference: one pass through an encoder for each
component of

\[Q(z|x) = \sum_{m=0}^{M-1} \alpha_m(x)\, q_m(z|x).\]

To add q to a mixture Q is to go from Q to \((1-\epsilon) Q + \epsilon q\). At
\(\epsilon = 0\) the ELBO L then changes at the rate

\[\frac{d}{d\epsilon} L = E_q[\log p(x, z) - \log Q(z|x)] - L(Q)
  = L(q) + \mathrm{KL}(q \,\|\, Q) - L(Q),\]

so the new component should be a good posterior and differ from the present mixture. In
this rate the entropy of q cancels, and it may be unbounded. Component m therefore ascends

\[L(q_m) + E_{q_m} \min\big(\log q_m - \log Q_{<m},\, C\big), \tag{1}\]

with \(Q_{<m}\) held fixed and the log-ratio of the KL clamped at a constant C. A component
added with weight \(\epsilon\) has a log-ratio of at most \(-\log \epsilon\) to the new
mixture \((1-\epsilon) Q + \epsilon q \ge \epsilon q\), which suggests the size of C.

For fixed components L is concave in the weights, with derivatives
\(a_m = E_{q_m}[\log p(x, z) - \log Q(z|x)]\), up to a constant. The mirror step

\[\alpha_m \leftarrow \alpha_m e^{\eta a_m} / \textstyle\sum_j \alpha_j e^{\eta a_j}
  \tag{2}\]

never lowers L for \(\eta \le 1\): the curvature of \(-L\) is that of \(E_Q \log Q\),
whose Bregman divergence \(\mathrm{KL}(Q_\alpha \| Q_{\alpha'})\) is at most
\(\mathrm{KL}(\alpha \| \alpha')\). In training, its result \(\alpha^+\) is the target of
the network \(\alpha(x)\). The loss, the cross-entropy to \(\alpha^+\) divided by \(\eta\),
has the gradient of -L for small \(\eta\), and a bounded one if a component is many nats
behind. Noise in the advantages \(a_m\) makes the target too uniform on average: where the
difference of two advantages has variance \(s^2\) over the draws, the weight \(\alpha\) of
the better component stops growing while it is still \(\eta s^2 (\alpha - 1/2)\) nats ahead,
about. Keep \(\eta\) small, or draw more particles.

Weights shared by all data, `weights="constant"`, would take one step by the advantages'
mean over the data. A batch estimates it poorly: components that suit different data
differ in it by tens of nats from batch to batch. Their loss is therefore the reverse
divergence \(\mathrm{KL}(\alpha \| \alpha^+) / \eta\), which is linear in the advantages, so
that noise averages out, and has the gradient of -L for every \(\eta\).

| symbol      | code name            | shape                 | equation |
|-------------|----------------------|-----------------------|----------|
| Q           | `Mixture`, `"z"`     | `(batch, latent_dim)` | -        |
| q_m         | `components[m]`      | `(batch, latent_dim)` | 1        |
| alpha       | `log_weights.exp()`  | `(batch, M)` or `(M,)` | 2       |
| a           | `advantage`          | `(M, batch)`          | 2        |
| C, eta      | `kl_bound`, `weight_step` |                  | 1, 2     |
| criterion   | `Criterion`          |                       | 1        |
| mirror step | `mirror_step`        |                       | 2        |

Two schedules: `together` updates all components and the decoder in each step;
`sequential` finishes one component after the other. Competitors on the same pair:
`mixture`, whose parts all ascend L(Q) (the paper's blind mixture of encoders), and
`boosted`, whose components ascend \(E_q[\log p - \log Q] + \nu H(q)\): (1) with a bonus
for entropy and a C so large that it rarely matters.

Differences from the paper, whose public text leaves much open: the form of the weights,
their step, C and the order of updates are ours; weights read the encoders' features and
do not train them (`AmortizedWeights`). `boosted` differs from Guo et al. 2016: a component
is an encoder, not the posterior of one data set; component 0 ascends its own ELBO, without
a bonus; weights follow (2), where they search along \(\epsilon\).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, NestedIOFunction

from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.inference.elbo import ObjectiveELBO
from pyro_vae_zoo.inference.terms import score_latents
from pyro_vae_zoo.models.mixture import MixtureGuide, mixture
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.options import Option, normalise
from pyro_vae_zoo.pair.sites import check_unscaled, latent_sites
from pyro_vae_zoo.pair.vae import VAE, Phase

__all__ = [
    "ComponentELBO",
    "Criterion",
    "RecursiveELBO",
    "mirror_step",
    "recursive_phases",
]


@dataclass(frozen=True)
class Criterion:
    """The terms that a component ascends beside its log p(x, z).

    Raises:
        UserError: for negative values.
    """

    kl_bound: Annotated[float, Option("largest log-ratio C, in nats.", least=0)] = 1.0
    entropy_weight: Annotated[
        float, Option("weight of the entropy bonus H(q_m).", least=0)
    ] = 0.0

    def __post_init__(self) -> None:
        normalise(self)

    def __call__(self, q: Mixture, m: int, z: Tensor) -> Tensor:
        """The terms of component m at its draws z, `(num_particles, batch)`."""
        log_q = q.components[m].log_prob(z)
        if m == 0:
            return -log_q
        log_ratio = log_q - at_fixed_parameters(q.first(m).log_prob, z)
        entropy = (1 + self.entropy_weight) * -log_q
        return log_ratio.clamp(max=self.kl_bound) + entropy


class ComponentELBO(ObjectiveELBO):
    """Criterion (1) of one component, with a gradient to its parameters alone.

    An encoder that components share has a gradient, too; `fit` does not move it.

    Args:
        num_particles: draws for each datum.
        m: the component, counted from 0; those before it are the mixture.
        criterion: what it ascends.
        kl_weight: of log p(z) and of all densities of the guide; `fit` moves it.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        m: int,
        criterion: Criterion,
        kl_weight: float = 1.0,
    ) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        self.m = m
        self.criterion = criterion
        self.kl_weight = kl_weight

    def loss_and_elbo(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective and the component's own bound, both summed over the batch."""
        q = mixture_of(guide, x)
        z = q.components[self.m].rsample((self.num_particles,))

        scores: list[Tensor] = []

        def log_joint(z: Tensor) -> Tensor:
            scores[:] = log_likelihood, log_prior = score_latents(model, x, z)
            return log_likelihood + self.kl_weight * log_prior

        gain = at_fixed_parameters(log_joint, z)
        gain = gain + self.kl_weight * self.criterion(q, self.m, z)
        with torch.no_grad():
            elbo = sum(scores) - q.components[self.m].log_prob(z)
        return -gain.mean(0).sum(), elbo.mean(0).sum()


class RecursiveELBO(ObjectiveELBO):
    """A joint step of the first components, their weights and the decoder.

    Component m ascends criterion (1), the weights follow step (2), the decoder ascends
    L(Q). No part's gradient reaches another's parameters, except that all components move
    an encoder that they share.

    Args:
        num_particles: draws of each component for each datum.
        size: number of components that take part.
        fit: whether they move; else the weights and the decoder alone.
        criterion: what they ascend.
        weight_step: step size eta of the mixture weights.
        kl_weight: of log p(z) and of all densities of the guide; `fit` moves it.

    Raises:
        UserError: for a step outside (0, 1], beyond which the bound might fall.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        size: int,
        fit: bool,
        criterion: Criterion,
        weight_step: float = 0.1,
        kl_weight: float = 1.0,
    ) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        if not 0 < weight_step <= 1:
            raise UserError(f"weight_step must be in (0, 1], got {weight_step}")
        self.size = size
        self.fit = fit
        self.criterion = criterion
        self.weight_step = weight_step
        self.kl_weight = kl_weight

    def loss_and_elbo(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective and L(Q) of these components, both summed over the batch."""
        q = mixture_of(guide, x).first(self.size)
        z = q.rsample_components((self.num_particles,))  # (M, K, batch, latent_dim)
        log_weights = q.log_weights.expand(*q.batch_shape, -1).T  # (M, batch)
        weights = log_weights.exp().detach().unsqueeze(1)
        # The decoder sees each draw at its weight, its component sees it in full.
        shares = weights.clamp(min=1e-12)
        in_full = z.detach()
        if self.fit:
            in_full = ScaleGradient.apply(z, 1 / shares.unsqueeze(-1))
        log_likelihood, log_prior = score_latents(model, x, in_full)
        log_joint = log_likelihood + self.kl_weight * log_prior
        gain = (shares * log_joint).mean(1).sum()
        if self.fit:
            for m in range(self.size):
                terms = self.criterion(q, m, z[m])
                gain = gain + self.kl_weight * terms.mean(0).sum()
        with torch.no_grad():
            log_q = q.log_prob(z)
            elbo = (weights * (log_likelihood + log_prior - log_q)).mean(1).sum()
            advantage = (log_joint - self.kl_weight * log_q).mean(1)
        return self._weights_loss(q, log_weights, advantage) - gain, elbo

    def _weights_loss(
        self, q: Mixture, log_weights: Tensor, advantage: Tensor
    ) -> Tensor:
        """The loss that pulls weights `(M, batch)` to (2), on the scale of -L."""
        if q.log_weights.ndim == 1:  # shared by all data, and so is the step
            return -(log_weights.exp() * advantage.mean(-1, keepdim=True)).sum()
        target = mirror_step(log_weights.detach(), advantage, self.weight_step).exp()
        in_use = log_weights.masked_fill(target == 0, 0.0)  # log 0 among them
        return -(target * in_use).sum() / self.weight_step


def mirror_step(log_weights: Tensor, advantage: Tensor, step: float) -> Tensor:
    """Step (2): the logarithms of the next weights; components in the first dimension.

    >>> log_weights = torch.tensor([0.5, 0.5]).log()
    >>> mirror_step(log_weights, torch.tensor([3.0, 3.0]), 1.0).exp()
    tensor([0.5000, 0.5000])
    """
    return (log_weights + step * advantage).log_softmax(0)


def at_fixed_parameters(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """`function(z)` with a gradient to z alone, not to what else it is made of.

    Args:
        function: from `(*batch, latent_dim)` to `(*batch,)`, batch by batch.
        z: its argument.
    """
    if not torch.is_grad_enabled():
        return function(z)
    point = z.detach().requires_grad_()
    value = function(point)
    (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach() + (slope * (z - point.detach())).sum(-1)


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant on its way back."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, scale: Tensor) -> Tensor:
        """Z itself."""
        ctx.save_for_backward(scale)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: NestedIOFunction, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient to z, scaled, and none to the scale."""
        (scale,) = ctx.saved_tensors
        return gradient * scale, None


def mixture_of(guide: nn.Module, x: Tensor) -> Mixture:
    """The mixture that a guide draws its z from."""
    site = latent_sites(poutine.trace(guide).get_trace(x))["z"]
    check_unscaled(site, "the criterion of a recursive mixture")
    return site["fn"]


def recursive_phases(
    model: nn.Module,
    guide: MixtureGuide,
    *,
    schedule: str = "together",
    start: str = "copy",
    criterion: Criterion | None = None,
    weight_step: float = 0.1,
) -> tuple[Phase, ...]:
    """The phases of `fit` for a model of one latent `"z"` and a `MixtureGuide`.

    Args:
        model: p.
        guide: q.
        schedule: components trained `together`, or one after another, `sequential`.
        start: where a new component starts: as a `copy` of the one before it, good from
            the first step on, or on its `own` random weights, which finds modes that are
            far apart.
        criterion: what the components ascend; (1) by default.
        weight_step: step size eta of the mixture weights.

    `fit` starts with the first component alone: it overwrites what an earlier `fit` made
    of the others.

    Raises:
        UserError: for an unknown schedule or start.
    """
    known = {"schedule": ("together", "sequential"), "start": ("copy", "own")}
    for name, got in (("schedule", schedule), ("start", start)):
        if got not in known[name]:
            raise unknown_name(name, got, known[name])
    criterion = criterion or Criterion()
    size = guide.num_components
    make = partial(RecursiveELBO, criterion=criterion, weight_step=weight_step)
    make(size=1, fit=True)  # which checks the step

    def refresh(size: int, fit: bool = False) -> Callable[..., ObjectiveELBO]:
        return partial(make, size=size, fit=fit)

    def begin(size: int) -> Callable[[VAE], None]:
        return partial(_begin, num_active=size, copy=start == "copy")

    def warm_up(share: float) -> Phase:
        moved = model, *guide.component(0)
        return Phase("warm-up", share, refresh(1, fit=True), moved, begin(1))

    def fit_component(m: int) -> Phase:
        loss = partial(ComponentELBO, m=m, criterion=criterion)
        return Phase(f"component {m}", 2.0, loss, guide.component(m), begin(m + 1))

    def fit_weights(m: int) -> Phase:
        moved = (guide.weights,)
        return Phase(f"weights {m}", 0.5, refresh(m + 1), moved, begin(m + 1))

    if schedule == "together":
        loss = refresh(size, fit=True)
        return warm_up(1.0), Phase("refresh", 3.0, loss, start=begin(size))
    learn = [*guide.weights.parameters()] != []
    kinds = [fit_component, fit_weights] if learn else [fit_component]
    rest = [phase(m) for m in range(1, size) for phase in kinds]
    moved = model, guide.weights
    rest.append(Phase("decoder", 2.0, refresh(size), moved, begin(size)))
    # What the decoder knows it has learned before, for the most part.
    return warm_up(sum(phase.share for phase in rest)), *rest


def _begin(vae: VAE, num_active: int, copy: bool) -> None:
    cast(MixtureGuide, vae.guide).begin(num_active, copy)


@register("recursive_mixture", options_of=[mixture])
def recursive_mixture(
    *,
    schedule: str = "together",
    start: str = "copy",
    kl_bound: float = 1.0,
    weight_step: float = 0.1,
    **options: Any,
) -> VAE:
    """Kim & Pavlovic 2020: a `mixture` whose components learn what the others miss."""
    how = {"schedule": schedule, "start": start, "weight_step": weight_step}
    return _recursively(mixture(**options), Criterion(kl_bound), **how)


@register("boosted", options_of=[mixture])
def boosted(
    *,
    schedule: str = "together",
    start: str = "copy",
    entropy_weight: float = 0.1,
    kl_bound: float = 20.0,
    weight_step: float = 0.1,
    **options: Any,
) -> VAE:
    """Guo et al. 2016, amortised: a `mixture` boosted with an entropy bonus.

    Without a bound a component's scale diverges along each latent that does not depend on
    x: log p - log Q is flat there, and the bonus grows with the scale.
    """
    how = {"schedule": schedule, "start": start, "weight_step": weight_step}
    return _recursively(mixture(**options), Criterion(kl_bound, entropy_weight), **how)


def _recursively(vae: VAE, of: Criterion, **how: Any) -> VAE:
    guide = cast(MixtureGuide, vae.guide)
    vae.phases = recursive_phases(vae.model, guide, criterion=of, **how)
    return vae
