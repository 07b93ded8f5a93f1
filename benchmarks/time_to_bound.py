"""Draws the validation bound of static MNIST over seconds of training, by contestant.

    python benchmarks/time_to_bound.py --out results/time_to_bound

The contestants of `svi_step.py` train `mean_field` and `iaf` (K = 2) with one recipe: Adam
at 1e-3, batches of 100, no warm-up. Each is alone in its process and on the machine; its
clock stands still while the bound is computed, one draw for each of 10,000 images, and
runs while it compiles. Then ours alone is trained by `fit` with what it has besides: larger
batches and rates, an average of the weights, a warm-up of the KL, a falling rate; the best
of these for 60 epochs, in bfloat16 and with gated networks, too. The seconds of these are
those of `fit`, validation included.

What is written: a JSON file and a picture for each network, and a table of the seconds to
a bound of -96 and of -94. Rows that the file has and this call does not run stay:

    python benchmarks/time_to_bound.py --only "60 epochs" --out results/time_to_bound
"""

import itertools
import json
import multiprocessing
import sys
import time

import torch
from contestants import NETWORKS, contestants
from svi_step import confine
from timing import make, parser, write

import pyro_vae_zoo as zoo

WHO = ("SVI", "hand+c", "scan", "ours")
BATCH_SIZE = 100
BOUNDS = (-96.0, -94.0)
LONG = {"epochs": 60, "ema": 0.999, "kl_warmup": 10}
RECIPES = {  # arguments of `fit`; `network` is one of `create`
    "as above": {},
    "batches of 250, lr 2e-3": {"batch_size": 250, "lr": 2e-3},
    "falling rate": {"lr": 2e-3, "schedule": "cosine"},
    "average": {"ema": 0.999},
    "average, lr 2e-3": {"lr": 2e-3, "ema": 0.999},
    "warm-up, average, lr 2e-3": {"lr": 2e-3, "ema": 0.999, "kl_warmup": 5},
    "60 epochs": {"epochs": 60},
    "60 epochs, warm-up, average": LONG,
    "60 epochs, falling rate": LONG | {"schedule": "cosine"},
    "60 epochs, falling rate, bf16": LONG | {"schedule": "cosine", "precision": "bf16"},
    "60 epochs, gated, bf16": LONG | {"precision": "bf16", "network": "gated_mlp"},
}
KINDS = dict.fromkeys(WHO, "contestant") | {
    name: "long recipe" if "epochs" in recipe else "recipe"
    for name, recipe in RECIPES.items()
}
NAME = "time_to_bound.json"


class Epochs:
    """Orders of the training data; between two of them the bound on others is computed.

    Who trains may set `judge`, a function of data to their mean bound.
    """

    def __init__(self, vae, data, epochs, batch_size=BATCH_SIZE):
        self.vae, self.data, self.epochs, self.batch_size = (
            vae,
            data,
            epochs,
            batch_size,
        )
        self.loss, self.start, self.seconds, self.curve = (
            0.0,
            time.perf_counter(),
            0,
            [],
        )
        self.judge = lambda x: zoo.evaluate(vae, x, num_particles=1, seed=0).elbo

    def __iter__(self):
        """An order for each epoch."""
        n = len(self.data.train) // self.batch_size
        for _ in range(self.epochs):
            order = torch.randperm(len(self.data.train))[: n * self.batch_size]
            yield order.reshape(n, self.batch_size)
            self.seconds += time.perf_counter() - self.start
            bound = self.judge(self.data.valid)
            self.curve.append((round(self.seconds, 2), round(bound, 3)))
            print(f"    {self.seconds:7.1f} s {bound:9.2f}", file=sys.stderr)
            self.start = time.perf_counter()


def race(pipe, name, network, epochs, threads):
    """What the process of a contestant does."""
    confine(threads)
    guide, options = NETWORKS[network]
    data, vae = zoo.load_dataset("mnist_static"), make(guide, **options)
    run = Epochs(vae, data, epochs)
    torch.manual_seed(0)
    contestants(guide)[name](vae, data.train, run)
    pipe.send(run.curve)


def train(pipe, name, network, epochs, threads):
    """The same for a recipe of ours; `fit` keeps the time of steps and of validation."""
    confine(threads)
    guide, options = NETWORKS[network]
    recipe = {"epochs": epochs, "kl_warmup": 0, "ema": 0, "patience": 0} | RECIPES[name]
    options = options | {"network": recipe.pop("network", "mlp")}
    data, vae = zoo.load_dataset("mnist_static"), make(guide, **options)
    start = time.perf_counter()
    history = zoo.fit(vae, data, device="cpu", **recipe)
    curve, seconds = (
        [],
        time.perf_counter() - start - history.seconds,
    )  # around the epochs
    for record in history.epochs:
        seconds += record["seconds"]
        curve.append((round(seconds, 2), round(record["valid_elbo"], 3)))
    pipe.send(curve)


def alone(target, *args):
    """The curve of a process that has the machine for itself."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *args))
    process.start()
    there.close()
    curve = here.recv()
    process.join()
    return curve


def seconds_to(curve, bound):
    """The first time at which a curve has reached a bound, or None."""
    return next((seconds for seconds, value in curve if value >= bound), None)


def draw(rows, path):
    """A panel of the contestants, and two of ours by other recipes."""
    import matplotlib.pyplot as plt

    kinds = dict.fromkeys(row["kind"] for row in rows)
    options = {"layout": "constrained", "sharey": True, "squeeze": False}
    size = (4.5 * len(kinds), 4.5)
    figure, (panels,) = plt.subplots(1, len(kinds), figsize=size, **options)
    for axes, kind in zip(panels, kinds, strict=True):
        for row in rows:
            if row["kind"] == kind:
                axes.plot(*zip(*row["curve"], strict=True), label=row["what"])
        axes.set(xlabel="seconds", title=f"{row['network']}: {kind}s")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
        axes.axhline(BOUNDS[0], color="0.8", zorder=0)
    best = max(value for row in rows for _, value in row["curve"])
    panels[0].set(
        ylabel="bound on validation images (nats)", ylim=(best - 16, best + 1)
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def show(rows):
    print(f"{'':40}" + "".join(f"{f'to {bound:g}':>12}" for bound in BOUNDS))
    for row in rows:
        reached = (seconds_to(row["curve"], bound) for bound in BOUNDS)
        cells = ["-" if s is None else f"{s:.0f} s" for s in reached]
        what = f"{row['network']}, {row['what']}"
        print(f"{what:40}" + "".join(f"{cell:>12}" for cell in cells))


def stored(out):
    """The rows of a file that is there, by network and name."""
    there = out and (out / NAME).exists()
    rows = json.loads((out / NAME).read_text())["curves"] if there else []
    return {(row["network"], row["what"]): row for row in rows}


def arguments():
    options = parser(__doc__, repeats=1)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=["mean_field", "iaf_2"]
    )
    options.add_argument(
        "--only",
        nargs="+",
        default=[""],
        help="contestants and recipes, by a part of the name",
    )
    return options.parse_args()


def main():
    args = arguments()
    confine(args.threads)
    rows = stored(args.out)
    for network, (name, kind) in itertools.product(args.networks, KINDS.items()):
        if not any(part in name for part in args.only):
            continue
        print(f"{network}, {name}", file=sys.stderr)
        target = race if kind == "contestant" else train
        curve = alone(target, name, network, args.epochs, args.threads)
        rows[network, name] = {
            "network": network,
            "kind": kind,
            "what": name,
            "curve": curve,
        }
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            write({"curves": list(rows.values())}, args.out / NAME)
    rows = list(rows.values())
    show(rows)
    if args.out:
        for network in args.networks:
            of_it = [row for row in rows if row["network"] == network]
            draw(of_it, args.out / f"{network}.png")
        print(json.dumps({"written": str(args.out)}))


if __name__ == "__main__":
    main()
