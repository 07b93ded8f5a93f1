r"""Grey levels as real numbers: uniform dequantisation and a logit.

A density model of real values needs data that are. A level k of 256 becomes

\[v = (k + u) / 256, \quad u \sim U[0, 1), \qquad
  y = \mathrm{logit}(\lambda + (1 - 2\lambda) v)\]

(Papamakarios et al. 2017, section 4.3 and appendix D, with \(\lambda = 0.05\) for
CIFAR-10). A log-density of y is in nats of that space; `bits_per_dim` takes it back
to grey levels, where it bounds the code length of the 8-bit image.
"""

import math

import torch
from torch import Tensor

__all__ = ["bits_per_dim", "dequantise", "dequantised", "to_pixels"]

_LEVELS = 256


def dequantise(grey: Tensor, lam: float, generator: torch.Generator) -> Tensor:
    """Grey levels k/255 to y, with fresh noise from `generator`.

    >>> y = dequantise(torch.tensor([0.0, 1.0]), 0.05, torch.Generator().manual_seed(0))
    >>> (to_pixels(y, 0.05) * 256).floor()
    tensor([  0., 255.])
    """
    noise = torch.empty_like(grey).uniform_(generator=generator)
    return dequantised(grey, noise, lam)


def dequantised(grey: Tensor, noise: Tensor, lam: float) -> Tensor:
    """Grey levels k/255 to y, with this noise u, whose place y takes.

    >>> dequantised(torch.tensor([0.5]), torch.tensor([0.5]), 0.05)
    tensor([0.])
    """
    v = noise.add_(grey * (_LEVELS - 1)).div_(_LEVELS)
    # In float32 (255 + u)/256 may round up to 1, which is no grey level any more.
    v = v.clamp_(max=1 - torch.finfo(v.dtype).eps)
    return v.mul_(1 - 2 * lam).add_(lam).logit_()


def to_pixels(y: Tensor, lam: float) -> Tensor:
    """The values v in [0, 1] of y, which pictures show.

    >>> to_pixels(torch.tensor([0.0]), 0.05)
    tensor([0.5000])
    """
    return ((y.sigmoid() - lam) / (1 - 2 * lam)).clamp(0, 1)


def bits_per_dim(nats: float, y: Tensor, lam: float) -> float:
    r"""Mean log-density `nats` of the data y, in bits for each grey level.

    With \(s = \sigma(y)\), \(\log p(256 v) = \log p(y)
    - \sum_i \log[256\, s_i (1 - s_i) / (1 - 2\lambda)]\). A density that is uniform
    over the images has 8 bits.

    >>> y = torch.tensor([[0.3], [-1.0]])
    >>> jacobian = y.double().sigmoid() * (1 - y.double().sigmoid()) / 0.9  # of uniform v
    >>> round(bits_per_dim(jacobian.log().mean().item(), y, 0.05), 6)
    8.0
    """
    y = y.double().flatten(1)
    # log sigma(y) + log sigma(-y), without rounding either of them to 0.
    slope = torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y)
    per_dim = slope.mean().item() - math.log(1 - 2 * lam) + math.log(_LEVELS)
    return (per_dim - nats / y.shape[1]) / math.log(2)
