"""The published data files: names, addresses, digests, and their formats.

Each reader returns plain numpy arrays as the file holds them; what they mean is
decided in `datasets`.
"""

import io
import os
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pyro_vae_zoo.data import download as _files
from pyro_vae_zoo.data.download import Source, data_folders, expanded
from pyro_vae_zoo.data.formats import BROKEN, read_mat, read_npy, read_npz
from pyro_vae_zoo.errors import DataFileError, UserError, one_line

__all__ = [
    "SOURCES",
    "SPLITS",
    "amat",
    "caltech",
    "cifar10",
    "data_folders",
    "expanded",
    "frey",
    "idx",
    "npz",
]


# The names of a user's folders and arrays, and which split it is.
SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"valid": "valid", "val": "valid", "validation": "valid"},
}


def _amat_source(split: str, rows: int, sha256: str) -> Source:
    file = f"binarized_mnist_{split}.amat"
    folder = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
    files = {f"binarized_mnist/{file}": f"sha256:{sha256}"}
    return Source(files, (folder + file,), (rows, 784))


def _idx_source(folder: str, split: str, rows: int, md5: str, digest: str) -> Source:
    """Torchvision's layout and mirrors, and Debian's of its package of Fashion-MNIST.

    `digest` is of the contents, which whoever packs them again leaves as they are; `md5`
    is of the archive that is downloaded.
    """
    file = f"{split}-images-idx3-ubyte"
    files = {f"{folder}/raw/{file}": digest}
    if folder == "FashionMNIST":
        files[f"fashion-mnist/{file}.gz"] = digest
    files[f"{folder}/raw/{file}.gz"] = f"md5:{md5}"
    mirrors = {
        "MNIST": (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        "FashionMNIST": (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    }
    urls = tuple(f"{mirror}{file}.gz" for mirror in mirrors[folder])
    return Source(files, urls, (rows, 28, 28))


SOURCES: dict[str, Source] = {
    "binarized_mnist/train": _amat_source(
        "train",
        50000,
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    ),
    "binarized_mnist/valid": _amat_source(
        "valid",
        10000,
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    ),
    "binarized_mnist/test": _amat_source(
        "test",
        10000,
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    ),
    "MNIST/train": _idx_source(
        "MNIST",
        "train",
        60000,
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "MNIST/test": _idx_source(
        "MNIST",
        "t10k",
        10000,
        "9fb629c4189551a2d022fa330f9573f3",
        "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "FashionMNIST/train": _idx_source(
        "FashionMNIST",
        "train",
        60000,
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "FashionMNIST/test": _idx_source(
        "FashionMNIST",
        "t10k",
        10000,
        "bef4ecab320f06d8554ea6380940ec79",
        "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "caltech_silhouettes": Source(
        {
            "caltech101_silhouettes_28_split1.mat": "sha256:"
            "eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a"
        },
        (
            "https://people.cs.umass.edu/~marlin/data/"
            "caltech101_silhouettes_28_split1.mat",
        ),
    ),
    "frey_faces": Source(
        {
            "freyfaces.npy": "sha256:"
            "13a0cd943fe56c8a2f4c05bc670b097ae2fda4f9d3a0d5215277712ac02f12e6",
            "frey_rawface.mat": "",
        },
        ("https://cs.nyu.edu/~roweis/data/frey_rawface.mat",),
        (1965, 560),
    ),
}


_CIFAR_FOLDER = "cifar-10-batches-py"


def amat(key: str, data_dir: str | os.PathLike | None) -> np.ndarray:
    r"""Larochelle's text, a line `0 1 ... 0\n` per image, as a boolean matrix."""
    source = SOURCES[key]
    path = _files.find(source, data_dir)

    def parse() -> np.ndarray:
        rows, pixels = source.shape
        _check_size(path, path.stat().st_size, rows * pixels * 2)
        text = np.frombuffer(_files.read(source, path), np.uint8)
        return text.reshape(rows, pixels * 2)[:, ::2] == ord("1")

    return _files.cached_bits(path, parse)


def idx(key: str, data_dir: str | os.PathLike | None) -> np.ndarray:
    """MNIST's own format, a header and uint8 images `(N, H, W)`; its digest is known."""
    source = SOURCES[key]
    data = _files.read(source, _files.find(source, data_dir))
    return np.frombuffer(data, np.uint8, offset=16).reshape(source.shape)


def caltech(data_dir: str | os.PathLike | None) -> list[np.ndarray]:
    """Training, validation and test silhouettes, columns first, the object 0."""
    source = SOURCES["caltech_silhouettes"]
    path = _files.find(source, data_dir)
    arrays = _mat(_files.read(source, path), path)
    return [_item(arrays, f"{s}_data", path) for s in ("train", "val", "test")]


def frey(data_dir: str | os.PathLike | None) -> np.ndarray:
    """Frey's faces, one a row."""
    source = SOURCES["frey_faces"]
    path = _files.find(source, data_dir)
    data = _files.read(source, path)
    if path.suffix == ".npy":
        try:
            faces = read_npy(io.BytesIO(data), len(data))
        except BROKEN as error:
            raise _files.broken(path, one_line(error)) from error
    else:
        faces = _item(_mat(data, path), "ff", path).T
    if faces.shape != source.shape or faces.dtype != np.uint8:
        got = f"{faces.dtype} {faces.shape}"
        raise _files.broken(path, f"expected uint8 {source.shape}, got {got}")
    return faces


def cifar10(data_dir: str | os.PathLike | None) -> tuple[list[np.ndarray], str]:
    """Training, validation and test images `(N, 32, 32, 3)`, and what they are.

    Torchvision's folder; without it a part in `cifar10_20k.npz`, if that is there.
    """
    folders = data_folders(data_dir)
    part = folders[0] / "cifar10_20k.npz"
    if part.is_file() and not (folders[0] / _CIFAR_FOLDER).exists():
        arrays, _ = npz(part)
        if missing := {"valid", "test"} - arrays.keys():
            raise DataFileError(f"{part}: expected an array {_names(missing)}")
        splits = [arrays[split] for split in ("train", "valid", "test")]
        note = "part of CIFAR-10 (cifar10_20k.npz)"
    else:
        train, test = (_torchvision_cifar10(folders, train) for train in (True, False))
        splits = [train[:-5000], train[-5000:], test]
        note = "CIFAR-10, the last 5,000 training images for validation"
    for images in splits:
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
            got = f"{images.dtype} {images.shape}"
            raise _files.broken(part, f"expected uint8 (N, 32, 32, 3), got {got}")
    return splits, note


def _torchvision_cifar10(folders: Sequence[Path], train: bool) -> np.ndarray:
    """One half of the published set; torchvision checks each file's MD5."""
    try:
        from torchvision.datasets import CIFAR10
    except ImportError:
        raise UserError(
            "CIFAR-10 needs the package torchvision, which is not installed: "
            "pip install 'pyro-vae-zoo[cifar10]'"
        ) from None
    for folder in folders:
        if (folder / _CIFAR_FOLDER).exists():
            try:
                return CIFAR10(folder, train=train).data
            except (OSError, RuntimeError, EOFError) as error:
                what = f"cannot be read ({one_line(error)})"
                raise _files.broken(folder / _CIFAR_FOLDER, what) from error
    try:
        return CIFAR10(folders[-1], train=train, download=True).data
    except (OSError, RuntimeError) as error:
        raise DataFileError(
            f"CIFAR-10 not found: looked for {folders[0] / _CIFAR_FOLDER} and "
            f"{folders[0] / 'cifar10_20k.npz'}, and the download failed "
            f"({one_line(error)}); get cifar-10-python.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there. "
            "--data digits needs no download"
        ) from error


def npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays `train` and, if there, `valid` and `test` of an archive; their labels."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "not found"
        raise DataFileError(f"data file {path} {what}: looked for {path.absolute()}")
    if not zipfile.is_zipfile(path):
        raise DataFileError(
            f"{path}: expected an .npz archive (a zip file), got another kind; "
            "truncated, or not written by np.savez?"
        )
    of_labels = {f"{key}_labels": split for key, split in SPLITS.items()}
    of_labels["labels"] = "train"
    try:
        found, keys = read_npz(path, SPLITS)
        if len({SPLITS[key] for key in found}) < len(found):
            raise ValueError(f"one split under several names: {_names(sorted(found))}")
        arrays = {SPLITS[key]: x for key, x in found.items()}
        alone = [key for key in keys if key not in of_labels]
        if len(alone) == 1 and alone != ["train"]:
            arrays = {"train": read_npz(path, alone)[0][alone[0]]}
    except BROKEN as error:
        raise DataFileError(
            f"{path}: cannot be read ({one_line(error)}); corrupt, or object "
            "arrays where plain ones are expected"
        ) from error
    if "train" not in arrays:
        raise DataFileError(
            f"{path}: expected an array 'train' and optionally 'valid', 'test' and "
            f"'labels', or one array of any name, got {_names(keys)}; missing 'train'"
        )
    if unused := [key for key in alone if key not in SPLITS and len(alone) > 1]:
        warnings.warn(
            f"{path} has arrays that are not used: {_names(unused)}; known are 'train', "
            "'valid', 'test', and labels, such as 'test_labels'",
            stacklevel=2,
        )
    labels = {}
    kept = [key for key in of_labels if key in keys]
    if len({of_labels[key] for key in kept}) < len(kept):
        raise DataFileError(f"{path}: labels of one split twice: {_names(kept)}")
    for key in kept:
        try:
            labels[of_labels[key]] = read_npz(path, [key])[0][key]
        except BROKEN:  # of objects, or of another kind that is no label
            labels[of_labels[key]] = np.empty(0, object)
    return arrays, labels


def _mat(data: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        return read_mat(data)
    except BROKEN as error:
        what = f"not a MATLAB file ({one_line(error)})"
        raise _files.broken(path, what) from error


def _item(arrays: dict[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    if key not in arrays:
        got = _names(k for k in arrays if not k.startswith("__"))
        raise _files.broken(path, f"expected an array {key!r}, got {got}")
    return arrays[key]


def _check_size(path: Path, got: int, expected: int) -> None:
    if got != expected:
        raise _files.broken(path, f"expected {expected} bytes, got {got}")


def _names(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys)) or "none"
