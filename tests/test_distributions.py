"""Distributions of pixels and counts: large terms, bytes, and bins far below the scale."""

import math

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F

import pyro_vae_zoo as zoo
from pyro_vae_zoo import distributions as zd
from pyro_vae_zoo.nn import counts

COUNTS = {
    "poisson": [1.0, 1e3, 1e6, 3e6],
    "binomial": [16, 255, 4095, 65535],
}


def poisson(rate):
    log_rate = (math.log(rate) + 0.1 * torch.randn(4, 784)).clamp(max=15.0)
    x = torch.poisson(log_rate.double().exp()).float()
    wide, k = log_rate.double(), x.double()
    exact = k * wide - wide.exp() - torch.lgamma(k + 1)
    return counts.Poisson(log_rate), x, exact


def binomial(n):
    logits = torch.randn(4, 784)
    x = torch.binomial(torch.full_like(logits, n), logits.sigmoid())
    wide, k = logits.double(), x.double()
    ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    exact = ways + k * F.logsigmoid(wide) + (n - k) * F.logsigmoid(-wide)
    return counts.Binomial(n, logits), x, exact


@pytest.mark.parametrize(
    ("make", "size"),
    [(globals()[name], size) for name, sizes in COUNTS.items() for size in sizes],
)
def test_images_of_large_counts_are_scored_to_a_thousandth_of_a_nat(make, size):
    torch.manual_seed(0)
    p, x, exact = make(size)
    assert p.log_prob(x).dtype == torch.float32
    error = p.log_prob(x).double().sum(-1) - exact.sum(-1)
    assert error.abs().max() < 2e-3


def test_the_gradient_of_a_rate_is_the_surplus():
    log_rate = torch.tensor([0.0, 5.0, 14.0], requires_grad=True)
    x = torch.tensor([3.0, 100.0, 1e6])
    counts.Poisson(log_rate).log_prob(x).sum().backward()
    torch.testing.assert_close(log_rate.grad, x - log_rate.detach().exp())


def test_counts_expand_and_draw():
    for p in (counts.Poisson(torch.zeros(3)), counts.Binomial(5, torch.zeros(3))):
        wide = p.expand((4, 3))
        assert wide.sample().shape == (4, 3)
        torch.testing.assert_close(
            wide.log_prob(torch.ones(3))[0], p.log_prob(torch.ones(3))
        )


def test_bytes_are_scored_as_numbers():
    bits = torch.tensor([0, 1], dtype=torch.uint8)
    for p in (
        zd.BernoulliLogits(logits=torch.tensor(0.7)),
        counts.Binomial(1, torch.tensor(0.7)),
    ):
        torch.testing.assert_close(p.log_prob(bits), p.log_prob(bits.float()))
    ends = torch.tensor([0, 255], dtype=torch.uint8)
    scored = counts.Binomial(255, torch.zeros(2)).log_prob(ends)
    torch.testing.assert_close(scored, torch.full((2,), -255 * math.log(2)))


@pytest.mark.parametrize("log_scale", [-7.0, 0.0, 6.0, 80.0, 110.0])
def test_grey_levels_of_any_scale_have_a_finite_slope(log_scale):
    parameter = torch.tensor(log_scale, requires_grad=True)
    value = zd.DiscretizedLogistic(torch.tensor(0.5), parameter).log_prob(
        torch.tensor(128 / 255)
    )
    value.backward()
    assert value.isfinite()
    assert parameter.grad.isfinite()
    if (
        log_scale >= 6
    ):  # flat over a bin: the density at its middle, 1 / (4 s), by its width
        assert value.item() == pytest.approx(-log_scale - math.log(4 * 255), rel=1e-5)


def test_a_mixture_of_one_is_its_component():
    flow = zoo.transforms.sylvester(3)
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    q = dist.TransformedDistribution(base, [flow])
    mixture = zd.Mixture(torch.zeros(1), [q])
    z = mixture.rsample()
    torch.testing.assert_close(mixture.log_prob(z), q.log_prob(z))


def test_a_mixture_is_of_vectors_of_one_size():
    numbers = [dist.Normal(torch.zeros(4, 2), 1.0)] * 2
    with pytest.raises(zoo.UserError, match=r"got event shapes \(\), \(\); .to_event"):
        zd.Mixture(torch.zeros(2), numbers)
    sizes = [dist.Normal(torch.zeros(n), 1.0).to_event(1) for n in (2, 3)]
    with pytest.raises(zoo.UserError, match=r"got event shapes \(2,\), \(3,\)"):
        zd.Mixture(torch.zeros(2), sizes)
