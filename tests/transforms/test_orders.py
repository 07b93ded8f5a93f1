"""Orders and halves: every coordinate is moved, and what was saved stays what it was."""

import json

import pyro.distributions as dist
import pytest
import torch
from pairs import perturb, small
from safetensors import safe_open
from safetensors.torch import save_file
from torch.func import jacrev, vmap

import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.flow_guides import FLOWS
from pyro_vae_zoo.models.mixture import masked_autoregressive

DIM = 4
PLACED = ("iaf", "spline_coupling")  # bijectors whose coordinates have places
FLOW_OF = {name: name for name in FLOWS} | {"masked": masked_autoregressive}


def jacobian(map_, batch=6):
    """Of a map of vectors, at random places: the largest size of each derivative."""
    x = torch.randn(batch, DIM, generator=torch.Generator().manual_seed(3)).double()
    return vmap(jacrev(map_))(x).abs().amax(0)


def mixes(matrix):
    """Which coordinates of the result depend on more than one coordinate."""
    return ((matrix > 1e-9).sum(-1) > 1).tolist()


def moved(map_):
    """Which coordinates a map changes at all."""
    x = torch.randn(6, DIM, generator=torch.Generator().manual_seed(3)).double()
    return ((map_(x) - x).abs().amax(0) > 1e-9).tolist()


def composed(steps):
    return dist.transforms.ComposeTransform(list(steps))


@pytest.mark.parametrize("flow", FLOW_OF)
@pytest.mark.parametrize("num_flows", [2, 3])
def test_every_flow_moves_and_mixes_every_coordinate(flow, num_flows):
    torch.manual_seed(0)
    posterior = zoo.AmortizedFlow(3, DIM, FLOW_OF[flow], num_flows).double()
    perturb(posterior)
    h = torch.randn(3).double()
    map_ = composed(f.condition(h) for f in posterior.flows)
    assert all(moved(map_))
    assert all(mixes(jacobian(map_)))


def test_every_flow_for_densities_does_too():
    torch.manual_seed(0)
    maf = zoo.create(
        "maf", event_shape=(DIM,), likelihood="gaussian", num_flows=2,
        flow_hidden_dims=(8,),
    ).double()  # fmt: skip
    perturb(maf)
    assert all(mixes(jacobian(composed(f.inv for f in reversed(maf.model.flows)))))
    pair = small(
        "self_reflective_maf", (2, DIM), num_layers=2, latent_dim=DIM, num_flows=2
    ).double()
    perturb(pair)
    z, x = torch.randn(DIM).double(), torch.randn(DIM).double()
    for l, layer in enumerate(pair.model.data_layers):
        steps = layer(z, x if l else None).transforms
        assert all(mixes(jacobian(composed(f.inv for f in reversed(steps)))))
    for l, bijector in enumerate(pair.model.bijectors.layers):
        assert all(moved(bijector(z if l else None)))


def test_every_node_of_a_graph_does_too():
    torch.manual_seed(0)
    dag = small("gated_dag_iaf", num_nodes=2, latent_dim=DIM, num_flows=2).double()
    perturb(dag)
    for node in dag.guide.nodes:
        map_ = composed(f.condition(torch.randn(DIM).double()) for f in node.flow)
        assert all(moved(map_))
        assert all(mixes(jacobian(map_)))


def hierarchy(guide="self_reflective", seed=0, **options):
    torch.manual_seed(seed)
    options = {"num_layers": 4, "latent_dim": DIM} | options
    vae = small(guide, (4, 4), **options).double()
    perturb(vae, 0.5)
    return vae


def bijectors(vae):
    """The maps of the layers, at some z above them."""
    z = 0.3 * torch.arange(DIM).double()
    layers = vae.model.bijectors.layers
    return [f(z if l else None) for l, f in enumerate(layers)]


@pytest.mark.parametrize("num_flows", [1, 2, 3])
@pytest.mark.parametrize("kind", PLACED)
@pytest.mark.parametrize("guide", ["self_reflective", "bottom_up"])
def test_layers_take_turns(guide, kind, num_flows):
    """Of two layers, one after the other, one moves and mixes what the other may not."""
    vae = hierarchy(guide, bijector=kind, num_flows=num_flows)
    maps = bijectors(vae)
    for above, below in zip(maps, maps[1:], strict=False):
        for of in (moved, lambda map_: mixes(jacobian(map_))):
            pairs = zip(of(above), of(below), strict=True)
            assert all(a or b for a, b in pairs)
            assert num_flows == 1 or all(of(below))


@pytest.mark.parametrize("num_flows", [1, 2, 3])
def test_a_layer_begins_with_what_the_one_above_did_not_end_with(num_flows):
    """By the coordinate that depends on itself alone in the first or the last step."""
    vae = hierarchy(bijector="iaf", num_flows=num_flows, prior="standard")
    orders = []
    for bijector in vae.model.bijectors.layers:
        for step in bijector.steps:
            order = step.nn.permutation.tolist()
            orders.append(order[::-1] if bijector.is_turned else order)
    natural = list(range(DIM))
    assert orders == [natural, natural[::-1]] * (2 * num_flows)


@pytest.mark.parametrize("kind", PLACED)
def test_inverse_and_log_determinant_are_those_of_the_map(kind):
    for map_ in bijectors(hierarchy(bijector=kind)):
        eps = torch.randn(6, DIM).double()
        z = map_(eps)
        torch.testing.assert_close(map_.inv(z.clone()), eps)
        expected = torch.linalg.slogdet(vmap(jacrev(map_))(eps))[1]
        torch.testing.assert_close(map_.log_abs_det_jacobian(eps, z), expected)


# --------------------------------------------------- what version 0.1.0 has saved


def of_version_0_1_0(vae):
    """Its state, as that version wrote it."""
    state = vae.state_dict()
    known = {name: t for name, t in state.items() if not name.endswith(".turned")}
    assert len(known) < len(state)
    return known


def one_order(vae, eps):
    """z_l of a pair whose layers all have the order that their steps have."""
    z, found = None, []
    for bijector, e in zip(vae.model.bijectors.layers, eps, strict=True):
        context = bijector.net(z)
        z = composed(s.condition(context) for s in bijector.steps)(e)
        found.append(z)
    return torch.stack(found)


def now(vae, eps):
    z, found = None, []
    for bijector, e in zip(vae.model.bijectors.layers, eps, strict=True):
        z = bijector(z)(e)
        found.append(z)
    return torch.stack(found)


@pytest.mark.parametrize("guide", ["self_reflective", "bottom_up"])
@pytest.mark.parametrize("kind", PLACED)
def test_a_state_of_version_0_1_0_keeps_its_one_order(guide, kind):
    """Loaded, saved again and loaded once more."""
    old = of_version_0_1_0(hierarchy(guide, bijector=kind))
    vae = hierarchy(guide, bijector=kind, seed=1)
    eps = torch.randn(4, 5, DIM).double()
    assert not torch.equal(now(vae, eps), one_order(vae, eps))
    vae.load_state_dict(old)
    assert torch.equal(now(vae, eps), one_order(vae, eps))
    again = hierarchy(guide, bijector=kind, seed=2)
    again.load_state_dict(vae.state_dict())
    assert torch.equal(now(again, eps), one_order(vae, eps))


def test_a_state_of_this_version_keeps_its_orders():
    vae, other = (hierarchy(bijector="iaf", seed=s) for s in (0, 1))
    eps = torch.randn(4, 5, DIM).double()
    other.load_state_dict(vae.state_dict())
    assert torch.equal(now(other, eps), now(vae, eps))
    assert not torch.equal(now(vae, eps), one_order(vae, eps))
    # What is not loaded is not touched.
    other.guide.posteriors.load_state_dict(vae.guide.posteriors.state_dict())
    other.load_state_dict({}, strict=False)
    assert torch.equal(now(other, eps), now(vae, eps))


def test_a_file_of_version_0_1_0_keeps_its_numbers(tmp_path):
    vae = hierarchy("self_reflective_iaf").float()
    zoo.save(vae, tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        metadata = file.metadata()
        names = [name for name in file.keys() if not name.endswith(".turned")]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    assert any("turned" not in json.dumps(v) for v in metadata.values())
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    new, old = (zoo.load(tmp_path / f"{n}.safetensors") for n in ("new", "old"))
    eps = torch.randn(4, 5, DIM)
    assert torch.equal(now(new, eps), now(vae, eps))
    assert torch.equal(now(old, eps), one_order(vae, eps))
    x = torch.rand(5, 4, 4).bernoulli()
    values = []
    for pair in (new, old):
        torch.manual_seed(0)
        values.append(zoo.log_likelihood(pair, x, 20).log_prob)
    assert not torch.equal(*values)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_training_of_version_0_1_0_goes_on(keep, tmp_path):
    """From its checkpoint, which holds the weights twice, to the end."""
    data = zoo.load_dataset("digits_binary").first(60)

    def make():
        torch.manual_seed(0)
        return small("self_reflective_iaf", (8, 8), latent_dim=DIM)

    options = dict(
        out=tmp_path, keep=keep, schedule="constant", progress=False, device="cpu"
    )
    zoo.fit(make(), data, epochs=1, **options)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    stripped = 0
    for of in ("vae", "best"):
        names = [n for n in state[of] or () if n.endswith(".turned")]
        stripped += len(names)
        for name in names:
            del state[of][name]
    assert stripped >= 2
    torch.save(state, path)
    vae = make()
    zoo.fit(vae, data, epochs=2, resume=True, **options)
    eps = torch.randn(3, 5, DIM)
    assert torch.equal(now(vae, eps), one_order(vae, eps))
    # It says so itself from now on.
    state = torch.load(path, weights_only=True)
    assert not any(t for n, t in state["vae"].items() if n.endswith(".turned"))
    again = make()
    zoo.fit(again, data, epochs=3, resume=True, **options)
    assert not any(f.is_turned for f in again.model.bijectors.layers)


def test_the_pretrained_hierarchy_has_one_order():
    vae = zoo.load("self_reflective_iaf-mnist_dynamic")
    layers = vae.model.bijectors.layers
    assert [l.turned is not None for l in layers] == [False, True, False, True, False]
    eps = torch.randn(len(layers), 3, layers[0].steps[0].nn.input_dim)
    assert torch.equal(now(vae, eps), one_order(vae, eps))


def test_affine_layers_and_even_numbers_of_steps_have_the_state_they_had():
    for options in ({}, {"bijector": "iaf", "num_flows": 2}):
        assert not any("turned" in name for name in hierarchy(**options).state_dict())
