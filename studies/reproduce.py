"""The tables of the source papers, row by row; the recipes are in `recipes/`.

    python -m studies.reproduce --table flows --budget cpu --jobs 2

trains, evaluates and writes `results/<table>_<budget>/<row>-s<seed>.json` for each row and
seed, first all rows of one seed. What `runs/` has finished is not run again, what was
interrupted goes on. `--jobs` has as many rows run side by side, each in a process of its
own, on a GPU too; `--rows` takes some of them. With `--data` the results are of other
data: give another `--out`, too. `python -m studies.report` makes tables and figures of
it all.
"""

import argparse
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.loading import load_dataset
from pyro_vae_zoo.errors import DivergedError, UserError, unknown_name
from pyro_vae_zoo.files import read_json, resolve, write_json
from pyro_vae_zoo.models.create import guide_options
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.report import read_metrics
from pyro_vae_zoo.report.summary import summary
from pyro_vae_zoo.runs.run import make_run
from pyro_vae_zoo.runtime import pick_device
from pyro_vae_zoo.saving import load
from pyro_vae_zoo.training.options import BARE, TrainOptions
from studies.estimates import estimates_of, stored_estimates
from studies.recipes import TABLES
from studies.tables import Budget, Row, Table, options_of, repeated


def reproduce(row_name: str, seed: int, args: argparse.Namespace) -> dict:
    """Run one row, or take what is there, and write its result."""
    table = TABLES[args.table]
    row, budget = table.rows[row_name], table.budgets[args.budget]
    data = _data(table, row, budget, args)
    training, steps_per_epoch = _training(row, budget, data, seed)
    options = options_of(row, budget)
    folder = args.runs_dir / f"{args.table}-{args.budget}" / f"{row_name}-s{seed}"
    has_latents = "latent_dim" in guide_options(resolve(row.guide))
    particles = budget.eval_particles if has_latents else 1
    result = make_run(
        folder,
        row.guide,
        data,
        options,
        training,
        source=args.data,
        device=args.device,
        eval_particles=particles,
        resume=(folder / "config.json").exists(),
        progress=not args.quiet,
    )
    out = results_folder(args) / f"{row_name}-s{seed}.json"
    estimates = stored_estimates(out, result, table, budget, len(data.test))
    if estimates is None:
        vae = partial(_trained, folder, row, args)
        estimates = estimates_of(vae, data, table, budget, result["elbo"], seed)
    published = not (
        args.data or budget.data or budget.train_size
    )  # else it is of other data
    bounds = row.published_elbo if published else None
    splits = ("train", "valid", "test")
    result |= estimates
    result |= {
        "table": args.table,
        "row": row_name,
        "budget": args.budget,
        "source": table.source,
        "published": row.published if published else None,
        "published_elbo": bounds and dict(zip(splits, bounds, strict=True)),
        "note": row.note,
        "is_bound": row.is_bound,
        "command": _command(args, row_name, seed),
        "train_size": len(data.train),
        "curve": [
            {"step": steps_per_epoch * record["epoch"]} | _terms(record)
            for record in read_metrics(folder)
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    return result


def _terms(record: Mapping[str, Any]) -> dict[str, float | None]:
    """What a curve shows of an epoch, to a thousandth of a nat."""
    keys = ["train_elbo", "valid_elbo"]
    if record.get("log_det") is not None:  # of a flow
        keys += ["kl", "initial_log_density", "final_log_density", "log_det"]
    found = {key: record[key] for key in keys}
    return {k: v if v is None else round(v, 3) for k, v in found.items()}


def _data(table: Table, row: Row, budget: Budget, args: argparse.Namespace) -> Dataset:
    name = args.data or budget.data or row.data or table.data
    data = load_dataset(name, args.data_dir)
    sizes = [n for n in (row.train_size, budget.train_size) if n is not None]
    return data.first(min(sizes)) if sizes else data


def _training(
    row: Row, budget: Budget, data: Dataset, seed: int
) -> tuple[TrainOptions, int]:
    """The options of the row's training, and the steps of an epoch."""
    training = TrainOptions(seed=seed, **BARE | budget.training | row.training)
    steps_per_epoch = -(-len(data.train) // training.batch_size)
    if budget.steps is not None:
        epochs = max(round(budget.steps / steps_per_epoch), 1)
        training = replace(training, epochs=epochs)
    if budget.warmup is not None and "kl_warmup" not in row.training:
        training = replace(training, kl_warmup=budget.warmup * training.num_epochs)
    return training, steps_per_epoch


def _trained(folder: Path, row: Row, args: argparse.Namespace) -> VAE:
    """The pair of a finished run."""
    guide = resolve(row.guide)
    vae = load(folder, guide=guide if callable(guide) else None)
    return vae.to(pick_device(args.device))


def _command(args: argparse.Namespace, row: str, seed: int) -> str:
    """The command that makes one row; results name it."""
    other = "" if args.data is None else f" --data {args.data}"
    return (
        f"python -m studies.reproduce --table {args.table} --budget {args.budget} "
        f"--rows {row} --seed {seed}{other}"
    )


def results_folder(args: argparse.Namespace) -> Path:
    """The folder of the rows' JSON files, one for each budget."""
    return args.out / f"{args.table}_{args.budget}"


def draw(folder: Path, table: Table, seed: int) -> None:
    """The curves of a seed's rows, where the table has a picture of them."""
    from pyro_vae_zoo.plots import plot_curves, save_figure

    if not table.curves:
        return
    curves: dict[str, dict[str, list]] = {}
    for name in table.rows:
        path = folder / f"{name}-s{seed}.json"
        if not path.exists():
            continue
        result = read_json(path)
        size = f"{result['train_size']:,} training images"
        label = result["row"].removesuffix(f"_{result['train_size']}")
        curves.setdefault(size, {})[label] = result["curve"]
    if curves:
        title = f"{table.source}: budget {result['budget']}"
        title += f", {result['data']}, seed {seed}"
        save_figure(plot_curves(curves, title=title), folder / f"curves-s{seed}.png")


def main() -> int:
    """Run the rows that were asked for and print what came out."""
    args = _parse()
    table = TABLES[args.table]
    if args.budget not in table.budgets:
        error = unknown_name(
            f"budget of table {args.table}", args.budget, table.budgets
        )
        print(f"error: {error}", file=sys.stderr)
        return 2
    twice = repeated(table, table.budgets[args.budget])
    rows = list(dict.fromkeys(args.rows or [r for r in table.rows if r not in twice]))
    for name in rows:
        if name not in table.rows:
            error = unknown_name(f"row of table {args.table}", name, table.rows)
            print(f"error: {error}", file=sys.stderr)
            return 2
    if args.jobs < 1:
        print(f"error: --jobs must be at least 1, got {args.jobs}", file=sys.stderr)
        return 2
    jobs = [
        (name, seed)
        for name in rows
        for seed in (table.rows[name].seeds if args.seed is None else (args.seed,))
    ]
    jobs.sort(key=itemgetter(1))
    codes = (_run_side_by_side if args.jobs > 1 else _run_in_turn)(jobs, args)
    for seed in sorted({seed for _, seed in jobs}):
        draw(results_folder(args), table, seed)
    _show(jobs, args)
    return next((code for code in codes if code), 0)


def _run_in_turn(jobs: list[tuple[str, int]], args: argparse.Namespace) -> list[int]:
    """Run rows with their seeds; the exit code of each.

    A row that fails does not stop the others, since it may be the one that diverges.
    """
    codes = []
    for name, seed in jobs:
        print(f"{args.table}: {name}, seed {seed}", file=sys.stderr)
        try:
            print(summary(reproduce(name, seed, args)))
            codes.append(0)
        except (UserError, OSError, DivergedError) as error:
            print(f"error: {error}", file=sys.stderr)
            codes.append(1 if isinstance(error, DivergedError) else 2)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return [*codes, 130]
    return codes


def _run_side_by_side(
    jobs: list[tuple[str, int]], args: argparse.Namespace
) -> list[int]:
    """Run `--jobs` rows at a time, each by this script; the exit code of each.

    The processor's cores are shared out among them.
    """
    threads = max((os.cpu_count() or 1) // args.jobs, 1)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    folders = ["--out", args.out, "--runs-dir", args.runs_dir, "--device", args.device]
    if args.data is not None:
        folders += ["--data", args.data]
    if args.data_dir is not None:
        folders += ["--data-dir", args.data_dir]
    common = [
        sys.executable,
        "-m",
        "studies.reproduce",
        "--table",
        args.table,
        "--budget",
        args.budget,
    ]

    def run(job: tuple[str, int]) -> int:
        name, seed = job
        command = [*common, "--rows", name, "--seed", str(seed), "--quiet", *folders]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        state = "done" if done.returncode == 0 else done.stderr.strip()
        print(f"{args.table}: {name}, seed {seed}: {state}", file=sys.stderr)
        return done.returncode

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            return list(pool.map(run, jobs))
        except KeyboardInterrupt:  # which the rows got too, and save
            pool.shutdown(cancel_futures=True)
            print("interrupted; the same command goes on", file=sys.stderr)
            return [130]


def _show(jobs: list[tuple[str, int]], args: argparse.Namespace) -> None:
    """A line for each row and seed that is there, beside the paper's test numbers."""
    table = TABLES[args.table]
    paths = {job: results_folder(args) / f"{job[0]}-s{job[1]}.json" for job in jobs}
    title = f"{table.source}; nats, budget {args.budget}"
    print(f"\n{textwrap.fill(title, 80)}\n")
    print(f"{'':42}{'ELBO':>9}{'paper':>9}{'log p(x)':>10}{'paper':>9}")
    for (name, seed), path in paths.items():
        if not path.exists():
            continue
        result = read_json(path)
        label = name if table.rows[name].seeds == (seed,) else f"{name}, seed {seed}"
        bounds = result["published_elbo"] or {}
        shown = (result["elbo"], bounds.get("test"))
        shown += (result["log_likelihood"], result["published"])
        numbers = "".join(map(_or_dash, shown, (9, 9, 10, 9)))
        if len(label) > 42:
            print(label)
            label = ""
        print(f"{label:42}{numbers}")
        if result["note"]:
            print(f"  ({result['note']})")


def _or_dash(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.2f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.reproduce", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--table", choices=TABLES, required=True, help="which rows")
    add(
        "--budget",
        choices=("smoke", "cpu", "long", "full"),
        default="smoke",
        help="smoke: does it run (default); cpu: minutes a row on one core; long: an hour "
        "or two a row; full: for a GPU",
    )
    add(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="some rows (default: all, but those that the budget repeats)",
    )
    add("--seed", type=int, metavar="N", help="one random seed (default: the row's)")
    add(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="rows side by side (default: 1)",
    )
    add(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder for the JSON files (default: results)",
    )
    add(
        "--runs-dir",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder for run folders (default: runs)",
    )
    add(
        "--data",
        metavar="NAME",
        help="a data set or an .npz instead of the table's, without published numbers",
    )
    add("--data-dir", type=Path, metavar="DIR", help="folder of the data sets")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device to compute on (default: auto)",
    )
    add("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
