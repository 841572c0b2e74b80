"""Photographs streamed from their files: ours beside torchvision's ImageFolder, and what decoding takes.

    python -m benchmarks.streaming --json

Both make two views of 224 pixels of the same JPEGs, by a worker process a core: ours decodes and squashes
there, and cuts the views of a whole batch afterwards; torchvision's transforms each image in the worker.
Operations, probabilities and strengths are the same; the laws of crops and colours are each one's own, and
torchvision cuts its crops out of the whole photograph, as the official code does. Without blur, too, since
torchvision's takes most of its time. `ratio_to` is our images a second over theirs.

`memory` is what the process and its workers hold while they read 2,000 photographs of a listing as long as
ImageNet's. `decoding` is one thread's work from a file to the square that is stored.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.peers import torchvision_pil_transform
from benchmarks.timing import (
    Contestant,
    Work,
    contestant,
    interleaved,
    machine,
    ratio,
    report,
    summary,
)
from clrkit.augment import random_view
from clrkit.config import Augmentation
from clrkit.data.folders import photo_below
from clrkit.data.images import read_photo, stored_side, to_square
from clrkit.data.splits import PixelStream, cores

VIEW = 224
SIDE = stored_side(VIEW)
BATCH = 32
SIZES = ((500, 375), (375, 500), (500, 333), (333, 500), (400, 400))  # as ImageNet's photographs
LARGE = (2000, 1500)
QUALITY = 90
LISTED = 1_281_167  # ImageNet's training images: as many names has the listing whose memory is watched
WATCHED = 2000  # photographs that are read of it

Decode = Callable[[str], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=4, help="length of a contestant's turn")
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clrkit-") as folder:
        result = measure(Path(folder), options.images, options.seconds)
    report("streaming", result, options.json)


def measure(folder: Path, images: int, seconds: float) -> dict[str, Any]:
    small, large = (folder / name / "class" for name in ("small", "large"))
    write_photographs(small, SIZES, images)
    write_photographs(large, (LARGE,), images // 20)
    taken = interleaved(streams(small), seconds)
    return {
        "images": images,
        "view": VIEW,
        "ratio_to": {
            "torchvision": ratio(taken, "torchvision", "ours"),
            "torchvision, no blur": ratio(taken, "torchvision, no blur", "ours, no blur"),
        },
        "images_per_second": rates(taken, BATCH * cores()),
        "memory": memory(small),
        "decoding": {
            "about 500 x 375": decoding(small, seconds / 8),
            "2000 x 1500": decoding(large, seconds / 8),
        },
        "machine": machine(torch.device("cpu")),
    }


def rates(taken: dict[str, list[float]], images: int) -> dict[str, dict[str, float]]:
    return {name: summary([images / second for second in rounds]) for name, rounds in taken.items()}


def write_photographs(folder: Path, sizes: tuple[tuple[int, int], ...], images: int) -> None:
    """JPEGs like photographs: random crops, scaled and mirrored, of scikit-learn's two."""
    from sklearn.datasets import load_sample_images

    rng, photographs = np.random.default_rng(0), load_sample_images().images
    folder.mkdir(parents=True)
    for index in range(images):
        whole, scale = Image.fromarray(photographs[index % len(photographs)]), rng.uniform(0.5, 1)
        width, height = (scale * side for side in whole.size)
        left, top = rng.uniform(0, whole.width - width), rng.uniform(0, whole.height - height)
        box = (left, top, left + width, top + height)
        image = whole.resize(sizes[index % len(sizes)], Image.Resampling.BICUBIC, box)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(folder / f"{index:05d}.jpg", quality=QUALITY)


# The whole stream


def streams(folder: Path) -> dict[str, Contestant]:
    blurred, sharp = Augmentation(blur=True), Augmentation(blur=False)
    return {
        "ours": ours(folder, blurred),
        "torchvision": torchvision_folder(folder.parent, blurred),
        "ours, no blur": ours(folder, sharp),
        "torchvision, no blur": torchvision_folder(folder.parent, sharp),
    }


def stream_of(folder: Path, listed: int | None = None) -> PixelStream:
    """The folder's images, or as many listed, again and again."""
    names = np.array([path.name.encode() for path in sorted(folder.iterdir())])
    names = np.resize(names, listed or len(names))
    return PixelStream(partial(photo_below, str(folder), names), np.ones(len(names), dtype=np.int64), SIDE)


def views_of(stream: PixelStream, recipe: Augmentation) -> Iterator[list[torch.Tensor]]:
    """Two views of every image of a batch, without end."""
    order, rng = np.random.default_rng(0), torch.Generator()
    indices = (order.integers(len(stream), size=BATCH) for _ in count())
    for pixels, aspects in stream.squares(indices):
        yield [random_view(pixels, recipe, VIEW, rng, aspects) for _ in range(2)]


def take(batches: Iterator[Any]) -> None:
    """A batch of every worker: theirs come together, and a turn must not end between them."""
    for _ in range(cores()):
        next(batches)


def ours(folder: Path, recipe: Augmentation) -> Contestant:
    stream = stream_of(folder)

    @contextmanager
    def session() -> Iterator[Work]:
        views = views_of(stream, recipe)
        yield lambda: take(views)

    return session


def torchvision_folder(root: Path, recipe: Augmentation) -> Contestant:
    from torchvision.datasets import ImageFolder

    images = ImageFolder(root, torchvision_pil_transform(recipe, VIEW))

    @contextmanager
    def session() -> Iterator[Work]:
        # No epoch ends: their workers would wait for each other at its end.
        endless = RandomSampler(images, replacement=True, num_samples=LISTED * BATCH)
        batches = iter(DataLoader(images, BATCH, sampler=endless, num_workers=cores()))
        yield lambda: take(batches)

    return session


# Memory


def held() -> float:
    """MiB of this process and its workers; what they share counts once."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    infos = [process.memory_full_info() for process in processes]
    return sum(getattr(info, "pss", info.uss) for info in infos) / 2**20


def memory(folder: Path) -> dict[str, float]:
    """At the start (a tenth in), in the middle and at the end of what is read."""
    batches, noted = WATCHED // BATCH, []
    views = views_of(stream_of(folder, LISTED), Augmentation(blur=True))
    for batch, _ in zip(range(1, batches + 1), views, strict=False):
        if batch in (batches // 10, batches // 2, batches):
            noted.append(held())
    start, middle, end = (round(amount, 1) for amount in noted)
    return {"start": start, "middle": middle, "end": end, "growth": round(end / start, 3)}


# Decoding


def decoding(folder: Path, seconds: float) -> dict[str, Any]:
    """Images a second of one thread, and how many times as long others take as we do."""
    paths = [str(path) for path in sorted(folder.iterdir())[:20]]
    contestants = {name: contestant(every(decode, paths)) for name, decode in DECODERS.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = interleaved(contestants, seconds)
    torch.set_num_threads(threads)
    return {
        "images_per_second": rates(taken, len(paths)),
        "ratio_to": {name: ratio(taken, name, "ours") for name in DECODERS if name != "ours"},
    }


def every(decode: Decode, paths: list[str]) -> Work:
    return lambda: [decode(path) for path in paths]


def by_us(path: str) -> Any:
    return np.ascontiguousarray(to_square(read_photo(path, SIDE), SIDE))


def by_pillow(path: str, draft: bool = True) -> Any:
    with Image.open(path) as image:
        if draft:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
        square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def by_torchvision(path: str) -> Any:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2 import InterpolationMode, functional

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated since torchvision 0.29
        image = decode_jpeg(read_file(path), ImageReadMode.RGB)
    square = functional.resize(image, [SIDE, SIDE], InterpolationMode.BICUBIC, antialias=True)
    return square.contiguous()


DECODERS: dict[str, Decode] = {
    "ours": by_us,
    "Pillow": lambda path: by_pillow(path, draft=False),
    "Pillow, drafted": by_pillow,
    "torchvision.io": by_torchvision,
}


if __name__ == "__main__":
    main()
