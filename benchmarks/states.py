"""What saving states costs training: how long it waits, and how much slower steps are while one is written.

    python -m benchmarks.states

A state is copied in memory, for which training waits, and written by a thread beside it. Rounds of steps
alone, of steps while states are copied and written without a pause, of copies and of writes are taken in
turn. `cost` is what steps lose to one state, as a part of the time from one state to the next.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import FOREVER, noise
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
from clrkit.config import Pretrain
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.runs.checkpoint import CheckpointWriter, on_host
from clrkit.runs.run import STATE_SECONDS
from clrkit.stages import begin, pretrain
from clrkit.training import Training

CPU = torch.device("cpu")
SECONDS = 3.0  # of a turn
# The largest network of mini, and ResNet-18 with the CIFAR recipe's optimiser.
CONFIGS: dict[str, Callable[[], Pretrain]] = {
    "mini": lambda: preset("mini").pretrain,
    "ResNet-18": lambda: with_fields(preset("cifar10_official").pretrain, {"batch_size": 32, "depth": 18}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    options = parser.parse_args()
    rows = {name: measured(make()) for name, make in CONFIGS.items()}
    report("states", {"rows": rows, "interval": STATE_SECONDS, "machine": machine(CPU)}, options.json)


def measured(config: Pretrain) -> dict[str, Any]:
    """Times of one network: a step alone and beside a writer, the copy that holds training up, the write."""
    config = with_fields(config, {"epochs": FOREVER, "monitor_epochs": FOREVER, "warmup_epochs": 0})
    data = noise(config.data, 4 * config.batch_size)
    training = begin(config, data, CPU)
    steps = pretrain(config, data, training)

    def step() -> None:
        next(steps)

    step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        contestants: dict[str, Contestant] = {
            "step": contestant(step),
            "step beside a writer": beside_a_writer(step, training, path),
            "copy": contestant(lambda: on_host(training.state_dict())),
            "write": contestant(lambda: written(training, path)),
        }
        seconds = interleaved(contestants, SECONDS)
        size = path.stat().st_size
    return {
        "megabytes": round(size / 1e6, 1),
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "beside_over_alone": ratio(seconds, "step beside a writer", "step"),
        "cost": summary(
            list(map(cost, *(seconds[name] for name in ("step beside a writer", "step", "write"))))
        ),
    }


def cost(beside: float, alone: float, write: float) -> float:
    """Part of the time between two states that one takes from training."""
    return (1 - alone / beside) * write / STATE_SECONDS


def written(training: Training, path: Path) -> None:
    """A state from memory to disk, with nothing beside it."""
    writer = CheckpointWriter(path)
    writer.write(training.state_dict())
    writer.wait()


def beside_a_writer(step: Callable[[], Any], training: Training, path: Path) -> Contestant:
    """Steps while states are copied and written all the time."""

    @contextmanager
    def session() -> Iterator[Work]:
        writer = CheckpointWriter(path)

        def work() -> None:
            if writer.writing is None or writer.writing.done():
                writer.write(training.state_dict())
            step()

        yield work
        writer.wait()

    return session


if __name__ == "__main__":
    main()
