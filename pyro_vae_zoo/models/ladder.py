r"""The ladder VAE: inference top-down, with the generator's own Gaussians.

Casper Kaae Sonderby, Tapani Raiko, Lars Maaloe, Soren Kaae Sonderby, Ole Winther:
*Ladder Variational Autoencoders*, 2016, https://arxiv.org/abs/1602.02282

Generative process, from the top layer L down:

\[z_L \sim N(0, I), \quad z_l \sim N(\mu_l(z_{>l}), \mathrm{diag}\,
  \sigma_l(z_{>l})^2), \quad x \sim p(\cdot|z_1, \ldots, z_L),\]

where each network reads all layers above it. In the paper it reads only the next:
\(z_{l+1}\), and x reads \(z_1\). Whatever x needs then passes through \(z_1\), and the
layers above are no more than a prior for it.

Inference: a deterministic pass upwards, \(d_1 = \mathrm{net}(x)\),
\(d_l = d_{l-1} + \mathrm{net}(d_{l-1})\), in the paper without the sum,
gives each layer a Gaussian \(N(\hat\mu_l(d_l), \mathrm{diag}\,\hat\sigma_l(d_l)^2)\) from
the data. A stochastic pass downwards combines it with the prior's, by their precisions:

\[q(z_l|z_{>l}, x) = N\Big(\frac{\hat\mu_l \hat\sigma_l^{-2} + \mu_l \sigma_l^{-2}}
  {\hat\sigma_l^{-2} + \sigma_l^{-2}}, \frac{1}{\hat\sigma_l^{-2} + \sigma_l^{-2}}
  \Big), \qquad q(z_L|x) = N(\hat\mu_L, \mathrm{diag}\,\hat\sigma_L^2).\]

| symbol          | code name           | shape                 | where         |
|-----------------|---------------------|-----------------------|---------------|
| z_l             | `"z_1"`, ...        | `(batch, latent_dims[l - 1])` | both sides |
| z_{>l}          | `read`              | of all layers above   | both sides    |
| mu_l, sigma_l   | `priors()[l - 1]`   | as z_l                | both sides    |
| d_l             | `upward[l - 1]`     | `(batch, hidden_dims[-1])` | upward pass |
| mu-hat, sigma-hat | `evidence[l - 1]` | as z_l                | upward pass   |
| q(z_l)          | `weigh`             | as z_l                | downward pass |

Differences from the paper: no batch normalisation, which would make the bound of a
datum depend on its batch. Without it the upper layers of the paper's model collapse to
the prior; skip connections upwards and downwards keep them in use, and `skip=False`
leaves them out. With them prior and evidence of the layers below the top have scales
above 0.01. Networks between layers read z, and on the way up d, through asinh
(`LatentBlock` in `nn/networks.py`), and their last layers start at a tenth of the usual
size; units are ELU; all layers have one size, 5 x 20 by default. The paper's get
narrower upwards, as by `latent_dims=(64, 32, 16, 8, 4)`; the ladder in the table of
Apostolopoulou et al. 2020 has 128 latents in its five layers together.
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.standard import positive
from pyro_vae_zoo.nn.likelihoods import make_likelihood
from pyro_vae_zoo.nn.networks import (
    LatentBlock,
    check_network,
    make_decoder,
    make_encoder,
)
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.vae import CLIP_NORM, VAE, Shared

__all__ = ["LadderGuide", "LadderModel", "weigh"]


class GaussianLayer(nn.Module):
    """A network to loc and scale of a diagonal Gaussian.

    Args:
        net: maps features to loc and raw scale, side by side.
        least: a number that every scale is above.
    """

    def __init__(self, net: nn.Module, least: float = 0.0) -> None:
        super().__init__()
        self.net = net
        self.least = least

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale, each `(..., latent_dim)`."""
        loc, raw_scale = self.net(h).chunk(2, dim=-1)
        return loc, positive(raw_scale) + self.least


class LadderModel(PyroModule):
    """p(x, z): Gaussians from the top down.

    Args:
        priors: `Shared` layers; the l-th maps the z above to loc and scale of z_l.
        decoder: maps all z, or z_1, to the flat parameters of the likelihood.
        likelihood: maps those to a distribution.
        latent_dim: size of the top one.
        skip: all z above a layer are read, not the next alone.
    """

    def __init__(
        self,
        priors: Shared,
        decoder: nn.Module,
        likelihood: nn.Module,
        latent_dim: int,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.priors = priors
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Draw z from the top down, then observe x (or draw it)."""
        priors, above = self.priors(), list[Tensor]()
        loc, scale = x.new_zeros(len(x), self.latent_dim), 1.0  # p(z_L)
        with pyro.plate("data", len(x), dim=-1):
            for l in range(len(priors), -1, -1):
                p = dist.Normal(loc, scale).to_event(1)
                above.append(pyro.sample(f"z_{l + 1}", p))
                z = read(above, self.skip)
                if l > 0:
                    loc, scale = priors[l - 1](z)  # p(z_l | z above)
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class LadderGuide(PyroModule):
    """q(z|x): upwards without noise, then downwards, weighed with the prior.

    Args:
        upward: the first network maps x to d_1, the l-th d_{l-1} to d_l.
        evidence: the l-th layer maps d_l to what the data say about z_l.
        priors: those of the model.
        skip: that of the model; d_l is added to, not replaced.
    """

    def __init__(
        self,
        upward: Sequence[nn.Module],
        evidence: Sequence[nn.Module],
        priors: Shared,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.upward = nn.ModuleList(upward)
        self.evidence = nn.ModuleList(evidence)
        self.priors = priors
        self.skip = skip

    def forward(self, x: Tensor) -> None:
        """Draw z given x."""
        priors, says, above, d = self.priors(), [], list[Tensor](), x
        for l, (net, layer) in enumerate(zip(self.upward, self.evidence, strict=True)):
            d = d + net(d) if self.skip and l > 0 else net(d)
            says.append(layer(d))
        loc, scale = says[-1]  # q(z_L | x)
        with pyro.plate("data", len(x), dim=-1):
            for l in range(len(priors), -1, -1):
                q = dist.Normal(loc, scale).to_event(1)
                above.append(pyro.sample(f"z_{l + 1}", q))
                if l > 0:
                    p = priors[l - 1](read(above, self.skip))
                    loc, scale = weigh(*says[l - 1], *p)


def read(above: Sequence[Tensor], skip: bool) -> Tensor:
    """The z of all layers so far, from the top down, side by side; or the last alone."""
    return torch.cat([*above], -1) if skip else above[-1]


def weigh(
    loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Loc and scale of the product of two Gaussians: a mean weighed by precisions.

    >>> one = torch.ones(1)
    >>> weigh(0 * one, one, 2 * one, one)
    (tensor([1.]), tensor([0.7071]))
    """
    # With neither precisions nor squared scales, which overflow in float32.
    both = torch.hypot(scale, prior_scale)
    share = (prior_scale / both).square()
    return prior_loc + share * (loc - prior_loc), scale / both * prior_scale


NUM_LAYERS, LATENT_DIM = 5, 20
# The scale of an unused latent below the top is free to vanish: q follows its prior. A
# step that moves their means apart then costs 10^13 nats.
LEAST_SCALE = 0.01


def _sizes(num_layers: int, latent_dim: int, sizes: Sequence[int]) -> list[int]:
    """The sizes of the layers, from the bottom up."""
    if num_layers < 1 or latent_dim < 1:
        raise UserError(
            "num_layers and latent_dim must be at least 1, got "
            f"{num_layers} and {latent_dim}"
        )
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise UserError(f"latent_dims: expected a size for each layer, got {sizes!r}")
    if not sizes:
        return [latent_dim] * num_layers
    if num_layers not in (NUM_LAYERS, len(sizes)) or latent_dim != LATENT_DIM:
        raise UserError(
            f"latent_dims={tuple(sizes)} says the number of layers and their sizes; "
            "leave out num_layers and latent_dim"
        )
    return [count("latent_dims", size) for size in sizes]


@register("ladder")
def ladder(
    *,
    event_shape: Sequence[int],
    likelihood: str = "bernoulli",
    num_layers: int = NUM_LAYERS,
    latent_dim: int = LATENT_DIM,
    latent_dims: Sequence[int] = (),
    skip: bool = True,
    hidden_dims: Sequence[int] = (512, 512),
    network: str = "mlp",
    activation: str = "elu",
) -> VAE:
    """Sonderby et al. 2016: bottom-up evidence, weighed top-down with the prior.

    With its defaults it has as many latents as `self_reflective` has with its own, and
    for images of 28 x 28 within a tenth as many parameters.

    Options:
        num_layers: number L of layers.
        latent_dim: size of each layer's z.
        latent_dims: sizes from the bottom up, in place of `num_layers` and `latent_dim`.
        skip: connections past a layer, up and down; the paper has none.
    """
    dims = _sizes(num_layers, latent_dim, latent_dims)
    read_dims = [sum(dims[l:]) if skip else dims[l] for l in range(len(dims))]
    check_network(network, hidden_dims, activation)
    kind = hidden_dims, network, activation
    width = hidden_dims[-1]
    p_x = make_likelihood(likelihood, event_shape)
    decoder = make_decoder(
        network, read_dims[0], event_shape, p_x.num_params, hidden_dims, activation
    )
    encoder, _ = make_encoder(network, event_shape, hidden_dims, activation)
    least = [LEAST_SCALE if skip else 0.0] * (len(dims) - 1) + [0.0]
    priors = Shared(
        GaussianLayer(LatentBlock([read_dims[l + 1]], 2 * n, *kind), least[l])
        for l, n in enumerate(dims[:-1])
    )
    upward = [encoder] + [LatentBlock([width], width, *kind) for _ in dims[1:]]
    evidence = [
        GaussianLayer(nn.Linear(width, 2 * n), least[l]) for l, n in enumerate(dims)
    ]
    model = LadderModel(priors, decoder, p_x, dims[-1], skip)
    guide = LadderGuide(upward, evidence, priors, skip)
    return VAE(model, guide, event_shape, clip_norm=CLIP_NORM)
