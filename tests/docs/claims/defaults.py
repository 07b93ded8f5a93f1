"""The page of the default recipe: what it brings, and by how much over that of 0.1.0."""

from measured import ends, folders, lead, row, scored, shown

NOW, BEFORE = "defaults_digits", "defaults_digits_old"
FREY = "defaults_frey_faces"
LONG, CALTECH = "defaults_digits_462", "defaults_caltech_silhouettes"
CALTECH_OLD = f"{CALTECH}_old"
MNIST = "defaults_mnist_static"
MNIST_LAYERS = f"{MNIST}_layers"
SCORES = ("log_likelihood", "elbo")
AHEAD = (
    *("sylvester_triangular", "sylvester_orthogonal", "sylvester_householder"),
    *("affine_autoregressive", "affine_coupling"),
)
FREY_LEADERS = (
    *("bottom_up", "self_reflective_iaf", "self_reflective"),
    *("semi_amortized", "ladder", "gated_dag"),
)
LAYERS = (
    *("self_reflective", "bottom_up", "self_reflective_iaf"),
    *("gated_dag", "gated_dag_iaf"),
)
LEVEL = ("radial", "spline_coupling", "householder", "planar")


def gained(now=NOW):
    """By today's over those of 0.1.0, for `mean_field` and `iaf`."""
    then = f"{now}_old"
    return [scored(now, n)[0] - scored(then, n)[0] for n in ("mean_field", "iaf")]


def gained_by_layers(name):
    """By a hierarchy or a graph on MNIST over its old defaults."""
    then = scored(f"{MNIST}_old_layers", name)
    return scored(MNIST_LAYERS, name)[0] - then[0]


def behind(lead):
    return shown((-lead[0], lead[1]))


def epochs(*names):
    return [row(name, "iaf")["seeds"][0]["epochs"] for name in names]


def rising():
    """The runs whose bound still rose, and all of them."""
    runs = folders()[NOW]
    return sum("rising" in run["cautions"] for run in runs), len(runs)


def spread(name):
    """How far the seeds of one guide are apart at most, in log p."""
    by_guide = {}
    for run in folders()[name]:
        by_guide.setdefault(run["guide"], []).append(run["log_likelihood"])
    return max(max(values) - min(values) for values in by_guide.values())


def best_epochs(name):
    return [run["best_epoch"] for run in folders()[name]]


CLAIMS = {
    "docs/results/defaults.md": [
        ("ahead of `mean_field` by {} nats", lambda: [shown(lead(NOW, "iaf"))]),
        (
            "over three seeds: {} against {}.",
            lambda: [shown(scored(NOW, name)) for name in ("iaf", "mean_field")],
        ),
        ("are {:.1f} and {:.1f} nats behind on the same", gained),
        ("are {:.1f} and {:.1f} nats behind, for", lambda: gained(CALTECH)),
        ("are {:.0f} and {:.0f} nats behind, for `mean_field`", lambda: gained(FREY)),
        ("their {} epochs are 320 steps", lambda: epochs(f"{FREY}_old")),
        ("`mean_field`, by {}. They stop", lambda: [behind(lead(CALTECH_OLD, "iaf"))]),
        ("stop after {} epochs, today's after {}.", lambda: epochs(BEFORE, NOW)),
        (
            "is {:.0f} nats of log p behind, and `full_rank` is {:.0f},",
            lambda: [-lead(FREY, name)[0] for name in ("affine_coupling", "full_rank")],
        ),
        (
            "ahead by {:.0f} nats, `self_reflective_iaf` by {:.0f}, `self_reflective` "
            "by {:.0f}, `semi_amortized` by {:.0f}, `ladder` by {:.0f} and `gated_dag` "
            "by {:.0f},",
            lambda: [lead(FREY, name)[0] for name in FREY_LEADERS],
        ),
        (
            "in the ELBO by {:.0f}, {:.0f}, {:.0f}, {:.0f}, {:.0f} and {:.0f}.",
            lambda: [lead(FREY, name, key="elbo")[0] for name in FREY_LEADERS],
        ),
        ("rose at the end in {} of the {} runs", rising),
        ("are {:.1f} and {:.1f} nats behind here, for", lambda: gained(MNIST)),
        (
            "is {:.1f} nats behind, and {:.1f} in the ELBO",
            lambda: [-lead(MNIST, "semi_amortized", key=key)[0] for key in SCORES],
        ),
        (
            "as many epochs bring `iaf` {:.1f} nats and `mean_field` {:.1f};",
            lambda: [
                scored(LONG, n)[0] - scored(NOW, n)[0] for n in ("iaf", "mean_field")
            ],
        ),
        ("are then {} to {} of 462", lambda: ends(best_epochs(LONG))),
        (
            "`iaf` is ahead of `mean_field` by {} nats of log p, beyond",
            lambda: [shown(lead(CALTECH, "iaf"))],
        ),
        (
            "`semi_amortized` is ahead by {:.1f} nats, `full_rank`",
            lambda: lead(CALTECH, "semi_amortized")[:1],
        ),
        (
            "`full_rank` is {:.1f} nats behind.",
            lambda: [-lead(CALTECH, "full_rank")[0]],
        ),
        (
            "`self_reflective` by {:.1f} nats, `bottom_up` by {:.1f} and "
            "`self_reflective_iaf` by {:.1f}, one",
            lambda: [
                lead(CALTECH, name)[0]
                for name in ("self_reflective", "bottom_up", "self_reflective_iaf")
            ],
        ),
        (
            "`iaf` is ahead of `mean_field` by {} nats of log p, and by {} in the ELBO",
            lambda: [shown(lead(MNIST, "iaf", key=key)) for key in SCORES],
        ),
        (
            "flows and `affine_coupling` are ahead by {:.1f} to {:.1f} nats;",
            lambda: ends(lead(MNIST, name)[0] for name in AHEAD),
        ),
        (
            "lead `mean_field` by at most {:.1f} nats,",
            lambda: [max(lead(MNIST, name)[0] for name in LEVEL)],
        ),
        (
            "undo whole epochs, and it ends {:.1f} nats behind.",
            lambda: [
                scored(MNIST, "mean_field")[0]
                - scored("mnist_no_clip", "spline_coupling")[0]
            ],
        ),
        (
            "and `full_rank` is {:.1f} nats behind.",
            lambda: [-lead(MNIST, "full_rank")[0]],
        ),
        (
            "it overfits soonest, after epoch {}.",
            lambda: [row(CALTECH, "ladder")["seeds"][0]["best_epoch"]],
        ),
        (
            "is number {} to {} of {};",
            lambda: [*ends(best_epochs(CALTECH)), *epochs(CALTECH)],
        ),
        (
            "five of the six are {:.0f} to {:.0f} nats behind, and `ladder`,",
            lambda: ends(gained_by_layers(name) for name in LAYERS),
        ),
        (
            "a single latent is in use then, {:.0f}:",
            lambda: [gained_by_layers("ladder")],
        ),
        (
            "after {} and {} epochs: the epochs that are kept are {} and {}.",
            lambda: [
                row(MNIST_LAYERS, name)["seeds"][0][key]
                for key in ("epochs", "best_epoch")
                for name in ("gated_dag", "gated_dag_iaf")
            ],
        ),
        ("40 latents, {} epochs at a constant rate", lambda: epochs(NOW)),
        ("`mlp` networks, {} epochs, no warm-up", lambda: epochs(BEFORE)),
    ],
    "docs/results/index.md": [
        (
            "by the defaults `iaf` is ahead of `mean_field` by {:.1f} nats on `digits`",
            lambda: lead(NOW, "iaf")[:1],
        ),
    ],
}
