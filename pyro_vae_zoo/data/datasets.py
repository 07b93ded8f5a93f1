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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data import sources as _sources
from pyro_vae_zoo.data.checks import (
    check_images,
    checked,
    largest_of_bytes,
    owned,
)
from pyro_vae_zoo.data.classes import Classes, Given, classes_of
from pyro_vae_zoo.data.dequantisation import bits_per_dim, dequantise, to_pixels
from pyro_vae_zoo.data.names import DATASETS
from pyro_vae_zoo.data.splits import SHARE, split_rows
from pyro_vae_zoo.data.standardised import Standardisation, standardisation_of
from pyro_vae_zoo.errors import DataFileError, UserError, unknown_name
from pyro_vae_zoo.options import count, plain

__all__ = ["Dataset", "check_images", "load_dataset"]


@dataclass(frozen=True, eq=False, init=False)
class Dataset:
    """Data in three splits, the likelihood that suits them, and their classes if known.

    Tensors or numpy arrays of shape `(N, *event_shape)` are checked, copied and stored as
    float32; colour images `(N, H, W, 3)` are turned to `(N, 3, H, W)`. For a discretised
    logistic or a dynamic set uint8 values up to 255 become k/255; where no split has one
    above 1 they are bits, and stay what they are.

    Args:
        train: training data.
        valid: validation data; by default 10 % of those given as `train`, which are taken
            off them by a fixed permutation.
        test: test data; by default likewise.
        likelihood: `"bernoulli"` (values 0 and 1), `"gaussian"` (any),
            `"discretized_logistic"` (grey levels k/255), or of counts and classes, whole
            numbers from 0, `"binomial"`, `"poisson"`, `"negative_binomial"` or
            `"categorical"`.
        name: short name, used for run folders and tables.
        dynamic: `train` holds Bernoulli probabilities, redrawn by `epoch`.
        logit: lambda of the logit that dequantised grey levels go through, see
            `dequantisation`; all splits are given as grey levels, `train` keeps them
            and is redrawn by `epoch`, the others are drawn once (seed 777).
        labels: the class of each datum of `train`, or by split: whole numbers, words or
            truth values. They are for pictures and probes; no bound sees them.
        label_names: of the classes; by default the labels that occur, in their order.
        standardise: for a Gaussian, take off the mean of `train` and divide by its scale,
            for each feature of a table, each channel of images; see `standardised`.
        note: how the tensors were made; see `variant`.

    Example:
        >>> images = (torch.arange(48).reshape(6, 8) % 3 == 0).reshape(6, 2, 4)
        >>> data = Dataset(images[:4], images[4:5], images[5:], labels=list("abba"))
        >>> data
        Dataset('custom', (2, 4), 'bernoulli', "user's tensors, 4/1/1")
        >>> data.train.dtype, data.labels["train"], data.label_names
        (torch.float32, tensor([0, 1, 1, 0]), ('a', 'b'))
        >>> Dataset(torch.eye(20)).variant
        "user's tensors, valid and test are each 10 % of train (seed 0), 16/2/2"
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    likelihood: str
    name: str
    dynamic: bool
    logit: float | None
    standardisation: Standardisation | None
    note: str

    def __init__(
        self,
        train: Tensor | np.ndarray,
        valid: Tensor | np.ndarray | None = None,
        test: Tensor | np.ndarray | None = None,
        likelihood: str = "bernoulli",
        name: str = "custom",
        dynamic: bool = False,
        *,
        logit: float | None = None,
        labels: Given | Mapping[str, Given] | None = None,
        label_names: Sequence[str] | None = None,
        standardise: bool = False,
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
        if standardise and (likelihood != "gaussian" or logit is not None):
            raise UserError(
                "standardise=True: expected likelihood='gaussian' without a logit, got "
                f"{likelihood!r}; only real numbers have a scale of their own"
            )
        known = vars(self)  # of a frozen object, which takes no other assignment
        known |= {"likelihood": likelihood, "name": name, "dynamic": dynamic}
        known |= {"logit": logit, "standardisation": None, "_classes": None}
        given = {"train": train, "valid": valid, "test": test}
        given = {split: x for split, x in given.items() if x is not None}
        kinds = self._kinds()
        shape, bits, splits = None, _are_bits(given, kinds), {}
        for split, x in given.items():
            x = checked(x, shape, kinds[split], split, bits, wide=True)
            splits[split], shape = x.detach(), x.shape[1:]
        rows: dict[str, np.ndarray] = {}
        sizes = {split: len(x) for split, x in splits.items()}
        if shares := {s: SHARE for s in ("valid", "test") if s not in splits}:
            rows = split_rows(sizes["train"], shares)
            whole = splits["train"]
            splits |= {split: whole[torch.from_numpy(r)] for split, r in rows.items()}
            verb = " and ".join(shares) + (" are each" if len(shares) > 1 else " is")
            note += f", {verb} 10 % of train (seed 0)"
        known["note"] = note
        if labels is not None:
            known["_classes"] = classes_of(labels, rows, sizes, label_names)
        if standardise:
            known["standardisation"] = found = standardisation_of(splits["train"])
            splits = {split: found.standardise(x) for split, x in splits.items()}
        for split in ("train", "valid", "test"):
            known[split] = owned(splits[split], given.get(split), likelihood, split)
        self._draw(tuple(shares))

    def _draw(self, taken: Sequence[str]) -> None:
        """Draw once what is judged by, where training data are redrawn every epoch."""
        generator = torch.Generator(self.train.device).manual_seed(777)
        for split in ("valid", "test"):
            x = getattr(self, split)
            if self.logit is not None:
                vars(self)[split] = dequantise(x, self.logit, generator)
            elif self.dynamic and split in taken:
                uniform = torch.empty_like(x).uniform_(generator=generator)
                vars(self)[split] = uniform.lt_(x)

    def _kinds(self) -> dict[str, str]:
        """The kind of values that each split has to have; see `checked`."""
        kinds = dict.fromkeys(("train", "valid", "test"), self.likelihood)
        if self.logit is not None:
            return dict.fromkeys(kinds, "grey")
        return kinds | ({"train": "grey"} if self.dynamic else {})

    @property
    def labels(self) -> Mapping[str, Tensor] | None:
        """The class of each datum, int64 `(N,)`, by split; None where none are known.

        Of a published set they are read where its files are there, and some splits of one
        may have none.
        """
        classes = self._known_classes()
        if classes is None:
            return None
        splits = {s: getattr(self, s) for s in classes.values}
        device = self.train.device
        return {
            s: classes.values[s][: len(x)].to(device) for s, x in splits.items()
        }

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes; None where none are known."""
        classes = self._known_classes()
        return None if classes is None else classes.names

    def _known_classes(self) -> Classes | None:
        known = vars(self)
        if callable(known["_classes"]):  # those of a published set
            known["_classes"] = known["_classes"]()
        return known["_classes"]

    def fingerprint(self) -> str:
        """A digest of the data that are trained and validated on, and of what they are.

        The same on every device.

        >>> x = torch.eye(4)
        >>> Dataset(x, x, x).fingerprint() == Dataset(x, x, 1 - x).fingerprint()
        True
        """
        what = self.likelihood, self.dynamic, self.logit
        digest = hashlib.blake2b(repr(what).encode(), digest_size=16)
        for x in (self.train, self.valid):
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
        """The same data set with its tensors on `device`."""
        moved = copy.copy(self)
        for split in ("train", "valid", "test"):
            object.__setattr__(moved, split, getattr(self, split).to(device))
        return moved

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
        object.__setattr__(fewer, "train", self.train[:n])
        return fewer

    def is_quantised(self) -> bool:
        """True for real numbers of few different values, as k/255 are.

        >>> grey = torch.randint(256, (9, 28, 28)) / 255
        >>> Dataset(grey, grey, grey, "gaussian").is_quantised()
        True
        """
        if self.likelihood != "gaussian" or self.logit is not None:
            return False
        values = len(self.test.unique())
        return values <= 256 and 4 * values <= self.test.numel()

    def pixels(self, x: Tensor) -> Tensor:
        """The data as they were given, of `x`, data or samples of a model of them.

        Grey levels in [0, 1] of what went through a logit, and numbers in the user's units
        of what was standardised.
        """
        if self.standardisation is not None:
            return self.standardisation.undo(x)
        return x if self.logit is None else to_pixels(x, self.logit)

    @property
    def log_jacobian(self) -> float:
        r"""The constant \(\log|dy/dx|\), in nats, of standardised y; else 0.

        A density of the data as given is that of y times its exponential. Whatever gets a
        `Dataset` to judge a pair by adds it; of a bare tensor the density is of the tensor.
        Of a logit it is no constant: see `bits_per_dim`.
        """
        known = self.standardisation
        return 0.0 if known is None else known.log_jacobian

    def judged_on(self, x: Tensor) -> "Dataset":
        """The same data set with `x`, some of its data, in place of its test split.

        What is judged by these knows the units of their density; it has no test labels.
        """
        other = copy.copy(self)
        vars(other)["test"] = x
        if (classes := self._known_classes()) is not None:
            values = {s: v for s, v in classes.values.items() if s != "test"}
            vars(other)["_classes"] = Classes(values, classes.names)
        return other

    def bits_per_dim(self, nats: float, x: Tensor) -> float:
        """Mean log-density `nats` of the data `x`, in bits for each element.

        Of dequantised data it is in bits for each of 256 grey levels. Of standardised ones
        `nats` are of the data as given, as `evaluate` has them.
        """
        if self.logit is not None:
            return bits_per_dim(nats, x, self.logit)
        return -nats / (math.prod(self.event_shape) * math.log(2))

    def epoch(self, seed: int, epoch: int) -> Tensor:
        """The training images of one epoch: `train`, or a fresh draw from it.

        The draw is a function of `(seed, epoch)` alone, so that a resumed run sees
        the same images; it is made on the device of `train` and leaves the global
        random state untouched.
        """
        if not self.dynamic and self.logit is None:
            return self.train
        digest = hashlib.sha256(f"{plain(seed)}/{plain(epoch)}".encode()).digest()
        generator = torch.Generator(self.train.device)
        generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        if self.logit is not None:
            return dequantise(self.train, self.logit, generator)
        uniform = torch.empty_like(self.train).uniform_(generator=generator)
        return uniform.lt_(self.train)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {self.event_shape}, {self.likelihood!r}, "
            f"{self.variant!r})"
        )


def _are_bits(
    splits: Mapping[str, Tensor | np.ndarray], kinds: Mapping[str, str]
) -> bool:
    """True for uint8 values that are 0 and 1 in all splits of grey levels."""
    grey = [s for s in splits if kinds[s] in ("grey", "discretized_logistic")]
    largest = {s: largest_of_bytes(splits[s]) for s in grey}
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
