"""Names -> builders: one dict, and a decorator that fills it.

A builder takes `event_shape`, `likelihood` and keyword options with defaults, and returns
a `VAE`. Its options are read off its signature, so that an unknown one is an error which
lists the known ones. `FILES` says which file of `models/` has which name: a file is
imported when one of its names is asked for, and listing names imports nothing.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyro_vae_zoo.errors import UserError, unknown_name

if TYPE_CHECKING:
    from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "FILES",
    "Entry",
    "entry",
    "list_density_models",
    "list_guides",
    "register",
]

FILES: Mapping[str, tuple[str, ...]] = {
    "standard": ("mean_field", "full_rank"),
    "flow_guides": (
        *("planar", "radial", "householder", "affine_autoregressive", "iaf"),
        *("sylvester_orthogonal", "sylvester_householder", "sylvester_triangular"),
        *("neural_autoregressive", "affine_coupling", "spline_coupling"),
    ),
    "mixture": ("mixture",),
    "recursive_mixture": ("recursive_mixture", "boosted"),
    "semi_amortized": ("semi_amortized",),
    "bottom_up": ("bottom_up",),
    "ladder": ("ladder",),
    "self_reflective": ("self_reflective", "self_reflective_iaf"),
    "gated_dag": ("gated_dag", "gated_dag_iaf"),
    "density": ("maf", "self_reflective_maf"),
}
_DENSITY_FILE = "density"


class Entry(NamedTuple):
    """A builder, what else has options of its, and whether it is a density model."""

    build: "Callable[..., VAE]"
    options_of: tuple[Callable, ...] = ()
    is_density: bool = False


_ENTRIES: dict[str, Entry] = {}


def register(
    name: str, *, kind: str = "guide", options_of: Sequence[Callable] = ()
) -> "Callable[[Callable[..., VAE]], Callable[..., VAE]]":
    """Decorator that enters a builder under `name`; a second one is an error.

    Args:
        name: of the guide.
        kind: `guide`, or `density` for what is listed by `list_density_models`.
        options_of: functions to which the builder passes the options that it does not take
            itself; their keyword options are the guide's, too.

    Raises:
        UserError: for a name that is taken, and for another kind.

    >>> try:
    ...     register("iaf")(print)
    ... except UserError as error:
    ...     print(error)
    a guide named 'iaf' is registered already
    """
    if kind not in ("guide", "density"):
        raise unknown_name("kind", kind, ("guide", "density"))

    def enter(builder: "Callable[..., VAE]") -> "Callable[..., VAE]":
        file = _file_of(name)
        # A name of the zoo's is taken before its file is imported, which enters it.
        is_free = file is None or _dotted(file) in sys.modules
        if name in _ENTRIES or not is_free:
            raise UserError(f"a guide named {name!r} is registered already")
        _ENTRIES[name] = Entry(builder, tuple(options_of), kind == "density")
        return builder

    return enter


def list_guides() -> list[str]:
    """Registry names of all pairs, in alphabetical order.

    >>> "iaf" in list_guides()
    True
    """
    return sorted(_names() - set(list_density_models()))


def list_density_models() -> list[str]:
    """Registry names of the density models, which `create` builds like a guide.

    >>> list_density_models()
    ['maf', 'self_reflective_maf']
    """
    own = {name for name, found in _ENTRIES.items() if found.is_density}
    return sorted({*FILES[_DENSITY_FILE], *own})


def entry(name: str) -> Entry:
    """The builder registered under a name; its file is imported if need be.

    Raises:
        UserError: for an unknown name; the message lists the known ones.
    """
    if name not in _names():
        raise unknown_name("guide", name, list_guides() + list_density_models())
    file = _file_of(name)
    if name not in _ENTRIES and file is not None:
        importlib.import_module(_dotted(file))
    return _ENTRIES[name]


def _names() -> set[str]:
    return {*_ENTRIES, *(name for names in FILES.values() for name in names)}


def _file_of(name: str) -> str | None:
    return next((file for file, names in FILES.items() if name in names), None)


def _dotted(file: str) -> str:
    return f"pyro_vae_zoo.models.{file}"
