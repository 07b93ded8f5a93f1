"""Networks of transforms: MADE (Germain et al. 2015) and the network of a coupling.

`MADE` maps a vector x and a context to parameters of each entry of x; those of entry i
depend on the context and on the entries that come before i. It replaces
`pyro.nn.ConditionalAutoRegressiveNN`, for example in Pyro's
`ConditionalAffineAutoregressive`. `CouplingNet` replaces `ConditionalDenseNN`, for example
in `ConditionalAffineCoupling`. Differences from Pyro's networks:

- The context enters by addition, `f(W_x x + W_c c + b)`, and `W_c c` is computed at the
  context's own shape: once for a datum, not once for each of its particles.
- The order is the natural one unless given; Pyro draws it at random.
- The last layer starts small, so a flow starts near the identity.
- `input_dim = 1` and hidden layers narrower than the input are allowed.
- The input is cast to the dtype of the weights. Pyro's inverse of `AffineAutoregressive`
  feeds float32 zeros to the network, also under float64 weights.

The last layer has no nonlinearity, so a shift or a log-scale may be of either sign.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.transforms.conditioning import check_context, check_sizes

__all__ = [
    "ACTIVATIONS",
    "Bound",
    "CouplingNet",
    "Deferred",
    "MADE",
    "alternating_order",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def check_widths(sizes: Sequence[int]) -> None:
    """Refuse layers without a unit.

    Raises:
        UserError: for a width below 1.
    """
    if min(sizes) < 1:
        raise UserError(f"expected widths of at least 1, got {list(sizes)}")


class _ContextNet(nn.Module):
    """A perceptron of `x` with the context added in the first hidden layer.

    Args:
        sizes: Widths of input, hidden layers and output.
        context_dim: Width of the context, or 0.
        activation: Name of the hidden nonlinearity.
        masks: One 0/1 matrix for each layer's weight, or nothing.
        context_skip: The context reaches the output by a linear map, too.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        context_dim: int,
        activation: str,
        masks: Sequence[Tensor] = (),
        context_skip: bool = False,
    ):
        super().__init__()
        if len(sizes) < 3:
            raise UserError("expected at least one hidden layer, got hidden_dims = []")
        check_widths(sizes)
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UserError(
                f"expected an activation out of {known}, got {activation!r}"
            )
        self.context_dim = context_dim
        self.activation = ACTIVATIONS[activation]()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.context_layer = (
            nn.Linear(context_dim, sizes[1], bias=False) if context_dim else None
        )
        self.skip_layer = None
        if context_skip and context_dim:
            self.skip_layer = nn.Linear(context_dim, sizes[-1], bias=False)
        # Masks follow from the sizes, so a state_dict need not hold them.
        device = torch.empty(()).device  # by default another than that of the masks
        for i, mask in enumerate(masks):
            self.register_buffer(f"mask_{i}", mask.to(device), persistent=False)
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.mul_(0.1)

    def _evaluate(self, x: Tensor, context: Tensor | None) -> Tensor:
        check_context(context, self.context_dim)
        weight, bias = self._layer(0)
        hidden = F.linear(x.to(weight.dtype), weight, bias)
        if context is not None and self.context_layer is not None:
            hidden = hidden + self.context_layer(context)
        for i in range(1, len(self.layers)):
            hidden = F.linear(self.activation(hidden), *self._layer(i))
        if context is not None and self.skip_layer is not None:
            hidden = hidden + self.skip_layer(context)
        return hidden

    def _layer(self, i: int) -> tuple[Tensor, Tensor]:
        """The weight of a layer, under its mask if there is one, and the bias."""
        layer = cast(nn.Linear, self.layers[i])
        mask = getattr(self, f"mask_{i}", None)
        return layer.weight if mask is None else layer.weight * mask, layer.bias


class CouplingNet(_ContextNet):
    """The network of a coupling: `(x_1, context)` to parameters for `x_2`.

    Args:
        split_dim: Size of `x_1`.
        context_dim: Size of the context; 0 for none.
        hidden_dims: Widths of the hidden layers.
        param_dims: Sizes of the returned tensors, e.g. `(D - d, D - d)` for the
            mean and log-scale of Pyro's `ConditionalAffineCoupling(d, net)`.
        activation: One of elu, relu, silu, softplus, tanh.

    Raises:
        UserError: If a size is below 1, the activation is unknown, or a context
            of another width is given.

    Example:
        >>> net = CouplingNet(2, 4, [16], param_dims=(3, 3))
        >>> mean, log_scale = net(torch.randn(10, 5, 2), context=torch.randn(5, 4))
        >>> mean.shape
        torch.Size([10, 5, 3])
    """

    def __init__(
        self,
        split_dim: int,
        context_dim: int,
        hidden_dims: Sequence[int],
        param_dims: Sequence[int],
        activation: str = "elu",
    ):
        check_sizes(split_dim=split_dim)
        sizes = [split_dim, *hidden_dims, sum(param_dims)]
        super().__init__(sizes, context_dim, activation)
        self.param_dims = list(param_dims)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Maps `(..., split_dim)` to tensors `(..., p)`, p in `param_dims`."""
        return self._evaluate(x, context).split(self.param_dims, dim=-1)


class MADE(_ContextNet):
    """Masked network: parameters of `x_i` depend on the `x_j` before it.

    Unit `k` of a hidden layer has a degree m(k), spread evenly over 0..D-1 (or
    1..D-1 without context); it sees inputs of degree <= m(k), and the output
    for the input of degree d sees units with m(k) < d. The context has degree
    0 and reaches every output, but for the first ones where hidden layers have
    no more than D/2 units; with `input_dim = 1` nothing else does. The first output
    sees one in D of the hidden units: a `context_skip` takes the context past them.

    Args:
        input_dim: Size `D` of `x`.
        context_dim: Size of the context; 0 for none.
        hidden_dims: Widths of the hidden layers.
        param_dims: Number of outputs per dimension, for each returned tensor.
        permutation: Order of the dimensions, `permutation[0]` first; natural by
            default. (Pyro's transforms read this attribute to invert.)
        activation: One of elu, relu, silu, softplus, tanh.
        context_skip: The context reaches the output by a linear map, too.

    Raises:
        UserError: If a size is below 1, the activation is unknown, `permutation`
            is none of `input_dim` numbers, or a context of another width is given.

    Example:
        >>> net = MADE(3, 4, [16], param_dims=(1, 1))
        >>> mean, log_scale = net(torch.randn(10, 5, 3), context=torch.randn(5, 4))
        >>> mean.shape
        torch.Size([10, 5, 3])
        >>> [tuple(p.shape) for p in MADE(3, 0, [16], param_dims=(8, 1))(torch.ones(3))]
        [(8, 3), (1, 3)]
    """

    permutation: Tensor

    def __init__(
        self,
        input_dim: int,
        context_dim: int,
        hidden_dims: Sequence[int],
        param_dims: Sequence[int] = (1, 1),
        permutation: Tensor | None = None,
        activation: str = "elu",
        context_skip: bool = False,
    ):
        check_sizes(input_dim=input_dim)
        natural = torch.arange(input_dim, device="cpu")
        order = natural
        if permutation is not None:
            order = torch.as_tensor(permutation, device="cpu")
        if not torch.equal(order.double().sort().values, natural.double()):
            raise UserError(
                f"expected a permutation of 0..{input_dim - 1}, got {order.tolist()}: "
                "each dimension must occur once"
            )
        order = order.long()
        check_widths([input_dim, *hidden_dims])
        outputs = sum(param_dims)
        masks = _masks(order, context_dim, hidden_dims, outputs)
        sizes = [input_dim, *hidden_dims, input_dim * outputs]
        super().__init__(sizes, context_dim, activation, masks, context_skip)
        self.input_dim = input_dim
        self.param_dims = list(param_dims)
        device = torch.empty(()).device
        self.register_buffer("permutation", order.clone().to(device), persistent=False)
        self._order = order.tolist()

    def get_permutation(self) -> Tensor:
        """Returns the order of the dimensions, first to last."""
        return self.permutation

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Maps `(..., D)` to tensors `(..., p, D)`, or `(..., D)` if every p is 1."""
        out = self._evaluate(x, context).unflatten(-1, (-1, self.input_dim))
        if set(self.param_dims) == {1}:
            return out.unbind(-2)
        return out.split(self.param_dims, dim=-2)

    def solve(
        self, x: Tensor, step: Callable[..., Tensor], context: Tensor | None = None
    ) -> Tensor:
        """Returns `y` with `y_i = step(x_i, *parameters of i)`, the network reading `y`.

        The dimensions come one after the other, and each costs what it adds to the
        first layer and its own rows of the last one. With one hidden layer all of
        them together are no more than a pass, of which the definition needs D; each
        further hidden layer is passed D times.

        Args:
            x: Shape `(..., D)`.
            step: Maps `x_i` and a tensor for each entry of `param_dims`, all of them 1.
            context: As in `forward`.

        Example:
            >>> net, x = MADE(3, 0, [16]), torch.randn(5, 3)
            >>> y = net.solve(x, lambda x_i, shift, raw: x_i + shift)
            >>> torch.allclose(y, x + net(y)[0], atol=1e-6)
            True
        """
        check_context(context, self.context_dim)
        (first, hidden), *deeper = (self._layer(i) for i in range(len(self.layers)))
        last_weight, last_bias = deeper.pop()
        if context is not None and self.context_layer is not None:
            hidden = hidden + self.context_layer(context)
        skipped = None
        if context is not None and self.skip_layer is not None:
            skipped = self.skip_layer(context)
        y: dict[int, Tensor] = {}
        for i in self._order:
            h = self.activation(hidden)
            for weight, bias in deeper:
                h = self.activation(F.linear(h, weight, bias))
            rows = slice(i, None, self.input_dim)
            parameters = F.linear(h, last_weight[rows], last_bias[rows])
            if skipped is not None:
                parameters = parameters + skipped[..., rows]
            y[i] = step(x[..., i], *parameters.unbind(-1))
            hidden = hidden + y[i][..., None].to(first.dtype) * first[:, i]
        return torch.stack([y[i] for i in range(self.input_dim)], dim=-1)


Net = TypeVar("Net", bound=nn.Module)


class Bound(Generic[Net]):
    """A network of `x` and a context, with the context filled in."""

    def __init__(self, net: Net, context: Tensor | None):
        self.net = net
        self.context = context

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs for x."""
        return self.net(x, context=self.context)

    def solve(self: "Bound[MADE]", x: Tensor, step: Callable[..., Tensor]) -> Tensor:
        """The solution of a `MADE` with that context."""
        return self.net.solve(x, step, self.context)


class Deferred(nn.Module):
    """The parameters of a flow whose network also reads `x`: the bound network.

    Args:
        net: Module called as `net(x, context=context)`.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, context: Tensor | None = None) -> tuple[Bound]:
        """Returns, as the only parameter, the network with its context filled in."""
        return (Bound(self.net, context),)


def alternating_order(size: int, step: int) -> Tensor:
    """The order of an autoregressive step: natural, reversed in every second one.

    >>> alternating_order(3, step=1)
    tensor([2, 1, 0])
    """
    order = torch.arange(size, device="cpu")
    return order.flip(0) if step % 2 else order


def _masks(
    order: Tensor, context_dim: int, hidden_dims: Sequence[int], outputs: int
) -> list[Tensor]:
    """Returns each layer's mask; entry (k, j) says whether unit k sees unit j."""
    input_dim = len(order)
    inputs = torch.empty_like(order)
    inputs[order] = torch.arange(1, input_dim + 1, device="cpu")
    lowest = 0 if context_dim or input_dim == 1 else 1
    count = input_dim - lowest
    degrees = [inputs]
    for width in hidden_dims:
        middles = (2 * torch.arange(width, device="cpu") + 1) * count // (2 * width)
        degrees.append(lowest + middles)
    masks = [after[:, None] >= before for before, after in pairwise(degrees)]
    masks.append((inputs[:, None] > degrees[-1]).repeat(outputs, 1))
    return [mask.to(torch.get_default_dtype()) for mask in masks]
