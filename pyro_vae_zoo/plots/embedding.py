"""The embeddings of data, in the colours of their classes."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.statistics import principal_axes
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.plots.style import (
    COLOURS,
    INK,
    Look,
    add_legend,
    dress,
    figure_title,
    key_of,
    make_figure,
)

__all__ = ["plot_embedding"]

_MARKERS = "o^sDv"  # one for each round through the colours
_MOST = len(COLOURS) * len(_MARKERS)


def plot_embedding(
    vae: VAE,
    x: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    num_samples: int = 50,
    seed: int = 0,
    data: Dataset | str | None = None,
) -> Figure:
    r"""E[z] under q(z|x) of each datum, on the plane of z or of its principal axes.

    Of two latents the plane is theirs, of more the two directions of the largest variance
    over the data, of which the axes name the share.

    Args:
        vae: a pair of one latent vector of two dimensions at least.
        x: data, shape `(n, *event_shape)`.
        labels: class of each datum, a number from 0: its colour and marker.
        names: of the classes; the numbers by default.
        num_samples: draws for each datum where E[z] has no closed form.
        seed: of these.
        data: names them in the title.

    Raises:
        UserError: for other latents, and labels that do not match the data.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("mean_field", data, latent_dim=3, hidden_dims=(16,))
    >>> plot_embedding(vae, data.test, data=data).axes[0].get_xlabel()[:18]
    'principal axis 1: '
    """
    x = vae.check_data(x)
    classes = _classes(labels, names, len(x))
    with evaluating(vae.model, vae.guide, vae.device, seed):
        codes = vae.embed(x, num_samples).cpu()
    if codes.shape[1] < 2:
        raise UserError(
            "expected at least two latent dimensions, to draw a plane; got one"
        )
    centre, axes, sd = principal_axes(codes)
    u = (codes.double() - centre) @ axes[:2].T
    fig = make_figure(6.4, 5.2, "Embedding: " + figure_title(vae, data))
    ax = fig.subplots()
    dots: Look = {"ls": "", "ms": 4 if len(x) <= 2000 else 2, "alpha": 0.7, "mew": 0}
    looks: dict[str, Look] = {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": _MARKERS[i // len(COLOURS)],
        }
        for i, name in enumerate(classes or ["data"])
    }
    for name, look in looks.items():
        rows = classes.get(name, slice(None))
        ax.plot(u[rows, 0], u[rows, 1], **look, **dots)
    shares = (100 * sd.square() / sd.square().sum()).tolist()
    axis = "principal axis {}: {:.0f} % of the variance"
    names = [axis.format(i + 1, shares[i]) for i in (0, 1)]
    dress(ax, "", *(["$z_1$", "$z_2$"] if codes.shape[1] == 2 else names))
    ax.set_aspect("equal", adjustable="datalim")
    if classes:
        keys = [key_of(name[:24], ls="", **look) for name, look in looks.items()]
        add_legend(fig, keys, loc="outside right upper", labelcolor=INK)
    return fig


def _classes(
    labels: Tensor | Sequence[int] | None, names: Sequence[str] | None, num_data: int
) -> dict[str, Tensor]:
    """The rows of each class that there is, by its name; nothing without labels."""
    if labels is None:
        return {}
    values = torch.as_tensor(labels).cpu()
    if values.shape != (num_data,):
        raise UserError(f"expected {num_data} labels, one a datum, got {len(values)}")
    highest = int(values.max())
    names = list(map(str, range(highest + 1))) if names is None else list(names)
    if values.min() < 0 or highest >= min(len(names), _MOST):
        raise UserError(
            f"expected labels from 0 to {min(len(names), _MOST) - 1}, got "
            f"{int(values.min())} to {highest}; more than {_MOST} classes are too many "
            "for a picture"
        )
    names = [name.replace("$", r"\$") for name in names]  # dollars make no formulas
    return {name: values == i for i, name in enumerate(names) if (values == i).any()}
