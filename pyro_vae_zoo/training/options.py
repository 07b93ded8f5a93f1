"""`TrainOptions`: everything that determines a training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.options import Option, normalise

__all__ = ["OPTIMIZERS", "SCHEDULES", "TrainOptions"]

# Names of `torch.optim` with their settings; fused is one call over all parameters.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("Adam", {"fused": True}),
    "adamax": ("Adamax", {}),
}
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # (epoch, total number of epochs) -> factor on the learning rate
    "constant": lambda epoch, total: 1.0,
    "inverse": lambda epoch, total: 1 / (1 + epoch / 100),
    "cosine": lambda epoch, total: 0.5 * (1 + math.cos(math.pi * epoch / total)),
}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that determines a training; the arguments of `fit`.

    Raises:
        UserError: for an option of another kind or out of range, and for options that
            exclude each other.

    >>> TrainOptions(schedule="inverse").rate(100)
    0.0005
    """

    epochs: Annotated[
        int,
        Option(
            "passes over the data. They are shared out among the VAE's phases, of which "
            "some are left out where there are fewer epochs than phases.",
            above=0,
        ),
    ] = 20
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
    optimizer: Annotated[str, Option("of torch.optim.", tuple(OPTIMIZERS))] = "adam"
    schedule: Annotated[
        str,
        Option("of the rate; inverse: lr / (1 + epoch/100).", tuple(SCHEDULES)),
    ] = "constant"
    kl_warmup: Annotated[
        float,
        Option("epochs over which the KL's weight grows from 0 to 1.", least=0),
    ] = 0
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
            "in their place. 0.999 averages about the last 1,000 steps; in the first "
            "steps of a phase the decay is smaller.",
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
            "highest validation ELBO, or `valid_bound` under `iwae`: the same K-sample "
            "bound that is trained. Epochs that version 0.1.0 trained have none, and a "
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
        own_kl = self.kl_warmup or self.free_bits or self.analytic_kl
        if self.tempering_steps and own_kl:
            raise UserError(
                "tempering weighs the whole joint density and kl_warmup, free_bits or "
                "analytic_kl its KL; choose one of them"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"seed must fit in 64 bits, got {self.seed}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * SCHEDULES[self.schedule](epoch, self.epochs)

    def kl_weight(self, epoch: float) -> float:
        """The KL's weight at a (fractional) epoch: linear over the warm-up."""
        return min(1.0, epoch / self.kl_warmup) if self.kl_warmup else 1.0

    def joint_weight(self, step: int) -> float:
        """Rezende & Mohamed 2015, section 6.1: min(1, 0.01 + t / steps)."""
        if not self.tempering_steps:
            return 1.0
        return min(1.0, 0.01 + step / self.tempering_steps)
