"""A folder of images: files of one kind and size, in folders by their class and split.

    pictures/cat/1.png           classes, whose validation and test data are taken off
    pictures/train/cat/1.png     classes of each split
    pictures/train/1.png         splits alone
    pictures/1.png               neither

Nothing is guessed: images of several sizes, grey ones beside coloured ones, 16 bits and
transparency are named, with the option that decides.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyro_vae_zoo.data.own.arrays import SHARE
from pyro_vae_zoo.data.sources import SPLITS, expanded
from pyro_vae_zoo.errors import DataFileError, UserError, one_line
from pyro_vae_zoo.options import count, plain, real

if TYPE_CHECKING:
    from pyro_vae_zoo.data.datasets import Dataset

__all__ = ["from_folder"]

_SUFFIXES = frozenset(
    ".png .jpg .jpeg .bmp .gif .tif .tiff .webp .ppm .pgm .pbm".split()
)
_DEEP = {"I", "I;16", "I;16B", "I;16L", "F"}  # Pillow's names of more than 8 bits


class _File(NamedTuple):
    path: Path
    label: str | None


def from_folder(
    _cls: "type[Dataset]",
    path: str | os.PathLike,
    *,
    size: int | Sequence[int] | None = None,
    grey: bool | None = None,
    likelihood: str | None = None,
    threshold: float | None = None,
    valid: float = SHARE,
    test: float = SHARE,
    seed: int = 0,
    dynamic: bool = False,
    logit: float | None = None,
    standardise: bool = False,
) -> "Dataset":
    """A data set of the images in a folder, read by Pillow.

    Folders `train`, `valid` (or `val`) and `test`, in any case, are its splits, others its
    classes. Grey images have the shape `(H, W)`, coloured ones `(3, H, W)`. Values are grey
    levels k/255 of a discretised logistic, or bits where all images are black and white.

    Args:
        path: the folder.
        size: height and width to resize to, or one number for both; by default all
            images have to be of one size.
        grey: True makes all images grey, False all coloured; by default they have to be
            of one kind.
        likelihood: another one than the values ask for; `"bernoulli"` wants black and
            white, a `threshold` or `dynamic`.
        threshold: share of white above which a grey pixel is 1, in (0, 1).
        valid: share of the images that is taken off for validation, where there is no
            folder.
        test: likewise for the test.
        seed: of the permutation by which they are.
        dynamic: levels are the probabilities of bits, redrawn every epoch.
        logit: lambda of the logit of dequantised levels; see `Dataset`.
        standardise: levels as real numbers, of a Gaussian.

    Raises:
        DataFileError: for a file that is broken, of another size or kind, and a folder
            without images; it names the file.

    >>> import tempfile, pyro_vae_zoo as zoo
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp(), "dots")
    >>> for i in range(20):
    ...     file = folder / "ab"[i % 2] / f"{i}.png"
    ...     file.parent.mkdir(parents=True, exist_ok=True)
    ...     Image.new("L", (3, 2), 10 * i).save(file)
    >>> data = zoo.Dataset.from_folder(folder)
    >>> data.event_shape, data.likelihood, data.label_names
    ((2, 3), 'discretized_logistic', ('a', 'b'))
    """
    root = expanded(os.fspath(path))
    splits = _splits_of(root)
    wanted = _size_of(size)
    images = _Images(root, wanted, grey)
    arrays = {split: images.read(files) for split, files in splits.items()}
    black_and_white = all(((x == 0) | (x == 255)).all() for x in arrays.values())
    notes = [root.name]
    if wanted:
        notes.append("resized to {}x{}".format(*wanted))
    if threshold is not None and dynamic:
        raise UserError(
            "threshold makes bits of the levels, and dynamic draws bits from them: leave "
            "one of them out"
        )
    if threshold is not None:
        if not 0 < real("threshold", threshold) < 1 or likelihood not in (
            None,
            "bernoulli",
        ):
            raise UserError(
                "threshold: expected a share of white in (0, 1) and "
                f"likelihood='bernoulli', got {threshold} and {likelihood!r}"
            )
        white = 255.0 * threshold
        arrays = {split: x > white for split, x in arrays.items()}
        likelihood = "bernoulli"
        notes.append(f"threshold, level > {threshold:g} of white")
    elif dynamic:
        likelihood = likelihood or "bernoulli"
        notes.append("levels are probabilities, train redrawn every epoch")
    elif standardise or logit is not None:
        likelihood = likelihood or "gaussian"
        notes.append(f"levels k/255 -> {likelihood}")
    elif likelihood is None:
        likelihood = "bernoulli" if black_and_white else "discretized_logistic"
        kind = "black and white" if black_and_white else "levels k/255"
        notes.append(f"{kind} -> {likelihood}")
    elif likelihood == "bernoulli" and not black_and_white:
        raise DataFileError(
            f"{root}: expected images in black and white for likelihood='bernoulli', got "
            "grey levels; choose threshold=0.5, or dynamic=True to draw bits from them"
        )
    else:
        notes.append(f"levels k/255 as {likelihood}")
    given: dict[str, Any] = {"valid": valid, "test": test}
    given |= {s: x if x.dtype == bool else _shares(x) for s, x in arrays.items()}
    if dynamic:  # what is judged by is drawn once
        random = np.random.RandomState(777)
        given |= {
            s: random.random_sample(x.shape) < x
            for s, x in given.items()
            if s != "train" and s in arrays
        }
    classes = {s: [f.label for f in files] for s, files in splits.items()}
    known = any(label is not None for labels in classes.values() for label in labels)
    try:
        return _cls(
            given["train"],
            given["valid"],
            given["test"],
            likelihood,
            root.name,
            dynamic,
            logit=logit,
            labels=classes if known else None,
            standardise=standardise,
            seed=seed,
            note=", ".join(notes),
        )
    except UserError as error:
        raise DataFileError(f"{root}: {error}") from error


def _shares(levels: np.ndarray) -> np.ndarray:
    return levels / np.float32(255)


def _size_of(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = plain(size)
    sides = list(sides) if isinstance(sides, tuple | list) else [sides, sides]
    if len(sides) != 2:
        raise UserError(f"size: expected one number or (height, width), got {size!r}")
    return count("size", sides[0]), count("size", sides[1])


def _splits_of(root: Path) -> dict[str, list[_File]]:
    """The files of each split, in the order of their names."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "not found"
        raise DataFileError(f"folder of images {root} {what}: {root.absolute()}")
    folders = _folders(root)
    named = {f.name: f for f in folders if f.name.lower() in SPLITS}
    if not named:
        return {"train": _files_of(root)}
    if other := [f.name for f in folders if f.name not in named]:
        raise DataFileError(
            f"{root}: expected folders of splits or of classes, got both: "
            f"{', '.join(sorted(named))} and {', '.join(other[:3])}"
        )
    found = [SPLITS[name.lower()] for name in named]
    if "train" not in found or len(set(found)) < len(found):
        raise DataFileError(
            f"{root}: expected a folder train, and optionally valid and test; got "
            f"{', '.join(sorted(named))}"
        )
    splits = {SPLITS[name.lower()]: _files_of(folder) for name, folder in named.items()}
    with_classes = {s: files[0].label is not None for s, files in splits.items()}
    if len(set(with_classes.values())) > 1:
        raise DataFileError(f"{root}: expected class folders in all splits or in none")
    return splits


def _files_of(folder: Path) -> list[_File]:
    """The images of a folder, or those of the classes in it."""
    own = _images_in(folder)
    classes = {f: _images_in(f) for f in _folders(folder)}
    classes = {f: files for f, files in classes.items() if files}
    for f in classes:
        if deeper := next((d for d in _folders(f) if _images_in(d)), None):
            raise DataFileError(
                f"{deeper}: expected the images of class {f.name} right in {f}, got some "
                "in a folder of that; move them up, or away"
            )
    if own and classes:
        raise DataFileError(
            f"{folder}: expected images or folders of classes, got both: {own[0].name} "
            f"and {next(iter(classes)).name}"
        )
    if len(classes) == 1:
        only = next(iter(classes))
        raise DataFileError(
            f"{folder}: expected a folder for each of at least two classes, got only "
            f"{only.name}; if there are no classes, give {only} itself"
        )
    files = [_File(path, None) for path in own]
    files += [_File(path, f.name) for f, paths in classes.items() for path in paths]
    if not files:
        there = sorted(p.name for p in folder.iterdir())
        got = f"got {', '.join(there[:3])}" if there else "it is empty"
        raise DataFileError(
            f"{folder}: expected images ({' '.join(sorted(_SUFFIXES))}) or folders of "
            f"them, {got}"
        )
    return files


def _folders(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")
    )


def _images_in(folder: Path) -> list[Path]:
    paths = (p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    return sorted(p for p in paths if p.is_file() and not p.name.startswith("."))


class _Images:
    """Reads files as levels of one shape and kind, and names the first that differs."""

    def __init__(
        self, root: Path, size: tuple[int, int] | None, grey: bool | None
    ) -> None:
        self.root, self.size, self.grey = root, size, grey
        self.first: tuple[Path, tuple[int, ...]] | None = None

    def read(self, files: Sequence[_File]) -> np.ndarray:
        """All of them, uint8 `(N, H, W)` or `(N, 3, H, W)`."""
        arrays: np.ndarray | None = None
        for i, file in enumerate(files):
            image = self._one(file.path)
            if arrays is None:
                arrays = np.empty((len(files), *image.shape), np.uint8)
            arrays[i] = image
        assert arrays is not None
        return arrays

    def _one(self, path: Path) -> np.ndarray:
        levels = self._levels(path)
        if self.first is None:
            self.first = path, levels.shape
        other, shape = self.first
        if levels.shape == shape:
            return levels
        if levels.ndim != len(shape):
            kinds = {2: "grey", 3: "coloured"}
            raise DataFileError(
                f"{path}: expected an image that is {kinds[len(shape)]}, as {other.name}, "
                f"got one that is {kinds[levels.ndim]}; grey=True makes all of them grey, "
                "grey=False all coloured"
            )
        sizes = ["x".join(map(str, s[-2:])) for s in (shape, levels.shape)]
        raise DataFileError(
            f"{path}: expected {sizes[0]} pixels (height x width), as {other.name}, got "
            f"{sizes[1]}; size={shape[-1]} resizes all of them"
        )

    def _levels(self, path: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as file:
                    frames, mode = getattr(file, "n_frames", 1), file.mode
                    image = ImageOps.exif_transpose(file)
                    image.load()
        except (
            *(OSError, SyntaxError, ValueError, EOFError, TypeError, OverflowError),
            *(Image.DecompressionBombError, Image.DecompressionBombWarning),
        ) as error:
            raise DataFileError(
                f"{path}: cannot be read as an image ({one_line(error)}); is it broken "
                "or cut short?"
            ) from error
        if frames > 1:
            raise DataFileError(f"{path}: expected one image, got {frames} frames")
        if mode in _DEEP:
            raise DataFileError(
                f"{path}: expected 8 bits a pixel, got more (mode {mode}); convert the "
                "files to 8 bits, or read them into an array of real numbers and give it "
                "to zoo.Dataset.split(x, likelihood='gaussian')"
            )
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            if np.asarray(image)[..., 3].min() < 255:
                raise DataFileError(
                    f"{path}: expected an image without transparent pixels; fill the "
                    "background first"
                )
            image = image.convert("L" if mode in ("1", "L", "LA") else "RGB")
        is_grey = image.mode in ("1", "L") if self.grey is None else self.grey
        image = image.convert("L" if is_grey else "RGB")
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.LANCZOS)
        levels = np.asarray(image)
        return levels if is_grey else levels.transpose(2, 0, 1)
