"""`VAE`: the pair of a generative model p and an inference guide q.

A *VAE is a pair*: `vae.model` is p(x, z), `vae.guide` is q(z|x), two `PyroModule`s
whose `forward(x)` takes the same batch `x` of shape `(batch, *event_shape)`. Their
contract, which `pyro_vae_zoo.testing.check_vae` checks:

- latent sites (`"z"`, or `"z_1"` to `"z_N"`) and the observed `"x"` lie inside
  `pyro.plate("data", len(x))`; a model that observes blocks `"x_1"` to `"x_L"` puts
  them together by a method `join(blocks)`;
- a site outside that plate, as the gates of a graph, is drawn from one distribution that
  both sides share, so that its scores cancel;
- the model reads `x` only for length, dtype, device and `obs=`, and goes on with
  what `pyro.sample` returns;
- a module used by both sides is one `PyroModule`; `Shared` makes one of several.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.nn import PyroModule
from pyro.nn.module import to_pyro_module_
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae_zoo.errors import UserError

__all__ = ["VAE", "Phase", "Shared", "latent_sites", "mean_or_draw"]

DATA_DIM = -1  # of `pyro.plate("data", ...)`; particles are one to its left

_numbers = itertools.count()


@dataclass(frozen=True)
class Phase:
    """A stretch of training: which loss moves which modules.

    Attributes:
        name: shown in the progress bar and the metrics.
        share: relative length; `fit` shares its epochs out by it.
        loss: a Pyro ELBO, used as it is; or what makes one, called with those of `fit`'s
            options that it declares (`num_particles`, `bound`, ...); None means the ELBO
            that the options ask for.
        modules: what the optimiser moves; None means everything.
        start: called with the VAE as the phase begins, and not when it is resumed.
        each_epoch: called with the VAE and the part of the phase that is done, in [0, 1),
            as each of its epochs begins or is resumed.

    The decoder alone, then everything, for twice as long:

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("iaf", event_shape=(8, 8), latent_dim=2, hidden_dims=(16,))
    >>> first = Phase("decoder", share=1, modules=(vae.model,))
    >>> vae.phases = (first, Phase("all", share=2))
    """

    name: str = "train"
    share: float = 1.0
    loss: ELBO | Callable[..., ELBO] | None = None
    modules: tuple[nn.Module, ...] | None = None
    start: Callable[["VAE"], None] | None = None
    each_epoch: Callable[["VAE", float], None] | None = None


class Shared(PyroModule):
    """Modules that both sides use, as the one `PyroModule` that the contract asks for.

    Plain modules held by both would be entered twice in Pyro's parameter store, and
    stock `SVI` would give each parameter two optimisers.

    >>> shared = Shared([nn.Linear(2, 2), nn.Linear(2, 2)])
    >>> [type(layer).__name__ for layer in shared()]
    ['Linear', 'Linear']
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self) -> list[nn.Module]:
        """The modules; asking for them enters their parameters, once in a pass."""
        return list(self.layers)


class VAE(nn.Module):
    """A model p(x, z) and a guide q(z|x) that belong together.

    Plain `nn.Module`s are made root `PyroModule`s. Each VAE has names of its own in
    Pyro's parameter store (`vae0.model`, `vae0.guide`, ...), and so has each copy
    and each unpickled one: stock `SVI` trains any number of them side by side. The
    store's entries go when the VAE does.

    Args:
        model: p; `forward(x)` draws the latent sites and observes `"x"`.
        guide: q; `forward(x)` draws the same latent sites.
        event_shape: shape of one datum.
        phases: how `fit` trains it; one phase over everything by default.
        monitor: what else there is to record after each epoch, as entries for its record:
            a function of the VAE.
        config: what `zoo.load` needs to build it again; set by `zoo.create`.

    Example:
        >>> import pyro_vae_zoo as zoo
        >>> vae = zoo.create("iaf", event_shape=(8, 8), likelihood="bernoulli",
        ...                  latent_dim=2, hidden_dims=(16,))
        >>> vae.sample(3).shape, vae.encode(torch.zeros(4, 8, 8)).shape
        (torch.Size([3, 8, 8]), torch.Size([1, 4, 2]))
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        event_shape: Sequence[int],
        *,
        phases: Sequence[Phase] = (Phase(),),
        monitor: Callable[["VAE"], dict] | None = None,
        config: dict | None = None,
    ) -> None:
        super().__init__()
        for name, module in (("model", model), ("guide", guide)):
            if not isinstance(module, nn.Module):
                raise UserError(
                    f"expected the {name} to be an nn.Module, got "
                    f"{type(module).__name__}; a function has no parameters to train"
                )
            # Only the root: Pyro cannot convert its own conditional transforms, whose
            # metaclass differs, and a plain child is registered when it is used.
            to_pyro_module_(module, recurse=False)
        self.model = model
        self.guide = guide
        self.event_shape = tuple(event_shape)
        self.phases = tuple(phases)
        self.monitor = monitor
        self.config = config
        self._take_names()

    def _take_names(self) -> None:
        """Give both sides names in Pyro's parameter store that nobody else has."""
        prefix = f"vae{next(_numbers)}"
        for side, root in (("model", self.model), ("guide", self.guide)):
            # Made for Pyro's local mode it serves the global one too, not vice versa.
            with pyro.settings.context(module_local_params=True):
                context = type(root._pyro_context)()
            for path, module in root.named_modules():
                if isinstance(module, PyroModule):
                    module._pyro_name = ".".join(filter(None, (prefix, side, path)))
                    module._pyro_context = context
        weakref.finalize(self, _forget, prefix + ".").atexit = False

    def __setstate__(self, state: dict) -> None:
        # `copy.deepcopy` and unpickling both come this way.
        super().__setstate__(state)
        self._take_names()

    def __getstate__(self) -> dict:
        # Pyro leaves a weak reference on each parameter it has registered, and a
        # weak reference cannot be pickled; Pyro sets it again when it needs it.
        for p in self.parameters():
            p.__dict__.pop("unconstrained", None)
        return self.__dict__.copy()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def likelihood(self) -> str | None:
        """Name of the likelihood; None for a model of the user's own without one."""
        if self.config is not None:
            return self.config["likelihood"]
        return getattr(getattr(self.model, "likelihood", None), "name", None)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(self.parameters()).dtype

    def _blank(self, n: int) -> Tensor:
        """Stands for data where only the number of them matters."""
        return torch.zeros(n, *self.event_shape, device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """`n` data from the model: z ~ p(z), x ~ p(x|z), shape `(n, *event_shape)`.

        With `mean=True` E[x|z] in place of the last draw: what pictures show. Where a
        model draws something once for all data, as a graph does while its gates are
        learned, all n have it in common.
        """
        if n < 1:
            raise UserError(f"expected a positive number of samples, got {n}")
        generate = poutine.uncondition(self.model)
        with evaluation_mode(self):
            trace = poutine.trace(generate).get_trace(self._blank(n))
            return _observed(self.model, trace, mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x|z] for one z ~ q(z|x) of each datum, shape of `x`.

        A model without latents keeps nothing of x: its draws are of p(x).
        """
        with evaluation_mode(self):
            guide_trace = poutine.trace(self.guide).get_trace(x)
            decode = poutine.replay(poutine.uncondition(self.model), trace=guide_trace)
            return _observed(self.model, poutine.trace(decode).get_trace(x), mean=True)

    @torch.no_grad()
    def encode(self, x: Tensor, num_samples: int = 1) -> Tensor | dict[str, Tensor]:
        """Draws z ~ q(z|x) of shape `(num_samples, len(x), latent_dim)`.

        A guide with several latent sites gives a dictionary of such tensors. What is
        drawn once for all data, as the gates of a graph, is not among them.
        """
        with evaluation_mode(self), pyro.plate("particles", num_samples, dim=-2):
            trace = poutine.trace(self.guide).get_trace(x)
        draws = {
            name: site["value"]
            for name, site in latent_sites(trace).items()
            if in_data_plate(site)
        }
        return draws["z"] if list(draws) == ["z"] else draws


def latent_sites(trace: poutine.Trace) -> dict[str, dict]:
    """The latent sites of a trace by name, without the plates' own ones."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
    }


@contextmanager
def evaluation_mode(*roots: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, each afterwards in that which it was in."""
    modes = {module: module.training for root in roots for module in root.modules()}
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def in_data_plate(site: dict) -> bool:
    """Whether a site has a draw for each datum, and not one that all share."""
    return any(frame.dim == DATA_DIM for frame in site["cond_indep_stack"])


def _forget(prefix: str) -> None:
    store = pyro.get_param_store()
    for name in [name for name in store.keys() if name.startswith(prefix)]:
        del store[name]


def _observed(model: nn.Module, trace: poutine.Trace, mean: bool) -> Tensor:
    """The drawn data, or their means; a model of blocks puts them together."""
    sites = [s for name, s in trace.nodes.items() if name.split("_")[0] == "x"]
    parts = [mean_or_draw(s) if mean else s["value"] for s in sites]
    if hasattr(model, "join"):
        return model.join(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def mean_or_draw(site: dict) -> Tensor:
    """A site's mean; a flow has none in closed form, there the draw stands for it."""
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["value"]
