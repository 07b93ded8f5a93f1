r"""Orders and noise as functions of seed, epoch and row.

Data that are not in memory are read in any order, in batches of any size, by any number of
processes, and from the middle of an epoch on. What is random about a row must therefore be
computed from its number: noise by a counter-based generator (Salmon et al. 2011, *Parallel
Random Numbers: As Easy as 1, 2, 3*: NumPy's Philox), whose counter the row is, and the
order of very many rows by a permutation that can be computed anywhere.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.options import plain

__all__ = [
    "KeyedOrder",
    "digest_of",
    "epoch_order",
    "permutation",
    "uniform_rows",
]

MOST_LISTED = 2**22  # rows whose order is held in memory, 8 bytes each
_ROUNDS = 6


def epoch_order(n: int, seed: int, epoch: int) -> "Tensor | KeyedOrder":
    """The order in which an epoch visits `n` data, a function of its arguments.

    >>> sorted(epoch_order(3, seed=0, epoch=7).tolist())
    [0, 1, 2]
    """
    # A large odd multiplier keeps neighbouring seeds and epochs apart.
    return permutation(n, (seed * 1_000_003 + epoch) % 2**63)


def permutation(n: int, seed: int) -> "Tensor | KeyedOrder":
    """A permutation of 0 to n - 1: PyTorch's, or one that takes no memory for large n.

    >>> permutation(10**8, seed=0)[:3]
    tensor([41443947,  3142405, 91140741])
    """
    if n > MOST_LISTED:
        return KeyedOrder(n, seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randperm(n, generator=generator, device="cpu")


class KeyedOrder:
    r"""A permutation of 0 to n - 1 that is computed where it is read, and kept nowhere.

    A Feistel network on numbers of two halves of b bits, \(4^b \ge n\): each of six rounds
    \((l, r) \mapsto (r, l \oplus F_k(r))\) is one to one whatever F is, and here that mixes
    64 bits (the finaliser of SplitMix64, Steele et al. 2014). What lands beyond n goes
    through once more, until it does not (cycle walking: Black & Rogaway 2002,
    *Ciphers with arbitrary finite domains*), four times on average at most.

    Args:
        n: how many numbers.
        seed: of the permutation.

    >>> sorted(KeyedOrder(10, seed=0)[:].tolist()) == list(range(10))
    True
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.bits = max(-(-(n - 1).bit_length() // 2), 1)
        self.keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: slice) -> Tensor:
        """The numbers at some places, int64."""
        numbers = np.arange(*part.indices(self.n), dtype=np.uint64)
        numbers = self._once(numbers)
        while (beyond := numbers >= self.n).any():
            numbers[beyond] = self._once(numbers[beyond])
        return torch.from_numpy(numbers.astype(np.int64))

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        bits, mask = np.uint64(self.bits), np.uint64(2**self.bits - 1)
        left, right = numbers >> bits, numbers & mask
        for key in self.keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << bits) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """Each of 64 bits made to depend on all of them."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def digest_of(seed: int, epoch: int) -> bytes:
    """32 bytes that stand for an epoch under a seed."""
    return hashlib.sha256(f"{plain(seed)}/{plain(epoch)}".encode()).digest()


def uniform_rows(key: bytes, rows: Sequence[int] | np.ndarray, size: int) -> Tensor:
    """Uniform numbers in [0, 1) for each row, float32, shape `(len(rows), size)`.

    A row's are a function of the key and its number alone.

    >>> key = digest_of(seed=0, epoch=3)
    >>> some, one = uniform_rows(key, [7, 8, 9], 5), uniform_rows(key, [8], 5)
    >>> torch.equal(some[1:2], one)
    True
    """
    bits = np.random.Philox(key=np.frombuffer(key, "<u8", 2))
    state, words = bits.state, np.empty((len(rows), -(-size // 2)), "<u8")
    for place, row in zip(words, rows, strict=True):
        state["state"]["counter"][:] = 0, int(row), 0, 0
        bits.state = state
        place[:] = bits.random_raw(words.shape[1])
    # The upper 24 of 32 bits: as many as a float32 has.
    whole = words.view("<u4")[:, :size] >> np.uint32(8)
    return torch.from_numpy(whole.astype(np.float32) * np.float32(2.0**-24))
