"""NumPy's files: one array that is split, or an archive of splits and their labels."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae_zoo.data import sources as _sources
from pyro_vae_zoo.data.formats import BROKEN, read_npy
from pyro_vae_zoo.data.labels import classes_of
from pyro_vae_zoo.data.own.arrays import SHARE, chosen, likelihood_of
from pyro_vae_zoo.data.streamed.rows import Rows, some
from pyro_vae_zoo.data.streamed.sources import ArrayFile
from pyro_vae_zoo.errors import DataFileError, UserError, one_line

if TYPE_CHECKING:
    from pyro_vae_zoo.data.datasets import Dataset

__all__ = ["REMARKS", "from_npy", "from_npz"]

REMARKS = (  # in the note of an archive, that say nothing of how it was read
    ", only 0 and 1: store bool for Bernoulli",
    ", whole numbers taken for real: say the likelihood if they are not",
)
_LARGE = 10**9  # bytes of an array that is not read into memory, unless it is asked for


def from_npy(
    _cls: "type[Dataset]",
    path: Path,
    *,
    likelihood: str | None = None,
    valid: float = SHARE,
    test: float = SHARE,
    seed: int = 0,
    dynamic: bool = False,
    logit: float | None = None,
    standardise: bool = False,
    in_memory: bool | None = None,
) -> "Dataset":
    """The array of an `.npy` file, cut into three splits; see `split`.

    It stays in its file where that has a gigabyte or more, or with `in_memory=False`.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "not found"
        raise DataFileError(f"data file {path} {what}: looked for {path.absolute()}")
    x: Any = None
    try:
        size = path.stat().st_size
        if in_memory is None:
            in_memory = size < _LARGE
        with path.open("rb") as file:
            x = read_npy(file, size) if in_memory else None
    except BROKEN as error:
        raise DataFileError(f"{path}: cannot be read ({one_line(error)})") from error
    x = Rows(ArrayFile.open(path)) if x is None else x
    try:
        by_values = partial(likelihood_of, some(x), "array")
        likelihood, note = chosen(likelihood, dynamic, logit, by_values)
        return _cls(
            x,
            valid,
            test,
            likelihood,
            path.stem,
            dynamic,
            logit=logit,
            standardise=standardise,
            seed=seed,
            note=f"{path.name}, {note}",
        )
    except UserError as error:
        raise DataFileError(f"{path}: {error}") from error


def from_npz(
    _cls: "type[Dataset]",
    path: Path,
    *,
    likelihood: str | None = None,
    valid: float = SHARE,
    test: float = SHARE,
    seed: int = 0,
    dynamic: bool = False,
    logit: float | None = None,
    standardise: bool = False,
) -> "Dataset":
    """The arrays `train`, `valid`, `test` and their labels, of an `.npz` file.

    A single array under any name is `train`; `val` and `validation` are `valid`. Labels
    are `labels` or `train_labels`, and `valid_labels`, `test_labels`.
    """
    arrays, labels = _sources.npz(path)
    by_values = partial(_npz_likelihood, path, arrays)
    likelihood, note = chosen(likelihood, dynamic, logit, by_values)
    if labels:
        sizes = {split: len(x) for split, x in arrays.items() if x.ndim}
        try:
            classes_of(labels, {}, sizes)
        except UserError as error:  # an archive may hold anything under this name
            labels, note = {}, f"{note}, labels left out ({error})"
    try:
        return _cls(
            arrays["train"],
            arrays.get("valid", valid),
            arrays.get("test", test),
            likelihood,
            path.stem,
            dynamic,
            logit=logit,
            labels=labels or None,
            standardise=standardise,
            seed=seed,
            note=f"{path.name}, {note}",
        )
    except UserError as error:
        raise DataFileError(f"{path}: {error}") from error


def _npz_likelihood(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """The likelihood that the dtypes of an archive ask for, and the note of it."""
    kinds = {_by_dtype(x.dtype) for x in arrays.values()}
    whole = all(x.dtype.kind in "biu" for x in arrays.values())
    if whole and _all(arrays, _is_bit) and any(x.any() for x in arrays.values()):
        kinds = {"bernoulli"}  # bits, as NumPy stores them where nobody says bool
    likelihood = kinds.pop() if len(kinds) == 1 else None
    if likelihood is None:
        got = ", ".join(f"{key} {x.dtype}" for key, x in arrays.items())
        raise DataFileError(
            f"{path}: expected all arrays bool (Bernoulli), all uint8 (discretised "
            f"logistic) or all float (Gaussian), got {got}; convert them with .astype, "
            "or give likelihood=: 'poisson' or 'negative_binomial' for counts, "
            "'categorical' for classes"
        )
    note = f"{arrays['train'].dtype} -> {likelihood}"
    if likelihood != "bernoulli" and _all(arrays, _is_bit):
        note += REMARKS[0]
    elif likelihood == "gaussian" and _all(arrays, lambda x: x == x.round()):
        note += REMARKS[1]
    return likelihood, note


def _is_bit(x: np.ndarray) -> np.ndarray:
    return (x == 0) | (x == 1)


def _all(
    arrays: Mapping[str, np.ndarray], test: Callable[[np.ndarray], np.ndarray]
) -> bool:
    return all(test(x).all() for x in arrays.values())


def _by_dtype(dtype: np.dtype) -> str | None:
    if dtype.kind == "b":
        return "bernoulli"
    if dtype == np.uint8:
        return "discretized_logistic"
    return "gaussian" if dtype.kind == "f" else None
