"""Write files atomically, hold locks, hash files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock

from clrkit.errors import ConfigError

UNDER_WAY = ".new"  # suffix of a file that is being written
HOUR = 3600.0  # seconds; no writer takes that long for a file
NAMED = 32  # characters of a file's name that its temporary file repeats: names end at 255 bytes


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file completely or not at all.

    The content goes to a new file in the same folder, which is then renamed. Its name is random, so that no
    link can redirect it and two writers never share it.

    Raises:
        OSError: if it cannot be written; the previous content stays.
    """
    beside = path.with_name(f".{path.name[:NAMED]}.{token_hex(8)}{UNDER_WAY}")
    try:
        with beside.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def discard_left_over(folder: Path, seconds: float = 0.0) -> None:
    """Delete the temporary files that killed writers left in a folder.

    Args:
        folder: need not exist.
        seconds: minimal age of a file; above 0 if other processes may be writing.
    """
    for path in folder.glob(f".*{UNDER_WAY}"):
        with suppress(OSError):  # its writer has just renamed it
            if time.time() - path.lstat().st_mtime >= seconds:
                path.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically. Raises as `write_atomically`."""
    write_atomically(path, json.dumps(content, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if the file does not exist.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError):
        raise ConfigError(f"{path} cannot be read; delete it.") from None


def digest_of(path: Path, algorithm: Callable[[], Any] = hashlib.sha256) -> str:
    """Return the digest of a file of any size, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def file_lock(lock: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file; the lock ends with its process.

    Only the holder deletes the file, while it holds the lock. A process that waited for a file which is
    deleted by then starts again (filelock does, since 3.21), so at most one process holds the file that has
    the name.

    Raises:
        filelock.Timeout: if another process holds it for more than `timeout` seconds.
    """
    with FileLock(lock, timeout=timeout):
        try:
            yield
        finally:
            with suppress(PermissionError):  # on Windows, where filelock deletes the file
                lock.unlink(missing_ok=True)
