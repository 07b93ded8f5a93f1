"""The command line: `python -m pyro_vae_zoo`, and the scripts in `examples/`.

Exit codes: 0 done, 1 training met a number that is not finite or `report --check` found
something stale, 2 a mistake that you can mend (one line says which), 130 interrupted.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pyro_vae_zoo._arguments import STEPS_BY_DEFAULT, key_value
from pyro_vae_zoo._judging import diagnose_command, evaluate_command, explore_command
from pyro_vae_zoo._parser import make_parser
from pyro_vae_zoo._summary import filled, summary
from pyro_vae_zoo.checkpoint import write_json
from pyro_vae_zoo.datasets import Dataset, load_dataset
from pyro_vae_zoo.errors import DivergedError, UserError, unknown_name
from pyro_vae_zoo.options import TrainOptions
from pyro_vae_zoo.registry import guide_options, list_guides
from pyro_vae_zoo.runs import (
    find_guide,
    make_run,
    resolve_guide,
)

__all__ = ["main"]

_MODEL_OPTIONS = ("latent_dim", "num_flows", "hidden_dims", "network", "activation")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = make_parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args) or 0
    except (UserError, OSError) as error:
        return _fail(error, 2)
    except DivergedError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print(f"interrupted{_HOW_TO_GO_ON[args.command]}", file=sys.stderr)
        return 130


def _fail(error: Exception, code: int) -> int:
    print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
    return code


# ----------------------------------------------------------------------- commands


def _train(args: argparse.Namespace) -> None:
    data = load_dataset(args.data, args.data_dir)
    name = f"{find_guide(args.guide)}-{data.name}"
    _train_on(data, args.out or Path("runs", f"{name}-s{args.seed}"), args)


def _density(args: argparse.Namespace) -> None:
    data = load_dataset(args.data, args.data_dir)
    data = data if args.train_size is None else data.first(args.train_size)
    if args.eval_particles is None:  # without latents one draw of nothing is exact
        latents = "latent_dim" in guide_options(args.guide)
        args.eval_particles = 100 if latents else 1
    name = f"{args.guide}-{data.name}-n{len(data.train)}"
    _train_on(data, args.out or Path("runs", f"{name}-s{args.seed}"), args)


def _train_on(data: Dataset, folder: Path, args: argparse.Namespace) -> None:
    training = _training(args, data, args.seed)
    if args.structure_epochs is not None:
        if "structure_share" not in guide_options(resolve_guide(args.guide)):
            raise UserError(
                "--structure-epochs is for guides that learn a structure, as gated_dag, "
                f"and not for {args.guide!r}"
            )
    result = make_run(
        folder,
        args.guide,
        data,
        _options(args, training),
        training,
        source=_source(args.data),
        device=args.device,
        eval_particles=args.eval_particles,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    print(summary(result))
    print(filled(f"in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}"))


def _compare(args: argparse.Namespace) -> None:
    from pyro_vae_zoo import report

    if args.runs and args.guides:
        raise UserError(
            "compare either takes finished RUNs or trains --guides, not both"
        )
    if not args.runs:
        args.runs = _train_all(args)
    results = report.collect(args.runs)
    report.write_report(results, args.out)
    runs = [result["run"] for result in results]
    for result, run in zip(results, runs, strict=True):
        if runs.count(run) > 1:  # runs of one name in several folders
            run = f"{Path(result['folder']).parent.name}-{run}"
        values = {k: v for k, v in result.items() if k not in ("folder", "run")}
        write_json(args.out / f"{run}.json", values)
    print(report.markdown_table(results))
    print(f"\nin {args.out}: comparison.md, comparison.csv, comparison.png, *.json")


def _report(args: argparse.Namespace) -> int:
    from pyro_vae_zoo.report import generate, stale

    if not args.results.is_dir():
        raise UserError(
            f"expected a folder of results {args.results}; there is none. `report` "
            "works on a checkout of the project: run it there or pass --results DIR"
        )
    readme = args.readme or args.results.parent / "README.md"
    readme = readme if args.readme or readme.exists() else None
    if not args.check:
        paths = generate(args.results, readme)
        for path in paths:
            print(f"written: {path}")
        print(f"{len(paths)} files written, the others are up to date")
        return 0
    names = stale(args.results, readme)
    for name in names:
        print(f"stale: {name}")
    print("run it without --check to write them" if names else "nothing is stale")
    return int(bool(names))


def _train_all(args: argparse.Namespace) -> list[Path]:
    data = load_dataset(args.data, args.data_dir)
    root = args.runs_dir or args.out
    specs = [_guide_spec(text) for text in args.guides or list_guides()]
    given = _options(args, _training(args, data, args.seeds[0]))
    known = {guide: guide_options(resolve_guide(guide)) for guide, _ in specs}
    for name in given:
        if not any(name in options for options in known.values()):
            raise unknown_name("option", name, sorted(set().union(*known.values())))
    plans = []
    for guide, own in specs:  # all of them are checked before the first is trained
        for name in own:
            if name not in known[guide]:
                raise unknown_name(f"option of guide {guide!r}", name, known[guide])
        options = {k: v for k, v in given.items() if k in known[guide]} | own
        label = "-".join([find_guide(guide), *(f"{k}={v}" for k, v in own.items())])
        for seed in args.seeds:
            training = _training(args, data, seed)
            plans.append((root / f"{label}-s{seed}", guide, options, training))
    for i, (folder, guide, options, training) in enumerate(plans):
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


_COMMANDS = {
    "train": _train,
    "density": _density,
    "evaluate": evaluate_command,
    "diagnose": diagnose_command,
    "explore": explore_command,
    "compare": _compare,
    "report": _report,
}
_HOW_TO_GO_ON = {
    "density": "; the same command with --resume goes on",
    "train": "; the same command with --resume goes on",
    "evaluate": "",
    "diagnose": "",
    "explore": "",
    "compare": "; the same command goes on",
    "report": "; some files are written, each of them whole",
}


# ------------------------------------------------------------------------ options


def _training(args: argparse.Namespace, data: Dataset, seed: int) -> TrainOptions:
    if args.batch_size < 1:
        raise UserError(f"batch_size must be positive, got {args.batch_size}")
    values = {
        f.name: getattr(args, f.name, f.default)  # some are there only if given
        for f in fields(TrainOptions)
        if f.name != "seed"
    }
    if values["epochs"] is None:
        steps = -(-len(data.train) // args.batch_size)
        values["epochs"] = max(20, -(-STEPS_BY_DEFAULT // steps))
    return TrainOptions(seed=seed, **values)


def _source(data: str) -> str:
    """What finds the data again, from another folder too."""
    return str(Path(data).resolve()) if data.endswith(".npz") else data


def _options(args: argparse.Namespace, training: TrainOptions) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in _MODEL_OPTIONS}
    if args.structure_epochs is not None:
        if "structure_share" in dict(args.option):
            raise UserError("--structure-epochs and structure_share exclude each other")
        if not 1 <= args.structure_epochs <= training.epochs:
            raise UserError(
                f"structure_epochs must be from 1 to the {training.epochs} epochs that "
                f"there are, got {args.structure_epochs}"
            )
        given["structure_share"] = args.structure_epochs / training.epochs
    return {k: v for k, v in given.items() if v is not None} | dict(args.option)


def _guide_spec(text: str) -> tuple[str, dict[str, Any]]:
    """`iaf:num_flows=4,gate_bias=1` -> the guide's name and its own options."""
    guide, colon, rest = text.rpartition(":")
    if not colon or "=" not in rest:
        return text, {}
    try:  # a comma parts options only where another KEY= follows
        return guide, dict(key_value(p) for p in re.split(r",(?=\w+=)", rest))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--guides {text}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
