"""Networks of every kind for every shape of the data sets; likelihoods as laws."""

import functools
import math

import pyro
import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.distributions import BernoulliLogits, DiscretizedLogistic
from pyro_vae_zoo.nn.likelihoods import MIN_SCALE, make_likelihood
from pyro_vae_zoo.nn.names import NETWORKS
from pyro_vae_zoo.nn.networks import (
    ACTIVATIONS,
    Block,
    make_decoder,
    make_encoder,
)

SHAPES = [(8, 8), (28, 28), (28, 20), (3, 32, 32), (5, 7), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_any_network_for_any_image(network, shape):
    encoder, features = make_encoder(network, shape, (12, 10))
    decoder = make_decoder(network, 3, shape, 2, (12, 10))
    for batch in ((4,), (2, 4)):
        h = encoder(torch.rand(*batch, *shape))
        assert h.shape == (*batch, features)
        out = decoder(torch.randn(*batch, 3))
        assert out.shape == (*batch, 2 * math.prod(shape))
        out.sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_batch_is_independent(network):
    """A row's output is its own: no normalisation over the batch."""
    encoder, _ = make_encoder(network, (8, 8), (12, 10))
    x = torch.rand(6, 8, 8)
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]))


@pytest.mark.parametrize("network", ["gated_mlp", "conv"])
def test_an_activation_beside_gates_is_warned_of(network, tmp_path):
    with pytest.warns(UserWarning, match="activation=elu has no effect: .*mlp and re"):
        vae = zoo.create("iaf", event_shape=(8, 8), network=network, activation="elu")
    zoo.load(zoo.save(vae, tmp_path))  # says nothing more


@pytest.mark.parametrize(
    ("guide", "options"),
    [("iaf", {"network": "resnet"}), ("iaf", {}), ("gated_dag", {"network": "conv"})],
)
def test_an_activation_that_is_used_is_not(guide, options):
    zoo.create(guide, event_shape=(8, 8), activation="tanh", **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_differ(activation):
    encoder, _ = make_encoder("mlp", (4,), (6, 6), activation)
    kinds = {type(m) for m in encoder.modules()}
    assert ACTIVATIONS[activation] in kinds


def test_gates_are_linear_times_sigmoid():
    encoder, _ = make_encoder("gated_mlp", (4,), (5,))
    linear = encoder[1].linear
    x = torch.randn(3, 4)
    a, b = linear(x).chunk(2, -1)
    torch.testing.assert_close(encoder(x), a * torch.sigmoid(b))


@pytest.mark.parametrize("network", ["mlp", "gated_mlp", "resnet"])
def test_a_block_is_a_network_of_its_inputs_side_by_side(network):
    one = Block((7,), 3, (6, 5), network)
    two = Block((4, 3), 3, (6, 5), network)
    with torch.no_grad():
        two.rest.load_state_dict(one.rest.state_dict())
        a, b = one.inputs[0].weight.split((4, 3), dim=1)
        two.inputs[0].weight.copy_(a)
        two.inputs[1].weight.copy_(b)
        two.inputs[0].bias.copy_(one.inputs[0].bias)
    x, z = torch.randn(5, 4), torch.randn(2, 5, 3)
    expected = one(torch.cat([x.expand(2, 5, 4), z], -1))
    torch.testing.assert_close(two(x, z), expected)


def test_residual_blocks_pass_their_input_on():
    """At zero weights in the branch a block of equal widths is the identity."""
    block = make_encoder("resnet", (4,), (6, 6))[0][2]
    with torch.no_grad():
        block.net[-1].weight.zero_()
        block.net[-1].bias.zero_()
    h = torch.randn(3, 6)
    torch.testing.assert_close(block(h), h)


def test_blocks_have_no_convolutions():
    with pytest.raises(zoo.UserError, match="expected network mlp.*got 'conv'"):
        Block((4,), 3, (6,), "conv")


def test_vectors_have_no_convolutions():
    with pytest.raises(zoo.UserError, match=r"\(H, W\) or \(C, H, W\), got .*\(7,\)"):
        make_encoder("conv", (7,))
    with pytest.raises(zoo.UserError, match="unknown network 'vit'; known: mlp"):
        make_encoder("vit", (7,))
    with pytest.raises(zoo.UserError, match="unknown activation 'gelu'; known: relu"):
        make_encoder("mlp", (7,), activation="gelu")


def test_bernoulli_is_pyros():
    logits = torch.randn(50, 4, 5).double() * 10
    x = torch.rand(4, 5).lt(0.5).double()
    ours, theirs = BernoulliLogits(logits=logits), pyro.distributions.Bernoulli(
        logits=logits
    )  # fmt: skip
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    extreme = BernoulliLogits(logits=torch.tensor([-1e4, 1e4, -200.0]))
    got = extreme.log_prob(torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(got, torch.tensor([-1e4, 0.0, 0.0]))
    assert BernoulliLogits(logits=logits).expand((2, 50, 4, 5)).batch_shape[0] == 2
    with pytest.raises(ValueError, match="support"):
        BernoulliLogits(logits=torch.zeros(2), validate_args=True).log_prob(
            torch.tensor([0.5, 1.0])
        )


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
@pytest.mark.parametrize("loc", [-0.5, 0.0, 0.3, 1.0, 2.0])
def test_256_grey_levels_sum_to_one(loc, log_scale):
    levels = torch.arange(256).double() / 255
    law = DiscretizedLogistic(
        torch.tensor(loc).double(), torch.tensor(log_scale).double()
    )
    log_prob = law.log_prob(levels)
    assert log_prob.isfinite().all()
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_grey_levels_are_drawn_as_they_are_scored():
    law = DiscretizedLogistic(torch.tensor(0.4), torch.tensor(-2.5)).expand((40_000,))
    draws = law.sample()
    assert torch.equal((draws * 255).round() / 255, draws)
    levels = torch.arange(256) / 255
    one = DiscretizedLogistic(torch.tensor(0.4), torch.tensor(-2.5))
    expected = one.log_prob(levels).exp()
    counts = torch.bincount((draws * 255).round().long(), minlength=256) / len(draws)
    error = (expected / len(draws)).sqrt()
    assert ((counts - expected).abs() < 5 * error + 1e-4).all()


def test_discretised_logistic_is_finite_in_float32_far_out():
    law = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(-7.0))
    levels = (torch.arange(256) / 255).requires_grad_()
    log_prob = law.log_prob(levels)
    assert log_prob.isfinite().all()
    (grad,) = torch.autograd.grad(log_prob.sum(), levels)
    assert grad.isfinite().all()


def test_gaussian_scale_has_a_floor_and_learns():
    likelihood = make_likelihood("gaussian", (2, 2))
    assert likelihood.scale.item() == pytest.approx(0.5 + MIN_SCALE)
    with torch.no_grad():
        likelihood.raw_scale.fill_(-1e3)
    assert likelihood.scale.item() == pytest.approx(MIN_SCALE)
    likelihood(torch.zeros(3, 4)).log_prob(torch.ones(3, 2, 2)).sum().backward()
    assert likelihood.raw_scale.grad is not None


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "discretized_logistic"])
def test_event_shapes(name):
    likelihood = make_likelihood(name, (3, 4, 5))
    law = likelihood(torch.randn(7, 2, likelihood.num_params * 60))
    assert law.event_shape == (3, 4, 5)
    assert law.batch_shape == (7, 2)
    assert law.sample().shape == (7, 2, 3, 4, 5)
    assert law.mean.shape == (7, 2, 3, 4, 5)


def test_grey_images_meet_no_bernoulli_silently():
    vae = zoo.create("mean_field", event_shape=(4, 4), latent_dim=2)
    grey = torch.rand(5, 4, 4)
    for ask in (zoo.log_likelihood, zoo.evaluate):
        with pytest.raises(zoo.UserError, match="only 0 and 1"):
            ask(vae, grey, 10)
    with pytest.raises(zoo.UserError, match="only 0 and 1"):
        zoo.Dataset(grey, grey, grey)
    with pytest.raises(ValueError, match="support"):  # under stock Pyro too
        pyro.infer.Trace_ELBO().loss(vae.model, vae.guide, grey)


def test_options_of_networks_that_are_given_are_warned_of():
    parts = {
        "encoder": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5)),
        "decoder": torch.nn.Linear(2, 16),
    }
    make = functools.partial(zoo.create, "mean_field", event_shape=(4, 4), latent_dim=2)
    make(**parts, hidden_dims=[300, 300])  # the default, as JSON has it
    options = {"network": "conv", "hidden_dims": (7,), "activation": "tanh"}
    with pytest.warns(UserWarning, match="has no effect") as warned:
        make(**parts, **options)
    assert [str(w.message).partition("=")[0] for w in warned] == [
        "network",
        "activation",
        "hidden_dims",
    ]
    # The one part of the pair's own has all three.
    make(encoder=parts["encoder"], network="resnet", hidden_dims=(7,), activation="elu")
