"""Keep decoded data sets on disk, checked by their fingerprints. Importing this module does not load torch.

Pixels are mapped, so that all processes of a machine share one copy. A set is hashed, which takes seconds for
gigabytes, only if the sizes and times of its files are not those noted when it was written: every write to a
file is noticed, but not a bit that rots on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from clrkit.data.splits import DataSet, PixelArray, PixelStream, Split, labelled_views
from clrkit.errors import DataError, reason

DECODER = 3  # raise it when the same files would decode to other pixels than before

Show = Callable[[str], None]


@dataclass(frozen=True)
class CacheEntry:
    """A data set that was found and not yet read.

    `name` is its place in the cache; `identity` changes with anything that would decode to other images.
    """

    name: str
    identity: str
    read: Callable[[], DataSet]

    @property
    def folder(self) -> Path:
        return cache_folder() / self.name


def cache_folder() -> Path:
    """The folder of decoded sets: CLRKIT_CACHE, else `clrkit` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CLRKIT_CACHE") or Path(base) / "clrkit")


def noted(entry: CacheEntry) -> dict[str, Any] | None:
    """The cache's note of a set (fingerprint and class names), or None if it has another set or none."""
    try:
        note = json.loads((entry.folder / "note.json").read_text())
        return note if note["identity"] == entry.identity and note["decoder"] == DECODER else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_cache(entry: CacheEntry, show: Show) -> DataSet | None:
    """Read a set from the cache, or return None if it is missing or damaged."""
    note = noted(entry)
    if note is None:
        return None
    try:
        train, test = (read_part(entry.folder, name) for name in ("train", "test"))
        found = DataSet(train, test, tuple(note["classes"]), note["fingerprint"])
        if note.get("stamps") == stamps_of(entry.folder) or fingerprint_of(found) == found.fingerprint:
            return found
    except Exception:  # an array's header is a Python literal, whose reader raises nearly anything
        pass
    show(f"The decoded images in {entry.folder} are damaged; they are decoded again.")
    return None


def stamps_of(folder: Path) -> dict[str, list[int]]:
    """Size, time of the last write and time of the last change of the files of both splits."""
    files = {path.name: path.stat() for path in folder.glob("*_*")}
    return {name: [each.st_size, each.st_mtime_ns, each.st_ctime_ns] for name, each in files.items()}


def read_part(folder: Path, name: str) -> Split:
    """Map a split's images, read-only; read its other, small arrays."""
    mapped = {
        path.stem.removeprefix(f"{name}_"): open_memmap(path, mode="r").view(np.ndarray)
        for path in folder.glob(f"{name}_*.npy")
    }
    pixels, views, labels = mapped["pixels"], mapped.get("views"), np.array(mapped["labels"])
    aspects = np.array(mapped["aspects"]) if "aspects" in mapped else None
    names = json.loads((folder / f"{name}_names.json").read_text())
    if not len(pixels) == len(labels) == len(names):
        raise ValueError("a file of another set")
    measured = None if views is None else labelled_views(views, labels)
    return Split(PixelArray(pixels, aspects), labels, names, measured)


def write_cache(entry: CacheEntry, found: DataSet) -> DataSet:
    """Write a set that lies in memory, completely or not at all; returns it with its fingerprint.

    Raises:
        DataError: if the cache cannot be written.
    """
    found = replace(found, fingerprint=fingerprint_of(found))
    note: dict[str, Any] = {"identity": entry.identity, "decoder": DECODER}
    note |= {"fingerprint": found.fingerprint, "classes": found.classes}
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".partial-") as partial:
            folder = Path(partial) / "set"
            folder.mkdir()
            write_part(folder, "train", found.train)
            write_part(folder, "test", found.evaluation)
            (folder / "note.json").write_text(json.dumps(note | {"stamps": stamps_of(folder)}))
            shutil.rmtree(entry.folder, ignore_errors=True)  # an older one
            put_in_place(folder, entry.folder)
    except OSError as error:
        raise DataError(
            f"Decoded images cannot be kept in {cache_folder()}: {reason(error)}; "
            "name another folder in CLRKIT_CACHE."
        ) from None
    return found


def write_part(folder: Path, name: str, part: Split) -> None:
    """Write a split's arrays and names. (np.save would hide why a disk is full.)"""
    for what, array in arrays_of(part).items():
        with (folder / f"{name}_{what}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
    (folder / f"{name}_names.json").write_text(json.dumps(list(part.names)))


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a complete folder; if another process was quicker, its folder stays."""
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def arrays_of(part: Split) -> dict[str, np.ndarray]:
    """The arrays of a split in memory; aspects unless all were square, views if they differ."""
    assert isinstance(part.pixels, PixelArray)
    arrays = {"pixels": part.pixels.array, "labels": part.labels}
    if part.pixels.aspects is not None:
        arrays["aspects"] = part.pixels.aspects
    if isinstance(part.measured, PixelArray):
        arrays["views"] = part.measured.array
    return {what: np.ascontiguousarray(array) for what, array in arrays.items()}


def fingerprint_of(found: DataSet) -> str:
    """SHA-256 over class names, pixels, labels and the other arrays of a set in memory.

    For a streamed set, over class names, the listing (a sorted line of name, bytes and label per image, the
    same wherever the images are stored) and the version of the decoder.
    """
    digest = hashlib.sha256(json.dumps(found.classes).encode())
    for part in (found.train, found.evaluation):
        if isinstance(part.pixels, PixelStream):
            rows = zip(part.names, part.pixels.sizes.tolist(), part.labels.tolist(), strict=True)
            lines = sorted(f"{name}\t{size}\t{label}\n" for name, size, label in rows)
            digest.update("".join([*lines, f"decoder {DECODER}\n"]).encode(errors="surrogateescape"))
        else:
            for array in arrays_of(part).values():
                digest.update(array.data)
    return digest.hexdigest()
