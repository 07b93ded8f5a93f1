"""What judges a pair on data that are not in memory: as on those that are."""

import dataclasses

import numpy as np
import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.evaluation.diagnose import diagnose, findings, subset
from pyro_vae_zoo.evaluation.options import DiagnoseOptions
from pyro_vae_zoo.explorer.page import page_contents

SMALL = {"latent_dim": 2, "hidden_dims": (8,)}


def bits(n=60):
    return np.random.default_rng(0).random((n, 3, 4)) < 0.3


@pytest.fixture(params=["file", "items"])
def both(request, tmp_path):
    """The same data in memory, and out of it."""
    here = zoo.Dataset(bits())
    if request.param == "items":
        items = torch.utils.data.TensorDataset(torch.from_numpy(bits()))
        return here, zoo.Dataset.from_torch(items, in_memory=False).read_by(1)
    np.save(tmp_path / "x.npy", bits())
    options = {"in_memory": False}
    return here, zoo.load_dataset(tmp_path / "x.npy", options=options)


def make(data, **options):
    torch.manual_seed(0)
    return zoo.create("iaf", data, **SMALL, **options)


def assert_equal(one, other):
    """For records of tensors and numbers, nested."""
    if dataclasses.is_dataclass(one):
        one, other = vars(one), vars(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "about", "title"}:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other or one != one


def test_all_estimates(both):
    here, there = both
    vae = make(here)
    assert isinstance(there.test, Rows)
    for how in ({}, {"chunk_rows": 40}):
        a, b = (zoo.log_likelihood(vae, data.test, 30, **how) for data in both)
        assert_equal(a, b)
        a, b = (zoo.evaluate(vae, data.test, 30, **how) for data in both)
        assert a == b
    a, b = (zoo.annealed_log_likelihood(vae, d.test, 1, 2, 1) for d in both)
    assert_equal(a, b)


@pytest.mark.slow
def test_a_whole_diagnosis(both):
    vae = make(both[0])
    options = DiagnoseOptions(num_particles=40, chains=2, temps=5, steps=3, simulated=2)
    a, b = (zoo.annealed_log_likelihood(vae, d.test, 2, 5, chunk_rows=4) for d in both)
    assert_equal(a, b)
    a, b = (findings(diagnose(vae, subset(d.test, 4, 0), options)) for d in both)
    assert_equal(a, b)


def test_codes_pages_and_priors(both):
    here, there = both
    vae = make(here)
    for found in (vae.embed, vae.reconstruct, lambda x: vae.encode(x, 3)):
        with torch.random.fork_rng():
            a = found(here.train)
        assert torch.equal(a, found(there.train))
    a, b = (page_contents(vae, d.test, d, num_data=2, num_samples=9) for d in both)
    assert_equal(a, b)
    vamp = (
        zoo.create("mean_field", d, prior="vamp", pseudo_inputs=48, **SMALL)
        for d in both
    )
    a, b = (v.model.prior.pseudo_inputs.flatten(1) for v in vamp)
    assert torch.equal(a.sum(1).sort().values, b.sum(1).sort().values)  # all of train


def test_a_bare_mapped_array_is_data_too(tmp_path):
    np.save(tmp_path / "x.npy", bits())
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    vae = make(zoo.Dataset(bits()))
    assert zoo.evaluate(vae, x, 20) == zoo.evaluate(vae, bits(), 20)
    assert torch.equal(vae.check_data(x)[:], vae.check_data(bits()))
    pair = vae.model, vae.guide
    a, b = (zoo.log_likelihood(pair, d, 20) for d in (x, bits()))
    assert_equal(a, b)
    gray = np.full((300, 3, 4), 0.5, np.float32)
    gray[:150] = 0
    np.save(tmp_path / "gray.npy", gray)
    gray = np.load(tmp_path / "gray.npy", mmap_mode="r")
    with pytest.raises(zoo.UserError, match="row 150 of gray.npy: x has grey pixels"):
        zoo.evaluate(vae, gray, 20)


def test_sizes_of_counts_are_those_of_all_rows(tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (2000, 5))
    counts[777, 3] = 12  # which no sample has
    np.save(tmp_path / "x.npy", counts)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = zoo.Dataset(x[:1500], x[1500:1600], x[1600:], "binomial")
    assert (
        zoo.create("mean_field", data, **SMALL).config["options"]["total_count"] == 12
    )
