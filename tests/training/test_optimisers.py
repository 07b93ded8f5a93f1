"""Optimisers, schedules and a beta: what they compute, and that they resume exactly."""

import json
from functools import partial

import pyro.poutine as poutine
import pytest
import torch
from pairs import graphs_as_traced, interrupt_at, quick, small
from pyro.infer import Trace_ELBO
from torch.distributions import Normal, kl_divergence
from torch.optim import SGD, Adam, AdamW
from torch.optim import lr_scheduler as schedulers

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli.main import main
from pyro_vae_zoo.cli.parser import make_parser
from pyro_vae_zoo.cli.train import training_of
from pyro_vae_zoo.inference import compiled
from pyro_vae_zoo.training import steps
from pyro_vae_zoo.training.checkpoint import load_checkpoint, save_checkpoint
from pyro_vae_zoo.training.options import OPTIMIZERS, TrainOptions

HOW = {"device": "cpu", "progress": False, "keep": "last", "epochs": 4}
MOMENTUM = partial(SGD, momentum=0.9)


class Remembers(torch.optim.Optimizer):
    """Of a user's: it begins to keep a second thing after a few steps."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                p.sub_(group["lr"] * p.grad)
                if state["count"] == 4:
                    state["slow"] = p.clone()
                if state["count"] > 4:
                    p.lerp_(state["slow"].lerp_(p, 0.5), 0.5)


class Finds(torch.optim.Optimizer):
    """Of a user's: it keeps a count in its group, and a sum in another dtype."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "count": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["sum"] = torch.zeros_like(p, dtype=torch.float)
                total = self.state[p]["sum"].add_(p.grad / 3)
                p.sub_(group["lr"] / group["count"] * total)


def halved(epoch, epochs):
    return 0.5 ** (epoch * 4 / epochs)


OWN = {
    **{name: {"optimizer": name} for name in OPTIMIZERS},
    "decay": {"optimizer": "adamw", "weight_decay": 0.3, "clip_norm": 1.0},
    "momentum": {"optimizer": MOMENTUM},
    "class": {"optimizer": Remembers},
    "group": {"optimizer": Finds},
    "function": {"schedule": halved},
    "steps": {"schedule": partial(schedulers.MultiStepLR, milestones=[1, 3])},
    "plateau": {
        "schedule": partial(
            schedulers.ReduceLROnPlateau, mode="max", patience=0, factor=0.5
        )
    },
    "cycle": {
        "optimizer": MOMENTUM,
        "schedule": partial(schedulers.OneCycleLR, max_lr=0.01, total_steps=6),
    },
    "beta": {"beta": 4.0, "kl_warmup": 2, "ema": 0.9, "free_bits": 0.1},
    "analytic": {"beta": 0.5, "analytic_kl": True, "ema": 0.5, "schedule": "cosine"},
}


@pytest.fixture
def data():
    torch.manual_seed(3)
    x = (torch.rand(65, 2, 3) < torch.rand(2, 3)).float()
    return zoo.Dataset(x[:45], x[45:55], x[55:])


def make(guide="mean_field", seed=0):
    torch.manual_seed(seed)
    return small(guide).double()


def assert_same(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def check_resumes(data, folder, monkeypatch, **options):
    """Interrupted in the middle of an epoch, resumed: the same as in one go."""
    options = {**HOW, "batch_size": 16, **options}
    whole, resumed = make(), make(seed=9)
    expected = zoo.fit(whole, data, **options)
    interrupt_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(make(), data, out=folder, **options)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 2
    got = zoo.fit(resumed, data, out=folder, resume=True, **options)
    assert_same(whole, resumed)
    for a, b in zip(got.epochs, expected.epochs, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert not torch.equal(next(whole.parameters()), next(make().parameters()))
    return expected


IN_CI = (
    "adam",
    "adamw",
    "sgd",
    "adamax",
    "class",
    "group",
    "steps",
    "plateau",
    "cycle",
    "beta",
)


@pytest.mark.parametrize("name", quick(OWN, *IN_CI))
def test_resumed_is_as_undisturbed(name, data, tmp_path, monkeypatch):
    check_resumes(data, tmp_path, monkeypatch, **OWN[name])


@pytest.mark.parametrize(("begun", "then"), [(True, False), (False, True)])
def test_resumed_with_weights_that_lie_otherwise(begun, then, tmp_path):
    """The averages of Adam lie as the weights do, whichever way they were written."""
    x = torch.rand(20, 8, 8).bernoulli().double()
    data = zoo.Dataset(x[:16], valid=x[16:])
    options = {"batch_size": 8, "progress": False, "keep": "last"}
    options |= {"ema": 0, "kl_warmup": 0}

    def images(last):
        torch.manual_seed(0)
        vae = small("mean_field", (8, 8), network="conv").double()
        return vae.to(memory_format=torch.channels_last) if last else vae

    whole, half = images(False), images(then)
    zoo.fit(whole, data, epochs=3, **options)
    zoo.fit(images(begun), data, epochs=2, out=tmp_path, **options)
    zoo.fit(half, data, epochs=3, out=tmp_path, resume=True, **options)
    for p, q in zip(whole.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-9)  # a step is of 1e-3


@pytest.mark.parametrize("name", quick(["adamw", "plateau", "cycle", "beta"], "beta"))
def test_so_it_is_compiled(name, data, tmp_path, monkeypatch):
    graphs = graphs_as_traced(monkeypatch, compiled)
    history = check_resumes(data, tmp_path, monkeypatch, compile=True, **OWN[name])
    assert history.how == {"train": "compiled"}
    assert graphs


@pytest.mark.slow
@pytest.mark.parametrize("options", OWN.values(), ids=OWN)
def test_so_it_is_by_inductor(options, data, tmp_path, monkeypatch):
    check_resumes(data, tmp_path, monkeypatch, compile=True, **options)


@pytest.mark.parametrize("name", ["function", "cycle", "plateau"])
def test_rates_reach_steps_that_nobody_waits_for(name, data, monkeypatch):
    """Whose rate lies on the device, in float32."""
    graphs_as_traced(monkeypatch, compiled)
    options = {**HOW, "batch_size": 20, **OWN[name]}
    options["optimizer"] = partial(AdamW, fused=True)
    vaes = make(), make()
    zoo.fit(vaes[0], data, compile=False, **options)
    monkeypatch.setattr(steps, "waits_for_nothing", lambda *_: True)
    history = zoo.fit(vaes[1], data, compile=True, **options)
    assert history.how == {"train": "compiled, queued on the device"}
    weights = [dict(vae.named_parameters()) for vae in vaes]
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------- what is computed


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [
        (MOMENTUM, partial(SGD, lr=0.02, momentum=0.9)),
        ("sgd", partial(SGD, lr=0.02)),
        ("adamw", partial(AdamW, lr=0.02, fused=True)),
        (
            {"optimizer": "adamw", "weight_decay": 0.5},
            partial(AdamW, lr=0.02, weight_decay=0.5, fused=True),
        ),
        (
            lambda p, lr: Adam([{"params": p[:2], "lr": 0.0}, {"params": p[2:]}], lr),
            lambda p: Adam([{"params": p[:2], "lr": 0.0}, {"params": p[2:]}], 0.02),
        ),
    ],
    ids=["momentum", "sgd", "adamw", "decay", "groups"],
)
def test_twenty_steps_are_those_of_a_loop_by_hand(optimizer, by_hand):
    """On data that are all alike, whose order is nothing."""
    x = torch.tensor([[1.0, 0, 1], [0, 1, 1]]).double().expand(20, 2, 3)
    data, ours, theirs = zoo.Dataset(x, x[:5], x[:5]), make("iaf"), make("iaf")
    of = optimizer if isinstance(optimizer, dict) else {"optimizer": optimizer}
    zoo.fit(ours, data, **HOW | {"epochs": 10} | of, batch_size=10, lr=0.02, seed=5,
            kl_warmup=0, ema=0)  # fmt: skip
    optimizer = by_hand(list(theirs.parameters()))
    loss = Trace_ELBO()(theirs.model, theirs.guide)
    torch.manual_seed(5)
    for _ in range(20):
        optimizer.zero_grad()
        loss(x[:10]).backward()
        optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_the_gradient_under_beta_is_that_by_hand(analytic_kl):
    r"""Of \(E_q[\log p(x|z)] - 4 KL\), by one step of SGD in float64."""
    x = torch.tensor([[1.0, 0, 1], [0, 1, 1]]).double().expand(12, 2, 3)
    data, vae, other = zoo.Dataset(x, x[:5], x[:5]), make(), make()
    options = {**HOW, "epochs": 1, "batch_size": 12, "seed": 5, "lr": 1e-3}
    options |= {"beta": 4.0, "analytic_kl": analytic_kl, "optimizer": "sgd"}
    options |= {"kl_warmup": 0, "ema": 0}
    (record,) = zoo.fit(vae, data, **options).epochs
    torch.manual_seed(5)
    q = poutine.trace(other.guide).get_trace(x)
    p = poutine.trace(poutine.replay(other.model, trace=q)).get_trace(x)
    for trace in (p, q):
        trace.compute_log_prob()
    kl = q.nodes["z"]["log_prob"] - p.nodes["z"]["log_prob"]
    if analytic_kl:
        normal = q.nodes["z"]["fn"].base_dist
        kl = kl_divergence(normal, Normal(torch.zeros_like(normal.loc), 1.0)).sum(-1)
    likelihood = p.nodes["x"]["log_prob"]
    (4.0 * kl - likelihood).sum().backward()
    for (name, after), before in zip(
        vae.named_parameters(), other.parameters(), strict=True
    ):
        moved = (before - after) / 1e-3
        torch.testing.assert_close(moved, before.grad, rtol=1e-9, atol=1e-9, msg=name)
    assert record["train_elbo"] == pytest.approx((likelihood - kl).mean().item())
    assert record["kl_weight"] == 4.0


def test_the_curves_are_of_the_elbo_and_the_best_epoch_is_betas(data):
    history = zoo.fit(make(), data, **HOW | {"epochs": 8}, beta=5.0, lr=0.05)
    for r in history.epochs:
        parts = r["reconstruction"], r["kl"]
        assert r["valid_elbo"] == pytest.approx(parts[0] - parts[1])
        assert r["valid_bound"] == pytest.approx(parts[0] - 5 * parts[1])
    bounds = [r["valid_bound"] for r in history.epochs]
    assert history.best_epoch == 1 + bounds.index(max(bounds))
    kl = {
        b: zoo.fit(make(), data, **HOW, beta=b, lr=0.05).epochs[-1]["kl"]
        for b in (0, 9)
    }
    assert kl[0] > 2 * kl[9]


def test_rates_are_recorded_as_they_were(data):
    def rates(**options):
        epochs = zoo.fit(make(), data, **HOW, lr=0.5, optimizer="sgd", **options).epochs
        return [record["lr"] for record in epochs]

    assert rates(schedule=halved) == [0.5, 0.25, 0.125, 0.0625]
    step = partial(schedulers.StepLR, step_size=2, gamma=0.5)
    assert rates(schedule=step) == [0.5, 0.5, 0.25, 0.25]
    warm = lambda optimizer: schedulers.LinearLR(optimizer, 0.5, total_iters=2)
    assert rates(schedule=warm) == pytest.approx([0.25, 0.375, 0.5, 0.5])
    fixed = partial(SGD, lr=0.25)
    (record, *_) = zoo.fit(make(), data, **HOW, optimizer=fixed).epochs
    assert record["lr"] == 0.25


def test_a_plateau_is_one_of_the_validated_bound(data, monkeypatch):
    seen = []
    step = schedulers.ReduceLROnPlateau.step
    monkeypatch.setattr(
        schedulers.ReduceLROnPlateau,
        "step",
        lambda self, bound: (seen.append(bound), step(self, bound)),
    )
    history = zoo.fit(make(), data, **HOW, beta=2.0, **OWN["plateau"])
    assert seen == [record["valid_bound"] for record in history.epochs]


def test_each_phase_has_an_optimiser_of_its_parameters(data):
    vae, got = make(), []

    def own(parameters, lr):
        got.append(list(parameters))
        return SGD(parameters, lr)

    vae.phases = (zoo.Phase("q", modules=(vae.guide,)), zoo.Phase("all"))
    zoo.fit(vae, data, **HOW, optimizer=own)
    assert {tuple(map(id, parameters)) for parameters in got} == {
        tuple(map(id, vae.guide.parameters())),
        tuple(map(id, vae.parameters())),
    }


# --------------------------------------------------------------------- what is refused


class Closure(Remembers):
    def step(self, closure):
        raise AssertionError("it is not called")


class Unstorable(Remembers):
    def __init__(self, params):
        super().__init__(params)
        self.param_groups[0]["rule"] = Closure


REFUSED = [
    ({"optimizer": lambda p: 3}, "expected .*<lambda> to make a torch.optim.Optimizer"),
    (
        {"optimizer": partial(SGD, momentun=1)},
        "the optimizer .* cannot be made: TypeErr",
    ),
    ({"optimizer": Closure}, "a step of .*Closure needs closure"),
    (
        {"optimizer": lambda p: SGD([torch.zeros(1)], 1)},
        "has 1 tensors that this phase does not train",
    ),
    (
        {"optimizer": MOMENTUM, "weight_decay": 0.1},
        "weight_decay applies to the named optimisers",
    ),
    (
        {"optimizer": partial(SGD, lr=1), "lr": 0.1},
        "lr=0.1 would be ignored, since torch.*SGD",
    ),
    ({"optimizer": 3}, "optimizer: expected str or Callable, got 3"),
    (
        {"optimizer": "mine.py:Mine"},
        "file mine.py not found; expected the optimizer .Mine.",
    ),
    ({"weight_decay": -1}, "weight_decay must not be negative"),
    ({"schedule": lambda: 1}, "schedule: expected a function of .* of 0 arguments"),
    (
        {"schedule": lambda epoch, epochs: -1},
        "schedule .* at epoch 0: expected a factor",
    ),
    ({"schedule": lambda epoch, epochs: "a"}, "at epoch 0: expected a number, got 'a'"),
    ({"schedule": lambda optimizer: 1}, "schedule: expected .* to make an LRScheduler"),
    (
        {"schedule": schedulers.StepLR},
        "the schedule .*StepLR cannot be made: TypeError",
    ),
    ({"schedule": schedulers.ReduceLROnPlateau}, "give it mode='max'"),
    ({"beta": -1}, "beta must not be negative"),
    ({"beta": 2, "bound": "iwae"}, "beta=2 weighs the KL, which the bound 'iwae' does"),
    ({"beta": 2, "tempering_steps": 9}, "choose one of them"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_cannot_be_is_named_before_a_folder_is_made(options, said, data, tmp_path):
    with pytest.raises(zoo.UserError, match=said):
        zoo.fit(make(), data, out=tmp_path / "run", **HOW | options)
    assert not (tmp_path / "run").exists()


class KeepsUnstorable(Remembers):
    def step(self, closure=None):
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["rule"] = Closure


@pytest.mark.parametrize("optimizer", [Unstorable, KeepsUnstorable])
def test_what_a_checkpoint_cannot_hold(optimizer, data, tmp_path):
    zoo.fit(make(), data, **HOW, optimizer=optimizer)
    with pytest.raises(zoo.UserError, match="optimizer: a checkpoint holds numbers"):
        zoo.fit(make(), data, out=tmp_path, **HOW, optimizer=optimizer)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_schedule_resumed_where_an_epoch_ends(data, tmp_path, monkeypatch):
    options = {**HOW, "batch_size": 16, **OWN["steps"]}
    expected, resumed = make(), make(seed=9)
    zoo.fit(expected, data, **options)
    interrupt_at(monkeypatch, 2)  # the first epoch's last step is taken
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(make(), data, out=tmp_path, **options)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 3
    zoo.fit(resumed, data, out=tmp_path, resume=True, **options)
    assert_same(expected, resumed)


def test_a_schedule_that_breaks_on_its_way(data):
    later = lambda epoch, epochs: 1.0 if epoch < 2 else float("nan")
    with pytest.raises(zoo.UserError, match="at epoch 2: expected a number, got nan"):
        zoo.fit(make(), data, **HOW, schedule=later)


OF_THE_LOSS = {"beta": 2, "num_particles": 8, "bound": "iwae", "free_bits": 0.5}
OF_THE_LOSS |= {"kl_warmup": 5, "tempering_steps": 9}
OF_THE_LOSS |= {"sticking_the_landing": True, "analytic_kl": True}


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_a_loss_that_is_used_as_it_is_leaves_no_option_unheard(name, data):
    vae, value = make(), OF_THE_LOSS[name]
    vae.phases = (zoo.Phase(loss=zoo.AnnealedELBO(kl_weight=2.0)),)
    said = (
        f"{name}={value!r} would be ignored: a phase of the VAE has a loss of its own"
    )
    with pytest.raises(zoo.UserError, match=said):
        zoo.fit(vae, data, **HOW, **{name: value})


def test_resume_asks_for_the_same_by_name(data, tmp_path):
    options = HOW | {"out": tmp_path, "resume": True}
    zoo.fit(make(), data, **options, optimizer=MOMENTUM, schedule=halved)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")["options"]
    assert saved["optimizer"] == "torch.optim.sgd.SGD(momentum=0.9)"
    assert saved["schedule"] == "test_optimisers.halved"
    for other in (partial(SGD, momentum=0.8), "adam"):
        with pytest.raises(zoo.UserError, match=r"made with optimizer=torch.*\(mom"):
            zoo.fit(make(), data, **options, optimizer=other, schedule=halved)
    options |= {"epochs": 5}
    with pytest.raises(zoo.UserError, match="made with epochs=4, now it is 5"):
        zoo.fit(make(), data, **options, optimizer=MOMENTUM, schedule=halved)


def _first(state):
    return next(iter(state["optimizer"]["state"].values()))


HOSTILE = {
    "a shape": ("adamw", lambda s: _first(s).update(exp_avg=torch.zeros(1))),
    "a key": ("radam", lambda s: _first(s).pop("exp_avg")),
    "one too many": ("sgd", lambda s: s["optimizer"]["state"].update({0: {"a": 1}})),
    "own shape": (
        "momentum",
        lambda s: _first(s).update(momentum_buffer=torch.ones(9)),
    ),
    "own kind": ("class", lambda s: _first(s).update(count="4")),
    "no schedule": ("steps", lambda s: s.update(schedule=None)),
    "a schedule": (
        "adam",
        lambda s: s.update(schedule={"groups": [], "scheduler": {}}),
    ),
    "a rate": ("steps", lambda s: s["schedule"]["groups"][0].update(lr=-1.0)),
    "no rate": ("steps", lambda s: s["schedule"]["groups"][0].update(lr=None)),
    "a method": ("steps", lambda s: s["schedule"]["scheduler"].update(step=3)),
    "a kind": ("steps", lambda s: s["schedule"]["scheduler"].update(last_epoch="1")),
    "far away": (
        "cycle",
        lambda s: s["schedule"]["scheduler"].update(last_epoch=10**30),
    ),
}


@pytest.mark.parametrize(("name", "change"), HOSTILE.values(), ids=HOSTILE)
def test_a_state_of_something_else_is_refused(name, change, data, tmp_path):
    options = {**HOW, "out": tmp_path, "resume": True, **OWN[name]}
    zoo.fit(make(), data, **options | {"epochs": 3})
    path = tmp_path / "checkpoint.pt"
    state = load_checkpoint(path)
    change(state)
    save_checkpoint(path, state)
    with pytest.raises(
        zoo.UserError, match="is no checkpoint of this|a step of OneCycle"
    ):
        zoo.fit(make(), data, **options)


# --------------------------------------------------------------------- on command lines

MINE = """
import torch
from torch.optim.lr_scheduler import StepLR

class Mine(torch.optim.SGD):
    pass

def falls(optimizer):
    return StepLR(optimizer, 1, gamma=0.5)
"""


def test_files_of_ones_own_are_run_when_they_are_asked_for(data, tmp_path):
    path = tmp_path / "mine.py"
    words = ["train", "--optimizer", f"{path}:Mine", "--schedule", f"{path}:falls"]
    options = training_of(make_parser().parse_args(words), seed=0)
    assert options.recorded()["optimizer"] == f"{path}:Mine"
    assert TrainOptions(**options.recorded()) == options
    path.write_text(MINE)
    resolved = options.resolved().recorded()
    assert [resolved[k] for k in ("optimizer", "schedule")] == [
        "mine.Mine",
        "mine.falls",
    ]


@pytest.mark.slow
def test_files_of_ones_own_are_trained_by_and_resumed(tmp_path, capsys):
    for folder in ("a", "b"):  # a file may have moved
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MINE)
    run = ["train", "--out", str(tmp_path / "run"), "--latent-dim", "2", "--quiet"]
    run += ["--data", "digits_binary"]  # plain SGD is too fast for counts
    run += [
        "--hidden-dims",
        "8",
        "--eval-particles",
        "2",
        "--beta",
        "2",
        "--no-compile",
    ]
    words = [f"--{k}" for k in ("optimizer", "schedule")]
    own = [f"{tmp_path}/a/mine.py:{n}" for n in ("Mine", "falls")]
    asked = [w for pair in zip(words, own, strict=True) for w in pair]
    assert main([*run, "--epochs", "2", *asked]) == 0
    training = json.loads((tmp_path / "run/config.json").read_text())["training"]
    assert [training[k] for k in ("optimizer", "schedule", "beta")] == [*own, 2]
    moved = [word.replace("/a/mine", "/b/mine") for word in asked]
    assert main([*run, "--epochs", "3", *moved, "--resume"]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["training"]["beta"] == 2
    assert result["epochs"] == 3
    assert main([*run, "--epochs", "3", "--resume"]) == 2
    assert (
        f"add --optimizer {moved[1]} --schedule {moved[3]}" in capsys.readouterr().err
    )
    assert main([*run, "--overwrite", "--optimizer", "lion"]) == 2
    assert "unknown optimizer 'lion'; known: adam" in capsys.readouterr().err


def test_options_are_recorded_as_json_can_hold_them():
    options = TrainOptions(optimizer=MOMENTUM, schedule=halved)
    assert json.loads(json.dumps(options.recorded()))["schedule"].endswith("halved")
    assert TrainOptions(**TrainOptions(beta=3).recorded()).beta == 3
