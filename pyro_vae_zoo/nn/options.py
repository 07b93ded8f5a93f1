"""`PairOptions`: the options that all guides of the standard model have."""

from dataclasses import dataclass
from typing import Annotated

from pyro_vae_zoo.nn.names import ACTIVATIONS, NETWORKS
from pyro_vae_zoo.options import Option, normalise

__all__ = ["PairOptions"]


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Sizes and networks of the standard model and of its encoder.

    >>> PairOptions(latent_dim=8).hidden_dims
    (300, 300)
    """

    latent_dim: Annotated[int, Option("size of z.", least=1)] = 40
    hidden_dims: Annotated[
        tuple[int, ...],
        Option("widths of the encoder, and in reverse of the decoder."),
    ] = (300, 300)
    network: Annotated[str, Option("kind of encoder and decoder.", NETWORKS)] = "mlp"
    activation: Annotated[str, Option("of an mlp.", ACTIVATIONS)] = "relu"

    def __post_init__(self) -> None:
        normalise(self)
