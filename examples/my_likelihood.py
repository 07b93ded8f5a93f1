"""A likelihood of your own: from the decoder's output to p(x|z).

    python examples/train.py --data digits_binary \
        --likelihood examples/my_likelihood.py:MyLikelihood
    python examples/compare.py --guides mean_field,iaf --data digits_binary \
        --likelihood examples/my_likelihood.py:MyLikelihood

It is called with `event_shape` and with its options. Run this file to check it.
"""

import pyro.distributions as dist
from torch import nn

import pyro_vae_zoo as zoo


class MyLikelihood(nn.Module):
    """Bits that a noisy channel flips, each with probability `flip`."""

    num_params = 1  # numbers that the decoder gives for each element of a datum

    def __init__(self, event_shape, flip: float = 0.02):
        super().__init__()
        self.event_shape, self.flip = event_shape, flip

    def forward(self, params):
        """p(x|z), for parameters `(..., num_params * numel)`."""
        p = params.unflatten(-1, self.event_shape).sigmoid()
        p = self.flip + (1 - 2 * self.flip) * p
        return dist.Bernoulli(p).to_event(len(self.event_shape))


if __name__ == "__main__":
    data = zoo.load_dataset("digits_binary")
    vae = zoo.create("iaf", data, likelihood=MyLikelihood, latent_dim=8)
    zoo.testing.check_vae(vae, data.train[:50])
    print("the pair keeps the contract")
