"""Elementwise functions of graphs: as accurate as PyTorch's, by quicker ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pyro_vae_zoo.inference.elementwise import expm1, log1p
from pyro_vae_zoo.inference.tracing import inductor, trace

FLOAT32 = st.floats(width=32, allow_nan=False)
FUNCTIONS = {
    "softplus": F.softplus,
    "softplus, beta -1": lambda x: F.softplus(x, beta=-1),
    "logsigmoid": F.logsigmoid,
    "elu": F.elu,
    "elu, alpha 2": lambda x: F.elu(x, alpha=2.0),
    "selu": F.selu,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
}
SLOW = ("log1p", "expm1", "softplus.default", "elu.default", "log_sigmoid_forward")


def units_off(found, exact):
    """How many of float32's units in the last place two numbers are apart."""
    if math.isinf(exact) or abs(exact) > torch.finfo(torch.float32).max:
        return 0.0 if found == math.copysign(math.inf, exact) else math.inf
    unit = max(2.0 ** (math.frexp(exact)[1] - 24), 2.0**-149)
    return abs(found - exact) / unit


@given(FLOAT32.filter(lambda x: x > -1))
def test_log1p_is_accurate_to_two_units(x):
    found = log1p(torch.tensor(x)).item()
    assert units_off(found, math.log1p(x)) < 2


@given(FLOAT32)
def test_expm1_is_accurate_to_two_units(x):
    found = expm1(torch.tensor(x)).item()
    exact = math.expm1(x) if x < 700 else math.inf
    assert units_off(found, exact) < 2


@pytest.mark.parametrize("function", [log1p, expm1])
def test_at_the_ends(function):
    x = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, torch.inf, torch.nan])
    expected = getattr(torch, function.__name__)(x)
    assert torch.equal(function(x).nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_has_the_values_and_gradients_of_eager_pytorch(name, dtype):
    x = torch.cat([torch.linspace(-40, 40, 801), torch.logspace(-9, -3, 50)]).to(dtype)
    if name == "log1p":
        x = x.exp() - 0.5
    function = FUNCTIONS[name]

    def both(x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = function(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        return [y.detach(), slope]

    graph = trace(both, [x], "")
    called = {str(node.target) for node in graph.graph.nodes}
    assert not any(slow in target for slow in SLOW for target in called)
    rtol = 1e-6 if dtype == torch.float32 else 1e-14
    for found, expected, atol in zip(graph(x), both(x), (0.0, 1e-7), strict=True):
        # PyTorch has the slope of expm1 as 1 + its value, in which digits cancel.
        torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def test_they_are_compiled():
    x = torch.linspace(-20, 20, 101)
    graph = trace(lambda x: [F.elu(x), F.softplus(x)], [x], "")
    for found, expected in zip(inductor(graph, [x])(x), graph(x), strict=True):
        torch.testing.assert_close(found, expected)
