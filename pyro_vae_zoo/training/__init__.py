"""Training: options, steps, the loop, its checkpoints, and what looks on."""

import lazy_loader

# `zoo.callbacks`; the options beside it are read where there is no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["callbacks"])
