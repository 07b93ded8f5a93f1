"""k-hat against ArviZ, and what must not move it."""

import importlib
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyro.nn import PyroModule

import pyro_vae_zoo as zoo
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.diagnose import _khat
from pyro_vae_zoo.evaluation.importance import summarise, summary_of_khat

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of its own future
    arviz_stats = importlib.import_module("arviz.stats.stats")


def arvizs(row: torch.Tensor) -> float:
    with np.errstate(all="ignore"):
        return float(arviz_stats.psislw(row.numpy().copy())[1])


def ess(row: torch.Tensor) -> float:
    return 1 / row.softmax(0).square().sum().item()


@st.composite
def rows(draw, least=21):
    """Log-weights of many laws: light and heavy, with gaps, with ties, with an outlier."""
    size = draw(st.integers(least, 1200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    row = torch.randn(size, generator=generator, dtype=torch.double)
    row = row * draw(st.sampled_from([0.03, 0.3, 1.0, 4.0, 30.0, 400.0]))
    if draw(st.booleans()):  # not too coarse: as sums in single precision are
        row = row.float().double()
    if draw(st.booleans()):
        row[0] += draw(st.floats(-50, 50))
    return row


@settings(max_examples=150, deadline=None)
@given(rows())
def test_equals_arvizs_on_finite_rows(row):
    khat, theirs = zoo.pareto_khat(row).item(), arvizs(row)
    if len(row) >= 100 and ess(row) < 2 and theirs < 0.7:
        assert khat == math.inf
    elif math.isfinite(theirs):
        assert khat == pytest.approx(theirs, abs=1e-7)
    else:
        assert khat == math.inf


@settings(max_examples=80, deadline=None)
@given(rows(), st.floats(-1e9, 1e9))
def test_does_not_move_with_a_constant(row, shift):
    row = (row * 2**20).round() / 2**20  # such that the sum is exact
    shift = round(shift * 2**20) / 2**20
    assert torch.equal((row + shift) - shift, row)
    assert zoo.pareto_khat(row + shift).item() == zoo.pareto_khat(row).item()


@settings(max_examples=80, deadline=None)
@given(rows(), st.data())
def test_weights_below_the_tail_may_be_anything(row, data):
    """e^-1e9 or less, one or all of them."""
    tail = math.ceil(min(len(row) / 5, 3 * math.sqrt(len(row))))
    below = row.argsort()[: len(row) - tail - 1]
    count = data.draw(st.integers(1, len(below)))
    low = data.draw(st.sampled_from([-1e5, -1e9, -1e300]))
    before = zoo.pareto_khat(row).item()
    other = row.clone()
    other[below[:count]] = low
    assume(len(row) < 100 or (ess(row) < 2) == (ess(other) < 2))
    assert zoo.pareto_khat(other).item() == before


@settings(max_examples=80, deadline=None)
@given(rows(), st.integers(1, 2000), st.randoms(use_true_random=False))
def test_added_zeros_change_nothing(row, count, random):
    zeros = row.new_full((count,), -math.inf)
    order = list(range(len(row) + count))
    random.shuffle(order)
    with_zeros = torch.cat([row, zeros])[order]
    assume((len(row) >= 100) == (len(with_zeros) >= 100))  # where an ESS counts
    assert zoo.pareto_khat(with_zeros).item() == zoo.pareto_khat(row).item()


@settings(max_examples=150, deadline=None)
@given(rows(100), st.floats(0.0, 30.0), st.integers(0, 3))
def test_is_above_07_where_a_draw_or_so_carries_all(row, lead, zeros):
    row[0] = row.max() + lead
    row[1 : 1 + 30 * zeros] = -math.inf
    assume(ess(row) < 2)
    assert zoo.pareto_khat(row).item() >= 0.7


@pytest.mark.parametrize("low", [-1e4, -4e5, -6e5, -1e7, -1e30, -math.inf])
def test_an_outlier_below_does_not_make_weights_equal(low):
    torch.manual_seed(0)
    weights = 5 * torch.randn(3, 1000, dtype=torch.double)
    before = zoo.pareto_khat(weights)
    weights[range(3), weights.argmin(1)] = low
    assert torch.equal(zoo.pareto_khat(weights), before)
    assert before.min() > 0.7


def test_the_level_says_nothing_of_the_spread():
    weights = 5 * torch.randn(3, 1000, dtype=torch.double)
    for level in (1e3, 1e6, 1e9):
        moved = zoo.pareto_khat(weights - level)
        torch.testing.assert_close(moved, zoo.pareto_khat(weights), rtol=0, atol=1e-4)


def test_where_there_is_nothing_to_fit():
    inf = math.inf
    zeros = torch.full((6, 1000), -inf, dtype=torch.double)
    zeros[0, :1] = 3.0
    zeros[1, :4] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    zeros[2, 0] = inf
    zeros[3, 0] = math.nan
    zeros[4, :300] = 3.0  # a plateau: the exact posterior on a bounded support
    khat = zoo.pareto_khat(zeros)
    assert khat[[0, 1, 5]].tolist() == [inf] * 3
    assert khat[[2, 3]].isnan().all()
    assert khat[4] == 0
    assert zoo.pareto_khat(torch.randn(2, 20)).isnan().all()
    assert not zoo.pareto_khat(torch.randn(2, 21)).isnan().any()


def test_takes_one_row_and_many_rows_of_rows():
    torch.manual_seed(0)
    weights = torch.randn(2, 3, 100)
    khat = zoo.pareto_khat(weights)
    assert khat.shape == (2, 3)
    assert zoo.pareto_khat(weights[1, 2]).shape == ()
    assert zoo.pareto_khat(weights[1, 2]) == khat[1, 2]
    assert zoo.pareto_khat(torch.zeros(0, 100)).shape == (0,)
    assert zoo.pareto_khat(torch.zeros(3, 0)).isnan().all()
    with pytest.raises(UserError, match="expected log-weights of shape"):
        zoo.pareto_khat(torch.tensor(1.0))


def test_rows_are_fitted_each_by_itself():
    """Though their tails differ in length."""
    torch.manual_seed(0)
    weights = 3 * torch.randn(6, 300, dtype=torch.double)
    weights[1, 20:] = -math.inf
    weights[2] = weights[2].round()  # ties at the cut
    weights[3] = -math.inf
    weights[4] = 7.0
    together = zoo.pareto_khat(weights)
    assert torch.equal(together, torch.stack([zoo.pareto_khat(row) for row in weights]))


def test_summaries_of_weights_of_zero():
    row = torch.randn(1, 50, dtype=torch.double)
    zeros = torch.full((1, 50), -math.inf, dtype=torch.double)
    half, none = summarise(torch.cat([row, zeros], 1)), summarise(zeros)
    assert half.log_prob.item() == pytest.approx(row.exp().sum().div(100).log().item())
    assert half.ess.item() == pytest.approx(ess(row[0]))
    w = torch.cat([row.exp(), torch.zeros(1, 50)], 1)
    expected = (w.std() / w.mean() / 10).item()
    assert half.std_error.item() == pytest.approx(expected)
    assert (none.log_prob, none.ess, none.khat) == (-math.inf, 0, math.inf)
    assert none.std_error.isnan()


class Bounded(PyroModule):
    """x ~ U(z - 1, z + 1): a draw that is far from x has weight zero."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1).to_event(1))
            pyro.sample("x", dist.Uniform(z - 1, z + 1).to_event(1), obs=x)


class Around(PyroModule):
    """q(z|x) = N(x + shift, scale)."""

    def __init__(self, shift, scale):
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + self.shift, self.scale).to_event(1))


def test_evaluation_counts_data_without_weight_as_unreliable():
    x = torch.tensor([[0.0], [1.0], [2.0]])
    good, bad = Around(0.0, 1.0), Around(30.0, 0.1)
    assert zoo.evaluate((Bounded(), good), x, 2000).khat_above_07 == 0
    evaluation = zoo.evaluate((Bounded(), bad), x, 2000)
    assert evaluation.khat_median == math.inf
    assert evaluation.khat_above_07 == 1
    assert evaluation.log_likelihood == -math.inf
    assert evaluation.ess == 0
    found = zoo.log_likelihood((Bounded(), bad), x, 2000)
    assert _khat(found) == {"median": math.inf, "above_0.7": 1.0}


def test_bounded_support_is_judged_by_the_weights_that_there_are():
    x = torch.tensor([[0.0], [1.0], [2.0]])
    ll = zoo.log_likelihood((Bounded(), Around(1.0, 0.3)), x, 2000)
    assert (ll.khat > 0).all()
    lost = ll.ess < 2
    assert (ll.khat[lost] >= 0.7).all()


def test_summary_counts_inf_and_leaves_nan_out():
    khat = torch.tensor([0.1, math.inf, math.nan, math.inf, 0.6])
    median, share = summary_of_khat(khat)
    assert median == math.inf  # between 0.6 and infinity
    assert share == 0.5
    assert summary_of_khat(torch.tensor([math.nan])) == (None, None)
