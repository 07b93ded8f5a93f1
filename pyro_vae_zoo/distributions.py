r"""`Mixture`: a weighted sum of distributions, of any kind, as one distribution.

\[q(z) = \sum_{m=1}^{M} \alpha_m\, q_m(z), \qquad
  \log q(z) = \operatorname{logsumexp}_m \big(\log \alpha_m + \log q_m(z)\big).\]

PyTorch's `MixtureSameFamily` cannot be drawn with a gradient, Pyro's
`MixtureOfDiagNormals` is Gaussian and of two dimensions or more. Here a component is
any distribution of vectors that can score a z which it has not drawn.
"""

import math
import sys
from collections.abc import Sequence
from types import FrameType

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import infer
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor
from torch.distributions import constraints

from pyro_vae_zoo.errors import UserError

__all__ = ["BernoulliLogits", "DiscretizedLogistic", "Mixture", "RankOnePrecision"]

_LOG_2PI = math.log(2 * math.pi)
_NARROW = 1e-6  # a bin over the scale, below which its mass is proportional to it


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
        UserError: for another number of weights than of components, and for components
            that are not of vectors of one size; in a draw with
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
        events = [c.event_shape for c in components]
        if len(events[0]) != 1 or any(event != events[0] for event in events):
            raise UserError(
                "components of a mixture: expected distributions of vectors of one size, "
                f"got event shapes {', '.join(str(tuple(event)) for event in events)}; "
                ".to_event(1) makes a vector of numbers"
            )
        self.log_weights = log_weights
        shapes = (c.batch_shape for c in components)
        batch_shape = torch.broadcast_shapes(log_weights.shape[:-1], *shapes)
        self.components = tuple(
            c if c.batch_shape == batch_shape else c.expand(batch_shape)
            for c in components
        )
        self.has_rsample = len(components) == 1
        super().__init__(batch_shape, events[0], validate_args=validate_args)

    def __call__(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """A draw as `pyro.sample` takes it: with a gradient to its component."""
        if torch.is_grad_enabled() and not self.has_rsample:
            _check_elbo()
        return self.rsample(sample_shape)

    @property
    def support(self) -> constraints.Constraint | None:
        """The support of the components."""
        return self.components[0].support

    @property
    def mean(self) -> Tensor:
        r"""\(\sum_m \alpha_m E_{q_m}[z]\), where the components know their means."""
        means = torch.stack([c.mean for c in self.components], -1)
        return (self.log_weights.exp().unsqueeze(-2) * means).sum(-1)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Mixture":
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
        if len(self.components) == 1:  # its own tensor, by which a flow knows its draw
            return self.components[0].rsample(sample_shape)
        index = self._draw_index(sample_shape)
        every = self.rsample_components(sample_shape)
        chosen = index[None, ..., None].expand(1, *every.shape[1:])
        return every.gather(0, chosen)[0]

    @torch.no_grad()
    def _draw_index(self, sample_shape: torch.Size) -> Tensor:
        """The component that each draw comes from, `(*sample_shape, *batch_shape)`.

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
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "_get_traces":
        frame = frame.f_back
    elbo = None if frame is None else frame.f_locals.get("self")
    if isinstance(elbo, _BLIND_TO_THE_CHOICE):
        raise UserError(
            f"a mixture cannot be trained with {type(elbo).__name__}, whose gradient "
            "for the mixture weights is wrong or zero; train it with AnnealedELBO, or "
            "with Pyro's Trace_ELBO or TraceGraph_ELBO"
        )


class BernoulliLogits(dist.Bernoulli):
    r"""Pyro's Bernoulli whose density takes two passes over memory instead of five.

    \(\log p(x) = -\mathrm{softplus}((1 - 2x)\, \mathrm{logit})\) for x in {0, 1}, in
    nats. Every term is accurate by itself: no difference of large numbers.

    >>> p = BernoulliLogits(logits=torch.tensor([-40.0, 0.0]))
    >>> p.log_prob(torch.tensor([0.0, 1.0]))
    tensor([-4.2484e-18, -6.9315e-01])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each element of `value`, 0 or 1, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        if not value.is_floating_point():  # 2 * value - 1 of bytes goes round
            value = value.to(self.logits.dtype)
        # The sign is in beta: a pass of its own costs as much as the rest, and one in
        # place takes from TorchScript what it differentiates by.
        return F.softplus((2 * value - 1) * self.logits, beta=-1)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic density integrated over the 256 bins of 8-bit grey levels.

    For x = k/255, k = 0..255, and half a bin \(\delta = 1/510\),

    \[\log p(x) = \log\big[\sigma((x + \delta - \mu)/s)
      - \sigma((x - \delta - \mu)/s)\big],\]

    where the first and the last bin reach to minus and plus infinity, so that the
    256 probabilities sum to one. Source: Kingma et al. 2016, section 5.2 (with bins
    centred on the grey levels).

    >>> x = torch.arange(256) / 255
    >>> DiscretizedLogistic(torch.tensor(0.3), torch.tensor(-2.0)).log_prob(
    ...     x).exp().sum().round(decimals=4)
    tensor(1.)
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}
    support = constraints.interval(0.0, 1.0)
    has_rsample = False

    def __init__(
        self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: None = None
    ) -> "DiscretizedLogistic":
        """The same distribution with a larger batch shape."""
        return DiscretizedLogistic(
            self.loc.expand(batch_shape),
            self.log_scale.expand(batch_shape),
            validate_args=False,
        )

    @property
    def mean(self) -> Tensor:
        r"""E[x], which is `loc` only where the logistic lies well inside the grey scale.

        \[E[x] = \frac{1}{255} \sum_{k=1}^{255} P(x \ge k/255), \qquad
          P(x \ge k/255) = \sigma\big((\mu - (k - \tfrac12)/255)/s\big).\]

        One level after the other, so that memory is that of a few tensors of the shape
        of `loc`, unless gradients are recorded.

        >>> x = torch.arange(256) / 255
        >>> p = DiscretizedLogistic(torch.tensor(0.02), torch.tensor(-2.0))
        >>> round(p.mean.item(), 4), round((p.log_prob(x).exp() * x).sum().item(), 4)
        (0.1041, 0.1041)
        """
        inv_scale = torch.exp(-self.log_scale)
        total = torch.zeros_like(self.loc)
        for k in range(1, 256):
            total = total + torch.sigmoid((self.loc - (k - 0.5) / 255) * inv_scale)
        return total / 255

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of grey levels `k / 255`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        inv_scale = torch.exp(-self.log_scale)
        upper = (value - self.loc + 0.5 / 255) * inv_scale
        lower = (value - self.loc - 0.5 / 255) * inv_scale
        # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)): no cancellation.
        width = inv_scale / 255
        mass = torch.log(-torch.expm1(-width.clamp_min(_NARROW)))
        mass = torch.where(width < _NARROW, -self.log_scale - math.log(255), mass)
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + mass
        first, last = value < 0.5 / 255, value > 1 - 0.5 / 255
        inner = torch.where(first, F.logsigmoid(upper), inner)
        return torch.where(last, F.logsigmoid(-lower), inner)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Grey levels `k / 255` of shape `sample_shape + batch_shape`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(1e-6, 1 - 1e-6)
            x = self.loc + self.log_scale.exp() * (u.log() - (-u).log1p())
            return (x.clamp(0, 1) * 255).round() / 255


class RankOnePrecision(dist.TorchDistribution):
    r"""N(loc, (diag d + u u^T)^{-1}) of vectors (Rezende et al. 2014, eqs. 9 and 10).

    Both density and draws cost O(D). With \(\eta = 1/(1 + u^\top D^{-1} u)\) draws are
    loc + R e, \(R = D^{-1/2} - \frac{\eta}{1 + \sqrt\eta} D^{-1} u u^\top D^{-1/2}\),
    so that \(R R^\top = (D + u u^\top)^{-1}\).

    Args:
        loc: mean, shape `(..., D)`.
        diag: d > 0, same shape.
        u: same shape.

    >>> one = torch.ones(3)
    >>> p = RankOnePrecision(0 * one, one, 0 * one)
    >>> torch.isclose(p.log_prob(one), dist.Normal(0, 1).log_prob(one).sum())
    tensor(True)
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "diag": constraints.independent(constraints.positive, 1),
        "u": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Tensor, diag: Tensor, u: Tensor, validate_args: bool | None = None
    ) -> None:
        self.loc, self.diag, self.u = torch.broadcast_tensors(loc, diag, u)
        shape = self.loc.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: None = None
    ) -> "RankOnePrecision":
        """The same distribution with a larger batch shape."""
        shape = (*batch_shape, *self.event_shape)
        loc, diag, u = (p.expand(shape) for p in (self.loc, self.diag, self.u))
        return RankOnePrecision(loc, diag, u, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        r = value - self.loc
        quadratic = (self.diag * r.square()).sum(-1) + (self.u * r).sum(-1).square()
        gain = (self.u.square() / self.diag).sum(-1)
        log_det = self.diag.log().sum(-1) + gain.log1p()
        return 0.5 * (log_det - quadratic - r.shape[-1] * _LOG_2PI)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape + (D,)`."""
        noise = torch.randn_like(
            self.loc.expand(self._extended_shape(torch.Size(sample_shape)))
        )
        white = noise * self.diag.rsqrt()
        v = self.u / self.diag
        eta = 1 / (1 + (self.u * v).sum(-1, keepdim=True))
        along = (self.u * white).sum(-1, keepdim=True)
        return self.loc + white - eta / (1 + eta.sqrt()) * v * along
