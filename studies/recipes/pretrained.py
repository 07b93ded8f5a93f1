"""The weights that come with the zoo: a row for each guide, and more data sets."""

from dataclasses import replace

from studies.tables import BF16, Budget, Row, Table

__all__ = ["PRETRAINED"]

# Small enough for a package, 3 MB a file at 16 bits; with the prior that brings most.
_VECTOR = {"hidden_dims": (200, 200), "network": "gated_mlp", "prior": "flow"}
_BLOCKS = {"num_layers": 5, "latent_dim": 20, "hidden_dims": (100, 100)}
_OTHER_DATA = ("fashion_dynamic", "caltech_silhouettes", "frey_faces")

_LAYERED = {"clip_norm": 100.0, "analytic_kl": True}
# The best of the rates in table `levers`; a cosine that falls would not stop early.
_STEEP = {"lr": 2e-3, "schedule": "cosine", "ema": 0}


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
        "self_reflective": (guarded, _LAYERED | _STEEP),
        "self_reflective_iaf": (
            guarded | {"prior": "amortised", "context_skip": True},
            _LAYERED | _STEEP,
        ),
        "bottom_up": (guarded, _LAYERED | _STEEP),
        "ladder": ({"hidden_dims": (200, 200), "skip": True}, _LAYERED | _STEEP),
        **dict.fromkeys(("gated_dag", "gated_dag_iaf"), (graph, {"clip_norm": 5.0})),
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
    found = {
        f"{guide}-{data}": replace(rows[guide], data=data)
        for data in _OTHER_DATA
        for guide in ("mean_field", "iaf", "self_reflective")
    }
    # Few data are overfitted, which a constant rate with patience finds out.
    for data in ("caltech_silhouettes", "frey_faces"):
        name = f"self_reflective-{data}"
        found[name] = replace(found[name], training=_LAYERED)
    return found


PRETRAINED = Table(
    source="weights that come with the zoo",
    data="mnist_static",
    rows=_pretrained(),
    budgets={
        "full": Budget({"epochs": 500, "lr": 5e-4, "kl_warmup": 20, "ema": 0.999}),
        "cpu": Budget(
            {"ema": 0.999, "patience": 50} | BF16,
            eval_particles=500,  # as many as `publish` takes: it has this number then
            steps=25_000,
            warmup=0.3,
        ),
        "smoke": Budget({"epochs": 5}, eval_particles=10, data="digits_binary"),
    },
)
