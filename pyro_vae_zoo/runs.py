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
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import nn

from pyro_vae_zoo._process import pick_device
from pyro_vae_zoo.checkpoint import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    MODEL_FILE,
    RESULT_FILE,
    load_weights,
    read_json,
    save,
    write_json,
)
from pyro_vae_zoo.datasets import Dataset
from pyro_vae_zoo.distributed import Ranks
from pyro_vae_zoo.errors import DataFileError, UserError
from pyro_vae_zoo.evaluate import evaluate
from pyro_vae_zoo.mixture import Mixture
from pyro_vae_zoo.options import TrainOptions
from pyro_vae_zoo.registry import create
from pyro_vae_zoo.resuming import check_resumable
from pyro_vae_zoo.train import fit
from pyro_vae_zoo.vae import VAE, latent_sites

__all__ = [
    "find_guide",
    "make_run",
    "result_of",
    "resolve_guide",
]

PICTURES = (
    *("samples", "reconstructions", "training", "traversal", "posterior"),
    *("components", "growth", "layers", "gates", "graph"),
)
_FILES = (CONFIG_FILE, RESULT_FILE, METRICS_FILE, CHECKPOINT_FILE, MODEL_FILE) + tuple(
    f"{name}.png" for name in PICTURES
)
# A run may go on under another value of these; all else must be as it was.
_FREE = ("epochs", "eval_particles", "source", "compile")


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
    module = _import_file(path)
    if not hasattr(module, name):
        known = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{path} has no {name!r}; it has {', '.join(known)}")
    return getattr(module, name)


def _import_file(path: str) -> ModuleType:
    """Run a file as a module, beside which it may import others."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    known, search = sys.modules.get(name), list(sys.path)
    sys.modules[name] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code may raise
        raise UserError(f"{path} does not import: {error!r}") from error
    finally:
        sys.path[:] = search
        if known is not None:
            sys.modules[name] = known
    return module


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

    Where there are several processes, all of them call, and the first one writes.

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
    _check_runs(vae, data, training)
    config = {
        "guide": guide,
        "data": data.name,
        "variant": data.variant,
        "source": source or data.name,
        "vae": vae.config,
        "training": asdict(training),
        "eval_particles": eval_particles,
    }
    check = partial(_check_checkpoint, folder / CHECKPOINT_FILE, vae, training)
    ranks = Ranks()
    finished = ranks.from_first(
        lambda: _open_folder(folder, config, resume, overwrite, check)
    )
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
    ranks.from_first(lambda: save(vae, folder))
    how = {"progress": progress, "compile": training.compile and "auto"}
    ev = evaluate(vae, data.test, eval_particles, seed=training.seed, **how)
    result = result_of(vae, ev, config, data, "test", data.test) | {
        "weights": history.weights,
        "best_epoch": history.best_epoch,
        "epochs": len(history.epochs),
        "seconds": round(history.seconds, 2),
        "compiled": history.compiled,
        "products": history.products,
    }
    if vae.monitor is not None:
        result |= vae.monitor(vae)

    def leave() -> dict:
        draw(folder, vae, data, history.epochs, result)
        write_json(folder / RESULT_FILE, result)
        return result

    return ranks.from_first(leave)


def _check_runs(vae: VAE, data: Dataset, training: TrainOptions) -> None:
    """One loss, so that what cannot run fails before a folder is touched."""
    x = data.valid[:2].to(vae.dtype)
    with torch.random.fork_rng(devices=[]):
        try:
            for phase in vae.phases:
                loss, _ = training.losses(phase.loss)
                loss.differentiable_loss(vae.model, vae.guide, x)
        except UserError:
            raise
        except Exception as error:
            reason = str(error).split("\n")[0]
            raise UserError(
                f"guide {vae.config['guide']!r} does not run on this data: "
                f"{type(error).__name__}: {reason}"
            ) from error


def _check_checkpoint(path: Path, vae: VAE, training: TrainOptions) -> None:
    if path.exists():
        state = check_resumable(path, training, vae.phases)
        load_weights(vae, state["vae"], path)


def result_of(
    vae: VAE, evaluation: Any, config: dict, data: Dataset, split: str, x: torch.Tensor
) -> dict:
    """An evaluation, of the data `x`, with everything that its numbers must name."""
    values = evaluation.to_dict()
    khat = {
        "median": values.pop("khat_median"),
        "above_0.7": values.pop("khat_above_07"),
    }
    return {
        "guide": find_guide(config["guide"]),
        "data": data.name,
        "variant": data.variant,
        "split": split,
        **values,
        "bits_per_dim": data.bits_per_dim(values["log_likelihood"], x),
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
        "num_processes": Ranks().size,
        "versions": {
            "pyro_vae_zoo": pyro_vae_zoo.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "numpy": np.__version__,
        },
    }


def draw(
    folder: Path, vae: VAE, data: Dataset, records: list[dict], result: dict
) -> None:
    """The pictures of a run; those that need certain latents where they apply."""
    from pyro_vae_zoo import plots

    x = data.test.to(vae.device)
    title = plots.figure_title(vae, data)
    z = vae.encode(x[:1])
    plane = isinstance(z, torch.Tensor) and z.shape[-1] == 2
    figures: dict[str, Callable] = {
        "samples": lambda: plots.plot_samples(vae, data=data),
        "training": lambda: plots.plot_training(records, title=title),
    }
    if len(z) > 0:  # a density model has no latents to reconstruct from
        figures["reconstructions"] = lambda: plots.plot_reconstructions(
            vae, x[:16], data=data
        )
    if isinstance(z, dict) and len(z) > 1:
        figures["layers"] = lambda: plots.plot_layers(result, title=title)
        if hasattr(vae.model, "join"):
            figures["growth"] = lambda: plots.plot_growth(vae, data=data)
    if isinstance(z, torch.Tensor):
        figures["traversal"] = lambda: plots.plot_traversal(vae, x[:500], data=data)
    if plane:
        figures["posterior"] = lambda: plots.plot_posterior(vae, x[:4], data=data)
        q = latent_sites(poutine.trace(vae.guide).get_trace(x[:1]))["z"]["fn"]
        if isinstance(q, Mixture) and len(q.components) > 1:
            figures["components"] = lambda: plots.plot_components(vae, x, data=data)
    gates = [record["gates"] for record in records if record.get("gates")]
    if gates:
        figures["graph"] = lambda: plots.plot_graph(vae, title=title)
    if any(0 < p < 1 for by_edge in gates for p in by_edge.values()):  # were learned
        figures["gates"] = lambda: plots.plot_gates(records, title=title)
    for name, figure in figures.items():
        try:
            plots.save_figure(figure(), folder / f"{name}.png")
        except UserError as error:  # a picture is not worth the run
            print(f"no {name}.png: {error}", file=sys.stderr)


def _open_folder(
    folder: Path,
    config: dict,
    resume: bool,
    overwrite: bool,
    check: Callable[[], None],
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
        return _resume(folder, config, is_run, check)
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


def _resume(
    folder: Path, config: dict, is_run: bool, check: Callable[[], None]
) -> dict | None:
    if not is_run:
        raise UserError(
            f"nothing to resume: there is no run in {folder}; leave out --resume"
        )
    old = _read_config(folder)
    # A class of the user's own may have moved with its file; weights must fit it anyway.
    differing = _difference(
        *(c | {"guide": find_guide(c["guide"])} for c in (old, config))
    )
    if differing:
        key, before, now = differing
        raise UserError(
            f"the run in {folder} has {key} = {before!r}, not {now!r}; resume with the "
            "options it was started with, or choose another --out"
        )
    result = folder / RESULT_FILE
    same = all(config[k] == old[k] for k in ("training", "eval_particles"))
    if result.exists() and same:
        finished = read_json(result)
        if not isinstance(finished, dict) or "log_likelihood" not in finished:
            raise DataFileError(f"{result} is no result of a run; remove it")
        return finished
    check()  # while nothing has been touched
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
    return _read_config(folder)


def _read_config(folder: Path) -> dict:
    config = read_json(folder / CONFIG_FILE)
    needed = {"guide", "source", "variant", "vae", "training", "eval_particles"}
    if not isinstance(config, dict) or needed - config.keys():
        raise DataFileError(f"{folder / CONFIG_FILE} is no configuration of a run")
    # Options that there were not yet when it was written are as they come.
    return config | {"training": asdict(TrainOptions()) | config["training"]}
