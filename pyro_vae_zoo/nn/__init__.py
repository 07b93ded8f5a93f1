"""Deterministic networks, and the decoder's output as p(x|z)."""
