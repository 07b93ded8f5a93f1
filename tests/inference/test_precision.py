"""Networks in bfloat16: rounded where it is said, and nowhere else."""

import math

import pytest
import torch
import torch.nn.functional as F
from compiling import EVERY
from hypothesis import given
from hypothesis import strategies as st
from pairs import FAMILIES, graphs_as_traced, perturb, quick, small
from torch.overrides import TorchFunctionMode

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference import compiled, precision
from pyro_vae_zoo.inference.precision import chosen, networks_in
from pyro_vae_zoo.training.options import TrainOptions

FLOATS = st.floats(width=32, allow_nan=False, allow_subnormal=True)


@given(FLOATS)
def test_the_nearest_bfloat16(value):
    x = torch.tensor([value])
    assert torch.equal(precision._nearest(x), x.bfloat16().float())


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(value):
    rounded = precision._nearest(torch.tensor([value]))
    torch.testing.assert_close(rounded, torch.tensor([value]), equal_nan=True)


def layers():
    """Name -> a layer, a batch for it."""
    torch.manual_seed(0)
    image, row = torch.randn(3, 2, 6, 6), torch.randn(3, 2, 6)
    return {
        "linear": (torch.nn.Linear(6, 5), torch.randn(7, 6)),
        "without bias": (torch.nn.Linear(6, 5, bias=False), torch.randn(4, 7, 6)),
        "conv1d": (torch.nn.Conv1d(2, 3, 3, padding=1), row),
        "conv2d": (torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), image),
        "conv3d": (torch.nn.Conv3d(2, 3, 3), torch.randn(3, 2, 4, 5, 3)),
        "transposed": (torch.nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1), image),
    }


def exactly(module, x, slope):
    """A layer's output and gradients by sums in float64 of factors that are rounded."""
    factors = {"x": x, "weight": module.weight}
    rounded = {n: f.detach().bfloat16().double() for n, f in factors.items()}
    for factor in rounded.values():
        factor.requires_grad_()
    cast = {"weight": rounded["weight"], "bias": None}
    y = torch.func.functional_call(module, cast, (rounded["x"],))
    wanted = list(rounded.values())
    gradients = torch.autograd.grad(y, wanted, slope.bfloat16().double())
    results = [y.detach(), *gradients]
    if module.bias is None:
        return results
    width = slope.dim() - 2 if slope.dim() > 2 else 0
    results[0] = results[0] + module.bias.reshape(-1, *[1] * width)
    return [*results, slope.transpose(1, -1).flatten(0, -2).sum(0)]


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("name", layers())
def test_a_layer_and_its_gradients_are_those_of_bfloat16(name, has, monkeypatch):
    """With the processor's own products and with products of rounded factors."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has)
    module, x = layers()[name]
    x.requires_grad_()
    with networks_in("bf16"):
        y = module(x)
    slope = torch.randn_like(y)
    got = [y, *torch.autograd.grad(y, [x, *module.parameters()], slope)]
    # Rounding is relative to what a bias is added to. Some processors' own kernels for
    # convolutions sum in bfloat16.
    ulp = 2**-5 if has else 2**-8
    for ours, theirs in zip(got, exactly(module, x, slope), strict=True):
        assert ours.dtype == torch.float32
        theirs = theirs.detach().float()
        atol = ulp * theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    assert not torch.equal(y, module(x))
    if module.bias is None:
        assert torch.equal(y, y.bfloat16().float())


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("name", layers())
def test_second_derivatives_are_close_to_those_of_float32(name, has, monkeypatch):
    """Guides that take gradient steps of their own train through them."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has)
    module, x = layers()[name]
    x.requires_grad_()
    weights = []
    for kind in ("bf16", "float32"):
        with networks_in(kind):
            (slope,) = torch.autograd.grad(module(x).sin().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), module.weight)
        weights.append(second)
    rounded, exact = weights
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() <= 0.02 * exact.norm()


def test_float64_and_other_functions_are_as_they_were():
    x, w = torch.randn(3, 4).double(), torch.randn(5, 4).double()
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    with networks_in("bf16"):
        assert torch.equal(F.linear(x, w), x @ w.T)
        assert torch.equal(a @ b, torch.mm(a, b))
        assert not torch.equal(F.linear(a, b.T), a @ b)
    with networks_in("float32"):
        assert torch.equal(F.linear(a, b.T), a @ b)


class Dtypes(TorchFunctionMode):
    """Keeps the type of every tensor that a function returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call the function."""
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.seen.add(out.dtype)
        return out


def bound(guide, precision, seed=1):
    torch.manual_seed(0)
    vae = small(guide)
    perturb(vae, 0.1)
    x = (torch.rand(4, 2, 3) < 0.5).float()
    if guide in zoo.list_density_models():
        x = torch.randn(4, 2, 3)
    torch.manual_seed(seed)
    with networks_in(precision):
        loss, elbo = zoo.AnnealedELBO().loss_and_elbo(vae.model, vae.guide, x)
    loss.backward()
    return loss, elbo, vae


@pytest.mark.parametrize("guide", quick(EVERY, *FAMILIES))
def test_bounds_and_gradients_are_close_to_those_of_float32(guide, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    with Dtypes() as outside:
        loss, elbo, vae = bound(guide, "bf16")
    assert torch.bfloat16 not in outside.seen  # where it is emulated none ever is
    exact, _, other = bound(guide, "float32")
    assert loss.dtype == elbo.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        if q.grad is not None:
            assert p.grad.dtype == torch.float32
            assert (p.grad - q.grad).norm() <= 0.1 * q.grad.norm() + 1e-2


def digits(**options):
    data = zoo.load_dataset("digits_binary")
    torch.manual_seed(0)
    vae = zoo.create("iaf", data, latent_dim=4, hidden_dims=(16,))
    options = {"device": "cpu", "progress": False, "epochs": 1} | options
    return vae, data, zoo.fit(vae, data, **options)


def test_compiled_and_eager_train_alike(monkeypatch):
    graphs = graphs_as_traced(monkeypatch, compiled)
    ends = [digits(precision="bf16", compile=c)[0] for c in (True, False)]
    assert graphs
    for p, q in zip(*(vae.parameters() for vae in ends), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)
    plain, _, history = digits(compile=False)
    assert history.precision == "float32"
    pairs = zip(ends[1].parameters(), plain.parameters(), strict=True)
    assert any(not torch.equal(p, q) for p, q in pairs)


def test_evaluation_is_in_float32():
    vae, data, _ = digits(precision="bf16")
    before = zoo.evaluate(vae, data.test, num_particles=2, seed=0)
    with networks_in("float32"):
        again = zoo.evaluate(vae, data.test, num_particles=2, seed=0)
    assert before.elbo == again.elbo


def test_it_resumes_bit_for_bit_and_is_named(tmp_path):
    whole, _, history = digits(precision="bf16", epochs=2, kl_warmup=0.2)
    assert history.precision == "bf16"
    digits(precision="bf16", epochs=1, out=tmp_path)
    half, _, _ = digits(precision="bf16", epochs=2, out=tmp_path, resume=True)
    for p, q in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(zoo.UserError, match="precision=bf16"):
        digits(epochs=3, out=tmp_path, resume=True)


def test_auto_measures_once_and_goes_on_with_what_it_chose(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    for has, pays in ((False, True), (True, False), (True, True)):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device, h=has: h)
        monkeypatch.setattr(precision, "_pays", lambda device, p=pays: p)
        auto = chosen("auto", cpu, torch.float32)
        assert auto == ("bf16" if has and pays else "float32")
        assert chosen("auto", cpu, torch.float64) == "float32"
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    digits(precision="auto", out=tmp_path)
    monkeypatch.setattr(precision, "_pays", lambda device: False)
    _, _, history = digits(precision="auto", epochs=2, out=tmp_path, resume=True)
    assert history.precision == "bf16"


def test_a_pair_of_float64_has_nothing_to_round():
    with pytest.raises(
        zoo.UserError, match="for a VAE of float32, got one of torch.fl"
    ):
        chosen("bf16", torch.device("cpu"), torch.float64)


def test_the_measurement_runs():
    assert precision._pays(torch.device("cpu")) in (True, False)


def test_an_unknown_precision_is_refused():
    for name in (*precision.PRECISIONS, "auto"):
        assert TrainOptions(precision=name).precision == name
    with pytest.raises(zoo.UserError, match="known: float32, bf16, auto"):
        TrainOptions(precision="half")
    with pytest.raises(zoo.UserError, match="unknown precision 'half'"):
        zoo.CompiledTrace_ELBO(precision="half")
