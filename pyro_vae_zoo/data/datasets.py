"""Data sets: a name -> three tensors and what they are.

A `Dataset` holds training, validation and test images with the likelihood that
suits them, and says in `variant` how they were made: the binarisation of MNIST
alone moves a log-likelihood by more than most posteriors do, so no number should
go without it. `load_dataset` knows the published sets and reads `FILE.npz`.

All splits and draws are fixed: numpy's `RandomState`, whose stream never changes.
"""

import copy
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data import sources as _sources
from pyro_vae_zoo.data.checks import (
    check_images,
    checked,
    largest_of_bytes,
)
from pyro_vae_zoo.data.dequantisation import bits_per_dim, dequantise, to_pixels
from pyro_vae_zoo.data.names import DATASETS
from pyro_vae_zoo.data.streamed.randomness import digest_of
from pyro_vae_zoo.data.streamed.rows import Rows, mapped, part, some
from pyro_vae_zoo.data.streamed.steps import Binarised, Check, Dequantised
from pyro_vae_zoo.errors import DataFileError, UserError, unknown_name
from pyro_vae_zoo.options import count

__all__ = ["Dataset", "check_images", "load_dataset"]


@dataclass(frozen=True, eq=False, init=False)
class Dataset:
    """Images in three splits, and the likelihood that suits them.

    Tensors or numpy arrays of shape `(N, *event_shape)` are checked and stored as
    float32; colour images `(N, H, W, 3)` are turned to `(N, 3, H, W)`. For a discretised
    logistic or a dynamic set uint8 values up to 255 become k/255; where no split has one
    above 1 they are bits, and stay what they are. An array that is mapped from a file stays
    there, and is read and checked batch by batch: its split is a `Rows`.

    Args:
        train: training images.
        valid: validation images.
        test: test images.
        likelihood: `"bernoulli"` (values 0 and 1), `"gaussian"` (any),
            `"discretized_logistic"` (grey levels k/255), or of counts and classes, whole
            numbers from 0, `"binomial"`, `"poisson"`, `"negative_binomial"` or
            `"categorical"`.
        name: short name, used for run folders and tables.
        dynamic: `train` holds Bernoulli probabilities, redrawn by `epoch`.
        logit: lambda of the logit that dequantised grey levels go through, see
            `dequantisation`; all splits are given as grey levels, `train` keeps them
            and is redrawn by `epoch`, the others are drawn once (seed 777).
        note: how the tensors were made; see `variant`.

    Example:
        >>> images = (torch.arange(48).reshape(6, 8) % 3 == 0).reshape(6, 2, 4)
        >>> data = Dataset(images[:4], images[4:5], images[5:])
        >>> data
        Dataset('custom', (2, 4), 'bernoulli', "user's tensors, 4/1/1")
        >>> data.train.dtype
        torch.float32
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    likelihood: str
    name: str
    dynamic: bool
    logit: float | None
    note: str

    def __init__(
        self,
        train: Tensor | np.ndarray,
        valid: Tensor | np.ndarray,
        test: Tensor | np.ndarray,
        likelihood: str = "bernoulli",
        name: str = "custom",
        dynamic: bool = False,
        *,
        logit: float | None = None,
        note: str = "user's tensors",
    ) -> None:
        if dynamic and likelihood != "bernoulli":
            raise UserError(
                f"dynamic=True: expected likelihood='bernoulli', got {likelihood!r}; only "
                "binary images are redrawn every epoch"
            )
        if logit is not None and not (likelihood == "gaussian" and 0 < logit < 0.5):
            raise UserError(
                "logit: expected likelihood='gaussian' and a lambda in (0, 0.5), got "
                f"{likelihood!r} and {logit}"
            )
        known = vars(self)  # of a frozen object, which takes no other assignment
        known |= {"likelihood": likelihood, "name": name, "dynamic": dynamic}
        known |= {"logit": logit, "note": note}
        splits, kinds = {"train": train, "valid": valid, "test": test}, self._kinds()
        splits = {split: mapped(x) for split, x in splits.items()}
        shape, bits = None, _are_bits(splits, kinds)
        for split, kind in kinds.items():
            x = splits[split]
            if isinstance(x, Rows):
                x = x.then(Check(shape, kind, split, bits))
                x.sample()  # fails here, where one of these rows is bad
                known[split], shape = x, x.event_shape
                continue
            x = checked(x, shape, kind, split, bits)
            shape = tuple(x.shape[1:])
            known[split] = x.detach().float()
        if logit is not None:
            generator: torch.Generator | None = None  # one, for both
            for number, split in enumerate(("valid", "test")):
                x = known[split]
                if isinstance(x, Rows):
                    known[split] = x.then(Dequantised(digest_of(777, number), logit))
                    continue
                generator = generator or torch.Generator(x.device).manual_seed(777)
                known[split] = dequantise(x, logit, generator)

    def _kinds(self) -> dict[str, str]:
        """The kind of values that each split has to have; see `checked`."""
        kinds = dict.fromkeys(("train", "valid", "test"), self.likelihood)
        if self.logit is not None:
            return dict.fromkeys(kinds, "grey")
        return kinds | ({"train": "grey"} if self.dynamic else {})

    def fingerprint(self) -> str:
        """A digest of the data that are trained and validated on, and of what they are.

        The same on every device. Of data that are not in memory it is made of their shape,
        of 256 rows spread over them, and of the size of the file and the time at which it
        was changed, which a copy keeps if it is made by `cp -p`.

        >>> x = torch.eye(4)
        >>> Dataset(x, x, x).fingerprint() == Dataset(x, x, 1 - x).fingerprint()
        True
        """
        what = self.likelihood, self.dynamic, self.logit
        digest = hashlib.blake2b(repr(what).encode(), digest_size=16)
        for x in (self.train, self.valid):
            if isinstance(x, Rows):
                x.fingerprint(digest)
                continue
            digest.update(repr(tuple(x.shape)).encode())
            digest.update(x.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one image: `(H, W)`, `(3, H, W)` or `(D,)`."""
        return tuple(self.train.shape[1:])

    @property
    def variant(self) -> str:
        """The making of the images, and the sizes of the splits."""
        sizes = "/".join(str(len(x)) for x in (self.train, self.valid, self.test))
        return f"{self.note}, {sizes}"

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with its tensors on `device`; `Rows` stay where they are."""
        return self._changed(lambda x: x if isinstance(x, Rows) else x.to(device))

    def read_by(self, num_workers: int) -> "Dataset":
        """The same data set, whose `Rows` are read ahead by so many processes."""
        n = count("num_workers", num_workers, least=0)
        return self._changed(
            lambda x: replace(x, num_workers=n) if isinstance(x, Rows) else x
        )

    def _changed(self, function: Callable[[Any], Any]) -> "Dataset":
        changed = copy.copy(self)
        for split in ("train", "valid", "test"):
            object.__setattr__(changed, split, function(getattr(self, split)))
        return changed

    def first(self, n: int) -> "Dataset":
        """The same data set with its first `n` training images only.

        Raises:
            UserError: where there are not so many.
        """
        n = count("n", n, least=-math.inf)
        if not 1 <= n <= len(self.train):
            raise UserError(
                f"expected 1 to {len(self.train)} training images of {self.name}, got {n}"
            )
        fewer = copy.copy(self)
        object.__setattr__(fewer, "train", part(self.train, slice(n)))
        return fewer

    def is_quantised(self) -> bool:
        """True for real numbers of few different values, as k/255 are.

        >>> grey = torch.randint(256, (9, 28, 28)) / 255
        >>> Dataset(grey, grey, grey, "gaussian").is_quantised()
        True
        """
        if self.likelihood != "gaussian" or self.logit is not None:
            return False
        test = some(self.test)
        values = len(test.unique())
        return values <= 256 and 4 * values <= test.numel()

    def pixels(self, x: Tensor) -> Tensor:
        """The pixels in a picture of `x`, data or samples of a model of them."""
        return x if self.logit is None else to_pixels(x, self.logit)

    def bits_per_dim(self, nats: float, x: Tensor) -> float:
        """Mean log-density `nats` of the data `x`, in bits for each element.

        Of dequantised data it is in bits for each of 256 grey levels.
        """
        if self.logit is not None:
            if isinstance(x, Rows):  # each part counts by its size
                parts = [(len(p), bits_per_dim(nats, p, self.logit)) for p in x.split(1000)]
                return sum(n * bits for n, bits in parts) / len(x)
            return bits_per_dim(nats, x, self.logit)
        return -nats / (math.prod(self.event_shape) * math.log(2))

    def epoch(self, seed: int, epoch: int) -> Tensor:
        """The training images of one epoch: `train`, or a fresh draw from it.

        The draw is a function of `(seed, epoch)` alone, so that a resumed run sees
        the same images; it is made on the device of `train` and leaves the global
        random state untouched. Of `Rows` it is, for each row, one of `(seed, epoch, row)`.
        """
        digest = digest_of(seed, epoch)
        if isinstance(self.train, Rows):
            return self._drawn(replace(self.train, key=digest), digest)
        if not self.dynamic and self.logit is None:
            return self.train
        generator = torch.Generator(self.train.device)
        generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        if self.logit is not None:
            return dequantise(self.train, self.logit, generator)
        uniform = torch.empty_like(self.train).uniform_(generator=generator)
        return uniform.lt_(self.train)

    def _drawn(self, rows: Rows, key: bytes) -> Any:
        if self.logit is not None:
            return rows.then(Dequantised(key, self.logit))
        return rows.then(Binarised(key)) if self.dynamic else rows

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {self.event_shape}, {self.likelihood!r}, "
            f"{self.variant!r})"
        )


def _are_bits(
    splits: Mapping[str, Tensor | np.ndarray], kinds: Mapping[str, str]
) -> bool:
    """True for uint8 values that are 0 and 1 in all splits of grey levels."""
    grey = [s for s, k in kinds.items() if k in ("grey", "discretized_logistic")]
    largest = {s: largest_of_bytes(some(splits[s])) for s in grey}
    known = {s: value for s, value in largest.items() if value is not None}
    black = [s for s, value in known.items() if value <= 1]
    if black and len(black) < len(known):
        other = next(s for s in known if s not in black)
        raise UserError(
            f"{black[0]}: uint8 values up to {known[black[0]]}, in {other} up to "
            f"{known[other]}: bits or grey levels? give all of them as floats, grey "
            "levels divided by 255"
        )
    return bool(black)


def load_dataset(
    name: str | os.PathLike, data_dir: str | os.PathLike | None = None
) -> Dataset:
    """The data set `name`, one of `zoo.list_datasets()` or the path of an `.npz` file.

    An `.npz` file holds arrays `train`, `test` and optionally `valid` (else 10 % of
    `train`) with one image a row: `(N, H, W)`, `(N, H, W, 3)` or `(N, D)`. The dtype
    chooses the likelihood: bool Bernoulli, uint8 discretised logistic, float
    Gaussian.

    Args:
        name: name or path.
        data_dir: where the files lie; default `$PYRO_VAE_ZOO_DATA`, else
            `~/.cache/pyro_vae_zoo`. What is missing there is downloaded.

    Raises:
        UserError: the name is unknown.
        DataFileError: a file is missing, truncated, corrupt or of another kind.

    Example:
        >>> load_dataset("digits").variant
        'one Bernoulli draw from intensities/16, 1297/250/250'
    """
    name = os.fspath(name)
    if name.endswith(".npz"):
        return _npz(_sources.expanded(name))
    if name not in DATASETS:
        raise unknown_name("data set", name, [*DATASETS, "or a path to an .npz file"])
    return _LOADERS[name](name, data_dir)


# --- how each set is made ----------------------------------------------------


def _digits(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    from sklearn.datasets import load_digits

    random = np.random.RandomState(0)
    grey = load_digits().images / 16
    bits = (random.random_sample(grey.shape) < grey)[random.permutation(len(grey))]
    note = "one Bernoulli draw from intensities/16"
    train, valid, test = np.split(bits, [1297, 1547])
    return Dataset(train, valid, test, name=name, note=note)


def _mnist_static(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    train, valid, test = (
        _sources.amat(f"binarized_mnist/{split}", data_dir).reshape(-1, 28, 28)
        for split in ("train", "valid", "test")
    )
    note = "static binarisation (Larochelle)"
    return Dataset(train, valid, test, name=name, note=note)


def _idx(
    name: str,
    data_dir: str | os.PathLike | None,
    *,
    folder: str,
    reading: str,
    num_valid: int = 10000,
) -> Dataset:
    train = _sources.idx(f"{folder}/train", data_dir)
    test = _sources.idx(f"{folder}/test", data_dir)
    train, valid = train[:-num_valid], train[-num_valid:]
    if reading == "threshold":
        train, valid, test = (x > 127 for x in (train, valid, test))
        return Dataset(train, valid, test, name=name, note="threshold, grey > 0.5")
    train, valid, test = (x / np.float32(255) for x in (train, valid, test))
    if reading == "gray":
        note = "grey levels k/255"
        return Dataset(train, valid, test, "gaussian", name, note=note)
    random = np.random.RandomState(777)
    valid, test = (random.random_sample(x.shape) < x for x in (valid, test))
    note = "train redrawn every epoch, valid and test drawn once (seed 777)"
    return Dataset(train, valid, test, name=name, dynamic=True, note=note)


def _caltech(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    train, valid, test = (
        (1 - columns_first.reshape(-1, 28, 28)).swapaxes(1, 2)
        for columns_first in _sources.caltech(data_dir)
    )
    return Dataset(train, valid, test, name=name, note="inverted and transposed")


def _frey(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    faces = _sources.frey(data_dir)
    order = np.random.RandomState(0).permutation(len(faces))
    train, valid, test = np.split(faces[order].reshape(-1, 28, 20), [-400, -200])
    note = "grey levels k/255, fixed shuffle (seed 0)"
    return Dataset(train, valid, test, "discretized_logistic", name, note=note)


def _cifar10(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    (train, valid, test), note = _sources.cifar10(data_dir)
    note += ", uniform dequantisation (train redrawn every epoch), logit 0.05"
    return Dataset(train, valid, test, "gaussian", name, logit=0.05, note=note)


def _npz(path: Path) -> Dataset:
    arrays = _sources.npz(path)
    likelihoods = {_npz_likelihood(x.dtype) for x in arrays.values()}
    if {1} <= {largest_of_bytes(x) for x in arrays.values()} <= {0, 1}:
        likelihoods = {"bernoulli"}  # bits, as NumPy stores them where nobody says bool
    likelihood = likelihoods.pop() if len(likelihoods) == 1 else None
    if likelihood is None:
        got = ", ".join(f"{key} {x.dtype}" for key, x in arrays.items())
        raise DataFileError(
            f"{path}: expected all arrays bool (Bernoulli), all uint8 (discretised "
            f"logistic) or all float (Gaussian), got {got}; convert with .astype"
        )
    train = arrays["train"]
    note = f"{path.name}, {train.dtype} -> {likelihood}"
    if "valid" not in arrays:
        if train.ndim < 1 or len(train) < 2:
            raise DataFileError(
                f"{path}: expected at least 2 training images to take 10 % as "
                f"validation, got shape {train.shape}; or add an array 'valid'"
            )
        order = np.random.RandomState(0).permutation(len(train))
        num_valid = max(1, len(train) // 10)
        arrays["valid"] = train[order[:num_valid]]
        train = train[np.sort(order[num_valid:])]
        note += ", valid is 10 % of train (seed 0)"
    binary = all(((x == 0) | (x == 1)).all() for x in arrays.values())
    if binary and likelihood != "bernoulli":
        note += ", only 0 and 1: store bool for Bernoulli"
    try:
        return Dataset(
            train, arrays["valid"], arrays["test"], likelihood, path.stem, note=note
        )
    except UserError as error:
        raise DataFileError(f"{path}: {error}") from error


def _npz_likelihood(dtype: np.dtype) -> str | None:
    if dtype.kind == "b":
        return "bernoulli"
    if dtype == np.uint8:
        return "discretized_logistic"
    return "gaussian" if dtype.kind == "f" else None


_LOADERS: dict[str, Callable[[str, str | os.PathLike | None], Dataset]] = {
    "digits": _digits,
    "mnist_static": _mnist_static,
    "mnist_dynamic": partial(_idx, folder="MNIST", reading="dynamic"),
    "mnist_threshold": partial(
        _idx, folder="MNIST", reading="threshold", num_valid=12000
    ),
    "mnist_gray": partial(_idx, folder="MNIST", reading="gray"),
    "fashion_dynamic": partial(_idx, folder="FashionMNIST", reading="dynamic"),
    "fashion_gray": partial(_idx, folder="FashionMNIST", reading="gray"),
    "caltech_silhouettes": _caltech,
    "frey_faces": _frey,
    "cifar10": _cifar10,
}
