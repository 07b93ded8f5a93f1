"""Mixture posteriors step by step: what is drawn is what closed forms and sums say."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.contour import QuadContourSet
from pairs import linear_gaussian, perturb, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo import plots
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.grid import mixture_densities, posterior_densities
from pyro_vae_zoo.plots.run import draw
from pyro_vae_zoo.plots.style import GUIDE
from pyro_vae_zoo.runs import folder as run_folder

INACTIVE = -math.inf
X = torch.tensor([[0.9, -0.2, 0.4, 0.1]]).double()


class FixedMixture(nn.Module):
    """Round Gaussians, directly or as affine flows; the same for all data."""

    def __init__(self, log_weights, locs, scales, flow=False):
        super().__init__()
        self.log_weights = torch.tensor(log_weights).log_softmax(-1)
        self.locs, self.scales, self.flow = torch.tensor(locs), scales, flow

    def component(self, m, x):
        loc, scale = self.locs[m].to(x).expand(len(x), 2), self.scales[m]
        if not self.flow:
            return dist.Normal(loc, scale).to_event(1)
        step = dist.transforms.AffineTransform(loc, scale, event_dim=1, cache_size=1)
        base = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
        return dist.TransformedDistribution(base, [step])

    def forward(self, x):
        components = [self.component(m, x) for m in range(len(self.scales))]
        with pyro.plate("data", len(x)):
            return pyro.sample("z", Mixture(self.log_weights.to(x), components))


class TwoModes(nn.Module):
    """z ~ N(0, I), x ~ N((z_1^2, z_2), noise^2): modes at both signs of z_1."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = self.weight * torch.stack([z[..., 0] ** 2, z[..., 1]], -1)
            return pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)


FOUR = torch.tensor([[4.0, 0.5]])  # its modes are at (-2, 0.5) and (2, 0.5)


def linear_vae(*mixture, **options):
    return linear_gaussian().vae(FixedMixture(*mixture, **options))


def two_modes(*mixture, noise=0.1):
    return zoo.VAE(TwoModes(noise), FixedMixture(*mixture), event_shape=(2,))


@torch.no_grad()
def steps_of(vae, x=X):
    torch.manual_seed(0)
    return mixture_densities(vae, x)


def divergence(guide, m, log_p, low, high, side=801):
    """KL of the first m components by brute force, the mixture written out anew."""
    t = [torch.linspace(a, b, side).double() for a, b in zip(low, high, strict=True)]
    z = torch.cartesian_prod(*t)
    cell = math.prod((b - a) / (side - 1) for a, b in zip(low, high, strict=True))
    locs, scales = guide.locs[:m].double(), torch.tensor(guide.scales[:m])
    each = dist.Normal(locs, scales.double()[:, None]).to_event(1)
    weights = dist.Categorical(logits=guide.log_weights[:m].double())
    log_q = torch.distributions.MixtureSameFamily(weights, each).log_prob(z)
    log_p = log_p(z)
    log_p = log_p - log_p.logsumexp(0) - math.log(cell)
    assert log_q.exp().sum() * cell == pytest.approx(1, abs=1e-6)
    return (log_q.exp() * (log_q - log_p)).sum().item() * cell


def panels(fig):
    """Rows of axes, without the thumbnails."""
    found = [ax for ax in fig.axes if ax.get_title("right").startswith("gap")]
    rows = {ax.get_subplotspec().rowspan.start: [] for ax in found}
    for ax in found:
        rows[ax.get_subplotspec().rowspan.start].append(ax)
    return list(rows.values())


def contours(ax, guide):
    """The sets of lines of the mixture, or those of the components."""
    sets = [c for c in ax.collections if isinstance(c, QuadContourSet) and not c.filled]
    return [c for c in sets if same_color(c.get_edgecolor()[0], GUIDE) == guide]


def notes(ax):
    return [t.get_text() for t in ax.texts]


# ----------------------------------------------------------------------- densities

THREE = ([0.0, -0.5, -1.5], [[0.0, 0.3], [0.6, -0.4], [-0.8, 0.9]], [0.4, 0.15, 0.3])


@pytest.mark.parametrize("flow", [False, True])
def test_the_gaps_are_the_divergences_of_the_first_components(flow):
    vae = linear_vae(*THREE, flow=flow)
    log_p = linear_gaussian().posterior(X[0]).log_prob
    expected = [divergence(vae.guide, m, log_p, [-4, -4], [4, 4]) for m in (1, 2, 3)]
    assert steps_of(vae).gaps == pytest.approx(expected, abs=1e-3)
    (axes,) = panels(plots.plot_components(vae, X))
    gaps = [float(ax.get_title("right").split()[1]) for ax in axes]
    assert gaps == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("flow", [False, True])
def test_components_far_apart_are_resolved(flow):
    """Two of sd 0.01, six apart: one grid over both would see a point of each."""
    vae = linear_vae([0.0, 0.0], [[-3.0, 0.0], [3.0, 1.0]], [0.01, 0.01], flow=flow)
    with torch.no_grad():
        q, p, gap = posterior_densities(vae, X)
    entropy = math.log(2) + math.log(2 * math.pi * math.e * 0.01**2)
    assert q.mass.sum().item() == pytest.approx(1, abs=1e-6)
    assert -(q.mass * q.log_prob).sum().item() == pytest.approx(entropy, abs=2e-3)
    exact = linear_gaussian().posterior(X[0])
    z = vae.guide.locs.double()
    # E_q[log p] of a Gaussian p: its value at the means, less trace(precision) sd^2 / 2
    inside = exact.log_prob(z).mean() - exact.precision_matrix.trace() * 0.01**2 / 2
    assert gap == pytest.approx(-entropy - inside.item(), abs=2e-3)


@pytest.mark.parametrize(("noise", "scale"), [(0.1, 0.06), (0.04, 0.01)])
def test_far_modes_of_the_exact_posterior_are_resolved(noise, scale):
    """The narrower ones slip through the first, coarse grid; the guide knows them."""
    locs = [[2.0, 0.5], [-2.0, 0.5]]
    vae = two_modes([0.0, 0.0], locs, [scale, scale], noise=noise)

    def log_p(z):
        likelihood = dist.Normal(FOUR[0].double(), noise)
        score = likelihood.log_prob(torch.stack([z[:, 0] ** 2, z[:, 1]], -1))
        return score.sum(-1) - (z**2).sum(-1) / 2

    expected = divergence(vae.guide, 2, log_p, [-3, -0.5], [3, 1.5], 1201)
    with torch.no_grad():
        _, _, gap = posterior_densities(vae, FOUR)
    assert gap == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("far", [4.0, 4000.0])
def test_a_stray_component_hides_no_mode(far):
    """Nothing of the guide is at the mode on the left, something is far off."""
    vae = two_modes([0.0, -3.0], [[2.0, 0.5], [far, 3.0]], [0.06, 1.0])
    exact = steps_of(vae, FOUR).exact
    assert exact.mass[exact.z[:, 0] < 0].sum().item() == pytest.approx(0.5, abs=0.01)
    mean = exact.mass[exact.z[:, 0] > 0] @ exact.z[exact.z[:, 0] > 0] * 2
    assert mean.tolist() == pytest.approx([2, 0.5], abs=0.02)


def test_gaps_of_flows_from_the_registry_agree_with_draws():
    torch.manual_seed(1)
    vae = small("recursive_mixture", component="spline_coupling", num_components=2)
    perturb(vae.guide, 0.3)
    x = torch.rand(1, 2, 3).round()
    steps = steps_of(vae, x)
    found = zoo.evaluate(vae, x, num_particles=5000, seed=0)
    assert steps.gaps[-1] == pytest.approx(found.log_likelihood - found.elbo, abs=0.02)
    assert min(steps.gaps) > 0


# -------------------------------------------------------------------------- panels


def test_a_row_for_each_datum_and_a_column_for_each_step():
    torch.manual_seed(0)
    vae = small("recursive_mixture", num_components=2)
    perturb(vae)
    fig = plots.plot_components(vae, torch.rand(5, 2, 3).round(), data="bits")
    title = "Mixture, step by step: recursive_mixture, M = 2\nbits"
    assert fig.get_suptitle() == title
    rows = panels(fig)
    assert [len(row) for row in rows] == [2, 2, 2]
    for one, two in rows:
        assert one.get_title("left") == "$m = 1$, weight 1.00"
        assert two.get_title("left").startswith("$m = 2$, weight 0.")
        assert (one.get_xlim(), one.get_ylim()) == (two.get_xlim(), two.get_ylim())
    assert len({row[0].get_xlim() for row in rows}) == 3
    assert (
        len(panels(plots.plot_components(vae, torch.zeros(5, 2, 3), max_rows=1))) == 1
    )


def test_components_are_drawn_by_their_90_percent_regions():
    (axes,) = panels(plots.plot_components(linear_vae(*THREE), X))
    radius = math.sqrt(-2 * math.log(1 - 0.9))  # a plane's Gaussian, in sd
    for m, ax in enumerate(axes, 1):
        found = contours(ax, guide=False)
        assert len(found) == m
        for lines, loc, scale in zip(found, *THREE[1:], strict=False):
            distance = [math.dist(v, loc) for v in lines.get_paths()[0].vertices]
            assert distance == pytest.approx([radius * scale] * len(distance), rel=0.02)
        styles = [lines.get_linestyle()[0][1] is None for lines in found]
        assert styles == [False] * (m - 1) + [True]  # the newest is solid
        widths = [lines.get_linewidth()[0] for lines in found]
        assert widths == sorted(widths, reverse=True)  # as the weights are


def test_the_mixtures_lines_are_where_its_density_says():
    vae = linear_vae(*THREE)
    steps = steps_of(vae)
    figures = plots.plot_components(vae, X), plots.plot_posterior(vae, X)
    (axes,) = panels(figures[0])
    for m, ax in (1, axes[0]), (2, axes[1]), (3, axes[2]), (3, figures[1].axes[0]):
        levels = steps.mixtures[m - 1].levels([0.5, 0.9, 0.99])
        weights = vae.guide.log_weights[:m].softmax(0)
        parts = [vae.guide.component(j, X) for j in range(m)]
        seen = set()
        for lines in contours(ax, guide=True):
            for level, path in zip(levels, lines.get_paths(), strict=True):
                z = torch.tensor(path.vertices)[:, None]
                density = sum(
                    w * q.log_prob(z).exp() for w, q in zip(weights, parts, strict=True)
                )
                error = (density.log() - level).abs()
                assert len(z) == 0 or error.max().item() < 0.1
                seen |= {level} if len(z) else set()
        assert len(seen) == 3


def test_the_bar_shows_the_weights():
    (axes,) = panels(plots.plot_components(linear_vae(*THREE), X))
    for m, ax in enumerate(axes, 1):
        (bar,) = ax.child_axes
        weights = torch.tensor(THREE[0][:m]).softmax(0).tolist()
        assert [b.get_width() for b in bar.patches] == pytest.approx(weights, abs=1e-6)
        assert [f"{float(text):.2f}" for text in notes(bar)] == [
            f"{w:.2f}" for w in weights
        ]
        assert ax.get_title("left") == f"$m = {m}$, weight {weights[-1]:.2f}"


def test_inactive_components_are_left_out():
    vae = small("recursive_mixture", num_components=3)
    vae.guide.begin(2, copy=False)
    (axes,) = panels(plots.plot_components(vae, torch.zeros(1, 2, 3)))
    assert len(axes) == 2
    weights, locs, scales = THREE
    some = linear_vae([INACTIVE, *weights[1:]], locs, scales)
    (axes,) = panels(plots.plot_components(some, X))
    names = [ax.get_title("left").split(",")[0] for ax in axes]
    assert names == ["$m = 2$", "$m = 3$"]
    rest = linear_vae(weights[1:], locs[1:], scales[1:])
    assert steps_of(some).gaps == pytest.approx(steps_of(rest).gaps, abs=1e-3)


@pytest.mark.parametrize(("weight", "shown"), [(0.02, True), (0.001, False)])
def test_what_weighs_nothing_does_not_squeeze_the_picture(weight, shown):
    log_weights = [
        math.log((1 - weight) / 2),
        math.log(weight),
        math.log((1 - weight) / 2),
    ]
    vae = linear_vae(log_weights, [[0.0, 0.3], [20.0, 0.0], [0.4, 0.0]], [0.3] * 3)
    (axes,) = panels(plots.plot_components(vae, X, masses=(0.5, 0.9)))
    note = "not shown, far outside: component 2"
    assert [notes(ax) for ax in axes] == [[], [], []] if shown else [[], [note], [note]]
    for ax in axes:
        low, high = ax.get_xlim()
        assert (high > 20) == shown
        assert shown or high - low < 8


def test_a_first_component_of_no_weight_at_all():
    """exp(-300) is zero in single precision, not to the first step."""
    vae = linear_vae([-300.0, 0.0], [[0.0, 0.3], [0.4, 0.0]], [0.3, 0.3])
    (axes,) = panels(plots.plot_components(vae, X))
    names = [ax.get_title("left") for ax in axes]
    assert names == ["$m = 1$, weight 1.00", "$m = 2$, weight 1.00"]
    assert all(math.isfinite(gap) for gap in steps_of(vae).gaps)


def test_the_callers_random_state_is_left_alone(tmp_path):
    vae = linear_vae(*THREE)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fig = plots.plot_components(vae, X)
    assert torch.equal(torch.get_rng_state(), before)
    path = plots.save_figure(fig, tmp_path / "components.png")
    assert path.read_bytes().startswith(b"\x89PNG")


# -------------------------------------------------------------------------- errors


def test_what_has_no_components_is_refused():
    with pytest.raises(UserError, match=r"from a Mixture, got \w+; 'mixture'"):
        plots.plot_components(small("mean_field"), torch.zeros(1, 2, 3))
    wide = small("recursive_mixture", latent_dim=3)
    with pytest.raises(UserError, match=r"got 'z' of \(3,\); train with latent_dim=2"):
        plots.plot_components(wide, torch.zeros(1, 2, 3))


def test_there_must_be_something_to_draw():
    vae = small("recursive_mixture")
    with pytest.raises(UserError, match="at least one row and one datum, got 3 and 0"):
        plots.plot_components(vae, torch.zeros(0, 2, 3))
    with pytest.raises(UserError, match="got 0 and 1"):
        plots.plot_components(vae, torch.zeros(1, 2, 3), max_rows=0)


# ---------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("guide", "options", "drawn"),
    [
        ("recursive_mixture", {"num_components": 2}, True),
        pytest.param(
            "mixture",
            {"num_components": 2, "weights": "constant"},
            True,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "recursive_mixture", {"num_components": 1}, False, marks=pytest.mark.slow
        ),
        ("recursive_mixture", {"num_components": 2, "latent_dim": 3}, False),
        ("mean_field", {}, False),
    ],
)
def test_runs_draw_components_where_there_are_some(guide, options, drawn, tmp_path):
    data = zoo.load_dataset("digits_binary")
    options = {"latent_dim": 2, "hidden_dims": (8,)} | options
    vae = zoo.create(guide, data, **options)
    draw(tmp_path, vae, data, [], {})
    assert (tmp_path / "components.png").exists() == drawn
    assert (tmp_path / "posterior.png").exists()
    assert "components" in run_folder.PICTURES  # which --overwrite removes


@pytest.mark.parametrize("masses", [(50, 90), (), (0.0, 0.5), (1.0,)])
def test_masses_are_parts(masses):
    vae = zoo.create("mean_field", event_shape=(2, 3), latent_dim=2, hidden_dims=(4,))
    with pytest.raises(zoo.UserError, match="between 0 and 1"):
        zoo.plots.plot_posterior(vae, torch.zeros(1, 2, 3), masses=masses)
