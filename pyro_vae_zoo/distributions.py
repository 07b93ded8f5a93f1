r"""`Mixture`: a weighted sum of distributions, of any kind, as one distribution.

\[q(z) = \sum_{m=1}^{M} \alpha_m\, q_m(z), \qquad
  \log q(z) = \operatorname{logsumexp}_m \big(\log \alpha_m + \log q_m(z)\big).\]

PyTorch's `MixtureSameFamily` cannot be drawn with a gradient, Pyro's
`MixtureOfDiagNormals` is Gaussian and of two dimensions or more. Here a component is
any distribution of vectors that can score a z which it has not drawn.
"""

import sys
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro import infer
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor

from pyro_vae_zoo.errors import UserError

__all__ = ["Mixture"]


class Mixture(dist.TorchDistribution):
    r"""The mixture of `components` with weights \(\alpha\).

    A draw has a gradient to the component it came from, and none to the weights: which
    component it is, is no smooth choice. So `has_rsample` is false (but for M = 1), and
    `score_parts` has the score of the choice, with which the gradient is unbiased under
    Pyro's `Trace_ELBO`, `TraceGraph_ELBO`, `TraceEnum_ELBO`, their jitted forms and
    `ReweightedWakeSleep`. `AnnealedELBO` has far less variance: it draws from every
    component and sums over them.

    Pyro's other ELBOs want draws that are smooth in every parameter, or do not weigh
    the score by what the choice has cost: `TraceMeanField_ELBO`, `RenyiELBO`,
    `TraceTailAdaptive_ELBO`, `TraceTMC_ELBO`, `EnergyDistance` and `Trace_MMD` are
    refused. (A gradient through the distribution function, as Figurnov et al. 2018,
    *Implicit Reparameterization Gradients*, have it for Gaussians, would be no way out:
    for components that are far apart it lives in the gap between them, where no draw
    falls.)

    Args:
        log_weights: \(\log \alpha\), normalised, shape `(M,)`, where all of the batch
            share them, or `(*batch_shape, M)`; minus infinity for a component that
            takes no part. `expand` leaves their shape as it is.
        components: M distributions of one event shape, an `(n,)`.

    Raises:
        UserError: for another number of weights than of components; in a draw with
            gradients, for an ELBO under which the weights would have a wrong one.

    >>> q = Mixture(torch.tensor([0.3, 0.7]).log(), [
    ...     dist.Normal(torch.zeros(4, 2), 1.0).to_event(1),
    ...     dist.Normal(torch.ones(4, 2), 0.1).to_event(1)])
    >>> q.rsample((5,)).shape, q.log_prob(torch.zeros(5, 4, 2)).shape
    (torch.Size([5, 4, 2]), torch.Size([5, 4]))
    """

    arg_constraints = {}

    def __init__(
        self,
        log_weights: Tensor,
        components: Sequence[dist.TorchDistribution],
        validate_args: bool | None = None,
    ) -> None:
        if log_weights.shape[-1] != len(components):
            raise UserError(
                f"expected a weight for each of {len(components)} components, got "
                f"{log_weights.shape[-1]}"
            )
        self.log_weights = log_weights
        shapes = (c.batch_shape for c in components)
        batch_shape = torch.broadcast_shapes(log_weights.shape[:-1], *shapes)
        event_shape = components[0].event_shape
        self.components = tuple(
            c if c.batch_shape == batch_shape else c.expand(batch_shape)
            for c in components
        )
        self.has_rsample = len(components) == 1
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def __call__(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """A draw as `pyro.sample` takes it: with a gradient to its component."""
        if torch.is_grad_enabled() and not self.has_rsample:
            _check_elbo()
        return self.rsample(sample_shape)

    @property
    def support(self):
        """That of the components."""
        return self.components[0].support

    @property
    def mean(self) -> Tensor:
        r"""\(\sum_m \alpha_m E_{q_m}[z]\), where the components know their means."""
        means = torch.stack([c.mean for c in self.components], -1)
        return (self.log_weights.exp().unsqueeze(-2) * means).sum(-1)

    def expand(self, batch_shape, _instance=None):
        """The same mixture with a larger batch shape."""
        components = [c.expand(batch_shape) for c in self.components]
        return Mixture(self.log_weights, components, validate_args=False)

    def first(self, n: int) -> "Mixture":
        """The mixture of the first `n` components, their weights renormalised."""
        log_weights = self.log_weights[..., :n].log_softmax(-1)
        return Mixture(log_weights, self.components[:n], validate_args=False)

    def rsample_components(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of every component, shape `(M, *sample_shape, *batch_shape, n)`."""
        sample_shape = torch.Size(sample_shape)
        return torch.stack([c.rsample(sample_shape) for c in self.components])

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws of shape `(*sample_shape, *batch_shape, n)`."""
        sample_shape = torch.Size(sample_shape)
        if len(self.components) == 1:
            return self.rsample_components(sample_shape)[0]
        index = self._draw_index(sample_shape)
        every = self.rsample_components(sample_shape)
        chosen = index[None, ..., None].expand(1, *every.shape[1:])
        return every.gather(0, chosen)[0]

    @torch.no_grad()
    def _draw_index(self, sample_shape: torch.Size) -> Tensor:
        """Which component a draw comes from, `(*sample_shape, *batch_shape)`.

        By the inverse of the cumulative weights: what `torch.multinomial` draws under a
        seed differs from one version of PyTorch to the next.
        """
        edges = self.log_weights.exp().cumsum(-1)
        edges = edges[..., :-1] / edges[..., -1:]
        uniform = torch.rand(
            (*sample_shape, *self.batch_shape, 1),
            dtype=edges.dtype,
            device=edges.device,
        )
        return (uniform >= edges).sum(-1)  # not >: no draw from a weight of zero

    def component_log_prob(self, value: Tensor) -> Tensor:
        r"""\(\log q_m\) of any values, shape `(*value.shape[:-1], M)`, in nats."""
        return torch.stack([c.log_prob(value) for c in self.components], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of any values, whichever component drew them, in nats."""
        return (self.log_weights + self.component_log_prob(value)).logsumexp(-1)

    def score_parts(self, x: Tensor) -> ScoreParts:
        r"""The density, and the score of the choice among the components.

        \(\log \alpha_m\) of the component that x came from would do. Its mean over the
        components that might have drawn x has the same expectation and less variance:
        it is the gradient of \(\log q(x)\) to the weights. For an x without a gradient,
        which `sample` drew (a wrapper does, such as `.mask()`), it is the whole score.
        """
        if self.has_rsample or not x.requires_grad:
            return super().score_parts(x)
        scores = self.component_log_prob(x)
        choice = (self.log_weights + scores.detach()).logsumexp(-1)
        log_prob = (self.log_weights + scores).logsumexp(-1)
        return ScoreParts(log_prob, choice, log_prob)


_BLIND_TO_THE_CHOICE = (
    infer.TraceMeanField_ELBO,
    infer.TraceTailAdaptive_ELBO,
    infer.RenyiELBO,
    infer.TraceTMC_ELBO,
    infer.EnergyDistance,
    infer.Trace_MMD,
)


def _check_elbo() -> None:
    """Refuse an ELBO under which weights starve; Pyro's own checks can be switched off.

    Pyro does not tell a distribution what it is drawn for. The stack does: every ELBO
    runs its pair in a method `_get_traces`.
    """
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "_get_traces":
        frame = frame.f_back
    elbo = frame and frame.f_locals.get("self")
    if isinstance(elbo, _BLIND_TO_THE_CHOICE):
        raise UserError(
            "expected an ELBO that scores which component of a mixture was drawn, got "
            f"{type(elbo).__name__}, which has a wrong gradient for the weights or none; "
            "train it with AnnealedELBO, or with Pyro's Trace_ELBO or TraceGraph_ELBO"
        )
