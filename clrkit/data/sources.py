"""Square images in memory or streamed, and the splits made of them. Importing does not load torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from clrkit.config import Resize
from clrkit.data.images import WHOLE, ImageArray, ImageSource, View, stored_side, to_square, to_view
from clrkit.device import available_cores, local_processes
from clrkit.errors import DataError

if TYPE_CHECKING:
    import torch

Indices = Int64[np.ndarray, "_"]  # as many as the batch has; the last may be shorter
Labels = Int64[np.ndarray, " count"]

CHUNK = 32  # images a worker decodes at once: workers share a batch, and little waits in shared memory


class ImageBatch(NamedTuple):
    """A batch of square images on the CPU.

    Attributes:
        pixels: (batch, 3, side, side), uint8, or float in [0, 1] for exact views.
        aspects: (batch), width over height before the images were squashed; None if all were square.
    """

    pixels: torch.Tensor
    aspects: torch.Tensor | None


class Pixels(ABC):
    """Square images that can be read in any order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        """Yield the images of each index array."""

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        """Yield the pixels of each index array."""
        return (squares.pixels for squares in self.squares(order))


@dataclass(frozen=True)
class PixelArray(Pixels):
    """Images in memory or mapped, with their aspects unless all were square."""

    array: UInt8[np.ndarray, "count 3 side side"]
    aspects: Float32[np.ndarray, " count"] | None = None

    def __len__(self) -> int:
        return len(self.array)

    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        import torch

        for indices in order:
            aspects = None if self.aspects is None else torch.from_numpy(self.aspects[indices])
            yield ImageBatch(torch.from_numpy(self.array[indices]), aspects)


@dataclass(frozen=True)
class PixelSubset(Pixels):
    """Some images of other pixels, in the order of `indices`."""

    source: Pixels
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        return self.source.squares(self.indices[chosen] for chosen in order)


Chunk = tuple[np.ndarray, Float32[np.ndarray, " chunk"]]


@dataclass(frozen=True)
class PixelStream(Pixels):
    """Images that worker processes decode whenever they are read, a few chunks ahead of their use.

    Attributes:
        source: the images.
        side: of the squares, in pixels.
        resize: None for whole images as squares to train on, else evaluation views, see `to_view`.
        exact: views as float32 in [0, 1].
    """

    source: ImageSource
    side: int
    resize: Resize | None = None
    exact: bool = False

    def __len__(self) -> int:
        return len(self.source.sizes)

    def read(self, index: int) -> tuple[View, float]:
        """Decode one image; returns its pixels and the aspect it had before it was squashed."""
        if self.resize:
            photo = self.source.photo(index, self.side if self.side <= WHOLE else None)
            return to_view(photo, self.side, self.resize, self.exact), 1.0
        photo = self.source.photo(index, self.side)
        return to_square(photo, self.side), photo.aspect

    def __getitem__(self, indices: Indices) -> Chunk | str:
        """Decode a chunk in a worker process; a DataError comes back as its text, without a traceback."""
        try:
            squares, aspects = zip(*map(self.read, indices.tolist()), strict=True)
        except DataError as error:
            return str(error)
        return np.stack(squares), np.array(aspects, dtype=np.float32)

    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        import torch

        lengths: deque[int] = deque()
        chunks = self.decoded(cut(order, lengths))
        for first in chunks:
            # By NumPy: PyTorch's threads would wait for cores that the workers use, and its aligned memory is
            # seldom reused, so that the heap would grow to dozens of batches.
            count = lengths.popleft()
            pixels = np.empty((count, *first[0].shape[1:]), first[0].numpy().dtype)
            aspects = np.empty(count, dtype=np.float32)
            filled = 0
            while filled < count:
                chunk = next(chunks) if filled else first
                stop = filled + len(chunk[1])
                pixels[filled:stop], aspects[filled:stop] = chunk[0].numpy(), chunk[1].numpy()
                filled = stop
            yield ImageBatch(torch.from_numpy(pixels), torch.from_numpy(aspects))

    def decoded(self, chunks: Iterator[Indices]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
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
            yield chunk


def cut(order: Iterable[Indices], lengths: deque[int]) -> Iterator[Indices]:
    """Cut every batch into chunks; notes the batches' lengths."""
    for indices in order:
        lengths.append(len(indices))
        for start in range(0, len(indices), CHUNK):
            yield indices[start : start + CHUNK]


def cores() -> int:
    """CPU cores of this process: its share if several processes of a run are on this machine."""
    return max(1, available_cores() // local_processes())


def of_labelled(views: PixelArray, labels: Labels) -> PixelSubset:
    """Address views of the labelled images by the images' own indices; any other index is an IndexError."""
    labelled = labels >= 0
    return PixelSubset(views, np.where(labelled, np.cumsum(labelled) - 1, len(views)))


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

    def subset(self, indices: Int64[np.ndarray, " chosen"]) -> Split:
        """Return some of the images, in the order of `indices`."""
        names = [self.names[index] for index in indices]
        measured = None if self.measured is None else PixelSubset(self.measured, indices)
        return Split(PixelSubset(self.pixels, indices), self.labels[indices], names, measured)


@dataclass(frozen=True)
class DataSet:
    """A training split (labelled or not), the split that is measured, class names, and the fingerprint.

    The class names are in the order of the labels. A set that is not decoded yet has no fingerprint.
    """

    train: Split
    evaluation: Split
    classes: tuple[str, ...]
    fingerprint: str = ""


def squares(
    source: ImageSource, side: int, resize: Resize | None = None, exact: bool = False
) -> PixelArray | PixelStream:
    """Images as squares, see `PixelStream`; an array that has the right size is taken as it is."""
    whole = resize is None or side <= WHOLE
    if whole and isinstance(source, ImageArray) and source.array.shape[1:3] == (side, side):
        return PixelArray(np.ascontiguousarray(source.array.transpose(0, 3, 1, 2)))
    return PixelStream(source, side, resize, exact)


def train_split(source: ImageSource, labels: Labels, names: Sequence[str], image_size: int) -> Split:
    """A split of squares from which views of `image_size` are cut, with the views that are measured."""
    measured = squares(source, image_size, "tf2") if image_size > WHOLE else None
    return Split(squares(source, stored_side(image_size)), labels, names, measured)


def evaluation_split(
    source: ImageSource,
    labels: Labels,
    names: Sequence[str],
    image_size: int,
    resize: Resize = "tf2",
    exact: bool = False,
) -> Split:
    """A split of evaluation views alone, see `to_view`."""
    return Split(squares(source, image_size, resize, exact), labels, names)
