"""Archives (zip, tar, tar.gz) that nobody vouches for, unpacked whole or not at all.

Every member is looked at before the first byte is written: only files and folders that lie below the target,
each once, and no more of them than is sensible. Modes, owners and times are not taken over.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, NamedTuple

from clrkit.data.cache import cache_folder, put_in_place
from clrkit.errors import ConfigError, FormatError, reason
from clrkit.files import digest_of

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_BYTES = 64 * 2**30  # of all files together
MOST_MEMBERS = 500_000
MOST_RATIO = 100  # bytes of the files for one of the archive; photographs are compressed already
NEVER_TOO_MANY = 256 * 2**20  # bytes that an archive may have whatever their ratio
TAR_PIECE = (
    16 * 1024
)  # bytes; tarfile reads a header's extensions in one piece, however long they say they are
ZIP_PIECE = 64 * 2**20  # bytes; zipfile reads its whole table of contents in one
METADATA = "__MACOSX"  # what macOS puts beside the files of a zip
SPECIAL = "it holds {!r}, which is neither a file nor a folder"
# What the readers of the standard library raise for a malformed archive.
MALFORMED = (
    *(OSError, EOFError, ValueError, RuntimeError, OverflowError, LookupError, NotImplementedError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error),
)

Name = tuple[str, ...]


class ArchiveError(ConfigError):
    """An archive that is not unpacked; the message says why in one sentence."""


class Member(NamedTuple):
    """A file in an archive, or a folder: the parts of its path, its bytes, and what opens it (no folder)."""

    name: Name
    size: int
    open: Callable[[], IO[bytes] | None] | None


class Bounded:
    """A file of which no more than `piece` bytes are read at once, and none beyond the first `room`."""

    def __init__(self, file: BufferedIOBase, piece: int, room: float = math.inf) -> None:
        self.file, self.piece, self.room, self.tell = file, piece, room, file.tell

    def read(self, count: int = -1) -> bytes:
        if count > self.piece:
            raise FormatError(f"a record in it has {count:,} bytes")
        data = self.file.read(self.piece if count < 0 else count)
        self.check(self.tell())
        return data

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET:
            self.check(place)
        return self.file.seek(place, whence)

    def seekable(self) -> bool:
        return True

    def check(self, place: int) -> None:
        if not 0 <= place <= self.room:
            raise FormatError(f"it unpacks to more than {self.room:,} bytes, or to fewer than none")


def is_archive(path: Path) -> bool:
    """Whether a path is that of an archive, by its suffix."""
    return path.name.lower().endswith(SUFFIXES)


def unpacked(archive: Path) -> Path:
    """A folder with an archive's files, in the cache: unpacked the first time, found by its SHA-256 later.

    Raises:
        ArchiveError: as `unpack`.
    """
    try:
        about = archive.stat()
        folder = cache_folder() / "archives" / digest(archive, about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise ArchiveError(f"The archive {archive} cannot be read: {reason(error)}.") from None
    if not folder.is_dir():
        unpack(archive, folder)
    return folder


@lru_cache(maxsize=8)
def digest(archive: Path, size: int, changed: int) -> str:
    """SHA-256 of a file that has not changed its size or time since it was last asked for."""
    return digest_of(archive)


def unpack(archive: Path, folder: Path, most: int = MOST_BYTES) -> None:
    """Make a folder of an archive's files; where they all lie in one folder of it, of that folder's.

    Args:
        archive: zip, tar or tar.gz, by what is in it.
        folder: must not exist; it is there when all files are.
        most: bytes the files may have together.

    Raises:
        ArchiveError: for an archive that is damaged, has a member that is a link, a device, there twice or
            outside of the folder, or that unpacks to too much; or where there is no room for it.
    """
    try:
        room = min(most, max(NEVER_TOO_MANY, MOST_RATIO * archive.stat().st_size))
        with archive.open("rb") as file:
            members = allowed(read_members(file, room), room)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as beside:
                write(members, Path(beside) / "files")
                put_in_place(content(Path(beside) / "files"), folder)
    except MALFORMED as error:
        raise ArchiveError(f"The archive {archive} is not unpacked: {reason(error)}.") from None


def content(folder: Path) -> Path:
    """The folder itself, or the only one in it."""
    found = list(folder.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else folder


def read_members(file: BufferedIOBase, room: int) -> Iterator[Member]:
    start = file.read(2)
    file.seek(0)
    if start == b"PK":
        return zip_members(Bounded(file, ZIP_PIECE))
    plain = gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file
    return tar_members(Bounded(plain, TAR_PIECE, 2 * room + 2**20))  # headers take some of it


def zip_members(file: Any) -> Iterator[Member]:
    archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was made on Windows
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise FormatError(SPECIAL.format(info.filename))
        if info.flag_bits & 1:
            raise FormatError(f"{info.filename!r} in it is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FormatError(f"{info.filename!r} in it is compressed by a rare method")
        # zipfile would cut a name at its first NUL.
        name = parts_of(info.orig_filename)
        yield Member(name, info.file_size, None if info.is_dir() else partial(archive.open, info))


def tar_members(file: Any) -> Iterator[Member]:
    archive = tarfile.TarFile(fileobj=file)
    for info in archive:
        if not (info.isdir() or info.isreg()) or info.issparse() or info.size < 0:
            raise FormatError(SPECIAL.format(info.name))
        name = parts_of(info.name)
        yield Member(name, info.size, None if info.isdir() else partial(archive.extractfile, info))
    # tarfile takes a damaged header for the end, and leaves gzip's checksum unread.
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise FormatError("it is damaged, or has no end")
    while file.read():
        pass


def parts_of(name: str) -> Name:
    """The parts of a member's path. Raises FormatError for one that may lead out of the target."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or re.search(r"\\|\0|^[A-Za-z]:", name):
        raise FormatError(f"the path {name!r} in it may lead out of its folder")
    return parts


def allowed(members: Iterable[Member], room: int) -> list[Member]:
    """All members, if they are what can be unpacked."""
    files, folders, chosen, total = set[Name](), set[Name](), list[Member](), 0
    for member in members:
        total += member.size
        if len(chosen) == MOST_MEMBERS or total > room:
            raise FormatError(f"it has more than {MOST_MEMBERS:,} members or {room:,} bytes")
        if member.name in files:
            raise FormatError(f"{'/'.join(member.name)!r} is in it twice")
        (files if member.open else folders).add(member.name)
        folders.update(member.name[:depth] for depth in range(len(member.name)))
        chosen.append(member)
    if both := files & folders:
        raise FormatError(f"{'/'.join(min(both))!r} is in it as a file and as a folder")
    return [member for member in chosen if member.name[:1] != (METADATA,)]


def write(members: Iterable[Member], folder: Path) -> None:
    folder.mkdir()
    for member in members:
        path = folder.joinpath(*member.name)
        (path.parent if member.open else path).mkdir(parents=True, exist_ok=True)
        if member.open:
            write_file(member, path)


def write_file(member: Member, path: Path) -> None:
    source = member.open and member.open()
    assert source
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, TAR_PIECE)
        if file.tell() != member.size:
            raise FormatError(f"{'/'.join(member.name)!r} in it has not the bytes that it says")
