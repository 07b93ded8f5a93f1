"""A mixture's gradient under every ELBO of Pyro: the right one, or a refusal by name."""

import warnings
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from pyro.contrib.gp.kernels import RBF
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.distributions import Mixture

DRAWS = 20_000
X = 0.7
VECTORISED = {"max_plate_nesting": 1, "vectorize_particles": True}
NOT_ENUMERATED = {"max_plate_nesting": 1, "strict_enumeration_warning": False}
RIGHT = {
    "Trace_ELBO": lambda: infer.Trace_ELBO(max_plate_nesting=1),
    "JitTrace_ELBO": lambda: infer.JitTrace_ELBO(max_plate_nesting=1),
    "TraceGraph_ELBO": lambda: infer.TraceGraph_ELBO(max_plate_nesting=1),
    "JitTraceGraph_ELBO": lambda: infer.JitTraceGraph_ELBO(max_plate_nesting=1),
    "TraceEnum_ELBO": lambda: infer.TraceEnum_ELBO(**NOT_ENUMERATED),
    "JitTraceEnum_ELBO": lambda: infer.JitTraceEnum_ELBO(**NOT_ENUMERATED),
    "AnnealedELBO": zoo.AnnealedELBO,
}
REFUSED = {
    "TraceMeanField_ELBO": lambda: infer.TraceMeanField_ELBO(max_plate_nesting=1),
    "JitTraceMeanField_ELBO": lambda: infer.JitTraceMeanField_ELBO(max_plate_nesting=1),
    "TraceTailAdaptive_ELBO": lambda: infer.TraceTailAdaptive_ELBO(2, **VECTORISED),
    "RenyiELBO": lambda: infer.RenyiELBO(num_particles=2, **VECTORISED),
    "TraceTMC_ELBO": lambda: infer.TraceTMC_ELBO(**NOT_ENUMERATED),
    "EnergyDistance": lambda: infer.EnergyDistance(max_plate_nesting=2),
    "Trace_MMD": lambda: infer.Trace_MMD(RBF(1), max_plate_nesting=1),
}


@contextmanager
def jit_as_it_is():
    """Without PyTorch's warnings of its own tracer, which Pyro's jitted ELBOs use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.*", FutureWarning)
        yield


def plain(q):
    return q


class Guide(nn.Module):
    """Two Gaussians; every number of them is a parameter. `wrap` hides the mixture."""

    def __init__(self, num_components=2, wrap=plain):
        super().__init__()
        self.wrap = wrap
        start = [-0.9, 1.4, 0.2], [0.1, -0.3, 0.0], [0.4, -0.2, 0.0]
        loc, log_scale, logits = (
            nn.Parameter(torch.tensor(v[:num_components]).double()) for v in start
        )
        self.loc, self.log_scale, self.logits = loc, log_scale, logits

    def mixture(self):
        pairs = zip(self.loc, self.log_scale.exp(), strict=True)
        components = [dist.Normal(m[None], s).to_event(1) for m, s in pairs]
        return Mixture(self.logits.log_softmax(-1), components)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.wrap(self.mixture()))


def log_prior(z):
    return dist.Normal(0.0, 1.0).log_prob(z).sum(-1)


class Model(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 1)."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(1), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def exact(guide):
    """The gradients of -L for one datum, by quadrature over the whole mixture."""
    z = torch.linspace(-12, 12, 20_001).double()[:, None]
    q = guide.mixture().log_prob(z)
    log_p = log_prior(z) + dist.Normal(z, 1.0).log_prob(torch.tensor(X)).sum(-1)
    loss = -torch.trapezoid(q.exp() * (log_p - q), z[:, 0])
    return torch.autograd.grad(loss, list(guide.parameters()))


def draws(loss, guide, model, repeats=12):
    """Gradients for one datum, the mean of `DRAWS` draws each time."""
    x = torch.full((DRAWS, 1), X).double()
    results = []
    for _ in range(repeats):
        guide.zero_grad()
        with jit_as_it_is():
            loss.loss_and_grads(model, guide, x)
        results.append([p.grad / DRAWS for p in guide.parameters()])
    return [torch.stack(values) for values in zip(*results, strict=True)]


def pair(**options):
    """A pair whose gradients are far from zero in every parameter, and its VAE."""
    torch.manual_seed(0)
    vae = zoo.VAE(Model(), Guide(**options), (1,))
    return vae, vae.guide, vae.model


def check(loss, guide, model, vae):
    got = draws(loss, guide, model)
    for (name, _), expected, values in zip(
        guide.named_parameters(), exact(guide), got, strict=True
    ):
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - expected).abs() < 4 * error + 1e-9).all(), name
        assert (expected.abs() > 10 * error).any(), name  # or this says nothing


@pytest.mark.parametrize("name", RIGHT)
def test_the_gradient_is_the_exact_one(name):
    """Of weights, means and scales alike, within four standard errors."""
    vae, guide, model = pair()
    check(RIGHT[name](), guide, model, vae)


@pytest.mark.parametrize("wrap", ["mask", "to_event", "transformed"])
@pytest.mark.parametrize("name", ["Trace_ELBO", "TraceGraph_ELBO"])
def test_in_a_wrapper_too(name, wrap):
    """What holds a mixture draws from it by `sample`, and has the whole score."""

    def wrapped(q):
        match wrap:
            case "mask":
                return q.mask(torch.tensor(True))
            case "to_event":
                return q.to_event(0)
        return dist.TransformedDistribution(
            q, [dist.transforms.AffineTransform(0.0, 1.0)]
        )

    vae, guide, model = pair(wrap=wrapped)
    check(RIGHT[name](), guide, model, vae)


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_by_name(name, validate):
    """With Pyro's own checks or without them, under which weights would starve."""
    _, guide, model = pair()
    loss = REFUSED[name]()
    run = loss if name == "EnergyDistance" else loss.loss_and_grads
    x = torch.full((5, 1), X).double()
    message = f"a mixture cannot be trained with {name}, whose"
    with pyro.validation_enabled(validate):
        with pytest.raises(zoo.UserError, match=message):
            run(model, guide, x)


def test_every_elbo_of_pyro_is_one_or_the_other():
    """A later Pyro's new ELBO fails here, and not in somebody's training."""
    known = {*RIGHT, *REFUSED, "ReweightedWakeSleep", "ELBO", "TraceEnumSample_ELBO"}
    there = {
        name
        for name in dir(infer)
        if isinstance(getattr(infer, name), type)
        and (issubclass(getattr(infer, name), infer.ELBO) or name == "EnergyDistance")
    }
    assert there - known == set()


@pytest.mark.parametrize("name", [n for n in REFUSED if n != "Trace_MMD"])
def test_one_component_is_no_choice(name):
    """And is reparametrised: every ELBO of Pyro takes it."""
    _, guide, model = pair(num_components=1)
    loss = REFUSED[name]()
    x = torch.full((5, 1), X).double()
    with jit_as_it_is():
        if name == "EnergyDistance":
            loss(model, guide, x).backward()
        else:
            loss.loss_and_grads(model, guide, x)
    assert guide.loc.grad.any()


def test_wake_sleep_scores_the_weights():
    """Its wake phase for the guide is -sum_k w_k grad log q(z_k) for draws held fixed."""
    _, guide, model = pair()
    loss = infer.ReweightedWakeSleep(num_particles=2, max_plate_nesting=1)
    x = torch.full((1, 1), X).double()
    guide.zero_grad()
    torch.manual_seed(1)
    loss.loss_and_grads(model, guide, x)
    torch.manual_seed(1)
    with torch.no_grad(), pyro.plate("particles", 2, dim=-2):
        z = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    log_q = guide.mixture().log_prob(z)[:, 0]
    log_p = log_prior(z)[:, 0] + dist.Normal(z[:, 0, 0], 1.0).log_prob(x[:, 0])
    expected = -((log_p - log_q).softmax(0).detach() * log_q).sum()
    torch.testing.assert_close(
        [p.grad for p in guide.parameters()],
        list(torch.autograd.grad(expected, list(guide.parameters()))),
    )


def test_values_without_gradients_are_nobodys_business():
    """Bounds that are only looked at are not refused: their values are right."""
    _, guide, model = pair()
    x = torch.full((2000, 1), X).double()
    torch.manual_seed(2)
    iwae = REFUSED["RenyiELBO"]().loss(model, guide, x) / 2000
    elbo = infer.Trace_ELBO().loss(model, guide, x) / 2000
    marginal = -dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(X)).item()
    assert marginal - 0.05 < iwae < elbo


def test_a_draw_says_what_it_has_a_gradient_to():
    one, two = (Guide(num_components=n).mixture() for n in (1, 2))
    assert one.has_rsample
    assert not two.has_rsample
    assert not two.expand((4,)).has_rsample
    assert two().requires_grad
    assert not two.sample().requires_grad
