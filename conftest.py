"""Every test starts from the same random state and leaves no global one changed."""

import os

import numpy as np
import pyro
import pytest
import torch
from pairs import nothing_drawn

import pyro_vae_zoo as zoo

os.environ.setdefault("MPLBACKEND", "Agg")
collect_ignore = ["tests/typed_user.py"]  # for a type checker, not to be run


@pytest.fixture(autouse=True)
def _names_in_doctests(doctest_namespace):
    doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True)
def _global_state(tmp_path, monkeypatch):
    """One seed for each test; defaults, validation and the caches as they were."""
    monkeypatch.setenv("PYRO_VAE_ZOO_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    validation = pyro.settings.get("validate_distributions_pyro")
    yield
    assert torch.get_default_dtype() == dtype
    assert torch.get_num_threads() == threads
    assert pyro.settings.get("validate_distributions_pyro") == validation
    assert torch.is_grad_enabled()


@pytest.fixture
def undrawn():
    """Runs of this test have no pictures, which are not what it is about."""
    with nothing_drawn():
        yield


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    """Sixty six-pixel images, so that a run takes a second."""
    path = tmp_path_factory.mktemp("npz") / "six.npz"
    generator = torch.Generator().manual_seed(0)
    bits = torch.rand(60, 2, 3, generator=generator).lt(0.3).numpy()
    np.savez(path, train=bits[:40], valid=bits[40:50], test=bits[50:])
    return str(path)


@pytest.fixture(scope="session")
def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 2, 3, generator=generator).bernoulli(generator=generator)
    return zoo.Dataset(x, x[:10], x[:10])
