"""List folders of images: class folders, ImageNet, or one folder with a CSV of labels.

Files are listed, not opened. Names are paths below the root with "/" between their parts; hidden files, and
files that do not end like an image, are ignored.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np

from clrkit.config import Data
from clrkit.data.archives import unpacked
from clrkit.data.images import SUFFIXES, Photo, read_photo
from clrkit.data.sheet import read_labels, read_sheet
from clrkit.data.splits import Labels, Photos
from clrkit.data.subsets import TEST_SHARE, hold_out
from clrkit.errors import DataError, reason

FOLDERS = ("imagenet", "folder", "images")  # data sets that this module lists
UNLABELLED = ("unlabelled", "unlabeled")  # folders that are not a class
UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters; bytes that are not UTF-8
NOWHERE = -1  # size of a broken link


class ImageFile(NamedTuple):
    """A listed image: name, bytes, time of change and class ("" for none)."""

    name: str
    size: int
    changed: int
    label: str


Parts = tuple[list[ImageFile], list[ImageFile]]  # to train on and to test on


class Listing(NamedTuple):
    """The files of a data set."""

    root: Path
    train: list[ImageFile]
    test: list[ImageFile]

    @property
    def classes(self) -> tuple[str, ...]:
        return classes_of([*self.train, *self.test])

    def photos(self, files: list[ImageFile]) -> Photos:
        """Some of the files as photographs."""
        # One array of bytes, which forked workers share uncopied.
        paths = np.array([os.fsencode(file.name) for file in files])
        sizes = np.array([file.size for file in files], dtype=np.int64)
        labels, names = numbers(files, self.classes), [file.name for file in files]
        return Photos(partial(photo_below, str(self.root), paths), sizes, labels, names, self.classes)

    def both(self) -> tuple[Photos, Photos]:
        return self.photos(self.train), self.photos(self.test)

    def identity(self) -> str:
        """16 hex digits that change with any file's split, name, size, time of change or label."""
        digest = hashlib.sha256()
        for files in (self.train, self.test):
            digest.update(f"{len(files)}".encode())
            for file in files:
                digest.update(repr(file).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def photo_below(root: str, paths: np.ndarray, index: int, enough: int | None) -> Photo:
    return read_photo(f"{root}/{os.fsdecode(paths[index])}", enough)


def classes_of(files: list[ImageFile]) -> tuple[str, ...]:
    return tuple(sorted({file.label for file in files} - {""}))


def numbers(files: list[ImageFile], classes: tuple[str, ...]) -> Labels:
    """The files' classes as indices into the class names, -1 for none."""
    index = {label: number for number, label in enumerate(classes)} | {"": -1}
    return np.array([index[file.label] for file in files], dtype=np.int64)


def list_images(data: Data) -> Listing:
    """List the files of an `imagenet`, `folder` or `images` data set, by the layout that is found.

    - `train/<class>/` and `test/<class>/` (or `val/<class>/` without `test/`; ImageNet's layout);
    - `<class>/` alone, with one in 5 of the labelled images held out as the test split;
    - any images with `data.labels_csv`, held out in the same way.

    Beside or in `train/`, the images of `unlabelled/` have no label and belong to the training split; images
    beside the class folders are ignored. For `images`, see `list_pool`.

    Raises:
        DataError: if something is missing, empty, or not understood.
    """
    root = existing_root(data)
    with readable(root):
        if data.dataset == "images":
            return Listing(root, *list_pool(root, data))
        train, test = list_labelled(root, data.labels_csv) if data.labels_csv else list_classes(root, data)
        for file in [*train, *test]:
            if file.size == NOWHERE:
                (root / file.name).stat()
    classes = classes_of(train)
    if lacking := set(classes_of(test)) - {*classes}:
        raise DataError(f"Class {min(lacking)} of {root} has test images but no training images.")
    if not test:
        kept, held = hold_out(numbers(train, classes), TEST_SHARE, classes)
        train, test = [train[index] for index in kept], [train[index] for index in held]
    return Listing(root, train, test)


def list_evaluation(data: Data) -> Listing:
    """List the test files alone, with their classes; without a test folder, as `list_images`.

    Raises DataError if something is missing.
    """
    root = existing_root(data)
    tests = [root / "val"] if data.dataset == "imagenet" else test_folders(root)
    if not tests or data.labels_csv:
        return list_images(data)
    with readable(root):
        left_out = left_out_of(data)
        return Listing(root, [], [f for f in class_folders(root, tests[0]) if f.name not in left_out])


@contextmanager
def readable(root: Path) -> Iterator[None]:
    """Raise an OSError of the block as a DataError that names the folder or file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"The folder {error.filename or root} cannot be read: {reason(error)}.") from None


def list_pool(root: Path, data: Data) -> Parts:
    """List every image below a folder for training, with the labels that `data.labels_csv` gives to some.

    The test split is `test/<class>/` (or `val/<class>/`), else the images whose `part` in the CSV is "test";
    these also stay in the training split, without their label. So the images to train on do not depend on
    the labels. Without a CSV there are no labels and no test split.
    """
    test, left_out = test_folder(root), left_out_of(data)
    apart = f"{test.name}/" if test else "/"
    files = [f for f in images_of(root, root, "") if not f.name.startswith(apart) and f.name not in left_out]
    rows = {row["file"]: row for row in read_sheet(data.labels_csv).rows} if data.labels_csv else {}
    check_files(data.labels_csv, rows.keys(), files, root)
    labels = {name: row["label"] for name, row in rows.items() if row["label"]}
    held = {name for name in labels if not test and rows[name].get("part") == "test"}
    shown = [file._replace(label=labels[file.name]) for file in files if file.name in held]
    if test and data.labels_csv:
        shown = [file for file in class_folders(root, test) if file.name not in left_out]
    return [
        file._replace(label="" if file.name in held else labels.get(file.name, "")) for file in files
    ], shown


def left_out_of(data: Data) -> frozenset[str]:
    """Names of the images to leave out, one a line in the file that `clrkit.own_images.scan` writes.

    Raises DataError if the file cannot be read.
    """
    if data.dataset != "images" or not data.left_out:
        return frozenset()
    try:
        text = Path(data.left_out).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The list of images left out, {data.left_out}, cannot be read: {reason(error)}."
        ) from None
    # A name may begin or end with a blank, or hold what str.splitlines takes for the end of a line.
    return frozenset(text.split("\n")) - {""}


def test_folder(root: Path) -> Path | None:
    """The folder of class folders that are kept for measuring, if any."""
    return next((folder for folder in test_folders(root) if folders_in(folder)), None)


def test_folders(root: Path) -> list[Path]:
    return [root / name for name in ("test", "val") if (root / name).is_dir()]


def root_of(data: Data) -> str:
    """The folder of a set's images: the field `root`, else the environment variable CLRKIT_ROOT, or "".

    (With the variable, `plan`, `reproduce` and the notebooks find a preset's images.)
    """
    return data.root or os.environ.get("CLRKIT_ROOT", "")


def existing_root(data: Data) -> Path:
    """The folder of a set's images; an archive is unpacked first. Raises DataError if it does not exist."""
    if not root_of(data):
        raise DataError(
            f"{data.dataset} needs the folder of its images; give it with --root DIR or in CLRKIT_ROOT."
        )
    root = Path(root_of(data)).expanduser().resolve()
    if root.is_file():
        return unpacked(root)
    if not root.is_dir():
        raise DataError(f"The folder of images {root} does not exist; correct --root DIR.")
    return root


def list_labelled(root: Path, labels_csv: str) -> Parts:
    """All files, some with a label; the test files are still to be held out."""
    files, labels = images_of(root, root, ""), read_labels(labels_csv)
    check_files(labels_csv, labels.keys(), files, root)
    return [file._replace(label=labels.get(file.name, "")) for file in files], []


def list_classes(root: Path, data: Data) -> Parts:
    """The files of class folders; no test files if they are still to be held out."""
    train, tests = root / "train", test_folders(root)
    if data.dataset == "imagenet":
        if not (train.is_dir() and (root / "val").is_dir()):
            raise DataError(f"ImageNet is read from train/<class>/ and val/<class>/, which {root} lacks.")
        return class_folders(root, train), class_folders(root, root / "val")
    # A lone folder "train" of images may well be a class; one with folders in it is a training split.
    if not (train.is_dir() and (tests or folders_in(train))):
        return [*class_folders(root, root), *unlabelled(root, root)], []
    if not tests:
        raise DataError(f"{root} has a folder train/ but neither test/ nor val/.")
    files = [*class_folders(root, train), *unlabelled(root, root), *unlabelled(root, train)]
    return files, class_folders(root, tests[0])


def class_folders(root: Path, folder: Path) -> list[ImageFile]:
    """The images of every class folder in `folder`. Raises DataError for none or a bad name."""
    classes = [name for name in folders_in(folder) if name not in UNLABELLED]
    if not classes:
        raise DataError(
            f"{folder} has no class folders; put the images of each class into their own folder, "
            "or name the labels in a CSV (labels_csv)."
        )
    if hidden := [name for name in classes if UNSHOWABLE.search(name)]:
        raise DataError(f"The class folder {hidden[0]!r} in {folder} has an unprintable name.")
    return [file for name in classes for file in images_of(root, folder / name, name)]


def unlabelled(root: Path, folder: Path) -> list[ImageFile]:
    """The images of the folders of unlabelled images in `folder`, if any."""
    names = [name for name in UNLABELLED if (folder / name).is_dir()]
    return [file for name in names for file in images_of(root, folder / name, "")]


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def images_of(root: Path, folder: Path, label: str) -> list[ImageFile]:
    """All images in a folder and below it, sorted by name. Raises DataError if there are none."""
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    files = sorted(images_below(str(folder), prefix, label))
    if not files:
        raise DataError(f"The folder {folder} has no images (files ending in {', '.join(SUFFIXES)}).")
    return files


def images_below(folder: str, prefix: str, label: str) -> Iterator[ImageFile]:
    """Yield the images of `images_of`, unsorted. Raises DataError for a pipe or device named as an image."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from images_below(entry.path, f"{prefix}{entry.name}/", label)
            elif entry.name.lower().endswith(SUFFIXES):
                yield image_file(entry, prefix, label)


def image_file(entry: os.DirEntry[str], prefix: str, label: str) -> ImageFile:
    """List a file; a broken link is listed, too, as an image that cannot be read. Raises DataError."""
    try:
        stat = entry.stat()
    except FileNotFoundError:
        link = entry.stat(follow_symlinks=False)
        return ImageFile(prefix + entry.name, NOWHERE, link.st_mtime_ns, label)
    if not S_ISREG(stat.st_mode):  # reading a pipe would never end
        raise DataError(f"{entry.path} is not a file.")
    return ImageFile(prefix + entry.name, stat.st_size, stat.st_mtime_ns, label)


def check_files(path: str, named: Set[str], files: list[ImageFile], root: Path) -> None:
    """Raise DataError if a CSV names a file that does not exist."""
    if missing := named - {file.name for file in files}:
        name = min(missing)
        shown = name if name == name.strip() else repr(name)  # else the blank is invisible
        raise DataError(f"{path} names {shown}, which is not among the images of {root}.")
