"""What a result must not be silent about, by its thresholds; nothing where all is well."""

import json

import numpy as np
import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.report.summary import summary
from pyro_vae_zoo.runs.cautions import cautions_of
from pyro_vae_zoo.runs.references import baseline, references_of

HEALTHY = {
    "kl_per_site": {"z": 5.0},
    "kl": 5.0,
    "active_units": {"z": "6/8"},
    "ess": 300.0,
    "num_particles": 1000,
    "log_likelihood": -4.0,
    "log_likelihood_std_error": 0.1,
    "log_likelihood_mc_error": 0.01,
    "training": {"epochs": 50, "schedule": "constant"},
}


def curve(values, phase="train"):
    return [
        {"epoch": i + 1, "phase": phase, "valid_elbo": float(v)}
        for i, v in enumerate(values)
    ]


def saturated(n=50, seed=0):
    """Climbs and then stays, but for noise."""
    noise = np.random.RandomState(seed).normal(scale=0.05, size=n)
    return curve(-24 - 10 * np.exp(-np.arange(n) / 4) + noise)


def against(log_likelihood):
    """The part of a result that says what a model without latents has."""
    return {"references": {"independent": {"log_likelihood": log_likelihood}}}


def table(scale=1.0, shift=0.0, n=300):
    x = torch.randn(n, 4) * torch.as_tensor(scale) + torch.as_tensor(shift)
    return zoo.Dataset(x[: n - 100], x[n - 100 : n - 50], x[n - 50 :], "gaussian")


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_said_of_what_is_in_order(seed):
    data = table()
    without = baseline(data, data.test)
    result = HEALTHY | {"log_likelihood": without + 0.2} | against(without)
    assert cautions_of(result, saturated(seed=seed), data) == {}
    assert "caution" not in summary(full(result))


def full(result):
    """A result with all that a summary shows."""
    zeros = dict.fromkeys(
        ("elbo", "elbo_std_error", "reconstruction", "bits_per_dim"), 0.0
    )
    about = {
        "guide": "iaf",
        "data": "d",
        "variant": "v",
        "split": "test",
        "num_data": 9,
    }
    khat = {"median": 0.2, "above_0.7": 0.0}
    return {"seed": 0, "khat": khat} | zeros | about | result


# ---------------------------------------------------------------------- the latents


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"kl": 0.05}, "the latents carry 0.05 nats (posterior collapse)"),
        ({"kl": -0.001}, "the latents carry 0.00 nats"),
        ({"active_units": {"z": "0/8"}}, "0 of 8 latents are active"),
        (
            {"active_units": {"z_1": "1/20", "z_2": "2/20"}},
            "3 of 40 latents are active",
        ),
    ],
)
def test_latents_that_carry_nothing(changed, expected):
    found = cautions_of(HEALTHY | changed)
    assert list(found) == ["collapse"]
    assert found["collapse"].startswith(expected)
    assert "--kl-warmup" in found["collapse"]


@pytest.mark.parametrize(
    "changed",
    [
        {"kl": 0.11},
        {"active_units": {"z_1": "0/20", "z_2": "4/20"}},
        {"active_units": {}},  # one draw cannot tell
        {"kl": 0.0, "kl_per_site": {}, "active_units": {}},  # a density model
        {"kl": None},
    ],
)
def test_latents_that_carry_something_or_are_not_there(changed):
    assert cautions_of(HEALTHY | changed) == {}


@pytest.mark.parametrize(
    ("ess", "draws", "sites", "said"),
    [
        (1.2, 1000, {"z": 5.0}, True),
        (1.99, 10, {"z": 5.0}, True),
        (2.0, 10, {"z": 5.0}, False),
        (1.0, 1, {"z": 5.0}, False),  # the bound itself
        (1.5, 9, {"z": 5.0}, False),
        (1.0, 1, {}, False),
        (None, 1000, {"z": 5.0}, False),
    ],
)
def test_an_estimate_that_hangs_on_one_draw(ess, draws, sites, said):
    changed = {"ess": ess, "num_particles": draws, "kl_per_site": sites}
    found = cautions_of(HEALTHY | changed)
    assert list(found) == ["ess"] * said
    if said:
        assert f"of {draws} particles only {ess:.1f} are effective" in found["ess"]
        assert "`diagnose`" in found["ess"]


# -------------------------------------------------------------------------- the data


@pytest.mark.parametrize(
    ("scale", "shift", "said"),
    [
        (1.0, 0.0, False),
        (0.3, 0.5, False),
        (2.0, 3.0, False),
        (300.0, 1000.0, True),
        (1.0, 1000.0, True),
        (0.01, 0.0, True),
        ((1.0, 1.0, 1.0, 30.0), 0.0, True),
        ((0.1, 0.1, 0.1, 4.0), 0.0, True),  # one feature has all of the scale
        ((1.0, 1.0, 1.0, 0.0), 0.0, False),  # one is constant
    ],
)
def test_data_that_are_not_standardised(scale, shift, said):
    found = cautions_of(HEALTHY, data=table(scale, shift))
    assert list(found) == ["scale"] * said


def test_other_data_have_no_scale_to_speak_of():
    levels = torch.randint(256, (20, 2, 3)).float()
    bits = levels > 99
    grey = levels / 255
    for data in (
        zoo.Dataset(bits, bits, bits),
        zoo.Dataset(grey, grey, grey, "discretized_logistic"),
        zoo.Dataset(grey, grey, grey, "gaussian"),
        zoo.Dataset(grey, grey, grey, "gaussian", logit=0.05),
    ):
        assert cautions_of(HEALTHY, data=data) == {}
    images = zoo.Dataset(levels, levels, levels, "gaussian")
    assert list(cautions_of(HEALTHY, data=images)) == ["scale"]


# -------------------------------------------------------------------------- the curve


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.linspace(-60, -40, 50), True),
        ([-30, -28, -27], True),
        ([-30, -28], False),
        ([-30], False),
        (np.full(50, -30.0), False),
        (-np.linspace(20, 40, 50), False),
        (np.r_[np.linspace(-90, -20, 40), np.linspace(-50, -30, 10)], False),  # fell
        (-30 + 0.002 * np.arange(50), False),  # too little
        (-30 + np.random.RandomState(0).normal(size=50), False),
    ],
)
def test_a_bound_that_still_rose(values, said):
    result = HEALTHY | {"training": {"epochs": len(values), "schedule": "constant"}}
    found = cautions_of(result, curve(values))
    assert ("rising" in found) == said
    assert "overfits" not in found or max(values) == values[0]
    if said:
        assert f"--resume --epochs {2 * len(values)}" in found["rising"]


def test_an_early_stop_has_waited_for_more():
    result = HEALTHY | {"training": {"epochs": 51, "schedule": "constant"}}
    assert cautions_of(result, curve(np.linspace(-60, -40, 50))) == {}


def test_what_is_shared_out_by_the_epochs_starts_anew():
    result = HEALTHY | {"training": {"epochs": 50, "schedule": "cosine"}}
    records = curve(np.linspace(-60, -40, 50))
    assert "anew with --epochs 100" in cautions_of(result, records)["rising"]
    own = HEALTHY | {"training": {"epochs": 50, "schedule": "mine.py:falls"}}
    assert "anew with --epochs 100" in cautions_of(own, records)["rising"]
    one = curve(np.linspace(-60, -40, 50), "structure")  # which each epoch moves on
    assert "anew with --epochs 100" in cautions_of(HEALTHY, one)["rising"]
    phases = curve(np.full(25, -90.0), "first") + curve(np.linspace(-60, -40, 25))
    assert "anew with --epochs 100" in cautions_of(HEALTHY, phases)["rising"]


def test_the_last_phase_alone_counts():
    phases = curve(np.linspace(-60, -40, 25), "first") + saturated(25)
    assert cautions_of(HEALTHY, phases) == {}


@pytest.mark.parametrize(
    ("best", "last", "is_said"),
    [
        (-95.4, -54_407.0, True),
        (-1560.4, -2521.5, True),
        (-95.4, -115.0, False),
        (-0.5, -4.0, False),  # a few nats of a small number
        (2000.0, -50.0, True),  # a density
    ],
)
@pytest.mark.parametrize("key", ["train_elbo", "train_bound"])
def test_a_training_that_came_apart(best, last, is_said, key):
    bounds = [best - 30, best - 5, best, last, last]
    records = [r | {key: v} for r, v in zip(saturated(5), bounds, strict=True)]
    found = cautions_of(HEALTHY, records)
    assert ("fell" in found) == is_said
    if is_said:
        assert f"{best:.1f} nats in epoch 3 to {last:.3g}" in found["fell"]


def test_what_overfits_did_not_come_apart():
    """The validation ELBO falls to a third; the training ELBO rises, but for one batch."""
    valid = np.r_[np.linspace(-200, -130, 30), np.linspace(-131, -400, 70)]
    train = np.linspace(-190, -40, 100)
    train[60] = -1e5
    pairs = zip(curve(valid), train, strict=True)
    assert list(cautions_of(HEALTHY, [r | {"train_elbo": t} for r, t in pairs])) == [
        "overfits"
    ]


@pytest.mark.parametrize(
    ("patience", "epochs", "is_said"),
    [(20, 53, True), (0, 244, False), (20, 244, False)],
)
def test_a_summary_says_where_a_training_stopped(patience, epochs, is_said):
    training = {"epochs": 244, "patience": patience}
    run = {"training": training, "best_epoch": 33, "epochs": epochs, "cautions": {}}
    words = " ".join(summary(full(HEALTHY | run)).split())
    said = "stopped after epoch 53 of 244: none after epoch 33 was better"
    assert (said in words) == is_said


@pytest.mark.parametrize(
    ("norm", "advice"), [(0, "--clip-norm 100 or"), (100, "try a")]
)
def test_what_is_clipped_is_not_told_to_clip(norm, advice):
    records = [r | {"train_elbo": -90.0 - 40 * (r["epoch"] > 9)} for r in saturated(20)]
    clipped = HEALTHY | {"training": {"clip_norm": norm, "epochs": 20}}
    assert advice in cautions_of(clipped, records)["fell"]


@pytest.mark.parametrize(
    ("values", "is_said"),
    [
        ([-95, -92, -90, *np.linspace(-90.5, -120, 17)], True),
        ([-95, -92, -90, *np.linspace(-90.01, -90.8, 17)], False),  # by less than 1 %
        ([*np.linspace(-120, -90, 15), *np.linspace(-91, -95, 5)], False),  # late
        (np.linspace(-120, -90, 20), False),
    ],
)
def test_a_training_that_went_on_after_its_best_epoch(values, is_said):
    records = curve(list(map(float, values)))
    result = {**HEALTHY, "training": {"epochs": 20, "schedule": "constant"}}
    found = cautions_of(result, records)
    assert ("overfits" in found) == is_said
    if is_said:
        assert "was best in epoch 3 of 20" in found["overfits"]
        assert "--patience 8 would have stopped it" in found["overfits"]  # 17 in vain
        warm = result | {"training": result["training"] | {"kl_warmup": 16.0}}
        assert "--patience 2 would" in cautions_of(warm, records)["overfits"]
        warm["training"]["kl_warmup"] = 20
        assert "train for --epochs 3" in cautions_of(warm, records)["overfits"]
        stopped = {**HEALTHY, "training": {"epochs": 40}}
        assert "overfits" not in cautions_of(stopped, records)


# ----------------------------------------------------------------------- the baseline


def test_the_baseline_is_that_of_independent_elements():
    data = table((1.0, 2.0, 0.5, 3.0), (0.0, 1.0, -2.0, 0.5))
    x, train = data.test.double(), data.train.double()
    mean, sd = train.mean(0), train.std(0, correction=0)
    one = sd.square().mean().sqrt()
    for shared_scale, scale in ((True, one), (False, sd)):
        p = torch.distributions.Normal(mean, scale)
        expected = p.log_prob(x).sum(1).mean().item()
        found = baseline(data, data.test, shared_scale=shared_scale)
        assert found == pytest.approx(expected, rel=1e-5)
    bits = (torch.rand(200, 3, 2) < 0.2).float()
    data = zoo.Dataset(bits[:150], bits[150:], bits[150:])
    p = torch.distributions.Bernoulli((bits[:150].sum(0) + 0.5) / 151)
    expected = p.log_prob(bits[150:]).sum((1, 2)).mean().item()
    assert baseline(data, data.test) == pytest.approx(expected, rel=1e-5)


def test_a_scale_for_each_feature_is_held_against_one_for_each():
    data = table((0.1, 4.0, 0.5, 3.0))
    result = HEALTHY | {"guide": "iaf", "split": "test"}
    for options, shared in (({}, True), ({"feature_scales": True}, False)):
        found = references_of(result | {"options": options}, data, data.test)
        expected = baseline(data, data.test, shared_scale=shared)
        assert found["independent"]["log_likelihood"] == expected


@pytest.mark.parametrize("likelihood", ["binomial", "poisson", "categorical"])
def test_the_baseline_of_counts_is_that_of_independent_elements(likelihood):
    x = torch.from_numpy(np.random.RandomState(0).binomial(4, 0.4, (200, 3, 2))).float()
    data = zoo.Dataset(x[:150], x[150:], x[150:], likelihood)
    train, sums = x[:150], x[:150].sum(0)
    levels = torch.stack([(train == k).sum(0) + 0.5 for k in range(5)], -1)
    p = {
        "binomial": torch.distributions.Binomial(4, (sums + 0.5) / 601),
        "poisson": torch.distributions.Poisson((sums + 0.5) / 151),
        "categorical": torch.distributions.Categorical(levels),
    }[likelihood]
    expected = p.log_prob(data.test).sum((1, 2)).mean().item()
    assert baseline(data, data.test) == pytest.approx(expected, rel=1e-5)


def test_the_baseline_of_grey_levels_is_better_than_noise():
    grey = torch.randint(100, 110, (200, 4, 5)) / 255
    data = zoo.Dataset(grey[:150], grey[150:], grey[150:], "discretized_logistic")
    per_level = baseline(data, data.test) / 20
    assert -np.log(20) < per_level < -np.log(10)  # ten levels, each as likely


@pytest.mark.parametrize("off", [-0.2, 0.2])
def test_a_fit_that_is_worse_than_none(off):
    without = -5.7
    result = HEALTHY | {"log_likelihood": without - 3 * np.hypot(0.1, 0.01) + off}
    found = cautions_of(result | against(without))
    assert list(found) == ["absurd"] * (off < 0)
    if found:
        assert f"below the {without:.1f} nats of a model" in found["absurd"]
        text = summary(full(result | {"cautions": found}))
        assert "  error: log p(x) is" in text
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("value", [None, float("nan"), -float("inf")])
def test_a_likelihood_that_is_not_finite_is_absurd(value):
    result = HEALTHY | {"log_likelihood": value, "log_likelihood_std_error": None}
    found = cautions_of(result | against(-5.7))
    assert found["absurd"].startswith("log p(x) is not finite")


# -------------------------------------------------------------------- on the command line


pytestmark = pytest.mark.usefixtures("undrawn")


def write(path, x):
    np.savez(path, train=x[:-100], valid=x[-100:-50], test=x[-50:])
    return path


def run(capsys, *argv):
    assert cli.main(list(map(str, argv))) == 0
    return capsys.readouterr().out


FAST = ("--guide", "mean_field", "--latent-dim", 3, "--quiet", "--device", "cpu")


def test_a_table_that_is_not_standardised_is_told_so(tmp_path, capsys):
    """It was a bound of some -100,000 nats without a word."""
    x = (300 * np.random.RandomState(0).normal(size=(300, 20)) + 1000).astype("float32")
    data, folder = write(tmp_path / "raw.npz", x), tmp_path / "run"
    out = run(capsys, "train", *FAST, "--data", data, "--epochs", 3, "--out", folder)
    assert "  error: log p(x) is" in out
    assert "caution: the data are not standardised: means from" in out
    assert max(map(len, out.splitlines()[:-3])) <= 80
    stored = json.loads((folder / "result.json").read_text())["cautions"]
    assert {"absurd", "scale"} <= set(stored)
    again = run(capsys, "evaluate", folder, "--data", data, "--device", "cpu", "--json")
    told = json.loads(again)["cautions"]
    assert told == stored
    out = run(capsys, "compare", folder, "--out", tmp_path / "table")
    for name in ("absurd", "scale"):
        assert f"caution: {name}: run (see `cautions` in their JSON files)" in out


def test_a_result_without_the_key_is_read_and_a_wrong_one_refused(tmp_path, capsys):
    x = np.random.RandomState(0).normal(size=(300, 4)).astype("float32")
    data, folder = write(tmp_path / "data.npz", x), tmp_path / "run"
    argv = ("train", *FAST, "--data", data, "--epochs", 2, "--out", folder)
    run(capsys, *argv)
    path = folder / "result.json"
    result = json.loads(path.read_text())
    assert "scale" not in result.pop("cautions")
    path.write_text(json.dumps(result))
    assert "caution" not in run(capsys, *argv, "--resume")
    assert "log-likelihood" in run(capsys, "evaluate", folder, "--device", "cpu")
    run(capsys, "compare", folder, "--out", tmp_path / "table")
    path.write_text(json.dumps(result | {"cautions": {"a": 1}}))
    assert cli.main(list(map(str, (*argv, "--resume")))) == 2
    assert "cautions[...]: expected str, got int" in capsys.readouterr().err
