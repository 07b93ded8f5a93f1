"""The benchmarks: `docs/speed.md` and `docs/large_data.md`."""

from functools import partial
from statistics import fmean

from measured import ends, load

NETWORKS = ("mean_field", "iaf_2", "iaf_10", "planar_10")
# Of steps, on two cores of an EPYC, and of a Xeon with AMX.
EPYC, AMX = "benchmark_svi_step.json", "benchmark_svi_step_amx.json"
# There, a day earlier when all were slower, and an hour before that, not yet mended.
BUSIER = "benchmark_svi_step_amx_busier.json"
DENORMAL = "benchmark_svi_step_amx_denormal.json"


def inference(*names, key="over_mean_field"):
    found = {
        entry["what"]: entry[key] for entry in load("benchmark_inference.json")["time"]
    }
    return [found[name] for name in names]


def structure_step(name):
    found = load("benchmark_gated_dag.json")["time"]
    return [entry["over_mean_field"] for entry in found if entry["what"] == name]


# ----------------------------------------------------------------------------- a step


def step(network, size, what, machine=AMX):
    (found,) = [
        entry
        for entry in load(machine)["time"]
        if (entry["network"], entry["batch_size"], entry["what"])
        == (network, size, what)
    ]
    return found


def over(what, base, size, machines=(AMX,)):
    """The ends of a contestant's medians over another's, of all networks."""
    return ends(
        step(name, size, what, machine)["milliseconds"]
        / step(name, size, base, machine)["milliseconds"]
        for name in NETWORKS
        for machine in machines
    )


def paired(what, base, size, names=NETWORKS, machines=(AMX,)):
    """The ends of the medians of ratios in the same round."""
    return ends(
        step(name, size, what, machine)[f"over_{base}"]
        for name in names
        for machine in machines
    )


def over_scan(*what, machine=AMX, sizes=(100, 1000)):
    """Ratios to the scan, by contestant and size of a batch."""
    return [
        x for w in what for n in sizes for x in paired(w, "scan", n, machines=[machine])
    ]


def versions():
    hardware = load(EPYC)["hardware"]
    libraries = [
        hardware[f"{name}_version"] for name in ("numpyro", "jax", "lightning")
    ]
    return [hardware["versions"]["torch"].partition("+")[0], *libraries]


def compiling():
    return ends(
        entry["first_seconds"]
        for entry in load(EPYC)["time"]
        if entry["what"] in ("ours", "ours+bf16")
    )


def quartiles_apart():
    """In per cent of the median: the most, but for two, and these two."""
    wide = [step("mean_field", 100, what, EPYC) for what in ("ours", "ours+bf16")]
    others = [e for e in load(EPYC)["time"] if e not in wide]
    shares = [
        [
            100 * (e["quartiles"][1] - e["quartiles"][0]) / e["milliseconds"]
            for e in entries
        ]
        for entries in (others, wide)
    ]
    return max(shares[0]), *shares[1]


# ------------------------------------------------------------------------- evaluation


ON_EPYC = "benchmark_evaluate.json"


def evaluation(name, file="benchmark_evaluate_amx.json"):
    found = load(file)["time"]
    return [entry["over_fastest_hand"] for entry in found if entry["what"] == name]


def repeats_apart():
    return max(
        100 * (entry["spread"][1] - entry["spread"][0]) / entry["seconds"]
        for entry in load("benchmark_evaluate_amx.json")["time"]
    )


def larger(part, key):
    return load("benchmark_larger_than_memory.json")[part][key]


# ------------------------------------------------------------------ seconds to a bound


def curve(network, what):
    """Pairs of seconds and the bound, an epoch each."""
    (found,) = [
        entry["curve"]
        for entry in load("time_to_bound/time_to_bound.json")["curves"]
        if (entry["network"], entry["what"]) == (network, what)
    ]
    return found


CONTESTANTS = ("SVI", "hand+c", "scan", "ours")
RACED = {"`mean_field`": "mean_field", "`iaf`, K = 2": "iaf_2"}
RECIPES = {
    "plain": "60 epochs",
    "KL warm-up, averaged weights": "60 epochs, warm-up, average",
    "the same, falling rate": "60 epochs, falling rate",
    "the same, in bfloat16": "60 epochs, falling rate, bf16",
    "warm-up, average, gated networks, bfloat16": "60 epochs, gated, bf16",
}


def first_epoch_and_later(network):
    """What the first epoch takes beyond the others: seconds of compiling."""
    seconds = [at for at, _ in curve(network, "ours")]
    return seconds[0] - (seconds[-1] - seconds[0]) / (len(seconds) - 1)


def seconds_to(network, what, bound):
    """The first second at which a curve is beyond a bound, in a table's words."""
    reached = (f"{at:.0f} s" for at, value in curve(network, what) if value >= bound)
    return next(reached, "–")


def of_recipe(what):
    return [
        shown
        for network in RACED.values()
        for shown in (
            seconds_to(network, what, -96),
            seconds_to(network, what, -94),
            f"{curve(network, what)[-1][1]:.1f}",
        )
    ]


SECONDS = [
    *(
        (f"| {name} | {' | '.join(['{}'] * 6)} |", partial(of_recipe, what))
        for name, what in RECIPES.items()
    ),
    *(
        (
            f"| {name} | {{:.0f}} | {{:.0f}} | {{:.0f}} | {{:.0f}} |",
            lambda network=network: [curve(network, c)[-1][0] for c in CONTESTANTS],
        )
        for name, network in RACED.items()
    ),
    (
        "All end at some {:.0f} nats of the ELBO",
        lambda: [
            fmean(curve(n, c)[-1][1] for n in RACED.values() for c in CONTESTANTS)
        ],
    ),
    (
        "About {:.0f} and {:.0f} s of ours are compiling",
        lambda: [first_epoch_and_later(network) for network in RACED.values()],
    ),
]

# -------------------------------------------------------------------------- the claims

CLAIMS = {
    "docs/speed.md": [
        ("(PyTorch {}, NumPyro {}, JAX {}, Lightning {})", versions),
        (
            "up to {:.0f} % apart; with `mean_field` in batches of 100 those of ours are "
            "{:.0f} % apart, and those of ours, bf16 {:.0f} %",
            quartiles_apart,
        ),
        (
            "Ours takes {:.2f} to {:.2f} of what SVI takes in batches of 100, and {:.2f} "
            "to {:.2f} in batches of 1,000",
            lambda: [x for n in (100, 1000) for x in over("ours", "SVI", n)],
        ),
        (
            "bfloat16 {:.2f} to {:.2f}, and {:.2f} to {:.2f}. It takes",
            lambda: [x for n in (100, 1000) for x in over("ours+bf16", "SVI", n)],
        ),
        (
            "It takes {:.2f} to {:.2f} of the time of compiled code by hand",
            lambda: ends(x for n in (100, 1000) for x in paired("ours", "hand+c", n)),
        ),
        (
            "Ours takes {:.2f} to {:.2f} of the scan's time in batches of 100, and {:.2f} "
            "to {:.2f} in batches of 1,000",
            lambda: over_scan("ours"),
        ),
        (
            "NumPyro's pair does not use, {:.2f} to {:.2f} and {:.2f} to {:.2f}.",
            lambda: over_scan("ours+bf16"),
        ),
        (
            "products of a batch of 100 are only {:.2f} to {:.2f} of the scan's step",
            lambda: over_scan("products", sizes=[100]),
        ),
        (
            "in bfloat16 {:.2f} to {:.2f}, so what",
            lambda: over_scan("bf16", sizes=[100]),
        ),
        (
            "Then ours took {:.2f} to {:.2f} times as long as the scan in batches of 100, "
            "{:.2f} to {:.2f} in batches of 1,000; in bfloat16 {:.2f} to {:.2f} and {:.2f} "
            "to {:.2f}.",
            lambda: over_scan("ours", "ours+bf16", machine=BUSIER),
        ),
        (
            "Before this change ours took {:.2f} to {:.2f} times as long as the scan in "
            "batches of 100, on a day when it took {:.2f} to {:.2f} times with it",
            lambda: [
                x
                for machine in (DENORMAL, BUSIER)
                for x in over_scan("ours", machine=machine, sizes=[100])
            ],
        ),
        (
            "(ours took {:.2f} to {:.2f} times as long) and somewhat faster",
            lambda: over_scan("ours", machine=EPYC, sizes=[1000]),
        ),
        (
            "faster in batches of 100 ({:.2f} to {:.2f} times), in bfloat16 {:.2f} to "
            "{:.2f} and {:.2f} to {:.2f} times",
            lambda: [
                *over_scan("ours", machine=EPYC, sizes=[100]),
                *over_scan("ours+bf16", machine=EPYC, sizes=[1000, 100]),
            ],
        ),
        (
            "products alone take {:.2f} to {:.2f} of the scan's whole step",
            lambda: over_scan("products", machine=EPYC, sizes=[100]),
        ),
        ("Compiling took {:.0f} to {:.0f} s", compiling),
        (
            "Importance sampling, compiled, takes {:.2f} of the time of the decoder",
            lambda: evaluation("mean_field, compiled"),
        ),
        ("come on top, takes {:.2f}.", lambda: evaluation("iaf, compiled")),
        (
            "Not compiled they take {:.2f} and {:.2f} (",
            lambda: evaluation("mean_field") + evaluation("iaf"),
        ),
        ("repeats, which lie up to {:.0f} % apart", lambda: [repeats_apart()]),
        (
            "they take {:.2f} and {:.2f}, and not compiled {:.2f} and {:.2f}.",
            lambda: [
                x
                for how in (", compiled", "")
                for name in ("mean_field", "iaf")
                for x in evaluation(name + how, ON_EPYC)
            ],
        ),
        *SECONDS,
    ],
    "docs/large_data.md": [
        (
            "a step took {:.1f} ms on the file and {:.1f} in memory",
            lambda: [
                larger("time", key)["milliseconds"] for key in ("file", "in memory")
            ],
        ),
        (
            "in memory, {:.2f} times as long. The process took {:.0f} MB, and {:.0f} with "
            "a file of 16 MB.",
            lambda: [
                larger("time", "file")["over"],
                *(larger("peak_mb", key) for key in ("file", "small file")),
            ],
        ),
    ],
}
