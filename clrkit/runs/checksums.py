"""SHA256SUMS: the checksums of the files in a folder, in the format of `sha256sum --check`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from clrkit.data.files import digest_of, write_atomically
from clrkit.errors import ConfigError, reason

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\x00-\x1f\x7f-\x9f]+)")  # digest and name of a file in the folder
MAKE_AGAIN = "`python -m clrkit check --set-aside` renames its run, then `reproduce` makes the run again"


class ChecksumError(ConfigError):
    """A file was changed after it was written; the message names the file and says what to do.

    Attributes:
        problem: the file and what is wrong with it.
    """

    def __init__(self, path: Path, wrong: str, remedy: str = MAKE_AGAIN) -> None:
        self.problem = f"{path} {wrong}"
        super().__init__(f"{self.problem}; {remedy}.")


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write SHA256SUMS for these files of a folder. Raises OSError."""
    lines = (f"{digest_of(folder / name)}  {name}\n" for name in sorted(names))
    write_atomically(folder / SUMS, "".join(lines).encode())


def read_sums(folder: Path) -> dict[str, str] | None:
    """Read SHA256SUMS as digests by file name; None if the folder has none.

    Raises:
        ChecksumError: if the file is not valid.
    """
    path = folder / SUMS
    try:
        *lines, last = path.read_bytes().decode(errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ChecksumError(path, f"cannot be read: {reason(error)}") from None
    found = [match.groups() for match in map(LINE.fullmatch, lines) if match]
    if last or not lines or len(found) < len(lines):  # the last line ends with a newline, too
        raise ChecksumError(path, f"is not a valid {SUMS} file")
    return {name: digest for digest, name in found}


def read_checked(path: Path, sums: Mapping[str, str]) -> bytes:
    """Read a file once and compare it with its checksum. Raises ChecksumError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ChecksumError(path, f"cannot be read: {reason(error)}") from None
    compare(path, hashlib.sha256(content).hexdigest(), sums)
    return content


def check_file(path: Path, sums: Mapping[str, str]) -> None:
    """Compare a file of any size with its checksum. Raises ChecksumError."""
    try:
        found = digest_of(path)
    except OSError as error:
        raise ChecksumError(path, f"cannot be read: {reason(error)}") from None
    compare(path, found, sums)


def compare(path: Path, digest: str, sums: Mapping[str, str]) -> None:
    if path.name not in sums:
        raise ChecksumError(path, f"is not listed in the {SUMS} beside it")
    if digest != sums[path.name]:
        raise ChecksumError(path, f"was changed since it was written: its SHA-256 is not the one in {SUMS}")
