"""Names of the data sets and what each is, for whoever does without PyTorch."""

import warnings

__all__ = ["DATASETS", "list_datasets", "name_now"]

DATASETS = {
    "digits": "8x8 digits, counts up to 16, binomial; offline (Alpaydin & Kaynak 1998)",
    "digits_binary": "8x8 digits, one Bernoulli draw; `digits` in version 0.1.0",
    "mnist_static": "28x28 digits, one Bernoulli draw (Larochelle & Murray 2011)",
    "mnist_dynamic": "28x28 digits, bits drawn anew in every epoch (LeCun et al. 1998)",
    "mnist_threshold": "28x28 digits, bits: grey above 0.5 (LeCun et al. 1998)",
    "mnist_gray": "28x28 digits, grey levels, Gaussian (LeCun et al. 1998)",
    "fashion_dynamic": "28x28 clothes, bits drawn anew in every epoch (Xiao et al. 2017)",
    "fashion_gray": "28x28 clothes, grey levels, Gaussian (Xiao et al. 2017)",
    "caltech_silhouettes": "28x28 silhouettes of 101 classes, bits (Marlin et al. 2010)",
    "frey_faces": "28x20 faces, grey levels, discretised logistic (Roweis & Saul 2000)",
    "cifar10": "32x32 colour images, dequantised, logit (Krizhevsky 2009)",
}


def list_datasets() -> list[str]:
    """Names that `load_dataset` knows, besides paths of your own folders and files.

    >>> "digits" in list_datasets()
    True
    """
    return list(DATASETS)


def name_now(name: str, variant: str, where: object) -> str:
    """The present name of the data of a record, with a warning where it is another.

    Version 0.1.0 called `digits` what is `digits_binary` now.

    Args:
        name: in the record.
        variant: how the data were made, by the record.
        where: the record is.

    >>> name_now("digits", "pixels set of the 16 in each cell of a scan, 9/1/1", "here")
    'digits'
    """
    if name != "digits" or not variant.startswith("one Bernoulli draw"):
        return name
    warnings.warn(
        f"{where} was written by version 0.1.0; its data set 'digits' is now called "
        "'digits_binary'",
        stacklevel=3,
    )
    return "digits_binary"
