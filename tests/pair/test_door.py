"""What is no pair or no data of its kind is told so, wherever it enters."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import FAMILIES, quick, small
from pyro.nn import PyroModule
from torch import nn

import pyro_vae_zoo as zoo

PAIR_JOBS = {
    "evaluate": lambda vae, x: zoo.evaluate(vae, x, 3).elbo,
    "log_likelihood": lambda vae, x: zoo.log_likelihood(vae, x, 3).log_prob,
    "annealed": lambda vae, x: zoo.annealed_log_likelihood(vae, x, 2, 3, 2).log_prob,
    "gaps": lambda vae, x: zoo.inference_gaps(vae, x, 2, num_particles=3).local_elbo,
    "local": lambda vae, x: zoo.local_log_likelihood(vae, x, 3, 2).log_prob,
    "curve": lambda vae, x: torch.tensor(zoo.particle_curve(vae, x, 3).log_prob),
    "covariances": lambda vae, x: zoo.posterior_covariances(vae, x, 4).covariance,
}
JOBS = PAIR_JOBS | {
    "encode": lambda vae, x: vae.encode(x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
}


@pytest.fixture
def vae():
    return small("iaf", event_shape=(4, 4))


@pytest.fixture
def x():
    return torch.rand(5, 4, 4).bernoulli()


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_data_of_any_kind_are_taken(vae, x, job):
    def seeded(x):
        torch.manual_seed(2)
        return job(vae, x)

    expected = seeded(x)
    for same in (x.bool(), x.byte(), x.long(), x.double(), x.numpy(), x.numpy() > 0):
        got = seeded(same)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_data_of_another_shape_are_refused(vae, x, job):
    with pytest.raises(zoo.UserError, match=r"a single image needs a batch.*x\[None\]"):
        job(vae, x[0])
    with pytest.raises(
        zoo.UserError, match=r"expected shape \(N, 4, 4\), got \(5, 16\)"
    ):
        job(vae, x.flatten(1))
    with pytest.raises(zoo.UserError, match=r"expected shape .* got \(5, 2, 8\)"):
        job(vae, x.reshape(5, 2, 8))
    with pytest.raises(zoo.UserError, match="empty"):
        job(vae, x[:0])
    with pytest.raises(zoo.UserError, match=r"expected.* tensor.* got list"):
        job(vae, x.tolist())


BAD_VALUES = {"grey": 0.5, "beyond": 5.0, "nan": torch.nan, "infinite": torch.inf}


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_bits_that_are_none_are_refused(vae, x, job, value):
    x[3, 2, 1] = value
    with pytest.raises(zoo.UserError, match="grey pixels|NaN or infinite"):
        job(vae, x)


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)
@pytest.mark.parametrize("job", PAIR_JOBS.values(), ids=PAIR_JOBS)
def test_a_bare_pair_refuses_them_too(vae, x, job, value):
    x[3, 2, 1] = value
    with pytest.raises(
        zoo.UserError, match="site 'x': expected data in the support of"
    ):
        job((vae.model, vae.guide), x)
    with pytest.raises(zoo.UserError, match=r"site 'x': expected data of event shape"):
        job((vae.model, vae.guide), x[:3].reshape(3, 2, 8))


@pytest.mark.parametrize("name", quick(zoo.list_guides(), *FAMILIES))
def test_every_model_refuses_grey_bits_as_a_bare_pair(name):
    vae = small(name)
    x = torch.rand(4, 2, 3)
    with pytest.raises(
        zoo.UserError, match=r"site 'x(_\d)?': expected data in the supp"
    ):
        zoo.log_likelihood((vae.model, vae.guide), x, 2)
    ll = zoo.log_likelihood((vae.model, vae.guide), x.round(), 2)
    assert torch.equal(ll.log_prob, zoo.log_likelihood(vae, x.round(), 2).log_prob)


def test_a_data_set_stands_for_its_test_split(vae, x):
    data = zoo.Dataset(x, x[:2], x[2:])
    for job in PAIR_JOBS.values():
        torch.testing.assert_close(job(vae, data), job(vae, x[2:]), rtol=0, atol=0)
    with pytest.raises(
        zoo.UserError, match=r"expected a Dataset, got Tensor.*zoo.Data"
    ):
        zoo.fit(vae, x)
    with pytest.raises(zoo.UserError, match="expected a VAE to train, got tuple"):
        zoo.fit((vae.model, vae.guide), data)


@pytest.mark.parametrize("job", PAIR_JOBS.values(), ids=PAIR_JOBS)
def test_what_is_no_pair_is_refused(vae, x, job):
    for pair, got in {
        (vae.model.forward, vae.guide.forward): "method, method",
        (pyro.poutine.scale(vae.model, scale=2.0), vae.guide): "nn.Modules, got",
        (vae.model,): "got tuple",
        vae.model: "got PyroModule|got StandardModel",
    }.items():
        with pytest.raises(zoo.UserError, match=got):
            job(pair, x)


def test_numbers_of_samples_are_counts(vae, x):
    for n in (0, -1):
        with pytest.raises(zoo.UserError, match="must be at least 1"):
            vae.encode(x, n)
        with pytest.raises(zoo.UserError, match="must be at least 1"):
            vae.sample(n)


def test_fit_checks_what_the_pair_can_score():
    """Data that suit their data set need not suit the pair."""
    grey = zoo.Dataset(*torch.rand(3, 12, 4, 4), "gaussian")
    vae = small("mean_field", event_shape=(4, 4))
    before = vae.state_dict()["guide.posterior.linear.weight"].clone()
    with pytest.raises(zoo.UserError, match="grey pixels"):
        zoo.fit(vae, grey, epochs=1, progress=False)
    assert torch.equal(vae.guide.posterior.linear.weight, before)


# ------------------------------------------------------- models of the user's own


class Model(PyroModule):
    """Bits of a latent vector; what varies from test to test is an argument."""

    def __init__(self, plate=lambda x: len(x), record=None, mask=None):
        super().__init__()
        self.net, self.plate, self.record, self.mask = (
            nn.Linear(2, 6),
            plate,
            record,
            mask,
        )

    def forward(self, x):
        with pyro.plate("data", self.plate(x), subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            logits = self.net(z)
            if self.record:
                pyro.deterministic(self.record, logits.sigmoid(), event_dim=1)
            bits = dist.Bernoulli(logits=logits).to_event(1)
            with pyro.poutine.mask(mask=True if self.mask is None else self.mask(x)):
                return pyro.sample("x", bits, obs=x)


class Guide(PyroModule):
    def __init__(self, plate=lambda x: len(x)):
        super().__init__()
        self.net, self.plate = nn.Linear(6, 4), plate

    def forward(self, x):
        loc, scale = self.net(x.nan_to_num()).chunk(2, -1)
        with pyro.plate("data", self.plate(x), subsample_size=len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


@pytest.fixture
def six():
    return torch.rand(5, 6).bernoulli()


@pytest.mark.parametrize("name", ["x_mean", "x_1_mean", "xs", "x_"])
def test_a_record_that_is_named_like_data_is_none(six, name):
    vae = zoo.VAE(Model(record=name), Guide(), (6,))
    assert vae.sample(3).shape == (3, 6)
    assert set(vae.sample(3).unique().tolist()) <= {0.0, 1.0}
    assert vae.reconstruct(six).shape == (5, 6)
    zoo.testing.check_vae(vae, six)


def test_a_plate_that_subsamples_is_refused(six):
    """Its scale would count in training and not in evaluation."""
    data = zoo.Dataset(six, six, six)
    for model, guide in ((60, len), (len, 60)):
        plates = [(lambda x, n=n: n if n == 60 else len(x)) for n in (model, guide)]
        vae = zoo.VAE(Model(plates[0]), Guide(plates[1]), (6,))
        with pytest.raises(
            AssertionError, match="plate 'data' subsamples . of 60 data"
        ):
            zoo.testing.check_vae(vae, six)
        with pytest.raises(zoo.UserError, match="plate 'data' subsamples . of 60 data"):
            zoo.fit(vae, data, epochs=1, progress=False)


def test_a_likelihood_of_the_users_is_asked_what_it_can_score(six):
    vae = zoo.VAE(Model(), Guide(), (6,))
    six[2, 1] = 0.3
    with pytest.raises(zoo.UserError, match=r"site 'x'.*Bernoulli.*values in \[0, 1\]"):
        zoo.evaluate(vae, six, 3)
    with pytest.raises(zoo.UserError, match="site 'x'.*Bernoulli"):
        zoo.fit(vae, zoo.Dataset(six, six, six, "gaussian"), epochs=1, progress=False)


def test_what_a_mask_takes_out_is_not_looked_at(six):
    six[2] = torch.nan
    vae = zoo.VAE(Model(mask=lambda x: x.isfinite().all(-1)), Guide(), (6,))
    ll = zoo.log_likelihood((vae.model, vae.guide), six, 3)
    assert ll.log_prob[[0, 1, 3, 4]].isfinite().all()


def test_a_support_that_moves_with_z_is_left_alone():
    """Zero probability under one draw is an answer, and no wrong datum."""

    class Near(PyroModule):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1).to_event(1))
                box = dist.Uniform(z - 1, z + 1).to_event(1)
                return pyro.sample("x", box, obs=x)

    class Around(PyroModule):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", dist.Normal(x, 0.5).to_event(1))

    x = torch.tensor([[0.0], [2.0]])
    ll = zoo.log_likelihood((Near(), Around()), x, 4000)
    normal = dist.Normal(0.0, 1.0)
    exact = ((normal.cdf(x + 1) - normal.cdf(x - 1)) / 2).log().flatten().double()
    assert ((ll.log_prob - exact).abs() < 4 * ll.std_error).all()


# --------------------------------------------------------------- parameters left alone


class FrozenGuide(nn.Module):
    """A plain module with a parameter of its own that is not to move."""

    def __init__(self, event_shape, latent_dim, hidden_dims):
        super().__init__()
        self.net = nn.Linear(torch.Size(event_shape).numel(), latent_dim)
        self.log_scale = nn.Parameter(torch.zeros(latent_dim), requires_grad=False)
        self.net.bias.requires_grad_(False)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            q = dist.Normal(self.net(x.flatten(1)), self.log_scale.exp()).to_event(1)
            return pyro.sample("z", q)


def test_what_is_frozen_stays_frozen(x):
    vae = zoo.create(FrozenGuide, event_shape=(4, 4), latent_dim=2, hidden_dims=(8,))
    data = zoo.Dataset(x, x, x)
    store = pyro.get_param_store()
    stored = set(store.keys())
    for job in (*JOBS.values(), lambda vae, x: vae.sample(2)):
        if job not in (JOBS["gaps"], JOBS["local"]):  # which are for the zoo's guides
            job(vae, x)
    assert set(store.keys()) == stored
    for compile in (False, True):
        zoo.fit(vae, data, epochs=2, progress=False, compile=compile, device="cpu")
        for p in (vae.guide.log_scale, vae.guide.net.bias):
            assert not p.requires_grad
        assert torch.equal(vae.guide.log_scale, torch.zeros(2))
    zoo.testing.check_vae(vae, x)
