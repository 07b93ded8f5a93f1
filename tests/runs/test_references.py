"""The log-likelihoods that a result is held against."""

import json
from pathlib import Path
from statistics import fmean

import pytest

import pyro_vae_zoo as zoo
from pyro_vae_zoo.runs import references
from pyro_vae_zoo.runs.references import references_of
from pyro_vae_zoo.training.losses import settled
from pyro_vae_zoo.training.options import TrainOptions

RESULTS = Path(__file__).parents[2] / "results"
STORED = references._stored()
# Shape of a datum and number of training data: the files of others may not be there.
SIZES = {
    "digits": ((8, 8), 1297),
    "caltech_silhouettes": ((28, 28), 4100),
    "frey_faces": ((28, 20), 1565),
    "mnist_static": ((28, 28), 50_000),
}


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_of_mean_field_is_what_was_measured(name):
    """With today's defaults: whoever changes these has to measure again."""
    files = sorted((RESULTS / f"defaults_{name}").glob("mean_field-s*.json"))
    runs = [json.loads(file.read_text()) for file in files]
    known = STORED[name]
    assert known["seeds"] == len(runs) >= 3
    measured = fmean(run["log_likelihood"] for run in runs)
    assert known["log_likelihood"] == pytest.approx(measured, abs=1e-3)
    shape, num_data = SIZES[name]
    vae = zoo.create("mean_field", event_shape=shape)
    epochs = settled(TrainOptions(), vae, num_data).epochs
    for run in runs:
        assert run["variant"] == known["variant"]
        assert f"{num_data}/" in run["variant"]
        assert run["num_particles"] == known["num_particles"]
        assert run["epochs"] == known["epochs"] == epochs


def result(**other):
    about = {"guide": "iaf", "split": "test", "num_particles": 1000}
    return about | {"kl_per_site": {"z": 1.0}, "likelihood": None} | other


def test_a_result_is_held_against_mean_field_where_it_was_measured_alike():
    data = zoo.load_dataset("digits")
    found = references_of(result(), data, data.test)
    assert found["mean_field"]["log_likelihood"] == STORED["digits"]["log_likelihood"]
    others = ({"guide": "mean_field"}, {"split": "valid"}, {"num_particles": 10})
    for other in others:
        assert "mean_field" not in references_of(result(**other), data, data.test)
    assert "mean_field" not in references_of(result(), data, data.test[:9])
    bits = zoo.load_dataset("digits_binary")
    assert "mean_field" not in references_of(result(), bits, bits.test)
