"""The command line: `python -m pyro_vae_zoo`, and the scripts in `examples/`.

Exit codes: 0 done, 1 training met a number that is not finite or `report --check` found
something stale, 2 a mistake that you can mend (one line says which), 130 interrupted.
"""

import argparse
import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyro_vae_zoo._parser import STEPS_BY_DEFAULT, key_value, make_parser
from pyro_vae_zoo.checkpoint import RESULT_FILE, finite, read_json, write_json
from pyro_vae_zoo.datasets import Dataset, load_dataset
from pyro_vae_zoo.errors import DivergedError, UserError, unknown_name
from pyro_vae_zoo.evaluate import evaluate
from pyro_vae_zoo.options import TrainOptions
from pyro_vae_zoo.pretrained import (
    against_published,
    load,
    pretrained_info,
    pretrained_name,
)
from pyro_vae_zoo.registry import guide_options, list_guides
from pyro_vae_zoo.runs import (
    find_guide,
    make_run,
    open_run,
    resolve_guide,
    result_of,
)
from pyro_vae_zoo.train import pick_device

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
    print(
        _filled(f"in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    )


def _evaluate(args: argparse.Namespace) -> None:
    name = pretrained_name(args.run_folder)
    published = pretrained_info(name) if name else {}
    config = published or open_run(args.run_folder)
    vae = load(args.run_folder, guide=_class_of(args.guide, config["guide"]))
    data = load_dataset(args.data or config["source"], args.data_dir)
    if data.likelihood != vae.likelihood:
        raise UserError(
            f"the run's likelihood is {vae.likelihood}, that of {data.name} is "
            f"{data.likelihood}; evaluate it on data of its own kind"
        )
    particles, seed = args.num_particles, args.seed
    particles = published.get("num_particles", 1000) if particles is None else particles
    seed = published.get("eval_seed", 0) if seed is None else seed
    vae, x = vae.to(pick_device(args.device)), _images(data, args, seed)
    progress = not (args.quiet or args.json)
    how = {"progress": progress, "compile": getattr(args, "compile", "auto")}
    ev = evaluate(vae, x, particles, seed=seed, **how)
    result = _known_of(args.run_folder, published) | result_of(
        vae, ev, {**config, "vae": vae.config}, data, args.split, x
    )
    result["eval_seed"] = seed
    if published:
        result["published"] = against_published(published, result)
    result = finite(result)
    if args.out:
        write_json(args.out, result)
    print(json.dumps(result, indent=2) if args.json else summary(result))


def _class_of(given: str | None, name: str) -> Callable[..., nn.Module] | None:
    """The class of a run's guide, where it is the user's own and was given."""
    guide = resolve_guide(given) if given else None
    if ".py:" in (given or name) and guide is None:
        raise UserError(
            f"the run's guide is {name}, code that is only run when you ask for it: "
            f"add --guide {name}"
        )
    return guide if callable(guide) else None


def _images(data: Dataset, args: argparse.Namespace, seed: int) -> Tensor:
    """Those to evaluate on: the first of a split, or all of it."""
    # The training images of a dynamic set are one draw of them.
    x = data.epoch(seed, 0) if args.split == "train" else getattr(data, args.split)
    if args.num_data is not None and not 1 <= args.num_data <= len(x):
        raise UserError(
            f"num_data: expected 1 to the {len(x)} images of the {args.split} split of "
            f"{data.name}, got {args.num_data}"
        )
    return x[: args.num_data]


def _known_of(folder: Path, published: dict) -> dict:
    """What a result says of the training, besides the evaluation."""
    if published:
        keys = ("name", "recipe", "commit")
        return {key: published[key] for key in keys} | published["trained"]
    trained = folder / RESULT_FILE
    return read_json(trained) if trained.exists() else {}


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


def summary(result: dict) -> str:
    """A result in lines of at most 80 columns."""
    k, n = result["num_particles"], result["num_data"]
    khat, latents = result["khat"], result["kl_per_site"]
    mc_error = _digits(result["log_likelihood_mc_error"])
    lines = [
        f"{result['guide']} on {result['data']}, {result['split']} split, {n} data, "
        f"seed {result['seed']}",
        _filled(f"({result['variant']})"),
        f"  log-likelihood  {result['log_likelihood']:9.3f} +- "
        f"{_digits(result['log_likelihood_std_error'])} nats  "
        + (f"({k} particles, MC error {mc_error})" if latents else "(exact)"),
        f"  ELBO            {result['elbo']:9.3f} +- "
        f"{_digits(result['elbo_std_error'])} nats",
        f"  KL              {result['kl']:9.3f} nats",
        f"  reconstruction  {result['reconstruction']:9.3f} nats",
        f"  bits/dimension  {result['bits_per_dim']:9.4f}",
        f"  active units    {', '.join(result['active_units'].values()):>9}",
    ]
    if not latents:
        del lines[3:6], lines[-1]
    weights = result.get("component_weights")
    if weights:
        text = "  components      " + " ".join(f"{w:9.3f}" for w in weights[:6])
        lines.append(text + " mean weights" * (len(weights) <= 4))
    if khat["median"] is not None:
        share = 100 * khat["above_0.7"]
        lines.append(
            f"  Pareto k-hat    {khat['median']:9.2f} median, {share:.0f} % above 0.7"
        )
    if result.get("published"):
        lines += _published(result["published"], k, khat["above_0.7"])
    return "\n".join(lines)


def _published(
    published: dict, num_particles: int, unreliable: float | None
) -> list[str]:
    """How far pretrained weights are from their own number, and what else it may be."""
    errors = published["mc_errors"]
    lines = [
        f"  published       {published['log_likelihood']:9.3f} nats  "
        f"({published['num_particles']} particles, MC error "
        f"{_digits(published['log_likelihood_mc_error'])})",
        f"  difference      {published['difference']:+9.3f} nats  "
        f"({'?' if errors is None else f'{errors:+.1f}'} MC errors of both together)",
    ]
    if published["num_particles"] != num_particles:
        lines.append("  (more particles raise the number, fewer lower it)")
    if unreliable and unreliable > 0.5 and errors and abs(errors) > 0.1:
        lines.append("  (other draws; k-hat above 0.7: the true MC error is larger)")
    return lines


def _filled(text: str) -> str:
    """Indented lines of at most 80 columns, unless a path needs more."""
    indents = {"initial_indent": "  ", "subsequent_indent": "   "}
    return textwrap.fill(
        text, 80, break_long_words=False, break_on_hyphens=False, **indents
    )


def _digits(error: float | None) -> str:
    return "?" if error is None or math.isnan(error) else f"{error:.3f}"


_COMMANDS = {
    "train": _train,
    "density": _density,
    "evaluate": _evaluate,
    "compare": _compare,
    "report": _report,
}
_HOW_TO_GO_ON = {
    "density": "; the same command with --resume goes on",
    "train": "; the same command with --resume goes on",
    "evaluate": "",
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
