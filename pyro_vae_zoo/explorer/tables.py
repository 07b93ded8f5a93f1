r"""What is decoded in a plane of latents, for decoders that a page cannot run itself.

Means of \(n \times n\) points \(z = c + A^\top u\) of the plane are decoded beforehand and
interpolated bilinearly, off the plane as at the nearest point of it: a step like those of
`decoder`, of whatever network and likelihood.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.explorer.decoder import apply, half
from pyro_vae_zoo.pair.vae import VAE

__all__ = ["decoded", "table_of"]

_NUMBERS = 2_000_000  # in a table, at most
_SIDES = (9, 41)  # points in a row, at least and at most


def table_of(
    vae: VAE, data: Dataset | str | None, centre: Tensor, axes: Tensor, codes: Tensor
) -> tuple[dict[str, Any], float]:
    """A step from z to what is decoded in the plane, and how far it is off.

    Args:
        vae: the pair.
        data: knows how to draw them.
        centre: c, shape `(D,)`.
        axes: the plane's two, as rows, shape `(2, D)`.
        codes: of data, shape `(n, D)`: the table is of where they lie.

    Returns:
        The step, and its mean distance from what PyTorch decodes in the plane under the
        codes.

    Raises:
        UserError: for decoded means that are not finite.
    """
    plane = (codes - centre) @ axes.T
    reach = 1.1 * max(float(plane.abs().max()), 1.0)
    size = decoded(vae, codes[:1], data).shape[1]
    side = int(np.clip(int((_NUMBERS / size) ** 0.5), *_SIDES))
    line = torch.linspace(-reach, reach, side, dtype=torch.float64)
    values = decoded(vae, centre + torch.cartesian_prod(line, line) @ axes, data)
    place = {"centre": centre.float().numpy(), "axes": axes.float().numpy()}
    large = values.abs().max() > np.finfo(np.float16).max  # in units of the user's
    numbers = values.float().numpy() if large else half(values)
    grid = {"half": reach, "side": side, "values": numbers}
    step = {"op": "table", **place, **grid}
    under = centre + plane @ axes
    error = apply([step], under.numpy()) - decoded(vae, under, data).double().numpy()
    return step, float(np.abs(error).mean())


def decoded(vae: VAE, z: Tensor, data: Dataset | str | None) -> Tensor:
    """The means that PyTorch decodes, as pictures show them; shape `(n, numel)`.

    Raises:
        UserError: for means that are not finite.
    """
    x = vae.decode(z).cpu()
    x = data.pixels(x) if isinstance(data, Dataset) else x
    if not x.isfinite().all():
        raise UserError(
            f"expected decoded means that are finite, got {int((~x.isfinite()).sum())} "
            f"of {x.numel()} that are not; did the training diverge, or has the "
            "likelihood no mean?"
        )
    return x.flatten(1)
