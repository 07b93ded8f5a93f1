"""Optimisers and the course of their rates: made, checked, stored and loaded again.

An optimiser is named, or made by a function of the parameters; the course of its rates is
named, a function of (epoch, epochs), or a scheduler of torch's. A checkpoint holds what
their own `state_dict` says, and that is looked at before it is used.
"""

import copy
import inspect
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils._pytree import tree_map

from pyro_vae_zoo.errors import UserError, one_line
from pyro_vae_zoo.files import MISFITS
from pyro_vae_zoo.runtime import laid_as
from pyro_vae_zoo.training.checkpoint import refused
from pyro_vae_zoo.training.options import (
    OPTIMIZERS,
    TrainOptions,
    makes_scheduler,
    name_of,
    takes_lr,
)

__all__ = [
    "Rates",
    "check_storable",
    "clip_gradients",
    "load_optimizer",
    "make_optimizer",
]

# What optimisers with a name keep of a parameter: numbers, and tensors of its shape.
_KEPT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adam": (("step",), ("exp_avg", "exp_avg_sq")),
    "adamw": (("step",), ("exp_avg", "exp_avg_sq")),
    "adamax": (("step",), ("exp_avg", "exp_inf")),
    "nadam": (("step", "mu_product"), ("exp_avg", "exp_avg_sq")),
    "radam": (("step",), ("exp_avg", "exp_avg_sq")),
    "rmsprop": (("step",), ("square_avg",)),
    "sgd": ((), ()),
}
_MOVED = ("lr", "momentum", "betas")  # settings that schedulers of torch move
# Settings of the schedule or of the device; no checkpoint changes them.
_OF_HERE = ("lr", "fused", "foreach", "capturable", "differentiable")


def make_optimizer(
    kind: str | Callable,
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """One of `OPTIMIZERS` for these parameters, or what a function makes of them.

    Raises:
        UserError: where the function fails, or makes what cannot take the steps of `fit`.

    >>> parameters = [nn.Parameter(torch.zeros(2))]
    >>> faster = make_optimizer(lambda p, lr: torch.optim.SGD(p, 2 * lr), parameters, 0.1)
    >>> faster.defaults["lr"]
    0.2
    """
    parameters = list(parameters)
    if isinstance(kind, str):
        name, settings = OPTIMIZERS[kind]
        if weight_decay is not None:
            settings = settings | {"weight_decay": weight_decay}
        return getattr(torch.optim, name)(parameters, lr=lr, **settings)
    rate = {"lr": lr} if takes_lr(kind) else {}
    try:
        optimizer = kind(parameters, **rate)
    except Exception as error:  # whatever the user's code may raise
        raise UserError(
            f"the optimizer {name_of(kind)} cannot be made: {one_line(error)}"
        ) from error
    _check(optimizer, name_of(kind), parameters)
    return optimizer


def _check(optimizer: Any, name: str, parameters: list[nn.Parameter]) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            f"optimizer: expected {name} to make a torch.optim.Optimizer of the "
            f"parameters, got {type(optimizer).__name__}"
        )
    groups, own = optimizer.param_groups, {id(p) for p in parameters}
    foreign = sum(id(p) not in own for group in groups for p in group["params"])
    if foreign:
        raise UserError(
            f"optimizer: {name} has {foreign} tensors that this phase does not train; "
            "it must take only the parameters that it is called with"
        )
    if not all("lr" in group for group in groups):
        raise UserError(
            f"optimizer: {name} has parameter groups without a learning rate `lr`"
        )
    needed = [
        p.name
        for p in inspect.signature(optimizer.step).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if needed:
        raise UserError(
            f"optimizer: a step of {name} needs {', '.join(needed)}, to evaluate the loss "
            "again; fit computes one gradient per step, so choose another optimizer"
        )


def load_optimizer(
    optimizer: torch.optim.Optimizer, state: dict, kind: str | Callable
) -> None:
    """Load what an optimiser has kept; its settings are those of this run.

    One of the user's may keep numbers among the settings of a group, too, as those do that
    find their own rate: they go on from the stored ones, each tensor in its own dtype.

    Raises:
        ValueError and others: for a state of another optimiser or of none.
    """
    is_own = not isinstance(kind, str)
    here = [
        {
            k: v
            for k, v in group.items()
            if k != "params" and (k in _OF_HERE or not is_own)
        }
        for group in optimizer.param_groups
    ]

    def load(state: dict) -> None:
        optimizer.load_state_dict(state)
        for group, values in zip(optimizer.param_groups, here, strict=True):
            group.update(values)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for i, kept in state["state"].items():  # numbers are cast to the weights' dtype
            of_it = optimizer.state[parameters[i]]
            for name, value in kept.items():
                if torch.is_tensor(value) and (is_own or not value.ndim):
                    of_it[name] = value.to(of_it[name].device, copy=True)
                if torch.is_tensor(value) and value.shape == parameters[i].shape:
                    of_it[name] = laid_as(parameters[i], of_it[name])

    if is_own:  # nobody knows what it keeps
        load(copy.deepcopy(state))
        _try_step(optimizer)
        load(state)
        return
    load(state)
    numbers, averages = _KEPT[cast(str, kind)]
    for parameter, of_it in optimizer.state.items():
        shapes = {name: tuple(value.shape) for name, value in of_it.items()}
        expected = dict.fromkeys(numbers, ()) | dict.fromkeys(
            averages, tuple(parameter.shape)
        )
        if shapes != expected:
            raise ValueError(f"expected a state of {expected}, got {shapes}")


@torch.no_grad()
def _try_step(optimizer: torch.optim.Optimizer) -> None:
    """See that a step goes on from a loaded state, and leaves it of the same kind."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = torch.zeros_like(p) if optimizer.state.get(p) else None
    kinds = [_kinds(optimizer.state.get(p, {})) for p in parameters]
    optimizer.step()
    for p, value, kind in zip(parameters, before, kinds, strict=True):
        p.copy_(value)
        p.grad = None
        now = _kinds(optimizer.state.get(p, {}))
        if {name: now.get(name) for name in kind} != kind:
            raise ValueError(f"a step made {now} of a state of {kind}")


def _kinds(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (tuple(value.shape), value.dtype)
        if torch.is_tensor(value)
        else type(value)
        for name, value in state.items()
    }


class Rates:
    """The learning rate of each group of an optimiser, epoch by epoch.

    Args:
        optimizer: whose rates are set.
        options: with the schedule.

    Attributes:
        values: of this epoch; the first is the one that is recorded.

    Raises:
        UserError: for a scheduler that cannot be made, and for one that waits for a
            smaller bound.

    >>> adam = torch.optim.Adam([nn.Parameter(torch.zeros(2))], lr=0.5)
    >>> falls = TrainOptions(lr=0.5, epochs=9, schedule=lambda epoch, epochs: 0.1**epoch)
    >>> rates = Rates(adam, falls)
    >>> rates.begin_epoch(1)
    >>> adam.param_groups[0]["lr"]
    0.05
    """

    def __init__(self, optimizer: torch.optim.Optimizer, options: TrainOptions) -> None:
        self.optimizer = optimizer
        self.options = options
        self.base = [float(group["lr"]) for group in optimizer.param_groups]
        self.scheduler: LRScheduler | None = None
        schedule = options.schedule
        if callable(schedule) and makes_scheduler(schedule):
            self.scheduler = _make_scheduler(schedule, optimizer)
        self.values = [float(group["lr"]) for group in optimizer.param_groups]

    def begin_epoch(self, epoch: int) -> None:
        """Set the rates of an epoch, counted from 0."""
        if self.scheduler is None:
            factor = self.options.factor(epoch)
            self.values = [rate * factor for rate in self.base]
        for group, rate in zip(self.optimizer.param_groups, self.values, strict=True):
            if torch.is_tensor(group["lr"]):  # a place that a recorded step reads
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def end_epoch(self, bound: float) -> None:
        """Let a scheduler of torch's step, one that looks at it by the validated bound.

        Raises:
            UserError: where it fails.
        """
        if self.scheduler is None:
            return
        groups = self.optimizer.param_groups
        places = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.values, strict=True):
            group["lr"] = rate  # a number, which is never rounded
        try:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(bound)
            else:
                self.scheduler.step()
        except MISFITS as error:
            name = type(self.scheduler).__name__
            raise UserError(f"schedule: a step of {name}: {one_line(error)}") from error
        self.values = [float(group["lr"]) for group in groups]
        for group, place in zip(groups, places, strict=True):
            group["lr"] = place

    def state_dict(self) -> dict[str, Any] | None:
        """What to go on from; None where an epoch's number is enough."""
        if self.scheduler is None:
            return None
        groups = [
            {name: group[name] for name in _MOVED if name in group} | {"lr": rate}
            for group, rate in zip(
                self.optimizer.param_groups, self.values, strict=True
            )
        ]
        return {"groups": groups, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from a state.

        Raises:
            ValueError: for one of another scheduler, or of none.
        """
        own = self.state_dict()
        if not _alike(own, state):
            raise ValueError(
                "its schedule has another state than that of this training"
            )
        if self.scheduler is None or state is None:
            return
        self.values = [group["lr"] for group in state["groups"]]
        if not all(0 <= rate < math.inf for rate in self.values):
            raise ValueError(f"expected rates of at least 0, got {self.values}")
        self.scheduler.load_state_dict(state["scheduler"])
        for group, values in zip(
            self.optimizer.param_groups, state["groups"], strict=True
        ):
            group.update(values)


def _make_scheduler(make: Callable, optimizer: torch.optim.Optimizer) -> LRScheduler:
    name = name_of(make)
    try:
        scheduler = make(optimizer)
    except Exception as error:  # whatever the user's code may raise
        raise UserError(
            f"the schedule {name} cannot be made: {one_line(error)}"
        ) from error
    if not isinstance(scheduler, LRScheduler):
        raise UserError(
            f"schedule: expected {name} to make an LRScheduler of torch's, got "
            f"{type(scheduler).__name__}; a function of (epoch, epochs) must have no "
            "defaults"
        )
    if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != "max":
        raise UserError(
            "schedule: ReduceLROnPlateau is given the validation bound, which should "
            "rise; give it mode='max'"
        )
    return scheduler


def _alike(own: Any, other: Any) -> bool:
    """True where a loaded value has the form of one's own, numbers for numbers."""
    if isinstance(own, dict):
        same = isinstance(other, dict) and own.keys() == other.keys()
        return same and all(_alike(value, other[key]) for key, value in own.items())
    if isinstance(own, list | tuple):
        same = isinstance(other, list | tuple) and len(own) == len(other)
        return same and all(map(_alike, own, other))
    if isinstance(own, int | float | NoneType) and not isinstance(own, bool):
        number = isinstance(other, int | float) and not isinstance(other, bool)
        if own is None:  # which stands for a number that is not known yet
            return other is None or number
        return number and not math.isnan(other)
    return type(own) is type(other)


def check_storable(**parts: Any) -> None:
    """See that a checkpoint can hold what optimiser and scheduler tell of themselves.

    Raises:
        UserError: where it could be written and not be read; it names the option.

    >>> check_storable(optimizer={"state": {}})
    """
    for name, state in parts.items():
        file = io.BytesIO()
        try:
            torch.save(tree_map(_emptied, state), file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except Exception as error:  # as code of the user's does when it is pickled
            raise UserError(
                f"{name}: a checkpoint holds numbers, words and tensors only, but its "
                f"state holds something else: {refused(error)}"
            ) from error


def _emptied(value: Any) -> Any:
    """A plain tensor without its numbers, so that to look at a state costs nothing."""
    return value.new_empty(0) if type(value) is torch.Tensor else value


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """PyTorch's `clip_grad_norm_`, for gradients whose squares overflow too.

    It divides by their norm, which is infinite then: all of them become zero, and a
    training that a single batch has thrown off never comes back.

    >>> p = nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3e30, 4e30])
    >>> clip_gradients([p], 5.0)
    >>> p.grad.round()
    tensor([3., 4.])
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    total = nn.utils.get_total_norm(gradients)
    if (
        total.is_cuda or not total.isfinite()
    ):  # no graph waits for what is on the device
        largest = torch.stack([g.abs().amax() for g in gradients if g.numel()]).amax()
        too_large = ~total.isfinite() & largest.isfinite()
        divisor = (largest / max_norm).clamp(max=torch.finfo(largest.dtype).max)
        divisor = torch.where(too_large, divisor, torch.ones_like(divisor))
        torch._foreach_div_(gradients, divisor)
        total = torch.where(too_large, nn.utils.get_total_norm(gradients), total)
    nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
