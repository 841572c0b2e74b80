"""CIFAR-10, CIFAR-100 and STL-10 from their authors' binary files: rows of bytes, nothing that is executed.

(The version of CIFAR that torchvision downloads is pickled. Pixels, labels and order of CIFAR-10 are the same
in both; of CIFAR-100 that is what its page says of the two formats.)

CIFAR-10 may also be a lossless copy as image files, as it is often passed on. Such a copy has lost the order
of the authors' files, so the images are always put in an order of their content: a label draw, and a whole
run, is the same from either.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

import numpy as np
from jaxtyping import Int64, UInt8

from clrkit.data.archives import unpack
from clrkit.data.cache import Show
from clrkit.data.folders import class_folders, folders_in
from clrkit.data.images import ImageArray, read_photo
from clrkit.data.sources import LabelledImages
from clrkit.errors import DataError, reason
from clrkit.files import digest_of

LARGEST_DOWNLOAD = 4 * 2**30  # bytes
PIECE = 2**20
SECONDS = 60  # of silence after which a download is given up
MD5 = partial(hashlib.md5, usedforsecurity=False)  # which the sets' authors give

Bytes = UInt8[np.ndarray, "_"]
Rgbs = UInt8[np.ndarray, "count _ _ 3"]
Labels = Int64[np.ndarray, " count"]


def cifar(files: Sequence[Bytes], label_bytes: int) -> tuple[Rgbs, Labels]:
    """Rows of labels, of which the last is the finest, and 3 x 32 x 32 pixels."""
    rows = np.concatenate(files).reshape(-1, label_bytes + 3 * 32 * 32)
    images = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    return images.transpose(0, 2, 3, 1), rows[:, label_bytes - 1].astype(np.int64)


def stl(files: Sequence[Bytes]) -> tuple[Rgbs, Labels]:
    """Pixels column by column, their labels from 1, and perhaps pixels without a label."""
    labelled, labels, *unlabelled = files
    images = np.concatenate([labelled, *unlabelled]).reshape(-1, 3, 96, 96)
    numbers = np.full(len(images), -1, dtype=np.int64)
    numbers[: len(labels)] = labels.astype(np.int64) - 1
    return images.transpose(0, 3, 2, 1), numbers


@dataclass(frozen=True)
class KnownSet:
    """A set as its authors offer it.

    Attributes:
        url, md5: of its archive.
        folder: that the archive's files lie in.
        classes: the file of class names, one a line.
        files: MD5 of the files of each part ("train", "test"), by name, in the order they are read.
        read: their bytes as images and labels.
        pickled: folder of the version that is not read.
        names: of the classes, for a set that may also be a copy as image files, and is put in the order of
            its content; else empty.
        content: of each part of such a set `content_of`.
        fingerprints: of the whole set (`clrkit.data.datasets.fingerprint`) by image size, where known.
    """

    url: str
    md5: str
    folder: str
    classes: str
    files: dict[str, dict[str, str]]
    read: Callable[[Sequence[Bytes]], tuple[Rgbs, Labels]]
    pickled: str = ""
    names: tuple[str, ...] = ()
    content: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[int, str] = field(default_factory=dict)

    @property
    def archive(self) -> str:
        """The archive's name."""
        return self.url.rpartition("/")[2]


KNOWN = {
    "cifar10": KnownSet(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        classes="batches.meta.txt",
        files={
            "train": {
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            },
            "test": {"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"},
        },
        read=partial(cifar, label_bytes=1),
        pickled="cifar-10-batches-py",
        names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        content={
            "train": "1bfc07133540c0f75b30d4288f9236001091c26c9886b9f37d46a8bc66fdcc6c",
            "test": "af1227671396612a0e2c37fb8b7aa96c0301f0463487e1afc591a17a607e58b2",
        },
        fingerprints={32: "377958a75d51f1a1854c6068219bcda3ded323a4ccaa5efcacb610c89a09b229"},
    ),
    "cifar100": KnownSet(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        classes="fine_label_names.txt",
        files={
            "train": {"train.bin": "6172c7755cfe09b2fe270c85cebc1b15"},
            "test": {"test.bin": "4499cfba6c016c1be1438163640a0898"},
        },
        read=partial(cifar, label_bytes=2),
        pickled="cifar-100-python",
    ),
    "stl10": KnownSet(
        url="https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        md5="91f7769df0f17e558f3565bffb0c7dfb",
        folder="stl10_binary",
        classes="class_names.txt",
        files={
            "train": {
                "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
                "train_y.bin": "5a34089d4802c674881badbb80307741",
                "unlabeled_X.bin": "5242ba1fed5e4be9e1e742405eb56ca4",
            },
            "test": {
                "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
                "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
            },
        },
        read=stl,
    ),
}


def known_images(name: str, part: str, root: Path, show: Show) -> tuple[LabelledImages, tuple[str, ...]]:
    """The part ("train", with the unlabelled images, or "test") of a known set, and its classes.

    Args:
        name: of the set.
        part: of the set.
        root: folder that holds the set's folder or its archive; it is downloaded into it if it holds neither.
        show: takes a line of progress while it is downloaded.

    Raises:
        DataError: naming what is missing or damaged.
        ArchiveError: for an archive that cannot be unpacked.
    """
    known = KNOWN[name]
    try:
        if is_copy(known, root, part):
            array, labels, classes = read_copy(known.content[part], root, root / part, show)
        else:
            array, labels, classes = read_files(known, part, place(known, root, show))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} cannot be read from {root}: {reason(error)}.") from None
    names = [f"{index:06d}" for index in range(len(array))]
    if known.names:
        array, labels, names = in_order(array, labels)
    return LabelledImages(ImageArray(array), labels, [f"{part}/{name}" for name in names]), classes


def read_files(known: KnownSet, part: str, folder: Path) -> tuple[Rgbs, Labels, tuple[str, ...]]:
    """The images of the authors' files, their labels and the class names."""
    classes = tuple((folder / known.classes).read_text(encoding="ascii").split())
    array, labels = known.read([read_file(folder / file, md5) for file, md5 in known.files[part].items()])
    if labels.max() >= len(classes):
        raise DataError(f"{folder / known.classes} names {len(classes)} classes, fewer than there are.")
    return array, labels, classes


def is_copy(known: KnownSet, root: Path, part: str) -> bool:
    """Whether a part lies there as image files, a folder for each class, and no file of its authors."""
    folder, theirs = root / part, (root / known.folder, root / known.archive)
    return (
        bool(known.names)
        and folder.is_dir()
        and folders_in(folder) == [*known.names]
        and not any(path.exists() for path in theirs)
    )


def read_copy(content: str, root: Path, folder: Path, show: Show) -> tuple[Rgbs, Labels, tuple[str, ...]]:
    """The images of a copy, their labels and the class names. Raises DataError where it is not exact."""
    files, classes = class_folders(root, folder), tuple(folders_in(folder))
    show(f"reading {len(files):,} images of {folder}")
    photos = [read_photo(str(root / file.name)).pixels for file in files]
    labels = np.array([classes.index(file.label) for file in files])
    if len({photo.shape for photo in photos}) == 1 and content_of(np.stack(photos), labels) == content:
        return np.stack(photos), labels, classes
    raise DataError(
        f"{folder} is no exact copy of the set: an image or a label is missing, changed or more than once. "
        "To train on it as it is, take the data set folder."
    )


def in_order(array: Rgbs, labels: Labels) -> tuple[Rgbs, Labels, list[str]]:
    """The images by the SHA-256 of their pixels, which also names them (16 hex digits)."""
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in array]
    at = np.argsort(digests, kind="stable")
    return array[at], labels[at], [digests[index][:16] for index in at]


def content_of(array: Rgbs, labels: Labels) -> str:
    """SHA-256 of pixels and labels, whatever the order of the images."""
    array, labels, _ = in_order(array, labels)
    return hashlib.sha256(array.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()


def read_file(file: Path, md5: str) -> Bytes:
    """A file's bytes. Raises DataError where they are not those that its authors wrote."""
    data = np.fromfile(file, dtype=np.uint8)
    if MD5(data.data).hexdigest() != md5:
        raise DataError(f"{file} is damaged or not what it should be; delete its folder.")
    return data


def place(known: KnownSet, root: Path, show: Show) -> Path:
    """The folder with a set's files: there already, or unpacked, or downloaded and unpacked."""
    folder, archive = root / known.folder, root / known.archive
    if folder.is_dir():
        return folder
    if not archive.exists():
        download(known, archive, show)
    elif digest_of(archive, MD5) != known.md5:
        raise DataError(f"{archive} is not the archive that its authors offer; delete it.")
    show(f"unpacking {archive}")
    unpack(archive, folder)
    return folder


def download(known: KnownSet, archive: Path, show: Show) -> None:
    """Fetch a set's archive, whole or not at all."""
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".partial-") as folder:
            fetched = Path(folder) / archive.name
            with urlopen(known.url, timeout=SECONDS) as answer, fetched.open("wb") as file:
                copy(answer, file, f"downloading {known.url}", show)
            if digest_of(fetched, MD5) != known.md5:
                raise OSError("what arrived is not the archive that its authors offer")
            fetched.rename(archive)
    except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
        pickled = archive.with_name(known.pickled)
        hint = f" ({pickled} is pickled, and no pickle is read)" if known.pickled and pickled.exists() else ""
        raise DataError(
            f"Neither {known.folder} nor {archive.name} is in {archive.parent}{hint}, and {known.url} cannot "
            f"be downloaded: {reason(error)}."
        ) from None


def copy(answer: HTTPResponse, file: BinaryIO, what: str, show: Show) -> None:
    total = answer.length or 0
    while piece := answer.read(PIECE):
        file.write(piece)
        if file.tell() > LARGEST_DOWNLOAD:
            raise OSError(f"it has more than {LARGEST_DOWNLOAD:,} bytes")
        show(f"{what}: {file.tell() / 1e6:,.0f} of {total / 1e6:,.0f} MB")
