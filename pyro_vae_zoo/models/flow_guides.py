r"""Normalising-flow posteriors on the standard VAE's one latent vector.

Isaac Henrion, Sean Welleck: *Richer posteriors with flow-based variational
autoencoders*, which compares planar, inverse autoregressive and Householder flows; with
the flows of Rezende & Mohamed 2015 (planar, radial), Kingma et al. 2016 (IAF), Tomczak
& Welling 2016 (Householder), van den Berg et al. 2018 (Sylvester), Huang et al. 2018
(neural autoregressive), Dinh et al. 2017 and Durkan et al. 2019 (couplings).

Generative process: that of `standard`. Inference: from features h of x

\[z_0 \sim N(\mu(h), \mathrm{diag}\,\sigma(h)^2), \qquad
  z_k = f_k(z_{k-1}; h), \qquad
  \log q(z_K|x) = \log q_0(z_0) - \sum_k \log\left|\det
  \frac{\partial z_k}{\partial z_{k-1}}\right|.\]

| symbol    | code name          | shape                 | section of the study  |
|-----------|--------------------|-----------------------|-----------------------|
| h         | `context`          | `(batch, context_dim)` | 3                    |
| q_0       | `base`             | `(batch, latent_dim)` | 3.1                   |
| f_k       | `f.condition(context)`, `f` in `flows` | `latent_dim` to itself | 3.1 |
| K         | `num_flows`        |                       | 3.1                   |

Differences from the study. Its public code has five faults that are corrected here: the
planar map is constrained to be invertible; autoregressive steps reverse the order of
the latents from one to the next; every step sees h; Householder vectors are normalised;
the last layer of a network is linear, with no ReLU behind it.

Differences in form: the study's IAF step is \((z - \mu) / \sigma\). `affine_autoregressive`
is \(\mu + \sigma z\), the same family, with \(\log\sigma\) clamped by Pyro to -5..3; `iaf`
is \(g z + (1 - g) m\), which only contracts. One MADE computes both vectors; a step starts
near the identity. Householder vectors are chained; `chained=False` computes each from h. No
batch normalisation. Hidden widths: `flow_hidden_dims`; nonlinearity: `flow_activation`.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
from pyro.distributions import transforms as T
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn

from pyro_vae_zoo import transforms as zt
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.standard import DiagonalGaussian, Parts, standard_vae
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.pair.vae import CLIP_NORM, VAE
from pyro_vae_zoo.transforms.conditioning import condition_all
from pyro_vae_zoo.transforms.made import alternating_order

__all__ = ["FLOWS", "AmortizedFlow"]

Steps: TypeAlias = Sequence[ConditionalTransformModule]
# From the sizes of z and of h, a number of steps and the flow's own options.
MakeSteps: TypeAlias = Callable[..., Steps]


def planar(latent_dim: int, context_dim: int, num_flows: int) -> Steps:
    """Rezende & Mohamed 2015, eq. 10: each step is z + u tanh(w^T z + b)."""
    return [zt.conditional_planar(latent_dim, context_dim) for _ in range(num_flows)]


def radial(latent_dim: int, context_dim: int, num_flows: int) -> Steps:
    """Rezende & Mohamed 2015, eq. 14: each step contracts or expands around a point."""
    return [zt.conditional_radial(latent_dim, context_dim) for _ in range(num_flows)]


def householder(
    latent_dim: int, context_dim: int, num_flows: int, *, chained: bool = True
) -> Steps:
    """Tomczak & Welling 2016: K reflections, a rotation of the Gaussian.

    Chained as in the paper, v_1 = Linear(h), v_t = Linear(v_{t-1}); with
    `chained=False`, each vector is computed from h.
    """
    if num_flows == 0:
        return []
    return [zt.conditional_householder(latent_dim, context_dim, num_flows, chained)]


def sylvester_orthogonal(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    *,
    num_ortho_vecs: int | None = None,
    orthogonalize: str = "bjorck",
) -> Steps:
    """Van den Berg et al. 2018: M hidden units on amortised orthonormal columns.

    The number M of columns is `num_ortho_vecs`, at most `latent_dim`, by default 8.
    The columns are made orthonormal by `orthogonalize`, one of `bjorck` and `qr`.
    """
    return [
        zt.conditional_sylvester(
            latent_dim,
            context_dim,
            "orthogonal",
            num_ortho_vecs=num_ortho_vecs,
            method=orthogonalize,
        )
        for _ in range(num_flows)
    ]


def sylvester_householder(
    latent_dim: int, context_dim: int, num_flows: int, *, num_householder: int = 8
) -> Steps:
    """Van den Berg et al. 2018: as many hidden units as latents, Q of reflections.

    The number of reflections is `num_householder`.
    """
    return [
        zt.conditional_sylvester(
            latent_dim, context_dim, "householder", num_householder=num_householder
        )
        for _ in range(num_flows)
    ]


def sylvester_triangular(latent_dim: int, context_dim: int, num_flows: int) -> Steps:
    """Van den Berg et al. 2018: Q alternates between identity and reversal."""
    return [
        zt.conditional_sylvester(
            latent_dim, context_dim, "triangular", reverse=bool(k % 2)
        )
        for k in range(num_flows)
    ]


def iaf(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    *,
    flow_hidden_dims: Sequence[int] = (320,),
    flow_activation: str = "elu",
    gate_bias: float = 2.0,
) -> Steps:
    """Kingma et al. 2016, eqs. 12-14: z <- g z + (1 - g) m with a gate g in (0, 1).

    Every step contracts, by construction; the form without a gate is
    `affine_autoregressive`. `gate_bias` is added to the gate's logit.
    """
    nets = mades(latent_dim, context_dim, num_flows, flow_hidden_dims, flow_activation)
    return [
        T.ConditionalAffineAutoregressive(net, stable=True, sigmoid_bias=gate_bias)
        for net in nets
    ]


def affine_autoregressive(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    *,
    flow_hidden_dims: Sequence[int] = (320,),
    flow_activation: str = "elu",
) -> Steps:
    """Kingma et al. 2016, eq. 10: z <- mu + sigma z, autoregressive mu and sigma."""
    nets = mades(latent_dim, context_dim, num_flows, flow_hidden_dims, flow_activation)
    return [T.ConditionalAffineAutoregressive(net) for net in nets]


def neural_autoregressive(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    *,
    flow_hidden_dims: Sequence[int] = (320,),
    flow_activation: str = "elu",
    width: int = 8,
) -> Steps:
    """Huang et al. 2018, eq. 8: a monotone network of `width` units for each latent."""
    return [
        zt.conditional_neural_autoregressive(
            latent_dim,
            context_dim,
            flow_hidden_dims,
            width,
            alternating_order(latent_dim, k),
            flow_activation,
        )
        for k in range(num_flows)
    ]


def affine_coupling(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    *,
    flow_hidden_dims: Sequence[int] = (160, 160),
    flow_activation: str = "elu",
) -> Steps:
    """Dinh et al. 2017, eqs. 7-8: half of z shifts and scales the other, in turn."""
    _check_coupling(latent_dim, num_flows)
    half = latent_dim // 2
    sizes = [latent_dim - half] * 2
    return alternate(
        latent_dim,
        [
            T.ConditionalAffineCoupling(
                half,
                zt.CouplingNet(
                    half, context_dim, flow_hidden_dims, sizes, flow_activation
                ),
            )
            for _ in range(num_flows)
        ],
    )


def spline_coupling(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    *,
    flow_hidden_dims: Sequence[int] = (160, 160),
    flow_activation: str = "elu",
    count_bins: int = 8,
    spline_bound: float = 3.0,
) -> Steps:
    """Durkan et al. 2019: a coupling by rational splines of `count_bins` pieces.

    The splines act on [-B, B], with B the `spline_bound`.
    """
    _check_coupling(latent_dim, num_flows)
    return alternate(
        latent_dim,
        [
            zt.conditional_spline_coupling(
                latent_dim,
                context_dim,
                flow_hidden_dims,
                count_bins,
                spline_bound,
                flow_activation,
            )
            for _ in range(num_flows)
        ],
    )


FLOWS: dict[str, MakeSteps] = {
    steps.__name__: steps
    for steps in (
        planar,
        radial,
        householder,
        sylvester_orthogonal,
        sylvester_householder,
        sylvester_triangular,
        affine_autoregressive,
        iaf,
        neural_autoregressive,
        affine_coupling,
        spline_coupling,
    )
}


class AmortizedFlow(nn.Module):
    r"""A flow posterior given any feature vector, in a VAE or outside one.

    \(q(z|h)\): a diagonal Gaussian whose loc and raw scale are linear in h, then
    `num_flows` steps, each of which sees h. With `num_flows=0` it is the
    Gaussian itself.

    Args:
        context_dim: size of the features h.
        latent_dim: size of z.
        flow: one of `FLOWS`, e.g. `"iaf"`, or a function like those in this file.
        num_flows: number of flow steps.
        options: of that flow, keyword arguments of its function in this file.

    Raises:
        UserError: for unknown names, sizes out of range, and couplings of one latent.

    Example:
        >>> posterior = AmortizedFlow(16, 3, "planar", num_flows=4)
        >>> q = posterior(torch.randn(5, 16))
        >>> z = q.rsample((7,))
        >>> z.shape, q.log_prob(z).shape
        (torch.Size([7, 5, 3]), torch.Size([7, 5]))
    """

    def __init__(
        self,
        context_dim: int,
        latent_dim: int,
        flow: str | MakeSteps,
        num_flows: int = 2,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(flow, str) and flow not in FLOWS:
            raise unknown_name("flow", flow, FLOWS)
        if num_flows < 0:
            raise UserError(f"num_flows must not be negative, got {num_flows}")
        known = flow_options(flow)
        for name in options:
            if name not in known:
                raise unknown_name(f"option of flow {flow!r}:", name, known)
        self.base = DiagonalGaussian(context_dim, latent_dim)
        self.flows = nn.ModuleList(
            _steps(flow)(latent_dim, context_dim, num_flows, **options)
        )

    def forward(self, context: Tensor) -> dist.Distribution:
        """q(z|h) of batch shape `context.shape[:-1]` and event shape `(latent_dim,)`."""
        base = self.base(context)
        if not self.flows:
            return base
        return zt.Transformed(base, condition_all(self.flows, context))


class Reverse(ConditionalTransformModule):
    """Turns the order of the latents round; the same for every context."""

    order: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        order = torch.arange(latent_dim - 1, -1, -1)
        self.register_buffer("order", order, persistent=False)

    def condition(self, context: Tensor) -> T.Permute:
        """The permutation as a transform of its own, since transforms cache."""
        return T.Permute(self.order)


def _steps(flow: str | MakeSteps) -> MakeSteps:
    return FLOWS[flow] if isinstance(flow, str) else flow


def flow_options(flow: str | MakeSteps) -> dict[str, Any]:
    """The keyword options of a flow with their defaults.

    >>> flow_options("householder")
    {'chained': True}
    """
    parameters = inspect.signature(_steps(flow)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def mades(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    hidden_dims: Sequence[int],
    activation: str,
) -> list[zt.MADE]:
    return [
        zt.MADE(
            latent_dim,
            context_dim,
            hidden_dims,
            permutation=alternating_order(latent_dim, k),
            activation=activation,
        )
        for k in range(num_flows)
    ]


def alternate(latent_dim: int, couplings: Steps) -> Steps:
    """The couplings, with a reversal of the order before each but the first."""
    steps: list[ConditionalTransformModule] = []
    for coupling in couplings:
        if steps:
            steps.append(Reverse(latent_dim))
        steps.append(coupling)
    return steps


def _check_coupling(latent_dim: int, num_flows: int) -> None:
    if num_flows and latent_dim < 2:
        raise UserError(
            f"a coupling needs latent_dim >= 2, got {latent_dim}: it conditions one "
            "half of z on the other"
        )


def _flow_vae(
    flow: str, *, num_flows: int = 2, parts: Parts | None = None, **options: Any
) -> VAE:
    """The standard model with a flow as guide; a spline's steep pieces need clipping."""
    own = {name: options.pop(name) for name in flow_options(flow) if name in options}
    posterior = partial(AmortizedFlow, flow=flow, num_flows=num_flows, **own)
    vae = standard_vae(posterior, parts=parts, **options)
    vae.clip_norm = CLIP_NORM if flow == "spline_coupling" else 0.0
    return vae


for _name, _steps_of in FLOWS.items():
    register(_name, options_of=[PairOptions, _steps_of])(partial(_flow_vae, _name))
