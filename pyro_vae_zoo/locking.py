"""A run folder belongs to one process at a time."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pyro_vae_zoo.errors import UserError

__all__ = ["LOCK_FILE", "locked"]

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is missing; the same thread may do so twice.

    The operating system lets go of it when its process ends, however that ends: a file
    that a dead one left is no obstacle.

    Raises:
        UserError: where another process or thread holds it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name, locked(Path(name)):
    ...     print(*os.listdir(name))
    .lock
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder} is in use{_by_whom(path)}: two runs in one folder would spoil each "
            "other; wait for it or choose another --out"
        ) from None
    try:
        path.write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        lock.release()


def _by_whom(path: Path) -> str:
    with suppress(OSError, ValueError):
        text = path.read_text()[:100].strip()
        return f" by {text}" if text.isprintable() and text else ""
    return ""
