"""What a compiled bound is called by: as a loss of autograd's, and straight."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError

__all__ = ["BoundGraph", "OwnGradients", "WithGradients"]


class OwnGradients:
    """A graph each of whose gradients is memory of its own, in its parameter's order.

    Autograd gives both terms of a sum one gradient: who clips gradients in place would do
    so twice. And one of an einsum may be transposed, that of a part a part, while PyTorch's
    fused Adam reads memory as it lies. Such gradients are copied. Which they are depends
    on nothing that changes from call to call.

    Args:
        graph: of loss, bound, gradients and perhaps more.
        places: numbers of the inputs that the gradients are of.

    >>> p, q, slope = torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3, 2).t()
    >>> graph = OwnGradients(lambda p, q: [p.sum(), q.sum(), slope, slope], [0, 1])
    >>> *_, of_p, of_q = graph(p, q)
    >>> slope.stride(), of_p.stride(), of_p.data_ptr() == of_q.data_ptr()
    ((1, 2), (3, 1), False)
    """

    def __init__(self, graph: Callable, places: Sequence[int]) -> None:
        self.graph = graph
        self.places = places
        self._copied: list[tuple[int, int]] | None = None  # of outputs and their inputs

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs of the graph, without autograd."""
        with torch.no_grad():
            outputs = list(self.graph(*inputs))
            if self._copied is None:
                self._copied = self._to_copy(outputs, inputs)
            for out, place in self._copied:
                copy = torch.empty_like(inputs[place])
                outputs[out] = copy.copy_(outputs[out])
        return outputs

    def _to_copy(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> list[tuple[int, int]]:
        known, found = {t.data_ptr() for t in inputs}, []
        for out, place in enumerate(self.places, start=2):
            gradient, p = outputs[out], inputs[place]
            if gradient.data_ptr() in known or gradient.stride() != p.stride():
                found.append((out, place))
            known.add(gradient.data_ptr())
        return found


class WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *inputs: Tensor
    ) -> Tensor:
        """The loss, as a function of the inputs."""
        ctx.gradients = gradients
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, once."""
        if torch.is_grad_enabled():
            raise UserError(
                "create_graph=True asks for gradients of gradients, which a compiled loss "
                "does not have; use AnnealedELBO or Trace_ELBO there"
            )
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "a compiled loss can be differentiated only once; compute the loss "
                "again"
            )
        if slope.device.type != "cpu" or slope.item() != 1:
            gradients = torch._foreach_mul(gradients, slope)  # one launch on a GPU
        return None, None, *gradients


class BoundGraph:
    """A compiled objective that is called without looking for its graph, and no autograd.

    To find out that nothing has changed takes Python 0.1 to 0.5 ms of each step. Who holds
    this answers for it: parameters and buffers change where they are, nothing else does,
    and no batch is to be checked.

    Args:
        graph: of the bound and its gradients.
        inputs: what it is called with; the data are the last.
        weights: names of the scheduled weights, which are the first.
        moved: the tensors whose gradients it gives.

    >>> import pyro
    >>> import pyro_vae_zoo as zoo
    >>> from pyro_vae_zoo.inference.compiled import CompiledELBO
    >>> vae = zoo.create("mean_field", event_shape=(4,), hidden_dims=(8,))
    >>> x = torch.zeros(3, 4)
    >>> loss = CompiledELBO(zoo.AnnealedELBO(), compiler=lambda graph, inputs: graph)
    >>> with pyro.validation_enabled(False):
    ...     bound = loss.bind(vae.model, vae.guide, x)
    >>> value, elbo = bound(x, {"kl_weight": 1.0})
    >>> bool(value.isclose(-elbo)), all(p.grad is not None for p in vae.parameters())
    (True, True)
    """

    def __init__(
        self,
        graph: Callable,
        inputs: list[Tensor],
        weights: Sequence[str],
        moved: Sequence[Tensor],
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.places = dict(zip(weights, inputs, strict=False))
        self.moved = moved

    @torch.no_grad()
    def __call__(self, x: Tensor, weights: dict[str, float]) -> tuple[Tensor, Tensor]:
        """Loss and plain bound of a batch; the gradients are those of the parameters."""
        for name, weight in weights.items():
            self.places[name].fill_(weight)
        loss, elbo, *gradients = self.graph(*self.inputs[:-1], x)
        for p, gradient in zip(self.moved, gradients, strict=True):
            p.grad = gradient
        return loss, elbo
