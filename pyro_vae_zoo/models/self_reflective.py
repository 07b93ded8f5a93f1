r"""Self-reflective hierarchies: inference that runs through the generator's bijectors.

Ifigeneia Apostolopoulou, Elan Rosenfeld, Artur Dubrawski: *Self-Reflective
Variational Autoencoder*, 2020.

Generative process: x is cut into blocks \(x_1, \dots, x_L\), one for each layer. Layer l
draws a base variable \(\varepsilon_l\), maps it to \(z_l\) by a bijector \(f_l\) and emits
the block \(x_l\):

\[\varepsilon_l \sim N(\mu_l(z_{l-1}), \mathrm{diag}\,\sigma_l(z_{l-1})^2), \quad
  z_l = f_l(\varepsilon_l; \beta_l(z_{l-1})), \quad
  x_l \sim p(\cdot|\gamma_l(z_l) + \delta_l(x_{l-1}, z_l)).\]

\(\mu_l, \sigma_l, \beta_l, \gamma_l, \delta_l\) are networks. The default bijector is the
paper's affine map, with \(\beta_l = (c_l, d_l, u_l)\) and \(d_l > 0\):

\[f_l(\varepsilon) = c_l + (\mathrm{diag}\,d_l + u_l u_l^\top)\, \varepsilon.\]

Layer 1 has no \(z_0\) and no \(x_0\): \(\mu_1, \sigma_1, \beta_1\) are learned constants,
the same for all data, and \(\delta_1 = 0\).

Inference: \(\varepsilon_l \sim N(\hat\mu_l, \mathrm{diag}\,\hat\sigma_l^2)\), whose loc and
scale are networks of \((z_{l-1}, x)\), in layer 1 of x alone; then \(z_l\) by the model's
\(f_l\). Model and guide share the bijectors and nothing else. That has three effects:

- *The posterior's factorisation.* The \(z_l\) are a Markov chain, so \(p(\varepsilon|x) =
  p(\varepsilon_1|x) \prod_{l>1} p(\varepsilon_l|z_{l-1}, x)\), and q factorises likewise.
  A product of \(q(\varepsilon_l|x)\) does not (`bottom_up`), nor would one of
  \(q(\varepsilon_l|\varepsilon_{l-1}, x)\): \(z_{l-1}\) depends on every \(\varepsilon\)
  up to layer l - 1. Any top-down \(q(z_l|z_{l-1}, x)\) factorises so, too, whatever the
  distribution of a layer; what the paper criticises in earlier ones is that each of their
  layers is a diagonal Gaussian.
- *Correlated latents.* An affine \(f_l\) makes \(z_l\) given \(z_{l-1}\) a Gaussian whose
  covariance is not diagonal, in the model and in the guide; other bijectors make it no
  Gaussian. The networks still emit a loc and a scale for each latent.
- *A KL in closed form.* The log-determinants of \(f_l\) cancel in \(\log p - \log q\), so
  both sides score \(\varepsilon\), and a layer's KL is that of two diagonal Gaussians.

The family is not exact: \(f_l\) does not see x, and \(q(\varepsilon_l|z_{l-1}, x)\) is
diagonal even where the posterior of \(\varepsilon_l\) is correlated.

| symbol          | code name           | shape                 | in the paper     |
|-----------------|---------------------|-----------------------|------------------|
| epsilon_l       | `"eps_1"`, ...      | `(batch, latent_dim)` | base variable    |
| z_l             | `"z_1"`, ...        | `(batch, latent_dim)` | bijective layer  |
| x_l             | `"x_1"`, ...        | `(batch, D_l)`        | data layer       |
| mu_l, sigma_l   | `priors[l - 1]`     | `latent_dim` each     | prior layer      |
| f_l             | `bijectors()[l - 1]` | `latent_dim -> latent_dim` | bijective layer |
| gamma_l, delta_l | `data_layers[l - 1]` | `D_l * likelihood.num_params` | data layer |
| mu-hat, sigma-hat | `posteriors[l - 1]` | `latent_dim` each   | posterior layer  |

`iaf` and `spline_coupling` treat the latents by their place in an order. It is reversed
from step to step, and layer l starts with the order that layer l - 1 did not end with.

Differences from the paper. It leaves these open: blocks have equal sizes, the last one
takes the rest; the posterior is an estimate from \(z_{l-1}\) plus a correction from x,
added before the softplus; networks have two ELU layers of 200 units. These are ours:
networks read z as asinh(z) (`LatentBlock` in `nn/networks.py`) and their last layers start
at a tenth of the usual size: with neither, ten layers may overflow; \(d_l\) is a softplus +
0.001, since at the paper's limit of 0 \(f_l\) is no bijection; `iaf` is the gated step
g z + (1 - g) m, which contracts. Its networks get features of \(z_{l-1}\), in layer 1 a
learned vector. In `self_reflective_iaf` a linear map takes these to g and m as well, past
the hidden layers (`context_skip`), g is one half at first, and the prior is amortised; the
paper's is N(0, I). Weights of version 0.1.0 keep what they had, and their single order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models.flow_guides import FLOWS, Reverse
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.standard import StandardPrior, check_least_scale, positive
from pyro_vae_zoo.nn.bijectors import AffineBijector, FlowBijector, skipping_iaf
from pyro_vae_zoo.nn.networks import Block, LatentBlock, check_network, make_encoder
from pyro_vae_zoo.nn.partition import Partition, block_likelihoods
from pyro_vae_zoo.pair.vae import CLIP_NORM, VAE, Shared

__all__ = [
    "DataLayer",
    "PosteriorLayer",
    "SelfReflectiveGuide",
    "SelfReflectiveModel",
]

BIJECTORS = ("affine", "iaf", "spline_coupling")
PRIORS = ("amortised", "standard")
_FLOW_HIDDEN_DIMS = (64,)


class Constant(nn.Module):
    """A learned vector: layer 1 has it in place of a network of z_0."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.value = nn.Parameter(0.1 * torch.randn(out_features))

    def forward(self, z: None) -> Tensor:
        """The vector, of shape `(out_features,)`."""
        return self.value


class PriorLayer(nn.Module):
    """p(eps_l | z_{l-1}), a diagonal Gaussian.

    Args:
        net: maps z to loc and raw scale.
        least_scale: a number that every scale is above.
    """

    def __init__(self, net: nn.Module, least_scale: float = 0.0) -> None:
        super().__init__()
        self.net = net
        self.least_scale = least_scale

    def forward(self, z: Tensor | None) -> dist.Distribution:
        """The prior of batch shape `z.shape[:-1]`, or of none in layer 1."""
        return _gaussian(self.net(z), self.least_scale)


class DataLayer(nn.Module):
    """p(x_l | z_l, x_{l-1}): parameters gamma(z_l) + delta(x_{l-1}, z_l).

    Args:
        gamma: network of z_l.
        delta: network of x_{l-1} and z_l; None in layer 1.
        likelihood: maps parameters to a distribution.
    """

    def __init__(
        self, gamma: nn.Module, delta: nn.Module | None, likelihood: nn.Module
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.delta = delta
        self.likelihood = likelihood

    def forward(self, z: Tensor, x_above: Tensor | None) -> dist.Distribution:
        """The distribution of block l."""
        params = self.gamma(z)
        if self.delta is not None:
            params = params + self.delta(x_above, z)
        return self.likelihood(params)


class PosteriorLayer(nn.Module):
    """q(eps_l | z_{l-1}, x): an estimate from z_{l-1}, corrected by the evidence.

    Args:
        encoder: network of the whole x, this layer's own.
        correction: network of the encoding, and of z_{l-1} where there is one.
        estimate: network of z_{l-1}; None where z_{l-1} is not used.
        least_scale: a number that every scale is above.
    """

    def __init__(
        self,
        encoder: nn.Module,
        correction: nn.Module,
        estimate: nn.Module | None,
        least_scale: float = 0.0,
    ) -> None:
        super().__init__()
        self.least_scale = least_scale
        self.encoder = encoder
        self.correction = correction
        self.estimate = estimate

    def forward(self, x: Tensor, z: Tensor | None) -> dist.Distribution:
        """The posterior of eps_l."""
        h = self.encoder(x)
        if self.estimate is None:
            return _gaussian(self.correction(h), self.least_scale)
        return _gaussian(self.estimate(z) + self.correction(h, z), self.least_scale)


class SelfReflectiveModel(PyroModule):
    """p(x, eps): layer l sees z_{l-1} and x_{l-1} alone.

    Args:
        priors: `z -> p(eps_l | z)`; z is None in layer 1.
        bijectors: `Shared` modules `z -> f_l`.
        data_layers: `(z_l, x_{l-1}) -> p(x_l | z_l, x_{l-1})`; x_0 is None.
        partition: cuts x into the blocks.
    """

    def __init__(
        self,
        priors: Sequence[nn.Module],
        bijectors: Shared,
        data_layers: Sequence[nn.Module],
        partition: Partition,
    ) -> None:
        super().__init__()
        self.priors = nn.ModuleList(priors)
        self.bijectors = bijectors
        self.data_layers = nn.ModuleList(data_layers)
        self.partition = partition

    def forward(self, x: Tensor) -> Tensor:
        """Draw eps, observe the blocks; a block that is not observed is drawn."""
        layers = zip(self.priors, self.bijectors(), self.data_layers, strict=True)
        blocks = self.partition.split(x)
        z, x_l, drawn = None, None, []
        with pyro.plate("data", len(x), dim=-1):
            for l, (prior, bijector, data_layer) in enumerate(layers, start=1):
                eps = pyro.sample(f"eps_{l}", prior(z))  # p(eps_l | z_{l-1})
                z = pyro.deterministic(f"z_{l}", bijector(z)(eps), event_dim=1)
                p_x = data_layer(z, x_l)  # p(x_l | z_l, x_{l-1})
                x_l = pyro.sample(f"x_{l}", p_x, obs=blocks[l - 1])
                drawn.append(x_l)
        return self.join(drawn)

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Data of shape `(..., *event_shape)` from their blocks."""
        return self.partition.join(blocks)


class SelfReflectiveGuide(PyroModule):
    """q(eps | x): a layer sees x and z_{l-1}, made by the model's bijectors."""

    def __init__(self, posteriors: Sequence[nn.Module], bijectors: Shared) -> None:
        super().__init__()
        self.posteriors = nn.ModuleList(posteriors)
        self.bijectors = bijectors

    def forward(self, x: Tensor) -> None:
        """Draw eps given x."""
        layers = zip(self.posteriors, [None, *self.bijectors()], strict=False)
        eps, z = None, None
        with pyro.plate("data", len(x), dim=-1):
            for l, (posterior, bijector_above) in enumerate(layers, start=1):
                if bijector_above is not None:
                    z = bijector_above(z)(eps)  # the model's own f_{l-1}
                eps = pyro.sample(f"eps_{l}", posterior(x, z))  # q(eps_l | z_{l-1}, x)


@dataclass(frozen=True)
class Layers:
    """Makes the parts of layer l, counted from 0; layer 0 has no z above it."""

    event_shape: tuple[int, ...]
    latent_dim: int
    hidden_dims: tuple[int, ...]
    network: str
    activation: str
    least_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.latent_dim < 1:
            raise UserError(f"latent_dim must be at least 1, got {self.latent_dim}")
        check_least_scale(self.least_scale)
        check_network(self.network, self.hidden_dims, self.activation)

    def net(
        self,
        in_dims: Sequence[int],
        out_features: int,
        kind: type[Block] = LatentBlock,
    ) -> Block:
        """A network of vectors, the last one a z."""
        return kind(
            in_dims, out_features, self.hidden_dims, self.network, self.activation
        )

    def of_z(self, l: int, out_features: int) -> nn.Module:
        """A network of z_{l-1}, or a learned vector in layer 0."""
        if l == 0:
            return Constant(out_features)
        return self.net([self.latent_dim], out_features)

    def prior(self, l: int, kind: str) -> nn.Module:
        """The prior layer, one of `PRIORS`."""
        if kind not in PRIORS:
            if not isinstance(kind, str):
                kind = type(kind).__name__  # a module, as one latent vector takes it
            raise unknown_name("prior", kind, PRIORS)
        if kind == "standard":
            return StandardPrior(self.latent_dim)
        return PriorLayer(self.of_z(l, 2 * self.latent_dim), self.least_scale)

    def bijector(
        self, l: int, kind: str, num_flows: int, dims: Sequence[int], skip: bool = False
    ) -> nn.Module:
        """The bijective layer, one of `BIJECTORS`."""
        if kind not in BIJECTORS:
            raise unknown_name("bijector", kind, BIJECTORS)
        if num_flows < 0:
            raise UserError(f"num_flows must not be negative, got {num_flows}")
        if kind == "affine":
            if num_flows != 1 or tuple(dims) != _FLOW_HIDDEN_DIMS:
                raise UserError(
                    "bijector 'affine' is one map without networks of its own, got "
                    f"num_flows {num_flows} and flow_hidden_dims "
                    f"{tuple(dims)}; choose 'iaf' or 'spline_coupling'"
                )
            return AffineBijector(self.of_z(l, 3 * self.latent_dim))
        make = skipping_iaf if skip and kind == "iaf" else FLOWS[kind]
        context_dim = self.hidden_dims[-1]
        sizes = self.latent_dim, context_dim, num_flows
        steps = make(*sizes, flow_hidden_dims=dims)
        # So that it begins with the order that layer l-1 did not end with.
        turn = Reverse(self.latent_dim) if l * num_flows % 2 else None
        return FlowBijector(self.of_z(l, context_dim), steps, turn)

    def posterior(self, l: int) -> PosteriorLayer:
        """The posterior layer; that of layer 0 serves where no z is used."""
        encoder, context_dim = make_encoder(
            self.network, self.event_shape, self.hidden_dims, self.activation
        )
        num_params = 2 * self.latent_dim
        if l == 0:
            correction, estimate = self.net([context_dim], num_params, Block), None
        else:
            correction = self.net([context_dim, self.latent_dim], num_params)
            estimate = self.of_z(l, num_params)
        return PosteriorLayer(encoder, correction, estimate, self.least_scale)

    def data_layers(self, sizes: Sequence[int], likelihood: Any) -> list[DataLayer]:
        """The data layers of blocks of those sizes."""
        layers = []
        each = block_likelihoods(likelihood, sizes)
        for p_x, size, above in zip(each, sizes, [None, *sizes], strict=False):
            num_params = p_x.num_params * size
            gamma = self.net([self.latent_dim], num_params)
            delta = None
            if above is not None:
                delta = self.net([above, self.latent_dim], num_params)
            layers.append(DataLayer(gamma, delta, p_x))
        return layers


def hierarchy(
    make_guide: Callable[[Layers, SelfReflectiveModel], nn.Module],
    *,
    event_shape: Sequence[int],
    likelihood: Any = "bernoulli",
    num_layers: int = 10,
    latent_dim: int = 10,
    hidden_dims: Sequence[int] = (200, 200),
    network: str = "mlp",
    activation: str = "elu",
    bijector: str = "affine",
    prior: str = "amortised",
    block_sizes: Sequence[int] | None = None,
    num_flows: int = 1,
    flow_hidden_dims: Sequence[int] = _FLOW_HIDDEN_DIMS,
    context_skip: bool = False,
    least_scale: float = 0.0,
) -> VAE:
    """The generative model of L layers with `make_guide(layers, model)` as guide.

    Options:
        num_layers: number L of layers.
        latent_dim: size of each layer's z.
        bijector: bijector of each layer: `affine`, `iaf` or `spline_coupling`.
        prior: prior of each layer: `amortised`, given the layer above, or `standard`.
        block_sizes: sizes of the blocks of x, about equal by default.
        num_flows: flow steps of each bijector, but for `affine`.
        flow_hidden_dims: hidden widths of the network of a flow step.
        context_skip: a step of `iaf` sees z_{l-1} by a linear map, too.
        least_scale: a number that the scales of priors and posteriors are above.
    """
    partition = Partition(event_shape, num_layers, block_sizes)
    sizes = tuple(event_shape), latent_dim, tuple(hidden_dims)
    layers = Layers(*sizes, network, activation, least_scale)
    depth = range(num_layers)
    of_bijector = bijector, num_flows, flow_hidden_dims, context_skip
    model = SelfReflectiveModel(
        [layers.prior(l, prior) for l in depth],
        Shared([layers.bijector(l, *of_bijector) for l in depth]),
        layers.data_layers(partition.sizes, likelihood),
        partition,
    )
    return VAE(model, make_guide(layers, model), event_shape, clip_norm=CLIP_NORM)


def self_reflective(layers: Layers, model: SelfReflectiveModel) -> SelfReflectiveGuide:
    """Apostolopoulou et al. 2020: a posterior through the model's own bijectors."""
    posteriors = [layers.posterior(l) for l in range(len(model.priors))]
    return SelfReflectiveGuide(posteriors, model.bijectors)


register("self_reflective")(partial(hierarchy, self_reflective))
register("self_reflective_iaf")(
    partial(hierarchy, self_reflective, bijector="iaf", context_skip=True)
)


def _gaussian(raw: Tensor, least_scale: float) -> dist.Distribution:
    loc, raw_scale = raw.chunk(2, dim=-1)
    return dist.Normal(loc, positive(raw_scale) + least_scale).to_event(1)
