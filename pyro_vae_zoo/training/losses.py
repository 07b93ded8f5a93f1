"""The objective that a training's options and a phase of the pair ask for."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyro.infer import ELBO, Trace_ELBO, TraceTailAdaptive_ELBO

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.elbo import AnnealedELBO, ObjectiveELBO
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.training.options import (
    EMA,
    LEAST_EPOCHS,
    STEPS,
    STEPS_PER_NUMBER,
    TrainOptions,
)

__all__ = ["checked_loss", "compilable", "make_loss", "settled", "usual_patience"]

# A warm-up has ten epochs, but at least a tenth and at most a fifth of them all.
_WARMUP = 0.1, 10, 0.2
_PATIENCE = 0.2, 10  # of the epochs; epochs at least
_OF_THE_LOSS = (
    *("num_particles", "bound", "free_bits", "sticking_the_landing", "analytic_kl"),
)
# Options by whose course the loss has a weight.
_SCHEDULED = {
    "beta": "kl_weight",
    "kl_warmup": "kl_weight",
    "tempering_steps": "joint_weight",
}

Loss = ELBO | Callable[..., ELBO] | None  # as a phase has it


def settled(options: TrainOptions, vae: VAE, num_data: int) -> TrainOptions:
    """Options with the values of those that go by data and pair.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8))
    >>> found = settled(TrainOptions(batch_size=100), vae, 1297)
    >>> found.epochs, found.kl_warmup
    (154, 15.4)
    """
    epochs, warmup = options.epochs, options.kl_warmup
    if epochs is None:
        epochs = _epochs(options, vae, num_data)
    if warmup is None:
        is_elbo = options.bound == "elbo" and not options.tempering_steps
        takes_one = is_elbo and all(_weighs_kl(phase.loss) for phase in vae.phases)
        tenth, ten, fifth = _WARMUP
        warmup = min(max(tenth * epochs, ten), fifth * epochs) if takes_one else 0
    ema = EMA if options.ema is None else options.ema
    clip = vae.clip_norm if options.clip_norm is None else options.clip_norm
    found = replace(
        options, epochs=epochs, kl_warmup=round(warmup, 6), ema=ema, clip_norm=clip
    )
    return (
        found if found.patience is not None else replace(found, patience=_wait(found))
    )


def _epochs(options: TrainOptions, vae: VAE, num_data: int) -> int:
    """Epochs for as many steps as the dimensions of x are worth, and the data."""
    least, most, of_many = STEPS
    steps = min(max(STEPS_PER_NUMBER * math.prod(vae.event_shape), least), most)
    per_epoch = -(-num_data // options.batch_size)
    few, many = LEAST_EPOCHS
    return max(-(-steps // per_epoch), min(max(of_many // per_epoch, few), many))


def _wait(options: TrainOptions) -> int:
    """Epochs to wait for a better one; 0 where the bound may fall and then rise again.

    So it may where the rate falls, and under tempering; and without averaged weights it
    wavers.
    """
    is_steady = options.schedule == "constant" and not options.tempering_steps
    waits = is_steady and options.ema and options.keep == "best"
    return usual_patience(options.num_epochs) if waits else 0


def usual_patience(num_epochs: int) -> int:
    """Epochs that a training of so many waits for a better one, unless it is told.

    >>> usual_patience(154), usual_patience(20)
    (31, 10)
    """
    share, least = _PATIENCE
    return max(round(share * num_epochs), least)


def _weighs_kl(of: Loss) -> bool:
    """True where the objective of a phase has the weight that a warm-up moves."""
    return of is None or _SCHEDULED["kl_warmup"] in _taken_by(of)


def make_loss(options: TrainOptions, of: Loss = None) -> ELBO:
    """The Pyro ELBO that the options ask for, or that a phase has for them.

    Raises:
        UserError: for options that exclude each other, for one that the phase's own
            loss would not be told of, and for one that no step can be taken by.
    """
    asked = {name: getattr(options, name) for name in _OF_THE_LOSS}
    if of is not None:
        return _own_loss(of, asked, options)
    others = set(_OF_THE_LOSS).union(_SCHEDULED) - {"num_particles"}
    if all(_is_default(options, name) for name in others):
        return Trace_ELBO(
            options.num_particles,
            max_plate_nesting=1,
            vectorize_particles=options.num_particles > 1,
        )
    return AnnealedELBO(**asked)


def checked_loss(options: TrainOptions, of: Loss = None) -> ELBO:
    """The same, where what is to be compiled can be.

    Raises:
        UserError: as `make_loss` and `compilable` do.
    """
    loss = make_loss(options, of)
    compilable(options, loss, of)
    return loss


def compilable(options: TrainOptions, loss: ELBO, of: Loss) -> ObjectiveELBO | None:
    """The objective to compile in place of a loss of `make_loss`; None if there is none.

    Raises:
        UserError: where there is nothing to compile, and it was to be.
    """
    if isinstance(loss, ObjectiveELBO):
        return loss
    # Pyro's own class looks at its value, as no graph can. Ours has the same one, but
    # for a guide that draws a `Mixture`: a sum over components, with less variance.
    if of is None:
        return AnnealedELBO(options.num_particles)
    if options.compile is True:
        raise UserError(
            f"the guide has a loss of its own, {type(loss).__name__}, and only the "
            "objectives of the zoo can be compiled; train it with compile=False"
        )
    return None


def _own_loss(of: Any, asked: dict[str, Any], options: TrainOptions) -> ELBO:
    """The loss of a phase that has one, which is told of all that was asked for."""
    known = _taken_by(of)
    for name, parameter in ({name: name for name in asked} | _SCHEDULED).items():
        if parameter in known or _is_default(options, name):
            continue
        if isinstance(of, ELBO):
            raise UserError(
                f"{name}={getattr(options, name)!r} would be ignored: a phase of the VAE "
                f"has a loss of its own, {type(of).__name__}, which is used as it is; "
                f"set {parameter} there, or let a function that takes {parameter} make it"
            )
        raise UserError(
            f"the guide has an objective of its own, without the option {name}; "
            f"leave it at {_default(name)!r}"
        )
    given = {name: value for name, value in asked.items() if name in known}
    return _differentiable(of if isinstance(of, ELBO) else of(**given))


def _taken_by(of: Any) -> frozenset[str]:
    """The names of what the loss of a phase is made of."""
    return frozenset(() if isinstance(of, ELBO) else inspect.signature(of).parameters)


def _differentiable(loss: Any) -> ELBO:
    """The loss, if a step can be taken by it."""
    # The value of the tail-adaptive one is infinity, whatever its gradient.
    infinite = isinstance(loss, TraceTailAdaptive_ELBO)
    if infinite or not hasattr(loss, "differentiable_loss"):
        raise UserError(
            "loss of a phase: expected an ELBO with a finite differentiable_loss, as "
            "Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO and AnnealedELBO have, got "
            f"{type(loss).__name__}; train by others with pyro.infer.SVI"
        )
    return loss


def _default(name: str) -> Any:
    return getattr(TrainOptions, name)


def _is_default(options: TrainOptions, name: str) -> bool:
    value, default = getattr(options, name), _default(name)
    return value == default or not (value or default)  # none of it, once it is settled
