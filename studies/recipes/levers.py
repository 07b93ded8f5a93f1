"""One change of a recipe at a time, on a small budget: which pays for its time."""

from studies.tables import SMOKE, Budget, Row, Table

__all__ = ["LEVERS"]


def _levers() -> dict[str, Row]:
    """One Gaussian and one flow by the flow table's recipe, one thing changed at a time."""
    gated = {"network": "gated_mlp"}
    averaged = {"schedule": "constant", "ema": 0.999}
    changes: dict[str, tuple[dict, dict]] = {  # options, training
        "plain": ({}, {}),
        "no_warmup": ({}, {"kl_warmup": 0}),
        "long_warmup": ({}, {"kl_warmup": 10}),
        "average": ({}, averaged),
        "rate_3": ({}, {"lr": 3e-3}),
        "batch_250_rate_2": ({}, {"lr": 2e-3, "batch_size": 250}),
        "gated": (gated, {}),
        "gated_average": (gated, averaged),
        "gated_wide": (gated | {"hidden_dims": (500, 500)}, {}),
        "residual": ({"network": "resnet"}, {}),
        "gated_bf16": (gated, {"precision": "bf16"}),
        "gated_free_bits": (gated, {"free_bits": 4.0}),
    }
    return {
        f"{guide}_{name}": Row(guide, options, training=training)
        for guide in ("mean_field", "iaf")
        for name, (options, training) in changes.items()
    }


def _levers_of_layers() -> dict[str, Row]:
    """A hierarchy in bfloat16, by its table's recipe but for the warm-up, changed, too."""
    recipe = {"clip_norm": 100.0, "analytic_kl": True, "precision": "bf16"}
    changes: dict[str, tuple[dict, dict]] = {  # options, training
        "plain": ({}, {}),
        "average": ({}, {"schedule": "constant", "ema": 0.999}),
        "rate_2": ({}, {"lr": 2e-3}),
        "average_rate_2": ({}, {"lr": 2e-3, "schedule": "constant", "ema": 0.999}),
        "long_warmup_rate_2": ({}, {"lr": 2e-3, "kl_warmup": 10}),
        "least_scale_rate_3": ({"least_scale": 0.01}, {"lr": 3e-3}),
        "batch_200_rate_2": ({}, {"lr": 2e-3, "batch_size": 200}),
        "gated": ({"network": "gated_mlp"}, {}),
        "residual": ({"network": "resnet"}, {}),
        "wide": ({"hidden_dims": (400, 400)}, {}),
        "free_bits": ({}, {"free_bits": 0.5}),
    }
    return {
        f"self_reflective_{name}": Row(
            "self_reflective", options, data="mnist_dynamic", training=recipe | training
        )
        for name, (options, training) in changes.items()
    }


LEVERS = Table(
    source="what is in a recipe, one lever at a time",
    data="mnist_static",
    rows=_levers() | _levers_of_layers(),
    budgets={
        "cpu": Budget(
            {"epochs": 20, "lr": 1e-3, "schedule": "cosine", "kl_warmup": 4},
            eval_particles=100,
        ),
        "smoke": SMOKE,
    },
)
