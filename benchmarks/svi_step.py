"""Times a training step: Pyro as it comes, by hand, compiled, in NumPyro.

    python benchmarks/svi_step.py [--out results/benchmark_svi_step.json]

Times, side by side in one process and in alternation, turns of some steps (forward,
backward, Adam) of the same pair with the same data. Each contestant trains a copy of its
own:

    SVI      `pyro.infer.SVI` with `Trace_ELBO` and `pyro.optim.Adam`, as they come
    module   `Trace_ELBO()(model, guide)` and a fused Adam, no validation, as `fit` does
    JIT      SVI with `JitTrace_ELBO`
    hand     the same maths in plain PyTorch (`by_hand.py`) and a fused Adam
    hand+c   that under `torch.compile`
    NumPyro  `jax.jit(svi.update)` of the pair in NumPyro (`in_numpyro.py`), if installed
    ours     `CompiledTrace_ELBO` and a fused Adam; on a GPU replayed, as `fit` does
    graph    what ours compiled, the bound and its gradients, without Adam and Python
    Adam     the fused Adam of ours, alone
    mm       all matrix products of the step, alone: a floor

What ours takes beyond graph and Adam is Python, and caches that each finds cold.

The hierarchies are not written by hand. Before anything is timed the first steps are
compared: under one seed all must have the losses of SVI, save hand+c and NumPyro, whose
random numbers are their own. Of these the first has the code of hand, and of the second a
draw is scored by the zoo's pair. With `--check` nothing is timed.

The process is confined to as many cores as there are threads: XLA obeys nothing else.
`first_seconds` is the time of the first steps, those that are compared, compilation
included and with no cache of an earlier run.
"""

import gc
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pyro
import torch
from by_hand import STEPS, ByHand
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from timing import images, in_turn, make, parser, ratio, summary, write

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.compiled import CompiledELBO
from pyro_vae_zoo.training.cuda_graphs import DeviceSteps
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.training.steps import make_optimizer

NETWORKS = {
    "mean_field": ("mean_field", {}),
    "iaf_2": ("iaf", {"num_flows": 2}),
    "iaf_10": ("iaf", {"num_flows": 10}),
    "planar_10": ("planar", {"num_flows": 10}),
    "self_reflective": ("self_reflective", {}),
    "gated_dag_iaf": ("gated_dag_iaf", {}),
}
WRITTEN_BY_HAND = ("mean_field", *STEPS)  # guides
FIRST_STEPS = 5  # of which on a GPU the last are replayed
SECONDS = 30  # that the turns of one network may take, but for ten rounds
TOLERANCE = 1e-4
OWN_DRAWS = {"hand+c": 0.02, "NumPyro": 0.02}  # how far other draws may move a loss
COLUMNS = ("SVI", "module", "JIT", "hand", "hand+c", "NumPyro", "ours")
PARTS = ("graph", "Adam", "mm")

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default: torch.mm,
    aten.addmm.default: torch.mm,  # adding the bias is no part of the floor
    aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.bmm,
}


def step(optimizer, loss):
    """As `timing.step`, but it returns the loss, by which contestants are compared."""
    optimizer.zero_grad()
    value = loss()
    value.backward()
    optimizer.step()
    return value.detach()


def training(module, loss):
    return partial(
        step, make_optimizer("adam", module.parameters(), TrainOptions.lr), loss
    )


def stochastic(elbo, vae, x):
    adam = pyro.optim.Adam({"lr": TrainOptions.lr})
    return partial(SVI(vae.model, vae.guide, adam, elbo).step, x)


def stock(vae, x):
    return stochastic(Trace_ELBO(max_plate_nesting=1), vae, x)


def jit(vae, x):
    elbo = JitTrace_ELBO(max_plate_nesting=1, ignore_jit_warnings=True)
    elbo.differentiable_loss(vae.model, vae.guide, x)  # draws while it traces
    return stochastic(elbo, vae, x)


def module(vae, x):
    loss = Trace_ELBO(max_plate_nesting=1)(vae.model, vae.guide)
    run = training(vae, partial(loss, x))

    def lean():
        with (  # some 10 microseconds
            pyro.validation_enabled(False),
            pyro.settings.context(module_local_params=True),
        ):
            return run()

    return lean


def by_hand(vae, x):
    pair = ByHand(vae)
    check_count(pair, vae)
    return training(pair, partial(pair, x))


def by_hand_compiled(vae, x):
    pair = ByHand(vae)
    check_count(pair, vae)
    return training(pair, partial(torch.compile(pair, dynamic=False), x))


class Compiled:
    """A step of ours, and its two parts."""

    def __init__(self, vae, x):
        self.pair, self.x = (vae.model, vae.guide), x
        self.elbo = zoo.CompiledTrace_ELBO()
        self.adam = make_optimizer("adam", vae.parameters(), TrainOptions.lr)
        self.loss = partial(self.elbo(*self.pair), x)

    def __call__(self):
        """The loss of one step."""
        return step(self.adam, self.loss)

    def parts(self):
        """Graph and optimiser by name, after a step."""
        pair = self.elbo._pair(*self.pair)
        graph, inputs, moved = pair.graph_for(*self.pair, self.x, self.elbo)
        copies = [p.detach().clone().requires_grad_() for p in moved]
        for p in copies:
            p.grad = torch.full_like(p, 1e-3)
        adam = make_optimizer("adam", copies, TrainOptions.lr)
        return {"graph": partial(without_grad, graph, inputs), "Adam": adam.step}


def without_grad(graph, inputs):
    with torch.no_grad():
        graph(*inputs)


def replayed(vae, x):
    adam = make_optimizer("adam", vae.parameters(), TrainOptions.lr)
    steps = DeviceSteps(vae, zoo.CompiledTrace_ELBO(), adam, x)

    def run():
        before = steps.elbo_sum.clone()
        steps.take(x)
        return before - steps.elbo_sum

    return run


def check_count(pair, vae):
    counts = [sum(p.numel() for p in side.parameters()) for side in (pair, vae)]
    assert counts[0] == counts[1], f"{counts[0]} parameters by hand, not {counts[1]}"


@dataclass
class Contestant:
    """A step, ready to run, of a pair whose entries in Pyro's store go when it does."""

    vae: zoo.VAE
    run: Callable
    first_losses: list[float] = field(default_factory=list)
    first_seconds: float | None = None


def builders_for(guide, device, numpyro):
    """Name -> what makes a step of a pair and a batch."""
    builders = {"SVI": stock, "module": module, "JIT": jit}
    if guide in WRITTEN_BY_HAND:
        builders |= {"hand": by_hand, "hand+c": by_hand_compiled}
        if numpyro:
            builders["NumPyro"] = partial(numpyro.training, lr=TrainOptions.lr)
    return builders | {"ours": Compiled if device == "cpu" else replayed}


def begin(name, build, vae, x):
    """A contestant that has made its first steps."""
    print(f"  {name}", file=sys.stderr)
    start = time.perf_counter()
    run = build(vae, x)
    torch.manual_seed(0)
    losses = [float(run()) for _ in range(FIRST_STEPS)]  # which waits for the device
    return Contestant(vae, run, losses, round(time.perf_counter() - start, 2))


def compare(name, losses, expected):
    """Raise an `AssertionError` unless two contestants train alike."""
    tolerance = OWN_DRAWS.get(name, TOLERANCE)
    for got, wanted in zip(losses, expected, strict=True):
        close = math.isclose(got, wanted, rel_tol=tolerance)
        assert close, f"{name} has a loss of {got}, SVI one of {wanted}"


def products(vae, x):
    """All matrix products of a step, of random numbers with its shapes and strides."""
    graphs = []
    keep = lambda graph, inputs: graphs.append(graph) or graph  # noqa: E731
    elbo = CompiledELBO(zoo.AnnealedELBO(), compiler=keep)
    elbo(vae.model, vae.guide)(x)
    graph = graphs[0].graph
    graph.eliminate_dead_code()
    calls = []
    for node in graph.nodes:
        if node.target in PRODUCTS:
            places = (*node.args[-2:], node)
            a, b, out = (random_like(place.meta["val"]) for place in places)
            calls.append(partial(PRODUCTS[node.target], a, b, out=out))

    def run():
        for call in calls:
            call()

    return run


def random_like(fake):
    """Random numbers with the shape and the strides of a tensor without values."""
    steps = zip(fake.shape, fake.stride(), strict=True)
    length = 1 + sum((size - 1) * stride for size, stride in steps)
    return torch.randn(length, device=fake.device).as_strided(fake.shape, fake.stride())


def start_all(network, x, numpyro):
    """Contestants, and the reasons of those that fail, by name."""
    guide, options = NETWORKS[network]
    new = partial(make, guide, x.device, **options)
    if numpyro and guide in WRITTEN_BY_HAND:
        numpyro.check(new(), x, TrainOptions.lr, TOLERANCE)
    started, failures = {}, {}
    for name, build in builders_for(guide, x.device.type, numpyro).items():
        try:
            contestant = begin(name, build, new(), x)
            reference = started.get("SVI", contestant)
            compare(name, contestant.first_losses, reference.first_losses)
            started[name] = contestant
        except Exception as error:
            if name != "JIT":  # of which it is known that it cannot do everything
                raise
            failures[name] = f"{type(error).__name__}: {error}".split("\n")[0]
    vae, alone = new(), {}
    ours = started["ours"]
    if isinstance(ours.run, Compiled):
        parts = ours.run.parts().items()
        alone = {name: Contestant(ours.vae, run) for name, run in parts}
    return started | alone | {"mm": Contestant(vae, products(vae, x))}, failures


def in_turns_of(steps, runs, device, repeats):
    """Seconds of a step by name; a turn is several, whose weights stay in the cache."""

    def several(run):
        for _ in range(steps):
            run()

    turns = {name: partial(several, run) for name, run in runs.items()}
    times = in_turn(turns, device, repeats, warmup=1, at_most=SECONDS)
    return {name: [t / steps for t in values] for name, values in times.items()}


def time_network(network, batch_size, device, repeats, steps, numpyro):
    """A row for each contestant; without repeats they are compared and not timed."""
    x = images(batch_size, device)
    contestants, failures = start_all(network, x, numpyro)
    about = {"network": network, "batch_size": batch_size, "device": device}
    rows = [about | {"what": name, "fails": why} for name, why in failures.items()]
    if not repeats:
        return rows
    runs = {name: contestant.run for name, contestant in contestants.items()}
    times = in_turns_of(steps, runs, device, repeats)
    for name, values in times.items():
        row = about | {"what": name, **summary(values)}
        if contestants[name].first_seconds is not None:
            row["first_seconds"] = contestants[name].first_seconds
        row["over_svi"] = ratio(values, times["SVI"])
        if "hand" in times:
            row["over_hand"] = ratio(values, times["hand"])
        rows.append(row)
    return rows


def forget():
    """Free what the last contestants held."""
    pyro.clear_param_store()
    torch._dynamo.reset()
    gc.collect()


def confine(threads):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


def find_numpyro(device):
    """The module with NumPyro's pairs, or None where it cannot run."""
    os.environ["JAX_PLATFORMS"] = device
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    try:
        import in_numpyro  # only now: JAX reads these variables when it is imported

        in_numpyro.jax.devices()
    except (ImportError, RuntimeError) as error:
        print(f"without NumPyro: {error}", file=sys.stderr)
        return None
    return in_numpyro


def show(rows, batch_size):
    print(f"\nmilliseconds for a batch of {batch_size}")
    columns = COLUMNS + PARTS
    print(f"{'':15}" + "".join(f"{name:>8}" for name in columns))
    rows = [row for row in rows if row["batch_size"] == batch_size]
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = {row["what"]: cell(row) for row in rows if row["network"] == network}
        line = "".join(f"{cells.get(name, '-'):>8}" for name in columns)
        print(f"{network:15}{line}")


def cell(row):
    return "fails" if "fails" in row else f"{row['milliseconds']:.2f}"


def arguments():
    options = parser(__doc__, repeats=100)
    options.add_argument("--steps", type=int, default=5, help="of a turn (default: 5)")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    options.add_argument("--batch-sizes", nargs="+", type=int, default=[100, 1000])
    options.add_argument(
        "--check", action="store_true", help="compare, and time nothing"
    )
    return options.parse_args()


def time_all(args, numpyro):
    rows, versions = [], {}
    if numpyro:
        modules = {"jax": numpyro.jax, "numpyro": numpyro.numpyro}
        versions = {f"{name}_version": m.__version__ for name, m in modules.items()}
    for network in args.networks:
        for n in args.batch_sizes:
            print(f"{network}, batches of {n}", file=sys.stderr)
            repeats = 0 if args.check else args.repeats
            rows += time_network(network, n, args.device, repeats, args.steps, numpyro)
            forget()
        if args.out and not args.check:  # an interrupted run keeps what it has
            write({"time": rows}, args.out, args.device, **versions)
    return rows


def main():
    args = arguments()
    confine(args.threads)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        # What the first compilation of a process prepares is charged to nobody.
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=args.device))
        rows = time_all(args, find_numpyro(args.device))
    for n in () if args.check else args.batch_sizes:
        show(rows, n)


if __name__ == "__main__":
    main()
