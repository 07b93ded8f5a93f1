"""The page of the default recipe: what it brings, and by how much over that of 0.1.0."""

from measured import lead, row, scored, shown

NOW, BEFORE = "defaults_digits", "defaults_digits_old"
FREY = "defaults_frey_faces"


def gained():
    """By today's over those of 0.1.0, for `mean_field` and `iaf`."""
    return [scored(NOW, n)[0] - scored(BEFORE, n)[0] for n in ("mean_field", "iaf")]


def epochs(*folders):
    return [row(folder, "iaf")["seeds"][0]["epochs"] for folder in folders]


CLAIMS = {
    "docs/results/defaults.md": [
        ("ahead of `mean_field` by {} nats", lambda: [shown(lead(NOW, "iaf"))]),
        (
            "over three seeds: {} against {}.",
            lambda: [shown(scored(NOW, name)) for name in ("iaf", "mean_field")],
        ),
        ("are {:.1f} and {:.1f} nats behind", gained),
        ("stop after {} epochs, today's after {}.", lambda: epochs(BEFORE, NOW)),
        (
            "is {:.0f} nats of log p behind, and `full_rank` is {:.0f},",
            lambda: [-lead(FREY, name)[0] for name in ("affine_coupling", "full_rank")],
        ),
        ("40 latents, {} epochs at a constant rate", lambda: epochs(NOW)),
        ("`mlp` networks, {} epochs, no warm-up", lambda: epochs(BEFORE)),
    ],
    "docs/results/index.md": [
        (
            "with the defaults `iaf` is ahead of `mean_field` by {:.1f} nats",
            lambda: lead(NOW, "iaf")[:1],
        ),
    ],
}
