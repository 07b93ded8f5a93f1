r"""Where the bound is lost: what q cannot be, and what the encoder does not find.

Chris Cremer, Xuechen Li, David Duvenaud: *Inference Suboptimality in Variational
Autoencoders*, 2018, https://arxiv.org/abs/1801.03558

\[\log p(x) - L(q_\phi) = \underbrace{\log p(x) - L(q^*)}_{\text{approximation gap}}
  + \underbrace{L(q^*) - L(q_\phi)}_{\text{amortisation gap}},\]

L the evidence lower bound, \(q^*\) the best q for this very x. It is looked for from the
guide's output on, by Adam, over

\[q(z|\lambda), \qquad \lambda = (h, a, M): \quad
  z_0 = \mu(h) + a + S(h) M \epsilon, \qquad z = f_K(\dots f_1(z_0; h) \dots; h),\]

the context h that the encoder gave, and shift a and scale M of the Gaussian base: M is
diagonal for a diagonal Gaussian and lower triangular for a full one. The weights that turn
h into flows stay as they are. For `mean_field` and `full_rank` that is the whole family.
For a flow it is less, since its networks are shared by all data: there the amortisation
gap is a lower bound of that with networks for each datum, and the approximation gap an
upper bound.
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae_zoo.bounds import bound_terms
from pyro_vae_zoo.chunks import (
    PARTICLES_PER_CHUNK,
    chunk_rows_for,
    evaluating,
    sides_and_data,
)
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.importance import LogLikelihood, summarise
from pyro_vae_zoo.models.standard import AmortizedGuide
from pyro_vae_zoo.vae import VAE

__all__ = ["InferenceGaps", "inference_gaps"]


@dataclass(frozen=True)
class InferenceGaps:
    """The parts of log p(x) - ELBO of each datum; tensors `(len(x),)`, float64, nats.

    Nothing is clipped: where a gap is small beside its error it may be negative.

    Attributes:
        amortised_elbo: ELBO of the guide.
        amortised_error: its Monte-Carlo standard error.
        local_elbo: ELBO of the q optimised for each datum.
        local_error: its Monte-Carlo standard error.
        log_prob: the estimate of log p(x) that the gaps are counted from.
        local_importance: log p(x) by importance sampling from the optimised q: often a
            better estimate than from the guide's, with as many draws.
        num_particles: draws for each ELBO.
        num_steps: of the optimisation.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> gaps = zoo.inference_gaps(vae, torch.zeros(3, 8, 8), num_steps=10)
    >>> parts = gaps.amortised_elbo + gaps.amortisation_gap + gaps.approximation_gap
    >>> torch.allclose(parts, gaps.log_prob)
    True
    """

    amortised_elbo: Tensor
    amortised_error: Tensor
    local_elbo: Tensor
    local_error: Tensor
    log_prob: Tensor
    local_importance: LogLikelihood
    num_particles: int
    num_steps: int

    @property
    def approximation_gap(self) -> Tensor:
        """Log p(x) minus the optimised ELBO."""
        return self.log_prob - self.local_elbo

    @property
    def amortisation_gap(self) -> Tensor:
        """The optimised ELBO minus the guide's."""
        return self.local_elbo - self.amortised_elbo


def inference_gaps(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Tensor,
    num_steps: int = 500,
    lr: float = 0.02,
    num_particles: int = 2000,
    *,
    step_particles: int = 8,
    log_prob: Tensor | None = None,
    seed: int | None = 0,
    progress: bool = False,
) -> InferenceGaps:
    r"""Approximation and amortisation gap of each datum.

    Each step of Adam, whose rate falls from `lr` to zero along a cosine, has fresh draws,
    and so has each ELBO that is reported. Without `log_prob` the mean of two unbiased
    \(\hat p(x)\) stands for p(x): from the guide's draws and from those of the optimised q.
    Its logarithm is too low where the draws are too few, and so is the approximation gap.

    Args:
        vae: a `VAE`, or any pair `(model, guide)`, whose guide is an `AmortizedGuide`
            with a Gaussian or a flow on a Gaussian: `mean_field`, `full_rank`, the flows.
        x: data, shape `(n, *event_shape)`.
        num_steps: of the optimisation; zero leaves the guide's q.
        lr: Adam's first rate.
        num_particles: draws for each ELBO, guide's and optimised.
        step_particles: draws for each datum in a step.
        log_prob: a better estimate of log p(x), as by `annealed_log_likelihood`,
            shape `(n,)`.
        seed: of the draws; None draws from the caller's random state.
        progress: show a progress bar.

    Raises:
        UserError: for other guides, for data that the likelihood cannot score, and for
            numbers out of range.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> gaps = inference_gaps(vae, torch.zeros(3, 8, 8), num_steps=50)
    >>> gaps.amortisation_gap.shape
    torch.Size([3])
    """
    model, guide, x, device = sides_and_data(vae, x)
    _check(guide, num_steps, lr, num_particles, step_particles)
    if log_prob is not None and log_prob.shape != (len(x),):
        raise UserError(
            f"expected log_prob of shape {(len(x),)}, got {tuple(log_prob.shape)}"
        )
    amortised, local = [], []
    with evaluating(model, guide, device, seed):
        rows = chunk_rows_for(model, guide, x[:2].to(device))
        batches = x.split(max(rows // max(step_particles, PARTICLES_PER_CHUNK // 4), 1))
        total = len(batches) * num_steps
        with tqdm(total=total, desc="optimise q", disable=not progress) as bar:
            for batch in batches:
                batch = batch.to(device)
                q = LocalGuide(guide, batch)
                _optimise(model, q, batch, num_steps, lr, step_particles, bar)
                block = max(rows // len(batch), 1)
                for side, parts in ((guide, amortised), (q, local)):
                    parts.append(_log_weights(model, side, batch, num_particles, block))
    amortised, local = torch.cat(amortised), torch.cat(local)
    if log_prob is None:
        log_prob = summarise(torch.cat([amortised, local], 1)).log_prob
    elbos = *_elbo(amortised), *_elbo(local)
    log_prob = log_prob.double().cpu()
    return InferenceGaps(*elbos, log_prob, summarise(local), num_particles, num_steps)


class LocalGuide(nn.Module):
    """q(z; lambda) for these data, at first the guide's; see the module's equations.

    Args:
        guide: whose encoder says where to start.
        x: the data, one lambda for each.
    """

    def __init__(self, guide: AmortizedGuide, x: Tensor) -> None:
        super().__init__()
        context = guide.encoder(x)
        base = _base(guide.posterior(context))
        self.posterior = guide.posterior
        self.context = nn.Parameter(context.detach().clone())
        self.shift = nn.Parameter(torch.zeros_like(base.mean))
        self.log_scale = nn.Parameter(torch.zeros_like(base.mean))
        self.lower = None
        if isinstance(base, dist.MultivariateNormal):
            self.lower = nn.Parameter(torch.zeros_like(base.scale_tril))

    def parameters_of_the_data(self) -> list[nn.Parameter]:
        """Lambda: what is optimised."""
        found = [self.context, self.shift, self.log_scale]
        return found if self.lower is None else [*found, self.lower]

    def forward(self, x: Tensor) -> Tensor:
        """Draw z."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.moved(self.posterior(self.context)))

    def moved(self, q: TorchDistributionMixin) -> TorchDistributionMixin:
        """The distribution with its base shifted and scaled."""
        base = _base(q)
        loc = base.mean + self.shift
        if self.lower is None:
            scale = base.stddev * self.log_scale.exp()
            base = dist.Normal(loc, scale).to_event(1)
        else:
            factor = self.lower.tril(-1) + self.log_scale.exp().diag_embed()
            base = dist.MultivariateNormal(loc, scale_tril=base.scale_tril @ factor)
        steps = getattr(q, "transforms", None)
        return dist.TransformedDistribution(base, steps) if steps else base


def _base(q: TorchDistributionMixin) -> TorchDistributionMixin:
    """The Gaussian under a flow, or q itself."""
    base = q.base_dist if getattr(q, "transforms", None) else q
    inner = getattr(base, "base_dist", base)
    if isinstance(inner, dist.Normal) or isinstance(base, dist.MultivariateNormal):
        return base
    kinds = dict.fromkeys((type(base).__name__, type(inner).__name__))
    raise UserError(
        "the gaps are for Gaussian posteriors and flows on a Gaussian, got "
        f"{' of '.join(kinds)}"
    )


def _optimise(
    model: nn.Module,
    q: LocalGuide,
    x: Tensor,
    num_steps: int,
    lr: float,
    step_particles: int,
    bar: tqdm,
) -> None:
    free = q.parameters_of_the_data()
    adam = torch.optim.Adam(free, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(num_steps, 1))
    for _ in range(num_steps):
        with torch.enable_grad():
            terms = bound_terms(model, q, x, step_particles, scaled=False)
            loss = -terms.log_weights.mean(0).sum()
            slopes = torch.autograd.grad(loss, free, allow_unused=True)
        for p, slope in zip(free, slopes, strict=True):
            p.grad = slope
        adam.step()
        schedule.step()
        bar.update()


def _log_weights(
    model: nn.Module, q: nn.Module, x: Tensor, num_particles: int, block: int
) -> Tensor:
    """Log-weights `(len(x), num_particles)` of draws of q, float64 on the CPU."""
    parts = []
    for start in range(0, num_particles, block):
        draws = min(block, num_particles - start)
        terms = bound_terms(model, q, x, draws, scaled=False)
        parts.append(terms.log_weights.double().T.cpu())
    return torch.cat(parts, 1)


def _elbo(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Each datum's ELBO and the error of its draws."""
    return log_weights.mean(1), log_weights.std(1) / log_weights.shape[1] ** 0.5


def _check(
    guide: nn.Module, num_steps: int, lr: float, num_particles: int, step_particles: int
) -> None:
    if not isinstance(guide, AmortizedGuide):
        raise UserError(
            "the gaps are for an AmortizedGuide, an encoder and a posterior that is a "
            f"Gaussian or a flow; got {type(guide).__name__}"
        )
    least = {"num_steps": 0, "num_particles": 2, "step_particles": 1}
    values = num_steps, num_particles, step_particles
    for (name, low), value in zip(least.items(), values, strict=True):
        if value < low:
            raise UserError(f"{name} must be at least {low}, got {value}")
    if not lr > 0:
        raise UserError(f"lr must be positive, got {lr}")
