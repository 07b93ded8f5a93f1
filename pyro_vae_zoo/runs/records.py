"""The records of a run: its configuration and its result, as their JSON files hold them.

Files of a run are edited, cut short and sent around. A value of another kind than it was
written with is named when the file is read, and not where a sum or a table trips over it.
"""

from typing import Annotated, Any

from msgspec import Meta
from typing_extensions import NotRequired, TypedDict

from pyro_vae_zoo.models.create import PairConfig
from pyro_vae_zoo.training.history import Number

__all__ = ["Result", "RunConfig"]

Count = Annotated[int, Meta(gt=0, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Units = Annotated[str, Meta(pattern=r"^\d{1,9}/\d{1,9}$")]  # active of all, as "3/40"


class Training(TypedDict):
    """Options of a training that tables have; see `TrainOptions` for all."""

    epochs: NotRequired[Count]
    seed: NotRequired[Seed]


class RunConfig(TypedDict):
    """`config.json`: the data, the pair and the training that make a run."""

    guide: str  # a name, or FILE.py:Class
    data: NotRequired[str]
    variant: str
    source: str  # what finds the data again
    data_options: NotRequired[dict[str, Any]]  # and how they are read
    train_size: NotRequired[Count]  # where not all of the training data take part
    fingerprint: NotRequired[str]  # of a user's data
    vae: PairConfig
    places: NotRequired[dict[str, str]]  # what stands there, a name or FILE.py:Name
    training: Training
    eval_particles: Count


class Result(TypedDict):
    """`result.json`: an evaluation, with everything that its numbers must name."""

    guide: str
    prior: NotRequired[str]  # what stands in a place, where it was asked for
    likelihood: NotRequired[str]
    encoder: NotRequired[str]
    decoder: NotRequired[str]
    model: NotRequired[str]
    data: str
    variant: str
    split: str
    weights: str  # best or last
    elbo: Number
    elbo_std_error: Number
    log_likelihood: Number
    log_likelihood_std_error: Number
    log_likelihood_mc_error: Number
    kl: Number
    num_data: Count
    num_particles: Count
    num_parameters: Count
    epochs: Count
    seconds: float
    seed: Seed
    options: dict[str, Any]
    training: Training
    active_units: dict[str, Units]
    kl_per_site: NotRequired[dict[str, Number]]
    khat: dict[str, Number] | None
    ess: NotRequired[Number]
    num_threads: NotRequired[Count | None]
    versions: NotRequired[dict[str, Any] | None]
    cautions: NotRequired[dict[str, str]]
    references: NotRequired[dict[str, dict[str, Any]]]  # log p to hold it against
    probe: NotRequired[dict[str, Any]]  # of the labels, where the data have some
