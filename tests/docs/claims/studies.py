"""The other pages of `docs/results/`: digits, mixtures, hierarchies, graphs, checks."""

from math import ceil, log2
from statistics import fmean

from measured import (
    diagnosis,
    ends,
    lead,
    load,
    row,
    rows,
    scored,
    seeds,
    shown,
    spread,
)

from claims.benchmarks import inference, structure_step
from pyro_vae_zoo.evaluation.statistics import difference

MIXTURES = "recursive_mixture_cpu"
GRAPHS = "gated_dag_cpu"
LAYERS = "self_reflective_cpu"
DENSITIES = "self_reflective_maf_cpu"
ROUNDED = "precision_cpu"
LEVERS = "levers_cpu"
SCORES = ("log_likelihood", "published")
CHECKED = ("iaf_2-s0", "mean_field-s0")

# --------------------------------------------------------------------------------- levers


def gains(change, *guides, sign=1):
    """How far a change of the recipe brings each guide."""
    return [
        sign * lead(LEVERS, f"{guide}_{change}", f"{guide}_plain")[0]
        for guide in guides
    ]


VECTOR, LAYERED = ("mean_field", "iaf"), "self_reflective"

# ---------------------------------------------------------------------------- hierarchies


def trained_longer():
    """The row of a hierarchy that was trained for longer than the table."""
    return row("self_reflective_long", "self_reflective")


def longer_warmup():
    return trained_longer()["seeds"][0]["training"]["kl_warmup"]


def longer_gains():
    """What it gains in all and by a doubling, and from how many epochs to how many."""
    before = row(LAYERS, "self_reflective")
    gain = trained_longer()["log_likelihood"] - before["log_likelihood"]
    ends = before["epochs"], trained_longer()["epochs"]
    doublings = log2(ends[1] / ends[0])
    return [gain, ends[0], *ends, doublings, gain / doublings]


def four_times_longer():
    """Two doublings more, of which each brings half of the one before."""
    each = longer_gains()[-1]
    return [
        4 * trained_longer()["epochs"],
        trained_longer()["log_likelihood"] + 0.75 * each,
    ]


# ------------------------------------------------------------------------------- mixtures


def mixture_lead(label, over, data):
    return lead(MIXTURES, f"{label}-{data}", f"{over}-{data}")[0]


def recursive_over_blind():
    """On static MNIST, but for five components with z = 20."""
    cells = [(n, z) for z in (20, 50) for n in (2, 3, 5) if (n, z) != (5, 20)]
    return ends(
        mixture_lead(f"recursive_mixture_{n}", f"mixture_{n}", f"mnist_static-z{z}")
        for n, z in cells
    )


def recursive_over_gaussian():
    return ends(
        mixture_lead(f"recursive_mixture_{n}", "mean_field", f"mnist_static-z{z}")
        for z in (20, 50)
        for n in (2, 3, 5)
    )


def collapsed():
    """Blind runs that end with one component, and all of them, bits and grey levels."""
    found = []
    for kind in ("static", "gray"):
        largest = [
            max(weights)
            for n in (2, 3, 5)
            for where in (f"mnist_{kind}-z20", f"mnist_{kind}-z50")
            for weights in seeds(MIXTURES, f"mixture_{n}-{where}", "component_weights")
        ]
        found += [sum(weight > 0.99 for weight in largest), len(largest)]
    return found


def of_gray(*labels):
    return [scored(MIXTURES, f"{label}-mnist_gray-z20")[0] for label in labels]


GRAY = ("mean_field", *(f"{k}mixture_{n}" for k in ("", "recursive_") for n in (2, 3)))


def gray_spread():
    return max(spread(seeds(MIXTURES, f"{label}-mnist_gray-z20")) for label in GRAY)


# --------------------------------------------------------------------------------- graphs


def graph(label, key="log_likelihood"):
    return row(GRAPHS, label)[key]


def moved_by_the_data():
    return ends(
        graph(f"{label}-mnist_threshold") - graph(f"{label}-mnist_static")
        for label in ("iaf", "gated_dag", "gated_dag_iaf")
    )


def on_both(label, other):
    data = ("mnist_static", "mnist_threshold")
    return [lead(GRAPHS, f"{label}-{where}", f"{other}-{where}")[0] for where in data]


def gates():
    runs = [
        graph(f"{label}-mnist_{data}", "seeds")[0]["gates"]
        for label in ("gated_dag", "gated_dag_iaf")
        for data in ("static", "threshold")
    ]
    return [gate for run in runs for gate in run.values()]


def closing(edge):
    """What closing an edge costs in the bound, in each run without a penalty."""
    runs = [run for run in load("structure.json")["rows"] if not run["penalty"]]
    return [run["elbo"] - run["elbo_without"][edge] for run in runs]


# --------------------------------------------------------------------------------- checks


def agreement(kind):
    """Difference to annealing, and its error, of the two runs."""
    found = [diagnosis("diagnostics", run)["agreement"][kind] for run in CHECKED]
    return [one[key] for one in found for key in ("difference", "std_error")]


def too_low():
    first, _, second, _ = agreement("importance")
    return -first, -second


def gap(kind):
    gaps = [diagnosis("diagnostics", run)["gaps"] for run in reversed(CHECKED)]
    return [one[f"{kind}_gap"] for one in gaps]


def minutes():
    found = [diagnosis("diagnostics", run) for run in CHECKED]
    return sorted(sum(one["seconds"].values()) / 60 for one in found)


# ----------------------------------------------------------------------------- the claims


def layer_lead(seed):
    return seeds(LAYERS, "self_reflective")[seed] - seeds(LAYERS, "bottom_up")[seed]


def missing(label):
    """What a row of the paper's is better by."""
    found = row(LAYERS, label)
    return found["published"] - found["log_likelihood"]


def layers_lead(over, label="self_reflective"):
    return lead(LAYERS, label, over)


def papers_layers_lead(over, label="self_reflective"):
    return row(LAYERS, label)["published"] - row(LAYERS, over)["published"]


def million_weights(label):
    return row(DENSITIES, label)["num_parameters"] / 1e6


def best_step(label):
    (run,) = row(DENSITIES, label)["seeds"]
    return run["curve"][run["best_epoch"] - 1]["step"]


def papers_densities():
    figures = load("tables.json")["self_reflective_maf"]["published"]
    return figures["maf"]["log_likelihood"], figures["self_reflective_maf"]["elbo_test"]


def digits(words, label):
    """Words with a score and its error: `mean_field` (-24.06, 0.04)."""
    return (words, lambda: scored("digits", label))


def longer(words, label):
    return (words, lambda: scored("digits_mixtures", label))


# ---------------------------------------------------------------------------- precision


def rounding(label, low=ROUNDED, full="flows_cpu"):
    """What bfloat16 changes in log p, and the error over the seeds of both."""
    sides = row(low, f"{label}_bf16"), row(full, label)
    return difference(*(side["seeds"] for side in sides), "log_likelihood")


STEPS = (1, 2, 4, 8)  # of `semi_amortized`

CLAIMS = {
    "docs/results/digits.md": [
        (
            "(above 0.7 for {:.0f} to {:.0f} % of the images)",
            lambda: ends(100 * r["khat_above_0.7"] for r in rows("digits").values()),
        ),
        digits(
            "`spline_coupling` ({:.2f}, standard error over seeds {:.2f})",
            "spline_coupling",
        ),
        digits("`radial` ({:.2f}, {:.2f})", "radial"),
        digits("`neural_autoregressive` ({:.2f}, {:.2f})", "neural_autoregressive"),
        digits("`mean_field` ({:.2f}, {:.2f})", "mean_field"),
        digits("`householder` ({:.2f}, {:.2f})", "householder"),
    ],
    "docs/results/levers.md": [
        (
            "lose {:.2f} and {:.2f} nats of log p; one of ten epochs in place of four "
            "brings them {:.2f} and {:.2f}.",
            lambda: (
                gains("no_warmup", *VECTOR, sign=-1) + gains("long_warmup", *VECTOR)
            ),
        ),
        (
            "averaging at a constant rate {:.2f} and {:.2f} nats, gates {:.2f} and {:.2f}.",
            lambda: gains("average", *VECTOR) + gains("gated", *VECTOR),
        ),
        (
            "which are the [defaults], bring {:.2f} and {:.2f}.",
            lambda: gains("gated_average", *VECTOR),
        ),
        (
            "by themselves bring `mean_field` {:.2f}.",
            lambda: gains("gated_wide", "mean_field"),
        ),
        (
            "A rate of 0.003 brings {:.2f} and {:.2f}.",
            lambda: gains("rate_3", *VECTOR),
        ),
        (
            "at twice the rate lose {:.2f} and {:.2f} nats",
            lambda: gains("batch_250_rate_2", *VECTOR, sign=-1),
        ),
        (
            "brings {:.2f} nats; a constant 0.001 with averaged weights {:.2f}; batches of "
            "200 at twice the rate {:.2f}.",
            lambda: [
                gain
                for change in ("rate_2", "average", "batch_200_rate_2")
                for gain in gains(change, LAYERED)
            ],
        ),
        (
            "with twice the weights, lose {:.2f}.",
            lambda: gains("gated", LAYERED, sign=-1),
        ),
        (
            "in place of four, costs {:.2f}: a hierarchy",
            lambda: [
                gains("rate_2", LAYERED)[0] - gains("long_warmup_rate_2", LAYERED)[0]
            ],
        ),
        (
            "from 0.003 held together, and brought {:.2f}, less than the {:.2f} of 0.002",
            lambda: [
                *gains("least_scale_rate_3", LAYERED),
                *gains("rate_2", LAYERED),
            ],
        ),
        (
            "came apart in epoch {}:",
            lambda: [
                row(LEVERS, f"{LAYERED}_average_rate_2")["seeds"][0]["best_epoch"] + 1
            ],
        ),
    ],
    "docs/results/mixtures.md": [
        (
            "are ahead of blind ones, by {:.1f} to {:.1f} nats of log p",
            recursive_over_blind,
        ),
        ("ahead of `mean_field` by {:.1f} to {:.1f}.", recursive_over_gaussian),
        ("component in {} of {} runs (on grey levels in {} of {})", collapsed),
        ("seeds of one row lie up to {:.0f} nats apart", lambda: [gray_spread()]),
        (
            "the means are {:.0f} for `mean_field`, {:.0f} and {:.0f} for `mixture` of two "
            "and three, {:.0f} and {:.0f} for `recursive_mixture`",
            lambda: of_gray(*GRAY),
        ),
        (
            "five recursive components are {:.0f} and {:.0f} nats ahead of five blind",
            lambda: [
                mixture_lead("recursive_mixture_5", "mixture_5", f"mnist_gray-z{z}")
                for z in (20, 50)
            ],
        ),
        longer("weight and have {:.2f} (standard error over seeds {:.2f})", "mixture"),
        longer("`mean_field` has {:.2f} ({:.2f})", "mean_field"),
        longer("three recursive ones have {:.2f} ({:.2f})", "recursive_mixture"),
        (
            "in units of `mean_field`'s {:.1f} ms:",
            lambda: inference("mean_field", key="milliseconds"),
        ),
        (
            "of two, three and five components {:.1f}, {:.1f} and {:.1f}",
            lambda: inference(*(f"recursive_mixture({n})" for n in (2, 3, 5))),
        ),
        (
            "on a shared encoder {:.1f}, {:.1f} and {:.1f}",
            lambda: inference(
                *(f"recursive_mixture({n}), shared trunk" for n in (2, 3, 5))
            ),
        ),
        (
            "steps of one draw, as in this table, {:.1f}, {:.1f}, {:.1f} and {:.1f}, and",
            lambda: inference(*(f"semi_amortized({n}), one draw" for n in STEPS)),
        ),
        (
            "by its default of two draws {:.1f}, {:.1f}, {:.1f} and {:.1f};",
            lambda: inference(*(f"semi_amortized({n})" for n in STEPS)),
        ),
        (
            "`iaf` {:.1f}, `householder` {:.1f}.",
            lambda: inference("iaf", "householder"),
        ),
    ],
    "docs/results/index.md": [
        (
            "after {} epochs {:.1f} |",
            lambda: [
                trained_longer()["epochs"],
                -trained_longer()["log_likelihood_ahead"],
            ],
        ),
    ],
    "docs/results/hierarchies.md": [
        (
            "In {} epochs `self_reflective` comes to {:.2f}, {:.2f} nats from its figure "
            "in the paper; in the {} epochs of the table below it has {:.2f}.",
            lambda: [
                trained_longer()["epochs"],
                trained_longer()["log_likelihood"],
                -trained_longer()["log_likelihood_ahead"],
                row(LAYERS, "self_reflective")["epochs"],
                row(LAYERS, "self_reflective")["log_likelihood"],
            ],
        ),
        ("from 0.002, the KL warmed up over {} epochs", lambda: [longer_warmup()]),
        (
            "in bfloat16; {:.0f} minutes of one core",
            lambda: [
                trained_longer()["seconds_per_epoch"] * trained_longer()["epochs"] / 60
            ],
        ),
        (
            "It gains {:.2f} nats of log p on the {} epochs. From {} to {} there are "
            "{:.1f} doublings, so each brought {:.1f} nats;",
            longer_gains,
        ),
        ("{} epochs would come to {:.1f}.", four_times_longer),
        (
            "of the training images is {:.2f}, that of validation {:.2f}.",
            lambda: [
                trained_longer()["seeds"][0]["curve"][-1][f"{split}_elbo"]
                for split in ("train", "valid")
            ],
        ),
        (
            "by {:.2f} nats; here by {} over two seeds ({:.2f} and {:.2f})",
            lambda: [
                papers_layers_lead("bottom_up"),
                shown(layers_lead("bottom_up")),
                *map(layer_lead, (0, 1)),
            ],
        ),
        (
            "`bottom_up` falls short by {:.1f} nats, `self_reflective` by {:.1f} ({:.2f} "
            "against {}), `iaf` by {:.1f}, `self_reflective_iaf` by {:.1f} and `ladder` by "
            "{:.1f}.",
            lambda: [
                missing("bottom_up"),
                missing("self_reflective"),
                *(row(LAYERS, "self_reflective")[k] for k in SCORES),
                *map(missing, ("iaf", "self_reflective_iaf", "ladder")),
            ],
        ),
        (
            "`iaf` is {:.1f} nats ahead of `bottom_up`, here it is {:.1f} behind",
            lambda: [
                papers_layers_lead("bottom_up", "iaf"),
                -layers_lead("bottom_up", "iaf")[0],
            ],
        ),
        (
            "With skip connections `ladder` is ahead by {} nats",
            lambda: [
                shown(
                    lead(
                        "ladder_skip",
                        *(f"ladder (L = 5, skip = {skip})" for skip in (True, False)),
                    )
                )
            ],
        ),
        (
            "leads one Gaussian layer by {:.1f} nats, `bottom_up` by {:.1f}.",
            lambda: [
                layers_lead("mean_field", label)[0]
                for label in ("self_reflective", "bottom_up")
            ],
        ),
    ],
    "docs/results/graphs.md": [
        ("each of our rows by {:.0f} to {:.0f} nats", moved_by_the_data),
        (
            "most of the {:.0f} that the paper's are apart",
            lambda: [
                graph("gated_dag-mnist_threshold", "published")
                - graph("iaf-mnist_static", "published")
            ],
        ),
        (
            "on either data set, by {:.1f} to {:.1f} nats of log p.",
            lambda: ends(on_both("iaf", "gated_dag") + on_both("iaf", "gated_dag_iaf")),
        ),
        (
            "the ELBO is {:.1f} nats better",
            lambda: [
                graph("gated_dag-mnist_threshold", "elbo")
                - load("tables.json")["gated_dag"]["published"][
                    "gated_dag-mnist_threshold"
                ]["elbo_test"]
            ],
        ),
        (
            "log p with its 100 particles {:.1f} worse",
            lambda: [
                graph("gated_dag-mnist_threshold", "published")
                - graph("gated_dag-mnist_threshold", "fewer_particles")["100"]
            ],
        ),
        (
            "`gated_dag_iaf` is {:.1f} to {:.1f} nats behind `gated_dag`",
            lambda: ends(on_both("gated_dag", "gated_dag_iaf")),
        ),
        (
            "where the paper has it {:.1f} ahead",
            lambda: [
                graph("gated_dag_iaf-mnist_threshold", "published")
                - graph("gated_dag-mnist_threshold", "published")
            ],
        ),
        (
            "Nearly all gates open: {:.0f} of the {}.",
            lambda: [sum(gates()), len(gates())],
        ),
        (
            "closing them afterwards costs {:.1f} and {:.1f} nats",
            lambda: [fmean(closing("z_3->z_2")), fmean(closing("z_2->z_1"))],
        ),
        (
            "changes the bound by less than {:.3f} nats",
            lambda: [ceil(1000 * max(closing("z_3->z_1"))) / 1000],
        ),
        (
            "A training step of 5 x 16 nodes costs {:.1f} times that",
            lambda: structure_step("gated_dag"),
        ),
        ("with flows {:.1f} times (batch", lambda: structure_step("gated_dag_iaf")),
    ],
    "docs/results/densities.md": [
        (
            "On 2,000 images `maf` overfits after {} steps",
            lambda: [best_step("maf_2000")],
        ),
        (
            "{:.1f} M weights against {:.1f} M",
            lambda: map(million_weights, ("maf", "self_reflective_maf")),
        ),
        (
            "[k-hat] of the hierarchy is {:.0f} to {:.0f}",
            lambda: ends(
                row(DENSITIES, f"self_reflective_maf{size}")["khat_median"]
                for size in ("", "_2000", "_6000")
            ),
        ),
        ("The paper's {:.0f} and {:.0f} are of width 1,024", papers_densities),
    ],
    "docs/results/checks.md": [
        ("the guide is too low here, by {:.1f} and {:.1f} nats,", too_low),
        (
            "It is higher by {:.2f} ± {:.2f} for `iaf` and by {:.2f} ± {:.2f} for",
            lambda: agreement("local_importance"),
        ),
        ("falls from {:.2f} to {:.2f} nats with", lambda: gap("approximation")),
        *(
            (
                "due to the encoder, stays at {:.1f}.",
                lambda n=n: [gap("amortisation")[n]],
            )
            for n in (0, 1)
        ),
        ("took {:.0f} and {:.0f} minutes of one core", minutes),
    ],
    "docs/results/precision.md": [
        (
            "by {:.2f} ± {:.2f} nats for `mean_field`, {:.2f} ± {:.2f} for `iaf` and "
            "{:.2f} ± {:.2f} for `sylvester_triangular`",
            lambda: [
                number
                for label in ("mean_field", "iaf_2", "sylvester_triangular_2")
                for number in rounding(label)
            ],
        ),
        (
            "log p differed by {:.2f} ± {:.2f}, {:.2f} ± {:.2f} and {:.2f} ± {:.2f}",
            lambda: [
                number
                for label in ("mean_field", "iaf_2", "sylvester_triangular_2")
                for number in rounding(label, "precision_again", "precision_again")
            ],
        ),
        (
            "has {:.2f} with its one seed, beside {:.2f} and {:.2f} for two seeds",
            lambda: [
                *seeds(LAYERS, "self_reflective_bf16"),
                *seeds(LAYERS, "self_reflective"),
            ],
        ),
    ],
}
