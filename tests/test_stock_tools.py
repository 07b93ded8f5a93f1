"""Pyro's own objectives and tools, used on the zoo's pairs as a user would use them."""

import warnings

import pyro
import pytest
import torch
import torch.nn.functional as F
from pairs import FAMILIES, MIXTURES, perturb, quick, small
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.inspect import get_model_relations
from pyro.ops.provenance import ProvenanceTensor, get_provenance
from pyro.poutine.util import site_is_subsample

import pyro_vae_zoo as zoo
from pyro_vae_zoo.distributions import BernoulliLogits

EVERY = zoo.list_guides() + zoo.list_density_models()

# What a pair cannot be trained by, and what its error says.
NO_JIT = {"semi_amortized": "requires grad as a constant"}  # its guide takes gradients
NO_TAIL_ADAPTIVE = dict.fromkeys(MIXTURES, "a mixture cannot be trained with")
NO_INVERSE = "has no inverse for arbitrary values"  # draws are scored detached
NO_WAKE_SLEEP = {
    "neural_autoregressive": NO_INVERSE,
    "sylvester_householder": NO_INVERSE,
    "sylvester_orthogonal": NO_INVERSE,
    "sylvester_triangular": NO_INVERSE,
    "maf": "has no attribute 'detach'",  # without latents there is no guide to score
}


def pair(name):
    torch.manual_seed(0)
    vae = small(name).double()
    perturb(vae, 0.3)
    return vae


def data(name, n=5):
    torch.manual_seed(1)
    x = torch.randn(n, 2, 3).double()
    return x if name in zoo.list_density_models() else (x > 0).double()


def train(name, objective, steps=3):
    """A pair after steps of stock SVI, and their losses."""
    vae, x = pair(name), data(name)
    # Not Adam, which blows rounding up where a gradient is near zero.
    svi = SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1e-3}), objective)
    if isinstance(objective, JitTrace_ELBO):  # which draws while it traces
        objective.differentiable_loss(vae.model, vae.guide, x)
    torch.manual_seed(2)
    return vae, [svi.step(x) for _ in range(steps)]


def vectorized(objective):
    return objective(num_particles=4, vectorize_particles=True, max_plate_nesting=1)


def check_trains(name, objective, reasons):
    """Training moves every parameter that `Trace_ELBO` moves, or says why not."""
    if name in reasons:
        with pytest.raises(Exception, match=reasons[name]):
            train(name, objective)
        return
    start = pair(name).state_dict()
    stock = train(name, vectorized(Trace_ELBO))[0].state_dict()
    ours = train(name, objective)[0].state_dict()
    for key, before in start.items():
        assert ours[key].isfinite().all(), key
        if not torch.equal(stock[key], before):
            assert not torch.equal(ours[key], before), key


@pytest.mark.parametrize("name", quick(EVERY, *FAMILIES))
def test_torchscript_trains_as_eager_pyro_does(name):
    jit = JitTrace_ELBO(max_plate_nesting=1, ignore_jit_warnings=True)
    with warnings.catch_warnings():
        # TorchScript is on its way out: by which category is said changes.
        warnings.filterwarnings("ignore", ".*torch.jit")
        if name in NO_JIT:
            with pytest.raises(RuntimeError, match=NO_JIT[name]):
                train(name, jit)
            return
        ours, losses = train(name, jit)
    theirs, expected = train(name, Trace_ELBO(max_plate_nesting=1))
    # A size is a tensor to TorchScript, and the size times a float in single precision.
    assert losses == pytest.approx(expected, rel=1e-7)
    torch.testing.assert_close(
        ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("name", quick(EVERY, *FAMILIES))
def test_the_tail_adaptive_divergence_trains(name):
    check_trains(name, vectorized(TraceTailAdaptive_ELBO), NO_TAIL_ADAPTIVE)


@pytest.mark.parametrize("name", quick(EVERY, *FAMILIES))
def test_reweighted_wake_sleep_trains(name):
    check_trains(name, vectorized(ReweightedWakeSleep), NO_WAKE_SLEEP)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_a_bernoullis_density_is_softplus_to_the_last_bit(dtype):
    """Value, sign of zero and gradient, over the threshold of softplus too."""
    torch.manual_seed(0)
    logits = 30 * torch.randn(1000, 7, dtype=dtype)
    logits[0, :2] = torch.tensor([1e4, -1e4])
    value = torch.rand_like(logits).round()
    results = []
    for log_prob in (
        lambda p: -F.softplus((1 - 2 * value) * p),
        lambda p: BernoulliLogits(logits=p).log_prob(value),
    ):
        p = logits.clone().requires_grad_()
        density = log_prob(p)
        (gradient,) = torch.autograd.grad(density.sum(), p)
        results.append((density.detach(), gradient))
    for expected, got in zip(*results, strict=True):
        assert torch.equal(expected, got)
        assert torch.equal(expected.signbit(), got.signbit())


@pytest.mark.parametrize("side", ["guide", "model"])
@pytest.mark.parametrize("name", quick(EVERY, *FAMILIES))
def test_pyro_can_inspect_both_sides(name, side):
    """What `pyro.render_model` asks first: which site depends on which."""
    vae, x = pair(name), data(name)
    module = getattr(vae, side)
    found = get_model_relations(module, (x,))
    trace = pyro.poutine.trace(module).get_trace(x)
    sites = [
        n
        for n, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    ]
    assert list(found["sample_sample"]) == sites
    if sites == ["z", "x"]:
        assert found["sample_sample"] == {"z": [], "x": ["z"]}
    parameters = {n for n, site in trace.nodes.items() if site["type"] == "param"}
    upstream = {p for names in found["sample_param"].values() for p in names}
    assert upstream <= parameters


@pytest.mark.parametrize("name", ["neural_autoregressive", "sylvester_orthogonal"])
def test_a_draw_without_inverse_is_scored_as_itself_and_nothing_else(name):
    """A wrapper around a draw is that draw; a copy of it is not."""
    vae, x = pair(name), data(name)
    site = pyro.poutine.trace(vae.guide).get_trace(x).nodes["z"]
    fn, z = site["fn"], site["value"]
    expected = fn.log_prob(z)
    got = fn.log_prob(ProvenanceTensor(z, frozenset({"z"})))
    assert get_provenance(got) == {"z"}
    torch.testing.assert_close(got._t, expected)
    site = pyro.poutine.trace(vae.guide).get_trace(x).nodes["z"]
    for other in (site["value"].clone(), site["value"].detach()):
        with pytest.raises(NotImplementedError, match=NO_INVERSE):
            site["fn"].log_prob(other)
