"""The ladder: precision weighing, its Markov structure, shared priors."""

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import perturb, small
from pyro import poutine

import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.create import depth, options_then
from pyro_vae_zoo.models.ladder import weigh

DEPTH = 4


def trained(**options):
    vae = small("ladder", num_layers=DEPTH, **options).double()
    perturb(vae)
    return vae.eval()


def bits(n=1):
    return torch.rand(n, 2, 3).double().bernoulli()


def nonzero(outputs, inputs):
    """Whether any of the outputs depends on the inputs."""
    (grad,) = torch.autograd.grad(
        outputs.sum(), inputs, retain_graph=True, allow_unused=True
    )
    return grad is not None and bool(grad.any())


def parameters(site):
    fn = site["fn"].base_dist
    return torch.cat([fn.loc.flatten(), fn.scale.flatten()])


# ---------------------------------------------------------------------- weighing


positive = st.floats(1e-3, 1e3)


@given(st.floats(-5, 5), positive, st.floats(-5, 5), positive)
def test_weighing_is_the_product_of_the_densities(loc, scale, prior_loc, prior_scale):
    """log N_1(z) + log N_2(z) differs from log of the result by a constant."""
    values = torch.tensor([loc, scale, prior_loc, prior_scale]).double()
    first, second, q = (
        dist.Normal(*v) for v in (values[:2], values[2:], weigh(*values))
    )
    z = q.loc + q.scale * torch.linspace(-2, 2, 5).double()
    constant = first.log_prob(z) + second.log_prob(z) - q.log_prob(z)
    size = max(abs(constant).max().item(), 1.0)
    assert (constant - constant[0]).abs().max() < 1e-8 * size


@pytest.mark.parametrize("power", [-20, 20])
def test_weighing_does_not_overflow(power):
    """In float32, where a precision of 1e40 would be infinite."""
    one = torch.ones(2)
    loc, scale = weigh(one, one * 10.0**power, -one, one)
    assert loc.isfinite().all()
    expected = one if power < 0 else -one  # the sharper of the two
    torch.testing.assert_close(loc, expected)
    torch.testing.assert_close(scale, one.clamp(max=10.0**power))


def test_equal_priors_and_evidence_halve_the_variance():
    loc, scale = weigh(
        torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0), 2 * torch.ones(())
    )
    assert loc.item() == pytest.approx(2.0)
    assert scale.item() ** 2 == pytest.approx(2.0)


# --------------------------------------------------------------------- structure


@pytest.fixture(params=[True, False], ids=["skip", "as in the paper"])
def skip(request):
    return request.param


@pytest.fixture
def run(skip):
    """One datum through guide and model, with gradients to x and to every z."""
    vae, x = trained(skip=skip), bits().requires_grad_()
    z = {
        f"z_{l}": torch.randn(1, 2).double().requires_grad_()
        for l in range(1, DEPTH + 1)
    }
    sides = [
        poutine.trace(poutine.condition(side, data=z)).get_trace(x).nodes
        for side in (vae.model, vae.guide)
    ]
    return x, z, *sides


@pytest.mark.parametrize("layer", range(1, DEPTH + 1))
def test_the_model_runs_from_the_top_down(run, skip, layer):
    """p(z_l) depends on all above, or on z_{l+1} alone; x on all, or on z_1 alone."""
    x, z, model, _ = run
    ours = parameters(model[f"z_{layer}"])
    depends = {
        l
        for l in range(1, DEPTH + 1)
        if ours.requires_grad and nonzero(ours, z[f"z_{l}"])
    }
    assert depends == above(layer, skip)
    assert not (ours.requires_grad and nonzero(ours, x))
    logits = model["x"]["fn"].base_dist.logits
    assert nonzero(logits, z[f"z_{layer}"]) == (skip or layer == 1)


def above(layer, skip):
    """The layers that one reads."""
    return set(range(layer + 1, DEPTH + 1 if skip else min(layer + 1, DEPTH) + 1))


@pytest.mark.parametrize("layer", range(1, DEPTH + 1))
def test_the_guide_sees_x_and_the_layers_above(run, skip, layer):
    x, z, _, guide = run
    ours = parameters(guide[f"z_{layer}"])
    assert nonzero(ours, x)
    depends = {l for l in range(1, DEPTH + 1) if nonzero(ours, z[f"z_{l}"])}
    assert depends == above(layer, skip)


def test_the_guide_weighs_evidence_with_the_models_own_prior(run):
    """So that it is at least as sharp as the prior, wherever that comes from."""
    _, _, model, guide = run
    for layer in range(1, DEPTH):
        q, p = (side[f"z_{layer}"]["fn"].base_dist for side in (guide, model))
        assert (q.scale < p.scale).all()


def test_without_evidence_the_posterior_is_the_prior():
    """A layer that says nothing, with an endless scale, costs no KL."""
    vae, x = trained(), bits(5)
    with torch.no_grad():
        for layer in vae.guide.evidence[:-1]:
            layer.net.weight.zero_()
            layer.net.bias.fill_(1e8)
    kl = zoo.evaluate(vae, x, 10).kl_per_site
    for l in range(1, DEPTH):
        assert kl[f"z_{l}"] == pytest.approx(0.0, abs=1e-6)
    assert kl[f"z_{DEPTH}"] > 0.01


def test_one_layer_is_mean_field():
    """The same distributions from the same networks."""
    ladder = small(
        "ladder", num_layers=1, latent_dim=3, hidden_dims=(8,), activation="relu"
    )
    plain = small("mean_field", latent_dim=3, hidden_dims=(8,), network="mlp")
    ours, theirs = ladder.state_dict(), plain.state_dict()
    with torch.no_grad():
        plain.guide.encoder.load_state_dict(ladder.guide.upward[0].state_dict())
        plain.model.decoder.load_state_dict(ladder.model.decoder.state_dict())
        plain.guide.posterior.linear.load_state_dict(
            ladder.guide.evidence[0].net.state_dict()
        )
    assert len(ours) == len(theirs)
    x = bits(6).float()
    torch.testing.assert_close(
        zoo.log_likelihood(ladder, x, 50).log_prob,
        zoo.log_likelihood(plain, x, 50).log_prob,
    )


def test_layers_may_have_sizes_of_their_own():
    """From the bottom up, whatever the number of layers and their size say."""
    vae = small("ladder", latent_dims=(5, 3, 1), latent_dim=20).double()
    x = bits(6)
    nodes = poutine.trace(vae.guide).get_trace(x).nodes
    sizes = {name: tuple(nodes[name]["value"].shape) for name in ("z_1", "z_2", "z_3")}
    assert sizes == {"z_1": (6, 5), "z_2": (6, 3), "z_3": (6, 1)}
    assert "z_4" not in nodes
    assert depth(vae.config["options"]) == {"L": 3}
    assert zoo.evaluate(vae, x, 10).log_likelihood < 0


def test_upper_layers_are_in_use_where_the_papers_collapse(skip):
    """Data of three binary causes, each of them of four bits of x."""
    torch.manual_seed(0)
    causes = torch.rand(400, 3).bernoulli()
    x = causes.repeat_interleave(4, 1)
    x = torch.where(torch.rand(x.shape) < 0.05, 1 - x, x)
    options = {"num_layers": 3, "latent_dim": 2, "hidden_dims": (32,), "skip": skip}
    vae = zoo.create("ladder", event_shape=(12,), **options)
    data = zoo.Dataset(x, valid=x[:100], test=x[:100])
    zoo.fit(vae, data, epochs=60, lr=3e-3, kl_warmup=6, progress=False)
    kl = zoo.evaluate(vae, x, 10).kl_per_site
    assert sum(kl.values()) > 1
    assert (kl["z_2"] + kl["z_3"] > 0.5) == skip


def test_a_record_says_whether_it_has_skip_connections(tmp_path):
    """One of version 0.1.0 says nothing, and has none."""
    vae = small("ladder", num_layers=2)
    assert vae.config["options"]["skip"] is True
    assert options_then("ladder", {"num_layers": 2}) == {"skip": False, "num_layers": 2}
    path = zoo.save(small("ladder", num_layers=2, skip=False), tmp_path / "vae")
    assert zoo.load(path).model.skip is False


def test_it_is_comparable_with_the_hierarchy():
    """As many latents, and within a tenth as many parameters."""
    sizes, latents = [], []
    for name in ("ladder", "self_reflective"):
        vae = zoo.create(name, event_shape=(28, 28))
        sizes.append(sum(p.numel() for p in vae.parameters()))
        options = zoo.guide_options(name)
        latents.append(options["num_layers"] * options["latent_dim"])
    assert latents[0] == latents[1] == 100
    assert abs(sizes[0] / sizes[1] - 1) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "must be at least 1"),
        ({"latent_dim": 0}, "must be at least 1"),
        ({"hidden_dims": ()}, "hidden_dims must be positive"),
    ],
)
def test_sizes_are_checked(options, message):
    with pytest.raises(zoo.UserError, match=message):
        small("ladder", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dims": (3, 0)}, "latent_dims must be at least 1"),
        ({"latent_dims": (2.5,)}, "latent_dims: expected a whole number, got 2.5"),
        ({"latent_dims": "ab"}, "expected a size for each layer, got 'ab'"),
        ({"latent_dims": None}, "expected a size for each layer, got None"),
        (
            {"latent_dims": (3, 2), "num_layers": 3},
            "leave out num_layers and latent_dim",
        ),
        (
            {"latent_dims": (3, 2), "latent_dim": 3},
            "leave out num_layers and latent_dim",
        ),
    ],
)
def test_sizes_of_the_layers_are_checked(options, message):
    with pytest.raises(zoo.UserError, match=message):
        zoo.create("ladder", event_shape=(2, 3), hidden_dims=(4,), **options)


@pytest.mark.parametrize("skip", [True, False])
def test_scales_below_the_top_cannot_vanish(skip):
    """A latent that is not used would get one of 1e-6, which no step survives."""
    vae = zoo.create("ladder", event_shape=(3, 4), latent_dim=2, skip=skip)
    with torch.no_grad():
        for p in vae.parameters():
            p.fill_(-3.0)
    for side, least in ((vae.model, 0.01), (vae.guide, 0.007)):
        trace = poutine.trace(side).get_trace(torch.zeros(5, 3, 4))
        found = [trace.nodes[f"z_{l}"]["fn"].base_dist.scale for l in range(1, 5)]
        assert (min(scale.min() for scale in found) >= least) == skip
