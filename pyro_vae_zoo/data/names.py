"""Names of the data sets, for whoever does without PyTorch."""

__all__ = ["DATASETS", "list_datasets"]

DATASETS = (
    "digits",
    *("mnist_static", "mnist_dynamic", "mnist_threshold", "mnist_gray"),
    *("fashion_dynamic", "fashion_gray"),
    *("caltech_silhouettes", "frey_faces", "cifar10"),
)


def list_datasets() -> list[str]:
    """Names that `load_dataset` knows, besides any path that ends in `.npz`.

    >>> "digits" in list_datasets()
    True
    """
    return list(DATASETS)
