"""Data sets: arrays -> three tensors and what they are.

A `Dataset` holds training, validation and test data with the likelihood that suits them,
and says in `variant` how they were made: the binarisation of MNIST alone moves a
log-likelihood by more than most posteriors do, so no number should go without it.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data.checks import (
    are_binary,
    are_bits,
    check_images,
    check_precision,
    checked,
    owned,
)
from pyro_vae_zoo.data.dequantisation import bits_per_dim, dequantise, to_pixels
from pyro_vae_zoo.data.labels import Classes, Given, classes_of
from pyro_vae_zoo.data.own import arrays, folders, items, tables
from pyro_vae_zoo.data.standardised import Standardisation, standardisation_of
from pyro_vae_zoo.data.streamed.randomness import digest_of
from pyro_vae_zoo.data.streamed.rows import Array, Rows, part, some
from pyro_vae_zoo.data.streamed.steps import (
    Binarised,
    Dequantised,
    checked_rows,
    owned_rows,
    standardised,
)
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.options import count, real

__all__ = ["Dataset", "check_images"]


@dataclass(frozen=True, eq=False, init=False)
class Dataset:
    """Data in three splits, the likelihood that suits them, and their classes if known.

    Tensors or numpy arrays of shape `(N, *event_shape)` are checked, copied and stored as
    float32; colour images `(N, H, W, 3)` are turned to `(N, 3, H, W)`, grey ones
    `(N, H, W, 1)` to `(N, H, W)`. For a discretised logistic or a dynamic set uint8 values
    up to 255 become k/255; where no split has one above 1 they are bits, and stay what they
    are. An array that is mapped from a file stays there, and is read and checked batch by
    batch: its split is a `Rows`.

    Args:
        train: training data.
        valid: validation data, or the share of those given as `train` that is taken off
            them by a fixed permutation; by default 10 %.
        test: test data; likewise.
        likelihood: `"bernoulli"` (values 0 and 1), `"gaussian"` (any),
            `"discretized_logistic"` (grey levels k/255), or of counts and classes, whole
            numbers from 0, `"binomial"`, `"poisson"`, `"negative_binomial"` or
            `"categorical"`.
        name: short name, used for run folders and tables.
        dynamic: `train` holds Bernoulli probabilities, redrawn by `epoch`; those of the
            other splits are drawn once (seed 777), and bits stay what they are.
        logit: lambda of the logit that dequantised grey levels go through, see
            `dequantisation`; all splits are given as grey levels, `train` keeps them
            and is redrawn by `epoch`, the others are drawn once (seed 777).
        labels: the class of each datum of `train`, or by split: whole numbers, words or
            truth values. They are for pictures and probes; no bound sees them.
        label_names: of the classes; by default the labels that occur, in their order.
        standardise: for a Gaussian, take off the mean of `train` and divide by its scale,
            for each feature of a table, each channel of images; see `standardised`.
        seed: of the permutation.
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
        train: Array,
        valid: Array | float | None = None,
        test: Array | float | None = None,
        likelihood: str = "bernoulli",
        name: str = "custom",
        dynamic: bool = False,
        *,
        logit: float | None = None,
        labels: Given | Mapping[str, Given] | None = None,
        label_names: Sequence[str] | None = None,
        standardise: bool = False,
        seed: int = 0,
        note: str | None = None,
    ) -> None:
        if dynamic and likelihood != "bernoulli":
            raise UserError(
                f"dynamic=True: expected likelihood='bernoulli', got {likelihood!r}; only "
                "binary images are redrawn every epoch"
            )
        if logit is not None and not (
            likelihood == "gaussian" and 0 < real("logit", logit) < 0.5
        ):
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
        given, shares = arrays.given_and_shares(train, valid, test)
        samples = {split: some(x) for split, x in given.items()}
        kinds = self._kinds(samples)
        bits = are_bits(samples, kinds)
        shape, splits = None, {}
        for split, x in given.items():
            check: Any = checked_rows if isinstance(x, Rows) else checked
            x = check(x, shape, kinds[split], split, bits, wide=True)
            splits[split], shape = x.detach(), x.shape[1:]
            if not standardise:
                check_precision(some(x), likelihood, split)
        rows: dict[str, np.ndarray] = {}
        sizes = {split: len(x) for split, x in splits.items()}
        note = arrays.note_of(note, dynamic, logit)
        if shares:
            rows = arrays.split_rows(sizes["train"], shares, seed)
            whole = splits["train"]
            splits |= {split: part(whole, r) for split, r in rows.items()}
            note += f", {arrays.share_note(shares, seed)}"
        known["note"] = note + (", standardised by train" if standardise else "")
        if labels is not None:
            known["_classes"] = classes_of(labels, rows, sizes, label_names)
        if standardise:
            known["standardisation"] = found = standardisation_of(splits["train"])
            splits = {split: standardised(x, found) for split, x in splits.items()}
        for split in ("train", "valid", "test"):
            own: Any = owned_rows if isinstance(splits[split], Rows) else owned
            known[split] = own(splits[split], given.get(split))
        self._draw({*shares, *(s for s in given if kinds[s] == "grey")})

    split = classmethod(arrays.split)
    from_torch = classmethod(items.from_torch)
    from_folder = classmethod(folders.from_folder)
    from_csv = classmethod(tables.from_csv)
    from_frame = classmethod(tables.from_frame)

    def _draw(self, grey: Collection[str]) -> None:
        """Draw once what is judged by, where training data are redrawn every epoch."""
        generator = torch.Generator(self.train.device).manual_seed(777)
        for number, split in enumerate(("valid", "test")):
            x = getattr(self, split)
            if isinstance(x, Rows) and split in grey:
                vars(self)[split] = self._drawn(x, digest_of(777, number))
            elif self.logit is not None:
                vars(self)[split] = dequantise(x, self.logit, generator)
            elif self.dynamic and split in grey:  # and does not hold bits
                uniform = torch.empty_like(x).uniform_(generator=generator)
                vars(self)[split] = uniform.lt_(x)

    def _kinds(self, given: Mapping[str, Any]) -> dict[str, str]:
        """The kind of values that each split has to have; see `checked`."""
        if self.logit is not None:
            return dict.fromkeys(given, "grey")
        if self.dynamic:
            bits = [s for s, x in given.items() if s != "train" and are_binary(x, s)]
            return dict.fromkeys(given, "grey") | dict.fromkeys(bits, "bernoulli")
        return dict.fromkeys(given, self.likelihood)

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
        return {s: classes.values[s][: len(x)].to(device) for s, x in splits.items()}

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

        The same on every device. Of data that are not in memory it is made of their shape,
        of 256 rows spread over them, and of the size of the file and the time at which it
        was changed, which a copy keeps if it is made by `cp -p`.

        >>> x = torch.eye(4)
        >>> Dataset(x, x, x).fingerprint() == Dataset(x, x, 1 - x).fingerprint()
        True
        """
        units = [] if self.standardisation is None else [self.standardisation.words()]
        what = self.likelihood, self.dynamic, self.logit, *units
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

    @property
    def largest(self) -> float:
        """The largest value of all splits: counts go up to it, classes are one more."""
        splits = self.train, self.valid, self.test
        return max(float(x.max()) for s in splits for x in s.split(10_000))

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
        """The same data set with its first `n` training data only.

        Raises:
            UserError: where there are not so many.
        """
        n = count("n", n, least=-math.inf)
        if not 1 <= n <= len(self.train):
            raise UserError(
                f"expected 1 to {len(self.train)} training data of {self.name}, got {n}"
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

    def as_given(self, x: Tensor) -> Tensor:
        """Numbers in the user's units, of data `x` or samples that are standardised."""
        return x if self.standardisation is None else self.standardisation.undo(x)

    def pixels(self, x: Tensor) -> Tensor:
        """The pixels in a picture of `x`, data or samples of a model of them.

        Grey levels in [0, 1] of what went through a logit, else the data as given.
        """
        if self.logit is not None:
            return to_pixels(x, self.logit)
        return self.as_given(x)

    def standardised_as(self, other: "Dataset") -> "Dataset":
        """The same data, standardised with the mean and the scale of another data set.

        >>> x = torch.tensor([[0.0], [2.0]])  # of mean 1 and scale 1
        >>> a, b = (Dataset(x, x, x, "gaussian", standardise=True) for x in (x, 3 * x))
        >>> b.standardised_as(a).train.flatten()
        tensor([-1.,  5.])
        """
        if self.standardisation is None or other.standardisation is None:
            raise UserError(
                "standardised_as: expected two data sets that are standardised; make "
                "them with standardise=True"
            )
        step = other.standardisation.after(self.standardisation)
        changed = self._changed(lambda x: standardised(x, step))
        vars(changed)["standardisation"] = other.standardisation
        return changed

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

        Whatever is judged by these knows the units of their density; it has no labels.
        """
        other = copy.copy(self)
        vars(other).update({"test": x, "_classes": None})
        return other

    def bits_per_dim(self, nats: float, x: Tensor) -> float:
        """Mean log-density `nats` of the data `x`, in bits for each element.

        Of dequantised data it is in bits for each of 256 grey levels. Of standardised ones
        `nats` are of the data as given, as `evaluate` has them.
        """
        if self.logit is not None:
            if isinstance(x, Rows):  # each part counts by its size
                parts = [
                    (len(p), bits_per_dim(nats, p, self.logit)) for p in x.split(1000)
                ]
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
        """Rows that are drawn where they are read, as functions of key and row."""
        if self.logit is not None:
            return rows.then(Dequantised(key, self.logit))
        return rows.then(Binarised(key)) if self.dynamic else rows

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {self.event_shape}, {self.likelihood!r}, "
            f"{self.variant!r})"
        )
