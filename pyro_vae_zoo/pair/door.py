"""The door through which pairs and data enter whatever judges them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import TypeVar, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae_zoo.data.checks import as_batch
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.streamed.rows import Rows, mapped, some
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.nn.names import LIKELIHOODS, SIZED
from pyro_vae_zoo.pair.memory import rows_that_fit
from pyro_vae_zoo.pair.modes import (
    dtype_of,
    evaluating,
    ordinary,
    tensors_of,
    undisturbed,
)
from pyro_vae_zoo.pair.sites import check_observed, check_whole_plates
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "Data",
    "apart",
    "check_dataset",
    "check_scorable",
    "check_trainable",
    "data_of",
    "sides_and_data",
    "sides_of",
    "units_of",
]


Data = Tensor | np.ndarray | Dataset | Rows
F = TypeVar("F", bound=Callable[..., object])


def apart(function: F) -> F:
    """Have a function of a pair run as if no mode surrounded it; see `undisturbed`."""

    @wraps(function)
    def undisturbed_function(
        vae: VAE | tuple[nn.Module, nn.Module], *args: object, **kwargs: object
    ) -> object:
        model, guide = sides_of(vae)
        with undisturbed(_device_of(model, guide), dtype_of(model, guide)):
            return function(vae, *args, **kwargs)

    return cast(F, undisturbed_function)


def sides_of(vae: VAE | tuple[nn.Module, nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Model and guide of a VAE, or of a bare pair.

    Raises:
        UserError: for anything but modules.
    """
    sides = (vae.model, vae.guide) if isinstance(vae, VAE) else vae
    if isinstance(sides, Sequence) and len(sides) == 2:
        if all(isinstance(side, nn.Module) for side in sides):
            return sides[0], sides[1]
        got = ", ".join(type(side).__name__ for side in sides)
        raise UserError(
            f"expected a pair (model, guide) of nn.Modules, got ({got}); a function, "
            "or what pyro.poutine wraps, does not show its parameters: use it in a "
            "module"
        )
    raise UserError(
        f"expected a VAE or a pair (model, guide), got {type(vae).__name__}"
    )


def check_dataset(data: object) -> None:
    """Refuse what is no data set.

    Raises:
        UserError: for anything but a `Dataset`.
    """
    if not isinstance(data, Dataset):
        raise UserError(
            f"expected a Dataset, got {type(data).__name__}; make one of tensors by "
            "zoo.Dataset(train, valid, test, likelihood)"
        )


def data_of(x: Data) -> Tensor | np.ndarray:
    """The data to judge a pair by; a data set stands for its test split.

    Those that are not in memory are `Rows`, and tensors for type checkers.

    Raises:
        UserError: for what is neither.
    """
    x = mapped(x)
    if isinstance(x, Dataset):
        return x.test
    if isinstance(x, Rows):
        return cast(Tensor, x)
    if not isinstance(x, Tensor | np.ndarray) or x.ndim < 1:
        raise UserError(
            "x: expected data, a tensor, numpy array or Dataset, got "
            f"{type(x).__name__} {getattr(x, 'shape', '')}".rstrip()
        )
    return x


def units_of(x: Data) -> float:
    """The constant, in nats, that the density of a data set as it was given has more.

    See `Dataset.log_jacobian`; 0 for a bare tensor, whose density is that of the tensor.
    """
    return x.log_jacobian if isinstance(x, Dataset) else 0.0


def sides_and_data(
    vae: VAE | tuple[nn.Module, nn.Module], x: Data
) -> tuple[nn.Module, nn.Module, Tensor, torch.device]:
    """Model and guide, data that suit them, and the device that both are on.

    Of `Rows` those that were read suit them, and the others are checked as they pass.

    Raises:
        UserError: for what is no pair, and for data that the likelihood cannot score.
    """
    model, guide = sides_of(vae)
    held = tensors_of(model, guide)

    def suited(x: Tensor | np.ndarray) -> Tensor:
        # A VAE may be in double precision.
        x = vae.check_data(x) if isinstance(vae, VAE) else as_batch(x)
        x = ordinary(x.to(dtype_of(model, guide) or x.dtype))
        if not isinstance(vae, VAE) or vae.likelihood not in {*LIKELIHOODS} - {*SIZED}:
            check_scorable(model, guide, x, held[0].device if held else x.device)
        return x

    given = data_of(x)
    if isinstance(given, Rows):
        device = held[0].device if held else torch.device("cpu")
        return model, guide, cast(Tensor, replace(given, finish=suited)), device
    tensor = suited(given)
    return model, guide, tensor, held[0].device if held else tensor.device


def _device_of(model: nn.Module, guide: nn.Module) -> torch.device:
    held = tensors_of(model, guide)
    return held[0].device if held else torch.device("cpu")


def check_trainable(vae: VAE, data: Dataset) -> None:
    """Refuse to train a pair on data, or by plates, that would give wrong numbers.

    What a data set draws anew every epoch is drawn to suit its likelihood.

    Raises:
        UserError: for data that the likelihood cannot score, a plate that subsamples,
            and parameters that autograd cannot train.
    """
    if any(p.is_inference() for p in vae.parameters()):
        raise UserError(
            "the VAE was made inside torch.inference_mode(), so its parameters can "
            "have no gradients; make it outside, or train a copy.deepcopy of it"
        )
    train = data.valid if data.dynamic or data.logit is not None else data.train
    model, guide, x, device = sides_and_data(vae, some(train))
    with evaluating(model, guide, device, seed=0):
        guide_trace = poutine.trace(guide).get_trace(x[:2].to(device))
        replayed = poutine.replay(model, trace=guide_trace)
        for trace in (guide_trace, poutine.trace(replayed).get_trace(x[:2].to(device))):
            check_whole_plates(trace)


def check_scorable(
    model: nn.Module, guide: nn.Module, x: Tensor, device: torch.device
) -> None:
    """Refuse data outside the supports of the sites that observe them.

    One pass through the model with draws of its prior; the random state is left alone.

    Raises:
        UserError: for a wrong event shape or value; it names the site.
    """

    def run(batch: Tensor) -> None:
        check_observed(poutine.trace(model).get_trace(batch.to(device)))

    with evaluating(model, guide, device, seed=0):
        rows = rows_that_fit(lambda: run(x[:2]), len(x[:2]), device)
        for batch in x.split(rows):
            run(batch)
