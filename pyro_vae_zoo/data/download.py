"""Published data files: find, download, check, read, and cache what was parsed.

A file is looked for under the data directory, then in the cache folder, and is
downloaded where both lack it. Its digest is checked when it is downloaded and
whenever it is parsed; a file that fails is named in a `DataFileError`.
"""

import hashlib
import http.client
import math
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from pyro_vae_zoo.data.formats import BROKEN, read_npz, unpack_gzip
from pyro_vae_zoo.errors import DataFileError, UserError, one_line
from pyro_vae_zoo.files import written

TIMEOUT = 10  # seconds without a byte before a download is given up
_CACHE_VERSION = 1
_UNPACKED = 1 << 28  # bytes at most, where nothing else is known


@dataclass(frozen=True)
class Source:
    """One published file: the names it may go by and where to get it.

    Attributes:
        files: accepted path under the data directory -> digest as `"sha256:<hex>"` or
            `"md5:<hex>"`, or `""` if none is known. The last one is what is downloaded,
            with its own digest; an archive is otherwise known by its contents.
        urls: addresses of the last file, tried in order.
        shape: shape of the array it holds.
    """

    files: dict[str, str]
    urls: tuple[str, ...]
    shape: tuple[int, ...] = ()


def cache_folder() -> Path | None:
    """Folder `$PYRO_VAE_ZOO_CACHE`, else `~/.cache/pyro_vae_zoo`; None without a home."""
    chosen = os.environ.get("PYRO_VAE_ZOO_CACHE")
    if chosen:
        return expanded(chosen)
    with suppress(UserError):
        return expanded("~/.cache/pyro_vae_zoo")
    return None


def expanded(path: str | os.PathLike) -> Path:
    """A path with `~` replaced.

    Raises:
        UserError: where there is no home folder to replace it by.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # Python's: a user without HOME and without an account
        raise UserError(
            f"{path}: ~ stands for the home folder, but this user has none; give a "
            "full path"
        ) from None


def data_folders(data_dir: str | os.PathLike | None = None) -> list[Path]:
    """The folders to look for files in: `data_dir` or `$PYRO_VAE_ZOO_DATA`, and the cache.

    Raises:
        DataFileError: where there is none of them.
    """
    chosen = data_dir or os.environ.get("PYRO_VAE_ZOO_DATA")
    folders = [expanded(chosen) if chosen else None, cache_folder()]
    found = list(dict.fromkeys(folder for folder in folders if folder is not None))
    if not found:
        raise DataFileError(
            "no folder to look for data in: this user has no home folder for a cache; "
            "give a folder by --data-dir or $PYRO_VAE_ZOO_DATA. `--data digits` needs "
            "none"
        )
    return found


def find(source: Source, data_dir: str | os.PathLike | None) -> Path:
    """The path of a source's file, after a download if need be."""
    folders = data_folders(data_dir)
    for folder in folders:
        for name in source.files:
            if os.path.isfile(folder / name):
                return folder / name
    return _download(source, folders)


def read(source: Source, path: Path) -> bytes:
    """The file's contents, unpacked if it ends in `.gz`, with the digest checked."""
    most = math.prod(source.shape) if source.shape else _UNPACKED
    data = contents(path, most + 4096)  # and a header
    plain = path.name.removesuffix(".gz")
    digest = next(d for name, d in source.files.items() if Path(name).name == plain)
    if wrong := _wrong_digest(data, digest):
        raise broken(path, wrong)
    return data


def contents(path: Path, most: int) -> bytes:
    """The contents of a file, of `.gz` unpacked: so many bytes at most."""
    try:
        data = path.read_bytes()
        return unpack_gzip(data, most) if path.suffix == ".gz" else data
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise broken(path, f"cannot be read ({one_line(error)})") from error


def broken(path: Path, what: str) -> DataFileError:
    """The error for a file that is there but not what it should be."""
    return DataFileError(
        f"{path}: {what}; truncated, corrupt or not the published file? "
        "Remove it to download it again"
    )


def cached_bits(path: Path, parse: Callable[[], np.ndarray]) -> np.ndarray:
    """The boolean matrix `parse()`, remembered as packed bits until `path` changes.

    A cache that is stale or corrupt is rebuilt; one that cannot be written is
    done without.
    """
    folder = cache_folder()
    if folder is None:
        return parse()
    stat = path.stat()
    stamp = np.array([_CACHE_VERSION, stat.st_size, stat.st_mtime_ns])
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    cache = folder / "parsed" / f"{path.stem}-{key}.npz"
    with suppress(*BROKEN):
        stored, _ = read_npz(cache, ("stamp", "shape", "bits"))
        if np.array_equal(stored["stamp"], stamp):
            bits, (rows, columns) = stored["bits"], stored["shape"]
            if bits.shape == (rows, -(-columns // 8)):
                return np.unpackbits(bits, axis=1, count=columns).view(bool)
    parsed = parse()
    with suppress(OSError), written(cache) as file:
        bits = np.packbits(parsed, axis=1)
        np.savez(file, stamp=stamp, shape=parsed.shape, bits=bits)
    return parsed


def _download(source: Source, folders: list[Path]) -> Path:
    name, digest = list(source.files.items())[-1]
    failures = []
    for url in source.urls:
        try:
            data = _fetch(url)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {one_line(error)}")
            continue
        if wrong := _wrong_digest(data, digest):
            failures.append(f"{url}: {wrong}")
            continue
        for folder in folders:
            try:
                with written(folder / name) as file:
                    file.write(data)
                return folder / name
            except OSError as error:
                failures.append(f"{folder} cannot be written ({one_line(error)})")
        break
    raise DataFileError(
        f"data file {' or '.join(source.files)} not found in "
        f"{' or '.join(map(str, folders))}, and its download failed "
        f"({'; '.join(failures)}). Get it from {' or '.join(source.urls)} and put it "
        f"at {folders[0] / name}; `--data digits` needs no download"
    )


def _fetch(url: str) -> bytes:
    from pyro_vae_zoo.runtime import tqdm

    with urlopen(url, timeout=TIMEOUT) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length else None
        data = bytearray()
        with tqdm(
            total=total, unit="B", unit_scale=True, desc=Path(url).name, disable=None
        ) as bar:
            while chunk := answer.read(1 << 16):
                data += chunk
                bar.update(len(chunk))
    if total is not None and len(data) != total:
        raise OSError(f"truncated: expected {total} bytes, got {len(data)}")
    return bytes(data)


def _wrong_digest(data: bytes, digest: str) -> str:
    """The fault of the checksum, in words; empty for none."""
    if not digest:
        return ""
    algorithm, _, expected = digest.partition(":")
    got = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if got == expected:
        return ""
    return f"wrong checksum: {algorithm} {got}, not {expected}"
