"""Priors: densities, draws, gradients, and what asks them: bounds, annealing, pictures."""

import copy
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiling import as_it_is
from pairs import (
    LEARNED,
    SMALL_PRIORS,
    VAMPS,
    linear_gaussian,
    one_latent,
    pairs_of_both,
    perturb,
    quick,
    seeded,
    small,
    with_prior,
)
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.compiled import CompiledTrace_ELBO
from pyro_vae_zoo.inference.terms import bound_terms
from pyro_vae_zoo.mixtures import GaussianMixture
from pyro_vae_zoo.models.priors import PRIOR_FLOWS, FlowPrior, MixturePrior, VampPrior
from pyro_vae_zoo.models.standard import positive
from pyro_vae_zoo.plots import plot_posterior
from pyro_vae_zoo.transforms import MADE, CouplingNet

REFUSED = {
    "iaf": "a pass for each dimension",
    "affine_autoregressive": "a pass for each dimension",
    "neural_autoregressive": "NeuralAutoregressive",
    "sylvester_orthogonal": "Sylvester",
    "sylvester_householder": "Sylvester",
    "sylvester_triangular": "Sylvester",
    "semi_amortized": "no method distribution",
    "recursive_mixture": "trained in turn",
    "boosted": "trained in turn",
}


def bits(n=8):
    return torch.rand(n, 2, 3).bernoulli()


def trained_priors():
    """Each prior of two dimensions, away from where it starts, by its name."""
    torch.manual_seed(0)
    found = {"mixture": MixturePrior(2, 3)}
    for flow in PRIOR_FLOWS:
        found[flow] = FlowPrior(2, flow, 3, (8,))
    for guide in VAMPS:
        # Amortised weights of a mixture read features and have no gradient to them.
        options = {"weights": "constant"} if guide == "mixture" else {}
        found[f"vamp of {guide}"] = with_prior("vamp", guide, **options).model.prior
    for prior in found.values():
        perturb(prior, 0.5)
    return {name: prior.double() for name, prior in found.items()}


TRAINED = trained_priors()


# ------------------------------------------------------------------------- densities


@pytest.mark.parametrize("name", TRAINED)
def test_density_and_draws_agree(name):
    """Shares of the draws in the cells of a grid are integrals of the density."""
    torch.manual_seed(1)
    p = TRAINED[name]()
    n, cells, inner = 40_000, 12, 32
    z = p.expand((n,)).sample() if name == "mixture" else p.sample((n,))
    low, high = z.mean(0) - 4 * z.std(0), z.mean(0) + 4 * z.std(0)
    where = (z - low) / (high - low)
    inside = ((where >= 0) & (where < 1)).all(1)
    index = (where[inside] * cells).long()
    counts = torch.zeros(cells, cells).double()
    counts.index_put_(tuple(index.T), torch.ones(len(index)).double(), accumulate=True)

    t = (torch.arange(cells * inner) + 0.5).double() / (cells * inner)
    grid = low + (high - low) * torch.cartesian_prod(t, t)
    with torch.no_grad():
        density = p.log_prob(grid).exp()
    cell = (high - low).prod() / (cells * inner) ** 2
    mass = (density * cell).view(cells, inner, cells, inner).sum((1, 3))
    assert 0.98 < mass.sum() < 1 + 1e-3
    error = (n * mass * (1 - mass)).sqrt() + 1.0  # and a draw for where next to none is
    # Two dozen priors of 144 cells; the density is summed on 32 points a side of each.
    assert ((counts - n * mass).abs() < 5 * error + 0.03 * n * mass).all()
    mean = (density[:, None] * grid).sum(0) * cell / mass.sum()
    second = (density[:, None, None] * grid[:, :, None] * grid[:, None]).sum(0)
    covariance = second * cell / mass.sum() - mean[:, None] * mean
    seen = z[inside]
    assert torch.allclose(seen.mean(0), mean, atol=5 / n**0.5 * seen.std(0).max())
    scale = covariance.diagonal().max()
    assert torch.allclose(torch.cov(seen.T), covariance, atol=0.05 * scale)


@pytest.mark.parametrize("prior", ["standard", *SMALL_PRIORS])
def test_a_latent_that_all_data_share_counts_for_each(prior):
    vae = zoo.create(
        "mean_field", event_shape=(4,), latent_dim=2, hidden_dims=(6,), prior=prior
    )
    z, x = torch.tensor([0.3, -0.2]), torch.zeros(10, 4)
    shared, each = (
        pyro.poutine.trace(pyro.poutine.condition(vae.model, {"z": value})).get_trace(x)
        for value in (z, z.expand(10, 2))
    )
    torch.testing.assert_close(shared.log_prob_sum(), each.log_prob_sum())


def test_a_gaussian_mixture_is_the_mixture_of_gaussians():
    torch.manual_seed(0)
    loc, scale = 3 * torch.randn(5, 4), torch.rand(5, 4) * 0.1 + 0.01
    log_weights = torch.randn(5).log_softmax(0)
    p = GaussianMixture(log_weights, loc, scale)
    z = loc[torch.randint(5, (7, 6))] + 0.02 * torch.randn(7, 6, 4)
    each = dist.Normal(loc.double(), scale.double()).to_event(1)
    exact = each.log_prob(z.double().unsqueeze(-2)) + log_weights.double()
    # Terms of 1e5 cancel to 1: in float32 they would not.
    assert torch.allclose(p.log_prob(z).double(), exact.logsumexp(-1), rtol=1e-6)
    assert torch.allclose(p.mean, log_weights.exp() @ loc)


@pytest.mark.parametrize("flow", PRIOR_FLOWS)
def test_a_flow_starts_at_the_standard_normal(flow):
    torch.manual_seed(0)
    z = 2 * torch.randn(20, 5)
    standard = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    p = FlowPrior(5, flow, 3, (8,))()
    assert torch.allclose(p.log_prob(z), standard, atol=1e-5)


def test_a_flow_of_one_dimension_and_of_no_steps():
    with pytest.raises(zoo.UserError, match="latent_dim >= 2, got 1; take prior_flow"):
        FlowPrior(1)
    assert FlowPrior(1, "masked_autoregressive")().log_prob(torch.zeros(4, 1)).shape
    assert isinstance(FlowPrior(1, "masked_autoregressive", 0)(), dist.Independent)
    with pytest.raises(zoo.UserError, match="unknown prior_flow 'planar'"):
        FlowPrior(2, "planar")


@pytest.mark.parametrize("flow", PRIOR_FLOWS)
def test_a_density_takes_one_pass_through_each_network(flow):
    prior = FlowPrior(4, flow, 3, (8,))
    passes = []
    nets = [m for m in prior.modules() if isinstance(m, (MADE, CouplingNet))]
    assert len(nets) == 3
    for net in nets:
        net.register_forward_hook(lambda *_: passes.append(1))
    prior().log_prob(torch.randn(5, 4))
    assert len(passes) == 3


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_are_those_of_finite_differences(name):
    prior = copy.deepcopy(TRAINED[name]).eval()
    torch.manual_seed(2)
    z = torch.randn(3, 2).double().requires_grad_()
    weights = torch.randn(3).double()

    def value():
        return (weights * prior().log_prob(z)).sum()

    value().backward()
    step = 1e-5
    tensors = {"z": z, **dict(prior.named_parameters())}
    for name, p in tensors.items():
        if p.grad is None:  # of a guide, what its draws need and its density does not
            continue
        direction = torch.randn_like(p)
        with torch.no_grad():
            p.add_(step * direction)
            above = value()
            p.sub_(2 * step * direction)
            below = value()
            p.add_(step * direction)
        slope = (above - below) / (2 * step)
        expected = (p.grad * direction).sum()
        assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-6), name


# ------------------------------------------------------------------ pairs and bounds


QUICK = *(f"{prior}:mean_field" for prior in LEARNED), "flow:iaf", "vamp:mixture"


@pytest.mark.parametrize("both", quick(pairs_of_both(), *QUICK))
def test_pairs_keep_the_contract(both):
    prior, guide = both.split(":")
    zoo.testing.check_vae(with_prior(prior, guide, latent_dim=3), bits())


@pytest.mark.parametrize("guide", REFUSED)
def test_vamp_refuses_guides_by_name(guide):
    with pytest.raises(zoo.UserError, match=f"guide '{guide}': .*{REFUSED[guide]}"):
        with_prior("vamp", guide)
    assert {*REFUSED, *VAMPS} == {*one_latent()}


def test_hierarchies_have_priors_of_their_own():
    with pytest.raises(
        zoo.UserError, match="one latent vector only, and 'ladder' is not one"
    ):
        zoo.create("ladder", event_shape=(2, 3), prior="flow")


def test_options_are_the_priors_own():
    with pytest.raises(zoo.UserError, match="unknown option .* 'prior_components'"):
        zoo.create("iaf", event_shape=(2, 3), prior="flow", prior_components=3)
    with pytest.raises(
        zoo.UserError, match="unknown prior 'vampp'; did you mean 'vamp'"
    ):
        zoo.create("iaf", event_shape=(2, 3), prior="vampp")
    with pytest.raises(zoo.UserError, match="prior_components must be at least 1"):
        zoo.create("iaf", event_shape=(2, 3), prior="mixture", prior_components=0)


class Linear:
    """z of a mixture, x = W z + b + noise: p(x) is a mixture of Gaussians, too."""

    def __init__(self):
        self.plain = linear_gaussian()
        torch.manual_seed(3)
        self.prior = MixturePrior(2, 3).double()
        with torch.no_grad():
            self.prior.loc.mul_(4)
            self.prior.logits.copy_(torch.tensor([0.0, 1.0, -0.5]))
        self.model = self.plain.model()
        self.model.prior = self.prior
        wide = self.plain.gaussian_guide(widen=3.0)
        self.vae = zoo.VAE(self.model, wide, (4,))
        self.x = self.vae.sample(20)

    def log_prob(self, x):
        """log p(x), in closed form."""
        p, w = self.prior(), self.plain.weight
        noise = self.plain.scale**2 * torch.eye(4).double()
        each = [
            dist.MultivariateNormal(
                w @ m + self.plain.bias, w @ s.square().diag() @ w.T + noise
            )
            for m, s in zip(p.loc, p.scale, strict=True)
        ]
        scores = torch.stack([q.log_prob(x) for q in each], -1)
        return (scores + p.log_weights).logsumexp(-1).detach()


def test_a_linear_model_with_a_mixture_has_its_log_likelihood():
    linear = Linear()
    exact = linear.log_prob(linear.x)
    ll = zoo.log_likelihood(linear.vae, linear.x, 20_000)
    assert ((ll.log_prob - exact).abs() < 5 * ll.std_error + 1e-6).all()
    assert ll.std_error.max() < 0.05
    ais = zoo.annealed_log_likelihood(linear.vae, linear.x, 32, 40, 4)
    assert ((ais.log_prob - exact).abs() < 5 * ais.std_error + 0.02).all()


@pytest.mark.parametrize("prior", quick(LEARNED, "flow"))
def test_annealing_local_q_and_gaps_agree_with_importance_sampling(prior):
    vae = with_prior(prior, "full_rank")
    perturb(vae, 0.3)
    x = bits(3)
    ll = zoo.log_likelihood(vae, x, 10_000)
    ais = zoo.annealed_log_likelihood(vae, x, 16, 20, 3)
    local = zoo.local_log_likelihood(vae, x, 5000, num_steps=20)
    for other in (ais, local):
        error = (ll.std_error.square() + other.std_error.square()).sqrt()
        assert ((other.log_prob - ll.log_prob).abs() < 5 * error + 1e-3).all()
    gaps = zoo.inference_gaps(vae, x, num_steps=20, log_prob=ll.log_prob)
    assert (gaps.approximation_gap > -5 * gaps.local_error).all()
    assert zoo.bidirectional(vae, 3, 4, 8, 2).gap.mean() > -0.1


@pytest.mark.parametrize("prior", SMALL_PRIORS)
def test_where_a_kl_has_a_closed_form(prior):
    terms = bound_terms(*sides(with_prior(prior)), bits(), analytic_kl=True)
    assert list(terms.closed_kl) == (["z"] if prior == "standard" else [])
    assert list(terms.kl) == ["z"]


def test_a_mixture_starts_at_the_standard_normal_on_average():
    torch.manual_seed(0)
    z = MixturePrior(2, num_components=20_000)().sample((20_000,))
    assert z.mean(0).abs().max() < 0.04  # five standard errors
    assert (z.var(0) - 1).abs().max() < 0.06


def test_a_mixture_of_one_component_is_a_gaussian():
    torch.manual_seed(0)
    vae = with_prior("mixture", prior_components=1).double()
    perturb(vae, 0.5)
    p, x = vae.model.prior, bits().double()
    terms = bound_terms(*sides(vae), x, analytic_kl=True)
    expected = torch.distributions.kl_divergence(vae.guide.distribution(x), p())
    assert torch.allclose(terms.closed_kl["z"], expected)
    mixture = GaussianMixture(torch.zeros(1).double(), p.loc, positive(p.raw_scale))
    z = torch.randn(9, 2).double()
    assert torch.allclose(p().log_prob(z), mixture.log_prob(z))
    zoo.testing.check_vae(vae, x)


def sides(vae):
    return vae.model, vae.guide


@pytest.mark.parametrize("prior", LEARNED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bound": "iwae", "num_particles": 3},
        {"free_bits": 0.5},
        {"analytic_kl": True},
    ],
)
def test_compiled_steps_are_the_eager_ones(prior, options):
    vae = with_prior(prior).double()
    perturb(vae, 0.3)
    x = bits().double()
    eager, slopes = seeded(zoo.AnnealedELBO(**options).differentiable_loss, vae, x)
    compiled = CompiledTrace_ELBO(**options)
    compiled.compiler = as_it_is
    value, others = seeded(lambda m, g, x: compiled(m, g)(x), vae, x)
    assert torch.allclose(value, eager)
    assert len(slopes) == len(others)
    for a, b in zip(slopes, others, strict=True):
        assert torch.allclose(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("prior", LEARNED)
def test_inductor_computes_them(prior):
    vae = with_prior(prior)
    x = bits()
    eager, slopes = seeded(zoo.AnnealedELBO().differentiable_loss, vae, x)
    compiled = CompiledTrace_ELBO()
    value, others = seeded(lambda m, g, x: compiled(m, g)(x), vae, x)
    assert torch.allclose(value, eager, rtol=1e-5)
    for a, b in zip(slopes, others, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_vamp_is_made_of_the_guide_and_counted_once():
    vae = with_prior("vamp")
    assert vae.model.prior.guide is vae.guide
    names = [name for name, _ in vae.named_parameters()]
    assert len(names) == len({id(p) for p in vae.parameters()})
    optimizer = pyro.optim.Adam({"lr": 1e-3})
    pyro.infer.SVI(vae.model, vae.guide, optimizer, Trace_ELBO()).step(bits())
    assert len(optimizer.optim_objs) == len(names)


def test_pseudo_inputs_start_at_training_data():
    x = torch.rand(30, 2, 3).bernoulli()
    data = zoo.Dataset(x, x, x)
    vae = zoo.create("mean_field", data, latent_dim=2, prior="vamp", pseudo_inputs=10)
    start = vae.model.prior.pseudo_inputs
    assert all(any(torch.equal(u, row) for row in x) for u in start)
    many = zoo.create("mean_field", data, latent_dim=2, prior="vamp", pseudo_inputs=70)
    assert len(many.model.prior.pseudo_inputs) == 70


def test_pseudo_inputs_drop_out_in_training_alone():
    vae = with_prior("vamp", pseudo_dropout=0.5)
    z = torch.zeros(3, 2)
    prior = vae.model.prior
    assert not torch.equal(prior().log_prob(z), prior().log_prob(z))
    vae.eval()
    assert torch.equal(prior().log_prob(z), prior().log_prob(z))
    with pytest.raises(zoo.UserError, match=r"pseudo_dropout must be in \[0, 1\)"):
        VampPrior(vae.guide, (2, 3), dropout=1.0)


def test_the_standard_prior_is_what_it_was():
    """The draws of version 0.1.0 under a seed, and no entry in a `state_dict`."""
    vae = small("mean_field")
    torch.manual_seed(5)
    z = torch.randn(4, 2)
    expected = vae.model.likelihood(vae.model.decoder(z)).base_dist.logits
    generate = pyro.poutine.uncondition(vae.model)
    torch.manual_seed(5)
    trace = pyro.poutine.trace(generate).get_trace(torch.zeros(4, 2, 3))
    assert torch.equal(trace.nodes["z"]["value"], z)
    got = trace.nodes["x"]["fn"].base_dist.logits
    assert torch.equal(got, expected)
    assert not [key for key in vae.state_dict() if "prior" in key]
    assert "prior" not in vae.config


@pytest.mark.parametrize("prior", LEARNED)
def test_saved_and_loaded(prior, tmp_path):
    vae = with_prior(prior)
    perturb(vae)
    again = zoo.load(zoo.save(vae, tmp_path))
    assert json.dumps(again.config) == json.dumps(vae.config)
    assert again.config["prior"] == prior
    x = bits()
    both = [zoo.log_likelihood(v, x, 50).log_prob for v in (vae, again)]
    assert torch.equal(*both)


def test_training_moves_the_prior():
    data = zoo.load_dataset("digits_binary")
    for prior in LEARNED:
        vae = zoo.create(
            "mean_field",
            data,
            latent_dim=2,
            hidden_dims=(16,),
            prior=prior,
            **SMALL_PRIORS[prior],
        )
        before = [p.detach().clone() for p in vae.model.prior.parameters()]
        history = zoo.fit(vae, data, epochs=2, progress=False, compile=False)
        assert math.isfinite(history.epochs[-1]["valid_elbo"])
        after = list(vae.model.prior.parameters())
        assert not any(map(torch.equal, before, after)), prior


@pytest.mark.parametrize("prior", LEARNED)
def test_pictures_of_posteriors_know_it(prior):
    """The gap that a picture shows is that of importance sampling."""
    vae = with_prior(prior, "full_rank")
    perturb(vae, 0.3)
    x = bits(1)
    title = plot_posterior(vae, x).axes[0].get_title(loc="right")
    ll = zoo.log_likelihood(vae, x, 20_000).log_prob
    elbo = zoo.evaluate(vae, x, 20_000).elbo
    assert abs(float(title.split()[1]) - (ll.item() - elbo)) < 0.02


# ------------------------------------------------------------------------ the user's


class Student(nn.Module):
    def __init__(self, latent_dim, df=5.0):
        super().__init__()
        self.df = df
        self.raw_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self):
        return dist.StudentT(self.df, 0.0, self.raw_scale.exp()).to_event(1)


def test_a_prior_of_the_users():
    vae = zoo.create("iaf", event_shape=(2, 3), latent_dim=2, prior=Student, df=4.0)
    assert vae.config["prior"] == "custom:Student"
    own = {"network": "gated_mlp", "latent_dim": 2, "df": 4.0}
    assert vae.config["options"] == own
    assert vae.model.prior.df == 4.0
    zoo.testing.check_vae(vae, bits())
    same = zoo.create("iaf", event_shape=(2, 3), latent_dim=2, prior=Student(2))
    assert same.config["prior"] == "custom:Student"


class Clashing(Student):
    def __init__(self, latent_dim, num_flows=3):
        super().__init__(latent_dim)


class NoEvent(Student):
    def forward(self):
        return dist.Normal(0.0, self.raw_scale.exp())


class ForEachDatum(Student):
    def forward(self):
        return dist.Normal(torch.zeros(8, 2), self.raw_scale.exp()).to_event(1)


class Breaks(Student):
    def forward(self):
        return dist.Normal(torch.zeros(3), self.raw_scale.exp()).to_event(1)


class Number(Student):
    def forward(self):
        return self.raw_scale


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (Clashing, "option num_flows belongs to both the guide and the prior"),
        (NoEvent, r"got \(2,\) and \(\); is `.to_event\(1\)` missing"),
        (
            ForEachDatum,
            r"event shape \(2,\), since the plate of data expands it, got \(8,\)",
        ),
        (Breaks, r"Breaks.forward\(\) must return p\(z\): "),
        (Number, "must return a distribution of Pyro's, got Parameter"),
        (lambda latent_dim: 3, "expected the prior to be an nn.Module, got int"),
    ],
)
def test_priors_that_are_none_are_refused(prior, words):
    with pytest.raises(zoo.UserError, match=words):
        zoo.create("iaf", event_shape=(2, 3), latent_dim=2, prior=prior)


@pytest.mark.parametrize("flow", ["affine_coupling", "affine_autoregressive"])
def test_weights_of_a_prior_keep_their_names(flow):
    """A file that holds them is loaded by these."""
    names = FlowPrior(4, flow, num_flows=2, hidden_dims=(8,)).state_dict()
    steps = {name.removeprefix("steps.").partition(".layers")[0] for name in names}
    own = {"affine_coupling": "nn", "affine_autoregressive": "step.nn"}[flow]
    second = {"affine_coupling": 2, "affine_autoregressive": 1}[flow]
    assert steps >= {f"0.{own}", f"{second}.{own}"}
