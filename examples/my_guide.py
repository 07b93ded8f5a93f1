"""A guide of your own beside the zoo's, in 40 lines.

    python examples/train.py --guide examples/my_guide.py:MyGuide
    python examples/compare.py --guides iaf,examples/my_guide.py:MyGuide

Any `nn.Module` whose `forward(x)` draws the model's latent site "z" inside
`pyro.plate("data", len(x))` is a guide: no base class, no registration. Run this
file to check that it keeps the contract.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae_zoo as zoo


class MyGuide(nn.Module):
    """q(z|x): independent Student-t laws, with heavier tails than a Gaussian.

    `--option df=5` on the command line sets the degrees of freedom.
    """

    def __init__(self, event_shape, latent_dim, hidden_dims, df: float = 10.0):
        super().__init__()
        self.df = df
        sizes = (torch.Size(event_shape).numel(), *hidden_dims)
        layers = [nn.Flatten(-len(event_shape))]
        for n, m in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(n, m), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], 2 * latent_dim))

    def forward(self, x):
        """Draw z given x."""
        loc, raw_scale = self.net(x).chunk(2, dim=-1)
        scale = nn.functional.softplus(raw_scale + 0.54) + 1e-6
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.StudentT(self.df, loc, scale).to_event(1))


if __name__ == "__main__":
    data = zoo.load_dataset("digits")
    vae = zoo.create(MyGuide, data, latent_dim=8, hidden_dims=(64,))
    zoo.testing.check_vae(vae, data.train[:50])
    print("the guide keeps the contract")
