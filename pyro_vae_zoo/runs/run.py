"""A run: train, evaluate and draw one pair, in a folder (see `folder`)."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.names import DATASETS
from pyro_vae_zoo.errors import UserError, one_line
from pyro_vae_zoo.evaluation.evaluate import evaluate
from pyro_vae_zoo.evaluation.probe import probe_scores
from pyro_vae_zoo.evaluation.totals import Evaluation
from pyro_vae_zoo.files import (
    CHECKPOINT_FILE,
    RESULT_FILE,
    finite,
    locked,
    resolve,
    write_json,
)
from pyro_vae_zoo.models.create import PairConfig, create, find_guide, guide_options
from pyro_vae_zoo.models.parts import PLACES
from pyro_vae_zoo.models.registry import list_guides
from pyro_vae_zoo.options import plain
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runs.cautions import cautions_of
from pyro_vae_zoo.runs.folder import begin, fingerprint_of, kept_of, look, renew
from pyro_vae_zoo.runs.records import Result, RunConfig, Training
from pyro_vae_zoo.runs.references import references_of
from pyro_vae_zoo.runtime import Ranks, hardware, pick_device
from pyro_vae_zoo.saving import load_weights, save
from pyro_vae_zoo.training.callbacks import Callback, Callbacks
from pyro_vae_zoo.training.checkpoint import check_resumable
from pyro_vae_zoo.training.fit import FitOptions, fit
from pyro_vae_zoo.training.history import monitored
from pyro_vae_zoo.training.losses import checked_loss, settled
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.training.steps import rates_of

__all__ = ["check_run", "make_run", "result_of"]


def make_run(
    folder: Path,
    guide: str,
    data: Dataset,
    options: dict[str, Any],
    training: TrainOptions,
    *,
    source: str | None = None,
    data_options: dict[str, Any] | None = None,
    train_size: int | None = None,
    device: str = "auto",
    eval_particles: int = 1000,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train, evaluate and draw one pair in a run folder; return its result.

    Where there are several processes, all of them call, and the first one writes.

    Everything that can be wrong is found before the folder is touched. `source` is
    what `load_dataset` finds the data by, where it is not their name, `data_options` how it
    reads them, and `train_size` how many training data there are, where it is not all.
    Among the options are what stands in the places of the pair, `prior` for one: a name
    or FILE.py:Name. Callbacks look on, and are no part of the
    configuration.

    Raises:
        UserError: for bad options, a folder that is no run, is taken or in use, and a
            run of another configuration.
    """
    if eval_particles < 1:
        raise UserError(f"eval_particles must be at least 1, got {eval_particles}")
    pick_device(device)
    Callbacks(callbacks)  # which looks at them
    torch.manual_seed(training.seed)
    vae = build(guide, data, options)
    if resume:
        kept = kept_of(folder)
        untold = {k: kept[k] for k in kept if getattr(training, k) is None}
        training = replace(training, **untold)
    training = settled(training, vae, len(data.train))
    as_asked, training = training.recorded(), training.resolved()
    _check_runs(guide, vae, data, training)
    config: RunConfig = {
        "guide": guide,
        "data": data.name,
        "variant": data.variant,
        "source": source or data.name,
        "vae": cast(PairConfig, vae.config),
        "training": cast(Training, as_asked),
        "eval_particles": eval_particles,
    }
    if data_options:
        config["data_options"] = data_options
    if config["source"] not in DATASETS:
        config["fingerprint"] = fingerprint_of(data)
    if train_size is not None:
        config["train_size"] = train_size
    if places := _places(options):
        config["places"] = places
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
            where = FitOptions(
                **vars(training),
                device=device,
                out=folder,
                resume=resume,
                overwrite=not resume,  # `look` has seen to it
                progress=progress,
                callbacks=callbacks,
            )
            finished = _finish(vae, data, config, where, folder)
    return finished


def check_run(
    guide: str, data: Dataset, options: dict[str, Any], training: TrainOptions
) -> dict[str, Any]:
    """Find what `make_run` would find wrong with a pair and its training.

    Returns:
        All settings that the run would have.

    Raises:
        UserError: for bad options, and for a pair that does not run on the data.
    """
    torch.manual_seed(training.seed)
    vae = build(guide, data, options)
    training = settled(training, vae, len(data.train))
    _check_runs(guide, vae, data, training.resolved())
    of_pair = {k: v for k, v in (vae.config or {}).items() if k != "options"}
    own = guide_options(guide) if guide in list_guides() else {}
    own = {
        k: plain(v) for k, v in (own | (vae.config or {}).get("options", {})).items()
    }
    return {**of_pair, **own, **training.recorded()}


def build(guide: str, data: Dataset, options: dict[str, Any]) -> VAE:
    """The pair of a run, of names and of what a FILE.py:Name stands for.

    Raises:
        UserError: for what `create` refuses, and for a file that does not import.
    """
    parts = {name: resolve(text, name) for name, text in _places(options).items()}
    made_of = None if "model" in parts else resolve(guide, "guide")
    return create(made_of, data, **options | parts)


def _places(options: dict[str, Any]) -> dict[str, str]:
    return {name: options[name] for name in (*PLACES, "model") if name in options}


def _finish(
    vae: VAE, data: Dataset, config: RunConfig, training: FitOptions, folder: Path
) -> Result:
    """Train from where the folder is, evaluate, draw; return the result."""
    ranks = Ranks()
    history = fit(vae, data, **vars(training))
    ranks.from_first(lambda: save(vae, folder))
    ranks.from_first(lambda: renew(folder))
    ev = evaluate(
        vae,
        data,
        config["eval_particles"],
        seed=training.seed,
        progress=training.progress,
        compile="auto" if training.compile else False,
    )
    result = (
        monitored(vae)
        | result_of(vae, ev, config, data, "test", data.test)
        | {
            "weights": history.weights,
            "best_epoch": history.best_epoch,
            "epochs": len(history.epochs),
            "seconds": round(history.seconds, 2),
            "compiled": history.compiled,
            "precision": history.precision,
        }
    )
    result["references"] = references_of(result, data, data.test)
    result["cautions"] = cautions_of(result, history.epochs, data)

    def leave() -> Result:
        from pyro_vae_zoo.plots.run import draw  # matplotlib takes its time

        if probe := probe_scores(vae, data, training.seed):
            result["probe"] = probe
        draw(folder, vae, data, history.epochs, result)
        write_json(folder / RESULT_FILE, result)
        return cast(Result, result)

    return ranks.from_first(leave)


def _check_runs(guide: str, vae: VAE, data: Dataset, training: TrainOptions) -> None:
    """One loss, so that what cannot run fails before a folder is touched.

    So does a broken file of labels, which nothing wants until after the training.
    """
    _ = data.labels
    x = data.valid[:2].to(vae.dtype)
    with torch.random.fork_rng(devices=[]):
        try:
            for phase in vae.phases:
                loss = checked_loss(training, phase.loss)
                loss(vae.model, vae.guide)(x)
                rates_of(vae, phase, training)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"guide {guide!r} does not run on these data: {one_line(error)}"
            ) from error


def _check_checkpoint(
    path: Path, vae: VAE, data: Dataset, training: TrainOptions
) -> None:
    if path.exists():
        state = check_resumable(path, training, vae.phases, data.fingerprint())
        load_weights(vae, state["vae"], path)


def result_of(
    vae: VAE,
    evaluation: Evaluation,
    config: RunConfig,
    data: Dataset,
    split: str,
    x: torch.Tensor,
) -> dict[str, Any]:
    """An evaluation, of the data `x`, with everything that its numbers must name."""
    values = evaluation.to_dict()
    khat = {
        "median": values.pop("khat_median"),
        "above_0.7": values.pop("khat_above_07"),
    }
    places = config.get("places", {})
    return {
        "guide": find_guide(config["guide"]),
        **{name: find_guide(text) for name, text in places.items()},
        "data": data.name,
        "variant": data.variant,
        "split": split,
        **values,
        "bits_per_dim": finite(data.bits_per_dim(evaluation.log_likelihood, x)),
        "khat": khat,
        "num_parameters": sum(p.numel() for p in vae.parameters()),
        "seed": config["training"]["seed"],
        "options": config["vae"]["options"],
        "training": config["training"],
        **hardware(vae.device),
    }


def _enter(
    stack: ExitStack, folder: Path, look_here: Callable[[], Result | None]
) -> Result | None:
    stack.enter_context(locked(folder))
    return look_here()
