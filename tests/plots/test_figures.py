"""Figures show the data they are given, and densities are those of closed forms."""

import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.contour import QuadContourSet
from pairs import perturb, small
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo import plots
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.grid import posterior_densities

FLOW_KEYS = ("initial_log_density", "final_log_density", "log_det")


def records(n=12, shift=0.0, flow=True):
    return [
        {
            "epoch": i,
            "train_elbo": -50.0 + i + shift,
            "valid_elbo": -52.0 + i - max(i - 9, 0) * 3 + shift,
            "kl": 5.0 + i,
            "reconstruction": -60 + i,
            **dict.fromkeys(FLOW_KEYS, -1.0 * i if flow else None),
        }
        for i in range(1, n + 1)
    ]


def panels(fig):
    """Axes by title, and the data of their lines (without the rings)."""
    return {ax.get_title(loc="left"): ax for ax in fig.axes}


def lines(ax):
    return [line.get_ydata() for line in ax.lines if line.get_linestyle() != "None"]


def rings(ax):
    found = [line for line in ax.lines if line.get_linestyle() == "None"]
    return [tuple(line.get_xydata()[0]) for line in found]


# ----------------------------------------------------------------------- training


def test_training_panels_show_the_records():
    fig = plots.plot_training(records(), title="iaf, K = 2")
    by_title = panels(fig)
    assert fig.get_suptitle() == "iaf, K = 2"
    assert len(by_title) == 4  # those of flows stand beside other runs
    train, valid = lines(by_title["ELBO"])
    np.testing.assert_array_equal(train, [r["train_elbo"] for r in records()])
    np.testing.assert_array_equal(valid, [r["valid_elbo"] for r in records()])
    assert rings(by_title["ELBO"]) == [(9, -43)]  # the best validation ELBO
    (kl,) = lines(next(ax for name, ax in by_title.items() if name.startswith("KL")))
    np.testing.assert_array_equal(kl, [r["kl"] for r in records()])
    both = panels(plots.plot_comparison({"a": records(), "b": records(shift=1.0)}))
    log_det, _ = lines(both["Sum of log-determinants"])
    np.testing.assert_array_equal(log_det, [r["log_det"] for r in records()])
    for ax in fig.axes:
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats per datum")
    (legend,) = fig.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["validation", "training", "best epoch: 9"]


def test_the_zoom_shows_the_last_fifth():
    fig = plots.plot_training(records(100))
    ax = panels(fig)["ELBO, last epochs"]
    assert [line.get_xdata()[0] for line in ax.lines] == [81, 81]
    assert all(len(y) == 20 for y in lines(ax))


def test_phases_are_marked_where_they_begin():
    phases = [{**r, "phase": "b c"[2 * (r["epoch"] > 4)]} for r in records()]
    by_title = panels(plots.plot_training(phases))
    for name, borders in (("ELBO", [4.5]), ("ELBO, last epochs", [])):
        dotted = [x for x in by_title[name].lines if x.get_linestyle() == ":"]
        assert [x.get_xdata()[0] for x in dotted] == borders
    assert [t.get_text() for t in by_title["ELBO"].texts] == [" c"]


def test_training_takes_a_history():
    history = zoo.History(epochs=records(3))
    (_, valid) = lines(panels(plots.plot_training(history))["ELBO"])
    np.testing.assert_array_equal(valid, [-51, -50, -49])


@pytest.mark.parametrize("n", [1, 2, 30])
def test_without_a_flow_its_panels_are_left_out(n, tmp_path):
    fig = plots.plot_training(records(n, flow=False))
    assert len(fig.axes) == 4
    plots.save_figure(fig, tmp_path / "training.png")


def test_one_epoch_has_whole_ticks(tmp_path):
    fig = plots.plot_training(records(1))
    plots.save_figure(fig, tmp_path / "one.png")
    low, high = fig.axes[0].get_xlim()
    ticks = [t for t in fig.axes[0].get_xticks() if low <= t <= high]
    assert ticks == [1]


def test_comparison_draws_one_line_per_run(tmp_path):
    runs = {f"run {i}": records(12, -i, flow=i != 1) for i in range(9)}
    fig = plots.plot_comparison(runs, title="digits")
    assert len(fig.axes) == 8
    for ax in fig.axes:
        assert len(lines(ax)) == 9
    styles = {(x.get_color(), x.get_linestyle()) for x in fig.axes[0].lines}
    assert len(styles) == 9
    assert np.isnan(lines(panels(fig)["Sum of log-determinants"])[1]).all()
    texts = [text.get_text() for text in fig.legends[0].get_texts()]
    assert texts == [*runs, "best epoch"]
    plots.save_figure(fig, tmp_path / "comparison.png")


def test_nothing_to_draw_is_an_error():
    with pytest.raises(UserError, match="no epochs"):
        plots.plot_training([])
    with pytest.raises(UserError, match="no epochs to draw in 'iaf'"):
        plots.plot_comparison({"iaf": []})
    with pytest.raises(UserError, match="no runs"):
        plots.plot_comparison({})
    with pytest.raises(UserError, match="at least one image"):
        plots.plot_images(torch.zeros(0, 8, 8))


# ------------------------------------------------------------------------- images


def test_images_lie_in_a_grid_and_are_clipped():
    images = torch.stack(
        [torch.full((14, 14), v) for v in (-1.0, 0.25, 0.5, 2.0, 0.75)]
    )
    fig = plots.plot_images(images, columns=3, limits=(0, 1))
    canvas = fig.axes[0].images[0].get_array()
    assert canvas.shape == (29, 44, 3)  # 2 x 14 + 1 and 3 x 14 + 2
    assert (canvas[:14, :14] == 0).all()
    assert (canvas[:14, 15:29] == 0.25).all()
    assert (canvas[15:, :14] == 1).all()
    assert (canvas[15:, 15:29] == 0.75).all()
    assert (canvas[14] == 1).all()  # the gap is white


def test_colour_images_keep_their_channels():
    images = torch.rand(2, 3, 4, 5)
    canvas = plots.plot_images(images).axes[0].images[0].get_array()
    np.testing.assert_allclose(canvas[:, :5], images[0].permute(1, 2, 0))


def test_other_shapes_are_refused():
    with pytest.raises(UserError, match=r"got \(2, 4, 4\)"):
        plots.plot_images(torch.zeros(3, 2, 4, 4))


@pytest.fixture(scope="module")
def trained():
    data = zoo.load_dataset("digits_binary")
    torch.manual_seed(0)
    vae = zoo.create("planar", data, latent_dim=2, hidden_dims=(32,))
    history = zoo.fit(vae, data, epochs=3, device="cpu", progress=False)
    return vae, data, history


def test_pictures_of_a_trained_vae(trained, tmp_path):
    vae, data, history = trained
    figures = {
        "samples": plots.plot_samples(vae, 9, data=data),
        "reconstructions": plots.plot_reconstructions(vae, data.test[:11], data=data),
        "traversal": plots.plot_traversal(vae, data.test[:20], data=data),
        "posterior": plots.plot_posterior(vae, data.test[:5], data=data),
        "training": plots.plot_training(history, title=plots.figure_title(vae, data)),
    }
    for name, fig in figures.items():
        assert "planar, K = 2\ndigits_binary: one Bernoulli draw" in fig.get_suptitle()
        path = plots.save_figure(fig, tmp_path / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == len(figures)


def test_as_many_samples_as_data_beside_them(trained):
    vae, data, _ = trained
    fig = plots.plot_samples(vae, data=data, beside=data.test[:4])
    assert len(fig.axes[0].get_xticklabels()) == 5


@pytest.mark.parametrize("name", ["columns", "max_rows"])
def test_a_traversal_has_a_row_and_a_column(name, trained):
    vae, data, _ = trained
    with pytest.raises(zoo.UserError, match=f"{name} must be at least 1, got 0"):
        plots.plot_traversal(vae, data.test[:2], **{name: 0})


def test_samples_stand_beside_data(trained):
    vae, data, _ = trained
    fig = plots.plot_samples(vae, 4, data=data, beside=data.test)
    (ax,) = fig.axes
    heads = [text.get_text() for text in ax.get_xticklabels()]
    assert heads[0] == "data"
    assert heads[3] == r"samples of $z$, $E[x\,|\,z]$"
    canvas = ax.images[0].get_array()[..., 0]
    np.testing.assert_array_equal(canvas[:8, :8], data.test[0])
    np.testing.assert_array_equal(canvas[9:17, 9:17], data.test[3])
    assert (canvas[:, 18:26] == 1).all()  # nothing between the halves
    alone = plots.plot_samples(vae, 4, data=data).axes[0].images[0].get_array()[..., 0]
    np.testing.assert_allclose(canvas[:, 27:], alone)


def test_reconstructions_stand_under_their_data(trained):
    vae, data, _ = trained
    fig = plots.plot_reconstructions(vae, data.test[:5], columns=4)
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()][::2] == ["$x$"] * 2
    canvas = ax.images[0].get_array()
    np.testing.assert_array_equal(canvas[:8, 9:17, 0], data.test[1])
    below = canvas[9:17, 9:17, 0]
    assert ((below > 0) & (below < 1)).all()  # means, not pixels
    last = canvas[-17:-9]
    np.testing.assert_array_equal(last[:, :8, 0], data.test[4])
    assert (last[:, 9:] == 1).all()  # the row is not full


def test_traversal_decodes_what_its_labels_say(trained):
    vae, data, _ = trained
    fig = plots.plot_traversal(vae, data.test[:20], columns=5)
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_xticklabels()][0] == "$-3$"
    canvas = ax.images[0].get_array()[..., 0]
    first_row = int(ax.get_yticklabels()[0].get_text()[4]) - 1
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        z = vae.encode(data.test[:20], 100)[:, 0].mean(0)
        z[first_row] = 3.0
        image = vae.model.likelihood(vae.model.decoder(z[None])).mean[0]
    np.testing.assert_allclose(canvas[:8, -8:], image, atol=1e-5)


def test_pictures_leave_the_callers_state_alone(trained):
    vae, data, _ = trained
    vae.train()
    torch.manual_seed(3)
    before, settings = torch.get_rng_state(), dict(mpl.rcParams)
    one = plots.plot_samples(vae, 4)
    two = plots.plot_samples(vae, 4)
    plots.plot_posterior(vae, data.test[:1])
    plots.plot_traversal(vae, data.test[:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(mpl.rcParams) == settings
    assert vae.training
    vae.eval()
    a, b = (fig.axes[0].images[0].get_array() for fig in (one, two))
    np.testing.assert_array_equal(a, b)


def curve(n, shift=0.0):
    return [
        {"step": 10 * i, "train_elbo": shift - 90 / i, "valid_elbo": shift - 99 / i}
        for i in range(1, n + 1)
    ]


def test_curves_stand_in_panels_of_one_scale(tmp_path):
    one = {"maf": curve(30), "self_reflective_maf": curve(30, 5.0)}
    fig = plots.plot_curves({"few": one, "many": {"maf": curve(20)}}, title="CIFAR-10")
    few, many = fig.axes
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["few", "many"]
    drawn = [list(line.get_ydata()) for line in few.lines]
    keys = ("valid_elbo", "train_elbo")
    assert drawn == [[r[key] for r in c] for c in one.values() for key in keys]
    assert few.get_ylim() == many.get_ylim()
    assert few.lines[0].get_color() == many.lines[0].get_color()
    texts = [t.get_text() for t in fig.legends[0].get_texts()]
    assert texts == ["maf", "self_reflective_maf", "validation", "training"]
    plots.save_figure(fig, tmp_path / "curves.png")


def test_curves_show_their_best_whatever_else_they_do():
    """The start and an overfitted end, far below, do not flatten the rest."""
    bad = curve(30)
    bad[-1] = bad[-1] | {"valid_elbo": -1e21}
    (ax,) = plots.plot_curves({"all": {"maf": bad, "other": curve(30, 5.0)}}).axes
    low, high = ax.get_ylim()
    best = [max(r["valid_elbo"] for r in c) for c in (bad, curve(30, 5.0))]
    assert -20 < low < min(best) < max(best) < high < 10
    (ax,) = plots.plot_curves({"all": {"maf": curve(30)}}).axes
    assert -20 < ax.get_ylim()[0] < -3.3 < ax.get_ylim()[1] < 10
    near = [r | {"valid_elbo": r["valid_elbo"] + 0.01} for r in curve(30)]
    (ax,) = plots.plot_curves({"all": {"one": curve(30), "near": near}}).axes
    shown = [v for v in ax.lines[0].get_ydata() if v > ax.get_ylim()[0]]
    assert len(shown) > 20
    holes = [curve(3)[0] | {"valid_elbo": None}, *curve(3)[1:]]
    plots.plot_curves({"all": {"maf": holes}})
    with pytest.raises(UserError, match="no finite validation"):
        plots.plot_curves({"all": {"maf": holes[:1]}})
    (ax,) = plots.plot_curves({"all": {"maf": curve(1)}}).axes
    assert ax.get_ylim()[0] < -99 < ax.get_ylim()[1]


@pytest.mark.parametrize("panels", [{}, {"a": {}}, {"a": {"maf": []}}])
def test_curves_need_records(panels):
    with pytest.raises(UserError, match="at least one curve"):
        plots.plot_curves(panels)


# --------------------------------------------------------------------- hierarchies


def test_growth_adds_a_block_at_a_time():
    """Three blocks of 27 pixels: white where none is yet, then never changed."""
    vae = small("self_reflective", (9, 9))
    perturb(vae)
    fig = plots.plot_growth(vae, n=2)
    assert fig.get_suptitle() == "Growth: self_reflective, L = 3"
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        f"$x_{{{l}}}$" for l in (1, 2, 3)
    ]
    canvas = ax.images[0].get_array()[..., 0]
    images = [
        canvas[10 * r : 10 * r + 9, 10 * c : 10 * c + 9]
        for r in (0, 1)
        for c in (0, 1, 2)
    ]
    for n, image in enumerate(images):
        drawn = 3 * (n % 3 + 1)
        assert (image[drawn:] == 1).all()
        assert (image[:drawn] < 1).all()
        np.testing.assert_array_equal(image[:drawn], images[n - n % 3 + 2][:drawn])
    assert not np.array_equal(images[2], images[5])


def test_growth_of_many_layers_shows_ten_stages():
    vae = small("self_reflective", (6, 6), num_layers=12)
    (ax,) = plots.plot_growth(vae, n=1).axes
    heads = [int(t.get_text()[4:-2]) for t in ax.get_xticklabels()]
    assert heads == [1, 2, 3, 4, 6, 7, 8, 9, 10, 12]


def test_growth_needs_samples():
    with pytest.raises(UserError, match="number of samples must be at least 1, got 0"):
        plots.plot_growth(small("self_reflective"), 0)


@pytest.mark.parametrize("guide", ["mean_field", "ladder"])
def test_growth_needs_blocks(guide):
    with pytest.raises(UserError, match=r"observes blocks x_1, x_2"):
        plots.plot_growth(small(guide))


def test_layers_are_the_evaluations():
    vae = small("ladder")
    x = torch.rand(20, 2, 3).bernoulli()
    evaluation = zoo.evaluate(vae, x, num_particles=4)
    fig = plots.plot_layers(evaluation, title="ladder")
    left, right = fig.axes
    assert [b.get_width() for b in left.patches] == list(
        evaluation.kl_per_site.values()
    )
    of, some = right.patches[:3], right.patches[3:]
    counts = [f"{a.get_width()}/{b.get_width()}" for a, b in zip(some, of, strict=True)]
    assert counts == list(evaluation.to_dict()["active_units"].values())
    assert [t.get_text() for t in left.get_yticklabels()] == list(
        evaluation.kl_per_site
    )


def test_layers_need_latents():
    with pytest.raises(UserError, match="no latent sites"):
        plots.plot_layers({"kl_per_site": {}, "active_units": {}})


def test_long_titles_are_wrapped():
    fig = plots.plot_images(torch.zeros(3, 4, 4), title="word " * 30)
    assert max(map(len, fig.get_suptitle().split("\n"))) <= 40


def test_importing_the_package_imports_no_matplotlib_and_drawing_no_pyplot():
    code = """
import sys
import pyro_vae_zoo
assert "matplotlib" not in sys.modules
from pyro_vae_zoo import plots
plots.plot_graph({"z_2->z_1": 0.5})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------- posteriors

W = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, 0.1]])
NOISE = 0.5
PRECISION = torch.eye(2) + W.T @ W / NOISE**2
COVARIANCE = PRECISION.inverse()


class LinearModel(nn.Module):
    """z ~ N(0, I), x ~ N(W z, 0.5^2): everything has a closed form."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(W.clone())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            return pyro.sample(
                "x", dist.Normal(z @ self.weight.T, NOISE).to_event(1), obs=x
            )


class GaussianGuide(nn.Module):
    """N(m(x) + shift, factor * covariance), directly or as an affine flow."""

    def __init__(self, factor=1.0, shift=0.0, flow=False):
        super().__init__()
        self.factor, self.shift, self.flow = factor, shift, flow

    def forward(self, x):
        loc = x @ W @ COVARIANCE / NOISE**2 + self.shift
        tril = torch.linalg.cholesky(self.factor * COVARIANCE)
        q = dist.MultivariateNormal(loc, scale_tril=tril)
        if self.flow:
            shear = dist.transforms.LowerCholeskyAffine(
                torch.zeros(2), tril, cache_size=1
            )
            base = dist.Normal(torch.linalg.solve(tril, loc[..., None])[..., 0], 1.0)
            q = dist.TransformedDistribution(base.to_event(1), [shear])
        with pyro.plate("data", len(x)):
            return pyro.sample("z", q)


def linear_vae(**options):
    return zoo.VAE(LinearModel(), GaussianGuide(**options), event_shape=(3,))


X = torch.tensor([[0.9, -0.2, 0.4]])


def contour_points(fig, filled):
    sets = [c for c in fig.axes[0].collections if isinstance(c, QuadContourSet)]
    (found,) = [c for c in sets if c.filled == filled]
    return [path.vertices for path in found.get_paths()]


@pytest.mark.parametrize("flow", [False, True])
def test_contours_are_the_ellipses_of_the_closed_form(flow):
    vae = linear_vae(factor=2.0, flow=flow)
    fig = plots.plot_posterior(vae, X, masses=(0.5, 0.9, 0.99))
    loc = (X @ W @ COVARIANCE / NOISE**2)[0].numpy()
    # of a plane's Gaussian the mass m lies within squared radius -2 log(1 - m)
    for filled, factor in ((True, 1.0), (False, 2.0)):
        edges = contour_points(fig, filled)
        for mass, points in zip((0.99, 0.9, 0.5), edges, strict=True):
            distance = points - loc
            radius = np.einsum("ni,ij,nj->n", distance, PRECISION.numpy(), distance)
            expected = -2 * math.log(1 - mass) * factor
            outer = radius[radius > 0.8 * expected]  # a band has an inner edge too
            np.testing.assert_allclose(outer, expected, rtol=0.03)
            for i in range(2):
                reach = math.sqrt(expected * COVARIANCE[i, i].item())
                assert np.ptp(points[:, i]) == pytest.approx(2 * reach, rel=0.02)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (2.0, 0.0), (0.5, 0.3)])
def test_the_gap_is_the_divergence_in_closed_form(factor, shift, flow):
    vae = linear_vae(factor=factor, shift=shift, flow=flow)
    with torch.no_grad():
        q, p, gap = posterior_densities(vae, X)
    exact = dist.MultivariateNormal((X @ W @ COVARIANCE / NOISE**2)[0], COVARIANCE)
    guide = dist.MultivariateNormal(exact.mean + shift, factor * COVARIANCE)
    expected = torch.distributions.kl_divergence(guide, exact).item()
    assert gap == pytest.approx(expected, abs=2e-3)
    for density, closed in ((p, exact), (q, guide)):
        assert density.mass.sum().item() == pytest.approx(1, abs=1e-6)
        inside = density.mass > 1e-6
        log_prob = closed.log_prob(density.z.float())[inside].double()
        torch.testing.assert_close(
            density.log_prob[inside], log_prob, atol=5e-3, rtol=0
        )
    assert f"gap {gap:.3f} nats" == plots.plot_posterior(vae, X).axes[0].get_title(
        "right"
    )


def test_a_scale_leaves_the_exact_posterior_alone():
    """It weighs an objective, and is no part of p(x, z)."""

    class Scaled(LinearModel):
        def forward(self, x):
            with pyro.poutine.scale(scale=0.1):
                return super().forward(x)

    vae = linear_vae(factor=2.0)
    found = []
    for model in (vae.model, Scaled()):
        torch.manual_seed(0)
        with torch.no_grad():
            found.append(posterior_densities(zoo.VAE(model, vae.guide, (3,)), X))
    (_, p, gap), (_, scaled_p, scaled_gap) = found
    assert torch.equal(p.log_prob, scaled_p.log_prob)
    assert gap == scaled_gap


@pytest.mark.parametrize("guide", ["iaf", "neural_autoregressive", "spline_coupling"])
def test_a_flows_density_integrates_to_one(guide):
    torch.manual_seed(0)
    vae = zoo.create(guide, event_shape=(3,), latent_dim=2, hidden_dims=(8,))
    with torch.no_grad():
        q, p, gap = posterior_densities(vae, torch.tensor([[1.0, 0.0, 1.0]]))
    side = math.isqrt(len(q.z))
    z = q.z.reshape(side, side, 2)
    edge, other = z[1:, :-1] - z[:-1, :-1], z[:-1, 1:] - z[:-1, :-1]
    area = (edge[..., 0] * other[..., 1] - edge[..., 1] * other[..., 0]).abs()
    density = q.log_prob.exp().reshape(side, side)
    corners = density[1:, 1:] + density[1:, :-1] + density[:-1, 1:] + density[:-1, :-1]
    assert (corners / 4 * area).sum().item() == pytest.approx(1, abs=0.01)
    assert gap > 0


def test_posteriors_need_two_dimensions():
    vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=3, hidden_dims=(8,))
    with pytest.raises(UserError, match=r"got 'z' of \(3,\); train with latent_dim=2"):
        plots.plot_posterior(vae, torch.zeros(1, 8, 8))


# ------------------------------------------------------------------------ results


def test_results_show_numbers_and_seeds(tmp_path):
    rows = [
        {
            "label": label,
            "elbo": -90.0 - i,
            "elbo_std_error": 0.5,
            "log_likelihood": -89.0 - i,
            "log_likelihood_std_error": 0.25,
            "seeds": [{"elbo": -90.5 - i, "log_likelihood": -89.5 - i}] * 2,
        }
        for i, label in enumerate(["iaf", "mean_field"])
    ]
    fig = plots.plot_results(rows, {"iaf": [records(5), records(5)]}, title="digits")
    ax, valid, _ = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["iaf", "mean_field"]
    points = {x for line in ax.lines for x in line.get_xdata()}
    assert {-90.0, -89.0, -91.0, -90.5, -89.5, -89.25, -88.75} <= points
    assert len(lines(valid)) == 2
    plots.save_figure(fig, tmp_path / "results.png")
    assert len(plots.plot_results(rows).axes) == 1
    fell = [r | {"valid_elbo": -3e6} for r in records(5)[2:]]
    fig = plots.plot_results(rows, {"iaf": [records(5)], "mean_field": [fell]})
    assert fig.axes[1].get_ylim()[0] < -1e6  # it was nowhere else
    fell = [*records(5)[:2], *fell]
    fig = plots.plot_results(rows, {"iaf": [records(5)], "mean_field": [fell]})
    for ax in fig.axes[1:]:  # the others are seen beside one that fell
        assert -1e3 < ax.get_ylim()[0] < -47 < ax.get_ylim()[1] < 0
