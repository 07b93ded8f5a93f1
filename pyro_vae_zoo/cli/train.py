"""The commands `train` and `density`, and what `compare` has in common with them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_vae_zoo.cli.arguments import typed
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.loading import load_dataset
from pyro_vae_zoo.data.names import list_datasets
from pyro_vae_zoo.data.sources import expanded
from pyro_vae_zoo.errors import UserError, own_code
from pyro_vae_zoo.files import CONFIG_FILE, resolve
from pyro_vae_zoo.models.create import find_guide, guide_options
from pyro_vae_zoo.models.parts import PLACES
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.options import declared
from pyro_vae_zoo.report.summary import filled, summary
from pyro_vae_zoo.runs.records import Result
from pyro_vae_zoo.runs.run import make_run
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.training.callbacks import CSV, Callback, TensorBoard, WandB
from pyro_vae_zoo.training.options import OPTIMIZERS, TrainOptions

__all__ = [
    "callbacks_of",
    "checked_data",
    "density_command",
    "folder_of",
    "options_of",
    "source_of",
    "train_command",
    "training_of",
]


def train_command(args: argparse.Namespace) -> None:
    """Train a pair, evaluate it, draw its pictures, and say what came of it."""
    folder, data = folder_of(args), checked_data(args)
    if args.model:
        args.guide = args.model
    _train_on(data, folder, args)


def density_command(args: argparse.Namespace) -> None:
    """Do the same for a density model, on data with a density."""
    folder, data = folder_of(args), checked_data(args)
    if args.eval_particles is None:  # without latents one draw of nothing is exact
        latents = "latent_dim" in guide_options(args.guide)
        args.eval_particles = 100 if latents else 1
    if args.lr is None:  # one of the user's own may have a rate of its own
        args.lr = 1e-4 if args.optimizer in OPTIMIZERS else TrainOptions.lr
    _train_on(data, folder, args)


def folder_of(args: argparse.Namespace) -> Path:
    """The folder of the run: the one that was given, or one named after what is trained."""
    if args.out:
        return args.out
    parts = [args.guide]
    if args.command == "train":
        guide = args.model or args.guide
        parts = [guide, *(getattr(args, place) or "" for place in PLACES)]
    path = expanded(args.data)
    parts.append(
        path.name if path.is_dir() or args.data in list_datasets() else path.stem
    )
    name = "-".join(find_guide(part) for part in parts if part)
    if (size := _train_size(args)) is not None:
        name += f"-n{size}"
    return Path("runs", f"{name}-s{args.seed}")


def checked_data(args: argparse.Namespace) -> Dataset:
    """The data to train on; those of a run that is repeated have to be what they were.

    Raises:
        UserError: where the same name or file has other data now.
    """
    options = dict(args.data_options)
    data, size = load_dataset(args.data, args.data_dir, options), _train_size(args)
    data = data.read_by(args.num_workers)
    data = data if size is None else data.first(size)
    same = {"data": args.data, "data_options": options or None, "train_size": size}
    same |= {"variant": data.variant}
    was = args.recorded
    if was is not None and was != same and was == same | {"variant": was["variant"]}:
        raise UserError(
            f"the data of {args.config} have changed: expected {args.data} to be "
            f"{was['variant']!r}, got {data.variant!r}; restore them, or give --data "
            "or --train-size to train on other data"
        )
    return data


def _train_size(args: argparse.Namespace) -> int | None:
    """The size of the training part that `density` takes, or None for all of it."""
    return getattr(args, "train_size", None)


def _train_on(data: Dataset, folder: Path, args: argparse.Namespace) -> None:
    training = training_of(args, args.seed)
    result = make_run(
        folder,
        args.guide,
        data,
        options_of(args),
        training,
        source=source_of(args.data),
        data_options=dict(args.data_options),
        train_size=_train_size(args),
        device=args.device,
        eval_particles=args.eval_particles,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
        callbacks=callbacks_of(args, folder),
    )
    if Ranks().is_first:
        files = ", ".join(sorted(p.name for p in folder.glob("[!.]*")))
        print(summary(result))
        print(filled(f"in {folder}: {files}"))
        print(filled(f"next, {_next(args, folder, result)}"))


def _next(args: argparse.Namespace, folder: Path, result: Result) -> str:
    """What is worth doing next with a result, and the command for it."""
    khat = (result["khat"] or {}).get("above_0.7")
    where = ["--data-dir", args.data_dir] if args.data_dir else []
    place = "model" if getattr(args, "model", None) else "guide"
    # What the commands for a run ask for again.
    own = where + [word for name in (place, *PLACES) for word in _own_code(args, name)]
    if khat is not None and khat > 0.5:
        return f"check log p(x) by annealing: {typed('diagnose', [folder, *own])}"
    if args.guide == "mean_field" and not args.model:
        words = [
            "--config",
            folder / CONFIG_FILE,
            "--guides",
            "mean_field",
            "iaf",
            *own,
        ]
        words += [*_own_code(args, "optimizer"), *_own_code(args, "schedule")]
        return f"compare with a richer posterior: {typed('compare', words)}"
    sizes = [int(text.partition("/")[2]) for text in result["active_units"].values()]
    if len(sizes) == 1 and sizes[0] > 1:
        return f"look at its latent space: {typed('explore', [folder, *own])}"
    return f"put it beside other runs: {typed('compare', [folder, 'OTHER_RUN'])}"


def _own_code(args: argparse.Namespace, name: str) -> list[str]:
    """The flag that names code of the user's, which no file is enough to run."""
    value = getattr(args, name, None) or ""
    return [f"--{name}", value] if ".py:" in value else []


def training_of(args: argparse.Namespace, seed: int) -> TrainOptions:
    """Options of the training that were given."""
    values = {
        option.name: getattr(args, option.name, option.default)  # some only if given
        for option in declared(TrainOptions)
    }
    return TrainOptions(**values | {"seed": seed})


def callbacks_of(args: argparse.Namespace, folder: Path) -> list[Callback]:
    """The loggers and callbacks that were asked for, of a run in this folder."""
    loggers: dict[str, Callable[[], Callback]] = {
        "csv": lambda: CSV(folder / "metrics.csv"),
        "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
        "wandb": lambda: WandB(name=folder.name, folder=folder),
    }
    own = {text: resolve(text, "callback") for text in args.callbacks}
    made = [
        own_code(f"callback {text}", found) if isinstance(found, type) else found
        for text, found in own.items()
    ]
    return [loggers[name]() for name in args.log] + made


def source_of(data: str) -> str:
    """A data set's name, or the path that finds it from another folder too."""
    return data if data in list_datasets() else str(expanded(data).resolve())


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Options of the guide that were given."""
    names = [*(option.name for option in declared(PairOptions)), "num_flows"]
    given = {name: getattr(args, name) for name in names}
    # A density model has no places.
    given |= {name: getattr(args, name, None) for name in (*PLACES, "model")}
    options = dict(args.option)
    for name in ("guide", "data", "event_shape"):
        if name in options:
            raise UserError(f"--option {name}: it is no option of a guide")
    return {k: v for k, v in given.items() if v is not None} | options
