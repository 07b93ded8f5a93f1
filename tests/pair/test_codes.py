"""`embed`, `decode`, `interpolate` and `sample_prior`: of one latent vector."""

import pytest
import torch
from pairs import linear_gaussian, perturb, small, with_prior

import pyro_vae_zoo as zoo


def bits(n=5):
    return torch.rand(n, 2, 3).bernoulli()


def test_embeddings_are_posterior_means():
    pair = linear_gaussian()
    x = pair.marginal.sample((7,))
    assert torch.allclose(pair.vae().embed(x), pair.posterior(x).mean)
    torch.manual_seed(0)
    vae, x = small("iaf"), bits(3)
    perturb(vae)
    codes = vae.encode(x, 20_000)
    error = codes.std(0) * (2 / 20_000) ** 0.5
    assert ((vae.embed(x, 20_000) - codes.mean(0)).abs() < 5 * error).all()


def test_decoding_is_the_likelihoods_mean():
    vae = small("mean_field")
    z = torch.randn(600, 2)
    expected = vae.model.likelihood(vae.model.decoder(z)).mean
    assert torch.allclose(vae.decode(z), expected)
    with pytest.raises(
        zoo.UserError, match=r"expected z of shape \(n, 2\), .* got \(4, 3\)"
    ):
        vae.decode(torch.zeros(4, 3))
    with pytest.raises(zoo.UserError, match=r"n at least 1, got \(0, 2\)"):
        vae.decode(torch.zeros(0, 2))


def test_a_line_between_two_data():
    vae, (a, b) = small("mean_field"), bits(2)
    line = vae.interpolate(a, b, steps=5)
    ends = vae.decode(vae.embed(torch.stack([a, b])))
    assert line.shape == (5, 2, 3)
    assert torch.allclose(line[[0, -1]], ends, atol=1e-6)
    middle = vae.decode(vae.embed(torch.stack([a, b])).mean(0, keepdim=True))
    assert torch.allclose(line[2:3], middle, atol=1e-6)
    with pytest.raises(zoo.UserError, match="steps must be at least 2"):
        vae.interpolate(a, b, steps=1)


def test_draws_of_the_prior():
    vae = with_prior("mixture")
    perturb(vae.model.prior)
    z = vae.sample_prior(20_000)
    expected = vae.model.prior().mean
    assert ((z.mean(0) - expected).abs() < 5 * z.std(0) / 20_000**0.5).all()


def test_draws_of_the_prior_do_not_run_the_decoder_on_as_many(monkeypatch):
    """A vector is small, and what a decoder makes of it need not be."""
    vae, sizes = with_prior("mixture"), []
    vae.model.decoder.register_forward_hook(lambda *a: sizes.append(a[1][0].shape))
    assert vae.sample_prior(1000).shape == (1000, vae.model.latent_dim)
    assert all(shape.numel() <= vae.model.latent_dim for shape in sizes)


@pytest.mark.parametrize("name", ["ladder", "gated_dag"])
def test_of_several_latents_there_are_none(name):
    vae = small(name)
    with pytest.raises(zoo.UserError, match="one latent vector 'z', got latents '"):
        vae.embed(bits())
    for ask in (lambda: vae.decode(torch.zeros(1, 2)), lambda: vae.sample_prior(3)):
        with pytest.raises(zoo.UserError, match="one latent vector 'z', got latents '"):
            ask()
