r"""A mixture as the posterior: several encoders, or several heads on one.

Generative process: that of `standard`. Inference: a mixture, whose components and
weights come from one pass through each encoder,

\[Q(z|x) = \sum_{m=0}^{M-1} \alpha_m(x)\, q_m(z|x).\]

`mixture` trains all its parts by the mixture's ELBO,

\[L(Q) = \sum_m \alpha_m E_{q_m}[\log p(x, z) - \log Q(z|x)], \qquad
  \sum_m \alpha_m L(q_m) \le L(Q) \le \sum_m \alpha_m L(q_m) + H(\alpha),\]

with the sum over the components taken exactly, not sampled. This is blind mixture
estimation, the baseline of Kim & Pavlovic (*Recursive Inference for Variational
Autoencoders*, 2020). For a fixed decoder a mixture of M is at most log M nats ahead of its
best component. Blind training often gains less: a component that falls behind loses its
weight, with the weight its gradient, and never catches up. `weights="uniform"` leaves it
no way to fall behind; so do Hotti et al. (*Efficient Mixture Learning in Black-Box
Variational Inference*, 2024), whose components are one network that reads a one-hot code
beside the features of x, `one_hot=True`: a further component then adds one bias vector.

| symbol    | code name            | shape                  |
|-----------|----------------------|------------------------|
| Q         | `Mixture`, `"z"`     | `(batch, latent_dim)`  |
| q_m       | `components[m]`      | `(batch, latent_dim)`  |
| alpha     | `log_weights.exp()`  | `(batch, M)` or `(M,)` |

Differences from the paper, whose public text leaves the form of the weights open: the
logit of a component is linear in the features of its encoder, which are detached, so that
the weights train no encoder; `weights="constant"` is one set of weights for all data;
components may be other than diagonal Gaussians. Hotti et al. also sum over a few
components that are drawn; here the sum is over all.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo import transforms as zt
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.inference.elbo import AnnealedELBO
from pyro_vae_zoo.models.flow_guides import AmortizedFlow, MakeSteps, Steps
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.standard import (
    DiagonalGaussian,
    FullRankGaussian,
    Parts,
    standard_model,
)
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.pair.vae import VAE, Phase
from pyro_vae_zoo.transforms.made import alternating_order

__all__ = ["COMPONENTS", "AmortizedWeights", "ConstantWeights", "MixtureGuide"]


class AmortizedWeights(nn.Module):
    """A logit for each component from the features of its own encoder, zero at first.

    The features are read and not moved: to them it is a network apart.
    """

    def __init__(self, context_dim: int, num_components: int) -> None:
        super().__init__()
        heads = [nn.Linear(context_dim, 1) for _ in range(num_components)]
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(heads)

    def forward(self, contexts: Sequence[Tensor]) -> Tensor:
        """Logits `(batch, M)`."""
        pairs = zip(self.heads, contexts, strict=True)
        return torch.cat([head(h.detach()) for head, h in pairs], -1)


class ConstantWeights(nn.Module):
    """One set of logits for all data, zero at first."""

    def __init__(self, context_dim: int, num_components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))

    def forward(self, contexts: Sequence[Tensor]) -> Tensor:
        """Logits `(M,)`."""
        return self.logits


class UniformWeights(nn.Module):
    """The same weight for every component, whatever it is worth."""

    logits: Tensor

    def __init__(self, context_dim: int, num_components: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(num_components), persistent=False)

    def forward(self, contexts: Sequence[Tensor]) -> Tensor:
        """Logits `(M,)`, all zero."""
        return self.logits


class OneHotLayer(nn.Module):
    r"""Hotti et al. 2024: features of each component, \(f(V h + C e_m)\).

    Of shared features h and the one-hot code \(e_m\).
    """

    def __init__(self, context_dim: int, num_components: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_dim, context_dim)
        self.code = nn.Linear(num_components, context_dim, bias=False)

    def forward(self, context: Tensor) -> list[Tensor]:
        """A tensor of the features' shape for each component."""
        h = self.linear(context)  # once for all
        return [nn.functional.elu(h + code) for code in self.code.weight.T]


class MixtureGuide(PyroModule):
    """q(z|x): a mixture, each component with an encoder of its own or on a shared one.

    Args:
        encoders: one for each component, or a single one that all share.
        posteriors: maps from features to the components' distributions; one for each
            component, or a single one that reads what `codes` makes.
        weights: maps the list of features to the components' logits.
        codes: maps the features of a single encoder to those of each component.
    """

    active: Tensor

    def __init__(
        self,
        encoders: Sequence[nn.Module],
        posteriors: Sequence[nn.Module],
        weights: nn.Module,
        codes: OneHotLayer | None = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.posteriors = nn.ModuleList(posteriors)
        self.weights = weights
        self.codes = codes
        size = len(posteriors) if codes is None else codes.code.in_features
        self.num_components = size
        # Which of them take part; in training they come in one by one.
        self.register_buffer("active", torch.ones(size, dtype=torch.bool))

    def distribution(self, x: Tensor) -> Mixture:
        """q(z|x), of batch shape `(len(x),)`."""
        contexts = [encoder(x) for encoder in self.encoders]
        if self.codes is not None:
            contexts = self.codes(contexts[0])
        contexts *= self.num_components // len(contexts)
        posteriors = [*self.posteriors] * (self.num_components // len(self.posteriors))
        logits = self.weights(contexts).masked_fill(~self.active, -torch.inf)
        components = [q(h) for q, h in zip(posteriors, contexts, strict=True)]
        return Mixture(logits.log_softmax(-1), components)

    def forward(self, x: Tensor) -> Tensor:
        """Draw z given x."""
        q = self.distribution(x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", q)

    def component(self, m: int) -> tuple[nn.Module, ...]:
        """The modules of one component; a shared encoder counts as the first's.

        Raises:
            UserError: where the components are one network, with a code for each.
        """
        if self.codes is not None:
            raise UserError(
                "components that a one-hot code tells apart are one network, which cannot "
                "learn them one by one; leave out one_hot, or take guide 'mixture'"
            )
        own = self.encoders[m : m + 1]
        return (*own, self.posteriors[m])

    def begin(self, num_active: int, copy: bool) -> None:
        """Let the first components take part, new ones as copies of the one before."""
        new = [m for m in range(num_active) if not self.active[m]]
        count = torch.arange(self.num_components, device=self.active.device)
        self.active.copy_(count < num_active)
        if not copy:
            return
        for m in new:
            for parts in (self.encoders, self.posteriors):
                if len(parts) > 1:
                    parts[m].load_state_dict(parts[m - 1].state_dict())


def masked_autoregressive(latent_dim: int, context_dim: int, num_flows: int) -> Steps:
    """Papamakarios et al. 2017: an affine autoregressive flow that scores in one pass."""
    return [
        zt.conditional_masked_autoregressive(
            latent_dim, context_dim, permutation=alternating_order(latent_dim, k)
        )
        for k in range(num_flows)
    ]


# What can score another's draws exactly, at about the cost of drawing its own.
_FLOWS: dict[str, str | MakeSteps] = {
    "householder": "householder",
    "affine_coupling": "affine_coupling",
    "spline_coupling": "spline_coupling",
    "masked_autoregressive": masked_autoregressive,
}
NUM_FLOWS = 2  # of a component that has any
WEIGHTS = {
    "amortized": AmortizedWeights,
    "constant": ConstantWeights,
    "uniform": UniformWeights,
}
_GAUSSIANS = {"gaussian": DiagonalGaussian, "full_rank": FullRankGaussian}
COMPONENTS = (*_GAUSSIANS, *_FLOWS)


def _make_posterior(component: str, num_flows: int) -> Callable[[int, int], nn.Module]:
    if component in _GAUSSIANS:
        if num_flows != NUM_FLOWS:
            warnings.warn(
                f"num_flows={num_flows} has no effect on a mixture of Gaussians; choose a "
                f"component with flows: {', '.join(_FLOWS)}",
                stacklevel=2,
            )
        return _GAUSSIANS[component]
    if component not in _FLOWS:
        raise UserError(
            "a component must compute log q of the other components' draws: expected "
            f"one of {', '.join(COMPONENTS)}, got {component!r}, which has no exact "
            "inverse or one that costs a pass for each dimension"
        )
    return partial(AmortizedFlow, flow=_FLOWS[component], num_flows=num_flows)


@register("mixture")
def mixture(
    *,
    event_shape: Sequence[int],
    likelihood: Any = "bernoulli",
    parts: Parts | None = None,
    latent_dim: int = 40,
    hidden_dims: Sequence[int] = (300, 300),
    network: str = PairOptions.network,
    activation: str = "relu",
    num_components: int = 3,
    weights: str = "amortized",
    shared_trunk: bool = False,
    one_hot: bool = False,
    component: str = "gaussian",
    num_flows: int = NUM_FLOWS,
) -> VAE:
    """A mixture with an encoder for each component, all of it trained by the ELBO.

    Decoder and first encoder are drawn first, so that under one seed they start as those
    of the other guides.

    Options:
        num_components: number of components.
        weights: mixture weights: `amortized`, for each datum, or `constant`, or `uniform`.
        shared_trunk: one encoder for all components, each with a head of its own.
        one_hot: one encoder and one head for all, which a one-hot code tells apart.
        component: `gaussian`, or a flow that can score the other components' draws.
        num_flows: flow steps of each component.
    """
    if num_components < 1:
        raise UserError(f"num_components must be at least 1, got {num_components}")
    if not isinstance(weights, str) or weights not in WEIGHTS:
        raise unknown_name("weights", str(weights), WEIGHTS)
    if one_hot and shared_trunk:
        raise UserError("one_hot has one encoder for all; leave out shared_trunk")
    make_posterior = _make_posterior(component, num_flows)
    parts = parts or Parts()
    model = standard_model(
        event_shape, likelihood, latent_dim, hidden_dims, network, activation, parts
    )
    made = [
        parts.make_encoder(network, event_shape, hidden_dims, activation)
        for _ in range(1 if shared_trunk or one_hot else num_components)
    ]
    context_dim = made[0][1]
    num_heads = 1 if one_hot else num_components
    guide = MixtureGuide(
        [encoder for encoder, _ in made],
        [make_posterior(context_dim, latent_dim) for _ in range(num_heads)],
        WEIGHTS[weights](context_dim, num_components),
        OneHotLayer(context_dim, num_components) if one_hot else None,
    )
    blind = Phase(loss=AnnealedELBO)  # which sums over the components
    return VAE(model, guide, event_shape, phases=(blind,))
