r"""Coupling with rational-quadratic splines (Durkan et al. 2019, section 3.1).

\[y_1 = x_1, \qquad y_2 = \mathrm{spline}\big(x_2;\, \theta(x_1, h)\big)\]

The first `D // 2` coordinates stay as they are. Each of the others goes through a monotone
spline of `count_bins` pieces on `[-bound, bound]`, and is unchanged outside. In a bin of
width \(w\) and height \(v\), with \(s = v / w\), \(t\) the position in it, \(d_0, d_1\) the
slopes at its ends and \(q = s + (d_1 + d_0 - 2 s)\, t (1 - t)\),

\[y = y_0 + \frac{v}{q} \big(s t^2 + d_0\, t (1 - t)\big), \qquad
  \frac{dy}{dx} = \frac{s^2}{q^2} \big(d_1 t^2 + 2 s\, t (1 - t) + d_0 (1 - t)^2\big).\]

`pyro.distributions.transforms` has no conditional form of this coupling. Its spline has
slope 0.999 at the ends, where the identity has 1, so that it cannot be the identity; it
moves the knots by 1e-6; and it writes through boolean masks, for which a GPU waits and
which cannot be traced into a graph.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.transforms.conditioning import (
    ConditionedTransform,
    Parts,
    both_forms,
)
from pyro_vae_zoo.transforms.made import CouplingNet, Deferred

__all__ = [
    "ConditionedSplineCoupling",
    "conditional_spline_coupling",
    "rational_quadratic_spline",
    "spline_coupling",
]

MIN_BIN = 1e-3  # of a bin's width and height, as a share of the interval
MIN_SLOPE = 1e-3
SLOPE_OF_1 = math.log(math.expm1(1 - MIN_SLOPE))  # softplus of it, plus MIN_SLOPE: 1


def rational_quadratic_spline(
    x: Tensor,
    widths: Tensor,
    heights: Tensor,
    slopes: Tensor,
    bound: float = 3.0,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Applies a monotone spline, or its inverse, to each entry of `x`.

    Parameters are unconstrained; zeros are the identity.

    Args:
        x: Values of any shape.
        widths: Logits of the bins' widths, shape `(*x.shape, count_bins)`.
        heights: Logits of the bins' heights, same shape.
        slopes: Slopes at inner knots, shape `(*x.shape, count_bins - 1)`.
        bound: Half the length of the interval that is changed.
        inverse: Whether to go from y to x.

    Returns:
        The values and, in both directions, `log dy/dx`, of the shape of `x`.

    Example:
        >>> raw = torch.zeros(3, 8)
        >>> x = torch.tensor([-4.0, 0.5, 2.0])
        >>> y, log_slope = rational_quadratic_spline(x, raw, raw, raw[:, 1:])
        >>> torch.allclose(y, x), torch.allclose(log_slope, 0 * x, atol=1e-6)
        (True, True)
    """
    knots_x, knots_y = _knots(widths, bound), _knots(heights, bound)
    slopes = MIN_SLOPE + F.softplus(slopes + SLOPE_OF_1)
    slopes = F.pad(slopes, (1, 1), value=1.0)  # those of the identity outside
    # Outside values are computed on the boundary and dropped at the end, so
    # that no gradient passes through a quotient far from its bin.
    inside = x.clamp(-bound, bound)
    knots = knots_y if inverse else knots_x
    bins = (inside.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1, keepdim=True)
    x0, x1 = _pick(knots_x, bins), _pick(knots_x, bins + 1)
    y0, y1 = _pick(knots_y, bins), _pick(knots_y, bins + 1)
    d0, d1 = _pick(slopes, bins), _pick(slopes, bins + 1)
    s = (y1 - y0) / (x1 - x0)
    curve = d0 + d1 - 2 * s
    if inverse:
        rise = inside - y0
        a = (y1 - y0) * (s - d0) + rise * curve
        b = (y1 - y0) * d0 - rise * curve
        root = (b.square() + 4 * a * s * rise).clamp_min(torch.finfo(x.dtype).tiny)
        t = 2 * s * rise / (b + root.sqrt())
    else:
        t = (inside - x0) / (x1 - x0)
    # Rounding may leave [0, 1], where q would be negative between steep slopes.
    t = t.clamp(0, 1)
    mixed = t * (1 - t)
    q = s + curve * mixed
    if inverse:
        out = x0 + t * (x1 - x0)
    else:
        out = y0 + (y1 - y0) * (s * t.square() + d0 * mixed) / q
    slope = d1 * t.square() + 2 * s * mixed + d0 * (1 - t).square()
    log_slope = 2 * torch.log(s / q) + torch.log(slope)
    changed = x.abs() < bound
    return torch.where(changed, out, x), torch.where(changed, log_slope, 0.0)


def _knots(logits: Tensor, bound: float) -> Tensor:
    shares = MIN_BIN + (1 - MIN_BIN * logits.shape[-1]) * logits.softmax(-1)
    inner = bound * (2 * shares[..., :-1].cumsum(-1) - 1)
    # The end knots are set and not summed up: the tails start exactly there.
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _pick(values: Tensor, bins: Tensor) -> Tensor:
    return values.gather(-1, bins).squeeze(-1)


class ConditionedSplineCoupling(ConditionedTransform):
    """Splines on the coordinates from `split_dim` on, exactly invertible.

    Args:
        net: Called as `net(x_1)`; returns widths, heights and slopes, of shapes
            `(..., (D - split_dim) * n)` with `n = count_bins`, the same, and
            `count_bins - 1`.
        split_dim: Number of coordinates that pass unchanged.
        bound: Half the length of the interval on which the others change.

    Example:
        >>> net = CouplingNet(1, 0, [8], param_dims=(8, 8, 7))
        >>> flow = ConditionedSplineCoupling(net, split_dim=1)
        >>> x = torch.randn(5, 2)
        >>> torch.allclose(flow.inv(flow(x).clone()), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        net: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
        split_dim: int,
        bound: float = 3.0,
    ):
        super().__init__()
        self.net, self.split_dim, self.bound = net, split_dim, bound

    def _spline(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        first, second = x[..., : self.split_dim], x[..., self.split_dim :]
        shape = (second.shape[-1], -1)
        widths, heights, slopes = (p.unflatten(-1, shape) for p in self.net(first))
        # A context may have batch dimensions that x lacks.
        batch = widths.shape[:-2]
        second = second.expand(*batch, -1)
        second, log_slope = rational_quadratic_spline(
            second, widths, heights, slopes, self.bound, inverse
        )
        first = first.expand(*batch, -1)
        return torch.cat([first, second], dim=-1), log_slope.sum(-1)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._spline(x, inverse=False)

    def _backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._spline(y, inverse=True)


def _spline_coupling(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] = (64,),
    count_bins: int = 8,
    bound: float = 3.0,
    activation: str = "elu",
) -> Parts:
    """Returns a spline coupling, whose network may also read a context.

    Args:
        input_dim: Dimension of the variable, at least 2.
        context_dim: Dimension of the context, for the conditional form alone.
        hidden_dims: Hidden layers of its network.
        count_bins: Number of pieces of each spline.
        bound: Half the length of the interval that is changed.
        activation: Hidden nonlinearity of its network.

    Raises:
        UserError: If `input_dim` is below 2, `count_bins` is not in 2..500, or
            as `CouplingNet` does.

    Example:
        >>> spline_coupling(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
        >>> flow = conditional_spline_coupling(3, 4)
        >>> flow.condition(torch.zeros(5, 4))(torch.zeros(10, 5, 3)).shape
        torch.Size([10, 5, 3])
    """
    if input_dim < 2:
        raise UserError(
            f"expected latent_dim >= 2, got {input_dim}: a coupling needs one half to "
            "condition on"
        )
    if not 2 <= count_bins <= 500:
        raise UserError(
            f"expected count_bins in 2..500, got {count_bins}: each bin takes at "
            "least a thousandth of the interval"
        )
    if not 0 < bound < math.inf:
        raise UserError(f"expected a bound above 0, and finite, got {bound}")
    split_dim = input_dim // 2
    changed = input_dim - split_dim
    sizes = [changed * n for n in (count_bins, count_bins, count_bins - 1)]
    net = CouplingNet(split_dim, context_dim, hidden_dims, sizes, activation)
    build = partial(ConditionedSplineCoupling, split_dim=split_dim, bound=bound)
    return Deferred(net), build


spline_coupling, conditional_spline_coupling = both_forms(_spline_coupling)
