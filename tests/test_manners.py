"""Results at a prompt and in a notebook: short, escaped, to a frame, to a figure."""

import sys
from html.parser import HTMLParser
from math import nan

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from pairs import small

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.display import Summary
from pyro_vae_zoo.plots import plot_result

pandas = pytest.importorskip("pandas")

N = 30
HOSTILE = "</table><script>alert(1)</script>"


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.double)


def errors():
    return numbers(N).abs()


def history():
    keys = ("train_elbo", "valid_elbo", "kl", "reconstruction", "lr", "kl_weight")
    records = [
        {"epoch": e, "phase": "train", **dict.fromkeys(keys, -100 / e), "seconds": 0.1}
        for e in range(1, 201)
    ]
    records[3]["valid_elbo"] = None  # in JSON, what is not finite
    return zoo.History(records, best_epoch=150, weights="best", stopped_early=True)


def log_likelihood():
    khat = errors()
    khat[:2] = torch.tensor([torch.inf, nan])
    return zoo.LogLikelihood(numbers(N), errors(), 10 * errors(), khat, 100, 0.1)


def evaluation():
    return zoo.evaluate(small("gated_dag"), torch.zeros(N, 2, 3), 30)


def covariances():
    steps = tuple(f"z_{k}" for k in range(12))  # of a flow of many
    covariance = torch.eye(3, dtype=torch.double).expand(12, N, 3, 3) + 0.1
    return zoo.PosteriorCovariances(steps, covariance, 50)


def curve():
    sizes = tuple(d * 10**p for p in range(6) for d in (1, 2, 5))
    row = tuple(-90 + 0.1 * k for k in range(len(sizes)))
    return zoo.ParticleCurve(sizes, row, row, (0.1,) * len(sizes), N)


# A result of each kind, and the rows of its frame.
RESULTS = {
    "history": (history, 200),
    "log_likelihood": (log_likelihood, N),
    "evaluation": (evaluation, 1),
    "gaps": (
        lambda: zoo.InferenceGaps(
            numbers(N), errors(), numbers(N), errors(), numbers(N), 100, 10
        ),
        N,
    ),
    "annealed": (
        lambda: zoo.AnnealedLikelihood(
            numbers(N), errors(), errors(), errors(), 16, 1000, 10
        ),
        N,
    ),
    "bidirectional": (
        lambda: zoo.BidirectionalBounds(
            numbers(N), numbers(N) + 3, numbers(N, 28, 28), errors(), 16, 1000, 10
        ),
        N,
    ),
    "curve": (curve, 18),
    "covariances": (covariances, 12 * N),
    "probe": (
        lambda: zoo.Probe(torch.eye(9).long() + 1, 0.1, "a guess", (*"abcdefghi",), 9),
        9,
    ),
}


class Tags(HTMLParser):
    """Opens and closes tags; none may stay open, or be closed that is not."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)
        assert not any(
            "#" in value or "rgb" in value for _, value in attrs
        )  # no colours

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags(html):
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    return parser.seen


@pytest.fixture(params=RESULTS)
def result(request):
    make, rows = RESULTS[request.param]
    return make(), rows


def test_a_result_is_a_few_lines(result):
    lines = repr(result[0]).splitlines()
    assert lines[0].startswith(type(result[0]).__name__)
    assert 2 <= len(lines) <= 12
    assert max(map(len, lines)) <= 80
    assert "tensor" not in repr(result[0])


def test_a_result_is_a_table_in_a_notebook(result):
    seen = tags(result[0]._repr_html_())
    assert seen[0] == "table"
    assert set(seen) == {"table", "caption", "tbody", "tr", "th", "td"}


def test_a_result_is_a_frame(result):
    found, rows = result
    assert len(found.to_frame()) == rows


def test_a_result_is_a_figure(result):
    figure = result[0].plot(title="digits")
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    assert plt.get_fignums() == []  # none that a notebook would show again
    if isinstance(result[0], zoo.LogLikelihood):  # all are made alike
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_frame_has_the_numbers():
    ll = log_likelihood()
    assert ll.to_frame()["log_prob"].tolist() == ll.log_prob.tolist()
    frame = history().to_frame()
    assert frame.index.name == "epoch"
    assert frame["kl"][200] == -0.5
    assert frame["valid_elbo"].isna().sum() == 1


def test_without_pandas_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(zoo.UserError, match=r'pip install "pyro_vae_zoo\[data\]"'):
        log_likelihood().to_frame()


def test_texts_are_escaped():
    seen = tags(Summary(HOSTILE, [(HOSTILE, HOSTILE, HOSTILE)], (HOSTILE,) * 2).html())
    assert "script" not in seen


def test_a_training_of_no_epochs_has_words():
    assert repr(zoo.History()).startswith("History of 0 epochs")
    assert len(zoo.History().to_frame()) == 0


def test_what_has_no_figure_is_named():
    with pytest.raises(zoo.UserError, match="that has a figure, got dict"):
        plot_result({})


def test_a_pair_and_its_data_are_a_line():
    data = zoo.load_dataset("digits_binary")
    vae = zoo.create("iaf", data, latent_dim=8)
    count = sum(p.numel() for p in vae.parameters())
    assert repr(vae) == f"VAE('iaf', (8, 8), 'bernoulli', {count:,} parameters)"
    own = zoo.VAE(small("iaf").model, torch.nn.Linear(2, 2), (2, 3))
    assert repr(own).startswith("VAE('PyroLinear', (2, 3)")
    assert len(repr(data).splitlines()) <= 2
