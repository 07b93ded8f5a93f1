"""Who reads ahead: a thread, of a file; or processes, that stop when they are told to.

A file is read without Python's lock, so that a thread of this process is enough. A data
set of the user's runs code that may draw from the random states of its process: it is read
by processes of its own, `DataLoader`'s, or between the steps.

A Ctrl-C reaches a whole group of processes, and a batch system's SIGTERM may, too. Those
that read then go on, so that the step that is being taken can end; they end when whoever
asked for rows does, at once if they are in the middle of one.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae_zoo.errors import UserError, message_of

__all__ = ["read_ahead"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 0.5  # seconds in which a process may end a row
_AHEAD = 2  # batches that a thread reads before they are asked for


class Readable(Protocol):
    """What is read elsewhere, and finished in this thread."""

    @property
    def is_of_file(self) -> bool: ...

    def read(self, index: Any) -> Tensor: ...

    def finished(self, x: Tensor, index: Any) -> Tensor: ...


def read_ahead(
    rows: Readable, places: Iterable[Any], num_workers: int, pinned: bool = False
) -> Generator[Tensor, None, None]:
    """Rows at some places after others, in their order.

    Args:
        rows: what is read.
        places: what `rows` is indexed by, for one batch after another.
        num_workers: processes that read; without any a thread does, if it is a file's,
            else it is done here, in turn.
        pinned: whether batches lie where a GPU can fetch them by itself.

    Raises:
        UserError: for a row that cannot be read, and where a process has died.
    """
    if not num_workers:
        read = _by_a_thread(rows, places) if rows.is_of_file else _in_turn(rows, places)
        for x, place in read:
            x = rows.finished(x, place)
            yield x.pin_memory() if pinned else x
        return
    before = set(multiprocessing.active_children())
    stop = torch.multiprocessing.Event()
    loader: DataLoader[Any] = DataLoader(
        _Answers(rows),  # type: ignore[arg-type]
        batch_size=None,
        sampler=places,
        num_workers=num_workers,
        pin_memory=pinned,
        worker_init_fn=partial(_listen, stop),
        generator=torch.Generator(),  # draws nothing from the global one
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until they listen
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    workers = set(multiprocessing.active_children()) - before
    try:
        while (answer := _next(batches)) is not None:
            x, place, error = answer
            if error is not None:
                raise UserError(error)
            yield rows.finished(x, place)
    finally:
        stop.set()
        impatient = threading.Timer(_GRACE, _end, [workers])
        impatient.start()
        del batches  # which waits for them
        impatient.cancel()


def _in_turn(rows: Readable, places: Iterable[Any]) -> Iterator[tuple[Tensor, Any]]:
    for place in places:
        yield rows.read(place), place


def _by_a_thread(rows: Readable, places: Iterable[Any]) -> Iterator[tuple[Tensor, Any]]:
    coming: deque[tuple[Future[Tensor], Any]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for place in places:
            coming.append((thread.submit(rows.read, place), place))
            if len(coming) > _AHEAD:
                x, at = coming.popleft()
                yield x.result(), at
        for x, at in coming:
            yield x.result(), at


class _Answers:
    """What a process sends back: a batch, its place, and an error that is no traceback."""

    def __init__(self, rows: Readable) -> None:
        self.rows = rows

    def __getitem__(self, place: Any) -> tuple[Tensor, Any, str | None]:
        try:
            return self.rows.read(place), place, None
        except UserError as error:
            return torch.empty(0), place, str(error)


def _next(batches: Iterator[Any]) -> Any:
    try:
        return next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads data has died ({message_of(error)}): is memory, or "
            "/dev/shm, full? Use fewer num_workers"
        ) from error


def _listen(stop: Any, number: int) -> None:
    """Leave signals to the process that asks, which says when to stop."""

    def end(number: int, frame: Any) -> None:
        if stop.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _end(workers: set[Any]) -> None:
    for worker in workers:
        worker.terminate()
