"""What a checkpoint holds, and from which one a training may go on."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.files import MISFITS, one_line
from pyro_vae_zoo.runtime import random_states, set_random_states
from pyro_vae_zoo.saving import load_weights
from pyro_vae_zoo.training.history import History

if TYPE_CHECKING:
    from pyro_vae_zoo.training.loop import Loop

__all__ = ["go_to", "state_of"]


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
