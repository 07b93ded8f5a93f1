"""Files of ours: written whole or not at all, read with an error that names them.

And a user's, of which something is asked for by name.
"""

import importlib.util
import json
import math
import os
import platform
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, TypeVar

import msgspec
from filelock import FileLock, Timeout

from pyro_vae_zoo.errors import DataFileError, UserError

__all__ = [
    "CHECKPOINT_FILE",
    "CONFIG_FILE",
    "LOCK_FILE",
    "METRICS_FILE",
    "MISFITS",
    "MODEL_FILE",
    "RESULT_FILE",
    "checked",
    "finite",
    "locked",
    "read_json",
    "resolve",
    "write_atomically",
    "write_json",
    "written",
]


CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"
MODEL_FILE = "model.safetensors"
RESULT_FILE = "result.json"
LOCK_FILE = ".lock"
# What code raises that is given values of another kind than it is for.
MISFITS = (
    *(ArithmeticError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)

Record = TypeVar("Record")


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` whole or not at all, whatever was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # By chance: threads share the number of a process, and containers may.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name it
        raise
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: where it cannot be written, the previous file untouched.
    """
    with written(Path(path)) as file:
        file.write(content)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write JSON, indented, atomically; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def finite(value: Any) -> Any:
    """`value` with None in place of numbers that are not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike) -> Any:
    """Read JSON; a broken file is an error that names it."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise DataFileError(f"file {path} not found") from None
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not valid JSON: {error}") from None


def checked(record: Any, kind: type[Record], path: Path, what: str) -> Record:
    """A record as it is, if its values are of the kinds that its type declares.

    Raises:
        DataFileError: for one that lacks something, or has a value of another kind; it
            names the file, what was expected and where.
    """
    try:
        msgspec.convert(record, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        wrong, _, where = str(error).replace("`", "").partition(" - at $")
        where = f"{where.lstrip('.')}: " if where else ""
        raise DataFileError(
            f"{path} is no {what}: {where}{wrong[0].lower()}{wrong[1:]}; was it changed by "
            "hand?"
        ) from None
    return record


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
        with suppress(PermissionError):  # Windows lets nobody write to what is locked
            path.write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        lock.release()


def _by_whom(path: Path) -> str:
    with suppress(OSError, ValueError):
        text = path.read_text()[:100].strip()
        return f" by {text}" if text.isprintable() and text else ""
    return ""


def resolve(text: str, what: str = "class") -> Any:
    """A name as it is, `FILE.py:Name` as what has that name in the file.

    Raises:
        UserError: for a file or a name that is not there, or does not import.

    >>> resolve("iaf")
    'iaf'
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        if text.endswith(".py"):
            raise UserError(
                f"expected FILE.py:Name, got {text!r}; add the name of the {what} in it"
            )
        return text
    if not os.path.isfile(path):
        raise UserError(f"file {path} not found; expected the {what} {name!r} in it")
    module = _import_file(path)
    found = getattr(module, name, None)
    if found is not None and what != "callback" and not callable(found):
        raise UserError(f"{text}: expected a {what}, got {type(found).__name__}")
    if not hasattr(module, name):
        own = vars(module).items()
        known = [n for n, v in own if getattr(v, "__module__", None) == module.__name__]
        raise UserError(f"{path} has no {name!r}; it has {', '.join(known)}")
    return found


def _import_file(path: str) -> ModuleType:
    """Run a file as a module, beside which it may import others."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # of a file that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    known, search = sys.modules.get(name), list(sys.path)
    sys.modules[name] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code may raise
        raise UserError(f"{path} cannot be imported: {error!r}") from error
    finally:
        sys.path[:] = search
        if known is not None:
            sys.modules[name] = known
    return module
