"""Apostolopoulou et al. 2020, table 3: densities of CIFAR-10."""

from studies.tables import Budget, Row, Table

__all__ = ["SELF_REFLECTIVE_MAF"]

SELF_REFLECTIVE_MAF = Table(
    source="Apostolopoulou et al. 2020, table 3",
    curves=True,
    data="cifar10",
    rows={
        "maf_2000": Row("maf", train_size=2000),
        "maf_6000": Row("maf", train_size=6000),
        "maf": Row("maf", published=2670.0),
        "self_reflective_maf_2000": Row("self_reflective_maf", train_size=2000),
        "self_reflective_maf_6000": Row("self_reflective_maf", train_size=6000),
        "self_reflective_maf": Row(
            "self_reflective_maf", published_elbo=(None, None, 3190.0)
        ),
    },
    budgets={
        "full": Budget(
            {"epochs": 500, "lr": 1e-4, "clip_norm": 1e3, "patience": 30},
        ),
        # Both with ten MADEs of this width, for as many steps whatever the size.
        "cpu": Budget(
            {"lr": 5e-4, "schedule": "cosine", "clip_norm": 1e3},
            eval_particles=100,
            steps=2000,
            options={"flow_hidden_dims": (256,)},
        ),
        "smoke": Budget(
            {"lr": 5e-4, "clip_norm": 1e3},
            eval_particles=2,
            steps=2,
            options={"flow_hidden_dims": (8,)},
            train_size=200,
        ),
    },
)
