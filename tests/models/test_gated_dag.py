"""Gated graphs of latent nodes: invariants GV1 to GV13, and their phases."""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import check_resumes_in_every_phase, perturb, quick, small
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.models.create import options_then
from pyro_vae_zoo.models.gated_dag import TopDown
from pyro_vae_zoo.models.gates import STRUCTURES, Gates, SparseELBO, structure_phases
from pyro_vae_zoo.models.ladder import LEAST_SCALE, weigh
from pyro_vae_zoo.models.standard import AmortizedGuide, positive

NAMES = ("gated_dag", "gated_dag_iaf")
NUM_NODES = 4
WAYS = list(itertools.product(NAMES, (1, 3), (False, True)))


def graph(name="gated_dag", **options):
    """A graph in double precision whose weights are of trained size."""
    vae = small(name, **{"num_nodes": NUM_NODES, "latent_dim": 2} | options).double()
    perturb(vae)
    return vae.eval()


def gates_of(vae):
    return vae.model.top_down.gates


def with_edges(vae, is_open):
    """The same graph with frozen gates, open where `is_open(i, n)`."""
    vae = copy.deepcopy(vae)
    gates = gates_of(vae)
    gates.freeze()
    for i, n in gates.edges:
        gates.set(f"z_{i}->z_{n}", is_open(i, n))
    return vae


def bits(n=1):
    return torch.rand(n, 2, 3).double().bernoulli()


def traces(vae, x):
    """Both sides' sites at the same draw of the guide."""
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
    return guide.nodes, model.nodes


def at_given_nodes(vae, x):
    """The model's sites, and nodes that they were given and may be derived by."""
    z = {
        f"z_{n}": torch.randn(len(x), 2).double().requires_grad_()
        for n in range(1, NUM_NODES + 1)
    }
    conditioned = poutine.condition(vae.model, data=z)
    return poutine.trace(conditioned).get_trace(x).nodes, z


def parameters(site):
    fn = site["fn"].base_dist
    return torch.cat([fn.loc.flatten(), fn.scale.flatten()])


def jacobian_is_zero(outputs, inputs):
    if not outputs.requires_grad:
        return True
    (grad,) = torch.autograd.grad(
        outputs.sum(), inputs, retain_graph=True, allow_unused=True
    )
    return grad is None or not bool(grad.any())


def parents_of(vae, x, n):
    """The nodes that the prior of node n depends on, by its Jacobian."""
    nodes, z = at_given_nodes(vae, x)
    ours = parameters(nodes[f"z_{n}"])
    numbers = range(1, NUM_NODES + 1)
    return {j for j in numbers if not jacobian_is_zero(ours, z[f"z_{j}"])}


# ------------------------------------------------------------------- the graph, GV1-4


@pytest.mark.parametrize("n", range(1, NUM_NODES + 1))
def test_a_node_depends_on_those_above_it(n):
    """GV1: with all gates open, on each of them, and on none below or beside."""
    vae = with_edges(graph(), lambda i, n: True)
    assert parents_of(vae, bits(3), n) == set(range(n + 1, NUM_NODES + 1))


@pytest.mark.parametrize(
    "edge", [(i, n) for n in range(1, NUM_NODES) for i in range(n + 1, NUM_NODES + 1)]
)
def test_an_edge_is_the_one_that_its_name_says(edge):
    """GV2: one gate open, and exactly that Jacobian is not zero."""
    vae = with_edges(graph(), lambda i, n: (i, n) == edge)
    x = bits(3)
    for n in range(1, NUM_NODES + 1):
        assert parents_of(vae, x, n) == ({edge[0]} if n == edge[1] else set())


def test_the_decoder_sees_every_node_and_x_is_read_by_nobody():
    vae, x = graph(), bits(3).requires_grad_()
    nodes, z = at_given_nodes(vae, x)
    logits = nodes["x"]["fn"].base_dist.logits
    assert not any(jacobian_is_zero(logits, value) for value in z.values())
    for n in range(1, NUM_NODES):
        assert jacobian_is_zero(parameters(nodes[f"z_{n}"]), x)


@pytest.mark.parametrize("structure", [*STRUCTURES, "learned"])
def test_fixed_structures(structure):
    vae = graph(structure=structure)
    named = gates_of(vae).named_probabilities()
    assert len(named) == NUM_NODES * (NUM_NODES - 1) / 2
    is_open = {
        "full": lambda i, n: 1.0,
        "chain": lambda i, n: float(i == n + 1),
        "independent": lambda i, n: 0.0,
        "learned": lambda i, n: None,
    }[structure]
    if structure == "learned":
        assert "gates" in traces(vae, bits())[0]
        assert [phase.name for phase in vae.phases] == ["structure", "retrain"]
        return
    assert named == {f"z_{i}->z_{n}": is_open(i, n) for i, n in gates_of(vae).edges}
    assert "gates" not in traces(vae, bits())[0]
    assert len(vae.phases) == 1
    assert not any("raw_logits" in name for name, _ in vae.named_parameters())


def test_without_edges_the_nodes_are_blocks_of_one_latent():
    """GV3: constant priors, and the bound of a VAE with N blocks, term by term."""
    vae, x = graph(structure="independent"), bits(5)
    torch.manual_seed(1)
    terms = bound_terms(vae.model, vae.guide, x)
    features = vae.guide.encoder(x)
    expected = terms.log_likelihood[0]
    layers = [None, *vae.model.top_down.layers]
    z = [terms.guide_trace.nodes[f"z_{n}"]["value"] for n in range(NUM_NODES, 0, -1)]
    for k, (node, layer) in enumerate(zip(vae.guide.nodes, layers, strict=True)):
        loc, raw_scale = node.net(features).chunk(2, -1)
        evidence = loc, positive(raw_scale) + LEAST_SCALE
        prior = torch.zeros(2).double(), torch.ones(2).double()
        if layer is not None:  # a constant: the network of nothing
            prior = layer(torch.zeros(2 * k).double())
            evidence = weigh(*evidence, *prior)
        expected = expected + dist.Normal(*prior).log_prob(z[k]).sum(-1)
        expected = expected - dist.Normal(*evidence).log_prob(z[k]).sum(-1)
    torch.testing.assert_close(terms.log_weights[0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_one_node_is_the_plain_vae(name):
    """GV4: the same numbers from a `StandardModel` of the same networks."""

    class Root(nn.Module):
        def __init__(self, node):
            super().__init__()
            self.node = node

        def forward(self, features):
            return self.node(features, None)

    vae, x = graph(name, num_nodes=1), bits(6)
    assert len(vae.phases) == 1
    assert vae.monitor(vae) == {"gates": {}}
    model = zoo.StandardModel(vae.model.decoder, vae.model.likelihood, 2)
    guide = AmortizedGuide(vae.guide.encoder, Root(vae.guide.nodes[0]))
    plain = zoo.VAE(model, guide, (2, 3))
    ours, theirs = (zoo.log_likelihood(v, x, 30).log_prob for v in (vae, plain))
    assert torch.equal(ours, theirs)


# ------------------------------------------------------------------- the fusion, GV5


def test_the_posterior_is_the_product_of_prior_and_evidence():
    """GV5, on a grid: normalised, and sharper than either factor."""
    vae, x = with_edges(graph(latent_dim=2), lambda i, n: True), bits(3)
    guide, model = traces(vae, x)
    features = vae.guide.encoder(x)
    grid = torch.linspace(-40, 40, 80_001, dtype=torch.double)[:, None, None]
    for k, n in enumerate(range(NUM_NODES - 1, 0, -1), start=1):
        prior = model[f"z_{n}"]["fn"].base_dist
        loc, raw_scale = vae.guide.nodes[k].net(features).chunk(2, -1)
        evidence = dist.Normal(loc, positive(raw_scale) + LEAST_SCALE)
        q = guide[f"z_{n}"]["fn"].base_dist
        assert (q.scale < torch.minimum(prior.scale, evidence.scale)).all()
        product = (prior.log_prob(grid) + evidence.log_prob(grid)).exp()
        product = product / (product.sum(0) * 1e-3)
        torch.testing.assert_close(q.log_prob(grid).exp(), product, rtol=0, atol=1e-7)


def test_the_root_is_told_by_the_data_alone():
    vae, x = graph(), bits(3)
    guide, _ = traces(vae, x)
    loc, raw_scale = vae.guide.nodes[0].net(vae.guide.encoder(x)).chunk(2, -1)
    q = guide[f"z_{NUM_NODES}"]["fn"].base_dist
    assert torch.equal(q.loc, loc)
    assert torch.equal(q.scale, positive(raw_scale) + LEAST_SCALE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("least", [0.01, 0.0])
def test_scales_below_the_root_cannot_vanish(name, least):
    """A latent that is not used would get one of 1e-6, which no step survives."""
    vae = graph(name, least_scale=least)
    with torch.no_grad():
        for part in (*vae.guide.nodes, *vae.model.top_down.layers):
            last = [m for m in part.net.modules() if isinstance(m, nn.Linear)][-1]
            last.weight.zero_()
            last.bias.fill_(-30.0)
    for side, bound in ((vae.model, 0.01), (vae.guide, 0.007)):
        trace = poutine.trace(side).get_trace(bits(5))
        found = []
        for n in range(1, NUM_NODES):
            p = trace.nodes[f"z_{n}"]["fn"]
            while not hasattr(p, "scale"):
                p = p.base_dist
            found.append(p.scale)
        assert (min(scale.min() for scale in found) >= bound) == (least > 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_version_0_1_0_has_no_least_scale(name):
    assert options_then(name, {"num_nodes": 2}) == {"least_scale": 0.0, "num_nodes": 2}
    assert small(name).config["options"]["least_scale"] == LEAST_SCALE


def test_without_evidence_the_posterior_is_the_prior():
    """GV5: an endless scale costs no KL, but at the root."""
    vae, x = graph(), bits(5)
    with torch.no_grad():
        for node in list(vae.guide.nodes)[1:]:
            last = node.net[-1]
            last.weight.zero_()
            last.bias.fill_(1e8)
    kl = zoo.evaluate(vae, x, 20).kl_per_site
    for n in range(1, NUM_NODES):
        assert kl[f"z_{n}"] == pytest.approx(0.0, abs=1e-9)
    assert kl[f"z_{NUM_NODES}"] > 0.01


# -------------------------------------------------------------------- the gates


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sure", [30.0, -30.0])
def test_gates_that_are_sure_have_finite_gradients(name, sure):
    """GV6: in single precision, where probabilities have long been 0 and 1."""
    vae = small(name, num_nodes=3)
    with torch.no_grad():
        gates_of(vae).raw_logits.fill_(sure)
        gates_of(vae).temperature.fill_(0.134)
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, bits(4).float())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("num_particles", [1, 3])
def test_model_and_guide_hold_the_same_gates(num_particles):
    """One draw a particle, outside the data, whose scores cancel to the last bit."""
    vae = graph().train()
    terms = bound_terms(vae.model, vae.guide, bits(5), num_particles)
    ours, theirs = (t.nodes["gates"] for t in (terms.model_trace, terms.guide_trace))
    assert ours["value"] is theirs["value"]
    particles = (num_particles, 1) if num_particles > 1 else ()
    assert ours["value"].shape == (*particles, len(gates_of(vae).edges))
    log_p, log_q = (s["fn"].log_prob(s["value"]) for s in (ours, theirs))
    assert torch.equal(log_p, log_q)
    assert "gates" not in terms.kl


def test_a_foreign_distribution_of_gates_is_refused():
    """Where the two sides' scores do not cancel, the evaluator says so."""
    vae = graph()
    vae.guide.top_down = copy.deepcopy(vae.guide.top_down)
    with torch.no_grad():
        vae.guide.top_down.gates.raw_logits.add_(0.1)
    with pytest.raises(zoo.UserError, match="site 'gates' lies outside"):
        zoo.log_likelihood(vae, bits(3), 10)


def test_encoding_gives_the_nodes_alone():
    vae = graph()
    z = vae.encode(bits(3), num_samples=5)
    assert list(z) == [f"z_{n}" for n in range(NUM_NODES, 0, -1)]
    assert all(value.shape == (5, 3, 2) for value in z.values())


# --------------------------------------------------------------------- the flow, GV7-9


def test_a_flow_whose_gates_are_shut_is_none():
    """GV7: with the steps' gates at one, the numbers are those of the graph without."""
    flowing, plain = graph("gated_dag_iaf"), graph("gated_dag")
    for node in flowing.guide.nodes:
        for step in node.flow:
            step.kwargs["sigmoid_bias"] = 1e3
    state = plain.state_dict()
    for name, value in flowing.state_dict().items():
        if name in state:  # the last layer has the context's rows, too
            state[name] = value[: len(state[name])] if value.ndim else value
    plain.load_state_dict(state)
    x = bits(4)
    ours, theirs = (zoo.log_likelihood(v, x, 20).log_prob for v in (flowing, plain))
    torch.testing.assert_close(ours, theirs)


def test_log_density_is_that_of_the_base_less_the_determinants():
    """GV8, for each node by autograd's Jacobian; no two nodes share a flow."""
    vae, x = graph("gated_dag_iaf"), bits(3)
    guide, _ = traces(vae, x)
    for n in range(1, NUM_NODES + 1):
        q, z = guide[f"z_{n}"]["fn"], guide[f"z_{n}"]["value"]
        base = z
        for step in reversed(q.transforms):
            base = step.inv(base)

        def flow(base, steps=q.transforms):
            for step in steps:
                base = step(base)
            return base

        jacobian = torch.autograd.functional.jacobian(lambda b: flow(b).sum(0), base)
        log_det = jacobian.transpose(0, 1).slogdet().logabsdet
        expected = q.base_dist.log_prob(base) - log_det
        torch.testing.assert_close(q.log_prob(z), expected)
        assert (log_det.abs() > 1e-3).any()
    flows = [{id(p) for p in node.flow.parameters()} for node in vae.guide.nodes]
    assert all(flows)
    assert len(set().union(*flows)) == sum(len(ids) for ids in flows)


def test_children_receive_what_the_flow_returned():
    """GV9: priors on both sides are functions of the flowed parents."""
    vae, x = with_edges(graph("gated_dag_iaf"), lambda i, n: True), bits(3)
    guide, model = traces(vae, x)
    flowed, unflowed = [], []
    features = vae.guide.encoder(x)
    for k, n in enumerate(range(NUM_NODES, 0, -1)):
        q = guide[f"z_{n}"]["fn"]
        if k:
            layer = vae.model.top_down.layers[k - 1]
            expected = layer(torch.cat(flowed, -1))
            p = model[f"z_{n}"]["fn"].base_dist
            torch.testing.assert_close((p.loc, p.scale), expected)
            loc, raw_scale, _ = vae.guide.nodes[k].net(features).chunk(3, -1)
            base = q.base_dist.base_dist
            fused = weigh(loc, positive(raw_scale) + LEAST_SCALE, *expected)
            torch.testing.assert_close((base.loc, base.scale), fused)
            other, _ = layer(torch.cat(unflowed, -1))
            assert (other - expected[0]).abs().max() > 1e-3
        z = guide[f"z_{n}"]["value"]
        flowed.append(z)
        for step in reversed(q.transforms):
            z = step.inv(z)
        unflowed.append(z)


@pytest.mark.parametrize(
    "way", quick(WAYS, ("gated_dag", 1, True), ("gated_dag_iaf", 3, False)), ids=str
)
def test_gradients_are_those_of_finite_differences(way):
    """Along a random direction for each parameter, with the noise held fixed.

    No path is cut: through the parents on both sides, through the gates.
    """
    name, num_particles, analytic_kl = way
    vae, x = graph(name).train(), bits(3)
    objective = zoo.AnnealedELBO(num_particles, analytic_kl=analytic_kl)

    def loss():
        torch.manual_seed(1)
        return objective.differentiable_loss(vae.model, vae.guide, x)

    loss().backward()
    for parameter_name, p in vae.named_parameters():
        direction, values = torch.randn_like(p), []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                p.add_(step * direction)
                values.append(loss().item())
        with torch.no_grad():
            p.add_(1e-5 * direction)
        difference = (values[0] - values[1]) / 2e-5
        slope = (p.grad * direction).sum().item()
        assert slope == pytest.approx(difference, rel=1e-5, abs=1e-5), parameter_name


# ------------------------------------------------------- bounds and likelihoods, GV10-13


def test_mean_of_draws_is_the_analytic_kl():
    """GV10: node by node, given the parents that were drawn."""
    vae, x = graph(), bits(2)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = bound_terms(vae.model, vae.guide, x, 40_000).kl
        closed = bound_terms(vae.model, vae.guide, x, 40_000, analytic_kl=True)
    assert set(closed.closed_kl) == set(drawn)
    assert not closed.log_guide
    for name, value in drawn.items():
        difference = value.mean(0) - closed.closed_kl[name].mean(0)
        variance = value.var(0) + closed.closed_kl[name].var(0)
        assert (difference.abs() < 4 * (variance / 40_000).sqrt()).all(), name


def test_where_there_is_a_flow_the_kl_is_drawn():
    vae = graph("gated_dag_iaf")
    terms = bound_terms(vae.model, vae.guide, bits(2), analytic_kl=True)
    assert not terms.closed_kl
    assert len(terms.log_guide) == NUM_NODES


@pytest.mark.parametrize("name", NAMES)
def test_generation_asks_neither_flow_nor_encoder(name):
    """GV11: what the guide alone holds has no say in what the model draws."""
    vae = graph(name)
    torch.manual_seed(0)
    before = vae.sample(20)
    perturb(vae.guide.encoder)
    perturb(vae.guide.nodes)

    def refuse(module, inputs):
        raise AssertionError("generation runs a part of the guide")

    for module in (*vae.guide.encoder.modules(), *vae.guide.nodes.modules()):
        module.register_forward_pre_hook(refuse)
    torch.manual_seed(0)
    assert torch.equal(vae.sample(20), before)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_gates_are_numbers(name):
    """GV12: 0 or 1, without a gradient, nothing left to chance given the nodes."""
    vae, x = graph(name), bits(3)
    with torch.no_grad():
        gates_of(vae).raw_logits.copy_(torch.tensor([1, -1, 2, -2, 3, -3]) / 100)
    soft = list(gates_of(vae).named_probabilities())
    gates_of(vae).freeze()
    assert gates_of(vae)().tolist() == [1, 0, 1, 0, 1, 0]
    assert list(gates_of(vae).named_probabilities()) == soft
    guide, _ = traces(vae, x)
    assert "gates" not in guide
    assert not any("raw_logits" in name for name, _ in vae.named_parameters())
    z = {name: site["value"] for name, site in guide.items() if name.startswith("z_")}
    model = poutine.condition(vae.model, data=z)
    joint = [poutine.trace(model).get_trace(x).log_prob_sum() for _ in range(2)]
    assert joint[0] == joint[1]
    zoo.testing.check_vae(vae, bits(4))


@pytest.mark.parametrize("frozen", [False, True])
def test_saving_keeps_what_is_frozen(frozen, tmp_path):
    vae = small("gated_dag", num_nodes=3)
    perturb(vae)
    gates_of(vae).freeze(frozen)
    zoo.save(vae, tmp_path)
    loaded, x = zoo.load(tmp_path), bits(4).float()
    assert gates_of(loaded).is_frozen == frozen
    ours, theirs = (zoo.log_likelihood(v, x, 20).log_prob for v in (vae, loaded))
    assert torch.equal(ours, theirs)
    other = small("gated_dag", num_nodes=3)
    gates_of(other).freeze(not frozen)
    other.load_state_dict(vae.state_dict())  # over one in the other state, too
    assert torch.equal(zoo.log_likelihood(other, x, 20).log_prob, ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_random_gates_give_the_likelihood_of_their_mixture(name):
    """GV13: log E_c p(x|c), known by quadrature; a bound that rises with K."""
    vae, x = graph(name, num_nodes=2, latent_dim=1), bits(4)
    with torch.no_grad():
        gates_of(vae).raw_logits.fill_(0.07)
        for p in vae.model.top_down.layers.parameters():
            p.mul_(1.5)  # what the gate lets through is not little
    fit_guide(vae, x)
    (mu,) = gates_of(vae).probabilities().tolist()
    assert 0.55 < mu < 0.75
    shut, opened = (
        exact_log_likelihood(with_edges(vae, lambda i, n, c=c: c), x)
        for c in (False, True)
    )
    assert (shut - opened).abs().max() > 0.2  # the gate says something
    expected = torch.logaddexp(shut + math.log(1 - mu), opened + math.log(mu))
    ll = zoo.log_likelihood(vae, x, 50_000)
    assert ((ll.log_prob - expected).abs() < 4 * ll.std_error + 1e-6).all()
    assert ll.std_error.max() < 0.05
    means = [  # over seeds, since data share their gates
        sum(zoo.log_likelihood(vae, x, k, seed=s).log_prob.mean() for s in range(200))
        for k in (1, 5, 50)
    ]
    assert means == sorted(means)
    elbo = zoo.evaluate(vae, x, 20_000).elbo
    assert elbo <= expected.mean()


def fit_guide(vae, x, num_steps=400):
    """Train what is the guide's alone, so that its draws serve importance sampling."""
    modules = nn.ModuleList([vae.guide.encoder, vae.guide.nodes])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    loss = zoo.AnnealedELBO(num_particles=20, bound="iwae")
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss.differentiable_loss(vae.model, vae.guide, x).backward()
        optimizer.step()


@torch.no_grad()
def exact_log_likelihood(vae, x):
    """Of a graph with two nodes of one dimension and frozen gates, on a grid."""
    axis = torch.linspace(-8, 8, 801, dtype=torch.double)
    z_2, u = (a.reshape(-1, 1, 1) for a in torch.meshgrid(axis, axis, indexing="ij"))

    def nodes(x, **z):
        with pyro.plate("grid", len(u), dim=-2):
            return (
                poutine.trace(poutine.condition(vae.model, data=z)).get_trace(x).nodes
            )

    p = nodes(x[:1], z_2=z_2)["z_1"]["fn"].base_dist
    site = nodes(x, z_2=z_2, z_1=p.loc + p.scale * u)["x"]
    standard = dist.Normal(0.0, 1.0)
    log_prior = (standard.log_prob(z_2) + standard.log_prob(u))[..., 0]
    log_joint = site["fn"].log_prob(site["value"]) + log_prior
    return log_joint.logsumexp(0) + 2 * math.log(16 / 800)


def test_the_error_of_the_mean_counts_the_draws_that_data_share():
    """Random gates are one draw for all data of a chunk: their errors are correlated."""
    vae = graph(num_nodes=2, latent_dim=1)
    with torch.no_grad():
        for p in vae.model.top_down.layers.parameters():
            p.mul_(2.0)
    x = bits(1).expand(500, 2, 3)
    fit_guide(vae, x[:4], num_steps=150)
    runs = [zoo.evaluate(vae, x, 50, seed=seed) for seed in range(60)]
    spread = torch.tensor([run.log_likelihood for run in runs]).std().item()
    reported = torch.tensor([run.log_likelihood_mc_error for run in runs]).mean().item()
    assert reported == pytest.approx(spread, rel=0.3)
    alone = [zoo.log_likelihood(vae, x, 50, seed=seed) for seed in range(5)]
    naive = torch.stack([ll.std_error.square().sum().sqrt() / 500 for ll in alone])
    assert naive.mean() < 0.5 * spread
    gates_of(vae).freeze()  # then there is nothing to share
    frozen = zoo.evaluate(vae, x, 50)
    errors = zoo.log_likelihood(vae, x, 50).std_error
    expected = errors.square().sum().sqrt().item() / 500
    assert frozen.log_likelihood_mc_error == pytest.approx(expected)


def test_samples_are_of_the_model_in_any_mode():
    """In training mode gates are relaxed; what is drawn from the pair is not."""
    vae, x = graph(), bits(3)
    outcomes = []
    for training in (True, False):
        vae.train(training)
        torch.manual_seed(0)
        z = vae.encode(x, 2)
        outcomes.append([vae.sample(5), vae.reconstruct(x), *z.values()])
        assert all(m.training == training for m in vae.modules())
    for ours, theirs in zip(*outcomes, strict=True):
        assert torch.equal(ours, theirs)


# ------------------------------------------------------------------------- training


def settings(**options):
    return dict(epochs=8, batch_size=20, keep="last", progress=False) | options


def test_structure_then_retrain(images):
    """Gates and temperature move in the first phase, and nothing of them after."""
    vae = small("gated_dag", num_nodes=3)
    history = zoo.fit(vae, images, **settings(lr=1e-2))
    assert [r["phase"] for r in history.epochs] == ["structure"] * 2 + ["retrain"] * 6
    gates = [list(r["gates"].values()) for r in history.epochs]
    assert all(0 < p < 1 and p != 0.5 for p in gates[0] + gates[1])
    assert gates[0] != gates[1]
    frozen = [float(p > 0.5) for p in gates[1]]
    assert gates[2:] == [frozen] * 6
    assert gates_of(vae).is_frozen
    assert list(history.epochs[0]["gates"]) == ["z_3->z_2", "z_3->z_1", "z_2->z_1"]


def test_the_temperature_falls_geometrically_over_the_phase(images, monkeypatch):
    """From 1, a factor for each epoch, as 200 epochs of 0.99 would end."""
    seen = []
    monkeypatch.setattr(
        zoo.AnnealedELBO,
        "loss_and_elbo",
        lambda self, model, guide, x, original=zoo.AnnealedELBO.loss_and_elbo: (
            seen.append(model.top_down.gates.temperature.item())
            or original(self, model, guide, x)
        ),
    )
    vae = small("gated_dag", num_nodes=2, structure_share=1.0)
    zoo.fit(vae, images, **settings(epochs=4))
    per_epoch = seen[::2]
    assert per_epoch == seen[1::2]
    assert per_epoch == pytest.approx([0.99 ** (50 * e) for e in range(4)])
    assert not gates_of(vae).is_frozen  # there was no second phase


def test_with_one_epoch_the_gates_stay_random(images):
    """There is none to learn the structure, and what is undecided is not frozen."""
    vae = small("gated_dag", num_nodes=3)
    zoo.fit(vae, images, **settings(epochs=1))
    assert not gates_of(vae).is_frozen


def test_more_epochs_would_be_another_temperature(images, tmp_path):
    vae = small("gated_dag", num_nodes=3, structure_share=1.0)
    zoo.fit(vae, images, **settings(epochs=2, out=tmp_path))
    with pytest.raises(zoo.UserError, match="made with epochs=2, now it is 4"):
        zoo.fit(vae, images, **settings(epochs=4, out=tmp_path, resume=True))


def test_a_given_structure_is_not_learned(images):
    vae = small("gated_dag", num_nodes=3, structure="chain")
    vae.phases = structure_phases()
    with pytest.raises(zoo.UserError, match="gates have a fixed structure"):
        zoo.fit(vae, images, **settings())


def test_gates_and_layers_are_of_one_graph():
    layers = [nn.Linear(2, 4), nn.Linear(4, 4)]
    with pytest.raises(zoo.UserError, match="expected gates on 3 edges, .* got 6"):
        TopDown(Gates(4), layers)


def test_a_second_fit_begins_with_the_structure(images):
    vae = small("gated_dag", num_nodes=3)
    zoo.fit(vae, images, **settings())
    history = zoo.fit(vae, images, **settings())
    first = history.epochs[0]
    assert first["phase"] == "structure"
    assert all(0 < p < 1 for p in first["gates"].values())


@pytest.mark.parametrize("name", quick(NAMES, "gated_dag"))
def test_phases_resume_bit_for_bit(name, images, tmp_path, monkeypatch):
    """Interrupted in the middle of an epoch of both phases, one after the other."""

    def pair():
        torch.manual_seed(0)
        return small(name, num_nodes=3)

    options = settings(lr=1e-2)
    check_resumes_in_every_phase(pair, images, options, tmp_path, monkeypatch)


def test_a_penalty_is_of_the_objective_alone():
    """Off, the loss is Pyro's own; on, it adds nats for each edge and moves gates only."""
    x, results = bits(5).float(), []
    for penalty in (0.0, 0.5):
        torch.manual_seed(0)
        vae = small("gated_dag", num_nodes=3, gate_penalty=penalty)
        torch.manual_seed(1)
        loss, elbo = SparseELBO().loss_and_elbo(vae.model, vae.guide, x)
        torch.manual_seed(1)
        plain = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
        assert -elbo.item() == pytest.approx(plain.item(), rel=1e-6)
        assert (loss - plain).item() == pytest.approx(5 * penalty * 3 * 0.5, abs=1e-4)
        loss.backward()
        results.append({name: p.grad for name, p in vae.named_parameters()})
    for name, gradient in results[0].items():
        same = torch.allclose(gradient, results[1][name], rtol=1e-4, atol=1e-5)
        assert same == ("raw_logits" not in name), name


def test_a_large_penalty_closes_all_gates(images):
    vae = small("gated_dag", num_nodes=3, gate_penalty=5.0)
    history = zoo.fit(vae, images, **settings(epochs=40, lr=1e-2))
    assert set(history.epochs[-1]["gates"].values()) == {0.0}


@pytest.mark.parametrize(
    "way",
    quick(
        itertools.product(NAMES, (False, True)),
        ("gated_dag", True),
        ("gated_dag_iaf", False),
    ),
    ids=str,
)
def test_training_improves_the_bound(way, images):
    name, analytic_kl = way
    vae = small(name, num_nodes=3)
    before = zoo.evaluate(vae, images.test, 200).elbo
    zoo.fit(vae, images, **settings(epochs=10, lr=2e-2, analytic_kl=analytic_kl))
    assert zoo.evaluate(vae, images.test, 200).elbo > before


@pytest.mark.parametrize("network", quick(["conv", "gated_mlp"], "gated_mlp"))
def test_networks(network):
    """Convolutions are of the images; a node's networks are dense then, too."""
    vae = small("gated_dag", (5, 4), num_nodes=2, network=network)
    zoo.testing.check_vae(vae, torch.rand(4, 5, 4).bernoulli())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 0}, "must be at least 1"),
        ({"latent_dim": 0}, "must be at least 1"),
        ({"hidden_dims": ()}, "hidden_dims must be positive"),
        ({"node_hidden_dims": (0,)}, "hidden_dims must be positive"),
        ({"structure": "tree"}, "unknown structure 'tree'; known: learned, full"),
        ({"structure_share": 0.0}, r"structure_share must be in \(0, 1\]"),
        ({"structure_share": 1.5}, r"structure_share must be in \(0, 1\]"),
        ({"final_temperature": 0.0}, r"final_temperature must be in \(0, 1\]"),
        ({"gate_penalty": -1.0}, "gate_penalty must be finite and not negative"),
        ({"gate_penalty": math.inf}, "gate_penalty must be finite and not negative"),
        ({"least_scale": -0.1}, "least_scale must be finite and not negative"),
        ({"least_scale": math.inf}, "least_scale must be finite and not negative"),
        (
            {"structure": "full", "structure_share": 0.5},
            "structure_share is for structure='learned'",
        ),
        ({"structure": "chain", "gate_penalty": 1.0}, "gate_penalty is for structure"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(zoo.UserError, match=message):
        small("gated_dag", **options)


def test_flows_are_checked():
    with pytest.raises(zoo.UserError, match="num_flows must not be negative"):
        small("gated_dag_iaf", num_flows=-1)
