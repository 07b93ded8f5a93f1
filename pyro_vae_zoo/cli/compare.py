"""The command `compare`: finished runs side by side, or guides and settings to train."""

import argparse
import itertools
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae_zoo.cli.arguments import guide_specs
from pyro_vae_zoo.cli.train import (
    callbacks_of,
    checked_data,
    options_of,
    source_of,
    training_of,
)
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.files import CONFIG_FILE, resolve, write_json
from pyro_vae_zoo.models.create import find_guide, pair_options
from pyro_vae_zoo.models.parts import PLACES, whole_options
from pyro_vae_zoo.models.registry import list_guides
from pyro_vae_zoo.options import declared
from pyro_vae_zoo.report.summary import filled
from pyro_vae_zoo.runs.run import check_run, make_run
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.training.options import TrainOptions

__all__ = ["compare_command"]

_TRAINING = [option.name for option in declared(TrainOptions)]
# What the rows of a table have in common, and what has a flag of its own.
_NOT_SWEPT = {
    "epochs": "all rows of a table have the same number; use --epochs",
    "keep": "all rows of a table keep the same weights, best or last; use --keep",
    "eval_particles": "all rows of a table have the same number; use --eval-particles",
    "data": "all rows of a table are of the same data; use --data",
    "seed": "it has a flag of its own; use --seeds",
    "guide": "it has a flag of its own; use --guides",
}

Options = dict[str, Any]


class Plan(NamedTuple):
    """A run that is to be made."""

    folder: Path
    guide: str
    options: Options
    training: TrainOptions
    said: Options  # what tells it from the others of its guide


def compare_command(args: argparse.Namespace) -> None:
    """Put finished runs side by side, or train what is to be compared."""
    if args.runs and (args.guides or args.sweep):
        raise UserError(
            "expected finished RUNs to compare, or --guides and --sweep to train; got "
            "both"
        )
    plans: list[Plan] = []
    if args.runs:
        _refuse_flags(args)
    else:
        data = checked_data(args)
        plans = _train(args, data, _plans(args, data))
        args.runs = [plan.folder for plan in plans]
    Ranks().from_first(lambda: _write_comparison(args, plans))


def _refuse_flags(args: argparse.Namespace) -> None:
    """Refuse flags of a training beside runs that are finished."""
    mine = {"command", "flags", "recorded", "runs", "out", "quiet"}
    for name in sorted(vars(args).keys() - mine):
        if getattr(args, name) != args.flags.get_default(name):
            flag = "data_option" if name == "data_options" else name
            raise UserError(
                f"--{flag.replace('_', '-')} would be ignored: the RUNs are finished, and "
                "only put side by side; leave it out"
            )


def _write_comparison(args: argparse.Namespace, plans: Sequence[Plan]) -> None:
    from pyro_vae_zoo import report

    results = report.collect(args.runs)
    report.write_report(results, args.out)
    runs, used = [result["run"] for result in results], set()
    for result, run in zip(results, runs, strict=True):
        if runs.count(run) > 1:  # runs of one name in several folders
            run = f"{Path(result['folder']).resolve().parent.name}-{run}"
        possible = itertools.chain([run], (f"{run}-{i}" for i in itertools.count(2)))
        run = next(name for name in possible if name not in used)
        used.add(run)
        result["run"] = run
        values = {k: v for k, v in result.items() if k not in ("folder", "run")}
        write_json(args.out / f"{run}.json", values)
    for line in report.markdown_table(results).splitlines():
        print(line if line.startswith("|") else textwrap.fill(line, 80))
    if choice := report.choice(results):
        print(filled(choice))
    for name, those in _by_caution(results).items():
        few = ", ".join(those[:3]) + f" and {len(those) - 3} more" * (len(those) > 3)
        print(filled(f"caution: {name}: {few} (see `cautions` in their JSON files)"))
    files = ["comparison.md", "comparison.csv", "comparison.png"]
    files += _draw_sweeps(args, plans, results)
    print(filled(f"in {args.out}: {', '.join(files)}, and a JSON file for each run"))


def _by_caution(results: Sequence[Options]) -> dict[str, list[str]]:
    """The runs that each caution is about, by its name."""
    found: dict[str, list[str]] = {}
    for result in results:
        for name in result.get("cautions") or ():
            found.setdefault(name, []).append(result["run"])
    return found


def _draw_sweeps(
    args: argparse.Namespace, plans: Sequence[Plan], results: Sequence[Options]
) -> list[str]:
    """Draw the results over each number that was swept; the names of the pictures."""
    from pyro_vae_zoo.plots import plot_sweep, save_figure

    files = []
    for name, values in args.sweep:
        if len(values) < 2 or not all(type(v) in (int, float) for v in values):
            continue
        lines: dict[str, dict[float, list[Options]]] = {}
        for plan, result in zip(plans, results, strict=True):
            if name in plan.said:  # else the guide has no such option
                rest = {k: v for k, v in plan.said.items() if k != name}
                line = lines.setdefault(_label(plan.guide, rest), {})
                line.setdefault(plan.said[name], []).append(result)
        if lines:
            title = f"{results[0]['data']}: {results[0]['variant']}"
            fig = plot_sweep(lines, name, title=title)
            files.append(f"sweep_{name}.png")
            save_figure(fig, args.out / files[-1])
    return files


def _train(
    args: argparse.Namespace, data: Dataset, plans: Sequence[Plan]
) -> list[Plan]:
    plans = _possible(args, data, plans)
    if args.sweep and Ranks().is_first:
        print(_size(args, plans), file=sys.stderr)
    for i, plan in enumerate(plans):
        if Ranks().is_first:
            print(f"[{i + 1}/{len(plans)}] {plan.folder.name}", file=sys.stderr)
        make_run(
            plan.folder,
            plan.guide,
            data,
            plan.options,
            plan.training,
            source=source_of(args.data),
            data_options=dict(args.data_options),
            device=args.device,
            eval_particles=args.eval_particles,
            resume=(plan.folder / CONFIG_FILE).is_file() and not args.overwrite,
            overwrite=args.overwrite,
            progress=not args.quiet,
            callbacks=callbacks_of(args, plan.folder),
        )
    return plans


def _possible(
    args: argparse.Namespace, data: Dataset, plans: Sequence[Plan]
) -> list[Plan]:
    """The runs that can be made: the last one fails before the first is trained.

    Of all guides, where none was typed, those that refuse the data or a setting are left
    out.

    Raises:
        UserError: for what was typed and cannot be, and where nothing is left.
    """
    refused: dict[str, UserError] = {}
    known: dict[str, str] = {}
    for plan in [p for p in plans if p.training.seed == args.seeds[0]]:
        try:
            settings = check_run(plan.guide, data, plan.options, plan.training)
        except UserError as error:
            if args.guides or args.model:
                raise
            refused.setdefault(plan.guide, error)
            continue
        first = known.setdefault(repr(settings), plan.folder.name)
        if first != plan.folder.name:
            raise UserError(
                f"{first} and {plan.folder.name} come to the same settings; leave one of "
                "them out"
            )
    left = [plan for plan in plans if plan.guide not in refused]
    if not left:
        raise next(iter(refused.values()))
    if Ranks().is_first:
        for guide, reason in refused.items():
            print(f"left out {guide}: {reason}", file=sys.stderr)
    return left


def _size(args: argparse.Namespace, plans: Sequence[Plan]) -> str:
    """How much there is to do, in a line."""
    swept = [f"{name} over {', '.join(map(str, v))}" for name, v in args.sweep]
    there = sum((plan.folder / CONFIG_FILE).is_file() for plan in plans)
    done = f", {there} of them started" if there and not args.overwrite else ""
    return (
        f"{len(plans)} runs{done}: {len({p.guide for p in plans})} guides, "
        f"{'; '.join(swept)}; seeds {', '.join(map(str, args.seeds))}"
    )


def _plans(args: argparse.Namespace, data: Dataset) -> list[Plan]:
    """The runs of all guides, settings and seeds, once all of their names are known."""
    root = args.runs_dir or args.out
    given = options_of(args)
    model = given.pop("model", None)
    specs = guide_specs(args.guides or ([] if model else list_guides()))
    if model is not None:  # one more, beside the guides
        specs.append((model, {"model": model}))
    points = _points(args.sweep)
    for guide, own in specs:
        _refuse_two_values({k: f"{guide}:{k}=..." for k in own}, args.sweep)
    _refuse_two_values(_typed(args), args.sweep)
    swept = [(guide, own, point) for guide, own in specs for point in points]
    known = [_known(guide, given | own | point, data) for guide, own, point in swept]
    everything = sorted(set().union(*known))
    for name in given:
        if name not in everything:
            raise unknown_name("option", name, everything)
    for name, _ in args.sweep:
        if name not in (*everything, *_TRAINING):
            can = {*everything, *_TRAINING} - {*_NOT_SWEPT}
            raise unknown_name("option", name, sorted(can))
    trainings = {seed: training_of(args, seed) for seed in args.seeds}
    plans: dict[str, Plan] = {}
    # All of them are checked before the first is trained.
    for (guide, own, point), of_pair in zip(swept, known, strict=True):
        for name in own:
            if name not in of_pair:
                raise unknown_name(f"option of guide {guide!r}:", name, of_pair)
        of_training: dict[str, Any] = {  # `none` is what a flag takes for nothing
            k: None if v == "none" else v for k, v in point.items() if k in _TRAINING
        }
        own = own | {k: v for k, v in point.items() if k in {*of_pair} - {*of_training}}
        options = {k: v for k, v in given.items() if k in of_pair} | own
        said = own | of_training
        for seed, training in trainings.items():
            folder = root / f"{_label(guide, said)}-s{seed}"
            plan = Plan(folder, guide, options, replace(training, **of_training), said)
            first = plans.setdefault(folder.name, plan)  # without an option, it is one
            if first != plan:
                raise UserError(
                    f"{first.guide} and {guide} would share the run folder {folder}; "
                    "rename one of them"
                )
    return list(plans.values())


def _label(guide: str, own: Mapping[str, Any]) -> str:
    shown = {k: find_guide(str(v)) for k, v in own.items() if k != "model"}
    return "-".join([find_guide(guide), *(f"{k}={v}" for k, v in shown.items())])


def _points(sweep: Sequence[tuple[str, Sequence[Any]]]) -> list[Options]:
    """The grid of a sweep, as a list of settings; of none it is one without any."""
    names = [name for name, _ in sweep]
    for name, values in sweep:
        if name in _NOT_SWEPT:
            raise UserError(f"--sweep {name}: {_NOT_SWEPT[name]}")
        if names.count(name) > 1:
            raise UserError(
                f"--sweep {name} is given twice; give all its values in one --sweep"
            )
        twice = [v for i, v in enumerate(values) if v in values[:i]]
        if twice:
            raise UserError(f"--sweep {name}: the value {twice[0]} comes twice")
    grid = itertools.product(*(values for _, values in sweep))
    return [dict(zip(names, values, strict=True)) for values in grid]


def _typed(args: argparse.Namespace) -> dict[str, str]:
    """How flags and options were typed, by name; those of a `--config` were not."""
    usual = args.flags.get_default
    flags = [name for name in vars(args) if getattr(args, name) != usual(name)]
    options = args.option[len(usual("option") or ()) :]
    typed = {name: f"--{name.replace('_', '-')}" for name in flags}
    return typed | {name: f"--option {name}=..." for name, _ in options}


def _refuse_two_values(
    said: Mapping[str, str], sweep: Sequence[tuple[str, Sequence[Any]]]
) -> None:
    for name, _ in sweep:
        if name in said:
            raise UserError(
                f"--sweep {name} and {said[name]} set the same option; leave one of them "
                "out"
            )


def _known(guide: str, options: Options, data: Dataset) -> Options:
    """The options of a guide and of what stands in the other places, and these."""
    if "model" in options:
        return whole_options(resolve(options["model"], "model")) | {"model": None}
    parts = {name: resolve(options[name], name) for name in PLACES if name in options}
    parts = {"likelihood": data.likelihood, **parts}
    return pair_options(resolve(guide, "guide"), **parts) | dict.fromkeys(PLACES)
