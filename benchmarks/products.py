"""The matrix products of a training step, alone: floors of what a step can take."""

from functools import partial

import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.inference.compiled import CompiledELBO

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default: torch.mm,
    aten.addmm.default: torch.mm,  # adding the bias is no part of the floor
    aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.bmm,
}


def torchs(product, a, b, out):
    """The product by PyTorch's own library."""
    return partial(product, a, b, out=out)


def onednns(product, a, b, out):
    """The product by oneDNN, which has no batched ones here."""
    if product is torch.bmm or not torch.backends.mkldnn.is_available():
        return partial(product, a, b, out=out)
    linear = torch.ops.mkldnn._linear_pointwise
    return partial(linear, a, b.t(), None, "none", [], "")


def bfloat16s(product, a, b, out):
    """The product in bfloat16, its factors cast before."""
    if out.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise NotImplementedError("this processor has no bfloat16")
    a, b, out = (t.to(torch.bfloat16) for t in (a, b, out))
    return partial(product, a, b, out=out)


def products(vae, x, by):
    """All products of a step, of random numbers with its shapes and strides."""
    graphs = []
    keep = lambda graph, inputs: graphs.append(graph) or graph  # noqa: E731
    CompiledELBO(zoo.AnnealedELBO(), compiler=keep)(vae.model, vae.guide)(x)
    graph = graphs[0].graph
    graph.eliminate_dead_code()
    calls = []
    for node in graph.nodes:
        if node.target in PRODUCTS:
            places = (*node.args[-2:], node)
            tensors = [random_like(place.meta["val"]) for place in places]
            calls.append(by(PRODUCTS[node.target], *tensors))
    return calls


def random_like(fake):
    """Random numbers with the shape and the strides of a tensor without values."""
    steps = zip(fake.shape, fake.stride(), strict=True)
    length = 1 + sum((size - 1) * stride for size, stride in steps)
    return torch.randn(length, device=fake.device).as_strided(fake.shape, fake.stride())


@torch.no_grad()
def floor(by, vae, data, epochs):
    """The products of each step of the epochs."""
    with torch.enable_grad():
        calls = products(vae, data[: epochs.batch_size], by)
    for order in epochs:
        for _ in order:
            for call in calls:
                call()


def floors():
    """The floors by name, each a contestant that trains nothing."""
    by = {"products": torchs, "oneDNN": onednns, "bf16": bfloat16s}
    return {name: partial(floor, library) for name, library in by.items()}
