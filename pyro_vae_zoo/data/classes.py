"""Classes of a user's data: labels of any kind as whole numbers, with their names.

They colour pictures and feed probes. No model of the zoo sees them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError

__all__ = ["Classes", "classes_of"]

Given = Sequence[Any] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Classes:
    """The class of each datum of a split, and the names of the classes.

    Attributes:
        values: int64 tensors `(N,)` by split, numbers of `names`.
        names: of the classes.
    """

    values: Mapping[str, Tensor]
    names: tuple[str, ...]


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
                f"labels: expected those of {', '.join(sizes)}, got some of {split!r}; a "
                "split that is taken off train has its labels from there"
            )
        arrays[split] = _array(given, f"labels of {split}", sizes[split])
    kinds = {values.dtype.kind for values in arrays.values()}
    if len(kinds) > 1:
        raise UserError("labels: expected words or numbers in all splits, got both")
    every = np.unique(np.concatenate([*arrays.values()]))
    if len(every) < 2:
        raise UserError(
            f"labels: expected at least two classes, got {str(every[0])!r} alone; leave "
            "labels out where there are none"
        )
    if names is None:
        names = [str(value) for value in every.tolist()]
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
    given = given.cpu().numpy() if isinstance(given, Tensor) else given
    array = given if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
    if array.shape != (size,):
        raise UserError(f"{what}: expected {size}, one a datum, got {array.shape}")
    if np.ma.getmaskarray(array).any():
        row = int(np.ma.getmaskarray(array).argmax())
        raise UserError(f"{what}: row {row} is masked; leave out what has no label")
    array = np.asarray(array)
    if array.dtype.kind == "O":
        return _of_objects(array, what)
    if array.dtype.kind == "b":
        return array.astype(str)
    if array.dtype.kind not in "iuU":
        raise UserError(
            f"{what}: expected whole numbers or words, got {array.dtype}; classes that "
            "are stored as real numbers are converted by .astype(int)"
        )
    return array


def _of_objects(array: np.ndarray, what: str) -> np.ndarray:
    """Words, or whole numbers of Python, out of an array of anything."""
    values = array.tolist()
    for row, value in enumerate(values):
        if not isinstance(value, str | int):
            raise UserError(
                f"{what}: expected a word or whole number in row {row}, got {value!r}; "
                "leave out what has no label"
            )
    if len({isinstance(value, str) for value in values}) > 1:
        raise UserError(f"{what}: expected all of one kind, got words and numbers")
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
