r"""Training steps on a GPU of which the host waits for none.

A small network's step is some hundred kernels of microseconds each, and launching them
takes longer than they do. Here a whole step, from the loss to the optimiser's update, is
captured once as a CUDA graph and then replayed: the host puts a batch in its place and
says go. Losses are summed where they are, and read when an epoch ends.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae_zoo.errors import message_of
from pyro_vae_zoo.inference.compiled import CompiledELBO
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.training.averages import Average
from pyro_vae_zoo.training.fused_adam import is_watched
from pyro_vae_zoo.training.optimisers import clip_gradients

__all__ = ["DeviceSteps", "Replay", "waits_for_nothing"]

_DECAY = "decay of the average"
_WARM_UP = 3  # steps before the capture, in which libraries take what memory they need


def waits_for_nothing(device: torch.device, optimizer: torch.optim.Optimizer) -> bool:
    """True where steps can be left to the device.

    That is a GPU, and an Adam or AdamW of PyTorch's that can skip one and calls nobody.
    """
    adam = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return device.type == "cuda" and adam and fused and not is_watched(optimizer)


class DeviceSteps:
    """Training steps all of whose inputs and outputs have fixed places on the device.

    A step whose loss is not finite is not taken, nor is any after it: parameters stay as
    they were, and `done` says how many steps there were before.

    Args:
        vae: the pair.
        loss: what is minimised. Its scheduled weights become tensors, to be moved by
            `set_weights`.
        optimizer: a fused Adam, which can skip a step by itself.
        batch: an example of the data for one step.
        max_norm: largest norm of the gradient of the summed loss; None for any.
        average: of the weights, which each step moves.

    Attributes:
        elbo_sum: of the plain bounds of all data so far, float64.
        done: steps that were taken.
    """

    def __init__(
        self,
        vae: VAE,
        loss: CompiledELBO,
        optimizer: torch.optim.Optimizer,
        batch: Tensor,
        max_norm: float | None = None,
        average: Average | None = None,
    ) -> None:
        self.vae = vae
        self.average = average
        self.loss = loss
        self.optimizer = optimizer
        self.max_norm = max_norm
        device = batch.device
        self.x = batch.clone()
        self.elbo_sum = torch.zeros((), dtype=torch.double, device=device)
        self.done = torch.zeros((), dtype=torch.long, device=device)
        self.failed = torch.zeros((), dtype=torch.float, device=device)
        self.decay = torch.zeros((), dtype=batch.dtype, device=device)
        # What a gradient scaler tells its optimiser: where it is one, nothing moves.
        setattr(optimizer, "found_inf", self.failed)  # noqa: B010 -- not declared
        for group in optimizer.param_groups:  # whose rate is to be read on the device
            rate = torch.as_tensor(group["lr"], dtype=torch.float, device=device)
            group.update(lr=rate.clone(), capturable=True)
        self._weights: dict[str, float] = {}
        self.scheduled = {
            name: torch.as_tensor(value, dtype=batch.dtype, device=device).clone()
            for name, value in loss.scheduled.items()
        }
        self._replay: Replay | None = None
        self._kind: tuple | None = None

    def take(self, x: Tensor) -> None:
        """One step on a batch, which may not have been made when this returns."""
        self.x.copy_(x)
        if self._replay is None:
            self._step()
        else:
            self._replay(self._step)

    def set_weights(self, values: dict[str, float], decay: float = 0.0) -> None:
        """Set the loss's scheduled weights, and the decay of the average."""
        places = self.scheduled | {_DECAY: self.decay}
        values = values | {_DECAY: decay}
        for name, value in values.items():
            if self._weights.get(name) != value:  # else that is a launch for nothing
                places[name].fill_(value)
        self._weights = values

    def begin(self, elbo_sum: float = 0.0, done: int = 0) -> None:
        """Begin to count from here, with the pair and the loss as they are now."""
        self.elbo_sum.fill_(elbo_sum)
        self.done.fill_(done)
        self.failed.zero_()
        for name, weight in self.loss.scheduled.items():
            self.scheduled[name].copy_(torch.as_tensor(weight))
            setattr(self.loss.objective, name, self.scheduled[name])
        self._weights = {}
        with pyro.validation_enabled(False):
            kind = self.loss.kind(self.vae.model, self.vae.guide, self.x)
        places = [p.data_ptr() for p in self.vae.state_dict().values()]
        groups = self.optimizer.param_groups
        settings = [  # which a scheduler may move, as it does betas
            {name: v for name, v in group.items() if name not in ("params", "lr")}
            for group in groups
        ]
        known = kind, places, settings
        if known != self._kind and self.x.device.type == "cuda":
            self._replay = Replay()  # what was recorded is of another pair
        self._kind = known

    def end(self) -> tuple[float, int]:
        """Wait for all steps: `elbo_sum` and `done`. The loss has its floats again."""
        for name, weight in self.scheduled.items():
            setattr(self.loss.objective, name, weight.item())
        return self.elbo_sum.item(), int(self.done)

    def _step(self) -> None:
        vae = self.vae
        vae.zero_grad()  # of modules that the optimiser does not move, too
        with pyro.validation_enabled(False):  # which would wait for the device
            loss, elbo = self.loss.loss_and_elbo(vae.model, vae.guide, self.x)
        loss.backward()
        if self.max_norm is not None:
            groups = self.optimizer.param_groups
            parameters = [p for group in groups for p in group["params"]]
            clip_gradients(parameters, self.max_norm)
        with torch.no_grad():
            finite = (loss + elbo).isfinite()
            self.failed.copy_(torch.maximum(self.failed, (~finite).to(torch.float)))
            good = self.failed == 0
            self.done += good
            self.elbo_sum += torch.where(good, elbo, torch.zeros_like(elbo)).double()
        self.optimizer.step()
        if self.average is not None:
            self.average.move(self.decay)


class Replay:
    """A function on tensors that stay in their places, replayed as a CUDA graph.

    The first calls run it as it is. Where it cannot be captured, so do all others, and a
    warning says so. It does not hold the function, which may hold it.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.aside: torch.cuda.Stream | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Callable[[], Any]) -> None:
        """Run the function, or what was recorded of it."""
        if self.calls == _WARM_UP:
            self._capture(function)
        if self.graph is not None:
            self.graph.replay()
        elif self.calls < _WARM_UP:
            self._run_aside(function)
        else:
            function()
        self.calls += 1

    def _run_aside(self, function: Callable[[], Any]) -> None:
        """Run on another stream, as a capture does, so that it finds all in place."""
        here = torch.cuda.current_stream()
        self.aside = self.aside or torch.cuda.Stream()
        self.aside.wait_stream(here)
        with torch.cuda.stream(self.aside):
            function()
        here.wait_stream(self.aside)

    def _capture(self, function: Callable[[], Any]) -> None:
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        here = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):  # which runs nothing
                function()
        except RuntimeError as error:
            # Some releases leave the generator as in a capture, where it cannot draw, and
            # the stream of the capture as that of all to come.
            generator.graphsafe_set_state(state)
            torch.cuda.set_stream(here)
            cause: BaseException = error
            while cause.__context__ is not None:  # the end of a capture fails, too
                cause = cause.__context__
            reason = message_of(cause)
            warnings.warn(
                f"steps are launched one by one, not replayed as a CUDA graph: {reason}",
                stacklevel=4,
            )
            return
        self.graph = graph
