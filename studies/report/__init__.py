"""Tables, figures and pages that are generated from `results/`."""

from studies.report.generated import generate, stale

__all__ = ["generate", "stale"]
