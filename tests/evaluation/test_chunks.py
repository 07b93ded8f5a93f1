"""Evaluation in chunks, compiled or not."""

import warnings

import pytest
import torch
from compiling import EVERY, Discrete, Guide, Model, data, pair
from hypothesis import given
from hypothesis import strategies as st
from pairs import FAMILIES, graphs_as_traced, quick

import pyro_vae_zoo as zoo
from pyro_vae_zoo.evaluation import chunks
from pyro_vae_zoo.evaluation.totals import ActiveUnits

UNTOUCHED = ("log_prob", "std_error", "ess", "khat")


@pytest.fixture
def as_traced(monkeypatch):
    return graphs_as_traced(monkeypatch, chunks)


def assert_same(name, **tolerance):
    """In several chunks of data and draws, the last of each smaller."""
    vae, x = pair(name), data(name, 7)
    how = {"num_particles": 34, "chunk_rows": 24}
    a, b = (zoo.evaluate(vae, x, compile=c, **how).to_dict() for c in (True, False))
    assert a.keys() == b.keys()
    a |= a.pop("kl_per_site")
    b |= b.pop("kl_per_site")
    for key, value in b.items():
        exact = key == "active_units" or value is None
        assert a[key] == (value if exact else pytest.approx(value, **tolerance)), key
    c, d = (zoo.log_likelihood(vae, x, compile=c, **how) for c in (True, False))
    for key in UNTOUCHED:
        torch.testing.assert_close(
            getattr(c, key), getattr(d, key), rtol=1e-9, atol=1e-9, equal_nan=True
        )


@pytest.mark.parametrize("name", quick(EVERY, *FAMILIES))
def test_a_graph_gives_what_the_pair_gives(name, as_traced):
    assert_same(name, rel=1e-12)
    assert len(as_traced) == 2


@pytest.mark.slow  # the compiler takes half a minute; the graph is above
@pytest.mark.parametrize("name", EVERY)
def test_inductor_gives_what_the_pair_gives(name):
    assert_same(name, rel=1e-9, abs=1e-9)


def test_auto_compiles_where_there_is_much_to_compute(as_traced, monkeypatch):
    vae, x = pair(), data()
    zoo.log_likelihood(vae, x, 10)
    assert not as_traced
    work = len(x) * 10 * sum(p.numel() for p in vae.parameters())
    monkeypatch.setattr(chunks, "WORK_WORTH_COMPILING", {"cpu": work})
    for num_particles, traced in ((9, 0), (10, 1)):
        zoo.log_likelihood(vae, x, num_particles)
        assert len(as_traced) == traced
    zoo.log_likelihood(vae, x, 10, compile=False)
    assert len(as_traced) == 1


@pytest.mark.parametrize("compile", ["auto", True])
def test_a_pair_that_cannot_be_compiled(monkeypatch, compile):
    monkeypatch.setattr(chunks, "WORK_WORTH_COMPILING", {"cpu": 1})
    vae = zoo.VAE(Model(), Guide(), (2,))  # which decides by the values that it draws
    x = torch.ones(3, 2)
    if compile is True:
        with pytest.raises(zoo.UserError, match="after site 'z'.*compile=False"):
            zoo.log_likelihood(vae, x, 4, compile=True)
        return
    with pytest.warns(
        UserWarning, match="evaluated without compiling: the pair cannot"
    ):
        got = zoo.log_likelihood(vae, x, 4)
    expected = zoo.log_likelihood(vae, x, 4, compile=False)
    assert torch.equal(got.log_prob, expected.log_prob)


@pytest.mark.parametrize("compile", ["yes", 1, None])
def test_compile_is_one_of_three(compile):
    with pytest.raises(zoo.UserError, match=f"True, False or 'auto', got {compile!r}"):
        zoo.log_likelihood(pair(), data(), 4, compile=compile)


@pytest.mark.parametrize(
    ("chunk_rows", "words"),
    [
        (0, " must be at least 1, got 0"),
        (-1, " must be at least 1, got -1"),
        (1.5, ": expected a whole number, got 1.5"),
    ],
)
@pytest.mark.parametrize(
    "job", [zoo.log_likelihood, zoo.evaluate, zoo.annealed_log_likelihood]
)
def test_rows_of_a_chunk_are_counted(job, chunk_rows, words):
    with pytest.raises(zoo.UserError, match=f"chunk_rows{words}"):
        job(pair("mean_field"), data(), 4, chunk_rows=chunk_rows)


def test_rows_of_a_chunk_may_be_a_whole_float():
    vae, x = pair(), data()
    a, b = (zoo.log_likelihood(vae, x, 10, chunk_rows=rows) for rows in (20, 2e1))
    assert torch.equal(a.log_prob, b.log_prob)
    a, b = (
        zoo.annealed_log_likelihood(vae, x, 4, 3, 2, chunk_rows=rows)
        for rows in (8, 8.0)
    )
    assert torch.equal(a.log_prob, b.log_prob)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 21])
def test_every_other_draw_is_of_the_second_half(size):
    """Whatever the chunks: of which there may be many with one draw in each."""
    z = torch.randn(21, 40, 2).double()
    units = ActiveUnits(40)
    for start in range(0, 21, size):
        part = z[start : start + size]
        halves = torch.stack([part[0::2].sum(0), part[1::2].sum(0)])
        units.add(slice(0, 40), slice(start, start + len(part)), {"z": halves})
    assert units.draws == (11, 10)
    expected = torch.stack([z[0::2].sum(0), z[1::2].sum(0)])
    torch.testing.assert_close(units.sums["z"], expected)


def test_active_units_can_be_told_from_chunks_of_one_draw():
    assert zoo.evaluate(pair(), data(), 4, chunk_rows=1).active_units is not None


def test_draws_without_reparametrisation_can_be_evaluated(as_traced):
    """Only training needs it."""
    vae = zoo.VAE(Model(), Discrete(), (2,))
    x = torch.ones(3, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The value argument must be within")
        a, b = (zoo.log_likelihood(vae, x, 4, compile=c) for c in (True, False))
    assert torch.equal(a.log_prob, b.log_prob)
    assert len(as_traced) == 1


@given(st.integers(1, 400), st.integers(1, 3000), st.integers(1, 10_000))
def test_chunks_have_rows_at_most(num_data, num_particles, rows):
    size, step = chunks.chunk_sizes(num_data, num_particles, rows)
    assert 1 <= size <= num_data
    assert 1 <= step <= min(num_particles, chunks.PARTICLES_PER_CHUNK)
    assert size * step <= rows
    parts = -(-num_particles // step)
    assert parts == -(-num_particles // min(num_particles, 256, rows))
