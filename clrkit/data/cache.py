"""Decoded data sets on disk, checked by their fingerprints. Importing this module does not load torch.

Pixels are mapped, not read: all processes of a machine share one copy, the system's. A set is hashed when it
is first read after it was written; then sizes and times of its files are noted, and while these stay they
stand for the hash, which of gigabytes takes seconds at every start. So a bit that rots on the disk without a
write is not noticed; whatever writes to a file is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from clrkit.data.sources import PixelArray, PixelStream, PixelSubset, Split, Splits, of_labelled
from clrkit.errors import DataError, reason
from clrkit.files import write_atomically

VERIFIED = "verified.json"  # in a set's folder: sizes and times of its files when they were last hashed
TICKS = 2 * 10**9  # nanoseconds in which two writes may get the same time on some file systems
DECODER = 3  # raise it when the same files would decode to other pixels than before

Show = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A data set that was found and not yet read.

    `entry` names its place in the cache; `identity` changes with anything that would decode to other images.
    """

    entry: str
    identity: str
    read: Callable[[], Splits]

    @property
    def folder(self) -> Path:
        return cache_folder() / self.entry


def cache_folder() -> Path:
    """Where decoded sets are kept: CLRKIT_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CLRKIT_CACHE") or Path(base) / "clrkit")


def noted(source: Source) -> dict[str, Any] | None:
    """What the cache notes of a set (fingerprint and class names), or None where it has another or none."""
    try:
        note = json.loads((source.folder / "note.json").read_text())
        return note if note["identity"] == source.identity and note["decoder"] == DECODER else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_cache(source: Source, show: Show) -> tuple[Splits, str] | None:
    """The cached set and its fingerprint, or None where it is missing or not what was written."""
    note = noted(source)
    if note is None:
        return None
    try:
        train, test = (read_part(source.folder, name) for name in ("train", "test"))
        parts = Splits(train, test, tuple(note["classes"]))
        if verified(source.folder, parts, note["fingerprint"]):
            return parts, note["fingerprint"]
    except Exception:  # an array's header is a Python literal, whose reader raises nearly anything
        pass
    show(f"The decoded images in {source.folder} are damaged; they are decoded again.")
    return None


def verified(folder: Path, parts: Splits, fingerprint: str) -> bool:
    """Whether a set is what was written: by its hash, or as it has been hashed and no file is another."""
    now, stamps = time.time_ns(), stamps_of(folder)
    with suppress(OSError, ValueError):
        if json.loads((folder / VERIFIED).read_text()) == stamps:
            return True
    if fingerprint_of(parts) != fingerprint:
        return False
    # What was written just now may be written again without another time.
    if now - max(max(times) for _, *times in stamps.values()) > TICKS:
        with suppress(OSError):  # of a cache that is only read, each start hashes
            write_atomically(folder / VERIFIED, json.dumps(stamps).encode())
    return True


def stamps_of(folder: Path) -> dict[str, list[int]]:
    """Size, time of the last write and time of the last change of all files of a set, by name."""
    found = {path.name: path.stat() for path in folder.iterdir() if path.suffix in (".npy", ".json")}
    return {
        name: [each.st_size, each.st_mtime_ns, each.st_ctime_ns]
        for name, each in sorted(found.items())
        if name != VERIFIED
    }


def read_part(folder: Path, name: str) -> Split:
    """A part whose images are mapped, read-only; what else there is is small and read."""
    maps = {path.stem: open_memmap(path, mode="r") for path in folder.glob(f"{name}_*.npy")}
    images = {stem: mapped.view(np.ndarray) for stem, mapped in maps.items()}
    pixels, views = images[f"{name}_pixels"], images.get(f"{name}_views")
    labels, aspects = np.array(images[f"{name}_labels"]), images.get(f"{name}_aspects")
    names = json.loads((folder / f"{name}_names.json").read_text())
    if not len(pixels) == len(labels) == len(names):
        raise ValueError("a file of another set")
    measured = None if views is None else of_labelled(PixelArray(views), labels)
    return Split(PixelArray(pixels, None if aspects is None else np.array(aspects)), labels, names, measured)


def write_cache(source: Source, parts: Splits) -> str:
    """Keep a set that lies in memory, whole or not at all; returns its fingerprint.

    Raises:
        DataError: where the cache cannot be written.
    """
    digest = fingerprint_of(parts)
    note = {"identity": source.identity, "decoder": DECODER, "fingerprint": digest, "classes": parts.classes}
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".partial-") as partial:
            folder = Path(partial) / "set"
            folder.mkdir()
            write_part(folder, "train", parts.train)
            write_part(folder, "test", parts.test)
            (folder / "note.json").write_text(json.dumps(note))
            shutil.rmtree(source.folder, ignore_errors=True)  # an older one
            put_in_place(folder, source.folder)
    except OSError as error:
        raise DataError(
            f"Decoded images cannot be kept in {cache_folder()}: {reason(error)}; "
            "CLRKIT_CACHE can name another folder."
        ) from None
    return digest


def write_part(folder: Path, name: str, part: Split) -> None:
    for what, array in arrays_of(part).items():
        save_array(folder / f"{name}_{what}.npy", np.ascontiguousarray(array))
    (folder / f"{name}_names.json").write_text(json.dumps(list(part.names)))


def save_array(path: Path, array: np.ndarray) -> None:
    """As np.save, which does not tell why a disk takes no more."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def put_in_place(folder: Path, target: Path) -> None:
    """Give a folder that is whole its name; where another process was quicker, that one's stays."""
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def arrays_of(part: Split) -> dict[str, np.ndarray]:
    """What a part in memory consists of; aspects where not all were square, views where they are apart."""
    assert isinstance(part.pixels, PixelArray)
    arrays = {"pixels": part.pixels.array, "labels": part.labels}
    if part.pixels.aspects is not None:
        arrays["aspects"] = part.pixels.aspects
    if isinstance(part.measured, PixelSubset) and isinstance(part.measured.source, PixelArray):
        arrays["views"] = part.measured.source.array
    return arrays


def fingerprint_of(parts: Splits) -> str:
    """SHA-256 over class names, pixels, labels and what else a set in memory has.

    Of a streamed set, over its listing and how it is decoded.
    """
    digest = hashlib.sha256(json.dumps(parts.classes).encode())
    for part in (parts.train, parts.test):
        if isinstance(part.pixels, PixelStream):
            digest.update(listing(part, part.pixels))
        else:
            for array in arrays_of(part).values():
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def listing(part: Split, pixels: PixelStream) -> bytes:
    """Names, bytes and labels, sorted, a line each: the same wherever the images lie. Then the decoder."""
    rows = zip(part.names, pixels.images.found.sizes.tolist(), part.labels.tolist(), strict=True)
    lines = sorted(f"{name}\t{size}\t{label}\n" for name, size, label in rows)
    return "".join([*lines, f"decoder {DECODER}\n"]).encode(errors="surrogateescape")
