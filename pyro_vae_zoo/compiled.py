r"""A training step as one compiled graph, for any pair with static control flow.

Stock Pyro spends half of a small model's step in Python: traces, plates, distributions.
Here a pair is traced once for each shape of the batch, with its gradients, into a graph of
tensor operations, which PyTorch's inductor compiles. The numbers are those of the eager
step, the random draws too: under one seed both train alike, to rounding.

    loss = zoo.CompiledTrace_ELBO()(vae.model, vae.guide)
    loss(x).backward()

Parameters, buffers, and the weights that a schedule moves are inputs of the graph:
optimisers, clipping, hooks and a falling temperature work as ever, and no step compiles
anew because of them. A batch of another shape, as the last of an epoch, has a graph of its
own; so have training and evaluation mode, and another set of trained parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pyro_vae_zoo.elbo import AnnealedELBO, ObjectiveELBO
from pyro_vae_zoo.errors import UserError

__all__ = ["CompiledELBO", "CompiledTrace_ELBO", "inductor"]

_SCHEDULED = ("kl_weight", "joint_weight")  # attributes that may change at each step
_DATA_DEPENDENT = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
)


def inductor(graph: torch.fx.GraphModule) -> Callable:
    """PyTorch's compiler, drawing the random numbers that eager PyTorch draws."""
    options = {"fallback_random": True}
    return torch.compile(graph, fullgraph=True, dynamic=False, options=options)


class CompiledELBO(ObjectiveELBO):
    """An objective that is compiled, with its gradients, at its first call.

    Args:
        objective: what is compiled.
        compiler: from a graph to what runs it; the identity runs the graph as it is.

    Raises:
        UserError: at the first call, where the pair cannot be compiled: its control flow
            depends on values, or a site is drawn without reparametrisation.
    """

    def __init__(
        self,
        objective: ObjectiveELBO,
        *,
        compiler: Callable[[torch.fx.GraphModule], Callable] = inductor,
    ) -> None:
        super().__init__(objective.num_particles, max_plate_nesting=1)
        self.objective = objective
        self.compiler = compiler
        self._pairs: WeakKeyDictionary = WeakKeyDictionary()

    def __getstate__(self) -> dict:
        # A copy compiles for itself: graphs can be neither copied nor pickled.
        return {key: value for key, value in self.__dict__.items() if key != "_pairs"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state | {"_pairs": WeakKeyDictionary()}

    def loss_and_elbo(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective to minimise and the plain bound, both summed over the batch."""
        guides = self._pairs.setdefault(model, WeakKeyDictionary())
        if guide not in guides:
            guides[guide] = _CompiledPair(model, guide)
        return guides[guide].step(model, guide, x, self.objective, self.compiler)

    def loss_and_grads(self, model: nn.Module, guide: nn.Module, x: Tensor) -> float:
        """Add the gradients to the parameters and name these to `pyro.infer.SVI`."""
        loss = super().loss_and_grads(model, guide, x)
        self._pairs[model][guide].announce()
        return loss


class CompiledTrace_ELBO(CompiledELBO):
    r"""Pyro's `Trace_ELBO`, or the importance-weighted bound, compiled.

    Used as that is, by `loss(model, guide)(x).backward()` or inside `pyro.infer.SVI`, with
    the same numbers under the same seed.

    Args:
        num_particles: draws for each datum, in one vectorised plate.
        options: further ones of `AnnealedELBO`, such as `bound="iwae"`.

    Raises:
        UserError: at the first call, where the pair cannot be compiled.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8))
    >>> CompiledTrace_ELBO(num_particles=2).objective.num_particles
    2
    """

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(AnnealedELBO(num_particles, **options))


class _Pair(nn.Module):
    """Both sides and the objective as one module, to be called with other tensors."""

    def __init__(self, model: nn.Module, guide: nn.Module, objective: ELBO) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.objective = objective

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.objective.loss_and_elbo(self.model, self.guide, x)


class _CompiledPair:
    """The graphs of one pair. It holds its tensors' places, and not the pair itself."""

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        self.graphs: dict[tuple, Callable] = {}
        self.look(model, guide)

    def look(self, model: nn.Module, guide: nn.Module) -> None:
        """Find where parameters and buffers are; a module of both sides counts once."""
        modules = dict(nn.ModuleList([model, guide]).named_modules())
        sides = {"0": "model", "1": "guide"}
        self.places, seen = {}, set()
        for path, module in modules.items():
            root, _, rest = path.partition(".")
            for tensors in (module._parameters, module._buffers):
                for key, value in tensors.items():
                    if value is not None and id(value) not in seen:
                        seen.add(id(value))
                        name = ".".join(filter(None, (sides.get(root, ""), rest, key)))
                        self.places[name] = tensors, key
        self.modules = [ref(module) for module in modules.values()]
        self.sizes = self.size()

    def size(self) -> int:
        """Changes where a tensor is added or taken away."""
        return sum(len(tensors) for tensors, _ in self.places.values())

    def step(
        self,
        model: nn.Module,
        guide: nn.Module,
        x: Tensor,
        objective: ObjectiveELBO,
        compiler: Callable,
    ) -> tuple[Tensor, Tensor]:
        """One evaluation with gradients, compiled where it is the first of its kind."""
        if self.size() != self.sizes:
            self.look(model, guide)
        tensors = {name: t[key] for name, (t, key) in self.places.items()}
        trained = [name for name, p in tensors.items() if p.requires_grad]
        modes = tuple(module().training for module in self.modules if module())
        kind = (*trained,), modes, x.shape, x.dtype, x.device
        scheduled = [name for name in _SCHEDULED if hasattr(objective, name)]
        weights = [
            torch.as_tensor(getattr(objective, name), dtype=torch.double)
            for name in scheduled
        ]
        values = {name: p.detach() for name, p in tensors.items()}
        if kind not in self.graphs:
            check(model, guide, x, objective)
            pair = _Pair(model, guide, objective)
            graph = trace(pair, values, trained, scheduled, weights, x)
            self.graphs[kind] = compiler(graph)
        with torch.no_grad():
            loss, elbo, gradients = self.graphs[kind](values, weights, x)
        inputs = [tensors[name] for name in trained]
        return WithGradients.apply(loss, gradients, *inputs), elbo

    def announce(self) -> None:
        """State the trained parameters as `pyro.param` does, for who watches."""
        for name, (tensors, key) in self.places.items():
            p = tensors[key]
            if p.requires_grad:
                p.unconstrained = ref(p)
                effectful(type="param")(lambda *_, p=p, **__: p)(name, name=name)


class WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx, loss: Tensor, gradients: Sequence[Tensor], *inputs: Tensor):
        """The loss, as a function of the inputs."""
        ctx.gradients = gradients
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx, slope: Tensor):
        """The gradients, once."""
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "a compiled loss is differentiated once; compute it again for more"
            )
        if slope.device.type != "cpu" or slope.item() != 1:
            gradients = [None if g is None else slope * g for g in gradients]
        return None, None, *gradients


def check(model: nn.Module, guide: nn.Module, x: Tensor, objective: ELBO) -> None:
    """Run a pair as it is: what is wrong with it says so here."""
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        objective.loss_and_elbo(model, guide, x)


def trace(
    pair: _Pair,
    values: dict[str, Tensor],
    trained: Sequence[str],
    scheduled: Sequence[str],
    weights: Sequence[Tensor],
    x: Tensor,
) -> torch.fx.GraphModule:
    """The graph of loss, bound and gradients, as a function of all tensors.

    Raises:
        UserError: for control flow that depends on values, and for tensors that are
            neither parameters nor buffers.
    """
    objective = pair.objective

    def step(values, weights, x):
        inputs = [values[name].requires_grad_() for name in trained]
        for name, weight in zip(scheduled, weights, strict=True):
            setattr(objective, name, weight.to(x.dtype))
        loss, elbo = functional_call(pair, values, (x,), tie_weights=False)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        return loss.detach(), elbo, list(gradients)

    before = {name: getattr(objective, name) for name in scheduled}
    last = LastSite()
    try:
        with (
            pyro.poutine.block(),  # who watches is not to see tensors without values
            last,
            torch.enable_grad(),
            pyro.validation_enabled(False),
            pyro.settings.context(module_local_params=True),
        ):
            return make_fx(step, tracing_mode="fake")(values, weights, x)
    except _DATA_DEPENDENT as error:
        raise UserError(
            f"the pair cannot be compiled: after site {last.name!r} its control flow "
            "depends on values (an `if` on a tensor, `.item()`, a mask as an index); train "
            "it with Trace_ELBO"
        ) from error
    except AssertionError as error:
        if "FakeTensor" not in str(error):
            raise
        raise UserError(
            f"the pair cannot be compiled: after site {last.name!r} it uses a tensor that "
            "is neither a parameter nor a buffer, and that a graph would hold as it is "
            "now; register it as a buffer"
        ) from error
    finally:
        for name, value in before.items():
            setattr(objective, name, value)


class LastSite(Messenger):
    """Remembers the name of the last sample site."""

    def __init__(self) -> None:
        super().__init__()
        self.name: str | None = None

    def _pyro_post_sample(self, msg: dict) -> None:
        self.name = msg["name"]
