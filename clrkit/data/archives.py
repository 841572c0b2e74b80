"""Extract untrusted zip and tar archives safely and atomically."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from clrkit.data.cache import cache_folder, put_in_place
from clrkit.data.files import digest_of
from clrkit.errors import DataError, FormatError, reason

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_BYTES = 64 * 2**30  # all files together


def is_archive(path: Path) -> bool:
    """True if a path ends like an archive's."""
    return path.name.lower().endswith(ARCHIVES)


def unpacked(archive: Path) -> Path:
    """Return a folder in the cache with an archive's files; it is named by the archive's SHA-256.

    Raises:
        DataError: if the archive cannot be read, and as `unpack`.
    """
    try:
        about = archive.stat()
        folder = cache_folder() / "archives" / digest(archive, about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise DataError(f"The archive {archive} cannot be read: {reason(error)}.") from None
    if not folder.is_dir():
        unpack(archive, folder)
    return folder


@lru_cache(maxsize=8)
def digest(archive: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; `size` and `changed` make the memory of it end when the file changes."""
    return digest_of(archive)


def unpack(archive: Path, folder: Path, most: int = MOST_BYTES) -> None:
    """Extract all files of an archive, or none. A single top folder is dropped from their paths.

    Args:
        archive: zip, tar or compressed tar, recognised by its content.
        folder: where to put the files; it appears when all of them are there.
        most: bytes that the files may have together.

    Raises:
        DataError: if the archive is damaged, holds links or devices, or is too large, or if there is no room.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as beside:
            files = Path(beside) / "files"
            files.mkdir()
            extract = extract_zip if zipfile.is_zipfile(archive) else extract_tar
            extract(archive, files, most)
            shutil.rmtree(files / "__MACOSX", ignore_errors=True)  # metadata that macOS adds
            found = list(files.iterdir())
            put_in_place(found[0] if len(found) == 1 and found[0].is_dir() else files, folder)
    except Exception as error:  # the standard library raises nearly anything for a malformed archive
        raise DataError(f"The archive {archive} cannot be unpacked: {reason(error)}.") from None


def extract_zip(archive: Path, folder: Path, most: int) -> None:
    """Extract a zip; zipfile keeps the files inside the folder, checks their CRC and makes no links."""
    with zipfile.ZipFile(archive) as opened:
        check_total(sum(member.file_size for member in opened.infolist()), most)
        for member in opened.infolist():
            opened.extract(member, folder)


def extract_tar(archive: Path, folder: Path, most: int) -> None:
    """Extract a tar; tarfile's "data" filter keeps the files inside the folder and drops their owners."""
    if not tarfile.is_tarfile(archive):
        raise FormatError("it is not a zip or tar, or not a whole one")
    total = 0
    with tarfile.open(archive) as opened:
        for member in opened:
            if not (member.isreg() or member.isdir()) or member.size < 0:
                raise FormatError(f"it holds {member.name!r}, which is neither a file nor a folder")
            total += member.size
            check_total(total, most)
            opened.extract(member, folder, filter="data")
        # tarfile takes a damaged header for the end, and does not read the checksum at the end of gzip.
        assert opened.fileobj
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise FormatError("it is damaged or incomplete")
        while opened.fileobj.read(2**20):
            pass


def check_total(total: int, most: int) -> None:
    if total > most:
        raise FormatError(f"its files have more than {most:,} bytes")
