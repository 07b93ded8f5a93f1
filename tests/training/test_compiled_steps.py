"""Compiled steps: they train as others do, with all that a step has."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiling import EVERY, Model
from pairs import graphs_as_traced, interrupt_at, perturb, quick, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference import compiled
from pyro_vae_zoo.training import steps
from pyro_vae_zoo.training.checkpoint import load_checkpoint
from pyro_vae_zoo.training.fused_adam import FusedAdam
from pyro_vae_zoo.training.optimisers import make_optimizer

OPTIONS = [
    {"clip_norm": 0.5, "ema": 0.9, "kl_warmup": 3},
    {"optimizer": "adamax", "schedule": "cosine", "tempering_steps": 20},
    {"num_particles": 3, "bound": "iwae", "ema": 0.5},
]


@pytest.fixture
def data():
    torch.manual_seed(3)
    x = (torch.rand(65, 2, 3) < torch.rand(2, 3)).float()
    return zoo.Dataset(x[:45], x[45:55], x[55:])


@pytest.fixture
def as_traced(monkeypatch):
    return graphs_as_traced(monkeypatch, compiled)


def make(guide="iaf"):
    torch.manual_seed(0)
    vae = small(guide).double()
    perturb(vae, 0.1)
    return vae


def train(guide, data, compile, **options):
    """A hundred steps and more, in batches of which the last is smaller."""
    options = {"epochs": 35, "batch_size": 20, "keep": "last", **options}
    if guide in zoo.list_density_models():
        torch.manual_seed(1)
        x = torch.randn(65, 2, 3)
        data = zoo.Dataset(x[:45], x[45:55], x[55:], "gaussian")
    vae = make(guide)
    zoo.fit(vae, data, compile=compile, device="cpu", progress=False, **options)
    return dict(vae.named_parameters())


@pytest.mark.parametrize("guide", quick(EVERY, "iaf"))
def test_a_hundred_steps_with_all_that_a_step_has(guide, data, as_traced):
    """Clipping, Adam and the average, against the same without a graph."""
    ours = train(guide, data, True, **OPTIONS[0])
    assert as_traced
    theirs = train(guide, data, False, **OPTIONS[0])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", quick(OPTIONS, OPTIONS[1]))  # the first is above
def test_options(options, data, as_traced):
    ours, theirs = (train("mean_field", data, c, **options) for c in (True, False))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_the_compiled_graph(data):
    ours = train("iaf", data, True, **OPTIONS[0])
    theirs = train("iaf", data, False, **OPTIONS[0])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_they_resume_from_the_middle_of_an_epoch(
    data, tmp_path, monkeypatch, as_traced
):
    options = {"epochs": 3, "batch_size": 4, "ema": 0.9, "keep": "last"}
    options |= {"compile": True, "progress": False}
    whole, parts = make(), make()
    zoo.fit(whole, data, **options)
    interrupt_at(monkeypatch, 17)  # of the 22 of two epochs
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(make(), data, out=tmp_path, **options)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["step"] > 0
    zoo.fit(parts, data, out=tmp_path, resume=True, **options)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(p, q)


def test_their_state_is_that_of_an_optimiser(data, tmp_path, as_traced):
    """A checkpoint of compiled steps has what one of steps that are not has."""
    found = {}
    for compile in (True, False):
        folder = tmp_path / str(compile)
        options = {"epochs": 2, "batch_size": 20, "out": folder, "progress": False}
        zoo.fit(make("gated_dag"), data, compile=compile, **options)
        found[compile] = load_checkpoint(folder / "checkpoint.pt")["optimizer"]
    torch.testing.assert_close(*found.values(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("hooked", ["parameter", "optimiser"])
def test_what_is_hooked_is_called_at_each_step(hooked, data, as_traced, monkeypatch):
    vae, calls = make(), []
    make_it = make_optimizer

    def with_hook(*args):
        optimizer = make_it(*args)
        optimizer.register_step_post_hook(lambda *_: calls.append(1))
        return optimizer

    if hooked == "optimiser":
        monkeypatch.setattr(steps, "make_optimizer", with_hook)
    else:
        p = next(vae.parameters())
        p.register_post_accumulate_grad_hook(lambda *_: calls.append(1))
    options = {"epochs": 2, "batch_size": 20, "compile": True, "progress": False}
    assert zoo.fit(vae, data, **options).compiled == ["train"]
    assert len(calls) == 6


class Replaces(torch.optim.Optimizer):
    """Gives each weight a tensor of its own, in every so many steps."""

    def __init__(self, params, lr=1e-2, every=1):
        super().__init__(params, {"lr": lr, "count": 0, "every": every})

    @torch.no_grad()
    def step(self, closure=None):
        (group,) = self.param_groups
        group["count"] += 1
        for p in group["params"]:
            moved = p - group["lr"] * p.grad
            if group["count"] % group["every"]:
                p.copy_(moved)
            else:
                p.data = moved


@pytest.mark.parametrize("every", [1, 3])
def test_weights_that_an_optimiser_replaces_are_those_of_the_next_step(
    every, data, as_traced
):
    how = {"optimizer": partial(Replaces, every=every), "batch_size": 9, "epochs": 3}
    ours, theirs = (train("mean_field", data, c, **how) for c in (True, False))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert len(as_traced) == 1


class TwoShifts(nn.Module):
    """A guide whose two shifts have one gradient, which autograd computes once."""

    def __init__(self):
        super().__init__()
        self.one, self.other = (nn.Parameter(torch.zeros(2)) for _ in range(2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc = x + (self.one + self.other)
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def test_a_gradient_of_two_parameters_is_clipped_once(as_traced):
    torch.manual_seed(1)
    x = 3 + torch.randn(30, 2)
    data = zoo.Dataset(x[:20], x[20:25], x[25:], "gaussian")
    how = {"optimizer": "sgd", "lr": 0.1, "clip_norm": 0.5, "keep": "last"}
    ends = []
    for compile in (True, False):
        vae = zoo.VAE(Model(), TwoShifts(), (2,)).double()
        zoo.fit(vae, data, epochs=2, compile=compile, progress=False, **how)
        ends.append([p.detach() for p in vae.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)
    assert all(p.abs().min() > 0.1 for p in ends[0])


OPTIMISERS = {
    "fused": lambda p: torch.optim.Adam(p, fused=True),
    "plain": lambda p: torch.optim.Adam(p),
    "decay": lambda p: torch.optim.Adam(p, fused=True, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, fused=True, amsgrad=True),
    "maximize": lambda p: torch.optim.Adam(p, fused=True, maximize=True),
    "adamw": lambda p: torch.optim.AdamW(p, fused=True),
    "groups": lambda p: torch.optim.Adam([{"params": [q]} for q in p], fused=True),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_only_an_adam_that_is_as_it_comes_is_moved_by_its_kernel(name):
    p = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    assert FusedAdam.knows(OPTIMISERS[name](p)) == (name == "fused")


def test_the_kernel_moves_as_the_optimiser_does():
    """To the last bit, by turns with it and for parameters of several shapes."""
    torch.manual_seed(0)
    shapes = [(3, 5), (7,), (2, 2)]
    ours = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    first, second = OPTIMISERS["fused"](ours), OPTIMISERS["fused"](theirs)
    move = None
    for i in range(12):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in (first, second):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + i)
        second.step()
        if move is None or i % 4 == 0:
            first.step()
            move = move or FusedAdam(first, ours)
        else:
            move()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
    ours_state, theirs_state = (o.state_dict()["state"] for o in (first, second))
    torch.testing.assert_close(ours_state, theirs_state, rtol=0, atol=0)


def test_averages_of_weights_without_gradients_never_become_slow_to_compute():
    """Below the smallest normal number, where PyTorch's stay; the weights are the same."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    first, second = OPTIMISERS["fused"]([ours]), OPTIMISERS["fused"]([theirs])
    active = torch.arange(40) % 2
    smallest = torch.finfo(torch.float32).tiny

    def are_slow(optimizer, p):
        average = optimizer.state[p]["exp_avg"]
        return ((average != 0) & (average.abs() < smallest)).any()

    move, slow = None, False
    for i in range(1200):
        grad = torch.randn(40)
        ours.grad = grad if i < 5 else grad * active
        theirs.grad = ours.grad.clone()
        second.step()
        if move is None:
            first.step()
            move = FusedAdam(first, [ours])
        else:
            move()
        slow = slow or are_slow(first, ours)
    assert are_slow(second, theirs)
    assert not slow
    assert torch.equal(ours, theirs)
