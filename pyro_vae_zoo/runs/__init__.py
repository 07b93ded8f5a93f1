"""A run: a folder with one training, its evaluation and its pictures."""
