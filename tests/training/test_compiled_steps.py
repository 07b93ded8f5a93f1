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
from pyro_vae_zoo.training import fused_adam, steps
from pyro_vae_zoo.training.checkpoint import load_checkpoint
from pyro_vae_zoo.training.fused_adam import FusedAdam, clear_denormals
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
            loc = x + (self.one + self.other.view(2))
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


class Reads(nn.Module):
    """A guide whose gradients do not lie in memory as its weights do."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.one = nn.Parameter(torch.randn(2, 3))
        self.other = nn.Parameter(torch.randn(2, 2))

    def forward(self, x):
        if self.how == "transposed":
            loc = torch.einsum("oi,...i->...o", self.one, x)
            loc = torch.einsum("oi,...i->...o", self.other, loc)
        else:
            both = torch.cat([self.one, self.other], 1)
            loc = nn.functional.linear(torch.cat([x, x[:, :2]], 1), both)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


class Reconstructs(nn.Module):
    """A model of three numbers by two."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("how", ["transposed", "parts of one"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_gradients_are_those_of_their_weights(how, optimizer, as_traced):
    """PyTorch's fused kernels read them in the order of memory."""
    torch.manual_seed(1)
    x = torch.randn(60, 3)
    data = zoo.Dataset(x[:40], x[40:50], x[50:], "gaussian")
    ends = []
    for compile in (True, False):
        vae = zoo.VAE(Reconstructs(), Reads(how), (3,)).double()
        rest = {"epochs": 3, "batch_size": 10, "keep": "last", "progress": False}
        zoo.fit(vae, data, compile=compile, optimizer=optimizer, lr=1e-2, **rest)
        ends.append([p.detach() for p in vae.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


def test_a_loop_of_ones_own_may_clip_and_add_up(as_traced):
    """Also where two parameters have one gradient."""
    torch.manual_seed(1)
    x = 3 + torch.randn(20, 2).double()
    found = []
    for loss in (zoo.CompiledTrace_ELBO(), zoo.AnnealedELBO()):
        vae = zoo.VAE(Model(), TwoShifts(), (2,)).double()
        for seed in (0, 1):
            torch.manual_seed(seed)
            loss(vae.model, vae.guide)(x).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        found.append([p.grad for p in vae.parameters()])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


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


@pytest.mark.parametrize("name", ["fused", "plain", "adamw", "groups"])
@pytest.mark.parametrize("least", ["exp_avg", "exp_avg_sq"])
def test_weights_without_gradients_never_become_slow_to_compute(name, least):
    """Averages below the smallest normal number stay in PyTorch; the weights are equal."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    first, second = OPTIMISERS[name]([ours]), OPTIMISERS[name]([theirs])
    active = torch.arange(40) % 2
    smallest = torch.finfo(torch.float32).tiny

    def are_slow(optimizer, p):
        average = optimizer.state[p][least]
        return ((average != 0) & (average.abs() < smallest)).any()

    slow = False
    for i in range(1200):
        grad = torch.randn(40).sign()
        ours.grad = grad if i < 5 else grad * active
        theirs.grad = ours.grad.clone()
        first.step()
        clear_denormals(first)
        second.step()
        if i == 4 and least == "exp_avg_sq":  # as after some 70,000 steps
            for optimizer, p in ((first, ours), (second, theirs)):
                optimizer.state[p][least][::2] *= 4e-36
        slow = slow or are_slow(first, ours)
    assert are_slow(second, theirs)
    assert not slow
    assert torch.equal(ours, theirs)


def test_averages_are_cleared_only_where_they_are_nothing():
    p = torch.nn.Parameter(torch.ones(3))
    for make, cleared in (
        (lambda: torch.optim.Adam([p]), True),
        (lambda: torch.optim.Adam([p], eps=1e-20), False),
        (lambda: torch.optim.NAdam([p]), False),
    ):
        optimizer = make()
        for step in range(150):
            p.grad = torch.tensor([1.0, 1e-20, 1e-26 * (step == 0)])
            optimizer.step()
            clear_denormals(optimizer)
        averages = optimizer.state[p]["exp_avg"]
        assert (averages != 0).tolist() == [True, True, not cleared]


@pytest.mark.parametrize("compile", [True, False])
def test_trainings_clear_them_in_whatever_way_a_step_is_taken(
    compile, data, as_traced, tmp_path, monkeypatch
):
    """Also at the first step after an interruption, which is not by the kernel."""
    monkeypatch.setattr(fused_adam, "_NOTHING", {"exp_avg": 1.0, "exp_avg_sq": 0.01})
    how = {"epochs": 3, "batch_size": 20, "compile": compile, "progress": False}
    zoo.fit(make(), data, out=tmp_path / "never", **how)
    monkeypatch.setattr(fused_adam, "_STEPS_BETWEEN", 4)
    zoo.fit(make(), data, out=tmp_path / "whole", **how)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)  # after the seventh step; the eighth clears
        with pytest.raises(KeyboardInterrupt):
            zoo.fit(make(), data, out=tmp_path / "parts", **how)
    zoo.fit(make(), data, out=tmp_path / "parts", resume=True, **how)
    never, whole, parts = (
        load_checkpoint(tmp_path / name / "checkpoint.pt")["optimizer"]["state"]
        for name in ("never", "whole", "parts")
    )
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(whole, never)
