"""Files that are there whole or not at all, whatever interrupts their writing, whoever else writes them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

UNDER_WAY = ".new"  # ends the name of a file that is being written
HOUR = 3600.0  # seconds in which whoever writes a file has surely written it
NAMED = 32  # characters of a file's name that the file under way has, too: all names end at 255 bytes


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all.

    The content goes to a new file beside it, of a name that nobody can guess, so that a link cannot lead it
    elsewhere and writers of one file do not meet; then that takes the file's name.

    Raises:
        OSError: where it cannot be written; what was there before stays.
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
    """Delete what killed writers left in a folder.

    Args:
        folder: where they wrote; it need not be there.
        seconds: for which nothing was written to a file; above 0 where others may be at work.
    """
    for path in folder.glob(f".*{UNDER_WAY}"):
        with suppress(OSError):  # its writer has just given it its name
            if time.time() - path.lstat().st_mtime >= seconds:
                path.unlink()
