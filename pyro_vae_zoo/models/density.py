r"""Density estimation: a masked autoregressive flow, and a hierarchy of such flows.

George Papamakarios, Theo Pavlakou, Iain Murray: *Masked Autoregressive Flow for
Density Estimation*, 2017, https://arxiv.org/abs/1705.07057 (`maf`), and the
hierarchical variational flow of Apostolopoulou, Rosenfeld, Dubrawski:
*Self-Reflective Variational Autoencoder*, 2020 (`self_reflective_maf`).

`maf`: \(u \sim N(0, I)\), then K steps \(y_i = u_i e^{\alpha_i} + \mu_i\), where a MADE (a
masked network) computes \(\mu_i, \alpha_i\) from \(y_{<i}\). The order of the dimensions is
reversed from one step to the next. There are no latents: the guide draws nothing and the
ELBO is the log-density itself, so training and evaluation work as for any pair.

`self_reflective_maf`: the hierarchy of `self_reflective`, but p(x_l | z_l, x_{l-1}) is a
flow. Features of z_l and x_{l-1} enter its base distribution, a Gaussian of precision
\(\mathrm{diag}\,d + u u^\top\), and the MADE of each step, where no mask applies to them.

| symbol      | code name          | shape                      | equation in the paper |
|-------------|--------------------|----------------------------|-----------------------|
| y, x_l      | `"x"`, `"x_1"`, ... | `(batch, D)`, `D_l` | Papamakarios et al., 3 |
| mu, alpha   | `flows[k - 1]`     | `D` each                   | Papamakarios et al., 4 |
| eps_l, z_l  | `"eps_1"`, `"z_1"`, ... | `(batch, latent_dim)` | -                     |
| d, u        | `RankOnePrecision` | `(batch, D_l)` each        | Rezende et al. 2014, 9 |

Differences from the papers: log-scales are kept within +-5; batch normalisation is an
option of `maf`, off by default, since in training it makes a datum's density depend
on its batch; x_{l-1} enters the flow beside z_l, as it enters the data layers of
`self_reflective`; networks read z as asinh(z), and their last layers start at a tenth of
the usual size, as there. An image is flattened row by row, the channels of a pixel side by
side: blocks are horizontal bands.
"""

from collections.abc import Sequence
from functools import partial

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import transforms as T
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo import transforms as zt
from pyro_vae_zoo.distributions import RankOnePrecision
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.self_reflective import (
    Layers,
    SelfReflectiveGuide,
    SelfReflectiveModel,
)
from pyro_vae_zoo.nn.partition import Partition
from pyro_vae_zoo.pair.vae import VAE, Shared
from pyro_vae_zoo.transforms.conditioning import condition_all
from pyro_vae_zoo.transforms.made import alternating_order

__all__ = ["DensityModel", "FlowDataLayer", "NoLatents"]


class DensityModel(PyroModule):
    """p(x) without latents: a standard Gaussian through `flows`."""

    def __init__(self, flows: Sequence[nn.Module], partition: Partition) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)
        self.partition = partition
        (size,) = partition.sizes
        self.register_buffer("loc", torch.zeros(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Observe x as a vector (or draw it)."""
        base = dist.Normal(self.loc, 1.0).to_event(1)
        p_x = dist.TransformedDistribution(base, list(self.flows))
        (flat,) = self.partition.split(x)
        with pyro.plate("data", len(x), dim=-1):
            return self.join([pyro.sample("x", p_x, obs=flat)])

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Data of shape `(..., *event_shape)` from the vector."""
        return self.partition.join(blocks)


class NoLatents(PyroModule):
    """The guide of a model without latents: it draws nothing."""

    def forward(self, x: Tensor) -> None:
        """Draw nothing given x."""


class FlowDataLayer(nn.Module):
    """p(x_l | z_l, x_{l-1}): a flow whose base and every step see both.

    Args:
        features: network of (x_{l-1}, z_l), or in layer 1 of z_l, to a context.
        base: maps the context to loc, raw d and u of the base.
        steps: conditional transforms of x_l.
    """

    def __init__(
        self, features: nn.Module, base: nn.Module, steps: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.features = features
        self.base = base
        self.steps = nn.ModuleList(steps)

    def forward(self, z: Tensor, x_above: Tensor | None) -> dist.Distribution:
        """The distribution of block l."""
        inputs = (z,) if x_above is None else (x_above, z)
        context = F.elu(self.features(*inputs))
        loc, diag, u = zt.rank_one_parameters(self.base(context))
        steps = condition_all(self.steps, context)
        return dist.TransformedDistribution(RankOnePrecision(loc, diag, u), steps)


@register("maf", kind="density")
def maf(
    *,
    event_shape: Sequence[int],
    likelihood: str = "gaussian",
    num_flows: int = 10,
    flow_hidden_dims: Sequence[int] = (1024,),
    flow_activation: str = "relu",
    batch_norm: bool = False,
) -> VAE:
    """Papamakarios et al. 2017: `num_flows` MADEs, of alternating order.

    Options:
        num_flows: number of flow steps, each a MADE.
        flow_hidden_dims: hidden widths of each MADE.
        flow_activation: nonlinearity of each MADE.
        batch_norm: batch normalisation between flow steps.
    """
    _check_real("maf", likelihood)
    if num_flows < 1:
        raise UserError(f"num_flows must be at least 1, got {num_flows}")
    sizes = [torch.Size(event_shape).numel()]
    partition = Partition(event_shape, 1, sizes)
    flows: list[nn.Module] = []
    for k in range(num_flows):
        if batch_norm and flows:
            flows.append(T.BatchNorm(sizes[0]))
        order = alternating_order(sizes[0], k)
        flows.append(
            zt.masked_autoregressive(sizes[0], flow_hidden_dims, order, flow_activation)
        )
    return VAE(DensityModel(flows, partition), NoLatents(), event_shape)


@register("self_reflective_maf", kind="density")
def self_reflective_maf(
    *,
    event_shape: Sequence[int],
    likelihood: str = "gaussian",
    num_layers: int = 5,
    latent_dim: int = 40,
    hidden_dims: Sequence[int] = (256, 256),
    network: str = "mlp",
    activation: str = "elu",
    bijector: str = "spline_coupling",
    prior: str = "amortised",
    block_sizes: Sequence[int] | None = None,
    num_flows: int = 2,
    flow_hidden_dims: Sequence[int] = (1024,),
    flow_activation: str = "relu",
) -> VAE:
    """Apostolopoulou et al. 2020: L layers, each with a flow for its block of x.

    A layer's bijector has two steps, so that couplings move both halves of z, or is one
    affine map.

    Options:
        num_layers: number L of layers.
        latent_dim: size of each layer's z.
        bijector: bijector of each layer: `affine`, `iaf` or `spline_coupling`.
        prior: prior of each layer: `amortised`, given the layer above, or `standard`.
        block_sizes: sizes of the blocks of x, about equal by default.
        num_flows: flow steps of each data layer.
        flow_hidden_dims: hidden widths of the network of a flow step.
        flow_activation: nonlinearity of that network.
    """
    _check_real("self_reflective_maf", likelihood)
    if num_flows < 0:
        raise UserError(f"num_flows must not be negative, got {num_flows}")
    layers = Layers(
        tuple(event_shape), latent_dim, tuple(hidden_dims), network, activation
    )
    partition = Partition(event_shape, num_layers, block_sizes)
    depth = range(num_layers)
    make = partial(
        _data_layer,
        layers,
        num_flows=num_flows,
        flow_hidden_dims=flow_hidden_dims,
        flow_activation=flow_activation,
    )
    sizes = partition.sizes
    steps = 1 if bijector == "affine" else 2
    model = SelfReflectiveModel(
        [layers.prior(l, prior) for l in depth],
        Shared([layers.bijector(l, bijector, steps, (64,)) for l in depth]),
        [make(d, above) for d, above in zip(sizes, [None, *sizes], strict=False)],
        partition,
    )
    posteriors = [layers.posterior(l) for l in depth]
    return VAE(model, SelfReflectiveGuide(posteriors, model.bijectors), event_shape)


def _data_layer(
    layers: Layers,
    size: int,
    above: int | None,
    *,
    num_flows: int,
    flow_hidden_dims: Sequence[int],
    flow_activation: str,
) -> FlowDataLayer:
    context_dim = layers.hidden_dims[-1]
    inputs = [layers.latent_dim] if above is None else [above, layers.latent_dim]
    orders = [alternating_order(size, k) for k in range(num_flows)]
    steps = [
        zt.conditional_masked_autoregressive(
            size, context_dim, flow_hidden_dims, order, flow_activation
        )
        for order in orders
    ]
    base = nn.Linear(context_dim, 3 * size)
    with torch.no_grad():  # near the standard Gaussian, u away from 0
        base.weight.mul_(0.1)
        base.bias.mul_(0.1)
    return FlowDataLayer(layers.net(inputs, context_dim), base, steps)


def _check_real(name: str, likelihood: str) -> None:
    if likelihood != "gaussian":
        likelihood = getattr(
            getattr(likelihood, "func", likelihood), "name", likelihood
        )
        raise UserError(
            f"{name} is a density model of real numbers: expected likelihood 'gaussian', "
            f"got {likelihood!r}; use --data cifar10 or an .npz of floats"
        )
