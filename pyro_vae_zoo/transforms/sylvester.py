r"""Sylvester flows (van den Berg et al. 2018, section 3).

\[y = x + Q R_1 \tanh(R_2 Q^\top x + b), \qquad
  \log|\det| = \sum_i \log\big(1 + \tanh'_i\, (R_1)_{ii} (R_2)_{ii}\big)\]

with \(Q\) of M orthonormal columns and \(R_1, R_2\) upper triangular. By Sylvester's
identity \(\det(I_D + A B) = \det(I_M + B A)\), and \(Q^\top Q = I\) leaves a triangular
matrix. The entries of both diagonals pass through a tanh and stay within (-1, 1), so the
determinant is positive and the map a bijection. There are three kinds of `Q`:

- orthogonal: D x M, an amortised matrix made orthonormal by Bjorck's iteration;
- householder: D x D, a product of reflections;
- triangular: D x D, the identity or the reversal of the order.

`pyro.distributions.transforms.Sylvester` multiplies by `Q S` and `R Q^T`
without the transposes, so its log-determinant is wrong.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.transforms.conditioning import (
    ConditionedTransform,
    Head,
    Parts,
    both_forms,
    check_sizes,
)
from pyro_vae_zoo.transforms.householder import Reflections

__all__ = [
    "ConditionedSylvester",
    "conditional_sylvester",
    "orthonormal_columns",
    "sylvester",
]

BJORCK_STEPS = 12  # bring singular values in [0.05, 1] to 1 within 1e-12
LIMIT = 1 - 1e-3  # of the diagonals, so that no determinant reaches 0


def orthonormal_columns(matrix: Tensor, method: str = "bjorck") -> Tensor:
    """Returns a matrix with orthonormal columns, made of `matrix`.

    - "bjorck", the paper's: `Q <- Q (3 I - Q^T Q) / 2` towards the nearest
      orthonormal matrix. The paper stops at a tolerance, or after 100 steps without
      having reached it, which leaves the density of nearly singular matrices wrong.
      Here 12 steps, enough for well-conditioned ones, are finished by "qr", which
      changes those by no more than rounding.
    - "qr": Gram-Schmidt, the columns one after the other; as exact for every
      matrix, and about five times as fast. (The values are. Gradients grow without
      bound as columns become equal, and are NaN for a matrix of zeros.) The signs that make
      the diagonal of R positive make `Q` continuous in the matrix, which LAPACK's do not.

    Args:
        matrix: Shape `(*batch, D, M)` with `M <= D`.
        method: "bjorck" or "qr".

    Raises:
        UserError: If the method is unknown.

    Example:
        >>> q = orthonormal_columns(torch.randn(5, 4, 3))
        >>> torch.allclose(q.mT @ q, torch.eye(3).expand(5, 3, 3), atol=1e-5)
        True
    """
    _check_method(method)
    if method == "bjorck":
        matrix = _bjorck(matrix)
    q, r = torch.linalg.qr(matrix)
    diagonal = r.diagonal(dim1=-2, dim2=-1).detach()
    return torch.where(diagonal.unsqueeze(-2) < 0, -q, q)


def _check_method(method: str) -> None:
    if method not in ("qr", "bjorck"):
        raise UserError(f"expected method bjorck or qr, got {method!r}")


def _bjorck(matrix: Tensor) -> Tensor:
    size = matrix.abs()
    # This bounds the largest singular value, which must not exceed sqrt(3).
    bound = (size.sum(-1).amax(-1) * size.sum(-2).amax(-1)).sqrt()
    q = matrix / bound.clamp(min=torch.finfo(matrix.dtype).tiny)[..., None, None]
    for _ in range(BJORCK_STEPS):
        q = 1.5 * q - 0.5 * (q @ (q.mT @ q))
    return q


class _Columns:
    """`Q` given as a matrix `(*batch, D, M)`."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    def __call__(self, h: Tensor) -> Tensor:
        return torch.einsum("...dm,...m->...d", self.matrix, h)

    def transposed(self, x: Tensor) -> Tensor:
        return torch.einsum("...dm,...d->...m", self.matrix, x)


class _Order:
    """`Q` as the identity or the reversal, each its own transpose."""

    def __init__(self, reverse: bool):
        self.reverse = reverse

    def __call__(self, x: Tensor) -> Tensor:
        return x.flip(-1) if self.reverse else x

    transposed = __call__


class ConditionedSylvester(ConditionedTransform):
    """`y = x + Q R_1 tanh(R_2 Q^T x + b)`; scores only what it has produced.

    Args:
        basis: `Q`: an object with `basis(h) = Q h` and `basis.transposed(x) =
            Q^T x`, e.g. `Reflections`.
        triangles: Shape `(*batch, M, M)`; its strictly upper part is that of
            `R_1`, its strictly lower part, transposed, that of `R_2`.
        diagonal_1: Diagonal of `R_1` before its tanh, `(*batch, M)`.
        diagonal_2: Diagonal of `R_2` before its tanh, `(*batch, M)`.
        bias: `b`, of shape `(*batch, M)`.

    Example:
        >>> q = Reflections(torch.randn(5, 2, 3))
        >>> zero = torch.zeros(5, 3)
        >>> flow = ConditionedSylvester(q, torch.zeros(5, 3, 3), zero, zero, zero)
        >>> x = torch.randn(10, 5, 3)
        >>> torch.equal(flow(x), x)
        True
    """

    def __init__(
        self,
        basis: Reflections | _Columns | _Order,
        triangles: Tensor,
        diagonal_1: Tensor,
        diagonal_2: Tensor,
        bias: Tensor,
    ):
        super().__init__()
        diagonal_1 = LIMIT * torch.tanh(diagonal_1)
        diagonal_2 = LIMIT * torch.tanh(diagonal_2)
        self.basis, self.bias = basis, bias
        self.r1 = triangles.triu(1) + diagonal_1.diag_embed()
        self.r2 = triangles.tril(-1).mT + diagonal_2.diag_embed()
        self.product = diagonal_1 * diagonal_2

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.einsum("...ij,...j->...i", self.r2, self.basis.transposed(x))
        bend = torch.tanh(inner + self.bias)
        y = x + self.basis(torch.einsum("...ij,...j->...i", self.r1, bend))
        return y, torch.log1p((1 - bend.square()) * self.product).sum(-1)


def _orthogonal(
    matrix: Tensor, *parameters: Tensor, method: str
) -> ConditionedSylvester:
    columns = _Columns(orthonormal_columns(matrix, method))
    return ConditionedSylvester(columns, *parameters)


def _householder(v: Tensor, *parameters: Tensor) -> ConditionedSylvester:
    return ConditionedSylvester(Reflections(v), *parameters)


def _sylvester(
    input_dim: int,
    context_dim: int,
    variant: str = "orthogonal",
    num_ortho_vecs: int | None = None,
    num_householder: int = 8,
    reverse: bool = False,
    method: str = "bjorck",
) -> Parts:
    """Returns a Sylvester flow; its parameters are free, or linear in the context.

    Args:
        input_dim: Dimension `D` of the variable.
        context_dim: Dimension of the context, for the conditional form alone.
        variant: "orthogonal", "householder" or "triangular".
        num_ortho_vecs: Number `M <= D` of columns of the orthogonal `Q`; 8, or
            `D` if that is less, by default.
        num_householder: Number of reflections of the Householder `Q`.
        reverse: Whether the triangular variant reverses the order; alternate it
            from step to step.
        method: How the orthogonal `Q` is made, see `orthonormal_columns`.

    Raises:
        UserError: If a size is below 1, `num_ortho_vecs` is above `input_dim`,
            the variant or the method is unknown, or a context of another width is
            given.

    Example:
        >>> sylvester(3, "triangular", reverse=True)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
        >>> flow = conditional_sylvester(3, 4, "orthogonal", num_ortho_vecs=2)
        >>> flow.condition(torch.zeros(5, 4))(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    num_ortho_vecs = min(8, input_dim) if num_ortho_vecs is None else num_ortho_vecs
    check_sizes(
        input_dim=input_dim,
        num_ortho_vecs=num_ortho_vecs,
        num_householder=num_householder,
    )
    _check_method(method)
    build: Callable[..., ConditionedSylvester]
    # R_1 near 0 is the identity; R_2 near I lets its gradient be felt at once.
    if variant == "orthogonal":
        if num_ortho_vecs > input_dim:
            raise UserError(
                f"expected num_ortho_vecs <= {input_dim}, got {num_ortho_vecs}: there "
                "are no more orthogonal directions than latent dimensions"
            )
        m, build = num_ortho_vecs, partial(_orthogonal, method=method)
        basis = [torch.linalg.qr(torch.randn(input_dim, m)).Q]
    elif variant == "householder":
        m, build = input_dim, _householder
        basis = [torch.randn(num_householder, input_dim) / input_dim**0.5]
    elif variant == "triangular":
        m, build = input_dim, partial(ConditionedSylvester, _Order(reverse))
        basis = []
    else:
        raise UserError(
            "expected variant orthogonal, householder or triangular, got "
            f"{variant!r}: check the spelling"
        )
    shapes = [tuple(start.shape) for start in basis] + [(m, m), (m,), (m,), (m,)]
    return Head(context_dim, shapes, [*basis, 0.0, 0.0, 1.0, 0.0]), build


sylvester, conditional_sylvester = both_forms(_sylvester)
