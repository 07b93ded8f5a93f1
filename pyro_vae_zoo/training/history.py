"""`History`: what a training did, epoch by epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["History", "validated_by"]


def validated_by(record: Mapping[str, Any]) -> str:
    """The entry of an epoch's record that chooses the best epoch.

    >>> validated_by({"valid_elbo": -91.0, "valid_bound": -90.0})
    'valid_bound'
    """
    return "valid_bound" if record.get("valid_bound") is not None else "valid_elbo"


@dataclass
class History:
    """What `fit` did.

    Attributes:
        epochs: a record for each epoch: `epoch`, `phase`, `train_elbo`,
            `valid_elbo`, `kl`, `reconstruction`, the flow's `initial_log_density`,
            `final_log_density` and `log_det` (all on the validation data but
            the first), `lr`, `kl_weight`, `seconds`, and the entries of
            `vae.monitor(vae)`. Under `bound="iwae"` also `train_bound` and
            `valid_bound`, the bound that is trained, of as many draws; `train_elbo` is
            None there (version 0.1.0 wrote that bound under its name).
        best_epoch: the epoch whose `valid_bound`, or else `valid_elbo`, is highest.
        weights: which weights the VAE has now, `best` or `last`.
        stopped_early: whether patience ran out.
        compiled: the phases whose steps were compiled.
        products: which library multiplied the matrices of compiled steps, by shape.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    >>> history = zoo.fit(vae, data, epochs=2, device="cpu", progress=False)
    >>> [record["phase"] for record in history.epochs], history.weights
    (['train', 'train'], 'best')
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    weights: str = "last"
    stopped_early: bool = False
    compiled: list[str] = field(default_factory=list)
    products: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time spent in training and validation."""
        return sum(record["seconds"] for record in self.epochs)
