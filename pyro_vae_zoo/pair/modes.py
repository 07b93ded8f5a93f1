"""Computation apart from what surrounds it: modes of PyTorch, of modules, other threads.

PyTorch's random state, defaults and precision, and Pyro's handlers, settings and parameter
store are one for all threads of a process. Whatever runs a pair takes them for as long as
it needs them, in turns with other threads, and gives them back as they were.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from operator import attrgetter

import pyro
import torch
from pyro.nn.module import PyroModule, _Context
from pyro.params.param_store import StateDict
from torch import Tensor, nn

from pyro_vae_zoo.runtime import seed_generators

__all__ = [
    "dtype_of",
    "evaluating",
    "evaluation_mode",
    "floating_of",
    "local_context",
    "ordinary",
    "taking_turns",
    "tensors_of",
    "undisturbed",
]

_TURN = threading.RLock()

# What has a precision of its own, since PyTorch 2.9.
_PRECISIONS = attrgetter(
    *("cuda.matmul", "cudnn.conv", "cudnn.rnn"),
    *("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
)


def taking_turns() -> AbstractContextManager:
    """Keep other threads from the random state, and from Pyro, for a while."""
    return _TURN


def tensors_of(model: nn.Module, guide: nn.Module) -> list[Tensor]:
    """The tensors by which a pair tells its device and its dtype, if it has any."""
    return [*model.parameters(), *guide.parameters(), *model.buffers()]


def dtype_of(model: nn.Module, guide: nn.Module) -> torch.dtype | None:
    """The dtype of a pair: of its first floating tensor, None where it has none.

    >>> counts = nn.Module()
    >>> counts.register_buffer("total", torch.tensor(3))
    >>> dtype_of(counts, nn.Linear(1, 1).double()), dtype_of(counts, counts)
    (torch.float64, None)
    """
    held = tensors_of(model, guide)
    return next((t.dtype for t in held if t.is_floating_point()), None)


def floating_of(x: Tensor, model: nn.Module, guide: nn.Module) -> torch.dtype:
    """The dtype of numbers beside data x, which may be integers: its own, or the pair's.

    >>> floating_of(torch.ones(2, dtype=torch.uint8), nn.Linear(1, 1), nn.Linear(1, 1))
    torch.float32
    """
    if x.is_floating_point():
        return x.dtype
    return dtype_of(model, guide) or torch.get_default_dtype()


@contextmanager
def undisturbed(
    device: torch.device, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Run as if no mode surrounded it, while other threads wait their turn.

    Autocast and inference mode are off; a tensor that names no dtype is of the one given,
    of float32 without, and one that names no device is on that of the modules, if the
    caller's would be on another than the CPU. Gradients are the caller's to choose.

    >>> with torch.autocast("cpu"), undisturbed(torch.device("cpu")):
    ...     torch.is_autocast_enabled("cpu")
    False
    """
    with ExitStack() as stack:
        stack.enter_context(taking_turns())
        stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device(device))
        # Now that it is no other thread's.
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype or torch.float32)
        yield


@contextmanager
def evaluating(
    model: nn.Module, guide: nn.Module, device: torch.device, seed: int | None
) -> Iterator[None]:
    """Evaluation mode in full float32, undisturbed, with a random state of its own.

    There are no gradients where none are switched on inside.

    With `seed=None` the draws are of the caller's random state.
    """
    modules = {m for root in (model, guide) for m in root.modules()}
    # Pyro's local mode, which keeps off the parameter store, needs contexts made for
    # it; those of a VAE are, those of a bare pair get what they lack for now.
    pyro_modules = [m for m in modules if isinstance(m, PyroModule)]
    contexts = {m._pyro_context for m in pyro_modules}
    devices = [device] if device.type == "cuda" else []
    with undisturbed(device, dtype_of(model, guide)), ExitStack() as stack:
        for context in contexts:
            if not hasattr(context, "param_state"):
                context.param_state = _nothing_stored()
                stack.callback(delattr, context, "param_state")
        stack.enter_context(evaluation_mode(model, guide))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_full_precision())
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            seed_generators(seed, device)
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(pyro.settings.context(module_local_params=True))
        yield


@contextmanager
def evaluation_mode(*roots: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, each afterwards in that which it was in."""
    modes = {module: module.training for root in roots for module in root.modules()}
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def ordinary(x: Tensor) -> Tensor:
    """A tensor that autograd may keep, which one of inference mode is not."""
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def local_context() -> _Context:
    """A context of Pyro's for a module, made for its local mode.

    Such a one serves the global mode too, not vice versa.
    """
    context = _Context()
    context.param_state = _nothing_stored()
    return context


def _nothing_stored() -> StateDict:
    return {"params": {}, "constraints": {}}


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products and convolutions of float32 in float32, as PyTorch's settings have it."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    if not hasattr(cuda.matmul, "fp32_precision"):  # before PyTorch 2.9
        precision, cudnn_tf32 = torch.get_float32_matmul_precision(), cudnn.allow_tf32
        try:
            torch.set_float32_matmul_precision("highest")
            cudnn.allow_tf32 = False
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            cudnn.allow_tf32 = cudnn_tf32
        return
    # What `set_float32_matmul_precision` sets is kept apart from these, and where the two
    # differ PyTorch refuses to tell whether products may be in TF32, as on CUDA it asks.
    settings = _PRECISIONS(torch.backends)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    precision = torch.get_float32_matmul_precision()  # which it tells now, at least
    try:
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for setting, own in zip(settings, before, strict=True):
            setting.fp32_precision = own
