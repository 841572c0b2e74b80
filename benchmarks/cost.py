"""How time and memory grow with batch, image size, width, depth and data, and what large runs would take.

    python -m benchmarks.cost

Every point is a pretraining step (whole, from images to updated weights) with one thing changed, in a fresh
process that times it beside the base, turn by turn: `time` is the ratio of the two. `memory` is what a fresh
process takes for images, weights, optimiser and three steps, at most, in MB. Exponents are slopes of straight
lines through the logarithms.

The published recipes are not run: their operations are counted by PyTorch on weights that are not there.
What they would take is computed: from the rate of a recorded GPU step, where there is one, and from a round
number.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import extra_megabytes, in_child
from benchmarks.step import FOREVER, noise, ours
from benchmarks.timing import RESULTS, interleaved, machine, ratio, report, summary
from clrkit.config import Augmentation, Data, Network, Optimizer, Pretrain
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.model import Model, ModelConfig

BASE = Pretrain(
    data=Data(dataset="cifar10", image_size=32),
    network=Network(depth=8, width=1.0, stem="cifar"),
    augmentation=Augmentation(color_strength=0.5),
    optimizer=Optimizer(optimizer="lars", learning_rate=0.3, weight_decay=1e-4),
    epochs=FOREVER,
    monitor_epochs=FOREVER,
    batch_size=64,
)
DATA = 4096  # images of the base
AXES: dict[str, tuple[float, ...]] = {
    "batch_size": (32, 64, 128, 256, 512),
    "image_size": (16, 32, 48, 64, 96),
    "width": (0.5, 1, 2, 4),
    "depth": (8, 14, 20),
    "images": (1024, 4096, 16384, 65536),
}
PRESETS = ("cifar10_official", "imagenet_r50", "imagenet_r152_3x_sk")
IMAGES = {"cifar10": 50_000, "imagenet": 1_281_167}
GPUS = (8, 64)
CPU = torch.device("cpu")
SECONDS = 0.5  # of a turn
ROUND_RATE = 100e12  # operations a second of one GPU: a round number to scale from, not a measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    options = parser.parse_args()
    points = {axis: [measured(axis, value) for value in values] for axis, values in AXES.items()}
    base = {"batch_size": BASE.batch_size, "image_size": BASE.data.image_size, "images": DATA}
    result = {
        "base": {"network": vars(BASE.network)} | base,
        "points": points,
        "exponents": {axis: exponents(rows) for axis, rows in points.items()},
        "presets": [requirement(name) for name in PRESETS],
        "round_rate": ROUND_RATE,
        "machine": machine(CPU),
    }
    report("cost", result, options.json)


def measured(axis: str, value: float) -> dict[str, Any]:
    """A point of an axis: time beside the base and memory alone, each in a process of its own."""
    return {"value": value} | in_child(timing, axis, value) | in_child(memory, axis, value)


def changed(axis: str, value: float) -> tuple[Pretrain, int]:
    """The base with one thing changed, and the number of images."""
    if axis == "images":
        return BASE, int(value)
    return with_fields(BASE, {axis: value}), DATA


def timing(axis: str, value: float) -> dict[str, Any]:
    config, images = changed(axis, value)
    contestants = {
        "base": ours(BASE, noise(BASE.data, DATA), CPU),
        "point": ours(config, noise(config.data, images), CPU),
    }
    taken = interleaved(contestants, SECONDS, warmup=1)
    milliseconds = summary([1000 * second for second in taken["point"]])
    return {"time": ratio(taken, "point", "base"), "milliseconds": milliseconds}


def memory(axis: str, value: float) -> dict[str, float]:
    """MB of images, weights, optimiser and what three steps need at most."""

    def train() -> None:
        config, images = changed(axis, value)
        with ours(config, noise(config.data, images), CPU)() as step:
            for _ in range(3):
                step()

    return {"memory": extra_megabytes(train)}


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Slopes of log(time) and log(memory) over log(value)."""
    values = np.log([row["value"] for row in rows])
    series = {
        "time": [row["time"]["median"] for row in rows],
        "memory": [row["memory"] for row in rows],
    }
    return {name: round(float(np.polyfit(values, np.log(y), 1)[0]), 2) for name, y in series.items()}


def requirement(name: str) -> dict[str, Any]:
    """What a published recipe's pretraining computes: counted, and divided by rates."""
    config = preset(name).finetune.pretrain
    step = operations(replace(config, batch_size=2)) * config.batch_size / 2
    steps = config.epochs * (IMAGES[config.data.dataset] // config.batch_size)
    total = step * steps
    days = {str(gpus): round(total / (gpus * ROUND_RATE) / 86400, 3) for gpus in GPUS}
    row = {"preset": name, "parameters": parameters(config), "batch_size": config.batch_size}
    row |= {"epochs": config.epochs, "steps": steps, "operations_per_image": step / config.batch_size}
    row |= {"operations": total, "days_at_round_rate": days}
    rate = gpu_rate()
    if rate:
        row["days_at_measured_rate"] = {str(gpus): round(total / (gpus * rate) / 86400, 3) for gpus in GPUS}
    return row


def model_of(config: Pretrain) -> Model:
    """The network of a config, without memory for its weights."""
    with torch.device("meta"):
        head = {"head_layers": config.head_layers, "head_dim": config.head_dim}
        return Model(ModelConfig(network=config.network, **head))


def parameters(config: Pretrain) -> int:
    return sum(weight.numel() for weight in model_of(config).encoder.parameters())


def operations(config: Pretrain) -> float:
    """Floating-point operations of one step's network, forward and backward, both views (a MAC counts two).

    (The loss of a batch of 4,096 adds less than a hundredth.)
    """
    side = config.data.image_size
    views = torch.empty(2 * config.batch_size, 3, side, side, device="meta")
    model, counter = model_of(config), FlopCounterMode(display=False)
    with counter:
        model.project(views).sum().backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())


def gpu_rate() -> float | None:
    """Operations a second of the recorded whole steps on a GPU, or None where there is no such record."""
    path = RESULTS / "step-cifar10_official-cuda.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    config = replace(preset("cifar10_official").finetune.pretrain, batch_size=2)
    return operations(config) / 2 * float(record["images_per_second"]["whole"]["median"])


if __name__ == "__main__":
    main()
