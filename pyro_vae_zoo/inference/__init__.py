"""The bound, its terms, and a training step as one graph."""
