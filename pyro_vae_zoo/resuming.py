"""From which checkpoint a training may go on."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pyro_vae_zoo.checkpoint import load_checkpoint
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.options import TrainOptions
from pyro_vae_zoo.vae import Phase

__all__ = ["check_resumable"]

_CHECKPOINT_KEYS = {
    *("options", "epoch", "step", "elbo_sum", "seconds", "history", "best"),
    *("vae", "optimizer", "random_states", "num_threads", "compiled"),
}


def check_resumable(
    path: Path, options: TrainOptions, phases: Sequence[Phase] = (Phase(),)
) -> dict:
    """The checkpoint at `path`, if a training with `options` may go on from it.

    Raises:
        UserError: where an option differs, or more epochs are done than asked for.
    """
    state = load_checkpoint(path)
    # A checkpoint from before there was a choice is of steps that were not compiled.
    state.setdefault("compiled", dict.fromkeys(range(len(phases)), False))
    if torch.is_tensor(state.get("random_states", [None])[0]):
        state["random_states"] = [state["random_states"]]  # of one process, as it was
    missing = _CHECKPOINT_KEYS - state.keys()
    if missing:
        raise DataFileError(f"{path} is no checkpoint: it lacks {sorted(missing)}")
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
