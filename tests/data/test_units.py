"""What bytes stand for: bits where they are 0 and 1, grey levels where they reach 255."""

import numpy as np
import pytest
import torch

import pyro_vae_zoo as zoo

BITS = (np.random.RandomState(0).rand(60, 8, 8) < 0.3).astype(np.uint8)
GREY = np.random.RandomState(1).randint(0, 256, (60, 8, 8)).astype(np.uint8)
THREE = (slice(0, 40), slice(40, 50), slice(50, 60))


def three(x):
    return [x[part] for part in THREE]


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "discretized_logistic", "gaussian"]
)
def test_bits_in_bytes_are_bits(likelihood):
    for bits in (BITS, torch.from_numpy(BITS)):
        data = zoo.Dataset(*three(bits), likelihood)
        assert data.train.mean().item() == pytest.approx(BITS[:40].mean())
        assert data.test.max() == 1


def test_bits_in_bytes_are_drawn_as_they_are():
    """Probabilities of 0 and 1 leave nothing to chance."""
    data = zoo.Dataset(*three(BITS), dynamic=True)
    assert data.epoch(0, 0).mean().item() == pytest.approx(BITS[:40].mean())


def test_grey_levels_in_bytes_are_divided():
    for grey in (GREY, torch.from_numpy(GREY)):
        data = zoo.Dataset(*three(grey), "discretized_logistic")
        assert torch.equal(data.train, torch.from_numpy(GREY[:40]).float() / 255)
    data = zoo.Dataset(GREY[:40], BITS[40:50], BITS[50:], dynamic=True)
    assert torch.equal(data.train, torch.from_numpy(GREY[:40]).float() / 255)
    assert set(data.test.unique().tolist()) == {0.0, 1.0}  # a Bernoulli's, as they are


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_bits_beside_grey_levels_are_an_error(order):
    splits = [BITS[:40], GREY[40:50], GREY[50:]]
    splits = [splits[i] for i in order]
    with pytest.raises(zoo.UserError, match="bits or grey levels.*divided by 255"):
        zoo.Dataset(*splits, "discretized_logistic")


def test_an_evaluation_asks_where_it_cannot_know():
    data = zoo.Dataset(*three(GREY), "discretized_logistic")
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    ll = [zoo.log_likelihood(vae, x, 5).log_prob for x in (data.test, GREY[50:])]
    assert torch.equal(*ll)
    with pytest.raises(zoo.UserError, match=r"bits or grey levels.*x.float\(\) / 255"):
        zoo.evaluate(vae, BITS, 5)
    black = zoo.evaluate(vae, np.zeros_like(BITS), 5)  # which is the same in both
    assert black.elbo == zoo.evaluate(vae, torch.zeros(60, 8, 8), 5).elbo


def test_an_archive_of_bits_is_bernoulli(tmp_path):
    def load(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return zoo.load_dataset(tmp_path / "mine.npz")

    assert load(train=BITS[:40], test=BITS[40:]).likelihood == "bernoulli"
    assert load(train=BITS.astype(np.int64)).likelihood == "bernoulli"
    assert load(train=GREY[:40], test=GREY[40:]).likelihood == "discretized_logistic"
    with pytest.raises(zoo.DataFileError, match="mine.npz.*bits or grey levels"):
        load(train=BITS[:40], test=GREY[40:])


BITS_32 = torch.from_numpy(BITS)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (BITS_32.float().to_sparse(), "expected a dense tensor.*sparse.*to_dense"),
        (BITS_32.cfloat(), "got dtype torch.complex64"),
        (BITS.astype(object), "got dtype object"),
        (BITS.tolist(), "expected a tensor or numpy array, got list"),
        (None, "expected a tensor or numpy array, got NoneType"),
    ],
    ids=["sparse", "complex", "object", "list", "none"],
)
def test_tensors_of_another_kind_are_named(x, expected):
    with pytest.raises(zoo.UserError, match=f"train: .*{expected}"):
        zoo.Dataset(x, BITS, BITS)
