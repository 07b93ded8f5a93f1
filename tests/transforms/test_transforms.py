"""Every transform against autograd, quadrature and its own inverse.

`FLOWS` names each conditional transform that a guide may use, ours and Pyro's;
a flow is checked at *trained-scale* weights, since near its start everything
looks like the identity.
"""

import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions import transforms as pyro_transforms
from torch import nn

import pyro_vae_zoo.transforms as T
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.models.flow_guides import AmortizedFlow

CONTEXT = 3


def iaf(input_dim, context_dim, stable):
    made = T.MADE(input_dim, context_dim, [12])
    return pyro_transforms.ConditionalAffineAutoregressive(made, stable=stable)


def affine_coupling(input_dim, context_dim):
    split = input_dim // 2
    changed = input_dim - split
    net = T.CouplingNet(split, context_dim, [12], (changed, changed))
    return pyro_transforms.ConditionalAffineCoupling(split, net)


def pyro_radial(input_dim, context_dim):
    head = T.Head(context_dim, [(input_dim,), (1,), (1,)], [0.0, 0.0, 0.0])
    return pyro_transforms.ConditionalRadial(head)


FLOWS = {
    "planar": T.conditional_planar,
    "radial": T.conditional_radial,
    "householder": lambda d, c: T.conditional_householder(d, c, 3),
    "householder_own": lambda d, c: T.conditional_householder(d, c, 3, chained=False),
    "sylvester_orthogonal": lambda d, c: T.conditional_sylvester(
        d, c, num_ortho_vecs=min(d, 3)
    ),
    "sylvester_householder": lambda d, c: T.conditional_sylvester(d, c, "householder"),
    "sylvester_triangular": lambda d, c: T.conditional_sylvester(d, c, "triangular"),
    "sylvester_reversed": lambda d, c: T.conditional_sylvester(
        d, c, "triangular", reverse=True
    ),
    "neural_autoregressive": lambda d, c: T.conditional_neural_autoregressive(
        d, c, [12], width=4
    ),
    "spline_coupling": lambda d, c: T.conditional_spline_coupling(d, c, [12]),
    "rank_one_affine": T.conditional_rank_one_affine,
    "masked_autoregressive": lambda d, c: T.conditional_masked_autoregressive(
        d, c, [12], torch.arange(d).flip(0), "elu"
    ),
    "pyro_iaf": lambda d, c: iaf(d, c, stable=True),
    "pyro_affine_autoregressive": lambda d, c: iaf(d, c, stable=False),
    "pyro_affine_coupling": affine_coupling,
    "pyro_radial": pyro_radial,
}
PLAIN = {
    "planar": T.planar,
    "radial": T.radial,
    "householder": lambda d: T.householder(d, 3),
    "sylvester_orthogonal": T.sylvester,
    "sylvester_householder": lambda d: T.sylvester(d, "householder"),
    "sylvester_triangular": lambda d: T.sylvester(d, "triangular", reverse=True),
    "neural_autoregressive": lambda d: T.neural_autoregressive(d, [12], width=4),
    "spline_coupling": lambda d: T.spline_coupling(d, [12]),
    "rank_one_affine": T.rank_one_affine,
    "masked_autoregressive": lambda d: T.masked_autoregressive(d, [12]),
}
COUPLINGS = {"spline_coupling", "pyro_affine_coupling"}  # need two dimensions
REFLECTIONS = {"householder", "householder_own"}  # never near the identity
NO_INVERSE = {"neural_autoregressive", "pyro_radial"} | {
    name for name in FLOWS if name.startswith("sylvester")
}
CASES = [(n, d) for n in FLOWS for d in (1, 2, 5) if d > 1 or n not in COUPLINGS]
PLAIN_CASES = [(n, d) for n in PLAIN for d in (1, 2, 5) if d > 1 or n not in COUPLINGS]
INVERTIBLE = [(n, d) for n, d in CASES if n not in NO_INVERSE]
every_flow = pytest.mark.parametrize(("name", "dim"), CASES)
# For what does not hang on the dimension.
slow = pytest.mark.slow
one_size = pytest.mark.parametrize(
    ("name", "dim"), [c if c[1] == 2 else pytest.param(*c, marks=slow) for c in CASES]
)


def trained(module, dtype=torch.float64, reach=1.0):
    """Moves the weights as far as training does."""
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.3 if parameter.dim() < 2 else parameter.shape[-1] ** -0.5
            parameter.add_(reach * scale * torch.randn_like(parameter))
    return module.to(dtype)


def make(name, dim, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return trained(FLOWS[name](dim, CONTEXT), dtype)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def jacobian(function, x):
    """Returns dy/dx for each row of `x`, of shape (batch, D, D)."""
    rows = torch.autograd.functional.jacobian(lambda x: function(x).sum(0), x)
    return rows.movedim(0, 1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_every_public_transform_is_checked():
    builders = {name for name in T.__all__ if name[0].islower()}
    functions = {"orthonormal_columns", "rational_quadratic_spline"}
    functions |= {"rank_one_parameters"}
    stems = {name.removeprefix("conditional_") for name in builders - functions}
    for stem in stems:
        assert {stem, f"conditional_{stem}"} <= builders
        for table in (FLOWS, PLAIN):
            assert any(name.startswith(stem) for name in table), stem
    assert sorted(T.__all__, key=str.lower) == sorted(set(T.__all__), key=str.lower)
    assert all(hasattr(T, name) for name in T.__all__)


# Log-determinants and inverses.


@every_flow
def test_log_det_equals_that_of_the_autograd_jacobian(name, dim):
    flow, context = make(name, dim), double(4, CONTEXT)
    step = flow.condition(context)
    x = 1.5 * double(4, dim)
    log_det = step.log_abs_det_jacobian(x, step(x))
    expected = torch.linalg.slogdet(jacobian(step, x)).logabsdet
    torch.testing.assert_close(log_det, expected, atol=1e-8, rtol=1e-8)


@one_size
def test_particles_and_unbatched_contexts_broadcast(name, dim):
    flow, context = make(name, dim), double(4, CONTEXT)
    step, x = flow.condition(context), double(6, 4, dim)
    y = step(x)
    log_det = step.log_abs_det_jacobian(x, y)
    assert y.shape == x.shape
    assert log_det.shape == (6, 4)
    for k, i in ((0, 0), (5, 3)):
        single = flow.condition(context[i])
        row = x[k, i]
        torch.testing.assert_close(single(row), y[k, i])
        one = single.log_abs_det_jacobian(row, single(row))
        torch.testing.assert_close(one, log_det[k, i])
        assert one.shape == ()
    lone = flow.condition(context[:1])
    torch.testing.assert_close(lone(x[:, :1]), y[:, :1])


@pytest.mark.parametrize(("name", "dim"), PLAIN_CASES)
def test_plain_form(name, dim):
    flow = trained(PLAIN[name](dim))
    x = double(6, 4, dim)
    y = flow(x)
    log_det = flow.log_abs_det_jacobian(x, y)
    expected = torch.linalg.slogdet(jacobian(flow, x[0])).logabsdet
    torch.testing.assert_close(log_det[0], expected, atol=1e-8, rtol=1e-8)
    (y.square() * torch.rand_like(y) + log_det[..., None]).sum().backward()
    missing = [n for n, p in flow.named_parameters() if p.grad is None]
    assert not missing


@every_flow
def test_cached_inverse_returns_the_very_input(name, dim):
    step, x = make(name, dim).condition(double(4, CONTEXT)), double(4, dim)
    assert step.inv(step(x)) is x


@pytest.mark.parametrize(("name", "dim"), INVERTIBLE)
def test_inverse_of_arbitrary_values(name, dim):
    flow, context = make(name, dim), double(4, CONTEXT)
    x = 2 * double(3, 4, dim)
    forward, backward = flow.condition(context), flow.condition(context)
    y = forward(x)
    again = backward.inv(y)
    assert again is not x
    assert again.dtype == torch.float64
    torch.testing.assert_close(again, x, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(
        backward.log_abs_det_jacobian(again, y),
        forward.log_abs_det_jacobian(x, y),
        atol=1e-8,
        rtol=1e-8,
    )


@pytest.mark.parametrize("name", ["planar", "radial", "spline_coupling", "householder"])
def test_gradients_flow_through_the_inverse(name):
    flow, context = make(name, 2), double(3, CONTEXT).requires_grad_()
    y = double(3, 2).requires_grad_()

    def inverse(y, context):
        step = flow.condition(context)
        x = step.inv(y)
        return x, step.log_abs_det_jacobian(x, y)

    assert torch.autograd.gradcheck(inverse, (y, context))


@pytest.mark.parametrize("name", ["sylvester_orthogonal", "neural_autoregressive"])
def test_a_missing_inverse_says_so(name):
    step = make(name, 2).condition(double(4, CONTEXT))
    with pytest.raises(NotImplementedError, match="no inverse for arbitrary values"):
        step.inv(double(4, 2))


def test_log_det_is_never_stale():
    step = make("planar", 2).condition(double(4, CONTEXT))
    x, other = double(4, 2), double(4, 2)
    y = step(x)
    expected = step.log_abs_det_jacobian(x, y).clone()
    step(other)
    torch.testing.assert_close(step.log_abs_det_jacobian(x, y), expected)
    step.inv(double(4, 2))
    torch.testing.assert_close(step.log_abs_det_jacobian(x, y), expected)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_form_notices_changed_parameters(name):
    flow, x = trained(PLAIN[name](2)), double(4, 2)
    y = flow(x)
    before = flow.log_abs_det_jacobian(x, y)
    trained(flow)
    assert not torch.equal(flow(x), y)
    after = flow.log_abs_det_jacobian(x, flow(x))
    expected = torch.linalg.slogdet(jacobian(flow, x)).logabsdet
    torch.testing.assert_close(after, expected, atol=1e-8, rtol=1e-8)
    assert name == "householder" or not torch.equal(before, after)


@pytest.mark.parametrize("name", PLAIN)
def test_a_fixed_datum_is_scored_anew_after_a_step_that_leaves_no_trace(name):
    """Pyro's ClippedAdam writes to `p.data`, which no counter of versions sees."""
    flow, x = trained(PLAIN[name](2)), double(4, 2)

    def passes():
        results = [flow(x)]
        if name not in NO_INVERSE:
            results.append(flow.inv(x))
        return [r.detach().clone() for r in results]

    before = passes()
    for p in flow.parameters():
        p.data.add_(0.1)
    for old, new in zip(before, passes(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize("name", PLAIN)
def test_copies_are_possible_after_a_step(name, clone):
    for flow in (trained(PLAIN[name](2)), make(name, 2)):
        x = double(4, 2)
        plain = isinstance(flow, T.LearnedTransform)
        step = flow if plain else flow.condition(double(4, CONTEXT))
        step(x).sum().backward()
        copied = clone(flow)
        assert copied.state_dict().keys() == flow.state_dict().keys()
        if plain:
            torch.testing.assert_close(copied(x), flow(x))


@one_size
def test_networks_run_once_per_forward_pass(name, dim):
    flow, calls = make(name, dim), []
    for module in flow.modules():
        if isinstance(module, T.MADE | T.CouplingNet | T.Head):
            module.register_forward_hook(lambda *_: calls.append(1))
        if type(module).__name__ == "ChainedVectors":
            module.register_forward_hook(lambda *_: calls.append(1))
    base = dist.Normal(double(4, dim), 1.0).to_event(1)
    q = dist.TransformedDistribution(base, [flow.condition(double(4, CONTEXT))])
    if name == "masked_autoregressive":  # made to score what it has not drawn
        z = double(5, 4, dim)
    else:
        z = q.rsample((5,))
    assert q.log_prob(z).shape == (5, 4)
    assert len(calls) == 1


# What a context must do, dtypes, and the start of training.


@one_size
def test_every_output_depends_on_the_context(name, dim):
    if name in REFLECTIONS and dim == 1:
        pytest.skip("in one dimension a reflection is -1, whatever its vector")
    flow, x = make(name, dim), double(4, dim)
    slopes = jacobian(lambda c: flow.condition(c)(x), double(4, CONTEXT))
    reached = slopes.abs().sum((0, 2)) > 0
    passed = dim // 2 if name in COUPLINGS else 0
    assert reached[passed:].all()


@one_size
def test_float32_agrees_with_float64(name, dim):
    context, x = double(4, CONTEXT), double(3, 4, dim)
    results = []
    for dtype in (torch.float32, torch.float64):
        step = make(name, dim, torch.float32).to(dtype).condition(context.to(dtype))
        z = x.to(dtype)
        y = step(z)
        assert y.dtype == dtype
        results.append((y.double(), step.log_abs_det_jacobian(z, y).double()))
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-3)


@every_flow
def test_starts_near_the_identity(name, dim):
    step = FLOWS[name](dim, CONTEXT).condition(torch.randn(200, CONTEXT))
    x = torch.randn(200, dim)
    y = step(x)
    if name in REFLECTIONS:
        torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
        return
    if name == "pyro_iaf":  # the gate starts at sigmoid(2)
        x = 0.88 * x
    assert (y - x).norm() < 0.2 * x.norm()


@pytest.mark.parametrize("name", ["neural_autoregressive", "spline_coupling"])
def test_zero_network_output_is_the_identity(name):
    flow = FLOWS[name](2, CONTEXT).double()
    for parameter in flow.nn.net.layers[-1].parameters():
        nn.init.zeros_(parameter)
    step, x = flow.condition(double(50, CONTEXT)), 3 * double(50, 2)
    y = step(x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(step.log_abs_det_jacobian(x, y), 0 * x[:, 0])


# Densities integrate to one.


def resolved(name, dim):
    """Returns a flow with no bins too narrow and no tails too long for a grid."""
    torch.manual_seed(0)
    long_tails = COUPLINGS | {"pyro_affine_autoregressive", "rank_one_affine"}
    reach = 0.3 if name in long_tails else 1.0
    return trained(FLOWS[name](dim, CONTEXT), reach=reach).condition(double(CONTEXT))


def grid(dim, reach):
    count = 4001 if dim == 1 else 401
    axis = torch.linspace(-reach, reach, count, dtype=torch.float64)
    area = (2 * reach / (count - 1)) ** dim
    return torch.stack(torch.meshgrid([axis] * dim, indexing="ij"), -1), area


@pytest.mark.parametrize(("name", "dim"), [case for case in CASES if case[1] < 3])
def test_density_integrates_to_one(name, dim):
    """Sums q(y) times the area of each mapped cell; needs no inverse.

    A wrong log-determinant shows in q, a fold of the map in the signed area.
    """
    step = resolved(name, dim)
    x, _ = grid(dim, 6.0)
    with torch.no_grad():
        y = step(x)
        base = dist.Normal(0.0, 1.0).expand([dim]).to_event(1)
        density = (base.log_prob(x) - step.log_abs_det_jacobian(x, y)).exp()
    if dim == 1:
        cells = y[1:, 0] - y[:-1, 0]
        means = (density[1:] + density[:-1]) / 2
    else:
        one, two = y[1:, 1:] - y[:-1, :-1], y[:-1, 1:] - y[1:, :-1]
        cells = (one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]) / 2
        corners = density[1:, 1:] + density[:-1, :-1] + density[1:, :-1]
        means = (corners + density[:-1, 1:]) / 4
    assert (cells > 0).all() or (cells < 0).all()
    assert (cells * means).sum().abs().item() == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize(("name", "dim"), [c for c in INVERTIBLE if c[1] < 3])
def test_density_of_arbitrary_values_integrates_to_one(name, dim):
    step = resolved(name, dim)
    base = dist.Normal(torch.zeros(dim, dtype=torch.float64), 1.0).to_event(1)
    y, area = grid(dim, 9.0)
    with torch.no_grad():
        density = dist.TransformedDistribution(base, [step]).log_prob(y).exp()
    assert (density.sum() * area).item() == pytest.approx(1, abs=5e-3)


# Planar.


FINITE = {"allow_nan": False, "allow_infinity": False}


@settings(deadline=None, max_examples=150)
@given(
    log_u=st.floats(-25, 3, **FINITE),
    log_w=st.floats(-25, 3, **FINITE),
    seed=st.integers(0, 10**6),
    opposed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_planar_is_a_bijection_for_any_parameters(log_u, log_w, seed, opposed, dtype):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    direction = -rows[1] if opposed else rows[0]
    u, w = (direction * 10**log_u).to(dtype), (rows[1] * 10**log_w).to(dtype)
    check_planar(u, w, rows[2].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale_w", [0.0, 1e-30, 1e-20, 1e-5, 1.0, 1e3])
@pytest.mark.parametrize("scale_u", [-1e3, -1.0, 0.0, 1e-20, 1.0, 1e3])
def test_planar_at_extremes(scale_u, scale_w, dtype):
    u, w = scale_u * torch.ones(4, dtype=dtype), scale_w * torch.ones(4, dtype=dtype)
    step = check_planar(u, w, torch.randn(4, dtype=dtype))
    if abs(scale_u * scale_w) < 1e-8:  # no constraint left to enforce
        torch.testing.assert_close(step.u_hat.detach(), u)


def check_planar(u, w, x):
    for leaf in (u, w, x):
        leaf.requires_grad_()
    step = T.ConditionedPlanar(torch.zeros(1, dtype=u.dtype), u, w)
    y = step(x)
    log_det = step.log_abs_det_jacobian(x, y)
    assert (step.m > -1).all()
    product = (step.u_hat.double() * w.double()).sum()
    slack = 8 * torch.finfo(u.dtype).eps * u.detach().norm() * w.detach().norm()
    assert product > -1 - slack.double()
    assert log_det > math.log(1e-3) - 1e-2
    gradients = torch.autograd.grad(y.sum() + log_det, (u, w, x))
    for value in (y, log_det, *gradients):
        assert value.isfinite().all()
    return step


# Householder and Sylvester.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_reflections_are_orthogonal(scale, dtype):
    reflections = T.Reflections(scale * torch.randn(10, 3, 5, dtype=dtype))
    eye = torch.eye(5, dtype=dtype)
    h = reflections(eye[:, None].expand(5, 10, 5)).movedim(0, -1)
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(h @ h.mT, eye.expand(10, 5, 5), atol=tolerance, rtol=0)
    determinant = torch.linalg.det(h)
    torch.testing.assert_close(determinant, -torch.ones(10, dtype=dtype))


def test_reflections_equal_the_product_of_their_matrices():
    v, x = double(4, 3), double(7, 3)
    z = x
    for row in v:  # the paper's recursion, one step after another
        z = z - 2 * (z @ row)[:, None] * row / row.square().sum()
    torch.testing.assert_close(T.ConditionedHouseholder(v)(x), z)
    assert torch.equal(T.Reflections(0 * v)(x), x)


@pytest.mark.parametrize("name", sorted(REFLECTIONS))
def test_householder_keeps_norms_and_volume(name):
    step, x = make(name, 5).condition(double(4, CONTEXT)), double(6, 4, 5)
    y = step(x)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(step.log_abs_det_jacobian(x, y), torch.zeros_like(x[..., 0]))


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-8)]
)
def test_sylvester_basis_is_orthonormal_at_trained_scale(dtype, atol):
    flow = make("sylvester_orthogonal", 5, dtype)
    step = flow.condition(5 * torch.randn(1000, CONTEXT, dtype=dtype))
    q = step.basis.matrix
    eye = torch.eye(3, dtype=dtype).expand(1000, 3, 3)
    torch.testing.assert_close(q.mT @ q, eye, atol=atol, rtol=0)


@pytest.mark.parametrize("method", ["bjorck", "qr"])
def test_basis_is_orthonormal_for_singular_matrices_and_continuous(method):
    matrix = torch.randn(20, 5, 3)
    matrix[:10, :, 2] = matrix[:10, :, 0]
    matrix[15:] = 0
    matrix[14, :, 1] = matrix[14, :, 0] + 1e-6 * matrix[14, :, 1]  # nearly singular
    q = T.orthonormal_columns(matrix, method)
    torch.testing.assert_close(q.mT @ q, torch.eye(3).expand(20, 3, 3))
    # LAPACK alone flips a column where its leading entry changes sign.
    matrix = torch.tensor([[[1e-6], [1.0]], [[-1e-6], [1.0]]])
    q = T.orthonormal_columns(matrix, method)
    torch.testing.assert_close(*q, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(10, 10), (8, 8), (8, 3)])
def test_bjorck_has_the_slope_of_what_it_gives(shape):
    """Also where it has not converged, as for matrices that are nearly singular."""
    torch.manual_seed(4)
    matrix = torch.randn(shape, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(T.orthonormal_columns, matrix)


def test_bjorck_gives_the_nearest_orthonormal_matrix():
    """The polar factor U V^T of a singular value decomposition."""
    matrix = torch.eye(5, 3).double() + 0.2 * double(7, 5, 3)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(T.orthonormal_columns(matrix, "bjorck"), u @ vt)


@pytest.mark.parametrize("variant", ["orthogonal", "householder", "triangular"])
def test_sylvester_determinant_stays_positive(variant):
    flow = T.conditional_sylvester(4, CONTEXT, variant, num_ortho_vecs=3)
    with torch.no_grad():
        flow.nn.weight.mul_(1000)
    step, x = flow.condition(torch.randn(100, CONTEXT)), torch.randn(100, 4)
    log_det = step.log_abs_det_jacobian(x, step(x))
    assert log_det.isfinite().all()
    gradient = torch.autograd.grad(log_det.sum(), flow.nn.weight)[0]
    assert gradient.isfinite().all()


# Networks and autoregressive flows.


@pytest.mark.parametrize("hidden_dims", [[2], [12], [7, 9]])
@pytest.mark.parametrize("order", [None, [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
@pytest.mark.parametrize("skip", [False, True])
def test_made_is_strictly_autoregressive_in_its_order(order, hidden_dims, skip):
    permutation = None if order is None else torch.tensor(order)
    net = T.MADE(5, CONTEXT, hidden_dims, permutation=permutation, context_skip=skip)
    net = trained(net)
    order = net.get_permutation()
    context = double(4, CONTEXT)
    for index in range(2):
        slopes = jacobian(lambda x: net(x, context)[index], double(4, 5))  # noqa: B023
        ordered = slopes[:, order][:, :, order]
        assert torch.equal(ordered, ordered.tril(-1))
        if hidden_dims[0] >= 5:
            assert (ordered.tril(-1).abs().sum(0) > 0).sum() == 10


@pytest.mark.parametrize("name", ["pyro_iaf", "pyro_affine_autoregressive"])
def test_reversed_orders_compose_to_a_dense_jacobian(name):
    steps = [trained(iaf(4, CONTEXT, stable=name == "pyro_iaf")) for _ in range(2)]
    made = T.MADE(4, CONTEXT, [12], permutation=torch.arange(3, -1, -1))
    steps[1].nn = trained(made)
    context = double(1, CONTEXT)
    first, second = (step.condition(context) for step in steps)
    x = double(1, 4)
    one, both = jacobian(first, x), jacobian(lambda x: second(first(x)), x)
    assert torch.equal(one, one.tril())
    assert (both != 0).all()


@pytest.mark.parametrize(
    ("context_dim", "skip"), [(0, False), (CONTEXT, False), (CONTEXT, True)]
)
@pytest.mark.parametrize("hidden_dims", [[9], [7, 9]])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [2, 0, 4, 1, 3]])
def test_made_solves_what_as_many_passes_as_dimensions_do(
    order, hidden_dims, context_dim, skip
):
    order_of = {"permutation": torch.tensor(order), "context_skip": skip}
    net = T.MADE(5, context_dim, hidden_dims, **order_of)
    net, x = trained(net), double(6, 4, 5)
    context = double(4, context_dim) if context_dim else None

    def step(x_i, shift, raw):
        return x_i * torch.exp(torch.tanh(raw)) + shift

    y = torch.zeros_like(x)
    for _ in range(5):
        y = step(x, *net(y, context=context))
    torch.testing.assert_close(net.solve(x, step, context), y)
    x.requires_grad_()
    slopes = torch.autograd.grad(net.solve(x, step, context)[..., order[-1]].sum(), x)
    assert (slopes[0] != 0).any((0, 1)).all()


def test_made_solves_where_passes_overflow():
    """Entries that are not right yet, and grow from pass to pass, are never made."""
    torch.manual_seed(0)
    net = T.MADE(784, 0, [1568], activation="relu")
    with torch.no_grad():  # shift_i = -0.3 (y_1 + ... + y_{i-1}), raw = 0
        for p in net.parameters():
            p.zero_()
        below, eye = torch.ones(784, 784).tril(-1), torch.eye(784)
        net.mask_0.fill_(1.0)
        net.mask_1.fill_(1.0)
        net.layers[0].weight.copy_(torch.cat([eye, -eye]))
        net.layers[1].weight[:784] = -0.3 * torch.cat([below, -below], 1)
    x = torch.randn(3, 784)
    flow = T.masked_autoregressive(784, [8])
    flow.nn.net = net
    expected = torch.linalg.solve_triangular(eye + 0.3 * below, x.T, upper=False).T
    torch.testing.assert_close(flow(x), expected, rtol=1e-4, atol=1e-4)
    assert expected.abs().max() < 10


def test_made_follows_the_conventions_of_pyro():
    net = T.MADE(4, 2, [8], param_dims=(3, 1, 2))
    shapes = [
        tuple(p.shape) for p in net(torch.randn(6, 5, 4), context=torch.randn(5, 2))
    ]
    assert shapes == [(6, 5, 3, 4), (6, 5, 1, 4), (6, 5, 2, 4)]
    assert net.permutation.tolist() == [0, 1, 2, 3]
    assert not [key for key in net.state_dict() if "mask" in key]
    assert net(torch.zeros(5, 4).double(), torch.zeros(5, 2))[0].dtype == torch.float32


def test_made_of_one_dimension_reads_the_context_only():
    net = trained(T.MADE(1, CONTEXT, [4]))
    context = double(4, CONTEXT)
    mean, _ = net(double(4, 1), context)
    assert torch.equal(mean, net(double(4, 1), context)[0])
    assert not torch.equal(mean, net(double(4, 1), 2 * context)[0])
    assert T.MADE(1, 0, [4])(torch.randn(5, 1))[0].shape == (5, 1)


def test_made_without_context_serves_pyro_and_its_inverse():
    made = trained(T.MADE(4, 0, [12], permutation=torch.tensor([2, 0, 3, 1])))
    flow, x = pyro_transforms.AffineAutoregressive(made), double(6, 4)
    torch.testing.assert_close(flow.inv(flow(x).clone()), x)


@one_size
def test_no_tensor_is_left_on_the_default_device(name, dim):
    flow = FLOWS[name](dim, CONTEXT).to("meta")
    step = flow.condition(torch.randn(4, CONTEXT, device="meta"))
    x = torch.randn(3, 4, dim, device="meta")
    assert step.log_abs_det_jacobian(x, step(x)).shape == (3, 4)


def test_context_is_projected_at_its_own_shape():
    seen, net = [], T.MADE(4, 2, [8])
    net.context_layer.register_forward_hook(lambda *a: seen.append(a[2].shape))
    net(torch.randn(50, 3, 4), context=torch.randn(3, 2))
    assert seen == [(3, 8)]


def test_neural_autoregressive_keeps_its_tails_in_float32():
    flow = make("neural_autoregressive", 2, torch.float32)
    step = flow.condition(torch.randn(CONTEXT))
    x = torch.linspace(-40, 40, 401)[:, None].expand(401, 2).clone().requires_grad_()
    y = step(x)
    log_det = step.log_abs_det_jacobian(x, y)
    gradient = torch.autograd.grad(y.sum() + log_det.sum(), x)[0]
    for value in (y, log_det, gradient):
        assert value.isfinite().all()
    assert (y[1:, 0] > y[:-1, 0]).all()


# Splines.


def test_spline_is_the_identity_outside_and_smooth_at_the_ends():
    raw = double(3, 8)
    args = raw, double(3, 8), double(3, 7)
    edges = torch.tensor([-3.0, 3.0, 3.5], dtype=torch.float64)
    y, log_slope = T.rational_quadratic_spline(edges, *args)
    assert torch.equal(y, edges)
    inner, log_slope = T.rational_quadratic_spline(edges * (1 - 1e-9), *args)
    torch.testing.assert_close(inner, edges, atol=1e-7, rtol=0)
    torch.testing.assert_close(log_slope, 0 * log_slope, atol=1e-5, rtol=0)


def test_spline_is_finite_for_extreme_parameters():
    raw = [(50 * torch.randn(200, n)).requires_grad_() for n in (8, 8, 7)]
    x = torch.linspace(-1e4, 1e4, 200)
    x[:150] = torch.linspace(-3, 3, 150)
    for inverse in (False, True):
        y, log_slope = T.rational_quadratic_spline(x, *raw, inverse=inverse)
        gradients = torch.autograd.grad(y.sum() + log_slope.sum(), raw)
        for value in (y, log_slope, *gradients):
            assert value.isfinite().all()


def test_spline_inverts_itself():
    x = torch.linspace(-4, 4, 500, dtype=torch.float64)
    raw = [3 * double(500, n) for n in (8, 8, 7)]
    y, log_slope = T.rational_quadratic_spline(x, *raw)
    again, same = T.rational_quadratic_spline(y, *raw, inverse=True)
    torch.testing.assert_close(again, x, atol=1e-8, rtol=0)
    torch.testing.assert_close(same, log_slope, atol=1e-6, rtol=0)


def test_radial_is_finite_where_gamma_underflows():
    parameters = [torch.zeros(3), torch.tensor([2.0]), torch.tensor([-200.0])]
    for leaf in parameters:
        leaf.requires_grad_()
    step = T.ConditionedRadial(*parameters)
    x = torch.tensor([[0.0, 0.0, 0.0], [1e-6, 0.0, 0.0], [1e3, 0.0, 0.0]])
    log_det = step.log_abs_det_jacobian(x, step(x))
    for value in (log_det, *torch.autograd.grad(log_det.sum(), parameters)):
        assert value.isfinite().all()


# Mistakes of the caller.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: T.planar(0), "expected input_dim >= 1, got 0"),
        (lambda: T.conditional_radial(2, 0), "expected context_dim >= 1, got 0"),
        (lambda: T.householder(2, 0), "expected num_reflections >= 1, got 0"),
        (lambda: T.spline_coupling(1), "expected latent_dim >= 2, got 1: a coupling"),
        (lambda: T.spline_coupling(2, count_bins=1), "expected count_bins in 2..500"),
        (
            lambda: T.spline_coupling(2, bound=-2.0),
            "expected a bound above 0, and finite, got -2.0",
        ),
        (lambda: T.spline_coupling(2, bound=0.0), "expected a bound above 0"),
        (lambda: T.sylvester(2, "qr"), "got 'qr'"),
        (
            lambda: T.sylvester(2, num_ortho_vecs=3),
            "expected num_ortho_vecs <= 2, got 3",
        ),
        (lambda: T.neural_autoregressive(2, width=1), "expected width >= 2, got 1"),
        (lambda: T.MADE(2, 0, []), "at least one hidden layer"),
        (lambda: T.MADE(2, 0, [0]), "expected widths of at least 1"),
        (lambda: T.MADE(2, 0, [4, -3]), "expected widths of at least 1"),
        (
            lambda: T.spline_coupling(2, hidden_dims=(-3,)),
            "expected widths of at least 1",
        ),
        (lambda: T.MADE(2, 0, [4], activation="cos"), "out of elu, relu"),
        (
            lambda: T.MADE(2, 0, [4], permutation=[0, 0]),
            "expected a permutation of 0..1",
        ),
        (lambda: T.CouplingNet(0, 0, [4], (1,)), "expected split_dim >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_explained(build, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        build()


@one_size
def test_a_context_of_the_wrong_width_is_explained(name, dim):
    flow = FLOWS[name](dim, CONTEXT)
    with pytest.raises(UserError, match="expected a context of size 3 .* got 4"):
        flow.condition(torch.zeros(5, 4))(torch.zeros(5, dim))


# Rank-one affine (SR1).


@settings(deadline=None, max_examples=100)
@given(
    dim=st.sampled_from([1, 2, 10]),
    log_diag=st.floats(math.log(1e-3), 3, **FINITE),
    log_u=st.floats(-8, 3, **FINITE),
    seed=st.integers(0, 10**6),
)
def test_rank_one_is_its_dense_matrix(dim, log_diag, log_u, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, 3, dim, generator=generator, dtype=torch.float64)
    loc, diag, u, x = rows[0], (log_diag + rows[1].abs()).exp(), rows[2], rows[3]
    u = math.exp(log_u) * u
    flow = T.ConditionedRankOneAffine(loc, diag, u)
    matrix = torch.diag_embed(diag) + u[:, :, None] * u[:, None, :]
    y = flow(x)
    torch.testing.assert_close(y, loc + (matrix @ x[..., None]).squeeze(-1))
    log_det = torch.linalg.slogdet(matrix).logabsdet
    torch.testing.assert_close(flow.log_abs_det_jacobian(x, y), log_det)
    # Sherman-Morrison loses as many digits as the matrix is ill-conditioned.
    loss = 1e-14 * torch.linalg.cond(matrix).max() * (1 + y.abs().max())
    solved = torch.linalg.solve(matrix, (y - loc)[..., None]).squeeze(-1)
    back = flow.inv(y.clone())
    torch.testing.assert_close(back, solved, rtol=1e-6, atol=loss.item())


def test_rank_one_depends_on_its_context():
    """SR1: the matrix is another one for each z above."""
    flow = make("rank_one_affine", 3)
    x, contexts = double(3), double(2, CONTEXT)
    first, second = (
        torch.autograd.functional.jacobian(flow.condition(c), x) for c in contexts
    )
    assert (first - second).abs().max() > 0.1


def test_rank_one_starts_where_u_has_a_gradient():
    """At u = 0 the gradient of u u^T vanishes, and u would never move."""
    flow = T.rank_one_affine(5)
    flow(torch.randn(8, 5)).square().sum().backward()
    assert (flow.nn.bias.grad[10:].abs() > 1e-3).all()


# Masked autoregressive.


def test_masked_autoregressive_is_triangular_in_its_order():
    """du_i/dy_j vanishes unless y_j comes before y_i, and at once for the context."""
    order = torch.tensor([2, 0, 3, 1])
    flow = trained(T.conditional_masked_autoregressive(4, CONTEXT, [12], order))
    step = flow.condition(double(CONTEXT))
    du = torch.autograd.functional.jacobian(step.inv, double(4))[order][:, order]
    assert (du.triu(1) == 0).all()
    assert (du.tril(-1).abs() > 1e-6).sum() == 6


def test_masked_autoregressive_keeps_scales_from_collapsing():
    """A network that asks for a scale of e^-100 gets one of e^-5."""
    flow = T.masked_autoregressive(2, [4])
    with torch.no_grad():
        flow.nn.net.layers[-1].bias[2:] = -100.0
    y = torch.randn(3, 2)
    log_det = flow.log_abs_det_jacobian(flow.inv(y), y)
    torch.testing.assert_close(log_det, torch.full((3,), -10.0))


@pytest.mark.parametrize("name", ["planar", "spline_coupling", "rank_one_affine"])
def test_a_sample_without_gradients_is_scored_with_them(name):
    """As score-function estimators do: `q.sample()`, then `q.log_prob(z)`."""
    flow = trained(make(name, 2))
    base = dist.Normal(torch.zeros(4, 2, dtype=torch.float64), 1.0).to_event(1)
    q = dist.TransformedDistribution(base, [flow.condition(double(4, CONTEXT))])
    z = q.sample()
    gradients = [
        torch.autograd.grad(
            q.log_prob(value).sum(), tuple(flow.parameters()), retain_graph=True
        )
        for value in (z, z.clone())
    ]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)
    assert any(g.abs().sum() > 0 for g in gradients[0])


@pytest.mark.parametrize("name", ["planar", "spline_coupling", "masked_autoregressive"])
def test_a_plain_flow_scores_such_a_sample_more_than_once(name):
    flow = trained(PLAIN[name](3))
    base = dist.Normal(torch.zeros(4, 3, dtype=torch.float64), 1.0).to_event(1)
    q = dist.TransformedDistribution(base, [flow])
    z, parameters = q.sample(), tuple(flow.parameters())
    scored = [torch.autograd.grad(q.log_prob(z).sum(), parameters) for _ in range(3)]
    expected = torch.autograd.grad(q.log_prob(z.clone()).sum(), parameters)
    for got in scored:
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_log_determinant_alone_does_not_vouch_for_the_cached_pair():
    flow, x = trained(PLAIN["planar"](2)), double(4, 2)
    with torch.no_grad():
        y = flow(x)
    flow.log_abs_det_jacobian(x, y)
    assert flow.inv(y).requires_grad


def test_a_sample_without_gradients_and_inverse_refuses_to_have_one():
    flow = trained(make("sylvester_orthogonal", 2)).condition(double(4, CONTEXT))
    base = dist.Normal(torch.zeros(4, 2, dtype=torch.float64), 1.0).to_event(1)
    q = dist.TransformedDistribution(base, [flow])
    log_q = q.log_prob(q.sample())
    assert log_q.isfinite().all()
    for again in (log_q, q.log_prob(q.sample())):
        with pytest.raises(UserError, match="drawn without gradients"):
            again.sum().backward()


def test_two_backward_passes_over_one_datum():
    flow, x = trained(PLAIN["masked_autoregressive"](2)), double(4, 2)
    for _ in range(2):
        flow.inv(x).sum().backward()
        flow(x).sum().backward()


def test_what_freezes_and_thaws_between_passes():
    flow, x = trained(PLAIN["planar"](2)), double(4, 2)
    flow.requires_grad_(False)
    assert not flow(x).requires_grad
    flow.requires_grad_(True)
    y = flow(x)
    assert y.requires_grad
    assert flow.log_abs_det_jacobian(x, y).requires_grad


def test_plain_flows_made_in_inference_mode_are_scored():
    with torch.inference_mode():
        flow = T.masked_autoregressive(3, [8])
        x = torch.randn(5, 3)
        y = flow(x)
        torch.testing.assert_close(flow.inv(y.clone()), x, atol=1e-5, rtol=1e-5)


def test_log_det_has_the_batch_of_the_context():
    for name in ("planar", "radial", "rank_one_affine"):
        step, x = make(name, 2).condition(double(4, CONTEXT)), double(2)
        assert step.log_abs_det_jacobian(x, step(x)).shape == (4,)


def test_a_masked_network_on_another_default_device():
    with torch.device("meta"):
        flow = AmortizedFlow(4, 3, "iaf", 2)
    assert {b.device.type for b in flow.buffers()} == {"meta"}


def test_a_masked_network_takes_any_whole_numbers_as_an_order():
    for order in (torch.tensor([2, 0, 1], dtype=torch.int32), [2.0, 0.0, 1.0]):
        assert T.MADE(3, 0, [8], permutation=order).permutation.tolist() == [2, 0, 1]
    with pytest.raises(UserError, match=r"expected a permutation of 0\.\.2"):
        T.MADE(3, 0, [8], permutation=[0.5, 1.0, 2.0])


def test_the_inverse_of_narrow_weights_takes_wide_numbers():
    flow, x = T.masked_autoregressive(3, [8]), double(5, 3)
    y = flow(x)
    torch.testing.assert_close(flow.inv(y.clone()).double(), x, atol=1e-5, rtol=1e-5)
