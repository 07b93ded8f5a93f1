"""The loop of a training: epochs of steps, validation, and a checkpoint now and then.

What an epoch does depends on nothing but the options, the weights and one random
state: the order of the data and their binarisation are functions of (seed, epoch), see
`feed`, the rate and a schedule's weights of the step's number. A checkpoint therefore
continues bit for bit on the CPU, from the middle of an epoch too.
"""

import math
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.streamed.rows import some
from pyro_vae_zoo.errors import DivergedError
from pyro_vae_zoo.files import CHECKPOINT_FILE, METRICS_FILE
from pyro_vae_zoo.inference.precision import chosen
from pyro_vae_zoo.pair.modes import evaluation_mode
from pyro_vae_zoo.pair.vae import VAE, Phase
from pyro_vae_zoo.runtime import (
    BAR,
    Ranks,
    random_states,
    seed_generators,
    set_random_states,
    tqdm,
)
from pyro_vae_zoo.saving import load_weights
from pyro_vae_zoo.training.averages import Average, decay_at
from pyro_vae_zoo.training.callbacks import Callbacks
from pyro_vae_zoo.training.checkpoint import (
    best_weights,
    check_resumable,
    readable,
    save_checkpoint,
)
from pyro_vae_zoo.training.feed import Feed
from pyro_vae_zoo.training.history import (
    Epoch,
    History,
    append_record,
    bounds,
    monitored,
    write_records,
)
from pyro_vae_zoo.training.options import TrainOptions, training_then
from pyro_vae_zoo.training.phases import PhasePlan
from pyro_vae_zoo.training.steps import Steps, all_finite, what_failed
from pyro_vae_zoo.training.validation import bound_name, validated

__all__ = ["Loop"]

STEPS_WORTH_COMPILING = 5000  # see docs/speed.md
_SECONDS_BETWEEN_CHECKPOINTS = 10.0
_PLACE = ("epoch", "step", "elbo_sum", "seconds", "best")  # a checkpoint has them so


class Loop:
    """One training: its position, what it has seen, and how to save both."""

    def __init__(
        self, vae: VAE, data: Dataset, options: TrainOptions, folder: Path | None
    ) -> None:
        self.vae = vae
        self.data = data
        self.options = options
        self.folder = folder
        self.fingerprint = None if folder is None else data.fingerprint()
        self.ranks = Ranks()
        asked = options.precision, vae.device, vae.dtype
        precision = self.ranks.from_first(lambda: chosen(*asked))
        self.history = History(precision=precision)
        self.best: dict[str, Tensor] | None = None
        self.average: Average | None = None
        self.epoch = self.step = 0  # position; `step` counts within the epoch
        self.elbo_sum = self.seconds = 0.0  # of the part of the epoch that is done
        self.plan = PhasePlan(options.num_epochs, vae.phases)
        self.feed = Feed(data, options, vae, self.ranks)
        self.steps_per_epoch = self.feed.num_steps
        self.saved_at = time.monotonic()
        self.compiled: dict[int, bool] = {}  # what was decided, by number of phase
        self.callbacks = Callbacks()

    def train(self, interrupted: threading.Event, progress: bool) -> None:
        """Go on from here to the end, or until interrupted."""
        epochs = self.options.num_epochs
        with tqdm(
            total=epochs * self.steps_per_epoch,
            initial=self.epoch * self.steps_per_epoch + self.step,
            disable=not (progress and self.ranks.is_first),
            **BAR,
        ) as bar:
            while self.epoch < epochs and not self.history.stopped_early:
                self._train_epoch(bar, interrupted)
                self._end_epoch(bar)
                self._stop_if(interrupted)
        self._save(force=True)
        self.history.weights = self._keep(self.options.keep)
        self.vae.eval()
        self.callbacks.fit_end(self)

    def _train_epoch(self, bar: tqdm, interrupted: threading.Event) -> None:
        start = time.perf_counter() - self.seconds
        options = self.options
        self.feed.begin(self.epoch, self.step)
        if self.phase.each_epoch is not None:
            self.phase.each_epoch(self.vae, self.plan.part(self.epoch))
            self.ranks.same(self.vae)  # whatever was drawn
        self.vae.train()
        self._compile_steps(bar)
        self.steps.begin_epoch(self.epoch)
        name = self.phase.name + " " if len(self.vae.phases) > 1 else ""
        low = "bf16 " if self.history.precision == "bf16" else ""
        bar.set_description(f"{low}{name}epoch {self.epoch + 1}/{options.epochs}")
        while self.step < self.steps_per_epoch:
            x = self.feed.batch(self.step)
            elbo = self._step(x)
            self.step += 1
            if elbo is not None:
                self.elbo_sum += elbo
            self.seconds = time.perf_counter() - start
            bar.update()
            if self.step % 10 == 0 and elbo is not None:
                size = self.feed.size(self.step - 1)
                name = bound_name(self.steps.loss)
                mean = elbo / size + self.data.log_jacobian
                bar.set_postfix_str(f"{name} {mean:.2f}", refresh=False)
            self._stop_if(interrupted)
        self._wait_for_device()
        self.seconds = time.perf_counter() - start

    def _stop_if(self, interrupted: threading.Event) -> None:
        if self.ranks.any(interrupted.is_set()):  # all of them, after the same step
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
        done = step - self.plan.start(self.phase_number) * self.steps_per_epoch
        decay = decay_at(done, self.options.ema or 0.0)
        elbo = self.steps.take(x, weights, decay, self.elbo_sum, self.step)
        if elbo is not None and math.isnan(elbo):
            raise DivergedError(self._diagnosis(x))
        return elbo

    def _compile_steps(self, bar: tqdm) -> None:
        """Compile the phase's steps, where that was decided before or is worth it."""
        number, name = self.phase_number, self.phase.name
        if self.steps.compiled or self.compiled.get(number) is False:
            self.history.how.setdefault(name, self._how())
            return
        must = number in self.compiled or self.options.compile is True
        done = must or self._worth_compiling()
        if done:
            bar.set_description("compiling")
            done = self.steps.compile(self.feed.batch(0), must)
            bar.unpause()  # what is left is estimated from steps alone
            if not done:  # as it will be in the phases to come, and is said once
                later = range(number, len(self.vae.phases))
                self.compiled |= dict.fromkeys(later, False)
        self.compiled[number] = done
        self.history.how[name] = self._how()
        if done and name not in self.history.compiled:
            self.history.compiled.append(name)

    def _worth_compiling(self) -> bool:
        steps = self.plan.length(self.phase_number) * self.steps_per_epoch
        possible = self.steps.objective is not None
        many = steps >= STEPS_WORTH_COMPILING
        return self.options.compile == "auto" and many and possible

    def _how(self) -> str:
        steps = self.plan.length(self.phase_number) * self.steps_per_epoch
        return self.steps.how(steps, STEPS_WORTH_COMPILING)

    def _wait_for_device(self) -> None:
        """Learn what came of the steps that nobody has waited for."""
        if not self.steps.waiting:
            return
        self.elbo_sum, taken = self.steps.wait()
        if taken < self.step:
            self.step = taken
            raise DivergedError(
                self._diagnosis(self.feed.batch(taken), same_draws=False)
            )

    def _diagnosis(self, x: Tensor, same_draws: bool = True) -> str:
        step = min(self.step + 1, self.steps_per_epoch)
        return (
            f"the loss is not finite at epoch {self.epoch + 1}, step {step}: "
            f"{self._what_failed(x, same_draws)}; try a smaller lr or --clip-norm"
        )

    def _what_failed(self, x: Tensor, same_draws: bool) -> str:
        """What is not finite, and what is left of the training."""
        x = x.to(self.vae.device, self.vae.dtype)
        failed = what_failed(self.vae, x, self.options.num_particles, same_draws)
        if self.folder is None or not (self.folder / CHECKPOINT_FILE).exists():
            return failed
        return f"{failed}; the last good checkpoint is kept"

    def _end_epoch(self, bar: tqdm) -> None:
        start = time.perf_counter()
        averages = () if self.average is None else self.average.values.values()
        # Statistics of batch normalisation are each its own until now.
        self.ranks.same(self.vae, averages)
        if not all_finite(self.vae):
            raise DivergedError(self._diagnosis(self.data.valid[:1]))
        with self._averaged():
            record = self._judge(start)
            self.history.epochs.append(cast(Epoch, record))
            trained, valid = bounds(record)
            name = bound_name(self.steps.loss)
            bar.set_postfix_str(f"{name} {trained:.2f} valid {valid:.2f}")
            self.epoch, self.step = self.epoch + 1, 0
            self.elbo_sum = self.seconds = 0.0
            self._keep_best()
            self.steps.rates.end_epoch(valid)
            failed = self.callbacks.epoch_end(self)
        if self.folder is not None and self.ranks.is_first:
            append_record(self.folder / METRICS_FILE, record)
        new_phase = self.plan.begins(self.epoch) and not self.history.stopped_early
        if new_phase:
            ended = self.vae.phases[self.plan.number(self.epoch - 1)]
            self._keep(self.options.keep, ended.hands_on)  # as they were judged
            self.begin_phase()
        self._save(force=new_phase or failed is not None)
        if failed is not None:
            raise failed

    def _averaged(self) -> AbstractContextManager[None]:
        """The weights to be judged in place of those that are trained."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _judge(self, start: float) -> dict[str, Any]:
        """The record of an epoch whose steps are done; it is judged since `start`."""
        options, trained = self.options, self.elbo_sum / len(self.data.train)
        judged = validated(
            *(self.vae, self.data, self.steps.loss, trained, options.seed, options.beta)
        )
        if not math.isfinite(judged["valid_elbo"]):
            with evaluation_mode(self.vae):  # in which it was judged
                failed = self._what_failed(some(self.data.valid), same_draws=False)
            raise DivergedError(
                f"the validation bound is not finite after epoch {self.epoch + 1}: "
                f"{failed}; has a validation datum probability 0, or is lr too large?"
            )
        self.seconds += time.perf_counter() - start
        record = {
            "epoch": self.epoch + 1,
            "phase": self.phase.name,
            **judged,
            "lr": self.steps.rates.values[0],
            "kl_weight": options.kl_weight(self.epoch + 1),
            "seconds": round(self.seconds, 4),
        }
        return monitored(self.vae) | record

    def _keep_best(self) -> None:
        """The phase's best epoch so far; and whether it was too long ago."""
        if self.history.ends_best():
            self.history.best_epoch = self.epoch
            self.best = {n: t.clone() for n, t in self.vae.state_dict().items()}
        self.history.stopped_early = self._waited_for(self.options.patience or 0)

    def _waited_for(self, patience: int) -> bool:
        """True where the last phase had no better epoch for as long, after the warm-up."""
        waited = self.epoch - max(self.history.best_epoch, self.options.kl_warmup or 0)
        return 0 < patience <= waited and self.epoch > self.plan.last_start

    # ---------------------------------------------------------------- the phases

    @property
    def phase_number(self) -> int:
        """Number of the phase that the present epoch belongs to, or the last one did."""
        stopped = self.history.stopped_early and self.epoch > 0
        return self.plan.number(self.epoch - 1 if stopped else self.epoch)

    @property
    def phase(self) -> Phase:
        """The phase that the present epoch belongs to."""
        return self.vae.phases[self.phase_number]

    def _keep(self, *asked: str) -> str:
        """Give the pair the phase's `best` weights, if all ask for them, or its `last`."""
        if self.best is not None and {*asked} == {"best"}:
            self.vae.load_state_dict(self.best)
            return "best"
        if self.average is not None:
            self.average.take_over()
        return "last"

    def begin_phase(self) -> None:
        """Make ready for the phase that begins here."""
        self.best, self.history.best_epoch = None, 0
        if self.phase.start is not None:
            self.phase.start(self.vae)
        self.ranks.same(self.vae)
        self.enter_phase()

    def enter_phase(self) -> None:
        """Make the steps of the phase that the present epoch belongs to."""
        full = torch.arange(min(self.options.batch_size, len(self.data.train)))
        share = len(self.ranks.share(full))
        if self.options.ema:
            self.average = Average(self.vae)  # which begins anew with each phase
        how = self.options, self.ranks, share, self.average, self.history.precision
        self.steps = Steps(self.vae, self.phase, *how)
        if self.folder is not None:
            self.steps.check_storable()

    # ------------------------------------------------------------------ the files

    def _save(self, force: bool) -> None:
        due = time.monotonic() - self.saved_at > _SECONDS_BETWEEN_CHECKPOINTS
        if self.folder is None or not (force or self.ranks.from_first(lambda: due)):
            return
        self._wait_for_device()
        if not all_finite(self.vae):
            return  # the next step stops; the checkpoint before is the good one
        self.steps.check_storable()  # which may keep more than before its first step
        state, path = self.state_dict(), self.folder / CHECKPOINT_FILE
        self.ranks.from_first(lambda: save_checkpoint(path, state))
        self.saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """All that a training needs to go on from here; collective."""
        named = self.vae.named_parameters()
        return {
            **{name: getattr(self, name) for name in _PLACE},
            "options": self.options.recorded(),
            "data": self.fingerprint,
            "history": asdict(self.history),
            "compiled": self.compiled,
            "vae": self.vae.state_dict(),
            "frozen": [n for n, p in named if not p.requires_grad],
            "average": None if self.average is None else self.average.values,
            "optimizer": self.steps.optimizer.state_dict(),
            "schedule": self.steps.rates.state_dict(),
            "random_states": self.ranks.gather(random_states(self.vae.device)),
            "num_threads": torch.get_num_threads(),  # it changes the last bits
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Go to where a state was taken, one that `check_resumable` let pass.

        Raises:
            UserError: for weights that are not this pair's; it names `path`.
            ValueError and others: for whatever else does not fit.
        """
        load_weights(self.vae, state["vae"], path)
        if "frozen" in state:  # which one of 0.1.0 lacks
            for name, p in self.vae.named_parameters():
                p.requires_grad_(name not in state["frozen"])
        for name in _PLACE:
            setattr(self, name, state[name])
        if self.best is not None:
            self.best = best_weights(self.vae, self.best, of=state["vae"])
        self.history = History(**state["history"])
        before = training_then(state["options"])["patience"]
        if self.options.patience != before and self._waited_for(before):
            self.history.stopped_early = False  # for no other reason had it stopped
        never = dict.fromkeys(range(len(self.vae.phases)), False)
        self.compiled = state["compiled"] if self.options.compile else never
        self.enter_phase()
        self.steps.load(state["optimizer"], state["schedule"])
        if self.average is not None:
            self.average.load(state["average"])
        of_ranks = state["random_states"]
        if len(of_ranks) == self.ranks.size:
            set_random_states(of_ranks[self.ranks.rank], self.vae.device)
        else:  # there were more processes, or fewer
            done = self.epoch * self.steps_per_epoch + self.step
            seed_generators(self.ranks.seed(self.options.seed + done), self.vae.device)
        torch.set_num_threads(state["num_threads"])

    def restore(self, folder: Path) -> None:
        """Go to where the checkpoint in the folder was written."""
        path = folder / CHECKPOINT_FILE
        own = self.options, self.vae.phases, self.fingerprint
        state = self.ranks.from_first(lambda: check_resumable(path, *own))
        with readable(path):
            self.load_state_dict(state, path)
        if self.ranks.is_first:
            write_records(folder / METRICS_FILE, self.history.epochs)
