"""What a file should hold: a SHA256SUMS in every folder of results, as `sha256sum --check` reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clrkit.errors import ConfigError, reason

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\x00-\x1f\x7f-\x9f]+)")  # a digest and a file of the same folder
REFERENCE = "reference"  # the folder of results that the repository holds


class ChecksumError(ConfigError):
    """A file of a run that is not what was written; the message names it and says what to do.

    Attributes:
        problem: the file and what is wrong with it.
    """

    def __init__(self, path: Path, wrong: str) -> None:
        self.problem = f"{path} {wrong}"
        remedy = (
            "restore it from the repository"
            if of_reference(path.parent)
            else "`python -m clrkit check --set-aside` puts its run aside, `reproduce` then makes it again"
        )
        super().__init__(f"{self.problem}; {remedy}.")


def of_reference(run: Path) -> bool:
    """Whether a run's folder, <results>/<preset>/runs/<run>, is of the committed reference."""
    return [results.name for results in run.absolute().parents[2:3]] == [REFERENCE]


def listing(sums: Mapping[str, str]) -> bytes:
    """The content of a SHA256SUMS, from digests by name, in the order of the names."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def read_sums(folder: Path) -> dict[str, str] | None:
    """Digests by name from a folder's SHA256SUMS; None where there is no such file.

    Raises:
        Damaged: where it is no list of checksums.
    """
    path = folder / SUMS
    try:
        *lines, last = path.read_bytes().decode(errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ChecksumError(path, f"cannot be read: {reason(error)}") from None
    found = [match.groups() for match in map(LINE.fullmatch, lines) if match]
    if last or not lines or len(found) < len(lines):  # the last line has its end, too
        raise ChecksumError(path, "is no list of checksums")
    return {name: digest for digest, name in found}


def read_checked(path: Path, sums: dict[str, str]) -> bytes:
    """The content of a file, read once. Raises Damaged unless it is what the folder's SHA256SUMS says."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ChecksumError(path, f"cannot be read: {reason(error)}") from None
    compare(path, hashlib.sha256(content).hexdigest(), sums)
    return content


def check_file(path: Path, sums: dict[str, str]) -> None:
    """Raises Damaged unless a file, of any size, is what the folder's SHA256SUMS says."""
    try:
        found = digest_of(path)
    except OSError as error:
        raise ChecksumError(path, f"cannot be read: {reason(error)}") from None
    compare(path, found, sums)


def compare(path: Path, found: str, sums: dict[str, str]) -> None:
    if path.name not in sums:
        raise ChecksumError(path, f"is not listed in the {SUMS} beside it")
    if found != sums[path.name]:
        raise ChecksumError(path, f"was changed since it was written: its SHA-256 is not the one in {SUMS}")


def digest_of(path: Path, algorithm: Callable[[], Any] = hashlib.sha256) -> str:
    """A file's digest in hexadecimal, SHA-256 unless told otherwise."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
