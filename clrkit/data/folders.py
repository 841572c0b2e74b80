"""Folders of images: class folders, ImageNet, or one folder with a CSV of the labels that exist.

Files are listed, not opened. Names are paths below the root with "/" between their parts; hidden files, and
files that are no images by their suffix, are ignored.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Set
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np

from clrkit.config import Data
from clrkit.data.archives import unpacked
from clrkit.data.images import ImageFiles
from clrkit.data.sheet import read_sheet
from clrkit.data.sources import LabelledImages, Splits
from clrkit.data.subsets import hold_out
from clrkit.errors import DataError, reason

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNLABELLED = ("unlabelled", "unlabeled")  # folders that are no class
UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters; bytes that are no UTF-8
NOWHERE = -1  # in place of the size of a link whose target is not there
TEST_SHARE = 5  # one in so many labelled images is held out where no test part is given


class ImageFile(NamedTuple):
    """A listed image: name, bytes, time of change and class ("" for none)."""

    name: str
    size: int
    changed: int
    label: str


class Listing(NamedTuple):
    """The files of a data set and its class names, sorted."""

    root: Path
    train: list[ImageFile]
    test: list[ImageFile]
    classes: tuple[str, ...]

    def parts(self, image_size: int) -> Splits:
        """The files as parts that decode them when they are read."""
        train, test = self.originals(self.train), self.originals(self.test)
        return Splits(train.to_train(image_size), test.to_measure(image_size), self.classes)

    def originals(self, files: list[ImageFile]) -> LabelledImages:
        """Some of the files as images."""
        names = np.array([os.fsencode(file.name) for file in files])
        sizes = np.array([file.size for file in files], dtype=np.int64)
        images = ImageFiles(str(self.root), names, sizes)
        return LabelledImages(images, numbers(files, self.classes), [file.name for file in files])

    def identity(self) -> str:
        """16 hex digits that change with any file's part, name, size, time of change or label."""
        digest = hashlib.sha256()
        for files in (self.train, self.test):
            digest.update(f"{len(files)}".encode())
            for file in files:
                digest.update(repr(file).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def numbers(files: list[ImageFile], classes: tuple[str, ...]) -> np.ndarray:
    """The files' classes as indices into the class names, -1 for none."""
    index = {label: number for number, label in enumerate(classes)} | {"": -1}
    return np.array([index[file.label] for file in files], dtype=np.int64)


def list_images(data: Data) -> Listing:
    """The files of an `imagenet`, `folder` or `images` data set, by the layout that is found.

    - `train/<class>/` and `test/<class>/` (or `val/<class>/`, where there is no `test/`; ImageNet's layout);
    - `<class>/` alone, one in 5 of the labelled images held out as the test part;
    - any images with `data.labels_csv`, held out in the same way.

    With class folders, the images of `unlabelled/` have no label and belong to the training part; images that
    lie beside the class folders are ignored. `images` see `list_pool`.

    Raises:
        DataError: naming what is missing, empty, or not understood.
    """
    root = existing_root(data)
    try:
        if data.dataset == "images":
            return list_pool(root, data)
        train, test = layout(root, data)
        for file in [*train, *test]:
            if file.size == NOWHERE:
                (root / file.name).stat()
    except OSError as error:
        raise DataError(f"The folder {error.filename or root} cannot be read: {reason(error)}.") from None
    classes = tuple(sorted({file.label for file in train} - {""}))
    for file in test:
        if file.label not in classes:
            raise DataError(f"Class {file.label} of {root} has test images but no training images.")
    if not test:
        kept, held = hold_out(numbers(train, classes), TEST_SHARE, classes)
        train, test = [train[index] for index in kept], [train[index] for index in held]
    return Listing(root, train, test, classes)


def list_pool(root: Path, data: Data) -> Listing:
    """Every image below a folder as the training part, with the labels that `data.labels_csv` gives to some.

    The test part is `test/<class>/` (or `val/<class>/`), else the images whose `part` in the CSV is "test":
    they are in the training part, too, there without their label. So the images to train on do not depend on
    the labels. Without a CSV nothing has a label, and there is no test part.
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
    files = [file._replace(label="" if file.name in held else labels.get(file.name, "")) for file in files]
    return Listing(root, files, shown, tuple(sorted({file.label for file in [*files, *shown]} - {""})))


def left_out_of(data: Data) -> frozenset[str]:
    """Names of the images that are left out; in the list, which `clrkit.own_images.scan` writes, one a line.

    Raises DataError where the list cannot be read.
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
    """The folder of class folders that are kept to measure on, where there is one."""
    tests = [root / name for name in ("test", "val") if (root / name).is_dir() and folders_in(root / name)]
    return tests[0] if tests else None


def list_evaluation(data: Data) -> Listing:
    """The test files alone, with the classes that they have; as `list_images` where none are apart.

    Raises DataError naming what is missing.
    """
    root = existing_root(data)
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if data.dataset == "imagenet":
        tests = [root / "val"]
    if not tests or data.labels_csv:
        return list_images(data)
    try:
        left_out = left_out_of(data)
        files = [file for file in class_folders(root, tests[0]) if file.name not in left_out]
    except OSError as error:
        raise DataError(f"The folder {error.filename or root} cannot be read: {reason(error)}.") from None
    return Listing(root, [], files, tuple(sorted({file.label for file in files})))


def root_of(data: Data) -> str:
    """The folder of a set's images: the field, else the environment variable CLRKIT_ROOT; perhaps empty.

    (With the variable, `plan`, `reproduce` and the notebooks find a preset's images.)
    """
    return data.root or os.environ.get("CLRKIT_ROOT", "")


def existing_root(data: Data) -> Path:
    """The folder of a set's images, which may be given as an archive of it.

    Raises DataError where there is none.
    """
    if not root_of(data):
        raise DataError(
            f"{data.dataset} needs the folder of its images; give it with --root DIR or in CLRKIT_ROOT."
        )
    root = Path(root_of(data)).expanduser().resolve()
    if root.is_file():
        return unpacked(root)
    if not root.is_dir():
        raise DataError(f"The folder of images {root} does not exist; --root DIR names it.")
    return root


def layout(root: Path, data: Data) -> tuple[list[ImageFile], list[ImageFile]]:
    """Training and test files; no test files where they are still to be held out."""
    if data.labels_csv:
        return csv_labels(root, data.labels_csv), []
    train, tests = root / "train", [root / name for name in ("test", "val") if (root / name).is_dir()]
    if data.dataset == "imagenet":
        if not (train.is_dir() and (root / "val").is_dir()):
            raise DataError(f"ImageNet is read from train/<class>/ and val/<class>/, which {root} lacks.")
        return class_folders(root, train), class_folders(root, root / "val")
    # A lone folder "train" of images may well be a class; one with folders in it is a training part.
    if not (train.is_dir() and (tests or folders_in(train))):
        return [*class_folders(root, root), *unlabelled(root, root)], []
    if not tests:
        raise DataError(f"{root} has a folder train/ but neither test/ nor val/.")
    unlabelled_files = [*unlabelled(root, root), *unlabelled(root, train)]
    return [*class_folders(root, train), *unlabelled_files], class_folders(root, tests[0])


def class_folders(root: Path, folder: Path) -> list[ImageFile]:
    """The images of every class folder in `folder`. Raises DataError for none or a bad name."""
    classes = [name for name in folders_in(folder) if name not in UNLABELLED]
    if not classes:
        raise DataError(
            f"{folder} has no class folders; put the images of each class into a folder of their own, "
            "or name the labels in a CSV (labels_csv)."
        )
    if hidden := [name for name in classes if UNSHOWABLE.search(name)]:
        raise DataError(f"The class folder {hidden[0]!r} in {folder} has a name that no text can show.")
    return [file for name in classes for file in images_of(root, folder / name, name)]


def unlabelled(root: Path, folder: Path) -> list[ImageFile]:
    """The images of the folder for those without a label, where there is one."""
    names = [name for name in UNLABELLED if (folder / name).is_dir()]
    return [file for name in names for file in images_of(root, folder / name, "")]


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def images_of(root: Path, folder: Path, label: str) -> list[ImageFile]:
    """All images in a folder and the folders below it, sorted by name.

    Raises DataError where there are none.
    """
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    files = sorted(images_below(str(folder), prefix, label))
    if not files:
        raise DataError(f"The folder {folder} has no images (files ending in {', '.join(SUFFIXES)}).")
    return files


def images_below(folder: str, prefix: str, label: str) -> Iterator[ImageFile]:
    """The images of `images_of` one by one, in no order.

    Raises DataError where something that is no file is called like an image.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from images_below(entry.path, f"{prefix}{entry.name}/", label)
            elif entry.name.lower().endswith(SUFFIXES):
                yield image_file(entry, prefix, label)


def image_file(entry: os.DirEntry[str], prefix: str, label: str) -> ImageFile:
    """A file as it is listed; so is a link to nowhere, an image that cannot be read. Raises DataError."""
    try:
        stat = entry.stat()
    except FileNotFoundError:
        link = entry.stat(follow_symlinks=False)
        return ImageFile(prefix + entry.name, NOWHERE, link.st_mtime_ns, label)
    if not S_ISREG(stat.st_mode):  # a pipe, say, would never end
        raise DataError(f"{entry.path} is not a file.")
    return ImageFile(prefix + entry.name, stat.st_size, stat.st_mtime_ns, label)


def csv_labels(root: Path, path: str) -> list[ImageFile]:
    """All images below the root with the labels that the CSV gives to some."""
    files, labels = images_of(root, root, ""), read_csv(path)
    check_files(path, labels.keys(), files, root)
    return [file._replace(label=labels.get(file.name, "")) for file in files]


def check_files(path: str, named: Set[str], files: list[ImageFile], root: Path) -> None:
    """Whether all that a CSV names is there. Raises DataError."""
    if strangers := named - {file.name for file in files}:
        name = min(strangers)
        shown = name if name == name.strip() else repr(name)  # else the blank is not seen
        raise DataError(f"{path} names {shown}, which is not among the images of {root}.")


def read_csv(path: str) -> dict[str, str]:
    """Labels by file name, from the columns `file` and `label` of a CSV."""
    labels: dict[str, str] = {}
    for row in read_sheet(path).rows:
        file, label = row["file"], row["label"]
        if not label:
            raise DataError(f"{path} gives {file or 'a row without a file'} no label.")
        if labels.setdefault(file, label) != label:
            raise DataError(f"{path} gives {file} two labels, {labels[file]} and {label}.")
    if not labels:
        raise DataError(f"{path} labels no image.")
    return labels
