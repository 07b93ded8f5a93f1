"""The objective that a training's options and a phase of the pair ask for."""

import inspect
from collections.abc import Callable
from typing import Any

from pyro.infer import ELBO, Trace_ELBO

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.elbo import AnnealedELBO, ObjectiveELBO
from pyro_vae_zoo.training.options import TrainOptions

__all__ = ["checked_loss", "compilable", "make_loss"]

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


def make_loss(options: TrainOptions, of: Loss = None) -> ELBO:
    """The Pyro ELBO that the options ask for, or that a phase has for them.

    Raises:
        UserError: for options that exclude each other, and for one that the phase's own
            loss does not know.
    """
    if isinstance(of, ELBO):
        if options.beta != 1:
            raise UserError(
                f"beta={options.beta} would be ignored: a phase of the VAE has a loss of "
                f"its own, {type(of).__name__}; weigh the KL there"
            )
        return of
    asked = {name: getattr(options, name) for name in _OF_THE_LOSS}
    if of is not None:
        return of(**_known_to(of, asked, options))
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
            f"the guide is trained by a {type(loss).__name__} of its own, and only "
            "the objectives of the zoo can be compiled; train it without"
        )
    return None


def _known_to(
    make: Callable[..., ELBO], asked: dict[str, Any], options: TrainOptions
) -> dict[str, Any]:
    """Those of the options that a loss declares; to set another one is an error."""
    known = inspect.signature(make).parameters
    for name, parameter in ({name: name for name in asked} | _SCHEDULED).items():
        if parameter not in known and not _is_default(options, name):
            raise UserError(
                f"the guide has a training of its own, which knows no {name}; leave "
                f"it at {_default(name)!r}"
            )
    return {name: value for name, value in asked.items() if name in known}


def _default(name: str) -> Any:
    return getattr(TrainOptions, name)


def _is_default(options: TrainOptions, name: str) -> bool:
    return getattr(options, name) == _default(name)
