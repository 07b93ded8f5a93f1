"""Builds a VAE: a name or a class of the user's, and its options, to a pair."""

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, overload

from torch import Tensor, nn
from typing_extensions import TypedDict

from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models import registry
from pyro_vae_zoo.models.options import PairOptions
from pyro_vae_zoo.models.standard import standard_model
from pyro_vae_zoo.options import count, declared, plain
from pyro_vae_zoo.pair.modes import taking_turns
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "PairConfig",
    "create",
    "depth",
    "find_guide",
    "guide_options",
    "resolve_guide",
]


_GIVEN = ("event_shape", "likelihood")

# For type checkers: guides whose VAEs encode to one vector, and those of several sites.
OneVector = Literal[
    "mean_field", "full_rank", "mixture", "recursive_mixture", "boosted", "semi_amortized",
    "planar", "radial", "householder", "affine_autoregressive", "iaf", "affine_coupling",
    "sylvester_orthogonal", "sylvester_householder", "sylvester_triangular",
    "neural_autoregressive", "spline_coupling",
]  # fmt: skip
SeveralSites = Literal[
    "bottom_up", "ladder", "self_reflective", "self_reflective_iaf", "gated_dag",
    "gated_dag_iaf", "maf", "self_reflective_maf",
]  # fmt: skip


class PairConfig(TypedDict):
    """The arguments of `create` that built a pair, stored with its weights."""

    guide: str  # a registry name, or `custom:` and that of a class
    event_shape: list[int]
    likelihood: str
    options: dict[str, Any]


def guide_options(guide: str | Callable[..., nn.Module]) -> dict[str, Any]:
    """The options of a guide with their defaults (`inspect.Parameter.empty`: none).

    For a class of the user's own, the options of the standard model come with it.

    >>> guide_options("iaf")["num_flows"]
    2
    """
    if isinstance(guide, str):
        found = registry.entry(guide)
        options: dict[str, Any] = {}
        for function in (*found.options_of, found.build):
            options |= _keywords(function)
        return options
    return custom_options(guide)


def depth(options: Mapping[str, Any]) -> dict[str, int]:
    """Layers L, nodes N, mixture components M or flows K, as titles and tables name them.

    >>> depth(guide_options("iaf")), depth(guide_options("mean_field"))
    ({'K': 2}, {})
    """
    keys = {
        "L": "num_layers",
        "N": "num_nodes",
        "M": "num_components",
        "K": "num_flows",
    }
    for symbol, key in keys.items():
        if key in options:
            return {symbol: options[key]}
    return {}


@overload
def create(
    guide: OneVector | Callable[..., nn.Module],
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: str | None = None,
    **options: Any,
) -> VAE[Tensor]: ...
@overload
def create(
    guide: SeveralSites,
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: str | None = None,
    **options: Any,
) -> VAE[dict[str, Tensor]]: ...
@overload
def create(
    guide: str,
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: str | None = None,
    **options: Any,
) -> VAE[Any]: ...
def create(
    guide: str | Callable[..., nn.Module],
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: str | None = None,
    **options: Any,
) -> VAE:
    """Build a VAE by the name of its guide, for a data set or for a shape.

    Args:
        guide: a registry name (`zoo.list_guides()`, `zoo.list_density_models()`), or a
            class of your own whose `forward(x)` draws `"z"`, called as
            `guide(event_shape=..., latent_dim=..., hidden_dims=..., **its options)`.
        data: a `zoo.Dataset`; gives `event_shape` and `likelihood`.
        event_shape: shape of one datum, where there is no `data`.
        likelihood: `bernoulli` (default), `gaussian` or `discretized_logistic`.
        options: the guide's options; `guide_options(name)` lists them.

    Raises:
        UserError: for unknown names and options (the message lists the known ones)
            and for sizes that are out of range.

    >>> vae = create("planar", event_shape=(8, 8), latent_dim=3, num_flows=1)
    >>> vae.event_shape, vae.config["guide"]
    ((8, 8), 'planar')
    """
    if data is None and event_shape is None:
        raise UserError("create needs a data set or an event_shape; got neither")
    event_shape = data.event_shape if event_shape is None else event_shape
    event_shape = tuple(count("event_shape", size) for size in plain(event_shape))
    if likelihood is None:
        likelihood = "bernoulli" if data is None else data.likelihood
    if not event_shape or min(event_shape) < 1:
        raise UserError(f"event_shape must be positive sizes, got {event_shape}")
    known = guide_options(guide)
    options = {name: plain(value) for name, value in options.items()}
    for name, value in options.items():
        if name not in known:
            who = repr(guide) if isinstance(guide, str) else guide.__name__
            raise unknown_name(f"option of guide {who}", name, known)
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise UserError(f"option {name}: expected True or False, got {value!r}")
        if isinstance(known[name], int | float) and isinstance(value, str | tuple):
            raise UserError(f"option {name}: expected a number, got {value!r}")
        if type(known[name]) is int and isinstance(value, float):
            raise UserError(f"option {name}: expected a whole number, got {value!r}")
        if isinstance(known[name], tuple) and isinstance(value, int | float):
            raise UserError(
                f"option {name} takes one number or several, with commas: expected "
                f"({value},), on the command line {name}={value}, got {value}"
            )
    is_density = guide in registry.list_density_models()
    if is_density and data is not None and data.is_quantised():
        raise UserError(
            f"{guide} is a density of real numbers, which grey levels have none of: it "
            f"would grow without bound at the few values of {data.name}; dequantise "
            "them with zoo.Dataset(..., 'gaussian', logit=0.05)"
        )
    if isinstance(guide, str):
        name, builder = guide, registry.entry(guide).build
    else:
        name, builder = f"custom:{guide.__name__}", partial(custom, guide)
    try:
        with taking_turns():  # weights are drawn
            vae = builder(event_shape=event_shape, likelihood=likelihood, **options)
    except TypeError as error:
        raise UserError(f"guide {name!r} cannot be built so: {error}") from error
    vae.config = {
        "guide": name,
        "event_shape": list(event_shape),
        "likelihood": likelihood,
        "options": options,
    }
    return vae


def _keywords(builder: Callable) -> dict[str, Any]:
    parameters = inspect.signature(builder).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN
    }


_GUIDE_ARGUMENTS = ("event_shape", "latent_dim", "hidden_dims")


def custom_options(guide: Callable[..., nn.Module]) -> dict[str, Any]:
    """Options of the standard model and those a user's guide declares for itself."""
    parameters = inspect.signature(guide).parameters.values()
    own = {p.name: p.default for p in parameters if p.name not in _GUIDE_ARGUMENTS}
    return _keywords(PairOptions) | own


def custom(
    guide: Callable[..., nn.Module],
    *,
    event_shape: Sequence[int],
    likelihood: str,
    **options: Any,
) -> VAE:
    """The standard model with a user's guide, built as the command line builds it.

    `guide` is called with `event_shape`, `latent_dim` and `hidden_dims`, and with
    those of `options` that it declares; `create` has checked their names.
    """
    names = [option.name for option in declared(PairOptions)]
    pair = PairOptions(**{name: options.pop(name) for name in names if name in options})
    model = standard_model(event_shape, likelihood, **asdict(pair))
    q = guide(
        event_shape=tuple(event_shape),
        latent_dim=pair.latent_dim,
        hidden_dims=pair.hidden_dims,
        **options,
    )
    return VAE(model, q, event_shape)


def resolve_guide(text: str) -> str | Callable[..., nn.Module]:
    """A registry name as it is, `FILE.py:Class` as the class in that file.

    Raises:
        UserError: for a file or a class that is not there, or does not import.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        if text.endswith(".py"):
            raise UserError(f"expected FILE.py:Class, got {text!r}: which class in it?")
        return text
    if not os.path.isfile(path):
        raise UserError(f"expected a guide in {path}; there is no such file")
    module = _import_file(path)
    if not hasattr(module, name):
        known = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{path} has no {name!r}; it has {', '.join(known)}")
    return getattr(module, name)


def _import_file(path: str) -> ModuleType:
    """Run a file as a module, beside which it may import others."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # of a file that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    known, search = sys.modules.get(name), list(sys.path)
    sys.modules[name] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code may raise
        raise UserError(f"{path} does not import: {error!r}") from error
    finally:
        sys.path[:] = search
        if known is not None:
            sys.modules[name] = known
    return module


def find_guide(name: str) -> str:
    """The name a guide has in folder and file names."""
    return name.rpartition(":")[2] if ".py:" in name else name
