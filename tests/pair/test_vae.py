"""The pair: names in Pyro's store, copies, generation; building, saving, loading."""

import copy
import functools
import gc
import json
import os
import pickle
import warnings
from typing import get_args

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import small
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.create import OneVector, SeveralSites, guide_options

SMALL = {"latent_dim": 3, "hidden_dims": (8,)}


def make(guide="iaf", **options):
    if isinstance(guide, str):
        return small(guide, **SMALL | options)
    return zoo.create(guide, event_shape=(2, 3), **SMALL | options)


def names_of(vae):
    pyro.get_param_store()
    prefix = vae.model._pyro_name.split(".")[0] + "."
    return [n for n in pyro.get_param_store().keys() if n.startswith(prefix)]


def svi_step(vae, x, lr=1e-2):
    optimizer = pyro.optim.Adam({"lr": lr})
    return SVI(vae.model, vae.guide, optimizer, Trace_ELBO()).step(x)


class PlainGuide(nn.Module):
    """A user's guide: a plain module with a plain child."""

    def __init__(self, event_shape, latent_dim, hidden_dims, boldness: float = 1.0):
        super().__init__()
        self.linear = nn.Linear(torch.Size(event_shape).numel(), latent_dim)
        self.boldness = boldness

    def forward(self, x):
        loc = self.boldness * self.linear(x.flatten(1))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def test_every_pair_has_names_of_its_own_and_takes_them_along():
    x = torch.ones(4, 2, 3).bernoulli()
    vae = make()
    clone = copy.deepcopy(vae)
    pickled = pickle.loads(pickle.dumps(vae))
    roots = {v.model._pyro_name for v in (vae, clone, pickled)}
    assert len(roots) == 3
    svi_step(vae, x)
    assert names_of(vae)
    assert not names_of(clone)
    kept = names_of(vae)
    del vae
    gc.collect()
    assert not set(kept) & set(pyro.get_param_store().keys())


def test_a_pair_that_stock_svi_has_trained_can_still_be_copied_and_pickled():
    x = torch.ones(4, 2, 3).bernoulli()
    vae = make()
    svi_step(vae, x)
    for other in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        for p, q in zip(vae.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
            assert p is not q
        before = [p.detach().clone() for p in vae.parameters()]
        svi_step(other, x)
        for p, q in zip(vae.parameters(), before, strict=True):
            assert torch.equal(p, q)
    svi_step(vae, x)


def test_a_plain_guide_trains_under_stock_svi():
    x = torch.ones(4, 2, 3).bernoulli()
    vae = make(PlainGuide)
    before = vae.guide.linear.weight.detach().clone()
    svi_step(vae, x)
    assert not torch.equal(vae.guide.linear.weight, before)
    zoo.testing.check_vae(vae, x.repeat(4, 1, 1))


def test_a_module_shared_by_both_sides_is_one(tmp_path):
    class Shared(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(2))

    class Model(pyro.nn.PyroModule):
        def __init__(self, shared):
            super().__init__()
            self.shared = shared

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(self.shared.shift, 1).to_event(1))
                return pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    class Guide(Model):
        def forward(self, x):
            loc = x / 2 + self.shared.shift
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", dist.Normal(loc, 1).to_event(1))

    shared = Shared()
    vae = zoo.VAE(Model(shared), Guide(shared), event_shape=(2,))
    assert len(list(vae.parameters())) == 1
    svi_step(vae, torch.randn(5, 2), lr=0.1)
    assert len(names_of(vae)) == 1
    # One step of Adam moves by the rate, once.
    assert vae.model.shared.shift.abs().tolist() == pytest.approx([0.1, 0.1], rel=1e-3)
    assert vae.model.shared.shift is vae.guide.shared.shift
    with pytest.warns(UserWarning, match="only the weights are saved"):
        zoo.save(vae, tmp_path)


def test_functions_are_no_pair():
    with pytest.raises(zoo.UserError, match="a function has no parameters"):
        zoo.VAE(lambda x: x, PlainGuide((2, 3), 2, ()), event_shape=(2, 3))


def test_generation_and_reconstruction():
    vae = make()
    x = torch.ones(5, 2, 3).bernoulli()
    bits = vae.sample(7)
    assert bits.shape == (7, 2, 3)
    assert set(bits.unique().tolist()) <= {0.0, 1.0}
    means = vae.sample(7, mean=True)
    assert ((means > 0) & (means < 1)).all()
    assert vae.reconstruct(x).shape == x.shape
    assert vae.encode(x, num_samples=4).shape == (4, 5, 3)
    with pytest.raises(zoo.UserError, match="number of samples must be at least 1"):
        vae.sample(0)


def test_generation_uses_neither_guide_nor_encoder():
    """X5: and Pyro's Predictive agrees that the model stands alone."""
    vae = make()
    vae.guide.register_forward_pre_hook(lambda *_: pytest.fail("the guide was called"))
    vae.sample(3)
    model = pyro.poutine.uncondition(vae.model)
    draws = Predictive(model, num_samples=6)(torch.zeros(4, 2, 3))
    assert draws["x"].shape == (6, 4, 2, 3)


@pytest.mark.parametrize("guide", zoo.list_guides())
def test_save_and_load(guide, tmp_path):
    vae = make(guide)
    x = torch.ones(4, 2, 3).bernoulli()
    for path in (tmp_path / "folder", tmp_path / "file.safetensors"):
        again = zoo.load(zoo.save(vae, path))
        assert again.config == json.loads(json.dumps(vae.config))
        ll = [zoo.log_likelihood(v, x, 10).log_prob for v in (vae, again)]
        assert torch.equal(*ll)


def test_a_custom_guide_loads_only_with_its_class(tmp_path):
    vae = make(PlainGuide, boldness=2.0)
    zoo.save(vae, tmp_path)
    with pytest.raises(zoo.UserError, match=r"zoo.load\(path, guide=PlainGuide\)"):
        zoo.load(tmp_path)
    again = zoo.load(tmp_path, guide=PlainGuide)
    assert again.guide.boldness == 2.0
    assert torch.equal(again.guide.linear.weight, vae.guide.linear.weight)


class Masked(nn.Linear):
    """A layer with a mask that is rightly infinite, as attention has."""

    def __init__(self, latent_dim, event_shape):
        super().__init__(latent_dim, torch.Size(event_shape).numel())
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_a_buffer_may_be_infinite_where_it_is_made_so(tmp_path):
    data = zoo.Dataset(torch.ones(6, 2, 3).bernoulli(), test=torch.ones(2, 2, 3))
    vae = small("mean_field", decoder=Masked)
    zoo.fit(vae, data, epochs=1, out=tmp_path, progress=False)
    zoo.fit(vae, data, epochs=2, out=tmp_path, resume=True, progress=False)
    again = zoo.load(zoo.save(vae, tmp_path / "saved"), decoder=Masked)
    assert torch.equal(again.model.decoder.net[0].mask, torch.tensor([0, -torch.inf]))
    with torch.no_grad():
        next(vae.parameters()).fill_(torch.nan)
    with pytest.raises(zoo.UserError, match="not finite: .*; did the training diverge"):
        zoo.load(zoo.save(vae, tmp_path / "saved"), decoder=Masked)


def test_weights_are_saved_however_they_lie(tmp_path):
    vae = small("mean_field", event_shape=(8, 8), network="conv")
    vae = vae.to(memory_format=torch.channels_last)
    again = zoo.load(zoo.save(vae, tmp_path))
    for a, b in zip(vae.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.int8, "float16"])
def test_weights_are_saved_in_floating_numbers(dtype, tmp_path):
    with pytest.raises(zoo.UserError, match="dtype: expected such as torch.float16"):
        zoo.save(make(), tmp_path, dtype=dtype)


def test_weights_that_a_dtype_cannot_hold(tmp_path):
    vae = make()
    with torch.no_grad():
        next(vae.parameters()).fill_(7e4)
    with pytest.raises(zoo.UserError, match="too large for torch.float16"):
        zoo.save(vae, tmp_path, dtype=torch.float16)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"not safetensors at all"])
def test_a_corrupt_model_is_named(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(zoo.DataFileError, match="model.safetensors is corrupt"):
        zoo.load(tmp_path)
    with pytest.raises(zoo.DataFileError, match="model file .* not found"):
        zoo.load(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_previous_model(tmp_path, monkeypatch):
    path = zoo.save(make(), tmp_path)
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        zoo.save(make("planar"), tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.safetensors"]


def test_create_lists_what_it_knows():
    with pytest.raises(
        zoo.UserError, match="did you mean 'planar'.*known: .*householder"
    ):
        make("plannar")
    with pytest.raises(zoo.UserError, match="unknown option .*'latent'.*latent_dim"):
        zoo.create("iaf", event_shape=(2, 3), latent=3)
    with pytest.raises(zoo.UserError, match="known: bernoulli, .*, gaussian"):
        make(likelihood="weibull")
    with pytest.raises(zoo.UserError, match="expected a Dataset, got Tensor; make one"):
        zoo.create("iaf", torch.rand(9, 8))
    data = zoo.Dataset(torch.eye(20))
    with pytest.raises(zoo.UserError, match=r"is not that of the data, \(20,\)"):
        zoo.create("iaf", data, event_shape=(2, 3))
    assert zoo.create("iaf", data, event_shape=(20,)).event_shape == (20,)
    with pytest.raises(zoo.UserError, match="a data set or an event_shape"):
        zoo.create("iaf")
    with pytest.raises(zoo.UserError, match="event_shape must be at least 1"):
        zoo.create("iaf", event_shape=(0, 3))
    with pytest.raises(zoo.UserError, match="event_shape must be one size or more"):
        zoo.create("iaf", event_shape=())
    with pytest.raises(zoo.UserError, match="gate_bias: expected a number, got None"):
        zoo.create("iaf", event_shape=(3,), gate_bias=None)
    with pytest.raises(zoo.UserError, match="unknown prior 'Linear'; known: "):
        zoo.create("self_reflective", event_shape=(8, 8), prior=nn.Linear(1, 1))
    with pytest.raises(zoo.UserError, match="would be ignored: whole has no argument"):
        zoo.create(model=whole, event_shape=(3,), likelihood="poisson")
    with pytest.raises(zoo.UserError, match="unknown flow 'gaf'"):
        zoo.AmortizedFlow(4, 2, "gaf")
    with pytest.raises(zoo.UserError, match="unknown option of flow 'planar': 'depth'"):
        zoo.AmortizedFlow(4, 2, "planar", depth=3)
    with pytest.raises(zoo.UserError, match="registered already"):
        zoo.register("iaf")(lambda: None)


def test_options_come_from_the_signatures():
    assert guide_options("mean_field")["latent_dim"] == 40
    assert "num_flows" not in guide_options("mean_field")
    assert guide_options("householder")["chained"] is True
    assert guide_options(PlainGuide)["boldness"] == 1.0
    data = zoo.load_dataset("digits_binary")
    vae = zoo.create("mean_field", data, latent_dim=2)
    assert vae.event_shape == (8, 8)
    assert vae.likelihood == "bernoulli"


class ActiveGuide(PlainGuide):
    """A user's guide that has options of the standard model, too, and any others."""

    def __init__(self, *sizes, activation, network="gated_mlp", **more):
        super().__init__(*sizes, **more)
        self.options = activation, network


def test_a_guide_gets_the_options_that_it_shares_with_the_standard_model():
    vae = make(ActiveGuide, activation="elu")
    assert vae.guide.options == ("elu", "mlp")
    assert any(isinstance(layer, nn.ELU) for layer in vae.model.decoder.modules())
    with pytest.raises(zoo.UserError, match="'custom:ActiveGuide' .* 'activation'"):
        make(ActiveGuide)


def test_arguments_without_names_are_no_options():
    def encoder(event_shape, *rest, **more):
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 5))

    def decoder(latent_dim, **more):
        return nn.Linear(latent_dim, 6)

    assert make(encoder=encoder, decoder=decoder).sample(4).shape == (4, 2, 3)
    assert {"sizes", "more"}.isdisjoint(guide_options(ActiveGuide))


def test_amortized_flow_works_outside_a_vae():
    """As the posterior of a user's own Pyro model, trained by stock SVI."""

    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.features = nn.Linear(2, 8)
            self.posterior = zoo.AmortizedFlow(8, 2, "iaf", 2)

        def forward(self, y):
            with pyro.plate("rows", len(y), dim=-1):
                pyro.sample("w", self.posterior(self.features(y)))

    def model(y):
        with pyro.plate("rows", len(y), dim=-1):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("y", dist.Normal(w, 0.5).to_event(1), obs=y)

    y, guide = torch.randn(50, 2), Guide()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(100)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    features = torch.randn(3, 4, 8)  # any leading shape
    q = guide.posterior(features)
    assert q.batch_shape == (3, 4)
    assert q.rsample((5,)).shape == (5, 3, 4, 2)


def test_a_type_checker_is_told_what_each_guide_encodes_to():
    kinds = {Tensor: get_args(OneVector), dict: get_args(SeveralSites)}
    names = zoo.list_guides() + zoo.list_density_models()
    assert sorted(sum(kinds.values(), ())) == sorted(names)
    for kind, guides in kinds.items():
        for guide in guides:
            vae = zoo.create(guide, event_shape=(8, 8))  # its own likelihood
            assert isinstance(vae.encode(torch.zeros(2, 8, 8)), kind)


def whole(event_shape):
    """A pair as a function of the user's makes it."""
    like = zoo.create("mean_field", event_shape=event_shape, latent_dim=2)
    return zoo.VAE(like.model, like.guide, event_shape)


def test_one_size_is_that_of_a_vector():
    vae = zoo.create("mean_field", event_shape=5, latent_dim=2)
    assert vae.event_shape == (5,)
    assert zoo.VAE(vae.model, vae.guide, 5).event_shape == (5,)


def test_latents_and_data_may_be_arrays():
    vae = zoo.create("mean_field", event_shape=5, latent_dim=2)
    assert vae.decode(np.zeros((3, 2))).shape == (3, 5)
    assert vae.interpolate(np.zeros(5), np.ones(5), steps=3).shape == (3, 5)


@pytest.mark.parametrize("copied", [False, True])
def test_stock_svi_leaves_frozen_parameters_alone(copied):
    """Pyro's store would unfreeze a module's own parameter as it enters it."""
    options = {"prior": "vamp", "pseudo_inputs": 3, "latent_dim": 2}
    vae = zoo.create("mean_field", event_shape=(4,), **options)
    vae.model.prior.pseudo_inputs.requires_grad_(False)
    vae = copy.deepcopy(vae) if copied else zoo.VAE(vae.model, vae.guide, (4,))
    before = vae.model.prior.pseudo_inputs.clone()
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.1}), Trace_ELBO())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not registered in the param store")
        svi.step(torch.rand(9, 4).round())
    assert torch.equal(vae.model.prior.pseudo_inputs, before)
    assert not vae.model.prior.pseudo_inputs.requires_grad


def test_whole_numbers_that_are_parameters_stay_what_they_are():
    """They have no gradient to be frozen from."""
    like = zoo.create("mean_field", event_shape=(3,), latent_dim=2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = like.model
            self.order = nn.Parameter(torch.arange(2), requires_grad=False)

        def forward(self, x):
            return self.inner(x)

    vae = zoo.VAE(Model(), like.guide, (3,))
    assert copy.deepcopy(vae).model.order.tolist() == [0, 1]


@pytest.mark.parametrize(
    "shape", [range(2, 4), (n for n in (2, 3)), torch.Size([2, 3])]
)
def test_a_shape_is_any_sizes_in_a_row(shape):
    assert zoo.create("mean_field", event_shape=shape).event_shape == (2, 3)


def test_a_whole_model_is_checked_before_it_is_asked_for_arguments():
    made = functools.partial(whole)
    with pytest.raises(zoo.UserError, match="partial has no argument likelihood"):
        zoo.create(model=made, event_shape=(3,), likelihood="poisson")
    with pytest.raises(zoo.UserError, match="expected a function that makes a VAE"):
        zoo.create(model="iaf", event_shape=(3,), likelihood="poisson")
