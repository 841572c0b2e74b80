"""What one's own folder of images holds: how many, how large, which cannot be read, which have labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from clrkit.config import Data
from clrkit.data.cache import Show
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
from clrkit.data.sources import cores
from clrkit.errors import DataError, reason
from clrkit.files import HOUR, discard_left_over, write_atomically
from clrkit.runs.store import RunError, Store, file_lock, fingerprint_once, read_json, write_json

FEWEST = 16  # images that pretraining makes sense with, and a little below
PIXELS_ENOUGH = 64  # to see whether a file can be decoded; large photographs are decoded smaller
MEASURED = ("test", "val", "valid", "validation")  # what people call folders of images to measure on
NO_CLASSES = ("train", *MEASURED, *UNLABELLED)


@dataclass(frozen=True)
class FolderScan:
    """What a folder of images holds.

    Attributes:
        root: the folder.
        names: the images to train on, paths below it.
        side: median of their shorter sides, in pixels.
        broken: why a file cannot be read, by name; these are left out.
        copies: images that are another one's bytes again.
        labels: classes by name, where images lie in class folders.
        test: images of the test folder.
        left_out: file that lists the broken ones; "" where there are none.
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
        lines = [f"{len(self.names):,} images in {self.root.name}, most about {self.side} pixels wide."]
        if apart:
            lines.append(f"{self.test:,} more in {apart.name}, kept to measure on.")
        if self.labels:
            counts = Counter(self.labels.values())
            lines.append(
                f"{len(self.labels):,} have labels by their folders, which are taken for classes: "
                f"{counted(counts)} (not with --folders_are_labels false)."
            )
        if self.broken:
            first, why = next(iter(self.broken.items()))
            lines.append(
                f"{len(self.broken):,} cannot be read and are left out, {first} first: {why} "
                f"All are listed in {self.left_out}."
            )
        if self.copies:
            lines.append(f"{self.copies:,} are exact copies of others, which can flatter the accuracy.")
        return lines


def counted(counts: Mapping[str, int], most: int = 8) -> str:
    """Classes with their numbers, the commonest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = [f"{len(ordered) - most} more"] if len(ordered) > most else []
    return ", ".join([*(f"{name} {count:,}" for name, count in ordered[:most]), *more])


def look(
    folder: Path, store: Store, show: Show = lambda line: None, folders_are_labels: bool = True
) -> FolderScan:
    """What a folder of images holds; every file is opened once, until one changes.

    Args:
        folder: or an archive of it.
        store: whose folder keeps what was seen, and the list of what is left out.
        show: takes a line of progress.
        folders_are_labels: whether class folders are; those of a test folder always are.

    Raises:
        DataError: for a folder that is missing, has too few images, or whose layout cannot be meant.
        RunError: where the results folder cannot be written, or is of other images.
    """
    fingerprint_once.cache_clear()  # images may have come since this process last looked
    check_folder(folder.expanduser())
    root = existing_root(Data(dataset="images", root=str(folder)))
    try:
        files = images_of(root, root, "")
        test = test_folder(root)
        labels = labels_by_folder(root) if folders_are_labels else {}
    except OSError as error:
        raise DataError(f"The folder {error.filename or root} cannot be read: {reason(error)}.") from None
    if hidden := [file.name for file in files if UNSHOWABLE.search(file.name)]:
        raise DataError(f"The image {hidden[0]!r} in {root} has a name that no text can show.")
    seen = opened(folder.expanduser().resolve(), root, files, store, show)
    apart = f"{test.name}/" if test else "/"
    good = [file.name for file in files if file.name not in seen["broken"]]
    names = tuple(name for name in good if not name.startswith(apart))
    if len(names) < FEWEST:
        raise DataError(f"{root} has {len(names)} images that can be read; at least {FEWEST} are needed.")
    known = {name: labels[name] for name in names if name in labels}
    left_out = listed(store, seen["broken"])
    return FolderScan(
        root, names, seen["side"], seen["broken"], seen["copies"], known, len(good) - len(names), left_out
    )


def check_folder(folder: Path) -> None:
    """Whether there is a folder, or what may be an archive of one. Raises DataError."""
    if not folder.exists():
        raise DataError(f"The folder of images {folder} does not exist.")
    if folder.is_file() and folder.name.lower().endswith(SUFFIXES):
        raise DataError(f"{folder} is a single image; give the folder that it lies in.")


def labels_by_folder(root: Path) -> dict[str, str]:
    """Classes of the images that lie in class folders; of a single folder the name says nothing.

    Raises:
        DataError: for a folder of images to measure on that says nothing of their classes.
    """
    there = folders_in(root)
    for name in there:
        flat = name.casefold() in MEASURED and not folders_in(root / name)
        if flat and any(images_below(str(root / name), "", "")):
            raise DataError(
                f"{root / name} has images but no class folders, so nothing can be measured on them: sort "
                "them into folders of their classes, move them away, or say --folders_are_labels false to "
                "train on them, too, and to take no folder's name for a class."
            )
    split = "train" in there and bool(folders_in(root / "train"))
    place, apart = (root / "train", UNLABELLED) if split else (root, NO_CLASSES)
    classes = [name for name in folders_in(place) if name.casefold() not in apart]
    if len(classes) < 2:
        return {}
    return {file.name: name for name in classes for file in images_of(root, place / name, name)}


def opened(source: Path, root: Path, files: Sequence[ImageFile], store: Store, show: Show) -> dict[str, Any]:
    """What opening every file tells: `side`, `broken`, `copies`; as noted before if nothing has changed.

    Args:
        source: the folder or archive that was named, of which these results are.
        root: the folder, that of an archive in the cache.

    Raises:
        RunError: where the note is of other images.
    """
    digest = hashlib.sha256(repr([root, *files]).encode(errors="surrogateescape")).hexdigest()
    note = store.folder / "survey.json"
    noted = read_json(note)
    seen = noted if isinstance(noted, dict) else {}
    if seen.get("source", str(source)) != str(source):
        raise RunError(
            f"{note} is of the images {seen['source']}; give the results of {source} another name (--name), "
            "or delete that file if the images were moved."
        )
    if seen.get("digest") == digest:
        return seen
    sides, broken, contents = list[int](), dict[str, str](), list[bytes]()
    with ThreadPoolExecutor(cores()) as pool:
        looked = pool.map(look_at, [root / file.name for file in files])
        for done, (file, found) in enumerate(zip(files, looked, strict=True), start=1):
            if isinstance(found, str):
                broken[file.name] = found
            else:
                sides.append(found[0])
                contents.append(found[1])
            if done % 200 == 0:
                show(f"looking at {done:,} of {len(files):,} images")
    side = round(median(sides)) if sides else 0
    copies = len(contents) - len(set(contents))
    seen = {"digest": digest, "source": str(source), "side": side, "broken": broken, "copies": copies}
    written(store, lambda: write_json(note, seen))
    return seen


def look_at(path: Path) -> tuple[int, bytes] | str:
    """An image's shorter side and a digest of its file, or why it cannot be read."""
    try:
        photo = read_photo(str(path), PIXELS_ENOUGH)
        return min(photo.size), hashlib.sha256(path.read_bytes()).digest()
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"The image {path} cannot be read: {reason(error)}."


def listed(store: Store, names: Mapping[str, str]) -> str:
    """Path of a list of these names; "" of none."""
    content = "".join(f"{name}\n" for name in names).encode()
    return str(kept(store, "left_out", ".txt", content)) if names else ""


def kept(store: Store, kind: str, ending: str, content: bytes) -> Path:
    """A file in the store's folder, named for its content: records that name it keep their meaning."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = store.folder.resolve() / "labels" / f"{kind}-{digest}{ending}"
    if not path.exists():
        written(store, lambda: write_atomically(path, content))
    return path


def written(store: Store, write: Callable[[], None]) -> None:
    """Write into the store's folder, one process at a time. Raises RunError where that cannot be."""
    try:
        (store.folder / "labels").mkdir(parents=True, exist_ok=True)
        with file_lock(store.folder / "labels" / "writing.lock"):
            for folder in (store.folder, store.folder / "labels"):
                discard_left_over(folder, HOUR)
            write()
    except OSError as error:
        raise RunError(f"{store.folder} cannot be written: {reason(error)}.") from None
