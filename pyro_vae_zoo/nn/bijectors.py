"""Bijective layers of a hierarchy: z_l = f_l(eps_l), given z_{l-1}.

Each is a module that maps z_{l-1} (None in layer 1) to the transform of eps_l; model and
guide share it.
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import Tensor, nn

from pyro_vae_zoo.transforms import MADE, ConditionedRankOneAffine, rank_one_parameters
from pyro_vae_zoo.transforms.conditioning import condition_all
from pyro_vae_zoo.transforms.made import alternating_order

__all__ = ["AffineBijector", "FlowBijector", "skipping_iaf"]


class AffineBijector(nn.Module):
    """f_l: z = c + (diag d + u u^T) eps; `net` maps z_{l-1} to c, raw d and u."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor | None) -> ConditionedRankOneAffine:
        """The map for given z_{l-1}."""
        return ConditionedRankOneAffine(*rank_one_parameters(self.net(z)))


class FlowBijector(nn.Module):
    """f_l: steps of a flow, each given the context `net(z_{l-1})`.

    Args:
        net: maps z_{l-1} to the context.
        steps: conditional transforms.
        turn: a conditional transform that reverses the order of the coordinates, for
            steps that are to treat them the other way round.
    """

    turned: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        steps: Sequence[nn.Module],
        turn: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.steps = nn.ModuleList(steps)
        self.turn = turn
        self.is_turned = turn is not None
        # No weight, and yet a part of what the weights mean: saved with them.
        self.register_buffer("turned", torch.tensor(True) if self.is_turned else None)

    def forward(self, z: Tensor | None) -> dist.transforms.ComposeTransform:
        """The map for given z_{l-1}."""
        steps = list(self.steps)
        if self.turn is not None and self.is_turned:
            steps = [self.turn, *steps, self.turn]
        return dist.transforms.ComposeTransform(condition_all(steps, self.net(z)))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        known = any(name.startswith(prefix) for name in state_dict)
        if known and self.turned is not None:
            # Weights of version 0.1.0 do not say, and had one order in all layers.
            name = f"{prefix}turned"
            self.is_turned = bool(
                state_dict.setdefault(name, torch.tensor(False)).all()
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def skipping_iaf(
    latent_dim: int, context_dim: int, num_flows: int, flow_hidden_dims: Sequence[int]
) -> list[nn.Module]:
    """Steps g z + (1 - g) m whose g and m see the context by a linear map, too.

    Of the units of a masked network few see no z, and the first dimension sees only these.
    What z_{l-1} says of it has to pass through them, and is learned late.
    """
    nets = [
        MADE(
            latent_dim,
            context_dim,
            flow_hidden_dims,
            permutation=alternating_order(latent_dim, k),
            context_skip=True,
        )
        for k in range(num_flows)
    ]
    return [
        T.ConditionalAffineAutoregressive(net, stable=True, sigmoid_bias=0.0)
        for net in nets
    ]
