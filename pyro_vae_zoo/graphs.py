r"""Functions of modules and tensors as graphs, and the compilers that run them.

`trace` records what a function does to its tensors, PyTorch's inductor turns the record
into compiled code. What a function does besides, in Python, happens once, while it is
traced: a graph has no `if` and no distribution in it.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.products import choose_products

__all__ = ["Compiler", "Inductor", "Pair", "TensorPlaces", "trace"]

# From a graph and what it will be called with to what computes it.
Compiler = Callable[[torch.fx.GraphModule, Sequence[Tensor]], Callable]

_DATA_DEPENDENT = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
)


class Inductor:
    """PyTorch's compiler, drawing the random numbers that eager PyTorch draws.

    On a CPU each matrix product is computed by the library that is the faster one for its
    shape, oneDNN or PyTorch's BLAS, as measured when a graph is compiled. The choice
    changes the last bits of a result.

    Args:
        products: choices that were made before, by shape; new ones are added to it.

    Raises:
        UserError: where the graph cannot be compiled, as without a C++ compiler.
    """

    def __init__(self, products: dict[str, str] | None = None) -> None:
        self.products = {} if products is None else products

    def __call__(
        self, graph: torch.fx.GraphModule, inputs: Sequence[Tensor]
    ) -> Callable:
        """The graph, compiled for tensors of the shapes and types of `inputs`."""
        choose_products(graph, self.products)
        with warnings.catch_warnings(), torch.no_grad():
            # Of PyTorch about its own compiler.
            warnings.filterwarnings("ignore", module="torch")
            try:
                return torch._inductor.compile(
                    graph, list(inputs), options={"fallback_random": True}
                )
            except RuntimeError as error:  # there are many, of one root
                raise UserError(
                    f"PyTorch could not compile the graph: {str(error).split(chr(10))[0]}"
                ) from error


class Pair(nn.Module):
    """A function of both sides as one module, to be called with other tensors.

    Args:
        function: called with the model, the guide and what the module is called with.
        model: p.
        guide: q.
    """

    def __init__(self, function: Callable, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.model = model
        self.guide = guide

    def forward(self, *inputs: Any) -> Any:
        """The function's value."""
        return self.function(self.model, self.guide, *inputs)

    def call_with(self, values: dict[str, Tensor], *inputs: Any) -> Any:
        """The value for these tensors in place of the parameters and buffers."""
        # A shared module is there under one of its names: none is to be tied to others.
        return functional_call(self, values, inputs, tie_weights=False)


class TensorPlaces:
    """Where the parameters and buffers of some modules are; it does not hold the modules.

    Attributes:
        modules: weak references to all of them.
    """

    def __init__(self, **roots: nn.Module) -> None:
        tree = nn.ModuleDict(roots)
        self.modules = []
        self._places, seen = {}, set()
        for path, module in tree.named_modules():
            if module is tree:
                continue
            self.modules.append(ref(module))
            for tensors in (module._parameters, module._buffers):
                for key, value in tensors.items():
                    if value is not None and id(value) not in seen:
                        seen.add(id(value))  # what both sides use counts once
                        self._places[f"{path}.{key}"] = tensors, key
        self._size = self._count()

    def _count(self) -> int:
        return sum(len(tensors) for tensors, _ in self._places.values())

    @property
    def outdated(self) -> bool:
        """Whether a tensor was added or taken away since."""
        return self._count() != self._size

    def tensors(self) -> dict[str, Tensor]:
        """The tensors as they are now, by name."""
        return {name: t[key] for name, (t, key) in self._places.items()}

    def modes(self) -> tuple[bool, ...]:
        """Which modules are in training mode."""
        return tuple([module().training for module in self.modules if module()])


def trace(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], advice: str
) -> torch.fx.GraphModule:
    """The graph of a function of tensors that runs Pyro's models, without values.

    Args:
        function: from tensors to tensors.
        inputs: such as it will be called with.
        advice: the end of an error's message: what to do instead.

    Raises:
        UserError: for control flow that depends on values, and for tensors that are not
            among the inputs; names the sample site before it.
    """
    last = _LastSite()
    try:
        with (
            pyro.poutine.block(),  # who watches is not to see tensors without values
            last,
            pyro.validation_enabled(False),
            pyro.settings.context(module_local_params=True),
        ):
            return make_fx(function, tracing_mode="fake")(*inputs)
    except _DATA_DEPENDENT as error:
        raise UserError(
            f"the pair cannot be compiled: after site {last.name!r} its control flow "
            "depends on values (an `if` on a tensor, `.item()`, a mask as an index); "
            f"{advice}"
        ) from error
    except AssertionError as error:
        if "FakeTensor" not in str(error):
            raise
        raise UserError(
            f"the pair cannot be compiled: after site {last.name!r} it uses a tensor that "
            "is neither a parameter nor a buffer, and that a graph would hold as it is "
            "now; register it as a buffer"
        ) from error


class _LastSite(Messenger):
    """Remembers the name of the last sample site."""

    def __init__(self) -> None:
        super().__init__()
        self.name: str | None = None

    def _pyro_post_sample(self, msg: dict) -> None:
        self.name = msg["name"]
