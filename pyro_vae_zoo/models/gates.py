r"""Gates on the edges of a graph: random while they are learned, then 0 or 1.

A gate is open with probability \(\mu\), whose logit is learned. Its draw is a logit, too,

\[g = (\mathrm{logit}\,\mu + \lambda) / \tau, \qquad \lambda \sim
  \mathrm{Logistic}(0, 1),\]

\(\mathrm{sigmoid}(g)\) is the binary Concrete relaxation (Maddison et al. 2017,
https://arxiv.org/abs/1611.00712), and \([g > 0]\) the Bernoulli draw itself, for every
temperature \(\tau\). The density of g stays finite where that of its sigmoid, rounded to
0 or 1, does not.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.utils import clamp_probs

from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.inference.elbo import AnnealedELBO
from pyro_vae_zoo.pair.vae import VAE, Phase

__all__ = [
    "STRUCTURES",
    "Gates",
    "Logistic",
    "SparseELBO",
    "monitor",
    "structure_phases",
]

# Which edges i -> n are open; the structure that is learned starts undecided.
STRUCTURES: dict[str, Callable[[int, int], bool]] = {
    "full": lambda i, n: True,
    "chain": lambda i, n: i == n + 1,
    "independent": lambda i, n: False,
}
# Adam moves every parameter by its rate in a step, and a logit has far to go.
GAIN = 10.0
FINAL_TEMPERATURE = 0.99**200


class Logistic(dist.Logistic):
    """Pyro's logistic distribution, without its infinite draw once in 2^24 times."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw with a gradient to loc and scale."""
        uniform = torch.rand_like(
            self.loc.expand(self._extended_shape(torch.Size(sample_shape)))
        )
        return self.icdf(clamp_probs(uniform))


class Gates(nn.Module):
    """c: a gate on each edge of the graph, learned or fixed.

    Edges `(i, n)`, from parent i to child n, come child by child from the root down, and
    for each child its parents from the root down. While they are learned there is a site
    `"gates"`, outside the data plate, whose value is a logit for each gate.

    Args:
        num_nodes: N.
        structure: `learned`, or one of `STRUCTURES`.
        penalty: what an open gate costs in `SparseELBO`, in nats per datum.

    Raises:
        UserError: for an unknown structure and a penalty that is negative or infinite.

    >>> gates = Gates(3, "chain")
    >>> gates.named_probabilities()
    {'z_3->z_2': 1.0, 'z_3->z_1': 0.0, 'z_2->z_1': 1.0}
    """

    raw_logits: Tensor  # a parameter, or a buffer once they are frozen
    temperature: Tensor
    frozen: Tensor

    def __init__(
        self, num_nodes: int, structure: str = "learned", penalty: float = 0.0
    ) -> None:
        super().__init__()
        if structure not in ("learned", *STRUCTURES):
            raise unknown_name("structure", structure, ("learned", *STRUCTURES))
        if not 0 <= penalty < math.inf:
            raise UserError(
                f"gate_penalty must be finite and not negative, got {penalty}"
            )
        nodes = range(num_nodes, 0, -1)
        self.edges = [(i, n) for n in nodes for i in nodes if i > n]
        self.penalty = penalty
        self.raw_logits = nn.Parameter(torch.zeros(len(self.edges)))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("frozen", torch.tensor(False))
        self.is_fixed = structure != "learned" or not self.edges
        if self.is_fixed:
            is_open = STRUCTURES.get(structure, STRUCTURES["full"])
            signs = [1.0 if is_open(i, n) else -1.0 for i, n in self.edges]
            with torch.no_grad():
                self.raw_logits.copy_(torch.tensor(signs))
            self.freeze()

    def forward(self) -> Tensor:
        """The gates, `(*particles, num_edges)`: drawn while they are learned."""
        if self.is_frozen:
            return self.probabilities()
        p = Logistic(self.logits() / self.temperature, 1 / self.temperature)
        logits = pyro.sample("gates", p.to_event(1))
        return logits.sigmoid() if self.training else (logits > 0).to(logits.dtype)

    def logits(self) -> Tensor:
        """Log-odds of each gate to be open, `(num_edges,)`."""
        return GAIN * self.raw_logits

    def probabilities(self) -> Tensor:
        """The probability of each gate to be open; 0 or 1 once they are frozen."""
        logits = self.logits()
        return (logits > 0).to(logits.dtype) if self.is_frozen else logits.sigmoid()

    def named_probabilities(self) -> dict[str, float]:
        """The probability of each gate to be open, by the name of its edge."""
        names = [f"z_{i}->z_{n}" for i, n in self.edges]
        return dict(zip(names, self.probabilities().tolist(), strict=True))

    @property
    def is_frozen(self) -> bool:
        """True where each gate is 0 or 1 for good."""
        return "raw_logits" in self._buffers

    def freeze(self, frozen: bool = True) -> None:
        """Fix each gate at the likelier of 0 and 1 (in a tie, at 0), or learn them again.

        Frozen logits are no parameters: they have no gradient and no optimiser. Those
        that are learned again are a new parameter, which needs a new optimiser.

        Raises:
            UserError: where the structure was given and cannot be learned.
        """
        if frozen == self.is_frozen:
            return
        if self.is_fixed and self.is_frozen:
            raise UserError(
                "these gates have a fixed structure and cannot be learned; make them "
                "with structure='learned'"
            )
        value = self.raw_logits.detach()
        store = (
            pyro.get_param_store()
        )  # where an optimiser would find the old parameter
        name = store.param_name(self.raw_logits)
        if name is not None:
            del store[name]
        del self.raw_logits
        if frozen:
            self.register_buffer("raw_logits", value)
        else:
            self.raw_logits = nn.Parameter(value)
        self.frozen.fill_(frozen)

    def set(self, edge: str, is_open: bool) -> None:
        """Open or close the gate of an edge, by its name."""
        names = list(self.named_probabilities())
        if edge not in names:
            raise unknown_name("edge", edge, names)
        with torch.no_grad():
            self.raw_logits[names.index(edge)] = 1.0 if is_open else -1.0

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.freeze(bool(state_dict.get(f"{prefix}frozen", self.frozen)))
        super()._load_from_state_dict(state_dict, prefix, *args)


def gates_of(model: nn.Module) -> Gates:
    """The gates of a model: its `top_down.gates`."""
    return cast(Gates, model.get_submodule("top_down.gates"))


class SparseELBO(AnnealedELBO):
    """The bound less the gates' penalty for each edge that is open, in expectation."""

    def loss_and_elbo(
        self, model: nn.Module, guide: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective to minimise and the plain bound, both summed over the batch."""
        loss, elbo = super().loss_and_elbo(model, guide, x)
        gates = gates_of(model)
        return loss + len(x) * gates.penalty * gates.probabilities().sum(), elbo


def structure_phases(
    share: float = 0.25,
    final_temperature: float = FINAL_TEMPERATURE,
    modules: tuple[nn.Module, ...] | None = None,
    penalty: float = 0.0,
) -> tuple[Phase, ...]:
    """The two phases in which `fit` trains a pair whose structure is learned.

    The pair's gates are `vae.model.top_down.gates`, a `Gates`. Stock `SVI` knows nothing
    of phases: it trains at the temperature that there is, and freezes no gate.

    Args:
        share: of the epochs that goes to the structure; with 1 the gates stay random.
        final_temperature: of the relaxation, which falls to it from 1, geometrically.
        modules: what is trained; None means everything.
        penalty: that of the gates. With one, the second phase begins where the first
            ends, and not with its best bound, which has more edges than are worth it.

    Raises:
        UserError: for values outside (0, 1].
    """
    for name, value in (
        ("structure_share", share),
        ("final_temperature", final_temperature),
    ):
        if not 0 < value <= 1:
            raise UserError(f"{name} must be in (0, 1], got {value}")
    anneal = partial(_anneal, final_temperature=final_temperature)
    hands_on = "last" if penalty else "best"
    learn = Phase("structure", share, SparseELBO, modules, _learn, anneal, hands_on)
    retrain = Phase("retrain", 1 - share, None, modules, _freeze)
    return (learn, retrain) if share < 1 else (learn,)


def _learn(vae: VAE) -> None:
    gates_of(vae.model).freeze(False)


def _freeze(vae: VAE) -> None:
    gates = gates_of(vae.model)
    if gates.raw_logits.any():  # else there was no epoch to learn them in
        gates.freeze()


def _anneal(vae: VAE, done: float, final_temperature: float) -> None:
    gates_of(vae.model).temperature.fill_(final_temperature**done)


def monitor(vae: VAE) -> dict[str, dict[str, float]]:
    """The probability of each gate to be open, as `fit` records it."""
    return {"gates": gates_of(vae.model).named_probabilities()}
