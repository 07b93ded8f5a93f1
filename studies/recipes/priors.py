"""Priors with a Gaussian and a flow, and then priors against posteriors."""

from dataclasses import replace

from studies.tables import BF16, SMOKE, Budget, Row, Table

__all__ = ["PRIORS", "PRIOR_POSTERIOR"]

_SEEDS = (0, 1, 2)

# Two hidden layers with gates and 40 latents, as Tomczak & Welling 2018 have it.
_NETWORKS = {"latent_dim": 40, "hidden_dims": (300, 300), "network": "gated_mlp"}
_PRIORS = ("standard", "mixture", "vamp", "flow")

# Of one Gaussian vector, by prior. Means of the seeds of an unreviewed rerun of the code of
# Tomczak & Welling 2018: -88.23, -88.47; -85.61, -85.78; -84.56, -84.74, -84.71.
_STATIC = {"standard": -88.35, "vamp": -85.7, "flow": -84.67}
# Norouzi et al. 2020, table 1.
_FASHION = {"standard": -228.70, "vamp": -227.35}


def _priors() -> dict[str, Row]:
    """Each prior with two guides, all else equal; and what may keep it from overfitting."""
    rows = {}
    for guide in ("mean_field", "iaf"):
        for prior in _PRIORS:
            if (guide, prior) == ("iaf", "vamp"):
                continue  # which cannot score draws of others
            rows[f"{guide}_{prior}"] = Row(
                guide,
                _NETWORKS | {"prior": prior},
                published=_STATIC.get(prior) if guide == "mean_field" else None,
                seeds=_SEEDS,
            )
    smaller = {"prior_num_flows": 4, "prior_hidden_dims": (64,)}
    rows["mean_field_flow_small"] = Row(
        "mean_field", _NETWORKS | {"prior": "flow"} | smaller, seeds=_SEEDS
    )
    dropout = {"prior": "vamp", "pseudo_dropout": 0.3}
    rows["mean_field_vamp_dropout"] = Row(
        "mean_field", _NETWORKS | dropout, seeds=_SEEDS
    )
    rows["mean_field_flow_decay"] = Row(
        "mean_field",
        _NETWORKS | {"prior": "flow"},
        training={"optimizer": "adamw", "weight_decay": 0.1},
        seeds=_SEEDS,
    )
    return rows


def _pairs() -> dict[str, Row]:
    """Each prior with each posterior, on each data set."""
    guides = {
        "mean_field": "mean_field",
        "householder": "householder",
        "iaf": "iaf",
        "sylvester": "sylvester_triangular",
        "spline": "spline_coupling",
    }
    data = ("mnist_static", "fashion_dynamic", "caltech_silhouettes", "frey_faces")
    published = {
        f"mean_field_{prior}-{d}": value
        for d, of in (("mnist_static", _STATIC), ("fashion_dynamic", _FASHION))
        for prior, value in of.items()
    }
    rows = {
        f"{name}_{prior}-{d}": Row(
            guide,
            _NETWORKS | {"prior": prior},
            data=d,
            seeds=(0, 1),
            published=published.get(f"{name}_{prior}-{d}"),
        )
        for d in data
        for name, guide in guides.items()
        for prior in _PRIORS
        # A VampPrior is scored by the guide, at draws that these two cannot invert.
        if not (prior == "vamp" and name in ("iaf", "sylvester"))
    }
    # What the long warm-up of the KL is worth.
    best = rows["mean_field_flow-mnist_static"]
    short = replace(best, published=None, seeds=(0,), training={"kl_warmup": 10})
    return rows | {"mean_field_flow_short_warmup-mnist_static": short}


PRIORS = Table(
    source="an unreviewed rerun of the code of Tomczak & Welling 2018",
    by_split=True,
    curves=True,
    data="mnist_static",
    rows=_priors(),
    budgets={
        # The source's rate is 5e-4, warmed up over 100 of at most 2,000 epochs.
        "full": Budget(
            {"epochs": 1000, "patience": 50}, eval_particles=5000, local=200
        ),
        # The best epoch on validation is kept: a learned prior overfits.
        "cpu": Budget(
            {"epochs": 50, "schedule": "cosine", "kl_warmup": 5} | BF16,
            eval_particles=500,
            local=200,
        ),
        "smoke": Budget(
            {"epochs": 2}, eval_particles=5, data="digits_binary", local=200
        ),
    },
)

PRIOR_POSTERIOR = Table(
    source="priors against posteriors, as many steps for all; published: a rerun of "
    "Tomczak & Welling 2018 (static MNIST), Norouzi et al. 2020 (Fashion)",
    by_split=True,
    data="mnist_static",
    rows=_pairs(),
    budgets={
        # The rate stays, and the weights are averaged: whenever a row begins to overfit,
        # its best epoch is as good as one at the end of a training of that length.
        "long": Budget(
            {"ema": None} | BF16,
            eval_particles=1000,
            steps=40_000,
            warmup=0.5,  # 0.5 nats better than ten epochs for the flow on static MNIST
            local=200,
        ),
        "full": Budget(
            {"ema": None, "lr": 5e-4} | BF16,
            eval_particles=1000,
            steps=80_000,
            warmup=0.375,
            local=200,
        ),
        "smoke": replace(SMOKE, local=20),
    },
)
