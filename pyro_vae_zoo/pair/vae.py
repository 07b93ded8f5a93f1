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
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from pyro.nn import PyroModule
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from pyro_vae_zoo.data.checks import as_batch, check_images
from pyro_vae_zoo.data.streamed.rows import Rows, mapped
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.nn.likelihoods import Likelihood
from pyro_vae_zoo.nn.names import LIKELIHOODS
from pyro_vae_zoo.options import count, real, sizes_of
from pyro_vae_zoo.pair import draws
from pyro_vae_zoo.pair.modes import local_context, ordinary

__all__ = ["CLIP_NORM", "VAE", "Phase", "Shared"]

CLIP_NORM = 100.0  # of hierarchies, graphs and splines

_numbers = itertools.count()

# Of a guide with one latent vector its draws, of another one a dictionary of them.
Codes = TypeVar("Codes", Tensor, dict[str, Tensor])


@dataclass(frozen=True)
class Phase:
    """A stretch of training: which loss moves which modules.

    Attributes:
        name: shown in the progress bar and the metrics.
        share: relative length; `fit` shares its epochs out by it.
        loss: a Pyro ELBO with a `differentiable_loss`, used as it is; or what makes one,
            called with those of `fit`'s options that it declares (`num_particles`,
            `bound`, ...); None means the ELBO that the options ask for. An option that
            it would not be told of is refused.
        modules: what the optimiser moves; None means everything.
        start: called with the VAE as the phase begins, and not when it is resumed: a
            checkpoint has parameters, which of them are frozen (`requires_grad`), and
            buffers, but no other attribute that it may set.
        each_epoch: called with the VAE and the part of the phase that is done, in [0, 1),
            as each of its epochs begins or is resumed.
        hands_on: the weights that the next phase begins with: `last`, of its last epoch,
            or `best`, of the one with the highest validation ELBO, where this is what the
            phase trains. Under `fit`'s `keep="last"` all hand on the last.

    Raises:
        UserError: for a share that is negative or infinite, a loss that is none, modules
            that are none, and other weights to hand on.

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
    hands_on: str = "last"

    def __post_init__(self) -> None:
        if self.hands_on not in ("best", "last"):
            raise UserError(
                f"hands_on of a phase must be best or last, got {self.hands_on!r}"
            )
        if not 0 <= real("share of a phase", self.share) < math.inf:
            raise UserError(
                f"share of a phase: expected a number from 0, got {self.share}"
            )
        makes_one = callable(self.loss) and not isinstance(self.loss, nn.Module)
        if not (self.loss is None or isinstance(self.loss, ELBO) or makes_one):
            raise UserError(
                "loss of a phase: expected an ELBO of Pyro, or what makes one, got "
                f"{self.loss!r}"
            )
        if self.modules is None:
            return
        given = self.modules
        modules = tuple(given) if isinstance(given, Iterable) else (None,)
        if not all(isinstance(m, nn.Module) for m in modules):
            raise UserError(
                "modules of a phase: expected a tuple of modules, as (vae.model,), got "
                f"{type(given).__name__}"
            )
        object.__setattr__(self, "modules", modules)  # it may be a generator


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


class VAE(nn.Module, Generic[Codes]):
    """A model p(x, z) and a guide q(z|x) that belong together.

    Plain `nn.Module`s are made root `PyroModule`s. Each VAE has names of its own in
    Pyro's parameter store (`vae0.model`, `vae0.guide`, ...), and so has each copy
    and each unpickled one: stock `SVI` trains any number of them side by side. The
    store's entries go when the VAE does.

    A type checker knows by `VAE[Tensor]` or `VAE[dict[str, Tensor]]` what `encode` gives,
    one latent vector or several sites; a plain `VAE` leaves it open.

    Args:
        model: p; `forward(x)` draws the latent sites and observes `"x"`.
        guide: q; `forward(x)` draws the same latent sites.
        event_shape: shape of one datum.
        phases: how `fit` trains it; one phase over everything by default.
        clip_norm: norm to which `fit` clips the gradient of the mean loss where it is not
            told; 0: it does not clip. A hierarchy needs it for the rare batch whose
            gradient would throw a training off.
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
        self: "VAE[Any]",
        model: nn.Module,
        guide: nn.Module,
        event_shape: Sequence[int],
        *,
        phases: Sequence[Phase] = (Phase(),),
        clip_norm: float = 0.0,
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
        self.event_shape = sizes_of(event_shape)
        self.phases = tuple(phases)
        self.clip_norm = clip_norm
        self.monitor = monitor
        self.config = config
        self._take_names()

    def _take_names(self) -> None:
        """Give both sides names in Pyro's parameter store that nobody else has."""
        prefix = f"vae{next(_numbers)}"
        for side, root in (("model", self.model), ("guide", self.guide)):
            context = local_context()
            for path, module in root.named_modules():
                if isinstance(module, PyroModule):
                    module._pyro_name = ".".join(filter(None, (prefix, side, path)))
                    module._pyro_context = context
                    _take_over(module)
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

    def __repr__(self) -> str:
        """One line; `print(vae.model)` and `print(vae.guide)` show the modules."""
        guide = (self.config or {}).get("guide") or type(self.guide).__name__
        count = sum(p.numel() for p in self.parameters())
        return (
            f"VAE({str(guide)!r}, {self.event_shape}, {self.likelihood!r}, "
            f"{count:,} parameters)"
        )

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def likelihood(self) -> str | None:
        """Name of the likelihood, if it is one of the zoo's or has been given one."""
        if self.config is not None:
            return self.config["likelihood"]
        own = getattr(self.model, "likelihood", None)
        name = getattr(own, "name", None)
        # A module of the user's may have a name of the zoo's, and other data.
        return name if name not in LIKELIHOODS or isinstance(own, Likelihood) else None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(self.parameters()).dtype

    def _blank(self, n: int) -> Tensor:
        """Zeros in place of data where only the number of them matters."""
        return torch.zeros(n, *self.event_shape, device=self.device, dtype=self.dtype)

    def check_data(self, x: Tensor | np.ndarray) -> Tensor:
        """Data as the pair takes them: of its event shape, in its dtype.

        Values are checked by the likelihood's name, where it is one of the zoo's.

        Raises:
            UserError: for another shape, and for data that the likelihood cannot score.

        >>> import pyro_vae_zoo as zoo
        >>> vae = zoo.create("mean_field", event_shape=(2,), latent_dim=1)
        >>> vae.check_data(np.array([[True, False]]))
        tensor([[1., 0.]])
        """
        x = mapped(x)
        if isinstance(x, Rows):  # each part of them, where it is read
            return cast(Tensor, replace(x, finish=self.check_data))
        if self.likelihood in LIKELIHOODS:
            x = check_images(x, self.event_shape, self.likelihood)
        else:
            x = as_batch(x, self.event_shape)
        return ordinary(x.to(self.dtype))

    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """`n` data from the model: z ~ p(z), x ~ p(x|z), shape `(n, *event_shape)`.

        With `mean=True` E[x|z] in place of the last draw: what pictures show. Where p(x|z)
        has no mean in closed form, as of a flow, it is the draw after all. A model that
        draws x block by block gives E[x_l|z_l, x_{l-1}], each block's mean given the block
        that was *drawn* before it. Where a model draws something once for all data, as a
        graph does while its gates are learned, all n have it in common.

        Raises:
            UserError: for fewer than one sample.
        """
        return draws.samples(self, n, mean)

    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x|z] for one z ~ q(z|x) of each datum, shape of `x`, on the VAE's device.

        A model that draws x block by block gives E[x_l|z_l, x_{l-1}], each block's mean
        given the block that was *drawn* before it, not that of the data. A model without
        latents keeps nothing of x: its draws are of p(x).

        Raises:
            UserError: for data that the likelihood cannot score.
        """
        return draws.reconstructions(self, self.check_data(x))

    def encode(self, x: Tensor, num_samples: int = 1) -> Codes:
        """Draws z ~ q(z|x) of shape `(num_samples, len(x), latent_dim)`.

        A guide with several latent sites gives a dictionary of such tensors. What is
        drawn once for all data, as the gates of a graph, is not among them.

        Raises:
            UserError: for data that the likelihood cannot score, and for no samples.
        """
        found = draws.codes(self, self.check_data(x), num_samples)
        return cast(Codes, found["z"] if list(found) == ["z"] else found)

    def embed(self, x: Tensor, num_samples: int = 100) -> Tensor:
        """E[z] under q(z|x) of each datum, `(len(x), latent_dim)`: what to plot or probe.

        In closed form where there is one, else the mean over `num_samples` draws.

        Raises:
            UserError: for guides of other latents than one vector, and for data that the
                likelihood cannot score.

        >>> import pyro_vae_zoo as zoo
        >>> vae = zoo.create("iaf", event_shape=(8, 8), latent_dim=2, hidden_dims=(16,))
        >>> vae.embed(torch.zeros(4, 8, 8)).shape
        torch.Size([4, 2])
        """
        return draws.embeddings(self, self.check_data(x), num_samples)

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z] for latents `(n, latent_dim)`, shape `(n, *event_shape)`.

        Raises:
            UserError: for models of other latents than one vector, and z of another size.
        """
        z = torch.as_tensor(z)
        return draws.decoded(self, ordinary(z.to(self.device, self.dtype)))

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        """E[x|z] on the line between the embeddings of two data, ends included.

        Args:
            a: a datum, shape `event_shape`.
            b: another one.
            steps: how many there are, at least two.

        Returns:
            `(steps, *event_shape)`.

        Raises:
            UserError: as `embed` and `decode`.
        """
        steps = count("steps", steps, least=2)
        ends = torch.stack([torch.as_tensor(x) for x in (a, b)])
        first, last = self.embed(ends).unbind(0)
        share = torch.linspace(0, 1, steps, device=first.device, dtype=first.dtype)
        return self.decode(torch.lerp(first, last, share[:, None]))

    def sample_prior(self, n: int) -> Tensor:
        """`n` draws of p(z), `(n, latent_dim)`.

        Raises:
            UserError: for models of other latents than one vector, and fewer than one draw.
        """
        return draws.prior_draws(self, n)


def _take_over(module: PyroModule) -> None:
    """Have a module's own parameters in Pyro's store by their new names alone.

    Frozen ones are entered now: the store unfreezes whatever is new to it.
    """
    store = pyro.get_param_store()
    own = dict(module.named_parameters(recurse=False))
    for former in [store.param_name(p) for p in own.values()]:
        if former is not None:
            del store[former]
    for name, p in own.items():
        if p.is_floating_point() and not p.requires_grad:
            with module._pyro_context:
                getattr(module, name).requires_grad_(False)


def _forget(prefix: str) -> None:
    store = pyro.get_param_store()
    for name in [name for name in store.keys() if name.startswith(prefix)]:
        del store[name]
