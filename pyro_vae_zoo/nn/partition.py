"""A datum cut into blocks in raster order and put together again; their likelihoods."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.nn.likelihoods import check_likelihood, make_likelihood

__all__ = ["Partition", "block_likelihoods"]


class Partition:
    """Cuts data into vectors: rows from the top, a pixel's channels side by side.

    Blocks have the same size, the last one takes what is left over.

    Args:
        event_shape: `(H, W)`, `(C, H, W)` or, with `block_sizes`, `(D,)`.
        num_blocks: number of blocks.
        block_sizes: elements in each block, where they shall be others.

    Raises:
        UserError: for more blocks than elements, for sizes that do not add up to a
            datum, and for data that are no images and so have no raster order.

    >>> Partition((28, 28), 10).sizes
    (78, 78, 78, 78, 78, 78, 78, 78, 78, 82)
    >>> x = torch.rand(5, 3, 4, 4)
    >>> blocks = Partition((3, 4, 4), 4).split(x)
    >>> torch.equal(blocks[0].unflatten(-1, (4, 3)), x[:, :, 0].movedim(1, -1))
    True
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_blocks: int,
        block_sizes: Sequence[int] | None = None,
    ) -> None:
        self.event_shape = tuple(event_shape)
        numel = prod(self.event_shape)
        if not 1 <= num_blocks <= numel:
            raise UserError(
                f"expected 1 to {numel} blocks of data of shape {self.event_shape}, got "
                f"{num_blocks}: each layer needs at least one element of x"
            )
        if block_sizes is None:
            self._check_image()
            size = numel // num_blocks
            block_sizes = [size] * (num_blocks - 1) + [numel - size * (num_blocks - 1)]
        whole = isinstance(block_sizes, Sequence)
        if not (whole and all(isinstance(n, int) for n in block_sizes)):
            raise UserError(
                "expected block_sizes as whole numbers separated by commas, got "
                f"{block_sizes!r}"
            )
        self.sizes = tuple(block_sizes)
        if len(self.sizes) != num_blocks or min(self.sizes) < 1:
            raise UserError(
                f"expected {num_blocks} positive block_sizes, one for each layer, got "
                f"{self.sizes}"
            )
        if sum(self.sizes) != numel:
            raise UserError(
                f"expected block_sizes that add up to the {numel} elements of data of "
                f"shape {self.event_shape}, got {self.sizes}, which add up to "
                f"{sum(self.sizes)}"
            )

    def _check_image(self) -> None:
        if len(self.event_shape) not in (2, 3):
            raise UserError(
                "expected images of shape (H, W) or (C, H, W), got data of shape "
                f"{self.event_shape}, which has no raster order to cut blocks in; give "
                "block_sizes"
            )

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Cut `(..., *event_shape)` into blocks `(..., D_l)`."""
        if len(self.event_shape) == 3:
            x = x.movedim(-3, -1)
        return x.flatten(-len(self.event_shape)).split(self.sizes, dim=-1)

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Put blocks `(..., D_l)` together to `(..., *event_shape)`."""
        flat = torch.cat(list(blocks), dim=-1)
        if len(self.event_shape) != 3:
            return flat.unflatten(-1, self.event_shape)
        channels, height, width = self.event_shape
        return flat.unflatten(-1, (height, width, channels)).movedim(-1, -3)


def block_likelihoods(
    likelihood: str | nn.Module | Callable[..., nn.Module], sizes: Sequence[int]
) -> list[Any]:
    """A likelihood for each block of x, with the block's shape `(size,)`.

    A parameter of the same shape for any size, as a Gaussian's one scale, is one for all
    blocks.

    Raises:
        UserError: for one that is not made for the shape of each block.

    >>> a, b = block_likelihoods("gaussian", (3, 4))
    >>> a.event_shape, b.event_shape, a.raw_scale is b.raw_scale
    ((3,), (4,), True)
    """
    first = make_likelihood(likelihood, (sizes[0],))
    with torch.random.fork_rng(devices=[]):  # as many numbers are drawn as for one
        *rest, larger = (
            make_likelihood(likelihood, (size,)) for size in (*sizes[1:], sizes[0] + 1)
        )
        for size, p_x in zip(sizes, (first, *rest), strict=True):
            _check_block(p_x, size)
    own, others = _parameters(first), _parameters(larger)
    for name, p in own.items():
        if own.keys() == others.keys() and p.shape == others[name].shape:
            path, _, leaf = name.rpartition(".")
            for p_x in rest:
                setattr(p_x.get_submodule(path), leaf, p)
    return [first, *rest]


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(remove_duplicate=False))


def _check_block(likelihood: nn.Module, size: int) -> None:
    try:
        check_likelihood(likelihood, (size,))
    except UserError as error:
        raise UserError(
            f"this guide needs a likelihood for each block of x, here of shape ({size},); "
            f"give a class or a function that makes one by its event_shape: {error}"
        ) from error
