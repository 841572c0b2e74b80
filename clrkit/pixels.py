"""Square images in memory or streamed from where they lie. Importing this module does not load torch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from clrkit.images import DataError, Images

if TYPE_CHECKING:
    import torch

Indices = Int64[np.ndarray, "_"]  # as many as the batch has; the last may be shorter

CHUNK = 32  # images a worker decodes at once: a batch is shared out, and little waits in shared memory


@runtime_checkable
class Pixels(Protocol):
    """Square uint8 images that can be read in any order."""

    def __len__(self) -> int: ...

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        """The images of each index array, as uint8 tensors (batch, 3, side, side) on the CPU."""
        ...


@dataclass(frozen=True)
class PixelArray:
    """Images in memory, (count, 3, side, side)."""

    array: UInt8[np.ndarray, "count 3 side side"]

    def __len__(self) -> int:
        return len(self.array)

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
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

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        return self.source.batches(self.indices[chosen] for chosen in order)


@dataclass(frozen=True)
class ChunkReader:
    """What a worker process does: index arrays to pixels, or to the text of a DataError.

    (An exception would come back wrapped in the worker's traceback.)
    """

    images: Images

    def __getitem__(self, indices: Indices) -> UInt8[np.ndarray, "chunk 3 side side"] | str:
        try:
            return np.stack([self.images.read(index) for index in indices.tolist()])
        except DataError as error:
            return str(error)


@dataclass(frozen=True)
class PixelStream:
    """Images decoded anew whenever they are read, by worker processes, a few chunks ahead of their use."""

    images: Images

    def __len__(self) -> int:
        return len(self.images.sizes)

    def batches(self, order: Iterable[Indices]) -> Iterator[torch.Tensor]:
        import torch

        lengths: deque[int] = deque()
        chunks = self.decoded(self.cut(order, lengths))
        for chunk in chunks:
            batch, filled = torch.empty(lengths.popleft(), *chunk.shape[1:], dtype=torch.uint8), len(chunk)
            batch[:filled] = chunk
            while filled < len(batch):
                chunk = next(chunks)
                batch[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
            yield batch

    @staticmethod
    def cut(order: Iterable[Indices], lengths: deque[int]) -> Iterator[Indices]:
        """Chunks of every batch in turn; notes the batches' lengths."""
        for indices in order:
            lengths.append(len(indices))
            for start in range(0, len(indices), CHUNK):
                yield indices[start : start + CHUNK]

    def decoded(self, chunks: Iterator[Indices]) -> Iterator[torch.Tensor]:
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


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


class Parts(NamedTuple):
    """A data set before the choice of the part that is measured; class names in the order of the labels."""

    train: Part
    test: Part
    classes: tuple[str, ...]
