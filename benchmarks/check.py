"""What holds on any processor, in half a minute and without peers: `make test` is preceded by it in CI.

    python -m benchmarks.check

Our NT-Xent and our compiled views are never slower than the plain version, and NT-Xent of a large batch takes
less than an eighth of its memory. How many times as fast differs from processor to processor: `make bench`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks import augmentation, loss
from benchmarks.memory import in_child
from benchmarks.timing import contestant, interleaved, ratio
from clrkit.experiments.presets import preset

SECONDS = 0.5  # of a turn
ANCHORS, MANY_ANCHORS = 2048, 8192


class Gate(NamedTuple):
    """A figure that is measured, and what it has to reach."""

    name: str
    measure: Callable[[], float]
    least: float


def main() -> None:
    torch.set_num_threads(1)  # several wait for each other where the machine has other work
    failed = [gate.name for gate in GATES if not reached(gate)]
    if failed:
        sys.exit(f"Too low: {', '.join(failed)}.")


def reached(gate: Gate) -> bool:
    value = gate.measure()
    verdict = "reached" if value >= gate.least else "too low"
    print(f"{verdict}: {gate.name}: {value:.3g}, at least {gate.least:g}")
    return value >= gate.least


def loss_speed() -> float:
    """Time of the plain NT-Xent over ours, in the best round: other work on the machine only slows."""
    contestants = {name: contestant(loss.step(name, ANCHORS, 0, False)) for name in ("ours", "plain")}
    return ratio(interleaved(contestants, SECONDS), "plain", "ours")["high"]


def loss_memory() -> float:
    """Memory of a step with the plain NT-Xent over that with ours."""
    ours, plain = (in_child(loss.memory_of_step, name, MANY_ANCHORS, 0, False) for name in ("ours", "plain"))
    return float(plain) / float(ours)


def view_speed() -> float:
    """Views a second of the compiled loops over those of PyTorch's operations, in the best round."""
    config, load = preset("cifar10_official").finetune.pretrain, augmentation.LOADS["cifar10_official"]
    result = augmentation.measure(config.augmentation, config.data.image_size, load, SECONDS, beside=False)
    return float(result["one core"]["ratio_to"]["ours in PyTorch"]["high"])


GATES = (
    Gate(f"speed of NT-Xent, 2N = {ANCHORS}, beside the plain version", loss_speed, 1.0),
    Gate(f"memory of NT-Xent, 2N = {MANY_ANCHORS}, of the plain version over ours", loss_memory, 8.0),
    Gate("speed of compiled views at 32 pixels, beside PyTorch's operations", view_speed, 1.0),
)


if __name__ == "__main__":
    main()
