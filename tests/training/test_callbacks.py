"""Callbacks look on: what they are told, that they change nothing, stop and fail."""

import csv
import json
import sys
import types

import numpy as np
import pytest
import torch
from pairs import small

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli.main import main
from pyro_vae_zoo.runs import folder as run_folder
from pyro_vae_zoo.training.checkpoint import load_checkpoint

HOW = {"device": "cpu", "progress": False, "epochs": 4, "batch_size": 16}


@pytest.fixture
def data():
    torch.manual_seed(3)
    x = (torch.rand(65, 2, 3) < torch.rand(2, 3)).float()
    return zoo.Dataset(x[:45], x[45:55], x[55:])


def make(seed=0):
    torch.manual_seed(seed)
    return small("mean_field").double()


def weights(vae):
    return {name: value.clone() for name, value in vae.state_dict().items()}


def assert_same(a, b):
    for name in a:
        assert torch.equal(a[name], b[name]), name


class Watch:
    """Keeps what it is told, under the name of the moment."""

    def __init__(self):
        self.calls, self.epochs, self.judged = [], [], []

    def on_epoch_end(self, state):
        self.calls.append("epoch")
        self.epochs.append(state.epoch)
        elbo = zoo.evaluate(state.vae, state.data.valid, 1, seed=0, compile=False).elbo
        self.judged.append(elbo)

    def on_fit_end(self, state):
        self.calls.append("fit")
        self.end = state
        self.weights = weights(state.vae)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_they_are_told_what_was_recorded_and_see_the_weights_that_were_judged(
    ema, data, tmp_path
):
    watch, vae, plain = Watch(), make(), []
    callbacks = [watch, lambda state: plain.append(len(state.history.epochs))]
    history = zoo.fit(
        vae, data, out=tmp_path, callbacks=callbacks, ema=ema, lr=0.05, **HOW
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert watch.epochs == history.epochs == [json.loads(line) for line in lines]
    assert watch.judged == pytest.approx([r["valid_elbo"] for r in history.epochs])
    assert watch.calls == ["epoch"] * 4 + ["fit"]
    assert plain == [1, 2, 3, 4]
    assert_same(watch.weights, weights(vae))
    assert watch.end.history == history
    assert watch.end.epoch == history.epochs[-1]
    assert (watch.end.options.epochs, watch.end.data.name) == (4, "custom")


def disturb(state):
    """All that a callback might leave behind."""
    assert not any(module.training for module in state.vae.modules())
    torch.randn(7)
    state.vae.train()
    x = state.data.valid.double()
    zoo.AnnealedELBO()(state.vae.model, state.vae.guide)(x).backward()
    state.history.epochs.clear()
    state.history.how.clear()
    state.epoch["lr"] = 0.0


def test_they_change_nothing(data):
    vaes, seen = (make(), make()), []
    vaes[0].guide.register_forward_pre_hook(lambda m, x: seen.append(m.training))
    histories = [
        zoo.fit(vae, data, callbacks=given, ema=0.9, clip_norm=1.0, **HOW)
        for vae, given in zip(vaes, ([disturb, disturb], []), strict=True)
    ]
    assert_same(*map(weights, vaes))
    ours, theirs = ([{**r, "seconds": 0} for r in h.epochs] for h in histories)
    assert ours == theirs
    assert histories[0].how == histories[1].how
    assert not vaes[0].training
    assert True in seen


def stop_at(epoch):
    def stop(state):
        if state.epoch["epoch"] == epoch:
            state.stop()

    return stop


def test_one_that_stops_is_obeyed_and_remembered(data, tmp_path):
    watch, short = Watch(), make()
    callbacks = [stop_at(2), watch]
    vae = make()
    history = zoo.fit(vae, data, out=tmp_path, callbacks=callbacks, **HOW)
    assert history.stopped_early
    assert watch.calls == ["epoch", "epoch", "fit"]
    warmup = 0.2 * HOW["epochs"]
    zoo.fit(short, data, **HOW | {"epochs": 2, "kl_warmup": warmup})
    assert_same(weights(vae), weights(short))
    again = Watch()
    resumed = make(9)
    more = HOW | {"epochs": 9, "resume": True}
    got = zoo.fit(resumed, data, out=tmp_path, callbacks=[again], **more)
    assert got == history
    assert again.calls == ["fit"]
    assert_same(weights(vae), weights(resumed))


def test_a_stop_where_a_phase_ends_begins_no_other(data, tmp_path):
    def start(vae):
        with torch.no_grad():
            next(vae.parameters()).fill_(0.5)

    def phased(seed=0):
        vae = make(seed)
        first = zoo.Phase("one", modules=(vae.guide,))
        vae.phases = first, zoo.Phase("two", start=start)
        return vae

    vae, resumed = phased(), phased(9)
    zoo.fit(vae, data, out=tmp_path, callbacks=[stop_at(2)], **HOW)
    assert next(vae.parameters()).ne(0.5).any()
    zoo.fit(resumed, data, out=tmp_path, resume=True, **HOW)
    assert_same(weights(vae), weights(resumed))


def test_a_stop_of_a_callback_is_not_lifted_by_another_patience(data, tmp_path):
    how = HOW | {"out": tmp_path, "epochs": 6}
    vae = make()
    vae.phases = zoo.Phase("one"), zoo.Phase("two")
    stopped = zoo.fit(vae, data, callbacks=[stop_at(3)], patience=2, **how)
    again = make()
    again.phases = vae.phases
    assert zoo.fit(again, data, resume=True, patience=0, **how) == stopped


class Fails:
    def on_epoch_end(self, state):
        if state.epoch["epoch"] == 2:
            raise KeyError("the server is gone")


def test_one_that_fails_stops_with_a_checkpoint_and_its_name(data, tmp_path):
    whole, resumed, watch = make(), make(9), Watch()
    zoo.fit(whole, data, **HOW)
    said = (
        "the callback test_callbacks.Fails failed in on_epoch_end: KeyError: 'the serv"
    )
    with pytest.raises(zoo.UserError, match=said) as failed:
        zoo.fit(make(), data, out=tmp_path, callbacks=[Fails()], **HOW)
    assert isinstance(failed.value.__cause__, KeyError)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == (2, 0)
    zoo.fit(resumed, data, out=tmp_path, resume=True, callbacks=[watch], **HOW)
    assert [record["epoch"] for record in watch.epochs] == [3, 4]
    assert_same(weights(whole), weights(resumed))


def test_one_that_fails_at_the_end(data):
    class Ends:
        def on_fit_end(self, state):
            raise ValueError("no room")

    vae = make()
    with pytest.raises(
        zoo.UserError, match="Ends failed in on_fit_end: ValueError: no"
    ):
        zoo.fit(vae, data, callbacks=[Ends()], **HOW | {"epochs": 1})
    assert not vae.training


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        ([Watch], r"expected an object, got the class Watch; did you mean Watch\(\)"),
        ([3], "expected functions of a state or objects with on_epoch_end .* got int"),
        (print, "callbacks: expected tuple, got <built-in function print>"),
    ],
)
def test_what_is_no_callback(callbacks, said, data, tmp_path):
    with pytest.raises(zoo.UserError, match=said):
        zoo.fit(make(), data, out=tmp_path / "run", callbacks=callbacks, **HOW)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------- the loggers


def run_twice(data, folder, logger):
    """Two epochs, and two more by a logger that is made anew; all records."""
    how = HOW | {"out": folder / "run", "resume": True, "beta": 2.0}
    for epochs in (2, 4):
        how |= {"epochs": epochs, "callbacks": [logger()]}
        history = zoo.fit(make(), data, **how)
    return history.epochs


def test_a_table_of_all_epochs(data, tmp_path):
    path = tmp_path / "logs" / "epochs.csv"
    epochs = run_twice(data, tmp_path, lambda: zoo.callbacks.CSV(path))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {k: str(v) if v is not None else "" for k, v in r.items()} for r in epochs
    ]


def test_tensorboard_has_the_numbers_of_each_epoch(data, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `loggers` is not installed")
    from tensorboard.backend.event_processing import event_accumulator

    folder = tmp_path / "events"
    epochs = run_twice(data, tmp_path, lambda: zoo.callbacks.TensorBoard(folder))
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    for name in ("train_elbo", "valid_bound", "lr"):
        seen = {event.step: event.value for event in events.Scalars(name)}
        assert list(seen) == [1, 2, 3, 4]
        expected = [record[name] for record in epochs]
        np.testing.assert_allclose(list(seen.values()), expected, rtol=1e-6)
    assert "phase" not in events.Tags()["scalars"]


class FakeRun:
    def __init__(self, **settings):
        self.settings, self.rows, self.summary, self.done = settings, {}, {}, False

    def log(self, values, step):
        self.rows[step] = values

    def finish(self):
        self.done = True


def test_weights_and_biases_is_told_the_same(data, monkeypatch, tmp_path):
    """By a stand-in for its module, of which three functions are called."""
    runs = []

    def init(**settings):
        runs.append(FakeRun(**settings))
        return runs[-1]

    fake = types.ModuleType("wandb")
    fake.init, fake.__spec__ = init, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    epochs = run_twice(data, tmp_path, lambda: zoo.callbacks.WandB("mine", name="a"))
    first, second = runs
    assert first.settings["project"] == "mine"
    assert first.settings["config"]["beta"] == 2
    assert [*first.rows, *second.rows] == [1, 2, 3, 4]
    assert second.rows[4]["valid_bound"] == epochs[3]["valid_bound"]
    assert first.done
    assert second.done
    assert second.summary["weights"] == "best"
    own = FakeRun()
    zoo.fit(make(), data, callbacks=[zoo.callbacks.WandB(run=own)], **HOW)
    assert list(own.rows) == [1, 2, 3, 4]
    assert not own.done
    assert len(runs) == 2


@pytest.mark.slow
def test_weights_and_biases_itself_offline(data, monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    zoo.fit(make(), data, callbacks=[zoo.callbacks.WandB(folder=tmp_path)], **HOW)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("name", "extra"), [("TensorBoard", "loggers"), ("WandB", "wandb")]
)
def test_a_logger_that_is_not_installed_says_how(name, extra, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(zoo.UserError, match=rf"pip install 'pyro-vae-zoo\[{extra}\]'"):
        getattr(zoo.callbacks, name)("folder")


MINE = """
class Stops:
    def on_epoch_end(self, state):
        if state.epoch["epoch"] == 2:
            state.stop()
"""


@pytest.mark.slow
def test_loggers_and_callbacks_on_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    run = ["train", "--out", str(tmp_path / "run"), "--latent-dim", "2", "--quiet"]
    run += ["--hidden-dims", "8", "--eval-particles", "2", "--epochs", "3"]
    run += ["--log", "csv", "--callbacks", f"{tmp_path}/mine.py:Stops"]
    assert main(run) == 0
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "run/result.json").read_text())["epochs"] == 2
    assert main([*run, "--resume"]) == 0
    assert main([*run, "--overwrite", "--callbacks", "nobody"]) == 2


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_starts_anew_has_no_events_of_the_one_before(resume, tmp_path):
    (tmp_path / "tensorboard").mkdir()
    events = tmp_path / "tensorboard" / "events.out.tfevents.17.host.1.0"
    own = tmp_path / "tensorboard" / "notes.txt"
    for path in (events, own):
        path.write_text("before")
    run_folder.begin(tmp_path, {}, resume)
    assert events.exists() == resume
    assert own.exists()
