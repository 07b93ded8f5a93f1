"""The command line: `python -m pyro_vae_zoo`, and the scripts in `examples/`.

Exit codes: 0 done, 1 training met a number that is not finite, 2 a mistake that you
can mend (one line says which), 130 interrupted.
"""

import argparse
import ast
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pyro_vae_zoo import __version__
from pyro_vae_zoo.checkpoint import RESULT_FILE, finite, load, read_json, write_json
from pyro_vae_zoo.datasets import Dataset, list_datasets, load_dataset
from pyro_vae_zoo.errors import DivergedError, UserError
from pyro_vae_zoo.evaluate import evaluate
from pyro_vae_zoo.networks import ACTIVATIONS, NETWORKS
from pyro_vae_zoo.options import OPTIMIZERS, SCHEDULES, TrainOptions
from pyro_vae_zoo.registry import guide_options, list_guides, unknown_name
from pyro_vae_zoo.runs import (
    find_guide,
    make_run,
    open_run,
    resolve_guide,
    result_of,
)
from pyro_vae_zoo.train import pick_device

__all__ = ["main"]

_STEPS_BY_DEFAULT = 2000  # of training, where that is more than 20 epochs
_MODEL_OPTIONS = ("latent_dim", "num_flows", "hidden_dims", "network", "activation")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = _parser()
    try:
        args = parser.parse_args(argv)
        args.run(args)
    except (UserError, OSError) as error:
        return _fail(error, 2)
    except DivergedError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print(f"interrupted{_HOW_TO_GO_ON.get(args.run, '')}", file=sys.stderr)
        return 130
    return 0


def _fail(error: Exception, code: int) -> int:
    print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
    return code


# ----------------------------------------------------------------------- commands


def _train(args: argparse.Namespace) -> None:
    data = load_dataset(args.data, args.data_dir)
    training = _training(args, data, args.seed)
    folder = args.out or Path(
        "runs", f"{find_guide(args.guide)}-{data.name}-s{args.seed}"
    )
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
    print(summary(result))
    print(f"  in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def _evaluate(args: argparse.Namespace) -> None:
    config = open_run(args.run_folder)
    name = args.guide or config["guide"]
    guide = resolve_guide(args.guide) if args.guide else None
    if ".py:" in name and guide is None:
        raise UserError(
            f"the run's guide is {name}, code that is only run when you ask for it: "
            f"add --guide {name}"
        )
    vae = load(args.run_folder, guide=guide if callable(guide) else None)
    data = load_dataset(args.data or config["source"], args.data_dir)
    if data.likelihood != vae.likelihood:
        raise UserError(
            f"the run's likelihood is {vae.likelihood}, that of {data.name} is "
            f"{data.likelihood}; evaluate it on data of its own kind"
        )
    vae = vae.to(pick_device(args.device))
    # The training images of a dynamic set are one draw of them.
    x = data.epoch(args.seed, 0) if args.split == "train" else getattr(data, args.split)
    progress = not (args.quiet or args.json)
    ev = evaluate(vae, x, args.num_particles, seed=args.seed, progress=progress)
    trained = args.run_folder / RESULT_FILE
    known = read_json(trained) if trained.exists() else {}
    result = known | result_of(vae, ev, config, data, args.split)
    result = finite(result | {"eval_seed": args.seed})
    if args.out:
        write_json(args.out, result)
    print(json.dumps(result, indent=2) if args.json else summary(result))


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


def _train_all(args: argparse.Namespace) -> list[Path]:
    data = load_dataset(args.data, args.data_dir)
    root = args.runs_dir or args.out
    specs = [_guide_spec(text) for text in args.guides or list_guides()]
    given = _options(args)
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
    khat = result["khat"]
    lines = [
        f"{result['guide']} on {result['data']}, {result['split']} split, {n} data, "
        f"seed {result['seed']}",
        f"  ({result['variant']})",
        f"  log-likelihood  {result['log_likelihood']:9.3f} +- "
        f"{_digits(result['log_likelihood_std_error'])} nats  "
        f"({k} particles, MC error {_digits(result['log_likelihood_mc_error'])})",
        f"  ELBO            {result['elbo']:9.3f} +- "
        f"{_digits(result['elbo_std_error'])} nats",
        f"  KL              {result['kl']:9.3f} nats",
        f"  reconstruction  {result['reconstruction']:9.3f} nats",
        f"  bits/dimension  {result['bits_per_dim']:9.4f}",
        f"  active units    {', '.join(result['active_units'].values()):>9}",
    ]
    if khat["median"] is not None:
        share = 100 * khat["above_0.7"]
        lines.append(
            f"  Pareto k-hat    {khat['median']:9.2f} median, {share:.0f} % above 0.7"
        )
    return "\n".join(lines)


def _digits(error: float | None) -> str:
    return "?" if error is None or math.isnan(error) else f"{error:.3f}"


_HOW_TO_GO_ON = {
    _train: "; the same command with --resume goes on",
    _compare: "; the same command goes on",
}


# ------------------------------------------------------------------------ options


def _training(args: argparse.Namespace, data: Dataset, seed: int) -> TrainOptions:
    if args.batch_size < 1:
        raise UserError(f"batch_size must be positive, got {args.batch_size}")
    values = {
        f.name: getattr(args, f.name) for f in fields(TrainOptions) if f.name != "seed"
    }
    if values["epochs"] is None:
        steps = -(-len(data.train) // args.batch_size)
        values["epochs"] = max(20, -(-_STEPS_BY_DEFAULT // steps))
    return TrainOptions(seed=seed, **values)


def _source(data: str) -> str:
    """What finds the data again, from another folder too."""
    return str(Path(data).resolve()) if data.endswith(".npz") else data


def _options(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in _MODEL_OPTIONS}
    return {k: v for k, v in given.items() if v is not None} | dict(args.option)


def _guide_spec(text: str) -> tuple[str, dict[str, Any]]:
    """`iaf:num_flows=4,gate_bias=1` -> the guide's name and its own options."""
    guide, colon, rest = text.rpartition(":")
    if not colon or "=" not in rest:
        return text, {}
    try:  # a comma parts options only where another KEY= follows
        return guide, dict(_key_value(p) for p in re.split(r",(?=\w+=)", rest))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--guides {text}: {error}") from None


def _key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a plain word


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas, as in 300,300; got {text!r}"
        ) from None


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that are None or False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or action.default == []:
            return action.help
        return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyro_vae_zoo",
        description="Variational auto-encoders with rich posteriors, in Pyro: train one, "
        "evaluate it by importance sampling, compare several.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    return parser


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train a VAE, evaluate it, draw its pictures",
        description="Train a VAE with the guide of your choice. Leaves a run folder with "
        "the model, its log-likelihood with an error bar, and pictures.",
        epilog="guides: " + ", ".join(list_guides()),
        formatter_class=_Formatter,
    )
    command.add_argument(
        "--guide",
        default="mean_field",
        metavar="NAME|FILE.py:Class",
        help="posterior q(z|x): a name of the zoo or a class of your own",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="random seed")
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="run folder (default: runs/<guide>-<data>-s<seed>)",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the folder"
    )
    _add_shared(command)
    command.set_defaults(run=_train)


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="evaluate a run again, with other particles or on another split",
        description="Evaluate a trained run by importance sampling.",
        formatter_class=_Formatter,
    )
    command.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder")
    command.add_argument(
        "--num-particles", type=int, default=1000, metavar="N", help="draws per datum"
    )
    command.add_argument(
        "--split",
        choices=("test", "valid", "train"),
        default="test",
        help="of the data",
    )
    command.add_argument(
        "--guide", metavar="FILE.py:Class", help="the class of a guide of your own"
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the draws"
    )
    command.add_argument("--data", metavar="FILE.npz", help="where the data lie now")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="write the result here"
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    _add_machine(command)
    command.set_defaults(run=_evaluate)


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="several guides, all else equal: a table and a figure",
        description="Compare finished runs, or train several guides on one data set with "
        "the same budget and seeds. Guides that are trained already are not trained again.",
        epilog="example: compare --guides mean_field planar:num_flows=4 iaf --seeds 0,1",
        formatter_class=_Formatter,
    )
    command.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders"
    )
    command.add_argument(
        "--guides",
        nargs="+",
        metavar="GUIDE[:KEY=VALUE,...]",
        help="guides to train, each with options of its own (default: all)",
    )
    command.add_argument(
        "--seeds", type=_numbers, default=(0,), metavar="A,B", help="one run for each"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("runs", "comparison"),
        metavar="DIR",
        help="folder of the report: table, figure, each run's result as JSON",
    )
    command.add_argument(
        "--runs-dir",
        type=Path,
        metavar="DIR",
        help="folder of the run folders (default: that of the report)",
    )
    _add_shared(command)
    command.set_defaults(run=_compare)


def _add_shared(command: argparse.ArgumentParser) -> None:
    """What `train` and `compare` have in common."""
    command.add_argument(
        "--data",
        default="digits",
        metavar="NAME|FILE.npz",
        help=f"data set: {', '.join(list_datasets())}, or your own arrays",
    )
    command.add_argument(
        "--overwrite", action="store_true", help="start a run anew where there is one"
    )
    _add_machine(command)
    add = command.add_argument_group("the pair").add_argument
    add("--latent-dim", type=int, metavar="N", help="size of z (default: 40)")
    add("--num-flows", type=int, metavar="N", help="steps of a flow guide (default: 2)")
    add(
        "--hidden-dims",
        type=_numbers,
        metavar="A,B",
        help="widths of the encoder, and in reverse of the decoder (default: 300,300)",
    )
    add(
        "--network", choices=NETWORKS, help="kind of encoder and decoder (default: mlp)"
    )
    add("--activation", choices=sorted(ACTIVATIONS), help="of an mlp (default: relu)")
    add(
        "--option",
        type=_key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any further option of the guide; may be given several times",
    )
    _add_training(command)


def _add_training(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("training").add_argument
    add(
        "--epochs",
        type=int,
        metavar="N",
        help=f"passes over the data (default: 20, or as many as make "
        f"{_STEPS_BY_DEFAULT} steps)",
    )
    default = TrainOptions()
    add("--batch-size", type=int, default=default.batch_size, metavar="N", help="data")
    add("--lr", type=float, default=default.lr, metavar="F", help="learning rate")
    add("--optimizer", choices=OPTIMIZERS, default=default.optimizer, help="of torch")
    add(
        "--schedule",
        choices=SCHEDULES,
        default=default.schedule,
        help="of the rate; inverse: lr / (1 + epoch/100)",
    )
    add(
        "--kl-warmup",
        type=int,
        default=default.kl_warmup,
        metavar="N",
        help="epochs over which the KL's weight grows from 0 to 1",
    )
    add(
        "--free-bits",
        type=float,
        default=default.free_bits,
        metavar="F",
        help="nats of KL that cost nothing, per latent site on the batch mean",
    )
    add(
        "--tempering-steps",
        type=int,
        default=default.tempering_steps,
        metavar="N",
        help="steps over which log p(x,z) gains its weight (Rezende & Mohamed: 10000)",
    )
    add(
        "--clip-norm", type=float, metavar="F", help="largest norm of the mean gradient"
    )
    add(
        "--num-particles",
        type=int,
        default=default.num_particles,
        metavar="N",
        help="draws per datum in training",
    )
    add(
        "--bound",
        choices=("elbo", "iwae"),
        default=default.bound,
        help="what training maximises",
    )
    add(
        "--sticking-the-landing",
        action="store_true",
        help="gradient without the score of the guide's parameters",
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N epochs without a better validation ELBO",
    )
    add(
        "--keep",
        choices=("best", "last"),
        default=default.keep,
        help="weights to end with: best on validation, or last",
    )
    add(
        "--eval-particles",
        type=int,
        default=1000,
        metavar="N",
        help="draws per datum of the final log-likelihood",
    )


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where data sets lie (default: $PYRO_VAE_ZOO_DATA, else the user's cache)",
    )
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="to compute on",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")


if __name__ == "__main__":
    sys.exit(main())
