r"""Matrix products on a CPU by the faster of two libraries.

PyTorch multiplies float32 matrices by the BLAS it was built with, most often Intel's MKL,
and has oneDNN besides. Which one is faster depends on the processor and on the shapes.
`choose_products` measures both at the shapes of a graph and exchanges the products that
oneDNN computes faster.
"""

import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

__all__ = ["choose_products", "onednn_is_there"]

_BLAS, _ONEDNN = "blas", "onednn"
_GAIN = 1.05  # by which oneDNN must be faster: a measurement has noise
_SMALL = 4_000_000  # multiplications, under which there is nothing to gain
_ROUNDS = 25
_SECONDS = 0.1  # which the rounds of one shape may take, but for the least number
_LEAST_ROUNDS = 3


def choose_products(
    graph: torch.fx.GraphModule,
    known: dict[str, str],
    measure: Callable[..., str] | None = None,
) -> None:
    """Exchange those products of a traced graph that oneDNN computes faster.

    Args:
        graph: changed in place.
        known: `blas` or `onednn` for each kind of product, as `100x784x300 nt` for rows,
            inner dimension and columns, and whether each factor is transposed in memory;
            kinds that are not there are measured and added.
        measure: from example factors and bias to the choice; by the clock by default.
    """
    if not onednn_is_there():
        return
    choose: Callable[..., str] = measure or _faster
    for node in list(graph.graph.nodes):
        product = _as_product(node)
        if product is None:
            continue
        left, right, bias = product
        values = [None if n is None else n.meta["val"] for n in product]
        kind = _kind(left.meta["val"], right.meta["val"])
        if kind is None:
            continue
        if kind not in known:
            known[kind] = choose(*map(_like, values))
        if known[kind] == _ONEDNN:
            node.target, node.args = _operator(), (left, right, bias)
    graph.recompile()


@cache
def onednn_is_there() -> bool:
    """True if this PyTorch has oneDNN, and an operator for dense float32 matrices."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )


@cache
def _operator() -> Callable:
    """The product `left @ right + bias` by oneDNN, as an operator that graphs can hold.

    Registered when it is first needed. PyTorch's own operator is made for the constant
    weights of inference: in a graph its factors would be copied into another layout.
    """
    name = "pyro_vae_zoo::onednn_mm"

    @torch.library.custom_op(name, mutates_args=())
    def onednn_mm(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")

    @onednn_mm.register_fake
    def _(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        return left.new_empty(left.shape[0], right.shape[1])

    return torch.ops.pyro_vae_zoo.onednn_mm.default


def _as_product(
    node: torch.fx.Node,
) -> tuple[torch.fx.Node, torch.fx.Node, torch.fx.Node | None] | None:
    """Factors and bias of a node that multiplies two matrices."""
    operands = [arg for arg in node.args if isinstance(arg, torch.fx.Node)]
    if node.target == torch.ops.aten.mm.default:
        left, right = operands
        return left, right, None
    plain = node.target == torch.ops.aten.addmm.default and not node.kwargs
    if plain and operands[0].meta["val"].dim() == 1:
        bias, left, right = operands
        return left, right, bias
    return None


def _kind(left: Tensor, right: Tensor) -> str | None:
    """Shapes and layouts that decide a product's speed; None for what is left as it is."""
    if left.device.type != "cpu" or left.dtype != torch.float:
        return None
    if left.numel() * right.shape[1] < _SMALL:
        return None
    rows, columns = _layout(left), _layout(right)
    if rows is None or columns is None:
        return None
    return f"{left.shape[0]}x{left.shape[1]}x{right.shape[1]} {rows}{columns}"


def _layout(matrix: Tensor) -> str | None:
    if matrix.is_contiguous():
        return "n"
    return "t" if matrix.t().is_contiguous() else None


def _like(value: Tensor | None) -> Tensor | None:
    """Random numbers of the same layout, from a generator that nobody else uses."""
    if value is None:
        return None
    generator = torch.Generator().manual_seed(0)
    storage = torch.randn(value.numel(), generator=generator)
    return storage.as_strided(value.shape, value.stride())


def _faster(left: Tensor, right: Tensor, bias: Tensor | None) -> str:
    """Time both in alternation, so that what else the machine does hits both alike."""

    def blas() -> Tensor:
        return left @ right if bias is None else torch.addmm(bias, left, right)

    def onednn() -> Tensor:
        return operator(left, right, bias)

    operator = _operator()
    times: dict[Callable, list[float]] = {blas: [], onednn: []}
    begin = time.perf_counter()
    for round_ in range(_ROUNDS + 1):
        for run, seconds in times.items():
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        if round_ >= _LEAST_ROUNDS and time.perf_counter() - begin > _SECONDS:
            break
    medians = {run: statistics.median(s[1:]) for run, s in times.items()}
    return _ONEDNN if medians[blas] > _GAIN * medians[onednn] else _BLAS
