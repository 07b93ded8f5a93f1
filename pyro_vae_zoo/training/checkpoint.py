"""Files that survive: atomic writes, models as safetensors, checkpoints.

A file is written beside its place and moved there when it is whole, so that a full
disk or a killed process leaves the previous one as it was. Nothing that is loaded
can run code: models are safetensors, checkpoints load with `weights_only=True`.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyro_vae_zoo.data.download import written
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.models.registry import create
from pyro_vae_zoo.data.formats import check_stored, construction_limited
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "CHECKPOINT_FILE",
    "CONFIG_FILE",
    "METRICS_FILE",
    "MODEL_FILE",
    "RESULT_FILE",
    "finite",
    "load_checkpoint",
    "load_model",
    "read_json",
    "save",
    "save_checkpoint",
    "write_atomically",
    "write_json",
]

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"
MODEL_FILE = "model.safetensors"
RESULT_FILE = "result.json"
_KEY = "pyro_vae_zoo"  # of the JSON inside the safetensors header


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: where it cannot be written, the previous file untouched.
    """
    with written(Path(path)) as file:
        file.write(content)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write JSON, indented, atomically; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def finite(value: Any) -> Any:
    """`value` with None in place of numbers that are not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike) -> Any:
    """Read JSON; a broken file is an error that names it."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise DataFileError(f"expected a file {path}; there is none") from None
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not valid JSON: {error}") from None


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

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("planar", event_shape=(8, 8), latent_dim=2)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = zoo.load(zoo.save(vae, folder))
    >>> again.config == vae.config
    True
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path.mkdir(parents=True, exist_ok=True)
        path = path / MODEL_FILE
    own = _tensors(vae)
    first = {id(t): name for name, t in reversed(own.items())}.values()
    tensors = {name: _cast(own[name].detach(), dtype).clone() for name in first}
    write_atomically(path, to_safetensors(tensors, {_KEY: json.dumps(vae.config)}))
    return path


def _tensors(vae: VAE) -> dict[str, Tensor]:
    """Parameters and buffers by their names; what is shared is one object with several."""
    return vae.state_dict(keep_vars=True)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor


def load_model(
    path: str | os.PathLike, *, guide: Callable[..., nn.Module] | None = None
) -> VAE:
    """Load what `save` saved; `zoo.load`, but for the names of pretrained weights."""
    path = Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise DataFileError(f"expected a model in {path}; there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RecursionError, RuntimeError) as error:
        raise DataFileError(f"{path} is corrupt or no safetensors: {error}") from None
    if config is None:
        raise UserError(f"{path} does not say how to build its VAE; build it yourself")
    _check_config(config, path)
    made_of = _which_guide(config["guide"], guide, path)
    with construction_limited(path, tensors.values()):
        vae = create(
            made_of,
            event_shape=config["event_shape"],
            likelihood=config["likelihood"],
            **config["options"],
        )
    return load_weights(vae, tensors, path)


def _check_config(config: Any, path: Path) -> None:
    """Refuse what is not the form of a VAE's configuration, before anything is built."""
    kinds = {"guide": str, "event_shape": list, "likelihood": str, "options": dict}
    form = isinstance(config, dict) and all(
        isinstance(config.get(key), kind) for key, kind in kinds.items()
    )
    # Options are keywords of `create`, beside those that it has of its own.
    if not form or {"guide", "data", "event_shape", "likelihood"} & {
        *config["options"]
    }:
        raise DataFileError(f"{path} does not describe a VAE: got {str(config)[:200]}")


def load_weights(vae: VAE, tensors: dict, path: str | os.PathLike) -> VAE:
    """Copy weights into a VAE, in the dtype that it has.

    Of a tensor that both sides share one name is enough.

    Raises:
        UserError: for weights that do not fit, or are not finite; it names `path`.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"the weights in {path} are not finite: {name}")
    own = _tensors(vae)
    by_place = {id(t): tensors[name] for name, t in own.items() if name in tensors}
    shared = {name: by_place[id(t)] for name, t in own.items() if id(t) in by_place}
    try:
        vae.load_state_dict(shared | tensors)
    except RuntimeError as error:
        reason = str(error).split("\n")[1].strip()
        raise UserError(f"the weights in {path} do not fit: {reason}") from None
    return vae


def _which_guide(
    name: str, guide: Callable | None, path: Path
) -> str | Callable[..., nn.Module]:
    if guide is None and name.startswith("custom:"):
        raise UserError(
            f"{path} holds the guide {name[7:]!r}, not one of the zoo's; pass its class: "
            f"zoo.load(path, guide={name[7:]})"
        )
    return guide or name


def save_checkpoint(path: str | os.PathLike, state: dict) -> None:
    """Write tensors, numbers, strings and containers of them, atomically.

    Raises:
        DataFileError: where it cannot be written; what was there before is as it was.
    """
    try:
        with written(Path(path)) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # either, for a full disk
        before = (
            "the one before is whole" if os.path.exists(path) else "there is none yet"
        )
        raise DataFileError(
            f"cannot write the checkpoint {path} ({_first_line(error)}): is the disk full "
            f"or the folder gone? {before}"
        ) from error


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint; a pickle with anything but data in it is refused, not run."""
    try:
        there = check_stored(Path(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
        if _bytes_of(state) > there:
            raise ValueError("tensors that are larger than their data")
    except FileNotFoundError:
        raise DataFileError(f"expected a checkpoint {path}; there is none") from None
    except Exception as error:  # there is no end to how a broken file fails to load
        raise DataFileError(
            f"{path} is no checkpoint of the zoo, or is corrupt; nothing in it was run: "
            f"{_first_line(error)}"
        ) from error
    if not isinstance(state, dict):
        raise DataFileError(f"{path} is no checkpoint: it holds no dictionary")
    return state


def _bytes_of(state: Any) -> int:
    """The bytes of the tensors in a checkpoint; of what they share, once."""
    storages = [t.untyped_storage() for t in tree_leaves(state) if torch.is_tensor(t)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
