"""One file per paper: importing them fills the registry."""

from pyro_vae_zoo.models import (
    bottom_up,
    density,
    flow_guides,
    gated_dag,
    ladder,
    mixture,
    recursive_mixture,
    self_reflective,
    semi_amortized,
    standard,
)

__all__ = [
    "bottom_up",
    "density",
    "flow_guides",
    "gated_dag",
    "ladder",
    "mixture",
    "recursive_mixture",
    "self_reflective",
    "semi_amortized",
    "standard",
]
