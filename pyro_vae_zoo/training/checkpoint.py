"""Files that survive: atomic writes, models as safetensors, checkpoints.

A file is written beside its place and moved there when it is whole, so that a full
disk or a killed process leaves the previous one as it was. Nothing that is loaded
can run code: models are safetensors, checkpoints load with `weights_only=True`.
"""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.files import (
    _first_line,
    written,
)
from pyro_vae_zoo.pair.vae import Phase
from pyro_vae_zoo.training.history import History
from pyro_vae_zoo.training.options import TrainOptions

__all__ = [
    "check_resumable",
    "check_stored",
    "load_checkpoint",
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
            f"cannot write the checkpoint {path} ({_first_line(error)}): is the disk full "
            f"or the folder gone? {before}"
        ) from error


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint; a pickle with anything but data in it is refused, not run."""
    try:
        there = check_stored(Path(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
        if _bytes_of(state) > there:
            raise ValueError("tensors that are larger than their data")
    except FileNotFoundError:
        raise DataFileError(f"expected a checkpoint {path}; there is none") from None
    except Exception as error:  # there is no end to how a broken file fails to load
        raise DataFileError(
            f"{path} is no checkpoint of the zoo, or is corrupt; nothing in it was run: "
            f"{_first_line(error)}"
        ) from error
    if not isinstance(state, dict):
        raise DataFileError(f"{path} is no checkpoint: it holds no dictionary")
    return state


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


_CHECKPOINT_KEYS = {
    *("options", "epoch", "step", "elbo_sum", "seconds", "history", "best"),
    *("vae", "optimizer", "random_states", "num_threads", "compiled", "data"),
}


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
    # A checkpoint from before there was a choice is of steps that were not compiled.
    state.setdefault("compiled", dict.fromkeys(range(len(phases)), False))
    states = state.get("random_states")
    if isinstance(states, list) and states and all(map(torch.is_tensor, states)):
        state["random_states"] = [states]  # of one process, as it was written once
    missing = _CHECKPOINT_KEYS - state.keys()
    if missing:
        raise DataFileError(f"{path} is no checkpoint: it lacks {sorted(missing)}")
    if wrong := _wrong_kinds(state):
        raise DataFileError(
            f"{path} is no checkpoint: {', '.join(wrong)} make no sense"
        )
    if None not in (fingerprint, state["data"]) and fingerprint != state["data"]:
        raise UserError(
            f"{path} was made with other data: their fingerprint is {state['data']}, that "
            f"of these {fingerprint}; resume with the same or start anew"
        )
    saved, now = state["options"], asdict(options)
    # Nothing but the end depends on the number of epochs, with some exceptions.
    bound = options.schedule == "cosine" or len(phases) > 1 or phases[0].each_epoch
    free = set() if bound else {"epochs"}
    if options.compile is False:  # the way out where there is no compiler any more
        free.add("compile")
    for name in now.keys() - free:
        before = saved.get(name, getattr(TrainOptions, name))
        if before != now[name]:
            raise UserError(
                f"{path} was made with {name}={before}, now it is "
                f"{now[name]}; resume with the same options or start anew"
            )
    if state["epoch"] > options.epochs:
        raise UserError(
            f"{path} is {state['epoch']} epochs on, {options.epochs} were asked for"
        )
    return state


def _wrong_kinds(state: dict) -> list[str]:
    """What in a checkpoint is of another kind than what is written into it."""
    right = {
        "data": state["data"] is None or isinstance(state["data"], str),
        "options": isinstance(state["options"], dict),
        "epoch": _is_count(state["epoch"]),
        "step": _is_count(state["step"]),
        "num_threads": _is_count(state["num_threads"])
        and 0 < state["num_threads"] < 2**16,
        "elbo_sum": isinstance(state["elbo_sum"], float),
        "seconds": isinstance(state["seconds"], float),
        "history": _is_history(state["history"], state["epoch"]),
        "best": state["best"] is None or isinstance(state["best"], dict),
        "compiled": isinstance(state["compiled"], dict),
        "random_states": _are_random(state["random_states"]),
    }
    return [name for name, is_right in right.items() if not is_right]


def _is_history(history: Any, epoch: int) -> bool:
    if not isinstance(history, dict) or history.keys() - asdict(History()).keys():
        return False
    history = asdict(History()) | history  # of a release that knew less
    epochs, best = history["epochs"], history["best_epoch"]
    return (
        isinstance(epochs, list)
        and len(epochs) == epoch
        and all(isinstance(record, dict) for record in epochs)
        and all(isinstance(record.get("valid_elbo"), float) for record in epochs)
        and all(isinstance(record.get("seconds"), float) for record in epochs)
        and _is_count(best)
        and best <= epoch
        and isinstance(history["compiled"], list)
        and isinstance(history["products"], dict)
        and isinstance(history["stopped_early"], bool)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _are_random(states: Any) -> bool:
    return isinstance(states, list) and all(
        isinstance(of_rank, list) and all(map(torch.is_tensor, of_rank))
        for of_rank in states
    )
