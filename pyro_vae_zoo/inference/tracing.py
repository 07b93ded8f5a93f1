r"""Functions of modules and tensors as graphs, and the compilers that run them.

`trace` records what a function does to its tensors, PyTorch's inductor turns the record
into compiled code. What a function does besides, in Python, happens once, while it is
traced: a graph has no `if` and no distribution in it.
"""

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
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

from pyro_vae_zoo.errors import UserError, message_of
from pyro_vae_zoo.inference.elementwise import QUICK

__all__ = [
    "Compiler",
    "Pair",
    "TensorPlaces",
    "contents",
    "inductor",
    "numbers_in",
    "trace",
]

# From a graph and what it will be called with to what computes it.
Compiler = Callable[[torch.fx.GraphModule, Sequence[Tensor]], Callable]

_READS_A_VALUE = (torch.ops.aten._local_scalar_dense.default,)


def inductor(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable:
    """The graph by PyTorch's compiler, drawing the random numbers of eager PyTorch.

    Args:
        graph: what `trace` recorded.
        inputs: whose shapes and types it is compiled for.

    Raises:
        UserError: where the graph cannot be compiled, as without a C++ compiler.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # Of PyTorch about its own compiler.
        warnings.filterwarnings("ignore", module="torch")
        try:
            return torch._inductor.compile(
                graph, list(inputs), options={"fallback_random": True}
            )
        except Exception as error:  # there is no end to how a compiler can fail
            raise UserError(
                f"PyTorch could not compile the graph: {message_of(error)}"
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
        # Tied weights are there by all their names, a shared module by one of its own.
        return functional_call(self, values, inputs, tie_weights=False)


class TensorPlaces:
    """The places of the parameters and buffers of modules, which it does not hold.

    Attributes:
        found: the `state` of the modules when the places were found.
    """

    def __init__(self, **roots: nn.Module) -> None:
        tree = nn.ModuleDict(roots)
        self._modules: list[tuple[ref, itemgetter, list[str]]] = []
        self._places, self._aliases = {}, {}
        names: dict[int, str] = {}  # of tensors, by identity
        for path, module in tree.named_modules():
            if module is tree:
                continue
            attributes = vars(module).items()
            plain = [name for name, value in attributes if _is_plain(value)]
            several = [name for name, value in attributes if _is_several(name, value)]
            self._modules.append((ref(module), itemgetter(*plain), several))
            for tensors in (module._parameters, module._buffers):
                for key, value in tensors.items():
                    name = f"{path}.{key}"
                    if value is None:
                        continue
                    if id(value) in names:  # weights that two modules share
                        self._aliases[name] = names[id(value)]
                        continue
                    names[id(value)] = name
                    self._places[name] = tensors, key
        self.found = self.state()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors as they are now, each by one name."""
        return {name: t[key] for name, (t, key) in self._places.items()}

    def by_all_names(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values with those that modules share under each of their names."""
        aliases = self._aliases.items()
        return values | {alias: values[name] for alias, name in aliases}

    def state(self) -> list:
        """All that a graph takes from the modules besides tensors; empty if one is gone.

        Which modules and parameters there are, training mode, and attributes that are
        numbers, words, or tuples, lists and dictionaries of them. Asked for at each step,
        and quick for that.
        """
        state: list[Any] = []
        try:
            for reference, plain, several in self._modules:
                module = reference()
                attributes = module.__dict__
                state.append(type(module))  # ids of modules that are gone come again
                state += plain(attributes)
                state += [contents(attributes[name]) for name in several]
                state.append(len(attributes))
                state += map(id, attributes["_modules"].values())
                state += map(id, attributes["_parameters"].values())
                state += attributes["_buffers"]
        except (AttributeError, KeyError):  # a module or an attribute is gone
            return []
        return state


_PLAIN = frozenset((bool, int, float, str, type(None)))
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # as its hooks, in dictionaries


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(type(part) in _PLAIN for part in value)
    return type(value) in _PLAIN


def _is_several(name: str, value: Any) -> bool:
    """True for numbers in a list or dictionary; not for a cache that holds more."""
    several = type(value) in (list, dict) and name not in _OF_EVERY_MODULE
    return several and _holds_plain(value)  # else it may not be for Python to compare


def _holds_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(map(_holds_plain, value.values()))
    if type(value) in (list, tuple):
        return all(map(_holds_plain, value))
    return type(value) in _PLAIN


def contents(value: Any) -> Any:
    """The numbers and words that a value holds, comparable; of all else, its identity.

    >>> contents({"scales": [1.0, 2.0]})
    (('scales', (1.0, 2.0)),)
    """
    if type(value) in _PLAIN:
        return value
    if type(value) is dict:
        return tuple([(key, contents(part)) for key, part in value.items()])
    if type(value) in (list, tuple):
        return tuple([p if type(p) in _PLAIN else contents(p) for p in value])
    return id(value)


def numbers_in(parts: dict[str, object]) -> dict[str, Any]:
    """The numbers and words among the attributes of modules and other objects, by name.

    >>> numbers_in({"layer": nn.Sequential(nn.Linear(2, 3))})["layer.0.out_features"]
    3
    """
    found: dict[str, Any] = {}
    for key, part in parts.items():
        owners: Iterable[tuple[str, object]] = [(key, part)]
        if isinstance(part, nn.Module):
            owners = part.named_modules(prefix=key)
        for path, owner in owners:
            for name, value in vars(owner).items():
                if _is_plain(value) or _is_several(name, value):
                    found[f"{path}.{name}"] = contents(value)
    return found


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
            _no_collection(),
            pyro.validation_enabled(False),
            pyro.settings.context(module_local_params=True),
        ):
            graph = make_fx(function, QUICK, tracing_mode="fake")(*inputs)
    except UserError:
        raise
    except Exception as error:  # the pair runs as it is: what fails here is the tracing
        if isinstance(error, _data_dependent()):
            raise _depends_on_values(f"{last.where} its", advice) from error
        if "FakeTensor" in str(error) and isinstance(error, AssertionError):
            what = (
                "it uses a tensor that is neither a parameter nor a buffer, so the "
                "graph would not see it change; register it as a buffer"
            )
        else:
            what = f"its Python code needs values ({message_of(error)}); {advice}"
        raise UserError(f"the pair cannot be compiled: {last.where} {what}") from error
    if any(node.target in _READS_A_VALUE for node in graph.graph.nodes):
        raise _depends_on_values("its", advice)
    return graph


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's cyclic garbage collector off.

    A collection clears weak references to tensors of a cycle that autograd still holds.
    By these PyTorch (2.6) knows the tensors of a graph, and makes a constant of one that
    it does not know.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _data_dependent() -> tuple[type[Exception], ...]:
    """The errors of tracing where Python asks for a value."""
    # Imported here, since it brings in sympy and with it most of a second.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    return (
        DataDependentOutputException,
        DynamicOutputShapeException,
        GuardOnDataDependentSymNode,
    )


def _depends_on_values(where: str, advice: str) -> UserError:
    return UserError(
        f"the pair cannot be compiled: {where} control flow depends on values (an `if` on "
        f"a tensor, `.item()`, a mask as an index); {advice}"
    )


class _LastSite(Messenger):
    """Remembers the name of the last sample site."""

    def __init__(self) -> None:
        super().__init__()
        self.name: str | None = None

    @property
    def where(self) -> str:
        """The place that a run has come to, in words."""
        return f"after site {self.name!r}" if self.name else "before the first site"

    def _pyro_post_sample(self, msg: dict) -> None:
        self.name = msg["name"]
