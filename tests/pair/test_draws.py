"""Samples, reconstructions and codes: what they are, and in how much memory."""

import pytest
import torch
from pairs import small
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae_zoo.pair import draws, memory
from pyro_vae_zoo.pair.sites import in_data_plate


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that was made by a layer of the pair."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.glu.default:
            self.rows = max(self.rows, out.numel() // 64)
        return out


JOBS = {
    "sample": lambda vae, x: vae.sample(len(x), mean=True),
    "encode": lambda vae, x: vae.encode(x),
    "encode many": lambda vae, x: vae.encode(x[:20], len(x) // 20),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_memory_does_not_grow_with_the_data(job, monkeypatch):
    monkeypatch.setattr(memory, "_CPU_BUDGET", 4 * 4 * 64 * 100)  # 100 rows of width 64
    vae = small("mean_field", event_shape=(3,), hidden_dims=(64,))
    x = torch.rand(1000, 3).bernoulli()
    with Largest() as seen:
        found = job(vae, x)
    assert found.shape[-2] in (1000, 20)
    assert 0 < seen.rows <= 100


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_parts_are_put_together_in_order(job, monkeypatch):
    """A pair without noise gives the same in parts as at once."""
    vae = small("mean_field", event_shape=(3,), hidden_dims=(64,))
    with torch.no_grad():
        vae.guide.posterior.linear.bias[2:] = -100.0  # a scale of 1e-6
        vae.model.decoder[-1].weight.zero_()
    x = torch.rand(1000, 3).bernoulli()
    whole = job(vae, x)
    monkeypatch.setattr(memory, "_CPU_BUDGET", 4 * 4 * 64 * 100)
    torch.testing.assert_close(job(vae, x), whole, rtol=0, atol=1e-4)


def test_few_data_are_drawn_as_by_stock_pyro():
    """Under a seed the draws of version 0.1.0 come back."""
    vae = small("iaf")
    torch.manual_seed(0)
    mine = vae.sample(7)
    torch.manual_seed(0)
    stock = poutine.uncondition(vae.model)(torch.zeros(7, 2, 3))
    assert torch.equal(mine, stock)


class Spy(Messenger):
    """Keeps the values of the sites outside the plate of data."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def _pyro_post_sample(self, msg):
        if not (site_is_subsample(msg) or in_data_plate(msg)):
            self.values.setdefault(msg["name"], []).append(msg["value"])


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_all_parts_share_what_is_drawn_once(job, monkeypatch):
    """A graph has one draw of its gates for all data, in however many parts."""
    monkeypatch.setattr(draws, "_FEW_ROWS", 10)
    monkeypatch.setattr(draws, "rows_that_fit", lambda *_: 10)
    vae = small("gated_dag", event_shape=(3,))
    x = torch.rand(40, 3).bernoulli()
    with Spy() as spy:
        job(vae, x)
    assert spy.values
    for values in spy.values.values():
        assert len(values) >= 4
        assert all(torch.equal(values[0], value) for value in values)
    again = Spy()
    with again:
        job(vae, x)
    assert str(again.values) != str(spy.values)  # another call draws anew


def test_a_mean_of_blocks_is_given_the_block_drawn_before_it():
    """E[x_l|z_l, x_{l-1}]: a reconstruction of blocks is what it says."""
    torch.manual_seed(0)
    vae = small("self_reflective", event_shape=(2, 2), num_layers=2)
    with torch.no_grad():
        vae.model.data_layers[1].delta.rest[-1].weight.mul_(100)  # x_1 matters
    x = torch.rand(100, 2, 2).bernoulli()
    for job in (lambda: vae.reconstruct(x), lambda: vae.sample(100, mean=True)):
        with BlocksSeen() as seen:
            found = job()
        means = [fn.mean for fn, _ in seen.blocks]
        assert torch.equal(found, vae.model.join(means))
        drawn = seen.blocks[0][1]
        assert set(drawn.unique().tolist()) == {0.0, 1.0}


class BlocksSeen(Messenger):
    """Keeps each block's distribution and draw."""

    def __init__(self):
        super().__init__()
        self.blocks = []

    def _pyro_post_sample(self, msg):
        if msg["name"] in ("x_1", "x_2"):
            self.blocks.append((msg["fn"], msg["value"]))
