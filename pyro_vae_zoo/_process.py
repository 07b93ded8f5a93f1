"""What a training borrows from its process, and gives back as it was."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError

__all__ = [
    "interrupt_flag",
    "pick_device",
    "random_states",
    "set_random_states",
    "terminated_like_interrupted",
    "threads_kept",
]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def pick_device(name: str | torch.device) -> torch.device:
    """`auto`, `cpu`, `cuda` or one of several such as `cuda:1` as a device.

    Raises:
        UserError: for a device of another kind, and for one that is not there.

    >>> pick_device("cpu"), pick_device(torch.device("cpu", 0))
    (device(type='cpu'), device(type='cpu'))
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {str(name)!r}; known: auto, cpu, cuda, cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    there = torch.cuda.device_count()
    if not torch.cuda.is_available():
        raise UserError(
            f"device {str(name)!r} was asked for, but this machine offers no CUDA"
        )
    if device.index is not None and device.index >= there:
        raise UserError(
            f"device {str(name)!r} was asked for, but this machine has {there}, from cuda:0"
        )
    return device


def random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states + (
        [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    )


def set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def threads_kept() -> Iterator[None]:
    """The number of threads, which a checkpoint may set, as it was before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def interrupt_flag() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM sets a flag, so that no step is cut in two; a second one acts."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread may handle signals
        return

    def handle(number: int, frame: Any) -> None:
        signal.signal(number, previous[number])
        flag.set()

    previous = {number: signal.signal(number, handle) for number in _STOPPING}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which clusters send, raises KeyboardInterrupt as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
