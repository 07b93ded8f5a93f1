"""The published files as they are, where `$PYRO_VAE_ZOO_DATA` names them.

Each is loaded, its orientation and its grey levels are compared with what is known of
the pictures, and a small pair is trained and evaluated on it.
"""

import gzip
import os
from pathlib import Path

import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.labels import labels_of

REAL_DATA = os.environ.get("PYRO_VAE_ZOO_DATA")
FILES = {
    "caltech_silhouettes": "caltech101_silhouettes_28_split1.mat",
    "frey_faces": "freyfaces.npy",
    "fashion_dynamic": "FashionMNIST/raw/train-images-idx3-ubyte",
    "fashion_gray": "FashionMNIST/raw/train-images-idx3-ubyte",
}


def real(*names):
    """The data sets that are there; the others are skipped with their reason."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not (REAL_DATA and Path(REAL_DATA, FILES[name]).is_file()),
                reason=f"needs {FILES[name]} under $PYRO_VAE_ZOO_DATA",
            ),
        )
        for name in names or FILES
    ]


SIZES = {
    "caltech_silhouettes": (4100, 2264, 2307, 28, 28),
    "frey_faces": (1565, 200, 200, 28, 20),
    "fashion_dynamic": (50000, 10000, 10000, 28, 28),
    "fashion_gray": (50000, 10000, 10000, 28, 28),
}


@pytest.mark.parametrize("name", real())
def test_sizes_and_values(name):
    data = zoo.load_dataset(name, REAL_DATA)
    splits = data.train, data.valid, data.test
    assert (*map(len, splits), *data.event_shape) == SIZES[name]
    for x in (data.epoch(0, 0), data.valid, data.test):
        if data.likelihood == "bernoulli":
            assert set(x.unique().tolist()) == {0.0, 1.0}
        else:  # k/255, from black to white or nearly
            torch.testing.assert_close(x * 255, (x * 255).round(), rtol=0, atol=1e-4)
            assert 0 <= x.min() < 0.1
            assert 0.9 < x.max() <= 1


@pytest.mark.parametrize("name", real("caltech_silhouettes"))
def test_silhouettes_are_white_and_upright(name):
    """The first one is a mushroom: a broad cap on a narrow stem."""
    data = zoo.load_dataset(name, REAL_DATA)
    mean = data.train.mean(0)
    assert mean[10:18, 10:18].mean() > 0.8  # objects are 1 and fill the middle
    assert mean[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.05
    mushroom = data.train[0]
    cap, stem, ground = (mushroom[rows].sum(-1) for rows in (9, 16, 24))
    assert cap > 1.5 * stem
    assert ground > 1.5 * stem
    assert (mushroom - mushroom.flip(1)).abs().mean() < 0.1  # sideways it is symmetric
    assert (mushroom - mushroom.flip(0)).abs().mean() > 0.2


@pytest.mark.parametrize("name", real("frey_faces"))
def test_faces_look_at_us(name):
    """A bright forehead above dark eyes above a nose that is brighter than they are."""
    mean = zoo.load_dataset(name, REAL_DATA).train.mean(0)
    forehead, eyes, cheeks = mean[3, 6:14], mean[7, 3:17], mean[12, 5:15]
    assert forehead.mean() > eyes.mean() + 0.1
    assert cheeks.mean() > eyes.mean() + 0.1
    assert mean[:, 8:12].mean() > mean[:, [0, 1, -2, -1]].mean()  # hair at the sides


@pytest.mark.parametrize("name", real("fashion_gray"))
def test_clothes_hang_as_they_are_worn(name):
    data = zoo.load_dataset(name, REAL_DATA)
    labels = labels_of(name, "test", REAL_DATA)
    of = lambda kind: torch.from_numpy(labels.values == labels.names.index(kind))
    trousers, boots = (
        data.test[of(kind)].mean(0) for kind in ("trouser", "ankle boot")
    )
    legs = trousers[20:, 13:15].mean() / trousers[20:, 9:12].mean()
    waist = trousers[3:6, 13:15].mean() / trousers[3:6, 9:12].mean()
    assert legs < 0.6 * waist  # two legs below, one waist above
    assert boots[20:].mean() > 2 * boots[:8].mean()  # soles are below
    assert boots[:10, 14:].mean() > 2 * boots[:10, :14].mean()  # and toes to the left


@pytest.mark.parametrize("name", real())
def test_a_pair_is_trained_and_evaluated(name):
    data = zoo.load_dataset(name, REAL_DATA).first(1500)
    torch.manual_seed(0)
    vae = zoo.create("iaf", data, latent_dim=4, hidden_dims=(32,))
    history = zoo.fit(vae, data, epochs=3, device="cpu", progress=False)
    assert history.epochs[2]["train_elbo"] > history.epochs[0]["train_elbo"]
    ev = zoo.evaluate(vae, data.test[:50], num_particles=20)
    assert ev.elbo < ev.log_likelihood
    assert vae.reconstruct(data.test[:3]).shape == (3, *data.event_shape)


@pytest.mark.parametrize("name", real("fashion_gray"))
def test_an_archive_that_was_packed_again_is_known_by_its_contents(name, tmp_path):
    """As Debian does, which has a folder of its own, too."""
    raw = Path(REAL_DATA, "FashionMNIST/raw")
    for file in raw.glob("*-ubyte"):
        folder = tmp_path / ("fashion-mnist" if "train" in file.name else raw.name)
        if folder.name == "raw":
            folder = tmp_path / "FashionMNIST/raw"
        folder.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(file.read_bytes(), compresslevel=1)
        (folder / f"{file.name}.gz").write_bytes(packed)
    again = zoo.load_dataset(name, tmp_path)
    data = zoo.load_dataset(name, REAL_DATA)
    for split in ("train", "valid", "test"):
        assert torch.equal(getattr(again, split), getattr(data, split))
        labels = [labels_of(name, split, folder) for folder in (REAL_DATA, tmp_path)]
        assert (labels[0].values == labels[1].values).all()
    broken = tmp_path / "fashion-mnist/train-images-idx3-ubyte.gz"
    other = bytearray(raw.joinpath("train-images-idx3-ubyte").read_bytes())
    other[1000] ^= 1
    broken.write_bytes(gzip.compress(bytes(other), compresslevel=1))
    with pytest.raises(zoo.DataFileError, match="train-images.*wrong checksum: sha256"):
        zoo.load_dataset(name, tmp_path)
