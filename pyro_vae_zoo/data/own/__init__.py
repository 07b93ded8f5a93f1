"""Data of the user's own: arrays, files, folders, tables, data sets of PyTorch's."""
