r"""Bottom-up inference (DLGM): the layers of a hierarchy, each inferred from x alone.

Danilo Jimenez Rezende, Shakir Mohamed, Daan Wierstra: *Stochastic Backpropagation and
Approximate Inference in Deep Generative Models*, 2014, section 4; here it is the baseline
of Apostolopoulou et al. 2020 (`models/self_reflective.py`).

Generative process: that of `self_reflective`, weight for weight. Inference:

\[q(\varepsilon_1, \dots, \varepsilon_L|x) = \prod_l q(\varepsilon_l|x),\]

so no layer of the guide sees what the layers above it drew. The weights that this saves
go into wider encoders: both guides have about as many parameters.

Differences from Rezende et al.: in their model a layer is a network of the layer above
plus noise, and each latent reaches x through all the layers below it. Here the model is
that of `self_reflective`, with its bijectors, a block of x for each layer, and networks
that read z as asinh(z). Their posterior of a layer may have a precision matrix of a
diagonal plus a rank-one part; here it is a diagonal Gaussian.

| symbol          | code name           | shape                 |
|-----------------|---------------------|-----------------------|
| q(epsilon_l; x) | `posteriors[l - 1]` | `(batch, latent_dim)` |
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
    """q(eps | x) = prod_l q(eps_l | x): layers are independent given x (DLGM)."""

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
    """Wider layers, so that posteriors without z have as many parameters."""
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
