"""`TrainOptions`: everything that determines a training."""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, cast

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.files import resolve
from pyro_vae_zoo.options import Option, normalise, real

__all__ = [
    "BARE",
    "EMA",
    "KEPT",
    "LEAST_EPOCHS",
    "OPTIMIZERS",
    "SCHEDULES",
    "STEPS",
    "STEPS_PER_NUMBER",
    "WARMUP",
    "TrainOptions",
    "makes_scheduler",
    "name_of",
]

# Names of `torch.optim` with their settings; fused is one call over all parameters.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("Adam", {"fused": True}),
    "adamw": ("AdamW", {"fused": True}),
    "adamax": ("Adamax", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", {}),
    "rmsprop": ("RMSprop", {}),
    "sgd": ("SGD", {}),
}
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # (epoch, total number of epochs) -> factor on the learning rate
    "constant": lambda epoch, total: 1.0,
    "inverse": lambda epoch, total: 1 / (1 + epoch / 100),
    "cosine": lambda epoch, total: 0.5 * (1 + math.cos(math.pi * epoch / total)),
}


# A training whose length goes by its data has so many steps for each number of a datum,
# within these bounds, and so many epochs at least.
STEPS_PER_NUMBER, STEPS, LEAST_EPOCHS = 30, (2_000, 10_000), 20
WARMUP = 0.1  # of the epochs
# What version 0.1.0 took where it was not told; records of its runs go on meaning this.
BARE: dict[str, Any] = {
    **{"epochs": 20, "schedule": "constant"},
    **{"kl_warmup": 0, "ema": 0},
}
# What a training that goes on keeps from its beginning where it is not told.
KEPT = ("kl_warmup", "ema")
EMA = 0.999


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that determines a training; the arguments of `fit`.

    Raises:
        UserError: for an option of another kind or out of range, and for options that
            exclude each other.

    >>> TrainOptions(schedule="inverse", epochs=500).rate(100)
    0.0005
    """

    epochs: Annotated[
        int | None,
        Option(
            f"passes over the data; by default {LEAST_EPOCHS}, or as many as make "
            f"{STEPS_PER_NUMBER} steps for each number of a datum, from {STEPS[0]:,} to "
            f"{STEPS[1]:,} of them. They are shared out among the VAE's phases, of "
            "which some are left out where there are fewer epochs than phases.",
            above=0,
        ),
    ] = None
    batch_size: Annotated[
        int,
        Option(
            "data for each step. It is that of all processes together where `torchrun` "
            "started several; the last batch of an epoch may be smaller.",
            above=0,
        ),
    ] = 100
    lr: Annotated[float, Option("learning rate.", above=0)] = 1e-3
    seed: Annotated[
        int,
        Option(
            "of noise, order and binarisation. The caller's random state is kept.",
        ),
    ] = 0
    optimizer: Annotated[
        str | Callable,
        Option(
            "of torch.optim, or your own. What makes one is called with the parameters, "
            "and with `lr` if it declares that: `functools.partial(torch.optim.SGD, "
            "momentum=0.9)`.",
            tuple(OPTIMIZERS),
            own=True,
        ),
    ] = "adam"
    weight_decay: Annotated[
        float | None,
        Option(
            "of an optimiser that has a name. Under adamw a step takes the share lr * "
            "weight_decay off each weight; under others weight_decay times the weight is "
            "added to its gradient, which is that of the batch's sum. None is PyTorch's: "
            "0.01 under adamw, 0 under others.",
            least=0,
        ),
    ] = None
    schedule: Annotated[
        str | Callable,
        Option(
            "of the rate, or your own; inverse: lr / (1 + epoch/100). A function of "
            "(epoch from 0, epochs) gives a factor on the rate; one of the optimiser gives "
            "a scheduler of torch's, which steps once an epoch.",
            tuple(SCHEDULES),
            own=True,
        ),
    ] = "constant"
    beta: Annotated[
        float,
        Option(
            "weight of the KL in the objective, as of a beta-VAE. Curves and "
            "evaluation stay those of the plain ELBO; the best epoch is that of the "
            "highest `valid_bound`, which has this weight.",
            least=0,
        ),
    ] = 1.0
    kl_warmup: Annotated[
        float | None,
        Option(
            "epochs over which the KL's weight grows from 0 to beta; by default a tenth "
            "of them. There is none by default under `iwae` and tempering, and for a "
            "guide with an objective of its own that knows none.",
            least=0,
        ),
    ] = None
    free_bits: Annotated[
        float,
        Option(
            "nats of KL that cost nothing, per latent site on the batch mean.", least=0
        ),
    ] = 0.0
    tempering_steps: Annotated[
        int,
        Option(
            "steps over which log p(x, z) gains its weight, from 0.01 to 1. Rezende & "
            "Mohamed take 10,000; 0 is for none.",
            least=0,
        ),
    ] = 0
    clip_norm: Annotated[
        float | None, Option("largest norm of the gradient of the mean loss.", above=0)
    ] = None
    ema: Annotated[
        float | None,
        Option(
            "decay of an average of the weights, which is validated, kept and evaluated "
            f"in their place; by default {EMA}, which averages about the last 1,000 "
            "steps, and 0 for none. In the first steps of a phase it is smaller.",
            least=0,
            below=1,
        ),
    ] = None
    num_particles: Annotated[int, Option("draws for each datum.", above=0)] = 1
    bound: Annotated[
        str,
        Option(
            "to maximise; iwae: the importance-weighted one, of num_particles draws.",
            ("elbo", "iwae"),
        ),
    ] = "elbo"
    sticking_the_landing: Annotated[
        bool, Option("gradient without the score of the guide's parameters.")
    ] = False
    analytic_kl: Annotated[
        bool, Option("closed form of each latent site's KL where there is one.")
    ] = False
    patience: Annotated[
        int | None,
        Option(
            "stop after so many epochs that were not better on validation.", above=0
        ),
    ] = None
    keep: Annotated[
        str,
        Option(
            "weights to end with: best on validation, or last. The best epoch has the "
            "highest validation ELBO, or `valid_bound` under `iwae` or a beta: the bound "
            "that is trained. Epochs that version 0.1.0 trained have none, and a "
            "training that goes on from one of its checkpoints looks for the best among "
            "the epochs to come.",
            ("best", "last"),
        ),
    ] = "best"
    compile: Annotated[
        bool | str,
        Option(
            "compile the training steps (auto: where there are 5000 of them or more). A "
            "step is one compiled graph (see `CompiledELBO`), but for a last batch that "
            "is smaller; `auto` compiles where a phase has steps enough to pay for it "
            "and the pair can be compiled. On CUDA steps by Adam are replayed as one "
            "graph, and the host waits for an epoch's end only. What was decided is kept "
            "by a resumed training, unless it is told False.",
            ("auto",),
        ),
    ] = "auto"

    precision: Annotated[
        str,
        Option(
            "in which networks multiply while they are trained. Latents, densities, sums, "
            "parameters and the optimiser stay in float32, and evaluation is in it "
            "altogether. auto: bf16 where a measurement of milliseconds says that the "
            "device multiplies faster in it. A processor without bfloat16 rounds factors "
            "and gains nothing.",
            ("float32", "bf16", "auto"),
        ),
    ] = "float32"

    def __post_init__(self) -> None:
        normalise(self)
        own_kl = self.kl_warmup or self.free_bits or self.analytic_kl or self.beta != 1
        if self.tempering_steps and own_kl:
            raise UserError(
                "tempering weighs the whole joint density, and beta, kl_warmup, free_bits "
                "or analytic_kl its KL; choose one of them"
            )
        if self.beta != 1 and self.bound == "iwae":
            raise UserError(
                f"beta={self.beta} weighs the KL, which the bound 'iwae' does not have; "
                "use bound='elbo'"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"seed must fit in 64 bits, got {self.seed}")
        if callable(self.optimizer):
            self._check_settings(self.optimizer)
        if self.has_own_rate:
            self._own_factor(0, self.epochs or LEAST_EPOCHS)

    def _check_settings(self, make: Callable) -> None:
        """Refuse options that an optimiser of the user's would not be told of."""
        name = name_of(make)
        if self.weight_decay is not None:
            raise UserError(
                f"weight_decay is for optimisers that have a name, and {name} is one of "
                "your own; set it there: functools.partial(..., weight_decay=...)"
            )
        if self.lr != TrainOptions.lr and not takes_lr(make):
            raise UserError(
                f"lr={self.lr} would be ignored: {name} sets a rate of its own; leave out "
                "one of them"
            )

    @property
    def has_own_rate(self) -> bool:
        """Whether the schedule is a function of the user's."""
        return callable(self.schedule) and not makes_scheduler(self.schedule)

    def factor(self, epoch: int) -> float:
        """What the schedule multiplies the rates of an epoch by, counted from 0.

        It is 1 where a scheduler of torch's sets them.

        Raises:
            UserError: where a function of the user's gives no number, or a negative one.
        """
        if isinstance(self.schedule, str):
            return SCHEDULES[self.schedule](epoch, self.num_epochs)
        if makes_scheduler(self.schedule):
            return 1.0
        return self._own_factor(epoch, self.num_epochs)

    def _own_factor(self, epoch: int, epochs: int) -> float:
        name = f"schedule {name_of(self.schedule)}, at epoch {epoch}"
        factor = real(name, cast(Callable, self.schedule)(epoch, epochs))
        if not 0 <= factor < math.inf:
            raise UserError(f"{name}: expected a factor of at least 0, got {factor}")
        return factor

    @property
    def num_epochs(self) -> int:
        """The number of epochs, once it is known; see `settled`."""
        if self.epochs is None:
            raise ValueError("epochs go by the data, which are not known here")
        return self.epochs

    def rate(self, epoch: int) -> float:
        """The rate of an epoch, counted from 0, unless a scheduler of torch's has it."""
        return self.lr * self.factor(epoch)

    def kl_weight(self, epoch: float) -> float:
        """The KL's weight at a (fractional) epoch: linear over the warm-up, to beta."""
        return self.beta * (min(1.0, epoch / self.kl_warmup) if self.kl_warmup else 1.0)

    def joint_weight(self, step: int) -> float:
        """Rezende & Mohamed 2015, section 6.1: min(1, 0.01 + t / steps)."""
        if not self.tempering_steps:
            return 1.0
        return min(1.0, 0.01 + step / self.tempering_steps)

    def resolved(self) -> "TrainOptions":
        """The same, with what `FILE.py:Name` names in its place; the file is run."""
        own = {}
        for name in ("optimizer", "schedule"):
            if isinstance(text := getattr(self, name), str) and ".py" in text:
                own[name] = resolve(text, name)
        return replace(self, **own) if own else self

    def recorded(self) -> dict[str, Any]:
        """The options as JSON and checkpoints hold them: by name what is the user's."""
        values = {f.name: getattr(self, f.name) for f in fields(TrainOptions)}
        return {k: name_of(v) if callable(v) else v for k, v in values.items()}


def name_of(what: Any) -> str:
    """Module and name of what is the user's, with the settings of a `partial`.

    >>> name_of(partial(math.pow, 2.0)), name_of(TrainOptions.rate)
    ('math.pow(2.0)', 'pyro_vae_zoo.training.options.TrainOptions.rate')
    """
    if isinstance(what, partial):
        given = [_shown(value) for value in what.args]
        given += [f"{name}={_shown(value)}" for name, value in what.keywords.items()]
        return f"{name_of(what.func)}({', '.join(given)})"
    named = what if hasattr(what, "__qualname__") else type(what)
    return f"{named.__module__}.{named.__qualname__}"


def _shown(value: Any) -> str:
    # Without addresses in memory, which the same value has not twice.
    return name_of(value) if callable(value) else re.sub(" at 0x\\w+", "", repr(value))


def takes_lr(make: Callable) -> bool:
    """Whether a factory of optimisers is to be told the rate.

    >>> takes_lr(lambda parameters, lr: None), takes_lr(lambda parameters: None)
    (True, False)
    """
    if isinstance(make, partial) and "lr" in make.keywords:
        return False
    return "lr" in _parameters(make)


def makes_scheduler(schedule: Callable) -> bool:
    """Whether a schedule takes an optimiser, and not (epoch, epochs).

    Raises:
        UserError: for one of neither.

    >>> makes_scheduler(lambda optimizer: None), makes_scheduler(lambda epoch, epochs: 1.0)
    (True, False)
    """
    if isinstance(schedule.func if isinstance(schedule, partial) else schedule, type):
        return True
    by_place = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    parameters = _parameters(schedule).values()
    needed = [p for p in parameters if p.default is p.empty and p.kind in by_place]
    if len(needed) not in (1, 2):
        raise UserError(
            "schedule: expected a function of (epoch, epochs), or one of the optimiser, "
            f"got {name_of(schedule)} of {len(needed)} arguments"
        )
    return len(needed) == 1


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of what is not written in Python
        return {}
