"""Data sets of torchvision: CIFAR-10, CIFAR-100 and STL-10 as arrays, and any classification set by its name.

torchvision unpickles the files of CIFAR, and only after it has compared their MD5. No other class that
unpickles is offered.

CIFAR-10 may also be a lossless copy as image files, as it is often passed on. Such a copy has lost the order
of the authors' files, so the images are always put in an order of their content: a draw of labels is the same
from either, and so is a whole run.
"""

from __future__ import annotations

import hashlib
import inspect
import tarfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from inspect import Parameter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clrkit.config import TORCHVISION
from clrkit.data.archives import unpack
from clrkit.data.cache import Show
from clrkit.data.folders import class_folders, folders_in
from clrkit.data.images import Photo, check_size, photo_of, read_photo, to_rgb
from clrkit.data.splits import Indices, Labels, Photos, Rgbs, cores
from clrkit.data.subsets import TEST_SHARE, hold_out
from clrkit.errors import DataError, known, reason

Arguments = dict[str, Any]

# Class in torchvision.datasets and its arguments for each split.
ARRAYS: dict[str, tuple[str, dict[str, Arguments]]] = {
    "cifar10": ("CIFAR10", {"train": {"train": True}, "test": {"train": False}}),
    "cifar100": ("CIFAR100", {"train": {"train": True}, "test": {"train": False}}),
    "stl10": ("STL10", {"train": {"split": "train+unlabeled"}, "test": {"split": "test"}}),
}
CIFAR10: tuple[str, ...] = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_CONTENT = {  # `content_of` each split
    "train": "1bfc07133540c0f75b30d4288f9236001091c26c9886b9f37d46a8bc66fdcc6c",
    "test": "af1227671396612a0e2c37fb8b7aa96c0301f0463487e1afc591a17a607e58b2",
}
# Fingerprints known without an image, by data set and image size: only verified content gets there.
FINGERPRINTS = {("cifar10", 32): "377958a75d51f1a1854c6068219bcda3ded323a4ccaa5efcacb610c89a09b229"}
# Base classes, sets without files, sets with an own layout (`folder`), and sets that unpickle what they find.
NOT_OFFERED = {"VisionDataset", "DatasetFolder", "FakeData", "ImageFolder", "LSUN", "LSUNClass"}


def both_splits(name: str, root: Path, show: Show) -> tuple[Photos, Photos]:
    """The training and test splits of any set of torchvision; arguments and errors as `array_split`."""
    if name in ARRAYS:
        return array_split(name, "train", root, show), array_split(name, "test", root, show)
    return named_splits(name, root, show)


# CIFAR-10, CIFAR-100, STL-10


def array_split(name: str, part: str, root: Path, show: Show) -> Photos:
    """Read a split of CIFAR-10, CIFAR-100 or STL-10 (with its unlabelled images).

    Args:
        name: "cifar10", "cifar100" or "stl10".
        part: "train" or "test".
        root: folder with the set's folder or archive; the archive is downloaded there if both are missing.
        show: takes a line of progress.

    Raises:
        DataError: if files are missing or damaged.
    """
    if name == "cifar10" and is_copy(root, part):
        array, labels, classes = *read_copy(root, root / part, CIFAR10_CONTENT[part], show), CIFAR10
    else:
        array, labels, classes = read_verified(name, part, root, show)
    names = [f"{index:06d}" for index in range(len(array))]
    if name == "cifar10":
        array, labels, names = in_order(array, labels)
    sizes = np.full(len(array), array[0].nbytes, dtype=np.int64)
    return Photos(array, sizes, labels, [f"{part}/{each}" for each in names], classes)


def read_verified(name: str, part: str, root: Path, show: Show) -> tuple[Rgbs, Labels, tuple[str, ...]]:
    """Let torchvision read files after it has verified their MD5."""
    from torchvision import datasets

    kind = getattr(datasets, ARRAYS[name][0])
    fetch(kind, root, show)
    try:
        found = kind(root, **ARRAYS[name][1][part])
    except (RuntimeError, OSError) as error:  # a wrong sum, or a file that cannot be read
        raise DataError(
            f"{root / kind.base_folder} is damaged or incomplete ({reason(error)}); delete it."
        ) from None
    if hasattr(found, "targets"):
        return found.data, np.array(found.targets, dtype=np.int64), tuple(found.classes)
    # STL-10 comes as (count, 3, side, side), with bytes as labels unless some are -1.
    return found.data.transpose(0, 2, 3, 1), found.labels.astype(np.int64), tuple(found.classes)


def is_on_disk(name: str, root: Path) -> bool:
    """True if the folder of CIFAR-10, CIFAR-100 or STL-10 is there."""
    from torchvision import datasets

    kind: Any = getattr(datasets, ARRAYS[name][0])
    return Path(root, kind.base_folder).is_dir()


def fetch(kind: Any, root: Path, show: Show) -> None:
    """Download and unpack a set whose folder is missing; the archive is verified by its MD5."""
    from torchvision.datasets.utils import check_integrity, download_url

    folder, archive = root / kind.base_folder, root / kind.filename
    if folder.is_dir():
        return
    try:
        if not check_integrity(archive, kind.tgz_md5):
            show(f"downloading {kind.url}")
            download_url(kind.url, str(root), kind.filename, kind.tgz_md5)
    except (OSError, RuntimeError, HTTPException) as error:  # urllib's own errors are OSErrors
        raise DataError(
            f"{root} has neither {kind.base_folder} nor an intact {kind.filename}, and {kind.url} cannot be "
            f"downloaded: {reason(error)}."
        ) from None
    show(f"unpacking {archive}")
    unpack(archive, folder)


def is_copy(root: Path, part: str) -> bool:
    """True if a split of CIFAR-10 is there as image files, a folder for each class, without its own files."""
    folder, own = root / part, (root / "cifar-10-batches-py", root / "cifar-10-python.tar.gz")
    classes = folder.is_dir() and folders_in(folder) == [*CIFAR10]
    return classes and not any(path.exists() for path in own)


def read_copy(root: Path, folder: Path, content: str, show: Show) -> tuple[Rgbs, Labels]:
    """Read the images and labels of a copy. Raises DataError if it is not exact."""
    files = class_folders(root, folder)
    show(f"reading {len(files):,} images of {folder}")
    with ThreadPoolExecutor(cores()) as pool:
        photos = [photo.pixels for photo in pool.map(read_photo, [str(root / file.name) for file in files])]
    labels = np.array([CIFAR10.index(file.label) for file in files])
    if len({photo.shape for photo in photos}) == 1 and content_of(np.stack(photos), labels) == content:
        return np.stack(photos), labels
    raise DataError(
        f"{folder} is not an exact copy of CIFAR-10: an image or a label is missing, changed or repeated; "
        "to train on it as it is, choose the data set folder."
    )


def in_order(array: Rgbs, labels: Labels) -> tuple[Rgbs, Labels, list[str]]:
    """Sort images by the SHA-256 of their pixels, which also names them (16 hex digits)."""
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in array]
    at = np.argsort(digests, kind="stable")
    return array[at], labels[at], [digests[index][:16] for index in at]


def content_of(array: Rgbs, labels: Labels) -> str:
    """SHA-256 of pixels and labels, whatever the order of the images."""
    array, labels, _ = in_order(array, labels)
    return hashlib.sha256(array.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()


# Any other classification set


def photo_in(dataset: Any, indices: Indices, index: int, enough: int | None) -> Photo:
    """One of some images of a set. EXIF orientations are ignored, as torchvision does."""
    number = int(indices[index])
    try:
        image = to_rgb(dataset[number][0])
    except Exception as error:  # as in `read_photo`
        raise DataError(f"Image {number} of the data set cannot be decoded: {reason(error)}.") from None
    check_size(f"{number} of the data set", image.size)
    return photo_of(np.array(image))


def named_splits(text: str, root: Path, show: Show) -> tuple[Photos, Photos]:
    """Open the training and test splits of any classification set of torchvision.

    The splits are those of the set's argument `train` or `split`. A set with neither is one list of images:
    one in 5 of every class, drawn from a fixed seed, becomes the test split.

    Args:
        text: torchvision:NAME, perhaps with arguments: torchvision:NAME:key=value.
        root: folder of the set's files, which are downloaded there if they are missing.
        show: takes a line of progress.

    Raises:
        DataError: if the set is unknown, or an argument or a file is missing.
    """
    name, kind, given = parsed(text)
    show(f"reading {text} from {root}")
    opened = [opened_split(text, kind, root, choices) for choices in split_arguments(kind, given)]
    classes = classes_of(opened[0][0], int(max(labels.max() for _, labels in opened)) + 1)
    whole = len(opened) == 1
    places = hold_out(opened[0][1], TEST_SHARE, classes) if whole else [np.arange(len(o[1])) for o in opened]

    def photos(part: str, dataset: Any, labels: Labels, at: Indices) -> Photos:
        sizes = np.zeros(len(at), dtype=np.int64)  # torchvision does not say
        names = [f"{name}/{part}/{index:06d}" for index in at]
        return Photos(partial(photo_in, dataset, at), sizes, labels[at], names, classes)

    return photos("train", *opened[0], places[0]), photos("test", *opened[-1], places[1])


def parsed(text: str) -> tuple[str, Any, Arguments]:
    """Split torchvision:NAME:key=value into the name, its class and its arguments. Raises DataError."""
    from torchvision import datasets

    name, *pairs = text.removeprefix(TORCHVISION).split(":")
    names = [each for each in datasets.__all__ if each not in NOT_OFFERED and each[0].isupper()]
    kind = getattr(datasets, known(name, names, "data set of torchvision"))
    given: Arguments = {}
    parameters = parameters_of(kind)
    for key, _, value in (pair.partition("=") for pair in pairs):
        known(key, list(parameters), f"argument of {name}")
        given[key] = int(value) if value.isdecimal() else value
    missing = [key for key, default in parameters.items() if default is Parameter.empty]
    if missing := [key for key in missing if key not in {"root", *given}]:
        possible = ", ".join(map(str, getattr(kind, f"{missing[0]}s", ()))) or "see torchvision's page"
        raise DataError(f"{text} needs {missing[0]}; write {text}:{missing[0]}=VALUE (possible: {possible}).")
    return name, kind, given


def parameters_of(kind: Any) -> Arguments:
    """Names and defaults of a class's arguments; **kwargs are the arguments of its base."""
    found: Arguments = {}
    for base in (each for each in kind.__mro__ if "__init__" in vars(each)):
        own = list(inspect.signature(base.__init__).parameters.values())[1:]
        found = {each.name: each.default for each in own if each.kind != Parameter.VAR_KEYWORD} | found
        if all(each.kind != Parameter.VAR_KEYWORD for each in own):
            break
    return found


def split_arguments(kind: Any, given: Arguments) -> list[list[Arguments]]:
    """For training and for testing (or for both in one), the arguments to try in turn."""
    parameters = parameters_of(kind)
    if "train" in parameters:
        return [[given | {"train": each}] for each in (True, False)]
    if "split" not in parameters:
        return [[given]]
    default = str(parameters["split"])  # "train", "trainval", "train-standard"
    train = {"split": default if default.startswith("train") else "train"} | given
    return [[train], [given | {"split": each} for each in ("test", "val", "valid")]]


def opened_split(text: str, kind: Any, root: Path, choices: list[Arguments]) -> tuple[Any, Labels]:
    """Open a set with the first arguments that it accepts and that give labels. Raises DataError."""
    parameters = parameters_of(kind)
    place = {"root": str(root)} if "root" in parameters else {}
    loads = [{"download": False}, {"download": True}] if "download" in parameters else [{}]
    error: Exception = ValueError("its split has no labels")
    for given, load in product(choices, loads):
        try:
            with supervised() as verified:
                found = kind(**place, **given, **load)
        except Exception as failed:  # ValueError for a split that does not exist; else nearly anything
            if isinstance(error, ValueError) or not isinstance(failed, ValueError):
                error = failed
            continue
        labels = labels_of(text, found)
        if (labels >= 0).any():
            if not verified:
                warnings.warn(
                    f"torchvision did not verify the files of {text} in {root} by MD5.", stacklevel=2
                )
            return found, labels
    raise DataError(f"{text} cannot be read from {root} or downloaded: {reason(error).rstrip('.')}.")


@contextmanager
def supervised() -> Iterator[list[str]]:
    """Yield a list that fills with the files whose MD5 torchvision finds right.

    Meanwhile it extracts tar archives with tarfile's "data" filter, the default of newer Pythons.
    """
    from torchvision.datasets import utils

    verified: list[str] = []
    compare = utils.check_md5

    def noting(path: str, *sums: str, **options: Any) -> bool:
        if right := bool(compare(path, *sums, **options)):
            verified.append(path)
        return right

    utils.check_md5 = noting
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield verified
    finally:
        utils.check_md5 = compare
        del tarfile.TarFile.extraction_filter


def labels_of(text: str, found: Any) -> Labels:
    """The class of each image, -1 for none. Raises DataError if the set is not for classification."""
    try:
        image, first = found[0]
        assert isinstance(image, Image.Image)
        attributes = (getattr(found, name, None) for name in ("targets", "labels", "_labels", "y"))
        values = next((each for each in attributes if each is not None and len(each) == len(found)), None)
        if values is None or numbered(values[0]) != numbered(first):
            values = [found[index][1] for index in range(len(found))]
        return np.array([numbered(value) for value in values], dtype=np.int64)
    except (AssertionError, TypeError, ValueError):
        raise DataError(
            f"{text} is not a set for classification: its items are not an image with one class."
        ) from None


def numbered(label: Any) -> int:
    return -1 if label is None else int(label)


def classes_of(found: Any, count: int) -> tuple[str, ...]:
    """The names of the classes, or their numbers if the set does not name them all."""
    named = getattr(found, "classes", None) or getattr(found, "categories", None) or ()
    names = tuple(str(each[0] if isinstance(each, tuple) else each) for each in named)
    return names if len(names) == len(set(names)) >= count else tuple(map(str, range(count)))
