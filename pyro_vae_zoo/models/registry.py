"""Names -> builders: one dict, filled by the files in `models/`.

A builder takes `event_shape` and `likelihood` and keyword options with defaults and
returns a `VAE`. Its options are read from its signature, so that an unknown one is
an error which lists the known ones.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.pair.modes import taking_turns
from pyro_vae_zoo.options import count, plain
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "create",
    "depth",
    "guide_options",
    "list_density_models",
    "list_guides",
    "register",
    "register_custom",
    "with_options_of",
]

_BUILDERS: dict[str, Callable[..., VAE]] = {}
_DENSITY_MODELS: set[str] = set()  # names in `_BUILDERS` that are no guides
_CUSTOM: dict[str, Callable] = {}  # how a class of the user's own becomes a VAE
_GIVEN = ("event_shape", "likelihood")


def register(
    name: str, *, kind: str = "guide"
) -> Callable[[Callable[..., VAE]], Callable[..., VAE]]:
    """Decorator that enters a builder under `name`; a second one is an error.

    `kind` is `guide`, or `density` for what is listed by `list_density_models`.

    Raises:
        UserError: for a name that is taken, and for another kind.

    >>> try:
    ...     register("iaf")(create)
    ... except UserError as error:
    ...     print(error)
    a guide named 'iaf' is registered already
    """
    if kind not in ("guide", "density"):
        raise unknown_name("kind", kind, ("guide", "density"))

    def enter(builder: Callable[..., VAE]) -> Callable[..., VAE]:
        if name in _BUILDERS:
            raise UserError(f"a guide named {name!r} is registered already")
        _BUILDERS[name] = builder
        if kind == "density":
            _DENSITY_MODELS.add(name)
        return builder

    return enter


def with_options_of(
    base: Callable[..., VAE],
) -> Callable[[Callable[..., VAE]], Callable[..., VAE]]:
    """Decorator for a builder that hands `**options` on to `base`: says which these are.

    The registry reads a guide's options off its signature, which then holds those of
    `base` and the builder's own.
    """

    def enter(builder: Callable[..., VAE]) -> Callable[..., VAE]:
        kinds = inspect.Parameter
        given = inspect.signature(base).parameters.values()
        own = inspect.signature(builder).parameters.values()
        own = [p for p in own if p.kind is not kinds.VAR_KEYWORD]
        builder.__signature__ = inspect.Signature(
            [p for p in given if p.kind is kinds.KEYWORD_ONLY] + own
        )
        return builder

    return enter


def register_custom(
    build: Callable[..., VAE], options: Callable[..., dict[str, Any]]
) -> None:
    """Say how a user's class is built, `build(cls, ...)`, and what its options are."""
    _CUSTOM.update(build=build, options=options)


def list_guides() -> list[str]:
    """Registry names of all pairs, in alphabetical order.

    >>> "iaf" in list_guides()
    True
    """
    return sorted(_BUILDERS.keys() - _DENSITY_MODELS)


def list_density_models() -> list[str]:
    """Registry names of the density models, which `create` builds like a guide.

    >>> list_density_models()
    ['maf', 'self_reflective_maf']
    """
    return sorted(_DENSITY_MODELS)


def guide_options(guide: str | Callable[..., nn.Module]) -> dict[str, Any]:
    """The options of a guide with their defaults (`inspect.Parameter.empty`: none).

    For a class of the user's own, the options of the standard model come with it.

    >>> guide_options("iaf")["num_flows"]
    2
    """
    if isinstance(guide, str):
        return _keywords(_builder(guide))
    return _CUSTOM["options"](guide)


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
    if guide in _DENSITY_MODELS and data is not None and data.is_quantised():
        raise UserError(
            f"{guide} is a density of real numbers, which grey levels have none of: it "
            f"would grow without bound at the few values of {data.name}; dequantise "
            "them with zoo.Dataset(..., 'gaussian', logit=0.05)"
        )
    if isinstance(guide, str):
        name, builder = guide, _builder(guide)
    else:
        name, builder = f"custom:{guide.__name__}", partial(_CUSTOM["build"], guide)
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


def _builder(name: str) -> Callable[..., VAE]:
    if name not in _BUILDERS:
        raise unknown_name("guide", name, list_guides() + list_density_models())
    return _BUILDERS[name]


def _keywords(builder: Callable) -> dict[str, Any]:
    parameters = inspect.signature(builder).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN
    }
