"""The error of a mean over data that share a draw, against closed forms.

Log-weights a g_k + b e_ik - (a^2 + b^2)/2, g shared by all data: log-normal, of mean one.
"""

import math

import pytest
import torch

from pyro_vae_zoo.importance import error_of_mean


def replicates(a, b, n, draws, count):
    """Means of log p-hat, whose truth is 0, and the errors stated for them."""
    torch.manual_seed(0)
    means, errors = [], []
    for _ in range(count):
        g = torch.randn(1, draws, dtype=torch.double)
        e = torch.randn(n, draws, dtype=torch.double)
        rows = a * g + b * e - (a**2 + b**2) / 2
        means.append((rows.logsumexp(1) - math.log(draws)).mean())
        errors.append(error_of_mean(rows, [slice(0, n)]))
    return torch.stack(means), torch.tensor(errors, dtype=torch.double)


@pytest.mark.parametrize("n", [1, 20])
def test_is_the_covariances_closed_form_with_many_effective_draws(n):
    a, b, draws, count = 0.4, 0.4, 1000, 2000
    means, errors = replicates(a, b, n, draws, count)
    alone, shared = math.expm1(a**2 + b**2), math.expm1(a**2)
    expected = math.sqrt((alone + (n - 1) * shared) / (n * draws))
    assert errors.square().mean().sqrt().item() == pytest.approx(expected, rel=0.02)
    assert abs(means.std().item() / expected - 1) < 4 / math.sqrt(2 * count)


def test_is_low_by_the_next_order_with_few():
    """All data weigh the shared draw alike: as one datum, which is known."""
    a, draws, count = 1.0, 100, 20_000
    means, errors = replicates(a, 0.0, 2, draws, count)
    variance = math.expm1(a**2)
    expected = 1 - variance * (variance + 2.5) / (2 * draws)
    ratio = errors.square().mean().sqrt().item() / means.std().item()
    assert ratio == pytest.approx(expected, abs=4 / math.sqrt(2 * count))
    assert expected < 0.97
