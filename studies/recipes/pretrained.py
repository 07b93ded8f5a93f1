"""The weights that come with the zoo: a row for each guide."""

from studies.tables import Budget, Row, Table

__all__ = ["PRETRAINED"]

# Pretrained weights are to be small: all together 30 MB at 16 bits.
_NARROW = {"hidden_dims": (200, 200)}
_BLOCKS = {"num_layers": 5, "latent_dim": 20, "hidden_dims": (80, 80)}
_NODES = {**_NARROW, "node_hidden_dims": (128,)}
_OF_HIERARCHIES = {"clip_norm": 100.0, "analytic_kl": True}
_OF_GRAPHS = {"clip_norm": 5.0}


def _pretrained() -> dict[str, Row]:
    """A row for each guide: one latent vector on static, several on dynamic MNIST."""
    one = {
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
    ladder = {"num_layers": 5, "latent_dim": 20, "hidden_dims": (128, 128)}
    several = {
        **dict.fromkeys(
            ("self_reflective", "self_reflective_iaf", "bottom_up"),
            (_BLOCKS, _OF_HIERARCHIES),
        ),
        "ladder": (ladder, _OF_HIERARCHIES),
        **dict.fromkeys(("gated_dag", "gated_dag_iaf"), (_NODES, _OF_GRAPHS)),
    }
    static = {name: Row(name, _NARROW | options) for name, options in one.items()}
    dynamic = {
        name: Row(name, options, data="mnist_dynamic", training=training)
        for name, (options, training) in several.items()
    }
    return static | dynamic


PRETRAINED = Table(
    source="weights that come with the zoo",
    data="mnist_static",
    rows=_pretrained(),
    budgets={
        "full": Budget(
            {"epochs": 500, "lr": 5e-4, "schedule": "cosine", "kl_warmup": 20}
        ),
        "cpu": Budget(
            {"epochs": 30, "lr": 1e-3, "schedule": "cosine", "kl_warmup": 6},
            eval_particles=500,  # as many as `publish` takes: it has this number then
        ),
        "smoke": Budget({"epochs": 5}, eval_particles=10, data="digits_binary"),
    },
)
