"""The tables of the source papers: every row and every budget that `reproduce.py` has."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from studies.tables import Budget, Row, Table

_SEEDS = (0, 1, 2)
_HERE = Path(__file__).parent

_FREE_ENERGIES = {  # of K = 1, 2, 10, with the sign of a bound
    "planar": ((-90.7, -97.4, -96.6), (-91.7, -97.9, -97.1), (-99.9, -104.5, -103.5)),
    "iaf": ((-87.8, -94.7, -94.0), (-87.5, -94.2, -93.5), (-88.9, -94.2, -93.6)),
    "householder": (
        (-89.1, -95.9, -95.1),
        (-89.6, -96.0, -95.2),
        (-90.3, -96.0, -95.3),
    ),
}
_LENGTHS = (1, 2, 10)


def _published_flows() -> dict[str, Row]:
    """The study's rows, with the flows as they should be."""
    rows = {}
    for flow, bounds in _FREE_ENERGIES.items():
        for num_flows, bound in zip(_LENGTHS, bounds, strict=True):
            several = (flow, num_flows) in (("iaf", 2), ("planar", 10))
            rows[f"{flow}_{num_flows}"] = Row(
                flow,
                {"num_flows": num_flows},
                published_elbo=bound,
                seeds=_SEEDS if several else (0,),
            )
    return rows


def _as_published() -> dict[str, Row]:
    """The study's flows with the faults of its code: each fault alone, then all."""
    inverse = f"{_HERE / 'as_published.py'}:InverseAutoregressive"
    planar = f"{_HERE / 'as_published.py'}:Planar"
    faults = {"reverse": False, "sees_context": False, "rectified": True}
    names = ("no_reversal", "no_context", "rectified")
    rows = {
        f"inverse_autoregressive_{k}": Row(
            inverse, {"num_flows": k}, seeds=(0,) if k == 1 else _SEEDS
        )
        for k in _LENGTHS
    }
    for name, (option, value) in zip(names, faults.items(), strict=True):
        rows[f"inverse_autoregressive_2_{name}"] = Row(
            inverse, {option: value}, note="with a fault of the study", seeds=_SEEDS
        )
    for k, bound in zip(_LENGTHS, _FREE_ENERGIES["iaf"], strict=True):
        rows[f"iaf_as_published_{k}"] = Row(
            inverse,
            {"num_flows": k, **faults},
            published_elbo=bound,
            note="with all faults of the study",
            seeds=_SEEDS if k == 2 else (0,),
        )
    for k, bound in zip(_LENGTHS, _FREE_ENERGIES["planar"], strict=True):
        rows[f"planar_as_published_{k}"] = Row(
            planar,
            {"num_flows": k},
            published_elbo=bound,
            note="invalid bound: nothing keeps the map invertible",
            is_bound=False,
        )
    return rows


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


def _levers() -> dict[str, Row]:
    """One Gaussian and one flow by the flow table's recipe, one thing changed at a time."""
    gated = {"network": "gated_mlp"}
    averaged = {"schedule": "constant", "ema": 0.999}
    changes: dict[str, tuple[dict, dict]] = {  # options, training
        "plain": ({}, {}),
        "plain_no_warmup": ({}, {"kl_warmup": 0}),
        "plain_long_warmup": ({}, {"kl_warmup": 10}),
        "plain_average": ({}, averaged),
        "plain_rate_3": ({}, {"lr": 3e-3}),
        "plain_batch_250_rate_2": ({}, {"lr": 2e-3, "batch_size": 250}),
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


# One Gaussian layer of 100 latents, as wide as makes its networks those of the others.
_ONE_LAYER = {"latent_dim": 100, "hidden_dims": (1000, 1000), "activation": "elu"}

_GUIDES = {
    "mean_field": Row("mean_field"),
    # As many draws in a step as a mixture of three takes, to see what these are worth.
    "mean_field_draws_3": Row("mean_field", training={"num_particles": 3}),
    **{f"mixture_{m}": Row("mixture", {"num_components": m}) for m in (2, 3, 5)},
    **{
        f"recursive_mixture_{m}": Row("recursive_mixture", {"num_components": m})
        for m in (2, 3, 5)
    },
    "boosted_2": Row("boosted", {"num_components": 2}),
    "iaf": Row("iaf"),
    "householder": Row("householder"),
    **{
        f"semi_amortized_{k}": Row("semi_amortized", {"num_steps": k})
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


# As many latents in one vector, and the same widths, as the graph's five nodes of 16.
_ONE_NODE = {
    "latent_dim": 80,
    "hidden_dims": (512, 512, 256),
    "network": "resnet",
    "activation": "elu",
}

_GRAPHS = {
    "mean_field": Row("mean_field", _ONE_NODE),
    "iaf": Row("iaf", _ONE_NODE),
    "gated_dag": Row("gated_dag"),
    "gated_dag_iaf": Row("gated_dag_iaf"),
    **{
        f"gated_dag_{structure}": Row("gated_dag", {"structure": structure})
        for structure in ("full", "chain", "independent")
    },
}
# The graphs ran on thresholded images; the row without one has the figures of others on
# Larochelle's, whose code it is said to have run.
_PUBLISHED_GRAPHS = {
    "gated_dag-mnist_threshold": -73.7,
    "gated_dag_iaf-mnist_threshold": -71.87,
    "iaf-mnist_static": -95.3,
}

_FLOWS = {
    "mean_field": Row("mean_field", published_elbo=(-88.3, -95.6, -94.8), seeds=_SEEDS),
    **_published_flows(),
    "sylvester_orthogonal_2": Row("sylvester_orthogonal"),
    "sylvester_householder_2": Row("sylvester_householder"),
    "sylvester_triangular_2": Row("sylvester_triangular", seeds=_SEEDS),
    "spline_coupling_2": Row("spline_coupling"),
    "affine_autoregressive_2": Row("affine_autoregressive"),
    **_as_published(),
}

_BF16 = {"precision": "bf16"}

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


TABLES = {
    "pretrained": Table(
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
    ),
    "flows": Table(
        source="Henrion & Welleck, table 1",
        data="mnist_static",
        rows=_FLOWS,
        budgets={
            # The decay is the one that the paper states, and its code never applied.
            "full": Budget({"epochs": 2000, "lr": 2e-4, "schedule": "inverse"}),
            # Without a warm-up of the KL flows give up latents early, and come out last.
            "cpu": Budget(
                {"epochs": 50, "lr": 1e-3, "schedule": "cosine", "kl_warmup": 10},
                eval_particles=500,
            ),
            "smoke": Budget({"epochs": 2}, eval_particles=10, data="digits_binary"),
        },
        by_split=True,
    ),
    # Rows of `flows` by its recipe, but in bfloat16; `self_reflective` has one of its own.
    "precision": Table(
        source="networks in bfloat16, beside the same rows in float32",
        data="mnist_static",
        rows={
            f"{name}_bf16": replace(
                _FLOWS[name], seeds=_SEEDS, published_elbo=None, training=_BF16
            )
            for name in ("mean_field", "iaf_2", "sylvester_triangular_2")
        },
        budgets={
            "cpu": Budget(
                {"epochs": 50, "lr": 1e-3, "schedule": "cosine", "kl_warmup": 10},
                eval_particles=500,
            ),
            "smoke": Budget({"epochs": 2}, eval_particles=10, data="digits_binary"),
        },
    ),
    "self_reflective": Table(
        source="Apostolopoulou et al. 2020, table 1",
        curves=True,
        data="mnist_dynamic",
        rows={
            "self_reflective": Row("self_reflective", {}, -81.17),
            "self_reflective_iaf": Row("self_reflective_iaf", {}, -81.96),
            "ladder": Row("ladder", {}, -81.84),
            "iaf": Row("iaf", _ONE_LAYER, -83.04),
            "bottom_up": Row("bottom_up", {}, -84.53),
            "mean_field": Row("mean_field", _ONE_LAYER),
            # What the warm-up of the KL is worth.
            "no_warmup": Row("self_reflective", training={"kl_warmup": 0}),
            "self_reflective_bf16": Row("self_reflective", training=_BF16),
        },
        budgets={
            # The paper leaves widths, rate, epochs and warm-up open: these are ours.
            "full": Budget(
                {
                    "epochs": 1000,
                    "batch_size": 128,
                    "lr": 5e-4,
                    "schedule": "inverse",
                    "kl_warmup": 100,
                    "clip_norm": 100.0,
                    "analytic_kl": True,
                }
            ),
            "cpu": Budget(
                {
                    "epochs": 20,
                    "lr": 1e-3,
                    "schedule": "cosine",
                    "kl_warmup": 10,
                    "clip_norm": 100.0,
                    "analytic_kl": True,
                },
                eval_particles=200,
            ),
            "smoke": Budget(
                {"epochs": 1, "lr": 1e-3, "clip_norm": 100.0, "analytic_kl": True},
                eval_particles=10,
                data="digits_binary",
            ),
        },
    ),
    "recursive_mixture": Table(
        source="Kim & Pavlovic 2020, tables of test log-likelihoods",
        data="mnist_static",
        # The paper's figures are not at hand. Networks, rate and batch are those of the
        # study whose set-up it takes over (Park et al. 2019).
        rows=_each(_GUIDES, ("mnist_gray", "mnist_static"), (20, 50)),
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
            "smoke": Budget({"epochs": 2}, eval_particles=10, data="digits_binary"),
        },
    ),
    "gated_dag": Table(
        source="Benaim & Moradi, table of results",
        data="mnist_threshold",
        rows={
            f"{name}-{d}": replace(
                row,
                data=d,
                published=_PUBLISHED_GRAPHS.get(f"{name}-{d}"),
            )
            for d in ("mnist_threshold", "mnist_static")
            for name, row in _GRAPHS.items()
        },
        budgets={
            # A quarter of it for the structure: the paper's 200 epochs, and 600. The rate
            # falls about as its steps of 0.8 every 100 epochs do. The warm-up of the KL
            # is ours, against nodes that are given up before they are learned.
            "full": Budget(
                {
                    "epochs": 800,
                    "batch_size": 64,
                    "lr": 1e-3,
                    "schedule": "inverse",
                    "kl_warmup": 10,
                    "clip_norm": 5.0,
                },
                fewer_particles=100,
            ),
            "cpu": Budget(
                {
                    "epochs": 16,
                    "lr": 1e-3,
                    "schedule": "cosine",
                    "kl_warmup": 2,
                    "clip_norm": 5.0,
                },
                fewer_particles=100,
            ),
            "smoke": Budget(
                {"epochs": 4, "clip_norm": 5.0},
                eval_particles=10,
                fewer_particles=2,
                data="digits_binary",
            ),
        },
    ),
    "self_reflective_maf": Table(
        source="Apostolopoulou et al. 2020, table 3",
        curves=True,
        data="cifar10",
        rows={
            "maf_2000": Row("maf", train_size=2000),
            "maf_6000": Row("maf", train_size=6000),
            "maf": Row("maf", published=2670.0),
            "self_reflective_maf_2000": Row("self_reflective_maf", train_size=2000),
            "self_reflective_maf_6000": Row("self_reflective_maf", train_size=6000),
            "self_reflective_maf": Row("self_reflective_maf", published=3190.0),
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
    ),
    "levers": Table(
        source="what is in a recipe, one lever at a time",
        data="mnist_static",
        rows=_levers(),
        budgets={
            "cpu": Budget(
                {"epochs": 20, "lr": 1e-3, "schedule": "cosine", "kl_warmup": 4},
                eval_particles=100,
            ),
            "smoke": Budget({"epochs": 2}, eval_particles=10, data="digits_binary"),
        },
    ),
    "priors": Table(
        source="an unreviewed rerun of the code of Tomczak & Welling 2018",
        by_split=True,
        curves=True,
        local=200,
        data="mnist_static",
        rows=_priors(),
        budgets={
            "full": Budget({"epochs": 1000, "patience": 50}, eval_particles=5000),
            # The best epoch on validation is kept: a learned prior overfits.
            "cpu": Budget(
                {"epochs": 50, "schedule": "cosine", "kl_warmup": 5} | _BF16,
                eval_particles=500,
            ),
            "smoke": Budget({"epochs": 2}, eval_particles=5, data="digits_binary"),
        },
    ),
}
