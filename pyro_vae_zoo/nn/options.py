"""`PairOptions`: the options that all guides of the standard model have."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pyro_vae_zoo.nn.names import ACTIVATIONS, NETWORKS
from pyro_vae_zoo.options import Option, normalise

__all__ = ["LATE", "PairOptions", "completed", "warn_of_unused"]

# Options of guides that came after version 0.1.0, with what it did.
LATE: dict[str, dict[str, Any]] = {
    "gated_dag": {"least_scale": 0.0},
    "gated_dag_iaf": {"least_scale": 0.0},
    "ladder": {"skip": False},
    "semi_amortized": {"antithetic": False},
    "self_reflective_iaf": {"context_skip": False, "prior": "standard"},
}

_DENSE = (
    "mlp",
    "resnet",
)  # networks with an activation; others have gates in its place


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Sizes and networks of the standard model and of its encoder.

    >>> PairOptions(latent_dim=8).hidden_dims
    (300, 300)
    """

    latent_dim: Annotated[int, Option("size of the latent vector z.", least=1)] = 40
    hidden_dims: Annotated[
        tuple[int, ...],
        Option("hidden widths of the encoder, and in reverse of the decoder."),
    ] = (300, 300)
    network: Annotated[
        str,
        Option("kind of encoder and decoder; mlp if an activation is given.", NETWORKS),
    ] = "gated_mlp"
    activation: Annotated[
        str, Option("nonlinearity of an mlp or a resnet.", ACTIVATIONS)
    ] = "relu"

    def __post_init__(self) -> None:
        normalise(self)


def completed(
    guide: Any,
    known: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    then: bool = False,
) -> dict[str, Any]:
    """A guide's options with those that version 0.1.0 had not, or had otherwise.

    A record has to say these.

    Args:
        guide: its name, or a guide of the user's.
        known: its options with their defaults.
        options: those that were given.
        then: take what version 0.1.0 did, whose records leave it out.

    >>> completed("iaf", {"network": "gated_mlp"}, {"latent_dim": 8})
    {'network': 'gated_mlp', 'latent_dim': 8}
    >>> completed("iaf", {"network": "gated_mlp"}, {"activation": "elu"})
    {'network': 'mlp', 'activation': 'elu'}
    """
    late = LATE.get(guide, {}) if isinstance(guide, str) else {}
    unsaid = {name: value if then else known[name] for name, value in late.items()}
    if known.get("network") == PairOptions.network:  # else it has none, or its own
        is_plain = then or "activation" in options
        unsaid["network"] = "mlp" if is_plain else PairOptions.network
    return {**unsaid, **options}


def warn_of_unused(
    given: Mapping[str, Any],
    network: Any,
    known: Mapping[str, Any],
    parts: Mapping[str, Any],
) -> None:
    """Warn of options that no network of a pair takes.

    Args:
        given: the options that were given.
        network: the kind of the networks that the pair makes itself.
        known: the guide's options with their defaults.
        parts: what stands in the places of encoder and decoder, by place.
    """
    kinds = [parts.get(place, network) for place in ("encoder", "decoder")]
    # A guide of several sites has dense networks beside its convolutions.
    beside = "conv" in kinds and known.get("network") != PairOptions.network
    is_dense = beside or any(isinstance(k, str) and k in _DENSE for k in kinds)
    are_made = all(hasattr(k, "parameters") and not isinstance(k, type) for k in kinds)
    reasons = {
        "network": len(parts) == 2 and "encoder and decoder are given",
        "activation": not is_dense
        and f"it is that of networks {' and '.join(_DENSE)}, and there are none here",
        "hidden_dims": are_made and "encoder and decoder are modules already",
    }
    for name, reason in reasons.items():
        value = given.get(name, known.get(name))
        value = tuple(value) if isinstance(value, list) else value  # as JSON has it
        if reason and value != known.get(name):
            message = f"{name}={given[name]} has no effect: {reason}"
            warnings.warn(message, stacklevel=3)
