"""Parts of a computation that fit in memory, from the largest tensor of a small run."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["rows_that_fit"]

_CPU_BUDGET = 100e6  # bytes a part may take: as much as still profits from caches
_TENSORS_ALIVE = 4  # of the largest size at a time, found by measurement


class _LargestTensor(TorchDispatchMode):
    """Remembers the number of bytes of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.nbytes = max(self.nbytes, out.numel() * out.element_size())
        return out


def rows_that_fit(run: Callable[[], object], rows: int, device: torch.device) -> int:
    """The number of rows that fit in memory, judged by `run()` on `rows` of them.

    The random state is left as it was.

    >>> ones = torch.ones(2, 1000)
    >>> rows_that_fit(lambda: ones + 1, 2, torch.device("cpu"))
    6250
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _LargestTensor() as largest:
        run()
    budget = _CPU_BUDGET
    if device.type == "cuda":
        # Of what the device has, not of what is free: parts decide the draws.
        total = torch.cuda.get_device_properties(device).total_memory
        budget = total / 16
    row = _TENSORS_ALIVE * largest.nbytes / rows
    return max(int(budget / row), 1)
