"""A whole pair of your own, where the places do not do: a style z_1, sparse parts z_2.

python examples/train.py --data digits_binary --model examples/my_model.py:make_vae
"""

from pyro import distributions, plate, sample
from torch import Size, cat, nn

import pyro_vae_zoo as zoo


class Model(nn.Linear):
    """z_1 ~ N(0, I) and z_2 ~ Laplace(0, 1) make x together."""

    def forward(self, x):
        """Draw both latents, observe x."""
        zeros = x.new_zeros(len(x), self.in_features // 2)
        with plate("data", len(x)):
            z_1 = sample("z_1", distributions.Normal(zeros, 1.0).to_event(1))
            z_2 = sample("z_2", distributions.Laplace(zeros, 1.0).to_event(1))
            a = super().forward(cat([z_1, z_2], -1)).unflatten(-1, x.shape[1:])
            bits = distributions.Bernoulli(logits=a).to_event(x.dim() - 1)
            return sample("x", bits, obs=x)


class Guide(nn.Linear):
    """Two Gaussians, given x."""

    def forward(self, x):
        """Draw both latents."""
        loc, scale, loc_2, scale_2 = super().forward(x.flatten(1)).chunk(4, -1)
        with plate("data", len(x)):
            sample("z_1", distributions.Normal(loc, scale.exp()).to_event(1))
            sample("z_2", distributions.Normal(loc_2, scale_2.exp()).to_event(1))


def make_vae(event_shape, latent_dim: int = 8):
    """The pair, for `train` and `compare --model`; more arguments are options."""
    size, d = Size(event_shape).numel(), latent_dim
    return zoo.VAE(Model(2 * d, size), Guide(size, 4 * d), event_shape)
