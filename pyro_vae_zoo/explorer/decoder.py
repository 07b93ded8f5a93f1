"""A network as plain data, for programs that have no PyTorch: a page in a browser.

`layers_of` gives dense networks as a list of steps, each a dictionary of an `op` and its
arrays, in 16 bits; `apply` is what such a program has to do with them, in numpy.

| op         | h becomes                                     | arrays           |
|------------|-----------------------------------------------|------------------|
| `linear`   | `weight @ h + bias` (bias may be None)         | `weight`, `bias` |
| `relu`, `elu`, `tanh`, `sigmoid`, `silu` | that of each element |              |
| `exp`      | the exponential of each, kept within +-`bound` |                  |
| `glu`      | the first half times the sigmoid of the second |                  |
| `residual` | `shortcut` of h plus `net` of h                | lists of steps   |
| `affine`   | `scale * h + shift`                            |                  |
| `levels`   | mean grey levels of `DiscretizedLogistic`      |                  |

The likelihood of grey levels takes the first half of h as logits of centres; its log-scales
are `floor` + softplus(the second half + `fresh` - `floor`).
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.nn.likelihoods import (
    FRESH_LOG_SCALE,
    MAX_LOG_RATE,
    MIN_LOG_SCALE,
    Likelihood,
)
from pyro_vae_zoo.nn.networks import FoldBatch, GatedLinear, Residual

__all__ = ["apply", "layers_of", "mean_layers", "pack"]

Layers = list[dict[str, Any]]


def layers_of(network: nn.Module) -> Layers:
    """A dense network, step by step.

    Raises:
        UserError: for a layer that is none of those in the table above.

    >>> [step["op"] for step in layers_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
    ['linear', 'relu']
    """
    match network:
        case nn.Sequential():
            return [step for part in network for step in layers_of(part)]
        case nn.Linear():
            arrays = {"weight": _half(network.weight), "bias": _half(network.bias)}
            return [{"op": "linear", **arrays}]
        case GatedLinear():
            return [*layers_of(network.linear), {"op": "glu"}]
        case Residual():
            shortcut, net = layers_of(network.shortcut), layers_of(network.net)
            return [{"op": "residual", "shortcut": shortcut, "net": net}]
        case nn.ReLU() | nn.ELU(alpha=1.0) | nn.Tanh() | nn.Sigmoid() | nn.SiLU():
            return [{"op": type(network).__name__.lower()}]
        case nn.Identity() | nn.Flatten(start_dim=1, end_dim=-1):
            return []
        case FoldBatch() if _is_dense(network.net):  # of one's own; h has one batch
            return layers_of(network.net)
    raise UserError(
        "expected a decoder of dense layers (network mlp, gated_mlp or resnet), got "
        f"{type(network).__name__}; a convolutional decoder, or one of your own?"
    )


def _is_dense(network: nn.Module) -> bool:
    try:
        return bool(layers_of(network))
    except UserError:
        return False


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
        UserError: for a likelihood of the user's own.
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
    raise UserError(
        "expected a likelihood of the zoo that has a mean (bernoulli, binomial, gaussian, "
        "discretized_logistic, poisson, negative_binomial), "
        f"got {type(likelihood).__name__}, whose mean the page does not know"
    )


def apply(layers: Sequence[dict[str, Any]], h: np.ndarray) -> np.ndarray:
    """The output `(n, out_features)` for inputs `(n, in_features)`, in 64 bits.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    >>> apply(layers_of(network), np.zeros((5, 2))).shape
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


def _half(weights: Tensor | None) -> np.ndarray | None:
    if weights is None:
        return None
    values = weights.detach().cpu().double().numpy()
    if not np.abs(values).max() <= np.finfo(np.float16).max:
        raise UserError(
            "expected weights that 16 bits hold, up to 65504, got "
            f"{np.abs(values).max():g}; has the training diverged?"
        )
    return values.astype(np.float16)


def _linear(h: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    out = h @ step["weight"].astype(float).T
    return out if step["bias"] is None else out + step["bias"].astype(float)


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
    "relu": lambda h, step: np.maximum(h, 0),
    "elu": lambda h, step: np.where(h > 0, h, np.expm1(np.minimum(h, 0))),
    "tanh": lambda h, step: np.tanh(h),
    "sigmoid": lambda h, step: expit(h),
    "silu": lambda h, step: h * expit(h),
    "exp": lambda h, step: np.exp(h.clip(-step["bound"], step["bound"])),
    "glu": _glu,
    "residual": lambda h, step: apply(step["shortcut"], h) + apply(step["net"], h),
    "affine": lambda h, step: step["scale"] * h + step["shift"],
    "levels": _levels,
}
