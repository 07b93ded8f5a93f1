"""Writes each transform once and gives it a plain and a conditional form.

A file of this package defines a *conditioned* transform: a
`ConditionedTransform` made from tensors (or a network) that may differ per
datum. `AmortizedTransform` makes it from a context, `LearnedTransform` from
free parameters; both take the tensors from the same kind of module:

    parameters module --(context)--> tensors --build--> conditioned transform

Shapes: parameters `(*batch, ...)`, inputs `(*particles, *batch, D)`. Leading
particle dimensions broadcast, so what depends on the parameters alone is
computed once per datum and not once per particle.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.torch_transform import TransformModule
from pyro.ops.provenance import (
    detach_provenance,
    get_provenance,
    track_provenance,
)
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_vae_zoo.errors import UserError

__all__ = [
    "AmortizedTransform",
    "Bound",
    "ConditionedTransform",
    "Deferred",
    "Head",
    "LearnedTransform",
]


class ConditionedTransform(Transform):
    """A bijection of vectors that keeps the log-determinant it computed on the way.

    A subclass defines `_forward(x)`, returning `y` and `log|det dy/dx|`, and, if
    it can invert values it has not produced, `_backward(y)`, returning `x` and
    the same log-determinant. The kept one is used for the very tensor `x` it
    belongs to and for no other, so it is never stale.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self):
        super().__init__(cache_size=1)
        self._scored = None, None

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(
            f"{type(self).__name__} has no inverse for arbitrary values; it can "
            "only score the tensor that its own last forward pass returned"
        )

    def _call(self, x):
        y, log_det = self._forward(x)
        self._scored = x, log_det
        return y

    def _inverse(self, y):
        # To see what depends on a draw, `pyro.infer.inspect` puts it into a wrapper.
        x, known = self._cached_x_y
        if known is not None and detach_provenance(y) is detach_provenance(known):
            return track_provenance(x, get_provenance(y))
        x, log_det = self._backward(y)
        self._scored = x, log_det
        return x

    def log_abs_det_jacobian(self, x, y):
        """Returns `log|det dy/dx|`, of shape `(*particles, *batch)`."""
        if self._scored[0] is not x:
            self._call(x)
        return self._scored[1]


class AmortizedTransform(ConditionalTransformModule):
    """The conditional form: `condition(h)` returns `build(*parameters(h))`.

    Args:
        parameters: Module that maps a context to a tuple, e.g. `Head`.
        build: Makes the conditioned transform from that tuple.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, parameters: nn.Module, build: Callable[..., Transform]):
        super().__init__()
        self.nn = parameters
        self.build = build

    def condition(self, context: Tensor) -> Transform:
        """Returns the transform for a context of shape `(*batch, context_dim)`."""
        return self.build(*self.nn(context))


class LearnedTransform(ConditionedTransform, TransformModule):
    """The plain form: `build(*parameters())`, read anew in each pass.

    Pyro's plain transforms return the cached value when called again with the
    same tensor even if an optimiser has stepped in between; this one notices.

    Args:
        parameters: Module that returns a tuple when called without arguments.
        build: Makes the conditioned transform from that tuple.
    """

    def __init__(
        self, parameters: nn.Module, build: Callable[..., ConditionedTransform]
    ):
        super().__init__()
        self.nn = parameters
        self.build = build
        self._stamp = None

    def __getstate__(self):
        # Cached tensors carry a graph, which neither deepcopy nor pickle accepts.
        caches = {"_cached_x_y": (None, None), "_scored": (None, None), "_stamp": None}
        return super().__getstate__() | caches

    def __call__(self, x):
        """Returns `y` under the present parameters."""
        self._forget_if_changed()
        return super().__call__(x)

    def _inv_call(self, y):
        self._forget_if_changed()
        return super()._inv_call(y)

    def log_abs_det_jacobian(self, x, y):
        """Returns `log|det dy/dx|` under the present parameters."""
        self._forget_if_changed()
        return super().log_abs_det_jacobian(x, y)

    def _forget_if_changed(self):
        versions = [(id(p), p._version) for p in self.parameters()]
        stamp = torch.is_grad_enabled(), versions
        if stamp != self._stamp:
            self._stamp = stamp
            self._cached_x_y = self._scored = None, None

    def _forward(self, x):
        return self.build(*self.nn())._forward(x)

    def _backward(self, y):
        return self.build(*self.nn())._backward(y)


class Head(nn.Module):
    """A linear layer whose output is cut into named shapes, small at the start.

    With `context_dim = 0` only its bias is left: free parameters.

    Args:
        context_dim: Size of the context, or 0.
        shapes: Shape of each returned tensor, without the batch.
        offsets: Start of each tensor, a number or a tensor of its shape; here
            goes what makes the transform start near the identity.
        gain: Scale of the random rest, relative to `nn.Linear`'s own.

    Raises:
        UserError: If a context does not have `context_dim` features.

    Example:
        >>> head = Head(4, [(2,), (3, 2)], offsets=[0.0, 1.0])
        >>> [tuple(p.shape) for p in head(torch.zeros(7, 4))]
        [(7, 2), (7, 3, 2)]
        >>> [tuple(p.shape) for p in Head(0, [(2,), (3, 2)], [0.0, 1.0])()]
        [(2,), (3, 2)]
    """

    def __init__(
        self,
        context_dim: int,
        shapes: Sequence[tuple[int, ...]],
        offsets: Sequence[float | Tensor],
        gain: float = 0.1,
    ):
        super().__init__()
        self.context_dim = context_dim
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        bound = gain / max(context_dim, 1) ** 0.5
        start = [
            torch.as_tensor(offset, dtype=torch.get_default_dtype()).expand(shape)
            for offset, shape in zip(offsets, self.shapes, strict=True)
        ]
        bias = torch.cat([tensor.reshape(-1) for tensor in start])
        self.bias = nn.Parameter(bias + torch.empty_like(bias).uniform_(-bound, bound))
        self.weight = None
        if context_dim:
            weight = torch.empty(len(bias), context_dim).uniform_(-bound, bound)
            self.weight = nn.Parameter(weight)

    def forward(self, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Maps `(*batch, context_dim)` to tensors `(*batch, *shape)`."""
        check_context(context, self.context_dim)
        out = self.bias
        if context is not None:
            out = F.linear(context, self.weight, self.bias)
        parts = out.split(self.sizes, dim=-1)
        return tuple(
            p.unflatten(-1, s) for p, s in zip(parts, self.shapes, strict=True)
        )


class Deferred(nn.Module):
    """The parameters of a flow whose network also reads `x`: the bound network.

    Args:
        net: Module called as `net(x, context=context)`.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, context: Tensor | None = None) -> tuple["Bound"]:
        """Returns, as the only parameter, the network with its context filled in."""
        return (Bound(self.net, context),)


class Bound:
    """A network of `x` and a context, with the context filled in."""

    def __init__(self, net: nn.Module, context: Tensor | None):
        self.net = net
        self.context = context

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs for x."""
        return self.net(x, context=self.context)

    def solve(self, x: Tensor, step: Callable[..., Tensor]) -> Tensor:
        """Where the network is a `MADE`, what that solves."""
        return self.net.solve(x, step, self.context)


def unit(v: Tensor) -> Tensor:
    """Returns `v / |v|` along the last dimension, and 0 for `v = 0`.

    Dividing by the largest entry first keeps `|v|^2` from under- or
    overflowing, so the result has length one for every other `v`; the scale
    cancels and needs no gradient.
    """
    tiny = torch.finfo(v.dtype).tiny
    v = v / v.detach().abs().amax(-1, keepdim=True).clamp_min(tiny)
    return v * v.square().sum(-1, keepdim=True).clamp_min(tiny).rsqrt()


def check_context(context: Tensor | None, context_dim: int) -> None:
    """Raises `UserError` unless the context has `context_dim` features."""
    got = 0 if context is None else context.shape[-1]
    if got != context_dim:
        raise UserError(
            f"expected a context of size {context_dim} in its last dimension, got "
            f"{got}: context_dim must equal the width of the encoder's output"
        )


def check_sizes(**sizes: int) -> None:
    """Raises `UserError` unless each named size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(
                f"expected {name} >= 1, got {size}: a transform cannot be empty"
            )
