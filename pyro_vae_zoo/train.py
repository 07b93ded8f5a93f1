"""`fit`: one training loop for every pair.

What an epoch does depends on nothing but the options, the weights and one random
state: the order of the data and their binarisation are functions of (seed, epoch),
the rate and the annealing of the step's number. A checkpoint therefore continues bit
for bit on the CPU, from the middle of an epoch too.
"""

import json
import math
import os
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.distributions import transforms as T
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae_zoo._process import (
    interrupt_flag,
    pick_device,
    random_states,
    set_random_states,
    threads_kept,
)
from pyro_vae_zoo.checkpoint import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    write_atomically,
)
from pyro_vae_zoo.datasets import Dataset
from pyro_vae_zoo.errors import DataFileError, DivergedError, UserError
from pyro_vae_zoo.evaluate import evaluate
from pyro_vae_zoo.options import TrainOptions
from pyro_vae_zoo.steps import Steps, what_failed
from pyro_vae_zoo.vae import VAE, Phase

__all__ = ["History", "check_resumable", "epoch_order", "fit", "pick_device"]

STEPS_WORTH_COMPILING = 5000  # README has what compiling costs, and what it saves
_SECONDS_BETWEEN_CHECKPOINTS = 10.0
_CHECKPOINT_KEYS = {
    *("options", "epoch", "step", "elbo_sum", "seconds", "history", "best"),
    *("vae", "optimizer", "random_states", "num_threads", "compiled"),
}

_BATCH_NORMS = (T.BatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass
class History:
    """What `fit` did.

    Attributes:
        epochs: a record for each epoch: `epoch`, `phase`, `train_elbo`,
            `valid_elbo`, `kl`, `reconstruction`, the flow's `initial_log_density`,
            `final_log_density` and `log_det` (all on the validation data but
            the first), `lr`, `kl_weight`, `seconds`, and the entries of
            `vae.monitor(vae)`.
        best_epoch: the epoch whose validation ELBO is highest.
        weights: which weights the VAE has now, `best` or `last`.
        stopped_early: whether patience ran out.
        compiled: the phases whose steps were compiled.
        products: which library multiplied the matrices of compiled steps, by shape.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    >>> history = zoo.fit(vae, data, epochs=2, device="cpu", progress=False)
    >>> [record["phase"] for record in history.epochs], history.weights
    (['train', 'train'], 'best')
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    weights: str = "last"
    stopped_early: bool = False
    compiled: list[str] = field(default_factory=list)
    products: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time spent in training and validation."""
        return sum(record["seconds"] for record in self.epochs)


def fit(
    vae: VAE,
    data: Dataset,
    *,
    epochs: int = 20,
    batch_size: int = 100,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    out: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool = True,
    optimizer: str = "adam",
    schedule: str = "constant",
    kl_warmup: int = 0,
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
        batch_size: data for each step; the last batch of an epoch may be smaller.
        lr: learning rate.
        seed: of noise, order and binarisation; the caller's random state is kept.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        out: folder for `metrics.jsonl` and `checkpoint.pt`; None writes nothing.
        resume: continue from the checkpoint in `out`; without one, start.
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
        patience: stop after so many epochs without a better validation ELBO.
        keep: which weights the VAE ends with, `best` on validation or `last`.
        compile: whether a step is one compiled graph (see `CompiledELBO`), but for a last
            batch that is smaller; `auto` for where a phase has steps enough to pay for
            it and the pair can be compiled. On CUDA steps by Adam are replayed as one
            graph, and the host waits for an epoch's end only. What was decided is kept
            by a resumed training, unless it is told False.

    Raises:
        UserError: for options out of range, a checkpoint of other options, CUDA where
            there is none, or a pair that was to be compiled and cannot be.
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
    if tuple(data.event_shape) != vae.event_shape:
        raise UserError(
            f"the VAE is for data of shape {vae.event_shape}, got data of shape "
            f"{tuple(data.event_shape)}"
        )
    normalised = any(isinstance(m, _BATCH_NORMS) for m in vae.modules())
    if normalised and len(data.train) % options.batch_size == 1:
        raise UserError(
            "batch normalisation is trained on batches of two data or more, and batches "
            f"of {options.batch_size} leave one of {len(data.train)}; choose another "
            "batch_size"
        )
    where = pick_device(device)
    folder = None if out is None else Path(out)
    run = _Run(vae.to(where), data.to(where), options, folder)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    cuda = [where] if where.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        pyro.validation_enabled(False),  # `_Run` looks for numbers that are not finite
        pyro.settings.context(module_local_params=True),
        threads_kept(),
        interrupt_flag() as interrupted,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Encountered (NaN|inf)")  # `_Run` says more
        # The first of the steps that are replayed as one run one by one.
        warnings.filterwarnings("ignore", ".*with capturable=True")
        torch.manual_seed(seed)
        if resume and folder is not None and (folder / CHECKPOINT_FILE).exists():
            run.restore()
        else:
            run.begin_phase()
        run.train(interrupted, progress)
    return run.history


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits `n` data, a function of its arguments.

    >>> sorted(epoch_order(3, seed=0, epoch=7).tolist())
    [0, 1, 2]
    """
    # A large odd multiplier keeps neighbouring seeds and epochs apart.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(n, generator=generator)


class _Run:
    """One training: its position, what it has seen, and how to save both."""

    def __init__(
        self, vae: VAE, data: Dataset, options: TrainOptions, folder: Path | None
    ) -> None:
        self.vae = vae
        self.data = data
        self.options = options
        self.folder = folder
        self.history = History()
        self.best: dict[str, Tensor] | None = None
        self.epoch = self.step = 0  # position; `step` counts within the epoch
        self.elbo_sum = self.seconds = 0.0  # of the part of the epoch that is done
        self.phase_ends = _share_out(options.epochs, vae.phases)
        self.steps_per_epoch = -(-len(data.train) // options.batch_size)
        self.saved_at = time.monotonic()
        self.compiled: dict[int, bool] = {}  # what was decided, by number of phase
        self.losses = [options.losses(phase.loss) for phase in vae.phases]

    # ------------------------------------------------------------------ the loop

    def train(self, interrupted: threading.Event, progress: bool) -> None:
        total = self.options.epochs * self.steps_per_epoch
        done = self.epoch * self.steps_per_epoch + self.step
        bar_format = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        with tqdm(
            total=total,
            initial=done,
            disable=not progress,
            ncols=80,
            bar_format=bar_format,
        ) as bar:
            while self.epoch < self.options.epochs and not self.history.stopped_early:
                self._train_epoch(bar, interrupted)
                self._end_epoch(bar)
                self._stop_if(interrupted)
        self._save(force=True)
        if self.options.keep == "best" and self.best is not None:
            self.vae.load_state_dict(self.best)
            self.history.weights = "best"
        self.vae.eval()

    def _train_epoch(self, bar: tqdm, interrupted: threading.Event) -> None:
        start = time.perf_counter() - self.seconds
        options = self.options
        self.images = self.data.epoch(options.seed, self.epoch)
        self.order = epoch_order(len(self.images), options.seed, self.epoch)
        self.order = self.order.to(self.images.device)
        if self.phase.each_epoch is not None:
            self.phase.each_epoch(self.vae, self._part_of_phase())
        self.vae.train()
        self._compile_steps(bar)
        self.steps.set_rate(options.rate(self.epoch))
        name = self.phase.name + " " if len(self.vae.phases) > 1 else ""
        bar.set_description(f"{name}epoch {self.epoch + 1}/{options.epochs}")
        while self.step < self.steps_per_epoch:
            x = self._batch(self.step)
            elbo = self._step(x)
            self.step += 1
            if elbo is not None:
                self.elbo_sum += elbo
            self.seconds = time.perf_counter() - start
            bar.update()
            if self.step % 10 == 0 and elbo is not None:
                bar.set_postfix_str(f"elbo {elbo / len(x):.2f}", refresh=False)
            self._stop_if(interrupted)
        self._wait_for_device()
        self.seconds = time.perf_counter() - start

    def _batch(self, step: int) -> Tensor:
        """The data of a step, counted from 0 within the epoch."""
        size = self.options.batch_size
        index = self.order[step * size : (step + 1) * size]
        return self.images[index].to(self.vae.dtype)

    def _stop_if(self, interrupted: threading.Event) -> None:
        if interrupted.is_set():
            self._save(force=True)
            raise KeyboardInterrupt

    def _step(self, x: Tensor) -> float | None:
        """Take a step; its bound, or None where the device is not waited for."""
        if len(x) < self.steps.full_batch:
            self._wait_for_device()
        epoch = self.epoch + self.step / self.steps_per_epoch
        step = self.epoch * self.steps_per_epoch + self.step
        weights = {
            "kl_weight": self.options.kl_weight(epoch),
            "joint_weight": self.options.joint_weight(step),
        }
        elbo = self.steps.take(x, weights, self.elbo_sum, self.step)
        if elbo is not None and math.isnan(elbo):
            raise DivergedError(self._diagnosis(x))
        return elbo

    def _compile_steps(self, bar: tqdm) -> None:
        """Compile the phase's steps, where that was decided before or is worth it."""
        number, name = self.phase_number, self.phase.name
        if self.steps.compiled or self.compiled.get(number) is False:
            return
        must = number in self.compiled or self.options.compile is True
        if must or self._worth_compiling():
            bar.set_description("compiling")
            done = self.steps.compile(self._batch(0), self.history.products, must)
            bar.unpause()  # what is left is estimated from steps alone
            if not done:  # as it will be in the phases to come, and is said once
                later = range(number, len(self.vae.phases))
                self.compiled |= dict.fromkeys(later, False)
        else:
            done = False
        self.compiled[number] = done
        if done and name not in self.history.compiled:
            self.history.compiled.append(name)

    def _worth_compiling(self) -> bool:
        ends = [0] + self.phase_ends
        epochs = ends[self.phase_number + 1] - ends[self.phase_number]
        many = epochs * self.steps_per_epoch >= STEPS_WORTH_COMPILING
        possible = self.steps.objective is not None
        return self.options.compile == "auto" and many and possible

    def _wait_for_device(self) -> None:
        """Learn what came of the steps that nobody has waited for."""
        if not self.steps.waiting:
            return
        self.elbo_sum, taken = self.steps.wait()
        if taken < self.step:
            self.step = taken
            raise DivergedError(self._diagnosis(self._batch(taken), same_draws=False))

    def _diagnosis(self, x: Tensor, same_draws: bool = True) -> str:
        step = min(self.step + 1, self.steps_per_epoch)
        kept = "" if self.folder is None else "; the last good checkpoint is kept"
        return (
            f"the loss is not finite at epoch {self.epoch + 1}, step {step}: "
            f"{what_failed(self.vae, x, self.options.num_particles, same_draws)}{kept}; "
            "try a smaller lr or --clip-norm"
        )

    def _end_epoch(self, bar: tqdm) -> None:
        start = time.perf_counter()
        options = self.options
        if not _all_finite(self.vae):
            raise DivergedError(self._diagnosis(self.data.valid[:1]))
        valid = evaluate(
            self.vae, self.data.valid, num_particles=1, seed=options.seed, compile=False
        )
        if not math.isfinite(valid.elbo):
            raise DivergedError(self._diagnosis(self.data.valid))
        self.seconds += time.perf_counter() - start
        record = {
            "epoch": self.epoch + 1,
            "phase": self.phase.name,
            "train_elbo": self.elbo_sum / len(self.data.train),
            "valid_elbo": valid.elbo,
            "kl": valid.kl,
            "reconstruction": valid.reconstruction,
            "initial_log_density": valid.initial_log_density,
            "final_log_density": valid.final_log_density,
            "log_det": valid.log_det,
            "lr": options.rate(self.epoch),
            "kl_weight": options.kl_weight(self.epoch + 1),
            "seconds": round(self.seconds, 4),
        }
        if self.vae.monitor is not None:
            record = self.vae.monitor(self.vae) | record
        self.history.epochs.append(record)
        elbos = f"elbo {record['train_elbo']:.2f} valid {valid.elbo:.2f}"
        bar.set_postfix_str(elbos)
        self.epoch, self.step = self.epoch + 1, 0
        self.elbo_sum = self.seconds = 0.0
        self._keep_best(record["valid_elbo"])
        self._append_metrics(record)
        new_phase = self.epoch in self.phase_ends and self.epoch < options.epochs
        if new_phase:
            self.begin_phase()
        self._save(force=new_phase)

    def _keep_best(self, valid_elbo: float) -> None:
        """Best epoch and patience, which are about the last phase alone."""
        history = self.history
        last_phase = [0] + [e for e in self.phase_ends if e < self.options.epochs]
        if self.epoch <= last_phase[-1]:
            return
        best = (
            history.best_epoch and history.epochs[history.best_epoch - 1]["valid_elbo"]
        )
        if not history.best_epoch or valid_elbo > best:
            history.best_epoch = self.epoch
            state = self.vae.state_dict()
            self.best = {name: t.detach().clone() for name, t in state.items()}
        patience = self.options.patience
        waited = self.epoch - max(history.best_epoch, self.options.kl_warmup)
        history.stopped_early = patience is not None and waited >= patience

    # ---------------------------------------------------------------- the phases

    @property
    def phase_number(self) -> int:
        # The last one that has epochs, where all are done.
        epoch = min(self.epoch, self.options.epochs - 1)
        return sum(end <= epoch for end in self.phase_ends)

    @property
    def phase(self) -> Phase:
        return self.vae.phases[self.phase_number]

    def _part_of_phase(self) -> float:
        """How much of the phase is done, as its present epoch begins."""
        end = self.phase_ends[self.phase_number]
        begin = ([0] + self.phase_ends)[self.phase_number]
        return (self.epoch - begin) / (end - begin)

    def begin_phase(self) -> None:
        """Make ready for the phase that begins here."""
        if self.phase.start is not None:
            self.phase.start(self.vae)
        self._enter_phase()

    def _enter_phase(self) -> None:
        full_batch = min(self.options.batch_size, len(self.data.train))
        losses = self.losses[self.phase_number]
        self.steps = Steps(self.vae, self.phase, losses, self.options, full_batch)

    # ------------------------------------------------------------------ the files

    def _append_metrics(self, record: dict) -> None:
        if self.folder is not None:
            mode = "a" if len(self.history.epochs) > 1 else "w"
            with open(self.folder / METRICS_FILE, mode) as file:
                file.write(json.dumps(record) + "\n")

    def _save(self, force: bool) -> None:
        due = time.monotonic() - self.saved_at > _SECONDS_BETWEEN_CHECKPOINTS
        if self.folder is None or not (force or due):
            return
        self._wait_for_device()
        if not _all_finite(self.vae):
            return  # the next step stops; the checkpoint before is the good one
        state = {
            "options": asdict(self.options),
            "epoch": self.epoch,
            "step": self.step,
            "elbo_sum": self.elbo_sum,
            "seconds": self.seconds,
            "history": asdict(self.history),
            "compiled": self.compiled,
            "best": self.best,
            "vae": self.vae.state_dict(),
            "optimizer": self.steps.optimizer.state_dict(),
            "random_states": random_states(self.vae.device),
            "num_threads": torch.get_num_threads(),  # it changes the last bits
        }
        save_checkpoint(self.folder / CHECKPOINT_FILE, state)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        path = self.folder / CHECKPOINT_FILE
        state = check_resumable(path, self.options, self.vae.phases)
        load_weights(self.vae, state["vae"], path)
        self.epoch, self.step = state["epoch"], state["step"]
        self.elbo_sum, self.seconds = state["elbo_sum"], state["seconds"]
        self.history = History(**state["history"])
        never = dict.fromkeys(range(len(self.vae.phases)), False)
        self.compiled = state["compiled"] if self.options.compile else never
        self.best = state["best"]
        self._enter_phase()
        self.steps.load(state["optimizer"])
        set_random_states(state["random_states"], self.vae.device)
        torch.set_num_threads(state["num_threads"])
        lines = "".join(json.dumps(r) + "\n" for r in self.history.epochs)
        write_atomically(self.folder / METRICS_FILE, lines.encode())


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


def _share_out(epochs: int, phases: Sequence[Phase]) -> list[int]:
    """The epoch at which each phase ends, in proportion to the shares.

    Each has an epoch at least, where there are as many; else some are left out.
    """
    total, ends, share = sum(p.share for p in phases), [0], 0.0
    for number, phase in enumerate(phases, start=1):
        share += phase.share
        end = round(epochs * share / total)
        if epochs >= len(phases):
            end = min(max(end, ends[-1] + 1), epochs - len(phases) + number)
        ends.append(end)
    return ends[1:]


def _all_finite(vae: VAE) -> bool:
    return all(p.isfinite().all() for p in vae.parameters())
