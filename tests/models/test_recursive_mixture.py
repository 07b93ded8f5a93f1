"""RM1 to RM9: how a recursive mixture is trained, and what comes of it.

Two toys have everything in closed form or on a grid: `Bimodal`, whose posterior is a
mixture of two Gaussians for every x, and `log_joint`, a fixed density of one z.
"""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import check_resumes_in_every_phase, perturb, quick, small
from pyro import poutine
from test_mixture import bits, differ, gradients, normal, three_gaussians
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.inference.terms import bound_terms, score_latents
from pyro_vae_zoo.models.mixture import AmortizedWeights, MixtureGuide
from pyro_vae_zoo.models.recursive_mixture import (
    ComponentELBO,
    Criterion,
    RecursiveELBO,
    at_fixed_parameters,
    mirror_step,
    mixture_of,
    recursive_phases,
)
from pyro_vae_zoo.models.standard import DiagonalGaussian
from pyro_vae_zoo.training import loop

GRID = torch.linspace(-14, 14, 20_001, dtype=torch.double)
Z = GRID[:, None]


def fresh(num_components=3, **options):
    torch.manual_seed(0)
    vae = small("recursive_mixture", num_components=num_components, **options).double()
    perturb(vae)
    return vae, bits()


# --------------------------------------------------------------------- the gradients


def test_a_function_at_fixed_parameters():
    """Its value is the function's, its gradient goes to z and to nothing else."""
    q = three_gaussians()
    loc = q.components[0].base_dist.loc.requires_grad_()
    z = torch.randn(4, 5, 2).double().requires_grad_()
    value = at_fixed_parameters(q.log_prob, z)
    assert torch.equal(value, q.log_prob(z))
    factor = torch.rand(4, 5).double()
    (slope,) = torch.autograd.grad((factor * value).sum(), z, retain_graph=True)
    (expected,) = torch.autograd.grad((factor * q.log_prob(z)).sum(), z)
    torch.testing.assert_close(slope, expected)
    assert torch.autograd.grad(value.sum(), loc, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    "options", [{}, {"component": "affine_coupling"}, {"shared_trunk": True}]
)
@pytest.mark.parametrize("m", [1, 2])
def test_fitting_a_component_moves_nothing_else(m, options):
    """RM6: the gradients of everything else are none or exactly zero."""
    vae, x = fresh(**options)
    loss = ComponentELBO(m=m, criterion=Criterion(1.0))
    loss.differentiable_loss(vae.model, vae.guide, x).backward()
    own = {p for module in vae.guide.component(m) for p in module.parameters()}
    shared = "shared_trunk" in options  # whose encoder `fit` leaves out of the phase
    for name, p in vae.named_parameters():
        if p in own or (shared and name.startswith("guide.encoders")):
            assert p.grad.any(), name
        else:
            assert p.grad is None or not p.grad.any(), name


def test_the_joint_step_is_the_sum_of_its_parts():
    """Each part of `RecursiveELBO` has the gradient that it would have alone."""
    vae, x = fresh()
    criterion = Criterion(1.0)
    loss = RecursiveELBO(200, size=3, fit=True, criterion=criterion)
    joint = gradients(vae, loss, x, 40)
    compared = 0
    for m in range(3):
        alone = gradients(vae, ComponentELBO(200, m=m, criterion=criterion), x, 40)
        for name in joint:
            if f"encoders.{m}." in name or f"posteriors.{m}." in name:
                assert differ(joint[name], alone[name]) < 5, name
                compared += 1
    bound = gradients(vae, zoo.AnnealedELBO(200), x, 40)
    for name in joint:
        if name.startswith("model"):
            assert differ(joint[name], bound[name]) < 5, name
            compared += 1
    assert compared == 3 * 4 + 4
    name = "guide.encoders.1.1.linear.bias"
    assert differ(joint[name], bound[name]) > 9


def test_without_components_to_fit_none_has_a_gradient():
    vae, x = fresh()
    loss = RecursiveELBO(size=3, fit=False, criterion=Criterion())
    loss.differentiable_loss(vae.model, vae.guide, x).backward()
    for name, p in vae.named_parameters():
        moved = name.startswith(("model", "guide.weights"))
        assert moved == (p.grad is not None and bool(p.grad.any())), name


@pytest.mark.parametrize("log_weight", [-20.0, -80.0])
def test_a_component_of_hardly_any_weight_learns_all_the_same(log_weight):
    """Its gradient is that of its own phase, so that it may come back."""
    vae, x = fresh(num_components=2, weights="constant")
    with torch.no_grad():
        vae.guide.weights.logits.copy_(torch.tensor([0.0, log_weight]))
    joint = RecursiveELBO(200, size=2, fit=True, criterion=Criterion())
    alone = ComponentELBO(200, m=1, criterion=Criterion())
    one, two = (gradients(vae, loss, x, 30) for loss in (joint, alone))
    for name in one:
        if "encoders.1" in name or "posteriors.1" in name:
            assert differ(one[name], two[name]) < 5, name
            assert two[name][0].any()


@pytest.mark.parametrize("weights", ["amortized", "constant"])
def test_a_small_step_of_the_weights_is_up_the_bound(weights):
    """With eta to 0 the cross-entropy's gradient is that of -L(Q)."""
    vae, x = fresh(weights=weights)
    loss = RecursiveELBO(
        300, size=3, fit=False, criterion=Criterion(), weight_step=1e-4
    )
    step = gradients(vae, loss, x, 40)
    bound = gradients(vae, zoo.AnnealedELBO(300), x, 40)
    names = [name for name in step if "weights" in name]
    for name in names:
        assert differ(step[name], bound[name]) < 5, name
    sizes = [
        (mean.abs() / (error + 1e-10)).max() for mean, error in map(bound.get, names)
    ]
    assert max(sizes) > 10


def test_an_inactive_component_does_not_move_the_decoder():
    vae, x = fresh()
    vae.guide.begin(1, copy=False)
    three, one = (
        gradients(
            vae, RecursiveELBO(200, size=n, fit=True, criterion=Criterion()), x, 30
        )
        for n in (3, 1)
    )
    for name in one:
        assert three[name][0].isfinite().all(), name
        if name.startswith("model"):
            assert one[name][0].any(), name
            assert differ(three[name], one[name]) < 5, name


# ----------------------------------------------------------------------- the criterion

HUMPS = Mixture(
    torch.tensor([0.3, 0.7]).double().log(), [normal([-2.0], 0.6), normal([1.5], 1.0)]
)
LOG_PROB = -1.7  # log p(x)


def log_joint(z):
    """log p(x, z) of one datum."""
    return HUMPS.log_prob(z) + LOG_PROB


def expectation(q, values):
    """E_q of values on the grid."""
    return torch.trapezoid(q.log_prob(Z).exp() * values, GRID)


def bound_of(q):
    """L(q), by quadrature."""
    return expectation(q, log_joint(Z) - q.log_prob(Z))


def random_mixture(generator, size):
    draw = torch.randn(size, generator=generator), torch.rand(size, generator=generator)
    components = [
        normal([2 * m], 0.3 + s)
        for m, s in zip(*(d.tolist() for d in draw), strict=True)
    ]
    logits = torch.randn(size, generator=generator).double()
    return Mixture(logits.log_softmax(-1), components)


def add(q, new, e):
    """(1 - e) q + e new."""
    more = torch.tensor([math.log(e)]).double()
    log_weights = torch.cat([math.log1p(-e) + q.log_weights, more])
    return Mixture(log_weights, [*q.components, new])


@pytest.mark.parametrize("seed", range(5))
def test_what_a_new_component_is_worth(seed):
    """RM3: E_q[log p - log Q] = L(q) + KL(q || Q), and the bound's derivative."""
    generator = torch.Generator().manual_seed(seed)
    q = random_mixture(generator, 2)
    new = normal([torch.randn((), generator=generator).item()], 0.7)
    worth = expectation(new, log_joint(Z) - q.log_prob(Z))
    kl = expectation(new, new.log_prob(Z) - q.log_prob(Z))
    torch.testing.assert_close(worth, bound_of(new) + kl)
    e = 1e-9
    slope = (bound_of(add(q, new, e)) - bound_of(q)) / e
    assert slope == pytest.approx((worth - bound_of(q)).item(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_of_a_mixture_lies_between_its_components_and_their_entropy(seed):
    """RM4, by quadrature, for mixtures that overlap and such that do not."""
    generator = torch.Generator().manual_seed(seed)
    q = random_mixture(generator, 2 + seed % 3)
    bounds = torch.stack([bound_of(c) for c in q.components])
    alpha = q.log_weights.exp()
    low = (alpha * bounds).sum()
    high = low - (alpha * q.log_weights).sum()
    assert low - 1e-9 <= bound_of(q) <= high + 1e-9
    assert high <= bounds.max() + math.log(len(bounds)) + 1e-9
    assert bound_of(q) <= LOG_PROB + 1e-9


def test_the_bound_of_a_guide_keeps_to_both_sides_for_each_datum():
    """RM4 on a pair, by Monte Carlo with its errors."""
    vae, x = fresh()
    n = 40_000
    with torch.no_grad():
        q = mixture_of(vae.guide, x)
        z = q.rsample_components((n,))
        joint = sum(score_latents(vae.model, x, z))
        alpha = q.log_weights.exp().T
        own = torch.stack([c.log_prob(z[m]) for m, c in enumerate(q.components)])
        gains = joint - own, joint - q.log_prob(z)
    low, value = ((alpha * g.mean(1)).sum(0) for g in gains)
    # Of the same draws, so that what they have in common cancels.
    error = (alpha**2 * (gains[1] - gains[0]).var(1) / n).sum(0).sqrt()
    entropy = -(alpha * alpha.log()).sum(0)
    assert (low <= value + 5 * error).all()
    assert (value <= low + entropy + 5 * error).all()
    assert (value - low > 10 * error).any()


def test_the_raw_criterion_is_unbounded_and_the_bounded_one_is_not():
    """Posterior N(0, 1), Q = N(0, 0.5^2), a narrow q that moves away."""

    def values(criterion):
        for mean in (0.0, 1.0, 3.0, 10.0):
            q = add(normal_mixture(0.5), normal([mean], 1e-3), 0.5)
            z = q.components[1].sample((20_000,))
            worth = normal([0.0], 1.0).log_prob(z) + criterion(q, 1, z)
            yield worth.mean().item()

    torch.manual_seed(0)
    raw = list(values(Criterion(math.inf)))
    assert raw == pytest.approx([-0.7, 0.8, 12.8, 149.3], abs=0.1)
    bounded = list(values(Criterion(3.0)))
    assert bounded[-1] < bounded[0]


def normal_mixture(scale):
    return Mixture(torch.zeros(1).double(), [normal([0.0], scale)])


def test_boosting_has_an_entropy_bonus():
    q = three_gaussians()
    z = q.components[2].sample((6,))
    log_q, log_mixture = q.components[2].log_prob(z), q.first(2).log_prob(z)
    for weight in (0.0, 0.5):
        value = Criterion(math.inf, entropy_weight=weight)(q, 2, z)
        torch.testing.assert_close(value, -log_mixture - weight * log_q)


@pytest.mark.parametrize("name", ["kl_bound", "entropy_weight"])
def test_negative_bounds_and_bonuses_are_refused(name):
    with pytest.raises(zoo.UserError, match=f"{name} must not be negative, got -1"):
        Criterion(**{name: -1.0})


# ------------------------------------------------------------------------ the weights


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_weight_steps_climb_to_the_optimum(seed, eta):
    """RM7: the bound never falls, and the KKT conditions hold at the end."""
    z, grid = Z[::20], GRID[::20]
    q = random_mixture(torch.Generator().manual_seed(seed), 4)
    density, log_p = q.component_log_prob(z).exp(), log_joint(z)
    log_weights, bounds = q.log_weights, []
    for _ in range(4000):
        log_q = (log_weights + density.log()).logsumexp(-1)
        gain = log_p - log_q
        bounds.append(torch.trapezoid(log_q.exp() * gain, grid))
        advantage = torch.trapezoid(density * gain[:, None], z, dim=0)
        log_weights = mirror_step(log_weights, advantage, eta)
    rises = torch.stack(bounds).diff()
    assert (rises > -1e-12).all()
    assert rises[0] > 1e-4
    in_use = log_weights.exp() > 1e-2
    assert advantage[in_use].max() - advantage[in_use].min() < 0.02
    assert (advantage[~in_use] < advantage[in_use].max() + 1e-3).all()


def test_the_bound_is_concave_towards_a_new_component():
    """RM7, on the deterministic objective: second differences along epsilon."""
    q, new = random_mixture(torch.Generator().manual_seed(0), 2), normal([1.0], 0.4)
    along = [bound_of(add(q, new, e)) for e in torch.linspace(0.01, 0.99, 25).tolist()]
    assert (torch.stack(along).diff().diff() < 0).all()


@pytest.mark.parametrize("step", [0.0, 1.5])
def test_a_step_that_might_lower_the_bound_is_refused(step):
    with pytest.raises(zoo.UserError, match=r"weight_step must be in \(0, 1\]"):
        small("recursive_mixture", weight_step=step)


# --------------------------------------------------------------------------- training


class Bimodal(nn.Module):
    """z ~ N(-c, s^2) or N(c, s^2), x ~ N(z, r^2).

    The posterior is two Gaussians again, with means and log-odds that are linear in x.
    """

    centre, spread, noise = 2.0, 0.5, 1.5

    def mixture(self, like, scale):
        sides = [normal(like.new_tensor([s * self.centre]), scale) for s in (-1, 1)]
        return Mixture(like.new_full((2,), 0.5).log(), sides)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            prior = self.mixture(x, self.spread).expand([len(x)])
            z = pyro.sample("z", prior)
            return pyro.sample("x", dist.Normal(z, self.noise).to_event(1), obs=x)

    @property
    def marginal(self):
        """p(x)."""
        return self.mixture(GRID, math.hypot(self.spread, self.noise))


class Standardised(nn.Module):
    """x, uniform from 0.5 to 1.5, to mean 0 and variance 1."""

    def forward(self, x):
        return (x - 1) * math.sqrt(12)


def bimodal_vae(num_components, **options):
    """The toy with linear heads on x."""
    guide = MixtureGuide(
        [Standardised() for _ in range(num_components)],
        [DiagonalGaussian(1, 1) for _ in range(num_components)],
        AmortizedWeights(1, num_components),
    ).double()
    for m, head in enumerate(guide.posteriors):
        nn.init.zeros_(head.linear.weight)
        nn.init.zeros_(head.linear.bias)
        with torch.no_grad():  # the first on a mode, the others between the two
            head.linear.bias[0] = Bimodal.centre if m == 0 else 0.3 * torch.randn(())
    model = Bimodal()
    phases = recursive_phases(model, guide, **options)
    return zoo.VAE(model, guide, (1,), phases=phases)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    x = torch.rand(512, 1).double() + 0.5  # one mode is the likelier for all of them
    return zoo.Dataset(x, x[:64], x[:64], likelihood="gaussian")


@pytest.fixture(scope="module")
def gap_of_one(data):
    """By how much the bound of the best single Gaussian is below log p(x)."""
    vae = bimodal_vae(1)
    zoo.fit(vae, data, epochs=60, lr=2e-2, schedule="cosine", progress=False)
    exact = Bimodal().marginal.log_prob(data.test.double()).mean().item()
    return exact - zoo.evaluate(vae, data.test, 2000).elbo


@pytest.mark.parametrize("schedule", quick(["together", "sequential"], "together"))
@pytest.mark.parametrize("seed", quick(range(2), 0))
def test_two_components_are_exact_where_one_cannot_be(seed, schedule, data, gap_of_one):
    """RM5, X1: the weights lose their variance and the bound becomes log p(x)."""
    assert gap_of_one > 0.1
    torch.manual_seed(seed)
    # The likelier mode is up to log 11 nats better: a smaller C would not pay for the
    # other one. On it C is reached, so that equation 1 has its entropy back.
    criterion = Criterion(kl_bound=5.0)
    vae = bimodal_vae(
        2, schedule=schedule, start="own", criterion=criterion, weight_step=1.0
    )
    zoo.fit(
        vae, data, epochs={"together": 100, "sequential": 160}[schedule], lr=3e-2,
        seed=seed, num_particles=8, batch_size=128,
        progress=False, keep="last",
    )  # fmt: skip
    x = data.test.double()
    with torch.no_grad():
        log_weights = bound_terms(vae.model, vae.guide, x, 1000).log_weights
    gap = (Bimodal().marginal.log_prob(x) - log_weights.mean(0)).mean()
    assert gap < 0.02 * gap_of_one
    assert log_weights.std(0).mean() < 0.1
    with torch.no_grad():  # C is what the second component is worth where it is
        q = mixture_of(vae.guide, x)
        z = q.components[1].sample((500,))
        ratio = q.components[1].log_prob(z) - q.components[0].log_prob(z)
    assert (ratio > criterion.kl_bound).double().mean() > 0.99


def options_of(schedule):
    epochs = {"together": 4, "sequential": 12}[schedule]
    return dict(epochs=epochs, batch_size=20, keep="last", progress=False, kl_warmup=2)


@pytest.mark.parametrize("schedule", ["together", "sequential"])
def test_phases_resume_bit_for_bit(schedule, images, tmp_path, monkeypatch):
    """Interrupted in the middle of an epoch of every phase, one after the other."""

    def pair():
        torch.manual_seed(0)
        return small("recursive_mixture", schedule=schedule)

    options = options_of(schedule)
    check_resumes_in_every_phase(pair, images, options, tmp_path, monkeypatch)


def test_uniform_weights_have_no_phase():
    vae = small("recursive_mixture", weights="uniform", schedule="sequential")
    names = [phase.name for phase in vae.phases]
    assert names == ["warm-up", "component 1", "component 2", "decoder"]


@pytest.mark.parametrize("schedule", ["together", "sequential"])
def test_uniform_weights_stay_uniform(schedule):
    torch.manual_seed(0)
    data = zoo.Dataset(torch.rand(30, 2, 3).bernoulli())
    vae = small("recursive_mixture", weights="uniform", schedule=schedule)
    zoo.fit(vae, data, epochs=12, kl_warmup=0, progress=False)
    q = mixture_of(vae.guide, data.train[:4])
    torch.testing.assert_close(q.log_weights.exp(), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("guide", ["recursive_mixture", "boosted"])
def test_components_of_one_network_cannot_learn_one_by_one(guide):
    with pytest.raises(zoo.UserError, match="are one network, .*; leave out one_hot"):
        small(guide, one_hot=True)


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_a_phase_moves_its_own_modules_only(shared_trunk, images, monkeypatch):
    """RM6 in `fit`: what moved, phase by phase of the sequential schedule."""
    torch.manual_seed(0)
    options = {"num_components": 3, "shared_trunk": shared_trunk}
    vae = small("recursive_mixture", schedule="sequential", **options)
    moved, before = {}, {}
    end = loop.Loop._end_epoch

    def watch(self, bar):
        changed = moved.setdefault(self.phase.name, set())
        for name, p in vae.named_parameters():
            if not torch.equal(p, before[name]):
                changed.add(".".join(name.split(".")[:3]))
        end(self, bar)
        before.update({name: p.detach().clone() for name, p in vae.named_parameters()})

    monkeypatch.setattr(loop.Loop, "_end_epoch", watch)
    before.update({name: p.detach().clone() for name, p in vae.named_parameters()})
    zoo.fit(vae, images, epochs=12, batch_size=20, keep="last", progress=False)

    def part(m):
        own = set() if shared_trunk and m else {f"guide.encoders.{m}"}
        return own | {f"guide.posteriors.{m}"}

    decoder = {"model.decoder.0", "model.decoder.1"}
    assert moved["warm-up"] == decoder | part(0)
    for m in (1, 2):
        assert moved[f"component {m}"] == part(m)
        assert moved[f"weights {m}"] == {"guide.weights.heads"}
    assert moved["decoder"] == decoder | {"guide.weights.heads"}
    assert vae.guide.active.all()


def test_components_come_in_one_by_one(images, monkeypatch):
    vae = small("recursive_mixture", schedule="sequential", num_components=3)
    assert vae.guide.active.all()  # so that every parameter has a gradient at first
    active = {}
    begin = loop.Loop.begin_phase

    def watch(self):
        begin(self)
        active[self.phase.name] = vae.guide.active.tolist()
        for m in range(1, 3):
            if self.phase.name == f"component {m}":
                one, other = vae.guide.component(m), vae.guide.component(m - 1)
                for a, b in zip(one, other, strict=True):
                    for p, q in zip(a.parameters(), b.parameters(), strict=True):
                        assert torch.equal(p, q)

    monkeypatch.setattr(loop.Loop, "begin_phase", watch)
    zoo.fit(vae, images, epochs=12, batch_size=20, progress=False)
    assert active == {
        "warm-up": [True, False, False],
        "component 1": [True, True, False],
        "weights 1": [True, True, False],
        "component 2": [True, True, True],
        "weights 2": [True, True, True],
        "decoder": [True, True, True],
    }


@pytest.mark.parametrize("epochs", [1, 2, 5, 6, 7, 11])
def test_each_phase_has_an_epoch_where_there_are_as_many(epochs, images):
    vae = small("recursive_mixture", schedule="sequential", num_components=3)
    history = zoo.fit(vae, images, epochs=epochs, progress=False)
    phases = {record["phase"] for record in history.epochs}
    assert len(phases) <= epochs
    if epochs >= len(vae.phases):
        assert phases == {phase.name for phase in vae.phases}
    assert history.best_epoch > 0  # of the last phase that has epochs
    assert history.weights == "best"


def test_a_component_whose_phase_is_left_out_is_a_copy(images):
    torch.manual_seed(0)
    vae = small("recursive_mixture", schedule="sequential", num_components=3)
    history = zoo.fit(vae, images, epochs=3, lr=1e-9, progress=False)
    phases = {record["phase"] for record in history.epochs}
    assert not {"component 1", "component 2"} <= phases
    assert vae.guide.active.all()
    for m in (1, 2):
        for a, b in zip(vae.guide.component(m), vae.guide.component(0), strict=True):
            for p, q in zip(a.parameters(), b.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


@pytest.mark.parametrize("epochs", [2, 8])
def test_a_finished_training_resumes_to_itself(epochs, images, tmp_path):
    settings = dict(epochs=epochs, out=tmp_path, progress=False)
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        vae = small("recursive_mixture", schedule="sequential", num_components=3)
        zoo.fit(vae, images, resume=True, **settings)
        states.append(vae.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_copy_trains_its_own_modules(images):
    """The phases of a deep copy are about the copy."""
    vae = small("recursive_mixture")
    clone = copy.deepcopy(vae)
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    zoo.fit(clone, images, epochs=4, keep="last", progress=False)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert any((clone.state_dict()[name] != state[name]).any() for name in state)


def test_one_component_is_mean_field(images):
    """X4: the same weights at the start, and the same numbers."""
    results = []
    for name, options in (
        ("mean_field", {}),
        ("recursive_mixture", {"num_components": 1}),
    ):
        torch.manual_seed(3)
        vae = small(name, **options)
        results.append(zoo.log_likelihood(vae, images.test, 50).log_prob)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "option", [{"bound": "iwae"}, {"free_bits": 0.1}, {"analytic_kl": True},
               {"sticking_the_landing": True}, {"tempering_steps": 10}]
)  # fmt: skip
def test_options_that_its_training_does_not_know_are_refused(option, images):
    vae, name = small("recursive_mixture"), next(iter(option))
    with pytest.raises(
        zoo.UserError, match=f"objective of its own, without the option {name}"
    ):
        zoo.fit(vae, images, epochs=2, progress=False, **option)
    zoo.fit(small("mixture"), images, epochs=1, progress=False, **option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"component": "planar"}, "log q of the other components' draws.*got 'planar'"),
        ({"component": "iaf"}, "log q of the other components' draws.*got 'iaf'"),
        ({"num_components": 0}, "num_components must be at least 1, got 0"),
        ({"weights": "learned"}, "unknown weights 'learned'"),
        ({"schedule": "at once"}, "unknown schedule 'at once'"),
        ({"start": "anywhere"}, "unknown start 'anywhere'"),
        ({"kl_bound": -1.0}, "kl_bound must not be negative"),
        ({"weight_step": 2.0}, r"weight_step must be in \(0, 1\], got 2"),
        ({"kl_bound": "much"}, "option kl_bound: expected a number, got 'much'"),
        ({"shared_trunk": "no"}, "option shared_trunk: expected True or False"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(zoo.UserError, match=message):
        small("recursive_mixture", **options)


# -------------------------------------------------------------------- at test time


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_inference_is_one_pass_through_each_encoder(shared_trunk):
    """RM9: no call of the decoder, no gradient, each encoder once."""
    vae = small("recursive_mixture", num_components=3, shared_trunk=shared_trunk)
    calls = []
    for path, module in vae.named_modules():
        if path:
            module.register_forward_pre_hook(lambda m, a, path=path: calls.append(path))
    with torch.no_grad():
        z = vae.guide(torch.ones(4, 2, 3))
    assert z.grad_fn is None
    assert not any(path.startswith("model") for path in calls)
    encoders = 1 if shared_trunk else 3
    for m in range(3):
        assert calls.count(f"guide.encoders.{m}") == (m < encoders)
        assert calls.count(f"guide.posteriors.{m}") == 1
    assert len(calls) == len(set(calls))


class Under(nn.Module):
    """A side of a pair under one of Pyro's handlers."""

    def __init__(self, side, handler):
        super().__init__()
        self.side, self.handler = side, handler

    def forward(self, x):
        with self.handler():
            return self.side(x)


@pytest.mark.parametrize(
    "handler",
    [lambda: poutine.scale(scale=0.1), lambda: poutine.mask(mask=torch.tensor(False))],
)
def test_scales_and_masks_are_not_left_out_in_silence(handler):
    vae = small("recursive_mixture")
    sides = [Under(side, handler) for side in (vae.model, vae.guide)]
    x = torch.rand(5, 2, 3).round()
    for phase in vae.phases:
        with pytest.raises(zoo.UserError, match="site 'z' has a scale or a mask"):
            phase.loss(num_particles=1).loss_and_elbo(*sides, x)
