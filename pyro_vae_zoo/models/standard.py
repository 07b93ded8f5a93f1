r"""The standard VAE: one latent vector, a Gaussian posterior.

Diederik P. Kingma, Max Welling: *Auto-Encoding Variational Bayes*, 2014,
https://arxiv.org/abs/1312.6114

Generative process: \(z \sim N(0, I)\), \(x \sim p_\theta(x|z)\), a network of z; other
priors are in `priors`.
Inference: \(q_\phi(z|x) = N(z; \mu(h), \Sigma(h))\) with \(h\) an encoding of x;
`mean_field` takes \(\Sigma = \mathrm{diag}\,\sigma^2\), `full_rank`
\(\Sigma = L L^\top\) with \(L\) lower triangular.

| symbol    | code name        | shape                 | equation in the paper |
|-----------|------------------|-----------------------|-------------------|
| z         | `"z"`            | `(batch, latent_dim)` | 1                 |
| p(x given z) | `"x"`         | `(batch, *event_shape)` | 1, appendix C   |
| h         | `context`        | `(batch, context_dim)` | appendix C       |
| mu, sigma | `loc`, `scale`   | `(batch, latent_dim)` | 9                 |
| L         | `scale_tril`     | `(batch, latent_dim, latent_dim)` | -                 |

Differences from the paper: scales are a softplus, not an exponential, and never below
1e-6; networks have two hidden layers, gated by default, not one of tanh units; the weights
have no prior.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.nn.likelihoods import make_likelihood
from pyro_vae_zoo.nn.networks import make_decoder, make_encoder
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "AmortizedGuide",
    "DiagonalGaussian",
    "FullRankGaussian",
    "StandardModel",
    "StandardPrior",
]

_SOFTPLUS_OF_ONE = 0.5413248546129181  # log(e - 1): where softplus is one
_MIN_SCALE = 1e-6


def positive(raw: Tensor) -> Tensor:
    """Any number to a scale: one at zero, never less than 1e-6."""
    return F.softplus(raw + _SOFTPLUS_OF_ONE) + _MIN_SCALE


def check_least_scale(least_scale: float) -> None:
    """Raise `UserError` unless scales can be above that number."""
    if not 0 <= least_scale < math.inf:
        raise UserError(
            f"least_scale must be finite and not negative, got {least_scale}"
        )


class DiagonalGaussian(nn.Module):
    """Kingma & Welling 2014: a Gaussian with a diagonal covariance.

    N(loc, diag scale^2) of features `(..., context_dim)`.
    """

    def __init__(self, context_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_dim, 2 * latent_dim)

    def forward(self, context: Tensor) -> dist.Distribution:
        """The distribution, of batch shape `context.shape[:-1]`."""
        loc, raw_scale = self.linear(context).chunk(2, dim=-1)
        return dist.Normal(loc, positive(raw_scale)).to_event(1)


class FullRankGaussian(nn.Module):
    r"""A Gaussian with a full covariance: N(loc, L L^T), L lower triangular.

    Of features `(..., context_dim)`.

    \(L = (I + A / \sqrt D)\,\mathrm{diag}(s)\), \(A\) strictly lower triangular: a diagonal
    Gaussian, sheared. If a network emitted L itself, its errors, of one size for all
    entries, would swamp latents of small scale, and these would collapse.
    """

    def __init__(self, context_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.diagonal = nn.Linear(context_dim, 2 * latent_dim)
        self.lower = None
        if latent_dim > 1:  # else nothing lies below the diagonal
            self.lower = nn.Linear(context_dim, latent_dim * (latent_dim - 1) // 2)

    def forward(self, context: Tensor) -> dist.Distribution:
        """The distribution, of batch shape `context.shape[:-1]`."""
        loc, raw_scale = self.diagonal(context).chunk(2, dim=-1)
        scale = positive(raw_scale)
        scale_tril = torch.diag_embed(scale)
        if self.lower is not None:
            size, device = self.latent_dim, scale.device
            i, j = torch.tril_indices(size, size, -1, device=device)
            relative = self.lower(context) / size**0.5
            scale_tril[..., i, j] = relative * scale[..., j]
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class StandardPrior(nn.Module):
    """Kingma & Welling 2014: N(0, I), the prior without parameters.

    >>> StandardPrior(3)().log_prob(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """p(z), which depends on nothing."""
        return dist.Normal(self.loc, 1.0).to_event(1)


class StandardModel(PyroModule):
    """p(x, z): a latent vector and a decoder network.

    Args:
        decoder: maps `(..., latent_dim)` to the flat parameters of the likelihood.
        likelihood: maps those to a distribution; see `likelihoods`.
        latent_dim: size of z.
        prior: a module whose `forward()` is p(z), a distribution of event shape
            `(latent_dim,)` and of no batch; by default N(0, I). See `priors`.

    >>> bits = make_likelihood("bernoulli", (8, 8))
    >>> model = StandardModel(nn.Linear(2, 64), bits, latent_dim=2)
    >>> pyro.poutine.uncondition(model)(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 8, 8])
    """

    def __init__(
        self,
        decoder: nn.Module,
        likelihood: nn.Module,
        latent_dim: int,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.prior = StandardPrior(latent_dim) if prior is None else prior

    def forward(self, x: Tensor) -> Tensor:
        """Draw z, then observe x (or draw it where it is unconditioned)."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior())  # p(z)
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)  # p(x|z)


class AmortizedGuide(PyroModule):
    """q(z|x): an encoder, and a module from its features to a distribution."""

    def __init__(self, encoder: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior = posterior

    def distribution(self, x: Tensor) -> TorchDistributionMixin:
        """q(z|x), of batch shape `(len(x),)`."""
        return self.posterior(self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        """Draw z given x."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.distribution(x))  # q(z|x)


@dataclass(frozen=True)
class Parts:
    """What stands in the places of encoder and decoder, where it is not the zoo's.

    Attributes:
        encoder: makes an encoder and the number of its features; called for each there is.
        decoder: the decoder.
    """

    encoder: Callable[[], tuple[nn.Module, int]] | None = None
    decoder: nn.Module | None = None

    def make_encoder(self, *how: Any) -> tuple[nn.Module, int]:
        """The encoder that stands there, or one of the zoo's."""
        return make_encoder(*how) if self.encoder is None else self.encoder()


def standard_vae(
    make_posterior: Callable[[int, int], nn.Module],
    *,
    event_shape: Sequence[int],
    likelihood: Any = "bernoulli",
    parts: Parts | None = None,
    **options: Any,
) -> VAE:
    """The standard model with `make_posterior(context_dim, latent_dim)` as guide.

    The decoder is drawn first and the posterior last, so that under one seed all
    guides start from the same decoder and the same encoder.

    Args:
        make_posterior: what makes a distribution of an encoding of x.
        event_shape: shape of one datum.
        likelihood: p(x|z), by name or as `make_likelihood` takes it.
        parts: other networks.
        options: see `PairOptions`.
    """
    pair, parts = PairOptions(**options), parts or Parts()
    dims, network, activation = pair.hidden_dims, pair.network, pair.activation
    model = standard_model(
        event_shape, likelihood, pair.latent_dim, dims, network, activation, parts
    )
    encoder, context_dim = parts.make_encoder(network, event_shape, dims, activation)
    guide = AmortizedGuide(encoder, make_posterior(context_dim, pair.latent_dim))
    return VAE(model, guide, event_shape)


def standard_model(
    event_shape: Sequence[int],
    likelihood: Any,
    latent_dim: int,
    hidden_dims: Sequence[int],
    network: str,
    activation: str,
    parts: Parts | None = None,
) -> StandardModel:
    """A `StandardModel` with a decoder of that kind."""
    if latent_dim < 1:
        raise UserError(f"latent_dim must be at least 1, got {latent_dim}")
    p_x = make_likelihood(likelihood, event_shape)
    decoder = parts.decoder if parts else None
    if decoder is None:
        decoder = make_decoder(
            network, latent_dim, event_shape, p_x.num_params, hidden_dims, activation
        )
    return StandardModel(decoder, p_x, latent_dim)


register("mean_field", options_of=[PairOptions])(
    partial(standard_vae, DiagonalGaussian)
)
register("full_rank", options_of=[PairOptions])(partial(standard_vae, FullRankGaussian))
