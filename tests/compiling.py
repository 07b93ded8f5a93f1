"""Pairs and data for tests of compiled steps."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, small
from torch import nn

import pyro_vae_zoo as zoo

EVERY = zoo.list_guides() + zoo.list_density_models()


SLOW = pytest.mark.slow


def as_it_is(graph, inputs):
    """No compiler: what was traced is run operation by operation."""
    return graph


def pair(name="iaf", dtype=torch.double, **options):
    torch.manual_seed(0)
    vae = small(name, **options).to(dtype)
    perturb(vae, 0.3)
    return vae


def data(name="iaf", n=6, dtype=torch.double):
    torch.manual_seed(1)
    x = torch.randn(n, 2, 3, dtype=dtype)
    return x if name in zoo.list_density_models() else (x > 0).to(dtype)


class Model(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        loc = self.linear(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            if z.mean() > 0:  # no graph holds a decision
                self.linear(z)


class Discrete(Guide):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            p = dist.Poisson(self.linear(x).exp()).to_event(1)
            pyro.sample("z", p)


class Counting(nn.Module):
    """A guide whose temperature falls with each run, by a number that it counts."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        with pyro.plate("data", len(x)):
            loc = self.linear(x) * 0.999**self.calls
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
