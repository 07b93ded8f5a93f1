"""Compiled trainings: when, and that they train, stop and resume as others do."""

import json
import math
from contextlib import contextmanager
from unittest.mock import Mock

import pyro
import pytest
import torch
from compiling import EVERY, SLOW, Counting, Discrete, Guide, Model, as_it_is
from pairs import (
    check_resumes_in_every_phase,
    graphs_as_traced,
    perturb,
    quick,
    small,
)
from pyro.infer import Trace_ELBO

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference import compiled as compiled_elbo
from pyro_vae_zoo.inference.compiled import CompiledELBO
from pyro_vae_zoo.inference.elbo import AnnealedELBO
from pyro_vae_zoo.inference.tracing import inductor
from pyro_vae_zoo.pair.vae import Phase
from pyro_vae_zoo.training import cuda_graphs as replay
from pyro_vae_zoo.training import loop, steps
from pyro_vae_zoo.training.checkpoint import load_checkpoint, save_checkpoint
from pyro_vae_zoo.training.feed import Feed
from pyro_vae_zoo.training.losses import settled
from pyro_vae_zoo.training.optimisers import make_optimizer
from pyro_vae_zoo.training.options import TrainOptions

PHASES = ("gated_dag_iaf", "boosted", "recursive_mixture")
GPU = pytest.mark.gpu


@pytest.fixture
def data():
    torch.manual_seed(3)
    x = (torch.rand(65, 2, 3) < torch.rand(2, 3)).float()
    return zoo.Dataset(x[:45], x[45:55], x[55:])


@pytest.fixture
def as_traced(monkeypatch):
    return graphs_as_traced(monkeypatch, compiled_elbo)


@pytest.fixture
def never_waits(monkeypatch):
    """Steps as on a GPU, on the CPU: all but the replay."""
    monkeypatch.setattr(steps, "waits_for_nothing", lambda *_: True)


def make(guide="iaf", dtype=torch.double, **options):
    torch.manual_seed(0)
    vae = small(guide, **options).to(dtype)
    perturb(vae, 0.1)
    return vae


def assert_trains_alike(guide, data, rtol=1e-8, **options):
    """With and without, on batches of which the last is smaller."""
    options = {"epochs": 4, "batch_size": 20, "keep": "last", **options}
    vaes, histories = [make(guide), make(guide)], []
    for vae, compile in zip(vaes, (True, False), strict=True):
        histories.append(
            zoo.fit(vae, data, compile=compile, progress=False, device="cpu", **options)
        )
    ours, theirs = (dict(vae.named_parameters()) for vae in vaes)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
    for a, b in zip(*(history.epochs for history in histories), strict=True):
        trained = "train_elbo" if "train_bound" not in a else "train_bound"
        assert a[trained] == pytest.approx(b[trained], rel=rtol)
    return histories[0]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=SLOW),  # of which each of the others has more
        {"num_particles": 3, "bound": "iwae"},
        {"kl_warmup": 3, "clip_norm": 1.0, "schedule": "inverse", "ema": 0.9},
        {"tempering_steps": 10, "optimizer": "adamax"},
        {"sticking_the_landing": True, "optimizer": "adamax"},
    ],
)
def test_a_compiled_training_is_the_same(data, as_traced, options):
    guide = "planar" if "sticking_the_landing" in options else "iaf"
    history = assert_trains_alike(guide, data, **options)
    assert history.compiled == ["train"]
    assert len(as_traced) == 1  # the smaller last batch of each epoch has none


@pytest.mark.parametrize("guide", quick(PHASES, "boosted", "recursive_mixture"))
def test_each_phase_is_compiled(data, as_traced, guide):
    history = assert_trains_alike(guide, data)
    assert history.compiled == [phase.name for phase in make(guide).phases]
    assert len(as_traced) == len(history.compiled)


def test_a_training_by_inductor(data):
    history = assert_trains_alike("mean_field", data)
    assert history.compiled == ["train"]


@pytest.mark.parametrize(("worth", "compiled"), [(18, ["train"]), (19, [])])
def test_auto_counts_the_steps(data, as_traced, monkeypatch, worth, compiled):
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", worth)
    vae = make()
    history = zoo.fit(vae, data, epochs=6, batch_size=20, progress=False)
    assert history.compiled == compiled


def test_a_batch_that_is_all_of_the_data(data, as_traced):
    history = zoo.fit(make(), data, epochs=2, compile=True, progress=False)
    assert history.compiled == ["train"]
    assert len(as_traced) == 1


def test_the_bar_says_that_it_compiles(data, as_traced, capsys):
    zoo.fit(make(), data, epochs=2, compile=True)
    lines = capsys.readouterr().err.replace("\n", "").split("\r")
    said = [line for line in lines if line.startswith("compiling")]
    assert said
    assert all(len(line) <= 80 for line in lines)


# ------------------------------------------------------------- what is not possible


@pytest.mark.parametrize("compile", ["auto", True])
def test_a_pair_that_cannot_be_compiled(monkeypatch, compile):
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", 1)
    x = torch.randn(30, 2).sign().relu()
    data = zoo.Dataset(x[:20], x[20:25], x[25:])
    vae = zoo.VAE(Model(), Guide(), (2,))  # which decides by the values that it draws
    if compile is True:
        with pytest.raises(zoo.UserError, match="after site 'z' its control flow"):
            zoo.fit(vae, data, epochs=2, compile=True, progress=False)
        return
    with pytest.warns(UserWarning, match="trained without compiling: the pair cannot"):
        history = zoo.fit(vae, data, epochs=2, progress=False)
    assert history.compiled == []


def test_draws_without_reparametrisation_train_by_pyros_own_elbo():
    x = torch.randn(30, 2).sign().relu()
    data = zoo.Dataset(x[:20], x[20:25], x[25:])
    vae = zoo.VAE(Model(), Discrete(), (2,))
    with pytest.raises(zoo.UserError, match="which fit takes under kl_warmup=0 and no"):
        zoo.fit(vae, data, epochs=2, progress=False)
    history = zoo.fit(vae, data, epochs=2, kl_warmup=0, progress=False)
    assert len(history.epochs) == 2


@pytest.mark.parametrize("compile", ["auto", True])
def test_a_pair_that_changes_its_own_numbers(monkeypatch, as_traced, compile):
    """Which a graph would not change: eager, it anneals as ever."""
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", 1)
    x = torch.randn(30, 2)
    data = zoo.Dataset(x[:20], x[20:25], x[25:], likelihood="gaussian")
    vae = zoo.VAE(Model(), Counting(), (2,))
    options = {"epochs": 9, "batch_size": 5, "progress": False}
    if compile is True:
        with pytest.raises(zoo.UserError, match="each run changes guide.calls, but a"):
            zoo.fit(vae, data, compile=True, **options)
        return
    with pytest.warns(UserWarning, match="without compiling: .* make it a buffer, or"):
        history = zoo.fit(vae, data, **options)
    assert history.compiled == []
    assert not as_traced  # none was compiled
    assert vae.guide.calls > 9 * 4


@pytest.mark.parametrize("compile", ["auto", True])
def test_a_loss_of_the_users_own_is_used_as_it_is(data, monkeypatch, compile):
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", 1)
    vae = make(dtype=torch.float)
    vae.phases = (zoo.Phase("own", loss=Trace_ELBO(max_plate_nesting=1)),)
    if compile is True:
        with pytest.raises(zoo.UserError, match="has a loss of its own, Trace_ELBO"):
            zoo.fit(vae, data, epochs=2, compile=True, progress=False)
        return
    assert zoo.fit(vae, data, epochs=2, progress=False).compiled == []


@pytest.mark.parametrize("compile", ["yes", 1, None])
def test_compile_is_one_of_three(data, compile):
    with pytest.raises(zoo.UserError, match=f"True, False or 'auto', got {compile!r}"):
        zoo.fit(make(), data, compile=compile, progress=False)


def test_it_is_told_once_for_all_phases(data, monkeypatch, recwarn):
    def fails(graph, inputs):
        raise zoo.UserError("no compiler")

    monkeypatch.setattr(compiled_elbo, "inductor", fails)
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", 1)
    history = zoo.fit(make("boosted"), data, epochs=4, progress=False)
    assert len({record["phase"] for record in history.epochs}) > 1
    said = [w for w in recwarn if "without compiling: no compiler" in str(w.message)]
    assert len(said) == 1


@pytest.mark.parametrize(
    "guide", quick([n for n in EVERY if n not in PHASES], "mean_field", "ladder", "maf")
)
def test_one_graph_serves_all_epochs(data, guide, as_traced):
    """Validation between them changes nothing that a graph takes for granted."""
    density = guide in zoo.list_density_models()
    x = torch.randn(45, 2, 3) if density else data.train
    likelihood = "gaussian" if density else "bernoulli"
    data = zoo.Dataset(x, x[:10], x[:10], likelihood=likelihood)
    vae = make(guide, dtype=torch.float)
    history = zoo.fit(vae, data, epochs=4, compile=True, progress=False)
    assert len(as_traced) == len(history.compiled) > 0


def test_no_compiler(data):
    lacking = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    said = pytest.raises(zoo.UserError, match="PyTorch could not compile the graph")
    with torch._inductor.config.patch(lacking), said:
        zoo.fit(make("mean_field"), data, epochs=1, compile=True, progress=False)


# ------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("guide", quick(["iaf", *PHASES], "iaf", "boosted"))
def test_it_resumes_bit_for_bit(guide, data, tmp_path, monkeypatch, as_traced):
    options = {"epochs": 4, "batch_size": 25, "compile": True, "progress": False}
    options |= {"ema": 0.9}
    few = {"num_components": 2} if guide == "boosted" else {}
    check = check_resumes_in_every_phase
    check(lambda: make(guide, **few), data, options, tmp_path, monkeypatch)


def test_what_was_decided_is_kept(data, tmp_path, monkeypatch, as_traced):
    """Another number of epochs would decide otherwise, and changes bits."""
    options = {"batch_size": 20, "out": tmp_path, "progress": False}
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", 7)
    assert zoo.fit(make(), data, epochs=2, **options).compiled == []
    assert zoo.fit(make(), data, epochs=4, resume=True, **options).compiled == []
    assert not as_traced
    anew = options | {"overwrite": True}
    assert zoo.fit(make(), data, epochs=4, **anew).compiled == ["train"]
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", 100)
    history = zoo.fit(make(), data, epochs=6, resume=True, **options)
    assert history.compiled == ["train"]
    assert len(as_traced) == 2


def test_a_checkpoint_from_before_there_was_a_choice(data, tmp_path, monkeypatch):
    options = {"batch_size": 20, "out": tmp_path, "progress": False}
    zoo.fit(make(), data, epochs=2, **options)
    path = tmp_path / "checkpoint.pt"
    state = load_checkpoint(path)
    del state["compiled"], state["options"]["compile"]
    del state["history"]["compiled"]
    state["history"]["products"] = {"1x2x3 nn": "onednn"}  # of 0.1.0
    save_checkpoint(path, state)
    monkeypatch.setattr(loop, "STEPS_WORTH_COMPILING", 1)  # which would change bits
    history = zoo.fit(make(), data, epochs=3, resume=True, **options)
    assert len(history.epochs) == 3
    assert history.compiled == []


def test_a_training_goes_on_without_its_compiler(data, tmp_path, as_traced):
    options = {"batch_size": 20, "out": tmp_path, "progress": False}
    zoo.fit(make(), data, epochs=2, compile=True, **options)
    more = {"epochs": 3, "compile": False, "resume": True}
    assert len(zoo.fit(make(), data, **more, **options).epochs) == 3
    assert len(as_traced) == 1


# ------------------------------------------------------- steps that nobody waits for


def test_not_to_wait_changes_nothing(data, as_traced, never_waits, monkeypatch):
    step = replay.DeviceSteps._step

    def watched(self):
        """A replay reads its weights where they were when it was recorded."""
        assert self.loss.objective.kl_weight is self.scheduled["kl_weight"]
        step(self)

    monkeypatch.setattr(replay.DeviceSteps, "_step", watched)
    options = {"kl_warmup": 3, "clip_norm": 1.0, "schedule": "inverse", "ema": 0.9}
    # The rate is a float32 on the device.
    assert_trains_alike("iaf", data, rtol=1e-5, **options)


def test_what_an_epoch_changes_is_seen(data, as_traced, never_waits):
    """By hooks of the user's own, on a loss that is used as it is."""
    ends = []
    for compile in (True, False):
        vae, loss = make(), zoo.AnnealedELBO()

        def anneal(vae, part, loss=loss):
            loss.kl_weight = 0.1 + part
            loss.free_bits = 0.1 * round(part)

        vae.phases = (zoo.Phase(loss=loss, each_epoch=anneal),)
        options = {"epochs": 4, "batch_size": 15, "keep": "last", "progress": False}
        zoo.fit(vae, data, compile=compile, **options)
        assert loss.kl_weight == pytest.approx(0.85)
        assert isinstance(loss.kl_weight, float)
        ends.append([p.detach() for p in vae.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guide", quick(["iaf", "boosted"], "iaf"))
def test_not_to_wait_resumes(
    guide, data, tmp_path, monkeypatch, as_traced, never_waits
):
    options = {"epochs": 4, "batch_size": 25, "compile": True, "progress": False}
    check = check_resumes_in_every_phase
    check(lambda: make(guide), data, options, tmp_path, monkeypatch)


def test_it_goes_on_where_it_is_waited_for(data, tmp_path, monkeypatch, as_traced):
    """A checkpoint of a GPU, and the other way round: the optimiser is this run's own."""
    options = {"batch_size": 20, "compile": True, "out": tmp_path, "progress": False}
    for epochs, ahead in ((2, True), (3, False), (4, True)):
        monkeypatch.setattr(steps, "waits_for_nothing", lambda *_, ahead=ahead: ahead)
        vae = make("mean_field")
        zoo.fit(vae, data, epochs=epochs, resume=True, **options)
    whole = make("mean_field")
    options |= {"out": None, "kl_warmup": 0.4}  # a fifth of the first two
    zoo.fit(whole, data, epochs=4, **options)
    torch.testing.assert_close(
        vae.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("ahead", [True, False])
def test_it_stops_before_a_loss_that_is_not_finite(
    data, tmp_path, monkeypatch, as_traced, ahead
):
    """In the third step of the second epoch; nothing moves any more."""
    monkeypatch.setattr(steps, "waits_for_nothing", lambda *_: ahead)
    batch, vae, before, asked = Feed.batch, make(), {}, []

    def poison(self, step):
        x = batch(self, step)
        asked.append(step)
        if step != 2 or asked.count(2) < 2:
            return x
        before.update({k: v.clone() for k, v in vae.state_dict().items()})
        return x * math.nan

    monkeypatch.setattr(Feed, "batch", poison)
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    options = {"epochs": 3, "batch_size": 15, "compile": True, "progress": False}
    said = "at epoch 2, step 3: term log p.x.z.*last good checkpoint is kept"
    with pytest.raises(zoo.DivergedError, match=said):
        zoo.fit(vae, data, out=tmp_path, **options)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]


def device_steps(batch, max_norm=None):
    vae = make("mean_field")
    loss = CompiledELBO(zoo.AnnealedELBO(), compiler=as_it_is)
    adam = make_optimizer("adam", vae.parameters(), 1e-2)
    return vae, replay.DeviceSteps(vae, loss, adam, batch, max_norm)


def test_a_step_that_is_not_finite_is_the_last():
    x = torch.rand(8, 2, 3).round().double()
    (vae, ahead), (other, few) = device_steps(x), device_steps(x)
    for run, batches in ((ahead, [x, x, x * math.nan, x]), (few, [x, x])):
        torch.manual_seed(4)
        run.begin()
        for batch in batches:
            run.take(batch)
    assert ahead.done.item() == few.done.item() == 2
    assert torch.equal(ahead.elbo_sum, few.elbo_sum)
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    count = {float(s["step"]) for s in ahead.optimizer.state.values()}
    assert count == {2.0}


def test_a_function_that_cannot_be_captured_runs_as_it_is(monkeypatch):
    """The end of a capture that has failed fails too, and leaves what it has set."""
    calls, streams, capturing = [], [], False
    run, generator = replay.Replay(), Mock(**{"clone_state.return_value": "before"})
    monkeypatch.setattr(run, "_run_aside", lambda function: function())

    @contextmanager
    def capture(graph):
        nonlocal capturing
        capturing = True
        try:
            yield
        finally:
            capturing = False
            raise RuntimeError("capture failed due to a previous error")

    def step():
        if capturing:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        calls.append(None)

    cuda = replay.torch.cuda
    monkeypatch.setattr(cuda, "CUDAGraph", object)
    monkeypatch.setattr(cuda, "graph", capture)
    monkeypatch.setattr(cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "current_stream", lambda: "the caller's")
    monkeypatch.setattr(cuda, "set_stream", streams.append)
    monkeypatch.setattr(cuda, "default_generators", (generator,))
    for _ in range(3):
        run(step)
    with pytest.warns(UserWarning, match="not replayed as a CUDA graph: operation not"):
        run(step)
    generator.graphsafe_set_state.assert_called_once_with("before")
    assert streams == ["the caller's"]
    run(step)  # and warns once
    assert len(calls) == 5


@GPU
def test_a_replayed_training_is_the_same(data):
    vaes = [make(dtype=torch.float), make(dtype=torch.float)]
    for vae, compile in zip(vaes, (True, False), strict=True):
        zoo.fit(vae, data, epochs=20, batch_size=20, compile=compile, progress=False)
    ours, theirs = (dict(vae.named_parameters()) for vae in vaes)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


# -------------------------------------------------------------------------- for long


def resident_pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


@pytest.mark.parametrize(
    ("guide", "compiler"),
    [
        pytest.param("mean_field", as_it_is, marks=SLOW),
        pytest.param("mean_field", inductor, marks=SLOW),
        pytest.param("iaf", inductor, marks=SLOW),
    ],
)
def test_memory_does_not_grow(guide, compiler):
    torch.manual_seed(0)
    vae, x = small(guide), torch.rand(8, 2, 3).round()
    objective = zoo.CompiledTrace_ELBO()
    objective.compiler = compiler
    loss = objective(vae.model, vae.guide)
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    pages = []
    for step in range(2001):
        adam.zero_grad()
        loss(x).backward()
        adam.step()
        if step in (500, 2000):
            pages.append(resident_pages())
    assert pages[1] - pages[0] < 200  # of some hundred thousand; a float a step is 2


def test_other_processes_share_its_gradients(tmp_path):
    """`DistributedDataParallel` finds the gradients of a compiled loss, here of one."""
    dist = torch.distributed
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        vae, x = make(dtype=torch.float), torch.rand(8, 2, 3).round()
        loss = CompiledELBO(zoo.AnnealedELBO(), compiler=as_it_is)
        module, seen = loss(vae.model, vae.guide), []
        parallel = torch.nn.parallel.DistributedDataParallel(module)

        def hook(state, bucket):
            seen.append(bucket.buffer().clone())
            return _done(bucket)

        parallel.register_comm_hook(None, hook)
        torch.manual_seed(1)
        parallel(x).backward()
        ours = [p.grad.clone() for p in vae.parameters()]
        vae.zero_grad()
        torch.manual_seed(1)
        with pyro.settings.context(module_local_params=True):
            zoo.AnnealedELBO()(vae.model, vae.guide)(x).backward()
        torch.testing.assert_close(ours, [p.grad for p in vae.parameters()])
        assert sum(len(bucket) for bucket in seen) == sum(p.numel() for p in ours)
    finally:
        dist.destroy_process_group()


def _done(bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


# ------------------------------------------------------- options that go by the data


@pytest.mark.parametrize(
    ("num_data", "epochs", "steps"),
    [
        (100, 2000, 2000),
        (50_000, 50, 25_000),
        (60_000, 41, 24_600),
        (10**6, 20, 200_000),
    ],
)
def test_many_data_are_seen_for_as_long_as_is_affordable(num_data, epochs, steps):
    """Fifty epochs, or 25,000 steps, and at least twenty epochs."""
    vae = zoo.create("mean_field", event_shape=(2, 3), latent_dim=2)
    assert settled(TrainOptions(), vae, num_data).epochs == epochs
    assert epochs * num_data / 100 == steps


@pytest.mark.parametrize(
    ("given", "epochs", "warmup"),
    [
        ({}, 154, 15.4),
        ({"epochs": 5}, 5, 1),
        ({"epochs": 50}, 50, 10),
        ({"epochs": 100}, 100, 10),
        ({"batch_size": 1}, 20, 4),
        ({"batch_size": 40}, 61, 10),
        ({"kl_warmup": 3}, 154, 3),
        ({"kl_warmup": 0}, 154, 0),
        ({"bound": "iwae", "num_particles": 2}, 154, 0),
        ({"tempering_steps": 9}, 154, 0),
    ],
)
def test_what_is_not_said_goes_by_the_data(given, epochs, warmup):
    vae = zoo.create("mean_field", event_shape=(2, 3), latent_dim=2)
    found = settled(TrainOptions(**given), vae, 1297)
    assert (found.epochs, found.kl_warmup) == (epochs, warmup)
    assert settled(found, vae, 10) == found  # and is settled


@pytest.mark.parametrize(
    ("given", "patience"),
    [
        ({}, 31),
        ({"epochs": 20}, 10),
        ({"patience": 7}, 7),
        ({"patience": 0}, 0),
        ({"schedule": "cosine"}, 0),
        ({"schedule": lambda epoch, epochs: 1.0}, 0),
        ({"tempering_steps": 9}, 0),
        ({"ema": 0}, 0),
        ({"keep": "last"}, 0),
    ],
)
def test_a_training_stops_where_its_best_epoch_is_long_past(given, patience):
    vae = zoo.create("mean_field", event_shape=(2, 3), latent_dim=2)
    assert settled(TrainOptions(**given), vae, 1297).patience == patience


@pytest.mark.parametrize(
    ("guide", "norm"), [("mean_field", 0), ("ladder", 100), ("spline_coupling", 100)]
)
def test_gradients_are_clipped_where_the_vae_asks_for_it(guide, norm):
    vae = make(guide)
    assert settled(TrainOptions(), vae, 100).clip_norm == norm
    assert settled(TrainOptions(clip_norm=0), vae, 100).clip_norm == 0
    assert settled(TrainOptions(clip_norm=7), vae, 100).clip_norm == 7


def test_an_objective_of_its_own_has_no_warm_up_unless_it_knows_one():
    def knows(kl_weight=1.0):
        return AnnealedELBO(kl_weight=kl_weight)

    vae = zoo.create("mean_field", event_shape=(2, 3), latent_dim=2)
    for loss, warmup in ((knows, 4), (lambda: Trace_ELBO(), 0), (Trace_ELBO(), 0)):
        phases = (Phase("first"), Phase("then", loss=loss))
        pair = zoo.VAE(vae.model, vae.guide, vae.event_shape, phases=phases)
        assert settled(TrainOptions(epochs=20), pair, 100).kl_warmup == warmup


def test_epochs_that_nobody_knows_are_an_error():
    with pytest.raises(ValueError, match="epochs depend on the data"):
        TrainOptions(schedule="cosine").rate(3)
