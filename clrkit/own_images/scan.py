"""Scan a folder of your own images: count and size, unreadable files, copies, and labels by class folders."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from clrkit.config import Data
from clrkit.data.cache import Show
from clrkit.data.files import HOUR, discard_left_over, file_lock, read_json, write_atomically, write_json
from clrkit.data.folders import (
    UNLABELLED,
    UNSHOWABLE,
    ImageFile,
    existing_root,
    folders_in,
    images_below,
    images_of,
    test_folder,
)
from clrkit.data.images import SUFFIXES, read_photo
from clrkit.data.splits import cores
from clrkit.errors import DataError, reason
from clrkit.runs.store import RunError, Store, fingerprint_once

FEWEST = 16  # images that pretraining needs
PIXELS_ENOUGH = 64  # to see whether a file can be decoded; large photographs are decoded at a smaller size
MEASURED = ("test", "val", "valid", "validation")  # usual names of folders with images to measure on
NOT_CLASSES = ("train", *MEASURED, *UNLABELLED)
NAMED_CLASSES = 8  # in a sentence


@dataclass(frozen=True)
class FolderScan:
    """What a folder of images holds.

    Attributes:
        root: the folder.
        names: images to train on, as paths below the folder.
        side: median of their shorter sides, in pixels.
        broken: unreadable files, left out, with the reason by name.
        copies: images with the same bytes as another one.
        labels: classes by name, for images in class folders.
        test: number of images in the test folder.
        left_out: file that lists the unreadable files; "" if there are none.
    """

    root: Path
    names: tuple[str, ...]
    side: int
    broken: Mapping[str, str]
    copies: int
    labels: Mapping[str, str]
    test: int
    left_out: str

    @property
    def data(self) -> Data:
        """The data set without labels, at the images' own size."""
        return Data(
            dataset="images", root=str(self.root), left_out=self.left_out, image_size=max(self.side, 8)
        )

    def sentences(self) -> list[str]:
        """What was found, a sentence each."""
        apart = test_folder(self.root)
        lines = [f"{len(self.names):,} images in {self.root.name}, typically {self.side} pixels on a side."]
        if apart:
            lines.append(f"{self.test:,} more in {apart.name}, kept to measure on.")
        if self.labels:
            lines.append(
                f"{len(self.labels):,} have labels, because class folders count as labels: "
                f"{counted(self.labels.values())} (use --folders_are_labels false to change this)."
            )
        if self.broken:
            first, why = next(iter(self.broken.items()))
            lines.append(
                f"{len(self.broken):,} cannot be read and are left out, first {first}: {why} "
                f"{self.left_out} lists them all."
            )
        if self.copies:
            lines.append(f"{self.copies:,} are exact copies of others, which can flatter the accuracy.")
        return lines


def counted(labels: Iterable[str]) -> str:
    """The classes of some labels with their counts, the most frequent first."""
    ordered = sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    more = [f"{len(ordered) - NAMED_CLASSES} more"] if len(ordered) > NAMED_CLASSES else []
    return ", ".join([*(f"{name} {count:,}" for name, count in ordered[:NAMED_CLASSES]), *more])


def scan_folder(
    folder: Path, store: Store, show: Show = lambda line: None, folders_are_labels: bool = True
) -> FolderScan:
    """Open every image of a folder once; a second scan reads the notes of the first until a file changes.

    Args:
        folder: or an archive of it.
        store: keeps the notes, and the list of unreadable files.
        show: called with a line of progress.
        folders_are_labels: whether class folders are labels; those of a test folder always are.

    Raises:
        DataError: if the folder is missing, has too few images, or has an ambiguous layout.
        RunError: if the results folder cannot be written or belongs to other images.
    """
    fingerprint_once.cache_clear()  # the images may have changed since this process last looked
    folder = folder.expanduser()
    if folder.is_file() and folder.name.lower().endswith(SUFFIXES):
        raise DataError(f"{folder} is a single image; give the folder that contains it.")
    if not folder.exists():
        raise DataError(f"The folder of images {folder} does not exist.")
    root = existing_root(Data(dataset="images", root=str(folder)))
    try:
        files, test = images_of(root, root, ""), test_folder(root)
        labels = labels_by_folder(root) if folders_are_labels else {}
    except OSError as error:
        raise DataError(f"The folder {error.filename or root} cannot be read: {reason(error)}.") from None
    if hidden := [file.name for file in files if UNSHOWABLE.search(file.name)]:
        raise DataError(f"The image {hidden[0]!r} in {root} has control characters in its name; rename it.")
    seen = noted_scan(folder.resolve(), root, files, store, show)
    apart = f"{test.name}/" if test else "/"
    good = [file.name for file in files if file.name not in seen["broken"]]
    names = tuple(name for name in good if not name.startswith(apart))
    if len(names) < FEWEST:
        raise DataError(f"{root} has {len(names)} readable images; at least {FEWEST} are needed.")
    listed = "".join(f"{name}\n" for name in seen["broken"]).encode()
    return FolderScan(
        root=root,
        names=names,
        side=seen["side"],
        broken=seen["broken"],
        copies=seen["copies"],
        labels={name: labels[name] for name in names if name in labels},
        test=len(good) - len(names),
        left_out=str(keep_file(store, "left_out", ".txt", listed)) if listed else "",
    )


def labels_by_folder(root: Path) -> dict[str, str]:
    """Classes of the images in class folders; none if there is only one folder.

    Raises:
        DataError: if a folder of images to measure on has no class folders.
    """
    folders = folders_in(root)
    for name in folders:
        flat = name.casefold() in MEASURED and not folders_in(root / name)
        if flat and any(images_below(str(root / name), "", "")):
            raise DataError(
                f"{root / name} has images but no class folders, so accuracy cannot be measured on them: "
                "sort them into class folders, move them away, or use --folders_are_labels false to train on "
                "them too and to ignore folder names."
            )
    split = "train" in folders and bool(folders_in(root / "train"))
    place, ignored = (root / "train", UNLABELLED) if split else (root, NOT_CLASSES)
    classes = [name for name in folders_in(place) if name.casefold() not in ignored]
    if len(classes) < 2:
        return {}
    return {file.name: name for name in classes for file in images_of(root, place / name, name)}


def noted_scan(
    source: Path, root: Path, files: Sequence[ImageFile], store: Store, show: Show
) -> dict[str, Any]:
    """Read `side`, `broken` and `copies` from the store's note, or open all files and write it.

    Args:
        source: the folder or archive that the user named.
        root: the folder itself, in the cache for an archive.
        files: its images.
        store: keeps the note.
        show: called with a line of progress.

    Raises:
        RunError: if the note belongs to other images.
    """
    digest = hashlib.sha256(repr([root, *files]).encode(errors="surrogateescape")).hexdigest()
    path = store.folder / "survey.json"
    noted = read_json(path)
    note = noted if isinstance(noted, dict) else {}
    if note.get("source", str(source)) != str(source):
        raise RunError(
            f"{path} belongs to the images {note['source']}; name the results of {source} differently "
            "(--name), or delete that file if you moved the images."
        )
    if note.get("digest") != digest:
        note = {"digest": digest, "source": str(source), **open_all(root, files, show)}
        write_locked(store, lambda: write_json(path, note))
    return note


def open_all(root: Path, files: Sequence[ImageFile], show: Show) -> dict[str, Any]:
    """Open all files: the median shorter side, unreadable files with reasons, and the number of copies."""
    sides, broken, contents = list[int](), dict[str, str](), list[bytes]()
    with ThreadPoolExecutor(cores()) as pool:
        opened = pool.map(open_image, [root / file.name for file in files])
        for done, (file, found) in enumerate(zip(files, opened, strict=True), start=1):
            if isinstance(found, str):
                broken[file.name] = found
            else:
                sides.append(found[0])
                contents.append(found[1])
            if done % 200 == 0:
                show(f"opened {done:,} of {len(files):,} images")
    side = round(median(sides)) if sides else 0
    return {"side": side, "broken": broken, "copies": len(contents) - len(set(contents))}


def open_image(path: Path) -> tuple[int, bytes] | str:
    """An image's shorter side and the digest of its file, or why it cannot be read."""
    try:
        photo = read_photo(str(path), PIXELS_ENOUGH)
        return min(photo.size), hashlib.sha256(path.read_bytes()).digest()
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"The image {path} cannot be read: {reason(error)}."


def keep_file(store: Store, kind: str, ending: str, content: bytes) -> Path:
    """Keep a file in the store under a name with its digest, so that records which name it stay valid."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = store.folder.resolve() / "labels" / f"{kind}-{digest}{ending}"
    if not path.exists():
        write_locked(store, lambda: write_atomically(path, content))
    return path


def write_locked(store: Store, write: Callable[[], None]) -> None:
    """Call `write` while holding the lock of the store's folder. Raises RunError if it cannot be written."""
    try:
        (store.folder / "labels").mkdir(parents=True, exist_ok=True)
        with file_lock(store.folder / "labels" / "writing.lock"):
            for folder in (store.folder, store.folder / "labels"):
                discard_left_over(folder, HOUR)
            write()
    except OSError as error:
        raise RunError(f"{store.folder} cannot be written: {reason(error)}.") from None
