r"""Networks of the user's in the places of encoder and decoder.

An encoder maps a batch `(n, *event_shape)` to features `(n, F)`, whatever F; a decoder maps
`(n, latent_dim)` to n data's parameters of the likelihood, in any shape. What makes the
output for a datum depend on the others in its batch is refused: \(\log p(x)\) of one datum
would be of its company.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _disable_current_modes

from pyro_vae_zoo.errors import UserError, one_line
from pyro_vae_zoo.nn.networks import FoldBatch
from pyro_vae_zoo.runtime import seed_generators

__all__ = ["check_apart", "own_decoder", "own_encoder"]


def own_encoder(
    encoder: nn.Module, event_shape: Sequence[int]
) -> tuple[nn.Module, int]:
    """An encoder of the user's and the number of its features.

    Raises:
        UserError: for one that does not run on data, whose features are not one vector a
            datum, or that mixes data.

    >>> own_encoder(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), (8, 8))[1]
    5
    """
    out = check_apart(encoder, torch.rand(4, *event_shape), "encoder")
    if out.ndim != 2 or len(out) != 4:
        raise UserError(
            f"expected an encoder from (n, {', '.join(map(str, event_shape))}) to features "
            f"(n, F), got {tuple(out.shape)} for n = 4; is a Flatten missing?"
        )
    return encoder, out.shape[1]


def own_decoder(
    decoder: nn.Module,
    latent_dim: int,
    event_shape: Sequence[int],
    num_params: int | None,
) -> nn.Module:
    """A decoder of the user's, which takes any number of batch dimensions now.

    Raises:
        UserError: for one that does not run on latents, gives another number of parameters
            than the likelihood takes, or mixes data.

    >>> own_decoder(nn.Linear(2, 64), 2, (8, 8), 1)(torch.zeros(7, 5, 2)).shape
    torch.Size([7, 5, 64])
    """
    out = check_apart(decoder, torch.randn(4, latent_dim), "decoder")
    got = out[0].numel() if len(out) == 4 else None
    if num_params is not None and got != num_params * prod(event_shape):
        raise UserError(
            f"expected a decoder from (n, {latent_dim}) to {num_params} x "
            f"{prod(event_shape)} = {num_params * prod(event_shape)} numbers for each "
            f"datum, as the likelihood takes them, got shape {tuple(out.shape)} for n = 4"
        )
    return FoldBatch(nn.Sequential(decoder, nn.Flatten()), 1)


def check_apart(network: nn.Module, x: Tensor, what: str) -> Tensor:
    """The output for four data, if each depends on its own alone.

    Raises:
        UserError: for a network that does not run, or that mixes data; it names the layer.
    """
    if not isinstance(network, nn.Module):
        raise UserError(
            f"expected the {what} to be an nn.Module, got {type(network).__name__}"
        )
    reason = (
        "its output for a datum depends on the other data in the batch, and so would "
        "log p(x); use LayerNorm or GroupNorm"
    )
    for name, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            path = f"{name} of the {what}" if name else f"the {what}"
            raise UserError(f"{path} is a {type(layer).__name__}: {reason}")
    held = [*network.parameters(), *network.buffers()]
    x = x.to(held[0].device) if held else x
    cuda = [x.device] if x.device.type == "cuda" else []
    others = torch.cat([x[:1], 1 - x[1:].flip(0)])
    try:
        # What it does is its own affair, also where a file is loaded into it.
        with torch.no_grad(), _disable_current_modes():
            if any(is_lazy(tensor) for tensor in held):
                network(x)  # which draws weights, by the caller's seed
            with torch.random.fork_rng(devices=cuda):
                out, again = (_from_one_state(network, each) for each in (x, others))
    except Exception as error:  # whatever the user's code may raise
        raise UserError(
            f"the {what} does not run on input of shape {tuple(x.shape)}: "
            f"{one_line(error)}"
        ) from error
    if not (isinstance(out, Tensor) and out.ndim and len(out) == len(x)):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UserError(
            f"expected the {what} to return a tensor with a row for each of {len(x)} "
            f"data, got {got}"
        )
    if not out.isfinite().all():
        raise UserError(
            f"the {what} returns values that are not finite, for {tuple(x.shape)} random "
            "numbers of the size of its usual input"
        )
    if not torch.allclose(out[0], again[0], rtol=1e-4, atol=1e-5):
        raise UserError(f"{type(network).__name__} cannot be the {what}: {reason}")
    return out


def _from_one_state(network: nn.Module, x: Tensor) -> Tensor:
    """The output under one seed; a state that a pass moves, such as a norm, is put back."""
    state = [(buffer, buffer.clone()) for buffer in network.buffers()]
    seed_generators(0, x.device)
    out = network(x)
    for buffer, before in state:
        buffer.copy_(before)
    return out
