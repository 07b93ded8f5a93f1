r"""The inference gaps: the approximation gap of q's family, the amortisation gap.

Chris Cremer, Xuechen Li, David Duvenaud: *Inference Suboptimality in Variational
Autoencoders*, 2018, https://arxiv.org/abs/1801.03558

\[\log p(x) - L(q_\phi) = \underbrace{\log p(x) - L(q^*)}_{\text{approximation gap}}
  + \underbrace{L(q^*) - L(q_\phi)}_{\text{amortisation gap}},\]

L the evidence lower bound, \(q^*\) the best q for this very x. It is looked for from the
guide's output on, by Adam, over the context h that the encoder gave, and shift a and scale
M of the Gaussian base (see `local`): M is diagonal for a diagonal Gaussian and lower
triangular for a full one. For `mean_field` and `full_rank` that is the whole family.
For a flow it is less, since its networks are shared by all data: there the amortisation
gap is a lower bound of that with networks for each datum, and the approximation gap an
upper bound.

A q of each datum's own is a better proposal for importance sampling than the guide's, and
need not stay in the family: `local_log_likelihood` of `local` takes a full M.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyro_vae_zoo.data.display import Summary, figure, frame
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.importance import summarise
from pyro_vae_zoo.evaluation.local import Fit, weights_of_each
from pyro_vae_zoo.evaluation.statistics import mean_row
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import Data, apart, data_of
from pyro_vae_zoo.pair.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

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

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        rows = [
            mean_row("log p(x)", self.log_prob),
            mean_row("approximation gap", self.approximation_gap),
            mean_row("amortisation gap", self.amortisation_gap),
            mean_row("ELBO", self.amortised_elbo),
        ]
        return Summary(
            f"InferenceGaps of {len(self.log_prob)} data, nats per datum", rows
        )

    def to_frame(self) -> "DataFrame":
        """A data frame with a row for each datum: its gaps and what they lie between.

        Raises:
            UserError: without pandas.
        """
        names = ["log_prob", "local_elbo", "amortised_elbo"]
        names += ["approximation_gap", "amortisation_gap"]
        return frame({name: getattr(self, name) for name in names}, "datum")

    def plot(self, *, title: str | None = None) -> "Figure":
        """The gaps as a bar, and datum by datum; see `plots.plot_gaps`."""
        return figure(self, title)


@apart
def inference_gaps(
    vae: VAE | tuple[nn.Module, nn.Module],
    x: Data,
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
        vae: a `VAE`, or any pair `(model, guide)`, of one real vector `"z"`. The q of a
            Gaussian or a flow on a Gaussian stays in its family; of any other guide it
            is a full Gaussian, and the amortisation gap may be negative.
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
        UserError: for pairs of other latents, for data that the likelihood cannot score,
            and for numbers out of range.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> gaps = inference_gaps(vae, torch.zeros(3, 8, 8), num_steps=50)
    >>> gaps.amortisation_gap.shape
    torch.Size([3])
    """
    num_data = len(data_of(x))
    num_steps = count("num_steps", num_steps, least=0)
    num_particles = count("num_particles", num_particles, least=2)
    if log_prob is not None:
        log_prob = torch.as_tensor(log_prob)
    if log_prob is not None and log_prob.shape != (num_data,):
        raise UserError(
            f"expected log_prob of shape {(num_data,)}, got {tuple(log_prob.shape)}"
        )
    fit = Fit(num_steps, lr, step_particles)
    both, _ = weights_of_each(
        vae, x, num_particles, fit, seed, progress, amortised=True, full=False
    )
    amortised, local = (torch.cat(parts) for parts in zip(*both, strict=True))
    if log_prob is None:
        log_prob = summarise(torch.cat([amortised, local], 1)).log_prob
    elbos = *_elbo(amortised), *_elbo(local)
    return InferenceGaps(*elbos, log_prob.double().cpu(), num_particles, num_steps)


def _elbo(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Each datum's ELBO and the error of its draws."""
    return log_weights.mean(1), log_weights.std(1) / log_weights.shape[1] ** 0.5
