"""The whole pretraining step, from images to updated weights, beside the bare step and beside the peers.

    python -m benchmarks.step --preset mini --json

`whole_over_bare` is the share of a step's time that forward, backward and update need: 1 would mean that the
images never wait. `ratio_to` is our images a second over each peer's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.timing import Contestant, Work, interleaved, machine, ratio, report, summary
from clrkit import stages
from clrkit.augment import random_view
from clrkit.config import Data, Pretrain
from clrkit.data import datasets
from clrkit.data.images import stored_side
from clrkit.data.splits import DataSet, PixelArray, Split
from clrkit.device import choose_device
from clrkit.experiments.presets import preset
from clrkit.losses import nt_xent
from clrkit.training import Training, step_generator

FOREVER = 10**6  # epochs
STAND_INS = 5000  # images of noise where a preset's own are not embedded: their content takes no time


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--no-peers", action="store_true", help="the bare and the whole step alone")
    options = parser.parse_args()
    config, device = step_config(options), choose_device(options.device)
    result = measure(options.preset, config, device, options.seconds, not options.no_peers)
    report(f"step-{options.preset}-{device.type}", result, options.json)


def step_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of the benchmarks that time a preset's step."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--batch_size", type=int, help="images; the preset's unless given")
    parser.add_argument("--seconds", type=float, default=1.2, help="length of a contestant's turn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    return parser


def step_config(options: argparse.Namespace) -> Pretrain:
    config = preset(options.preset).finetune.pretrain
    return replace(config, batch_size=options.batch_size or config.batch_size)


def measure(
    name: str, config: Pretrain, device: torch.device, seconds: float, beside: bool
) -> dict[str, Any]:
    """The record of one preset's pretraining step."""
    config = replace(config, epochs=FOREVER, monitor_epochs=FOREVER)
    data = images_of(config.data)
    contestants = {"whole": ours(config, data, device), "bare": bare(config, data, device)}
    if beside:
        contestants |= {each: peer(each, config, data, device) for each in ("lightly", "hand-written")}
    taken = interleaved(contestants, seconds)
    return {
        "preset": name,
        "network": vars(config.network),
        "batch_size": config.batch_size,
        "image_size": config.data.image_size,
        "images": "its own" if config.data.dataset == "tinted_mnist" else "noise",
        "whole_over_bare": ratio(taken, "bare", "whole"),
        "ratio_to": {each: ratio(taken, each, "whole") for each in contestants if each in PEERS},
        "images_per_second": {
            each: summary([config.batch_size / second for second in rounds]) for each, rounds in taken.items()
        },
        "machine": machine(device),
    }


def images_of(config: Data) -> DataSet:
    """A preset's embedded images, or noise in the place of images that are not embedded."""
    return datasets.load(config) if config.dataset == "tinted_mnist" else noise(config, STAND_INS)


def noise(config: Data, count: int) -> DataSet:
    side = stored_side(config.image_size)
    pixels = np.random.RandomState(0).randint(0, 256, (count, 3, side, side), dtype=np.uint8)
    part = Split(PixelArray(pixels), np.zeros(count, dtype=np.int64), [str(i) for i in range(count)])
    return DataSet(part, part, ("0",), "")


def ours(config: Pretrain, data: DataSet, device: torch.device) -> Contestant:
    @contextmanager
    def session() -> Iterator[Work]:
        steps = stages.pretrain(config, data, stages.begin(config, data, device))
        yield lambda: next(steps)

    return session


def bare(config: Pretrain, data: DataSet, device: torch.device) -> Contestant:
    """Forward, backward and update on one batch of views that is already there."""

    @contextmanager
    def session() -> Iterator[Work]:
        step, views = update(stages.begin(config, data, device)), views_of(config, data, device)
        yield lambda: step(views)

    return session


def views_of(config: Pretrain, data: DataSet, device: torch.device) -> Tensor:
    """Both views of a batch."""
    pixels = next(data.train.pixels.batches([np.arange(config.batch_size)])).to(device)
    rng, size = step_generator(config, 0), config.data.image_size
    views = random_view(pixels.repeat(2, 1, 1, 1), config.augmentation, size, rng)
    return views.contiguous(memory_format=torch.channels_last)


def update(training: Training, loss: peers.Loss | None = None) -> Callable[[Tensor], None]:
    """What makes an update of both views of a batch, as `clrkit.stages.pretrain`; perhaps by another loss."""
    config = training.config
    assert isinstance(config, Pretrain)
    summed = config.summed_views
    compare = loss or (lambda z1, z2: nt_xent(z1, z2, config.temperature, summed_views=summed))

    def step(views: Tensor) -> None:
        (batch,) = training.micro_batches(views, copies=2)
        z1, z2 = training.project(batch).chunk(2)
        training.backward(compare(z1, z2), batch)
        training.step()

    return step


PEERS = {
    "lightly": (peers.lightly_transform, peers.lightly_loss),
    "hand-written": (peers.torchvision_pil_transform, peers.plain_nt_xent),
}


def peer(name: str, config: Pretrain, data: DataSet, device: torch.device) -> Contestant:
    """A peer's transform, loader and loss around our network and optimiser."""
    transform, loss = PEERS[name]
    assert isinstance(data.train.pixels, PixelArray)
    views = transform(config.augmentation, config.data.image_size)
    compare, pixels = loss(config.temperature), data.train.pixels.array

    @contextmanager
    def session() -> Iterator[Work]:
        update_by = update(stages.begin(config, data, device), compare)
        batches = endless(peers.loader(pixels, views, config.batch_size, device.type == "cuda"))

        def step() -> None:
            both = torch.cat(next(batches)).to(device, non_blocking=True)
            update_by(both.contiguous(memory_format=torch.channels_last))

        yield step
        batches.close()

    return session


def endless(batches: Any) -> Any:
    while True:
        yield from batches


if __name__ == "__main__":
    main()
