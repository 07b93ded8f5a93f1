"""Data sets by a name or a path: the published ones, and a user's folders and files."""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.labels import published_classes
from pyro_vae_zoo.data.names import DATASETS
from pyro_vae_zoo.data.own import archives, folders, tables
from pyro_vae_zoo.data.published import PUBLISHED
from pyro_vae_zoo.data.sources import expanded
from pyro_vae_zoo.errors import DataFileError, UserError, unknown_name

__all__ = ["load_dataset", "reading_options"]


def load_dataset(
    name: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """The data set `name`, one of `zoo.list_datasets()` or the path of your own.

    A path is that of a folder of images (`Dataset.from_folder`), of a table `.csv` or
    `.tsv` (`Dataset.from_csv`), of one array `.npy`, or of an archive `.npz`. This holds
    arrays `train` and, if they are not to be 10 % of it, `valid` (or `val`) and `test`,
    one datum a row: `(N, H, W)`, `(N, H, W, 3)` or `(N, D)`; its labels are `labels` or
    `train_labels`, and `valid_labels`, `test_labels`. The dtype of an array chooses the
    likelihood: bool Bernoulli, uint8 discretised logistic, float Gaussian.

    Args:
        name: name or path.
        data_dir: where the files of published sets lie; default `$PYRO_VAE_ZOO_DATA`, else
            `~/.cache/pyro_vae_zoo`. What is missing there is downloaded.
        options: how to read a path, `{"labels": "species"}` for one: keywords of
            `from_folder`, of `from_csv`, or of an array `likelihood`, `valid`, `test`,
            `seed`, `dynamic`, `logit` and `standardise`.

    Raises:
        UserError: the name or an option is unknown.
        DataFileError: a file is missing, truncated, corrupt or of another kind.

    Example:
        >>> load_dataset("digits").variant
        'pixels set of the 16 in each cell of a scan, 1297/250/250'
    """
    name, known = os.fspath(name), reading_options(name)
    if name in DATASETS:
        if options:
            raise UserError(
                f"data set {name!r} takes no data options, got {', '.join(options)}; "
                "they are for data of your own"
            )
        data = PUBLISHED[name](Dataset, name, data_dir)
        vars(data)["_classes"] = partial(published_classes, name, data_dir)
        return data
    for option in options or ():
        if option not in known:
            raise unknown_name(f"option of {name}:", option, known)
    path = expanded(name)
    read = _reader(path, name)
    for option, value in (options or {}).items():
        kind = inspect.signature(read).parameters[option].annotation
        if kind in (bool, bool | None) and not isinstance(value, kind):
            raise UserError(f"{option}: expected true or false, got {value!r}")
    return read(Dataset, path, **(options or {}))


def reading_options(name: str | os.PathLike) -> list[str]:
    """The options that `load_dataset` takes for a name or a path.

    Raises:
        UserError: the name is unknown.
        DataFileError: the path is that of no kind of data.

    >>> reading_options("digits"), "labels" in reading_options("table.csv")
    ([], True)
    """
    name = os.fspath(name)
    if name in DATASETS:
        return []
    read = _reader(expanded(name), name)
    return [*inspect.signature(read).parameters][2:]


def _reader(path: Path, name: str) -> Callable[..., Dataset]:
    """What reads a path, by its kind."""
    if path.suffix.lower() in _READERS:
        return _READERS[path.suffix.lower()]
    if path.is_dir():
        return folders.from_folder
    what = [*DATASETS, f"a folder of images, or a path to {'|'.join(_READERS)}"]
    if path.is_file():
        raise DataFileError(
            f"{path}: expected a folder of images or {', '.join(_READERS)}, got "
            f"{path.suffix or 'no suffix'!r}; read it yourself, and pass an array to "
            "zoo.Dataset.split or a DataFrame to zoo.Dataset.from_frame"
        )
    if path.name != name:
        raise DataFileError(f"data {path} not found: looked for {path.absolute()}")
    raise unknown_name("data set", name, what)


_READERS: dict[str, Callable[..., Dataset]] = {
    ".npz": archives.from_npz,
    ".npy": archives.from_npy,
    ".csv": tables.from_csv,
    ".tsv": tables.from_csv,
}
