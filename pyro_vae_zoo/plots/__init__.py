"""Figures of data, trainings, posteriors and results.

Each function returns a `matplotlib.figure.Figure`, which `save_figure` writes.
Functions that run a VAE take a seed, leave the caller's random state as it was, and
name the guide, and the data where they are told, in the title. No other folder of the
package imports matplotlib, and this one never uses its global state.
"""

from pyro_vae_zoo.plots.components import plot_components
from pyro_vae_zoo.plots.directions import plot_directions
from pyro_vae_zoo.plots.embedding import plot_embedding
from pyro_vae_zoo.plots.estimates import plot_correlations, plot_gaps, plot_particles
from pyro_vae_zoo.plots.graph import plot_gates, plot_graph
from pyro_vae_zoo.plots.hierarchy import plot_growth, plot_layers
from pyro_vae_zoo.plots.images import (
    plot_images,
    plot_reconstructions,
    plot_samples,
    plot_traversal,
)
from pyro_vae_zoo.plots.posterior import plot_posterior
from pyro_vae_zoo.plots.results import plot_result
from pyro_vae_zoo.plots.scores import plot_scores, plot_sweep
from pyro_vae_zoo.plots.style import figure_title, save_figure
from pyro_vae_zoo.plots.training import (
    plot_comparison,
    plot_curves,
    plot_results,
    plot_training,
)

__all__ = [
    "figure_title",
    "plot_comparison",
    "plot_components",
    "plot_correlations",
    "plot_curves",
    "plot_directions",
    "plot_embedding",
    "plot_gaps",
    "plot_gates",
    "plot_graph",
    "plot_growth",
    "plot_images",
    "plot_layers",
    "plot_particles",
    "plot_posterior",
    "plot_reconstructions",
    "plot_result",
    "plot_results",
    "plot_samples",
    "plot_scores",
    "plot_sweep",
    "plot_training",
    "plot_traversal",
    "save_figure",
]
