"""What a user may put in the places of a pair: guide, prior, likelihood, encoder, decoder.

A part is a name, a module, or a class or function that makes a module. `create` makes a
pair of what these functions make, or takes a whole pair from a function.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, TypeAlias, cast

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from pyro_vae_zoo.data.streamed.rows import some
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.models.priors import PRIORS, check_prior
from pyro_vae_zoo.models.standard import Parts, StandardModel, standard_model
from pyro_vae_zoo.nn.likelihoods import LIKELIHOODS, check_likelihood, make_likelihood
from pyro_vae_zoo.nn.names import NETWORKS
from pyro_vae_zoo.nn.networks import make_decoder, make_encoder
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.nn.own import own_decoder, own_encoder
from pyro_vae_zoo.pair.modes import taking_turns
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "PLACES",
    "Place",
    "checked_likelihood",
    "custom",
    "custom_options",
    "own_networks",
    "own_options",
    "place_name",
    "place_options",
    "whole",
    "whole_options",
    "with_prior",
]

# What stands in a place: a name of the zoo, a module, or what makes one.
Place: TypeAlias = str | nn.Module | Callable[..., nn.Module] | None

_ENOUGH = 10_000  # data that are not in memory, to start at some of them

# Of which `create` has keywords, and configurations have names.
PLACES = ("prior", "likelihood", "encoder", "decoder")


def place_options(part: Place, place: str = "prior") -> dict[str, Any]:
    """The options of a part, such as a prior, with their defaults.

    >>> place_options("mixture")
    {'prior_components': 50}
    >>> place_options("binomial", "likelihood")
    {'total_count': None}
    """
    maker = _maker(place, part)
    if maker is None or isinstance(maker, nn.Module):
        return {}
    return own_options(maker, _SIZES)


def own_options(make: Callable, given: Sequence[str]) -> dict[str, Any]:
    """The options of what makes a part, with their defaults: its arguments but the given.

    >>> own_options(lambda latent_dim, width=5, **more: None, ["latent_dim"])
    {'width': 5}
    """
    parameters = inspect.signature(make).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: p.default for p in named if p.name not in given}


def place_name(part: Place) -> str:
    """The name of what stands in a place, as configurations have it."""
    if isinstance(part, str):
        return part
    return f"custom:{getattr(part, '__name__', type(part).__name__)}"


_SIZES = ("event_shape", "latent_dim", "hidden_dims", "num_params", "guide")


def _maker(place: str, part: Place) -> nn.Module | Callable[..., nn.Module] | None:
    """The module that stands in a place, or what makes it; None for a kind of network."""
    if not isinstance(part, str):
        _check_maker(place, part)
        return part
    if place in ("encoder", "decoder"):
        if part not in NETWORKS:
            raise unknown_name(place, part, NETWORKS)
        return None
    known: Mapping[str, Any] = PRIORS if place == "prior" else LIKELIHOODS
    if part not in known:
        raise unknown_name(place, part, known)
    return known[part]


def _check_maker(place: str, part: Any) -> None:
    if not callable(part):
        raise UserError(
            f"expected the {place} as a name, a module, or a class or function that makes "
            f"one, got {part!r}"
        )


def with_prior(
    vae: VAE,
    guide: str,
    prior: Place,
    data: Any,
    sizes: Mapping[str, Any],
    own: Mapping[str, Any],
) -> VAE:
    """The pair with another prior; its guide stays."""
    model = vae.model
    if not isinstance(model, StandardModel):
        raise UserError(
            "a prior can be chosen for guides of one latent vector only, and "
            f"{guide!r} is not one; its model has priors of its own; leave out prior"
        )
    try:
        module = _made("prior", prior, {**sizes, "guide": vae.guide}, own)
    except UserError as error:
        raise UserError(f"guide {guide!r}: {error}") from error
    if hasattr(module, "guide") and any(p.modules is not None for p in vae.phases):
        raise UserError(
            f"guide {guide!r}: the prior {prior!r} contains the guide, whose parts are "
            "trained in turn, so that it would train parts out of turn; choose another "
            "prior"
        )
    model.prior = module
    start_at = getattr(module, "start_at", None)
    if data is not None and callable(start_at):
        start_at(some(data.epoch(0, 0), _ENOUGH))
    # Anew: each module of a pair has a name in Pyro's store, and takes it before it runs.
    vae = VAE(
        *(model, vae.guide, vae.event_shape),
        phases=vae.phases,
        clip_norm=vae.clip_norm,
        monitor=vae.monitor,
    )
    check_prior(module, model.latent_dim)
    return vae


def own_networks(
    networks: Mapping[str, Place],
    own: Mapping[str, dict[str, Any]],
    sizes: dict[str, Any],
    pair: Mapping[str, Any],
    likelihood: Any,
) -> Parts:
    """Encoder and decoder that stand in these places, as builders take them."""
    event_shape, latent_dim = sizes["event_shape"], sizes["latent_dim"]
    hidden, activation = sizes["hidden_dims"], pair["activation"]
    decoder, encoder = networks.get("decoder"), networks.get("encoder")
    made = None
    make: Callable[[], tuple[nn.Module, int]] | None = None
    if isinstance(decoder, str):
        size = latent_dim, event_shape, likelihood.num_params
        made = make_decoder(decoder, *size, hidden, activation)
    elif decoder is not None:
        num_params = likelihood.num_params
        made = _made(
            "decoder", decoder, sizes | {"num_params": num_params}, own["decoder"]
        )
        made = own_decoder(made, latent_dim, event_shape, num_params)
    if isinstance(encoder, str):
        make = partial(make_encoder, encoder, event_shape, hidden, activation)
    elif encoder is not None:
        make = partial(_own_encoder, encoder, sizes, own["encoder"], [])
    return Parts(make, made)


def _own_encoder(
    encoder: Place,
    sizes: Mapping[str, Any],
    own: Mapping[str, Any],
    made: list[nn.Module],
) -> tuple[nn.Module, int]:
    """One more encoder, and the number of its features; `made` holds those before it."""
    made.append(_made("encoder", encoder, sizes, own))
    if any(made[-1] is other for other in made[:-1]):
        raise UserError(
            "each component of this guide has its own encoder: expected a class or a "
            "function that makes one, got a single module"
        )
    return own_encoder(made[-1], sizes["event_shape"])


def _made(
    place: str, part: Place, sizes: Mapping[str, Any], own: Mapping[str, Any]
) -> Any:
    """The module that stands in a place."""
    maker = _maker(place, part)
    if maker is None or isinstance(maker, nn.Module):
        return maker
    known = inspect.signature(maker).parameters
    # What code of the user's makes is not counted where a file is loaded.
    with nullcontext() if isinstance(part, str) else _disable_current_modes():
        made = maker(**{k: v for k, v in sizes.items() if k in known}, **own)
    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        raise UserError(f"expected the {place} to be an nn.Module, got {kind}")
    return made


def checked_likelihood(
    likelihood: Place, event_shape: tuple[int, ...], own: Mapping[str, Any]
) -> Any:
    """A likelihood, or what makes one of any event shape, if it gives a datum's p(x|.)."""
    maker = _maker("likelihood", likelihood)
    if not isinstance(maker, nn.Module):
        maker = partial(cast(Callable[..., nn.Module], maker), **own)
    check_likelihood(make_likelihood(maker, event_shape), event_shape)
    return maker


_GUIDE_ARGUMENTS = ("event_shape", "latent_dim", "hidden_dims")


def custom_options(guide: Callable[..., nn.Module]) -> dict[str, Any]:
    """Options of the standard model and those a user's guide declares for itself."""
    _check_maker("guide", guide)
    return own_options(PairOptions, ()) | own_options(guide, _GUIDE_ARGUMENTS)


def custom(
    guide: Callable[..., nn.Module],
    *,
    event_shape: Sequence[int],
    likelihood: Any,
    parts: Parts | None = None,
    **options: Any,
) -> VAE:
    """The standard model with a user's guide, built as the command line builds it.

    `guide` is called with `event_shape`, `latent_dim` and `hidden_dims`, and with
    those of `options` that it declares; `create` has checked their names.
    """
    of_pair, own = own_options(PairOptions, ()), own_options(guide, _GUIDE_ARGUMENTS)
    pair = PairOptions(**{k: v for k, v in options.items() if k in of_pair})
    model = standard_model(event_shape, likelihood, **asdict(pair), parts=parts)
    q = guide(
        event_shape=tuple(event_shape),
        latent_dim=pair.latent_dim,
        hidden_dims=pair.hidden_dims,
        **{k: v for k, v in options.items() if k in own},
    )
    return VAE(model, q, event_shape)


def whole_options(make: Callable[..., VAE]) -> dict[str, Any]:
    """The options of a function that makes a VAE, with their defaults.

    Raises:
        UserError: for what is no function, as a name of a guide.
    """
    if not callable(make):
        raise UserError(
            "model: expected a function that makes a VAE, FILE.py:Name on the command "
            f"line, got {make!r}"
        )
    return own_options(make, ("event_shape", "likelihood"))


def whole(
    make: Callable[..., VAE],
    event_shape: tuple[int, ...],
    likelihood: Place,
    options: dict[str, Any],
    asked: bool,
) -> VAE:
    """A VAE that a function of the user's makes as a whole.

    Raises:
        UserError: for an option that it has not, a likelihood that was `asked` for and
            that it does not take, and for another result than a VAE of that shape.
    """
    name = getattr(make, "__name__", type(make).__name__)
    own, known = whole_options(make), inspect.signature(make).parameters
    if asked and "likelihood" not in known:
        raise UserError(
            f"likelihood={likelihood!r} would be ignored: {name} has no argument likelihood"
        )
    for option in options:
        if option not in own:
            raise unknown_name(f"option of model {name!r}:", option, own)
    sizes = {"event_shape": event_shape, "likelihood": likelihood}
    with taking_turns():
        vae = make(**{k: v for k, v in sizes.items() if k in known}, **options)
    if not isinstance(vae, VAE) or tuple(vae.event_shape) != event_shape:
        got = type(vae).__name__
        got = f"one for {vae.event_shape}" if isinstance(vae, VAE) else got
        raise UserError(
            f"expected {name} to return a zoo.VAE for data of shape {event_shape}, got "
            f"{got}"
        )
    takes = "likelihood" in known
    vae.config = {
        "guide": f"model:{name}",
        "event_shape": list(event_shape),
        "likelihood": place_name(likelihood) if takes else f"custom:{name}",
        "options": options,
    }
    return vae
