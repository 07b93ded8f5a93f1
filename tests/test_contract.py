"""The contract of a pair: every registered guide keeps it, broken pairs do not."""

import math
import re
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import one_latent, perturb, quick, small
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions.transforms import AffineTransform

import pyro_vae_zoo as zoo
from pyro_vae_zoo import testing
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.models.flow_guides import FLOWS
from pyro_vae_zoo.nn.likelihoods import LIKELIHOODS, make_likelihood
from pyro_vae_zoo.nn.names import COUNTS, NETWORKS
from pyro_vae_zoo.testing import check_vae

COUPLINGS = ("affine_coupling", "spline_coupling")


def bits(n=8, event_shape=(2, 3)):
    return torch.rand(n, *event_shape).bernoulli()


@pytest.mark.parametrize("name", zoo.list_guides())
def test_every_guide_keeps_the_contract(name):
    check_vae(small(name, latent_dim=3), bits())


@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FLOWS))
def test_one_latent_dimension(name):
    if name in COUPLINGS:
        with pytest.raises(zoo.UserError, match="latent_dim >= 2"):
            small(name, latent_dim=1)
    else:
        check_vae(small(name, latent_dim=1), bits())


@pytest.mark.parametrize("num_flows", [0, 3])
@pytest.mark.parametrize("name", quick(FLOWS, "planar"))
def test_number_of_flows(name, num_flows):
    check_vae(small(name, num_flows=num_flows), bits())


@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings_of_one_dimension_without_steps(name):
    check_vae(small(name, latent_dim=1, num_flows=0), bits())


@pytest.mark.parametrize(
    ("network", "likelihood"),
    [(n, "bernoulli") for n in NETWORKS] + [("mlp", p) for p in LIKELIHOODS],
)
def test_networks_and_likelihoods(network, likelihood):
    sizes = {"binomial": {"total_count": 16}, "categorical": {"num_classes": 4}}
    own = sizes.get(likelihood, {})
    vae = small("planar", (5, 4), network=network, likelihood=likelihood, **own)
    examples = dict.fromkeys(COUNTS, torch.randint(4, (4, 5, 4)).float())
    examples["bernoulli"] = bits(4, (5, 4))
    examples["gaussian"] = torch.randn(4, 5, 4)
    examples["discretized_logistic"] = torch.randint(256, (4, 5, 4)) / 255
    x = examples[likelihood]
    check_vae(vae, x)


def test_float64():
    for name in zoo.list_guides():
        vae = small(name).double()
        terms = bound_terms(vae.model, vae.guide, bits().double(), 2)
        assert terms.log_weights.dtype == torch.double, name
        assert vae.sample(2).dtype == torch.double


# ------------------------------------------------------------- degenerate limits


@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize(
    ("name", "plain"),
    [*((n, "mean_field") for n in FLOWS), ("gated_dag_iaf", "gated_dag")],
)
def test_no_flows_is_the_guide_without_bit_for_bit(name, plain, num_particles):
    """X4, FL3, GV7: the same seed gives the same weights, bounds and gradients."""
    x, runs = bits(), []
    for guide, options in ((plain, {}), (name, {"num_flows": 0})):
        torch.manual_seed(3)
        vae = small(guide, latent_dim=3, **options)
        loss = Trace_ELBO(num_particles, max_plate_nesting=1, vectorize_particles=True)
        value = loss.differentiable_loss(vae.model, vae.guide, x)
        value.backward()
        gradients = [p.grad for p in vae.parameters()]
        runs.append((value, zoo.log_likelihood(vae, x, 50).log_prob, *gradients))
    for ours, theirs in zip(*runs, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "part"), [("gated_dag", "top_down"), ("ladder", "priors")]
)
def test_networks_of_both_sides_are_shared_and_have_one_optimiser_each(name, part):
    vae = small(name)
    assert getattr(vae.model, part) is getattr(vae.guide, part)
    optimizer = pyro.optim.Adam({"lr": 1e-3})
    pyro.infer.SVI(vae.model, vae.guide, optimizer, Trace_ELBO()).step(bits())
    assert len(optimizer.optim_objs) == len(list(vae.parameters()))


def test_guides_start_from_the_same_networks():
    """Under one seed decoder, encoder and Gaussian base are those of mean_field."""

    def start(name):
        torch.manual_seed(11)
        return small(name, latent_dim=3).state_dict()

    common = start("mean_field")
    base = {"guide.posterior.linear.weight", "guide.posterior.linear.bias"}
    shared = {k for k in common if k not in base}
    assert {k.split(".")[1] for k in shared} == {"decoder", "encoder"}
    for name in one_latent():
        state = {
            k.replace("encoders.0.", "encoder."): v for k, v in start(name).items()
        }
        for key in shared:
            assert torch.equal(state[key], common[key]), (name, key)
        if name in FLOWS:
            for key in base:
                mine = state[key.replace("linear", "base.linear")]
                assert torch.equal(mine, common[key]), (name, key)


# ------------------------------------------------------------------ broken pairs


class Model(nn.Module):
    """z -> x with hooks that break it; all is well as it stands."""

    def __init__(self, likelihood="bernoulli"):
        super().__init__()
        self.decoder = nn.Linear(2, 6)
        self.likelihood = make_likelihood(likelihood, (2, 3))

    def prior(self, x):
        return dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))

    def posterior(self, x):
        loc, raw_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, raw_scale.exp()).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def test_the_sound_pair_passes():
    check_vae(zoo.VAE(Model(), Guide(), (2, 3)), bits())


class NoSite(Guide):
    def forward(self, x):
        self.posterior(x)


class AnotherSite(Guide):
    def forward(self, x):
        super().forward(x)
        with pyro.plate("more data", len(x)):
            pyro.sample("y", dist.Normal(x.new_zeros(len(x)), 1.0))


class OutsideThePlate(Guide):
    def forward(self, x):
        pyro.sample("z", self.posterior(x))


class BatchNorm(Guide):
    def __init__(self):
        super().__init__()
        self.encoder.append(nn.BatchNorm1d(4))


class BatchMean(Guide):
    def posterior(self, x):
        return super().posterior(x - x.mean(0))


class BatchStatistics(Guide):
    """Mean and scale of all values, which no permutation of them moves."""

    def posterior(self, x):
        return super().posterior((x - x.mean()) / (x.std() + 0.1))


class NextRow(Guide):
    def posterior(self, x):
        return super().posterior(x + x.roll(-1, 0))


class LastRow(Guide):
    def posterior(self, x):
        return super().posterior(x + x.roll(1, 0))


class WithoutDensity(Guide):
    def posterior(self, x):
        return dist.Delta(self.encoder(x)[..., :2]).to_event(1)


class Unused(Guide):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)


class Detached(Guide):
    def posterior(self, x):
        loc, raw_scale = self.encoder(x).detach().chunk(2, -1)
        return dist.Normal(loc, raw_scale.exp()).to_event(1)


class NoEvent(Guide):
    def forward(self, x):
        loc, raw_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("latents", 2, dim=-1), pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(loc, raw_scale.exp()))


class MissingEvent(Guide):
    def forward(self, x):
        loc, raw_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw_scale.exp()))


class NotANumber(Guide):
    def posterior(self, x):
        return dist.Normal(self.encoder(x)[..., :2] * math.nan, 1.0).to_event(1)


class Infinite(Guide):
    """Values that are finite, of no finite density."""

    def posterior(self, x):
        loc, raw_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc * 1e30, raw_scale.exp()).to_event(1)


class Off(Guide):
    """log q too large by 0.69 for each latent: no density at all."""

    class Normal(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) + 0.69

    def posterior(self, x):
        loc, raw_scale = self.encoder(x).chunk(2, -1)
        return self.Normal(loc, raw_scale.exp()).to_event(1)


class Masked(Guide):
    def forward(self, x):
        with poutine.mask(mask=False):
            super().forward(x)


class WithoutDeterminant(Guide):
    """A map whose volume the density leaves out."""

    class Twice(AffineTransform):
        def log_abs_det_jacobian(self, x, y):
            return 0 * x

    def posterior(self, x):
        base = super().posterior(x)
        return dist.TransformedDistribution(base, [self.Twice(0.0, 2.0)])


BROKEN_GUIDES = (
    NoSite, AnotherSite, OutsideThePlate, BatchNorm, BatchMean, BatchStatistics,
    NextRow, LastRow, WithoutDensity, Unused, Detached, NoEvent, MissingEvent,
    NotANumber, Infinite, Off, Masked, WithoutDeterminant,
)  # fmt: skip


class ReadsX(Model):
    def prior(self, x):
        return dist.Normal(x.flatten(1)[:, :2], 1.0).to_event(1)


class ReadsXLater(Model):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            logits = self.decoder(z) + x.mean()
            return pyro.sample("x", self.likelihood(logits), obs=x)


class ReadsSpread(Model):
    """A scale of x's own, which data of equal values do not show."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            spread = x.flatten(1).std(-1)[:, None, None]
            p = dist.Normal(self.decoder(z).unflatten(-1, (2, 3)), 0.1 + spread)
            return pyro.sample("x", p.to_event(2), obs=x)


class IgnoresDraw(Model):
    """Goes on with the observed x in place of what was drawn."""

    def forward(self, x):
        flat = x.flatten(1)
        with pyro.plate("data", len(x)):
            logits = self.decoder(pyro.sample("z", self.prior(x)))
            pyro.sample("x_1", dist.Bernoulli(logits=logits).to_event(1), obs=flat)
            pyro.sample("x_2", dist.Normal(flat, 1.0).to_event(1), obs=flat)


class ObservesNothing(Model):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            self.decoder(pyro.sample("z", self.prior(x)))


class ObservesPixels(Model):
    """No `to_event`: each pixel is a batch of its own."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            p = dist.Bernoulli(logits=self.decoder(z).unflatten(-1, (2, 3)))
            return pyro.sample("x", p, obs=x)


BROKEN_MODELS = (
    *(ReadsX, ReadsXLater, ReadsSpread, IgnoresDraw, ObservesNothing, ObservesPixels),
)


@pytest.mark.parametrize("guide", BROKEN_GUIDES)
def test_broken_guides_are_rejected(guide):
    with pytest.raises(AssertionError):
        check_vae(zoo.VAE(Model(), guide(), (2, 3)), bits())


@pytest.mark.parametrize("model", BROKEN_MODELS)
def test_broken_models_are_rejected(model):
    with pytest.raises(AssertionError):
        check_vae(zoo.VAE(model(), Guide(), (2, 3)), bits())


class Positive(Model):
    def prior(self, x):
        return dist.Gamma(x.new_ones(len(x), 2), 1.0).to_event(1)


class ByRejection(Guide):
    """Draws that take more or less noise, as their parameters are."""

    def posterior(self, x):
        a, b = self.encoder(x).chunk(2, -1)
        return dist.Gamma(a.exp() + 0.1, b.exp()).to_event(1)


def test_posteriors_that_are_drawn_by_rejection_pass():
    check_vae(zoo.VAE(Positive(), ByRejection(), (2, 3)), bits())


class Scene(nn.Module):
    """A side of a pair whose z is not all there is, or is under a handler."""

    def __init__(self, kind, is_guide):
        super().__init__()
        self.kind, self.is_guide = kind, is_guide
        self.net = nn.Linear(6, 4) if is_guide else nn.Linear(2, 6)
        self.loc = None if is_guide else nn.Parameter(torch.zeros(2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = (
                self.net(x.flatten(1)).chunk(2, -1)
                if self.is_guide
                else (self.loc.expand(len(x), 2), x.new_zeros(()))
            )
            scale, handler = raw.exp(), nullcontext()
            if self.kind == "chosen":  # one of two modes, far apart
                k = pyro.sample("k", dist.Bernoulli(x.new_full((len(x),), 0.5)))
                loc = loc + 12 * k[..., None]
            if self.kind == "wide":
                v = pyro.sample(
                    "v", dist.LogNormal(x.new_zeros(len(x), 1), 2.0).to_event(1)
                )
                scale = scale * v
            if self.kind == "scaled":
                handler = poutine.scale(scale=0.01)
            if self.kind == "masked":
                handler = poutine.mask(mask=x.flatten(1)[:, 0] > 0)
            with handler:
                z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            if self.kind == "function":
                z = pyro.sample("h", dist.Delta(z.tanh()).to_event(1))
            if not self.is_guide:
                logits = self.net(z / 12).unflatten(-1, (2, 3))
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(2), obs=x)


@pytest.mark.parametrize("kind", ["chosen", "wide", "scaled", "masked", "function"])
def test_a_density_beside_other_latents_and_under_handlers_is_one(kind):
    torch.manual_seed(0)
    vae = zoo.VAE(Scene(kind, False), Scene(kind, True), (2, 3))
    testing.check_density(vae, bits())


class Linear(nn.Module):
    """x = W z + e, without a parameter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(3, 2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            p = dist.Normal(z @ self.weight.T, 0.5).to_event(1)
            return pyro.sample("x", p, obs=x)


class Exact(nn.Module):
    def __init__(self, model):
        super().__init__()
        w = model.weight
        covariance = torch.linalg.inv(torch.eye(2) + w.T @ w / 0.25)
        self.mean = nn.Parameter((covariance @ w.T / 0.25).contiguous())
        self.scale = nn.Parameter(torch.linalg.cholesky(covariance).contiguous())

    def forward(self, x):
        q = dist.MultivariateNormal(x @ self.mean.T, scale_tril=self.scale.tril())
        with pyro.plate("data", len(x)):
            pyro.sample("z", q)


def test_a_guide_that_cannot_be_improved_passes():
    torch.manual_seed(0)
    model = Linear()
    check_vae(zoo.VAE(model, Exact(model), (3,)), torch.randn(20, 3))


def test_the_reason_is_said():
    def reason(model=Model, guide=Guide):
        with pytest.raises(AssertionError) as error:
            check_vae(zoo.VAE(model(), guide(), (2, 3)), bits())
        return str(error.value)

    assert "guide draws []" in reason(guide=NoSite)
    assert "outside pyro.plate('data'" in reason(guide=OutsideThePlate)
    assert "rest of the batch" in reason(guide=BatchMean)
    assert "rest of the batch" in reason(guide=BatchNorm)
    assert "rest of the batch" in reason(guide=BatchStatistics)
    assert "Delta, which has no density" in reason(guide=WithoutDensity)
    assert "reads the values of x" in reason(model=ReadsSpread)
    assert "guide.unused.weight gets no gradient" in reason(guide=Unused)
    assert "reads the values of x" in reason(model=ReadsX)
    assert "not finite" in reason(guide=Infinite)
    assert "observes no site" in reason(model=ObservesNothing)
    found = re.search(r"latents integrates to ([\d.]+) in", reason(guide=Off))
    assert float(found[1]) == pytest.approx(math.exp(2 * 0.69), rel=0.1)
    assert "is a log-determinant" in reason(guide=Masked)
    assert "is a log-determinant" in reason(guide=WithoutDeterminant)


@pytest.mark.parametrize("name", zoo.list_guides())
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_the_density_of_every_guide_is_looked_at(name, scale, monkeypatch):
    """Of the untrained and of the stirred; it leaves out none of them."""
    torch.manual_seed(0)
    vae, asked = small(name, latent_dim=3), []
    perturb(vae, scale)
    monkeypatch.setattr(testing, "_require", lambda holds, _: asked.append(holds))
    testing.check_density(vae, bits())
    assert asked == [True]


def standard(prior=None, likelihood=None, decoder=None):
    """A small pair of parts, put together by hand."""
    decoder = nn.Linear(2, 6) if decoder is None else decoder
    likelihood = (
        make_likelihood("bernoulli", (2, 3)) if likelihood is None else likelihood
    )
    model = zoo.StandardModel(decoder, likelihood, 2, prior)
    return zoo.VAE(model, Guide(), (2, 3))


class Prior(nn.Module):
    """All is well as it stands."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


class ForEachDatum(Prior):
    """Ignores the plate: it has a batch of its own."""

    def forward(self):
        return dist.Normal(self.loc.expand(8, 2), 1.0).to_event(1)


class NoGradient(Prior):
    def forward(self):
        return dist.Normal(self.loc.detach(), 1.0).to_event(1)


class WrongEvent(nn.Module):
    num_params = 1

    def forward(self, params):
        return dist.Bernoulli(logits=params.unflatten(-1, (2, 3))).to_event(1)


class FlatEvent(nn.Module):
    num_params = 1

    def forward(self, params):
        return dist.Bernoulli(logits=params).to_event(1)


class Centred(nn.Module):
    """Depends on the batch without a layer that is known to."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 6)

    def forward(self, z):
        h = self.linear(z)
        return h - h.mean(-2, keepdim=True)


BATCH_NORM = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"prior": ForEachDatum()}, "since the plate of data expands it"),
        ({"prior": NoGradient()}, "model.prior.loc gets no gradient"),
        ({"likelihood": WrongEvent()}, "the likelihood of data of event shape"),
        ({"likelihood": FlatEvent()}, "the likelihood of data of event shape"),
        ({"decoder": Centred()}, "rest of the batch"),
        ({"decoder": BATCH_NORM}, "rest of the batch|does not run"),
    ],
)
def test_broken_parts_are_found(parts, words):
    check_vae(standard(Prior()), bits())
    with pytest.raises(AssertionError, match=words):
        check_vae(standard(**parts), bits())


def test_checking_leaves_the_pair_alone():
    vae = small("iaf").eval()
    state = {k: v.clone() for k, v in vae.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    check_vae(vae, torch.ones(4, 2, 3))
    assert torch.equal(torch.rand(()), expected)
    assert not vae.training
    assert all(p.grad is None for p in vae.parameters())
    for key, value in vae.state_dict().items():
        assert torch.equal(value, state[key])


# --------------------------------------------------------------------------- GPU

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", zoo.list_guides())
def test_every_guide_keeps_the_contract_on_a_gpu(name):
    vae = small(name, latent_dim=3)
    perturb(vae, 0.3)
    x = bits(20)
    here = zoo.log_likelihood(vae, x, 2000)
    there = zoo.log_likelihood(vae.cuda(), x, 2000)  # another random stream
    error = (here.std_error**2 + there.std_error**2).sqrt()
    # 20 data and a dozen guides: 5 standard errors, and float32 rounding.
    assert ((there.log_prob - here.log_prob).abs() < 5 * error + 1e-4).all()
    check_vae(vae, x.cuda())


@pytest.mark.gpu
@needs_cuda
def test_evaluation_does_not_use_tf32():
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            settings = [torch.backends.cuda.matmul, torch.backends.cudnn]
            if hasattr(settings[0], "fp32_precision"):  # each kind has its own
                settings[1] = torch.backends.cudnn.conv
                seen.append(tuple(s.fp32_precision != "ieee" for s in settings))
            else:
                seen.append(tuple(s.allow_tf32 for s in settings))
            return x

    vae = small("mean_field").cuda()
    vae.guide.encoder.append(Probe())
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        zoo.log_likelihood(vae, bits(), 30)
        assert set(seen) == {(False, False)}
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
