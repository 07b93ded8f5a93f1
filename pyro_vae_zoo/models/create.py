"""Builds a VAE: a name or a class of the user's, and its options, to a pair."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, TypeAlias, overload

from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models import registry
from pyro_vae_zoo.models.options import PairOptions
from pyro_vae_zoo.models.priors import PRIORS, check_prior
from pyro_vae_zoo.models.standard import StandardModel, standard_model
from pyro_vae_zoo.options import count, declared, plain
from pyro_vae_zoo.pair.modes import taking_turns
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "PLACES",
    "PairConfig",
    "create",
    "depth",
    "find_guide",
    "guide_options",
    "pair_options",
    "place_name",
    "place_options",
]


# What stands in a place: a name of the zoo, a module, or what makes one.
Place: TypeAlias = str | nn.Module | Callable[..., nn.Module] | None

PLACES = ("prior",)  # of which `create` has keywords, configurations have names

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
    prior: NotRequired[str]  # where it is not N(0, I)


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
    prior: Place = None,
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
    prior: Place = None,
    **options: Any,
) -> VAE[Any]: ...
def create(
    guide: str | Callable[..., nn.Module],
    data: Any = None,
    *,
    event_shape: Sequence[int] | None = None,
    likelihood: str | None = None,
    prior: Place = None,
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
        prior: p(z) of a guide of one vector: `standard` (default), `mixture`, `vamp` or
            `flow`; a module whose `forward()` gives a distribution over z, or what makes
            one, called with `latent_dim` and its own options.
        options: the guide's options, which `guide_options(name)` lists, and the prior's,
            which `place_options(prior)` does.

    Raises:
        UserError: for unknown names and options (the message lists the known ones)
            and for sizes that are out of range.

    >>> vae = create("planar", event_shape=(8, 8), latent_dim=3, num_flows=1)
    >>> vae.event_shape, vae.config["guide"]
    ((8, 8), 'planar')
    >>> flow = create("iaf", event_shape=(8, 8), prior="flow", prior_num_flows=4)
    >>> flow.config["prior"], flow.config["options"]
    ('flow', {'prior_num_flows': 4})
    """
    if data is None and event_shape is None:
        raise UserError("create needs a data set or an event_shape; got neither")
    event_shape = data.event_shape if event_shape is None else event_shape
    event_shape = tuple(count("event_shape", size) for size in plain(event_shape))
    if likelihood is None:
        likelihood = "bernoulli" if data is None else data.likelihood
    if not event_shape or min(event_shape) < 1:
        raise UserError(f"event_shape must be positive sizes, got {event_shape}")
    options = {name: plain(value) for name, value in options.items()}
    of_prior = place_options(prior)
    _check_options(guide, guide_options(guide), of_prior, options)
    own = {name: v for name, v in options.items() if name not in of_prior}
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
            vae = builder(event_shape=event_shape, likelihood=likelihood, **own)
            if prior not in (None, "standard"):
                given = {k: v for k, v in options.items() if k in of_prior}
                vae = _with_prior(vae, name, prior, data, given)
    except TypeError as error:
        raise UserError(f"guide {name!r} cannot be built so: {error}") from error
    vae.config = {
        "guide": name,
        "event_shape": list(event_shape),
        "likelihood": likelihood,
        "options": options,
    }
    if prior not in (None, "standard"):
        vae.config["prior"] = place_name(prior)
    return vae


def _check_options(
    guide: str | Callable[..., nn.Module],
    known: Mapping[str, Any],
    of_prior: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Refuse options that neither guide nor prior has, and values of another kind."""
    if both := sorted({*known} & {*of_prior}):
        raise UserError(
            f"option {both[0]} is one of the guide's and of the prior's; give that of your "
            "own another name"
        )
    known = {**known, **of_prior}
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


def pair_options(
    guide: str | Callable[..., nn.Module], prior: Place = None
) -> dict[str, Any]:
    """The options of a guide and of what stands in the other places of its pair.

    >>> sorted({*pair_options("iaf", prior="mixture")} - {*guide_options("iaf")})
    ['prior_components']
    """
    return guide_options(guide) | place_options(prior)


def place_options(place: Place) -> dict[str, Any]:
    """The options of what stands in a place, with their defaults.

    >>> place_options("mixture")
    {'prior_components': 50}
    """
    made_by = _maker(place)
    if made_by is None or isinstance(made_by, nn.Module):
        return {}
    parameters = inspect.signature(made_by).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in _SIZES}


def place_name(place: Place) -> str:
    """The name of what stands in a place, as configurations have it."""
    if isinstance(place, str):
        return place
    name = getattr(place, "__name__", type(place).__name__)
    return f"custom:{name}"


_SIZES = ("event_shape", "latent_dim", "hidden_dims", "guide")


def _maker(place: Place) -> nn.Module | Callable[..., nn.Module] | None:
    if not isinstance(place, str):
        return place
    if place not in PRIORS:
        raise unknown_name("prior", place, PRIORS)
    return PRIORS[place]


def _with_prior(
    vae: VAE, guide: str, prior: Place, data: Any, options: dict[str, Any]
) -> VAE:
    """The pair with another prior; its guide stays."""
    model, made_by = vae.model, _maker(prior)
    if not isinstance(model, StandardModel):
        raise UserError(
            f"a prior is a place of guides of one latent vector, and {guide!r} is none; "
            "its model has the priors of its own latents"
        )
    if made_by is None or isinstance(made_by, nn.Module):
        module = made_by
    else:
        sizes = {
            "event_shape": vae.event_shape,
            "latent_dim": model.latent_dim,
            "guide": vae.guide,
        }
        declared_ones = inspect.signature(made_by).parameters
        asked = {k: v for k, v in sizes.items() if k in declared_ones}
        try:
            module = made_by(**asked, **options)
        except UserError as error:
            raise UserError(f"guide {guide!r}: {error}") from error
    if hasattr(module, "guide") and any(p.modules is not None for p in vae.phases):
        raise UserError(
            f"guide {guide!r}: the prior {prior!r} is made of the guide, whose parts are "
            "trained by turns, and would move those whose turn it is not; choose another"
        )
    if not isinstance(module, nn.Module):
        raise UserError(f"expected a prior, an nn.Module, got {type(module).__name__}")
    model.prior = module
    start_at = getattr(module, "start_at", None)
    if data is not None and callable(start_at):
        start_at(data.epoch(0, 0))
    # Anew: each module of a pair has a name in Pyro's store, and takes it before it runs.
    pair = model, vae.guide, vae.event_shape
    vae = VAE(*pair, phases=vae.phases, monitor=vae.monitor)
    check_prior(module, model.latent_dim)
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


def find_guide(name: str) -> str:
    """The name a guide has in folder and file names."""
    return name.rpartition(":")[2] if ".py:" in name else name
