"""What the records of a training are of, and which epoch is the best."""

import math
from dataclasses import asdict

import pytest
import torch
from pairs import MIXTURES, linear_gaussian, quick, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.evaluate import draw_log_weights, weighted_bound
from pyro_vae_zoo.plots.training import _best_epoch, plot_training
from pyro_vae_zoo.training import checkpoint
from pyro_vae_zoo.training.fit import _check_batch_norm

HOW = {"compile": False, "device": "cpu", "progress": False}


@pytest.fixture
def data():
    torch.manual_seed(0)
    x = torch.full((500, 2, 3), 0.5).bernoulli()
    return zoo.Dataset(x[:200], x[200:400], x[400:], likelihood="bernoulli")


def poor(name="mean_field"):
    """A pair whose q is far from p(z|x), so that its bounds are far apart."""
    torch.manual_seed(0)
    vae = small(name)
    with torch.no_grad():
        for p in vae.guide.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return vae


OBJECTIVES = {
    "iwae": {"bound": "iwae", "num_particles": 20},
    "iwae_warm_up": {"bound": "iwae", "num_particles": 20, "kl_warmup": 9},
    "iwae_tempered": {"bound": "iwae", "num_particles": 20, "tempering_steps": 99},
    "elbo": {"num_particles": 20},
    "free_bits": {"free_bits": 0.5},
    "analytic_kl": {"analytic_kl": True},
    "tempered": {"tempering_steps": 99},
}


@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("name", quick(["mean_field", "planar", "mixture"], "planar"))
def test_both_curves_are_of_one_quantity(name, options, data):
    """Of data alike, with weights that stay, both are the same but for noise."""
    vae = poor(name)
    (record,) = zoo.fit(vae, data, epochs=1, lr=1e-12, **options, **HOW).epochs
    evaluation = zoo.evaluate(vae, data.valid, 200)
    spread = draw_log_weights(vae, data.valid, 20)[0].std().item()
    error = 5 * spread / math.sqrt(200)  # of one draw of each of 200 data
    if options.get("bound") != "iwae":
        assert record["train_elbo"] == pytest.approx(evaluation.elbo, abs=error)
        assert "train_bound" not in record
        return
    assert record["train_elbo"] is None
    bound = weighted_bound(vae, data.valid, 20)
    assert bound > evaluation.elbo + 0.1
    assert record["valid_bound"] == pytest.approx(bound, abs=0.05)
    assert record["train_bound"] == pytest.approx(
        bound, abs=0.5 * (bound - evaluation.elbo)
    )


@pytest.mark.parametrize(
    "name", quick(["mean_field", "iaf", *MIXTURES], "mean_field", "mixture")
)
def test_weighted_bound_is_what_the_loss_says_whatever_the_chunks(name):
    vae = poor(name)
    x = torch.full((300, 2, 3), 0.5).bernoulli()
    loss = zoo.AnnealedELBO(30, bound="iwae")
    with torch.no_grad():
        expected = loss.loss_and_elbo(vae.model, vae.guide, x)[1].item() / 300
    found = [weighted_bound(vae, x, 30, chunk_rows=rows) for rows in (None, 11)]
    # Over seeds the mean of 300 data has a standard deviation of 0.03 (iaf) or less.
    assert found == pytest.approx([expected] * 2, abs=0.1)


def test_weighted_bound_of_the_exact_posterior_is_log_p():
    truth = linear_gaussian()
    x = truth.marginal.sample((5,))
    expected = truth.marginal.log_prob(x).mean().item()
    for rows in (None, 3):
        assert weighted_bound(truth.vae(), x, 7, chunk_rows=rows) == pytest.approx(
            expected
        )


def test_the_best_epoch_is_that_of_the_bound_that_is_trained(data, monkeypatch):
    bounds = iter([-4.0, -2.0, -3.0])
    monkeypatch.setattr(
        "pyro_vae_zoo.training.validation.weighted_bound", lambda *a, **k: next(bounds)
    )
    options = {"bound": "iwae", "num_particles": 3, "epochs": 3}
    history = zoo.fit(poor(), data, **options, **HOW)
    assert [r["valid_bound"] for r in history.epochs] == [-4.0, -2.0, -3.0]
    assert history.best_epoch == 2
    assert _best_epoch(history.epochs) == 2


def test_patience_waits_for_the_bound_that_is_trained(data, monkeypatch):
    bounds = iter([-4.0, -2.0, -3.0, -3.0, -3.0])
    monkeypatch.setattr(
        "pyro_vae_zoo.training.validation.weighted_bound", lambda *a, **k: next(bounds)
    )
    options = {"bound": "iwae", "num_particles": 3, "epochs": 5, "patience": 2}
    history = zoo.fit(poor(), data, **options, **HOW)
    assert history.stopped_early
    assert len(history.epochs) == 4


def test_goes_on_from_records_without_that_bound(data, tmp_path):
    """As version 0.1.0 wrote them: the best is looked for among the epochs to come."""
    options = {"bound": "iwae", "num_particles": 3, "out": tmp_path}
    history = zoo.fit(poor(), data, epochs=2, **options, **HOW)
    path = tmp_path / "checkpoint.pt"
    state = checkpoint.load_checkpoint(path)
    for record in state["history"]["epochs"]:
        record["train_elbo"] = record.pop("train_bound")
        del record["valid_bound"]
        record["valid_elbo"] = 0.0  # which no bound of bits reaches
    checkpoint.save_checkpoint(path, state)
    assert asdict(history)["best_epoch"]
    history = zoo.fit(poor(), data, epochs=4, resume=True, **options, **HOW)
    assert history.best_epoch in (3, 4)
    assert [r["train_elbo"] is None for r in history.epochs] == [False] * 2 + [True] * 2


@pytest.mark.parametrize("bound", ["elbo", "iwae"])
def test_the_figure_draws_one_quantity(bound, data):
    history = zoo.fit(poor(), data, epochs=2, bound=bound, num_particles=3, **HOW)
    ax = plot_training(history).axes[0]
    key = {"elbo": "elbo", "iwae": "bound"}[bound]
    drawn = [list(line.get_ydata()) for line in ax.lines[:2]]
    assert drawn == [
        [r[f"{part}_{key}"] for r in history.epochs] for part in ("train", "valid")
    ]
    title = {"elbo": "ELBO", "iwae": "Importance-weighted bound"}[bound]
    assert ax.get_title(loc="left") == title
    assert all(math.isfinite(y) for ys in drawn for y in ys)


# ------------------------------------------------------------ batch normalisation


@pytest.mark.parametrize("batch_size", [1, 8, 24])
def test_batches_of_one_are_refused_under_batch_normalisation(batch_size):
    """25 data: all of them, or the last one of an epoch."""
    x = torch.randn(41, 6)
    data = zoo.Dataset(x[:25], x[25:33], x[33:], likelihood="gaussian")
    flows = {"num_flows": 2, "flow_hidden_dims": (8,), "batch_norm": True}
    vae = zoo.create("maf", data, **flows)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(UserError, match="batches of two data or more"):
        zoo.fit(vae, data, epochs=1, batch_size=batch_size, **HOW)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name])
    zoo.fit(vae, data, epochs=1, batch_size=5, **HOW)


@pytest.mark.parametrize(
    ("num_data", "batch_size", "processes", "good"),
    [
        (100, 100, 1, True), (100, 1000, 1, True), (1, 100, 1, False), (100, 1, 1, False),
        (101, 50, 1, False), (100, 4, 2, True), (100, 3, 2, False), (103, 4, 2, False),
        (101, 4, 2, False), (8, 5, 4, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(3), nn.SyncBatchNorm(3), nn.LayerNorm(3)]
)
def test_every_process_needs_two_data(norm, num_data, batch_size, processes, good):
    module = nn.Sequential(norm)
    if good or isinstance(norm, nn.LayerNorm):
        _check_batch_norm(module, num_data, batch_size, processes)
        return
    with pytest.raises(UserError, match="choose another batch_size"):
        _check_batch_norm(module, num_data, batch_size, processes)
