"""No guide works once per latent dimension: what it does is counted.

Counted are the calls of modules and the tensor operations, the latter since a loop
over dimensions need not call a module. Both must not grow with the latent size.
"""

from contextlib import contextmanager

import pytest
import torch
from pairs import FAMILIES, quick, small
from pyro.infer import Trace_ELBO
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_vae_zoo as zoo


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counting():
    """Yields a dictionary that holds, on leaving, calls and operations."""
    counts = {"calls": 0}

    def hook(module, args):
        counts["calls"] += 1

    handle = register_module_forward_pre_hook(hook)
    try:
        with Operations() as operations:
            yield counts
    finally:
        handle.remove()
    counts["operations"] = operations.count


def work(name, latent_dim, job):
    vae = small(name, latent_dim=latent_dim, hidden_dims=(12,))
    x = torch.rand(4, 2, 3).bernoulli()
    job(vae, x)  # what is done once and for all is not counted
    with counting() as counts:
        job(vae, x)
    return counts


def train(vae, x):
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()


def evaluate(vae, x):
    zoo.log_likelihood(vae, x, num_particles=10, chunk_rows=40)  # one chunk


@pytest.mark.parametrize("job", [train, evaluate])
@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FAMILIES))
def test_work_does_not_grow_with_the_latent_size(name, job):
    few, many = (work(name, latent_dim, job) for latent_dim in (3, 12))
    assert few["calls"] == many["calls"] > 0
    assert few["operations"] == many["operations"] > 0


@pytest.mark.parametrize("job", [train, evaluate])
@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FAMILIES))
def test_each_network_is_called_once(name, job):
    """Scoring takes what sampling has computed: no module of the guide runs twice.

    Modules that model and guide share run once for each.
    """
    vae = small(name, latent_dim=3)
    x = torch.rand(4, 2, 3).bernoulli()
    calls = {}
    for path, module in vae.guide.named_modules():
        if path:
            module.register_forward_pre_hook(
                lambda module, args, path=path: calls.update(
                    {path: calls.get(path, 0) + 1}
                )
            )
    job(vae, x)
    assert calls
    shared = {id(m) for m in vae.model.modules()}
    if name == "semi_amortized":  # the decoder once for each of its steps besides
        steps = vae.guide.num_steps
        assert calls.pop("generator.decoder.0") == steps + 1
        calls = {p: n for p, n in calls.items() if not p.startswith("generator")}
    for path, count in calls.items():
        twice = id(vae.guide.get_submodule(path)) in shared
        assert count in ((1, 2) if twice else (1,)), path
