"""How the published data sets are made of their files.

All splits and draws are fixed: numpy's `RandomState`, whose stream never changes.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pyro_vae_zoo.data import sources as _sources

__all__ = ["PUBLISHED"]

Make = Callable[..., Any]  # `Dataset`, which reads these sets and is not known here
Folder = str | os.PathLike | None


def _digits(make: Make, name: str, data_dir: Folder, *, binary: bool = False) -> Any:
    from sklearn.datasets import load_digits

    random = np.random.RandomState(0)
    counts = load_digits().images
    # Drawn for both sets: the permutation after it is the same.
    bits = random.random_sample(counts.shape) < counts / 16
    x = (bits if binary else counts)[random.permutation(len(counts))]
    train, valid, test = np.split(x, [1297, 1547])
    if binary:
        note = "one Bernoulli draw from intensities/16"
        return make(train, valid, test, name=name, note=note)
    note = "pixels set of the 16 in each cell of a scan"
    return make(train, valid, test, "binomial", name, note=note)


def _mnist_static(make: Make, name: str, data_dir: Folder) -> Any:
    train, valid, test = (
        _sources.amat(f"binarized_mnist/{split}", data_dir).reshape(-1, 28, 28)
        for split in ("train", "valid", "test")
    )
    note = "static binarisation (Larochelle)"
    return make(train, valid, test, name=name, note=note)


def _idx(
    make: Make,
    name: str,
    data_dir: Folder,
    *,
    folder: str,
    reading: str,
    num_valid: int = 10000,
) -> Any:
    train = _sources.idx(f"{folder}/train", data_dir)
    test = _sources.idx(f"{folder}/test", data_dir)
    train, valid = train[:-num_valid], train[-num_valid:]
    if reading == "threshold":
        train, valid, test = (x > 127 for x in (train, valid, test))
        return make(train, valid, test, name=name, note="threshold, grey > 0.5")
    train, valid, test = (x / np.float32(255) for x in (train, valid, test))
    if reading == "gray":
        note = "grey levels k/255"
        return make(train, valid, test, "gaussian", name, note=note)
    random = np.random.RandomState(777)
    valid, test = (random.random_sample(x.shape) < x for x in (valid, test))
    note = "train redrawn every epoch, valid and test drawn once (seed 777)"
    return make(train, valid, test, name=name, dynamic=True, note=note)


def _caltech(make: Make, name: str, data_dir: Folder) -> Any:
    train, valid, test = (
        (1 - columns_first.reshape(-1, 28, 28)).swapaxes(1, 2)
        for columns_first in _sources.caltech(data_dir)
    )
    return make(train, valid, test, name=name, note="inverted and transposed")


def _frey(make: Make, name: str, data_dir: Folder) -> Any:
    faces = _sources.frey(data_dir)
    order = np.random.RandomState(0).permutation(len(faces))
    train, valid, test = np.split(faces[order].reshape(-1, 28, 20), [-400, -200])
    note = "grey levels k/255, fixed shuffle (seed 0)"
    return make(train, valid, test, "discretized_logistic", name, note=note)


def _cifar10(make: Make, name: str, data_dir: Folder) -> Any:
    (train, valid, test), note = _sources.cifar10(data_dir)
    note += ", uniform dequantisation (train redrawn every epoch)"
    return make(train, valid, test, "gaussian", name, logit=0.05, note=note)


PUBLISHED: dict[str, Callable[..., Any]] = {
    "digits": _digits,
    "digits_binary": partial(_digits, binary=True),
    "mnist_static": _mnist_static,
    "mnist_dynamic": partial(_idx, folder="MNIST", reading="dynamic"),
    "mnist_threshold": partial(
        _idx, folder="MNIST", reading="threshold", num_valid=12000
    ),
    "mnist_gray": partial(_idx, folder="MNIST", reading="gray"),
    "fashion_dynamic": partial(_idx, folder="FashionMNIST", reading="dynamic"),
    "fashion_gray": partial(_idx, folder="FashionMNIST", reading="gray"),
    "caltech_silhouettes": _caltech,
    "frey_faces": _frey,
    "cifar10": _cifar10,
}
