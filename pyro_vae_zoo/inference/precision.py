r"""Networks that multiply in bfloat16; all around them stays in float32.

Within `networks_in("bf16")` every linear layer and convolution of float32 tensors takes

\[y = \mathrm{float32}(\mathrm{bf16}(x)\, \mathrm{bf16}(W)^\top) + b,\]

whose sums are float32; its gradients are products of factors that are rounded alike
(Micikevicius et al. 2018, with bfloat16 in place of float16, so that no loss is to be
scaled). Latents, densities, log-determinants, sums, parameters and their gradients never
are bfloat16. A flow's own matrices, which are no network, are not rounded; neither are
attention and recurrent layers of PyTorch's, or anything in float64.

Processors without bfloat16 multiply the rounded factors in float32: the same numbers but
for the order of their sums, and no gain.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae_zoo.errors import UserError

__all__ = ["PRECISIONS", "chosen", "has_bfloat16", "networks_in"]

PRECISIONS = ("float32", "bf16")
_PRODUCTS = {
    F.linear: 0,  # dimensions of an output behind that of the bias
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
    torch.conv_transpose1d: 1,
    torch.conv_transpose2d: 2,
    torch.conv_transpose3d: 3,
}


def networks_in(precision: str) -> AbstractContextManager:
    """Have networks multiply in one of `PRECISIONS` in the block.

    >>> x, w = torch.tensor([[1.0]]), torch.tensor([[1 + 2**-10]])
    >>> with networks_in("bf16"):
    ...     rounded = F.linear(x, w)
    >>> rounded.item(), rounded.dtype, F.linear(x, w).item()
    (1.0, torch.float32, 1.0009765625)
    """
    return Bfloat16Networks() if precision == "bf16" else nullcontext()


def chosen(precision: str, device: torch.device, dtype: torch.dtype) -> str:
    """A precision, where `auto` is bf16 if the device multiplies faster in it.

    Raises:
        UserError: for `bf16` of a VAE that is not of float32: nothing would be rounded.

    >>> chosen("auto", torch.device("cpu"), torch.float64)
    'float32'
    """
    is_single = dtype == torch.float32
    if precision == "bf16" and not is_single:
        raise UserError(f"precision bf16 is for a VAE of float32, got one of {dtype}")
    if precision != "auto":
        return precision
    pays = is_single and has_bfloat16(device) and _pays(device)
    return "bf16" if pays else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """True where a device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    told = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in told)


def _pays(device: torch.device) -> bool:
    """Multiply once in both, as a layer of a few hundred units does; some milliseconds."""
    x, w = torch.randn(128, 784, device=device), torch.randn(512, 784, device=device)
    low = x.bfloat16(), w.bfloat16()
    return _seconds(lambda: F.linear(*low), device) < _seconds(
        lambda: F.linear(x, w), device
    )


def _seconds(run: Callable[[], Any], device: torch.device, repeats: int = 20) -> float:
    """The least time of a call, after a first one."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


class Bfloat16Networks(TorchFunctionMode):
    """Linear layers and convolutions that round what they multiply."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of PyTorch's, or its rounded kin."""
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        names = ("input", "weight", "bias")
        named = dict(zip(names, args, strict=False)) | kwargs
        x, weight, bias = (named.pop(name, None) for name in names)
        if x.dtype != torch.float32 or weight.dtype != torch.float32:
            return func(*args, **kwargs)
        settings = args[len(names) :]
        y = _product(func, x, weight, settings, named)
        if bias is None:
            return y
        return y + bias.reshape(-1, *[1] * _PRODUCTS[func])


def _product(
    func: Callable[..., Tensor], x: Tensor, weight: Tensor, settings: tuple, named: dict
) -> Tensor:
    if has_bfloat16(x.device):
        y = func(x.bfloat16(), weight.bfloat16(), None, *settings, **named)
        return y.float()
    y = func(_Rounded.apply(x), _Rounded.apply(weight), None, *settings, **named)
    return _Rounded.apply(y)


class _Rounded(torch.autograd.Function):
    """The nearest bfloat16, as a float32; its gradients, of any order, are rounded too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _nearest(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _Rounded.apply(slope)


def _nearest(x: Tensor) -> Tensor:
    """To the nearest bfloat16, ties to even.

    By its bits, since compilers drop a cast that is taken back.
    """
    bits = x.view(torch.int32)
    tie = (bits >> 16) & 1
    return ((bits + 0x7FFF + tie) & -0x10000).view(torch.float32)
