"""`TrainOptions`: everything that determines a training."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from pyro.infer import ELBO, Trace_ELBO

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.elbo import AnnealedELBO, ObjectiveELBO
from pyro_vae_zoo.options import count, plain, real

__all__ = ["OPTIMIZERS", "SCHEDULES", "TrainOptions"]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # One fused call over all parameters, on the CPU too.
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr, fused=True),
    "adamax": lambda params, lr: torch.optim.Adamax(params, lr=lr),
}
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # (epoch, total number of epochs) -> factor on the learning rate
    "constant": lambda epoch, total: 1.0,
    "inverse": lambda epoch, total: 1 / (1 + epoch / 100),
    "cosine": lambda epoch, total: 0.5 * (1 + math.cos(math.pi * epoch / total)),
}
_OF_THE_LOSS = (
    "num_particles",
    "bound",
    "free_bits",
    "sticking_the_landing",
    "analytic_kl",
)


@dataclass(frozen=True)
class TrainOptions:
    """Everything that determines a training; the arguments of `fit`."""

    epochs: int = 20
    batch_size: int = 100
    lr: float = 1e-3
    seed: int = 0
    optimizer: str = "adam"
    schedule: str = "constant"
    kl_warmup: float = 0
    free_bits: float = 0.0
    tempering_steps: int = 0
    clip_norm: float | None = None
    num_particles: int = 1
    bound: str = "elbo"
    sticking_the_landing: bool = False
    analytic_kl: bool = False
    patience: int | None = None
    keep: str = "best"
    compile: bool | str = "auto"

    def __post_init__(self) -> None:
        self._normalise()
        for name in ("epochs", "batch_size", "num_particles", "lr"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("clip_norm", "patience"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("kl_warmup", "free_bits", "tempering_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative")
        known = {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "bound": ("elbo", "iwae"),
            "keep": ("best", "last"),
        }
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                got = getattr(self, name)
                raise UserError(f"unknown {name} {got!r}; known: {', '.join(choices)}")
        if not (isinstance(self.compile, bool) or self.compile == "auto"):
            raise UserError(f"compile is True, False or 'auto', got {self.compile!r}")
        if self.tempering_steps and (
            self.kl_warmup or self.free_bits or self.analytic_kl
        ):
            raise UserError(
                "tempering weighs the whole joint density and kl_warmup, free_bits or "
                "analytic_kl its KL; choose one of them"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"seed must fit in 64 bits, got {self.seed}")
        self.loss()  # which refuses what excludes each other

    def _normalise(self) -> None:
        """Have each option as Python's own number, word or truth value."""
        for field in fields(self):
            name, value = field.name, plain(getattr(self, field.name))
            allowed = get_args(field.type) or (field.type,)
            if value is None and type(None) in allowed:
                pass
            elif int in allowed:
                value = count(name, value, least=-math.inf)
            elif float in allowed:
                value = real(name, value)
            elif len(allowed) == 1 and type(value) is not allowed[0]:
                raise UserError(
                    f"{name}: expected {allowed[0].__name__}, got {value!r}"
                )
            object.__setattr__(self, name, value)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * SCHEDULES[self.schedule](epoch, self.epochs)

    def kl_weight(self, epoch: float) -> float:
        """The KL's weight at a (fractional) epoch: linear over the warm-up."""
        return min(1.0, epoch / self.kl_warmup) if self.kl_warmup else 1.0

    def joint_weight(self, step: int) -> float:
        """Rezende & Mohamed 2015, section 6.1: min(1, 0.01 + t / steps)."""
        return (
            min(1.0, 0.01 + step / self.tempering_steps)
            if self.tempering_steps
            else 1.0
        )

    def loss(self, of: ELBO | Callable[..., ELBO] | None = None) -> ELBO:
        """The Pyro ELBO that these options ask for, or that a phase has for them.

        Raises:
            UserError: for an option that the phase's own loss does not know.
        """
        if isinstance(of, ELBO):
            return of
        asked = {name: getattr(self, name) for name in _OF_THE_LOSS}
        if of is not None:
            return of(**self._known_to(of, asked))
        plain = not (self.kl_warmup or self.free_bits or self.tempering_steps)
        plain = plain and not (self.sticking_the_landing or self.analytic_kl)
        if plain and self.bound == "elbo":
            vectorize = self.num_particles > 1
            return Trace_ELBO(
                self.num_particles, max_plate_nesting=1, vectorize_particles=vectorize
            )
        return AnnealedELBO(**asked)

    def losses(
        self, of: ELBO | Callable[..., ELBO] | None = None
    ) -> tuple[ELBO, ObjectiveELBO | None]:
        """What `loss` gives, and what to compile in its place: None if it is not ours.

        Raises:
            UserError: where there is nothing to compile, and it was to be.
        """
        loss = self.loss(of)
        if isinstance(loss, ObjectiveELBO):
            return loss, loss
        # Pyro's own class looks at its value, as no graph can. Ours has the same one, but
        # for a guide that draws a `Mixture`: a sum over components, with less variance.
        if of is None:
            return loss, AnnealedELBO(self.num_particles)
        if self.compile is True:
            raise UserError(
                f"the guide is trained by a {type(loss).__name__} of its own, and only "
                "the objectives of the zoo can be compiled; train it without"
            )
        return loss, None

    def _known_to(
        self, make: Callable[..., ELBO], asked: dict[str, Any]
    ) -> dict[str, Any]:
        """Those of the options that a loss declares; to set another one is an error."""
        known = inspect.signature(make).parameters
        annealed = {"kl_warmup": "kl_weight", "tempering_steps": "joint_weight"}
        needed = {name: name for name in asked} | annealed
        for name, parameter in needed.items():
            default = type(self).__dataclass_fields__[name].default
            if parameter not in known and getattr(self, name) != default:
                raise UserError(
                    f"the guide has a training of its own, which knows no {name}; leave "
                    f"it at {default!r}"
                )
        return {name: value for name, value in asked.items() if name in known}
