"""A run: train, evaluate and draw one pair, in a folder (see `run_folder`)."""

import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack
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
from pyro_vae_zoo.evaluation.cautions import cautions_of
from pyro_vae_zoo.training.checkpoint import (CHECKPOINT_FILE, RESULT_FILE, load_weights, save, write_json)
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.evaluate import evaluate
from pyro_vae_zoo.locking import locked
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.models.registry import create
from pyro_vae_zoo.training.resuming import check_resumable
from pyro_vae_zoo.runs.run.folder import begin, find_guide, look
from pyro_vae_zoo.pair.sites import latent_sites
from pyro_vae_zoo.training.fit import fit
from pyro_vae_zoo.pair.vae import VAE

__all__ = [
    "make_run",
    "result_of",
    "resolve_guide",
]


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
        UserError: for bad options, a folder that is no run, is taken or in use, and a
            run of another configuration.
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
    check = partial(_check_checkpoint, folder / CHECKPOINT_FILE, vae, data, training)
    look_here = partial(look, folder, config, resume, overwrite, check)
    ranks = Ranks()
    if (finished := ranks.from_first(look_here)) is not None:
        return finished
    with ExitStack() as stack:
        # Looked at again, now that nobody else can change it.
        if (
            finished := ranks.from_first(lambda: _enter(stack, folder, look_here))
        ) is None:
            ranks.from_first(lambda: begin(folder, config, resume))
            how = {"device": device, "resume": resume, "progress": progress}
            finished = _finish(vae, data, config, training, folder, **how)
    return finished


def _finish(
    vae: VAE,
    data: Dataset,
    config: dict[str, Any],
    training: TrainOptions,
    folder: Path,
    *,
    device: str,
    resume: bool,
    progress: bool,
) -> dict:
    """Train from where the folder is, evaluate, draw; return the result."""
    ranks = Ranks()
    history = fit(
        vae,
        data,
        device=device,
        out=folder,
        resume=resume,
        overwrite=not resume,  # `look` has seen to it
        progress=progress,
        **asdict(training),
    )
    ranks.from_first(lambda: save(vae, folder))
    how = {"progress": progress, "compile": training.compile and "auto"}
    draws = config["eval_particles"]
    ev = evaluate(vae, data.test, draws, seed=training.seed, **how)
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
    result["cautions"] = cautions_of(result, history.epochs, data, data.test)

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


def _check_checkpoint(
    path: Path, vae: VAE, data: Dataset, training: TrainOptions
) -> None:
    if path.exists():
        state = check_resumable(path, training, vae.phases, data.fingerprint())
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


def _enter(
    stack: ExitStack, folder: Path, look_here: Callable[[], dict | None]
) -> dict | None:
    stack.enter_context(locked(folder))
    return look_here()
