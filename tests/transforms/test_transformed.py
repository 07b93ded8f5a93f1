"""The density of a draw has the gradient of the density of any value."""

import pyro.distributions as dist
import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.flow_guides import FLOWS
from pyro_vae_zoo.models.priors import PRIOR_FLOWS, FlowPrior

# These have no inverse: they score their own draws alone, and those with a graph.
ONE_WAY = {
    "sylvester_orthogonal",
    "sylvester_householder",
    "sylvester_triangular",
    "neural_autoregressive",
}


def gradients(module, log_prob):
    """The gradient of the density of some value to each parameter."""
    parameters = list(module.parameters())
    return torch.autograd.grad(log_prob.sum(), parameters, retain_graph=True)


@pytest.mark.parametrize("flow", sorted(FLOWS.keys() - ONE_WAY))
def test_a_draw_without_a_graph_is_scored_with_one(flow):
    posterior = zoo.AmortizedFlow(4, 3, flow).double()
    h = torch.randn(5, 4).double()
    q = posterior(h)

    def scored():
        """A value that was scored without a graph, and not drawn."""
        z = torch.randn(5, 3).double()
        with torch.no_grad():
            q.log_prob(z)
        return z

    draws = q.sample, torch.no_grad()(q.rsample), scored
    for draw in draws:
        z = draw()
        ours = gradients(posterior, q.log_prob(z))
        anew = gradients(posterior, posterior(h).log_prob(z.clone()))
        torch.testing.assert_close(ours, anew)


@pytest.mark.parametrize("flow", sorted(ONE_WAY))
def test_without_an_inverse_it_is_refused(flow):
    posterior = zoo.AmortizedFlow(4, 3, flow)
    q = posterior(torch.randn(5, 4))
    score = q.log_prob(q.sample()).sum()
    with pytest.raises(zoo.UserError, match="no gradient of the density"):
        score.backward()


@pytest.mark.parametrize("flow", PRIOR_FLOWS)
def test_a_draw_of_a_prior_is_scored_with_a_graph(flow):
    prior = FlowPrior(4, flow=flow, num_flows=2).double()
    p = prior()
    z = p.sample((5,))
    ours, anew = (
        gradients(prior, score)
        for score in (p.log_prob(z), prior().log_prob(z.clone()))
    )
    torch.testing.assert_close(ours, anew)


def test_what_has_a_graph_is_remembered_by_an_expanded_one():
    posterior = zoo.AmortizedFlow(4, 3, "iaf")
    q = posterior(torch.randn(4))
    z = q.sample()
    assert q.expand((1,)).log_prob(z).requires_grad


def test_parts_of_a_composition_are_computed_anew():
    posterior = zoo.AmortizedFlow(4, 3, "iaf")
    parts = posterior(torch.randn(5, 4))
    steps = dist.transforms.ComposeTransform(parts.transforms)
    for step in (
        steps,
        dist.transforms.ComposeTransform([p.inv for p in parts.transforms]),
    ):
        q = zoo.transforms.Transformed(parts.base_dist, [step])
        assert len(gradients(posterior.flows, q.log_prob(q.sample()))) == 10


def test_a_frozen_flow_is_not_inverted():
    posterior = zoo.AmortizedFlow(4, 3, "iaf").requires_grad_(False)
    q = posterior(torch.randn(5, 4))
    for step in q.transforms:
        step._inverse = None  # a call would fail
    z = q.rsample()
    assert q.log_prob(z).shape == (5,)


@pytest.mark.parametrize("flow", sorted(FLOWS.keys() - ONE_WAY))
def test_a_pass_with_gradients_after_one_without(flow):
    posterior = zoo.AmortizedFlow(4, 3, flow)
    step = posterior(torch.randn(5, 4)).transforms[0]
    x = torch.randn(5, 3)
    with torch.no_grad():
        step(x)
    if isinstance(step, zoo.transforms.ConditionedTransform):  # Pyro's keep the old one
        assert step(x).requires_grad
