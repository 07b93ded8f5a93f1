"""Transforms that Pyro lacks or has wrong, in Pyro's own style; one file per paper.

| file                     | paper                    | ahead of Pyro's in         |
|--------------------------|--------------------------|----------------------------|
| planar.py                | Rezende & Mohamed 2015   | w = 0, inverse             |
| radial.py                | Rezende & Mohamed 2015   | float32, inverse           |
| householder.py           | Tomczak & Welling 2016   | chained vectors            |
| sylvester.py             | van den Berg et al. 2018 | right log-det, conditional |
| neural_autoregressive.py | Huang et al. 2018        | right tails, identity      |
| spline_coupling.py       | Durkan et al. 2019       | conditional form           |
| masked_autoregressive.py | Papamakarios et al. 2017 | scores in one pass         |
| rank_one.py              | Apostolopoulou 2020      | batched, cheap inverse     |
| made.py                  | Germain et al. 2015      | context once per datum     |

`conditioning.py` gives each its plain and its conditional form; `transformed.py` has
the distribution of what they make of a draw.
Pyro's affine autoregressive and affine coupling transforms are right: use them
with `MADE` and `CouplingNet`.
"""

from pyro_vae_zoo.transforms.conditioning import (
    AmortizedTransform,
    ConditionedTransform,
    Head,
    LearnedTransform,
)
from pyro_vae_zoo.transforms.householder import (
    ConditionedHouseholder,
    Reflections,
    conditional_householder,
    householder,
)
from pyro_vae_zoo.transforms.made import MADE, CouplingNet, Deferred
from pyro_vae_zoo.transforms.masked_autoregressive import (
    ConditionedMaskedAutoregressive,
    conditional_masked_autoregressive,
    masked_autoregressive,
)
from pyro_vae_zoo.transforms.neural_autoregressive import (
    ConditionedNeuralAutoregressive,
    conditional_neural_autoregressive,
    neural_autoregressive,
)
from pyro_vae_zoo.transforms.planar import (
    ConditionedPlanar,
    conditional_planar,
    planar,
)
from pyro_vae_zoo.transforms.radial import (
    ConditionedRadial,
    conditional_radial,
    radial,
)
from pyro_vae_zoo.transforms.rank_one import (
    ConditionedRankOneAffine,
    conditional_rank_one_affine,
    rank_one_affine,
    rank_one_parameters,
)
from pyro_vae_zoo.transforms.spline_coupling import (
    ConditionedSplineCoupling,
    conditional_spline_coupling,
    rational_quadratic_spline,
    spline_coupling,
)
from pyro_vae_zoo.transforms.sylvester import (
    ConditionedSylvester,
    conditional_sylvester,
    orthonormal_columns,
    sylvester,
)
from pyro_vae_zoo.transforms.transformed import Transformed

__all__ = [
    "MADE",
    "AmortizedTransform",
    "ConditionedHouseholder",
    "ConditionedMaskedAutoregressive",
    "ConditionedNeuralAutoregressive",
    "ConditionedPlanar",
    "ConditionedRadial",
    "ConditionedRankOneAffine",
    "ConditionedSplineCoupling",
    "ConditionedSylvester",
    "ConditionedTransform",
    "CouplingNet",
    "Deferred",
    "Head",
    "LearnedTransform",
    "Reflections",
    "Transformed",
    "conditional_householder",
    "conditional_masked_autoregressive",
    "conditional_neural_autoregressive",
    "conditional_planar",
    "conditional_radial",
    "conditional_rank_one_affine",
    "conditional_spline_coupling",
    "conditional_sylvester",
    "householder",
    "masked_autoregressive",
    "neural_autoregressive",
    "orthonormal_columns",
    "planar",
    "radial",
    "rank_one_affine",
    "rank_one_parameters",
    "rational_quadratic_spline",
    "spline_coupling",
    "sylvester",
]
