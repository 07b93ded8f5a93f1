"""Likelihoods, encoders and decoders: of counts, of the user's, and what is refused."""

import functools
import itertools

import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, quick, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.nn.likelihoods import (
    Binomial,
    NegativeBinomialLikelihood,
    make_likelihood,
)
from pyro_vae_zoo.nn.partition import block_likelihoods
from pyro_vae_zoo.testing import check_vae

SIZES = {"binomial": {"total_count": 2}, "categorical": {"num_classes": 3}}
COUNTS = ("binomial", "poisson", "negative_binomial", "categorical")


def vae_of(likelihood, guide="full_rank", event_shape=(3,), **options):
    torch.manual_seed(0)
    options |= SIZES.get(likelihood, {})
    return small(guide, event_shape, likelihood=likelihood, **options)


# ------------------------------------------------------------------------- densities


@pytest.mark.parametrize(
    "likelihood", quick(COUNTS, "categorical", "binomial", "poisson")
)
def test_probabilities_of_all_counts_sum_to_one(likelihood):
    """Of each likelihood, and by importance sampling of the pair."""
    p = make_likelihood(vae_of(likelihood).model.likelihood, (3,))
    largest = 2 if likelihood in SIZES else 60
    x = torch.arange(largest + 1.0)[:, None].expand(-1, 3)
    params = torch.randn(3 * p.num_params)
    each = p(params).base_dist.log_prob(x).exp().sum(0)
    assert torch.allclose(each, torch.ones(3), atol=1e-4)

    vae = vae_of(likelihood, event_shape=(2,))
    perturb(vae, 0.2)
    top = 2 if likelihood in SIZES else 24
    all_x = torch.tensor(list(itertools.product(range(top + 1), repeat=2))).float()
    draws = 10_000 if likelihood == "poisson" else 40_000  # as the error below asks for
    ll = zoo.log_likelihood(vae, all_x, draws)
    probability = ll.log_prob.exp()
    error = (probability * ll.std_error).square().sum().sqrt()
    assert 4 * error < 0.02
    assert abs(probability.sum() - 1) < 0.02


def test_a_binomial_is_pytorchs():
    logits = torch.tensor([-40.0, -1.0, 0.5, 40.0])
    k = torch.tensor([[0.0, 1.0, 4.0, 16.0], [1.0, 3.0, 0.0, 15.0]])
    theirs = torch.distributions.Binomial(16, logits=logits.double()).log_prob(
        k.double()
    )
    assert torch.allclose(Binomial(16, logits).log_prob(k).double(), theirs, rtol=1e-5)
    assert Binomial(16, logits).expand((2, 4)).sample((7,)).shape == (7, 2, 4)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_a_mean_out_of_range_is_led_back(likelihood):
    """Probability and gradient are those at the limit."""
    p, x = make_likelihood(likelihood, (4,)), torch.tensor([3.0, 3.0, 9.0, 9.0])

    def scored(*log_means):
        params = torch.tensor(log_means, requires_grad=True)
        log_prob = p(params).log_prob(x)
        return log_prob, torch.autograd.grad(log_prob, params)[0]

    found = scored(20.0, -1e9, 2.0, 0.0)
    expected = scored(15.0, -15.0, 2.0, 0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found[1][0] < 0 < found[1][1]
    assert scored(torch.inf, -torch.inf, 2.0, 0.0)[0] == expected[0]


def test_a_scale_for_each_feature():
    torch.manual_seed(0)
    x = torch.randn(500, 2) * torch.tensor([0.1, 3.0])
    data = zoo.Dataset(x[:300], x[300:400], x[400:], "gaussian")
    options = {"latent_dim": 1, "hidden_dims": (8,), "feature_scales": True}
    vae = zoo.create("mean_field", data, **options)
    assert vae.model.likelihood.scale.shape == (2,)
    zoo.fit(vae, data, epochs=40, lr=3e-2, progress=False, compile=False)
    small_one, large_one = vae.model.likelihood.scale.tolist()
    assert 5 * small_one < large_one


@pytest.mark.parametrize("likelihood", COUNTS)
def test_counts_train_and_are_judged(likelihood, tmp_path):
    torch.manual_seed(0)
    x = torch.randint(0, 4, (60, 6)).float()
    data = zoo.Dataset(x[:40], x[40:50], x[50:], likelihood)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    assert x.max() == 3
    known = {"binomial": {"total_count": 3}, "categorical": {"num_classes": 4}}
    own = {"latent_dim": 2, "hidden_dims": (8,), "network": "gated_mlp"}
    assert vae.config["options"] == own | known.get(likelihood, {})
    zoo.fit(vae, data, epochs=2, progress=False, compile=False)
    check_vae(vae, data.train[:8])
    again = zoo.load(zoo.save(vae, tmp_path))
    both = [zoo.evaluate(v, data.test, 10).elbo for v in (vae, again)]
    assert both[0] == both[1]
    assert vae.sample(2).dtype == torch.float32
    with pytest.raises(zoo.UserError, match="whole numbers from 0"):
        zoo.evaluate(vae, data.test + 0.5)


def test_what_a_size_does_not_allow_is_refused():
    with pytest.raises(zoo.UserError, match="'binomial' needs total_count, got none"):
        zoo.create("mean_field", event_shape=(3,), likelihood="binomial")
    vae = vae_of("binomial")
    with pytest.raises(zoo.UserError, match=r"got values in \[3, 3\]"):
        zoo.evaluate(vae, torch.full((4, 3), 3.0))


# ------------------------------------------------------------------------ the user's


class Flipped(nn.Module):
    name, num_params = "flipped bits", 1

    def __init__(self, event_shape, flip=0.1):
        super().__init__()
        self.event_shape, self.flip = tuple(event_shape), flip
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, params):
        p = (params + self.shift).unflatten(-1, self.event_shape).sigmoid()
        return dist.Bernoulli(self.flip + (1 - 2 * self.flip) * p).to_event(
            len(self.event_shape)
        )


LIKELIHOODS = (Flipped, Flipped((2, 3)))  # made by the zoo, or given as it is


class NoNumber(Flipped):
    num_params = None


class NoEvent(Flipped):
    def forward(self, params):
        return dist.Bernoulli(logits=params.unflatten(-1, self.event_shape))


def bits(n=8):
    return torch.rand(n, 2, 3).bernoulli()


@pytest.mark.parametrize("given", quick(LIKELIHOODS, Flipped))
def test_a_likelihood_of_the_users_works_everywhere(given, tmp_path):
    vae = small("full_rank", likelihood=given)
    assert vae.config["likelihood"] == "custom:Flipped"
    x = bits(40)
    data = zoo.Dataset(x[:20], x[20:30], x[30:])
    zoo.fit(vae, data, epochs=1, progress=False, compile=False)
    check_vae(vae, x[:8])
    assert zoo.evaluate(vae, data, 5).num_data == 10
    assert zoo.annealed_log_likelihood(vae, x[:2], 4, 5).log_prob.isfinite().all()
    assert zoo.inference_gaps(vae, x[:2], 5).amortisation_gap.isfinite().all()
    with pytest.raises(zoo.UserError, match="support of Bernoulli"):
        zoo.evaluate(vae, x + 0.5)
    path = zoo.save(vae, tmp_path)
    with pytest.raises(zoo.UserError, match=r"zoo.load\(path, likelihood=Flipped\)"):
        zoo.load(path)
    zoo.load(path, likelihood=Flipped)


def test_by_hand_a_name_of_the_zoos_is_no_promise():
    """Values are checked by what the module is, not by what it is called."""

    class Halves(Flipped):
        name = "bernoulli"

        def forward(self, params):
            p = dist.Normal(params.unflatten(-1, self.event_shape), 1.0)
            return p.to_event(len(self.event_shape))

    like = small("mean_field")
    model = zoo.StandardModel(like.model.decoder, Halves((2, 3)), 2)
    vae = zoo.VAE(model, like.guide, (2, 3))
    assert vae.likelihood is None
    assert zoo.evaluate(vae, torch.full((4, 2, 3), 0.5), 5).num_data == 4


class Scaled(nn.Module):
    """One line for all, a scale for each feature, and a tensor that is not learned."""

    num_params = 1

    def __init__(self, event_shape):
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.log_scale = nn.Parameter(torch.randn(event_shape))
        self.register_buffer("unit", torch.ones(event_shape))

    def forward(self, params):
        params = self.line(params[..., None]).unflatten(-2, self.unit.shape)
        p = dist.Normal(params.squeeze(-1), self.log_scale.exp() * self.unit)
        return p.to_event(self.unit.ndim)


class Apart(Scaled):
    """A module for each feature."""

    def __init__(self, event_shape):
        super().__init__(event_shape)
        self.each = nn.ModuleList(nn.Linear(1, 1) for _ in self.unit.flatten())


def test_each_block_has_a_likelihood_of_its_size():
    vae = small("self_reflective", (2, 4), likelihood=Scaled)
    first, second, third = (layer.likelihood for layer in vae.model.data_layers)
    assert first.line.bias is second.line.bias is third.line.bias
    assert [len(p.log_scale) for p in (first, second, third)] == [2, 2, 4]
    assert not torch.equal(first.log_scale, second.log_scale)
    check_vae(vae, torch.randn(8, 2, 4))
    first, second = block_likelihoods(Apart, (3, 2))
    assert first.each[0].bias is not second.each[0].bias


def test_likelihoods_of_blocks_draw_as_many_numbers_as_one():
    after = []
    for make in (lambda: Scaled((3,)), lambda: block_likelihoods(Scaled, (3, 4))):
        torch.manual_seed(0)
        make()
        after.append(torch.rand(()))
    assert after[0] == after[1]


@pytest.mark.parametrize("given", [Flipped((2, 3)), lambda: Flipped((2, 3))])
def test_a_likelihood_that_does_not_suit_a_block_is_refused(given):
    words = r"here of shape \(2,\); give a class .* Flipped does not run on parameters"
    with pytest.raises(zoo.UserError, match=words):
        small("bottom_up", likelihood=given)


def test_one_that_suits_any_vector_is_for_all_blocks():
    class Tails(nn.Module):
        num_params = 1

        def forward(self, params):
            return dist.StudentT(4.0, params, 1.0).to_event(1)

    tails = Tails()
    vae = small("bottom_up", (7,), num_layers=2, block_sizes=(3, 4), likelihood=tails)
    assert all(layer.likelihood is tails for layer in vae.model.data_layers)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        return self.linear(x.flatten(1) - x.flatten(1).mean(0))


NORMED = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5))


@pytest.mark.parametrize(
    ("place", "part", "words"),
    [
        ("likelihood", NoNumber, "needs an attribute num_params.*, got None"),
        ("likelihood", NoEvent, r"is `.to_event\(\)` missing"),
        ("likelihood", lambda: 3, "the likelihood to be an nn.Module, got int"),
        ("likelihood", "poison", "unknown likelihood 'poison'; did you mean 'poisson'"),
        (
            "encoder",
            NORMED,
            "2 of the encoder is a BatchNorm1d: its output for a datum",
        ),
        ("encoder", Mixing, "Mixing cannot be the encoder: its output for a datum"),
        ("encoder", nn.Linear(3, 2), "is a Flatten missing"),
        ("encoder", nn.Linear(7, 2), r"does not run on input of shape \(4, 2, 3\)"),
        ("encoder", "vit", "unknown encoder 'vit'"),
        ("decoder", nn.Linear(2, 7), "to 1 x 6 = 6 numbers for each datum"),
        ("decoder", nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6)), "BatchNorm1d"),
        ("decoder", lambda: None, "expected the decoder to be an nn.Module, got No"),
        ("prior", 3, "expected the prior as a name, a module, or .* makes one, got 3"),
        (
            "encoder",
            torch.zeros(2),
            "expected the encoder as a name, a module, or a cl",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(place, part, words):
    with pytest.raises(zoo.UserError, match=words):
        small("mean_field", **{place: part})


def test_a_layer_whose_state_moves_in_a_pass_mixes_no_data():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 50))
    before = [b.clone() for b in spectral.buffers()]
    small("mean_field", encoder=nn.Sequential(nn.Flatten(), spectral))
    assert all(map(torch.equal, spectral.buffers(), before))


def test_an_unknown_option_of_a_partial_class():
    guide = functools.partial(ActiveWidth, width=4)
    with pytest.raises(
        zoo.UserError, match="guide partial: 'latnet_dim'; did you mean"
    ):
        zoo.create(guide, event_shape=(6,), latnet_dim=2)


class ActiveWidth(nn.Module):
    def __init__(self, *, event_shape, latent_dim, hidden_dims, width=3):
        super().__init__()


class Encoder(nn.Sequential):
    def __init__(self, event_shape, width=5):
        super().__init__(
            nn.Flatten(), nn.Linear(torch.Size(event_shape).numel(), width)
        )


def decoder(latent_dim, event_shape, num_params):
    """Of an image, in the shape of one."""
    layers = nn.Linear(latent_dim, 6), nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 1, 1)
    return nn.Sequential(*layers)


GUIDES = ("mean_field", "iaf", "mixture", "recursive_mixture", "semi_amortized")


@pytest.mark.parametrize("guide", quick(GUIDES, "iaf"))
def test_networks_of_the_users(guide, tmp_path):
    vae = small(guide, encoder=Encoder, decoder=decoder, width=7)
    names = vae.config["encoder"], vae.config["decoder"]
    assert names == ("custom:Encoder", "custom:decoder")
    check_vae(vae, bits())
    again = zoo.load(zoo.save(vae, tmp_path), encoder=Encoder, decoder=decoder)
    x = bits()
    both = [zoo.log_likelihood(v, x, 20).log_prob for v in (vae, again)]
    assert torch.equal(*both)


def test_networks_by_their_kind_and_as_modules():
    vae = small("iaf", (8, 8), encoder="conv", decoder=nn.Linear(2, 64))
    assert type(vae.guide.encoder).__name__ == "FoldBatch"
    assert vae.model.decoder(torch.zeros(3, 4, 2)).shape == (3, 4, 64)
    with pytest.raises(zoo.UserError, match="for guides of one latent vector only"):
        zoo.create("ladder", event_shape=(2, 3), encoder=Encoder, decoder=decoder)
    one = Encoder((2, 3))
    with pytest.raises(
        zoo.UserError, match="each component of this guide has its own encoder"
    ):
        small("mixture", encoder=one)


# ------------------------------------------------------------------- the whole of it


def make_vae(event_shape, latent_dim=3):
    return small("mean_field", event_shape, latent_dim=latent_dim)


def test_a_whole_pair(tmp_path):
    vae = zoo.create(model=make_vae, event_shape=(2, 3), latent_dim=4)
    assert vae.config == {
        "guide": "model:make_vae",
        "event_shape": [2, 3],
        "likelihood": "custom:make_vae",
        "options": {"latent_dim": 4},
    }
    path = zoo.save(vae, tmp_path)
    with pytest.raises(zoo.UserError, match=r"zoo.load\(path, model=make_vae\)"):
        zoo.load(path)
    again = zoo.load(path, model=make_vae)
    assert again.model.latent_dim == 4
    with pytest.raises(
        zoo.UserError, match="unknown option of model 'make_vae': 'dim'"
    ):
        zoo.create(model=make_vae, event_shape=(2, 3), dim=4)
    with pytest.raises(zoo.UserError, match="leave out the guide and other parts"):
        zoo.create("iaf", model=make_vae, event_shape=(2, 3))
    with pytest.raises(zoo.UserError, match="got neither"):
        zoo.create(event_shape=(2, 3))
    with pytest.raises(
        zoo.UserError, match="expected nothing to return a zoo.VAE .*, got None"
    ):
        zoo.create(model=nothing, event_shape=(2, 3))
    with pytest.raises(zoo.UserError, match="model: expected a function .* got 'iaf'"):
        zoo.create(model="iaf", event_shape=(2, 3))


def test_a_whole_pair_is_loaded_with_the_likelihood_it_was_made_with(tmp_path):
    """It was called with its own default in place of the one that was given."""

    def make(event_shape, likelihood="bernoulli"):
        return small("mean_field", event_shape, likelihood=likelihood)

    path = zoo.save(
        zoo.create(model=make, event_shape=(2, 3), likelihood=Flipped), tmp_path
    )
    with pytest.raises(
        zoo.UserError, match="saved with a likelihood of your own, 'Flipped'"
    ):
        zoo.load(path, model=make)
    again = zoo.load(path, model=make, likelihood=Flipped)
    assert isinstance(again.model.likelihood, Flipped)
    with pytest.raises(zoo.UserError, match="leave out prior="):
        zoo.load(path, model=make, likelihood=Flipped, prior="flow")
    path = zoo.save(zoo.create(model=make_vae, event_shape=(2, 3)), tmp_path)
    with pytest.raises(
        zoo.UserError, match="would be ignored: make_vae has no argument"
    ):
        zoo.load(path, model=make_vae, likelihood=Flipped)


class Wasteful(nn.Module):
    """An encoder that needs far more memory than its weights do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.eye(2500), persistent=False)
        self.linear = nn.Linear(6, 2)

    def forward(self, x):
        wide = x.flatten(1)[:, :, None].expand(-1, -1, 200_000).sigmoid()
        return self.linear(wide.mean(-1))


def test_an_encoder_of_ones_own_may_be_larger_than_its_weights(tmp_path):
    """What it makes is not held against the file that its weights are in."""
    vae = small("mean_field", (2, 3), encoder=Wasteful)
    again = zoo.load(zoo.save(vae, tmp_path), encoder=Wasteful)
    assert torch.equal(
        again.state_dict()["guide.encoder.linear.weight"],
        vae.state_dict()["guide.encoder.linear.weight"],
    )


@pytest.mark.parametrize("layer", [nn.LazyLinear, functools.partial(nn.Linear, 6)])
def test_weights_of_an_encoder_are_of_the_callers_seed(layer):
    """Those of a lazy layer are drawn in its first pass, and were always the same."""

    def weight(seed):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Flatten(), layer(5))
        small("mean_field", (2, 3), encoder=encoder)
        return encoder[1].weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))


def test_a_whole_pair_has_a_likelihood_by_default():
    def make(event_shape, likelihood="gaussian"):
        return small("mean_field", event_shape, likelihood=likelihood)

    vae = zoo.create(model=make, event_shape=(2, 3))
    assert vae.likelihood == vae.model.likelihood.name == "gaussian"
    vae = zoo.create(model=make, event_shape=(2, 3), likelihood="bernoulli")
    assert vae.likelihood == "bernoulli"


def nothing():
    return None


def test_saving_says_what_cannot_be_built_again(tmp_path):
    vae = small("mean_field")
    bare = zoo.VAE(vae.model, vae.guide, (2, 3))
    with pytest.warns(UserWarning, match="only the weights are saved"):
        zoo.save(bare, tmp_path)

    class Odd(Flipped):
        def __init__(self, event_shape, law=None):
            super().__init__(event_shape)

    odd = small("mean_field", likelihood=Odd, law=dist.Normal(0.0, 1.0))
    with pytest.raises(zoo.UserError, match="option law cannot be saved"):
        zoo.save(odd, tmp_path)


def test_a_negative_binomial_keeps_its_digits_near_a_poisson():
    """Value and slope in float32, where those of its terms cancel."""
    torch.manual_seed(0)
    x = torch.poisson(torch.ones(1000))
    found = []
    for dtype in (torch.float32, torch.float64):
        likelihood = NegativeBinomialLikelihood((1000,)).to(dtype)
        with torch.no_grad():
            likelihood.raw_dispersion.fill_(3000.0)
        p = likelihood(torch.zeros(1, 1000, dtype=dtype))
        value = p.log_prob(x.to(dtype))
        assert value.dtype == dtype
        assert p.expand((2,)).log_prob(x.to(dtype)).shape == (2,)
        (slope,) = torch.autograd.grad(value.sum(), likelihood.raw_dispersion)
        found.append((value.double(), slope.double()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-10)


class Returns(nn.Module):
    """A network of the user's that returns what it should not."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda x: (x.flatten(1), x.flatten(1)), "row for each of 4 data, got tuple"),
        (lambda x: {"loc": x}, "row for each of 4 data, got dict"),
        (lambda x: x.sum(), r"row for each of 4 data, got \(\)"),
        (
            lambda x: x.flatten(1) / 0 - x.flatten(1) / 0,
            "returns values that are not finite",
        ),
    ],
)
def test_networks_that_return_something_else(what, words):
    with pytest.raises(zoo.UserError, match=words):
        zoo.create("mean_field", event_shape=(2, 2), encoder=Returns(what))


def test_a_likelihood_with_whole_numbers_in_a_buffer_runs():
    class Shifted(nn.Module):
        num_params = 1

        def __init__(self, event_shape):
            super().__init__()
            self.register_buffer("k", torch.arange(4))

        def forward(self, params):
            scale = torch.nn.functional.softplus(params)
            return dist.Normal(self.k.to(params), scale).to_event(1)

    assert zoo.create("mean_field", event_shape=(4,), likelihood=Shifted).model
