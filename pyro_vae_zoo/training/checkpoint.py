"""Checkpoints: written whole, read without running code, checked before they are used."""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor
from torch.utils._pytree import tree_leaves
from typing_extensions import TypedDict

from pyro_vae_zoo.errors import DataFileError, UserError, message_of, one_line
from pyro_vae_zoo.files import (
    MISFITS,
    checked,
    written,
)
from pyro_vae_zoo.pair.vae import VAE, Phase
from pyro_vae_zoo.training.history import History
from pyro_vae_zoo.training.options import TrainOptions, training_then

__all__ = [
    "best_weights",
    "check_resumable",
    "check_stored",
    "load_checkpoint",
    "options_of",
    "readable",
    "save_checkpoint",
]


def save_checkpoint(path: str | os.PathLike, state: dict) -> None:
    """Write tensors, numbers, strings and containers of them, atomically.

    Raises:
        DataFileError: where it cannot be written; what was there before is as it was.
    """
    try:
        with written(Path(path)) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # either, for a full disk
        before = (
            "the one before is whole" if os.path.exists(path) else "there is none yet"
        )
        raise DataFileError(
            f"cannot write the checkpoint {path} ({message_of(error)}): is the disk "
            f"full or the folder gone? {before}"
        ) from error


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint; a pickle with anything but data in it is refused, not run."""
    try:
        there = check_stored(Path(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
        if _bytes_of(state) > there:
            raise ValueError("tensors that are larger than their data")
    except FileNotFoundError:
        raise DataFileError(f"checkpoint {path} not found") from None
    except Exception as error:  # there is no end to how a broken file fails to load
        raise DataFileError(
            f"{path} is no checkpoint of the zoo, or is corrupt; nothing in it was run: "
            f"{refused(error)}"
        ) from error
    if not isinstance(state, dict):
        raise DataFileError(f"{path} is no checkpoint: it holds no dictionary")
    return state


def refused(error: Exception) -> str:
    """What a load with `weights_only` refused, without the advice to load it anyway.

    >>> refused(ValueError("Advice. WeightsUnpickler error: Unsupported global: x"))
    'Unsupported global: x'
    """
    found = re.search(
        r"WeightsUnpickler error: (.+?)(?:\. Please use|\n|$)", str(error)
    )
    return found[1] if found else message_of(error)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of whoever makes something of a checkpoint, as one that names the file.

    Raises:
        DataFileError: in place of what code raises that is given values of another kind.
    """
    try:
        yield
    except UserError:
        raise
    except MISFITS as error:
        raise DataFileError(
            f"{path} is no checkpoint of this training: {one_line(error)}"
        ) from error


def _bytes_of(state: Any) -> int:
    """The bytes of the tensors in a checkpoint; of what they share, once."""
    storages = [t.untyped_storage() for t in tree_leaves(state) if torch.is_tensor(t)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def check_stored(path: Path) -> int:
    """The bytes of data in a zip archive that compresses nothing, as torch writes them.

    Raises:
        ValueError: for one that declares more than the file has.
        zipfile.BadZipFile, OSError: for a broken archive.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise ValueError("an archive with compressed entries")
    if sum(e.file_size for e in entries) > size:
        raise ValueError("an archive that declares more bytes than it has")
    return sum(e.file_size for e in entries if "/data/" in e.filename)


Natural = Annotated[int, Meta(ge=0, le=2**53)]


class State(TypedDict):
    """The contents of a checkpoint; see `Loop.state_dict`."""

    options: dict[str, Any]
    data: str | None  # their fingerprint
    epoch: Natural
    step: Natural
    elbo_sum: float
    seconds: float
    history: History
    compiled: dict[int, bool]  # by number of phase
    vae: dict[str, Any]
    best: dict[str, Any] | None
    average: dict[str, Any] | None
    optimizer: dict[str, Any]
    schedule: dict[str, Any] | None  # of a scheduler of torch's
    random_states: list[list[Any]]  # of each process
    num_threads: Annotated[int, Meta(gt=0, le=2**16)]


def check_resumable(
    path: Path,
    options: TrainOptions,
    phases: Sequence[Phase] = (Phase(),),
    fingerprint: str | None = None,
) -> dict:
    """The checkpoint at `path`, if a training with `options` may go on from it.

    Args:
        path: the file.
        options: of the training.
        phases: of the pair.
        fingerprint: of the data; see `Dataset.fingerprint`. None is not compared, nor is
            a checkpoint of version 0.1.0, which has none.

    Raises:
        UserError: where an option or the data differ, or more epochs are done than asked
            for.
    """
    state = load_checkpoint(path)
    state.setdefault("data", None)
    state.setdefault("average", None)
    state.setdefault("schedule", None)
    # A checkpoint from before there was a choice is of steps that were not compiled.
    state.setdefault("compiled", dict.fromkeys(range(len(phases)), False))
    states = state.get("random_states")
    if isinstance(states, list) and states and all(map(torch.is_tensor, states)):
        states = state["random_states"] = [states]  # of one process, as it was once
    checked(state, State, path, "checkpoint")
    # 0.1.0 chose between two libraries for matrix products; it decides the last bits.
    state["history"].pop("products", None)
    if not (
        _is_history(state["history"], state["epoch"])
        and _are_random(state["random_states"])
    ):
        raise DataFileError(f"{path} is no checkpoint: its history is inconsistent")
    if None not in (fingerprint, state["data"]) and fingerprint != state["data"]:
        raise UserError(
            f"{path} was made with other data: expected fingerprint {state['data']}, "
            f"got {fingerprint}; resume with the same data or start anew"
        )
    saved, now = training_then(state["options"]), options.recorded()
    # Only the end depends on the patience, and on the number of epochs, but for some.
    rate = options.schedule == "cosine" or options.has_own_rate
    bound = rate or len(phases) > 1 or phases[0].each_epoch
    free = {"patience"} if bound else {"epochs", "patience"}
    if options.compile is False:  # the way out where there is no compiler any more
        free.add("compile")
    for name in now.keys() - free:
        before = saved.get(name, getattr(TrainOptions, name))
        if before != now[name]:
            raise UserError(
                f"{path} was made with {name}={before}, now it is "
                f"{now[name]}; resume with the same options or start anew"
            )
    if state["epoch"] > options.num_epochs:
        raise UserError(
            f"{path} has {state['epoch']} epochs already, but {options.epochs} were "
            "asked for; ask for more epochs, or start anew"
        )
    return state


def options_of(path: Path) -> dict[str, Any]:
    """The options of the training that a checkpoint is of.

    Raises:
        DataFileError: for a file that holds none.
    """
    options = load_checkpoint(path).get("options")
    if not isinstance(options, dict):
        raise DataFileError(f"{path} is no checkpoint: it holds no options")
    return training_then(options)


def best_weights(
    vae: VAE, best: dict[str, Tensor], of: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Those of the best epoch; a release that saved less had the rest as it is now.

    Args:
        vae: which has the weights of the checkpoint.
        best: the weights of the best epoch in it.
        of: those of its end.

    Raises:
        ValueError: for weights that are not this pair's.
    """
    own = vae.state_dict()
    best = best | {name: own[name].clone() for name in own.keys() - of.keys()}
    if {n: t.shape for n, t in best.items()} != {n: t.shape for n, t in own.items()}:
        raise ValueError("the weights of the best epoch are not those of this VAE")
    return best


def _is_history(history: dict[str, Any], epoch: int) -> bool:
    """True for records of as many epochs as were done, with what is needed to go on."""
    epochs, best = history.get("epochs", []), history.get("best_epoch", 0)
    whole = all(
        isinstance(record.get(name), float)
        for record in epochs
        for name in ("valid_elbo", "seconds")
    )
    known = {field.name for field in fields(History)}
    return whole and len(epochs) == epoch >= best >= 0 and history.keys() <= known


def _are_random(states: list[list[Any]]) -> bool:
    return all(torch.is_tensor(tensor) for of_rank in states for tensor in of_rank)
