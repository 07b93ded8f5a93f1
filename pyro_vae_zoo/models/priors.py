r"""Priors of one latent vector, chosen apart from the guide.

A prior is a module whose `forward()` gives a distribution over z, of event shape
`(latent_dim,)` and no batch; the model draws z from it in its plate of data. In the ELBO

\[\log p(x) \ge E_q[\log p(x|z)] - E_q[\log q(z|x) - \log p(z)]\]

p(z) is in the KL, the last term, alone. For a given guide the best prior is the aggregate
posterior \(\frac1N \sum_i q(z|x_i)\): its divergence from p(z) is part of the KL, and a
learned prior reduces it.

| name       | \(p(z)\)                                    | source                     |
|------------|---------------------------------------------|----------------------------|
| `standard` | \(N(0, I)\)                                 | Kingma & Welling 2014      |
| `mixture`  | \(\sum_k w_k N(m_k, \mathrm{diag}\,s_k^2)\) | Tomczak & Welling 2018     |
| `vamp`     | \(\frac1K \sum_k q(z \mid u_k)\)            | same, eq. 9                |
| `flow`     | \(z = f(u),\ u \sim N(0, I)\)               | Chen et al. 2017, sec. 3.2 |

(Tomczak & Welling: *VAE with a VampPrior*, https://arxiv.org/abs/1705.07120; Chen et al.:
*Variational Lossy Autoencoder*, https://arxiv.org/abs/1611.02731.)

| symbol | code name                      | shape                |
|--------|--------------------------------|----------------------|
| w      | `logits.softmax(-1)`           | `(K,)`               |
| m, s   | `loc`, `scale`                 | `(K, latent_dim)`    |
| u_k    | `pseudo_inputs`                | `(K, *event_shape)`  |
| f      | `steps`, in the order from u to z | `latent_dim` to itself |

Training scores the guide's draws under the prior, so f is made of maps whose inverse takes
one pass. Differences from the papers: pseudo-inputs are any real numbers, not clipped to
[0, 1], and start at data; all steps start at the identity, and so `flow` at N(0, I).
If the guide is a `mixture`, its weights give the pseudo-inputs of a `vamp` prior no
gradient, since they detach the features that they read.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import transforms as T
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo import transforms as zt
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError, one_line, unknown_name
from pyro_vae_zoo.mixtures import GaussianMixture, UniformMixture
from pyro_vae_zoo.models.flow_guides import Steps, affine_coupling, alternate, mades
from pyro_vae_zoo.models.standard import StandardPrior, positive
from pyro_vae_zoo.options import count

__all__ = [
    "PRIORS",
    "FlowPrior",
    "MixturePrior",
    "StandardPrior",
    "VampPrior",
    "check_prior",
]

Net = TypeVar("Net", zt.MADE, zt.CouplingNet)


class MixturePrior(nn.Module):
    r"""K Gaussians of diagonal covariance, all of it learned.

    Centres are drawn from \(N(0, I/4)\) and scales start at \(\sqrt{3}/2\): the mean over
    all such mixtures is \(N(0, I)\). One component is a Gaussian, and the KL to it has a
    closed form.

    Args:
        latent_dim: size of z.
        num_components: K.

    >>> MixturePrior(2, num_components=3)().log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(self, latent_dim: int, num_components: int = 50) -> None:
        super().__init__()
        shape = count("prior_components", num_components), latent_dim
        logits = torch.zeros(shape[0])
        if len(logits) > 1:
            self.logits = nn.Parameter(logits)
        else:  # which no bound depends on
            self.register_buffer("logits", logits)
        self.loc = nn.Parameter(0.5 * torch.randn(shape))
        self.raw_scale = nn.Parameter(torch.full(shape, _RAW_OF_ROOT))

    def forward(self) -> TorchDistributionMixin:
        """p(z)."""
        scale = positive(self.raw_scale)
        if len(scale) == 1:
            return dist.Normal(self.loc[0], scale[0]).to_event(1)
        return GaussianMixture(self.logits.log_softmax(-1), self.loc, scale)


# `positive` of it is the square root of 3/4.
_RAW_OF_ROOT = math.log(math.expm1(0.75**0.5)) - math.log(math.expm1(1.0))


class VampPrior(PyroModule):
    r"""\(\frac1K \sum_k q(z|u_k)\): the guide's own posteriors of K learned inputs.

    Guide and prior are trained together: \(\log p(z)\) has a gradient to the guide, too.

    Args:
        guide: its `distribution(x)` is q(z|x), of batch shape `(len(x),)`. It must score
            any z, not only its own draws, in about one pass.
        event_shape: of a datum.
        num_inputs: K.
        dropout: share of the entries of the pseudo-inputs that a training step sets to
            zero; it scales up the others.

    Raises:
        UserError: for a guide that scores its own draws only.
    """

    guide: Any  # which has a method that PyTorch's type of attributes has not

    def __init__(
        self,
        guide: nn.Module,
        event_shape: Sequence[int],
        num_inputs: int = 500,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"pseudo_dropout must be in [0, 1), got {dropout}")
        shape = count("pseudo_inputs", num_inputs), *event_shape
        self.pseudo_inputs = nn.Parameter(torch.rand(shape))
        self.dropout = dropout
        self.guide = guide
        _check_scores_others(guide, self.pseudo_inputs[:2].detach())

    def start_at(self, x: Tensor) -> None:
        """Put the pseudo-inputs at data, drawn without replacement while they last."""
        k = len(self.pseudo_inputs)
        rounds = -(-k // len(x))
        rows = torch.cat([torch.randperm(len(x)) for _ in range(rounds)])[:k]
        with torch.no_grad():
            self.pseudo_inputs.copy_(x[rows.to(x.device)])

    def forward(self) -> dist.TorchDistribution:
        """p(z)."""
        inputs = F.dropout(self.pseudo_inputs, self.dropout, self.training)
        q = self.guide.distribution(inputs)
        if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
            log_weights = q.base_dist.loc.new_full(
                q.batch_shape, -math.log(len(inputs))
            )
            return GaussianMixture(log_weights, q.base_dist.loc, q.base_dist.scale)
        return UniformMixture(q)


def _check_scores_others(guide: nn.Module, x: Tensor) -> None:
    name = type(guide).__name__
    who = f"the prior 'vamp' needs log q(z|x) of the guide at any z, but {name} "
    advice = (
        "; choose the guide mean_field, full_rank, householder, planar, radial, a "
        "coupling or mixture, or choose another prior"
    )
    distribution = getattr(guide, "distribution", None)
    if not callable(distribution):
        raise UserError(
            f"{who}has no method distribution(x) that returns q(z|x){advice}"
        )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        q = distribution(x)
        parts = q.components if isinstance(q, Mixture) else [q]
        steps = [step for part in parts for step in getattr(part, "transforms", ())]
        names = ", ".join(dict.fromkeys(type(step).__name__ for step in steps))
        if any(getattr(step, "autoregressive", False) for step in steps):
            cost = "a pass for each dimension of z"
            raise UserError(f"{who}computes it only in {cost} ({names}){advice}")
        try:
            q.log_prob(q.sample() + 0.1)
        except (KeyError, NotImplementedError) as error:
            raise UserError(f"{who}cannot compute it ({names}){advice}") from error


class FlowPrior(nn.Module):
    r"""\(z = f_K(\dots f_1(u) \dots)\) of N(0, I), every \(f_k\) at first the identity.

    \[\log p(z) = \log N(u; 0, I) - \sum_k
      \log \left|\det \frac{\partial f_k}{\partial z_{k-1}}\right|, \qquad u = f^{-1}(z).\]

    A density takes one pass through the networks. So does a draw, of couplings; of the
    autoregressive flows it takes one for each dimension of z.

    Args:
        latent_dim: size of z.
        flow: one of `PRIOR_FLOWS`, or a function of `latent_dim`, `num_flows`,
            `hidden_dims` and `activation` that gives the steps: modules whose
            `condition(None)` is a transform with an inverse.
        num_flows: K.
        hidden_dims: widths of each step's network.
        activation: of those.

    Raises:
        UserError: for an unknown flow, a negative number of steps, and couplings of one
            dimension.

    >>> p = FlowPrior(4, hidden_dims=(16,))()
    >>> z = torch.randn(5, 4)
    >>> torch.allclose(p.log_prob(z), dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    True
    """

    def __init__(
        self,
        latent_dim: int,
        flow: "str | Callable[..., Steps]" = "affine_coupling",
        num_flows: int = 6,
        hidden_dims: Sequence[int] = (256,),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if isinstance(flow, str) and flow not in PRIOR_FLOWS:
            raise unknown_name("prior_flow", flow, PRIOR_FLOWS)
        num_flows = count("prior_num_flows", num_flows, least=0)
        make = PRIOR_FLOWS[flow] if isinstance(flow, str) else flow
        if flow in _COUPLINGS and latent_dim < 2:
            raise UserError(
                f"a coupling needs latent_dim >= 2, got {latent_dim}; take prior_flow="
                "'masked_autoregressive'"
            )
        steps = make(latent_dim, num_flows, hidden_dims, activation)
        self.steps = nn.ModuleList(steps)
        self.base = StandardPrior(latent_dim)

    def forward(self) -> dist.TorchDistribution:
        """p(z)."""
        base = self.base()
        # Made anew each time: what transforms keep of a pass ends with them.
        steps = [step.condition(None) for step in self.steps]  # type: ignore[operator]
        return zt.Transformed(base, steps) if steps else base


def _affine_couplings(
    latent_dim: int, num_flows: int, hidden_dims: Sequence[int], activation: str
) -> Steps:
    steps = affine_coupling(
        *(latent_dim, 0, num_flows),
        flow_hidden_dims=hidden_dims,
        flow_activation=activation,
    )
    for step in steps[::2]:  # between them the order is reversed
        _silent(cast(zt.CouplingNet, step.nn))
    return steps


def _spline_couplings(
    latent_dim: int, num_flows: int, hidden_dims: Sequence[int], activation: str
) -> Steps:
    learned = [
        zt.spline_coupling(latent_dim, hidden_dims, bound=5.0, activation=activation)
        for _ in range(num_flows)
    ]
    for t in learned:
        _silent(cast(zt.CouplingNet, t.nn.net))
    steps = [zt.AmortizedTransform(t.nn, t.build) for t in learned]
    return alternate(latent_dim, steps)


def _masked_autoregressive(
    latent_dim: int, num_flows: int, hidden_dims: Sequence[int], activation: str
) -> Steps:
    nets = map(_silent, mades(latent_dim, 0, num_flows, hidden_dims, activation))
    build = zt.ConditionedMaskedAutoregressive
    return [zt.AmortizedTransform(zt.Deferred(net), build) for net in nets]


class _Inverse(ConditionalTransformModule):
    """A conditional transform, the other way round."""

    def __init__(self, step: ConditionalTransformModule) -> None:
        super().__init__()
        self.step = step

    def condition(self, context: Tensor | None) -> T.Transform:
        return self.step.condition(context).inv


def _affine_autoregressive(
    latent_dim: int, num_flows: int, hidden_dims: Sequence[int], activation: str
) -> Steps:
    """Its own direction is that of scoring: from z to u, in one pass."""
    nets = map(_silent, mades(latent_dim, 0, num_flows, hidden_dims, activation))
    return [_Inverse(T.ConditionalAffineAutoregressive(net)) for net in nets]


def _silent(net: Net) -> Net:
    """The network with a last layer of zeros: its step is the identity."""
    with torch.no_grad():
        for p in net.layers[-1].parameters():
            p.zero_()
    return net


PRIOR_FLOWS: dict[str, Callable[..., Steps]] = {
    "affine_coupling": _affine_couplings,
    "spline_coupling": _spline_couplings,
    "masked_autoregressive": _masked_autoregressive,
    "affine_autoregressive": _affine_autoregressive,
}
_COUPLINGS = ("affine_coupling", "spline_coupling")


def mixture(latent_dim: int, *, prior_components: int = 50) -> MixturePrior:
    """Tomczak & Welling 2018: `prior_components` diagonal Gaussians, all of it learned."""
    return MixturePrior(latent_dim, prior_components)


def vamp(
    guide: nn.Module,
    event_shape: Sequence[int],
    *,
    pseudo_inputs: int = 500,
    pseudo_dropout: float = 0.0,
) -> VampPrior:
    """Tomczak & Welling 2018, eq. 9: the guide's posteriors of K learned inputs.

    Options:
        pseudo_inputs: number K of learned inputs.
        pseudo_dropout: share of their entries that a training step sets to zero.
    """
    return VampPrior(guide, event_shape, pseudo_inputs, pseudo_dropout)


def flow(
    latent_dim: int,
    *,
    prior_flow: str = "affine_coupling",
    prior_num_flows: int = 6,
    prior_hidden_dims: Sequence[int] = (256,),
    prior_activation: str = "relu",
) -> FlowPrior:
    """Chen et al. 2017, sec. 3.2: a flow of N(0, I).

    Options:
        prior_flow: one of `PRIOR_FLOWS`.
        prior_num_flows: number of its steps.
        prior_hidden_dims: widths of each step's network.
        prior_activation: nonlinearity of these networks.
    """
    how = prior_num_flows, prior_hidden_dims, prior_activation
    return FlowPrior(latent_dim, prior_flow, *how)


PRIORS: dict[str, Callable[..., nn.Module]] = {
    "standard": StandardPrior,
    "mixture": mixture,
    "vamp": vamp,
    "flow": flow,
}


def check_prior(prior: nn.Module, latent_dim: int) -> None:
    """Refuse a prior that does not give one distribution over z.

    Raises:
        UserError: for what gives something else; it says what.
    """
    try:
        p = prior()
    except Exception as error:  # whatever the user's code may raise
        raise UserError(
            f"{type(prior).__name__}.forward() must return p(z): {one_line(error)}"
        ) from error
    if not isinstance(p, TorchDistributionMixin):
        raise UserError(
            f"{type(prior).__name__}.forward() must return a distribution of Pyro's, "
            f"got {type(p).__name__}"
        )
    got = tuple(p.batch_shape), tuple(p.event_shape)
    if got != ((), (latent_dim,)):
        hint = "; is `.to_event(1)` missing?" if got == ((latent_dim,), ()) else ""
        raise UserError(
            f"expected a prior of batch shape () and event shape ({latent_dim},), "
            f"since the plate of data expands it, got {got[0]} and {got[1]}{hint}"
        )
