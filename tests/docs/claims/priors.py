"""The pages of priors: what a learned one brings, and how much it overfits."""

from functools import partial

from measured import lead, load, row, shown

PRIORS = "priors_cpu"
LEARNED = ("flow", "vamp", "mixture")
NAMED = [f"mean_field_{prior}" for prior in LEARNED]


def ahead(*labels, over="mean_field_standard", key="log_likelihood"):
    """How far rows are ahead of another one."""
    return [lead(PRIORS, label, over, key)[0] for label in labels]


def local(*labels, over="mean_field_standard"):
    """The same by a q of each of some data."""
    return ahead(*labels, over=over, key="local_log_likelihood")


def gated_lead():
    """Of `iaf` under N(0, I): its seeds, and its lead by the guide and by local q's."""
    pair = "iaf_standard", "mean_field_standard"
    count = row(PRIORS, pair[0])["num_seeds"]
    by_guide, by_local = (
        lead(PRIORS, *pair, key) for key in ("log_likelihood", "local_log_likelihood")
    )
    words = {1: "one seed", 2: "two seeds", 3: "three seeds"}
    one = f"{by_local[0]:.1f}"  # of 200 images
    return words[count], shown(by_guide), one if count == 1 else shown(by_local)


def overfitted(*labels):
    """How far the bound of training data is above that of test data."""
    found = [row(PRIORS, label) for label in labels]
    return [one["elbo_train"] - one["elbo_test"] for one in found]


def longer(folder="long", row_name="mean_field_flow"):
    """A row on static MNIST that was trained for longer."""
    return row(f"prior_posterior_{folder}", f"{row_name}-mnist_static")


BEST = -84.56  # of the rerun's seeds
FULL = partial(longer, "full")
WARM = longer
SHORT = partial(longer, row_name="mean_field_flow_short_warmup")


def longer_lead(prior):
    """Of a prior over N(0, I), by the long budget."""
    names = (f"mean_field_{p}-mnist_static" for p in (prior, "standard"))
    return lead("prior_posterior_long", *names)[0]


def warmed_up():
    """Steps and epochs; warm-up and log p of the short one, and of the long one."""
    runs = [row()["seeds"][0] for row in (SHORT, WARM)]
    (short, a), (long, b) = (
        (f"{run['training']['kl_warmup']:.0f}", run["log_likelihood"]) for run in runs
    )
    words = {"10": "ten"}
    steps = runs[0]["curve"][-1]["step"]
    return [f"{steps:,}", runs[0]["epochs"], a, words.get(short, short), b, long]


def steps():
    """A step with each learned prior, over that with N(0, I)."""
    found = load("benchmark_priors.json")["time"]
    over = {entry["what"]: entry["over_standard"] for entry in found}
    return [over[prior] for prior in ("mixture", "flow", "vamp")]


CLAIMS = {
    "docs/decide/which_prior.md": [
        (
            "ahead of N(0, I) by {:.1f} nats, `vamp` by {:.1f} and `mixture` by {:.1f}",
            lambda: ahead(*NAMED),
        ),
        ("`iaf` under N(0, I) by {:.1f}", lambda: ahead("iaf_standard")),
        ("{:.1f}, {:.1f} and {:.1f} times that of `standard`", steps),
    ],
    "docs/priors.md": [
        (
            "is worth {:.1f} nats on static MNIST, `vamp` {:.1f} and `mixture` {:.1f}",
            lambda: ahead(*NAMED),
        ),
    ],
    "docs/results/index.md": [
        (
            "a learned prior brings {:.1f} to {:.1f} nats",
            lambda: sorted(ahead(*NAMED))[::2],
        ),
        ("nats, `iaf` {:.1f} |", lambda: ahead("iaf_standard")),
        (
            "in {} epochs `mean_field` under a flow is past the rerun's best, by {:.2f}",
            lambda: [FULL()["epochs"], FULL()["log_likelihood"] - BEST],
        ),
    ],
    "docs/results/flows.md": [
        ("by this method is [{} nats]", lambda: gated_lead()[2:]),
    ],
    "docs/results/priors.md": [
        ("under a flow prior reaches {:.2f},", lambda: [FULL()["log_likelihood"]]),
        ("their mean {}.", lambda: [FULL()["published"]]),
        (
            "for {} steps ({} epochs): {:.2f} with a warm-up of {} epochs, {:.2f} with one "
            "of {}.",
            warmed_up,
        ),
        (
            "the long one {} of {} latents are in use, with the short one {}.",
            lambda: [
                *(f"{WARM()[k]:.0f}" for k in ("active_units", "latent_units")),
                f"{SHORT()['active_units']:.0f}",
            ],
        ),
        (
            "over N(0, I) stays: {:.2f} nats, where fifty epochs had {:.1f}. That of "
            "`mixture` does not: {:.2f}, where it was {:.1f}.",
            lambda: [
                number
                for prior in ("flow", "mixture")
                for number in (longer_lead(prior), *ahead(f"mean_field_{prior}"))
            ],
        ),
        (
            "with a warm-up of {} epochs: {:.2f}, another {:.2f} nats. The best epoch is "
            "{} of {}:",
            lambda: [
                f"{FULL()['seeds'][0]['training']['kl_warmup']:.0f}",
                FULL()["log_likelihood"],
                FULL()["log_likelihood"] - WARM()["log_likelihood"],
                FULL()["seeds"][0]["best_epoch"],
                FULL()["epochs"],
            ],
        ),
        (
            "log p rises by {:.1f} nats under `flow`, {:.1f} under `vamp` and {:.1f} under",
            lambda: ahead(*NAMED),
        ),
        ("N(0, I) with `iaf` is {:.1f} ahead of", lambda: ahead("iaf_standard")),
        (
            "by {:.1f} nats under `mixture` and {:.1f} under `flow`",
            lambda: [
                ahead(f"iaf_{prior}", over=f"mean_field_{prior}")[0]
                for prior in ("mixture", "flow")
            ],
        ),
        (
            "the leads of the priors are {:.1f}, {:.1f} and {:.1f} nats. That of `iaf` "
            "under N(0, I) is {:.1f}",
            lambda: local(*NAMED, "iaf_standard"),
        ),
        (
            "by {:.1f} nats under N(0, I), {:.1f} under `mixture`, {:.1f} under `flow` and "
            "{:.1f} under `vamp`",
            lambda: overfitted(
                *(f"mean_field_{p}" for p in ("standard", "mixture", "flow", "vamp"))
            ),
        ),
        (
            "overfits by as much, {:.1f} nats",
            lambda: overfitted("mean_field_flow_small"),
        ),
        (
            "and brings {:.1f} less",
            lambda: ahead("mean_field_flow", over="mean_field_flow_small"),
        ),
        (
            "narrows the gap to {:.1f} nats",
            lambda: overfitted("mean_field_flow_decay"),
        ),
        (
            "with a log p that is {:.1f} lower",
            lambda: ahead("mean_field_flow", over="mean_field_flow_decay"),
        ),
        (
            "the gap of `vamp` is {:.1f} nats in place of {:.1f}",
            lambda: overfitted("mean_field_vamp_dropout", "mean_field_vamp"),
        ),
        (
            "and log p is {:.1f} higher",
            lambda: ahead("mean_field_vamp_dropout", over="mean_field_vamp"),
        ),
        (
            "VampPrior before N(0, I) by {:.1f}",
            lambda: [
                row(PRIORS, "mean_field_vamp")["published"]
                - row(PRIORS, "mean_field_standard")["published"]
            ],
        ),
    ],
}
