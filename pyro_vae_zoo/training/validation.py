"""What an epoch is judged by: bounds on the validation data, and their parts."""

from typing import Any

from pyro.infer import ELBO

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.evaluation.evaluate import evaluate, weighted_bound
from pyro_vae_zoo.pair.vae import VAE

__all__ = ["bound_name", "validated"]


def bound_name(loss: ELBO) -> str:
    """The name of what a loss's steps sum up: the ELBO, or another bound.

    >>> import pyro_vae_zoo as zoo
    >>> bound_name(zoo.AnnealedELBO(num_particles=5, bound="iwae"))
    'bound'
    """
    return "bound" if getattr(loss, "bound", "elbo") == "iwae" else "elbo"


def validated(
    vae: VAE,
    data: Dataset,
    loss: ELBO,
    trained: float,
    seed: int,
    beta: float = 1.0,
) -> dict[str, Any]:
    """The part of an epoch's record that is about the weights of now; see `Epoch`.

    Args:
        vae: the pair.
        data: whose validation part judges it.
        loss: what was minimised.
        trained: the mean bound of the epoch's steps.
        seed: of the draws.
        beta: weight of the KL in what is trained; the ELBO of the record is the plain one.
    """
    on_valid, units = data.judged_on(data.valid), data.log_jacobian
    valid = evaluate(vae, on_valid, num_particles=1, seed=seed, compile=False)
    weighted = bound_name(loss) == "bound"
    record: dict[str, Any] = {
        "train_elbo": None if weighted else trained + units,
        "valid_elbo": valid.elbo,
    }
    if weighted:
        draws = loss.num_particles
        bound = weighted_bound(vae, on_valid, draws, seed=seed)
        record |= {"train_bound": trained + units, "valid_bound": bound}
    elif beta != 1:
        record["valid_bound"] = valid.elbo - (beta - 1) * valid.kl
    return record | {
        "kl": valid.kl,
        "reconstruction": valid.reconstruction,
        "initial_log_density": valid.initial_log_density,
        "final_log_density": valid.final_log_density,
        "log_det": valid.log_det,
    }
