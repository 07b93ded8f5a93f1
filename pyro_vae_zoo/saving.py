"""A VAE to safetensors and back, by its path or by the name of pretrained weights."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae_zoo.errors import DataFileError, UserError, one_line
from pyro_vae_zoo.files import (
    MISFITS,
    MODEL_FILE,
    checked,
    write_atomically,
)
from pyro_vae_zoo.models.create import PairConfig, create, options_then
from pyro_vae_zoo.models.parts import PLACES, Place
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.weights.pretrained import pretrained_file, pretrained_name

__all__ = [
    "construction_limited",
    "load",
    "save",
]


_KEY = "pyro_vae_zoo"  # of the JSON inside the safetensors header
# Arguments of `create` that are no options.
_OWN = {"guide", "data", "event_shape", "model", "likelihood"}


def save(
    vae: VAE, path: str | os.PathLike, *, dtype: torch.dtype | None = None
) -> Path:
    """Save a VAE: weights as safetensors, what builds it as JSON in their header.

    A tensor that model and guide share is stored once, under the first of its names.

    Args:
        vae: the pair.
        path: a file, or a folder for `model.safetensors` in it (made if missing).
        dtype: of the floating weights in the file, such as `torch.float16` for one of
            half the size, which loads as float32 again; as they are by default.

    Raises:
        UserError: for an option that JSON cannot hold, for a dtype that is no floating
            one, and for weights that are too large for it.

    A VAE that `create` has not made is saved with a warning: weights alone.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("planar", event_shape=(8, 8), latent_dim=2)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = zoo.load(zoo.save(vae, folder))
    >>> again.config == vae.config
    True
    """
    if not (
        dtype is None or isinstance(dtype, torch.dtype) and dtype.is_floating_point
    ):
        raise UserError(f"dtype: expected such as torch.float16, got {dtype!r}")
    text = _config_text(vae)
    path = Path(path)
    if path.suffix != ".safetensors" or path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path = path / MODEL_FILE
    own = vae.state_dict(keep_vars=True)  # what is shared is one object of many names
    first = {id(t): name for name, t in reversed(own.items())}.values()
    contiguous = torch.contiguous_format  # the file has no other
    tensors = {
        name: _cast(name, own[name].detach(), dtype).clone(memory_format=contiguous)
        for name in first
    }
    write_atomically(path, to_safetensors(tensors, {_KEY: text}))
    return path


def _config_text(vae: VAE) -> str:
    """What builds the VAE, as text; a warning where nothing does."""
    if vae.config is None:
        warnings.warn(
            "only the weights are saved: zoo.load cannot rebuild this VAE, because "
            "zoo.create did not make it; make it by zoo.create(model=make_vae), with a "
            "function that returns it",
            stacklevel=3,
        )
    try:
        return json.dumps(vae.config)
    except TypeError:
        for name, value in vae.config["options"].items() if vae.config else ():
            if not _is_json(value):
                raise UserError(
                    f"option {name} cannot be saved as JSON, so zoo.load could not "
                    "rebuild the VAE: expected numbers, words or lists of them, got "
                    f"{value!r}"
                ) from None
        raise


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if (tensor.isfinite() & ~cast.float().isfinite()).any():
        raise UserError(f"weights of {name} are too large for {dtype}; leave out dtype")
    return cast


def load(
    path: str | os.PathLike,
    *,
    guide: Callable[..., nn.Module] | None = None,
    likelihood: Place = None,
    prior: Place = None,
    encoder: Place = None,
    decoder: Place = None,
    model: Callable[..., VAE] | None = None,
) -> VAE:
    """Load what `save` saved, from its file, its folder or a run folder; or by name.

    Args:
        path: file or folder; or one of `zoo.list_pretrained()`, where there is no such
            path.
        guide: the class of the guide, where it is not one of the zoo's: a file
            never makes `load` import code.
        likelihood: likewise of the likelihood, or the likelihood itself.
        prior: of the prior.
        encoder: of the encoder.
        decoder: of the decoder.
        model: the function that makes the whole VAE, where one did.

    Raises:
        DataFileError: for a missing or corrupt file, and for pretrained weights that
            are not those which were published.
        UserError: for a guide that is not given, weights that do not fit, and for an
            unknown name (the message lists the known ones).

    >>> import tempfile, pyro_vae_zoo as zoo
    >>> vae = zoo.create("planar", event_shape=(8, 8), latent_dim=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     zoo.load(zoo.save(vae, folder)).config == vae.config
    True
    """
    name = pretrained_name(path)
    path = Path(pretrained_file(name) if name else path)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise DataFileError(f"model file {path} not found")
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RecursionError, RuntimeError) as error:
        raise DataFileError(f"{path} is corrupt or not safetensors: {error}") from None
    if config is None:
        raise UserError(
            f"{path} holds weights, but not how to build their VAE; build the VAE "
            "yourself and load the weights into it (safetensors.torch.load_model)"
        )
    config = _checked_config(config, path)
    given = {"likelihood": likelihood, "prior": prior}
    given |= {"encoder": encoder, "decoder": decoder}
    made_of, parts = (
        _named_parts(config, guide, given, path)
        if model is None
        else _parts_of_whole(config, guide, given, path)
    )
    options = dict(config["options"])
    for name in [name for name in parts if name in options]:  # of a hierarchy's own
        parts[name] = options.pop(name)
    with construction_limited(path, tensors.values()), warnings.catch_warnings():
        # `create` said so when the pair was made.
        warnings.filterwarnings("ignore", ".* has no effect: ")
        vae = create(
            made_of,
            event_shape=config["event_shape"],
            model=model,
            **parts,
            **options,
        )
    return load_weights(vae, tensors, path)


def _named_parts(
    config: PairConfig, guide: Any, given: dict[str, Any], path: Path
) -> tuple[Any, dict[str, Any]]:
    """The guide and the other parts, by the names in the file or as given."""
    known: dict[str, Any] = dict(config)
    made_of = _which("guide", config["guide"], guide, path)
    parts = {name: _which(name, known.get(name), given[name], path) for name in PLACES}
    return made_of, parts


def _parts_of_whole(
    config: PairConfig, guide: Any, given: dict[str, Any], path: Path
) -> tuple[None, dict[str, Any]]:
    """The likelihood that a function which makes the whole VAE is called with."""
    likelihood = given.pop("likelihood")
    for name, part in {"guide": guide, **given}.items():
        if part is not None:
            raise UserError(f"model= makes the whole VAE: leave out {name}=")
    had = config["likelihood"]
    # Of a function that takes none, and of all others in older files.
    if had != config["guide"].replace("model:", "custom:", 1):
        likelihood = _which("likelihood", had, likelihood, path)
    return None, {"likelihood": likelihood}


def _checked_config(config: Any, path: Path) -> PairConfig:
    """A pair's configuration, before anything is built by it."""
    config = checked(config, PairConfig, path, "VAE of the zoo's")
    # Options are keywords of `create`, beside those that it has of its own.
    if _OWN & {*config["options"]}:
        wrong = ", ".join(sorted(_OWN & {*config["options"]}))
        raise DataFileError(
            f"{path} does not describe a VAE: its options must not contain {wrong}"
        )
    config["options"] = options_then(config["guide"], config["options"])
    return config


def load_weights(vae: VAE, tensors: dict, path: str | os.PathLike) -> VAE:
    """Copy weights into a VAE, in the dtype that it has.

    Of a tensor that both sides share one name is enough.

    Raises:
        UserError: for weights that do not fit, or are not finite; it names `path`.
    """
    own = vae.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if not _is_finite(tensor, own.get(name)):
            raise UserError(
                f"the weights in {path} are not finite: {name}; did the training "
                "diverge?"
            )
    by_place = {id(t): tensors[name] for name, t in own.items() if name in tensors}
    shared = {name: by_place[id(t)] for name, t in own.items() if id(t) in by_place}
    try:
        vae.load_state_dict(shared | tensors)
    except RuntimeError as error:
        reasons = " ".join(" ".join(str(error).splitlines()[1:]).split())
        raise UserError(f"the weights in {path} do not fit: {reasons}") from None
    return vae


def _is_finite(tensor: Tensor, own: Tensor | None) -> bool:
    """False for a number that is not, but in a buffer that is made so, such as a mask."""
    if not tensor.is_floating_point():
        return True
    if isinstance(own, nn.Parameter) or own is None or own.shape != tensor.shape:
        return bool(tensor.isfinite().all())
    return bool((tensor.isfinite() | ~own.isfinite().to(tensor.device)).all())


def _which(place: str, name: str | None, given: Any, path: Path) -> Any:
    """What a pair had in a place: the given, or the zoo's own by its name.

    Raises:
        UserError: where it is the user's and not given.
    """
    for prefix, kind in (("custom:", place), ("model:", "model")):
        if given is None and name is not None and name.startswith(prefix):
            own = name.removeprefix(prefix)
            raise UserError(
                f"{path} was saved with a {kind} of your own, {own!r}; pass its class: "
                f"zoo.load(path, {kind}={own})"
            )
    return name if given is None else given


_MEGA = 1 << 20


class _Limited(TorchDispatchMode):
    """Stops what makes more or larger tensors than it may."""

    def __init__(self, path: Path, most_bytes: int, most_calls: int) -> None:
        super().__init__()
        self.path, self.bytes, self.calls = path, most_bytes, most_calls
        self.largest = most_bytes // 4

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls -= 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                size = tensor.numel() * tensor.element_size()
                self.bytes -= size
                if size > self.largest:
                    self.calls = 0
        if min(self.calls, self.bytes) <= 0:
            raise DataFileError(
                f"{self.path} describes a VAE that is far larger than the weights in it"
            )
        return out


@contextmanager
def construction_limited(path: Path, tensors: Iterable[Tensor]) -> Iterator[None]:
    """Stop a construction that goes far beyond the weights which it is for.

    Raises:
        DataFileError: for one that does, or that fails in any other way; it names `path`.
    """
    tensors = list(tensors)
    # Initial values take some passes over the weights, in at most 64 bits each.
    most_bytes = 64 * _MEGA + 64 * sum(t.numel() * t.element_size() for t in tensors)
    try:
        with _Limited(path, most_bytes, 10_000 + 1000 * len(tensors)):
            yield
    except UserError:
        raise
    except MISFITS as error:
        raise DataFileError(
            f"{path} describes a VAE that cannot be built: {one_line(error)}"
        ) from error
    except MemoryError:
        raise DataFileError(
            f"{path} describes a VAE too large for the memory"
        ) from None
