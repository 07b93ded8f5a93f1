"""Each map is the formula of its docstring, written out from the raw parameters.

A log-determinant, an inverse and a quadrature are right of a wrong map, too.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from pyro_vae_zoo import transforms


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(*shape):
    return torch.randn(*shape, dtype=torch.double)


def test_planar():
    b, u, w, x = double(1), double(3), double(3), double(7, 3)
    if w @ u < 0:
        u = -u  # else it is moved, to keep the map invertible
    y = x + u * torch.tanh(x @ w + b)[:, None]
    torch.testing.assert_close(transforms.ConditionedPlanar(b, u, w)(x), y)


def test_radial():
    centre, alpha, gamma, x = double(3), double(1), double(1), double(7, 3)
    a, c = F.softplus(alpha), F.softplus(gamma)
    r = (x - centre).norm(dim=-1, keepdim=True)
    y = x + (c - a) / (a + r) * (x - centre)
    got = transforms.ConditionedRadial(centre, alpha, gamma)(x)
    torch.testing.assert_close(got, y, atol=1e-5, rtol=1e-5)  # a has a floor of 1e-6


def test_sylvester():
    vectors, triangles, x = double(2, 4), double(4, 4), double(7, 4)
    diagonal, other, b = double(4), double(4), double(4)
    eye = torch.eye(4, dtype=torch.double)
    q = eye
    for v in vectors:
        q = q @ (eye - 2 * torch.outer(v, v) / (v @ v))
    limit = 1 - 1e-3  # of a diagonal's entries, which keeps the map invertible
    upper = triangles.triu(1) + torch.diag(limit * diagonal.tanh())
    lower = triangles.tril(-1).T + torch.diag(limit * other.tanh())
    y = x + torch.tanh(x @ q @ lower.T + b) @ upper.T @ q.T
    basis = transforms.Reflections(vectors)
    got = transforms.ConditionedSylvester(basis, triangles, diagonal, other, b)(x)
    torch.testing.assert_close(got, y)


def test_neural_autoregressive():
    raw, x = double(3, 8, 2), double(2)
    a, b, logits = raw
    a = F.softplus(a + math.log(math.e - 1))
    p = (logits.softmax(0) * torch.sigmoid(a * x + b)).sum(0)
    got = transforms.ConditionedNeuralAutoregressive(lambda _: raw)(x)
    torch.testing.assert_close(got, p.logit(), atol=1e-5, rtol=1e-5)  # least slope 1e-6


def test_a_spline_goes_through_its_knots_with_its_slopes():
    widths, heights, slopes = double(8), double(8), double(7)
    x, y = (
        3 * (2 * (1e-3 + (1 - 8e-3) * raw.softmax(-1)).cumsum(-1)[:-1] - 1)
        for raw in (widths, heights)
    )
    each = [raw.expand(7, -1) for raw in (widths, heights, slopes)]
    got, log_slope = transforms.rational_quadratic_spline(x, *each)
    torch.testing.assert_close(got, y)
    expected = 1e-3 + F.softplus(slopes + math.log(math.expm1(1 - 1e-3)))
    torch.testing.assert_close(log_slope.exp(), expected)
