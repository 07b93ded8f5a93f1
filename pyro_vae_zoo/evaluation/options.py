"""`DiagnoseOptions`: the effort spent on each part of a diagnosis."""

from dataclasses import dataclass
from typing import Annotated

from pyro_vae_zoo.options import Option, normalise

__all__ = ["DiagnoseOptions"]


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions:
    """The draws, chains and steps that are spent on each part.

    >>> DiagnoseOptions(chains=1e2).chains
    100
    """

    num_particles: Annotated[
        int,
        Option(
            "particles of the guide per datum; other parts have their own.", least=2
        ),
    ] = 10_000
    chains: Annotated[
        int, Option("annealing chains per datum; 0: no annealing.", least=0)
    ] = 16
    temps: Annotated[
        int, Option("annealing steps from the prior to the posterior.", least=1)
    ] = 1000
    leapfrog: Annotated[int, Option("leapfrog steps per annealing step.", least=1)] = 10
    simulated: Annotated[
        int, Option("simulated data to bound the error of annealing; 0: none.", least=0)
    ] = 20
    steps: Annotated[int, Option("steps to optimise a q for each datum.", least=0)] = (
        500
    )
    lr: Annotated[
        float, Option("initial learning rate of that optimisation.", above=0)
    ] = 0.02
    seed: Annotated[
        int, Option("random seed of the choice of data and of all draws.")
    ] = 0

    def __post_init__(self) -> None:
        normalise(self)
