"""Paper (a): the invariants SR2 to SR9 of the hierarchy, and of its baseline.

SR1, the rank-one bijector, is in test_transforms.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import perturb, quick, small
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from reports import result
from torch import nn
from torch.autograd.functional import jacobian

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.models.self_reflective import (
    BIJECTORS,
    PRIORS,
    SelfReflectiveGuide,
    SelfReflectiveModel,
)
from pyro_vae_zoo.nn.networks import Block, LatentBlock
from pyro_vae_zoo.nn.partition import Partition
from pyro_vae_zoo.pair.vae import Shared
from pyro_vae_zoo.report import summarise
from pyro_vae_zoo.testing import check_vae

HIERARCHIES = ("self_reflective", "self_reflective_iaf", "bottom_up")
DEPTH = 4


def bits(n=8, event_shape=(2, 3)):
    return torch.rand(n, *event_shape).bernoulli()


def trained(name="self_reflective", **options):
    """A hierarchy of four layers on six pixels, at trained-scale weights."""
    vae = small(name, num_layers=DEPTH, **options).double()
    perturb(vae)
    return vae.eval()


def grad(outputs, inputs):
    """d outputs / d inputs, a matrix; of one datum."""
    rows = [
        torch.autograd.grad(o, inputs, retain_graph=True, allow_unused=True)[0]
        for o in outputs.flatten()
    ]
    zeros = torch.zeros_like(inputs)
    return torch.stack([zeros if r is None else r for r in rows]).flatten(1)


def parameters(fn):
    return torch.cat([fn.base_dist.loc, fn.base_dist.scale], -1)


@pytest.fixture
def model_run():
    """One datum through the model, eps and x with gradients."""
    vae = trained()
    x = bits(1).double().requires_grad_()
    eps = {
        f"eps_{l}": torch.randn(1, 2).double().requires_grad_()
        for l in range(1, DEPTH + 1)
    }
    trace = poutine.trace(poutine.condition(vae.model, data=eps)).get_trace(x)
    return vae, x, eps, trace.nodes


@pytest.mark.parametrize("name", HIERARCHIES)
@pytest.mark.parametrize("least", [0.01, 0.0])
def test_scales_stay_above_the_least_one(name, least):
    """Those of an unused latent would reach 1e-6 together, which no step survives."""
    vae = small(name, num_layers=DEPTH, least_scale=least, prior="amortised")
    with torch.no_grad():
        for p in (*vae.model.priors.parameters(), *vae.guide.posteriors.parameters()):
            p.fill_(-30.0 if p.ndim == 1 else 0.0)
    for side in (vae.model, vae.guide):
        nodes = poutine.trace(side).get_trace(bits()).nodes
        scales = [
            nodes[f"eps_{l}"]["fn"].base_dist.scale.min() for l in range(1, DEPTH + 1)
        ]
        assert len(scales) == DEPTH
        for scale in scales:
            torch.testing.assert_close(scale, torch.tensor(least + 1e-6))


# ------------------------------------------------------------------------- SR2


@pytest.mark.parametrize("layer", range(2, DEPTH + 1))
def test_priors_and_bijectors_see_the_layer_above_alone(model_run, layer):
    """Every path from older layers goes through z_{l-1}: the chain rule is exact."""
    _, x, eps, nodes = model_run
    z_above, z = nodes[f"z_{layer - 1}"]["value"], nodes[f"z_{layer}"]["value"]
    prior = parameters(nodes[f"eps_{layer}"]["fn"])
    for params in (prior, z):
        direct = grad(params, z_above)
        assert direct.abs().max() > 1e-3
        for j in range(1, layer):
            through = direct @ grad(z_above, eps[f"eps_{j}"])
            torch.testing.assert_close(grad(params, eps[f"eps_{j}"]), through)
    assert grad(prior, x).abs().max() == 0


@pytest.mark.parametrize("layer", range(1, DEPTH + 1))
def test_data_see_their_own_z_and_the_block_above_alone(model_run, layer):
    vae, x, eps, nodes = model_run
    logits = nodes[f"x_{layer}"]["fn"].base_dist.logits
    z = nodes[f"z_{layer}"]["value"]
    for j in range(1, DEPTH + 1):
        through = grad(logits, z) @ grad(z, eps[f"eps_{j}"])
        torch.testing.assert_close(grad(logits, eps[f"eps_{j}"]), through)
    sees = (grad(logits, x) != 0).any(0)
    expected = torch.zeros(6, dtype=torch.bool)
    start = sum(vae.model.partition.sizes[: max(layer - 2, 0)])
    if layer > 1:
        expected[start : start + vae.model.partition.sizes[layer - 2]] = True
    assert torch.equal(sees, expected)


# ------------------------------------------------------------------------- SR3


@pytest.mark.parametrize("name", HIERARCHIES)
def test_every_layer_of_the_guide_sees_the_whole_of_x(name):
    """Blocks that are generated above and below, not its own alone."""
    vae, x = trained(name), bits(1).double().requires_grad_()
    trace = poutine.trace(vae.guide).get_trace(x)
    for l in range(1, DEPTH + 1):
        q = parameters(trace.nodes[f"eps_{l}"]["fn"])
        assert (grad(q, x) != 0).any(0).all(), l


def test_the_second_row_of_the_paper_has_a_standard_prior():
    vae = small("self_reflective_iaf", prior="standard")
    for prior in vae.model.priors:
        p = prior(torch.randn(5, 2)).base_dist
        assert not p.loc.any()
        assert (p.scale == 1).all()
    assert not any(p.requires_grad for p in vae.model.priors.parameters())


def test_the_first_latent_sees_all_that_is_above_it():
    """Past the few hidden units that it has of a step's network."""
    for skip in (True, False):
        vae = small(
            "self_reflective_iaf",
            latent_dim=8,
            hidden_dims=(16,),
            flow_hidden_dims=(8,),
            num_layers=2,
            context_skip=skip,
        ).double()
        perturb(vae)
        step = vae.model.bijectors.layers[1].steps[0]
        context = torch.randn(16, dtype=torch.double)
        first = step.nn.permutation[0]

        def parameters_of(context, step=step, first=first):
            found = step.nn(torch.zeros(8).double(), context=context)
            return torch.stack([p[first] for p in found])

        many = torch.stack(
            [
                torch.autograd.functional.jacobian(parameters_of, context + k)[0]
                for k in range(10)
            ]
        )
        # One hidden unit: the slopes in all contexts lie on one line, but for the skip.
        assert torch.linalg.matrix_rank(many) == (2 if skip else 1)


def test_results_of_version_0_1_0_keep_their_names():
    """Whose defaults are not in the labels where all runs of the guide have them."""
    old = {"context_skip": False, "prior": "standard"}
    rows = [result("self_reflective_iaf", options=old), result("self_reflective")]
    labels = {row["label"] for row in summarise(rows)}
    assert labels == {"self_reflective_iaf (L = 10)", "self_reflective (L = 10)"}
    now = {"context_skip": True, "prior": "amortised"}
    both = [*rows, result("self_reflective_iaf", options=now, seed=1)]
    assert len({row["label"] for row in summarise(both)}) == 3


@pytest.mark.parametrize("layer", range(2, DEPTH + 1))
def test_the_guide_sees_older_layers_through_z_above_alone(layer):
    vae = trained()
    x = bits(1).double()
    eps = [torch.randn(1, 2).double().requires_grad_() for _ in range(DEPTH)]
    data = {f"eps_{l}": value for l, value in enumerate(eps, start=1)}
    trace = poutine.trace(poutine.condition(vae.guide, data=data)).get_trace(x)
    q = parameters(trace.nodes[f"eps_{layer}"]["fn"])
    z = None
    for bijector, value in zip(
        vae.model.bijectors.layers, eps[: layer - 1], strict=False
    ):
        z = bijector(z)(value)
    held = z.detach().requires_grad_()
    direct = grad(parameters(vae.guide.posteriors[layer - 1](x, held)), held)
    assert direct.abs().max() > 1e-3
    for value in eps[: layer - 1]:
        torch.testing.assert_close(grad(q, value), direct @ grad(z, value))
    assert all(grad(q, value).abs().max() == 0 for value in eps[layer - 1 :])


@pytest.mark.parametrize("name", ["self_reflective", "self_reflective_iaf"])
def test_bijectors_are_shared_and_have_one_optimiser_each(name):
    vae = small(name)
    assert vae.model.bijectors is vae.guide.bijectors
    optimizers = []

    class Counted(torch.optim.Adam):
        def __init__(self, params, **options):
            params = list(params)
            optimizers.extend(params)
            super().__init__(params, **options)

    optimizer = pyro.optim.PyroOptim(Counted, {"lr": 1e-3})
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    svi.step(bits())
    # Each parameter of the pair, the shared ones too, got exactly one.
    assert len(optimizers) == len({id(p) for p in optimizers})
    assert {id(p) for p in optimizers} == {id(p) for p in vae.parameters()}


# ------------------------------------------------------------------------- SR4


@pytest.mark.parametrize("bijector", BIJECTORS)
def test_kl_of_eps_is_that_of_z(bijector):
    """The log-determinants cancel draw by draw; the mean is the analytic KL."""
    vae = trained(bijector=bijector)
    x = bits(3).double()
    with torch.no_grad():
        torch.manual_seed(2)
        terms = bound_terms(vae.model, vae.guide, x, 4000)
        torch.manual_seed(2)
        closed = bound_terms(vae.model, vae.guide, x, 4000, analytic_kl=True)
    assert set(closed.kl) == set(closed.closed_kl) == set(terms.log_guide)
    z_space, z = 0.0, None
    for l, bijector in enumerate(vae.model.bijectors.layers, start=1):
        eps = terms.guide_trace.nodes[f"eps_{l}"]["value"]
        f = bijector(z)
        p = dist.TransformedDistribution(terms.model_trace.nodes[f"eps_{l}"]["fn"], [f])
        q = dist.TransformedDistribution(terms.guide_trace.nodes[f"eps_{l}"]["fn"], [f])
        z = f(eps)
        torch.testing.assert_close(z, terms.model_trace.nodes[f"z_{l}"]["value"])
        z_space = z_space + (q.log_prob(z) - p.log_prob(z)).detach()
    one_draw = sum(terms.kl.values())
    torch.testing.assert_close(z_space, one_draw)
    analytic = sum(closed.kl.values())
    difference = z_space - analytic
    error = difference.std(0) / math.sqrt(len(difference))
    assert (difference.mean(0).abs() < 4 * error).all()


# ------------------------------------------------------------------------- SR5


class Affine(nn.Module):
    """A Gaussian of an affine function of whatever inputs there are."""

    def __init__(self, weights, bias, scale):
        super().__init__()
        self.weights, self.bias, self.scale = weights, bias, scale

    def forward(self, *inputs):
        loc = self.bias
        for weight, value in zip(self.weights, inputs, strict=True):
            if value is not None:
                loc = loc + value @ weight.T
        return dist.Normal(loc, self.scale).to_event(1)


class LinearBijector(nn.Module):
    """z = c z_above + d eps, in one dimension."""

    def __init__(self, c, d):
        super().__init__()
        self.c, self.d = c, d

    def forward(self, z):
        shift = 0.0 if z is None else self.c * z
        return lambda eps: shift + self.d * eps


class LinearHierarchy:
    """Three layers of one latent and one element of x, all linear and Gaussian."""

    a = (0.0, 0.8, -0.7)  # eps_l ~ N(a_l z_{l-1} + b_l, s_l)
    b = (0.3, -0.2, 0.1)
    s = (1.2, 0.6, 0.9)
    c = (0.0, 0.9, 1.1)  # z_l = c_l z_{l-1} + d_l eps_l
    d = (0.7, 1.3, 0.8)
    w = (1.0, -0.8, 1.2)  # x_l ~ N(w_l z_l + v_l x_{l-1}, t)
    v = (0.0, 0.6, -0.5)
    t = 0.5

    def simulate(self, noise):
        """(eps, z, x) as a function of standard noise, nine numbers of six."""
        eps, z, x = [], [], []
        z_above = x_above = torch.zeros(()).double()
        for l in range(3):
            eps.append(self.a[l] * z_above + self.b[l] + self.s[l] * noise[l])
            z.append(self.c[l] * z_above + self.d[l] * eps[l])
            x.append(self.w[l] * z[l] + self.v[l] * x_above + self.t * noise[3 + l])
            z_above, x_above = z[l], x[l]
        return torch.stack([*eps, *z, *x])

    def __init__(self):
        zero = torch.zeros(6).double()
        self.mean = self.simulate(zero)
        root = jacobian(self.simulate, zero)
        self.covariance = root @ root.T

    def conditional(self, target, given):
        """Weights, bias and scale of N(target | given), indices into (eps, z, x)."""
        cov = self.covariance
        gain = cov[target][given] @ cov[given][:, given].inverse()
        variance = cov[target, target] - gain @ cov[given, target]
        return gain, self.mean[target] - gain @ self.mean[given], variance.sqrt()

    def model(self):
        def matrix(value):
            return torch.tensor([[value]]).double()

        priors = [
            Affine([matrix(a)], torch.tensor([b]).double(), s)
            for a, b, s in zip(self.a, self.b, self.s, strict=True)
        ]
        data_layers = [
            Affine([matrix(w), matrix(v)], torch.zeros(1).double(), self.t)
            for w, v in zip(self.w, self.v, strict=True)
        ]
        pairs = zip(self.c, self.d, strict=True)
        bijectors = Shared(LinearBijector(c, d) for c, d in pairs)
        partition = Partition((3,), 3, (1, 1, 1))
        return SelfReflectiveModel(priors, bijectors, data_layers, partition)

    def posteriors(self, above):
        """q(eps_l | what is above, x); `above` is where it lies in (eps, z, x)."""
        layers = []
        for l in range(3):
            given = [6, 7, 8] if l == 0 else [above + l - 1, 6, 7, 8]
            gain, bias, scale = self.conditional(l, given)
            weights = [gain[None, -3:], gain[None, :1] if l else None]
            layers.append(Affine(weights, bias[None], scale))
        return layers

    def log_prob(self, x):
        marginal = dist.MultivariateNormal(self.mean[6:], self.covariance[6:, 6:])
        return marginal.log_prob(x)


class EpsGuide(SelfReflectiveGuide):
    """The mistake: layer l is given eps_{l-1} in place of z_{l-1}."""

    def forward(self, x):
        eps = None
        with pyro.plate("data", len(x), dim=-1):
            for l, posterior in enumerate(self.posteriors, start=1):
                eps = pyro.sample(f"eps_{l}", posterior(x, eps))


def test_the_analytic_guide_has_weights_without_variance_and_eps_leaves_some():
    truth = LinearHierarchy()
    x = torch.randn(5, 3).double()
    model, log_prob = truth.model(), truth.log_prob(x)
    guide = SelfReflectiveGuide(truth.posteriors(above=3), model.bijectors)
    weights = bound_terms(model, guide, x, 50).log_weights
    torch.testing.assert_close(weights, log_prob.expand(50, 5))
    guide = EpsGuide(truth.posteriors(above=0), model.bijectors)
    weights = bound_terms(model, guide, x, 50).log_weights
    assert (weights.std(0) > 0.05).all()
    assert (weights.mean(0) < log_prob).all()


# ------------------------------------------------------------------------- SR6


def test_one_layer_is_a_plain_vae():
    """A learned prior through one constant affine map, and q from x alone."""
    vae = small("self_reflective", num_layers=1).double()
    perturb(vae)
    x = bits().double()
    terms = bound_terms(vae.model, vae.guide, x, 3)
    eps = terms.guide_trace.nodes["eps_1"]["value"]
    prior, bijector = vae.model.priors[0].net.value, vae.model.bijectors.layers[0]
    loc, raw_scale = prior.chunk(2)
    scale = nn.functional.softplus(raw_scale + math.log(math.e - 1)) + 1e-6
    c, raw_d, u = bijector.net.value.chunk(3)
    d = nn.functional.softplus(raw_d + math.log(math.expm1(0.999))) + 1e-3
    matrix = torch.diag(d) + torch.outer(u, u)
    logits = vae.model.data_layers[0].gamma(c + eps @ matrix)
    log_p = dist.Bernoulli(logits=logits).log_prob(x.flatten(1)).sum(-1)
    log_p = log_p + dist.Normal(loc, scale).log_prob(eps).sum(-1)
    q = vae.guide.posteriors[0](x, None)
    torch.testing.assert_close(terms.log_weights, log_p - q.log_prob(eps))


# ------------------------------------------------------------------------- SR7


def test_without_its_paths_the_hierarchy_is_independent_vaes():
    """Zero what z_{l-1} and x_{l-1} feed: each layer's term is of its own eps alone."""
    vae = trained()
    with torch.no_grad():
        for l in range(1, DEPTH):
            posterior = vae.guide.posteriors[l]
            fed_by_z = [vae.model.priors[l].net, vae.model.bijectors.layers[l].net]
            for net in (*fed_by_z, posterior.estimate):
                net.inputs[0].weight.zero_()
            posterior.correction.inputs[1].weight.zero_()
            vae.model.data_layers[l].delta.inputs[0].weight.zero_()
    x = bits(1).double()
    eps = {
        f"eps_{l}": torch.randn(1, 2).double().requires_grad_()
        for l in range(1, DEPTH + 1)
    }
    p, q = (
        poutine.trace(poutine.condition(side, data=eps)).get_trace(x).nodes
        for side in (vae.model, vae.guide)
    )
    total = 0.0
    for l in range(1, DEPTH + 1):
        term = p[f"x_{l}"]["fn"].log_prob(p[f"x_{l}"]["value"])
        term = term + p[f"eps_{l}"]["fn"].log_prob(eps[f"eps_{l}"])
        term = term - q[f"eps_{l}"]["fn"].log_prob(eps[f"eps_{l}"])
        for j in range(1, DEPTH + 1):
            moves = grad(term, eps[f"eps_{j}"]).abs().max() > 0
            assert moves == (j == l)
        total = total + term
    guide_trace = poutine.trace(vae.guide).get_trace(x)
    for name, value in eps.items():
        guide_trace.nodes[name]["value"] = value
    guide = poutine.replay(vae.guide, trace=guide_trace)
    weights = bound_terms(vae.model, guide, x).log_weights
    torch.testing.assert_close(weights.flatten(), total)


# ------------------------------------------------------------------------- SR8


@given(st.data())
def test_a_partition_is_a_bijection_of_the_elements(data):
    shape = data.draw(
        st.tuples(*[st.integers(1, 5)] * 2) | st.tuples(*[st.integers(1, 4)] * 3)
    )
    numel = math.prod(shape)
    num_blocks = data.draw(st.integers(1, numel))
    partition = Partition(shape, num_blocks)
    x = torch.arange(2 * numel).reshape(2, *shape)
    blocks = partition.split(x)
    assert [block.shape[-1] for block in blocks] == list(partition.sizes)
    assert len(set(partition.sizes[:-1])) <= 1
    assert min(partition.sizes) >= 1
    assert torch.equal(partition.join(blocks), x)
    flat = torch.cat(blocks, -1)
    assert torch.equal(flat.sort().values, x.flatten(1))


def test_blocks_are_in_raster_order_a_pixel_after_the_other():
    x = torch.arange(12).reshape(1, 2, 2, 3).movedim(-1, 1)  # (1, 3, 2, 2), HWC order
    blocks = Partition((3, 2, 2), 2).split(x)
    assert torch.cat(blocks, -1).tolist() == [list(range(12))]


def test_blocks_add_up_to_the_image():
    vae = trained()
    x = bits(5).double()
    terms = bound_terms(vae.model, vae.guide, x, 3)
    logits = [
        terms.model_trace.nodes[f"x_{l}"]["fn"].base_dist.logits
        for l in range(1, DEPTH + 1)
    ]
    whole = dist.Bernoulli(logits=vae.model.join(logits)).to_event(2)
    torch.testing.assert_close(whole.log_prob(x), terms.log_likelihood)


# ------------------------------------------------------------------------- SR9


def test_samples_couple_their_blocks():
    """The block that was drawn moves the next one, and that the one after it."""
    vae = trained()
    generate = poutine.uncondition(vae.model)
    logits = []
    for value in (0.0, 1.0):
        torch.manual_seed(1)
        first = {"x_1": torch.full((20, 1), value).double()}
        altered = poutine.condition(generate, data=first)
        trace = poutine.trace(altered).get_trace(vae._blank(20))
        logits.append([trace.nodes[f"x_{l}"]["fn"].base_dist.logits for l in (1, 2, 3)])
        x = trace.nodes["_RETURN"]["value"]
        assert torch.equal(x.flatten(1)[:, 0], first["x_1"][:, 0])
    assert torch.equal(logits[0][0], logits[1][0])
    assert not torch.equal(logits[0][1], logits[1][1])
    assert not torch.equal(logits[0][2], logits[1][2])


def test_reconstructions_use_no_observed_block():
    """From the same eps, other pixels of x change nothing (pitfall 6)."""
    vae = trained()
    x = bits().double()
    guide_trace = poutine.trace(vae.guide).get_trace(x)
    again = []
    for stand_in in (x, 1 - x):
        torch.manual_seed(2)
        decode = poutine.replay(poutine.uncondition(vae.model), trace=guide_trace)
        again.append(
            poutine.trace(decode).get_trace(stand_in).nodes["_RETURN"]["value"]
        )
    assert torch.equal(*again)


# ----------------------------------------------------------- options and baseline


@pytest.mark.parametrize("prior", quick(PRIORS, "amortised"))
@pytest.mark.parametrize("bijector", quick(BIJECTORS, "iaf"))
def test_bijectors_and_priors_keep_the_contract(bijector, prior):
    check_vae(small("self_reflective", bijector=bijector, prior=prior), bits())


@pytest.mark.parametrize("prior", PRIORS)
def test_its_own_option_prior_is_saved_and_loaded(prior, tmp_path):
    """Others have a place of that name in the pair."""
    vae = small("self_reflective", prior=prior)
    zoo.save(vae, tmp_path)
    again = zoo.load(tmp_path)
    assert again.config["options"]["prior"] == prior
    assert type(again.model.priors[1]) is type(vae.model.priors[1])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gated_mlp", "resnet"])
@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "gaussian", "discretized_logistic"]
)
def test_networks_and_likelihoods(network, likelihood):
    vae = small("self_reflective", network=network, likelihood=likelihood)
    x = {
        "bernoulli": bits(4),
        "gaussian": torch.randn(4, 2, 3),
        "discretized_logistic": torch.randint(256, (4, 2, 3)) / 255,
    }[likelihood]
    check_vae(vae, x)


def test_a_learned_scale_is_one_for_all_blocks():
    vae = small("self_reflective", likelihood="gaussian")
    scales = [n for n, _ in vae.named_parameters() if n.endswith("raw_scale")]
    assert len(scales) == 1
    assert sum(name.endswith("raw_scale") for name in vae.state_dict()) == 3


FEATURES = {"negative_binomial": {}, "gaussian": {"feature_scales": True}}


@pytest.mark.parametrize("likelihood", FEATURES)
@pytest.mark.parametrize("name", quick(HIERARCHIES, "bottom_up"))
def test_what_is_learned_for_each_feature_is_of_its_block(name, likelihood, tmp_path):
    vae = small(name, (2, 4), likelihood=likelihood, **FEATURES[likelihood])
    layers = vae.model.data_layers
    own = [p for layer in layers for p in layer.likelihood.parameters()]
    assert [len(p) for p in own] == [2, 2, 4]
    x = torch.randint(4, (8, 2, 4)).float()
    check_vae(vae, x)
    again = zoo.load(zoo.save(vae, tmp_path))
    assert zoo.evaluate(again, x, 5).elbo == zoo.evaluate(vae, x, 5).elbo
    assert vae.sample(4, mean=True).shape == (4, 2, 4)


def test_colour_images_and_given_blocks():
    shape = (3, 2, 2)
    vae = small("self_reflective", shape, num_layers=2, block_sizes=(9, 3))
    check_vae(vae, bits(8, shape))
    vector = small("bottom_up", (7,), num_layers=2, block_sizes=(3, 4))
    check_vae(vector, bits(8, (7,)))


def test_bottom_up_layers_do_not_hear_of_each_other():
    vae = trained("bottom_up")
    x = bits(1).double()
    eps = {
        f"eps_{l}": torch.randn(1, 2).double().requires_grad_()
        for l in range(1, DEPTH + 1)
    }
    trace = poutine.trace(poutine.condition(vae.guide, data=eps)).get_trace(x)
    for name in eps:
        ours = parameters(trace.nodes[name]["fn"])
        assert all(grad(ours, value).abs().max() == 0 for value in eps.values())


@pytest.mark.parametrize("hidden_dims", [(50, 50), (20,), (100, 30)])
def test_bottom_up_has_as_many_parameters(hidden_dims):
    """Its encoders are wider, so that capacity is not what is compared."""
    ours, baseline = (
        sum(p.numel() for p in vae.guide.posteriors.parameters())
        for vae in (
            zoo.create(n, event_shape=(28, 28), hidden_dims=hidden_dims)
            for n in ("self_reflective", "bottom_up")
        )
    )
    assert abs(baseline / ours - 1) < 0.05


def test_counting_parameters_draws_no_random_numbers():
    """`bottom_up` starts from the generative model of `self_reflective`."""
    states = []
    for name in ("self_reflective", "bottom_up"):
        torch.manual_seed(3)
        states.append(small(name).model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def enlarged(vae):
    """With last layers of the usual size, and blocks that read z as it is."""
    for block in vae.modules():
        if isinstance(block, Block):
            last = block.rest[-1]
            with torch.no_grad():
                last.weight.mul_(10)
                last.bias.mul_(10)


@pytest.mark.parametrize("tame", [True, False])
def test_ten_layers_survive_their_first_steps(tame, monkeypatch):
    """At six times the usual rate, unless neither asinh nor small last layers tame them."""
    torch.manual_seed(0)
    vae = zoo.create("self_reflective", event_shape=(16, 16))
    if not tame:
        monkeypatch.setattr(LatentBlock, "forward", Block.forward)
        enlarged(vae)
    x = zoo.load_dataset("digits_binary").train
    x = x[:1000].repeat_interleave(2, 1).repeat_interleave(2, 2)
    loss = zoo.AnnealedELBO()(vae.model, vae.guide)
    adam = torch.optim.Adam(vae.parameters(), lr=6e-3)
    losses = []
    with pyro.validation_enabled(False):
        for batch in x.split(100):
            adam.zero_grad()
            value = loss(batch)
            value.backward()
            adam.step()
            losses.append(value.item())
    assert all(map(math.isfinite, losses)) is tame
    assert not tame or losses[-1] < 0.7 * losses[0]


# ------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 7}, "expected 1 to 6 blocks .* got 7: each layer needs"),
        ({"num_layers": 0}, "expected 1 to 6 blocks .* got 0"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        (
            {"num_layers": 2, "block_sizes": (2, 2, 2)},
            "expected 2 positive block_sizes",
        ),
        ({"num_layers": 2, "block_sizes": (6, 0)}, "expected 2 positive block_sizes"),
        ({"num_layers": 2, "block_sizes": (2, 3)}, "add up to the 6 .* add up to 5"),
        ({"event_shape": (6,)}, r"expected images .* got data of shape \(6,\)"),
        ({"event_shape": (2, 1, 1, 3)}, "expected images"),
        ({"bijector": "planar"}, "unknown bijector 'planar'"),
        ({"prior": "flat"}, "unknown prior 'flat'"),
        ({"network": "conv"}, "networks of vectors"),
        ({"bijector": "spline_coupling", "latent_dim": 1}, "latent_dim >= 2"),
        ({"bijector": "affine", "num_flows": 7}, "'affine' is one map .* num_flows 7"),
        ({"bijector": "affine", "flow_hidden_dims": (9,)}, "flow_hidden_dims .9,."),
        ({"block_sizes": 6}, "block_sizes as whole numbers separated by commas, got 6"),
        ({"block_sizes": (2.0, 4.0)}, "block_sizes as whole numbers"),
        ({"hidden_dims": 8}, "option hidden_dims takes .* expected .8,., .* got 8"),
        ({"num_flows": -1}, "num_flows must not be negative, got -1"),
        ({"hidden_dims": ()}, "hidden_dims must be positive"),
        ({"least_scale": -0.1}, "least_scale must be finite and not negative"),
    ],
)
@pytest.mark.parametrize("name", HIERARCHIES)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(zoo.UserError, match=message):
        small(name, **options)
