"""A zoo of variational auto-encoders in Pyro.

Every system is a pair: `vae.model` is p(x, z), `vae.guide` is q(z|x).

    import pyro_vae_zoo as zoo

    data = zoo.load_dataset("digits")
    vae = zoo.create("iaf", data, latent_dim=8, num_flows=2)
    zoo.fit(vae, data, epochs=20)
    zoo.evaluate(vae, data.test, num_particles=1000).log_likelihood
"""

from pyro_vae_zoo import models, testing
from pyro_vae_zoo.evaluation.ais import (AnnealedLikelihood, BidirectionalBounds, annealed_log_likelihood, bidirectional)
from pyro_vae_zoo.training.checkpoint import save
from pyro_vae_zoo.inference.compiled import CompiledTrace_ELBO
from pyro_vae_zoo.data.datasets import Dataset, list_datasets, load_dataset
from pyro_vae_zoo.evaluation.diagnostics import (ParticleCurve, PosteriorCovariances, particle_curve, posterior_covariances)
from pyro_vae_zoo.inference.elbo import AnnealedELBO
from pyro_vae_zoo.errors import DataFileError, DivergedError, UserError
from pyro_vae_zoo.evaluation.evaluate import Evaluation, evaluate, log_likelihood
from pyro_vae_zoo.explorer.page import explore
from pyro_vae_zoo.evaluation.gaps import InferenceGaps, inference_gaps
from pyro_vae_zoo.training.history import History
from pyro_vae_zoo.evaluation.importance import LogLikelihood, pareto_khat
from pyro_vae_zoo.evaluation.local import local_log_likelihood
from pyro_vae_zoo.models.flow_guides import AmortizedFlow
from pyro_vae_zoo.models.standard import StandardModel
from pyro_vae_zoo.pretrained import list_pretrained, load, pretrained_info
from pyro_vae_zoo.models.registry import (create, guide_options, list_density_models, list_guides, register)
from pyro_vae_zoo.training.fit import fit
from pyro_vae_zoo.pair.vae import VAE, Phase

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "AmortizedFlow",
    "AnnealedELBO",
    "AnnealedLikelihood",
    "BidirectionalBounds",
    "CompiledTrace_ELBO",
    "DataFileError",
    "Dataset",
    "DivergedError",
    "Evaluation",
    "History",
    "InferenceGaps",
    "LogLikelihood",
    "ParticleCurve",
    "Phase",
    "PosteriorCovariances",
    "StandardModel",
    "UserError",
    "__version__",
    "annealed_log_likelihood",
    "bidirectional",
    "create",
    "evaluate",
    "explore",
    "fit",
    "guide_options",
    "inference_gaps",
    "list_datasets",
    "list_density_models",
    "list_guides",
    "list_pretrained",
    "load",
    "load_dataset",
    "local_log_likelihood",
    "log_likelihood",
    "models",
    "pareto_khat",
    "particle_curve",
    "posterior_covariances",
    "pretrained_info",
    "register",
    "save",
    "testing",
]
