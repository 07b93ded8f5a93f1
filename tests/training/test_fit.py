"""`fit`: what it computes, that it resumes bit for bit, that it stops honestly."""

import copy
import json
import math
import os

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import FAMILIES, interrupt_at, others, quick, small
from pyro import infer
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.streamed.randomness import epoch_order
from pyro_vae_zoo.training import steps
from pyro_vae_zoo.training.checkpoint import load_checkpoint, save_checkpoint
from pyro_vae_zoo.training.losses import make_loss
from pyro_vae_zoo.training.optimisers import clip_gradients
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.training.steps import what_failed

SMALL = {"latent_dim": 3, "hidden_dims": (16,)}


@pytest.fixture
def data():
    x = (torch.rand(60, 2, 3) < torch.rand(2, 3)).float()
    return zoo.Dataset(x[:40], x[40:50], x[50:])


def make(guide="iaf", seed=0):
    """A pair that is trained in one phase; a graph is, where its edges are fixed."""
    torch.manual_seed(seed)
    fixed = {"structure": "full"} if "structure" in zoo.guide_options(guide) else {}
    return small(guide, **SMALL, **fixed)


def weights(vae):
    return {name: t.clone() for name, t in vae.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_each_epoch_is_told_how_much_of_its_phase_is_done(data):
    parts = {"short": [], "long": []}
    vae = make()
    vae.phases = tuple(
        zoo.Phase(
            name,
            share,
            each_epoch=lambda vae, done, name=name: parts[name].append(done),
        )
        for name, share in (("short", 1.0), ("long", 3.0))
    )
    zoo.fit(vae, data, epochs=8, progress=False)
    assert parts["short"] == [0.0, 0.5]
    assert parts["long"] == pytest.approx([k / 6 for k in range(6)])


def test_a_monitor_adds_to_the_record_and_changes_nothing_in_it(data):
    vae = make()
    vae.monitor = lambda vae: {"epoch": 99, "norm": 1.5}
    record = zoo.fit(vae, data, epochs=1, progress=False).epochs[0]
    assert (record["epoch"], record["norm"]) == (1, 1.5)


def test_a_monitor_may_give_tensors_and_what_is_not_finite(data, tmp_path):
    vae = make()
    vae.monitor = lambda vae: {
        "norm": torch.tensor(1.5),
        "each": np.array([1, 2]),
        "none": float("nan"),
    }
    zoo.fit(vae, data, epochs=1, out=tmp_path, progress=False)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=pytest.fail)
    assert [record[name] for name in ("norm", "each", "none")] == [1.5, [1, 2], None]


def test_a_monitor_that_gives_something_else_is_named(data):
    vae = make()
    for given in ({"guide": vae.guide}, None, [1.0], 3):
        vae.monitor = lambda vae, given=given: given
        with pytest.raises(
            zoo.UserError, match="vae.monitor: expected a dictionary of"
        ):
            zoo.fit(vae, data, epochs=1, progress=False)


def test_a_phase_of_another_pair_is_refused(data):
    vae = make()
    vae.phases = (zoo.Phase(modules=(child for child in [vae.model])),)
    zoo.fit(vae, data, epochs=1, progress=False)
    other = copy.deepcopy(vae)
    other.phases = vae.phases
    with pytest.raises(zoo.UserError, match="trains nothing of this VAE"):
        zoo.fit(other, data, epochs=1, progress=False)


@pytest.mark.parametrize("guide", quick(others(), *FAMILIES))
def test_twenty_steps_are_those_of_stock_svi(guide, data):
    """The weights after 20 steps, under one seed.

    In double precision, in which two implementations of Adam agree to many digits.
    """
    ours, theirs = make(guide).double(), make(guide).double()
    zoo.fit(
        ours, data, epochs=10, batch_size=20, seed=3, lr=1e-3, device="cpu",
        kl_warmup=0, ema=0, keep="last", progress=False,
    )  # fmt: skip
    svi = SVI(theirs.model, theirs.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    torch.manual_seed(3)
    theirs.train()
    for epoch in range(10):
        for index in epoch_order(40, 3, epoch).split(20):
            svi.step(data.train[index].double())
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8, msg=name)
    moved = [
        not torch.equal(p, q)
        for p, q in zip(make(guide).parameters(), theirs.parameters(), strict=True)
    ]
    assert sum(moved) > len(moved) / 2  # the comparison was about something


def test_first_losses_are_bit_identical(data):
    runs = [zoo.fit(make(), data, epochs=10, progress=False) for _ in range(2)]
    first, second = ([r["train_elbo"] for r in run.epochs] for run in runs)
    assert first == second


def test_two_threads_of_life_do_not_touch_the_caller(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zoo.fit(make_without_seed(), data, epochs=1, seed=1, progress=False)
    assert torch.equal(torch.rand(3), expected)


def make_without_seed():
    with torch.random.fork_rng():
        return make()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": "inverse", "kl_warmup": 3, "clip_norm": 0.5, "ema": 0.9},
        {"schedule": "cosine", "optimizer": "adamax", "num_particles": 3},
        {"bound": "iwae", "num_particles": 2, "tempering_steps": 10},
    ],
)
@pytest.mark.parametrize("stop_at", [4, 7])
def test_resume_continues_bit_for_bit(options, stop_at, data, tmp_path, monkeypatch):
    """Interrupted in the middle of an epoch, resumed: the same as in one go."""
    settings = dict(epochs=6, batch_size=16, seed=2, keep="last", progress=False)
    whole = make()
    expected = zoo.fit(whole, data, **settings, **options)

    interrupt_at(monkeypatch, stop_at)
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(make(), data, out=tmp_path, **settings, **options)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint["epoch"] * 3 + checkpoint["step"] == stop_at + 1

    resumed = make(seed=99)  # everything is to come from the checkpoint
    torch.manual_seed(1234)
    got = zoo.fit(resumed, data, out=tmp_path, resume=True, **settings, **options)
    assert_same(weights(resumed), weights(whole))
    for a, b in zip(got.epochs, expected.epochs, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == got.epochs


def test_resume_with_more_epochs_is_one_long_training(data, tmp_path):
    """With the warm-up that it began with, a fifth of two epochs."""
    whole = make()
    zoo.fit(whole, data, epochs=5, kl_warmup=0.4, keep="last", progress=False)
    parts = make()
    zoo.fit(parts, data, epochs=2, keep="last", out=tmp_path, progress=False)
    zoo.fit(
        parts, data, epochs=5, keep="last", out=tmp_path, resume=True, progress=False
    )
    assert_same(weights(parts), weights(whole))


def test_resume_keeps_the_epochs_that_are_left_out(data, tmp_path):
    """A finished training stays so, where it went on to as many as are the default."""
    vae = make()
    zoo.fit(vae, data, epochs=2, out=tmp_path, progress=False)
    history = zoo.fit(vae, data, out=tmp_path, resume=True, progress=False)
    assert len(history.epochs) == 2


def test_resume_needs_the_same_options(data, tmp_path):
    zoo.fit(make(), data, epochs=2, out=tmp_path, progress=False)
    with pytest.raises(zoo.UserError, match="lr=0.001, now it is 0.1"):
        zoo.fit(
            make(), data, epochs=2, lr=0.1, out=tmp_path, resume=True, progress=False
        )
    zoo.fit(
        make(), data, epochs=2, schedule="cosine", out=tmp_path, overwrite=True,
        progress=False,
    )  # fmt: skip
    with pytest.raises(zoo.UserError, match="epochs=2, now it is 3"):
        zoo.fit(
            make(), data, epochs=3, schedule="cosine", out=tmp_path, resume=True,
            progress=False,
        )  # fmt: skip


def test_a_checkpoint_that_would_run_code_is_refused(data, tmp_path):
    witness = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {witness}",)

    torch.save({"vae": Malicious()}, tmp_path / "checkpoint.pt")
    with pytest.raises(zoo.UserError, match="nothing in it was run"):
        zoo.fit(make(), data, epochs=1, out=tmp_path, resume=True, progress=False)
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04half"])
def test_a_corrupt_checkpoint_is_named(content, data, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(zoo.DataFileError, match="checkpoint.pt"):
        zoo.fit(make(), data, epochs=1, out=tmp_path, resume=True, progress=False)


def test_a_full_disk_leaves_the_previous_checkpoint(data, tmp_path, monkeypatch):
    zoo.fit(make(), data, epochs=1, out=tmp_path, progress=False)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        zoo.fit(make(), data, epochs=2, out=tmp_path, resume=True, progress=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    names = sorted(p.name for p in tmp_path.glob("[!.]*") if p.name != "cache")
    assert names == ["checkpoint.pt", "metrics.jsonl"]


def test_a_loss_that_is_not_finite_names_the_term(data, tmp_path):
    vae = make("mean_field")
    zoo.fit(vae, data, epochs=1, out=tmp_path, progress=False)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    decoder = vae.model.decoder
    decoder.register_forward_hook(lambda module, args, out: out * float("inf"))
    said = r"epoch 2, step 1: term log p\(x\|z\); the last good checkpoint is kept"
    with pytest.raises(zoo.DivergedError, match=said):
        zoo.fit(vae, data, epochs=2, out=tmp_path, resume=True, progress=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_broken_parameter_is_named_and_never_saved(data, tmp_path):
    vae = make("mean_field")
    said = "parameter .* gradient overflowed in the step before.; try a smaller lr"
    with pytest.raises(zoo.DivergedError, match=said):  # and of no checkpoint
        zoo.fit(vae, data, epochs=3, lr=1e38, out=tmp_path, progress=False)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_weights_that_break_in_the_last_step_are_caught(data, tmp_path):
    """No loss follows that could show it."""
    vae = make("mean_field")
    with pytest.raises(zoo.DivergedError, match="epoch 1, step 1: parameter"):
        zoo.fit(
            vae, data, epochs=1, batch_size=40, lr=float("inf"), out=tmp_path,
            progress=False,
        )  # fmt: skip
    assert not (tmp_path / "checkpoint.pt").exists()


class Bounded(nn.Module):
    """A model under which nothing outside [-1, 1] is possible."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            low = z * 0 - 1
            p = dist.Uniform(low, low + 2, validate_args=False)
            pyro.sample("x", p.to_event(1), obs=x)


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + self.shift, 1.0).to_event(1))


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_a_validation_datum_that_is_impossible_is_told_from_a_loss(dtype, tmp_path):
    x = torch.rand(30, 2) - 0.5
    data = zoo.Dataset(x[:20], x[20:] + 9 * (x[20:] > 0), x[20:], "gaussian")
    vae = zoo.VAE(Bounded(), Shifted(), (2,)).to(dtype)
    said = (
        r"the validation bound is not finite after epoch 1: term log p\(x\|z\); has a"
    )
    with pytest.raises(zoo.DivergedError, match=said):
        zoo.fit(vae, data, epochs=2, out=tmp_path, progress=False)


def test_draws_that_are_gone_leave_two_explanations():
    vae = make("mean_field")
    assert "that are not at hand" in what_failed(vae, torch.zeros(3, 2, 3), 1, False)


def test_resume_keeps_the_number_of_threads_and_gives_it_back(data, tmp_path):
    zoo.fit(make(), data, epochs=1, out=tmp_path, progress=False)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    before = torch.get_num_threads()
    assert state["num_threads"] == before
    save_checkpoint(tmp_path / "checkpoint.pt", state | {"num_threads": before + 1})
    seen = []
    vae = make()
    vae.guide.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    zoo.fit(vae, data, epochs=2, out=tmp_path, resume=True, progress=False)
    assert set(seen[1:]) == {before + 1}  # the first is a look at the pair beforehand
    assert torch.get_num_threads() == before


def test_a_phases_own_loss_is_left_as_it_is(data):
    vae, loss = make("mean_field"), zoo.AnnealedELBO(kl_weight=0.25)
    vae.phases = (zoo.Phase("own", loss=loss),)
    zoo.fit(vae, data, epochs=1, progress=False)
    assert loss.kl_weight == 0.25


def test_best_weights_are_those_of_the_best_epoch():
    """On data whose training part is all ones, and the rest only for the most part.

    Training passes the validation part's best on its way to certainty.
    """
    mixed = (torch.arange(60).view(10, 2, 3) % 10 < 7).float()
    data = zoo.Dataset(torch.ones(40, 2, 3), mixed, mixed)
    best, last = make(), make()
    options = dict(epochs=12, batch_size=20, lr=0.03, kl_warmup=0, progress=False)
    options["ema"] = 0
    history = zoo.fit(best, data, keep="best", **options)
    zoo.fit(last, data, keep="last", **options)
    valid = [record["valid_elbo"] for record in history.epochs]
    assert 1 < history.best_epoch == 1 + valid.index(max(valid)) < 12
    assert max(valid) > valid[-1] + 1.0
    short = make()
    zoo.fit(short, data, keep="last", **{**options, "epochs": history.best_epoch})
    assert_same(weights(best), weights(short))
    assert history.weights == "best"
    again = zoo.evaluate(best, data.valid, num_particles=1, seed=0)
    assert again.elbo == pytest.approx(max(valid), abs=1e-5)


def test_patience_stops_early(data):
    history = zoo.fit(make(), data, epochs=50, lr=0.05, patience=2, progress=False)
    assert history.stopped_early
    assert len(history.epochs) == history.best_epoch + 2 < 50


def test_one_that_stopped_goes_on_without_patience(data, tmp_path):
    how = {"epochs": 20, "lr": 0.05, "out": tmp_path, "progress": False}
    stopped = zoo.fit(make(), data, patience=2, **how)
    assert stopped.stopped_early
    assert zoo.fit(make(), data, resume=True, **how) == stopped
    history = zoo.fit(make(), data, resume=True, patience=0, **how)
    assert (len(history.epochs), history.stopped_early) == (20, False)
    assert history.epochs[: len(stopped.epochs)] == stopped.epochs


def test_the_applied_rate_is_the_schedules(data):
    """The decay reaches the optimiser, not only the log."""
    rates = []
    step = torch.optim.Adam.step

    class Watched(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return step(self, closure)

    options = TrainOptions(epochs=3, batch_size=40, schedule="inverse", lr=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        history = zoo.fit(
            make(), data, epochs=3, batch_size=40, schedule="inverse", lr=0.1,
            progress=False,
        )  # fmt: skip
    assert rates == pytest.approx([0.1, 0.1 / 1.01, 0.1 / 1.02])
    assert [r["lr"] for r in history.epochs] == pytest.approx(rates)
    assert options.rate(100) == pytest.approx(0.05)
    cosine = TrainOptions(epochs=10, schedule="cosine")
    assert cosine.rate(5) == pytest.approx(5e-4)
    assert cosine.rate(2) == pytest.approx(5e-4 * (1 + math.cos(0.2 * math.pi)))


def test_annealing_is_a_function_of_the_position():
    warm = TrainOptions(kl_warmup=4)
    assert [warm.kl_weight(e) for e in (0, 1, 2.5, 4, 9)] == [0, 0.25, 0.625, 1, 1]
    tempered = TrainOptions(tempering_steps=100)
    assert tempered.joint_weight(0) == 0.01
    assert tempered.joint_weight(50) == pytest.approx(0.51)
    assert tempered.joint_weight(1000) == 1


def test_warm_up_reaches_the_loss(data):
    """Without its KL the posterior is free to leave the prior."""
    free, full = make("mean_field"), make("mean_field")
    options = dict(epochs=40, lr=0.01, keep="last", progress=False)
    kl_free = zoo.fit(free, data, kl_warmup=4000, **options).epochs[-1]["kl"]
    kl_full = zoo.fit(full, data, **options).epochs[-1]["kl"]
    assert kl_free > 2 * kl_full + 0.5


def test_clipping_bounds_the_step(data):
    """With SGD-like scales: a tiny norm leaves the weights where they were."""
    vae = make("mean_field")
    norms = []

    def norm_of(parameters):
        return torch.stack([p.grad.norm() for p in parameters]).norm().item()

    def watched(parameters, limit):
        before = norm_of(parameters)
        clip_gradients(parameters, limit)
        norms.append((before, norm_of(parameters), limit))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "clip_gradients", watched)
        zoo.fit(vae, data, epochs=1, batch_size=40, clip_norm=1e-3, progress=False)
    ((before, after, limit),) = norms
    assert limit == pytest.approx(40 * 1e-3)
    assert before > limit
    assert after == pytest.approx(limit, rel=1e-3)


@pytest.mark.parametrize("largest", [1.0, 1e10, 1e18, 1e25, 1e38])
def test_clipping_keeps_the_direction_of_any_gradient(largest):
    """The square of the norm overflows in float32 from some 1e19 on."""
    p, q = (nn.Parameter(torch.zeros(n)) for n in (3, 2))
    direction = torch.tensor([0.5, -1.0, 0.25, 0.1, 0.0])
    p.grad, q.grad = (largest * direction).split([3, 2])
    clip_gradients([p, q], 0.1)
    clipped = torch.cat([p.grad, q.grad])
    torch.testing.assert_close(clipped, 0.1 * direction / direction.norm())


def test_clipping_leaves_what_is_no_number():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([math.inf, 1.0])
    clip_gradients([p], 0.1)
    assert not p.grad.isfinite().all()


def test_phases_share_the_epochs_and_move_their_modules(data):
    vae = make("mean_field")
    vae.phases = (
        zoo.Phase("guide", share=1, modules=(vae.guide,)),
        zoo.Phase("model", share=3, modules=(vae.model,), loss=Trace_ELBO()),
    )
    before = weights(vae)
    history = zoo.fit(vae, data, epochs=4, ema=0, keep="last", progress=False)
    assert [r["phase"] for r in history.epochs] == ["guide"] + 3 * ["model"]
    only_guide = make("mean_field")
    only_guide.phases = (zoo.Phase("guide", modules=(only_guide.guide,)),)
    how = {"kl_warmup": 0, "ema": 0, "keep": "last", "progress": False}
    zoo.fit(only_guide, data, epochs=1, **how)
    for name, t in vae.state_dict().items():
        if name.startswith("guide"):
            assert torch.equal(t, only_guide.state_dict()[name]), name
        else:
            assert not torch.equal(t, before[name]), name


@pytest.mark.parametrize(
    ("keep", "of_phase", "handed_on"),
    [
        ("best", "best", 1),
        ("best", "last", 3),
        ("last", "best", 3),
        ("last", "last", 3),
    ],
)
def test_a_phase_hands_on_its_best_epoch(keep, of_phase, handed_on, data, tmp_path):
    """Also of a training that was stopped in between; else what overfits stays so."""
    begun = []

    def worse(vae, done):
        with torch.no_grad():
            next(vae.parameters()).mul_(1 + 30 * done)

    def pair():
        vae = make("mean_field")
        vae.monitor = lambda vae: judged.append(weights(vae)) or {}
        vae.phases = (
            zoo.Phase("one", share=3, each_epoch=worse, hands_on=of_phase),
            zoo.Phase("two", share=1, start=lambda vae: begun.append(weights(vae))),
        )
        return vae

    def stop(state):
        if state.epoch["epoch"] == 2:
            raise KeyError("stop")

    judged = []
    how = {"epochs": 4, "out": tmp_path, "keep": keep, "progress": False}
    with pytest.raises(zoo.UserError, match="stop"):
        zoo.fit(pair(), data, callbacks=[stop], **how)
    again = pair()
    history = zoo.fit(again, data, resume=True, **how)
    assert_same(begun[-1], judged[handed_on - 1])
    assert history.best_epoch == 4
    assert_same(weights(again), judged[-1])


class Tempered(zoo.AnnealedELBO):
    """A loss that keeps the weights of log p(x, z) that it is given."""

    def __init__(self, num_particles=1, *, joint_weight=1.0):
        super().__init__(num_particles, joint_weight=joint_weight)
        self.weights = []

    def loss_and_elbo(self, model, guide, x):
        self.weights.append(self.joint_weight)
        return super().loss_and_elbo(model, guide, x)


def test_tempering_reaches_the_loss(data):
    made = []

    def make_own(num_particles=1, *, joint_weight=1.0):
        made.append(Tempered(num_particles, joint_weight=joint_weight))
        return made[-1]

    vae = make("mean_field")
    vae.phases = (zoo.Phase("own", loss=make_own),)
    zoo.fit(vae, data, epochs=2, batch_size=20, tempering_steps=5, progress=False)
    # Over five steps from 0.01 to 1, two steps to an epoch of 40 data.
    expected = [0.01 + 0.99 * step / 5 for step in range(4)]
    assert made[-1].weights[:4] == pytest.approx(expected, abs=0.01)


def test_options_of_the_loss_reach_it():
    options = TrainOptions(free_bits=2.0, num_particles=3)
    loss = make_loss(options)
    assert (loss.free_bits, loss.num_particles) == (2.0, 3)
    assert make_loss(TrainOptions(sticking_the_landing=True)).sticking_the_landing
    assert make_loss(TrainOptions(analytic_kl=True)).analytic_kl


class Recorded(zoo.AnnealedELBO):
    """A loss that knows two of the options."""

    def __init__(self, num_particles=1, *, kl_weight=1.0):
        super().__init__(num_particles, kl_weight=kl_weight)
        self.weights = []

    def loss_and_elbo(self, model, guide, x):
        self.weights.append(self.kl_weight)
        return super().loss_and_elbo(model, guide, x)


def test_a_phase_makes_its_loss_of_the_options(data):
    made = []

    def make_own(num_particles=1, *, kl_weight=1.0):
        made.append(Recorded(num_particles, kl_weight=kl_weight))
        return made[-1]

    vae = make("mean_field")
    vae.phases = (zoo.Phase("own", loss=make_own),)
    zoo.fit(
        vae, data, epochs=2, batch_size=20, num_particles=3, kl_warmup=2, progress=False
    )
    *_, loss = made
    assert loss.num_particles == 3
    assert loss.weights == [0.0, 0.25, 0.5, 0.75]  # annealed within the epoch too


@pytest.mark.parametrize("option", ["free_bits", "tempering_steps"])
def test_an_option_that_a_phases_loss_does_not_know_is_refused(option, data):
    vae = make("mean_field")
    vae.phases = (zoo.Phase("own", loss=Recorded),)
    with pytest.raises(zoo.UserError, match=f"without the option {option}"):
        zoo.fit(vae, data, epochs=2, progress=False, **{option: 1})


BY_SVI_ALONE = {
    "TraceGraph_ELBO": infer.TraceGraph_ELBO(),
    "RenyiELBO": infer.RenyiELBO,
    "ReweightedWakeSleep": lambda num_particles: infer.ReweightedWakeSleep(2),
    "TraceTailAdaptive_ELBO": infer.TraceTailAdaptive_ELBO(),
}


@pytest.mark.parametrize("name", BY_SVI_ALONE)
def test_an_elbo_that_no_step_can_be_taken_by_is_refused(name, data):
    vae = make("mean_field")
    vae.phases = (zoo.Phase(), zoo.Phase("own", loss=BY_SVI_ALONE[name]))
    said = f"with a finite differentiable_loss, as Trace_ELBO.*, got {name}; train by"
    with pytest.raises(zoo.UserError, match=said):
        zoo.fit(vae, data, epochs=2, progress=False)


def test_a_phase_starts_once_and_not_again_when_resumed(data, tmp_path, monkeypatch):
    started = []

    def start(vae):
        started.append(vae)
        with torch.no_grad():
            for p in vae.model.parameters():
                p.add_(torch.randn_like(p))  # of the seed, as all that is random

    def pair():
        vae = make("mean_field")
        vae.phases = (zoo.Phase("a"), zoo.Phase("b", start=start))
        return vae

    options = dict(epochs=4, batch_size=20, keep="last", progress=False)
    whole = pair()
    zoo.fit(whole, data, **options)
    assert started == [whole]
    interrupt_at(monkeypatch, 4)  # the first step of the second phase
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(pair(), data, out=tmp_path, **options)
    resumed = pair()
    zoo.fit(resumed, data, out=tmp_path, resume=True, **options)
    assert len(started) == 2
    assert_same(weights(resumed), weights(whole))


def test_what_a_phase_freezes_stays_frozen_when_it_is_resumed(
    data, tmp_path, monkeypatch
):
    def pair():
        vae = make("mean_field")
        freeze = zoo.Phase("b", start=lambda vae: vae.model.requires_grad_(False))
        vae.phases = (zoo.Phase("a"), freeze)
        return vae

    options = dict(epochs=4, batch_size=20, keep="last", progress=False)
    whole, resumed = pair(), pair()
    zoo.fit(whole, data, **options)
    interrupt_at(monkeypatch, 5)  # the second step of the second phase
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(pair(), data, out=tmp_path, **options)
    zoo.fit(resumed, data, out=tmp_path, resume=True, **options)
    assert_same(weights(resumed), weights(whole))
    assert not any(p.requires_grad for p in resumed.model.parameters())
    assert all(p.requires_grad for p in resumed.guide.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": -1.0}, "share of a phase: expected a number from 0, got -1.0"),
        ({"share": float("nan")}, "share of a phase: expected a number, got nan"),
        (
            {"share": float("inf")},
            "share of a phase: expected a number from 0, got inf",
        ),
        ({"share": "1"}, "share of a phase: expected a number, got '1'"),
        ({"modules": nn.Linear(1, 1)}, r"expected a tuple of modules, .* got Linear"),
        ({"modules": ["model"]}, "expected a tuple of modules"),
        ({"loss": nn.MSELoss()}, r"loss of a phase: expected an ELBO .* got MSELoss"),
        ({"loss": "elbo"}, "loss of a phase: expected an ELBO .* got 'elbo'"),
        (
            {"hands_on": "first"},
            "hands_on of a phase must be best or last, got 'first'",
        ),
    ],
)
def test_phases_that_make_no_sense_are_refused(options, words):
    with pytest.raises(zoo.UserError, match=words):
        zoo.Phase("a", **options)


@pytest.mark.parametrize("phases", [(), zoo.Phase(), (zoo.Phase(), None)])
def test_phases_are_several(phases, data):
    vae = make("mean_field")
    vae.phases = phases
    with pytest.raises(zoo.UserError, match=r"vae\.phases: expected a tuple of phases"):
        zoo.fit(vae, data, epochs=1, progress=False)


def test_phases_that_have_no_share_at_all_are_refused(data):
    vae = make("mean_field")
    vae.phases = (zoo.Phase("a", share=0), zoo.Phase("b", share=0))
    with pytest.raises(zoo.UserError, match="expected a share above 0"):
        zoo.fit(vae, data, epochs=2, progress=False)


@pytest.mark.parametrize("compile", [True, False])
def test_a_phase_without_anything_to_train_is_refused(compile, data):
    options = dict(epochs=2, compile=compile, progress=False)
    vae = make("mean_field")
    vae.phases = (zoo.Phase("likelihood", modules=(vae.model.likelihood,)),)
    with pytest.raises(
        zoo.UserError, match="'likelihood' has nothing .* no parameters"
    ):
        zoo.fit(vae, data, **options)
    vae = make("mean_field").requires_grad_(False)
    with pytest.raises(zoo.UserError, match="'train' has nothing to train.* is frozen"):
        zoo.fit(vae, data, **options)


@pytest.mark.parametrize("name", ["resume", "overwrite"])
def test_what_is_about_a_folder_wants_one(name, data):
    with pytest.raises(zoo.UserError, match=f"{name}=True is about the folder `out`"):
        zoo.fit(make(), data, **{name: True})


def test_phases_resume(data, tmp_path):
    def pair():
        vae = make("mean_field")
        vae.phases = (
            zoo.Phase("guide", modules=(vae.guide,)),
            zoo.Phase("model", modules=(vae.model,)),
        )
        return vae

    whole, parts = pair(), pair()
    zoo.fit(whole, data, epochs=4, keep="last", progress=False)
    zoo.fit(parts, data, epochs=4, keep="last", out=tmp_path, progress=False)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["epoch"] == 4
    again = pair()
    zoo.fit(
        again, data, epochs=4, keep="last", out=tmp_path, resume=True, progress=False
    )
    assert_same(weights(again), weights(whole))


def test_dynamic_binarisation_is_redrawn_and_resumes(tmp_path):
    grey = torch.rand(30, 2, 3)
    bits = grey.bernoulli()
    data = zoo.Dataset(grey, bits[:5], bits[5:], dynamic=True)
    whole, parts = make(), make()
    zoo.fit(whole, data, epochs=4, keep="last", progress=False)
    for epochs in (2, 4):
        zoo.fit(
            parts, data, epochs=epochs, keep="last", out=tmp_path, resume=True,
            progress=False,
        )  # fmt: skip
    assert_same(weights(parts), weights(whole))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"lr": 0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr: expected a number, got nan"),
        ({"num_particles": 0}, "num_particles must be positive"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; known: adam, adamw"),
        ({"schedule": "step"}, "known: constant, inverse, cosine"),
        ({"bound": "cubo"}, "known: elbo, iwae"),
        ({"free_bits": -1.0}, "free_bits must not be negative"),
        ({"bound": "iwae", "free_bits": 1.0}, "free bits have no meaning"),
        ({"bound": "iwae", "sticking_the_landing": True}, "biases the bound"),
        ({"free_bits": 1.0, "sticking_the_landing": True}, "biases free bits"),
        ({"seed": 2**70}, "seed must fit in 64 bits"),
        ({"tempering_steps": 10, "kl_warmup": 2}, "choose one of them"),
        ({"device": "tpu"}, "known: auto, cpu, cuda"),
        ({"device": torch.device("mps")}, "device 'mps' has no float64"),
        ({"device": 1}, "device: expected str or device, got 1"),
    ],
)
def test_bad_options(bad, message, data, tmp_path):
    with pytest.raises(zoo.UserError, match=message):
        zoo.fit(make(), data, out=tmp_path / "run", progress=False, **bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none(data):
    with pytest.raises(zoo.UserError, match="has no CUDA device; choose"):
        zoo.fit(make(), data, device="cuda")


def test_data_of_another_shape(data):
    vae = zoo.create("planar", event_shape=(3, 2), **SMALL)
    with pytest.raises(
        zoo.UserError, match=r"shape \(3, 2\), got data of shape \(2, 3\)"
    ):
        zoo.fit(vae, data)


def test_the_store_stays_empty_and_copies_train(data):
    vae = make()
    clone = copy.deepcopy(vae)
    store = set(pyro.get_param_store().keys())
    zoo.fit(vae, data, epochs=2, progress=False)
    assert set(pyro.get_param_store().keys()) == store
    before = weights(vae)
    zoo.fit(clone, data, epochs=2, seed=7, progress=False)
    assert_same(weights(vae), before)


def test_it_leaves_no_gradients_behind(data, monkeypatch):
    vae = make()
    zoo.fit(vae, data, epochs=1, progress=False)
    assert not vae.training
    assert all(p.grad is None for p in vae.parameters())
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(vae, data, epochs=5, batch_size=20, progress=False)
    assert all(p.grad is None for p in vae.parameters())


def test_the_bar_has_both_bounds_in_the_units_of_the_data(capsys):
    x = 1e4 * torch.randn(60, 4)
    data = zoo.Dataset(x[:40], x[40:50], x[50:], "gaussian", standardise=True)
    vae = zoo.create("mean_field", data, **SMALL)
    (record,) = zoo.fit(vae, data, epochs=1, device="cpu").epochs
    shown = f"elbo {record['train_elbo']:.2f} valid {record['valid_elbo']:.2f}"
    assert shown in capsys.readouterr().err


def test_a_training_is_there_until_another_can_begin(data, tmp_path):
    zoo.fit(make(), data, epochs=1, out=tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert set(before) >= {"checkpoint.pt", "metrics.jsonl"}
    x = torch.randn(60, 2, 3)
    real = zoo.Dataset(x[:40], x[40:50], x[50:], "gaussian")
    with pytest.raises(zoo.UserError, match="bernoulli"):
        zoo.fit(make(), real, out=tmp_path, overwrite=True, progress=False)
    vae = make()
    vae.phases = (zoo.Phase(start=lambda vae: vae.nothing),)
    with pytest.raises(AttributeError, match="nothing"):
        zoo.fit(vae, data, out=tmp_path, overwrite=True, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
