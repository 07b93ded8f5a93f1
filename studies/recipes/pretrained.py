"""The weights that come with the zoo: a row for each guide, and more data sets."""

from dataclasses import replace

from studies.tables import BF16, Budget, Row, Table

__all__ = ["PRETRAINED"]

# Small enough for a package, 3 MB a file at 16 bits; with the prior that brings most.
_VECTOR = {"hidden_dims": (200, 200), "network": "gated_mlp", "prior": "flow"}
_BLOCKS = {"num_layers": 5, "latent_dim": 20, "hidden_dims": (100, 100)}
_OTHER_DATA = ("fashion_dynamic", "caltech_silhouettes", "frey_faces")

# What the table `levers` found best for hierarchies, at a rate that needs the guard.
_STEEP = {"lr": 2e-3, "schedule": "cosine", "ema": 0, "analytic_kl": True}
_LAYERED = {"epochs": 60, "kl_warmup": 12, "clip_norm": 100.0, **_STEEP}
_GRAPH = {"epochs": 60, "kl_warmup": 12, "clip_norm": 5.0}
# Few data are seen more often, for as long as it helps.
_FEW = {
    **{"epochs": 500, "kl_warmup": 50, "patience": 50},
    **{"lr": 1e-3, "schedule": "constant", "ema": 0.999},
}


def _pretrained() -> dict[str, Row]:
    """One latent vector on static, several on dynamic MNIST; some on other data."""
    vector = {
        **{name: {} for name in ("mean_field", "full_rank", "planar", "radial")},
        **{name: {} for name in ("householder", "sylvester_orthogonal", "iaf")},
        "sylvester_householder": {"num_flows": 1},
        "sylvester_triangular": {"num_flows": 1},
        "affine_autoregressive": {},
        "neural_autoregressive": {"flow_hidden_dims": (160,)},
        "affine_coupling": {},
        "spline_coupling": {},
        **{
            name: {"num_components": 2}
            for name in ("mixture", "recursive_mixture", "boosted")
        },
        "semi_amortized": {},
    }
    guarded = _BLOCKS | {"least_scale": 0.01}
    graph = {"hidden_dims": (256, 256), "least_scale": 0.01}
    several: dict[str, tuple[dict, dict]] = {
        "self_reflective": (guarded, _LAYERED),
        "self_reflective_iaf": (
            guarded | {"prior": "amortised", "context_skip": True},
            _LAYERED,
        ),
        "bottom_up": (guarded, _LAYERED),
        "ladder": ({"hidden_dims": (200, 200), "skip": True}, _LAYERED),
        **dict.fromkeys(("gated_dag", "gated_dag_iaf"), (graph, _GRAPH)),
    }
    static = {name: Row(name, _VECTOR | options) for name, options in vector.items()}
    dynamic = {
        name: Row(name, options, data="mnist_dynamic", training=training)
        for name, (options, training) in several.items()
    }
    rows = static | dynamic
    return rows | _elsewhere(rows)


def _elsewhere(rows: dict[str, Row]) -> dict[str, Row]:
    """Two guides of one vector, and a hierarchy, on each of the other data sets."""
    found = {}
    for data in _OTHER_DATA:
        few = {} if data == "fashion_dynamic" else _FEW
        for guide in ("mean_field", "iaf", "self_reflective"):
            row = rows[guide]
            training = row.training | few
            found[f"{guide}-{data}"] = replace(row, data=data, training=training)
    return found


PRETRAINED = Table(
    source="weights that come with the zoo",
    data="mnist_static",
    rows=_pretrained(),
    budgets={
        "full": Budget({"epochs": 500, "lr": 5e-4, "kl_warmup": 20, "ema": 0.999}),
        "cpu": Budget(
            {"epochs": 40, "lr": 1e-3, "kl_warmup": 10, "ema": 0.999} | BF16,
            eval_particles=500,  # as many as `publish` takes: it has this number then
        ),
        "smoke": Budget({"epochs": 5}, eval_particles=10, data="digits_binary"),
    },
)
