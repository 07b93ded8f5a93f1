"""Data sets: what is loaded, what is refused and with which words.

Published files are replaced by small fakes of the same format, put into the
source table with their own shapes and digests; the tests at the end read the real
files and run where `$PYRO_VAE_ZOO_DATA` names them.
"""

import dataclasses
import gzip
import hashlib
import io
import os
import re
import time

import numpy as np
import pytest
import torch
from pairs import quick

from pyro_vae_zoo.data import download as _files
from pyro_vae_zoo.data import sources as _sources
from pyro_vae_zoo.data.checks import check_images
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.loading import load_dataset
from pyro_vae_zoo.data.names import list_datasets
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.models.create import create

REAL_DATA = os.environ.get("PYRO_VAE_ZOO_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is written to the home folder and nothing is downloaded."""

    def offline(url, timeout):
        raise OSError("no network in tests")

    monkeypatch.setattr(_files, "urlopen", offline)
    monkeypatch.setenv("PYRO_VAE_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYRO_VAE_ZOO_DATA", raising=False)
    return tmp_path / "cache"


def fails(error, *words):
    """`pytest.raises` for one line that holds all the words."""

    ahead = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(error, match=rf"\A{ahead}.*\Z")


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def publish(monkeypatch, key, data, **changes):
    """Let `data` be the published content of the files of a source."""
    source = _sources.SOURCES[key]
    digests = {
        name: f"md5:{hashlib.md5(data).hexdigest()}"
        if name.endswith(".gz")
        else sha256(data)
        for name in source.files
    }
    changes = {"files": digests, **changes}
    monkeypatch.setitem(_sources.SOURCES, key, dataclasses.replace(source, **changes))
    return _sources.SOURCES[key]


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- a user's tensors -------------------------------------------------------


def bits(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5


def test_users_tensors():
    data = Dataset(bits(6, 3, 2), bits(2, 3, 2).numpy(), bits(1, 3, 2).double())
    assert data.event_shape == (3, 2)
    assert (data.name, data.likelihood, data.dynamic) == ("custom", "bernoulli", False)
    assert data.variant == "user's tensors, 6/2/1"
    assert {x.dtype for x in (data.train, data.valid, data.test)} == {torch.float32}
    assert data.epoch(0, 1) is data.train
    assert torch.equal(data.to("cpu").train, data.train)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6), ">f8"),
        np.zeros((4, 6), np.longdouble),
        np.zeros((8, 6), bool)[::-2],
        np.broadcast_to(np.float16(1), (4, 6)),
        np.zeros((4, 6), np.int64),
    ],
    ids=["big-endian", "long double", "strided", "read-only", "int64"],
)
def test_any_numpy_layout_is_accepted(array):
    assert Dataset(array, array, array).train.dtype == torch.float32


def test_colour_is_turned_to_channels_first():
    x = torch.rand(4, 5, 6, 3)
    data = Dataset(x, x, x, "gaussian")
    assert data.event_shape == (3, 5, 6)
    assert torch.equal(data.train[:, 1], x[..., 1])
    assert check_images(x, (3, 5, 6), "gaussian").shape == (4, 3, 5, 6)
    assert check_images(x, (5, 6, 3), "gaussian").shape == x.shape


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 6, 1), (5, 6)),
        ((1, 5, 6), (1, 5, 6)),  # channels are first
        ((3, 5, 1), (3, 5, 1)),  # colours of a line
        ((6, 1, 1), (6, 1, 1)),
        ((5, 6, 4), (5, 6, 4)),  # which may be five channels of 6 x 4
    ],
)
def test_grey_has_no_channel_if_it_comes_last(shape, expected):
    x = torch.rand(9, *shape)
    data = Dataset(x, likelihood="gaussian", standardise=True)
    assert data.event_shape == expected
    both = Dataset(x.reshape(9, *expected), x, x, "gaussian")
    assert torch.equal(both.train, both.test)


def test_grey_is_standardised_as_a_whole():
    data = Dataset(torch.rand(9, 5, 6, 1), likelihood="gaussian", standardise=True)
    assert data.standardisation.mean.shape == (1, 1)


def test_a_pair_of_images_with_a_last_channel_takes_them_with_and_without():
    x = torch.rand(4, 5, 6)
    for given in (x, x[..., None]):
        checked = check_images(given, (5, 6, 1), "gaussian")
        assert torch.equal(checked, x[..., None])
        assert torch.equal(check_images(given, (5, 6), "gaussian"), x)


def test_uint8_grey_levels_are_divided_by_255():
    x = torch.arange(256, dtype=torch.uint8).reshape(8, 32)
    data = Dataset(x, x, x / 255, "discretized_logistic")
    assert data.train.max() == 1
    assert torch.equal(data.train, data.test)
    assert Dataset(x, bits(2, 32), bits(2, 32), dynamic=True).train.max() == 1


@pytest.mark.parametrize(
    ("train", "likelihood", "words"),
    [
        ([[0.0, 1.0]], "bernoulli", ["train", "tensor or numpy array", "list"]),
        (torch.zeros(3), "bernoulli", ["train", "no event dimension", "(3,)"]),
        (torch.zeros(0, 4), "bernoulli", ["train", "empty", "(0, 4)"]),
        (torch.zeros(3, 5), "bernoulli", ["valid", "(N, 5)", "got (2, 4)"]),
        (torch.zeros(3, 4) * 1j, "gaussian", ["train", "complex64"]),
        (np.full((3, 4), "a"), "gaussian", ["train", "<U1"]),
        (torch.full((3, 4), torch.nan), "bernoulli", ["train", "12 NaN", "of 12"]),
        (torch.full((3, 4), -torch.inf), "gaussian", ["train", "12 NaN or infinite"]),
        (
            torch.full((3, 4), 0.25),
            "bernoulli",
            ["train has grey pixels", "only 0 and 1", "[0.25, 0.25]", "binarise"]
            + ["'gaussian'", "'discretized_logistic'", "dynamic=True"],
        ),
        (torch.full((3, 4), 2), "bernoulli", ["[2, 2]"]),
        (
            torch.full((3, 4), 255.0),
            "discretized_logistic",
            ["train", "[0, 1]", "[255, 255]", "divide by 255"],
        ),
        (
            torch.tensor([[0.0, 1.0, 0.5, 1 / 255]]),
            "discretized_logistic",
            ["1 of 4", "grid"],
        ),
        (torch.zeros(3, 4), "weibull", ["'weibull'", "'bernoulli'", "'gaussian'"]),
    ],
)
def test_what_is_wrong_with_a_users_tensors(train, likelihood, words):
    with fails(UserError, *words):
        Dataset(train, torch.zeros(2, 4), torch.zeros(2, 4), likelihood)


def test_dynamic_needs_probabilities_and_a_bernoulli():
    binary, grey = torch.zeros(2, 4), torch.full((2, 4), 0.5)
    with fails(UserError, "dynamic=True", "'gaussian'"):
        Dataset(grey, binary, binary, "gaussian", dynamic=True)
    with fails(UserError, "train", "probabilities in [0, 1]", "[2, 2]"):
        Dataset(grey * 4, binary, binary, dynamic=True)
    with fails(UserError, "test", "probabilities in [0, 1]", "[2, 2]"):
        Dataset(grey, binary, grey * 4, dynamic=True)


def test_check_images_hints_at_the_cause():
    with fails(UserError, "x: expected shape (N, 2, 3), got (2, 3)", "x[None]"):
        check_images(torch.zeros(2, 3), (2, 3), "bernoulli")
    with fails(UserError, "(N, 6), got (6,)", "x[None]"):
        check_images(torch.zeros(6), (6,), "bernoulli")
    with fails(UserError, "images: expected", "reshape to (-1, 2, 3)"):
        check_images(torch.zeros(4, 6), (2, 3), "bernoulli", "images")
    x = torch.zeros(4, 6, dtype=torch.float64)
    assert check_images(x, (6,), "bernoulli") is x  # float64 stays


# --- digits, dynamic sets, names --------------------------------------------


def test_digits_are_counts_in_the_order_of_their_bits():
    counts, bits = load_dataset("digits"), load_dataset("digits_binary")
    assert (counts.likelihood, counts.largest) == ("binomial", 16)
    for split in ("train", "valid", "test"):
        x, drawn = getattr(counts, split), getattr(bits, split)
        assert x.shape == drawn.shape
        assert not drawn[x == 0].any()
        assert drawn[x == 16].all()
        assert torch.equal(counts.labels[split], bits.labels[split])
    assert int(counts.train.sum()) == 404712
    assert create("iaf", counts).config["options"]["total_count"] == 16


def test_digits_need_no_file_and_never_change():
    data, again = load_dataset("digits_binary"), load_dataset("digits_binary")
    assert [len(x) for x in (data.train, data.valid, data.test)] == [1297, 250, 250]
    assert data.event_shape == (8, 8)
    assert torch.equal(data.train, again.train)
    assert torch.equal(data.test, again.test)
    assert set(data.train.unique().tolist()) == {0.0, 1.0}
    whole = torch.cat([data.train, data.valid, data.test])
    from sklearn.datasets import load_digits

    assert whole.mean().item() == pytest.approx(
        load_digits().images.mean() / 16, abs=3e-3
    )
    assert int(data.train.sum()) == 25198  # a changed stream would show here


def test_dynamic_epochs_depend_on_seed_and_epoch_alone():
    grey = torch.rand(50, 4, 4)
    data = Dataset(grey, bits(2, 4, 4), bits(2, 4, 4), dynamic=True)
    state = torch.get_rng_state()
    first = data.epoch(0, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    torch.manual_seed(5)
    assert torch.equal(data.epoch(0, 1), first)
    assert not torch.equal(data.epoch(0, 2), first)
    assert not torch.equal(data.epoch(1, 1), first)
    assert torch.equal(data.train, grey)


def test_dynamic_epochs_average_to_the_grey_levels():
    grey = torch.rand(10, 5)
    grey[0], grey[1] = 0, 1
    data = Dataset(grey, bits(2, 5), bits(2, 5), dynamic=True)
    mean = torch.stack([data.epoch(3, e) for e in range(2000)]).mean(0)
    assert torch.equal(mean[:2], grey[:2])
    assert (mean - grey).abs().max() < 5 * 0.5 / 2000**0.5


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_grey_levels_to_judge_by_are_drawn_once(dtype):
    grey = np.linspace(0, 1, 5, dtype=np.float32) * np.ones((400, 1), np.float32)
    given = (grey * 255).astype(dtype) if dtype == np.uint8 else grey
    data, again = (Dataset(given, given, given, dynamic=True) for _ in range(2))
    assert data.train.max() == 1
    assert data.train.unique().numel() == 5
    for split in ("valid", "test"):
        x = getattr(data, split)
        assert set(x.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(x, getattr(again, split))
        assert (x.mean(0) - torch.from_numpy(grey[0])).abs().max() < 5 * 0.5 / 400**0.5
    assert not torch.equal(data.valid, data.test)


def test_bits_to_judge_by_are_what_they_are():
    grey, x = torch.rand(50, 4), bits(8, 4)
    data, shares = Dataset(grey, x, grey, dynamic=True), Dataset(grey, x, dynamic=True)
    assert torch.equal(data.valid, x.float())
    assert torch.equal(shares.valid, x.float())
    assert set(data.test.unique().tolist()) == {0.0, 1.0}


@pytest.mark.gpu
def test_dynamic_epochs_are_drawn_on_the_gpu():
    data = Dataset(torch.rand(50, 4), bits(2, 4), bits(2, 4), dynamic=True).to("cuda")
    state = torch.cuda.get_rng_state()
    first = data.epoch(0, 1)
    assert first.device.type == data.test.device.type == "cuda"
    assert torch.equal(data.epoch(0, 1), first)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_unknown_names_get_a_suggestion():
    with fails(UserError, "'mnist-static'", "did you mean 'mnist_static'?", "digits"):
        load_dataset("mnist-static")
    with fails(UserError, "'zzz'; known: digits", ".npz"):
        load_dataset("zzz")
    assert {"digits", "mnist_dynamic", "frey_faces"} <= set(list_datasets())


# --- published files --------------------------------------------------------


@pytest.fixture
def amat(tmp_path, monkeypatch):
    """Small fakes of Larochelle's files; returns the pixels of each split."""
    random, splits = np.random.RandomState(1), {}
    for split, rows in (("train", 7), ("valid", 3), ("test", 2)):
        pixels = splits[split] = random.randint(0, 2, (rows, 784))
        text = "".join(" ".join(map(str, row)) + "\n" for row in pixels).encode()
        key = f"binarized_mnist/{split}"
        publish(monkeypatch, key, text, shape=(rows, 784))
        put(tmp_path / f"binarized_mnist/binarized_mnist_{split}.amat", text)
    return splits


def same(data, splits):
    return all(
        np.array_equal(getattr(data, split).flatten(1), pixels)
        for split, pixels in splits.items()
    )


def test_amat_is_parsed_once_and_cached(amat, tmp_path, cache, monkeypatch):
    assert same(load_dataset("mnist_static", tmp_path), amat)
    assert len(list(cache.rglob("*.npz"))) == 3
    with monkeypatch.context() as patch:
        patch.setattr(_files, "read", lambda *_: pytest.fail("parsed again"))
        data = load_dataset("mnist_static", tmp_path)
    assert same(data, amat)
    assert data.event_shape == (28, 28)
    assert data.variant == "static binarisation (Larochelle), 7/3/2"
    monkeypatch.setenv("PYRO_VAE_ZOO_DATA", str(tmp_path))
    assert same(load_dataset("mnist_static"), amat)


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_a_corrupt_cache_is_rebuilt(amat, tmp_path, cache, damage):
    load_dataset("mnist_static", tmp_path)
    for file in cache.rglob("*.npz"):
        data = bytearray(file.read_bytes())
        data[-400] ^= 1 if damage == "flip" else 0
        file.write_bytes({"cut": data[:200], "flip": data, "text": b"x"}[damage])
    assert same(load_dataset("mnist_static", tmp_path), amat)
    assert not list(cache.rglob("*.tmp"))


def test_a_changed_source_is_parsed_again(amat, tmp_path):
    load_dataset("mnist_static", tmp_path)
    path = tmp_path / "binarized_mnist/binarized_mnist_test.amat"
    os.utime(path, (1, 1))
    put(path, path.read_bytes().replace(b"0 1", b"1 0"))
    with fails(DataFileError, str(path), "wrong checksum"):
        load_dataset("mnist_static", tmp_path)


def test_an_unwritable_cache_is_done_without(amat, tmp_path, cache):
    cache.write_text("a file where the folder should be")
    assert same(load_dataset("mnist_static", tmp_path), amat)


def test_truncated_and_wrong_amat(amat, tmp_path):
    path = tmp_path / "binarized_mnist/binarized_mnist_valid.amat"
    text = path.read_bytes()
    put(path, text[:-10])
    size = f"expected {len(text)} bytes, got {len(text) - 10}"
    with fails(DataFileError, str(path), size, "truncated"):
        load_dataset("mnist_static", tmp_path)
    put(path, text[:-2] + b"7\n")
    with fails(DataFileError, str(path), "wrong checksum"):
        load_dataset("mnist_static", tmp_path)


def idx_file(images):
    header = np.array([2051, *images.shape], ">i4")
    return header.tobytes() + images.tobytes()


@pytest.fixture
def idx(tmp_path, monkeypatch):
    """Full-sized MNIST and Fashion-MNIST whose image i is grey level i % 256."""
    levels = {}
    for split, rows in (("train", 60000), ("t10k", 10000)):
        levels[split] = (np.arange(rows) % 256).astype(np.uint8)
        images = np.repeat(levels[split], 784).reshape(-1, 28, 28)
        images[:, 0, 1] = 255  # first row, second column: shows a transpose
        data = idx_file(images)
        put(tmp_path / f"MNIST/raw/{split}-images-idx3-ubyte", data)
        publish(monkeypatch, f"MNIST/{'test' if split == 't10k' else split}", data)
        publish(
            monkeypatch, f"FashionMNIST/{'test' if split == 't10k' else split}", data
        )
        packed = gzip.compress(data, 1)
        put(tmp_path / f"FashionMNIST/raw/{split}-images-idx3-ubyte.gz", packed)
    return levels


@pytest.mark.parametrize("folder", quick(["mnist", "fashion"], "fashion"))
def test_idx_readings(idx, tmp_path, folder):
    grey = torch.from_numpy(idx["train"]) / 255
    data = load_dataset(f"{folder}_gray", tmp_path)
    assert data.likelihood == "gaussian"
    assert data.train.shape == (50000, 28, 28)
    assert torch.equal(data.train[:, 5, 5], grey[:50000])
    assert torch.equal(data.valid[:, 5, 5], grey[50000:])
    assert (data.train[:, 0, 1] == 1).all()

    data = load_dataset(f"{folder}_dynamic", tmp_path)
    assert data.dynamic
    assert data.likelihood == "bernoulli"
    assert torch.equal(data.train[:, 5, 5], grey[:50000])
    assert data.valid.unique().tolist() == data.test.unique().tolist() == [0, 1]
    assert data.valid.mean().item() == pytest.approx(grey[50000:].mean().item(), 0.01)
    assert "seed 777" in data.variant
    again = load_dataset(f"{folder}_dynamic", tmp_path)
    assert torch.equal(again.test, data.test)


def test_mnist_threshold(idx, tmp_path):
    data = load_dataset("mnist_threshold", tmp_path)
    assert data.variant == "threshold, grey > 0.5, 48000/12000/10000"
    assert torch.equal(data.test[:256, 5, 5], (torch.arange(256) >= 128).float())


def test_broken_idx_files_are_named(idx, tmp_path):
    for folder, suffix in (("MNIST", ""), ("FashionMNIST", ".gz")):
        path = tmp_path / f"{folder}/raw/t10k-images-idx3-ubyte{suffix}"
        put(path, path.read_bytes()[:-1000])
        name = "mnist_gray" if folder == "MNIST" else "fashion_gray"
        with fails(DataFileError, str(path), "truncated"):
            load_dataset(name, tmp_path)
    plain = path.with_suffix("")
    whole = idx_file(np.zeros((10000, 28, 28), np.uint8))
    for content in (whole[:-1], whole, idx_file(np.zeros((5, 28, 28), np.uint8)), b""):
        put(plain, content)
        with fails(DataFileError, str(plain), "wrong checksum", "truncated"):
            load_dataset("fashion_gray", tmp_path)


def mat_file(**arrays):
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def test_caltech_is_inverted_and_transposed(tmp_path, monkeypatch):
    image = np.ones((28, 28), np.uint8)  # ground 1, the object 0
    image[2, 9] = 0
    rows = np.tile(image.reshape(1, -1, order="F"), (4, 1))
    data = mat_file(train_data=rows, val_data=rows[:2], test_data=rows[:1])
    publish(monkeypatch, "caltech_silhouettes", data)
    path = put(tmp_path / "caltech101_silhouettes_28_split1.mat", data)
    loaded = load_dataset("caltech_silhouettes", tmp_path)
    assert loaded.variant == "inverted and transposed, 4/2/1"
    assert loaded.train[0].nonzero().tolist() == [[2, 9]]
    put(path, data[:-1])
    with fails(DataFileError, str(path), "wrong checksum"):
        load_dataset("caltech_silhouettes", tmp_path)
    data = mat_file(train_data=rows, test_data=rows)
    publish(monkeypatch, "caltech_silhouettes", put(path, data).read_bytes())
    with fails(DataFileError, str(path), "'val_data'", "'train_data', 'test_data'"):
        load_dataset("caltech_silhouettes", tmp_path)


def test_frey_faces_from_either_file(tmp_path, monkeypatch):
    faces = np.random.RandomState(0).randint(0, 256, (1965, 560), np.uint8)
    put(tmp_path / "mat/frey_rawface.mat", mat_file(ff=faces.T))
    data = load_dataset("frey_faces", tmp_path / "mat")
    assert data.likelihood == "discretized_logistic"
    assert data.event_shape == (28, 20)
    assert data.variant.endswith("1565/200/200")
    order = lambda x: x[np.lexsort(x.T)]
    whole = torch.cat([data.train, data.valid, data.test]).flatten(1)
    assert np.array_equal(order((whole * 255).round().numpy()), order(faces))

    file = io.BytesIO()
    np.save(file, faces)
    digests = {"freyfaces.npy": sha256(file.getvalue()), "frey_rawface.mat": ""}
    publish(monkeypatch, "frey_faces", b"", files=digests)
    path = put(tmp_path / "npy/freyfaces.npy", file.getvalue())
    same = load_dataset("frey_faces", path.parent)
    assert torch.equal(same.train, data.train)
    put(path, file.getvalue()[:-1])
    with fails(DataFileError, str(path), "wrong checksum"):
        load_dataset("frey_faces", path.parent)
    path = put(tmp_path / "bad/frey_rawface.mat", b"<html>moved</html>")
    with fails(DataFileError, str(path), "not a MATLAB file"):
        load_dataset("frey_faces", path.parent)
    put(path, mat_file(ff=faces[:5].T))
    with fails(DataFileError, str(path), "(1965, 560)", "(5, 560)"):
        load_dataset("frey_faces", path.parent)


# --- downloads --------------------------------------------------------------


class Answer(io.BytesIO):
    """What `urlopen` returns: a stream with headers."""

    def __init__(self, data, length):
        super().__init__(data)
        self.headers = {"Content-Length": str(length)} if length is not None else {}


def serve(monkeypatch, answers):
    """Serve `answers` in turn, each bytes, (bytes, length) or an error."""
    asked, answers = [], iter(answers)

    def urlopen(url, timeout):
        asked.append(url)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return Answer(*answer if isinstance(answer, tuple) else (answer, len(answer)))

    monkeypatch.setattr(_files, "urlopen", urlopen)
    return asked


def test_a_missing_file_is_downloaded_and_checked(tmp_path, monkeypatch, cache):
    source = publish(monkeypatch, "MNIST/train", b"good")
    asked = serve(monkeypatch, [OSError("down"), (b"good", None)])
    path = _files.find(source, tmp_path / "data")
    assert asked == list(source.urls)
    assert path == tmp_path / "data/MNIST/raw/train-images-idx3-ubyte.gz"
    assert path.read_bytes() == b"good"
    assert _files.find(source, tmp_path / "data") == path
    assert len(asked) == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((b"goo", 4), ["truncated", "expected 4 bytes, got 3"]),
        (b"evil", ["wrong checksum"]),
        (TimeoutError("timed out"), ["TimeoutError: timed out"]),
    ],
    ids=["truncated", "checksum", "timeout"],
)
def test_a_failed_download_says_where_to_get_the_file(
    tmp_path, monkeypatch, cache, answer, words
):
    source = publish(monkeypatch, "binarized_mnist/train", b"good")
    serve(monkeypatch, [answer])
    name = "binarized_mnist/binarized_mnist_train.amat"
    words += [name, str(tmp_path / "data"), str(cache), source.urls[0]]
    words += [f"put it at {tmp_path / 'data' / name}", "`--data digits`"]
    with fails(DataFileError, *words):
        load_dataset("mnist_static", tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_a_download_goes_to_the_cache_if_the_data_folder_is_read_only(
    tmp_path, monkeypatch, cache
):
    source = publish(monkeypatch, "frey_faces", b"good")
    blocked = put(tmp_path / "blocked", b"a file where the folder should be")
    serve(monkeypatch, [b"good"])
    assert _files.find(source, blocked) == cache / "frey_rawface.mat"
    (cache / "frey_rawface.mat").unlink()
    cache.rmdir()
    cache.write_text("")
    serve(monkeypatch, [b"good"])
    with fails(DataFileError, str(blocked), "cannot be written"):
        _files.find(source, blocked)


def test_addresses_and_digests_are_torchvisions():
    from torchvision import datasets

    for kind in (datasets.MNIST, datasets.FashionMNIST):
        known = dict(kind.resources)
        for split in ("train", "test"):
            source = _sources.SOURCES[f"{kind.__name__}/{split}"]
            name, digest = list(source.files.items())[-1]
            file = os.path.basename(name)
            assert digest == f"md5:{known[file]}"
            assert {url.removesuffix(file) for url in source.urls} <= set(kind.mirrors)


# --- real numbers: CIFAR-10, dequantised -------------------------------------


def cifar_part(tmp_path, n=40, **changes):
    """A small `cifar10_20k.npz` of random grey levels, every level among them."""
    levels = np.random.RandomState(0).randint(0, 256, (n, 32, 32, 3)).astype(np.uint8)
    splits = np.split(levels, [n // 2, 3 * n // 4])
    arrays = dict(zip(("train", "valid", "test"), splits, strict=True)) | changes
    arrays = {key: x for key, x in arrays.items() if x is not None}
    np.savez(tmp_path / "cifar10_20k.npz", **arrays)
    return arrays


def test_cifar10_is_dequantised_without_loss(tmp_path):
    arrays = cifar_part(tmp_path)
    data = load_dataset("cifar10", tmp_path)
    assert (data.event_shape, data.likelihood) == ((3, 32, 32), "gaussian")
    assert data.variant == (
        "part of CIFAR-10 (cifar10_20k.npz), uniform dequantisation (train redrawn "
        "every epoch), logit 0.05, 20/10/10"
    )
    for split, y in (
        ("train", data.epoch(0, 0)), ("valid", data.valid), ("test", data.test)
    ):  # fmt: skip
        assert y.isfinite().all()
        levels = (data.pixels(y) * 256).floor().clamp(max=255)
        expected = torch.from_numpy(arrays[split]).permute(0, 3, 1, 2).float()
        # float32 keeps the logit to 1e-7: levels whose noise is next to 0 or 1.
        assert (levels != expected).float().mean() < 1e-3
        assert (levels - expected).abs().max() <= 1


def test_dequantisation_noise_is_uniform_and_redrawn(tmp_path):
    cifar_part(tmp_path)
    data = load_dataset("cifar10", tmp_path)
    one, again, other = data.epoch(3, 1), data.epoch(3, 1), data.epoch(3, 2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(load_dataset("cifar10", tmp_path).test, data.test)
    noise = data.pixels(one).double() * 256 - (data.train.double() * 255).round()
    noise = noise.flatten().sort().values
    ranks = torch.linspace(0, 1, len(noise)).double()
    # Kolmogorov and Smirnov: beyond 2 / sqrt(n) once in a thousand.
    assert (noise - ranks).abs().max() < 2 / len(noise) ** 0.5


def test_bits_per_dim_count_the_jacobian():
    """A density of the levels' plane, taken to the logit space by autograd."""
    p = torch.distributions.Beta(2.0, 3.0)
    v = p.sample((500, 1, 2)).double()
    y = (0.05 + 0.9 * v).logit().requires_grad_()
    (slope,) = torch.autograd.grad(((y.sigmoid() - 0.05) / 0.9).sum(), y)
    log_prob = p.log_prob(v) + slope.log()  # of y
    expected = 8 - p.log_prob(v).mean() / np.log(2)  # of 256 v, in bits
    data = Dataset(*[torch.rand(3, 1, 2)] * 3, "gaussian", logit=0.05)
    nats = log_prob.sum((1, 2)).mean().item()
    assert data.bits_per_dim(nats, y.detach()) == pytest.approx(expected.item())
    plain = Dataset(*[torch.rand(3, 1, 2)] * 3, "gaussian")
    assert plain.bits_per_dim(-2 * np.log(2), y) == pytest.approx(1.0)


def test_the_first_images_keep_the_rest(tmp_path):
    cifar_part(tmp_path)
    data = load_dataset("cifar10", tmp_path)
    few = data.first(5)
    assert torch.equal(few.train, data.train[:5])
    assert torch.equal(few.test, data.test)
    assert few.variant.endswith("5/10/10")
    assert len(data.train) == 20
    for n in (0, 21):
        with fails(UserError, f"expected 1 to 20 training data of cifar10, got {n}"):
            data.first(n)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"valid": None}, ["expected an array", "valid"]),
        ({"test": np.zeros((3, 32, 32), np.uint8)}, ["(N, 32, 32, 3)", "(3, 32, 32)"]),
        ({"test": np.zeros((3, 32, 32, 3))}, ["uint8", "float64"]),
    ],
)
def test_what_is_wrong_with_a_part_of_cifar10(tmp_path, changes, words):
    cifar_part(tmp_path, **changes)
    with fails(DataFileError, "cifar10_20k.npz", *words):
        load_dataset("cifar10", tmp_path)


class FakeCifar:
    """In place of torchvision's: images where the folder is, else no network."""

    def __init__(self, root, train, download=False):
        folder = os.path.join(root, "cifar-10-batches-py")
        if not os.path.isdir(folder):
            raise OSError("no network in tests")
        if os.path.exists(os.path.join(folder, "broken")):
            raise RuntimeError("Dataset not found or corrupted.")
        self.data = np.full((6000 if train else 7, 32, 32, 3), train, np.uint8)


def test_the_full_cifar10_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeCifar)
    cifar_part(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data = load_dataset("cifar10", tmp_path)
    assert "last 5,000 training images for validation" in data.variant
    assert data.variant.endswith("1000/5000/7")
    (folder / "broken").touch()
    with fails(DataFileError, "cifar-10-batches-py", "cannot be read"):
        load_dataset("cifar10", tmp_path)


def test_without_cifar10_the_ways_out_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeCifar)
    with fails(DataFileError, "CIFAR-10 not found", "cifar-10-python.tar.gz", "digits"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("likelihood", "logit"), [("bernoulli", 0.05), ("gaussian", 0.5), ("gaussian", 0.0)]
)
def test_the_logit_needs_real_data_and_a_lambda(likelihood, logit):
    with fails(UserError, "logit", "(0, 0.5)", str(logit)):
        Dataset(*[torch.zeros(3, 4)] * 3, likelihood, logit=logit)


# --- a user's file ----------------------------------------------------------


def npz(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("dtype", "likelihood"),
    [
        (bool, "bernoulli"),
        (np.uint8, "discretized_logistic"),
        (np.float64, "gaussian"),
    ],
)
def test_npz_dtype_chooses_the_likelihood(tmp_path, dtype, likelihood):
    train = np.arange(40 * 6).reshape(40, 3, 2).astype(dtype)
    path = npz(tmp_path, train=train, test=train[:5], labels=np.array(["a"]))
    data = load_dataset(path)
    assert data.labels is None  # one, of 40 data
    assert "labels left out" in data.variant
    assert (data.name, data.likelihood) == ("mine", likelihood)
    assert [len(x) for x in (data.train, data.valid, data.test)] == [36, 4, 5]
    assert "10 % of train" in data.variant
    whole = torch.cat([data.train, data.valid]).flatten(1).sum(1).sort().values
    scale = 255 if dtype == np.uint8 else 1
    expected = np.sort((train.astype(float) / scale).sum((1, 2)))
    assert np.allclose(whole, expected)
    assert torch.equal(load_dataset(str(path)).valid, data.valid)


def test_npz_shapes_and_valid(tmp_path):
    colour = np.zeros((4, 5, 6, 3), np.uint8)
    path = npz(tmp_path, train=colour, valid=colour[:2], test=colour[:1])
    data = load_dataset(path)
    assert data.event_shape == (3, 5, 6)
    assert len(data.valid) == 2
    assert "store bool for Bernoulli" in data.variant
    rows = np.zeros((4, 7), bool)
    assert load_dataset(npz(tmp_path, train=rows, test=rows)).event_shape == (7,)


def test_arrays_of_an_npz_that_are_not_used_are_named(tmp_path):
    rows = np.zeros((4, 7), bool)
    path = npz(tmp_path, train=rows, tset=rows, labels=np.zeros(4))
    with pytest.warns(UserWarning, match="not used: 'tset'; known are 'train'"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train": np.zeros((2, 4))}, ["at least 3 data", "got 2"]),
        ({"x": np.zeros((3, 4)), "y": np.zeros(3)}, ["'x', 'y'", "missing 'train'"]),
        (
            {"train": np.zeros((3, 4)), "test": np.zeros((3, 4), bool)},
            ["train float64", "test bool"],
        ),
        (
            {"train": np.zeros((3, 4), int), "test": np.zeros((3, 4), int)},
            ["train int64", ".astype"],
        ),
        ({"train": np.zeros((0, 4)), "test": np.zeros((3, 4))}, ["at least one"]),
        ({"train": np.zeros((3, 4)), "test": np.zeros((0, 4))}, ["test", "empty"]),
        ({"train": np.zeros(3), "test": np.zeros(3)}, ["no event dimension"]),
        (
            {"train": np.full((20, 2), np.nan), "test": np.zeros((3, 2))},
            ["train", "40 NaN", "first in row 0"],
        ),
        (
            {"train": np.array([[None]] * 3), "test": np.zeros((3, 4))},
            ["cannot be read", "object arrays"],
        ),
    ],
)
def test_what_is_wrong_with_an_npz(tmp_path, arrays, words):
    path = npz(tmp_path, **arrays)
    with fails(DataFileError, str(path), *words):
        load_dataset(path)


def test_unreadable_npz(tmp_path):
    path = tmp_path / "mine.npz"
    with fails(DataFileError, str(path), "not found"):
        load_dataset(path)
    path.write_text("not a zip")
    with fails(DataFileError, str(path), "expected an .npz archive"):
        load_dataset(path)
    npz(tmp_path, train=np.zeros((90, 4)), test=np.zeros((3, 4)))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with fails(DataFileError, str(path), "cannot be read", "corrupt"):
        load_dataset(path)


# --- the real files ---------------------------------------------------------


def real(file):
    there = REAL_DATA and os.path.exists(os.path.join(REAL_DATA, file))
    return pytest.mark.skipif(
        not there, reason=f"needs {file} under $PYRO_VAE_ZOO_DATA"
    )


@real("binarized_mnist/binarized_mnist_train.amat")
def test_real_mnist_static():
    loaded = []
    for attempt in ("first", "second"):
        start = time.perf_counter()
        loaded.append(load_dataset("mnist_static", REAL_DATA))
        print(f"mnist_static, {attempt} load: {time.perf_counter() - start:.2f} s")
    data, again = loaded
    assert data.variant.endswith("50000/10000/10000")
    assert data.event_shape == (28, 28)
    first_lines = [int(x[0].sum()) for x in (data.train, data.valid, data.test)]
    assert first_lines == [123, 90, 147]
    assert torch.equal(again.train, data.train)


@real("MNIST/raw/train-images-idx3-ubyte")
def test_real_mnist():
    from torchvision import datasets

    images = datasets.MNIST(REAL_DATA, train=True).data
    data = load_dataset("mnist_gray", REAL_DATA)
    assert torch.equal((data.train * 255).round().byte(), images[:50000])
    assert torch.equal((data.valid * 255).round().byte(), images[50000:])
    data = load_dataset("mnist_threshold", REAL_DATA)
    assert torch.equal(data.valid, (images[48000:] / 255 > 0.5).float())
    data = load_dataset("mnist_dynamic", REAL_DATA)
    assert data.epoch(0, 0).mean().item() == pytest.approx(0.131, abs=1e-3)
