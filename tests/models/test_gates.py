"""Gates on edges: their draws, relaxed and not, and what freezing makes of them (GV6)."""

import math

import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import small

import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.gates import GAIN, Gates, Logistic


def gates_at(probabilities, temperature=1.0, training=True):
    """Learned gates with these probabilities, in double precision."""
    num_nodes = round((1 + math.sqrt(1 + 8 * len(probabilities))) / 2)
    gates = Gates(num_nodes).double().train(training)
    logits = torch.tensor(probabilities).double().logit()
    with torch.no_grad():
        gates.raw_logits.copy_(logits / GAIN)
        gates.temperature.fill_(temperature)
    return gates


def draws_of(gates, n=200_000):
    torch.manual_seed(0)
    with pyro.plate("draws", n, dim=-1):
        return gates()


@pytest.mark.parametrize("temperature", [1.0, 0.134])
def test_at_evaluation_a_gate_is_a_coin(temperature):
    """GV6: 0 or 1, open as often as the probability says, at any temperature."""
    p = torch.tensor([0.02, 0.5, 0.9]).double()
    c = draws_of(gates_at(p.tolist(), temperature, training=False))
    assert set(c.unique().tolist()) == {0.0, 1.0}
    error = (p * (1 - p) / len(c)).sqrt()
    assert ((c.mean(0) - p).abs() < 4 * error).all()


def test_a_relaxed_gate_tends_to_a_coin():
    """GV6: as the temperature falls, its mean to the probability, its values to 0, 1."""
    p = torch.tensor([0.02, 0.5, 0.9]).double()
    c = draws_of(gates_at(p.tolist(), 0.01))
    assert ((c.mean(0) - p).abs() < 4 * (p * (1 - p) / len(c)).sqrt() + 0.003).all()
    undecided = ((c > 0.01) & (c < 0.99)).double().mean(0)
    assert (undecided < 0.05).all()


@given(st.floats(0.05, 0.95), st.floats(0.1, 2.0), st.floats(-4, 4), st.floats(-4, 4))
def test_relaxation_is_that_of_the_public_codes(mu, tau, g1, g2):
    """GV6: mu^(1/tau) / (mu^(1/tau) + (1 - mu)^(1/tau) e^((g2 - g1)/tau))."""
    logit = math.log(mu / (1 - mu))
    logistic = Logistic(
        torch.tensor(logit / tau, dtype=torch.double),
        torch.tensor(1 / tau, dtype=torch.double),
    )
    uniform = torch.tensor(
        g1 - g2, dtype=torch.double
    ).sigmoid()  # of which that is the logit
    ours = logistic.icdf(uniform).sigmoid().item()
    up, down = mu ** (1 / tau), (1 - mu) ** (1 / tau)
    assert ours == pytest.approx(up / (up + down * math.exp((g2 - g1) / tau)), rel=1e-6)


def test_a_draw_is_never_infinite(monkeypatch):
    p = Logistic(torch.zeros(3), 1.0)
    for extreme in (torch.zeros_like, torch.ones_like):
        monkeypatch.setattr(torch, "rand_like", extreme)
        draw = p.rsample((2,))
        assert draw.shape == (2, 3)
        assert draw.isfinite().all()
        assert p.log_prob(draw).isfinite().all()


def test_draws_follow_the_density():
    p = Logistic(torch.tensor(0.7).double(), torch.tensor(2.0).double())
    torch.manual_seed(0)
    z = p.rsample((100_000,))
    quantiles = p.cdf(z).sort().values
    uniform = (torch.arange(len(z)) + 0.5) / len(z)
    assert (quantiles - uniform).abs().max() < 1.95 / math.sqrt(len(z))  # 0.1 %
    grid = torch.linspace(-80, 80, 160_001, dtype=torch.double)
    assert p.log_prob(grid).exp().sum() * 1e-3 == pytest.approx(1, abs=1e-9)


def test_gates_are_learned_in_a_functional_call_too():
    """Where tensors that are no parameters stand in for the logits."""
    gates = gates_at([0.3])
    logits = torch.zeros(1).double().requires_grad_()
    c = torch.func.functional_call(gates, {"raw_logits": logits}, ())
    assert torch.autograd.grad(c.sum(), logits)[0].abs() > 0


def test_an_edge_that_is_none_is_named():
    with pytest.raises(
        zoo.UserError, match="unknown edge 'z_1->z_2'.* known: z_2->z_1"
    ):
        Gates(2).set("z_1->z_2", True)


def test_freezing_is_undone_by_learning_again():
    gates = Gates(3)
    with torch.no_grad():
        gates.raw_logits.copy_(torch.tensor([0.1, -0.2, 0.3]))
    before = gates.probabilities()
    gates.freeze()
    gates.freeze()
    assert gates.is_frozen
    gates.freeze(False)
    assert torch.equal(gates.probabilities(), before)
    assert [name for name, _ in gates.named_parameters()] == ["raw_logits"]


def test_gates_that_are_learned_again_are_trained_by_stock_svi():
    """Pyro's store kept the parameter of before under their name."""
    vae, x = small("gated_dag"), torch.rand(8, 2, 3).bernoulli()

    def steps(n):
        optimizer = pyro.optim.Adam({"lr": 0.01})
        svi = pyro.infer.SVI(vae.model, vae.guide, optimizer, pyro.infer.Trace_ELBO())
        for _ in range(n):
            svi.step(x)

    steps(2)
    gates = vae.model.top_down.gates
    gates.freeze()
    gates.freeze(False)
    before = gates.raw_logits.detach().clone()
    steps(2)
    assert not torch.equal(gates.raw_logits, before)
