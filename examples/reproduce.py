"""The tables of the source papers, row by row, with recipes that are all in this file.

    python examples/reproduce.py --table self_reflective --budget cpu

trains, evaluates and writes `results/<table>_<budget>/<row>-s<seed>.json` for each row, and
draws the curves of all rows that are there. A row that is finished is not run again,
one that was interrupted goes on. `--rows` takes some of them, so that several
processes can share a table.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyro_vae_zoo.checkpoint import load_model, write_json
from pyro_vae_zoo.cli import summary
from pyro_vae_zoo.datasets import Dataset, load_dataset
from pyro_vae_zoo.errors import DivergedError, UserError
from pyro_vae_zoo.evaluate import log_likelihood
from pyro_vae_zoo.options import TrainOptions
from pyro_vae_zoo.registry import guide_options
from pyro_vae_zoo.report import read_metrics
from pyro_vae_zoo.runs import make_run
from pyro_vae_zoo.train import pick_device


@dataclass(frozen=True)
class Row:
    """A guide with its options, and the log-likelihood that the paper has for it."""

    guide: str
    options: dict[str, Any] = field(default_factory=dict)
    published: float | None = None
    train_size: int | None = None  # all there are
    data: str | None = None  # in place of the table's
    panel: tuple[str, str] | None = None  # in the picture of scores, and the label
    training: dict[str, Any] = field(default_factory=dict)  # on top of a budget's


@dataclass(frozen=True)
class Budget:
    """How much of it: the training, and the draws of the final evaluation."""

    training: dict[str, Any]
    eval_particles: int = 1000
    fewer_particles: int | None = None  # a second log-likelihood, for comparison
    steps: int | None = None  # in place of epochs
    data: str | None = None  # in place of the table's
    options: dict[str, Any] = field(default_factory=dict)  # on top of a row's
    train_size: int | None = None  # at most


@dataclass(frozen=True)
class Table:
    """Rows on one data set, with all else equal."""

    source: str
    data: str
    rows: dict[str, Row]
    budgets: dict[str, Budget]


# One Gaussian layer of 100 latents, as wide as makes its networks those of the others.
_ONE_LAYER = {"latent_dim": 100, "hidden_dims": (1000, 1000), "activation": "elu"}

_GUIDES = {
    "mean_field": Row("mean_field"),
    # As many draws in a step as a mixture of three takes, to see what these are worth.
    "mean_field_draws_3": Row("mean_field", training={"num_particles": 3}),
    **{f"mixture_{m}": Row("mixture", {"num_components": m}) for m in (2, 3, 5)},
    **{
        f"recursive_mixture_{m}": Row("recursive_mixture", {"num_components": m})
        for m in (2, 3, 5)
    },
    "boosted_2": Row("boosted", {"num_components": 2}),
    "iaf": Row("iaf"),
    "householder": Row("householder"),
    **{
        f"semi_amortized_{k}": Row("semi_amortized", {"num_steps": k})
        for k in (1, 2, 4, 8)
    },
}


def _each(
    guides: dict[str, Row], data: Sequence[str], sizes: Sequence[int]
) -> dict[str, Row]:
    """Each guide on each data set with each number of latents."""
    return {
        f"{name}-{d}-z{size}": replace(
            row,
            data=d,
            options=row.options | {"latent_dim": size},
            panel=(f"{d}, z = {size}", name),
        )
        for d in data
        for size in sizes
        for name, row in guides.items()
    }


# As many latents in one vector, and the same widths, as the graph's five nodes of 16.
_ONE_NODE = {
    "latent_dim": 80,
    "hidden_dims": (512, 512, 256),
    "network": "resnet",
    "activation": "elu",
}

_GRAPHS = {
    "mean_field": Row("mean_field", _ONE_NODE),
    "iaf": Row("iaf", _ONE_NODE),
    "gated_dag": Row("gated_dag"),
    "gated_dag_iaf": Row("gated_dag_iaf"),
    **{
        f"gated_dag_{structure}": Row("gated_dag", {"structure": structure})
        for structure in ("full", "chain", "independent")
    },
}
# The graphs ran on thresholded images; the row without one has the figures of others on
# Larochelle's, whose code it is said to have run.
_PUBLISHED_GRAPHS = {
    "gated_dag-mnist_threshold": -73.7,
    "gated_dag_iaf-mnist_threshold": -71.87,
    "iaf-mnist_static": -95.3,
}

TABLES = {
    "self_reflective": Table(
        source="Apostolopoulou et al. 2020, table 1",
        data="mnist_dynamic",
        rows={
            "self_reflective": Row("self_reflective", {}, -81.17),
            "self_reflective_iaf": Row("self_reflective_iaf", {}, -81.96),
            "ladder": Row("ladder", {}, -81.84),
            "iaf": Row("iaf", _ONE_LAYER, -83.04),
            "bottom_up": Row("bottom_up", {}, -84.53),
            "mean_field": Row("mean_field", _ONE_LAYER),
            # What the warm-up of the KL is worth.
            "no_warmup": Row("self_reflective", training={"kl_warmup": 0}),
        },
        budgets={
            # The paper leaves widths, rate, epochs and warm-up open: these are ours.
            "full": Budget(
                {
                    "epochs": 1000,
                    "batch_size": 128,
                    "lr": 5e-4,
                    "schedule": "inverse",
                    "kl_warmup": 100,
                    "clip_norm": 100.0,
                    "analytic_kl": True,
                }
            ),
            "cpu": Budget(
                {
                    "epochs": 20,
                    "lr": 1e-3,
                    "schedule": "cosine",
                    "kl_warmup": 10,
                    "clip_norm": 100.0,
                    "analytic_kl": True,
                },
                eval_particles=200,
            ),
            "smoke": Budget(
                {"epochs": 1, "lr": 1e-3, "clip_norm": 100.0, "analytic_kl": True},
                eval_particles=10,
                data="digits",
            ),
        },
    ),
    "recursive_mixture": Table(
        source="Kim & Pavlovic 2020, tables of test log-likelihoods",
        data="mnist_static",
        # The paper's figures are not at hand. Networks, rate and batch are those of the
        # study whose set-up it takes over (Park et al. 2019).
        rows=_each(_GUIDES, ("mnist_gray", "mnist_static"), (20, 50)),
        budgets={
            "full": Budget(
                {"epochs": 2000, "batch_size": 128, "lr": 5e-4},
                eval_particles=100,
                options={"hidden_dims": (500, 500)},
            ),
            "cpu": Budget(
                {"epochs": 8, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
                eval_particles=100,
            ),
            "smoke": Budget({"epochs": 2}, eval_particles=10, data="digits"),
        },
    ),
    "gated_dag": Table(
        source="Benaim & Moradi, table of results",
        data="mnist_threshold",
        rows={
            f"{name}-{d}": replace(
                row,
                data=d,
                panel=(d, name),
                published=_PUBLISHED_GRAPHS.get(f"{name}-{d}"),
            )
            for d in ("mnist_threshold", "mnist_static")
            for name, row in _GRAPHS.items()
        },
        budgets={
            # A quarter of it for the structure: the paper's 200 epochs, and 600. The rate
            # falls about as its steps of 0.8 every 100 epochs do. The warm-up of the KL
            # is ours, against nodes that are given up before they are learned.
            "full": Budget(
                {
                    "epochs": 800,
                    "batch_size": 64,
                    "lr": 1e-3,
                    "schedule": "inverse",
                    "kl_warmup": 10,
                    "clip_norm": 5.0,
                },
                fewer_particles=100,
            ),
            "cpu": Budget(
                {
                    "epochs": 16,
                    "lr": 1e-3,
                    "schedule": "cosine",
                    "kl_warmup": 2,
                    "clip_norm": 5.0,
                },
                fewer_particles=100,
            ),
            "smoke": Budget(
                {"epochs": 4, "clip_norm": 5.0},
                eval_particles=10,
                fewer_particles=2,
                data="digits",
            ),
        },
    ),
    "self_reflective_maf": Table(
        source="Apostolopoulou et al. 2020, table 3",
        data="cifar10",
        rows={
            "maf_2000": Row("maf", train_size=2000),
            "maf_6000": Row("maf", train_size=6000),
            "maf": Row("maf", published=2670.0),
            "self_reflective_maf_2000": Row("self_reflective_maf", train_size=2000),
            "self_reflective_maf_6000": Row("self_reflective_maf", train_size=6000),
            "self_reflective_maf": Row("self_reflective_maf", published=3190.0),
        },
        budgets={
            "full": Budget(
                {"epochs": 500, "lr": 1e-4, "clip_norm": 1e3, "patience": 30},
            ),
            # Both with ten MADEs of this width, for as many steps whatever the size.
            "cpu": Budget(
                {"lr": 5e-4, "schedule": "cosine", "clip_norm": 1e3},
                eval_particles=100,
                steps=2000,
                options={"flow_hidden_dims": (256,)},
            ),
            "smoke": Budget(
                {"lr": 5e-4, "clip_norm": 1e3},
                eval_particles=2,
                steps=2,
                options={"flow_hidden_dims": (8,)},
                train_size=200,
            ),
        },
    ),
}


def reproduce(table_name: str, row_name: str, args: argparse.Namespace) -> dict:
    """Run one row, or take what is there, and write its result."""
    table = TABLES[table_name]
    row, budget = table.rows[row_name], table.budgets[args.budget]
    data = load_dataset(budget.data or row.data or table.data, args.data_dir)
    sizes = [n for n in (row.train_size, budget.train_size) if n is not None]
    data = data.first(min(sizes)) if sizes else data
    training = TrainOptions(seed=args.seed, **budget.training | row.training)
    steps_per_epoch = -(-len(data.train) // training.batch_size)
    if budget.steps is not None:
        epochs = max(round(budget.steps / steps_per_epoch), 1)
        training = replace(training, epochs=epochs)
    latents = "latent_dim" in guide_options(row.guide)
    folder = args.runs_dir / f"{table_name}-{args.budget}" / f"{row_name}-s{args.seed}"
    result = make_run(
        folder,
        row.guide,
        data,
        row.options | budget.options,
        training,
        device=args.device,
        eval_particles=budget.eval_particles if latents else 1,
        resume=(folder / "config.json").exists(),
        progress=not args.quiet,
    )
    if budget.fewer_particles is not None:
        result["log_likelihood_with"] = {
            str(budget.fewer_particles): _log_likelihood(folder, data, budget, args)
        }
    records = read_metrics(folder)
    result |= {
        "table": table_name,
        "row": row_name,
        "budget": args.budget,
        "source": table.source,
        "published": None if budget.data else row.published,
        "command": f"python examples/reproduce.py --table {table_name} "
        f"--budget {args.budget} --rows {row_name} --seed {args.seed}",
        "train_size": len(data.train),
        "curve": [
            {
                "step": steps_per_epoch * record["epoch"],
                "train_elbo": record["train_elbo"],
                "valid_elbo": record["valid_elbo"],
            }
            for record in records
        ],
    }
    out = results_folder(args)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{row_name}-s{args.seed}.json", result)
    return result


def _log_likelihood(
    folder: Path, data: Dataset, budget: Budget, args: argparse.Namespace
) -> float:
    """Of a finished run, with the fewer draws that a paper has taken."""
    vae = load_model(folder).to(pick_device(args.device))
    particles, progress = budget.fewer_particles, not args.quiet
    ll = log_likelihood(vae, data.test, particles, seed=args.seed, progress=progress)
    return ll.log_prob.mean().item()


def results_folder(args: argparse.Namespace) -> Path:
    """Where the rows' JSON files go, apart for each budget."""
    return args.out / f"{args.table}_{args.budget}"


def draw(folder: Path, table: Table, seed: int) -> None:
    """The curves of a seed's rows; or, where rows have panels, the scores of all seeds."""
    from pyro_vae_zoo.plots import plot_curves, plot_scores, save_figure

    curves: dict[str, dict[str, list]] = {}
    scores: dict[str, dict[str, list]] = {}
    for name, row in table.rows.items():
        for path in sorted(folder.glob(f"{name}-s*.json")):
            result = json.loads(path.read_text())
            if row.panel:
                panel, label = row.panel
                scores.setdefault(panel, {}).setdefault(label, []).append(result)
            elif result["seed"] == seed:
                size = f"{result['train_size']:,} training images"
                label = result["row"].removesuffix(f"_{result['train_size']}")
                curves.setdefault(size, {})[label] = result["curve"]
    title = f"{table.source}: budget {result['budget']}"
    if curves:
        title += f", {result['data']}, seed {seed}"
        save_figure(plot_curves(curves, title=title), folder / f"curves-s{seed}.png")
    if scores:
        fig = plot_scores(scores, reference="mean_field", title=title)
        save_figure(fig, folder / "scores.png")


def main() -> int:
    """Run the rows that were asked for and print what came out."""
    args = _parse()
    table = TABLES[args.table]
    unknown = set(args.rows or ()) - set(table.rows)
    if unknown:
        print(f"error: {args.table} has rows {', '.join(table.rows)}", file=sys.stderr)
        return 2
    results = {}
    for name in args.rows or table.rows:
        print(f"{args.table}: {name}", file=sys.stderr)
        try:
            results[name] = reproduce(args.table, name, args)
        except (UserError, OSError, DivergedError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1 if isinstance(error, DivergedError) else 2
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
        print(summary(results[name]))
    draw(results_folder(args), table, args.seed)
    print(f"\n{table.source}; nats, budget {args.budget}\n")
    print(f"{'row':40}{'ELBO':>10}{'log p(x)':>10}{'paper':>10}")
    for name, result in results.items():
        paper = "-" if result["published"] is None else f"{result['published']:.2f}"
        ours = f"{result['elbo']:10.2f}{result['log_likelihood']:10.2f}"
        print(f"{name:40}{ours}{paper:>10}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--table", choices=TABLES, required=True, help="of which paper")
    add(
        "--budget",
        choices=("smoke", "cpu", "full"),
        default="smoke",
        help="smoke: does it run (default); cpu: hours on two cores; full: for a GPU",
    )
    add("--rows", nargs="+", metavar="ROW", help="some rows (default: all)")
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="for the JSON files (default: results)",
    )
    add(
        "--runs-dir",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="for run folders (default: runs)",
    )
    add("--data-dir", type=Path, metavar="DIR", help="where data sets lie")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="to compute on (default: auto)",
    )
    add("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
