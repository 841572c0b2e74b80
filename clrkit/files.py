"""Write files whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

UNFINISHED = ".unfinished"  # suffix of a file that is being written, or whose writer was killed


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all, whatever interrupts and whoever else writes it.

    It is written beside its place, under a random name and through no link, and then renamed.

    Raises:
        OSError: where it cannot be written; the file is as it was.
    """
    beside = unfinished(path)
    try:
        with beside.open("xb") as file:  # exclusive: never what another has put there
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def unfinished(path: Path) -> Path:
    """A hidden, random name beside a path, for what is not complete yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
