"""Validation and test data that are taken off training data, by a fixed permutation."""

from collections.abc import Mapping

import numpy as np

from pyro_vae_zoo.errors import UserError

__all__ = ["SHARE", "split_rows"]

SHARE = 0.1  # of the data, for a split that is not given


def split_rows(
    num_data: int, shares: Mapping[str, float], seed: int = 0
) -> dict[str, np.ndarray]:
    """The rows of each split, and of `train` what is left, in their order.

    Args:
        num_data: all of them.
        shares: of each split that is taken off, at least one datum of it.
        seed: of the permutation, by numpy's `RandomState`, whose stream never changes.

    Raises:
        UserError: where there are too few.

    >>> {split: len(rows) for split, rows in split_rows(50, {"valid": 0.1}).items()}
    {'valid': 5, 'train': 45}
    """
    for split, share in shares.items():
        if not 0 < share < 1:
            raise UserError(f"{split}: expected a share in (0, 1), got {share}")
    order = np.random.RandomState(seed).permutation(num_data)
    rows, start = {}, 0
    for split, share in shares.items():
        size = max(1, int(num_data * share + 1e-9))
        rows[split] = order[start : start + size]
        start += size
    if start >= num_data:
        raise UserError(
            f"expected at least {len(shares) + 1} data to take {' and '.join(shares)} "
            f"off them, and some left to train on; got {num_data}"
        )
    return rows | {"train": np.sort(order[start:])}
