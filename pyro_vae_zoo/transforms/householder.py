r"""Householder flow (Tomczak & Welling 2016).

\[z_t = H_t z_{t-1}, \qquad H_t = I - 2 \frac{v_t v_t^\top}{|v_t|^2}, \qquad
  t = 1, \dots, T\]

A product of reflections is orthogonal: it keeps norms, and \(\log|\det| = 0\). It
turns a diagonal Gaussian into one whose covariance is not diagonal. A reflection is never
near the identity, so training starts with turned axes.

All reflections are applied at once. With unit vectors as columns of \(V\),

\[H_1 H_2 \cdots H_T = I - V S V^\top, \qquad
  S^{-1} = \frac{1}{2} I + \mathrm{striu}(V^\top V)\]

(the compact WY form; Joffrain et al. 2006; striu is the part above the diagonal). A
particle then costs two small products, not T steps one after another.
"""

import torch
from torch import Tensor, nn

from pyro_vae_zoo.transforms.conditioning import (
    AmortizedTransform,
    ConditionedTransform,
    Head,
    LearnedTransform,
    check_context,
    check_sizes,
    unit,
)

__all__ = [
    "ConditionedHouseholder",
    "Reflections",
    "conditional_householder",
    "householder",
]


class Reflections:
    r"""The orthogonal matrix \(Q = H_1 H_2 \cdots H_T\), which is never formed.

    Args:
        v: Reflection vectors of any non-zero length, `(*batch, T, D)`; a zero
            vector reflects nothing.

    Example:
        >>> q = Reflections(torch.randn(3, 4))
        >>> x = torch.randn(7, 4)
        >>> torch.allclose(q.transposed(q(x)), x, atol=1e-5)
        True
    """

    def __init__(self, v: Tensor):
        self.v = unit(v)
        overlap = torch.einsum("...sd,...td->...st", self.v, self.v).triu(1)
        halves = torch.full_like(overlap[..., 0], 0.5).diag_embed()
        self.sv = torch.linalg.solve_triangular(halves + overlap, self.v, upper=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns `Q x` for `x` of shape `(*particles, *batch, D)`."""
        along = torch.einsum("...td,...d->...t", self.sv, x)
        return x - torch.einsum("...td,...t->...d", self.v, along)

    def transposed(self, x: Tensor) -> Tensor:
        """Returns `Q^T x`, the inverse."""
        along = torch.einsum("...td,...d->...t", self.v, x)
        return x - torch.einsum("...td,...t->...d", self.sv, along)


class ConditionedHouseholder(ConditionedTransform):
    r"""\(z_T = H_T \cdots H_1 z_0\), exactly invertible.

    Args:
        v: `v_1 .. v_T` in the order of application, of shape `(*batch, T, D)`.

    Example:
        >>> flow = ConditionedHouseholder(torch.tensor([[0.0, 1.0]]))
        >>> flow(torch.tensor([2.0, 3.0]))
        tensor([ 2., -3.])
    """

    def __init__(self, v: Tensor):
        super().__init__()
        self.reflections = Reflections(v)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.reflections.transposed(x)
        return y, y.new_zeros(y.shape[:-1])

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.reflections(y)
        return x, x.new_zeros(x.shape[:-1])


class ChainedVectors(nn.Module):
    """`v_1 = Linear(h)`, `v_t = Linear(v_{t-1})`, without nonlinearity (the paper's).

    The vectors are then affine functions of `v_1`: richer in `T` than in `h`.
    """

    def __init__(self, input_dim: int, context_dim: int, num_reflections: int):
        super().__init__()
        self.context_dim = context_dim
        widths = [context_dim] + [input_dim] * (num_reflections - 1)
        first, *rest = [nn.Linear(width, input_dim) for width in widths]
        self.links = nn.ModuleList([first, *rest])
        with torch.no_grad():
            # Starts near one v_1 for all contexts, as the amortised vectors do. Where
            # v_1(h) passes 0 the reflection jumps, and training gets stuck there.
            first.weight.mul_(0.1)
            first.bias.copy_(torch.randn(input_dim) / input_dim**0.5)

    def forward(self, context: Tensor) -> tuple[Tensor]:
        """Maps `(*batch, context_dim)` to vectors `(*batch, T, D)`."""
        check_context(context, self.context_dim)
        v, vectors = context, []
        for link in self.links:
            v = link(v)
            vectors.append(v)
        return (torch.stack(vectors, dim=-2),)


def _head(input_dim: int, context_dim: int, num_reflections: int) -> Head:
    start = torch.randn(num_reflections, input_dim) / input_dim**0.5
    return Head(context_dim, [start.shape], [start], gain=1.0)


def householder(input_dim: int, num_reflections: int = 1) -> LearnedTransform:
    """Returns reflections with free vectors.

    Args:
        input_dim: Dimension of the variable.
        num_reflections: Their number `T`.

    Raises:
        UserError: If a size is below 1.

    Example:
        >>> householder(3, num_reflections=2)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """
    check_sizes(input_dim=input_dim, num_reflections=num_reflections)
    return LearnedTransform(
        _head(input_dim, 0, num_reflections), ConditionedHouseholder
    )


def conditional_householder(
    input_dim: int, context_dim: int, num_reflections: int = 1, chained: bool = True
) -> AmortizedTransform:
    """Returns reflections whose vectors depend on the context.

    Args:
        input_dim: Dimension of the variable.
        context_dim: Dimension of the context.
        num_reflections: Their number `T`.
        chained: Whether `v_t` is computed from `v_{t-1}`, as in the paper, or
            each `v_t` by a linear head of its own.

    Raises:
        UserError: If a size is below 1, or a context of another width is given.

    Example:
        >>> flow = conditional_householder(3, 4, num_reflections=2)
        >>> flow.condition(torch.zeros(5, 4))(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    check_sizes(
        input_dim=input_dim, context_dim=context_dim, num_reflections=num_reflections
    )
    vectors = ChainedVectors if chained else _head
    return AmortizedTransform(
        vectors(input_dim, context_dim, num_reflections), ConditionedHouseholder
    )
