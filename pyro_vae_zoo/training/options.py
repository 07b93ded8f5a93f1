"""`TrainOptions`: everything that determines a training."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any

from pyro_vae_zoo.errors import UserError, own_code
from pyro_vae_zoo.files import resolve
from pyro_vae_zoo.options import Option, names_a_file, normalise, real

__all__ = [
    "BARE",
    "EMA",
    "KEPT",
    "LEAST_EPOCHS",
    "OPTIMIZERS",
    "SCHEDULES",
    "STEPS",
    "STEPS_PER_NUMBER",
    "TrainOptions",
    "makes_scheduler",
    "name_of",
    "training_then",
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
# within two bounds; at least 50 epochs, or the third of steps; and at least 20 epochs.
STEPS_PER_NUMBER, STEPS, LEAST_EPOCHS = 30, (2_000, 10_000, 25_000), (20, 50)
EMA = 0.999  # decay of the average
KEPT = ("kl_warmup", "ema", "clip_norm", "patience")  # by a training that is resumed
# What version 0.1.0 took where it was not told; records of its runs go on meaning this.
BARE: dict[str, Any] = {"epochs": 20, "schedule": "constant"} | dict.fromkeys(KEPT, 0)


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
            f"passes over the data; by default {STEPS_PER_NUMBER} steps per element of a "
            f"datum, but {STEPS[0]:,} to {STEPS[1]:,} of them; if that is less than "
            f"{LEAST_EPOCHS[1]} passes, {LEAST_EPOCHS[1]} passes or {STEPS[2]:,} steps, "
            f"whichever is less; and {LEAST_EPOCHS[0]} passes at least. They are divided "
            "among the VAE's phases; with fewer epochs than phases, some are left out.",
            above=0,
        ),
    ] = None
    batch_size: Annotated[
        int,
        Option(
            "data per step. Of all processes together, if `torchrun` started several; "
            "the last batch of an epoch may be smaller.",
            above=0,
        ),
    ] = 100
    lr: Annotated[float, Option("learning rate.", above=0)] = 1e-3
    seed: Annotated[
        int,
        Option(
            "random seed of noise, order of the data and binarisation. The caller's "
            "random state is left as it was.",
        ),
    ] = 0
    optimizer: Annotated[
        str | Callable,
        Option(
            "optimiser of torch.optim, or your own. Your own is a function or class "
            "that is called with the parameters, and with `lr` if it has such an "
            "argument: `functools.partial(torch.optim.SGD, momentum=0.9)`.",
            tuple(OPTIMIZERS),
            own=True,
        ),
    ] = "adam"
    weight_decay: Annotated[
        float | None,
        Option(
            "weight decay, for the named optimisers. Under adamw a step takes the "
            "share lr * weight_decay off each weight; under others weight_decay times "
            "the weight is added to its gradient, which is that of the batch's sum. "
            "None is PyTorch's: 0.01 under adamw, 0 under others.",
            least=0,
        ),
    ] = None
    schedule: Annotated[
        str | Callable,
        Option(
            "schedule of the learning rate, or your own; inverse: lr / (1 + "
            "epoch/100). Your own is a function of (epoch from 0, epochs) that "
            "returns a factor on the rate, or one of the optimiser that returns a "
            "scheduler of torch's, which steps once per epoch.",
            tuple(SCHEDULES),
            own=True,
        ),
    ] = "constant"
    beta: Annotated[
        float,
        Option(
            "weight of the KL in the objective, as in a beta-VAE. Curves and "
            "evaluation stay those of the plain ELBO; the best epoch is the one with "
            "the highest `valid_bound`, which has this weight.",
            least=0,
        ),
    ] = 1.0
    kl_warmup: Annotated[
        float | None,
        Option(
            "epochs over which the KL's weight grows from 0 to beta; by default ten, but "
            "at least a tenth and at most a fifth of all. It is 0 under `iwae`, under "
            "tempering, and for a guide whose own objective has no weight of the KL.",
            least=0,
        ),
    ] = None
    free_bits: Annotated[
        float,
        Option(
            "nats of KL of each latent vector, on the batch mean, that are not penalised.",
            least=0,
        ),
    ] = 0.0
    tempering_steps: Annotated[
        int,
        Option(
            "steps over which the weight of log p(x, z) grows from 0.01 to 1; 0: no "
            "tempering. Rezende & Mohamed take 10,000.",
            least=0,
        ),
    ] = 0
    clip_norm: Annotated[
        float | None,
        Option(
            "norm to clip the gradient of the mean loss to; by default the VAE's own: 100 "
            "for hierarchies, graphs and spline_coupling, none for others; 0: none.",
            least=0,
        ),
    ] = None
    ema: Annotated[
        float | None,
        Option(
            "decay of a moving average of the weights, which replaces them in "
            f"validation, evaluation and what is saved; by default {EMA}, about the "
            "last 1,000 steps; 0: no average. In the first steps of a phase it is "
            "smaller.",
            least=0,
            below=1,
        ),
    ] = None
    num_particles: Annotated[
        int, Option("particles (draws of z) per datum in a step.", above=0)
    ] = 1
    bound: Annotated[
        str,
        Option(
            "bound to maximise; iwae: the importance-weighted one, of num_particles "
            "particles.",
            ("elbo", "iwae"),
        ),
    ] = "elbo"
    sticking_the_landing: Annotated[
        bool, Option("leave the score of the guide's parameters out of the gradient.")
    ] = False
    analytic_kl: Annotated[
        bool, Option("use the closed form of a latent site's KL where there is one.")
    ] = False
    patience: Annotated[
        int | None,
        Option(
            "stop after so many epochs of the last phase without a better validation "
            "bound; by default a fifth of all, at least ten; 0: never. The default is 0 "
            "under a schedule that is not constant, tempering, `ema` 0 or `keep` last.",
            least=0,
        ),
    ] = None
    keep: Annotated[
        str,
        Option(
            "weights to end with: best on validation, or last. The best epoch has the "
            "highest validation ELBO, or `valid_bound` under `iwae` or a beta: the "
            "bound that is trained. Epochs that version 0.1.0 trained have no "
            "`valid_bound`; a training that is resumed from one of its checkpoints "
            "looks for the best among the new epochs.",
            ("best", "last"),
        ),
    ] = "best"
    compile: Annotated[
        bool | str,
        Option(
            "compile the training steps (auto: if there are 5000 of them or more). A "
            "step is one compiled graph (see `CompiledELBO`), except for a smaller "
            "last batch; `auto` compiles where a phase has enough steps to pay for it "
            "and the pair can be compiled. On CUDA, steps by Adam are replayed as one "
            "graph, and the host waits only at the end of an epoch. A resumed "
            "training keeps what was decided, unless it is told False.",
            ("auto",),
        ),
    ] = "auto"
    precision: Annotated[
        str,
        Option(
            "precision in which networks multiply during training. Latents, densities, "
            "sums, parameters and the optimiser stay in float32, and so does all of "
            "evaluation. auto: bf16 if the device multiplies faster in it, which is "
            "measured in milliseconds. A processor without bfloat16 rounds factors and "
            "gains nothing.",
            ("float32", "bf16", "auto"),
        ),
    ] = "float32"

    def __post_init__(self) -> None:
        normalise(self)
        own_kl = self.kl_warmup or self.free_bits or self.analytic_kl or self.beta != 1
        if self.tempering_steps and own_kl:
            raise UserError(
                "tempering_steps weighs log p(x, z) as a whole, but beta, kl_warmup, "
                "free_bits and analytic_kl act on the KL; choose one of them"
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
            self._own_factor(0, self.epochs or LEAST_EPOCHS[0])

    def _check_settings(self, make: Callable) -> None:
        """Refuse options that an optimiser of the user's would not be told of."""
        name = name_of(make)
        if self.weight_decay is not None:
            raise UserError(
                f"weight_decay applies to the named optimisers only, and {name} is "
                "your own; set it there: functools.partial(..., weight_decay=...)"
            )
        if self.lr != TrainOptions.lr and not takes_lr(make):
            raise UserError(
                f"lr={self.lr} would be ignored, since {name} sets a learning rate of "
                "its own; leave out one of them"
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
        factor = real(name, own_code(name, self.schedule, epoch, epochs))
        if not 0 <= factor < math.inf:
            raise UserError(f"{name}: expected a factor of at least 0, got {factor}")
        return factor

    @property
    def num_epochs(self) -> int:
        """The number of epochs, once it is known; see `settled`."""
        if self.epochs is None:
            raise ValueError("epochs depend on the data, which are not known here")
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
            if isinstance(text := getattr(self, name), str) and names_a_file(text):
                own[name] = resolve(text, name)
        return replace(self, **own) if own else self

    def recorded(self) -> dict[str, Any]:
        """The options as JSON and checkpoints hold them: by name what is the user's."""
        values = {f.name: getattr(self, f.name) for f in fields(TrainOptions)}
        return {k: name_of(v) if callable(v) else v for k, v in values.items()}


def training_then(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a record, as the version that wrote it took them."""
    null = {n: 0 for n in ("clip_norm", "patience") if record.get(n) is None}
    return BARE | dict(record) | null  # which was none in 0.1.0


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
            "schedule: expected a function of (epoch, epochs) or of the optimiser, got "
            f"{name_of(schedule)} of {len(needed)} arguments"
        )
    return len(needed) == 1


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of what is not written in Python
        return {}
