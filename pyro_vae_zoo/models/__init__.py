"""A file for each paper, imported when one of its names is asked for."""

import importlib
from types import ModuleType

from pyro_vae_zoo.models.registry import FILES

__all__ = list(FILES)


def __getattr__(name: str) -> ModuleType:
    if name in FILES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
