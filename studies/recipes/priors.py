"""Priors against posteriors, after Tomczak & Welling 2018."""

from studies.tables import BF16, Budget, Row, Table

__all__ = ["PRIORS"]

_SEEDS = (0, 1, 2)


def _priors() -> dict[str, Row]:
    """Each prior with two guides, all else equal; and what may keep it from overfitting."""
    networks = {"latent_dim": 40, "hidden_dims": (300, 300), "network": "gated_mlp"}
    published = {"standard": -88.3, "vamp": -85.7, "flow": -84.6}
    rows = {}
    for guide in ("mean_field", "iaf"):
        for prior in ("standard", "mixture", "vamp", "flow"):
            if (guide, prior) == ("iaf", "vamp"):
                continue  # which cannot score draws of others
            rows[f"{guide}_{prior}"] = Row(
                guide,
                networks | {"prior": prior},
                published=published.get(prior) if guide == "mean_field" else None,
                seeds=_SEEDS,
            )
    smaller = {"prior_num_flows": 4, "prior_hidden_dims": (64,)}
    rows["mean_field_flow_small"] = Row(
        "mean_field", networks | {"prior": "flow"} | smaller, seeds=_SEEDS
    )
    dropout = {"prior": "vamp", "pseudo_dropout": 0.3}
    rows["mean_field_vamp_dropout"] = Row(
        "mean_field", networks | dropout, seeds=_SEEDS
    )
    rows["mean_field_flow_decay"] = Row(
        "mean_field",
        networks | {"prior": "flow"},
        training={"optimizer": "adamw", "weight_decay": 0.1},
        seeds=_SEEDS,
    )
    return rows


PRIORS = Table(
    source="an unreviewed rerun of the code of Tomczak & Welling 2018",
    by_split=True,
    curves=True,
    data="mnist_static",
    rows=_priors(),
    budgets={
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
