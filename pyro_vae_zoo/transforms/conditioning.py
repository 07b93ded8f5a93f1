"""Writes each transform once and gives it a plain and a conditional form.

A file of this package defines a *conditioned* transform: a `ConditionedTransform` made
from tensors (or a network) that may differ per datum. `AmortizedTransform` makes it from
a context, `LearnedTransform` from learned parameters; both get the tensors from the same
kind of module:

    parameters module --(context)--> tensors --build--> conditioned transform

`both_forms` makes the constructors of the two.

Shapes: parameters `(*batch, ...)`, inputs `(*particles, *batch, D)`. Leading particle
dimensions broadcast, so results that depend on the parameters alone are computed once per
datum, not once per particle.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeAlias

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
    "ConditionedTransform",
    "Head",
    "LearnedTransform",
    "Parts",
    "both_forms",
    "condition_all",
]


@dataclass
class _Kept:
    """What the last pass of a transform leaves, by which its result is scored.

    In an object of its own: it changes in each run, and is no setting of the transform.
    """

    scored: tuple[Tensor, Tensor, bool] | None = None  # x, its log-det, with a graph?
    has_graph: bool = False  # the cached pair (x, y) was computed with gradients
    stamp: list[tuple[int, int, bool]] | None = None  # of the parameters


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
        self._kept = _Kept()

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(
            f"{type(self).__name__} has no inverse for arbitrary values; it can "
            "only score the tensor that its own last forward pass returned"
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Returns `y`, with a graph where one is asked for."""
        if torch.is_grad_enabled() and not self._kept.has_graph:
            self._forget()
        return super().__call__(x)

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self._forward(x)
        self._keep(x, log_det)
        self._kept.has_graph = torch.is_grad_enabled()
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        _, known = self._cached_x_y
        drawn = known is not None and detach_provenance(y) is detach_provenance(known)
        if not drawn or self._kept.has_graph or not torch.is_grad_enabled():
            return super()._inv_call(y)
        kept = self._cached_x_y, self._kept.scored
        self._forget()  # values without a graph would cut off the parameters
        try:
            return super()._inv_call(y)
        except NotImplementedError:
            self._cached_x_y, self._kept.scored = kept
            if self._kept.scored is not None:
                x, log_det, _ = self._kept.scored
                anchor = torch.zeros((), device=x.device, requires_grad=True)
                self._keep(x, _Graphless.apply(log_det, anchor))
            self._kept.has_graph = True  # of a kind
            return super()._inv_call(y)

    def _inverse(self, y: Tensor) -> Tensor:
        # To see what depends on a draw, `pyro.infer.inspect` puts it into a wrapper.
        x, known = self._cached_x_y
        if known is not None and detach_provenance(y) is detach_provenance(known):
            return track_provenance(x, get_provenance(y))
        x, log_det = self._backward(y)
        self._keep(x, log_det)
        self._kept.has_graph = torch.is_grad_enabled()
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log|det dy/dx|`, of shape `(*particles, *batch)`."""
        known, log_det, has_graph = self._kept.scored or (None, None, False)
        if known is x and log_det is not None:
            if has_graph or not torch.is_grad_enabled():
                return log_det
        log_det = self._forward(x)[1]
        self._keep(x, log_det)
        return log_det

    def _keep(self, x: Tensor, log_det: Tensor) -> None:
        self._kept.scored = x, log_det, torch.is_grad_enabled()

    def _forget(self) -> None:
        self._cached_x_y, self._kept.scored = (None, None), None


class _Graphless(torch.autograd.Function):
    """A log-determinant that was computed without gradients, and has none to give."""

    @staticmethod
    def forward(ctx: Any, log_det: Tensor, anchor: Tensor) -> Tensor:
        return log_det.view_as(log_det)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        raise UserError(
            "no gradient of the density of a value that was drawn without gradients, "
            "under a transform that has no inverse; draw it by rsample"
        )


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

    Pyro's plain transforms return their cached value for the same tensor even if
    an optimiser has stepped in between. This one keeps only its last `y = f(x)`, to
    score that very `y`, and forgets it when it notices a step. It cannot notice
    steps of optimisers that write to `p.data`, as Pyro's `ClippedAdam` does, nor of
    PyTorch's `Adam(fused=True)`.

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

    def __getstate__(self) -> dict:
        # Cached tensors carry a graph, which neither deepcopy nor pickle accepts.
        caches = {"_cached_x_y": (None, None), "_kept": _Kept()}
        return super().__getstate__() | caches

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({"_kept": _Kept()} | state)  # version 0.1.0 has none

    def __call__(self, x: Tensor) -> Tensor:
        """Returns `y` under the present parameters."""
        self._forget_if_changed()
        self._forget()
        return super().__call__(x)

    def _inv_call(self, y: Tensor) -> Tensor:
        self._forget_if_changed()
        drawn = self._cached_x_y, self._kept.has_graph
        x = super()._inv_call(y)
        # What was inverted is inverted anew next time, for it may be a fixed datum.
        self._cached_x_y, self._kept.has_graph = drawn
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log|det dy/dx|` under the present parameters."""
        self._forget_if_changed()
        return super().log_abs_det_jacobian(x, y)

    def _forget_if_changed(self) -> None:
        stamp = [
            (id(p), 0 if p.is_inference() else p._version, p.requires_grad)
            for p in self.parameters()
        ]
        if stamp != self._kept.stamp:
            self._kept.stamp = stamp
            self._forget()

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.build(*self.nn())._forward(x)

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.build(*self.nn())._backward(y)


Options = ParamSpec("Options")
# The module of the parameters, and what makes the transform of them.
Parts: TypeAlias = tuple[nn.Module, Callable[..., ConditionedTransform]]


def both_forms(
    parts: Callable[Concatenate[int, int, Options], Parts],
) -> tuple[
    Callable[Concatenate[int, Options], LearnedTransform],
    Callable[Concatenate[int, int, Options], AmortizedTransform],
]:
    """Returns the constructors of a transform's plain and of its conditional form.

    They take the arguments of `parts`, the plain one all but `context_dim`, and have
    its documentation.

    Args:
        parts: Maps `input_dim`, `context_dim` (0 for the plain form) and options to
            the module of the parameters and the builder; called `_` and the name.
    """

    def plain(
        input_dim: int, *args: Options.args, **options: Options.kwargs
    ) -> LearnedTransform:
        return LearnedTransform(*parts(input_dim, 0, *args, **options))

    def conditional(
        input_dim: int, context_dim: int, *args: Options.args, **options: Options.kwargs
    ) -> AmortizedTransform:
        check_sizes(context_dim=context_dim)
        return AmortizedTransform(*parts(input_dim, context_dim, *args, **options))

    name = parts.__name__.removeprefix("_")
    first, context, *rest = inspect.signature(parts).parameters.values()
    for form, its_name, parameters in (
        (plain, name, (first, *rest)),
        (conditional, f"conditional_{name}", (first, context, *rest)),
    ):
        form.__name__ = form.__qualname__ = its_name
        form.__module__, form.__doc__ = parts.__module__, parts.__doc__
        signature = inspect.signature(form).replace(parameters=parameters)
        form.__signature__ = signature  # type: ignore[union-attr]  # unknown to typeshed
    return plain, conditional


def condition_all(steps: Iterable[nn.Module], context: Tensor) -> list[Transform]:
    """Returns the transforms that conditional ones become for a context."""
    # PyTorch has but one type for all attributes of modules in a list.
    return [step.condition(context) for step in steps]  # type: ignore[operator]


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
        out: Tensor = self.bias
        if context is not None and self.weight is not None:
            out = F.linear(context, self.weight, self.bias)
        parts = out.split(self.sizes, dim=-1)
        return tuple(
            p.unflatten(-1, s) for p, s in zip(parts, self.shapes, strict=True)
        )


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
