r"""A page on which the latent space of a trained pair is explored in a browser.

One file, without a server and without the network: the decoder's weights are in it, in 16
bits, and its script decodes whatever z is pointed at. Of a decoder or a likelihood that it
does not know it has what was decoded in the plane. The plane is that of z where z has
two dimensions; else it is that of the first two principal axes of the codes
\(m_i = E_{q(z|x_i)}[z]\),

\[z = c + A^\top u, \qquad c = \tfrac1N \sum_i m_i, \qquad
  \tfrac1N \sum_i (m_i - c)(m_i - c)^\top = A^\top \mathrm{diag}(\lambda)\, A,\]

with the variances \(\lambda\) falling. All that is drawn is in the coordinates u, of which
the plane has two and sliders the others; A is orthogonal, so that nothing is stretched.
For some data there are draws of q(z|x) and what importance sampling makes of them; where z
has two dimensions also the outlines of q(z|x) and of the exact p(z|x).
"""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.scales import UNIT, Scale, range_note, scale_of
from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.probe import labels_for
from pyro_vae_zoo.evaluation.statistics import principal_axes
from pyro_vae_zoo.explorer import decoder as portable
from pyro_vae_zoo.explorer.decoder import NoSuchStep
from pyro_vae_zoo.explorer.posteriors import (
    MASSES,
    add_outlines,
    draws_of,
    posteriors_of,
)
from pyro_vae_zoo.explorer.tables import decoded, table_of
from pyro_vae_zoo.files import finite, write_atomically
from pyro_vae_zoo.options import count
from pyro_vae_zoo.pair.door import apart, sides_and_data, units_of
from pyro_vae_zoo.pair.draws import means_of
from pyro_vae_zoo.pair.modes import evaluating
from pyro_vae_zoo.pair.sites import in_data_plate, latent_sites
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import check_seed

__all__ = ["explore", "page_contents", "page_of"]

_MOST_ROWS = 10_000  # data of which the page has the codes, where not all are in memory
_TOLERANCE = 0.02  # of decoded means, for weights of 16 bits


@apart
def explore(
    vae: VAE,
    x: Tensor,
    path: str | os.PathLike,
    *,
    data: Dataset | str | None = None,
    split: str = "test",
    labels: Sequence[int] | Tensor | None = None,
    classes: Sequence[str] | None = None,
    num_data: int = 50,
    num_samples: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a page that explores the latent space of a pair in a browser.

    Args:
        vae: a pair of one latent vector `"z"`.
        x: data, shape `(n, *event_shape)`: their codes are the dots of the plane. Of data
            that are not in memory they are those of the first 10,000.
        path: the file to write, `.html`.
        data: names them, and knows how to draw them.
        split: what the page says that they are.
        labels: class of each datum, a number from 0: its dot's colour. By default those
            that `data` have of the split, where `x` are all of it.
        classes: names of the classes.
        num_data: how many of the data have their posterior on the page.
        num_samples: draws of q(z|x) for each of them.
        seed: of their choice and of all draws.
        progress: show progress bars.

    Returns:
        The path.

    Raises:
        UserError: for a hierarchy, a graph or a density model, for fewer than two latent
            dimensions, decoded means that are not finite, and for labels that do not match
            the data.

    >>> import tempfile, pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits")
    >>> vae = zoo.create("iaf", data, latent_dim=3, hidden_dims=(16,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = zoo.explore(vae, data.test, folder + "/page.html", data=data)
    ...     page.read_text()[:15]
    '<!doctype html>'
    """
    contents = page_contents(
        vae, x, data, split, labels, classes, num_data, num_samples, seed, progress
    )
    write_atomically(path, page_of(contents).encode())
    return Path(path)


def page_contents(
    vae: VAE,
    x: Tensor,
    data: Dataset | str | None = None,
    split: str = "test",
    labels: Sequence[int] | Tensor | None = None,
    classes: Sequence[str] | None = None,
    num_data: int = 50,
    num_samples: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """The contents of the page, as JSON would have them but for numpy's arrays.

    Arguments and errors of `explore`. Of D latents and N data, the keys are `layers` of
    the decoder (see `decoder`), `table`, the reason where these are one, `shape` of a
    datum, `(n,)` or `(channels, H, W)`, `limits` between which it is drawn (see
    `scales`), `centre` `(D,)` and `axes` `(D, D)`, `sd` `(D,)` along them, `codes`
    `(N, 2)`, `labels` `(N,)`, and for each of `data` its `index`, `image` (its values, or
    8 bits for those from 0 to 1), `code` `(D,)` and `draws` `(num_samples, D)` less the
    code, both in coordinates u, its `elbo`, `log_prob` and `khat`, and where D is two
    `exact`, `guide` and `gap`.
    """
    from pyro_vae_zoo.plots import figure_title

    check_seed(seed)
    num_data = count("num_data", num_data)
    num_samples = count("num_samples", num_samples)
    if labels is None and isinstance(data, Dataset):
        labels, classes = labels_for(data, split, len(x))
    names = _class_names(labels, classes, len(x))
    units = units_of(data) if isinstance(data, Dataset) else 0.0
    _, _, x, _ = sides_and_data(vae, x)
    if isinstance(x, Rows):  # of which a page has no more than these
        x = x[:_MOST_ROWS]
        labels = None if labels is None else labels[:_MOST_ROWS]
    _check_shown(vae, x)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(x), generator=generator)[:num_data].sort().values
    with evaluating(vae.model, vae.guide, vae.device, seed):
        codes = vae.embed(x).double().cpu()
    means = decoded(vae, codes[:1000], data)
    draws, log_weights = draws_of(vae, x[chosen], num_samples, seed, progress)
    log_weights = log_weights + units
    codes[chosen] = draws.mean(1)
    centre, axes, sd = principal_axes(codes)
    table = ""
    try:
        layers, error = _live(vae, codes[:1000], data)
    except NoSuchStep as reason:
        step, error = table_of(vae, data, centre, axes[:2], codes[:1000])
        layers, table = [step], str(reason)
    posteriors = posteriors_of(draws, log_weights, centre, axes)
    if codes.shape[1] == 2:
        add_outlines(vae, x[chosen], posteriors, seed, progress)
    pixels = data.pixels(x) if isinstance(data, Dataset) else x
    shape = list(pixels.shape[1:])
    known = data if isinstance(data, Dataset) else pixels
    scale = scale_of(known, pixels[chosen], means, likelihood=vae.likelihood)
    for i, posterior in zip(chosen.tolist(), posteriors, strict=True):
        posterior |= {"index": i, "image": _stored(pixels[i], scale)}
    return {
        "title": figure_title(vae),
        "about": _about(data, split, codes),
        "shape": shape if len(shape) == 1 else [1, *shape][-3:],
        "limits": list(scale),
        "decoded": _name_of_mean(vae, data),
        "note": range_note(scale, tuple(shape)),
        "layers": layers,
        "table": table,
        "error": error,
        "centre": _float(centre),
        "axes": _float(axes),
        "sd": _float(sd),
        "codes": _float((codes - centre) @ axes[:2].T),
        "labels": None if labels is None else np.asarray(labels, np.uint16),
        "classes": names,
        "masses": list(MASSES),
        "num_samples": num_samples,
        "seed": seed,
        "data": posteriors,
    }


def page_of(contents: dict[str, Any]) -> str:
    """The page as HTML, for what `page_contents` has found.

    Texts are escaped, and a Content-Security-Policy allows the page its own script and
    style, by their digests, and nothing else: no request leaves it.
    """
    script = "".join(map(_part, ("decoder.js", "values.js", "drawing.js", "page.js")))
    style = _part("style.css")
    text = json.dumps(finite(contents), default=portable.pack, allow_nan=False)
    values = {
        "title": html.escape(contents["title"]),
        "contents": text.replace("<", "\\u003c"),  # `</script>` would end it
        "script": script,
        "script_digest": _digest(script),
        "style": style,
        "style_digest": _digest(style),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _part("index.html"))


# ------------------------------------------------------------------------- the decoder


def _check_shown(vae: VAE, x: Tensor) -> None:
    """Raise a `UserError` for a pair that has no plane of latents, or is diverged."""
    for name, p in vae.named_parameters():
        if not p.isfinite().all():
            raise UserError(
                f"the weights {name} are not finite; did the training diverge?"
            )
    with evaluating(vae.model, vae.guide, vae.device, seed=0):
        sites = latent_sites(poutine.trace(vae.guide).get_trace(x[:1].to(vae.device)))
    shapes = {n: tuple(s["value"].shape[1:]) for n, s in sites.items()}
    found = ", ".join(f"{name!r} of {shape}" for name, shape in shapes.items())
    if [*shapes] != ["z"] or not in_data_plate(sites["z"]) or len(shapes["z"]) != 1:
        raise UserError(
            "the page needs a pair of one latent vector 'z', got latents "
            f"{found or 'none'}; hierarchies, graphs and density models have no such "
            "page"
        )
    if shapes["z"][0] < 2:
        raise UserError(
            f"the page needs at least two latent dimensions, got {found}; train with "
            "--latent-dim 2 or more"
        )


def _live(
    vae: VAE, codes: Tensor, data: Dataset | str | None
) -> tuple[portable.Layers, float]:
    """The steps from z to the mean, and how far they are off at most at codes of data.

    Raises:
        NoSuchStep: for a model that is none of a decoder and a likelihood of known steps,
            and where the steps' mean is another than the model's.
        UserError: for weights that 16 bits do not hold.
    """
    logit, units = None, None
    if isinstance(data, Dataset):
        logit = data.logit
        if (known := data.standardisation) is not None:
            units = _float(known.scale_of_each), _float(known.mean_of_each)
    decoder, likelihood = (
        getattr(vae.model, name, None) for name in ("decoder", "likelihood")
    )
    if not (isinstance(decoder, nn.Module) and isinstance(likelihood, nn.Module)):
        raise NoSuchStep(
            f"the page does not support a {type(vae.model).__name__}: it has no "
            "decoder and likelihood"
        )
    mean = portable.mean_layers(likelihood, logit, units)
    with evaluating(vae.model, vae.guide, vae.device, seed=0):
        layers = portable.layers_of(decoder, codes[:1].to(vae.device, vae.dtype)) + mean
    means = decoded(vae, codes, data).double().numpy()
    error = np.abs(portable.apply(layers, codes.numpy()) - means).max()
    if not error <= _TOLERANCE * max(1, np.abs(means).max()):
        raise NoSuchStep(
            f"with weights of 16 bits the decoded means would be off by {error:.2g}"
        )
    return layers, float(error)


# ------------------------------------------------------------------------------ texts


def _class_names(
    labels: Sequence[int] | Tensor | None, classes: Sequence[str] | None, num_data: int
) -> list[str]:
    if labels is None:
        return []
    if len(labels) != num_data:
        raise UserError(f"expected {num_data} labels, one a datum, got {len(labels)}")
    highest = max(map(int, labels))
    names = list(map(str, range(highest + 1) if classes is None else classes))
    if min(map(int, labels)) < 0 or highest >= len(names):
        raise UserError(
            f"expected labels from 0 to {len(names) - 1}, the number of a class, got "
            f"{min(map(int, labels))} to {highest}"
        )
    return names


def _about(data: Dataset | str | None, split: str, codes: Tensor) -> str:
    num_data, latent_dim = codes.shape
    if isinstance(data, Dataset):
        data = f"{data.name} ({data.variant})"
    return (
        f"{data or 'custom data'}, {split} split, {num_data:,} data; z of {latent_dim}"
    )


def _name_of_mean(vae: VAE, data: Dataset | str | None) -> str:
    """The name of a decoded mean; the pixel of one, of dequantised data, is a median."""
    with evaluating(vae.model, vae.guide, vae.device, 0):
        if not means_of(vae)[1]:
            return "draw of x | z"
    dequantised = isinstance(data, Dataset) and data.logit is not None
    return "median of x | z" if dequantised else "E[x | z]"


def _stored(pixels: Tensor, scale: Scale) -> np.ndarray:
    """A datum on the page: 8 bits for an image on the scale [0, 1], else as it is."""
    values = pixels.detach().double().cpu().numpy()
    if scale == UNIT and values.ndim > 1:
        return (255 * values.clip(0, 1)).round().astype(np.uint8)
    return values.astype(np.float32)


def _float(values: Tensor) -> np.ndarray:
    return values.float().numpy()


def _part(name: str) -> str:
    """A file that the page is put together of."""
    return (Path(__file__).parent / "web" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The name of a script or a style in the page's policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
