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

    num_particles: Annotated[int, Option("draws of q for each datum.")] = 10_000
    chains: Annotated[int, Option("of annealing, for each datum; 0: no annealing.")] = (
        16
    )
    temps: Annotated[
        int, Option("annealing's steps from the prior to the posterior.")
    ] = 1000
    leapfrog: Annotated[int, Option("leapfrog steps of a transition.")] = 10
    simulated: Annotated[
        int, Option("data drawn from the model to bound annealing's error; 0: none.")
    ] = 20
    steps: Annotated[int, Option("of the optimisation of each datum's q.")] = 500
    lr: Annotated[float, Option("first rate of that optimisation.")] = 0.02
    seed: Annotated[int, Option("of the data and of all draws.")] = 0

    def __post_init__(self) -> None:
        normalise(self)
