"""`fit`: one training for every pair."""

import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pyro
import torch

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.files import CHECKPOINT_FILE, METRICS_FILE, locked
from pyro_vae_zoo.options import Option, declared, keywords_of
from pyro_vae_zoo.pair.door import check_dataset, check_trainable
from pyro_vae_zoo.pair.modes import undisturbed
from pyro_vae_zoo.pair.vae import VAE, Phase
from pyro_vae_zoo.runtime import (
    Ranks,
    interrupt_flag,
    pick_device,
    seed_generators,
    threads_kept,
)
from pyro_vae_zoo.training.averages import BATCH_NORMS
from pyro_vae_zoo.training.callbacks import Callback, Callbacks
from pyro_vae_zoo.training.checkpoint import options_of
from pyro_vae_zoo.training.history import History
from pyro_vae_zoo.training.loop import Loop
from pyro_vae_zoo.training.losses import checked_loss, settled
from pyro_vae_zoo.training.options import KEPT, TrainOptions
from pyro_vae_zoo.training.steps import rates_of

__all__ = ["fit"]

_FILES = (METRICS_FILE, CHECKPOINT_FILE)


@dataclass(frozen=True, kw_only=True)
class FitOptions(TrainOptions):
    """The arguments of `fit`: what determines a training, and where it runs."""

    device: Annotated[
        str | torch.device,
        Option(
            "`auto` (CUDA where there is one), `cpu`, `cuda` or one such as `cuda:1`, "
            "or a `torch.device`."
        ),
    ] = "auto"
    out: Annotated[
        str | os.PathLike | None,
        Option("folder for `metrics.jsonl` and `checkpoint.pt`; None writes nothing."),
    ] = None
    resume: Annotated[
        bool, Option("continue from the checkpoint in `out`; without one, start.")
    ] = False
    overwrite: Annotated[
        bool, Option("delete a training that is in `out`, and start anew.")
    ] = False
    progress: Annotated[bool, Option("a progress bar with the live ELBO.")] = True
    callbacks: Annotated[
        Sequence[Callback],
        Option(
            "functions of a `zoo.callbacks.State` after each epoch, or objects with "
            "`on_epoch_end(state)` or `on_fit_end(state)`: `zoo.callbacks.CSV(path)`."
        ),
    ] = ()
    num_workers: Annotated[
        int,
        Option(
            "processes that read data ahead, where they are not in memory; with 0 a "
            "thread reads ahead in a file, and items of a data set of PyTorch's are "
            "read between the steps. Results do not depend on it.",
            least=0,
        ),
    ] = 0

    def training(self) -> TrainOptions:
        """Those that determine the training, and that a checkpoint holds."""
        names = [option.name for option in declared(TrainOptions)]
        return TrainOptions(**{name: getattr(self, name) for name in names}).resolved()


@keywords_of(FitOptions)
def fit(vae: VAE, data: Dataset, options: FitOptions) -> History:
    """Train a VAE by stochastic variational inference.

    Args:
        vae: the pair; moved to `device` and trained in place. It comes back in evaluation
            mode, without gradients.
        data: the data set; its validation part chooses the best epoch.
        options: {options}

    Raises:
        UserError: for options out of range, phases that have nothing to train, a folder
            in use or with a training in it, a checkpoint of other options or other data,
            CUDA where there is none, data that the pair cannot score, a pair that was to
            be compiled and cannot be, an optimiser or a schedule that cannot be made, or
            a callback that failed.
        DivergedError: at a loss that is not finite; names epoch, step and term.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("mean_field", data, latent_dim=4, hidden_dims=(32,))
    >>> history = zoo.fit(vae, data, epochs=2, device="cpu", progress=False)
    >>> history.epochs[1]["train_elbo"] > history.epochs[0]["train_elbo"]
    True
    """
    if not isinstance(vae, VAE):
        raise UserError(f"expected a VAE to train, got {type(vae).__name__}")
    check_dataset(data)
    if tuple(data.event_shape) != vae.event_shape:
        raise UserError(
            f"the VAE is for data of shape {vae.event_shape}, got data of shape "
            f"{tuple(data.event_shape)}"
        )
    if options.out is None and (options.resume or options.overwrite):
        name = "resume" if options.resume else "overwrite"
        raise UserError(f"{name}=True is about the folder `out`, but there is none")
    _check_phases(vae.phases)
    training, callbacks = options.training(), Callbacks(options.callbacks)
    training = settled(training, vae, len(data.train))
    for phase in vae.phases:
        checked_loss(training, phase.loss)
        rates_of(vae, phase, training)
    where, ranks = pick_device(options.device), Ranks()
    batch = min(options.batch_size, len(data.train))
    if batch < ranks.size:
        raise UserError(
            f"expected batches of at least {ranks.size} data, a datum for each of "
            f"{ranks.size} processes, got {batch}; choose a larger batch_size"
        )
    _check_batch_norm(vae, len(data.train), options.batch_size, ranks.size)
    folder = None if options.out is None else Path(options.out)
    cuda = [where] if where.type == "cuda" else []
    with (
        ExitStack() as stack,
        undisturbed(where, vae.dtype),
        torch.enable_grad(),
        torch.random.fork_rng(devices=cuda),
        pyro.validation_enabled(False),  # `Loop` looks for numbers that are not finite
        pyro.settings.context(module_local_params=True),
        threads_kept(),
        interrupt_flag() as interrupted,
        warnings.catch_warnings(),
    ):
        if cuda:  # streams and captured graphs are of the current one
            stack.enter_context(torch.cuda.device(where))
        warnings.filterwarnings("ignore", "Encountered (NaN|inf)")  # `Loop` says more
        # The first of the steps that are replayed as one run one by one.
        warnings.filterwarnings("ignore", ".*with capturable=True")
        # A scheduler that is resumed where its epoch's last step was has seen none.
        warnings.filterwarnings(
            "ignore", r"Detected call of `lr_scheduler\.step\(\)` before"
        )
        if folder is not None:
            ranks.from_first(lambda: stack.enter_context(locked(folder)))
            ranks.from_first(
                lambda: _check_room(folder, options.resume, options.overwrite)
            )
        if options.num_workers:
            data = data.read_by(options.num_workers)
        begun = None  # the options of the training that goes on
        if folder is not None and options.resume:
            path = folder / CHECKPOINT_FILE
            begun = ranks.from_first(
                lambda: options_of(path) if path.exists() else None
            )
        if begun is not None:
            left_out = (n for n in ("epochs", *KEPT) if getattr(options, n) is None)
            training = replace(training, **{name: begun[name] for name in left_out})
        loop = Loop(vae.to(where), data.to(where), training, folder)
        loop.callbacks = callbacks
        stack.callback(loop.feed.close)
        check_trainable(vae, data)
        seed_generators(ranks.seed(options.seed), where)
        if folder is not None and begun is not None:
            loop.restore(folder)
        else:
            loop.begin_phase()
            if folder is not None:  # and nothing stood in the way until here
                ranks.from_first(lambda: _clear(folder))
        stack.callback(vae.zero_grad)  # else they add up with whatever comes next
        loop.train(interrupted, options.progress)
    return loop.history


def _check_phases(phases: Sequence[Phase]) -> None:
    several = isinstance(phases, Sequence) and len(phases) > 0
    if not (several and all(isinstance(phase, Phase) for phase in phases)):
        raise UserError(f"vae.phases: expected a tuple of phases, got {phases!r}")
    if sum(phase.share for phase in phases) <= 0:
        raise UserError("vae.phases: expected a share above 0, but all of them are 0")


def _check_room(folder: Path, resume: bool, overwrite: bool) -> None:
    """See that a folder has no training in it, or none that is to be kept."""
    if resume and overwrite:
        raise UserError("resume and overwrite exclude each other")
    there = [name for name in _FILES if (folder / name).exists()]
    if there and not (resume or overwrite):
        raise UserError(
            f"{folder} holds a training already ({there[0]}); resume=True continues it, "
            "overwrite=True deletes it and starts anew"
        )


def _clear(folder: Path) -> None:
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)


def _check_batch_norm(
    vae: VAE, num_data: int, batch_size: int, num_processes: int
) -> None:
    """Refuse batches of which a process gets one datum, whose variance nobody knows."""
    if not any(isinstance(m, BATCH_NORMS) for m in vae.modules()):
        return
    full = min(batch_size, num_data)
    for size in {full, num_data % full or full}:
        if max(size // num_processes, 1) == 1:
            each = ""
            if num_processes > 1:
                each = f" for each of {num_processes} processes"
            raise UserError(
                f"batch normalisation needs batches of two data or more{each}, but "
                f"batch_size={batch_size} makes one of {size} out of {num_data} data; "
                "choose another batch_size"
            )
