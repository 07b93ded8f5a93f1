"""A user's arrays: which likelihood suits their values, and how they are split.

What values mean is said by their dtype, or asked for: units are not guessed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_vae_zoo.data.checks import tensor_of
from pyro_vae_zoo.data.labels import Given
from pyro_vae_zoo.data.streamed.rows import Array, mapped, some
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.options import count

if TYPE_CHECKING:
    from pyro_vae_zoo.data.datasets import Dataset

__all__ = [
    "SHARE",
    "chosen",
    "given_and_shares",
    "likelihood_of",
    "note_of",
    "share_note",
    "split",
    "split_rows",
]

SHARE = 0.1  # of the data, for a split that is not given
_MOST_SPLIT = 2**26  # data whose permutation, of 8 bytes each, is held in memory


def split_rows(
    num_data: int, shares: Mapping[str, float], seed: int = 0
) -> dict[str, np.ndarray]:
    """The rows of each split, and of `train` what is left, in their order.

    Args:
        num_data: all of them.
        shares: of each split that is taken off, at least one datum of it.
        seed: of the permutation, by numpy's `RandomState`, whose stream never changes.

    Raises:
        UserError: where there are too few, and where the permutation would be too long.

    >>> {split: len(rows) for split, rows in split_rows(50, {"valid": 0.1}).items()}
    {'valid': 5, 'train': 45}
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise UserError(
                f"{name}: expected a split, or a share of train in (0, 1), got {share}"
            )
    if num_data > _MOST_SPLIT:
        raise UserError(
            f"train: expected at most {_MOST_SPLIT:,} data to split "
            f"{' and '.join(shares)} off at random, got {num_data:,}; give these "
            "splits yourself, for example as x[a:b] of a mapped array"
        )
    seed = count("seed", seed, least=0)
    if seed >= 2**32:
        raise UserError(f"seed: expected less than 2**32, got {seed}")
    order = np.random.RandomState(seed).permutation(num_data)
    rows, start = {}, 0
    for name, share in shares.items():
        size = max(1, int(num_data * share + 1e-9))
        rows[name] = order[start : start + size]
        start += size
    if start >= num_data:
        names, enough = " and ".join(shares), num_data > len(shares)
        least = f"train: expected at least {len(shares) + 1} data, got {num_data}"
        what = f"{names}: expected shares that leave data to train on"
        got = " and ".join(map(str, shares.values()))
        raise UserError(
            f"{what}, got {got} of {num_data}"
            if enough
            else f"{least}, to take {names} off them and to train on what is left"
        )
    return rows | {"train": np.sort(order[start:])}


def share_note(shares: Mapping[str, float], seed: int = 0) -> str:
    """What was taken off the training data, for the note of a data set.

    >>> share_note({"valid": 0.1, "test": 0.1}), share_note({"valid": 0.1, "test": 0.2})
    ('valid and test are each 10 % of train (seed 0)', \
'valid is 10 %, test is 20 % of train (seed 0)')
    """
    of = f"of train (seed {seed})"
    percent = [f"{100 * share:.3g} %" for share in shares.values()]
    if len(set(percent)) == 1 < len(percent):
        return f"{' and '.join(shares)} are each {percent[0]} {of}"
    parts = zip(shares, percent, strict=True)
    return f"{', '.join(f'{name} is {p}' for name, p in parts)} {of}"


def given_and_shares(
    train: Array, valid: Array | float | None, test: Array | float | None
) -> tuple[dict[str, Any], dict[str, float]]:
    """The splits that are there, and the shares of `train` that the others are."""
    given = {"train": mapped(train)}
    shares: dict[str, float] = {}
    for name, x in (("valid", valid), ("test", test)):
        if x is None or isinstance(x, Real):
            shares[name] = SHARE if x is None else float(x)
        else:
            given[name] = mapped(x)
    return given, shares


def likelihood_of(x: Tensor | np.ndarray, what: str = "x") -> tuple[str, str]:
    """The likelihood that values ask for by themselves, and why.

    Bits are Bernoulli's, uint8 the grey levels of a discretised logistic, real numbers a
    Gaussian's. Other whole numbers may be counts, codes, grey levels or real numbers.

    Raises:
        UserError: for these, which only the caller can tell apart.

    >>> likelihood_of(np.array([[True]])), likelihood_of(torch.tensor([[0.5]]))
    (('bernoulli', 'bool -> bernoulli'), ('gaussian', 'float32 -> gaussian'))
    >>> likelihood_of(np.array([[3, 4]]), "counts.csv")
    Traceback (most recent call last):
    ...
    pyro_vae_zoo.errors.UserError: counts.csv: whole numbers only, from 3 to 4; give \
likelihood='poisson' or 'negative_binomial' for counts, 'categorical' for classes, \
'gaussian' for real numbers; give grey levels as uint8
    """
    tensor_of(x, what)  # which refuses what is none
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype == "bool":
        return "bernoulli", "bool -> bernoulli"
    if 0 in x.shape or getattr(x.dtype, "kind", "f") not in "buif":
        return "gaussian", ""  # refused where it is checked
    if isinstance(x, Tensor) and dtype in ("uint16", "uint32", "uint64"):
        x = x.double()  # PyTorch has no minimum of these
    low, high = x.min().item(), x.max().item()
    if low in (0, 1) and high in (0, 1) and bool(((x == 0) | (x == 1)).all()):
        return "bernoulli", f"{dtype}, only 0 and 1 -> bernoulli"
    if dtype == "uint8":
        return "discretized_logistic", "uint8 -> discretized_logistic"
    if "float" in dtype and not bool((x == x.round()).all()):
        return "gaussian", f"{dtype} -> gaussian"
    raise UserError(
        f"{what}: whole numbers only, from {low:.6g} to {high:.6g}; give "
        "likelihood='poisson' or 'negative_binomial' for counts, 'categorical' for "
        "classes, 'gaussian' for real numbers; give grey levels as uint8"
    )


def chosen(
    likelihood: str | None,
    dynamic: bool,
    logit: float | None,
    by_values: Callable[[], tuple[str, str]],
) -> tuple[str, str]:
    """The likelihood that was asked for, or by its values, and the note of it."""
    if dynamic:
        return likelihood or "bernoulli", "probabilities"
    if likelihood is not None:
        return likelihood, f"as {likelihood}"
    return ("gaussian", "grey levels") if logit is not None else by_values()


def note_of(note: str | None, dynamic: bool, logit: float | None) -> str:
    """How tensors were made; a logit is in it, of which the density is."""
    if note is None:
        note = "user's tensors, probabilities" if dynamic else "user's tensors"
    return note if logit is None else f"{note}, logit {logit:g}"


def split(
    _cls: "type[Dataset]",
    x: Array,
    labels: Given | None = None,
    valid: float = SHARE,
    test: float = SHARE,
    seed: int = 0,
    *,
    likelihood: str | None = None,
    name: str = "custom",
    dynamic: bool = False,
    logit: float | None = None,
    label_names: Sequence[str] | None = None,
    standardise: bool = False,
) -> "Dataset":
    """A data set of one array, cut into three splits by a fixed permutation.

    Args:
        x: data, shape `(N, *event_shape)`. A mapped array stays in its file, and the
            likelihood is by a sample of it.
        labels: the class of each datum.
        valid: share of the validation data.
        test: share of the test data.
        seed: of the permutation.
        likelihood: by default what the values ask for: bits a Bernoulli, uint8 a
            discretised logistic, real numbers a Gaussian; it has to be said of other
            whole numbers.
        name: as `Dataset` has it, and so are all that follow.
        dynamic: of probabilities.
        logit: of dequantised grey levels.
        label_names: of the classes.
        standardise: of real numbers.

    Raises:
        UserError: for data that no likelihood can score.

    >>> import pyro_vae_zoo as zoo
    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> data = zoo.Dataset.split(x, labels=[0, 1] * 25, test=0.2)
    >>> data.variant.split("gaussian, ")[1]
    'valid is 10 %, test is 20 % of train (seed 0), 35/5/10'
    >>> data.labels["valid"]
    tensor([0, 1, 0, 1, 0])
    """
    x = mapped(x)
    by_values = partial(likelihood_of, some(x))
    likelihood, note = chosen(likelihood, dynamic, logit, by_values)
    return _cls(
        x,
        valid,
        test,
        likelihood,
        name,
        dynamic,
        logit=logit,
        labels=labels,
        label_names=label_names,
        standardise=standardise,
        seed=seed,
        note=f"user's array, {note}",
    )
