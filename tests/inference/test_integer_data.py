"""Bounds of whole numbers are those of the same numbers as floats."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiling import as_it_is
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.compiled import CompiledELBO


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            rate = (self.scale * z).exp().unsqueeze(-1).expand(*z.shape, x.shape[-1])
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.2))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.slope * x.float().mean(-1), 0.7))


def loss_of(objective, x):
    torch.manual_seed(0)
    with pyro.validation_enabled(False):
        return objective.loss(Counts(), Guide(), x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize(
    "options", [{"num_particles": 3}, {"num_particles": 3, "bound": "iwae"}, {}]
)
def test_each_particle_has_its_share(options, dtype):
    x = torch.arange(8).reshape(4, 2)
    objective = zoo.AnnealedELBO(**options)
    assert loss_of(objective, x.to(dtype)) == pytest.approx(
        loss_of(objective, x.float())
    )


def test_a_weight_of_the_kl_is_no_whole_number():
    x = torch.arange(8).reshape(4, 2)
    objective = zoo.AnnealedELBO(kl_weight=0.5)
    compiled = CompiledELBO(objective, compiler=as_it_is)
    assert loss_of(compiled, x) == pytest.approx(loss_of(objective, x.float()))
