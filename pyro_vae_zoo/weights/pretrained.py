r"""Pretrained weights by their names, and the number that each must reproduce.

`zoo.load("iaf-mnist_static")` reads `weights/iaf-mnist_static.safetensors` once its
digest is that of the JSON file beside it. Weights are stored in 16 bits and loaded in
32; the number in the JSON was measured on the pair as it is loaded. One that is
measured again, with draws of its own, differs from it by about

\[\sqrt{s_\text{published}^2 + s_\text{again}^2},\]

the Monte-Carlo standard errors of the two means over the same data; with the same seed
and the same number of draws, on the same kind of device, by rounding only. Where k-hat
is above 0.7 for most data, those errors are too small: for two IAF steps on static MNIST
(k-hat 1.2, 100 images, 1,000 draws) by a factor of 2.3, measured over twelve seeds.
"""

import hashlib
import math
import os
from pathlib import Path
from typing import Any

from pyro_vae_zoo.errors import DataFileError, UserError, unknown_name
from pyro_vae_zoo.files import read_json

__all__ = [
    "NEEDED",
    "against_published",
    "list_pretrained",
    "pretrained_file",
    "pretrained_info",
    "pretrained_name",
    "sha256_of",
    "weights_folder",
]

_MODEL, _INFO = ".safetensors", ".json"
_NUMBERS = ("log_likelihood", "log_likelihood_mc_error", "num_data")
# What the JSON of published weights says, at the least.
NEEDED = _NUMBERS + (
    *("name", "guide", "recipe", "commit", "data", "source", "variant", "split"),
    *("num_particles", "eval_seed", "elbo", "elbo_std_error", "khat", "first"),
    *("log_likelihood_std_error", "float32", "rounding", "sha256", "bytes"),
    *("num_parameters", "seed", "options", "training", "trained", "device", "versions"),
)


def weights_folder() -> Path:
    """The folder of the package that holds the weights."""
    return Path(__file__).parent


def list_pretrained() -> list[str]:
    """Names of the pretrained weights, `<guide>-<data>`, in alphabetical order.

    >>> import pyro_vae_zoo as zoo
    >>> "iaf-nowhere" in zoo.list_pretrained()
    False
    """
    return sorted(path.stem for path in weights_folder().glob("*" + _MODEL))


def pretrained_info(name: str) -> dict[str, Any]:
    """The record of pretrained weights: recipe, data, commit, the number.

    The log-likelihood is the mean over the split `info["split"]` of `info["data"]`, in
    nats, from `num_particles` draws under `eval_seed`; `first` has that of the first
    images alone, `float32` that of the weights before they were rounded to 16 bits.

    Raises:
        UserError: for an unknown name; the message lists the known ones.
        DataFileError: for a JSON file that is missing, broken or incomplete.

    >>> pretrained_info("iaf-nowhere")
    Traceback (most recent call last):
    ...
    pyro_vae_zoo.errors.UserError: unknown pretrained weights 'iaf-nowhere'...
    """
    if name not in list_pretrained():
        raise unknown_name("pretrained weights", name, list_pretrained() or ["none"])
    path = weights_folder() / (name + _INFO)
    info = read_json(path)
    if not isinstance(info, dict) or set(NEEDED) - info.keys():
        known = info if isinstance(info, dict) else ()
        lacks = ", ".join(key for key in NEEDED if key not in known)
        raise DataFileError(f"{path} does not describe weights: it lacks {lacks}")
    return info


def pretrained_name(path: str | os.PathLike) -> str | None:
    """`path` as the name of pretrained weights; None where it is that of a file.

    A file or folder that is there goes first, and so does a path with a folder in it.

    Raises:
        UserError: for a bare name of neither; the message lists the known ones.
    """
    text = os.fspath(path)
    if os.path.exists(text) or Path(text).name != text or text.endswith(_MODEL):
        return None
    if text not in list_pretrained():
        unknown = unknown_name(
            "pretrained weights", text, list_pretrained() or ["none"]
        )
        raise UserError(f"{unknown}; nor is there a file or folder {text}")
    return text


def pretrained_file(name: str) -> Path:
    """The file of a name, once it is known to be the one that was published.

    Raises:
        DataFileError: where it has another digest than its JSON file says.
        UserError: for an unknown name.
    """
    info, path = pretrained_info(name), weights_folder() / (name + _MODEL)
    got = sha256_of(path)
    if got != info["sha256"]:
        raise DataFileError(
            f"{path}: expected sha256 {info['sha256']} of {info['bytes']} bytes, got {got} "
            f"of {path.stat().st_size}; truncated or changed? Reinstall the package"
        )
    return path


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def against_published(info: dict[str, Any], result: dict[str, Any]) -> dict | None:
    """A log-likelihood of pretrained weights beside the published one of the same data.

    Args:
        info: `pretrained_info(name)`.
        result: what `evaluate` has for the same weights: `variant`, `split`, and
            `log_likelihood`, `log_likelihood_mc_error`, `num_data`, `num_particles`.

    Returns:
        The published `log_likelihood`, its `log_likelihood_mc_error` and
        `num_particles`, the `difference` of the result from it in nats, and the same in
        `mc_errors`, those of both together; None where other data were evaluated.

    >>> info = {"variant": "v", "split": "test", "num_particles": 9, "num_data": 50,
    ...         "log_likelihood": -9.0, "log_likelihood_mc_error": 0.3, "first": {}}
    >>> again = info | {"log_likelihood": -8.0, "log_likelihood_mc_error": 0.4}
    >>> against_published(info, again)["mc_errors"]
    2.0
    """
    if any(info[key] != result[key] for key in ("variant", "split")):
        return None
    for published in (info, info["first"]):
        if published.get("num_data") == result["num_data"]:
            errors = [r["log_likelihood_mc_error"] for r in (published, result)]
            difference = result["log_likelihood"] - published["log_likelihood"]
            error = None if None in errors else math.hypot(*errors)
            return {
                "log_likelihood": published["log_likelihood"],
                "log_likelihood_mc_error": published["log_likelihood_mc_error"],
                "num_particles": info["num_particles"],
                "difference": difference,
                "mc_errors": difference / error if error else None,
            }
    return None
