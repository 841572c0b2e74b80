"""Write files atomically, safe against interruption, several writers and planted links."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

UNDER_WAY = ".new"  # ends the name of a file that is being written
HOUR = 3600.0  # seconds; longer than any file takes to write
NAMED = 32  # characters of a file's name that the file under way has, too: all names end at 255 bytes


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file atomically: it appears whole or not at all.

    The content goes to a new file beside it with a random name, so that no planted link is followed and two
    writers do not collide; then that file is renamed.

    Raises:
        OSError: if it cannot be written; the old file stays.
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
    """Delete unfinished files that killed writers left in a folder.

    Args:
        folder: where they wrote; it may be missing.
        seconds: keep files that were changed in the last so many seconds; above 0 if others may be writing.
    """
    for path in folder.glob(f".*{UNDER_WAY}"):
        with suppress(OSError):  # its writer has just given it its name
            if time.time() - path.lstat().st_mtime >= seconds:
                path.unlink()
