"""Builds a VAE: a name or a class of the user's, and its options, to a pair."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast, overload

from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models import registry
from pyro_vae_zoo.models.parts import (
    PLACES,
    Place,
    checked_likelihood,
    custom,
    custom_options,
    own_networks,
    place_name,
    place_options,
    whole,
    with_prior,
)
from pyro_vae_zoo.nn.likelihoods import make_likelihood, sizes_in
from pyro_vae_zoo.nn.options import PairOptions, completed, warn_of_unused
from pyro_vae_zoo.options import plain, sizes_of
from pyro_vae_zoo.pair.door import check_dataset
from pyro_vae_zoo.pair.modes import taking_turns
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "PLACES",
    "PairConfig",
    "create",
    "depth",
    "find_guide",
    "guide_options",
    "options_then",
    "pair_options",
    "place_name",
    "place_options",
]


_GIVEN = ("event_shape", "likelihood", "parts")

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

    guide: (
        str  # a registry name, or `custom:` or `model:` and that of a class or function
    )
    event_shape: list[int]
    likelihood: str
    options: dict[str, Any]
    prior: NotRequired[str]  # where it is not N(0, I)
    encoder: NotRequired[str]
    decoder: NotRequired[str]


def guide_options(guide: str | Callable[..., nn.Module]) -> dict[str, Any]:
    """The options of a guide with their defaults (`inspect.Parameter.empty`: none).

    Those of your own class include the options of the standard model.

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
            sizes = options.get("latent_dims")  # which say how many layers there are
            if symbol == "L" and isinstance(sizes, tuple | list) and sizes:
                return {symbol: len(sizes)}
            return {symbol: options[key]}
    return {}


@overload
def create(
    guide: OneVector | Callable[..., nn.Module],
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: Place = None,
    prior: Place = None,
    encoder: Place = None,
    decoder: Place = None,
    **options: Any,
) -> VAE[Tensor]: ...
@overload
def create(
    guide: SeveralSites,
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: Place = None,
    **options: Any,
) -> VAE[dict[str, Tensor]]: ...
@overload
def create(
    guide: str | None = None,
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: Place = None,
    prior: Place = None,
    encoder: Place = None,
    decoder: Place = None,
    model: Callable[..., VAE] | None = None,
    **options: Any,
) -> VAE[Any]: ...
def create(
    guide: str | Callable[..., nn.Module] | None = None,
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: Place = None,
    prior: Place = None,
    encoder: Place = None,
    decoder: Place = None,
    model: Callable[..., VAE] | None = None,
    **options: Any,
) -> VAE:
    """Build a VAE by the name of its guide, for a data set or for a shape.

    Likelihood, prior, encoder and decoder are each a name, a module, or a class or function
    that makes one: it is called with those of `event_shape`, `latent_dim`, `hidden_dims`,
    `num_params` (of the likelihood) and `guide` that it declares, and with its own options.

    Args:
        guide: a registry name (`zoo.list_guides()`, `zoo.list_density_models()`), or a
            class of your own whose `forward(x)` draws `"z"`, called as
            `guide(event_shape=..., latent_dim=..., hidden_dims=..., **its options)`.
        data: a `zoo.Dataset`; gives `event_shape` and `likelihood`.
        event_shape: shape of one datum, where there is no `data`.
        likelihood: a name of `likelihoods` (without `data` by default `bernoulli`, of a
            density model `gaussian`), or a module that maps the decoder's output,
            `num_params` for each element, to a distribution.
        prior: p(z) of a guide of one vector: `standard` (default), `mixture`, `vamp` or
            `flow`, or a module whose `forward()` gives a distribution over z.
        encoder: of a guide of one vector: a kind of network, or a module that maps
            `(n, *event_shape)` to features `(n, F)`.
        decoder: likewise, from `(n, latent_dim)` to the likelihood's parameters.
        model: in place of a guide, a function that makes the whole VAE; it is called with
            those of `event_shape` and `likelihood` that it declares, and its options.
        options: of the guide and of the other parts; `guide_options(name)` and
            `place_options(what)` list them.

    Raises:
        UserError: for unknown names and options (the message lists the known ones), for
            sizes that are out of range, for parts that do not fit or mix data, and for
            `data` that are no `Dataset`.

    >>> vae = create("planar", event_shape=(8, 8), latent_dim=3, num_flows=1)
    >>> vae.event_shape, vae.config["guide"]
    ((8, 8), 'planar')
    >>> flow = create("iaf", event_shape=(8, 8), prior="flow", prior_num_flows=4)
    >>> flow.config["prior"], flow.config["options"]
    ('flow', {'network': 'gated_mlp', 'prior_num_flows': 4})
    """
    if data is None and event_shape is None:
        raise UserError("create needs a data set or an event_shape, got neither")
    if data is not None:
        check_dataset(data)
    if data is not None and event_shape is None:
        event_shape = data.event_shape
    event_shape = sizes_of(event_shape)
    if data is not None and event_shape != data.event_shape:
        raise UserError(
            f"event_shape={event_shape} is not that of the data, {data.event_shape}; "
            "leave it out"
        )
    asked = likelihood
    if likelihood is None:
        likelihood = (
            _usual_likelihood(guide, model) if data is None else data.likelihood
        )
    if not event_shape:
        raise UserError("event_shape must be one size or more, got none")
    options = {name: plain(value) for name, value in options.items()}
    places = {"prior": prior, "encoder": encoder, "decoder": decoder}
    given = {name: part for name, part in places.items() if part is not None}
    if model is not None:
        if guide is not None or given:
            raise UserError(
                "model= makes the whole VAE: leave out the guide and other parts"
            )
        return whole(model, event_shape, likelihood, options, asked=asked is not None)
    if guide is None:
        raise UserError("create needs a guide or model=, got neither")
    known = guide_options(guide)
    for name in [name for name in given if name in known]:
        options[name] = given.pop(name)  # of a hierarchy, whose priors are its own
    asked_of, options = options, completed(guide, known, options)
    if isinstance(guide, str):  # one of the user's may use what it declares
        taken = {k: v for k, v in given.items() if k in ("encoder", "decoder")}
        warn_of_unused(asked_of, (known | options).get("network"), known, taken)
    prior = given.get("prior")
    given["likelihood"] = likelihood
    if data is not None and isinstance(likelihood, str):
        if sizes := sizes_in(likelihood, 0.0):
            if not sizes.keys() <= options.keys():
                options = sizes_in(likelihood, data.largest) | options
    own = _checked_options(guide, given, options)
    _check_density(guide, data)
    name = place_name(guide)
    try:
        with taking_turns():  # weights are drawn
            vae = _assembled(guide, event_shape, data, given, own)
    except TypeError as error:
        raise UserError(f"guide {name!r} cannot be built: {error}") from error
    if prior == "standard":
        del given["prior"]
    vae.config = {
        "guide": name,
        "event_shape": list(event_shape),
        "options": options,
        **{place: place_name(part) for place, part in given.items()},
    }
    return vae


def _usual_likelihood(
    guide: str | Callable[..., nn.Module] | None, model: Callable[..., VAE] | None
) -> str:
    """What the builder takes where nobody says; `bernoulli` if it does not say either."""
    build: Callable = model if callable(model) else custom
    if isinstance(guide, str):
        build = registry.entry(guide).build
    taken = inspect.signature(build).parameters.get("likelihood")
    usual = None if taken is None else taken.default
    return usual if isinstance(usual, str) else "bernoulli"


def _check_density(guide: str | Callable[..., nn.Module], data: Any) -> None:
    is_density = guide in registry.list_density_models()
    if is_density and data is not None and data.is_quantised():
        raise UserError(
            f"{guide} is a density of real numbers: it would grow without bound at the "
            f"few values of {data.name}; dequantise these grey levels by "
            "zoo.Dataset(..., 'gaussian', logit=0.05)"
        )


def _assembled(
    guide: str | Callable[..., nn.Module],
    event_shape: tuple[int, ...],
    data: Any,
    given: Mapping[str, Place],
    own: Mapping[str, dict[str, Any]],
) -> VAE:
    """The pair of parts and of the options of each."""
    name = place_name(guide)
    pair = _keywords(PairOptions) | own["guide"]
    sizes: dict[str, Any] = {"event_shape": event_shape}
    sizes |= {key: pair[key] for key in ("latent_dim", "hidden_dims")}
    likelihood = given["likelihood"]
    if own["likelihood"] or not isinstance(likelihood, str):
        likelihood = checked_likelihood(likelihood, event_shape, own["likelihood"])
    builder: Callable[..., VAE] = partial(custom, cast(Callable[..., nn.Module], guide))
    takers: tuple[Callable, ...] = (custom,)
    if isinstance(guide, str):
        found = registry.entry(guide)
        builder, takers = found.build, (found.build, *found.options_of)
    networks = {k: given[k] for k in ("encoder", "decoder") if k in given}
    if networks:
        if not any("parts" in inspect.signature(f).parameters for f in takers):
            raise UserError(
                f"{' and '.join(networks)} can be given for guides of one latent "
                f"vector only, and {name!r} is not one; it has networks for each of "
                "its latents"
            )
        if "encoder" in networks and not isinstance(guide, str):
            raise UserError(
                f"the guide {name!r} has an encoder of its own; leave out encoder"
            )
        if "decoder" in networks:
            likelihood = make_likelihood(likelihood, event_shape)
        parts = own_networks(networks, own, sizes, pair, likelihood)
        builder = partial(builder, parts=parts)
    vae = builder(event_shape=event_shape, likelihood=likelihood, **own["guide"])
    if given.get("prior", "standard") == "standard":
        return vae
    return with_prior(vae, name, given["prior"], data, sizes, own["prior"])


def _checked_options(
    guide: str | Callable[..., nn.Module],
    given: Mapping[str, Place],
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The options of guide and other parts, by their owner.

    Raises:
        UserError: for an option that none has or two have, and for a value of another kind.
    """
    owners = {"guide": guide_options(guide)}
    owners |= {place: place_options(part, place) for place, part in given.items()}
    known: dict[str, Any] = {}
    for owner, names in owners.items():
        for name in names:
            if name in known:
                first = next(o for o in owners if name in owners[o])
                raise UserError(
                    f"option {name} belongs to both the {first} and the {owner}; give "
                    "the one of your own part another name"
                )
        known |= names
    for name, value in options.items():
        if name not in known:
            who = place_name(guide).removeprefix("custom:")
            who = repr(who) if isinstance(guide, str) else who
            raise unknown_name(f"option of guide {who}:", name, known)
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise UserError(f"option {name}: expected True or False, got {value!r}")
        no_number = isinstance(value, str | tuple | None) or value != value  # a NaN
        if isinstance(known[name], int | float) and no_number:
            raise UserError(f"option {name}: expected a number, got {value!r}")
        if type(known[name]) is int and isinstance(value, float):
            raise UserError(f"option {name}: expected a whole number, got {value!r}")
        if isinstance(known[name], tuple) and isinstance(value, int | float):
            raise UserError(
                f"option {name} takes a list of numbers: expected ({value},), or with "
                f"a comma '{name}={value},' on the command line, got {value}"
            )
    return {
        o: {k: options[k] for k in names if k in options} for o, names in owners.items()
    }


def pair_options(
    guide: str | Callable[..., nn.Module], **parts: Place
) -> dict[str, Any]:
    """The options of a guide and of what stands in the other places of its pair.

    >>> sorted({*pair_options("iaf", prior="mixture")} - {*guide_options("iaf")})
    ['prior_components']
    """
    found = [place_options(part, place) for place, part in parts.items()]
    return guide_options(guide) | {k: v for of in found for k, v in of.items()}


def options_then(guide: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a stored pair, some of which version 0.1.0 left out."""
    if guide.startswith("model:"):
        return dict(options)
    names = registry.list_guides() + registry.list_density_models()
    known = guide_options(guide) if guide in names else _keywords(PairOptions)
    return completed(guide, known, options, then=True)


def _keywords(builder: Callable) -> dict[str, Any]:
    parameters = inspect.signature(builder).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN
    }


def find_guide(name: str) -> str:
    """The name a guide has in folder and file names."""
    return name.rpartition(":")[2] if ".py:" in name else name
