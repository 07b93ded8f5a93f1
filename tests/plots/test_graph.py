"""Graphs of gated nodes: each gate's line and arrow show what was recorded of it."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from pairs import small

import pyro_vae_zoo as zoo
from pyro_vae_zoo import plots
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.plots.run import draw
from pyro_vae_zoo.plots.style import COLOURS
from pyro_vae_zoo.runs import folder as run_folder
from pyro_vae_zoo.runs import run as runs
from pyro_vae_zoo.training.options import TrainOptions

OPTIONS = {
    "num_nodes": 3,
    "latent_dim": 2,
    "hidden_dims": (16,),
    "node_hidden_dims": (8,),
}
SOFT = {"z_3->z_2": 0.8, "z_3->z_1": 0.45, "z_2->z_1": 0.55}
HARD = {"z_3->z_2": 1.0, "z_3->z_1": 0.0, "z_2->z_1": 1.0}


def edges_of(count):
    nodes = range(count, 0, -1)
    return [f"z_{i}->z_{n}" for n in nodes for i in nodes if i > n]


def records(edges, learned=3, frozen=2):
    """Probabilities that differ by edge and epoch, then 0 and 1 in turn."""
    steps = range(1, learned + frozen + 1)
    p = lambda e, i: (i + e / len(edges)) / 10 if i <= learned else float(e % 2)
    return [
        {
            "epoch": i,
            "phase": "structure" if i <= learned else "retrain",
            "gates": {edge: p(e, i) for e, edge in enumerate(edges)},
        }
        for i in steps
    ]


def gate_lines(ax):
    """Without those between phases."""
    return [line for line in ax.lines if not is_border(line)]


def is_border(line):
    return len(line.get_xdata()) == 2 and len(set(line.get_xdata())) == 1


def is_solid(patch):
    return patch.get_linestyle() in ("-", "solid")


def arrows(fig):
    found = [p for p in fig.axes[0].patches if isinstance(p, FancyArrowPatch)]
    return {p.get_label(): p for p in found if p.get_label() != "decoder"}


def curve(arrow):
    """Points along an arrow without its head: a cubic Bezier curve, or a line of one."""
    t = np.linspace(0, 1, 101)[:, None]
    a, b, c, d = arrow.get_path().vertices[:4]
    return (
        (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
    )


def circles(fig):
    """The nodes' centres, x among them, by the name that is written there."""
    (ax,) = fig.axes
    names = {t.get_position(): t.get_text() for t in ax.texts}
    return {names[p.center]: p.center for p in ax.patches if isinstance(p, Circle)}


def notes(fig):
    return [t.get_text() for t in fig.axes[0].texts if "$" not in t.get_text()]


def symbol(node):
    return "$z_{" + node[2:] + "}$"


@pytest.fixture(scope="module")
def trained():
    data = zoo.load_dataset("digits_binary")
    torch.manual_seed(0)
    vae = zoo.create("gated_dag", data, **OPTIONS)
    history = zoo.fit(vae, data, epochs=4, device="cpu", progress=False)
    return vae, data, history


# -------------------------------------------------------------------------- gates


def test_gates_are_the_records_one_line_before_and_one_after_freezing():
    edges = edges_of(3)
    rs = records(edges)
    fig = plots.plot_gates(rs, title="gated_dag, N = 3")
    assert fig.get_suptitle() == "gated_dag, N = 3"
    (ax,) = fig.axes
    expected = [
        [(r["epoch"], r["gates"][edge]) for r in phase]
        for edge in edges
        for phase in (rs[:3], rs[3:])
    ]
    for line, points in zip(gate_lines(ax), expected, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), points)
    assert ax.get_ylabel() == "probability of an open gate"
    low, high = ax.get_ylim()
    assert -0.1 < low < 0 < 1 < high < 1.1
    (border,) = filter(is_border, ax.lines)
    assert border.get_xdata()[0] == 3.5
    assert [t.get_text() for t in ax.texts] == [" retrain"]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_no_two_gates_look_alike_and_the_legend_names_them(count, tmp_path):
    edges = edges_of(count)
    fig = plots.plot_gates(records(edges, frozen=0))
    (ax,) = fig.axes
    lines, keys = gate_lines(ax), ax.get_legend().get_lines()
    look = lambda line: (line.get_color(), line.get_linestyle(), line.get_linewidth())
    assert len({look(line) for line in lines}) == len(edges) == len(lines)
    assert [look(line) for line in lines] == [look(key) for key in keys]
    for edge, line, text in zip(edges, lines, ax.get_legend().get_texts(), strict=True):
        parent, child = edge.split("->")
        assert text.get_text() == rf"{symbol(parent)} $\to$ {symbol(child)}"
        assert same_color(line.get_color(), COLOURS[count - int(child[2:]) - 1])
    plots.save_figure(fig, tmp_path / "gates.png")
    frame = ax.get_legend().get_window_extent()
    assert frame.x1 <= fig.bbox.x1
    assert frame.y0 >= fig.bbox.y0
    assert frame.x0 >= ax.get_window_extent().x1


def test_an_epoch_alone_is_seen(tmp_path):
    fig = plots.plot_gates(records(edges_of(2), learned=1, frozen=30))
    first, second = fig.axes[0].lines[:2]
    assert (first.get_marker(), second.get_marker()) == (".", "None")
    plots.save_figure(plots.plot_gates(records(edges_of(2), 1, 0)), tmp_path / "1.png")


def test_gates_need_records_that_have_some():
    with pytest.raises(UserError, match="no epochs to draw"):
        plots.plot_gates([])
    for rest in ({}, {"gates": {}}):
        with pytest.raises(UserError, match="expected records with gates"):
            plots.plot_gates([{"epoch": 1, "train_elbo": -90.0} | rest])


# -------------------------------------------------------------------------- graph


def test_open_edges_are_solid_and_as_wide_as_likely():
    fig = plots.plot_graph(SOFT, title="gated_dag, N = 3")
    assert fig.get_suptitle() == "gated_dag, N = 3"
    found = arrows(fig)
    assert list(found) == list(SOFT)
    solid = [edge for edge, arrow in found.items() if is_solid(arrow)]
    assert solid == ["z_3->z_2", "z_2->z_1"]
    closed, unsure, sure = (
        found[e].get_linewidth() for e in sorted(SOFT, key=SOFT.get)
    )
    assert closed < unsure < sure
    assert same_color(found["z_3->z_2"].get_edgecolor(), COLOURS[0])
    assert same_color(found["z_2->z_1"].get_edgecolor(), COLOURS[1])
    texts = [t.get_text() for t in fig.legends[0].get_texts()]
    assert texts == ["open", "closed", "decoder: from all nodes"]


def test_probabilities_stand_on_the_edges_that_are_not_frozen():
    assert notes(plots.plot_graph(SOFT)) == ["0.80", "0.45", "0.55"]
    assert notes(plots.plot_graph(HARD)) == []
    fig = plots.plot_graph(HARD | {"z_3->z_1": 0.25})
    assert notes(fig) == ["0.25"]
    place = np.array(fig.axes[0].texts[-1].get_position())
    on_edge = np.linalg.norm(curve(arrows(fig)["z_3->z_1"]) - place, axis=1).min()
    assert on_edge < 0.02
    assert place[1] == -1  # halfway


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_arrows_run_from_parent_to_child_around_all_others(count, tmp_path):
    edges = edges_of(count)
    fig = plots.plot_graph(dict.fromkeys(edges, 0.7))
    plots.save_figure(fig, tmp_path / "graph.png")
    nodes, radius = circles(fig), plots.graph._RADIUS
    order = [symbol(f"z_{n}") for n in range(count, 0, -1)] + ["$x$"]
    assert sorted(nodes, key=lambda n: -nodes[n][1]) == order
    assert list(arrows(fig)) == edges
    for edge, arrow in arrows(fig).items():
        parent, child = (nodes[symbol(n)] for n in edge.split("->"))
        line = curve(arrow)
        assert math.dist(line[0], parent) == pytest.approx(radius)
        assert radius <= math.dist(line[-1], child) < radius + 0.05  # the head's tip
        for node in nodes.values():
            distance = np.linalg.norm(line - node, axis=1).min()
            assert distance > radius * (0.99 if node in (parent, child) else 1.2)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_all_stays_inside_and_no_number_covers_another(count, tmp_path):
    title = "a long title " * 20
    fig = plots.plot_graph(dict.fromkeys(edges_of(count), 0.7), title=title)
    plots.save_figure(fig, tmp_path / "graph.png")
    (ax,) = fig.axes
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    lines = np.concatenate([curve(arrow) for arrow in arrows(fig).values()])
    assert (lines > (left, bottom)).all()
    assert (lines < (right, top)).all()
    boxes = [t.get_window_extent() for t in ax.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_the_decoder_sees_the_band_around_all_nodes():
    fig = plots.plot_graph(HARD)
    (ax,) = fig.axes
    nodes, radius = circles(fig), plots.graph._RADIUS
    (band,) = (p for p in ax.patches if isinstance(p, FancyBboxPatch))
    box = band.get_path().get_extents()
    inside = {n for n, (x, y) in nodes.items() if box.contains(x, y)}
    assert inside == {"$z_{3}$", "$z_{2}$", "$z_{1}$"}
    (arrow,) = (p for p in ax.patches if p.get_label() == "decoder")
    start, end = arrow.get_path().vertices[:2]
    assert start == pytest.approx([0, box.y0])
    assert radius <= math.dist(end, nodes["$x$"]) < radius + 0.05


def test_a_vae_draws_its_gates_as_they_are():
    vae = small("gated_dag", num_nodes=4, structure="chain")
    solid = [e for e, a in arrows(plots.plot_graph(vae)).items() if is_solid(a)]
    assert solid == ["z_4->z_3", "z_3->z_2", "z_2->z_1"]
    learned = small("gated_dag_iaf", num_nodes=3)
    assert notes(plots.plot_graph(learned)) == ["0.50"] * 3


def test_a_single_node_has_no_edges(tmp_path):
    fig = plots.plot_graph(small("gated_dag", num_nodes=1))
    assert set(circles(fig)) == {"$z_{1}$", "$x$"}
    assert arrows(fig) == {}
    texts = [t.get_text() for t in fig.legends[0].get_texts()]
    assert texts == ["decoder: from all nodes"]
    plots.save_figure(fig, tmp_path / "one.png")


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({}, "no edges to draw: expected at least two nodes"),
        ({"z_2": 0.5}, "an edge such as 'z_2->z_1', got 'z_2'"),
        ({"z_2->z_1": 1.0, "z_1->z_2": 1.0}, "circle make no DAG: z_2->z_1, z_1->z_2"),
    ],
)
def test_what_is_no_graph_is_refused(gates, message):
    with pytest.raises(UserError, match=message):
        plots.plot_graph(gates)


def test_pairs_without_gates_have_no_graph():
    with pytest.raises(UserError, match="expected a gated DAG, got iaf, K = 2"):
        plots.plot_graph(small("iaf"))


# ---------------------------------------------------------------------------- runs


def test_a_training_is_drawn(trained, tmp_path):
    vae, data, history = trained
    title = plots.figure_title(vae, data)
    fig = plots.plot_gates(history, title=title)
    values = [list(line.get_ydata()) for line in gate_lines(fig.axes[0])]
    assert values[0] == [history.epochs[0]["gates"]["z_3->z_2"]]  # a quarter of four
    assert 0 < values[0][0] < 1
    assert set(values[1]) <= {0.0, 1.0}
    assert len(values[1]) == 3
    plots.save_figure(fig, tmp_path / "gates.png")
    fig = plots.plot_graph(history.epochs[-1]["gates"], title=title)
    assert notes(fig) == []
    is_open = {e: is_solid(a) for e, a in arrows(fig).items()}
    assert is_open == history.epochs[-1]["gates"]
    plots.save_figure(fig, tmp_path / "graph.png")


def test_runs_of_a_learned_structure_leave_both_pictures(tmp_path):
    data = zoo.load_dataset("digits_binary")
    runs.make_run(
        tmp_path / "run",
        "gated_dag",
        data,
        OPTIONS,
        TrainOptions(epochs=4),
        device="cpu",
        eval_particles=1,
        progress=False,
    )
    for picture in ("gates", "graph"):
        path = tmp_path / "run" / f"{picture}.png"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert picture in run_folder.PICTURES  # which --overwrite removes


@pytest.mark.parametrize(
    ("guide", "options", "drawn"),
    [
        ("gated_dag", {"num_nodes": 3, "structure": "chain"}, {"graph"}),
        ("gated_dag", {"num_nodes": 1}, set()),
        ("mean_field", {}, set()),
    ],
)
def test_runs_draw_what_there_is_of_a_graph(guide, options, drawn, tmp_path):
    vae = small(guide, (8, 8), **options)
    record = {"epoch": 1, "train_elbo": -90.0, "valid_elbo": -91.0}
    record |= vae.monitor(vae) if vae.monitor else {}
    result = {"kl_per_site": {"z_1": 1.0}, "active_units": {"z_1": "1/2"}}
    draw(tmp_path, vae, zoo.load_dataset("digits_binary"), [record], result)
    found = {path.stem for path in tmp_path.iterdir()}
    assert found & {"gates", "graph"} == drawn
    assert "training" in found
