"""Classes of published data, for pictures: no model of the zoo sees them."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pyro_vae_zoo.data import download as _files
from pyro_vae_zoo.data import sources as _sources

__all__ = ["Labels", "labels_of"]

_CLOTHES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_DIGITS = tuple(map(str, range(10)))


@dataclass(frozen=True)
class Labels:
    """The class of each datum of a split, and the names of the classes."""

    values: np.ndarray
    names: tuple[str, ...]


def labels_of(
    data: str, split: str, data_dir: str | os.PathLike | None = None
) -> Labels | None:
    """The classes of a split of a data set by its name, in the order of its images.

    None where none are known, or the file that has them is not there: they are not
    downloaded for the sake of a picture.

    Raises:
        DataFileError: for a file that is not what it should be.

    >>> labels_of("digits", "test").values[:8]
    array([8, 2, 7, 9, 3, 0, 3, 6])
    """
    if data == "digits":
        return Labels(_digits(split), _DIGITS)
    if data == "mnist_static" and split == "test":
        # Larochelle's are the published test images, sorted by their class.
        labels = _idx_labels("MNIST", "test", 0, data_dir)
        if labels is None:
            return None
        return Labels(np.sort(labels.values), labels.names)
    read = _IDX.get(data)
    return None if read is None else read(split=split, data_dir=data_dir)


def _digits(split: str) -> np.ndarray:
    from sklearn.datasets import load_digits

    random = np.random.RandomState(0)
    random.random_sample((1797, 8, 8))  # the binarisation's, which is drawn first
    target = load_digits().target[random.permutation(1797)]
    parts = np.split(target, [1297, 1547])
    return dict(zip(("train", "valid", "test"), parts, strict=True))[split]


def _idx_labels(
    folder: str, split: str, num_valid: int, data_dir: str | os.PathLike | None
) -> Labels | None:
    prefix, rows = ("t10k", 10000) if split == "test" else ("train", 60000)
    path = _labels_file(folder, f"{prefix}-labels-idx1-ubyte", data_dir)
    if path is None:
        return None
    data = _files.contents(path, rows + 4096)
    header = np.array([2049, rows], ">i4").tobytes()
    if not data.startswith(header) or len(data) != len(header) + rows:
        raise _files.broken(path, f"expected {rows} labels in MNIST's format")
    values = np.frombuffer(data, np.uint8, offset=len(header))
    parts = {"train": values[:-num_valid], "valid": values[-num_valid:], "test": values}
    return Labels(parts[split], _CLOTHES if folder == "FashionMNIST" else _DIGITS)


def _labels_file(
    folder: str, file: str, data_dir: str | os.PathLike | None
) -> Path | None:
    names = [f"{folder}/raw/{file}", f"{folder}/raw/{file}.gz"]
    if folder == "FashionMNIST":
        names.append(f"fashion-mnist/{file}.gz")  # Debian's
    folders = _sources.data_folders(data_dir)
    paths = (f / name for f in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


_IDX = {
    f"{data}_{reading}": partial(_idx_labels, folder, num_valid=num_valid)
    for data, folder in (("mnist", "MNIST"), ("fashion", "FashionMNIST"))
    for reading, num_valid in (
        ("dynamic", 10000),
        ("gray", 10000),
        ("threshold", 12000),
    )
}
