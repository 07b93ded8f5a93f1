"""The steps of one phase of training: what they minimise, by what, and computed how."""

import math
import warnings

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.compiled import CompiledELBO
from pyro_vae_zoo.inference.elbo import ObjectiveELBO
from pyro_vae_zoo.inference.graph_calls import BoundGraph
from pyro_vae_zoo.inference.precision import networks_in
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.pair.vae import VAE, Phase
from pyro_vae_zoo.runtime import Ranks, random_states, set_random_states
from pyro_vae_zoo.training.averages import Average
from pyro_vae_zoo.training.cuda_graphs import DeviceSteps, waits_for_nothing
from pyro_vae_zoo.training.fused_adam import FusedAdam, clear_denormals, is_watched
from pyro_vae_zoo.training.losses import compilable, make_loss
from pyro_vae_zoo.training.optimisers import (
    Rates,
    check_storable,
    clip_gradients,
    load_optimizer,
    make_optimizer,
)
from pyro_vae_zoo.training.options import TrainOptions

__all__ = ["Steps", "all_finite", "rates_of", "what_failed"]


class Steps:
    """Steps of stochastic variational inference, one after another.

    Args:
        vae: the pair, trained in place.
        phase: whose loss is minimised, and whose modules are moved.
        options: of the training.
        ranks: the processes that share each batch.
        full_batch: the size of this one's share of all batches but the last of an epoch:
            of those that are compiled.
        average: of the weights, which each step moves.
        precision: in which networks multiply; see `networks_in`.

    Attributes:
        loss: what is minimised.
        objective: what to compile in its place, or None.
        optimizer: moves the phase's parameters.
        rates: of its groups, which a schedule moves.
        refusal: why they were not compiled, where that was tried.
        waiting: whether there are steps that the device may not have made yet.
    """

    def __init__(
        self,
        vae: VAE,
        phase: Phase,
        options: TrainOptions,
        ranks: Ranks,
        full_batch: int,
        average: Average | None = None,
        precision: str = "float32",
    ) -> None:
        self.vae = vae
        self.average = average
        self.precision = precision
        self.ranks = ranks
        self.options = options
        self.full_batch = full_batch
        self.loss = make_loss(options, phase.loss)
        self.objective = compilable(options, self.loss, phase.loss)
        # A loss that is given is used as it is.
        self.is_scheduled = not isinstance(phase.loss, ELBO)
        self._is_own = not isinstance(options.optimizer, str)
        self.parameters = _moved_in(vae, phase)
        if not any(p.requires_grad for p in self.parameters):
            raise UserError(
                f"phase {phase.name!r} has nothing to train: each of its parameters is "
                "frozen; requires_grad_(True) of a module thaws them"
            )
        self.rates = rates_of(vae, phase, options)
        self.optimizer = self.rates.optimizer
        self.refusal = ""
        self.waiting = False
        self._compiled: CompiledELBO | None = None
        self._bound: BoundGraph | None = None  # the graph of this epoch
        self._places: list[int] = []  # of the weights that it reads
        self._adam: FusedAdam | None = None  # moves what has a gradient in it
        self._all = list(vae.parameters())
        self._ahead: DeviceSteps | None = None  # where the host waits for none

    @property
    def compiled(self) -> bool:
        """True where full batches are computed by a compiled graph."""
        return self._compiled is not None

    def how(self, steps: int, worth: int) -> str:
        """How full batches are stepped, and why not faster.

        Args:
            steps: their number in the phase.
            worth: the number that pays for compiling.
        """
        if self._ahead is not None:
            return "compiled, queued on the device"
        if self.compiled and self.parameters[0].device.type == "cuda":
            reason = f"{type(self.optimizer).__name__} cannot be queued on the device"
            if is_watched(self.optimizer):
                reason = "the optimizer has hooks"
            if self.ranks.several:
                reason = "several processes share each batch"
            return f"compiled, launched one by one: {reason}"
        if self.compiled:
            return "compiled"
        reason = f"{steps} steps, and compiling pays for itself in {worth}"
        if self.options.compile is False:
            reason = "compile=False"
        elif steps >= worth:
            reason = "as decided when the training began"
        elif self.objective is None:
            reason = f"the phase has a loss of its own, {type(self.loss).__name__}"
        return f"one by one: {self.refusal or reason}"

    def check_storable(self) -> None:
        """See that a checkpoint can hold what the user's own optimiser and schedule keep.

        Raises:
            UserError: for a state that it cannot hold.
        """
        if not isinstance(self.options.optimizer, str):
            check_storable(optimizer=self.optimizer.state_dict())
        if self.rates.scheduler is not None:
            check_storable(schedule=self.rates.state_dict())

    def compile(self, x: Tensor, must: bool) -> bool:
        """Compile for batches like x; False where that is not possible.

        Args:
            x: a full batch.
            must: True for an error where it is not possible, and not a warning.

        Raises:
            UserError: where it must be and cannot.
        """
        if self.objective is None:
            return False
        compiled = CompiledELBO(self.objective, precision=self.precision)
        try:
            compiled.prepare(self.vae.model, self.vae.guide, x)
        except UserError as error:
            if must:
                raise
            self.refusal = str(error)
            warnings.warn(f"trained without compiling: {error}", stacklevel=6)
            return False
        self._compiled = compiled
        if waits_for_nothing(x.device, self.optimizer) and not self.ranks.several:
            limit = self._max_norm(len(x))
            self._ahead = DeviceSteps(
                self.vae, compiled, self.optimizer, x, limit, self.average
            )
        return True

    def begin_epoch(self, epoch: int) -> None:
        """Set the rates of an epoch, before which the pair may have changed."""
        self._bound = self._adam = None
        self.rates.begin_epoch(epoch)

    def take(
        self,
        x: Tensor,
        weights: dict[str, float],
        decay: float,
        elbo_sum: float,
        step: int,
    ) -> float | None:
        """Take one step.

        Args:
            x: this process's share of a batch, maybe empty; where it is not the first of
                its epoch, `wait` was called unless it is a full one.
            weights: what the loss's `kl_weight` and `joint_weight` are now.
            decay: of the average.
            elbo_sum: the sum of the bounds of the epoch so far.
            step: the number of its steps so far.

        Returns:
            The plain bound summed over the whole batch, in nats. None where it is not
            waited for. NaN where it or the loss is not finite: then no parameter has
            changed.
        """
        weights = {k: w for k, w in weights.items() if hasattr(self.loss, k)}
        weights = weights if self.is_scheduled else {}
        full = len(x) == self.full_batch
        if self._ahead is None or not full:
            for name, weight in weights.items():
                setattr(self.loss, name, weight)
            compiled = self._compiled if full else None
            return self._take(compiled, x, weights, decay)
        if not self.waiting:
            self._ahead.begin(elbo_sum, step)
            self.waiting = True
        self._ahead.set_weights(weights, decay)
        self._ahead.take(x)
        return None

    def wait(self) -> tuple[float, int]:
        """Wait for the device: the epoch's sum of bounds, and number of good steps."""
        if self._ahead is None:
            raise RuntimeError("no step was left to the device")
        self.waiting = False
        return self._ahead.end()

    def load(self, state: dict, schedule: dict | None) -> None:
        """Load what the optimiser and a scheduler of torch's have kept.

        Raises:
            ValueError and others: for a state of others or of none.
        """
        load_optimizer(self.optimizer, state, self.options.optimizer)
        self.rates.load_state_dict(schedule)

    def _take(
        self,
        compiled: CompiledELBO | None,
        x: Tensor,
        weights: dict[str, float],
        decay: float,
    ) -> float:
        before = random_states(x.device)
        for p in self._all:  # of modules that this phase does not move, too
            p.grad = None
        bound = None if compiled is None else self._bound_to(compiled, x)
        value, elbo = x.new_zeros(()), x.new_zeros(())
        if bound is not None:
            value, elbo = bound(x, weights)
        elif len(x):
            with networks_in(self.precision):
                value, elbo = _loss_and_elbo(compiled or self.loss, self.vae, x)
        total, bound_sum, size = self.ranks.total(value.item(), elbo.item(), len(x))
        if not (math.isfinite(bound_sum) and math.isfinite(total)):
            set_random_states(before, x.device)
            return math.nan
        if value.requires_grad:
            value.backward()
        self.ranks.add_gradients(self.parameters)
        if (limit := self._max_norm(size)) is not None:
            clip_gradients(self.parameters, limit)
        self._move(bound)
        clear_denormals(self.optimizer)
        if self.average is not None:
            self.average.move(decay)
        return bound_sum

    def _bound_to(self, compiled: CompiledELBO, x: Tensor) -> BoundGraph | None:
        """The graph of this epoch, where autograd need not call anybody's hook."""
        if self._bound is None:
            if any(
                p._backward_hooks or p._post_accumulate_grad_hooks for p in self._all
            ):
                return None
            self._bound = compiled.bind(self.vae.model, self.vae.guide, x)
            self._places = self._places_of_weights()
        return self._bound

    def _move(self, bound: BoundGraph | None) -> None:
        if bound is not None and self._adam is not None:
            self._adam()
            return
        self.optimizer.step()
        if bound is None:
            return
        if FusedAdam.knows(self.optimizer):
            self._adam = FusedAdam(self.optimizer, bound.moved)
        elif self._is_own and self._places != self._places_of_weights():
            self._bound = None  # `p.data = ...` put a weight where no graph looks

    def _places_of_weights(self) -> list[int]:
        return [p.data_ptr() for p in self._all]

    def _max_norm(self, size: float) -> float | None:
        # The loss is a sum over the batch, the option is about its mean.
        limit = self.options.clip_norm
        return limit * size if limit else None


def rates_of(vae: VAE, phase: Phase, options: TrainOptions) -> Rates:
    """The optimiser of a phase, with the course of its rates.

    Raises:
        UserError: where one of the user's own cannot be made, and for modules without
            parameters.
    """
    settings = options.lr, options.weight_decay
    moved = _moved_in(vae, phase)
    return Rates(make_optimizer(options.optimizer, moved, *settings), options)


def _moved_in(vae: VAE, phase: Phase) -> list[nn.Parameter]:
    modules = phase.modules or (vae,)
    moved = list({p: None for module in modules for p in module.parameters()})
    if not moved:
        raise UserError(
            f"phase {phase.name!r} has nothing to train: its modules have no parameters"
        )
    if {*map(id, moved)}.isdisjoint(map(id, vae.parameters())):
        raise UserError(
            f"phase {phase.name!r} trains nothing of this VAE; a copy of a VAE needs "
            "phases of its own modules"
        )
    return moved


def _loss_and_elbo(loss: ELBO, vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The objective and the plain bound of a batch, both sums over its data."""
    if isinstance(loss, ObjectiveELBO):
        return loss.loss_and_elbo(vae.model, vae.guide, x)
    # A method of all that `make_loss` lets pass, but not of their base class.
    objective = loss.differentiable_loss(vae.model, vae.guide, x)  # type: ignore[attr-defined]
    return objective, -objective.detach()


def all_finite(vae: VAE) -> bool:
    """True where no weight is infinite or NaN."""
    return all(bool(p.isfinite().all()) for p in vae.parameters())


@torch.no_grad()
def what_failed(vae: VAE, x: Tensor, num_particles: int, same_draws: bool) -> str:
    """The parameter or the term of the bound that is not finite.

    Args:
        vae: the pair.
        x: data.
        num_particles: draws for each datum.
        same_draws: whether data and draws are those that were not finite.
    """
    for name, p in vae.named_parameters():
        if not p.isfinite().all():
            return f"parameter {name} (a gradient overflowed in the step before)"
    terms = bound_terms(vae.model, vae.guide, x, num_particles)
    named = {"log p(x|z)": terms.log_likelihood}
    named |= {f"log p({site})": value for site, value in terms.log_prior.items()}
    named |= {f"log q({site}|x)": value for site, value in terms.log_guide.items()}
    bad = [name for name, value in named.items() if not value.isfinite().all()]
    if bad:
        return f"term {', '.join(bad)}"
    if same_draws:
        return "a sum over the batch overflowed"
    return "a sum overflowed, or a term for draws or data that are not at hand"
