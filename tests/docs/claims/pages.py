"""What README and the other pages quote of the studies and the benchmarks."""

from measured import ends, lead, row, scored, shown

from claims.benchmarks import curve, inference, over, paired, step
from claims.flows import AHEAD, local_lead, log_p_lead, published_lead
from claims.flows import short_of_the_study as short
from claims.priors import NAMED, PRIORS, ahead, gated_lead, local
from claims.studies import (
    LAYERS,
    LEVERS,
    gap,
    layers_lead,
    missing,
    papers_layers_lead,
    too_low,
)
from pyro_vae_zoo import list_pretrained

DEFAULTS = "defaults_mnist_static"
LEADS = [
    (
        "Two steps of `iaf` lead the Gaussian by {} nats (three seeds), two Sylvester "
        "steps by {:.2f} (one).",
        lambda: [
            shown(lead(DEFAULTS, "iaf")),
            lead(DEFAULTS, "sylvester_triangular")[0],
        ],
    ),
    (
        "In a study with plain networks these are {} and {}.",
        lambda: [shown(log_p_lead(label)) for label in AHEAD],
    ),
    (
        "the leads are {} and {}.",
        lambda: [shown(local_lead(label)) for label in AHEAD],
    ),
    (
        "in a study that has `mean_field` at {:.2f}, a prior brings {:.1f} to {:.1f} nats "
        "and `iaf` {}; measured with a q optimised for each image, {:.1f} to {:.1f} and "
        "{}.",
        lambda: [
            scored(PRIORS, "mean_field_standard")[0],
            *sorted(ahead(*NAMED))[::2],
            gated_lead()[1],
            *sorted(local(*NAMED))[::2],
            gated_lead()[2],
        ],
    ),
]


def of_others():
    """Our time over stock Pyro's and the scan's: the ends in both sizes of batches."""
    stock = ends(x for n in (100, 1000) for x in over("ours", "SVI", n))
    return [*stock, *ends(x for n in (100, 1000) for x in paired("ours", "scan", n))]


PAIR = ("mean_field", "iaf_2")
GATED = "60 epochs, gated, bf16"


def default_training(what):
    """Seconds of 25,000 steps of 100 images."""
    return [25 * step(network, 100, what)["milliseconds"] for network in PAIR]


CLAIMS = {
    "README.md": [
        (
            "takes {:.2f} to {:.2f} of stock Pyro's time, and {:.2f} to {:.2f} of that",
            of_others,
        ),
        *LEADS,
        ("[{} models], loaded by", lambda: [len(list_pretrained())]),
        (
            "Henrion and Welleck report them {:.1f} nats behind",
            lambda: [-published_lead("planar_10")],
        ),
    ],
    "docs/index.md": LEADS,
    "docs/results/index.md": [
        (
            "a higher rate brings `self_reflective` {:.1f} nats in {} epochs",
            lambda: [
                lead(LEVERS, "self_reflective_rate_2", "self_reflective_plain")[0],
                row(LEVERS, "self_reflective_rate_2")["seeds"][0]["epochs"],
            ],
        ),
        (
            "`iaf` are ahead by {:.1f} nats, two Sylvester steps by {:.1f}",
            lambda: [log_p_lead(label)[0] for label in AHEAD],
        ),
        (
            "the paper's ELBO is {:.1f} nats better for the Gaussian, {:.1f} for IAF",
            lambda: map(short, ("mean_field", "iaf_2")),
        ),
        (
            "which has the same generative model, by only {:.1f} nats",
            lambda: layers_lead("bottom_up")[:1],
        ),
        (
            "that lead is {:.1f} nats, and our `self_reflective` is {:.1f} nats behind",
            lambda: [papers_layers_lead("bottom_up"), missing("self_reflective")],
        ),
        ("from the guide is {:.1f} and {:.1f} nats too low", too_low),
    ],
    "docs/decide/which_guide.md": [
        (
            "| plain `mlp`, three seeds | {} | {} |",
            lambda: [shown(log_p_lead("iaf_2")), shown(local_lead("iaf_2"))],
        ),
        ("| `gated_mlp`, {} | {} | {} |", gated_lead),
        (
            "| every option at its default, three seeds | {} | not measured |",
            lambda: [shown(lead("defaults_mnist_static", "iaf"))],
        ),
        (
            "on the 4,100 images it was ahead by {:.1f} nats, by one seed.",
            lambda: lead("defaults_caltech_silhouettes", "self_reflective")[:1],
        ),
        (
            "by {:.1f} nats on `digits`, {:.1f} on Caltech silhouettes and {:.0f} on Frey "
            "faces, and {:.1f} behind on static MNIST.",
            lambda: [
                lead(f"defaults_{name}", "semi_amortized")[0] * sign
                for name, sign in (
                    ("digits", 1),
                    ("caltech_silhouettes", 1),
                    ("frey_faces", 1),
                    ("mnist_static", -1),
                )
            ],
        ),
        (
            "a learned prior brought [{:.1f} to {:.1f} nats], by the optimised q "
            "{:.1f} to {:.1f}.",
            lambda: [*sorted(ahead(*NAMED))[::2], *sorted(local(*NAMED))[::2]],
        ),
        (
            "leads `bottom_up` by {:.1f} nats, here by {:.1f};",
            lambda: [papers_layers_lead("bottom_up"), layers_lead("bottom_up")[0]],
        ),
        (
            "takes {:.0f} s for `mean_field` and {:.0f} s for `iaf` of two steps, "
            "compiled;",
            lambda: default_training("ours"),
        ),
        (
            "by stock `SVI` {:.1f} and {:.1f} minutes",
            lambda: [seconds / 60 for seconds in default_training("SVI")],
        ),
        (
            "in bfloat16 took {:.0f} s with `mean_field` and {:.0f} s with `iaf`",
            lambda: [curve(network, GATED)[-1][0] for network in PAIR],
        ),
        (
            "family loses {:.1f} nats of the bound",
            lambda: gap("approximation")[:1],
        ),
        (
            "two steps of `iaf` lose {:.1f};",
            lambda: gap("approximation")[1:],
        ),
        ("`iaf` leads by {} nats", lambda: [shown(lead("defaults_digits", "iaf"))]),
        (
            "`spline_coupling` led by {}, and",
            lambda: [shown(lead("digits", "spline_coupling"))],
        ),
        (
            "after 500 epochs `mean_field` has {:.2f} ([table]) in place of {}",
            lambda: [
                scored("digits_mixtures", "mean_field")[0],
                shown(scored("digits", "mean_field")),
            ],
        ),
    ],
    "docs/systems/iaf.md": [
        (
            "two steps by {} nats over three seeds",
            lambda: [shown(log_p_lead("iaf_2"))],
        ),
        ("ten steps by {:.2f} with one seed", lambda: [log_p_lead("iaf_10")[0]]),
        (
            "the default here, {}: two steps by {} nats",
            lambda: gated_lead()[:2],
        ),
        (
            "the leads of two steps are {} and {}.",
            lambda: [shown(local_lead("iaf_2")), *gated_lead()[2:]],
        ),
    ],
    "docs/systems/self_reflective.md": [
        (
            "an epoch of MNIST took {:.0f} s on one core, {:.0f} s in bfloat16",
            lambda: [
                row(LAYERS, label)["seconds_per_epoch"]
                for label in ("self_reflective", "self_reflective_bf16")
            ],
        ),
    ],
    "docs/systems/ladder.md": [
        (
            "it is [{:.1f} nats ahead of `mean_field`]",
            lambda: lead("defaults_digits", "ladder")[:1],
        ),
    ],
    "docs/systems/semi_amortized.md": [
        (
            "two to eight steps cost {:.0f} to {:.0f} times the inference of `mean_field`",
            lambda: inference("semi_amortized(2)", "semi_amortized(8)"),
        ),
    ],
}
