"""Files that anybody may have written: what they declare is held against what is there.

A few bytes can declare terabytes: the shape in an array's header, the length of what is
compressed, the widths of a network. Everything here is checked before anything of that
size is allocated, and nothing that is read can run code.
"""

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

__all__ = [
    "BROKEN",
    "read_mat",
    "read_npy",
    "read_npz",
    "unpack_gzip",
]

# What readers raise at a broken file.
BROKEN = (
    *(OSError, EOFError, KeyError, NotImplementedError, OverflowError, ValueError),
    *(RecursionError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error),
)
_BOMB = 100  # times as large as it is compressed, and more than this many bytes
_LARGE = 1 << 30
_UNPACKED = 1 << 28
# Elements of a MATLAB file, how numbers are stored there, and as what they are meant.
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_STORED |= {12: "i8", 13: "u8"}
_CLASSES = dict(zip(range(6, 16), "f8 f4 i1 u1 i2 u2 i4 u4 i8 u8".split(), strict=True))


def read_npz(
    path: Path, wanted: Iterable[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The wanted arrays of an `.npz` file that has them, and the names of all that it has.

    Raises:
        ValueError: for an array that is none, or not of the size that it declares.
        zipfile.BadZipFile, OSError, EOFError, zlib.error: for a broken archive.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        entries = {
            e.filename.removesuffix(".npy"): e
            for e in archive.infolist()
            if e.filename.endswith(".npy")
        }
        for name in entries.keys() & wanted:
            entry = entries[name]
            if entry.file_size > max(_LARGE, _BOMB * entry.compress_size):
                raise ValueError(
                    f"array {name!r} unpacks to {entry.file_size:,} bytes, more than "
                    f"{_BOMB} times its size; save it with np.savez if that is so"
                )
            with archive.open(entry) as file:
                arrays[name] = read_npy(file, entry.file_size)
    return arrays, sorted(entries)


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """An array in numpy's format, from a file of `size` bytes.

    NumPy's reader, which has more, allocates what a header declares before it reads.

    Raises:
        ValueError: for what is no plain array, or not of the size that it declares.

    >>> file = io.BytesIO()
    >>> np.save(file, np.arange(3))
    >>> read_npy(io.BytesIO(file.getvalue()), len(file.getvalue()))
    array([0, 1, 2])
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"an array of format {version}, expected 1.0 or 2.0")
    try:
        shape, by_columns, dtype = readers[version](file)
    except (SyntaxError, TokenError, TypeError, RecursionError) as error:
        raise ValueError(f"an array with a broken header ({error})") from None
    if dtype.kind != "U" and (dtype.kind not in "biuf" or dtype.itemsize > 8):
        raise ValueError(f"an array of {dtype}, expected numbers of at most 64 bits")
    expected, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or expected != there:
        raise ValueError(
            f"an array {shape} of {dtype} takes {expected} bytes, but there are {there}"
        )
    data = file.read(expected + 1)
    if len(data) != expected:
        raise ValueError(f"an array takes {expected} bytes, but there are {len(data)}")
    array = np.frombuffer(bytearray(data), dtype)  # which may be written to
    array = array.astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "b":
        array = array.view(np.uint8) != 0  # whatever the bytes are
    return array.reshape(shape, order="F" if by_columns else "C")


def unpack_gzip(data: bytes, most: int) -> bytes:
    """Unpack so many bytes at most.

    Raises:
        ValueError: where there are more.
        OSError, EOFError, zlib.error: for a broken file.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(most + 1)
    if len(unpacked) > most:
        raise ValueError(f"unpacks to more than {most:,} bytes")
    return unpacked


def read_mat(data: bytes) -> dict[str, np.ndarray]:
    """The real matrices in a MATLAB file of version 5 to 7; all else is passed over.

    SciPy's reader, which has more, crashes the process at some broken files.

    Raises:
        ValueError: for another kind of file, or one that is not what it declares.
        zlib.error: for a part that does not unpack.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("expected a file of MATLAB 5 to 7")
    arrays: dict[str, np.ndarray] = {}
    most = max(_UNPACKED, _BOMB * len(data))
    for kind, content in _elements(data[128:], order, padded=False):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(content, most)
            if len(unpacked) == most:
                raise ValueError(f"an element that unpacks to {most:,} bytes or more")
            ((kind, content),) = _elements(unpacked, order, padded=False)
        if kind == _MATRIX and (named := _matrix(content, order)) is not None:
            name, array = named
            arrays[name] = array
    return arrays


def _elements(data: bytes, order: str, padded: bool) -> Iterator[tuple[int, bytes]]:
    """Each element's kind and content; inside of a matrix they fill eight bytes."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(order + "II", data, place)
        if kind >> 16:  # a small one, whose content is where another has its size
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            place += 8
        else:
            start = place + 8
            place = start + (-(-size // 8) * 8 if padded else size)
        content = data[start : start + size]
        if len(content) != size:
            raise ValueError(
                f"an element takes {size} bytes, but there are {len(content)}"
            )
        yield kind, content


def _matrix(content: bytes, order: str) -> tuple[str, np.ndarray] | None:
    """Name and values of a real matrix; None for what is not one."""
    elements = list(islice(_elements(content, order, padded=True), 4))
    if len(elements) < 4:
        return None
    (_, header), (_, sizes), (_, name), (kind, values) = elements
    (flags,) = struct.unpack_from(order + "I", header)
    stored = _STORED.get(kind)
    if flags & 0xFF not in _CLASSES or flags & 0x0800 or stored is None:
        return None
    array = np.frombuffer(values, order + stored).astype(_CLASSES[flags & 0xFF])
    shape = np.frombuffer(sizes, order + "i4").tolist()
    if min(shape) < 0 or math.prod(shape) != len(array):
        raise ValueError(f"a matrix of shape {shape} has {len(array)} values")
    return name.decode("latin-1"), array.reshape(shape, order="F")
