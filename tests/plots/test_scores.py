"""Scores of many guides: what is drawn, in which colour, and what sets the axes."""

import math

import pytest

from pyro_vae_zoo import plots
from pyro_vae_zoo.errors import UserError


def scores(*values, **known):
    return [{"elbo": v - 1, "log_likelihood": v, **known} for v in values]


def points(ax):
    """Markers without the lines, and their colours and fillings."""
    found = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    return {
        (tuple(line.get_xdata()), tuple(line.get_ydata())): (
            line.get_markeredgecolor(),
            line.get_markerfacecolor(),
        )
        for line in found
    }


def test_scores_are_drawn_for_each_guide_and_seed(tmp_path):
    panels = {
        "a, z = 2": {"mean_field": scores(-90, -91), "iaf": scores(-88)},
        "b, z = 2": {"iaf": scores(400), "planar": scores(401)},
    }
    fig = plots.plot_scores(panels, reference="mean_field", title="a table")
    first, second = fig.axes  # nothing to judge with one seed of the others
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == tuple(panels)
    ticks = [label.get_text() for label in first.get_yticklabels()]
    assert ticks == ["mean_field", "iaf", "planar"]
    assert list(first.lines[0].get_xdata()) == [-90.5, -90.5]
    assert set(points(first)) == {
        ((-91, -92), (0, 0)),  # the bounds of two seeds
        ((-90, -91), (0, 0)),
        ((-89,), (1,)),
        ((-88,), (1,)),
    }
    # Two standard errors of the mean of -90 and -91, which is 0.5, on either side.
    bars = [line for line in first.lines[1:] if line.get_marker() == "None"]
    assert [list(bar.get_xdata()) for bar in bars] == [[-92.5, -90.5], [-91.5, -89.5]]
    # Where the reference is missing there is no line.
    assert [list(d.get_ydata()) for d in second.lines] == [[1], [1], [2], [2]]
    plots.save_figure(fig, tmp_path / "scores.png", metadata={"Description": "abc"})
    assert b"abc" in (tmp_path / "scores.png").read_bytes()
    for nothing in ({}, {"a": {}}):
        with pytest.raises(UserError, match="at least one panel"):
            plots.plot_scores(nothing)


def test_rows_beyond_two_standard_errors_are_told_by_their_colour():
    """The mean of two seeds 0.2 apart has an error of 0.1, a difference 0.1414."""
    by_label = {
        "mean_field": scores(-90.1, -89.9),
        "ahead": scores(-89.8, -89.6),
        "behind": scores(-90.4, -90.2),
        "level": scores(-90.0, -89.8),
        "single": scores(-80.0),
        "wrong": scores(-50.0, -50.0, is_bound=False),
    }
    fig = plots.plot_scores({"digits": by_label}, reference="mean_field")
    absolute, relative = fig.axes
    colours = {y[0]: edge for (_, y), (edge, _) in points(relative).items()}
    ahead, behind, level, single = (colours[i - 0.2] for i in (1, 2, 3, 4))
    assert len({ahead, behind, level, single}) == 4
    assert set(colours) == {i + s for i in (1, 2, 3, 4) for s in (0.2, -0.2)}
    of_scores = {y[0]: edge for (_, y), (edge, _) in points(absolute).items()}
    assert [of_scores[i] for i in (1, 2, 3, 4)] == [ahead, behind, level, single]
    xs = {y[0]: x[0] for (x, y) in points(relative)}
    assert xs[1 - 0.2] == pytest.approx(0.3)
    bars = [line for line in relative.lines if line.get_marker() == "None"]
    ends = {round(bar.get_ydata()[0], 2): list(bar.get_xdata()) for bar in bars[1:]}
    error = 2 * math.sqrt(0.01 + 0.01)
    assert ends[1 - 0.2] == pytest.approx([0.3 - error, 0.3 + error])
    assert 4 - 0.2 not in ends  # one seed has no error
    assert absolute.get_yticklabels()[5].get_text() == "wrong (INVALID)"
    # An invalid bound does not set the axis: -50 lies beyond -80.
    assert absolute.get_xlim()[1] < -75
    arrows = [line for line in absolute.lines if line.get_marker() == ">"]
    assert [line.get_ydata()[0] for line in arrows] == [5.2, 4.8]
    assert [text.get_text() for text in absolute.texts] == ["-51", "-50"]
    texts = [text.get_text() for text in fig.legends[0].get_texts()]
    assert {"ahead of mean_field", "behind mean_field", "invalid: no bound"} < {*texts}
    assert not any("published" in text for text in texts)


def test_the_papers_figures_are_drawn_where_they_are_known():
    known = {"published": -88.5, "published_elbo": {"train": -80.0, "test": -89.5}}
    results = {"iaf": scores(-90, **known), "planar": scores(-91)}
    fig = plots.plot_scores({"digits": results})
    diamonds = [line for line in fig.axes[0].lines if line.get_marker() == "D"]
    assert [list(d.get_xdata()) for d in diamonds] == [[-89.5], [-88.5]]
    assert all(list(d.get_ydata()) == [0] for d in diamonds)
    texts = [text.get_text() for text in fig.legends[0].get_texts()]
    assert sum("published" in text for text in texts) == 2


def test_what_the_paper_has_far_from_ours_does_not_set_the_axis():
    """Ours are -91 to -88: within as much again is on the axis."""
    near, far = {"published": -86.0}, {"published_elbo": {"test": -200.0}}
    invalid = scores(-89.2, is_bound=False)
    results = {"iaf": scores(-88, **near), "maf": scores(-90, **far), "bad": invalid}
    (ax,) = plots.plot_scores({"digits": results}).axes
    low, high = ax.get_xlim()
    assert -94 < low < -91
    assert -86 < high < -85
    markers = {line.get_marker(): line.get_xdata()[0] for line in ax.lines}
    assert (markers["D"], markers["<"]) == (-86.0, low)
    assert [text.get_text() for text in ax.texts] == ["-200"]
    assert "x" in markers  # within the axis an invalid bound is a cross
    only = {"bad": scores(-50, -40, is_bound=False)}
    (ax,) = plots.plot_scores({"digits": only}).axes
    assert ax.get_xlim()[0] < -51
    assert ax.get_xlim()[1] > -40


def test_what_is_not_finite_is_not_drawn():
    """JSON has null for it."""
    null = {"elbo": -91.0, "log_likelihood": None}
    results = {"mean_field": scores(-90, -91), "iaf": [*scores(-88), null]}
    fig = plots.plot_scores({"digits": results}, reference="mean_field")
    absolute, relative = fig.axes
    drawn = {xs for (xs, ys) in points(absolute) if ys[0] == 1}
    assert drawn == {(-89, -91), (-88,)}
    texts = [text.get_text() for text in fig.legends[0].get_texts()]
    assert "too few seeds: no verdict" in texts
    assert all(math.isfinite(x) for x in (*absolute.get_xlim(), *relative.get_xlim()))
    lost = [{"elbo": None, "log_likelihood": None}]
    assert plots.plot_scores({"digits": {"iaf": lost}}).axes[0].get_xlim()[0] < 0


def test_a_sweep_is_drawn_over_its_numbers():
    def runs(*values):
        return [{"elbo": v - 4, "log_likelihood": v} for v in values]

    lines = {
        "mean_field": {20: runs(-90.0), 2: runs(-99.0, -97.0)},
        "iaf": {2: runs(-97.0)},
    }
    fig = plots.plot_sweep(lines, "latent_dim", title="digits")
    (ax,) = fig.axes
    assert ax.get_xscale() == "log"  # they span a decade
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "20"]
    drawn = [line.get_xydata().tolist() for line in ax.lines]
    assert [[2, -102], [20, -94]] in drawn  # sorted, seeds averaged
    assert [[2, -98], [20, -90]] in drawn
    assert [[2, -100.0], [2, -96.0]] in drawn  # -98 and two standard errors of 1
    (legend,) = fig.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[0] == "ELBO"
    assert names[2:] == ["mean_field", "iaf"]
    linear = plots.plot_sweep({"iaf": {0: runs(-1.0), 5: runs(-2.0)}}, "beta").axes[0]
    assert linear.get_xscale() == "linear"
    from_zero = {0: runs(-1.0), 1e-4: runs(-2.0), 1: runs(-3.0)}
    (ax,) = plots.plot_sweep({"iaf": from_zero}, "weight_decay").axes
    assert ax.get_xscale() == "symlog"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "0.0001", "1"]
    for nothing in ({}, {"iaf": {}}):
        with pytest.raises(UserError, match="at least one line"):
            plots.plot_sweep(nothing, "beta")


@pytest.mark.parametrize("name", ["iaf", "sylvester_triangular-num_flows=1-lr=0.001"])
def test_the_legend_of_a_sweep_is_within_its_figure(name):
    runs = [{"elbo": -94.0, "log_likelihood": -90.0}]
    lines = {f"{name}-{i}": {2: runs, 8: runs} for i in range(20)}
    fig = plots.plot_sweep(lines, "latent_dim", title="digits")
    fig.draw_without_rendering()
    legend, whole = fig.legends[0].get_window_extent(), fig.bbox
    assert whole.x0 <= legend.x0 < legend.x1 <= whole.x1
    assert whole.y0 <= legend.y0 < legend.y1 <= whole.y1
    assert fig.axes[0].get_window_extent().height > 200  # pixels of a hundredth inch
