"""What surrounds a call changes no number: modes, defaults, precision, other threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import FAMILIES, quick, small
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.pair.modes import evaluating, undisturbed
from pyro_vae_zoo.runtime import seed_generators

GUIDES = zoo.list_guides() + zoo.list_density_models()


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def matmul_precision():
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_dtype": default_dtype,
    "default_device": lambda: torch.device("meta"),
    "matmul_precision": matmul_precision,
}


def bits(name, n=6):
    if name in zoo.list_density_models():
        return torch.randn(n, 2, 3)
    return torch.rand(n, 2, 3).bernoulli()


def parts(value):
    """The tensors and numbers of a result, whatever holds them."""
    if isinstance(value, dict):
        return [v for part in value.values() for v in parts(part)]
    if hasattr(value, "__dataclass_fields__"):
        return parts(vars(value))
    return [value]


def check_same(before, after):
    before, after = parts(before), parts(after)
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        if isinstance(a, torch.Tensor):
            assert (a.dtype, a.device) == (b.dtype, b.device)
            assert not b.is_inference()
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
        else:
            assert a == b or a != a


def seeded(function):
    torch.manual_seed(3)
    return function()


@pytest.mark.parametrize("name", quick(GUIDES, *FAMILIES))
def test_a_guide_is_judged_alike_in_every_mode(name):
    vae, x = small(name), bits(name)
    jobs = (
        lambda: zoo.evaluate(vae, x, 5),
        lambda: vae.encode(x, 2),
        lambda: vae.reconstruct(x),
        lambda: vae.sample(3),
    )
    before = [seeded(job) for job in jobs]
    for mode in MODES.values():
        with mode():
            after = [seeded(job) for job in jobs]
        for a, b in zip(before, after, strict=True):
            check_same(a, b)


JOBS = {
    "log_likelihood": lambda vae, x: zoo.log_likelihood(vae, x, 5),
    "compiled": lambda vae, x: zoo.log_likelihood(vae, x, 4, compile=True),
    "bare pair": lambda vae, x: zoo.log_likelihood((vae.model, vae.guide), x, 5),
    "annealed": lambda vae, x: zoo.annealed_log_likelihood(vae, x, 2, 2, 1),
    "bidirectional": lambda vae, x: zoo.bidirectional(vae, 3, 2, 2, 1),
    "gaps": lambda vae, x: zoo.inference_gaps(vae, x, 3, num_particles=5),
    "local": lambda vae, x: zoo.local_log_likelihood(vae, x, 5, 3),
    "curve": lambda vae, x: zoo.particle_curve(vae, x, 5),
    "covariances": lambda vae, x: zoo.posterior_covariances(vae, x, 5),
}


@pytest.mark.parametrize("name", quick(JOBS, *(n for n in JOBS if n != "compiled")))
def test_every_tool_works_alike_in_every_mode(name):
    vae, x, job = small("iaf"), bits("iaf"), JOBS[name]
    before = job(vae, x)
    dear = ("autocast", "inference_mode")  # compiled anew each time
    for mode in dear if name == "compiled" else MODES:
        with MODES[mode]():
            after = job(vae, x)
        check_same(before, after)


@pytest.mark.parametrize("name", ["iaf", "semi_amortized", "mixture"])
def test_training_is_alike_in_every_mode(name):
    data = zoo.load_dataset("digits_binary").first(60)
    weights = []
    # How products are rounded is the user's to say in training, where there is a choice.
    modes = [mode for mode in MODES if mode != "matmul_precision"]
    for surroundings in (nullcontext, *(MODES[mode] for mode in modes)):
        torch.manual_seed(1)
        vae = small(name, event_shape=(8, 8))
        with surroundings():
            zoo.fit(vae, data, epochs=1, batch_size=20, progress=False, device="cpu")
        weights.append(vae.state_dict())
    for others in weights[1:]:
        check_same(weights[0], others)


def test_data_of_inference_mode_are_data():
    vae = small("iaf")
    with torch.inference_mode():
        x = bits("iaf")
    assert zoo.annealed_log_likelihood(vae, x, 2, 3, 2).log_prob.isfinite().all()
    assert zoo.inference_gaps(vae, x, 2, num_particles=3).local_elbo.isfinite().all()
    assert not vae.encode(x).is_inference()


def test_a_pair_of_inference_mode_is_not_trained():
    data = zoo.load_dataset("digits_binary").first(20)
    with torch.inference_mode():
        vae = small("mean_field", event_shape=(8, 8))
    with pytest.raises(zoo.UserError, match="made inside torch.inference_mode"):
        zoo.fit(vae, data, epochs=1, progress=False)


RANDOM = {
    "evaluate": lambda device: zoo.evaluate(small("iaf").to(device), bits("iaf"), 5),
    "log_likelihood": lambda device: zoo.log_likelihood(
        small("maf").to(device), bits("maf"), 2
    ),
    "fit": lambda device: zoo.fit(
        small("mean_field", event_shape=(8, 8)),
        zoo.load_dataset("digits_binary").first(40),
        epochs=1,
        device=device,
        progress=False,
    ),
    "create": lambda device: small(
        "mean_field", encoder=nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).to(device)
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_pair_on_the_cpu_seeds_no_other_device(name, monkeypatch):
    """Of which nobody would give back the state."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    RANDOM[name]("cpu")
    assert seeds == []


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", RANDOM)
def test_all_devices_have_the_random_states_that_they_had(name, device):
    torch.manual_seed(5)
    before = [*torch.cuda.get_rng_state_all(), torch.get_rng_state()]
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        RANDOM[name](device)
    after = [*torch.cuda.get_rng_state_all(), torch.get_rng_state()]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


def test_a_pair_on_one_of_several_devices_seeds_that_one(monkeypatch):
    seeded, current = [], []

    @contextmanager
    def chosen(device):
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(
        torch.cuda, "manual_seed", lambda seed: seeded.append((*current, seed))
    )
    second = torch.device("cuda", 1)
    seed_generators(3, second)
    assert seeded == [(second, 3)]
    expected = torch.rand(2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.rand(2), expected)  # as the CPU draws, too


def test_full_precision_is_given_back():
    settings = torch.backends
    flags = [settings.cuda.matmul, settings.cudnn]
    before = [flag.allow_tf32 for flag in flags]
    module = torch.nn.Linear(2, 2)
    with matmul_precision():
        with evaluating(module, module, torch.device("cpu"), seed=None):
            if hasattr(settings.cuda.matmul, "fp32_precision"):
                assert settings.cuda.matmul.fp32_precision == "ieee"
                assert settings.mkldnn.matmul.fp32_precision == "ieee"
            assert (
                not settings.cuda.matmul.allow_tf32
            )  # which CUDA asks at each product
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    assert [flag.allow_tf32 for flag in flags] == before


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"),
    reason="PyTorch before 2.9",
)
def test_full_precision_where_only_the_new_setting_was_used():
    matmul, module = torch.backends.cuda.matmul, torch.nn.Linear(2, 2)
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with evaluating(module, module, torch.device("cpu"), seed=None):
            assert not matmul.allow_tf32
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_a_pair_in_double_precision_stays_so():
    vae, x = small("mean_field").double(), bits("mean_field").double()
    before = zoo.log_likelihood(vae, x, 5)
    with default_dtype():
        after = zoo.log_likelihood(vae, x, 5)
        assert torch.get_default_dtype() == torch.float64
    check_same(before, after)
    assert vae.encode(x).dtype == torch.float64


class Unnamed(torch.nn.Module):
    """A side that names no dtype: a guide, or with a decoder a model."""

    def __init__(self, encoder=None, decoder=None):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x):
        zeros = torch.zeros(len(x), 2)
        loc = zeros if self.encoder is None else self.encoder(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0 + zeros).to_event(1))
            if self.decoder is not None:
                bits = dist.Bernoulli(logits=self.decoder(z)).to_event(1)
                pyro.sample("x", bits, obs=x)


def unnamed():
    """A pair in double precision, that of its caller."""
    model = Unnamed(decoder=torch.nn.Linear(2, 6))
    return zoo.VAE(model, Unnamed(encoder=torch.nn.Linear(6, 2)), (6,))


@pytest.mark.parametrize("name", quick(JOBS, *(n for n in JOBS if n != "compiled")))
def test_what_names_no_dtype_is_of_that_of_its_pair(name):
    job, x = JOBS[name], torch.rand(5, 6).bernoulli()
    with default_dtype():
        vae = unnamed()
        before = job(vae, x)
    check_same(before, job(vae, x))  # whatever the caller's is by now


def test_what_names_no_dtype_is_trained_in_that_of_its_pair():
    x = torch.rand(20, 6).bernoulli()
    with default_dtype():
        vae = unnamed()
        before = vae.model.decoder.weight.clone()
        zoo.fit(vae, zoo.Dataset(x, x, x), epochs=1, progress=False, device="cpu")
    assert not torch.equal(vae.model.decoder.weight, before)
    for found in (vae.sample(2), vae.encode(x), vae.reconstruct(x)):
        assert found.dtype == torch.float64


# ------------------------------------------------------------------------------- threads


def side_by_side(*jobs):
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def test_threads_take_turns_and_leave_the_process_whole():
    vaes, x = [small("mean_field") for _ in range(4)], bits("mean_field", 40)
    jobs = [lambda vae=vae: zoo.evaluate(vae, x, 50) for vae in vaes]
    jobs.append(lambda: small("iaf").encode(x))
    alone = [job() for job in jobs[:-1]]
    for _ in range(3):
        together = side_by_side(*jobs)
        for a, b in zip(alone, together, strict=False):
            check_same(a, b)
    assert not pyro.settings.get("module_local_params")
    vae = small("mean_field")  # stock Pyro is as it was
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert svi.step(x) > svi.evaluate_loss(x) / 2


def test_a_dtype_of_another_threads_pair_is_not_left_behind():
    cpu, begun = torch.device("cpu"), threading.Event()

    def wait_for_a_turn():
        begun.set()
        with undisturbed(cpu):
            return torch.get_default_dtype()

    with ThreadPoolExecutor(1) as pool:
        with undisturbed(cpu, torch.float64):
            other = pool.submit(wait_for_a_turn)
            begun.wait()
            time.sleep(0.05)  # now it waits
        assert other.result() == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_two_trainings_in_two_threads_are_those_of_one():
    data = zoo.load_dataset("digits_binary").first(60)

    def train(seed):
        vae = small("mean_field", event_shape=(8, 8))
        vae.load_state_dict(start)
        zoo.fit(vae, data, epochs=2, batch_size=20, seed=seed, progress=False)
        return vae.state_dict()

    start = small("mean_field", event_shape=(8, 8)).state_dict()
    alone = [train(seed) for seed in (0, 1)]
    together = side_by_side(lambda: train(0), lambda: train(1))
    for a, b in zip(alone, together, strict=True):
        check_same(a, b)
    with pytest.raises(AssertionError):
        check_same(*alone)


def test_pairs_made_in_threads_have_names_of_their_own():
    made = side_by_side(*[lambda: small("mean_field") for _ in range(8)])
    assert len({vae.model._pyro_name for vae in made}) == 8
