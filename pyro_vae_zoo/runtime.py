r"""One training on several devices: what the processes that `torchrun` starts share.

Each of R processes, a rank, holds the whole pair and takes its share of every batch, under
a seed of its own. The loss is a sum over the batch, hence its gradient is the sum of the
ranks':

\[\nabla \mathcal L(x_{1:B}) = \sum_{r=1}^{R} \nabla \mathcal L(x_{S_r}),\]

and after the same sum and the same step of the optimiser their weights are the same. Here
is all that knows of `torch.distributed`; in a single process each function is the identity.
"""

import importlib
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import pyro
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from pyro_vae_zoo._version import __version__
from pyro_vae_zoo.errors import LostRankError, UserError, message_of

__all__ = [
    "BAR",
    "Ranks",
    "alone",
    "check_seed",
    "interrupt_flag",
    "joined",
    "pick_device",
    "random_states",
    "seed_generators",
    "set_random_states",
    "threads_kept",
    "tqdm",
]

# All bars are tqdm's: widgets in a notebook that has ipywidgets, else lines on stderr. That
# of a training is of 80 columns, which would be 80 pixels in a notebook.
BAR = {
    "bar_format": "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
    "ncols": None if issubclass(tqdm, tqdm_notebook) else 80,
}

T = TypeVar("T")
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
_SEED_STEP = 0x9E3779B97F4A7C15  # odd and large: keeps the seeds of ranks apart


def laid_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy of as many numbers in the order in memory of a parameter.

    Fused optimisers read gradients and averages as they lie.

    >>> parameter = torch.zeros(2, 3).T
    >>> laid_as(parameter, torch.arange(6.0)).stride() == parameter.stride()
    True
    """
    copy = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
    return copy.copy_(value.view(parameter.shape) if value.ndim == 1 else value)


class Ranks:
    """The processes of this training: those of `torch.distributed`, or this one alone.

    Every method but `seed` and `share` is collective: all ranks call it, in the same
    order. A rank that has died is a `LostRankError` in all others.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.

    >>> ranks = Ranks()
    >>> ranks.rank, ranks.size, ranks.share(torch.arange(5)).tolist()
    (0, 1, [0, 1, 2, 3, 4])
    """

    def __init__(self) -> None:
        there = dist.is_available() and dist.is_initialized() and not _ALONE.get()
        self.rank = dist.get_rank() if there else 0
        self.size = dist.get_world_size() if there else 1

    @property
    def several(self) -> bool:
        """True where there is more than this process."""
        return self.size > 1

    @property
    def is_first(self) -> bool:
        """True in the process that writes."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """A seed for this rank; that of the first, or of a single process, is `seed`."""
        return (seed + self.rank * _SEED_STEP + 2**63) % 2**64 - 2**63

    def share(self, batch: Tensor) -> Tensor:
        """This rank's part of a batch; sizes differ by one at most, and may be 0."""
        return batch.tensor_split(self.size)[self.rank]

    def total(self, *values: float) -> list[float]:
        """Sums over the ranks, in float64."""
        if not self.several:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.double)
        _collective(dist.all_reduce, tensor)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """True where it is for some rank."""
        return self.several and self.total(float(flag))[0] > 0 or flag

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks.

        One that no rank has stays None; in one bucket, as small networks want it.
        """
        if not self.several:
            return
        parameters = list(parameters)
        flat = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in parameters
        ]
        has = flat[0].new_tensor([p.grad is not None for p in parameters])
        bucket = torch.cat([*flat, has])
        _collective(dist.all_reduce, bucket)
        *sums, has = bucket.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, total, held in zip(parameters, sums, has.tolist(), strict=True):
            parameter.grad = laid_as(parameter, total) if held else None

    def same(self, module: nn.Module, others: Iterable[Tensor] = ()) -> None:
        """Give all ranks the parameters and buffers of the first, and other tensors."""
        if not self.several:
            return
        with torch.no_grad():
            for tensor in {id(t): t for t in (*_held(module), *others)}.values():
                _collective(dist.broadcast, tensor, 0)

    def from_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first rank alone; return or raise the same in all."""
        if not self.several:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except (Exception, KeyboardInterrupt) as error:
                outcome[1] = error
        _collective(dist.broadcast_object_list, outcome, 0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in their order."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.size
        _collective(dist.all_gather_object, values, value)
        return values


@contextmanager
def alone() -> Iterator[None]:
    """Let this process be the only one for a while, as where the others wait for it."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _collective(function: Callable, *args: Any) -> None:
    try:
        function(*args)
    except RuntimeError as error:  # how a closed connection and a time-out come here
        reason = message_of(error)
        raise LostRankError(
            f"another process of this training has stopped ({reason}); the last good "
            "checkpoint is kept"
        ) from error


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, if it did; leave them at the end.

    Args:
        device: `auto`, `cpu` or `cuda`: on CUDA each local process takes a device, and
            gradients go by NCCL; on the CPU they go by gloo.

    Raises:
        UserError: for more processes on a machine than it has CUDA devices, and for half
            of what torchrun sets.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or dist.is_initialized():
        yield Ranks()
        return
    cuda = torch.cuda.is_available() and device != "cpu"
    wanted = ["RANK", "MASTER_ADDR", "MASTER_PORT"] + ["LOCAL_RANK"] * cuda
    if missing := [name for name in wanted if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not "
            "set; start by torchrun, which sets all of them, or unset WORLD_SIZE"
        )
    if cuda:
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise UserError(
                f"expected at most {there} processes on this machine, one for each CUDA "
                f"device, got process {local + 1}; use a lower --nproc-per-node"
            )
        torch.cuda.set_device(local)
    # Its functions default to the group there is when it is imported. Imported later, as
    # compiling does, they would hold ours, whose threads can abort a process that ends.
    importlib.import_module("torch.distributed.nn.functional")
    # What is decided on the host goes by gloo there too, and waits for no kernel.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield Ranks()
        # One that leaves while another still writes can be aborted in its last moments.
        Ranks().total(0.0)
    finally:
        dist.destroy_process_group()


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
    if device is not None and device.type == "mps":
        raise UserError(
            "device 'mps' has no float64, in which bounds and log-likelihoods are summed; "
            "choose cpu"
        )
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {str(name)!r}; known: auto, cpu, cuda, cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    there = torch.cuda.device_count()
    if not torch.cuda.is_available():
        raise UserError(
            f"device {str(name)!r} was asked for, but this machine has no CUDA device; "
            "choose cpu or auto"
        )
    if device.index is not None and device.index >= there:
        raise UserError(
            f"device {str(name)!r} was asked for, but this machine has CUDA devices "
            f"from cuda:0 to cuda:{there - 1}"
        )
    return device


def random_states(device: torch.device) -> list[Tensor]:
    """The states of the generators that draws on a device come from."""
    states = [torch.get_rng_state()]
    return states + (
        [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    )


def set_random_states(states: list[Tensor], device: torch.device) -> None:
    """Go back to states of `random_states`."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def check_seed(seed: int) -> None:
    """Refuse what PyTorch takes for no seed.

    Raises:
        UserError: for what is no whole number of 64 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise UserError(f"seed: expected a whole number, got {seed!r}")
    if not -(2**63) <= seed < 2**64:
        raise UserError(f"seed: expected a number of 64 bits, got {seed}")


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that draws on a device come from, as `torch.manual_seed` does.

    That one seeds those of all other devices too, whose states nobody has kept.

    Raises:
        UserError: for what is no whole number of 64 bits.
    """
    check_seed(seed)
    torch.default_generator.manual_seed(int(seed))
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


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
        signal.signal(number, previous[signal.Signals(number)])
        flag.set()

    previous = {number: signal.signal(number, handle) for number in _STOPPING}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def hardware(device: torch.device) -> dict:
    """The device, threads, processes and versions that a number was computed with."""
    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": f"{device.type} ({name})",
        "num_threads": torch.get_num_threads(),
        "num_processes": Ranks().size,
        "versions": {
            "pyro_vae_zoo": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "numpy": np.__version__,
        },
    }
