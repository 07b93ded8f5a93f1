"""What a checkpoint holds, and from which one a training may go on."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae_zoo.data.download import one_line
from pyro_vae_zoo._process import random_states, set_random_states
from pyro_vae_zoo.training.checkpoint import load_checkpoint, load_weights
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.training.history import History
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.data.formats import MISFITS
from pyro_vae_zoo.pair.vae import Phase

if TYPE_CHECKING:
    from pyro_vae_zoo.training.loop import Loop

__all__ = ["check_resumable", "go_to", "state_of"]

_CHECKPOINT_KEYS = {
    *("options", "epoch", "step", "elbo_sum", "seconds", "history", "best"),
    *("vae", "optimizer", "random_states", "num_threads", "compiled", "data"),
}


def state_of(loop: "Loop") -> dict[str, Any]:
    """All that a training needs to go on from here; collective."""
    return {
        "options": asdict(loop.options),
        "data": loop.fingerprint,
        "epoch": loop.epoch,
        "step": loop.step,
        "elbo_sum": loop.elbo_sum,
        "seconds": loop.seconds,
        "history": asdict(loop.history),
        "compiled": loop.compiled,
        "best": loop.best,
        "vae": loop.vae.state_dict(),
        "optimizer": loop.steps.optimizer.state_dict(),
        "random_states": loop.ranks.gather(random_states(loop.vae.device)),
        "num_threads": torch.get_num_threads(),  # it changes the last bits
    }


def go_to(loop: "Loop", state: dict[str, Any], path: Path) -> None:
    """Have a training go on from a state that `check_resumable` let pass.

    Raises:
        UserError: for a state that is not one of this training; it names `path`.
    """
    try:
        _set(loop, state, path)
    except UserError:
        raise
    except MISFITS as error:
        raise DataFileError(
            f"{path} is no checkpoint of this training: {one_line(error)}"
        ) from error


def _set(loop: "Loop", state: dict[str, Any], path: Path) -> None:
    load_weights(loop.vae, state["vae"], path)
    loop.epoch, loop.step = state["epoch"], state["step"]
    loop.elbo_sum, loop.seconds = state["elbo_sum"], state["seconds"]
    loop.history = History(**state["history"])
    never = dict.fromkeys(range(len(loop.vae.phases)), False)
    loop.compiled = state["compiled"] if loop.options.compile else never
    loop.best = state["best"]
    if loop.best is not None:
        own = loop.vae.state_dict()
        # What a release did not save, the modules have set as it was then.
        unsaved = own.keys() - state["vae"].keys()
        loop.best = loop.best | {name: own[name].clone() for name in unsaved}
        if _shapes(loop.best) != _shapes(own):
            raise ValueError("the weights of the best epoch are not those of this VAE")
    loop.enter_phase()
    loop.steps.load(state["optimizer"])
    of_ranks = state["random_states"]
    if len(of_ranks) == loop.ranks.size:
        set_random_states(of_ranks[loop.ranks.rank], loop.vae.device)
    else:  # there were more processes, or fewer
        done = loop.epoch * loop.steps_per_epoch + loop.step
        torch.manual_seed(loop.ranks.seed(loop.options.seed + done))
    torch.set_num_threads(state["num_threads"])


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


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
