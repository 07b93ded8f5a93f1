"""The flows on static MNIST: `docs/results/flows.md`."""

from functools import cache
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

from pyro_vae_zoo.evaluation.statistics import difference, standard_error

FLOWS = "flows_cpu"
TWO = "inverse_autoregressive_2"
FAULTS = {
    "one order in both steps": f"{TWO}_no_reversal",
    "steps do not see the encoder's features": f"{TWO}_no_context",
    "shift and log-scale through a ReLU": f"{TWO}_rectified",
    "all three": "iaf_as_published_2",
}
LENGTHS = (1, 2, 10)
PLANAR = [f"planar_{steps}" for steps in LENGTHS]
AHEAD = ("iaf_2", "sylvester_triangular_2")


def bound_lead(label):
    return lead(FLOWS, label, key="elbo")


def log_p_lead(label):
    return lead(FLOWS, label)


def cost(label, key="elbo"):
    """What a fault costs two autoregressive steps."""
    return lead(FLOWS, TWO, label, key)


def published(label):
    return row(FLOWS, label)["published_elbo_test"]


def published_lead(label):
    return published(label) - published("mean_field")


def short_of_the_study(label):
    return published(label) - scored(FLOWS, label, "elbo")[0]


def largest_fall(*labels):
    """Of the bound on validation data, in the epochs with the KL's full weight."""
    curves = [
        run["curve"][9:] for label in labels for run in row(FLOWS, label)["seeds"]
    ]
    return max(
        before["valid_elbo"] - after["valid_elbo"]
        for curve in curves
        for before, after in zip(curve, curve[1:], strict=False)
    )


def log_dets(*labels):
    return [value for label in labels for value in seeds(FLOWS, label, "log_det")]


def blown_up():
    first = [
        run["curve"][0] for run in row(FLOWS, "inverse_autoregressive_10")["seeds"]
    ]
    return min(epoch["train_elbo"] for epoch in first) / -1e6


def longer_is_better():
    """Ten steps against two, in the runs that did not blow up."""
    _, *others = sorted(seeds(FLOWS, "inverse_autoregressive_10", "elbo"))
    return [value - scored(FLOWS, TWO, "elbo")[0] for value in others]


def densities_of_those_ahead():
    those = [label for label in rows(FLOWS) if bound_lead(label)[0] > 1.5]
    ahead = [fmean(seeds(FLOWS, label, "final_log_density")) for label in those]
    return ends(ahead)[::-1]


def biases():
    """Of the planar steps that are flat for every datum, or nearly."""
    runs = load("planar_steps.json")["runs"].values()
    return ends(step["abs_bias"] for run in runs for step in run if step["flat"] > 0.9)


# ----------------------------------------- importance sampling from each datum's own q


@cache
def local(label, part="local_importance"):
    """The estimates of the runs of a row, as those of results are."""
    found = [diagnosis("local", f"{label}-s{seed}") for seed in range(3)]
    return [one[part] | {"per_datum": one["per_datum"][part]} for one in found]


def local_lead(label, part="local_importance"):
    runs, others = local(label, part), local("mean_field", part)
    return difference(runs, others, "log_likelihood")


def local_error_over_data(label):
    means = [
        [
            fmean(values)
            for values in zip(*(run["per_datum"] for run in runs), strict=True)
        ]
        for runs in (local(label), local("mean_field"))
    ]
    return standard_error([a - b for a, b in zip(*means, strict=True)])


def local_scored(label):
    values = [run["log_likelihood"] for run in local(label)]
    return fmean(values), standard_error(values)


def local_khats(key):
    return ends(
        run["khat"][key] for label in ("mean_field", *AHEAD) for run in local(label)
    )


# -------------------------------------------------------------------- without a warm-up


def behind(folder):
    return -lead(folder, "iaf (K = 2)")[0]


def constant_rate(key):
    return [
        r[key] for f in ("mnist_static", "mnist_static_60") for r in rows(f).values()
    ]


def lower_kl():
    kls = {label: found["kl"] for label, found in rows("mnist_static_60").items()}
    return ends(
        kls["mean_field"] - kl for label, kl in kls.items() if label != "mean_field"
    )


# --------------------------------------------------------------------------- the claims

WHAT_FAULTS_COST = [
    (
        f"| {what} | {{}} | {{}} | {{}} | {{}} |",
        lambda label=label: [
            shown(score)
            for key in ("elbo", "log_likelihood")
            for score in (scored(FLOWS, label, key), cost(label, key))
        ],
    )
    for what, label in FAULTS.items()
]


def by_length(steps):
    labels = ("iaf_as_published", "inverse_autoregressive", "iaf")
    leads = [shown(bound_lead(f"{label}_{steps}")) for label in labels]
    return steps, published_lead(f"iaf_{steps}"), *leads


CLAIMS = {
    "docs/results/flows.md": [
        (
            "are ahead of `mean_field` by {} and {} nats of log p over three seeds",
            lambda: [shown(log_p_lead(label)) for label in AHEAD],
        ),
        (
            "the leads are {} and {} (errors over seeds;",
            lambda: [shown(local_lead(label)) for label in AHEAD],
        ),
        (
            "over the images they are {:.2f} and {:.2f})",
            lambda: map(local_error_over_data, AHEAD),
        ),
        (
            "In the study they are {:.1f} nats behind it",
            lambda: [-published_lead("planar_10")],
        ),
        (
            "lead the Gaussian by {} nats of the ELBO; with them, by {}. With them, ten",
            lambda: [shown(bound_lead(label)) for label in (TWO, "iaf_as_published_2")],
        ),
        (
            "are {:.1f} nats better than ours for the Gaussian, and {:.1f} for IAF",
            lambda: map(short_of_the_study, ("mean_field", "iaf_2")),
        ),
        (
            "three seeds of `mean_field` lie {:.2f} nats apart, in the ELBO",
            lambda: [spread(seeds(FLOWS, "mean_field", "elbo"))],
        ),
        (
            "`mean_field` lie {:.2f} nats apart, in the ELBO and in log p",
            lambda: [spread(seeds(FLOWS, "mean_field"))],
        ),
        (
            "those of `planar_10` {:.1f} to {:.1f}",
            lambda: sorted(
                spread(seeds(FLOWS, "planar_10", key))
                for key in ("elbo", "log_likelihood")
            ),
        ),
        (
            "autoregressive rows and of `sylvester_triangular_2` up to {:.1f}",
            lambda: [
                max(
                    spread(seeds(FLOWS, label, key))
                    for label in (*AHEAD, TWO, *FAULTS.values())
                    for key in ("elbo", "log_likelihood")
                )
            ],
        ),
        (
            "behind the Gaussian by {:.1f} nats with one step and by {:.1f} with ten",
            lambda: [-published_lead(label) for label in ("planar_1", "planar_10")],
        ),
        (
            "one and two steps are within {:.1f} nats of the Gaussian",
            lambda: [max(abs(log_p_lead(label)[0]) for label in PLANAR[:2])],
        ),
        (
            "in log p, and ten are {} nats ahead.",
            lambda: [shown(log_p_lead("planar_10"))],
        ),
        (
            "falls by at most {:.2f} nats from one epoch to the next, with ten steps",
            lambda: [largest_fall("planar_10")],
        ),
        (
            "falls by at most {:.2f} nats from one epoch to the next",
            lambda: [largest_fall("mean_field", *PLANAR)],
        ),
        (
            "with a largest fall of {:.2f} nats",
            lambda: [largest_fall(*(f"planar_as_published_{n}" for n in LENGTHS))],
        ),
        (
            "the biases grow to between {:.1f} and {:.1f}, where the tanh is flat",
            biases,
        ),
        (
            "which is {:.1f} to {:.1f} nats ahead of the other two in log p",
            lambda: sorted(
                seeds(FLOWS, "planar_10")[2] - value
                for value in seeds(FLOWS, "planar_10")[:2]
            ),
        ),
        (
            "they are {:.1f} to {:.1f} nats ahead of the Gaussian in log p",
            lambda: ends(log_p_lead(f"householder_{n}")[0] for n in LENGTHS),
        ),
        *(
            ("| {} | {:.1f} | {} | {} | {} |", lambda steps=steps: by_length(steps))
            for steps in LENGTHS
        ),
        (
            "in two runs of three, by {:.1f} and {:.1f} nats",
            longer_is_better,
        ),
        (
            "run is at minus {:.1f} million nats a datum in its first",
            lambda: [blown_up()],
        ),
        (
            "| without a fault | {} | | {} | |",
            lambda: [shown(scored(FLOWS, TWO, k)) for k in ("elbo", "log_likelihood")],
        ),
        *WHAT_FAULTS_COST,
        *(
            (
                "shift and log-scale cost {:.1f} nats of the ELBO each",
                lambda n=n: cost(f"{TWO}_{n}"),
            )
            for n in ("no_context", "rectified")
        ),
        (
            "the faults cost {:.2f} of the {:.2f} nats by which",
            lambda: [cost("iaf_as_published_2")[0], bound_lead(TWO)[0]],
        ),
        (
            "log|det| of two steps is {:.0f} in the runs without a fault",
            lambda: [fmean(log_dets(TWO))],
        ),
        (
            "and {:.0f} to {:.0f} in the rectified ones",
            lambda: ends(log_dets(f"{TWO}_rectified", "iaf_as_published_2"))[::-1],
        ),
        (
            "is {:.0f}, {:.0f} and {:.0f} with one, two and ten steps",
            lambda: [fmean(log_dets(f"iaf_{steps}")) for steps in LENGTHS],
        ),
        (
            "with a log|det| of {:+.0f} and {:+.0f}",
            lambda: [
                fmean(log_dets(f"sylvester_{q}_2"))
                for q in ("householder", "triangular")
            ],
        ),
        (
            "E log q(z|x) is {:.0f} to {:.0f} nats for all rows",
            densities_of_those_ahead,
        ),
        (
            "(`local_log_likelihood`; k-hat {:.1f} to {:.1f})",
            lambda: local_khats("median"),
        ),
        (
            "| `mean_field` | {} | |",
            lambda: [shown(local_scored("mean_field"))],
        ),
        *(
            (
                f"| `{label}` | {{}} | {{}} |",
                lambda label=label: map(
                    shown, (local_scored(label), local_lead(label))
                ),
            )
            for label in AHEAD
        ),
        (
            "over the 100 images those of the leads are {:.2f} and {:.2f}",
            lambda: map(local_error_over_data, AHEAD),
        ),
        (
            "still above 0.7 for {:.0f} to {:.0f} % of the images",
            lambda: [100 * share for share in local_khats("above_0.7")],
        ),
        (
            "the leads on these images are {:.2f} and {:.2f}",
            lambda: [local_lead(label, "importance")[0] for label in AHEAD],
        ),
        (
            "after 2,000 epochs, {} for the Gaussian and {} for two steps of IAF",
            lambda: map(published, ("mean_field", "iaf_2")),
        ),
        (
            "Ours after 50 are {:.2f} and {:.2f}",
            lambda: [
                scored(FLOWS, label, "elbo")[0] for label in ("mean_field", "iaf_2")
            ],
        ),
        (
            "Two IAF steps are {:.1f} nat behind after 20 epochs and {:.2f} after 60",
            lambda: map(behind, ("mnist_static", "mnist_static_60")),
        ),
        (
            "end with a KL of {:.0f} to {:.0f} nats",
            lambda: ends(constant_rate("kl")),
        ),
        (
            "where those above have {:.0f} to {:.0f}:",
            lambda: ends(found["kl"] for found in rows(FLOWS).values()),
        ),
        ("a KL that is {:.1f} to {:.1f} nats lower than the Gaussian's", lower_kl),
        (
            "The MC error, {:.3f}, does not show this",
            lambda: [max(constant_rate("log_likelihood_mc_error"))],
        ),
    ],
}
