"""Map-style data sets of PyTorch's, of items x or (x, y), in memory or item by item."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data.own.arrays import SHARE, chosen, likelihood_of
from pyro_vae_zoo.data.streamed.rows import Rows, some
from pyro_vae_zoo.data.streamed.sources import Items, x_of
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.options import plain

if TYPE_CHECKING:
    from pyro_vae_zoo.data.datasets import Dataset

__all__ = ["from_torch"]


def from_torch(
    _cls: "type[Dataset]",
    train: Any,
    valid: Any = SHARE,
    test: Any = SHARE,
    *,
    labels: bool = True,
    likelihood: str | None = None,
    name: str = "custom",
    dynamic: bool = False,
    logit: float | None = None,
    standardise: bool = False,
    seed: int = 0,
    in_memory: bool = True,
) -> "Dataset":
    """A data set of map-style data sets of PyTorch's, read into memory or item by item.

    Args:
        train: has a length and items `x` or `(x, y)`: x a tensor, an array or an image, y
            its class.
        valid: another one, or the share of `train` to take off.
        test: likewise.
        labels: whether y are classes; without, they are left out.
        likelihood: by default what the values ask for, see `split`.
        name: as `Dataset` has it, and so are all that follow.
        dynamic: of probabilities.
        logit: of dequantised grey levels.
        standardise: of real numbers.
        seed: of the permutation that takes splits off.
        in_memory: whether they are read now, once. If not, an item is read whenever it is
            used; what is random about it is a function of (seed, epoch, number of the
            item) then, as long as it comes from the global random states of Python, NumPy
            and PyTorch. Labels are `targets` of the data set then, where it has some, and
            the likelihood is by a sample.

    Raises:
        UserError: for items of several shapes or of another kind; it names the first.

    >>> import pyro_vae_zoo as zoo
    >>> from torch.utils.data import TensorDataset
    >>> items = TensorDataset(torch.rand(20, 3), torch.arange(20) % 2)
    >>> zoo.Dataset.from_torch(items).labels["test"]
    tensor([1, 0])
    """
    given: dict[str, Any] = {}
    known: dict[str, list[Any]] = {}
    for part, items in (("train", train), ("valid", valid), ("test", test)):
        if isinstance(items, float | int | None):
            given[part] = items
            continue
        read = _read_items if in_memory else _left_items
        given[part], classes = read(items, part, labels)
        if classes is not None:
            known[part] = classes
    by_values = partial(likelihood_of, some(given["train"]), "train")
    likelihood, note = chosen(likelihood, dynamic, logit, by_values)
    names = getattr(train, "classes", None) if known else None
    names = names if isinstance(names, list | tuple) else None
    return _cls(
        given["train"],
        given["valid"],
        given["test"],
        likelihood,
        name,
        dynamic,
        logit=logit,
        labels=known or None,
        label_names=names,
        standardise=standardise,
        seed=seed,
        note=f"user's data set, {note}",
    )


def _left_items(items: Any, part: str, labels: bool) -> tuple[Any, Any]:
    """The rows of a map-style data set, of which none is read, and its classes."""
    _check_map_style(items, part)
    classes = getattr(items, "targets", None) if labels else None
    return Rows(Items(items)), classes if classes is None else [*plain(classes)]


def _check_map_style(items: Any, part: str) -> None:
    if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        raise UserError(
            f"{part}: expected a map-style data set, with len(data) and data[i], got "
            f"{type(items).__name__}; read a stream into an array first"
        )
    if len(items) == 0:
        raise UserError(f"{part}: expected at least one datum, got an empty data set")


def _read_items(items: Any, part: str, labels: bool) -> tuple[Tensor, list[Any] | None]:
    """All x of a map-style data set, stacked, and all y where there are some."""
    _check_map_style(items, part)
    found: list[Tensor] = []
    classes: list[Any] = []
    for row in range(len(items)):
        item = items[row]
        try:
            x = x_of(item)
        except UserError as error:
            raise UserError(f"{part}, row {row}: {error}") from None
        if found and (x.shape, x.dtype) != (found[0].shape, found[0].dtype):
            raise UserError(
                f"{part}: expected {found[0].dtype} of shape {tuple(found[0].shape)}, as "
                f"in row 0, got {x.dtype} of {tuple(x.shape)} in row {row}"
            )
        found.append(x)
        if labels and isinstance(item, tuple | list) and len(item) == 2:
            y = (
                item[1].tolist()
                if isinstance(item[1], Tensor | np.generic)
                else item[1]
            )
            if not isinstance(y, int | str):
                raise UserError(
                    f"{part}: expected a whole number or word as y of row {row}, got "
                    f"{y!r:.40}; labels=False leaves them out"
                )
            classes.append(y)
    return torch.stack(found), classes or None
