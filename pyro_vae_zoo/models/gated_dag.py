r"""Learned dependency structure: a graph of latent nodes whose edges have gates.

Jiawei He, Yu Gong, Joseph Marino, Greg Mori, Andreas Lehrmann: *Variational
Autoencoders with Jointly Optimized Latent Dependency Structure*, ICLR 2019; and
Benaim & Moradi: *Latent Dependency Structure + Flow IAF optimization on Variational
Autoencoder*, which adds a flow to each node. The numbers (6) and (7) are those of He et al.

Generative process: nodes \(z_N, \dots, z_1\) from the root down, each with the parents
\(\mathrm{pa}(n) = \{n+1, \dots, N\}\) and a gate \(c_{i,n} \in \{0, 1\}\) on each edge,

\[c_{i,n} \sim \mathrm{Bernoulli}(\mu_{i,n}), \quad z_N \sim N(0, I), \quad
  z_n \sim N(\hat\mu_n, \mathrm{diag}\,\hat\sigma_n^2), \quad
  (\hat\mu_n, \hat\sigma_n) = \mathrm{MLP}^{TD}_n\big((c_{i,n} z_i)_{i>n}\big), \quad
  x \sim p(\cdot|z_1, \dots, z_N). \tag{6}\]

Inference: from the root down, too, with the same gates. The data contribute
\((\tilde\mu_n, \tilde\sigma_n, h_n) = \mathrm{MLP}^{BU}_n(\mathrm{enc}(x))\). This Gaussian
is combined with the prior's by their precisions,

\[q(z_{n,0}|x, z_{pa(n)}, c) = N\Big(
  \frac{\tilde\mu_n \tilde\sigma_n^{-2} + \hat\mu_n \hat\sigma_n^{-2}}
  {\tilde\sigma_n^{-2} + \hat\sigma_n^{-2}},
  \frac{1}{\tilde\sigma_n^{-2} + \hat\sigma_n^{-2}}\Big), \qquad
  z_n = \mathrm{IAF}_T(z_{n,0}; h_n); \tag{7}\]

at the root it is used alone. Only `gated_dag_iaf` has the flow, whose output is what
children and decoder see; with T = 0 the two guides are one.

The bound is \(E_{p(c)} E_{q(z|x,c)}[\log p(x|z) + \log p(z|c) - \log q(z|x,c)]\). The gates
have no posterior: model and guide use the same draw of c, one for each particle, and its
log-probabilities cancel. In training the gates are relaxed to
\(c = \mathrm{sigmoid}((\mathrm{logit}\,\mu + \lambda)/\tau)\) with logistic noise
\(\lambda\). In evaluation they are binary, \(c = [\mathrm{logit}\,\mu + \lambda > 0]\),
which is 1 with probability \(\mu\) for every \(\tau\), and importance sampling estimates
\(\log E_c\,p(x|c)\). Training has two phases: first the structure is learned, while
\(\tau\) falls; then each gate is frozen at the likelier of 0 and 1, and all else trains on.

| symbol          | code name            | shape                   | equation in He et al. |
|-----------------|----------------------|-------------------------|-----------------------|
| z_n             | `"z_1"`, ...         | `(batch, latent_dim)`   | 6                     |
| c               | `gates()`            | `(num_edges,)`          | 6                     |
| logit c         | `"gates"`            | `(num_edges,)`          | 6                     |
| mu-hat, sigma-hat | `priors[k](z)`     | `latent_dim` each       | 6                     |
| mu-tilde, sigma-tilde, h | `NodePosterior.net` | `latent_dim` each | 7                   |
| q(z_n)          | `NodePosterior`      | `latent_dim`            | 7                     |

Differences from the papers: a gate is parametrised by its logit, since the gradient of a
clamped probability vanishes at 0 and 1; residual blocks replace batch normalisation, which
would make the bound of a datum depend on its batch; top-down networks (not the decoder)
read z as asinh(z), see `LatentBlock` in `nn/networks.py`; a flow step is the gated one of
`iaf`, g z + (1 - g) m, with a constant gate bias of 2, where the text of the second paper
has mu + sigma z; the scales that networks emit are above `least_scale`, since those of an
unused latent below the root vanish together, and the next step that parts their means
costs 10^13 nats (weights of version 0.1.0 have no such limit); the temperature falls to
0.99^200, as in the paper after 200 epochs, whatever their number here; the second phase
starts from the weights of the first.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.models.flow_guides import iaf
from pyro_vae_zoo.models.gates import (
    FINAL_TEMPERATURE,
    Gates,
    monitor,
    structure_phases,
)
from pyro_vae_zoo.models.ladder import LEAST_SCALE, GaussianLayer, weigh
from pyro_vae_zoo.models.registry import register
from pyro_vae_zoo.models.standard import check_least_scale, positive
from pyro_vae_zoo.nn.likelihoods import make_likelihood
from pyro_vae_zoo.nn.networks import LatentBlock, make_decoder, make_encoder
from pyro_vae_zoo.pair.vae import CLIP_NORM, VAE, Phase
from pyro_vae_zoo.transforms.conditioning import condition_all
from pyro_vae_zoo.transforms.transformed import Transformed

__all__ = [
    "GatedDAGGuide",
    "GatedDAGModel",
    "NodePosterior",
    "TopDown",
]


class TopDown(PyroModule):
    """p(c) and p(z_n | z_pa(n), c): what model and guide share.

    Args:
        gates: c.
        layers: for each node but the root, from the root down, a map from the gated
            parents, side by side, to loc and scale.

    Raises:
        UserError: where there are gates for another number of nodes.
    """

    def __init__(self, gates: Gates, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        num_edges = len(layers) * (len(layers) + 1) // 2
        if len(gates.edges) != num_edges:
            raise UserError(
                f"expected gates on {num_edges} edges, as {len(layers)} layers below the "
                f"root have, got {len(gates.edges)}"
            )
        self.gates = gates
        self.layers = nn.ModuleList(layers)

    def forward(self) -> list[Callable[[list[Tensor]], tuple[Tensor, Tensor]]]:
        """Draw c; then for each node a map from its parents, in order, to its prior."""
        layers = list(self.layers)
        gates = self.gates().split(list(range(1, len(layers) + 1)), -1)
        return [partial(_prior, f, c) for f, c in zip(layers, gates, strict=True)]


def _prior(layer: nn.Module, c: Tensor, parents: list[Tensor]) -> tuple[Tensor, Tensor]:
    gated = c.unsqueeze(-1) * torch.stack(parents, -2)  # c_{i,n} z_i, all i at once
    return layer(gated.flatten(-2))


class GatedDAGModel(PyroModule):
    """p(x, z, c), equation 6.

    Args:
        top_down: the gates and the priors below the root.
        decoder: maps the nodes, root first, to the flat parameters of the likelihood.
        likelihood: maps those to a distribution.
        latent_dim: size of each node.
    """

    def __init__(
        self,
        top_down: TopDown,
        decoder: nn.Module,
        likelihood: nn.Module,
        latent_dim: int,
    ) -> None:
        super().__init__()
        self.top_down = top_down
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent_dim = latent_dim

    def forward(self, x: Tensor) -> Tensor:
        """Draw the gates, the nodes from the root down, then observe x (or draw it)."""
        priors = self.top_down()  # c
        loc, scale = x.new_zeros(len(x), self.latent_dim), 1.0  # p(z_N)
        z: list[Tensor] = []
        with pyro.plate("data", len(x), dim=-1):
            for n in range(len(priors) + 1, 0, -1):
                if z:
                    loc, scale = priors[len(z) - 1](z)  # p(z_n | z_pa(n), c)
                z.append(pyro.sample(f"z_{n}", dist.Normal(loc, scale).to_event(1)))
            p_x = self.likelihood(self.decoder(torch.cat(z, -1)))
            return pyro.sample("x", p_x, obs=x)


class NodePosterior(nn.Module):
    """q(z_n | x, z_pa(n), c), equation 7.

    Args:
        net: maps features of x to mu-tilde, raw sigma-tilde and, for a flow, h_n.
        flow: steps of a flow, each given h_n; none for the Gaussian.
        least: a number that every sigma-tilde is above.
    """

    def __init__(
        self, net: nn.Module, flow: Sequence[nn.Module] = (), least: float = 0.0
    ) -> None:
        super().__init__()
        self.net = net
        self.flow = nn.ModuleList(flow)
        self.least = least

    def forward(
        self, features: Tensor, prior: tuple[Tensor, Tensor] | None
    ) -> dist.Distribution:
        """The distribution, given loc and scale of the prior; None at the root."""
        out = self.net(features)
        loc, raw_scale, *h = out.chunk(3 if self.flow else 2, -1)
        scale = positive(raw_scale) + self.least
        if prior is not None:
            loc, scale = weigh(loc, scale, *prior)
        q = dist.Normal(loc, scale).to_event(1)
        if not self.flow:
            return q
        return Transformed(q, condition_all(self.flow, h[0]))


class GatedDAGGuide(PyroModule):
    """q(z | x, c): down the same graph, with the same gates and priors.

    Args:
        encoder: maps x to features.
        nodes: a `NodePosterior` for each node, root first.
        top_down: that of the model.
    """

    def __init__(
        self, encoder: nn.Module, nodes: Sequence[nn.Module], top_down: TopDown
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.nodes = nn.ModuleList(nodes)
        self.top_down = top_down

    def forward(self, x: Tensor) -> None:
        """Draw the gates and the nodes given x."""
        priors, features = self.top_down(), self.encoder(x)
        nodes = list(self.nodes)
        z: list[Tensor] = []
        with pyro.plate("data", len(x), dim=-1):
            for n, node in zip(range(len(nodes), 0, -1), nodes, strict=True):
                prior = priors[len(z) - 1](z) if z else None
                z.append(pyro.sample(f"z_{n}", node(features, prior)))


def dag(
    make_flow: Callable[[int, int], Sequence[nn.Module]],
    *,
    event_shape: Sequence[int],
    likelihood: str = "bernoulli",
    num_nodes: int = 5,
    latent_dim: int = 16,
    hidden_dims: Sequence[int] = (512, 512, 256),
    node_hidden_dims: Sequence[int] = (128,),
    network: str = "resnet",
    activation: str = "elu",
    structure: str = "learned",
    structure_share: float = 0.25,
    final_temperature: float = FINAL_TEMPERATURE,
    gate_penalty: float = 0.0,
    least_scale: float = LEAST_SCALE,
) -> VAE:
    """A graph of `num_nodes` nodes with `latent_dim` dimensions each.

    `make_flow(latent_dim, context_dim)` gives the steps of a node's flow, or none.
    The decoder is drawn first, then the encoder, as for the other guides.

    Options:
        num_nodes: number of latent nodes.
        latent_dim: size of each node.
        node_hidden_dims: hidden widths of the networks of a node.
        structure: `learned`, or fixed: `full`, `chain` or `independent`.
        structure_share: share of the epochs that learn the structure.
        final_temperature: temperature of the gates at the end, falling from 1.
        gate_penalty: penalty of an open gate, in nats per datum.
        least_scale: a number that the scales of evidence, and of priors below the root,
            are above.
    """
    if num_nodes < 1 or latent_dim < 1:
        raise UserError(
            "num_nodes and latent_dim must be at least 1, got "
            f"{num_nodes} and {latent_dim}"
        )
    check_least_scale(least_scale)
    if structure != "learned":
        _check_unused(structure, structure_share, final_temperature, gate_penalty)
    p_x = make_likelihood(likelihood, event_shape)
    decoder = make_decoder(
        network,
        num_nodes * latent_dim,
        event_shape,
        p_x.num_params,
        hidden_dims,
        activation,
    )
    encoder, num_features = make_encoder(network, event_shape, hidden_dims, activation)
    dense = "resnet" if network == "conv" else network  # of vectors, in a node

    def make_node() -> NodePosterior:
        flow = make_flow(latent_dim, latent_dim)
        # No `Block`, whose outputs start small: evidence that says little is given up
        # before it is learned, since it costs KL from the first step on.
        net, width = make_encoder(dense, (num_features,), node_hidden_dims, activation)
        head = nn.Linear(width, (3 if flow else 2) * latent_dim)
        return NodePosterior(nn.Sequential(net, head), flow, least_scale)

    def make_layer(num_parents: int) -> GaussianLayer:
        in_dims = [num_parents * latent_dim]
        return GaussianLayer(
            LatentBlock(in_dims, 2 * latent_dim, node_hidden_dims, dense, activation),
            least_scale,
        )

    gates = Gates(num_nodes, structure, gate_penalty)
    top_down = TopDown(gates, [make_layer(k) for k in range(1, num_nodes)])
    nodes = [make_node() for _ in range(num_nodes)]
    phases = structure_phases(structure_share, final_temperature, penalty=gate_penalty)
    return VAE(
        GatedDAGModel(top_down, decoder, p_x, latent_dim),
        GatedDAGGuide(encoder, nodes, top_down),
        event_shape,
        phases=(Phase(),) if gates.is_frozen else phases,
        clip_norm=CLIP_NORM,
        monitor=monitor,
    )


def _check_unused(
    structure: str, share: float, final_temperature: float, penalty: float
) -> None:
    is_set = {
        "structure_share": share != 0.25,
        "final_temperature": final_temperature != FINAL_TEMPERATURE,
        "gate_penalty": penalty != 0,
    }
    for name, value in is_set.items():
        if value:
            raise UserError(
                f"{name} is for structure='learned', got structure={structure!r}; "
                "leave out one of them"
            )


@register("gated_dag", options_of=[dag])
def gated_dag(**options: Any) -> VAE:
    """He et al. 2019: a graph of latent nodes whose edges are learned."""
    return dag(lambda latent_dim, context_dim: [], **options)


@register("gated_dag_iaf", options_of=[dag])
def gated_dag_iaf(
    *, num_flows: int = 2, flow_hidden_dims: Sequence[int] = (32, 32), **options: Any
) -> VAE:
    """Benaim & Moradi 2021: a `gated_dag` with an inverse autoregressive flow a node.

    Options:
        num_flows: flow steps at each node.
        flow_hidden_dims: hidden widths of the network of a flow step.
    """
    if num_flows < 0:
        raise UserError(f"num_flows must not be negative, got {num_flows}")
    flow = partial(
        iaf,
        num_flows=num_flows,
        flow_hidden_dims=flow_hidden_dims,
        flow_activation="relu",
    )
    return dag(flow, **options)
