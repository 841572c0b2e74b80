"""Square images in memory or streamed from where they lie. Importing this module does not load torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from clrkit.config import Resize
from clrkit.data.images import WHOLE, EvalView, Images, ImageSource, ResizedImage, stored_side
from clrkit.device import available_cores, local_processes
from clrkit.errors import DataError

if TYPE_CHECKING:
    import torch

Indices = Int64[np.ndarray, "_"]  # as many as the batch has; the last may be shorter

CHUNK = 32  # images a worker decodes at once: a batch is shared out, and little waits in shared memory


class ImageBatch(NamedTuple):
    """A batch of square images on the CPU.

    Attributes:
        pixels: (batch, 3, side, side), uint8, or float in [0, 1] where views are exact.
        aspects: (batch), width over height before they were squashed; None where all were square.
    """

    pixels: torch.Tensor
    aspects: torch.Tensor | None


@runtime_checkable
class Pixels(Protocol):
    """Square images that can be read in any order."""

    def __len__(self) -> int: ...

    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        """The images of each index array."""
        ...

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        """Their pixels alone."""
        ...


@dataclass(frozen=True)
class PixelArray:
    """Images in memory or mapped, (count, 3, side, side), with their aspects unless all were square."""

    array: UInt8[np.ndarray, "count 3 side side"]
    aspects: Float32[np.ndarray, " count"] | None = None

    def __len__(self) -> int:
        return len(self.array)

    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        import torch

        for indices in order:
            aspects = None if self.aspects is None else torch.from_numpy(self.aspects[indices])
            yield ImageBatch(torch.from_numpy(self.array[indices]), aspects)

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        return (squares.pixels for squares in self.squares(order))


@dataclass(frozen=True)
class PixelSubset:
    """Some images of another source, in the order of `indices`."""

    source: Pixels
    indices: Int64[np.ndarray, " count"]

    def __len__(self) -> int:
        return len(self.indices)

    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        return self.source.squares(self.indices[chosen] for chosen in order)

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        return (squares.pixels for squares in self.squares(order))


Chunk = tuple[np.ndarray, Float32[np.ndarray, " chunk"]]


@dataclass(frozen=True)
class ChunkReader:
    """What a worker process does: index arrays to squares and aspects, or to the text of a DataError.

    (An exception would come back wrapped in the worker's traceback.)
    """

    images: Images

    def __getitem__(self, indices: Indices) -> Chunk | str:
        try:
            squares, aspects = zip(*map(self.images.read, indices.tolist()), strict=True)
        except DataError as error:
            return str(error)
        return np.stack(squares), np.array(aspects, dtype=np.float32)


@dataclass(frozen=True)
class PixelStream:
    """Images decoded anew whenever they are read, by worker processes, a few chunks ahead of their use."""

    images: Images

    def __len__(self) -> int:
        return len(self.images.found.sizes)

    def squares(self, order: Iterable[Indices]) -> Iterator[ImageBatch]:
        lengths: deque[int] = deque()
        chunks = self.decoded(self.cut(order, lengths))
        for chunk in chunks:
            batch = unwritten(lengths.popleft(), chunk[0])
            filled = put(chunk, batch, 0)
            while filled < len(batch.pixels):
                filled = put(next(chunks), batch, filled)
            yield batch

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        return (squares.pixels for squares in self.squares(order))

    @staticmethod
    def cut(order: Iterable[Indices], lengths: deque[int]) -> Iterator[Indices]:
        """Chunks of every batch in turn; notes the batches' lengths."""
        for indices in order:
            lengths.append(len(indices))
            for start in range(0, len(indices), CHUNK):
                yield indices[start : start + CHUNK]

    def decoded(self, chunks: Iterator[Indices]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch
        from torch.utils.data import DataLoader

        loader: DataLoader[Any] = DataLoader(
            ChunkReader(self.images),  # type: ignore[arg-type]
            sampler=chunks,
            batch_size=None,
            num_workers=cores(),
            generator=torch.Generator(),  # else every pass would advance the global random state
        )
        for chunk in loader:
            if isinstance(chunk, str):
                raise DataError(chunk)
            yield chunk


def unwritten(count: int, like: torch.Tensor) -> ImageBatch:
    """Room for a batch, NumPy's.

    PyTorch's is aligned; glibc seldom finds aligned memory again that was freed, and the heap grows to dozens
    of batches.
    """
    import torch

    pixels = np.empty((count, *like.shape[1:]), like.numpy().dtype)
    return ImageBatch(torch.from_numpy(pixels), torch.empty(count))


def put(chunk: tuple[torch.Tensor, torch.Tensor], batch: ImageBatch, start: int) -> int:
    """Copy a chunk into a batch; returns where it ends.

    By NumPy: PyTorch's threads would wait for cores that the workers have.
    """
    stop = start + len(chunk[1])
    for part, whole in zip(chunk, batch, strict=True):
        assert whole is not None
        whole.numpy()[start:stop] = part.numpy()
    return stop


def cores() -> int:
    """CPU cores for this process: its share where several of a run are on this machine."""
    return max(1, available_cores() // local_processes())


def of_labelled(views: PixelArray, labels: Int64[np.ndarray, " count"]) -> PixelSubset:
    """The views of the labelled images, to be read at the images' indices; of another: IndexError."""
    labelled = labels >= 0
    return PixelSubset(views, np.where(labelled, np.cumsum(labelled) - 1, len(views)))


@dataclass(frozen=True)
class Split:
    """Images with their classes (-1: no label) and names (paths within the set).

    Attributes:
        pixels: the images; those to train on are squares of which random views are cut.
        labels: class of each.
        names: of each.
        measured: evaluation views of the labelled images, where they are not their `pixels`.
    """

    pixels: Pixels
    labels: Int64[np.ndarray, " count"]
    names: Sequence[str]
    measured: Pixels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> Pixels:
        """The images as they are measured."""
        return self.pixels if self.measured is None else self.measured

    def subset(self, indices: Int64[np.ndarray, " chosen"]) -> Split:
        names = [self.names[index] for index in indices]
        measured = None if self.measured is None else PixelSubset(self.measured, indices)
        return Split(PixelSubset(self.pixels, indices), self.labels[indices], names, measured)


class LabelledImages(NamedTuple):
    """Images as they were found, with their classes and names, to be decoded when they are read."""

    found: ImageSource
    labels: Int64[np.ndarray, " count"]
    names: Sequence[str]

    def to_train(self, image_size: int) -> Split:
        """Squares to cut views of `image_size` from, and the views to measure."""
        squares = PixelStream(ResizedImage(self.found, stored_side(image_size)))
        measured = PixelStream(EvalView(self.found, image_size)) if image_size > WHOLE else None
        return Split(squares, self.labels, self.names, measured)

    def to_measure(self, image_size: int, exact: bool = False, resize: Resize = "tf2") -> Split:
        """The views alone, arguments as `EvalView`."""
        return Split(PixelStream(EvalView(self.found, image_size, exact, resize)), self.labels, self.names)


class Splits(NamedTuple):
    """A data set before the choice of the part that is measured; class names in the order of the labels."""

    train: Split
    test: Split
    classes: tuple[str, ...]
