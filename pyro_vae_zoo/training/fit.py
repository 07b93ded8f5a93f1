"""`fit`: one training for every pair."""

import os
import warnings
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pyro
import torch
from pyro.distributions import transforms as T
from torch import nn

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.files import CHECKPOINT_FILE, METRICS_FILE, locked
from pyro_vae_zoo.pair.door import check_trainable
from pyro_vae_zoo.pair.modes import undisturbed
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import Ranks, interrupt_flag, pick_device, threads_kept
from pyro_vae_zoo.training.history import History
from pyro_vae_zoo.training.loop import Loop
from pyro_vae_zoo.training.options import TrainOptions

__all__ = ["fit"]

_BATCH_NORMS = (T.BatchNorm, nn.modules.batchnorm._BatchNorm)


def fit(
    vae: VAE,
    data: Dataset,
    *,
    epochs: int = 20,
    batch_size: int = 100,
    lr: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    out: str | os.PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    optimizer: str = "adam",
    schedule: str = "constant",
    kl_warmup: float = 0,
    free_bits: float = 0.0,
    tempering_steps: int = 0,
    clip_norm: float | None = None,
    num_particles: int = 1,
    bound: str = "elbo",
    sticking_the_landing: bool = False,
    analytic_kl: bool = False,
    patience: int | None = None,
    keep: str = "best",
    compile: bool | str = "auto",
) -> History:
    """Train a VAE by stochastic variational inference.

    Args:
        vae: the pair; moved to `device` and trained in place.
        data: the data set; its validation part chooses the best epoch.
        epochs: passes over the data, shared out among the VAE's phases, of which some
            are left out where there are fewer epochs than phases.
        batch_size: data for each step, of all processes together where `torchrun` started
            several; the last batch of an epoch may be smaller.
        lr: learning rate.
        seed: of noise, order and binarisation; the caller's random state is kept.
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or one such as `cuda:1`.
        out: folder for `metrics.jsonl` and `checkpoint.pt`; None writes nothing.
        resume: continue from the checkpoint in `out`; without one, start.
        overwrite: start anew where `out` holds a training, which is lost.
        progress: show a progress bar with the live ELBO.
        optimizer: `adam` or `adamax`.
        schedule: `constant`, `inverse` for lr / (1 + epoch/100), or `cosine`.
        kl_warmup: epochs over which the KL's weight grows from 0 to 1.
        free_bits: nats of KL for each latent site that cost nothing (batch mean).
        tempering_steps: steps over which the weight of log p(x, z) grows from
            0.01 to 1, as Rezende & Mohamed do (they take 10,000); 0 for none.
        clip_norm: largest norm of the gradient of the mean loss.
        num_particles: draws for each datum.
        bound: `elbo`, or `iwae` for the importance-weighted bound.
        sticking_the_landing: gradient without the score of the guide's parameters.
        analytic_kl: closed form of each latent site's KL where there is one.
        patience: stop after so many epochs that were not better on validation.
        keep: which weights the VAE ends with, `best` on validation or `last`. The best
            epoch has the highest validation ELBO, or `valid_bound` under `iwae`: the
            same K-sample bound that is trained. Epochs that version 0.1.0 trained have
            none, and a training that goes on from one of its checkpoints looks for the
            best among the epochs to come.
        compile: whether a step is one compiled graph (see `CompiledELBO`), but for a last
            batch that is smaller; `auto` for where a phase has steps enough to pay for
            it and the pair can be compiled. On CUDA steps by Adam are replayed as one
            graph, and the host waits for an epoch's end only. What was decided is kept
            by a resumed training, unless it is told False.

    Raises:
        UserError: for options out of range, a folder in use or with a training in it, a
            checkpoint of other options or other data, CUDA where there is none, data that
            the pair cannot score, or a pair that was to be compiled and cannot be.
        DivergedError: at a loss that is not finite; names epoch, step and term.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("mean_field", data, latent_dim=4, hidden_dims=(32,))
    >>> history = zoo.fit(vae, data, epochs=2, device="cpu", progress=False)
    >>> history.epochs[1]["train_elbo"] > history.epochs[0]["train_elbo"]
    True
    """
    given = locals()
    options = TrainOptions(**{f.name: given[f.name] for f in fields(TrainOptions)})
    _check_kinds(vae, data)
    if tuple(data.event_shape) != vae.event_shape:
        raise UserError(
            f"the VAE is for data of shape {vae.event_shape}, got data of shape "
            f"{tuple(data.event_shape)}"
        )
    where, ranks = pick_device(device), Ranks()
    batch = min(options.batch_size, len(data.train))
    if batch < ranks.size:
        raise UserError(
            f"expected a batch of a datum for each of {ranks.size} processes at least, got "
            f"{batch}; choose a larger batch_size"
        )
    _check_batch_norm(vae, len(data.train), options.batch_size, ranks.size)
    folder = None if out is None else Path(out)
    cuda = [where] if where.type == "cuda" else []
    with (
        ExitStack() as stack,
        undisturbed(where),
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
        if folder is not None:
            ranks.from_first(lambda: stack.enter_context(locked(folder)))
            ranks.from_first(lambda: _make_room(folder, resume, overwrite))
        loop = Loop(vae.to(where), data.to(where), options, folder)
        check_trainable(vae, data)
        torch.manual_seed(ranks.seed(options.seed))
        there = folder is not None and ranks.from_first(
            lambda: (folder / CHECKPOINT_FILE).exists()
        )
        if resume and there:
            loop.restore()
        else:
            loop.begin_phase()
        loop.train(interrupted, progress)
    return loop.history


def _make_room(folder: Path, resume: bool, overwrite: bool) -> None:
    """See that a folder has no training in it, or none that is to be kept."""
    if resume and overwrite:
        raise UserError("resume and overwrite exclude each other")
    there = [
        folder / name
        for name in (METRICS_FILE, CHECKPOINT_FILE)
        if (folder / name).exists()
    ]
    if there and not (resume or overwrite):
        raise UserError(
            f"{folder} holds a training already ({there[0].name}); resume=True continues "
            "it, overwrite=True starts anew"
        )
    for path in there if overwrite else ():
        path.unlink()


def _check_kinds(vae: VAE, data: Dataset) -> None:
    if not isinstance(vae, VAE):
        raise UserError(f"expected a VAE to train, got {type(vae).__name__}")
    if not isinstance(data, Dataset):
        raise UserError(
            f"expected a Dataset, got {type(data).__name__}; of tensors it is made by "
            "zoo.Dataset(train, valid, test, likelihood)"
        )


def _check_batch_norm(
    vae: VAE, num_data: int, batch_size: int, num_processes: int
) -> None:
    """Refuse batches of which a process gets one datum, whose variance nobody knows."""
    if not any(isinstance(m, _BATCH_NORMS) for m in vae.modules()):
        return
    full = min(batch_size, num_data)
    for size in {full, num_data % full or full}:
        if max(size // num_processes, 1) == 1:
            each = f" for each of {num_processes} processes" * (num_processes > 1)
            raise UserError(
                f"batch normalisation is trained on batches of two data or more{each}, and "
                f"batch_size={batch_size} makes one of {size} out of {num_data} data; "
                "choose another batch_size"
            )
