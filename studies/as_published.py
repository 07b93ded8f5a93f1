"""Faults of the flow study's public code, one by one, to see what each of them costs.

    python -m studies.reproduce --table flows --rows iaf_as_published_2

Isaac Henrion, Sean Welleck: *Richer posteriors with flow-based variational
autoencoders*; the code is that of github.com/wellecks/vaes. These guides are no part of
the zoo, which has the flows as they should be: they are the evidence on where the study's
conclusions come from. They have the study's form of a step, and its faults as options;
all else is the zoo's, so that rows differ in the fault alone: the encoder is that of the
other rows (the study's has tanh and batch normalisation), one masked network of even
degrees gives both mu and log sigma (the study has two, of random degrees), and sigma is
kept to the limits of Pyro's own affine steps.

`InverseAutoregressive` is a proper density whatever its options are. `Planar` is none:
where its map folds space over, the "density" counts one of several branches, and no bound
follows from it.
"""

from collections.abc import Sequence
from functools import partial

import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from torch import Tensor, nn

from pyro_vae_zoo.models.flow_guides import AmortizedFlow
from pyro_vae_zoo.models.standard import AmortizedGuide
from pyro_vae_zoo.nn.networks import make_encoder
from pyro_vae_zoo.transforms import MADE
from pyro_vae_zoo.transforms.conditioning import AmortizedTransform
from pyro_vae_zoo.transforms.planar import ConditionedPlanar, planar_head


class InverseAutoregressive(AmortizedGuide):
    """Autoregressive flows of the form z <- (z - mu) / sigma, with the study's faults.

    Args:
        event_shape: shape of a datum.
        latent_dim: size of z.
        hidden_dims: widths of the encoder.
        num_flows: number of steps.
        reverse: whether the order of the latents is reversed between steps. The study
            kept one, so that the first latent never depends on another.
        sees_context: whether a step sees the encoder's features. The study's did not.
        rectified: whether mu and log sigma go through a ReLU, as the study's did: then
            sigma >= 1 and every step contracts.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        num_flows: int = 2,
        reverse: bool = True,
        sees_context: bool = True,
        rectified: bool = False,
    ) -> None:
        encoder, context_dim = make_encoder("mlp", event_shape, hidden_dims, "relu")
        steps = partial(
            inverse_autoregressive,
            reverse=reverse,
            sees_context=sees_context,
            rectified=rectified,
        )
        super().__init__(
            encoder, AmortizedFlow(context_dim, latent_dim, steps, num_flows)
        )


class Planar(AmortizedGuide):
    """Planar flows without the constraint that makes them invertible."""

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        num_flows: int = 2,
    ) -> None:
        encoder, context_dim = make_encoder("mlp", event_shape, hidden_dims, "relu")
        posterior = AmortizedFlow(context_dim, latent_dim, planar, num_flows)
        super().__init__(encoder, posterior)


def inverse_autoregressive(
    latent_dim: int,
    context_dim: int,
    num_flows: int,
    *,
    reverse: bool,
    sees_context: bool,
    rectified: bool,
) -> list:
    """The steps, each with one hidden layer of 300 ReLUs."""
    order = torch.arange(latent_dim)
    nets = [
        MADE(
            latent_dim,
            context_dim if sees_context else 0,
            [300],
            permutation=order.flip(0) if reverse and k % 2 else order,
            activation="relu",
        )
        for k in range(num_flows)
    ]
    return [
        ConditionalAffineAutoregressive(_Inverse(net, sees_context, rectified))
        for net in nets
    ]


class _Inverse(nn.Module):
    """Shift and log-scale of z <- (z - mu) / sigma, for Pyro's z <- shift + scale z."""

    def __init__(self, made: MADE, sees_context: bool, rectified: bool) -> None:
        super().__init__()
        self.made = made
        self.sees_context = sees_context
        self.rectified = rectified
        self.permutation, self.get_permutation = made.permutation, made.get_permutation
        if rectified:  # as the study's biases begin; below zero they would be dead
            nn.init.constant_(made.layers[-1].bias, 0.1)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.made(z, context if self.sees_context else None)
        if self.rectified:
            loc, log_scale = loc.relu(), log_scale.relu()
        log_scale = clamp_preserve_gradients(log_scale, -3, 5)  # Pyro's limits
        return -loc * torch.exp(-log_scale), -log_scale


class _Unconstrained(ConditionedPlanar):
    """The map z + u tanh(w.z + b) for any u: where w.u < -1 it is not invertible."""

    def __init__(self, bias: Tensor, u: Tensor, w: Tensor) -> None:
        super().__init__(bias, u, w)
        self.u_hat, self.m = u, (w * u).sum(-1, keepdim=True)

    def _bend(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        bend = torch.tanh(alpha + self.bias)
        slope = 1 + (1 - bend.square()) * self.m
        # At a fold the slope can be zero to rounding.
        least = torch.finfo(slope.dtype).tiny
        return bend, slope.abs().clamp(min=least).log().squeeze(-1)


def planar(latent_dim: int, context_dim: int, num_flows: int) -> list:
    """The steps; their parameters start as those of the zoo's."""
    return [
        AmortizedTransform(planar_head(latent_dim, context_dim), _Unconstrained)
        for _ in range(num_flows)
    ]
