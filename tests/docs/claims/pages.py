"""What README and the other pages quote of the studies and the benchmarks."""

from measured import scored

from claims.benchmarks import inference, times_as_fast
from claims.flows import AHEAD, local_lead, log_p_lead, published_lead
from claims.flows import short_of_the_study as short
from claims.studies import too_low
from pyro_vae_zoo import list_pretrained

LEADS = (
    "Two steps of `iaf` are ahead of the Gaussian by {:.1f} nats, two Sylvester steps by "
    "{:.1f}",
    lambda: [log_p_lead(label)[0] for label in AHEAD],
)
LOCAL_LEADS = "[{:.1f} and {:.1f}]", lambda: [local_lead(label)[0] for label in AHEAD]

CLAIMS = {
    "README.md": [
        ("step is then {:.1f} to {:.1f} times as fast", lambda: times_as_fast("ours")),
        ("{:.1f} to {:.1f} times in bfloat16", lambda: times_as_fast("ours+bf16")),
        LEADS,
        LOCAL_LEADS,
        ("measures one of [{}] again", lambda: [len(list_pretrained())]),
        (
            "Henrion and Welleck have them {:.1f} nats behind",
            lambda: [-published_lead("planar_10")],
        ),
    ],
    "docs/index.md": [LEADS, LOCAL_LEADS],
    "docs/results/index.md": [
        (
            "`iaf` are ahead by {:.1f} nats, two Sylvester steps by {:.1f}",
            lambda: [log_p_lead(label)[0] for label in AHEAD],
        ),
        (
            "its bounds are {:.1f} nats better for the Gaussian, {:.1f} for IAF",
            lambda: map(short, ("mean_field", "iaf_2")),
        ),
        ("from the guide is {:.1f} and {:.1f} nats too low", too_low),
    ],
    "docs/decide/which_guide.md": [
        (
            "after 500 epochs `mean_field` has {:.2f}",
            lambda: scored("digits_mixtures", "mean_field"),
        ),
    ],
    "docs/systems/semi_amortized.md": [
        (
            "two to eight cost {:.0f} to {:.0f} times the inference of `mean_field`",
            lambda: inference("semi_amortized(2)", "semi_amortized(8)"),
        ),
    ],
}
