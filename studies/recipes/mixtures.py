"""Kim & Pavlovic 2020: mixtures as posteriors, and what competes with them."""

from collections.abc import Sequence
from dataclasses import replace

from studies.tables import BF16, SMOKE, Budget, Row, Table

__all__ = ["RECURSIVE_MIXTURE"]

_ONE_DRAW = {"antithetic": False}  # as Kim et al. 2018 take their steps

_GUIDES = {
    "mean_field": Row("mean_field"),
    # As many draws in a step as a mixture of three takes, to see what these are worth.
    "mean_field_draws_3": Row("mean_field", training={"num_particles": 3}),
    **{f"mixture_{m}": Row("mixture", {"num_components": m}) for m in (2, 3, 5)},
    **{
        f"recursive_mixture_{m}": Row("recursive_mixture", {"num_components": m})
        for m in (2, 3, 5)
    },
    "recursive_mixture_3_constant": Row(
        "recursive_mixture", {"num_components": 3, "weights": "constant"}
    ),
    # Hotti et al. 2024: one network with a one-hot code, and weights that stay uniform.
    **{
        f"mixture_{m}_one_hot": Row(
            "mixture", {"num_components": m, "one_hot": True, "weights": "uniform"}
        )
        for m in (3, 10)
    },
    "boosted_2": Row("boosted", {"num_components": 2}),
    "iaf": Row("iaf"),
    "householder": Row("householder"),
    **{
        f"semi_amortized_{k}": Row("semi_amortized", {"num_steps": k, **_ONE_DRAW})
        for k in (1, 2, 4, 8)
    },
}


def _each(
    guides: dict[str, Row], data: Sequence[str], sizes: Sequence[int]
) -> dict[str, Row]:
    """Each guide on each data set with each number of latents."""
    return {
        f"{name}-{d}-z{size}": replace(
            row,
            data=d,
            options=row.options | {"latent_dim": size},
        )
        for d in data
        for size in sizes
        for name, row in guides.items()
    }


RECURSIVE_MIXTURE = Table(
    source="Kim & Pavlovic 2020, tables of test log-likelihoods",
    data="mnist_static",
    # The paper's figures are not at hand. Networks, rate and batch are those of the
    # study whose set-up it takes over (Park et al. 2019).
    rows=_each(_GUIDES, ("mnist_gray", "mnist_static", "fashion_dynamic"), (20, 50)),
    budgets={
        "full": Budget(
            {"epochs": 2000, "batch_size": 128, "lr": 5e-4},
            eval_particles=100,
            options={"hidden_dims": (500, 500)},
        ),
        "cpu": Budget(
            {"epochs": 8, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
            eval_particles=100,
        ),
        "long": Budget(
            {
                "epochs": 60,
                "batch_size": 128,
                "lr": 1e-3,
                "kl_warmup": 20,
                "ema": 0.999,
            }
            | BF16,
            eval_particles=500,
            local=200,
        ),
        "smoke": SMOKE,
    },
)
