"""Data that are not in memory: where rows come from, and how they are read."""
