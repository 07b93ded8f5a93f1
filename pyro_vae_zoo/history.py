"""`History`: what a training did, epoch by epoch."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["History"]


@dataclass
class History:
    """What `fit` did.

    Attributes:
        epochs: a record for each epoch: `epoch`, `phase`, `train_elbo`,
            `valid_elbo`, `kl`, `reconstruction`, the flow's `initial_log_density`,
            `final_log_density` and `log_det` (all on the validation data but
            the first), `lr`, `kl_weight`, `seconds`, and the entries of
            `vae.monitor(vae)`.
        best_epoch: the epoch whose validation ELBO is highest.
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
