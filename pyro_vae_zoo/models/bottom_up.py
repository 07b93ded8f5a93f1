r"""The paper's baseline for hierarchies: inference whose layers do not talk (DLGM).

Danilo Jimenez Rezende, Shakir Mohamed, Daan Wierstra: *Stochastic Backpropagation and
Approximate Inference in Deep Generative Models*, 2014, section 4, as
`models/self_reflective.py` compares itself with it. The generative process is that of
the self-reflective hierarchy to the last weight; of the guide only

\[q(\varepsilon_1, \dots, \varepsilon_L|x) = \prod_l q(\varepsilon_l|x)\]

differs: no layer hears what the ones above it drew. The parameters that this saves go
into wider encoders, so that capacity is not what is compared.

Differences from Rezende et al.: their layers add noise to a network of the layer above,
and each latent feeds the data through all those below it. Here both are as in the
self-reflective hierarchy, with its differences from its paper (bijectors, a block of x for
each layer, z read through asinh), and the posterior of a layer is a diagonal Gaussian,
where theirs may have a covariance of rank one.

| symbol          | code name       | shape                 |
|-----------------|-----------------|-----------------------|
| q(epsilon_l; x) | `posteriors[l]` | `(batch, latent_dim)` |
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.self_reflective import Layers, SelfReflectiveModel, hierarchy

__all__ = ["BottomUpGuide"]


class BottomUpGuide(PyroModule):
    """q(eps | x) = prod_l q(eps_l | x): no layer hears of another (DLGM)."""

    def __init__(self, posteriors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.posteriors = nn.ModuleList(posteriors)

    def forward(self, x: Tensor) -> None:
        """Draw eps given x."""
        with pyro.plate("data", len(x), dim=-1):
            for l, posterior in enumerate(self.posteriors, start=1):
                pyro.sample(f"eps_{l}", posterior(x, None))


def bottom_up(layers: Layers, model: SelfReflectiveModel) -> BottomUpGuide:
    """Rezende et al. 2014: layers independent given x, with wider encoders (DLGM)."""
    num_layers = len(model.priors)
    wide = _widened(layers, num_layers)
    return BottomUpGuide([wide.posterior(0) for _ in range(num_layers)])


register("bottom_up")(partial(hierarchy, bottom_up))


def _widened(layers: Layers, num_layers: int) -> Layers:
    """Layers so wide that without z the posteriors have as many parameters."""
    target = _count(layers, 0) + (num_layers - 1) * _count(layers, 1)
    low, high = 1.0, 4.0
    for _ in range(12):
        factor = (low + high) / 2
        dims = tuple(round(factor * width) for width in layers.hidden_dims)
        wide = replace(layers, hidden_dims=dims)
        if num_layers * _count(wide, 0) < target:
            low = factor
        else:
            high = factor
    return wide


def _count(layers: Layers, l: int) -> int:
    with torch.device("meta"):  # neither memory nor random numbers
        return sum(p.numel() for p in layers.posterior(l).parameters())
