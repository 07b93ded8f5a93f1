"""A prior of your own: a module whose `forward()` is p(z).

    python examples/train.py --prior examples/my_prior.py:MyPrior --option df=4.0
    python examples/compare.py --guides mean_field,iaf --prior examples/my_prior.py:MyPrior

It is called with `latent_dim` and with its options. Run this file to check it.
"""

import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae_zoo as zoo


class MyPrior(nn.Module):
    """Independent Student-t laws, whose scales are learned: sparser than a Gaussian."""

    def __init__(self, latent_dim, df: float = 5.0):
        super().__init__()
        self.df = df
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self):
        """p(z): event shape `(latent_dim,)`, no batch; the model repeats it."""
        return dist.StudentT(self.df, 0.0, self.log_scale.exp()).to_event(1)


if __name__ == "__main__":
    data = zoo.load_dataset("digits")
    vae = zoo.create("iaf", data, prior=MyPrior, latent_dim=8, hidden_dims=(64,))
    zoo.testing.check_vae(vae, data.train[:50])
    print("the pair keeps the contract")
