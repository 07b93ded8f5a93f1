"""A zoo of variational auto-encoders in Pyro: every system a model/guide pair."""

__version__ = "0.1.0"
