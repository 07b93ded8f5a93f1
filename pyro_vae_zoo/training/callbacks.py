"""Callbacks: what a user's code is told of a training, and loggers that are such code.

A callback is a function of the `State` after each epoch, or any object with a method
`on_epoch_end(state)`, `on_fit_end(state)` or both. It looks on: what it draws is not drawn
from the training's random state, the VAE is in evaluation mode and is given back in that
which it was in, and of several processes the first alone calls it.
"""

import csv
import importlib.util
import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import torch

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.errors import UserError, one_line
from pyro_vae_zoo.files import write_atomically
from pyro_vae_zoo.pair.modes import evaluation_mode
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import Ranks, alone
from pyro_vae_zoo.training.history import History
from pyro_vae_zoo.training.options import TrainOptions, name_of

__all__ = ["CSV", "Callback", "Callbacks", "State", "TensorBoard", "WandB"]

_EPOCH_END, _FIT_END = "on_epoch_end", "on_fit_end"


@dataclass(frozen=True)
class State:
    """What a callback is given.

    Attributes:
        epoch: the record of the epoch that is done, as in `metrics.jsonl`.
        history: the course until here, a copy.
        vae: the pair, with the weights that were judged: under `ema` the averaged ones,
            and those that are kept when the training is done.
        data: the data set, on the device of the pair.
        options: of the training.
    """

    epoch: Mapping[str, Any]
    history: History
    vae: VAE
    data: Dataset
    options: TrainOptions
    asked: Event = field(default_factory=Event, repr=False)

    def stop(self) -> None:
        """Let this epoch be the last; a resumed training knows it."""
        self.asked.set()


class Training(Protocol):
    """What a state is made of: the loop of a training."""

    history: History
    vae: VAE
    data: Dataset
    options: TrainOptions


class _OnEpochEnd(Protocol):
    def on_epoch_end(self, state: State, /) -> object: ...


class _OnFitEnd(Protocol):
    def on_fit_end(self, state: State, /) -> object: ...


Callback = _OnEpochEnd | _OnFitEnd | Callable[[State], object]


class Callbacks:
    """Calls what `fit` was given, and says what came of it.

    Args:
        given: the callbacks, in their order.

    Raises:
        UserError: for what is no callback.

    >>> Callbacks([print, 3])
    Traceback (most recent call last):
    ...
    pyro_vae_zoo.errors.UserError: callbacks: expected functions of a state or objects...
    """

    def __init__(self, given: Sequence[Callback] = ()) -> None:
        for callback in given:
            if isinstance(callback, type):
                name = callback.__name__
                raise UserError(
                    f"callbacks: expected an object, got the class {name}; did you "
                    f"mean {name}()?"
                )
            if not _hooks(callback):
                raise UserError(
                    "callbacks: expected functions of a state or objects with "
                    f"{_EPOCH_END} or {_FIT_END}, got {type(callback).__name__}"
                )
        self.given = tuple(given)

    def epoch_end(self, training: Training) -> UserError | None:
        """Call those of an epoch's end; the error to raise when all is saved, if any.

        Where one asks to stop, the history says so from here on.
        """
        return self._call(_EPOCH_END, training)

    def fit_end(self, training: Training) -> None:
        """Call those of the training's end.

        Raises:
            UserError: for what one of them raised.
        """
        if failed := self._call(_FIT_END, training):
            raise failed

    def _call(self, hook: str, training: Training) -> UserError | None:
        hooks = [(c, _hooks(c)[hook]) for c in self.given if hook in _hooks(c)]
        if not hooks:
            return None
        history, vae = training.history, training.vae
        seen = deepcopy(history)
        state = State(seen.epochs[-1], seen, vae, training.data, training.options)

        def call_all() -> tuple[bool, UserError | None]:
            cuda = [vae.device] if vae.device.type == "cuda" else []
            for callback, function in hooks:
                with ExitStack() as stack:
                    stack.enter_context(torch.random.fork_rng(devices=cuda))
                    stack.enter_context(evaluation_mode(vae))
                    stack.enter_context(alone())
                    try:
                        function(state)
                    except Exception as error:  # whatever the user's code may raise
                        return state.asked.is_set(), _failure(callback, hook, error)
            return state.asked.is_set(), None

        stop, failed = Ranks().from_first(call_all)
        history.stopped_early = history.stopped_early or (stop and hook == _EPOCH_END)
        return failed


def _hooks(callback: Any) -> dict[str, Callable[[State], object]]:
    """The methods of a callback that are called, by their names."""
    found = {name: getattr(callback, name, None) for name in (_EPOCH_END, _FIT_END)}
    methods = {name: method for name, method in found.items() if callable(method)}
    return methods or ({_EPOCH_END: callback} if callable(callback) else {})


def _failure(callback: Any, hook: str, error: Exception) -> UserError:
    failed = UserError(
        f"the callback {name_of(callback)} failed in {hook}: {one_line(error)}; the "
        "training so far is in the checkpoint, if `out` was given"
    )
    failed.__cause__ = error
    return failed


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's record by name, but for its own."""
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
        if name != "epoch"
    }


class CSV:
    """Writes the records of all epochs to a table, a row for each.

    Args:
        path: of the file, written anew after each epoch, and whole at any time.

    >>> import tempfile
    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits").first(50)
    >>> vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "epochs.csv")
    ...     history = zoo.fit(vae, data, epochs=2, callbacks=[CSV(path)], progress=False)
    ...     len(path.read_text().splitlines())
    3
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def on_epoch_end(self, state: State) -> None:
        """Write the table."""
        epochs = state.history.epochs
        names = dict.fromkeys(name for record in epochs for name in record)
        text = io.StringIO()
        table = csv.DictWriter(text, list(names), lineterminator="\n")
        table.writeheader()
        table.writerows(epochs)
        write_atomically(self.path, text.getvalue().encode())


class TensorBoard:
    """Writes the numbers of each epoch for TensorBoard; the extra `loggers` has it.

    A training that goes on in the same folder goes on with its curves.

    Args:
        folder: of the events.

    Raises:
        UserError: where the package is not installed.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        _need("tensorboard", "loggers")
        self.folder = Path(folder)
        self._writer: Any = None

    def on_epoch_end(self, state: State) -> None:
        """Write the epoch's numbers."""
        from torch.utils.tensorboard import SummaryWriter  # which takes its time

        epoch = state.epoch["epoch"]
        if self._writer is None:  # what an interrupted run wrote of later ones is void
            self._writer = SummaryWriter(str(self.folder), purge_step=epoch)
        for name, value in _numbers(state.epoch).items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def on_fit_end(self, state: State) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandB:
    """Logs the numbers of each epoch to Weights & Biases; the extra `wandb` has it.

    Args:
        project: of the run that is begun, with the training's options as its configuration.
        name: of that run.
        folder: for its files.
        run: one that `wandb.init` has begun, to log to instead; it is not finished here.
            A resumed training goes on with its curves in one that has the same id.

    Raises:
        UserError: where the package is not installed.
    """

    def __init__(
        self,
        project: str = "pyro_vae_zoo",
        *,
        name: str | None = None,
        folder: str | os.PathLike | None = None,
        run: Any = None,
    ) -> None:
        if run is None:
            _need("wandb", "wandb")
        self.project = project
        self.name = name
        self.folder = folder
        self.given = run
        self._run = run

    def on_epoch_end(self, state: State) -> None:
        """Log the epoch's numbers."""
        if self._run is None:
            import wandb

            self._run = wandb.init(
                project=self.project,
                name=self.name,
                dir=None if self.folder is None else str(self.folder),
                config=state.options.recorded(),
            )
        self._run.log(_numbers(state.epoch), step=state.epoch["epoch"])

    def on_fit_end(self, state: State) -> None:
        """Say which epoch was kept, and finish the run that was begun here."""
        if self._run is None:  # of a training that was done already
            return
        self._run.summary["best_epoch"] = state.history.best_epoch
        self._run.summary["weights"] = state.history.weights
        if self.given is None:
            self._run.finish()
            self._run = None


def _need(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"the package {package} is not installed: pip install "
            f"'pyro-vae-zoo[{extra}]'"
        )
