"""Averaged weights: what they are an average of, and that they are those judged."""

import pytest
import torch
from pairs import small

import pyro_vae_zoo as zoo
from pyro_vae_zoo.training import loop
from pyro_vae_zoo.training.averages import decay_at

# Without and with running statistics, those of batch normalisation.
GUIDES = pytest.mark.parametrize("guide", ["iaf", "maf"])


def data_of(likelihood):
    torch.manual_seed(3)
    x = (torch.rand(65, 2, 3) < torch.rand(2, 3)).float()
    x += 0.3 * torch.randn(65, 2, 3) * (likelihood == "gaussian")
    return zoo.Dataset(x[:45], x[45:55], x[55:], likelihood)


@pytest.fixture
def data():
    return data_of("bernoulli")


def make(guide="iaf"):
    torch.manual_seed(0)
    options = {"batch_norm": True} if guide == "maf" else {}
    return small(guide, **options).double()


def weights_of(vae):
    return [p.detach().clone() for p in vae.parameters()]


def state_of(vae):
    """The weights, and the statistics if there are some."""
    statistics = [b.clone() for n, b in vae.named_buffers() if "moving" in n]
    return [*weights_of(vae), *statistics]


def states_after_steps(monkeypatch):
    """A list that a training adds to."""
    after, step = [], loop.Loop._step

    def recorded(self, x):
        elbo = step(self, x)
        after.append(state_of(self.vae))
        return elbo

    monkeypatch.setattr(loop.Loop, "_step", recorded)
    return after


def fit(vae, data, **options):
    return zoo.fit(vae, data, batch_size=20, device="cpu", progress=False, **options)


@GUIDES
def test_the_average_is_that_of_the_weights_after_each_step(guide, monkeypatch):
    after, vae = states_after_steps(monkeypatch), make(guide)
    expected = state_of(vae)
    fit(vae, data_of(vae.likelihood), epochs=5, keep="last", ema=0.5)
    assert len(after) == 15
    for t, weights in enumerate(after):
        decay = min(0.5, (1 + t) / (10 + t))
        expected = [
            decay * a + (1 - decay) * w for a, w in zip(expected, weights, strict=True)
        ]
    torch.testing.assert_close(state_of(vae), expected, rtol=1e-12, atol=1e-12)
    for place in (0, -1):
        assert not torch.equal(expected[place], after[-1][place])


def test_there_is_an_average_unless_it_is_zero(data):
    found = []
    for options in ({}, {"ema": 0.999}, {"ema": 0}):
        vae = make()
        fit(vae, data, epochs=3, **options)
        found.append(torch.cat([p.flatten() for p in weights_of(vae)]))
    by_default, told, without = found
    assert torch.equal(by_default, told)
    assert not torch.equal(by_default, without)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_average_is_what_is_validated_and_kept(data, keep):
    vae = make()
    history = fit(vae, data, epochs=4, lr=0.05, ema=0.9, keep=keep)
    kept = history.best_epoch if keep == "best" else 4
    valid = zoo.evaluate(vae, data.valid, num_particles=1, seed=0)
    assert history.epochs[kept - 1]["valid_elbo"] == pytest.approx(valid.elbo, abs=1e-9)


@GUIDES
def test_it_changes_no_step(guide, monkeypatch):
    """The training itself is as it was: the same draws, bounds and weights."""
    after, data = states_after_steps(monkeypatch), data_of(make(guide).likelihood)
    histories = [fit(make(guide), data, epochs=3, ema=ema) for ema in (0, 0.99)]
    without, averaged = ([r["train_elbo"] for r in h.epochs] for h in histories)
    assert without == averaged
    for one, other in zip(after[:9], after[9:], strict=True):
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))
    valid = [h.epochs[-1]["valid_elbo"] for h in histories]
    assert valid[0] != valid[1]


def test_it_begins_anew_with_each_phase(data):
    """Else a phase that begins by changing weights would keep some of those before."""
    vae = make()

    def start(vae):
        with torch.no_grad():
            for p in vae.parameters():
                p.fill_(0.01)

    vae.phases = (zoo.Phase("one"), zoo.Phase("two", start=start))
    fit(vae, data, epochs=2, lr=1e-6, ema=0.99, keep="last")
    for p in weights_of(vae):
        torch.testing.assert_close(p, torch.full_like(p, 0.01), rtol=0, atol=1e-5)


def test_a_phase_begins_with_the_weights_that_were_judged(data):
    """Else gates would be frozen by other probabilities than the record shows."""
    judged, begun = [], []
    vae = make()
    vae.monitor = lambda vae: judged.append(weights_of(vae)) or {}
    vae.phases = (
        zoo.Phase("one"),
        zoo.Phase("two", start=lambda vae: begun.append(weights_of(vae))),
    )
    fit(vae, data, epochs=4, lr=0.05, ema=0.9)
    (first,) = begun
    assert len(judged) == 4
    assert all(torch.equal(p, q) for p, q in zip(first, judged[1], strict=True))


@GUIDES
def test_a_resumed_training_goes_on_with_its_average(guide, tmp_path):
    whole, parts = make(guide), make(guide)
    data = data_of(whole.likelihood)
    fit(whole, data, epochs=4, ema=0.9, keep="last", kl_warmup=0.4)
    fit(parts, data, epochs=2, ema=0.9, keep="last", out=tmp_path)
    again = make(guide)
    fit(again, data, epochs=4, ema=0.9, keep="last", out=tmp_path, resume=True)
    for p, q in zip(state_of(whole), state_of(again), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(zoo.UserError, match="made with ema=0.9, now it is 0.8"):
        fit(
            make(guide), data, epochs=4, ema=0.8, out=tmp_path, resume=True, keep="last"
        )


@pytest.mark.parametrize(
    ("ema", "words"), [(1, "be below 1"), (-0.1, "not be negative")]
)
def test_decays_out_of_range(data, ema, words):
    with pytest.raises(zoo.UserError, match=f"ema must {words}"):
        fit(make(), data, ema=ema)


def test_the_decay_rises():
    decays = [decay_at(step, 0.99) for step in range(2000)]
    assert decays == sorted(decays)
    assert (decays[0], decays[-1]) == (0.1, 0.99)
