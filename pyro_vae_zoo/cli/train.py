"""The commands that train: `train`, `density` and `compare`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from pyro_vae_zoo.cli.arguments import STEPS_BY_DEFAULT, guide_specs
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.loading import load_dataset
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.files import resolve, write_json
from pyro_vae_zoo.models.create import find_guide, guide_options, pair_options
from pyro_vae_zoo.models.parts import PLACES, whole_options
from pyro_vae_zoo.models.registry import list_guides
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.options import count, declared
from pyro_vae_zoo.report.summary import filled, summary
from pyro_vae_zoo.runs.run import make_run
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.training.options import TrainOptions

__all__ = ["compare_command", "density_command", "train_command"]


def train_command(args: argparse.Namespace) -> None:
    """Train a pair, evaluate it, draw its pictures, and say what came of it."""
    data = load_dataset(args.data, args.data_dir)
    if args.model:
        args.guide = args.model
    parts = [args.guide, *(getattr(args, place) or "" for place in PLACES), data.name]
    name = "-".join(find_guide(part) for part in parts if part)
    _train_on(data, args.out or Path("runs", f"{name}-s{args.seed}"), args)


def density_command(args: argparse.Namespace) -> None:
    """Do the same for a density model, on data with a density."""
    data = load_dataset(args.data, args.data_dir)
    data = data if args.train_size is None else data.first(args.train_size)
    if args.eval_particles is None:  # without latents one draw of nothing is exact
        latents = "latent_dim" in guide_options(args.guide)
        args.eval_particles = 100 if latents else 1
    name = f"{args.guide}-{data.name}-n{len(data.train)}"
    _train_on(data, args.out or Path("runs", f"{name}-s{args.seed}"), args)


def _train_on(data: Dataset, folder: Path, args: argparse.Namespace) -> None:
    training = _training(args, data, args.seed)
    result = make_run(
        folder,
        args.guide,
        data,
        _options(args),
        training,
        source=_source(args.data),
        device=args.device,
        eval_particles=args.eval_particles,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if Ranks().is_first:
        files = ", ".join(sorted(p.name for p in folder.glob("[!.]*")))
        print(summary(result))
        print(filled(f"in {folder}: {files}"))


def compare_command(args: argparse.Namespace) -> None:
    """Put finished runs side by side, or train the guides that are to be compared."""
    if args.runs and args.guides:
        raise UserError(
            "compare either takes finished RUNs or trains --guides, not both"
        )
    if not args.runs:
        args.runs = _train_all(args)
    Ranks().from_first(lambda: _write_comparison(args))


def _write_comparison(args: argparse.Namespace) -> None:
    from pyro_vae_zoo import report

    results = report.collect(args.runs)
    report.write_report(results, args.out)
    runs = [result["run"] for result in results]
    for result, run in zip(results, runs, strict=True):
        if runs.count(run) > 1:  # runs of one name in several folders
            run = f"{Path(result['folder']).parent.name}-{run}"
        values = {k: v for k, v in result.items() if k not in ("folder", "run")}
        write_json(args.out / f"{run}.json", values)
    print(report.markdown_table(results))
    for result in results:
        if names := ", ".join(result.get("cautions") or ()):
            print(filled(f"{result['run']}: {names} (see `cautions` in its result)"))
    print(f"\nin {args.out}: comparison.md, comparison.csv, comparison.png, *.json")


def _train_all(args: argparse.Namespace) -> list[Path]:
    data = load_dataset(args.data, args.data_dir)
    root = args.runs_dir or args.out
    given = _options(args)
    model = given.pop("model", None)
    guides = args.guides or ([] if model else list_guides())
    specs = guide_specs(guides)
    if model is not None:  # one more, beside the guides
        specs.append((model, {"model": model}))
    known = [_known(guide, given | own, data) for guide, own in specs]
    for name in given:
        if not any(name in options for options in known):
            raise unknown_name("option", name, sorted(set().union(*known)))
    plans = []
    # All of them are checked before the first is trained.
    for (guide, own), of_pair in zip(specs, known, strict=True):
        for name in own:
            if name not in of_pair:
                raise unknown_name(f"option of guide {guide!r}", name, of_pair)
        options = {k: v for k, v in given.items() if k in of_pair} | own
        shown = {k: find_guide(str(v)) for k, v in own.items() if k != "model"}
        values = [f"{k}={v}" for k, v in shown.items()]
        label = "-".join([find_guide(guide), *values])
        for seed in args.seeds:
            training = _training(args, data, seed)
            plans.append((root / f"{label}-s{seed}", guide, options, training))
    for i, (folder, guide, options, training) in enumerate(plans):
        if Ranks().is_first:
            print(f"[{i + 1}/{len(plans)}] {folder.name}", file=sys.stderr)
        make_run(
            folder,
            guide,
            data,
            options,
            training,
            source=_source(args.data),
            device=args.device,
            eval_particles=args.eval_particles,
            resume=folder.exists() and not args.overwrite,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
    return [plan[0] for plan in plans]


def _known(guide: str, options: dict[str, Any], data: Dataset) -> dict[str, Any]:
    """The options of a guide and of what stands in the other places, and these."""
    if "model" in options:
        return whole_options(resolve(options["model"], "model")) | {"model": None}
    parts = {name: resolve(options[name], name) for name in PLACES if name in options}
    parts = {"likelihood": data.likelihood, **parts}
    return pair_options(resolve(guide, "guide"), **parts) | dict.fromkeys(PLACES)


def _training(args: argparse.Namespace, data: Dataset, seed: int) -> TrainOptions:
    values = {
        option.name: getattr(args, option.name, option.default)  # some only if given
        for option in declared(TrainOptions)
    }
    if args.epochs is None:
        steps = -(-len(data.train) // count("batch_size", args.batch_size))
        values["epochs"] = max(20, -(-STEPS_BY_DEFAULT // steps))
    return TrainOptions(**values | {"seed": seed})


def _source(data: str) -> str:
    """A data set's name, or the path that finds its file from another folder too."""
    return str(Path(data).resolve()) if data.endswith(".npz") else data


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of the guide that were given."""
    names = [*(option.name for option in declared(PairOptions)), "num_flows"]
    given = {name: getattr(args, name) for name in names}
    # A density model has no places.
    given |= {name: getattr(args, name, None) for name in (*PLACES, "model")}
    return {k: v for k, v in given.items() if v is not None} | dict(args.option)
