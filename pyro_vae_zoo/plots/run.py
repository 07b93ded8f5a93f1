"""The pictures of a run."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro import poutine

from pyro_vae_zoo import plots
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.streamed.rows import some
from pyro_vae_zoo.distributions import Mixture
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.ais import AnnealedLikelihood
from pyro_vae_zoo.evaluation.diagnose import Diagnosis
from pyro_vae_zoo.evaluation.importance import LogLikelihood
from pyro_vae_zoo.evaluation.probe import labels_for
from pyro_vae_zoo.files import MISFITS
from pyro_vae_zoo.pair.sites import latent_sites
from pyro_vae_zoo.pair.vae import VAE

__all__ = ["PICTURES", "draw", "draw_diagnosis"]

_MOST_DOTS = 2000  # data of an embedding


def draw(
    folder: Path,
    vae: VAE,
    data: Dataset,
    epochs: Sequence[Mapping[str, Any]],
    result: dict,
) -> None:
    """The pictures of a run; those that need certain latents where they apply."""
    records = [dict(record) for record in epochs]
    x = some(data.test, 1000).to(vae.device)
    spread = x[torch.linspace(0, len(x) - 1, min(64, len(x))).long()]  # of all classes
    title = plots.figure_title(vae, data)
    z = vae.encode(x[:1])
    plane = isinstance(z, torch.Tensor) and z.shape[-1] == 2
    figures: dict[str, Callable] = {
        "samples": lambda: plots.plot_samples(
            vae, len(spread), data=data, beside=spread
        ),
        "training": lambda: plots.plot_training(records, title=title),
    }
    if len(z) > 0:  # a density model has no latents to reconstruct from
        figures["reconstructions"] = lambda: plots.plot_reconstructions(
            vae, spread[:: max(len(spread) // 16, 1)][:16], data=data
        )
    if isinstance(z, dict) and len(z) > 1:
        figures["layers"] = lambda: plots.plot_layers(result, title=title)
        if hasattr(vae.model, "join"):
            figures["growth"] = lambda: plots.plot_growth(vae, data=data)
    if isinstance(z, torch.Tensor):
        figures["traversal"] = lambda: plots.plot_traversal(vae, x[:500], data=data)
        labels, names = labels_for(data, "test", len(data.test))
        if labels is not None and z.shape[-1] > 1:
            figures["embedding"] = lambda: plots.plot_embedding(
                vae,
                data.test[:_MOST_DOTS],
                labels[:_MOST_DOTS],
                names=names,
                data=data,
            )
        if z.shape[-1] > 2:
            figures["posterior"] = lambda: plots.plot_directions(
                vae, spread[:: max(len(spread) // 4, 1)][:4], data=data
            )
    if plane:
        figures["posterior"] = lambda: plots.plot_posterior(vae, x[:4], data=data)
        q = latent_sites(poutine.trace(vae.guide).get_trace(x[:1]))["z"]["fn"]
        if isinstance(q, Mixture) and len(q.components) > 1:
            figures["components"] = lambda: plots.plot_components(vae, x, data=data)
    gates = [record["gates"] for record in records if record.get("gates")]
    if gates:
        figures["graph"] = lambda: plots.plot_graph(vae, title=title)
    if any(0 < p < 1 for by_edge in gates for p in by_edge.values()):  # were learned
        figures["gates"] = lambda: plots.plot_gates(records, title=title)
    for name, figure in figures.items():
        try:
            plots.save_figure(figure(), folder / f"{name}.png")
        except (UserError, *MISFITS) as error:  # a picture is not worth the run
            print(f"{name}.png was not drawn: {error}", file=sys.stderr)


PICTURES = ("particles", "gaps", "correlations")


def draw_diagnosis(
    folder: Path, diagnosis: Diagnosis, vae: VAE, data: Dataset, label: str
) -> None:
    """The pictures of what was found: `particles`, `gaps` and `correlations`."""
    title = plots.figure_title(vae, data)
    levels: dict[str, LogLikelihood | AnnealedLikelihood] = {}
    if diagnosis.annealed:
        settings = diagnosis.annealed
        text = f"annealing: {settings.num_chains} chains, T = {settings.num_temps}"
        levels[text] = settings
    if diagnosis.local:
        local = diagnosis.local
        levels[f"{local.num_particles} particles of a q for each datum"] = local
    figures = {
        "particles": plots.plot_particles(
            {"particles of the guide": diagnosis.curve}, levels, title=title
        )
    }
    if diagnosis.gaps:
        figures["gaps"] = plots.plot_gaps({label: diagnosis.gaps}, title=title)
    if diagnosis.covariances and diagnosis.covariances.covariance.shape[-1] > 1:
        found = diagnosis.covariances
        figures["correlations"] = plots.plot_correlations(found, title=title)
    for name in PICTURES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    for name, figure in figures.items():
        plots.save_figure(figure, folder / f"{name}.png")
