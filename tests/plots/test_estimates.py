"""Figures of estimates and gaps show the numbers that they are given."""

import numpy as np
import pytest
import torch

from pyro_vae_zoo import (
    AnnealedLikelihood,
    InferenceGaps,
    ParticleCurve,
    PosteriorCovariances,
    plots,
)
from pyro_vae_zoo.errors import UserError

CURVE = ParticleCurve(
    (1, 2, 5, 10), (-94.0, -92.0, -91.0, -90.5), (1.0,) * 4, (0.1, 0.1, 0.2, 0.3), 25
)


def annealed(level=-90.0):
    values = torch.full((25,), level, dtype=torch.double)
    one = torch.ones_like(values)
    return AnnealedLikelihood(values, one, one, one, 16, 500, 10)


def gaps(n=25, approximation=1.0, amortisation=2.0):
    log_prob = -90 + torch.randn(n, dtype=torch.double)
    spread = torch.randn(2, n, dtype=torch.double) / 10
    local = log_prob - approximation - spread[0]
    one = torch.ones(n)
    elbos = local - amortisation - spread[1], one, local, one
    return InferenceGaps(*elbos, log_prob, 100, 50)


def legend(fig):
    (found,) = fig.legends
    return [text.get_text() for text in found.get_texts()]


def test_the_curve_and_its_band(tmp_path):
    fig = plots.plot_particles(
        {"draws": CURVE}, {"AIS": annealed()}, title="iaf\ndigits"
    )
    assert fig.get_suptitle() == "iaf\ndigits"
    (ax,) = fig.axes
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "number of particles",
        "nats per datum",
    )
    assert "mean over 25 data" in ax.get_title(loc="left")
    curve, level = ax.lines
    np.testing.assert_array_equal(curve.get_xdata(), CURVE.num_particles)
    np.testing.assert_array_equal(curve.get_ydata(), CURVE.log_prob)
    (band,) = ax.collections
    edges = band.get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(-94.2)  # two errors below the first
    assert edges[:, 1].max() == pytest.approx(-89.9)  # and above the last
    assert level.get_ydata() == [-90.0, -90.0]
    (around,) = ax.patches
    assert around.get_y() == pytest.approx(-90 - 2 / 5)  # an error of 1 / sqrt(25)
    assert around.get_height() == pytest.approx(4 / 5)
    assert legend(fig) == ["draws", "AIS", "2 MC standard errors"]
    plots.save_figure(fig, tmp_path / "particles.png")


def test_several_curves_differ_in_colour(tmp_path):
    fig = plots.plot_particles({"a": CURVE, "b": CURVE})
    assert len({line.get_color() for line in fig.axes[0].lines}) == 2
    assert legend(fig)[:2] == ["a", "b"]
    plots.save_figure(fig, tmp_path / "particles.png")


@pytest.mark.parametrize("labels", [["iaf"], ["iaf", "planar", "mean_field"]])
def test_gaps_are_stacked_and_scattered(labels, tmp_path):
    found = {label: gaps() for label in labels}
    fig = plots.plot_gaps(found, title="digits")
    bars, points = fig.axes
    assert bars.get_xlabel() == "nats per datum"
    assert points.get_xlabel() == "approximation gap (nats)"
    assert points.get_ylabel() == "amortisation gap (nats)"
    assert [t.get_text() for t in bars.get_yticklabels()] == labels
    boxes = [p for p in bars.patches if p.get_height() > 0]
    for i, one in enumerate(found.values()):
        first, second = boxes[2 * i : 2 * i + 2]
        means = [
            one.approximation_gap.mean().item(),
            one.amortisation_gap.mean().item(),
        ]
        assert [first.get_width(), second.get_width()] == pytest.approx(means)
        assert second.get_x() == pytest.approx(means[0])
        assert bars.texts[i].get_text() == " + ".join(f"{m:.2f}" for m in means)
        offsets = np.asarray(points.collections[i].get_offsets())
        np.testing.assert_allclose(offsets[:, 0], one.approximation_gap)
        np.testing.assert_allclose(offsets[:, 1], one.amortisation_gap)
    assert ("planar" in legend(fig)) == (len(labels) > 1)
    plots.save_figure(fig, tmp_path / "gaps.png")


@pytest.mark.parametrize(("steps", "dim"), [(1, 2), (3, 5), (6, 40)])
def test_correlations_are_mean_absolute_ones(steps, dim, tmp_path):
    factor = torch.randn(steps, 4, dim, dim, dtype=torch.double) + 2 * torch.eye(dim)
    names = tuple(f"z_{k}" for k in range(steps))
    found = PosteriorCovariances(names, factor @ factor.mT, 1000)
    fig = plots.plot_correlations(found, title="iaf, K = 2")
    panels = [ax for ax in fig.axes if ax.images]
    assert len(panels) == steps
    expected = found.correlation.abs().mean(1)
    means = found.mean_abs_correlation.mean(1)
    off = ~torch.eye(dim, dtype=torch.bool)
    for k, ax in enumerate(panels):
        (image,) = ax.images
        shown = torch.as_tensor(np.ma.getdata(image.get_array()))
        torch.testing.assert_close(shown[off], expected[k][off])
        assert np.ma.getmaskarray(image.get_array()).diagonal().all()
        assert image.get_clim() == panels[0].images[0].get_clim()
        assert f"$z_{{{k}}}$: mean {means[k]:.3f}" == ax.get_title(loc="left")
        assert ax.get_xlabel() == "latent"
    (bar,) = (ax for ax in fig.axes if not ax.images)
    assert bar.get_ylabel() == "mean |correlation|; 0.025 if independent"
    plots.save_figure(fig, tmp_path / "correlations.png")


def test_nothing_to_draw_is_an_error():
    with pytest.raises(UserError, match="no curves"):
        plots.plot_particles({})
    with pytest.raises(UserError, match="no gaps"):
        plots.plot_gaps({})
