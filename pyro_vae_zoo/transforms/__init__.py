"""Transforms that Pyro lacks or has wrong, in Pyro's own style."""
