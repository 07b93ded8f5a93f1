"""Compiled objectives: the numbers of the eager ones, and what may change between steps."""

import copy
import dataclasses
import gc
import itertools
import pickle
import warnings
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiling import (
    EVERY,
    SLOW,
    Counting,
    Discrete,
    Guide,
    Model,
    as_it_is,
    data,
    pair,
)
from pairs import FAMILIES, perturb, quick
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.compiled import CompiledELBO, CompiledTrace_ELBO
from pyro_vae_zoo.inference.tracing import inductor
from pyro_vae_zoo.training.losses import make_loss
from pyro_vae_zoo.training.options import TrainOptions


def run(objective, vae, x, seed=2):
    """Loss, bound and gradients under one seed."""
    vae.zero_grad()
    torch.manual_seed(seed)
    loss, elbo = objective.loss_and_elbo(vae.model, vae.guide, x)
    loss.backward()
    gradients = {name: p.grad for name, p in vae.named_parameters()}
    return loss.detach(), elbo, gradients


def compiled(compiler=as_it_is, **options):
    return CompiledELBO(zoo.AnnealedELBO(**options), compiler=compiler)


def assert_alike(name, compiler, dtype, **tolerance):
    vae, x = pair(name, dtype), data(name, dtype=dtype)
    ours = run(compiled(compiler, num_particles=2), vae, x)
    theirs = run(zoo.AnnealedELBO(num_particles=2), vae, x)
    torch.testing.assert_close(ours[:2], theirs[:2], **tolerance)
    scales = {k: g.abs().max() for k, g in theirs[2].items() if g is not None}
    largest = max(scales.values())
    for key, expected in theirs[2].items():
        if expected is None:
            assert ours[2][key] is None
        else:
            # In float32 a number that nearly cancels has lost its digits in the eager
            # step, too; in double precision it is held to its own size.
            alone = dtype == torch.float and expected.numel() == 1
            scale = (largest if alone else scales[key]).clamp(min=1e-30)
            torch.testing.assert_close(
                ours[2][key] / scale, expected / scale, **tolerance
            )


# ------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("name", quick(EVERY, *FAMILIES))
def test_the_graph_is_the_eager_step(name):
    """Traced, not compiled: loss, bound and gradients under the same noise."""
    assert_alike(name, as_it_is, torch.double, rtol=1e-12, atol=1e-12)


@SLOW  # inductor takes seconds for each; `test_steps` has a training by it
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, t) for n in EVERY for t in (torch.float, torch.double)],
)
def test_inductors_graph_is_the_eager_step(name, dtype):
    tolerance = 1e-5 if dtype == torch.float else 1e-10
    assert_alike(name, inductor, dtype, rtol=tolerance, atol=tolerance)


OPTIONS = {
    "iwae": {"bound": "iwae", "num_particles": 4},
    "free_bits": {"free_bits": 0.5},
    "analytic_kl": {"analytic_kl": True, "kl_weight": 0.3},
    "joint_weight": {"joint_weight": 0.2},
    "sticking_the_landing": {"sticking_the_landing": True},
}
CASES = list(itertools.product(("mean_field", "self_reflective", "gated_dag"), OPTIONS))
QUICK = [case for case in CASES if case[0] == "mean_field"]  # of one latent
QUICK += [("self_reflective", "free_bits"), ("gated_dag", "analytic_kl")]


@pytest.mark.parametrize("case", quick(CASES, *QUICK), ids="-".join)
def test_options_of_the_objective(case):
    name, options = case[0], OPTIONS[case[1]]
    vae, x = pair(name), data()
    ours = run(compiled(**options), vae, x)
    theirs = run(zoo.AnnealedELBO(**options), vae, x)
    torch.testing.assert_close(ours[:2], theirs[:2])
    torch.testing.assert_close(ours[2], theirs[2])


@pytest.mark.parametrize(
    "name",
    quick(EVERY, "iaf"),
)
def test_a_hundred_steps_end_at_the_same_weights(name):
    """At a usual rate: a pair that overfits blows up the last bit within a hundred."""
    x, ends = data(name), []
    for objective in (compiled(), zoo.AnnealedELBO()):
        vae = pair(name)
        optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
        loss = objective(vae.model, vae.guide)
        torch.manual_seed(3)
        for _ in range(100):
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()
        ends.append([p.detach() for p in vae.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


def test_stock_svi_trains_by_it():
    """Inside `SVI` it names its parameters, in every step: none stands still."""
    x, ends = data(), []
    for objective in (compiled(), Trace_ELBO()):
        vae = pair()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
        torch.manual_seed(3)
        losses = [svi.step(x) for _ in range(10)]
        ends.append([torch.tensor(losses), *(p.detach() for p in vae.parameters())])
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-8)
    start = pair()
    for p, q in zip(start.parameters(), ends[0][1:], strict=True):
        assert not torch.equal(p, q)


def test_noise_is_fresh_and_reproducible():
    vae, x = pair(), data()
    loss = compiled()(vae.model, vae.guide)
    torch.manual_seed(5)
    first, second = loss(x).item(), loss(x).item()
    torch.manual_seed(5)
    assert loss(x).item() == first != second


def test_tracing_leaves_the_random_state_alone():
    """The first step has the noise that it would have without."""
    vae, x = pair(), data()
    torch.manual_seed(5)
    first = compiled()(vae.model, vae.guide)(x)
    torch.manual_seed(5)
    assert first.item() == pytest.approx(
        zoo.AnnealedELBO()(vae.model, vae.guide)(x).item()
    )


def test_no_garbage_is_collected_while_tracing(monkeypatch):
    """A collection makes PyTorch 2.6 forget tensors of the graph."""
    seen = []
    vae = pair()
    monkeypatch.setattr(vae.guide, "forward", recording(vae.guide.forward, seen))
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            compiled().loss_and_elbo(vae.model, vae.guide, data())
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
    assert seen == [True, False, False, False]  # as it is, then traced


def recording(forward, seen):
    def recorded(x):
        seen.append(gc.isenabled())
        return forward(x)

    return recorded


# --------------------------------------------------------- what may change, and how


def graphs_of(loss, vae):
    graphs = loss._pairs[vae.model][vae.guide].graphs.values()
    return {id(graph): graph for graph in graphs}  # one may be of several kinds


def test_weights_of_a_schedule_do_not_trace_anew():
    vae, x, loss = pair(), data(), compiled()
    values = []
    for weight in (1.0, 0.5, 0.25):
        loss.objective.kl_weight = weight
        values.append(run(loss, vae, x)[0])
        theirs = run(zoo.AnnealedELBO(kl_weight=weight), vae, x)[0]
        torch.testing.assert_close(values[-1], theirs)
        assert loss.objective.kl_weight == weight
    assert len(graphs_of(loss, vae)) == 1
    assert len(set(values)) == 3


def test_a_buffer_that_changes_is_an_input():
    """The temperature of a graph's gates falls without another trace."""
    vae, x, loss = pair("gated_dag"), data(), compiled()
    for temperature in (1.0, 0.5):
        vae.model.top_down.gates.temperature.fill_(temperature)
        ours, theirs = (run(o, vae, x)[0] for o in (loss, zoo.AnnealedELBO()))
        torch.testing.assert_close(ours, theirs)
    assert len(graphs_of(loss, vae)) == 1


@pytest.mark.parametrize(
    "change", ["mode", "shape", "frozen parameters", "frozen gates"]
)
def test_other_circumstances_have_a_graph_of_their_own(change):
    name = "gated_dag" if change == "frozen gates" else "mean_field"
    vae, x, loss = pair(name), data(), compiled()
    run(loss, vae, x)
    if change == "mode":
        vae.eval()
    elif change == "shape":
        x = data(n=3)
    elif change == "frozen parameters":
        vae.eval().train(True)
        next(iter(vae.guide.encoder.parameters())).requires_grad_(False)
    else:
        vae.model.top_down.gates.freeze()
    with warnings.catch_warnings():
        # Pyro warns of each frozen parameter in training mode.
        warnings.filterwarnings("ignore", ".*not registered in the param store")
        ours, theirs = (run(o, vae, x) for o in (loss, zoo.AnnealedELBO()))
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[2], theirs[2])
    assert len(graphs_of(loss, vae)) == 2


def test_another_option_has_a_graph_of_its_own():
    vae, x, loss = pair(), data(), compiled()
    for num_particles in (1, 3):
        loss.objective.num_particles = num_particles
        ours = run(loss, vae, x)
        theirs = run(zoo.AnnealedELBO(num_particles), vae, x)
        torch.testing.assert_close(ours, theirs)
    assert len(graphs_of(loss, vae)) == 2


def test_a_buffer_that_a_step_moves_is_moved():
    """As the running statistics of a batch normalisation, once in each step."""
    vae, x, loss = pair("maf", batch_norm=True), data("maf"), compiled()
    other = copy.deepcopy(vae)
    for _ in range(3):
        ours, theirs = run(loss, vae, x), run(zoo.AnnealedELBO(), other, x)
        torch.testing.assert_close(ours, theirs)
    moved = dict(vae.named_buffers())
    torch.testing.assert_close(moved, dict(other.named_buffers()))
    assert any("moving" in name for name in moved)


class Plain(nn.Module):
    """A guide with what a graph could take for granted."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Sequential(nn.Linear(2, 2, bias=False))
        self.shift = nn.Parameter(torch.zeros(2))
        self.temperature = 1.0
        self.num_features = None

    def forward(self, x):
        self.num_features = x.shape[-1]  # which the first run finds out
        with pyro.plate("data", len(x)):
            loc = self.linear(x) / self.temperature + self.shift
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def another_layer(guide):
    torch.manual_seed(7)
    guide.linear[0] = nn.Linear(2, 2, bias=False)


def one_more_layer(guide):
    torch.manual_seed(7)
    guide.linear.append(nn.Linear(2, 2))


def bias(guide):
    guide.linear[0].bias = nn.Parameter(torch.ones(2))


def attribute(guide):
    guide.temperature = 3.0


def parameter_becomes_buffer(guide):
    weight = guide.linear[0].weight.detach()
    del guide.linear[0].weight
    guide.linear[0].register_buffer("weight", weight)


@pytest.mark.parametrize(
    "change", [another_layer, one_more_layer, bias, attribute, parameter_becomes_buffer]
)
def test_a_pair_that_changes_is_traced_anew(change):
    x = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    torch.manual_seed(0)
    vae = zoo.VAE(Model(), Plain(), (2,))
    loss = compiled()
    run(loss, vae, x)
    before = run(loss, vae, x)
    assert len(graphs_of(loss, vae)) == 1
    change(vae.guide)
    ours, theirs = run(loss, vae, x), run(zoo.AnnealedELBO(), vae, x)
    torch.testing.assert_close(ours, theirs)
    if change is not parameter_becomes_buffer:
        assert ours[0] != before[0]


def test_an_attribute_that_never_rests_is_told(recwarn):
    x = torch.ones(3, 2)
    vae = zoo.VAE(Model(), Plain(), (2,))
    loss = compiled()
    for step in range(10):
        vae.guide.temperature = 1.0 + step
        run(loss, vae, x)
    said = [str(warning.message) for warning in recwarn]
    assert sum("8 graphs were compiled for one pair" in text for text in said) == 1


def test_a_number_that_each_run_changes_is_refused():
    vae, x = zoo.VAE(Model(), Counting(), (2,)), torch.ones(3, 2)
    with pytest.raises(zoo.UserError, match="each run changes guide.calls, but a"):
        run(compiled(), vae, x)

    class Counts(zoo.AnnealedELBO):
        runs = 0

        def loss_and_elbo(self, model, guide, x):
            self.runs += 1
            return super().loss_and_elbo(model, guide, x)

    other, loss = zoo.VAE(Model(), Plain(), (2,)), Counts()
    with pytest.raises(zoo.UserError, match="each run changes objective.runs, but a"):
        run(CompiledELBO(loss, compiler=as_it_is), other, x)


def test_a_buffer_may_count_the_runs():
    vae, x, loss = zoo.VAE(Model(), Counting(), (2,)), torch.ones(3, 2), compiled()
    del vae.guide.calls
    vae.guide.register_buffer("calls", torch.tensor(0))
    for steps in (1, 2, 3):
        theirs = copy.deepcopy(vae)
        torch.testing.assert_close(
            run(loss, vae, x), run(zoo.AnnealedELBO(), theirs, x)
        )
        assert vae.guide.calls == theirs.guide.calls == steps
    assert len(graphs_of(loss, vae)) == 1


def test_another_criterion_of_an_objective_has_a_graph_of_its_own():
    """An attribute that is neither a number nor a word."""
    vae = pair("recursive_mixture")
    refresh = make_loss(TrainOptions(), vae.phases[-1].loss)
    x, loss = data(), CompiledELBO(refresh, compiler=as_it_is)
    for criterion in (
        refresh.criterion,
        dataclasses.replace(refresh.criterion, kl_bound=0.01),
    ):
        refresh.criterion = criterion
        ours, theirs = run(loss, vae, x), run(refresh, vae, x)
        torch.testing.assert_close(ours, theirs)
    assert len(graphs_of(loss, vae)) == 2


@pytest.mark.slow
def test_other_strides():
    vae, x, loss = pair("mean_field"), data(), compiled(inductor)
    run(loss, vae, x)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert turned.stride() != x.stride()
    ours, theirs = run(loss, vae, turned), run(zoo.AnnealedELBO(), vae, x)
    torch.testing.assert_close(ours, theirs)
    assert len(graphs_of(loss, vae)) == 1


@pytest.mark.parametrize("compiler", quick([as_it_is, inductor], as_it_is))
def test_other_types(compiler):
    vae, x, loss = pair("mean_field"), data(), compiled(compiler)
    run(loss, vae, x)
    vae.float()
    ours, theirs = (run(o, vae, x.float()) for o in (loss, zoo.AnnealedELBO()))
    torch.testing.assert_close(ours, theirs)
    assert len(graphs_of(loss, vae)) == 2


class TiedModel(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        self.linear.weight = weight

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.linear(z), 1.0).to_event(1), obs=x)


def test_weights_that_both_sides_share():
    """One parameter in two modules, as those of encoder and decoder that are tied."""
    guide, x = Plain(), torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    model = TiedModel(guide.linear[0].weight)
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=True):
        results = []
        for objective in (compiled(), zoo.AnnealedELBO()):
            guide.zero_grad()
            torch.manual_seed(2)
            loss, elbo = objective.loss_and_elbo(model, guide, x)
            loss.backward()
            results.append((loss.detach(), elbo, guide.linear[0].weight.grad.clone()))
    torch.testing.assert_close(*results)


def test_options_of_pyros_own():
    options = {"max_plate_nesting": 1, "vectorize_particles": True}
    assert CompiledTrace_ELBO(3, **options).num_particles == 3
    with pytest.raises(zoo.UserError, match="has one plate"):
        CompiledTrace_ELBO(max_plate_nesting=2)
    with pytest.raises(zoo.UserError, match="drawn in one plate"):
        CompiledTrace_ELBO(2, vectorize_particles=False)


def test_a_copy_of_the_pair_is_a_pair_of_its_own():
    vae, x, loss = pair(), data(), compiled()
    run(loss, vae, x)
    clone = copy.deepcopy(vae)
    perturb(clone)
    ours, theirs = (run(o, clone, x)[0] for o in (loss, zoo.AnnealedELBO()))
    torch.testing.assert_close(ours, theirs)


def test_the_objective_can_be_copied_and_pickled():
    vae, x, loss = pair(), data(), CompiledTrace_ELBO(2)
    loss.compiler = as_it_is
    expected = run(loss, vae, x)[0]
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(run(other, vae, x)[0], expected)


def test_nothing_keeps_a_pair_alive():
    vae, loss = pair(), compiled()
    run(loss, vae, data())
    gone = weakref.ref(vae.model)
    del vae
    gc.collect()
    assert gone() is None
    assert not loss._pairs


# ------------------------------------------------------------ as a part of PyTorch


def test_a_scaled_loss_has_scaled_gradients():
    vae, x = pair(), data()
    loss = compiled()
    whole = run(loss, vae, x)[2]
    torch.manual_seed(2)
    vae.zero_grad()
    (loss.differentiable_loss(vae.model, vae.guide, x) / 4).backward()
    for name, p in vae.named_parameters():
        torch.testing.assert_close(4 * p.grad, whole[name])


def test_hooks_of_parameters_are_called():
    vae, x, seen = pair(), data(), []
    p = next(vae.parameters())
    p.register_hook(lambda gradient: seen.append(gradient.clone()))
    gradient = run(compiled(), vae, x)[2][next(iter(dict(vae.named_parameters())))]
    assert torch.equal(seen[0], gradient)


def test_a_loss_is_differentiated_once():
    vae = pair()
    loss = compiled()(vae.model, vae.guide)(data())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated only once"):
        loss.backward()


# ------------------------------------------------------------------- what it refuses


class Early(Guide):
    def forward(self, x):
        if self.linear(x).mean() > 0:  # before anything is drawn
            x = -x
        return super().forward(x)


def as_numpy(x):
    x.detach().numpy()


def as_text(x):
    return f"{x.mean():.2f}"


def as_list(x):
    return x.mean(0).tolist()


@pytest.mark.parametrize("use", [as_numpy, as_text, as_list])
def test_python_that_takes_tensors_apart_is_refused(use):
    class Takes(Guide):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.linear(x), 1.0).to_event(1))
                use(z)

    vae = zoo.VAE(Model(), Takes(), (2,))
    with pytest.raises(
        zoo.UserError, match=r"cannot be compiled.*train it with Trace_"
    ):
        compiled()(vae.model, vae.guide)(torch.ones(3, 2))


class HoldsATensor(Guide):
    def __init__(self):
        super().__init__()
        self.offset = torch.ones(2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc = self.linear(x) + self.offset
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (Guide, "after site 'z' its control flow depends"),
        (Early, "before the first site its control flow"),
        (HoldsATensor, "register it as a buffer"),
        (Discrete, "site 'z' is drawn without reparam"),
    ],
)
def test_a_pair_that_is_no_graph_is_refused(guide, said):
    vae = zoo.VAE(Model(), guide(), (2,))
    with pytest.raises(zoo.UserError, match=said):
        compiled()(vae.model, vae.guide)(torch.ones(3, 2))


def test_a_mistake_of_the_pair_is_said_as_ever():
    vae = zoo.VAE(Model(), nn.Linear(2, 2), (2,))
    with pytest.raises(
        zoo.UserError, match="the model has latent sites .*, but the guide does not"
    ):
        compiled()(vae.model, vae.guide)(torch.ones(3, 2))
