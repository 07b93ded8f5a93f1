"""Mixtures as posteriors: the distribution, and the bound summed over its components."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, quick, small
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.inference.terms import score_latents
from pyro_vae_zoo.models.mixture import COMPONENTS, WEIGHTS
from pyro_vae_zoo.models.recursive_mixture import mixture_of


def normal(loc, scale):
    return dist.Normal(torch.as_tensor(loc).double(), scale).to_event(1)


def three_gaussians(batch=5, dim=2, seed=0):
    """A mixture of three with weights that differ from datum to datum."""
    generator = torch.Generator().manual_seed(seed)
    loc = 2 * torch.randn(3, batch, dim, generator=generator).double()
    scale = 0.3 + torch.rand(3, batch, dim, generator=generator).double()
    logits = torch.randn(batch, 3, generator=generator).double()
    components = [
        dist.Normal(m, s).to_event(1) for m, s in zip(loc, scale, strict=True)
    ]
    return Mixture(logits.log_softmax(-1), components)


def bits(batch=4):
    return torch.rand(batch, 2, 3).bernoulli().double()


# ------------------------------------------------------------------ the distribution


def test_log_prob_is_the_brute_force_sum():
    """RM2: logsumexp over components of densities that are summed over dimensions."""
    q = three_gaussians()
    z = torch.randn(7, 5, 2).double()
    total = torch.zeros(7, 5).double()
    for i, j, m in itertools.product(range(7), range(5), range(3)):
        base, density = q.components[m].base_dist, 1.0
        for d in range(2):
            loc, scale = base.loc[j, d], base.scale[j, d]
            y = (z[i, j, d] - loc) / scale
            density = density * (-0.5 * y**2).exp() / (scale * math.sqrt(2 * math.pi))
        total[i, j] += q.log_weights[j, m].exp() * density
    torch.testing.assert_close(q.log_prob(z), total.log())


@pytest.mark.parametrize("component", quick(COMPONENTS, "gaussian", "affine_coupling"))
def test_integrates_to_one(component):
    """RM2, on a grid in two dimensions, whatever the components are."""
    torch.manual_seed(0)
    vae = small("mixture", component=component, num_components=2).double()
    perturb(vae.guide, 0.3)
    axis = torch.linspace(-9, 9, 241).double()
    z = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        q = mixture_of(vae.guide, torch.ones(1, 2, 3).double())
        mass = q.log_prob(z).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=2e-3)


def test_draws_are_of_the_mixture():
    """Moments and shares of draws against closed forms, for each datum."""
    torch.manual_seed(0)
    q, n = three_gaussians(), 200_000
    z = q.sample((n,))
    weights = q.log_weights.exp()
    loc = torch.stack([c.base_dist.loc for c in q.components], 1)
    scale = torch.stack([c.base_dist.scale for c in q.components], 1)
    mean = (weights[..., None] * loc).sum(1)
    second = (weights[..., None] * (loc**2 + scale**2)).sum(1)
    error = (second - mean**2).sqrt() / math.sqrt(n)
    assert ((z.mean(0) - mean).abs() < 5 * error).all()
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(z.square().mean(0), second, rtol=0.02, atol=0)
    # A component is responsible for as many draws as its weight says.
    shares = (q.log_weights + q.component_log_prob(z)).softmax(-1).mean(0)
    torch.testing.assert_close(shares, weights, rtol=0, atol=5 * 0.5 / math.sqrt(n))


def test_of_one_component_is_that_component():
    """RM1, in every bit, random numbers included."""
    q0 = three_gaussians().components[0]
    q = Mixture(torch.zeros(1).double(), [q0])
    torch.manual_seed(3)
    expected = q0.rsample((4,))
    torch.manual_seed(3)
    z = q.rsample((4,))
    assert torch.equal(z, expected)
    assert torch.equal(q.log_prob(z), q0.log_prob(z))


def test_of_identical_components_is_that_component():
    """RM1."""
    q = three_gaussians()
    same = Mixture(q.log_weights, [q.components[0]] * 3)
    z = torch.randn(9, 5, 2).double()
    torch.testing.assert_close(same.log_prob(z), q.components[0].log_prob(z))


def test_an_inactive_component_takes_no_part():
    q = three_gaussians()
    weights = q.log_weights.clone().requires_grad_()
    inactive = torch.tensor([False, True, False])
    masked = weights.masked_fill(inactive, -torch.inf).log_softmax(-1)
    first, second, third = q.components
    rest = Mixture(q.log_weights[:, ::2].log_softmax(-1), [first, third])
    without = Mixture(masked, q.components)
    z = torch.randn(9, 5, 2).double()
    torch.testing.assert_close(without.log_prob(z), rest.log_prob(z))
    far = normal([99.0, 99.0], 0.1)
    assert Mixture(masked, [first, far, third]).sample((500,)).max() < 50
    without.log_prob(z).sum().backward()
    assert weights.grad.isfinite().all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_no_draw_comes_from_a_weight_of_zero(uniform, monkeypatch):
    """At either end of what `torch.rand` returns, with weights of zero at both ends."""
    components = [normal([100.0 * m], 1.0) for m in range(4)]
    q = Mixture(torch.tensor([0.0, 0.3, 0.7, 0.0]).double().log(), components)
    monkeypatch.setattr(
        torch, "rand", lambda shape, **kwargs: torch.full(shape, uniform, **kwargs)
    )
    expected = 100 if uniform == 0 else 200
    assert abs(q.rsample().item() - expected) < 10


def test_first_renormalises():
    q = three_gaussians()
    two = q.first(2)
    torch.testing.assert_close(two.log_weights.exp().sum(-1), torch.ones(5).double())
    odds = q.log_weights[:, 0] - q.log_weights[:, 1]
    torch.testing.assert_close(two.log_weights[:, 0] - two.log_weights[:, 1], odds)


def test_a_weight_for_each_component():
    with pytest.raises(zoo.UserError, match="a weight for each of 3 components, got 2"):
        Mixture(torch.zeros(2), three_gaussians().components)


def permuted(state, order):
    """The state of a guide whose components are numbered otherwise."""
    kinds = ("guide.encoders.", "guide.posteriors.", "guide.weights.heads.")
    new = {}
    for name, value in state.items():
        for kind in kinds:
            if name.startswith(kind):
                number, _, rest = name.removeprefix(kind).partition(".")
                name = f"{kind}{order[int(number)]}.{rest}"
                break
        new[name] = value
    return new


def test_permuting_components_changes_nothing():
    """RM8: Q, its bound and the law of its draws."""
    torch.manual_seed(0)
    vae = small("mixture", num_components=3).double()
    perturb(vae)
    other = small("mixture", num_components=3).double()
    other.load_state_dict(permuted(vae.state_dict(), [2, 0, 1]))
    x, z = bits(), torch.randn(50, 4, 2).double()
    q, p = mixture_of(vae.guide, x), mixture_of(other.guide, x)
    torch.testing.assert_close(q.components[0].mean, p.components[2].mean)
    assert not torch.equal(q.components[0].mean, p.components[0].mean)
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z))
    torch.testing.assert_close(q.mean, p.mean)
    ours, theirs = (zoo.log_likelihood(v, x, 20_000) for v in (vae, other))
    error = (ours.std_error**2 + theirs.std_error**2).sqrt()
    assert ((ours.log_prob - theirs.log_prob).abs() < 5 * error).all()


# ------------------------------------------------- components that share their network


def coded(**options):
    torch.manual_seed(0)
    vae = small("mixture", num_components=3, one_hot=True, **options).double()
    perturb(vae)
    return vae


@pytest.mark.parametrize("component", ["gaussian", "affine_coupling"])
def test_a_one_hot_code_is_an_input_beside_the_features(component):
    """Hotti et al. 2024: one network of features and code, whichever the component."""
    vae, x = coded(component=component), bits()
    (encoder,), (head,) = vae.guide.encoders, vae.guide.posteriors
    layer, h = vae.guide.codes, encoder(x)
    both = torch.cat([layer.linear.weight, layer.code.weight], 1)
    z = torch.randn(4, 2).double()
    for m, q in enumerate(mixture_of(vae.guide, x).components):
        code = torch.eye(3).double()[m].expand(len(x), -1)
        features = torch.cat([h, code], 1) @ both.T + layer.linear.bias
        expected = head(nn.functional.elu(features))
        torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))


def test_a_component_more_costs_a_bias():
    three, four = (
        small("mixture", num_components=n, one_hot=True, weights="uniform")
        for n in (3, 4)
    )
    count = [sum(p.numel() for p in vae.parameters()) for vae in (three, four)]
    assert count[1] - count[0] == three.guide.codes.linear.out_features


def test_permuting_the_codes_permutes_the_components():
    vae, x = coded(), bits()
    before = mixture_of(vae.guide, x).components
    with torch.no_grad():
        code = vae.guide.codes.code.weight
        code.copy_(code[:, [2, 0, 1]])
    after = mixture_of(vae.guide, x).components
    for q, p in zip(after, [before[m] for m in (2, 0, 1)], strict=True):
        torch.testing.assert_close(q.mean, p.mean)


def test_uniform_weights_stay_uniform():
    data = zoo.Dataset(torch.rand(30, 2, 3).bernoulli())
    vae = small("mixture", num_components=3, one_hot=True, weights="uniform")
    zoo.fit(vae, data, epochs=2, kl_warmup=0, progress=False)
    q = mixture_of(vae.guide, data.train[:4])
    torch.testing.assert_close(q.log_weights.exp(), torch.full((3,), 1 / 3))
    assert not any("weights" in name for name in vae.state_dict())


@pytest.mark.parametrize("weights", ["even", None, ["uniform"]])
def test_unknown_weights(weights):
    with pytest.raises(zoo.UserError, match="unknown weights .* known: amortized"):
        small("mixture", weights=weights)


def test_two_ways_to_share_an_encoder():
    with pytest.raises(zoo.UserError, match="leave out shared_trunk"):
        small("mixture", one_hot=True, shared_trunk=True)


# ------------------------------------------------------- the bound over the components


def gradients(vae, loss, x, repeats):
    """Mean and standard error of each parameter's gradient, by name."""
    draws = []
    for _ in range(repeats):
        vae.zero_grad()
        loss.differentiable_loss(vae.model, vae.guide, x).backward()
        draws.append([torch.zeros_like(p) if p.grad is None else p.grad.clone()
                      for p in vae.parameters()])  # fmt: skip
    names = [name for name, _ in vae.named_parameters()]
    stacks = [torch.stack(grads) for grads in zip(*draws, strict=True)]
    return {
        name: (stack.mean(0), stack.std(0) / math.sqrt(repeats))
        for name, stack in zip(names, stacks, strict=True)
    }


def differ(one, two):
    """The difference of two such gradients in their errors, the largest entry."""
    error = (one[1] ** 2 + two[1] ** 2).sqrt() + 1e-10
    return ((one[0] - two[0]).abs() / error).max().item()


@pytest.mark.parametrize("weights", ["amortized", "constant"])
def test_trace_elbo_and_the_sum_over_components_have_one_gradient(weights):
    """The score of the choice makes up for what a draw does not know of the weights."""
    torch.manual_seed(0)
    vae = small("mixture", num_components=2, weights=weights).double()
    perturb(vae)
    x = bits()
    stock = Trace_ELBO(300, max_plate_nesting=1, vectorize_particles=True)
    drawn = gradients(vae, stock, x, 60)
    summed = gradients(vae, zoo.AnnealedELBO(300), x, 60)
    for name in drawn:
        assert differ(drawn[name], summed[name]) < 5, name
    # Which says something, since the weights' gradient is far from zero.
    heads = [g for name, g in summed.items() if "weights" in name]
    assert max((mean.abs() / (error + 1e-10)).max() for mean, error in heads) > 10


@pytest.mark.parametrize(
    "options",
    [
        {"num_particles": 3},
        {"num_particles": 3, "bound": "iwae"},
        {"kl_weight": 0.3},
        {"free_bits": 0.4},
        {"free_bits": 40.0},
        {"sticking_the_landing": True},
        {"joint_weight": 0.5},
    ],
)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_objectives_are_sums_over_the_components(weights, options):
    """Against the definition, written out for the same draws."""
    torch.manual_seed(0)
    vae = small("mixture", num_components=2, weights=weights).double()
    perturb(vae)
    x = bits()
    loss = zoo.AnnealedELBO(**options)
    torch.manual_seed(1)
    value, elbo = loss.loss_and_elbo(vae.model, vae.guide, x)

    k = loss.num_particles
    torch.manual_seed(1)
    with pyro.plate("particles", k, dim=-2):
        vae.guide(x)  # the draw in whose place the components' draws are
    state = torch.get_rng_state()
    q = mixture_of(vae.guide, x)
    torch.set_rng_state(state)
    z = torch.stack([c.rsample((k,)) for c in q.components])
    likelihood, prior = score_latents(vae.model, x, z)
    log_q = q.log_prob(z)
    log_alpha = q.log_weights.expand(4, -1).T[:, None]
    gains = likelihood + prior - log_q

    def mean(values):
        return (log_alpha.exp() * values).mean(1).sum(0)

    plain = mean(gains).sum()
    if loss.bound == "iwae":
        plain = ((log_alpha + gains).logsumexp((0, 1)) - math.log(k)).sum()
    torch.testing.assert_close(elbo, plain)
    expected = plain
    if "free_bits" in options:
        kl = mean(log_q - prior).mean().clamp(min=options["free_bits"])
        expected = len(x) * (mean(likelihood).mean() - kl)
    elif loss.bound == "elbo":
        beta, joint = options.get("kl_weight", 1), options.get("joint_weight", 1)
        terms = joint * (likelihood + beta * prior) - beta * log_q
        expected = mean(terms).sum()
    torch.testing.assert_close(value, -expected)


def test_sticking_the_landing_has_the_same_gradient_on_average():
    torch.manual_seed(0)
    vae = small("mixture", num_components=2).double()
    perturb(vae)
    x = bits()
    plain = gradients(vae, zoo.AnnealedELBO(300), x, 40)
    stl = gradients(vae, zoo.AnnealedELBO(300, sticking_the_landing=True), x, 40)
    for name in plain:
        assert differ(plain[name], stl[name]) < 5, name


@pytest.mark.parametrize("weights", WEIGHTS)
def test_evaluation_says_what_each_component_weighs(weights):
    torch.manual_seed(0)
    vae = small("mixture", num_components=3, weights=weights).double()
    perturb(vae)
    x = bits(7)
    q = mixture_of(vae.guide, x)
    expected = q.log_weights.exp().expand(7, 3).mean(0)
    for chunk_rows in (None, 10):
        result = zoo.evaluate(vae, x, 5, chunk_rows=chunk_rows)
        torch.testing.assert_close(
            torch.tensor(result.component_weights).double(), expected
        )
    assert zoo.evaluate(small("iaf"), x.float(), 5).component_weights is None


class TwoSites(nn.Module):
    """A guide that draws a mixture and something besides."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        sides = [normal([[m]] * len(x), 1.0) for m in (-1.0, 1.0)]
        with pyro.plate("data", len(x)):
            pyro.sample("z", Mixture(self.logits.log_softmax(-1), sides))
            pyro.sample("y", normal([[0.0]] * len(x), 1.0))


class TwoSitesModel(TwoSites):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal([[0.0]] * len(x), 1.0))
            y = pyro.sample("y", normal([[0.0]] * len(x), 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0).to_event(1), obs=x)


def test_a_mixture_that_is_not_the_only_site_is_refused_where_its_weights_would_starve():
    x = torch.ones(3, 1).double()
    loss = zoo.AnnealedELBO(bound="iwae", num_particles=2)
    with pytest.raises(zoo.UserError, match="'z' draws a mixture, whose weights"):
        loss.differentiable_loss(TwoSitesModel(), TwoSites(), x)
    guide = TwoSites()
    Trace_ELBO().differentiable_loss(TwoSitesModel(), guide, x).backward()
    assert guide.logits.grad.any()


@pytest.mark.parametrize("guide", ["mixture", "recursive_mixture"])
def test_steps_of_no_flow_are_warned_of(guide):
    how = {"event_shape": (2, 3), "latent_dim": 2, "hidden_dims": (4,)}
    with pytest.warns(UserWarning, match="num_flows=8 has no effect on a mixture of G"):
        zoo.create(guide, num_flows=8, **how)
    zoo.create(guide, num_flows=8, component="householder", **how)
