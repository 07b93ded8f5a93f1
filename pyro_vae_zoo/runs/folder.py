"""The folder of a run: whether one may be in it, and what is left there.

config.json          the data, the pair and the training that make the run
metrics.jsonl        a line per epoch
checkpoint.pt        everything that `--resume` needs
model.safetensors    the trained pair; `zoo.load(folder)`
result.json          its evaluation; written last, so it marks a finished run
*.png                pictures
.lock                held by the process that is at work here
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.names import name_now
from pyro_vae_zoo.data.own.archives import REMARKS
from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.files import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    LOCK_FILE,
    METRICS_FILE,
    MODEL_FILE,
    RESULT_FILE,
    checked,
    read_json,
    write_json,
)
from pyro_vae_zoo.models.create import find_guide, options_then
from pyro_vae_zoo.runs.records import Result, RunConfig, Training
from pyro_vae_zoo.training.options import BARE, KEPT, TrainOptions, training_then

__all__ = ["begin", "fingerprint_of", "kept_of", "look", "open_run", "renew"]

PICTURES = (
    *("samples", "reconstructions", "training", "traversal", "posterior"),
    *("components", "growth", "layers", "gates", "graph", "embedding"),
)
# The model of a run as it was before it was resumed, until the resumed one has its own.
_BEFORE = "model.before.safetensors"
# All but the configuration, by which a folder is known to be a run.
_FILES = (
    *(RESULT_FILE, METRICS_FILE, CHECKPOINT_FILE, MODEL_FILE, _BEFORE),
    *(f"{name}.png" for name in PICTURES),
    # What `diagnose`, `explore` and a logger have left there of the run before.
    *("diagnostics.json", "particles.png", "gaps.png", "correlations.png"),
    *("explore.html", "metrics.csv", "codes.npz", "samples.npz"),
)
# What a resumed run adds to; all else there is of the run as it was.
_GOES_ON = (METRICS_FILE, CHECKPOINT_FILE, MODEL_FILE, "metrics.csv")
# A file that a process was writing when it was killed.
_HALF_WRITTEN = "*." + 16 * "[0-9a-f]" + ".tmp"
# A run may go on under another value of these; all else must be as it was. The size of the
# training part is in the variant, too.
_FREE = (
    *("epochs", "patience", "compile", "eval_particles"),
    *("source", "train_size", "fingerprint"),
)


def look(
    folder: Path,
    config: RunConfig,
    resume: bool,
    overwrite: bool,
    check: Callable[[], None],
) -> Result | None:
    """Refuse a folder that the run may not be in; one that is finished gives its result."""
    is_run = (folder / CONFIG_FILE).is_file()
    if folder.exists() and not is_run:
        if not folder.is_dir() or any(map(_is_not_ours, folder.iterdir())):
            raise UserError(
                f"{folder} exists and is not a run (it has no {CONFIG_FILE}); "
                "choose another --out"
            )
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if resume:
        return _look_at_the_past(folder, config, is_run, check)
    if is_run and not overwrite:
        state = "a finished" if (folder / RESULT_FILE).exists() else "an unfinished"
        raise UserError(
            f"{folder} holds {state} run; --resume continues it, --overwrite deletes it "
            "and starts anew, another --out leaves it alone"
        )
    return None


def _is_not_ours(path: Path) -> bool:
    """False for what a process leaves that was killed before it wrote anything."""
    return path.name != LOCK_FILE and not path.match(_HALF_WRITTEN)


def fingerprint_of(data: Dataset) -> str:
    """A digest of all splits, by which data are known to be those of a run.

    Unlike `Dataset.fingerprint` it does not ask when a file was written, which a copy
    changes; of what is not in memory it takes the shape and a sample.
    """
    units = [] if data.standardisation is None else [data.standardisation.words()]
    what = data.likelihood, data.dynamic, data.logit, *units
    digest = hashlib.blake2b(repr(what).encode())
    for x in (data.train, data.valid, data.test):
        digest.update(repr(tuple(x.shape)).encode())
        held = x.sample() if isinstance(x, Rows) else x.cpu()
        digest.update(held.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def begin(folder: Path, config: RunConfig, resume: bool) -> None:
    """Remove what is not to be there any more, and say what the run is."""
    if resume:  # what is there stays until `renew`, but is no result of these settings
        (folder / RESULT_FILE).unlink(missing_ok=True)
        if (folder / MODEL_FILE).exists():
            os.replace(folder / MODEL_FILE, folder / _BEFORE)
    else:
        _remove(folder, _FILES)
    unwanted = [_HALF_WRITTEN]
    if not resume:
        unwanted.append("tensorboard/events.out.tfevents.*")
    for path in [path for pattern in unwanted for path in folder.glob(pattern)]:
        path.unlink()
    write_json(folder / CONFIG_FILE, config)


def renew(folder: Path) -> None:
    """Remove what was made of the model before this one, now that this one is saved."""
    _remove(folder, [name for name in _FILES if name not in _GOES_ON])


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _look_at_the_past(
    folder: Path, config: RunConfig, is_run: bool, check: Callable[[], None]
) -> Result | None:
    """The same for a run that is to go on."""
    if not is_run:
        raise UserError(
            f"nothing to resume: there is no run in {folder}; leave out --resume"
        )
    old = _read_config(folder)
    before, now = map(_without_files, (old, config))
    differing = _difference(before, now)
    if differing:
        key, had, has = differing
        raise UserError(
            f"the run in {folder} has {key} = {had!r}, not {has!r}; resume with the "
            "options it was started with, or choose another --out"
        )
    result = folder / RESULT_FILE
    same = [config["training"], config["eval_particles"]]
    if result.exists() and same == [old["training"], old["eval_particles"]]:
        return checked(read_json(result), Result, result, "result of a run")
    check()
    return None


def _without_files(config: RunConfig) -> dict[str, Any]:
    """A configuration without the places of files and remarks on what is in them.

    A class of the user's own may have moved with its file; weights must fit it anyway.
    """
    places = config.get("places", {})
    names = {place: find_guide(text) for place, text in places.items()}
    own = {name: config["training"].get(name) for name in ("optimizer", "schedule")}
    training = {k: find_guide(v) for k, v in own.items() if isinstance(v, str)}
    variant = config["variant"]
    for remark in REMARKS:  # which came and moved since there are runs
        variant = variant.replace(remark, "")
    return {
        **config,
        "variant": variant,
        "guide": find_guide(config["guide"]),
        "places": names,
        "training": {**config["training"], **training},
    }


def _difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first place where two configurations differ, but for what is free."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new} - set(_FREE)):
            path = f"{key}.{name}" if key else name
            found = _difference(old.get(name), new.get(name), path)
            if found:
                return found
        return None
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        old, new = list(old), list(new)
    return None if old == new else (key, old, new)


def open_run(folder: Path) -> RunConfig:
    """The configuration of a run that is there to be read."""
    if not (folder / CONFIG_FILE).is_file():
        raise DataFileError(f"{folder} is not a run: expected {folder / CONFIG_FILE}")
    if not (folder / MODEL_FILE).is_file():
        there = (folder / _BEFORE).is_file()
        before = f" ({_BEFORE} is of before it was resumed)" if there else ""
        raise DataFileError(
            f"the run in {folder} has no {MODEL_FILE} yet; --resume finishes it{before}"
        )
    return _read_config(folder)


def kept_of(folder: Path) -> dict[str, Any]:
    """The options that the run which is there goes on with, if there is one."""
    if not (folder / CONFIG_FILE).is_file():
        return {}
    training: dict[str, Any] = {**_read_config(folder)["training"]}
    return {name: training[name] for name in KEPT}


def _read_config(folder: Path) -> RunConfig:
    path = folder / CONFIG_FILE
    config = checked(read_json(path), RunConfig, path, "configuration of a run")
    source = config.get("source", "")
    if (now := name_now(source, config["variant"], path)) != source:
        config["source"] = config["data"] = now
    # Options that it leaves out are as they were when it was written.
    vae = config["vae"]
    vae["options"] = options_then(vae["guide"], vae["options"])
    training = TrainOptions(**BARE).recorded() | training_then(config["training"])
    config["training"] = cast(Training, training)
    return config
