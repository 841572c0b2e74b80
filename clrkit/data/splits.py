"""Square images in memory or streamed, and the splits made of them. Importing does not load torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from clrkit.config import Resize
from clrkit.data.images import WHOLE, Photo, View, photo_of, stored_side, to_square, to_view
from clrkit.device import available_cores, local_processes
from clrkit.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Indices = Int64[np.ndarray, "_"]  # as many as the batch has; the last may be shorter
Labels = Int64[np.ndarray, " count"]
Rgbs = UInt8[np.ndarray, "count _ _ 3"]
ReadPhoto = Callable[[int, int | None], Photo]  # index of the image and `enough` as in `read_photo`

CHUNK = 32  # images a worker decodes at once: workers share a batch, and little waits in shared memory


class Photos(NamedTuple):
    """The photographs of a split, before they are squares.

    Attributes:
        images: RGB in memory, or a function that reads one in any process.
        sizes: bytes of each where it is stored; part of the fingerprint of a streamed set.
        labels: class of each, -1 for none.
        names: of each, paths within the set.
        classes: names that the labels index.
    """

    images: Rgbs | ReadPhoto
    sizes: Int64[np.ndarray, " count"]
    labels: Labels
    names: Sequence[str]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Pixels(ABC):
    """Square images that can be read in any order; `at`: places in their source, None for all in order."""

    at: Indices | None = field(default=None, kw_only=True)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def squares(self, order: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the images of each index array, and the aspects that they had before they were squashed.

        Images are (batch, 3, side, side) on the CPU, uint8, or float32 in [0, 1] for exact views. Aspects
        (width over height) are (batch), or None if all were square.
        """

    def batches(self, order: Iterable[Indices]) -> Iterator[Tensor]:
        """Yield the images of each index array."""
        return (pixels for pixels, _ in self.squares(order))

    def subset(self, indices: Indices) -> Pixels:
        """Some of the images, in the order of `indices`."""
        return replace(self, at=indices if self.at is None else self.at[indices])

    def places(self, order: Iterable[Indices]) -> Iterator[Indices]:
        return (indices if self.at is None else self.at[indices] for indices in order)


@dataclass(frozen=True)
class PixelArray(Pixels):
    """Images in memory or mapped, with their aspects unless all were square."""

    array: UInt8[np.ndarray, "count 3 side side"]
    aspects: Float32[np.ndarray, " count"] | None = None

    def __len__(self) -> int:
        return len(self.array if self.at is None else self.at)

    def squares(self, order: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor | None]]:
        import torch

        for indices in self.places(order):
            aspects = None if self.aspects is None else torch.from_numpy(self.aspects[indices])
            yield torch.from_numpy(self.array[indices]), aspects


@dataclass(frozen=True)
class PixelStream(Pixels):
    """Photographs that worker processes decode whenever they are read, a few chunks ahead of their use.

    Attributes:
        photo, sizes: as `images` and `sizes` of `Photos`.
        side: of the squares, in pixels.
        resize: None for whole images as squares to train on, else evaluation views, see `to_view`.
        exact: views as float32 in [0, 1].
    """

    photo: ReadPhoto
    sizes: Int64[np.ndarray, " count"]
    side: int
    resize: Resize | None = None
    exact: bool = False

    def __len__(self) -> int:
        return len(self.sizes if self.at is None else self.at)

    def read(self, index: int) -> tuple[View, float]:
        """Decode one image; returns its pixels and the aspect it had before it was squashed."""
        if self.resize:
            photo = self.photo(index, self.side if self.side <= WHOLE else None)
            return to_view(photo, self.side, self.resize, self.exact), 1.0
        photo = self.photo(index, self.side)
        return to_square(photo, self.side), photo.aspect

    def __getitem__(self, indices: Indices) -> tuple[np.ndarray, np.ndarray] | str:
        """Decode a chunk in a worker process; a DataError comes back as its text, without a traceback."""
        try:
            squares, aspects = zip(*map(self.read, indices.tolist()), strict=True)
        except DataError as error:
            return str(error)
        return np.stack(squares), np.array(aspects, dtype=np.float32)

    def squares(self, order: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor | None]]:
        import torch

        batches, ahead = tee(self.places(order))
        chunks = self.decoded(part for indices in ahead for part in cut(indices))
        for indices in batches:
            # By NumPy: PyTorch's threads would wait for cores that the workers use, and its aligned memory is
            # seldom reused, so that the heap would grow to dozens of batches.
            dtype = np.float32 if self.exact else np.uint8
            pixels = np.empty((len(indices), 3, self.side, self.side), dtype)
            aspects = np.empty(len(indices), np.float32)
            for part in cut(np.arange(len(indices))):
                pixels[part], aspects[part] = next(chunks)
            yield torch.from_numpy(pixels), torch.from_numpy(aspects)

    def decoded(self, chunks: Iterator[Indices]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import torch
        from torch.utils.data import DataLoader

        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]
            sampler=chunks,
            batch_size=None,
            num_workers=cores(),
            generator=torch.Generator(),  # else every pass would advance the global random state
        )
        for chunk in loader:
            if isinstance(chunk, str):
                raise DataError(chunk)
            yield chunk[0].numpy(), chunk[1].numpy()


def cut(indices: Indices) -> Iterator[Indices]:
    """Cut indices into chunks."""
    return (indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK))


def cores() -> int:
    """CPU cores of this process: its share if several processes of a run are on this machine."""
    return max(1, available_cores() // local_processes())


@dataclass(frozen=True)
class Split:
    """Images with their classes (-1: no label) and names (paths within the set).

    Attributes:
        pixels: the images; for training, squares from which random views are cut.
        labels: class of each.
        names: of each.
        measured: evaluation views of the labelled images, if they differ from `pixels`.
    """

    pixels: Pixels
    labels: Labels
    names: Sequence[str]
    measured: Pixels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> Pixels:
        """The images as they are measured."""
        return self.pixels if self.measured is None else self.measured

    def subset(self, indices: Indices) -> Split:
        """Return some of the images, in the order of `indices`."""
        names = [self.names[index] for index in indices]
        measured = None if self.measured is None else self.measured.subset(indices)
        return Split(self.pixels.subset(indices), self.labels[indices], names, measured)


@dataclass(frozen=True)
class DataSet:
    """A training split (labelled or not), the split that is measured, class names, and the fingerprint.

    The class names are in the order of the labels. A set that is not decoded yet has no fingerprint.
    """

    train: Split
    evaluation: Split
    classes: tuple[str, ...]
    fingerprint: str = ""


def as_squares(photos: Photos, side: int, resize: Resize | None = None, exact: bool = False) -> Pixels:
    """Photographs as squares, see `PixelStream`; an array that has the right size is taken as it is."""
    images = photos.images
    if isinstance(images, np.ndarray):
        if images.shape[1:3] == (side, side) and (resize is None or side <= WHOLE):
            return PixelArray(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        images = partial(photo_in, images)
    return PixelStream(images, photos.sizes, side, resize, exact)


def photo_in(array: Rgbs, index: int, enough: int | None) -> Photo:
    return photo_of(array[index])


def train_split(photos: Photos, image_size: int) -> Split:
    """A split of squares from which views of `image_size` are cut, with the views that are measured."""
    measured = as_squares(photos, image_size, "tf2") if image_size > WHOLE else None
    return Split(as_squares(photos, stored_side(image_size)), photos.labels, photos.names, measured)


def evaluation_split(photos: Photos, image_size: int, resize: Resize = "tf2", exact: bool = False) -> Split:
    """A split of evaluation views alone, see `to_view`."""
    return Split(as_squares(photos, image_size, resize, exact), photos.labels, photos.names)


def labelled_views(views: UInt8[np.ndarray, "labelled 3 side side"], labels: Labels) -> PixelArray:
    """Address views of the labelled images by the images' own indices; any other index is an IndexError."""
    labelled = labels >= 0
    return PixelArray(views, at=np.where(labelled, np.cumsum(labelled) - 1, len(views)))
