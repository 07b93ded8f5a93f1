r"""A training step as one compiled graph, for any pair with static control flow.

Stock Pyro spends half of a small model's step in Python: traces, plates, distributions.
Here a pair is traced once for each shape of the batch, with its gradients, into a graph of
tensor operations, which PyTorch's inductor compiles. The numbers are those of the eager
step, the random draws too: under one seed both train alike, to rounding.

    loss = zoo.CompiledTrace_ELBO()(vae.model, vae.guide)
    loss(x).backward()

Parameters, buffers, and the weights that a schedule moves are inputs of the graph:
optimisers, clipping, hooks of parameters and a falling temperature work as ever, and no
step compiles anew because of them. A batch of another shape, as the last of an epoch, has
a graph of its own; so have training and evaluation mode, another set of modules or of
trained parameters, and other values of the modules' and the objective's attributes that
are numbers or words, or lists and dictionaries of them. What a graph cannot see change
are attributes of other kinds, as an object that holds numbers or a list in a tuple, and
what is global.

A step runs none of the pair's Python: hooks of modules are called while it is traced, and
never again. A pair each run of which changes a number among its attributes is refused;
a buffer is changed by the graph, too.

Data that have a gradient, as those that modules before the VAE have made, get it. Where
Pyro's validation is on, as it is by default, each batch is checked against the supports
of the sites that observe it; `fit` checks its data once and switches that off.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from pyro.distributions import is_validation_enabled
from pyro.poutine.runtime import effectful
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.inference.elbo import AnnealedELBO, ObjectiveELBO
from pyro_vae_zoo.inference.graph_calls import (
    BoundGraph,
    OwnGradients,
    WithGradients,
)
from pyro_vae_zoo.inference.precision import PRECISIONS, networks_in
from pyro_vae_zoo.inference.tracing import (
    Compiler,
    Pair,
    TensorPlaces,
    contents,
    inductor,
    numbers_in,
    trace,
)
from pyro_vae_zoo.pair.door import check_scorable
from pyro_vae_zoo.pair.modes import floating_of
from pyro_vae_zoo.pair.sites import ObservedSites

__all__ = ["CompiledELBO", "CompiledTrace_ELBO"]

_DATA = "x"  # among the names of tensors, of which others begin with their side
_SCHEDULED = ("kl_weight", "joint_weight")  # attributes that may change at each step
_MANY = 8  # graphs of one pair, of which something is likely to be wrong


class CompiledELBO(ObjectiveELBO):
    """An objective that is compiled, with its gradients, at its first call.

    Its options are those of the objective: to read or set one here is to do so there. A
    loss is differentiated once, and without `create_graph`.

    Args:
        objective: what is compiled.
        compiler: from a graph and example inputs to what runs it; by default PyTorch's.
        precision: in which networks multiply, `float32` or `bf16`; see `networks_in`.

    Raises:
        UserError: at the first call, where the pair cannot be compiled: its control flow
            depends on values, a run changes a number of its modules, or a site is drawn
            without reparametrisation; at any call, while Pyro's validation is on, for data
            outside the support of the site that observes them.

    >>> loss = CompiledELBO(AnnealedELBO())
    >>> loss.kl_weight = 0.5
    >>> loss.objective.kl_weight
    0.5
    """

    def __init__(
        self,
        objective: ObjectiveELBO,
        *,
        compiler: Compiler | None = None,
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UserError(f"unknown precision {precision!r}; known: {known}")
        # Not by ELBO's `__init__`, whose settings are among those of the objective.
        self.objective = objective
        self.compiler = compiler or inductor
        self.precision = precision
        self._pairs: WeakKeyDictionary = WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        options = vars(self.__dict__["objective"]) if "objective" in vars(self) else {}
        if name in options:
            return options[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        known = vars(self).get("objective")
        target = self if known is None or name not in vars(known) else known
        object.__setattr__(target, name, value)

    def __getstate__(self) -> dict:
        # A copy compiles for itself: graphs can be neither copied nor pickled.
        return {key: value for key, value in self.__dict__.items() if key != "_pairs"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state | {"_pairs": WeakKeyDictionary()}

    def loss_and_elbo(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective to minimise and the plain bound, both summed over the batch."""
        return self._pair(model, guide).step(model, guide, x, self)

    @property
    def scheduled(self) -> dict[str, float | Tensor]:
        """The weights of the objective that may change at each step."""
        names = [name for name in _SCHEDULED if hasattr(self.objective, name)]
        return {name: getattr(self.objective, name) for name in names}

    def prepare(self, model: nn.Module, guide: nn.Module, x: Tensor) -> None:
        """Compile for batches like x now, where that is not done.

        Raises:
            UserError: where the pair cannot be compiled.
        """
        self._pair(model, guide).graph_for(model, guide, x, self)

    def bind(self, model: nn.Module, guide: nn.Module, x: Tensor) -> "BoundGraph":
        """The graph for batches like x, of the pair and with the options as they are now.

        Raises:
            UserError: where the pair cannot be compiled.
        """
        graph, inputs, moved = self._pair(model, guide).graph_for(model, guide, x, self)
        return BoundGraph(graph, list(inputs), list(self.scheduled), moved)

    def kind(self, model: nn.Module, guide: nn.Module, x: Tensor) -> tuple:
        """All that the graph for a batch takes for granted; comparable, of no other use."""
        pair = self._pair(model, guide)
        tensors, _ = pair.inputs(model, guide, x, self)
        return pair.kind(tensors, self)

    def _pair(self, model: nn.Module, guide: nn.Module) -> "_CompiledPair":
        guides = self._pairs.setdefault(model, WeakKeyDictionary())
        if guide not in guides:
            guides[guide] = _CompiledPair(model, guide)
        return guides[guide]

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
        max_plate_nesting: 1, the plate of data.
        vectorize_particles: True; there is no other way.
        precision: in which networks multiply: `float32` or `bf16`.
        options: further ones of `AnnealedELBO`, such as `bound="iwae"`.

    Raises:
        UserError: for another plate nesting; at the first call, where the pair cannot be
            compiled.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8))
    >>> CompiledTrace_ELBO(num_particles=2).objective.num_particles
    2
    """

    def __init__(
        self,
        num_particles: int = 1,
        max_plate_nesting: int = 1,
        *,
        vectorize_particles: bool = True,
        precision: str = "float32",
        **options: Any,
    ) -> None:
        if max_plate_nesting != 1:
            raise UserError(
                "a VAE has one plate: expected max_plate_nesting=1, got "
                f"{max_plate_nesting}"
            )
        if num_particles > 1 and not vectorize_particles:
            raise UserError(
                "particles are drawn in one plate; use vectorize_particles=True"
            )
        super().__init__(AnnealedELBO(num_particles, **options), precision=precision)


class _CompiledPair:
    """The graphs of one pair. It holds its tensors' places, and not the pair itself."""

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        self.graphs: dict[tuple, tuple[Callable, list[str]]] = {}
        self.states: dict[tuple, int] = {}
        self.look(model, guide)

    def look(self, model: nn.Module, guide: nn.Module) -> None:
        """Find the tensors, and number the state that the modules are in."""
        self.places = TensorPlaces(model=model, guide=guide)
        found = tuple(self.places.found)
        self.state = self.states.setdefault(found, len(self.states))

    def inputs(
        self, model: nn.Module, guide: nn.Module, x: Tensor, loss: "CompiledELBO"
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The arguments of a graph: parameters, buffers and data; and weights."""
        if self.places.state() != self.places.found:
            self.look(model, guide)
        dtype = floating_of(x, model, guide)
        weights = {
            name: torch.as_tensor(weight, dtype=dtype, device=x.device)
            for name, weight in loss.scheduled.items()
        }
        return self.places.tensors() | {_DATA: x.contiguous()}, weights

    def kind(self, tensors: dict[str, Tensor], loss: "CompiledELBO") -> tuple:
        """All that a graph takes for granted: another value needs another graph."""
        trained = tuple([name for name, p in tensors.items() if p.requires_grad])
        settings = vars(loss.objective).items()
        options = tuple([_key(v) for k, v in settings if k not in _SCHEDULED])
        shapes = tuple([(p.shape, p.dtype) for p in tensors.values()])
        checked = is_validation_enabled()
        of_pair = self.state, loss.precision, shapes, tensors[_DATA].device
        return trained, checked, options, *of_pair

    def graph_for(
        self, model: nn.Module, guide: nn.Module, x: Tensor, loss: "CompiledELBO"
    ) -> tuple[Callable, Sequence[Tensor], list[Tensor]]:
        """The graph for a batch, compiled where it is the first of its kind.

        With it what to call it with, and the tensors whose gradients it gives: trained
        parameters, and data that want one.
        """
        tensors, weights = self.inputs(model, guide, x, loss)
        kind = self.kind(tensors, loss)
        inputs = [*weights.values(), *(p.detach() for p in tensors.values())]
        if kind not in self.graphs:
            pair = Pair(loss.objective.loss_and_elbo, model, guide)
            trained, checked, *_ = kind
            if checked:
                check_scorable(model, guide, inputs[-1], x.device)
            _check(pair, self.places, inputs[-1])
            step = pair, loss.objective, self.places, trained, list(weights)
            parts = {"model": model, "guide": guide, "objective": loss.objective}
            before = numbers_in(parts)
            with networks_in(loss.precision):
                traced, names = _trace_step(*step, inputs, checked)
            _check_unchanged(before, numbers_in(parts))
            places = [[*weights, *tensors].index(name) for name in names]
            compiled = OwnGradients(loss.compiler(traced, inputs), places)
            self.graphs[kind] = compiled, names
            self._settle(model, guide, kind, x, loss)
        graph, moved = self.graphs[kind]
        return graph, inputs, [tensors[name] for name in moved]

    def _settle(
        self,
        model: nn.Module,
        guide: nn.Module,
        kind: tuple,
        x: Tensor,
        loss: "CompiledELBO",
    ) -> None:
        """Know the graph again where running the pair has changed its attributes."""
        tensors, _ = self.inputs(model, guide, x, loss)
        self.graphs[self.kind(tensors, loss)] = self.graphs[kind]
        if len({id(graph) for graph in self.graphs.values()}) == _MANY:
            warnings.warn(
                f"{_MANY} graphs were compiled for one pair, each for other shapes or "
                "other attributes of modules and objective; make what changes at each "
                "step a buffer, or train without compiling, which is faster then",
                stacklevel=6,
            )

    def step(
        self, model: nn.Module, guide: nn.Module, x: Tensor, loss: CompiledELBO
    ) -> tuple[Tensor, Tensor]:
        """One evaluation, with gradients ready for `backward`."""
        graph, inputs, moved = self.graph_for(model, guide, x, loss)
        value, elbo, *gradients = graph(*inputs)
        if len(gradients) > len(moved) and not gradients.pop():  # it was asked for
            check_scorable(
                model, guide, inputs[-1], x.device
            )  # which says what is wrong
            raise UserError("data outside the support of the likelihood")
        return WithGradients.apply(value, gradients, *moved), elbo

    def announce(self) -> None:
        """State the trained parameters as `pyro.param` does, for who watches."""
        for name, p in self.places.tensors().items():
            if p.requires_grad:
                p.unconstrained = ref(p)  # type: ignore[attr-defined]  # Pyro's own
                _as_param(p)(name, name=name)


def _as_param(p: Tensor) -> Callable[..., Tensor]:
    @effectful(type="param")
    def param(name: str) -> Tensor:
        return p

    return param


def _key(value: Any) -> Any:
    """A key of a value: itself where that can be, else what it holds."""
    try:
        hash(value)
    except TypeError:
        return contents(value)
    return value


def _check(pair: Pair, places: TensorPlaces, x: Tensor) -> None:
    """Run a pair as it is, its buffers kept: what is wrong with it says so here."""
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        tensors = places.tensors().items()
        values = {name: p if p.requires_grad else p.clone() for name, p in tensors}
        pair.call_with(places.by_all_names(values), x)


def _check_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse a pair each run of which changes a number; the first may set some."""
    moved = sorted(name for name, _ in after.items() - before.items() if name in before)
    if moved:
        raise UserError(
            f"the pair cannot be compiled: each run changes {', '.join(moved)}, but a "
            "compiled step does not run this Python; make it a buffer, or train it with "
            "Trace_ELBO (fit: compile=False)"
        )


def _trace_step(
    pair: Pair,
    objective: ObjectiveELBO,
    places: TensorPlaces,
    trained: Sequence[str],
    weights: Sequence[str],
    inputs: Sequence[Tensor],
    checked: bool,
) -> tuple[torch.fx.GraphModule, list[str]]:
    """The graph of loss, bound and gradients, and the names of what has a gradient.

    A last output says, where that is to be checked, whether the data are inside their
    supports.
    """
    names = [*weights, *places.tensors(), _DATA]
    moved: list[str] = []

    def step(*inputs: Tensor) -> list[Tensor]:
        values = dict(zip(names, inputs, strict=True))
        for name in weights:
            setattr(objective, name, values.pop(name))
        wanted = [values[name].requires_grad_() for name in trained]
        x = values.pop(_DATA)
        with torch.enable_grad(), ObservedSites() as observed:
            loss, elbo = pair.call_with(places.by_all_names(values), x)
            gradients: Sequence[Tensor | None] = ()
            if wanted:
                gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        moved[:] = [n for n, g in zip(trained, gradients, strict=True) if g is not None]
        inside = observed.all_inside() if checked else None
        given = [g for g in (*gradients, inside) if g is not None]
        return [loss.detach(), elbo, *given]

    before = {name: getattr(objective, name) for name in weights}
    try:
        return trace(step, inputs, "train it with Trace_ELBO"), moved
    finally:
        for name, value in before.items():
            setattr(objective, name, value)
