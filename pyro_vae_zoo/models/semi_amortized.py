r"""Semi-amortised inference: an encoder, then gradient steps for each datum.

Yoon Kim, Sam Wiseman, Andrew C. Miller, David Sontag, Alexander M. Rush:
*Semi-Amortized Variational Autoencoders*, 2018, https://arxiv.org/abs/1802.02550

Generative process: that of `standard`. Inference: the encoder gives the parameters
\(\lambda_0 = (\mu, \log \sigma^2)\) of a diagonal Gaussian. K gradient steps on the datum's
own ELBO L refine them,

\[\lambda_{k+1} = \lambda_k + \rho\, \mathrm{clip}\big(\nabla_\lambda
  L(\lambda_k; x)\big), \qquad q(z|x) = N(\mu_K, \mathrm{diag}\,\sigma_K^2).\]

Training differentiates the ELBO at \(\lambda_K\) through the steps: the encoder learns
where to start, and the decoder adapts to this inference.

| symbol   | code name             | shape                 | in the paper   |
|----------|-----------------------|-----------------------|----------------|
| lambda   | `loc`, `log_variance` | `(batch, latent_dim)` | algorithm 1    |
| K        | `num_steps`           |                       | algorithm 1    |
| rho      | `step_size`           |                       | alpha there    |
| clip     | `max_norm`            | a datum's gradient    | section 4      |

Differences from the paper: no momentum; the norm is clipped for each datum, not for the
batch, since a datum's posterior must not depend on the others; the KL to N(0, I) is in
closed form; a draw and its reflection in the mean estimate the rest, or a single draw with
`antithetic=False`. The pair's noise of first order cancels; that of one draw moves the mean
by more than the width of q where a datum says much of z. Each pass draws anew for its
steps, so q is random; given these draws it is a density that its z are drawn from and
scored under, and importance weights stay unbiased. All particles of a pass share these
draws: log p(x) and its error are right, but the ELBO of one datum has a larger error than
its particles say, and latents that the shared draws move are counted as active.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.standard import (
    DiagonalGaussian,
    Parts,
    StandardModel,
    StandardPrior,
    standard_model,
)
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.pair.vae import VAE

__all__ = ["SemiAmortizedGuide"]


class SemiAmortizedGuide(PyroModule):
    """q(z|x): a diagonal Gaussian, refined by gradient steps.

    Args:
        encoder: x to features.
        posterior: features to the Gaussian where the steps start.
        generator: the model, whose decoder the steps go through.
        num_steps: K.
        step_size: rho.
        max_norm: largest norm of a datum's gradient.
        antithetic: two draws for each step, each the other's reflection.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        generator: StandardModel,
        num_steps: int,
        step_size: float,
        max_norm: float,
        antithetic: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior = posterior
        self.generator = generator
        self.num_steps = num_steps
        self.step_size = step_size
        self.max_norm = max_norm
        self.antithetic = antithetic

    def forward(self, x: Tensor) -> Tensor:
        """Draw z given x."""
        q = self.refine(x, self.posterior(self.encoder(x)))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", q)

    def refine(self, x: Tensor, q: dist.Independent) -> dist.Independent:
        """The Gaussian after K steps; a gradient goes back through them if one is asked."""
        if self.num_steps == 0:
            return q
        through = torch.is_grad_enabled()
        parameters = [q.base_dist.loc, 2 * q.base_dist.scale.log()]
        decoder, likelihood = self.generator.decoder, self.generator.likelihood
        # The steps need gradients in evaluation too, where there are none around.
        with torch.inference_mode(False), torch.enable_grad():
            x, *parameters = (
                t.clone() if t.is_inference() else t for t in (x, *parameters)
            )
            for _ in range(self.num_steps):
                if not (through and parameters[0].requires_grad):
                    parameters = [p.detach().requires_grad_() for p in parameters]
                loc, log_variance = parameters
                scale = (0.5 * log_variance).exp()
                noise = torch.randn_like(loc)
                pair = torch.stack([noise, -noise]) if self.antithetic else noise[None]
                z = loc + scale * pair
                bounds = likelihood(decoder(z)).log_prob(x) - self.kl(z, *parameters)
                bound = bounds.mean(0)
                slopes = torch.autograd.grad(
                    bound.sum(), parameters, create_graph=through
                )
                clipped = clip(slopes, self.max_norm)
                parameters = [
                    p + self.step_size * slope
                    for p, slope in zip(parameters, clipped, strict=True)
                ]
        if not through:
            parameters = [p.detach() for p in parameters]
        loc, log_variance = parameters
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)

    def kl(self, z: Tensor, loc: Tensor, log_variance: Tensor) -> Tensor:
        """KL(q || p(z)) in closed form for N(0, I), from the draw z for other priors."""
        if isinstance(self.generator.prior, StandardPrior):
            variance = (0.5 * log_variance).exp().square()
            return 0.5 * (loc.square() + variance - 1 - log_variance).sum(-1)
        entropy = 0.5 * (log_variance + math.log(2 * math.pi * math.e)).sum(-1)
        return -entropy - self.generator.prior().log_prob(z)


def clip(slopes: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """Shorten the gradients `(batch, n)` of a datum to a joint norm of `max_norm`.

    >>> [s.tolist() for s in clip([torch.tensor([[3.0]]), torch.tensor([[4.0]])], 2.5)]
    [[[1.5]], [[2.0]]]
    """
    first, *rest = (slope.square().sum(-1, keepdim=True) for slope in slopes)
    # The root only where it is used: at zero it has no derivative.
    relative = sum(rest, first) / max_norm / max_norm
    factor = relative.clamp(min=1).rsqrt()
    return [factor * slope for slope in slopes]


@register("semi_amortized")
def semi_amortized(
    *,
    event_shape: Sequence[int],
    likelihood: Any = "bernoulli",
    parts: Parts | None = None,
    latent_dim: int = 40,
    hidden_dims: Sequence[int] = (300, 300),
    network: str = PairOptions.network,
    activation: str = "relu",
    num_steps: int = 4,
    step_size: float = 0.1,
    max_norm: float = 5.0,
    antithetic: bool = True,
) -> VAE:
    """Kim et al. 2018: `mean_field`, refined by gradient steps for each datum.

    Options:
        num_steps: number of gradient steps; with 0 it is `mean_field` exactly.
        step_size: size of a gradient step.
        max_norm: largest norm of a datum's gradient, which is clipped to it; inf: none.
        antithetic: a step takes two draws, each the other's reflection in the mean.
    """
    if num_steps < 0:
        raise UserError(f"num_steps must not be negative, got {num_steps}")
    for name, value in (("step_size", step_size), ("max_norm", max_norm)):
        if not value > 0:
            raise UserError(f"{name} must be positive, got {value}")
    if step_size == math.inf:
        raise UserError("step_size must be finite, got inf")
    parts = parts or Parts()
    model = standard_model(
        event_shape, likelihood, latent_dim, hidden_dims, network, activation, parts
    )
    how = network, event_shape, hidden_dims, activation
    encoder, context_dim = parts.make_encoder(*how)
    posterior = DiagonalGaussian(context_dim, latent_dim)
    guide = SemiAmortizedGuide(
        encoder, posterior, model, num_steps, step_size, max_norm, antithetic
    )
    return VAE(model, guide, event_shape)
