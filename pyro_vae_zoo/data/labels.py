"""Classes of data, for pictures and probes: no model of the zoo sees them.

Those of a user's data are whole numbers, words or truth values, and become whole numbers
from 0 with their names. Those of published data are read where their files are there.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data import download as _files
from pyro_vae_zoo.data import sources as _sources
from pyro_vae_zoo.errors import UserError

__all__ = ["Classes", "Given", "Labels", "classes_of", "labels_of", "published_classes"]

Given = Sequence[Any] | np.ndarray | Tensor

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


@dataclass(frozen=True, eq=False)
class Classes:
    """The class of each datum of a split, and the names of the classes.

    Attributes:
        values: int64 tensors `(N,)` by split, numbers of `names`.
        names: of the classes.
    """

    values: Mapping[str, Tensor]
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
    if data in ("digits", "digits_binary"):
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


def published_classes(
    data: str, data_dir: str | os.PathLike | None = None
) -> Classes | None:
    """The classes of all splits of a published set that are known.

    >>> published_classes("digits").values["test"][:4]
    tensor([8, 2, 7, 9])
    """
    found = {s: labels_of(data, s, data_dir) for s in ("train", "valid", "test")}
    known = {split: labels for split, labels in found.items() if labels is not None}
    if not known:
        return None
    values = {
        split: torch.from_numpy(labels.values.astype(np.int64))
        for split, labels in known.items()
    }
    return Classes(values, next(iter(known.values())).names)


# --- those of a user's ---------------------------------------------------------


def classes_of(
    labels: Given | Mapping[str, Given],
    rows: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    names: Sequence[str] | None = None,
) -> Classes:
    """Labels of the splits as whole numbers from 0.

    Args:
        labels: whole numbers, words or truth values, of `train` or by split.
        rows: of what was given as `train`, those of each split that was taken off it.
        sizes: of the splits that were given, before anything was taken off.
        names: of the classes; the labels are then among them, or their numbers. By
            default all that occur, in their order.

    Raises:
        UserError: for labels of another number or kind, and where there is one class.

    >>> found = classes_of(["b", "a", "b"], {}, {"train": 3})
    >>> found.values["train"], found.names
    (tensor([1, 0, 1]), ('a', 'b'))
    """
    by_split = labels if isinstance(labels, Mapping) else {"train": labels}
    arrays = {}
    for split, given in by_split.items():
        if split not in sizes:
            raise UserError(
                f"labels: expected labels of {', '.join(sizes)}, got some of "
                f"{split!r}; a split that is taken off train takes its labels from "
                "those of train"
            )
        arrays[split] = _array(given, f"labels of {split}", sizes[split])
    truth = all(np.isin(values, ["True", "False"]).all() for values in arrays.values())
    if names is not None and truth and not {"True", "False"} & {*names}:
        arrays = {s: (a == "True").astype(np.int64) for s, a in arrays.items()}
    kinds = {values.dtype.kind.replace("u", "i") for values in arrays.values()}
    if len(kinds) > 1:
        raise UserError("labels: expected words or numbers in all splits, got both")
    every = np.unique(np.concatenate([*arrays.values()]))
    if len(every) < 2:
        raise UserError(
            f"labels: expected at least two classes, got only {str(every[0])!r}; if "
            "there are no classes, leave labels out"
        )
    if names is None:
        names = [str(value) for value in every.tolist()]
    elif twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise UserError(
            f"label_names: expected one for each class, got {twice[0]!r} twice"
        )
    elif kinds == {"U"}:
        every = np.array([*names])
    else:
        every = np.arange(len(names))
    values = {
        split: _numbers(array, every, f"labels of {split}", names)
        for split, array in arrays.items()
    }
    if "train" in values and rows:
        whole = values["train"]
        values |= {split: whole[torch.from_numpy(r)] for split, r in rows.items()}
    return Classes(values, tuple(map(str, names)))


def _array(given: Given, what: str, size: int) -> np.ndarray:
    """Labels as an array of whole numbers or words."""
    if isinstance(given, str):
        raise UserError(
            f"{what}: expected the class of each datum, got {given!r}; a likelihood is "
            f"given as likelihood={given!r}"
        )
    given = given.cpu().numpy() if isinstance(given, Tensor) else given
    array = given if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
    if array.shape != (size,):
        raise UserError(
            f"{what}: expected {size}, one for each datum, got shape {array.shape}"
        )
    if np.ma.getmaskarray(array).any():
        row = int(np.ma.getmaskarray(array).argmax())
        raise UserError(f"{what}: row {row} is masked; leave out data without a label")
    array = np.asarray(array)
    if array.dtype.kind == "O":
        return _of_objects(array, what)
    if array.dtype.kind == "b":
        return array.astype(str)
    if array.dtype.kind not in "iuU":
        raise UserError(
            f"{what}: expected whole numbers or words, got {array.dtype}; convert "
            "classes that are stored as real numbers by .astype(int)"
        )
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def _of_objects(array: np.ndarray, what: str) -> np.ndarray:
    """Words, or whole numbers of Python, out of an array of anything."""
    values = array.tolist()
    for row, value in enumerate(values):
        if not isinstance(value, str | int):
            raise UserError(
                f"{what}: expected a word or whole number in row {row}, got {value!r}; "
                "leave out data without a label"
            )
    if len({isinstance(value, str) for value in values}) > 1:
        raise UserError(f"{what}: expected words or numbers, got both")
    return np.array(list(map(str, values)) if type(values[0]) is bool else values)


def _numbers(
    array: np.ndarray, every: np.ndarray, what: str, names: Sequence[str]
) -> Tensor:
    """The number of each label among all of them."""
    order = every.argsort(kind="stable")
    place = np.searchsorted(every, array, sorter=order).clip(max=len(every) - 1)
    numbers = order[place]
    if (wrong := every[numbers] != array).any():
        row = int(wrong.argmax())
        raise UserError(
            f"{what}: expected one of the {len(names)} classes, got "
            f"{array[row].item()!r} in row {row}"
        )
    return torch.from_numpy(numbers.astype(np.int64))
