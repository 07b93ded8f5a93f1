"""Where rows come from: a file's array, or a map-style data set of PyTorch's."""

import hashlib
import os
import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.errors import DataFileError, UserError, message_of, one_line

__all__ = ["ArrayFile", "Items"]


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """An array in a file, of which each row is read from its place.

    By `pread`, and not through a map in memory: a file that was cut off is an error there,
    and not the end of the process, and what was read is not counted as the process's own.

    Args:
        path: the file.
        offset: where the first row begins, in bytes.
        dtype: of the values.
        shape: of the array.
        stride: from one row to the next, in bytes.
    """

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    stride: int

    @classmethod
    def open(cls, path: str | os.PathLike) -> "ArrayFile":
        """The array of an `.npy` file.

        Raises:
            DataFileError: for a file that is missing, broken or not as long as it says.
        """
        try:
            return cls.of(np.load(path, mmap_mode="r", allow_pickle=False))
        except UserError as error:
            raise DataFileError(f"{path}: {error}") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataFileError(
                f"{path}: expected an array as np.save writes it: {message_of(error)}"
            ) from error

    @classmethod
    def of(cls, array: np.ndarray) -> "ArrayFile":
        """The file behind a mapped array, or behind rows of one.

        Raises:
            UserError: for an array that is none, and where a row does not lie together.
        """
        whole: Any = array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        if not isinstance(whole, np.memmap) or whole.filename is None:
            raise UserError(
                "expected an array that is mapped from a file, as np.load(path, "
                f"mmap_mode='r') gives, got {type(array).__name__}"
            )
        if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
            raise UserError(
                f"expected boolean, integer or floating values, got dtype {array.dtype}"
            )
        if array.ndim < 2 or not (len(array) == 0 or array[0].flags.c_contiguous):
            raise UserError(
                "expected a mapped array (N, *event_shape) whose rows are contiguous "
                f"in the file, got shape {array.shape} with strides of {array.strides} "
                "bytes; save np.ascontiguousarray of it"
            )
        start = whole.__array_interface__["data"][0]
        offset = whole.offset + array.__array_interface__["data"][0] - start
        path = Path(whole.filename).resolve()
        return cls(path, offset, array.dtype, array.shape, array.strides[0])

    @property
    def name(self) -> str:
        """The file's."""
        return self.path.name

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_descriptor"}

    def stamp(self) -> str:
        """Size of the file, and when it was changed."""
        stat = self.path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def read(self, rows: np.ndarray, key: bytes) -> Tensor:
        """The rows of these numbers, as the file has them."""
        size = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        found = np.empty((len(rows), size), np.uint8)
        together = len(rows) > 1 and self.stride == size
        if (
            together
            and rows[-1] - rows[0] == len(rows) - 1
            and (np.diff(rows) == 1).all()
        ):
            self._fill(found.data.cast("B"), int(rows[0]))
        else:
            for place, row in zip(found, rows.tolist(), strict=True):
                self._fill(place.data, row)
        values = found.view(self.dtype).reshape(len(rows), *self.shape[1:])
        if self.dtype.kind == "b":
            values = values.view(np.uint8) != 0  # whatever the bytes are
        return torch.from_numpy(values.astype(self.dtype.newbyteorder("="), copy=False))

    def _fill(self, place: memoryview, row: int) -> None:
        """Fill a place in memory with what begins at a row."""
        at, file = self.offset + row * self.stride, self._descriptor
        while place:
            got = os.preadv(file, [place[: 1 << 30]], at)
            if not got:
                raise DataFileError(
                    f"{self.path} ends before row {row} does: was it cut off, or "
                    "overwritten while it was read?"
                )
            place, at = place[got:], at + got

    @cached_property
    def _descriptor(self) -> int:
        """Of the file, open for as long as this is there."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataFileError(
                f"cannot read {self.path} ({error.strerror}): was it moved?"
            ) from error
        weakref.finalize(self, os.close, descriptor)
        return descriptor


class Items:
    """The data of a map-style data set of PyTorch's: whatever has `len` and `[i]`.

    A datum is `dataset[i]`, or the first of a tuple: a tensor, an array or an image. What
    it draws from the random states of Python, NumPy and PyTorch is a function of (seed,
    epoch, i): these are seeded before each, and are afterwards as they were.

    Args:
        dataset: the data set.
        name: what errors call it.
    """

    def __init__(self, dataset: Any, name: str | None = None) -> None:
        self.dataset = dataset
        self.name = type(dataset).__name__ if name is None else name

    def __len__(self) -> int:
        return len(self.dataset)

    def stamp(self) -> str:
        """Nothing but the values."""
        return ""

    def read(self, rows: np.ndarray, key: bytes) -> Tensor:
        """The data of these numbers."""
        with _random_states_kept():
            found = [self._datum(row, key) for row in rows.tolist()]
        for row, x in zip(rows.tolist(), found, strict=True):
            if (x.shape, x.dtype) != (found[0].shape, found[0].dtype):
                raise UserError(
                    f"row {row} of {self.name}: expected {found[0].dtype} of shape "
                    f"{tuple(found[0].shape)}, as row {rows[0]} is, got {x.dtype} of "
                    f"{tuple(x.shape)}"
                )
        return torch.stack(found)

    def _datum(self, row: int, key: bytes) -> Tensor:
        digest = hashlib.blake2b(
            key + row.to_bytes(8, "little"), digest_size=8
        ).digest()
        seed = int.from_bytes(digest, "little")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed >> 1)
        try:
            return x_of(self.dataset[row])
        except Exception as error:  # whatever the user's code may raise
            raise UserError(
                f"row {row} of {self.name} cannot be read: {one_line(error)}"
            ) from error


def x_of(item: Any) -> Tensor:
    """The datum of an item `x` or `(x, y)`.

    Raises:
        UserError: for more parts, and for what is no tensor, array or image.
    """
    if isinstance(item, tuple | list):
        if len(item) > 2:
            raise UserError(f"expected x or (x, y), got {len(item)} parts")
        item = item[0]
    if isinstance(item, Tensor):
        return item
    x = np.array(item)
    if x.dtype.kind not in "buif":
        kind = type(item).__name__
        raise UserError(f"expected a tensor, array or image, got {kind}")
    return torch.from_numpy(x)


@contextmanager
def _random_states_kept() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_torch = torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.default_generator.set_state(of_torch)
