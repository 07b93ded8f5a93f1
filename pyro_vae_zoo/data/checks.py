"""Checks that images are what a likelihood can score, with one clear line if not."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.nn.names import COUNTS, LIKELIHOODS

_LOST = 1e-3  # of the scale of a feature, that rounding to float32 may cost
_ELSEWHERE = {  # where what is no array comes from, and what to do with it
    "pandas": "; give its numbers, .to_numpy(), or the whole to Dataset.from_frame",
    "polars": "; give its numbers, .to_numpy()",
    "scipy.sparse": "; pass .toarray()",
}


def check_images(
    x: Tensor | np.ndarray,
    event_shape: Sequence[int] | None,
    likelihood: str,
    what: str = "x",
) -> Tensor:
    """Images as a floating tensor `(N, *event_shape)`, of values that suit `likelihood`.

    Args:
        x: images, as a tensor or numpy array: boolean, integer or floating.
        event_shape: shape of one image, or None for any.
        likelihood: one of `LIKELIHOODS`.
        what: what `x` is called in errors.

    Raises:
        UserError: one line that says what was expected, what was got and why.

    Example:
        >>> check_images(torch.eye(2, dtype=torch.bool), (2,), "bernoulli")
        tensor([[1., 0.],
                [0., 1.]])
        >>> check_images(torch.tensor([[0.5]]), (2,), "bernoulli")
        Traceback (most recent call last):
        ...
        pyro_vae_zoo.errors.UserError: x: expected shape (N, 2), got (1, 1)
    """
    return checked(x, event_shape, likelihood, what)


def checked(
    x: Tensor | np.ndarray,
    event_shape: Sequence[int] | None,
    kind: str,
    what: str,
    bits: bool | None = None,
    wide: bool = False,
) -> Tensor:
    """The check of `check_images`, with the kind `"grey"`: probabilities in [0, 1].

    With `bits` uint8 values of 0 and 1 are what they are, without it 0/255 and 1/255;
    None for who does not know. With `wide` whole numbers become float64, unrounded.
    """
    if kind not in (*LIKELIHOODS, "grey"):
        raise UserError(
            f"unknown likelihood {kind!r}; known: {', '.join(map(repr, LIKELIHOODS))}"
        )
    x = tensor_of(x, what)
    _check_shape(x, event_shape, what)
    x = _channels_first(x, event_shape)
    if x.dtype == torch.bool:
        return x.float()
    if x.dtype == torch.uint8 and kind in ("discretized_logistic", "grey"):
        if bits is None and x.max() == 1:
            raise UserError(
                f"{what}: uint8 values of 0 and 1 only: bits or grey levels? Give "
                "x.float() for bits, x.float() / 255 for grey levels"
            )
        return x.float() if bits else x.float() / 255
    if not x.is_floating_point():
        x = x.double() if wide else x.float()
    _check_values(x, kind, what)
    return x


def as_batch(
    x: Tensor | np.ndarray, event_shape: Sequence[int] | None = None, what: str = "x"
) -> Tensor:
    """Data as a floating tensor `(N, *event_shape)`, their values as they are.

    Args:
        x: data, as a tensor or numpy array: boolean, integer or floating.
        event_shape: shape of one datum, or None for any.
        what: what `x` is called in errors.

    Raises:
        UserError: for another shape or kind, and for no data.

    >>> as_batch(torch.tensor([[3, 4]]), (2,))
    tensor([[3., 4.]])
    """
    x = tensor_of(x, what)
    if event_shape is not None:
        _check_shape(x, event_shape, what)
        x = _channels_first(x, event_shape)
    elif x.ndim < 1 or x.numel() == 0:
        raise UserError(f"{what}: expected data, got shape {tuple(x.shape)}: empty")
    return x if x.is_floating_point() else x.float()


def largest_of_bytes(x: Tensor | np.ndarray) -> int | None:
    """The largest of uint8 values; None for other kinds, and for none."""
    if isinstance(x, np.ndarray | Tensor) and x.dtype in (np.uint8, torch.uint8):
        return int(x.max()) if 0 not in x.shape else None
    return None


def owned(x: Tensor, given: object) -> Tensor:
    """Checked values as float32, in memory that is not that of `given`, the caller's."""
    shared = str(getattr(given, "dtype", "")).endswith("float32")
    return x.clone() if shared and x.dtype == torch.float32 else x.float()


def check_precision(x: Tensor, kind: str, what: str) -> None:
    """Refuse values whose rounding to float32 is no small part of how they vary.

    Counts have to stay the whole numbers that they are.

    Raises:
        UserError: for values that float32 cannot tell apart; it names the first.
    """
    if x.dtype != torch.float64:
        return
    lost = (x - x.float().double()).abs().flatten(1)
    scale = x.flatten(1).std(0, correction=0)
    bad = lost > (0 if kind in COUNTS else _LOST * scale)
    if kind not in COUNTS:
        bad &= scale > 0
    if bad.any():
        row, which = bad.nonzero()[0].tolist()
        raise UserError(
            f"{what}: {x.flatten(1)[row, which].item():.17g} in row {row}, feature "
            f"{which} has the same float32 (7 digits) as its neighbours; subtract an "
            "offset, change the unit, or give standardise=True for real numbers"
        )


def are_binary(x: Tensor | np.ndarray, what: str) -> bool:
    """True for values that are 0 and 1, of whatever dtype.

    >>> are_binary(np.array([[0, 1]]), "x"), are_binary(torch.tensor([[0.5]]), "x")
    (True, False)
    """
    x = tensor_of(x, what)
    x = x if x.is_floating_point() else x.float()
    return bool((x == x.bool()).all())


def are_bits(
    splits: Mapping[str, Tensor | np.ndarray], kinds: Mapping[str, str]
) -> bool:
    """True for uint8 values that are 0 and 1 in all splits of grey levels."""
    grey = [s for s in splits if kinds[s] in ("grey", "discretized_logistic")]
    largest = {s: largest_of_bytes(splits[s]) for s in grey}
    known = {s: value for s, value in largest.items() if value is not None}
    black = [s for s, value in known.items() if value <= 1]
    if black and len(black) < len(known):
        other = next(s for s in known if s not in black)
        raise UserError(
            f"{black[0]}: uint8 values up to {known[black[0]]}, in {other} up to "
            f"{known[other]}: bits or grey levels? Give all splits as floats, grey "
            "levels divided by 255"
        )
    return bool(black)


def tensor_of(x: object, what: str) -> Tensor:
    """The values of `x`, unchecked; a UserError for what is no dense array of numbers."""
    if isinstance(x, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(x)
        if masked.any():
            rows = masked.reshape(len(x), -1).any(1)
            raise UserError(
                f"{what}: expected values, got a masked array with {int(masked.sum())} "
                f"masked, the first in row {int(rows.argmax())}; fill them in, or "
                "leave their rows out"
            )
        x = x.data
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "buif":
            raise UserError(_wrong_dtype(what, x.dtype))
        native = x.astype(x.dtype.newbyteorder("="), copy=False)
        x = np.require(native, requirements=["C", "W"])
        if x.dtype.itemsize > 8:  # long double
            x = x.astype(np.float64)
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor):
        kind = type(x).__name__
        hint = next((h for module, h in _ELSEWHERE.items() if module in _home(x)), "")
        raise UserError(f"{what}: expected a tensor or numpy array, got {kind}{hint}")
    if x.is_complex():
        raise UserError(_wrong_dtype(what, x.dtype))
    if x.layout != torch.strided or x.is_nested:
        raise UserError(
            f"{what}: expected a dense tensor, got one of layout {x.layout}; pass "
            ".to_dense()"
        )
    return x


def _home(x: object) -> str:
    return type(x).__module__


def _wrong_dtype(what: str, dtype: np.dtype | torch.dtype) -> str:
    return f"{what}: expected boolean, integer or floating values, got dtype {dtype}"


def _check_shape(x: Tensor, event_shape: Sequence[int] | None, what: str) -> None:
    got = tuple(x.shape)
    if event_shape is None:
        if x.ndim < 2:
            raise UserError(
                f"{what}: expected shape (N, *event_shape), got {got}; it has no event "
                "dimension: give a datum per row, as in (N, H, W) or (N, D)"
            )
    elif _channels_first(x, event_shape).shape[1:] != tuple(event_shape):
        hint, sizes = "", ", ".join(map(str, event_shape))
        if got == tuple(event_shape):
            hint = "; a single image needs a batch dimension: x[None]"
        elif math.prod(got[1:]) == math.prod(event_shape):
            hint = f"; same number of values: reshape to (-1, {sizes})"
        raise UserError(f"{what}: expected shape (N, {sizes}), got {got}{hint}")
    if x.numel() == 0:
        raise UserError(f"{what}: expected at least one datum, got shape {got}: empty")


def _channels_first(x: Tensor, event_shape: Sequence[int] | None) -> Tensor:
    """Turn images `(N, H, W, 3)` to `(N, 3, H, W)`, and `(N, H, W, 1)` to `(N, H, W)`.

    Other numbers of channels may as well be a width, and are left where they are.
    """
    asked = () if event_shape is None else tuple(event_shape)
    if x.shape[1:] == asked:
        return x
    if x.ndim == 3 and asked == (*x.shape[1:], 1):  # of a pair of 0.1.0, which kept it
        return x.unsqueeze(3)
    if x.ndim != 4 or x.shape[1] == 3:
        return x
    if x.shape[3] == 3:
        return x.permute(0, 3, 1, 2).contiguous()
    is_grey = x.shape[3] == 1 and 1 not in x.shape[1:3]
    return x.squeeze(3) if is_grey else x


def _check_values(x: Tensor, kind: str, what: str) -> None:
    low, high = (bound.item() for bound in x.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        wrong = ~x.isfinite()
        row = int(wrong.flatten(1).any(1).nonzero()[0])
        where = f", the first in row {row}" if len(x) > 1 else ""
        raise UserError(
            f"{what}: expected finite values, got {int(wrong.sum())} NaN or infinite "
            f"of {x.numel()}{where}; remove them, or check the preprocessing"
        )
    got = f"got values in [{low:.6g}, {high:.6g}]"
    unit = 0 <= low and high <= 1
    if kind == "bernoulli" and not are_binary(x, what):
        raise UserError(
            f"{what} has grey pixels: expected only 0 and 1 for "
            f"likelihood='bernoulli', {got}; binarise them, or use "
            "likelihood='gaussian' or 'discretized_logistic', or dynamic=True to draw "
            "bits anew in every epoch"
        )
    if kind in COUNTS and not (low >= 0 and (x == x.round()).all()):
        raise UserError(
            f"{what}: expected counts or classes, whole numbers from 0, for "
            f"likelihood={kind!r}, {got}; multiply shares of a total by that total"
        )
    if kind == "grey" and not unit:
        raise UserError(
            f"{what}: expected probabilities in [0, 1] for dynamic=True, {got}; "
            "divide grey levels by their maximum"
        )
    if kind == "discretized_logistic":
        if not unit:
            raise UserError(
                f"{what}: expected grey levels k/255 in [0, 1] for "
                f"likelihood='discretized_logistic', {got}; pass uint8, or divide by "
                "255"
            )
        levels = x * 255
        off = int(((levels - levels.round()).abs() > 1e-3).sum())
        if off:
            raise UserError(
                f"{what}: expected grey levels k/255 for "
                f"likelihood='discretized_logistic', got {off} of {x.numel()} values "
                "off that grid; round them, or use likelihood='gaussian'"
            )
