r"""Gates on the edges of a graph: random while they are learned, then 0 or 1.

A gate is open with probability \(\mu\), whose logit is learned. Its draw is a logit, too,

\[g = (\mathrm{logit}\,\mu + \lambda) / \tau, \qquad \lambda \sim
  \mathrm{Logistic}(0, 1),\]

of which \(\mathrm{sigmoid}(g)\) is the binary Concrete relaxation (Maddison et al. 2017,
https://arxiv.org/abs/1611.00712) and \([g > 0]\) the Bernoulli draw itself, whatever the
temperature \(\tau\). The density of g is finite where that of its sigmoid, rounded to 0
or 1, is not.
"""

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.utils import clamp_probs

from pyro_vae_zoo.errors import unknown_name

__all__ = ["STRUCTURES", "Gates", "Logistic"]

# Which edges i -> n are open; the structure that is learned starts undecided.
STRUCTURES: dict[str, Callable[[int, int], bool]] = {
    "full": lambda i, n: True,
    "chain": lambda i, n: i == n + 1,
    "independent": lambda i, n: False,
}
# Adam moves every parameter by its rate in a step, and a logit has far to go.
GAIN = 10.0


class Logistic(dist.Logistic):
    """Pyro's, whose draw is infinite once in 2^24 times; this one's never is."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw with a gradient to loc and scale."""
        uniform = torch.rand_like(self.loc.expand(self._extended_shape(sample_shape)))
        return self.icdf(clamp_probs(uniform))


class Gates(nn.Module):
    """c: a gate on each edge of the graph, learned or fixed.

    Edges `(i, n)`, from parent i to child n, come child by child from the root down, and
    for each child its parents from the root down.

    Args:
        num_nodes: N.
        structure: `learned`, or one of `STRUCTURES`.
        penalty: what an open gate costs in `SparseELBO`, in nats per datum.

    Raises:
        UserError: for an unknown structure.

    >>> gates = Gates(3, "chain")
    >>> gates.named_probabilities()
    {'z_3->z_2': 1.0, 'z_3->z_1': 0.0, 'z_2->z_1': 1.0}
    """

    def __init__(
        self, num_nodes: int, structure: str = "learned", penalty: float = 0.0
    ) -> None:
        super().__init__()
        if structure not in ("learned", *STRUCTURES):
            raise unknown_name("structure", structure, ("learned", *STRUCTURES))
        nodes = range(num_nodes, 0, -1)
        self.edges = [(i, n) for n in nodes for i in nodes if i > n]
        self.penalty = penalty
        self.raw_logits = nn.Parameter(torch.zeros(len(self.edges)))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("frozen", torch.tensor(False))
        if structure != "learned" or not self.edges:
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
        """That each gate is open, `(num_edges,)`; 0 or 1 once they are frozen."""
        logits = self.logits()
        return (logits > 0).to(logits.dtype) if self.is_frozen else logits.sigmoid()

    def named_probabilities(self) -> dict[str, float]:
        """The same, by the edges' names."""
        names = [f"z_{i}->z_{n}" for i, n in self.edges]
        return dict(zip(names, self.probabilities().tolist(), strict=True))

    @property
    def is_frozen(self) -> bool:
        """Whether each gate is 0 or 1 for good."""
        return "raw_logits" in self._buffers

    def freeze(self, frozen: bool = True) -> None:
        """Fix each gate at the likelier of 0 and 1, or learn them again.

        Frozen logits are no parameters: they have no gradient and no optimiser.
        """
        if frozen == self.is_frozen:
            return
        value = self.raw_logits.detach()
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

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        self.freeze(bool(state_dict.get(f"{prefix}frozen", self.frozen)))
        super()._load_from_state_dict(state_dict, prefix, *args)
