"""The tables of the source papers: every row and every budget that `reproduce.py` has.

A file for each paper, and for each question of our own.
"""

from studies.recipes.densities import SELF_REFLECTIVE_MAF
from studies.recipes.flows import FLOWS, PRECISION
from studies.recipes.graphs import GATED_DAG
from studies.recipes.hierarchies import SELF_REFLECTIVE
from studies.recipes.levers import LEVERS
from studies.recipes.mixtures import RECURSIVE_MIXTURE
from studies.recipes.pretrained import PRETRAINED
from studies.recipes.priors import PRIOR_POSTERIOR, PRIORS

__all__ = ["TABLES"]

TABLES = {
    "pretrained": PRETRAINED,
    "flows": FLOWS,
    "precision": PRECISION,
    "self_reflective": SELF_REFLECTIVE,
    "recursive_mixture": RECURSIVE_MIXTURE,
    "gated_dag": GATED_DAG,
    "self_reflective_maf": SELF_REFLECTIVE_MAF,
    "levers": LEVERS,
    "priors": PRIORS,
    "prior_posterior": PRIOR_POSTERIOR,
}
