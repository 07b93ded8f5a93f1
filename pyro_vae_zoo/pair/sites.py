"""The sample sites of a pair's traces: which are latent, which are data."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyro_vae_zoo.errors import UserError

__all__ = [
    "DATA_DIM",
    "ObservedSites",
    "Site",
    "check_observed",
    "check_one_vector",
    "check_whole_plates",
    "data_sites",
    "in_data_plate",
    "is_real",
    "is_record",
    "latent_sites",
    "mean_or_draw",
    "observed_sites",
]

DATA_DIM = -1  # of `pyro.plate("data", ...)`; particles are one to its left

# What Pyro's traces and handlers say of a site; in its own `Message` the distribution
# under "fn" is any function.
Site = Mapping[str, Any]

_DATA_NAME = re.compile(r"x(_\d+)?")


def latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The latent sites of a trace by name, without the plates' own ones."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
    }


def data_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites of the data, `"x"` or the blocks `"x_1"` to `"x_L"`, drawn or observed.

    Other sites may have names that begin alike, and `pyro.deterministic` may record
    under any name.
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and _DATA_NAME.fullmatch(name)
        and not is_record(site)
    }


def is_record(site: Site) -> bool:
    """True for what `pyro.deterministic` recorded, a sample site to Pyro."""
    return site["infer"].get("_deterministic", False)


def in_data_plate(site: Site) -> bool:
    """True for a site with a draw for each datum, False for one that all data share."""
    return any(frame.dim == DATA_DIM for frame in site["cond_indep_stack"])


def mean_or_draw(site: Site) -> Tensor:
    """A site's mean; a flow has none in closed form, there the draw stands for it."""
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["value"]


def check_observed(trace: poutine.Trace) -> None:
    """Refuse data that a model's observed sites cannot score.

    A support that depends on the latents is left alone: there a score of zero
    probability is an answer. What a mask takes out is not looked at.

    Raises:
        UserError: for a wrong event shape and for values outside the support; it names
            the site.
    """
    for name, site in observed_sites(trace).items():
        fn, value = site["fn"], site["value"]
        got = tuple(value.shape[value.dim() - fn.event_dim :])
        if got != tuple(fn.event_shape):
            raise UserError(
                f"site {name!r}: expected data of event shape {tuple(fn.event_shape)}, "
                f"got {got}"
            )
        inside = _inside(site)
        if inside is not None and not inside.all():
            low, high = (bound.item() for bound in value.aminmax())
            raise UserError(
                f"site {name!r}: expected data in the support of "
                f"{_name_of(fn)} ({_in_words(fn.support)}), got values in "
                f"[{low:.6g}, {high:.6g}]; binarise or rescale the data, or choose "
                "another likelihood"
            )


def check_unscaled(site: Site, what: str) -> None:
    """Refuse a site under a mask or a scale of Pyro's handlers, which would be left out.

    Raises:
        UserError: for one that is not 1, and for any mask.
    """
    scale = site["scale"]
    if site["mask"] is not None or isinstance(scale, Tensor) or scale != 1:
        raise UserError(
            f"site {site['name']!r} has a scale or a mask, and {what} takes none; leave "
            "out poutine.scale and poutine.mask"
        )


class ObservedSites(Messenger):
    """Asks of each observed site what `check_observed` asks, without reading a value."""

    def __init__(self) -> None:
        super().__init__()
        self._inside: list[Tensor] = []

    def all_inside(self) -> Tensor | None:
        """True where all values are in their supports; None where none was asked."""
        return torch.stack(self._inside).all() if self._inside else None

    def _pyro_post_sample(self, msg: Message) -> None:
        if not _is_observed(msg):
            return
        inside = _inside(msg)
        if inside is not None:
            self._inside.append(inside.all())


def observed_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites that score data, without what `pyro.deterministic` records."""
    return {name: site for name, site in trace.nodes.items() if _is_observed(site)}


def _is_observed(site: Any) -> bool:
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    return not (is_record(site) or site_is_subsample(site))


def _inside(site: Site) -> Tensor | None:
    """True where data are in their support or masked; None if nothing can be said."""
    support, mask = _support_of(site["fn"]), site["mask"]
    if support is None or mask is False or _depends_on_tensors(support):
        return None
    inside = support.check(site["value"])
    return inside | ~mask if isinstance(mask, Tensor) else inside


def check_one_vector(model_trace: poutine.Trace, what: str) -> None:
    """Refuse a model of other latents than one real vector `"z"` for each datum.

    A distribution that does not know its support, as one of the user's may, is taken to
    be of real numbers.

    Args:
        model_trace: of the model alone.
        what: needs the vector, for the error.

    Raises:
        UserError: names the latents, and says what they are.
    """
    kinds = {name: _kind(site) for name, site in latent_sites(model_trace).items()}
    if kinds != {"z": _VECTOR}:
        found = ", ".join(f"{name!r} ({kind})" for name, kind in kinds.items())
        raise UserError(
            f"{what} needs a model whose only latent is a real vector 'z' for each "
            f"datum, got {found or 'none'}"
        )


_VECTOR = "a real vector"


def _kind(site: Site) -> str:
    """The kind of a latent site in words."""
    if not in_data_plate(site):
        return "outside the plate 'data'"
    fn = site["fn"]
    if not is_real(site):
        support = _inmost(fn.support)
        return "discrete" if support.is_discrete else f"in {support}"
    if len(fn.event_shape) != 1:
        return f"of event shape {tuple(fn.event_shape)}"
    return _VECTOR


def is_real(site: Site) -> bool:
    """True for a site of real numbers, and for one whose support is not known."""
    support = _support_of(site["fn"])
    real = type(constraints.real)
    return support is None or isinstance(_inmost(support), real)


def _support_of(fn: Any) -> Any:
    try:
        return fn.support
    except NotImplementedError:  # PyTorch's word for: not known
        return None


def _inmost(support: Any) -> Any:
    """What `to_event` and PyTorch's mixtures have put their own supports around."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def check_whole_plates(trace: poutine.Trace) -> None:
    """Refuse plates that subsample: they scale their sites.

    A training minimises sums over batches, and would have the scale in its bound; an
    evaluation is of the data that it is given, and has none.

    Raises:
        UserError: names the plate.
    """
    for name, site in trace.nodes.items():
        for frame in site.get("cond_indep_stack", ()):
            if frame.full_size not in (None, frame.size):
                raise UserError(
                    f"site {name!r}: the plate {frame.name!r} subsamples {frame.size} "
                    f"of {frame.full_size} data, which scales the bound in training "
                    f"but not in evaluation; expected pyro.plate({frame.name!r}, "
                    "len(x))"
                )


def _base(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _depends_on_tensors(support: constraints.Constraint) -> bool:
    if constraints.is_dependent(support):
        return True
    return any(isinstance(value, Tensor) for value in vars(_base(support)).values())


def _in_words(support: constraints.Constraint) -> str:
    base = _base(support)
    return str(base).removesuffix("()")


def _name_of(fn: object) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__
