"""Data sets: a name, a file or tensors to three splits and what they are."""
