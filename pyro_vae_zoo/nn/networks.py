"""Deterministic encoders and decoders: no sample sites, no randomness.

An encoder maps a batch `(..., *event_shape)` to features `(..., out_features)`,
a decoder maps latents `(..., latent_dim)` to flat parameters `(..., out_features)`
which `likelihoods` shapes into p(x|z). A `Block` is a network between vectors, of
which hierarchies are built. Four kinds of network are offered:

- `mlp`: dense layers with a nonlinearity (Kingma & Welling 2014),
- `gated_mlp`: `(A h + a) * sigmoid(B h + b)` (Tomczak & Welling 2016),
- `resnet`: dense residual blocks `h + W f(V f(h))` (He et al. 2016),
- `conv`: gated convolutions (van den Berg et al. 2018), any image size.

None uses batch normalisation: it would make the bound of one datum depend on the
others in its batch.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.nn import names
from pyro_vae_zoo.nn.names import NETWORKS
from pyro_vae_zoo.transforms import made

__all__ = [
    "ACTIVATIONS",
    "Block",
    "LatentBlock",
    "make_decoder",
    "make_encoder",
]

ACTIVATIONS = {name: made.ACTIVATIONS[name] for name in names.ACTIVATIONS}

# Channels and strides of van den Berg et al. 2018; a convolution over all that is
# left of the image follows.
_CHANNELS = (32, 32, 64, 64, 64)
_STRIDES = (1, 2, 1, 2, 1)
_KERNEL = 5


class GatedLinear(nn.Module):
    """`(A h + a) * sigmoid(B h + b)`, both maps in one matrix product."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 2 * out_features)

    def forward(self, h: Tensor) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        return nn.functional.glu(self.linear(h), dim=-1)


class Residual(nn.Module):
    """`S h + W f(V f(h))`; S is the identity where the widths are equal."""

    def __init__(self, in_features: int, out_features: int, activation: str) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ACTIVATIONS[activation](),
            nn.Linear(in_features, out_features),
            ACTIVATIONS[activation](),
            nn.Linear(out_features, out_features),
        )
        self.shortcut = (
            nn.Identity()
            if in_features == out_features
            else nn.Linear(in_features, out_features, bias=False)
        )

    def forward(self, h: Tensor) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        return self.shortcut(h) + self.net(h)


class GatedConv(nn.Module):
    """A convolution, plain or transposed, whose second half of channels gates."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, h: Tensor) -> Tensor:
        """Map `(N, channels, H, W)` to half of the convolution's channels."""
        return nn.functional.glu(self.conv(h), dim=-3)


class FoldBatch(nn.Module):
    """A network of one batch dimension, made to take any number of them."""

    def __init__(self, net: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.net = net
        self.event_dim = event_dim

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, *event)` to `(*batch, *output)`."""
        batch_shape = x.shape[: x.ndim - self.event_dim]
        out = self.net(x.reshape(-1, *x.shape[x.ndim - self.event_dim :]))
        return out.reshape(*batch_shape, *out.shape[1:])


class Block(nn.Module):
    """A dense network of one or several vectors, taken side by side.

    The first layer is kept apart for each input and the results are added. That is
    the layer of their concatenation, but an input without a dimension of particles,
    such as the data, goes through its part once and not once per particle. The last
    layer starts small: in a chain of blocks what each adds would multiply.

    Args:
        in_dims: size of each input.
        out_features: size of the output, which is linear.
        hidden_dims: widths of the hidden layers.
        network: `mlp`, `gated_mlp` or `resnet`.
        activation: `relu`, `elu` or `tanh` (gates need none).

    Raises:
        UserError: for an unknown network or activation, or widths below one.

    >>> net = Block((10, 3), 4, hidden_dims=(16, 16))
    >>> net(torch.zeros(5, 10), torch.zeros(7, 5, 3)).shape
    torch.Size([7, 5, 4])
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        out_features: int,
        hidden_dims: Sequence[int] = (200, 200),
        network: str = "mlp",
        activation: str = "elu",
    ) -> None:
        super().__init__()
        check_network(network, hidden_dims, activation)
        if network == "conv":
            raise UserError(
                "a hierarchy's blocks are networks of vectors: expected network mlp, "
                "gated_mlp or resnet, got 'conv'"
            )
        width = hidden_dims[0] * (2 if network == "gated_mlp" else 1)
        self.inputs = nn.ModuleList(
            nn.Linear(n, width, bias=i == 0) for i, n in enumerate(in_dims)
        )
        if network == "resnet":
            rest = _residuals(hidden_dims, activation)
        else:
            first = nn.GLU() if network == "gated_mlp" else ACTIVATIONS[activation]()
            rest = [first, *_dense(network, hidden_dims, activation)]
        last = nn.Linear(hidden_dims[-1], out_features)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.mul_(0.1)
        self.rest = nn.Sequential(*rest, last)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map tensors `(..., in_dims[i])`, which broadcast, to `(..., out_features)`."""
        parts = [f(x) for f, x in zip(self.inputs, inputs, strict=True)]
        return self.rest(sum(parts[1:], parts[0]))


class LatentBlock(Block):
    """A `Block` whose last input is a z, read through asinh.

    Layers that each may multiply the z above, or in a rank-one map square it, may make
    numbers overflow in the first steps of Adam. The logarithmic growth of asinh stops
    that, and loses nothing of z; last layers of a small size help, too.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs, the last one a z, to `(..., out_features)`."""
        *others, z = inputs
        return super().forward(*others, z.asinh())


def make_encoder(
    network: str,
    event_shape: Sequence[int],
    hidden_dims: Sequence[int] = (300, 300),
    activation: str = "relu",
) -> tuple[nn.Module, int]:
    """An encoder and the number of its features.

    Args:
        network: `mlp`, `gated_mlp`, `resnet` or `conv`.
        event_shape: shape of one datum; `conv` needs `(H, W)` or `(C, H, W)`.
        hidden_dims: widths of the dense layers; `conv` uses the last one as the
            number of its features.
        activation: `relu`, `elu` or `tanh`, for `mlp` and `resnet` (gates need none).

    Raises:
        UserError: for an unknown network or activation, or sizes below one.

    >>> encoder, features = make_encoder("mlp", (8, 8), (32, 16))
    >>> encoder(torch.zeros(5, 8, 8)).shape, features
    (torch.Size([5, 16]), 16)
    """
    check_network(network, hidden_dims, activation)
    if network == "conv":
        shape = _image_shape(event_shape)
        net = _conv_encoder(shape, hidden_dims[-1])
        # (H, W) gains its channel here.
        net = nn.Sequential(nn.Flatten(-len(event_shape)), nn.Unflatten(-1, shape), net)
        return FoldBatch(net, len(event_shape)), hidden_dims[-1]
    layers = _dense(network, (prod(event_shape), *hidden_dims), activation)
    return nn.Sequential(nn.Flatten(-len(event_shape)), *layers), hidden_dims[-1]


def make_decoder(
    network: str,
    latent_dim: int,
    event_shape: Sequence[int],
    num_params: int = 1,
    hidden_dims: Sequence[int] = (300, 300),
    activation: str = "relu",
) -> nn.Module:
    """A decoder to `num_params` numbers for each element of a datum, flat.

    Dense layers are those of the encoder in reverse order; the last layer is linear.

    >>> decoder = make_decoder("conv", 4, (28, 20), num_params=2)
    >>> decoder(torch.zeros(3, 5, 4)).shape
    torch.Size([3, 5, 1120])
    """
    check_network(network, hidden_dims, activation)
    if network == "conv":
        return _conv_decoder(latent_dim, _image_shape(event_shape), num_params)
    widths = (latent_dim, *reversed(hidden_dims))
    layers = _dense(network, widths, activation)
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_params * prod(event_shape)))


def _dense(network: str, widths: Sequence[int], activation: str) -> list[nn.Module]:
    if network == "resnet":
        first = nn.Linear(widths[0], widths[1])
        return [first, *_residuals(widths[1:], activation)]
    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        if network == "gated_mlp":
            layers.append(GatedLinear(n, m))
        else:
            layers += [nn.Linear(n, m), ACTIVATIONS[activation]()]
    return layers


def _residuals(widths: Sequence[int], activation: str) -> list[nn.Module]:
    blocks = [Residual(n, m, activation) for n, m in pairwise(widths)]
    return [*blocks, ACTIVATIONS[activation]()]


def _image_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes after each strided convolution with "same" padding: ceil(n / stride)."""
    sizes = [(height, width)]
    for stride in _STRIDES:
        height, width = -(-height // stride), -(-width // stride)
        sizes.append((height, width))
    return sizes


def _conv_encoder(shape: Sequence[int], out_features: int) -> nn.Module:
    channels, height, width = shape
    layers: list[nn.Module] = []
    for c, stride in zip(_CHANNELS, _STRIDES, strict=True):
        layers.append(
            GatedConv(nn.Conv2d(channels, 2 * c, _KERNEL, stride, _KERNEL // 2))
        )
        channels = c
    last = _image_sizes(height, width)[-1]
    layers += [GatedConv(nn.Conv2d(channels, 2 * out_features, last)), nn.Flatten()]
    return nn.Sequential(*layers)


def _conv_decoder(latent_dim: int, shape: Sequence[int], num_params: int) -> nn.Module:
    out_channels, height, width = shape
    sizes = _image_sizes(height, width)
    channels = _CHANNELS[-1]
    layers: list[nn.Module] = [
        nn.Unflatten(1, (latent_dim, 1, 1)),
        GatedConv(nn.ConvTranspose2d(latent_dim, 2 * channels, sizes[-1])),
    ]
    outputs = (*reversed(_CHANNELS[:-1]), _CHANNELS[0])
    for i, c in zip(reversed(range(len(_STRIDES))), outputs, strict=True):
        # What a strided convolution rounded away, `output_padding` restores.
        stride, (h, w), (rows, columns) = _STRIDES[i], sizes[i], sizes[i + 1]
        extra = h - ((rows - 1) * stride + 1), w - ((columns - 1) * stride + 1)
        conv = nn.ConvTranspose2d(channels, 2 * c, _KERNEL, stride, _KERNEL // 2, extra)
        layers.append(GatedConv(conv))
        channels = c
    layers += [nn.Conv2d(channels, num_params * out_channels, 1), nn.Flatten()]
    return FoldBatch(nn.Sequential(*layers), 1)


def _image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(event_shape) not in (2, 3):
        raise UserError(
            f"network 'conv' expects images of shape (H, W) or (C, H, W), got data of "
            f"shape {tuple(event_shape)}; use network mlp for vectors"
        )
    *channels, height, width = event_shape
    return (channels[0] if channels else 1), height, width


def check_network(network: str, hidden_dims: Sequence[int], activation: str) -> None:
    """Raise a `UserError` for what no network can be built of."""
    if network not in NETWORKS:
        raise UserError(f"unknown network {network!r}; known: {', '.join(NETWORKS)}")
    if activation not in ACTIVATIONS:
        raise UserError(
            f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}"
        )
    if len(hidden_dims) == 0 or min(hidden_dims) < 1:
        raise UserError(
            f"hidden_dims must be positive, one or more, got {tuple(hidden_dims)}"
        )
