"""What every test starts from: one seed, and an empty store of Pyro's parameters."""

import pyro
import pytest


@pytest.fixture(autouse=True)
def _fresh_state():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
