"""Run folders: what `train` leaves behind and `evaluate` and `compare` read.

config.json          the data, the pair and the training that make the run
metrics.jsonl        a line per epoch
checkpoint.pt        everything that `--resume` needs
model.safetensors    the trained pair; `zoo.load(folder)`
result.json          its evaluation; written last, so it marks a finished run
*.png                pictures
"""

import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn

from pyro_vae_zoo.checkpoint import MODEL_FILE, read_json, save, write_json
from pyro_vae_zoo.datasets import Dataset
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.evaluate import evaluate
from pyro_vae_zoo.registry import create
from pyro_vae_zoo.train import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    TrainOptions,
    fit,
    pick_device,
)
from pyro_vae_zoo.vae import VAE

__all__ = [
    "CONFIG_FILE",
    "RESULT_FILE",
    "find_guide",
    "make_run",
    "result_of",
    "resolve_guide",
]

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
PICTURES = ("samples", "reconstructions", "training", "traversal", "posterior")
_FILES = (CONFIG_FILE, RESULT_FILE, METRICS_FILE, CHECKPOINT_FILE, MODEL_FILE) + tuple(
    f"{name}.png" for name in PICTURES
)
# A run may go on under another value of these; all else must be as it was.
_FREE = ("epochs", "eval_particles", "source")


def resolve_guide(text: str) -> str | Callable[..., nn.Module]:
    """A registry name as it is, `FILE.py:Class` as the class in that file.

    Raises:
        UserError: for a file or a class that is not there, or does not import.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        if text.endswith(".py"):
            raise UserError(f"expected FILE.py:Class, got {text!r}: which class in it?")
        return text
    if not os.path.isfile(path):
        raise UserError(f"expected a guide in {path}; there is no such file")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code may raise
        raise UserError(f"{path} does not import: {error!r}") from error
    if not hasattr(module, name):
        known = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{path} has no {name!r}; it has {', '.join(known)}")
    return getattr(module, name)


def find_guide(name: str) -> str:
    """The name a guide has in folder and file names."""
    return name.rpartition(":")[2] if ".py:" in name else name


def make_run(
    folder: Path,
    guide: str,
    data: Dataset,
    options: dict[str, Any],
    training: TrainOptions,
    *,
    source: str | None = None,
    device: str = "auto",
    eval_particles: int = 1000,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict:
    """Train, evaluate and draw one pair in a run folder; return its result.

    Everything that can be wrong is found before the folder is touched. `source` is
    what `load_dataset` finds the data by, where it is not their name.

    Raises:
        UserError: for bad options, a folder that is no run or is taken, and a run
            of another configuration.
    """
    if eval_particles < 1:
        raise UserError(f"eval_particles must be at least 1, got {eval_particles}")
    pick_device(device)
    torch.manual_seed(training.seed)
    vae = create(resolve_guide(guide), data, **options)
    config = {
        "guide": guide,
        "data": data.name,
        "variant": data.variant,
        "source": source or data.name,
        "vae": vae.config,
        "training": asdict(training),
        "eval_particles": eval_particles,
    }
    finished = _open_folder(folder, config, resume, overwrite)
    if finished is not None:
        return finished
    history = fit(
        vae,
        data,
        device=device,
        out=folder,
        resume=resume,
        progress=progress,
        **asdict(training),
    )
    save(vae, folder)
    ev = evaluate(vae, data.test, eval_particles, seed=training.seed, progress=progress)
    result = result_of(vae, ev, config, "test") | {
        "weights": history.weights,
        "best_epoch": history.best_epoch,
        "epochs": len(history.epochs),
        "seconds": round(history.seconds, 2),
    }
    draw(folder, vae, data, history.epochs)
    write_json(folder / RESULT_FILE, result)
    return result


def result_of(vae: VAE, evaluation: Any, config: dict, split: str) -> dict:
    """An evaluation with everything that its numbers must name."""
    values = evaluation.to_dict()
    khat = {
        "median": values.pop("khat_median"),
        "above_0.7": values.pop("khat_above_07"),
    }
    return {
        "guide": find_guide(config["guide"]),
        "data": config["data"],
        "variant": config["variant"],
        "split": split,
        **values,
        "khat": khat,
        "num_parameters": sum(p.numel() for p in vae.parameters()),
        "seed": config["training"]["seed"],
        "options": config["vae"]["options"],
        "training": config["training"],
        **hardware(vae.device),
    }


def hardware(device: torch.device) -> dict:
    """What a number was computed with."""
    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    import pyro_vae_zoo

    return {
        "device": f"{device.type} ({name})",
        "num_threads": torch.get_num_threads(),
        "versions": {
            "pyro_vae_zoo": pyro_vae_zoo.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "numpy": np.__version__,
        },
    }


def draw(folder: Path, vae: VAE, data: Dataset, records: list[dict]) -> None:
    """The pictures of a run; those that need a certain latent where they apply."""
    from pyro_vae_zoo import plots

    x = data.test.to(vae.device)
    figures = {
        "samples": plots.plot_samples(vae, data=data),
        "reconstructions": plots.plot_reconstructions(vae, x[:16], data=data),
        "training": plots.plot_training(records, title=plots.figure_title(vae, data)),
    }
    z = vae.encode(x[:1])
    if isinstance(z, torch.Tensor):
        figures["traversal"] = plots.plot_traversal(vae, x[:500], data=data)
        if z.shape[-1] == 2:
            figures["posterior"] = plots.plot_posterior(vae, x[:4], data=data)
    for name, figure in figures.items():
        plots.save_figure(figure, folder / f"{name}.png")


def _open_folder(
    folder: Path, config: dict, resume: bool, overwrite: bool
) -> dict | None:
    """Make or enter the folder; a run that is finished gives its result."""
    is_run = (folder / CONFIG_FILE).is_file()
    if folder.exists() and not is_run:
        if not folder.is_dir() or any(folder.iterdir()):
            raise UserError(
                f"{folder} exists and is not a run (it has no {CONFIG_FILE}); "
                "choose another --out"
            )
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if resume:
        return _resume(folder, config, is_run)
    if is_run and not overwrite:
        state = "a finished" if (folder / RESULT_FILE).exists() else "an unfinished"
        raise UserError(
            f"{folder} holds {state} run; --resume continues it, --overwrite starts anew"
        )
    if is_run:
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG_FILE, config)
    return None


def _resume(folder: Path, config: dict, is_run: bool) -> dict | None:
    if not is_run:
        raise UserError(
            f"nothing to resume: there is no run in {folder}; leave out --resume"
        )
    old = read_json(folder / CONFIG_FILE)
    differing = _difference(old, config)
    if differing:
        key, before, now = differing
        raise UserError(
            f"the run in {folder} has {key} = {before!r}, not {now!r}; resume with the "
            "options it was started with, or choose another --out"
        )
    result = folder / RESULT_FILE
    asked = config["training"]["epochs"]
    if result.exists() and asked <= old["training"]["epochs"]:
        if config["eval_particles"] == old["eval_particles"]:
            return read_json(result)
    result.unlink(missing_ok=True)
    write_json(folder / CONFIG_FILE, config)
    return None


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


def open_run(folder: Path) -> dict:
    """The configuration of a run that is there to be read."""
    if not (folder / CONFIG_FILE).is_file():
        raise DataFileError(f"{folder} is not a run: expected {folder / CONFIG_FILE}")
    if not (folder / MODEL_FILE).is_file():
        raise DataFileError(
            f"the run in {folder} has no {MODEL_FILE} yet; --resume finishes it"
        )
    return read_json(folder / CONFIG_FILE)
