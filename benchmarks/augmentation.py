"""Views a second of the augmentation, beside the peers, at 32 and at 224 pixels.

    python -m benchmarks.augmentation --json

Everyone makes float views of the same uint8 images in memory by the same recipe: at 32 pixels that of
CIFAR-10 (no blur), at 224 that of ImageNet, from images of 256 pixels, as ours are stored. "one core" is one
process with one thread; "all cores" is as many threads or, for those that take one image at a time, a loader
with as many worker processes. `ratio_to` is our views a second over theirs; `differs` says where a
contestant's law is not the official one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import peers
from benchmarks.peers import BatchTransform, Transform
from benchmarks.step import endless
from benchmarks.timing import Contestant, Work, interleaved, machine, ratio, report, summary
from clrkit.augment import cut_views, random_view, sample_view_params
from clrkit.config import Augmentation
from clrkit.data.images import stored_side
from clrkit.data.splits import cores
from clrkit.experiments.presets import preset


class Load(NamedTuple):
    """Views that those make at once that take batches, and images (two views each) that the others take."""

    views: int
    images: int


LOADS = {"cifar10_official": Load(512, 64), "imagenet_r50": Load(32, 8)}
DRAWS = 8  # of torchvision for a batch: one draw decides for all of its images whether they are blurred
BATCHES = 64  # that a loader has: it does not come to its end within a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of a contestant's turn")
    parser.add_argument("--no-peers", action="store_true", help="our two forms alone")
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    options = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {}
    for name, load in LOADS.items():
        config = preset(name).finetune.pretrain
        size = config.data.image_size
        result[str(size)] = measure(config.augmentation, size, load, options.seconds, not options.no_peers)
    report(
        "augmentation", result | {"differs": DIFFERS, "machine": machine(torch.device("cpu"))}, options.json
    )


def measure(
    augmentation: Augmentation, size: int, load: Load, seconds: float, beside: bool
) -> dict[str, Any]:
    """The record of one recipe: with one core, then with all."""
    images = noise(max(BATCHES * load.images, load.views), stored_side(size))
    batched = {name: make(augmentation, size) for name, make in BATCHED.items() if beside or name in OURS}
    single = {name: make(augmentation, size) for name, make in SINGLE.items() if beside}
    views = dict.fromkeys(batched, load.views) | dict.fromkeys(single, 2 * load.images)
    record: dict[str, Any] = {"augmentation": vars(augmentation), "views_at_a_time": views}
    for name, threads, by_one in (("one core", 1, in_turn), ("all cores", cores(), loaded)):
        contestants = {each: at_once(make, images[: load.views], threads) for each, make in batched.items()}
        contestants |= {each: by_one(transform, images, load.images) for each, transform in single.items()}
        record[name] = compared(contestants, views, seconds)
    return record


def compared(
    contestants: Mapping[str, Contestant], views: Mapping[str, int], seconds: float
) -> dict[str, Any]:
    """Ratios and rates, by the seconds of a view."""
    taken = interleaved(contestants, seconds, warmup=1)
    each = {name: [turn / views[name] for turn in turns] for name, turns in taken.items()}
    return {
        "ratio_to": {name: ratio(each, name, "ours") for name in each if name != "ours"},
        "views_per_second": {name: summary([1 / turn for turn in turns]) for name, turns in each.items()},
    }


def noise(count: int, side: int) -> np.ndarray:
    """Images (count, 3, side, side): their content takes no time."""
    return np.random.RandomState(0).randint(0, 256, (count, 3, side, side), dtype=np.uint8)


# Who takes part


def ours(augmentation: Augmentation, size: int) -> BatchTransform:
    """Compiled loops."""
    rng = torch.Generator().manual_seed(0)
    return lambda pixels: random_view(pixels, augmentation, size, rng)


def ours_in_pytorch(augmentation: Augmentation, size: int) -> BatchTransform:
    """What a GPU does, on the CPU."""
    rng = torch.Generator().manual_seed(0)
    return lambda pixels: cut_views(
        pixels,
        sample_view_params(len(pixels), pixels.shape[-1], augmentation, rng),
        size,
        augmentation.brightness,
    )


def torchvision_batched(augmentation: Augmentation, size: int) -> BatchTransform:
    views = peers.torchvision_batched(augmentation, size)
    return lambda pixels: torch.cat([views(part) for part in pixels.chunk(DRAWS)])


Batched = Callable[[Augmentation, int], BatchTransform]

OURS: dict[str, Batched] = {"ours": ours, "ours in PyTorch": ours_in_pytorch}
BATCHED: dict[str, Batched] = OURS | {
    "torchvision batched": torchvision_batched,
    "kornia": peers.kornia_batched,
}
SINGLE: dict[str, Callable[[Augmentation, int], Transform]] = {
    "torchvision on PIL images": peers.torchvision_pil_transform,
    "torchvision on tensors": peers.torchvision_transform,
    "lightly": peers.lightly_transform,
}
TORCHVISION = (
    "crops by uniform area and log-uniform aspect, antialiased; 8 bits after every operation; contrast about"
    " one mean of grey; saturation as a mixture with grey, not in HSV; blur with reflected borders"
)
DIFFERS = {
    "ours": "one sigma of the blur an image, where the official code draws one a batch",
    "ours in PyTorch": "as ours",
    "torchvision batched": f"as torchvision on tensors, and shared draws: {DRAWS} in all for a batch",
    "kornia": "crops as torchvision's, without antialiasing; contrast, saturation and blur as torchvision's;"
    " one order of the colour operations for a batch; overshoot kept where colours are left alone",
    "torchvision on PIL images": TORCHVISION,
    "torchvision on tensors": TORCHVISION,
    "lightly": "as torchvision on PIL images, but crops resized bilinearly and blur by repeated box filters",
}


# How they work


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_once(views: BatchTransform, images: np.ndarray, threads: int) -> Contestant:
    """A batch at a time."""
    pixels = torch.from_numpy(images)

    @contextmanager
    def session() -> Iterator[Work]:
        with torch_threads(threads):
            yield lambda: views(pixels)

    return session


def in_turn(transform: Transform, images: np.ndarray, count: int) -> Contestant:
    """Two views of each image, one after the other, in this process; the PIL images are there."""
    pictures = [
        Image.fromarray(image) for image in np.ascontiguousarray(images[:count].transpose(0, 2, 3, 1))
    ]

    def batch() -> Tensor:
        return torch.stack([view for picture in pictures for view in transform(picture)])

    @contextmanager
    def session() -> Iterator[Work]:
        with torch_threads(1):
            yield batch

    return session


def loaded(transform: Transform, images: np.ndarray, count: int) -> Contestant:
    """The same by a loader with a worker process a core."""

    @contextmanager
    def session() -> Iterator[Work]:
        batches = endless(peers.loader(images, transform, count, pinned=False))
        yield lambda: torch.cat(next(batches))
        batches.close()

    return session


if __name__ == "__main__":
    main()
