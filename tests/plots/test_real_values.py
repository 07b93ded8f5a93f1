"""Pictures of data that are not grey levels: all of their values, on their own scale."""

import io

import numpy as np
import pytest
import torch
from pairs import perturb, small

import pyro_vae_zoo as zoo
from pyro_vae_zoo import plots
from pyro_vae_zoo.data.scales import UNIT, Scale, scale_of

TABLE, SPECTRUM, IMAGE, COLOUR = (4,), (500,), (6, 5), (3, 6, 5)
DRAWN = ("samples", "reconstructions", "traversal", "posterior", "components", "growth")


def real_data(shape, low=-40.0, high=60.0):
    """Values far outside [0, 1], with both limits in each split."""
    x = low + (high - low) * torch.rand(30, *shape)
    x.flatten(1)[:, 0], x.flatten(1)[:, -1] = low, high
    return zoo.Dataset(x[:10], x[10:20], x[20:], "gaussian")


def pair(name, shape):
    """A pair for a picture, whose means leave [0, 1] too."""
    guide = {"components": "mixture", "growth": "self_reflective"}.get(
        name, "mean_field"
    )
    options = {"num_components": 2} if guide == "mixture" else {}
    if guide == "self_reflective":
        size = torch.Size(shape).numel()
        options = {"num_layers": 2, "block_sizes": [size // 2, size - size // 2]}
    vae = small(guide, shape, likelihood="gaussian", **options)
    perturb(vae, 3)
    return vae


def figure(name, shape, data):
    """A picture of real-valued data, by its name."""
    vae, x = pair(name, shape), data.test[:3]
    return {
        "samples": lambda: plots.plot_samples(vae, 5, data=data),
        "reconstructions": lambda: plots.plot_reconstructions(vae, x, data=data),
        "traversal": lambda: plots.plot_traversal(vae, x, data=data),
        "posterior": lambda: plots.plot_posterior(vae, x[:2], data=data),
        "components": lambda: plots.plot_components(vae, x, max_rows=1, data=data),
        "growth": lambda: plots.plot_growth(vae, 2, data=data),
    }[name]()


def of_vectors(fig):
    """The axes that have curves over the elements of vectors, insets among them."""
    axes = [inner for ax in fig.axes for inner in (ax, *ax.child_axes)]
    return [ax for ax in axes if curves(ax)]


def curves(ax):
    """Its lines but for that of zero."""
    lines = [line for line in ax.lines if len(line.get_ydata()) > 2]
    return [np.asarray(line.get_ydata()) for line in lines]


def pixels_of(fig):
    """The figure as it is rendered."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="rgba", dpi=60)
    return np.frombuffer(buffer.getvalue(), np.uint8)


# ------------------------------------------------------------------------ the scale


@pytest.mark.parametrize("shape", [TABLE, IMAGE, COLOUR])
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_bits_and_grey_levels_are_drawn_from_0_to_1(likelihood, shape):
    x = torch.full((4, *shape), 0.0)
    assert scale_of(x, x, likelihood=likelihood) == UNIT
    assert scale_of(zoo.Dataset(x, x, x, likelihood), x) == UNIT
    dequantised = zoo.Dataset(x, x, x, "gaussian", logit=0.05)
    assert scale_of(dequantised, dequantised.test) == UNIT


def test_images_within_the_unit_keep_its_scale_and_others_have_their_own():
    x = torch.rand(9, *IMAGE)
    assert scale_of(x) == UNIT
    assert scale_of(zoo.Dataset(x, x, x, "gaussian"), 3 * x) == UNIT
    scale = scale_of(zoo.Dataset(5 * x, x, x, "gaussian"), x)
    assert scale == pytest.approx((0, 5), abs=0.1)


def test_one_outlier_does_not_make_the_other_images_grey():
    x = torch.randn(400, *IMAGE)
    x[7, 2, 2] = 1e6
    assert scale_of(x) == pytest.approx((-3, 3), abs=0.5)


def test_the_scale_of_vectors_holds_what_is_drawn():
    x, drawn = torch.randn(400, 4), torch.tensor([[0.0, 50.0, -1.0, torch.nan]])
    low, high = scale_of(x, drawn)
    assert (low, high) == (pytest.approx(-3, abs=0.7), 50)
    assert scale_of(x / 1000, x / 1000).high < 0.01  # not [0, 1]


@pytest.mark.parametrize("value", [0.0, 7.0, -1e-3])
def test_a_single_value_has_air(value):
    x = torch.full((3, 4), value)
    low, high = scale_of(x, x)
    assert low < value < high
    assert plots.plot_images(x).axes[0].get_ylim()[0] < value


# ---------------------------------------------------------------------- the pictures


@pytest.mark.parametrize("shape", [TABLE, SPECTRUM])
@pytest.mark.parametrize("name", DRAWN)
def test_vectors_are_drawn_whole_in_panels_of_one_scale(name, shape):
    data = real_data(shape)
    fig = figure(name, shape, data)
    axes = of_vectors(fig)
    assert axes
    assert len({ax.get_ylim() for ax in axes}) == 1
    low, high = axes[0].get_ylim()
    assert low < -39.9 < 59.9 < high  # the data's, whatever the model makes of them
    for ax in axes:
        for values in curves(ax):
            assert len(values) == shape[0]
            assert low < np.nanmin(values) <= np.nanmax(values) < high
        left, right = ax.get_xlim()
        assert left < 0 < shape[0] - 1 < right
        ticks = ax.get_yticks()
        assert len([v for v in ticks if low <= v <= high]) == len(ticks) >= 2
        if ax.yaxis.get_tick_params()["labelleft"]:  # the others are as the first is
            labels = [label.get_text() for label in ax.get_yticklabels()]
            assert labels == [f"{v:g}".replace("-", "\N{MINUS SIGN}") for v in ticks]
    if name not in ("posterior", "components"):
        assert fig.get_supxlabel() == "feature, counted from 0"
        assert axes[0].yaxis.get_tick_params()["labelleft"]
        assert axes[-1].xaxis.get_tick_params()["labelbottom"]


def first_datum(fig, shape):
    """The drawing of the first datum: its curve, or its pixels."""
    inner = [ax for outer in fig.axes for ax in outer.child_axes]
    ax = next((ax for ax in inner if ax.images or curves(ax)), fig.axes[0])
    if len(shape) == 1:
        return curves(ax)[0]
    return np.asarray(ax.images[0].get_array())[: shape[-2], : shape[-1]]


@pytest.mark.parametrize("name", ["reconstructions", "posterior", "components"])
@pytest.mark.parametrize("shape", [TABLE, IMAGE, COLOUR])
def test_a_value_outside_the_unit_changes_the_picture(name, shape):
    data = real_data(shape)
    drawn = []
    for values in ([20.0, -9.0], [50.0, -30.0]):  # 1 and 0 where values are clipped
        data.test[0].flatten()[1:3] = torch.tensor(values)
        drawn.append(first_datum(figure(name, shape, data), shape))
    assert (drawn[0] != drawn[1]).sum() >= 2


@pytest.mark.parametrize("shape", [TABLE, SPECTRUM, IMAGE, COLOUR])
def test_rendered_pictures_differ_where_values_do(shape):
    x = real_data(shape).train
    before = pixels_of(plots.plot_images(x))
    x[0].flatten()[1:3] += 15
    assert not np.array_equal(before, pixels_of(plots.plot_images(x)))


@pytest.mark.parametrize("name", DRAWN)
def test_real_valued_images_name_their_scale(name):
    data = real_data(IMAGE)
    fig = figure(name, IMAGE, data)
    if name in ("posterior", "components"):
        assert "\nx: from " in fig.get_suptitle()  # no formula: dollars are letters
        assert "black) to 60 (white)" in fig.get_suptitle()
        return
    picture, bar = fig.axes
    assert bar.get_xlim()[0] <= -39
    assert bar.get_xlim()[1] >= 59
    assert picture.images


def test_a_reconstruction_and_its_datum_have_one_scale():
    data = real_data(IMAGE)
    scale = scale_of(data)
    (x,) = data.test[:1]
    vae = pair("reconstructions", IMAGE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        again = vae.reconstruct(x[None])[0]
    fig = plots.plot_reconstructions(vae, x[None], data=data)
    canvas = fig.axes[0].images[0].get_array()
    np.testing.assert_allclose(canvas[:6, :, 0], scale.share(x).clamp(0, 1), atol=1e-6)
    np.testing.assert_allclose(
        canvas[-6:, :, 0], scale.share(again).clamp(0, 1), atol=1e-4
    )


def test_the_bar_points_to_where_values_are_clipped():
    images = torch.tensor([-5.0, 0.5, 9.0]).expand(2, 2, 3)
    for limits, pointed in (((-6, 9), "neither"), ((-1, 9), "min"), ((-1, 2), "both")):
        _, bar = plots.plot_images(images, limits=limits).axes
        assert bar._colorbar.extend == pointed


def test_colour_images_name_their_range():
    fig = plots.plot_images(torch.linspace(-3, 3, 180).reshape(2, *COLOUR))
    (ax,) = fig.axes
    assert ax.get_xlabel() == "each channel from \N{MINUS SIGN}2.99 to 2.99"
    canvas = ax.images[0].get_array()
    assert len(np.unique(canvas)) > 150  # none but the outermost is clipped


@pytest.mark.parametrize("shape", [IMAGE, COLOUR])
def test_images_within_the_unit_are_as_they_were(shape):
    x = torch.rand(4, *shape)
    fig = plots.plot_images(x, columns=4)
    (ax,) = fig.axes  # no bar
    assert ax.get_xlabel() == ""
    expected = x if len(shape) == 3 else x[:, None].expand(-1, 3, -1, -1)
    canvas = ax.images[0].get_array()
    for i, image in enumerate(expected):
        shown = canvas[:, 6 * i : 6 * i + 5].transpose(2, 0, 1)
        np.testing.assert_array_equal(shown, image.double())


def test_vectors_and_their_reconstructions_share_a_panel():
    data = real_data(TABLE)
    fig = figure("reconstructions", TABLE, data)
    assert len(fig.axes) == 3
    for ax, x in zip(fig.axes, data.test, strict=False):
        shown, again = curves(ax)
        np.testing.assert_array_equal(shown, x)
        assert not np.allclose(again, x)
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["$x$", r"$E[x\,|\,z]$"]


def test_a_vector_of_bits_keeps_the_scale_of_its_probabilities():
    vae = small("mean_field", (7,))
    (ax, *_) = plots.plot_samples(vae, 4).axes
    assert ax.get_ylim() == pytest.approx((-0.06, 1.06))


def test_a_posterior_narrower_than_the_grid_is_drawn():
    """Unscaled data make it so: it was an error of matplotlib's, and cost the run."""
    data = real_data(TABLE, -4e4, 6e4)
    for name in ("posterior", "components"):
        assert pixels_of(figure(name, TABLE, data)).size


# ------------------------------------------------------------- what is no mean says so


def shown_names(vae, x, data=None):
    """The names of the rows or curves of reconstructions."""
    fig = plots.plot_reconstructions(vae, x, data=data)
    if fig.legends:
        return {text.get_text() for text in fig.legends[0].get_texts()}
    return {label.get_text() for label in fig.axes[0].get_yticklabels()}


def test_what_is_no_mean_is_not_called_one():
    grey = torch.randint(256, (9, *IMAGE)) / 255
    data = zoo.Dataset(grey, grey, grey, "gaussian", logit=0.05)
    vae = small("mean_field", IMAGE, likelihood="gaussian")
    assert shown_names(vae, data.test, data) == {"$x$", r"median of $x\,|\,z$"}
    assert shown_names(vae, grey) == {"$x$", r"$E[x\,|\,z]$"}
    flow = small("self_reflective_maf", IMAGE)
    assert shown_names(flow, data.test, data) == {"$x$", r"draw of $x\,|\,z$"}
    blocks = small("self_reflective", IMAGE, likelihood="gaussian")
    assert shown_names(blocks, grey) == {"$x$", r"$E[x_l\,|\,z_l, x_{l-1}]$"}


def test_the_pixel_of_a_mean_is_the_median_of_pixels():
    grey = torch.randint(256, (9, *IMAGE)) / 255
    data = zoo.Dataset(grey, grey, grey, "gaussian", logit=0.05)
    y = 1.5 + 2 * torch.randn(100_001)
    pixels = data.pixels(y)
    shown = data.pixels(torch.tensor(1.5))
    assert pixels.median() == pytest.approx(shown.item(), abs=0.01)
    assert abs(pixels.mean() - shown) > 0.1


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0, 255)])
def test_limits_may_be_given(limits):
    x = torch.randn(2, *IMAGE)
    canvas = plots.plot_images(x, limits=limits).axes[0].images[0].get_array()
    expected = Scale(*limits).share(x[0]).clamp(0, 1)
    np.testing.assert_allclose(canvas[:, :5, 0], expected, atol=1e-6)
