"""Which library multiplies: what may be exchanged, and that numbers stay what they are."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae_zoo.inference import matmul as products
from pyro_vae_zoo.inference.matmul import choose_products, onednn_is_there
from pyro_vae_zoo.inference.tracing import Inductor

pytestmark = pytest.mark.skipif(not onednn_is_there(), reason="PyTorch without oneDNN")
SHAPES = {  # of left, right; large enough to be worth a look
    "200x160x240 nn": ((200, 160), (160, 240)),
    "200x160x240 tn": ((160, 200), (160, 240)),
    "200x160x240 nt": ((200, 160), (240, 160)),
    "200x160x240 tt": ((160, 200), (240, 160)),
}


def product(kind, bias=False):
    """A product of that kind, and what it is called with."""
    left, right = (torch.randn(shape) for shape in SHAPES[kind])
    turned = [layout == "t" for layout in kind[-2:]]

    def multiply(left, right, *bias):
        left, right = (
            x.t() if t else x for x, t in zip((left, right), turned, strict=True)
        )
        return torch.addmm(*bias, left, right) if bias else left @ right

    inputs = [left, right, *([torch.randn(240)] if bias else [])]
    return make_fx(multiply, tracing_mode="fake")(*inputs), inputs


def onednn(*_):
    return "onednn"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", SHAPES)
def test_both_libraries_give_the_same(kind, bias):
    graph, inputs = product(kind, bias)
    expected = graph(*inputs)
    known = {}
    choose_products(graph, known, measure=onednn)
    assert known == {kind: "onednn"}
    assert "onednn_mm" in graph.code
    torch.testing.assert_close(graph(*inputs), expected, rtol=1e-5, atol=1e-4)


def test_a_compiled_graph_holds_it():
    graph, inputs = product("200x160x240 nt", bias=True)
    expected = graph(*inputs)
    run = Inductor({"200x160x240 nt": "onednn"})(graph, inputs)
    assert "onednn_mm" in graph.code
    torch.testing.assert_close(run(*inputs), expected, rtol=1e-5, atol=1e-4)


def test_what_was_chosen_is_not_measured_again():
    def never(*_):
        raise AssertionError("measured")

    graph, _ = product("200x160x240 nn")
    before = graph.code
    choose_products(graph, {"200x160x240 nn": "blas"}, measure=never)
    assert graph.code == before


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.randn(20, 16), torch.randn(16, 24)),  # nothing to gain
        (torch.randn(200, 160).double(), torch.randn(160, 240).double()),
        (torch.randn(200, 320)[:, ::2], torch.randn(160, 240)),
        (torch.randn(3, 200, 160), torch.randn(3, 160, 240)),
    ],
    ids=["small", "float64", "with gaps", "batched"],
)
def test_other_products_are_left_alone(inputs):
    graph = make_fx(torch.matmul, tracing_mode="fake")(*inputs)
    known, before = {}, graph.code
    choose_products(graph, known, measure=onednn)
    assert known == {}
    assert graph.code == before


@pytest.mark.parametrize(
    ("blas", "onednn", "choice"),
    [(1, 2, "blas"), (2, 1, "onednn"), (1, 1, "blas"), (1.04, 1, "blas")],
)
def test_the_clock_decides(monkeypatch, blas, onednn, choice):
    """In a tie, or what may be noise, nothing changes."""
    now = 0.0

    def take(seconds):
        nonlocal now
        now += seconds

    class Matrix:
        def __matmul__(self, other):
            take(blas)

    monkeypatch.setattr(products.time, "perf_counter", lambda: now)
    monkeypatch.setattr(products, "_operator", lambda: lambda *_: take(onednn))
    assert products._faster(Matrix(), Matrix(), None) == choice


def test_the_choice_leaves_the_random_state_alone():
    graph, _ = product("200x160x240 nn")
    before, known = torch.get_rng_state(), {}
    choose_products(graph, known)
    assert set(known.values()) <= {"blas", "onednn"}
    assert len(known) == 1
    assert torch.equal(torch.get_rng_state(), before)
