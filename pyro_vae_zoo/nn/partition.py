"""`Partition`: a datum cut into blocks in raster order, and put together again."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError

__all__ = ["Partition"]


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
