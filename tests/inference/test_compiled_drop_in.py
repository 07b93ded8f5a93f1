"""`CompiledTrace_ELBO` in the place of `Trace_ELBO`: what differs says so."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import FAMILIES, perturb, quick, small
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference import tracing
from pyro_vae_zoo.inference.compiled import CompiledELBO, CompiledTrace_ELBO
from pyro_vae_zoo.inference.tracing import inductor

EVERY = zoo.list_guides() + zoo.list_density_models()


def as_it_is(graph, inputs):
    """No compiler: what was traced is run operation by operation."""
    return graph


def compiled(compiler=as_it_is, **options):
    return CompiledELBO(zoo.AnnealedELBO(**options), compiler=compiler)


def pair(name="iaf", **options):
    torch.manual_seed(0)
    vae = small(name, **options).double()
    perturb(vae, 0.3)
    return vae


def data(name="mean_field", n=5):
    torch.manual_seed(1)
    x = torch.randn(n, 2, 3).double()
    return x if name in zoo.list_density_models() else (x > 0).double()


def graphs_of(loss, vae):
    return {id(graph) for graph in loss._pairs[vae.model][vae.guide].graphs.values()}


# ------------------------------------------------------------------- gradients of x


def gradients(objective, vae, x):
    """Loss, and its gradients with respect to the data and to the parameters."""
    vae.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(2)
    loss = objective(vae.model, vae.guide)(x)
    loss.backward()
    return loss.detach(), x.grad, {n: p.grad for n, p in vae.named_parameters()}


@pytest.mark.parametrize("name", quick(EVERY, *FAMILIES))
def test_data_have_the_gradient_of_the_eager_step(name):
    likelihood = {} if name in zoo.list_density_models() else {"likelihood": "gaussian"}
    vae, x = pair(name, **likelihood), data("maf")
    ours, theirs = (gradients(o, vae, x) for o in (compiled(), zoo.AnnealedELBO()))
    assert ours[1] is not None
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("compiler", quick([as_it_is, inductor], as_it_is))
def test_modules_before_the_vae_are_trained(compiler):
    vae, raw = pair("mean_field", likelihood="gaussian"), torch.randn(5, 4).double()
    found = []
    for objective in (compiled(compiler), Trace_ELBO()):
        torch.manual_seed(3)
        before = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))).double()
        torch.manual_seed(2)
        objective(vae.model, vae.guide)(before(raw)).backward()
        found.append([p.grad for p in before.parameters()])
        assert all(gradient.abs().max() > 0 for gradient in found[-1])
    torch.testing.assert_close(*found)


def test_only_data_that_want_a_gradient_cost_one():
    vae, x, loss = pair("mean_field", likelihood="gaussian"), data("maf"), compiled()
    run = loss(vae.model, vae.guide)
    run(x).backward()
    graph, _, moved = loss._pair(vae.model, vae.guide).graph_for(
        vae.model, vae.guide, x, loss
    )
    assert len(moved) == len(list(vae.parameters()))
    outputs = len(graph.graph.graph.output_node().args[0])
    run(x.clone().requires_grad_()).backward()
    assert len(graphs_of(loss, vae)) == 2
    graph, _, moved = loss._pair(vae.model, vae.guide).graph_for(
        vae.model, vae.guide, x.clone().requires_grad_(), loss
    )
    assert len(graph.graph.graph.output_node().args[0]) == outputs + 1


def test_gradients_of_gradients_are_refused():
    vae, x = pair("mean_field"), data()
    loss = compiled()(vae.model, vae.guide)(x)
    p = next(vae.guide.parameters())
    with pytest.raises(zoo.UserError, match="create_graph=True asks for"):
        torch.autograd.grad(loss, p, create_graph=True)
    assert torch.autograd.grad(loss, p)[0].isfinite().all()  # once is as ever


# -------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kl_weight", 0.9),
        ("joint_weight", 0.5),
        ("num_particles", 3),
        ("bound", "iwae"),
        ("free_bits", 0.5),
        ("analytic_kl", True),
        ("sticking_the_landing", True),
    ],
)
def test_an_option_set_on_the_wrapper_is_one_of_the_objective(option, value):
    vae, x = pair("mean_field"), data()
    ours, theirs = compiled(num_particles=2), zoo.AnnealedELBO(num_particles=2)
    ours.loss(vae.model, vae.guide, x)
    losses = []
    for objective in (ours, theirs):
        setattr(objective, option, value)
        assert getattr(objective, option) == value
        torch.manual_seed(2)
        losses.append(objective.loss(vae.model, vae.guide, x))
    assert losses[0] == pytest.approx(losses[1])
    assert getattr(ours.objective, option) == value


def test_an_option_that_there_is_not_cannot_be_read():
    with pytest.raises(AttributeError, match="has no attribute 'kl_weigth'"):
        _ = CompiledTrace_ELBO().kl_weigth


class Scaled(nn.Module):
    """A guide whose numbers stand in containers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)
        self.by_name = {"scale": 1.0}
        self.in_order = [1.0]
        self.nested = [({"scale": 1.0},)]
        self.empty = {}

    def forward(self, x):
        scale = self.by_name["scale"] * self.in_order[0] * self.nested[0][0]["scale"]
        scale = scale * self.empty.get("scale", 1.0)
        with pyro.plate("data", len(x)):
            loc = self.linear(x.flatten(1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@pytest.mark.parametrize(
    "change",
    [
        lambda guide: guide.by_name.update(scale=2.0),
        lambda guide: guide.in_order.__setitem__(0, 2.0),
        lambda guide: guide.nested[0][0].update(scale=2.0),
        lambda guide: guide.empty.update(scale=2.0),
    ],
)
def test_numbers_in_containers_are_seen_to_change(change):
    torch.manual_seed(0)
    vae, x, loss = (
        zoo.VAE(small("mean_field").model, Scaled(), (2, 3)),
        data(),
        compiled(),
    )
    vae.double()
    loss.loss(vae.model, vae.guide, x)
    loss.loss(vae.model, vae.guide, x)
    assert len(graphs_of(loss, vae)) == 1
    change(vae.guide)
    values = []
    for objective in (loss, zoo.AnnealedELBO()):
        torch.manual_seed(2)
        values.append(objective.loss(vae.model, vae.guide, x))
    assert values[0] == pytest.approx(values[1])
    assert len(graphs_of(loss, vae)) == 2


# ------------------------------------------------------- data that cannot be scored

BERNOULLI = zoo.list_guides()


def grey(x):
    return torch.where(x == x.flatten()[0], 0.25, x)


def missing(x):
    return torch.where(x == x.flatten()[0], torch.nan, x)


def check_refused(call, x):
    with pytest.raises(
        zoo.UserError, match=r"site 'x\w*': expected data in the support"
    ):
        call(x)


@pytest.mark.parametrize("name", quick(BERNOULLI, *FAMILIES))
def test_a_later_batch_is_checked(name):
    vae, x = pair(name), data()
    loss = compiled()(vae.model, vae.guide)
    assert loss(x).isfinite()
    check_refused(loss, grey(x))
    check_refused(loss, missing(x))
    assert loss(x).isfinite()


@pytest.mark.parametrize("compiler", quick([as_it_is, inductor], as_it_is))
@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_logistic"])
def test_the_support_is_that_of_the_likelihood(likelihood, compiler):
    vae, x = pair("mean_field", likelihood=likelihood), data()
    loss = compiled(compiler)(vae.model, vae.guide)
    assert loss(x).isfinite()
    assert loss(grey(x)).isfinite()
    check_refused(loss, missing(x))


def test_stock_svi_is_told():
    vae, x = pair("mean_field"), data()
    adam = pyro.optim.Adam({"lr": 1e-2})
    svi = SVI(vae.model, vae.guide, adam, compiled())
    svi.step(x)
    before = [p.clone() for p in vae.parameters()]
    check_refused(svi.step, grey(x))
    for p, q in zip(vae.parameters(), before, strict=True):
        assert torch.equal(p, q)


def test_without_validation_nothing_is_checked():
    """A graph of its own has no output for it, and its numbers are the same."""
    vae, x, loss = pair("mean_field"), data(), compiled()
    sizes, values = [], []
    for enabled in (True, False):
        with pyro.validation_enabled(enabled):
            torch.manual_seed(2)
            values.append(loss(vae.model, vae.guide)(x).item())
            graph, *_ = loss._pair(vae.model, vae.guide).graph_for(
                vae.model, vae.guide, x, loss
            )
            sizes.append(len(graph.graph.graph.output_node().args[0]))
            if not enabled:
                assert loss(vae.model, vae.guide)(grey(x)).isfinite()
    assert sizes[0] == sizes[1] + 1
    assert values[0] == values[1]


@pytest.mark.parametrize("spoil", [grey, missing])
def test_the_first_batch_is_checked(spoil):
    vae, x = pair("mean_field"), data()
    check_refused(compiled()(vae.model, vae.guide), spoil(x))


class Masked(nn.Module):
    """A model that leaves out data of which something is missing."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            logits = z.sum(-1)[..., None, None].expand(*z.shape[:-1], 2, 3)
            p = dist.Bernoulli(logits=logits, validate_args=False).to_event(2)
            known = ((x == 0) | (x == 1)).flatten(1).all(1)
            with pyro.poutine.mask(mask=known):
                pyro.sample("x", p, obs=x)


def test_what_a_mask_takes_out_is_left_alone():
    vae, x = zoo.VAE(Masked(), Scaled(), (2, 3)).double(), data()
    loss = compiled()(vae.model, vae.guide)
    assert loss(x).isfinite()
    assert loss(grey(x)).isfinite()


def test_a_support_that_depends_on_latents_is_left_alone():
    class Bounded(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                zero = x.new_zeros(len(x), 2)
                z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
                low = (z.sum(-1) * 0 - 1)[..., None, None].expand(*z.shape[:-1], 2, 3)
                p = dist.Uniform(low, low + 2, validate_args=False)
                pyro.sample("x", p.to_event(2), obs=x)

    vae, x = zoo.VAE(Bounded(), Scaled(), (2, 3)).double(), data()
    loss = compiled()(vae.model, vae.guide)
    assert loss(x / 2).isfinite()
    assert loss(x + 5).isinf()  # of zero probability, which is an answer


def test_a_layer_of_another_class_at_the_same_place_has_a_graph_of_its_own(monkeypatch):
    """Python gives the number of a module that is gone to the next one: here to all."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh())
    vae, x = small("mean_field", encoder=layers).double(), data()
    loss = compiled()
    number = lambda it: 1 if isinstance(it, nn.Module) else id(it)  # noqa: E731
    monkeypatch.setattr(tracing, "id", number, raising=False)
    for activation in (nn.Tanh, nn.Softsign, nn.Sigmoid):
        layers[2] = activation()
        losses = []
        for objective in (loss, zoo.AnnealedELBO()):
            torch.manual_seed(0)
            losses.append(objective.loss(vae.model, vae.guide, x))
        assert losses[0] == pytest.approx(losses[1])
