"""Small pairs that the tests share: registry guides, and one whose p(x) is known."""

import itertools
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.standard import AmortizedGuide, FullRankGaussian
from pyro_vae_zoo.nn.likelihoods import MIN_SCALE, GaussianLikelihood
from pyro_vae_zoo.training import loop


def small(name: str, event_shape=(2, 3), **options) -> zoo.VAE:
    """A registry guide with narrow networks and few layers, small flows too."""
    known = zoo.guide_options(name)
    narrow = {"latent_dim": 2, "hidden_dims": (8,), "flow_hidden_dims": (8,)}
    narrow |= {"num_layers": 3, "num_nodes": 3, "node_hidden_dims": (8,)}
    if name in zoo.list_density_models():
        narrow |= {"num_flows": 2}
        options.setdefault("likelihood", "gaussian")
    if options.get("bijector", known.get("bijector")) == "affine":
        del narrow["flow_hidden_dims"]  # which an affine map has none of
        if name in zoo.list_density_models():
            narrow["flow_hidden_dims"] = (8,)  # its data layers have
    options = {k: v for k, v in narrow.items() if k in known} | options
    return zoo.create(name, event_shape=event_shape, **options)


# Guides that draw a mixture, over whose components `AnnealedELBO` takes a sum.
MIXTURES = ("boosted", "mixture", "recursive_mixture")


def others() -> list[str]:
    """The guides whose `AnnealedELBO` is made of the draws that `Trace_ELBO` makes."""
    return [name for name in zoo.list_guides() if name not in MIXTURES]


# A guide of each family, for what takes long and is much the same for its others.
FAMILIES = ("mean_field", "iaf", "sylvester_householder", "recursive_mixture", "ladder")
FAMILIES += ("gated_dag", "maf")


def quick(cases, *kept) -> list:
    """The cases of a parametrised test, all but the kept marked as slow."""
    slow = pytest.mark.slow
    return [c if c in kept else pytest.param(c, marks=slow) for c in cases]


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Runs and diagnoses of this process draw nothing: most of a small one's time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw", "draw_diagnosis"):
            patch.setattr(f"pyro_vae_zoo.plots.run.{name}", lambda *_: None)
        yield


def one_latent() -> list[str]:
    """The guides on the standard model, whose only latent site is z."""
    standard = zoo.StandardModel
    return [n for n in zoo.list_guides() if isinstance(small(n).model, standard)]


# The priors, small, and the guides that the prior `vamp` can be made of.
SMALL_PRIORS = {
    "standard": {},
    "mixture": {"prior_components": 3},
    "vamp": {"pseudo_inputs": 4},
    "flow": {"prior_num_flows": 2, "prior_hidden_dims": (8,)},
}
LEARNED = [name for name in SMALL_PRIORS if name != "standard"]
VAMPS = ("mean_field", "full_rank", "householder", "planar", "radial", "mixture")
VAMPS += ("affine_coupling", "spline_coupling")


def with_prior(prior: str, guide: str = "mean_field", **options) -> zoo.VAE:
    """A small pair of a guide and a prior, the same each time."""
    torch.manual_seed(0)
    return small(guide, prior=prior, **(SMALL_PRIORS[prior] | options))


def pairs_of_both() -> list[str]:
    """Each learned prior with each guide that it can be with, as `prior:guide`."""
    both = itertools.product(LEARNED, one_latent())
    return [f"{p}:{g}" for p, g in both if p != "vamp" or g in VAMPS]


def perturb(module: nn.Module, scale: float = 1.0) -> None:
    """Move weights by 1/sqrt(fan_in), biases by 0.3: their size when trained."""
    with torch.no_grad():
        for p in module.parameters():
            step = 0.3 if p.ndim < 2 else p.shape[-1] ** -0.5
            p.add_(scale * step * torch.randn_like(p))


def graphs_as_traced(monkeypatch, module) -> list:
    """Let a module compile nothing; the list of graphs that it traces."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(module, "inductor", keep)
    return graphs


def interrupt_at(monkeypatch, *stops, number=signal.SIGINT):
    """Have trainings send themselves a signal at these steps, counted from 0."""
    step, steps, stops = loop.Loop._step, itertools.count(), list(stops)

    def interrupting(self, x):
        # One that is stopped takes the step that it was about to take.
        if stops and next(steps) == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), number)
        return step(self, x)

    monkeypatch.setattr(loop.Loop, "_step", interrupting)


def check_resumes_in_every_phase(make, data, options, folder, monkeypatch) -> None:
    """Trainings of `make()` with an interrupt in each phase's last epoch, of two steps.

    They end as one that is left alone does, bit for bit.
    """
    whole = make()
    expected = zoo.fit(whole, data, **options)
    phases = [record["phase"] for record in expected.epochs]
    assert list(dict.fromkeys(phases)) == [phase.name for phase in whole.phases]
    last = {name: epoch for epoch, name in enumerate(phases)}
    stops = [2 * epoch + 1 for epoch in last.values()]
    interrupt_at(monkeypatch, *stops)
    resumed = 0
    while True:
        parts = make()
        with torch.no_grad():  # everything is to come from the checkpoint
            for p in parts.parameters() if resumed else ():
                p.add_(1.0)
        try:
            got = zoo.fit(parts, data, out=folder, resume=True, **options)
            break
        except KeyboardInterrupt:
            resumed += 1
    assert resumed == len(whole.phases)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    for a, b in zip(got.epochs, expected.epochs, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


class LinearGaussian:
    """z ~ N(0, I), x = W z + b + noise: log p(x) and p(z|x) in closed form."""

    def __init__(self, weight: Tensor, bias: Tensor, scale: float) -> None:
        self.weight, self.bias, self.scale = weight.double(), bias.double(), scale
        self.event_dim, self.latent_dim = weight.shape
        noise = scale**2 * torch.eye(self.event_dim).double()
        covariance = self.weight @ self.weight.T + noise
        self.marginal = dist.MultivariateNormal(self.bias, covariance)
        precision = self.weight.T @ self.weight / scale**2
        self.precision = precision + torch.eye(self.latent_dim).double()
        self.covariance = self.precision.inverse()
        self.gain = self.covariance @ self.weight.T / scale**2

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z|x)."""
        loc = (x - self.bias) @ self.gain.T
        return dist.MultivariateNormal(loc, self.covariance)

    @property
    def mean_field_gap(self) -> float:
        """log p(x) - ELBO of the best diagonal Gaussian: KL(q || p(z|x)).

        That has the posterior's mean and the precisions' diagonal.
        """
        log_diagonal = self.precision.diagonal().log().sum()
        return 0.5 * (log_diagonal - self.precision.logdet()).item()

    def model(self) -> zoo.StandardModel:
        """p(x, z), its parameters at the truth; train the guide's only."""
        decoder = nn.Linear(self.latent_dim, self.event_dim)
        likelihood = GaussianLikelihood((self.event_dim,))
        model = zoo.StandardModel(decoder, likelihood, self.latent_dim).double()
        with torch.no_grad():
            decoder.weight.copy_(self.weight)
            decoder.bias.copy_(self.bias)
            likelihood.raw_scale.fill_(math.log(math.expm1(self.scale - MIN_SCALE)))
        return model

    def gaussian_guide(self, widen: float = 1.0, shift: float = 0.0) -> AmortizedGuide:
        """The exact posterior, or a wider and shifted one, as the `full_rank` guide."""
        d = self.latent_dim
        posterior = FullRankGaussian(self.event_dim, d).double()
        factor = widen * torch.linalg.cholesky(self.covariance)
        raw_scale = torch.log(torch.expm1(factor.diagonal() - 1e-6))
        i, j = torch.tril_indices(d, d, -1)
        with torch.no_grad():
            for p in posterior.parameters():
                p.zero_()
            posterior.diagonal.weight[:d] = self.gain
            posterior.diagonal.bias[:d] = shift - self.gain @ self.bias
            posterior.diagonal.bias[d:] = raw_scale - math.log(math.expm1(1.0))
            if d > 1:
                posterior.lower.bias.copy_(d**0.5 * factor[i, j] / factor.diagonal()[j])
        return AmortizedGuide(nn.Identity(), posterior)

    def vae(self, guide: nn.Module | None = None) -> zoo.VAE:
        """The true model with a guide, the exact posterior by default."""
        guide = self.gaussian_guide() if guide is None else guide
        return zoo.VAE(self.model(), guide, (self.event_dim,))


def linear_gaussian(latent_dim: int = 2, event_dim: int = 4) -> LinearGaussian:
    """A `LinearGaussian` of moderate noise, the same each time."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(event_dim, latent_dim, generator=generator)
    bias = torch.randn(event_dim, generator=generator)
    return LinearGaussian(weight, bias, scale=0.5)


def seeded(loss, vae, x):
    """The loss and the gradients under one seed."""
    torch.manual_seed(7)
    vae.zero_grad()
    value = loss(vae.model, vae.guide, x)
    value.backward()
    gradients = [p.grad.clone() for p in vae.parameters() if p.grad is not None]
    return value.detach(), gradients
