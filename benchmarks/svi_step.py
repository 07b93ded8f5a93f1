"""Times a training step: Pyro as it comes, by hand, compiled, in NumPyro.

    python benchmarks/svi_step.py [--out results/benchmark_svi_step.json]

Every contestant trains the same pair on the same images in a process of its own and in
the loop of its own that `contestants.py` shows. The unit is an epoch over shuffled data,
a turn as many epochs as have 100 steps. The processes take turns; who waits sleeps.

    SVI        `pyro.infer.SVI` with `Trace_ELBO` and `pyro.optim.Adam`, as they come
    JIT        SVI with `JitTrace_ELBO`
    hand       the same maths in plain PyTorch (`by_hand.py`) and a fused Adam
    hand+c     that under `torch.compile`
    hand+bf16  that with its networks under bfloat16 autocast
    Lightning  hand as a `LightningModule`, if installed
    update     `jax.jit(svi.update)` of the pair in NumPyro, if installed
    scan       `jax.lax.scan` over an epoch of these updates
    drop-in    `CompiledTrace_ELBO` and a fused Adam in a plain loop
    ours       as `fit` trains: on a GPU replayed
    ours+bf16  that with `precision="bf16"`
    products   all matrix products of the step, alone: a floor
    oneDNN     those by oneDNN
    bf16       those in bfloat16

What is in bfloat16 fails where the processor has none.

The hierarchies are not written by hand. Before anything is timed the first steps are
compared: under one seed all must have the losses of SVI, but for those whose random
numbers are their own. A draw of NumPyro's is scored by the zoo's pair. With `--check`
nothing is timed.

`first_seconds` is the time of the first steps, those that are compared, compilation
included and with no cache of an earlier run.
"""

import itertools
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from contestants import NETWORKS, contestants
from products import floors
from timing import images, make, parser, ratio, summary, write

from pyro_vae_zoo.runtime import hardware

FIRST_STEPS = 5
TURN = 100  # steps, at least
DATA = 10_000  # images of an epoch
SECONDS = 60  # that the turns of one network may take, but for five rounds
TOLERANCE = 1e-4
OWN_DRAWS = 0.02  # how far other draws and other precision may move a loss
DRAW_THEIR_OWN = ("hand+c", "hand+bf16", "Lightning", "update", "scan", "ours+bf16")
MAY_FAIL = {  # and how: what is not installed, what the device has not
    "JIT": ("",),
    "Lightning": ("ModuleNotFoundError",),
    "update": ("ModuleNotFoundError", "RuntimeError"),
    "scan": ("ModuleNotFoundError", "RuntimeError"),
    "hand+bf16": ("NotImplementedError",),
    "ours+bf16": ("NotImplementedError",),
    "bf16": ("NotImplementedError",),
}
COMPILED = ("drop-in", "ours", "ours+bf16", "hand+c", "hand+bf16")


class Epochs:
    """The epochs that a contestant trains: orders of the data, and its clock.

    The first has a few steps, whose loss is told; then come turns, as long as the other
    end of the pipe asks for them.
    """

    def __init__(self, pipe, data, batch_size):
        self.pipe, self.data, self.batch_size = pipe, data, batch_size
        self.start = time.perf_counter()
        self.steps = len(data) // batch_size
        self.loss = 0.0

    def __iter__(self):
        """Orders, a row for each step."""
        torch.manual_seed(0)
        yield self.shuffled(FIRST_STEPS)
        self.wait_for_device()
        seconds = time.perf_counter() - self.start
        self.pipe.send({"loss": self.loss / FIRST_STEPS, "seconds": seconds})
        epochs = math.ceil(TURN / self.steps)
        while self.pipe.recv():
            start = time.perf_counter()
            for _ in range(epochs):
                yield self.shuffled(self.steps)
            self.wait_for_device()
            seconds = time.perf_counter() - start
            self.pipe.send({"seconds": seconds / (epochs * self.steps)})

    def shuffled(self, steps):
        """Indices of the data of some steps, a row for each."""
        order = torch.randperm(len(self.data), device=self.data.device)
        return order[: steps * self.batch_size].reshape(steps, self.batch_size)

    def wait_for_device(self):
        """Have a GPU finish what it was given."""
        if self.data.device.type == "cuda":
            torch.cuda.synchronize()


def work(pipe, name, network, batch_size, device, threads, tf32, timed):
    """What the process of a contestant does."""
    confine(threads)
    if tf32:
        torch.set_float32_matmul_precision("high")
    guide, options = NETWORKS[network]
    try:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            data, vae = images(DATA, device), make(guide, device, **options)
            if name in COMPILED and timed:
                # What the first compilation of a process prepares is charged to nobody.
                torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
            all_of_them = contestants(guide) | floors()
            all_of_them[name](vae, data, Epochs(pipe, data, batch_size))
    except Exception as error:
        traceback.print_exc()
        pipe.send({"fails": f"{type(error).__name__}: {error}".split("\n")[0]})


def confine(threads):
    """As many cores as there are threads: XLA obeys nothing else."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


@dataclass
class Worker:
    """The process of a contestant, and this end of its pipe."""

    process: multiprocessing.Process
    pipe: object
    first: dict

    @classmethod
    def start(cls, *args):
        """One that has made its first steps, or has failed."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, *args), daemon=True)
        process.start()
        there.close()
        return cls(process, here, here.recv())

    def turn(self):
        """Seconds of a step."""
        self.pipe.send(True)
        return self.pipe.recv()["seconds"]

    def stop(self):
        """Have the process end."""
        if self.process.is_alive() and "fails" not in self.first:
            self.pipe.send(False)
        self.process.join()


def start_all(network, batch_size, args):
    """Workers, and the reasons of those that fail, by name."""
    workers, failures = {}, {}
    names = [*contestants(NETWORKS[network][0]), *floors()]
    for name in names if args.only is None else [n for n in names if n in args.only]:
        print(f"  {name}", file=sys.stderr)
        about = network, batch_size, args.device, args.threads, args.tf32
        about += (not args.check,)
        worker = Worker.start(name, *about)
        if "fails" in worker.first:
            failures[name] = why = worker.first["fails"]
            assert why.startswith(MAY_FAIL.get(name, ())), f"{name}: {why}"
        else:
            workers[name] = worker
    expected = next(iter(workers.values())).first["loss"]
    for name, worker in workers.items():
        compare(name, worker.first["loss"], expected)
    return workers, failures


def compare(name, loss, expected):
    """Raise an `AssertionError` unless two contestants train alike."""
    if name in floors():
        return
    tolerance = OWN_DRAWS if name in DRAW_THEIR_OWN else TOLERANCE
    close = math.isclose(loss, expected, rel_tol=tolerance)
    assert close, f"{name} has a loss of {loss}, the first one of {expected}"


def in_turn(workers, repeats):
    """Seconds of a step by name, of rounds in each of which every worker has a turn.

    In another order in each round. After `SECONDS` five rounds are enough.
    """
    times = {name: [] for name in workers}
    shuffle = random.Random(0).sample
    begin = time.monotonic()
    for done in range(1 + repeats):
        if done >= 6 and time.monotonic() - begin > SECONDS:
            break
        for name in shuffle(list(workers), len(workers)):
            times[name].append(workers[name].turn())
    return {name: values[1:] for name, values in times.items()}


def time_network(network, batch_size, args):
    """A row for each contestant; with `--check` they are compared and not timed."""
    workers, failures = start_all(network, batch_size, args)
    about = {"network": network, "batch_size": batch_size, "device": args.device}
    about |= {"tf32": True} if args.tf32 else {}
    rows = [about | {"what": name, "fails": why} for name, why in failures.items()]
    times = {} if args.check else in_turn(workers, args.repeats)
    for worker in workers.values():
        worker.stop()
    for name, values in times.items():
        row = about | {"what": name, **summary(values), "turns": len(values)}
        row["first_seconds"] = round(workers[name].first["seconds"], 2)
        for base in ("scan", "hand+c"):
            if base in times:
                row[f"over_{base}"] = paired(values, times[base])
        rows.append(row)
    return rows


def paired(values, base):
    """The median of the ratios of two contestants' turns of one round."""
    return ratio([a / b for a, b in zip(values, base, strict=True)], [1.0])


def show(rows, batch_size):
    """A table of milliseconds: a line for each contestant, a column for each network."""
    print(f"\nmilliseconds for a batch of {batch_size}, and how many times the scan's")
    rows = [row for row in rows if row["batch_size"] == batch_size]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    print(f"{'':10}" + "".join(f"{name:>17}" for name in networks))
    for what in dict.fromkeys(row["what"] for row in rows):
        cells = {row["network"]: cell(row) for row in rows if row["what"] == what}
        print(f"{what:10}" + "".join(f"{cells.get(n, '-'):>17}" for n in networks))


def cell(row):
    if "fails" in row:
        return "fails"
    over = f" ({row['over_scan']:.2f})" if "over_scan" in row else ""
    return f"{row['milliseconds']:.2f}{over}"


def arguments():
    options = parser(__doc__, repeats=15)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    options.add_argument("--batch-sizes", nargs="+", type=int, default=[100, 1000])
    options.add_argument("--tf32", action="store_true", help="products in TF32: CUDA")
    options.add_argument("--only", nargs="+", help="contestants (default: all)")
    options.add_argument(
        "--check", action="store_true", help="compare, and time nothing"
    )
    options.add_argument(
        "--resume",
        action="store_true",
        help="time what the file of --out lacks, which this machine has written",
    )
    return options.parse_args()


def versions():
    """Of those that the zoo does not need."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("jax", "numpyro", "lightning"):
        try:
            found[f"{name}_version"] = version(name)
        except PackageNotFoundError:
            print(f"without {name}: it is not installed", file=sys.stderr)
    return found


def timed_already(args):
    """The rows of a file that this machine wrote, with these versions."""
    report = json.loads(Path(args.out).read_text())
    now = hardware(torch.device(args.device)) | versions()
    assert report["hardware"] == now, f"expected {report['hardware']}, got {now}"
    return report["time"]


def main():
    args = arguments()
    os.environ["JAX_PLATFORMS"] = args.device
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    confine(args.threads)
    rows = timed_already(args) if args.resume else []
    there = {(row["network"], row["batch_size"]) for row in rows}
    for network, n in itertools.product(args.networks, args.batch_sizes):
        if (network, n) in there:
            continue
        print(f"{network}, batches of {n}", file=sys.stderr)
        rows += time_network(network, n, args)
        if args.out and not args.check:  # an interrupted run keeps what it has
            write({"time": rows}, args.out, args.device, **versions())
    for n in () if args.check else args.batch_sizes:
        show(rows, n)


if __name__ == "__main__":
    main()
