"""Data that are read when they are asked for: rows of a file, or of a PyTorch data set.

`Rows` stands in a `Dataset` where a tensor would, is indexed like one, and gives the same
values. Nothing is kept of what was read. What is checked of a tensor as a whole is checked
here of each batch as it passes, and an error names the row.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast, overload

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data.streamed.sources import ArrayFile
from pyro_vae_zoo.data.streamed.workers import read_ahead
from pyro_vae_zoo.errors import UserError

__all__ = ["Array", "Rows", "mapped", "part", "some"]

Index = slice | Tensor | np.ndarray | Sequence[int]
# From values and the numbers of their rows to values.
Step = Callable[[Tensor, np.ndarray], Tensor]
_SAMPLE = 256  # rows by which data are judged that nobody reads as a whole
_MOST_VALUES = 2**26  # of a larger sample, whose rows may be large


class Source(Protocol):
    """What rows come from: `len`, a name for errors, and `read`."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray, key: bytes) -> Tensor:
        """The rows of these numbers as they are stored; what is random in them by a key."""
        ...

    def stamp(self) -> str:
        """What changes where the source does, besides its values."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Data of which nothing is in memory, shape `(n, *event_shape)`.

    `rows[a:b]`, `rows[[5, 2]]` and `rows[tensor]` read these rows, as a tensor of float32;
    `rows[labels == 3]` those where it is True, and `rows[5]` a datum. It is a map-style
    data set for `torch.utils.data.DataLoader`, too, and can be pickled.

    Args:
        source: an `ArrayFile` or `Items`.
        span: the numbers of the source's rows that these are.
        steps: what is done with what was read, one after another: functions of the values
            and of the numbers of their rows.
        key: for what is random in the source's own reading, see `Items`.
        finish: what is done where rows are asked for, and not where they are read.
        num_workers: processes that read ahead where rows are asked for in turn.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/x.npy", np.arange(12).reshape(6, 2))
        ...     rows = Rows(ArrayFile.open(f"{folder}/x.npy"))
        ...     len(rows), rows.event_shape, rows[[4, 1]].tolist()
        (6, (2,), [[8, 9], [2, 3]])
    """

    source: Source
    span: range | np.ndarray | None = None
    steps: tuple[Step, ...] = ()
    key: bytes = bytes(32)
    finish: Callable[[Tensor], Tensor] | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.span is None:
            object.__setattr__(self, "span", range(len(self.source)))

    def __len__(self) -> int:
        return len(cast(range, self.span))

    def __getstate__(self) -> dict[str, Any]:
        # In another process rows are read, and not finished.
        return {k: v for k, v in vars(self).items() if k != "finish"}

    def __getitem__(self, index: Index | int) -> Tensor:
        if isinstance(index, int | np.integer):
            return self[[int(index)]][0]
        return self.finished(self.read(index), index)

    @cached_property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        if not len(self):
            raise UserError(f"{self.source.name}: expected at least one row, got none")
        return tuple(self[:1].shape[1:])

    @property
    def shape(self) -> torch.Size:
        """Number of data, and shape of one."""
        return torch.Size((len(self), *self.event_shape))

    def numel(self) -> int:
        """Number of values."""
        return self.shape.numel()

    @property
    def device(self) -> torch.device:
        """Where rows are when they were read."""
        return torch.device("cpu")

    @property
    def is_of_file(self) -> bool:
        """True where they are read from a file, and by no code of the user's."""
        return isinstance(self.source, ArrayFile)

    def detach(self) -> "Rows":
        """These rows, which have no gradients."""
        return self

    def read(self, index: Index) -> Tensor:
        """Rows as the steps leave them, in whichever process that is."""
        rows = self._numbers(index)
        x = self.source.read(rows, self.key)
        for step in self.steps:
            x = self._done(step, x, rows)
        return x

    def finished(self, x: Tensor, index: Index) -> Tensor:
        """Rows that were read, as whoever asked for them wants them."""
        finish = self.finish
        if finish is None:
            return x
        return self._done(lambda x, rows: finish(x), x, self._numbers(index))

    def split(self, size: int) -> "Batches":
        """All rows in their order, so many at a time; read ahead by the workers."""
        return Batches(self, size)

    def sample(self, most: int = _SAMPLE) -> Tensor:
        """So many rows at most, evenly spaced over all of them; fewer large ones."""
        n = len(self)
        if most > _SAMPLE:
            fitting = _MOST_VALUES // max(math.prod(self.event_shape), 1)
            most = min(most, max(fitting, _SAMPLE))
        return self[np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))]

    def part(self, which: slice | np.ndarray) -> "Rows":
        """Some of these rows, of which none is read."""
        if isinstance(which, slice):
            return replace(self, span=cast(range, self.span)[which])
        return replace(self, span=self._numbers(which))

    def then(self, step: Step) -> "Rows":
        """These rows, with one more step after they were read."""
        return replace(self, steps=(*self.steps, step))

    def fingerprint(self, digest: "hashlib._Hash") -> None:
        """Add what tells these data from others: see `Dataset.fingerprint`."""
        digest.update(repr((tuple(self.shape), self.source.stamp())).encode())
        digest.update(self.sample().contiguous().numpy().data)

    def _done(self, step: Step, x: Tensor, rows: np.ndarray) -> Tensor:
        """What a step makes of rows; its error is that of the first bad one alone."""
        try:
            return step(x, rows)
        except UserError:
            for i, row in enumerate(rows):
                try:
                    step(x[i : i + 1], rows[i : i + 1])
                except UserError as error:
                    where = f"row {row} of {self.source.name}"
                    raise UserError(f"{where}: {error}") from error
            raise

    def _numbers(self, index: Index) -> np.ndarray:
        """The numbers of the source's rows at some places of these."""
        span = cast(range, self.span)
        if isinstance(index, slice):
            return np.asarray(span[index], np.int64)
        places = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        n = len(span)
        if places.dtype == bool:
            if places.shape != (n,):
                raise IndexError(f"expected a mask of shape ({n},), got {places.shape}")
            places = places.nonzero()[0]
        if places.ndim != 1 or (
            len(places)
            and not (
                places.dtype.kind in "iu" and -n <= places.min() <= places.max() < n
            )
        ):
            raise IndexError(f"expected row numbers from {-n} to {n - 1}, got {index}")
        places = places.astype(np.int64)
        places = np.where(places < 0, places + n, places)
        if isinstance(span, range):
            return span.start + span.step * places
        return span[places]


class Batches:
    """All of some rows in their order, a batch at a time.

    Args:
        rows: what is read.
        size: of a batch; the last one may be smaller.
    """

    def __init__(self, rows: Rows, size: int) -> None:
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[Tensor]:
        starts = range(0, len(self.rows), self.size)
        places = (slice(i, min(i + self.size, len(self.rows))) for i in starts)
        return read_ahead(self.rows, places, self.rows.num_workers)


def mapped(x: Any) -> Any:
    """A mapped array as `Rows` of its file; whatever else as it is.

    One that is mapped as a copy, `mmap_mode="c"`, may differ from its file, and stays.
    """
    if not isinstance(x, np.memmap) or x.filename is None or x.mode == "c":
        return x
    return Rows(ArrayFile.of(x))


Array = Tensor | np.ndarray | Rows


def part(x: Array, which: slice | np.ndarray) -> Tensor:
    """A part of data, of which `Rows` reads nothing: for type checkers it is a tensor."""
    if isinstance(x, Rows):
        return cast(Tensor, x.part(which))
    if isinstance(x, Tensor) and not isinstance(which, slice):
        return x[torch.from_numpy(which)]
    return cast(Tensor, x[which])


@overload
def some(x: Tensor | Rows, most: int = _SAMPLE) -> Tensor: ...
@overload
def some(x: np.ndarray, most: int = _SAMPLE) -> np.ndarray: ...
@overload
def some(x: Array, most: int = _SAMPLE) -> Tensor | np.ndarray: ...


def some(x: Array, most: int = _SAMPLE) -> Tensor | np.ndarray:
    """Data in memory: all of a tensor, and some of what is not there.

    >>> some(torch.zeros(1000, 2)).shape
    torch.Size([1000, 2])
    """
    return x.sample(most) if isinstance(x, Rows) else x
