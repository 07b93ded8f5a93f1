"""`History`: the course of a training, epoch by epoch."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta
from typing_extensions import NotRequired, TypedDict

from pyro_vae_zoo.data.display import Summary, digits, figure, frame
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.files import finite, write_atomically
from pyro_vae_zoo.options import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "Epoch",
    "History",
    "Number",
    "append_record",
    "bounds",
    "monitored",
    "validated_by",
    "write_records",
]

Number = float | None  # JSON has null for what is not finite


class Epoch(TypedDict):
    """A line of `metrics.jsonl`: an epoch; what a pair's `monitor` adds is beside these.

    `train_elbo` is of the draws of the steps, all else of the validation data at the
    epoch's end. Under `bound="iwae"` it is None, and `train_bound` and `valid_bound` are
    the bound that is trained, of as many draws (version 0.1.0 wrote it as `train_elbo`).
    Under a `beta` other than 1 `valid_bound` is reconstruction - beta * kl, and all else
    is of the plain ELBO; `kl_weight` has the beta. `lr` is the optimiser's first group's.
    """

    epoch: Annotated[int, Meta(gt=0, le=2**63 - 1)]
    phase: NotRequired[str]
    train_elbo: NotRequired[Number]
    valid_elbo: NotRequired[Number]
    train_bound: NotRequired[Number]
    valid_bound: NotRequired[Number]
    kl: NotRequired[Number]
    reconstruction: NotRequired[Number]
    initial_log_density: NotRequired[Number]
    final_log_density: NotRequired[Number]
    log_det: NotRequired[Number]
    lr: NotRequired[Number]
    kl_weight: NotRequired[Number]
    seconds: NotRequired[float]


def validated_by(record: Mapping[str, Any]) -> str:
    """The entry of an epoch's record that chooses the best epoch.

    >>> validated_by({"valid_elbo": -91.0, "valid_bound": -90.0})
    'valid_bound'
    """
    return "valid_bound" if record.get("valid_bound") is not None else "valid_elbo"


def bounds(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """The bounds that a training is watched by: of its steps, and on validation.

    >>> bounds({"train_elbo": -92.0, "valid_elbo": -91.0})
    (-92.0, -91.0)
    """
    trained = record.get("train_bound", record["train_elbo"])
    return trained, record[validated_by(record)]


@dataclass
class History:
    """The course of a training, as `fit` returns it.

    Attributes:
        epochs: a record for each epoch, see `Epoch`.
        best_epoch: the epoch of the last phase whose `valid_bound`, or else `valid_elbo`,
            is highest.
        weights: which weights the VAE has now, `best` or `last`.
        stopped_early: whether patience ran out, or a callback stopped the training.
        compiled: the phases whose steps were compiled.
        how: how the steps of each phase were made, and why not faster.
        precision: in which the networks multiplied, `float32` or `bf16`.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    >>> history = zoo.fit(vae, data, epochs=2, device="cpu", progress=False)
    >>> [record["phase"] for record in history.epochs], history.weights
    (['train', 'train'], 'best')
    >>> history.how
    {'train': 'one by one: 26 steps, and compiling pays for itself in 5000'}
    """

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    weights: str = "last"
    stopped_early: bool = False
    compiled: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    precision: str = "float32"

    @property
    def seconds(self) -> float:
        """Time spent in training and validation."""
        return sum(record.get("seconds", 0.0) for record in self.epochs)

    def ends_best(self) -> bool:
        """True where the last epoch is better on validation than `best_epoch`, if any.

        >>> History([{"valid_elbo": -91.0}, {"valid_elbo": -90.0}], 1).ends_best()
        True
        """
        if not self.best_epoch:
            return True
        last: dict[str, Any] = {**self.epochs[-1]}
        best: dict[str, Any] = {**self.epochs[self.best_epoch - 1]}
        name = validated_by(last)
        return last[name] > best.get(name, -math.inf)  # 0.1.0 had no `valid_bound`

    def __repr__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        count, records = len(self.epochs), {r["epoch"]: r for r in self.epochs}
        shown = [e for e in sorted({1, self.best_epoch, count}) if e in records]
        columns = _columns(self.epochs)
        rows = [
            (name, *(digits(records[e].get(name)) for e in shown))  # type: ignore[arg-type]
            for name in _SHOWN
            if any(value is not None for value in columns.get(name, ()))
        ]
        what = f"History of {count} epochs in {digits(self.seconds, 1)} s"
        if count:
            what += f"; {self.weights} weights"
            what += f", of epoch {self.best_epoch}" if self.weights == "best" else ""
        what += "; stopped early" if self.stopped_early else ""
        header = tuple(f"epoch {e}" for e in shown)
        return Summary(f"{what}; nats per datum", rows, header)

    def to_frame(self) -> "DataFrame":
        """A data frame with a row for each epoch: the records, None as NaN.

        Raises:
            UserError: without pandas.
        """
        return frame(_columns(self.epochs)).set_index("epoch")

    def plot(self, *, title: str | None = None) -> "Figure":
        """Bounds, KL and more over the epochs; see `plots.plot_training`."""
        return figure(self, title)


# What a few lines say of a training; `to_frame` has the rest.
_SHOWN = ["train_elbo", "valid_elbo", "train_bound", "valid_bound"]
_SHOWN += ["kl", "reconstruction"]


def _columns(epochs: Sequence[Epoch]) -> dict[str, list]:
    """The entries of the records, in their order; None where one has no such entry."""
    names = dict.fromkeys(["epoch", *(name for record in epochs for name in record)])
    return {name: [record.get(name) for record in epochs] for name in names}


def monitored(vae: "VAE") -> dict[str, Any]:
    """What a VAE's `monitor` records of it: numbers, words, lists and dictionaries.

    Raises:
        UserError: for an entry that is something else.
    """
    found = {} if vae.monitor is None else vae.monitor(vae)
    try:
        record = json.loads(json.dumps(finite(found), default=plain))
    except (TypeError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise UserError(
            "vae.monitor: expected a dictionary of numbers, words, or lists and "
            f"dictionaries of them, got {found!r}"
        )
    return record


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl` anew."""
    write_atomically(path, "".join(map(_line, records)).encode())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(finite(record), allow_nan=False) + "\n"


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record of an epoch to the end of `metrics.jsonl`, the first to a new one.

    Raises:
        DataFileError: where it cannot be written.
    """
    try:
        with open(path, "w" if record["epoch"] == 1 else "a") as file:
            file.write(_line(record))
    except OSError as error:
        raise DataFileError(
            f"cannot write {path} ({error.strerror}): is the disk full or the folder "
            "gone? --resume continues from the last checkpoint"
        ) from error
