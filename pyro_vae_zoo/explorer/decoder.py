"""A network as plain data, for programs that have no PyTorch: a page in a browser.

`layers_of` gives a network as a list of steps, each a dictionary of an `op` and its
arrays, in 16 bits; `apply` is what such a program has to do with them, in numpy. Images
are flat in it, channel by channel.

| op         | h becomes                                      | arrays            |
|------------|------------------------------------------------|-------------------|
| `linear`   | `weight @ h + bias` (bias may be None)          | `weight`, `bias`  |
| `conv`     | a convolution of it, maybe `transposed`         | `weight`, `bias`  |
| `norm`     | h of mean 0 and variance 1, times `weight`      | `weight`, `bias`  |
| `relu`, `elu`, `tanh`, `sigmoid`, `silu`, `softplus` | that of each element |  |
| `exp`      | the exponential of each, kept within +-`bound`  |                   |
| `glu`      | the first half times the sigmoid of the second  |                   |
| `residual` | `shortcut` of h plus `net` of h                 | lists of steps    |
| `affine`   | `scale * h + shift`                             |                   |
| `levels`   | mean grey levels of `DiscretizedLogistic`       |                   |
| `table`    | what was decoded near it in a plane (`tables`)  | `values`          |

A convolution has an image of shape `from` and gives one of shape `to`. Be the smaller of
the two the one of places p: its weight `(to, from, rows, columns)` at k joins p to the
place `stride * p - padding + k` of the larger. The likelihood of grey levels takes the
first half of h as logits of centres; its log-scales are `floor` + softplus(the second
half + `fresh` - `floor`).
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.nn.likelihoods import (
    FRESH_LOG_SCALE,
    MAX_LOG_RATE,
    MIN_LOG_SCALE,
    Likelihood,
)
from pyro_vae_zoo.nn.networks import FoldBatch, GatedConv, GatedLinear, Residual

__all__ = ["NoSuchStep", "apply", "half", "layers_of", "mean_layers", "pack"]

Layers = list[dict[str, Any]]


class NoSuchStep(UserError):
    """What a network does is none of the steps that there are."""


@torch.no_grad()
def layers_of(network: nn.Module, h: Tensor) -> Layers:
    """A network, step by step.

    Args:
        network: in evaluation mode.
        h: an input of it, shape `(1, in_features)`: the sizes of images follow from it.

    Raises:
        NoSuchStep: for a layer that is none of those in the table above.
        UserError: for weights that 16 bits do not hold.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> [step["op"] for step in layers_of(network, torch.zeros(1, 2))]
    ['linear', 'relu']
    """
    flat = h.ndim == 2
    match network:
        case nn.Sequential():
            steps = []
            for part in network:
                steps += layers_of(part, h)
                h = part(h)
            return steps
        case nn.Linear() if flat:
            return [{"op": "linear", **_weights(network)}]
        case nn.Conv2d() | nn.ConvTranspose2d() if _is_plain(network):
            return [_convolution(network, h)]
        case nn.LayerNorm() if flat and network.normalized_shape == h.shape[1:]:
            return [{"op": "norm", **_weights(network), "eps": network.eps}]
        case GatedLinear() if flat:
            return [*layers_of(network.linear, h), {"op": "glu"}]
        case GatedConv():  # the halves of all channels are those of the flat image
            return [*layers_of(network.conv, h), {"op": "glu"}]
        case Residual() if flat:
            parts = {"shortcut": network.shortcut, "net": network.net}
            nets = {name: layers_of(part, h) for name, part in parts.items()}
            return [{"op": "residual", **nets}]
        case nn.ReLU() | nn.ELU(alpha=1.0) | nn.Tanh() | nn.Sigmoid() | nn.SiLU():
            return [{"op": type(network).__name__.lower()}]
        case nn.Softplus(beta=1.0):
            return [{"op": "softplus"}]
        case nn.Identity() | nn.Flatten(start_dim=1, end_dim=-1) | nn.Dropout():
            return []
        case nn.Unflatten(dim=1 | -1) if flat:
            return []
        case FoldBatch(event_dim=1) if flat:
            return layers_of(network.net, h)
    raise NoSuchStep(
        f"the page does not support a layer {type(network).__name__} of shape "
        f"{tuple(h.shape[1:])}"
    )


def _is_plain(network: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    usual = network.groups == 1 and network.padding_mode == "zeros"
    return usual and network.dilation == (1, 1) and isinstance(network.padding, tuple)


def _convolution(network: nn.Conv2d | nn.ConvTranspose2d, h: Tensor) -> dict[str, Any]:
    transposed = isinstance(network, nn.ConvTranspose2d)
    weight = network.weight.swapaxes(0, 1) if transposed else network.weight
    arrays = {"weight": half(weight), "bias": half(network.bias)}
    sizes = {"from": list(h.shape[1:]), "to": list(network(h).shape[1:])}
    where = {"stride": list(network.stride), "padding": list(network.padding)}
    return {"op": "conv", **arrays, "transposed": transposed, **sizes, **where}


def _weights(network: nn.Module) -> dict[str, np.ndarray | None]:
    return {name: half(getattr(network, name)) for name in ("weight", "bias")}


def mean_layers(
    likelihood: nn.Module,
    logit: float | None = None,
    units: tuple[np.ndarray, np.ndarray] | None = None,
) -> Layers:
    """The steps from a decoder's output to the mean of the data, as pictures show it.

    Where the data went through a logit it is the pixel of their mean, which is the
    pixel's median: as the logit rises, it keeps medians and does not keep means.

    Args:
        likelihood: one of `likelihoods`.
        logit: lambda of the logit that the data went through, see `dequantisation`.
        units: scale and mean of each element of standardised data.

    Raises:
        NoSuchStep: for a likelihood of the user's own, and for one without a mean.
    """
    name = likelihood.name if isinstance(likelihood, Likelihood) else None
    match name:
        case "bernoulli":
            return [{"op": "sigmoid"}]
        case "binomial":
            count = {"op": "affine", "scale": likelihood.total_count, "shift": 0.0}
            return [{"op": "sigmoid"}, count]
        case "poisson" | "negative_binomial":
            return [{"op": "exp", "bound": MAX_LOG_RATE}]
        case "gaussian":
            if units is not None:
                return [{"op": "affine", "scale": units[0], "shift": units[1]}]
            if logit is None:
                return []
            scale = 1 / (1 - 2 * logit)
            affine = {"op": "affine", "scale": scale, "shift": -logit * scale}
            return [{"op": "sigmoid"}, affine]
        case "discretized_logistic":
            scales = {"fresh": FRESH_LOG_SCALE, "floor": MIN_LOG_SCALE}
            return [{"op": "levels", **scales}]
    raise NoSuchStep(
        f"the page does not support the mean of a {type(likelihood).__name__}"
    )


def apply(layers: Sequence[dict[str, Any]], h: np.ndarray) -> np.ndarray:
    """The output `(n, out_features)` for inputs `(n, in_features)`, in 64 bits.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    >>> apply(layers_of(network, torch.zeros(1, 2)), np.zeros((5, 2))).shape
    (5, 3)
    """
    for step in layers:
        h = _OPS[step["op"]](h, step)
    return h


def pack(array: np.ndarray) -> dict[str, Any]:
    """An array for JSON: its type and shape, its bytes (little-endian) in base 64.

    >>> pack(np.zeros(3, np.uint8))
    {'dtype': 'uint8', 'shape': [3], 'data': 'AAAA'}
    """
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def half(weights: Tensor | None) -> np.ndarray | None:
    """Weights in 16 bits.

    Raises:
        UserError: for some that 16 bits do not hold.
    """
    if weights is None:
        return None
    values = weights.detach().cpu().double().numpy()
    if not np.abs(values).max() <= np.finfo(np.float16).max:
        raise UserError(
            "expected weights that fit in 16 bits, up to 65504, got "
            f"{np.abs(values).max():g}; did the training diverge?"
        )
    return values.astype(np.float16)


def _linear(h: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    out = h @ step["weight"].astype(float).T
    return out if step["bias"] is None else out + step["bias"].astype(float)


def _conv(h: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    weight, (_, *sizes) = step["weight"].astype(float), step["to"]
    image = h.reshape(len(h), *step["from"])
    bias = np.zeros(len(weight)) if step["bias"] is None else step["bias"].astype(float)
    out = np.tile(bias[:, None, None], (len(h), 1, *sizes))
    small, large = (image, out) if step["transposed"] else (out, image)
    every = slice(None), slice(None)  # of data and of channels
    for k in np.ndindex(weight.shape[2:]):
        here, there = [], []  # rows and columns of the smaller image, and of the larger
        for axis in (0, 1):
            at = np.arange(small.shape[2 + axis])
            to = step["stride"][axis] * at - step["padding"][axis] + k[axis]
            inside = (to >= 0) & (to < large.shape[2 + axis])
            here.append(at[inside])
            there.append(to[inside])
        source, target = every + np.ix_(*here), every + np.ix_(*there)
        if not step["transposed"]:
            source, target = target, source
        part = np.einsum("oc,nchw->nohw", weight[every + k], image[source])
        out[target] += part
    return out.reshape(len(h), -1)


def _norm(h: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    centred = h - h.mean(-1, keepdims=True)
    h = centred / np.sqrt(centred.var(-1, keepdims=True) + step["eps"])
    if step["weight"] is not None:
        h = h * step["weight"].astype(float)
    return h if step["bias"] is None else h + step["bias"].astype(float)


def _table(h: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    side = step["side"]
    u = (h - step["centre"]) @ step["axes"].T
    place = ((u / step["half"] + 1) / 2 * (side - 1)).clip(0, side - 1)
    (i, j), values = np.minimum(place.astype(int), side - 2).T, step["values"]
    right, up = (place - np.stack([i, j], 1)).T[:, :, None]
    lower = (1 - right) * values[i * side + j] + right * values[(i + 1) * side + j]
    j = j + 1
    upper = (1 - right) * values[i * side + j] + right * values[(i + 1) * side + j]
    return (1 - up) * lower + up * upper


def _glu(h: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    value, gate = np.split(h, 2, axis=-1)
    return value * expit(gate)


def _levels(h: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    loc, raw = np.split(h, 2, axis=-1)
    loc, floor = expit(loc), step["floor"]
    inv_scale = np.exp(-floor - np.logaddexp(raw + step["fresh"] - floor, 0))
    total = sum(expit((loc - (k - 0.5) / 255) * inv_scale) for k in range(1, 256))
    return total / 255


_OPS: dict[str, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    "linear": _linear,
    "conv": _conv,
    "norm": _norm,
    "relu": lambda h, step: np.maximum(h, 0),
    "elu": lambda h, step: np.where(h > 0, h, np.expm1(np.minimum(h, 0))),
    "tanh": lambda h, step: np.tanh(h),
    "sigmoid": lambda h, step: expit(h),
    "silu": lambda h, step: h * expit(h),
    "softplus": lambda h, step: np.logaddexp(h, 0),
    "exp": lambda h, step: np.exp(h.clip(-step["bound"], step["bound"])),
    "glu": _glu,
    "residual": lambda h, step: apply(step["shortcut"], h) + apply(step["net"], h),
    "affine": lambda h, step: step["scale"] * h + step["shift"],
    "levels": _levels,
    "table": _table,
}
