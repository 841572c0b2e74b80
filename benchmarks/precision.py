"""Does bfloat16 cost accuracy? The same short runs in both precisions, three seeds.

python -m benchmarks.precision --preset mini --json
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import mean
from typing import Any

import torch

from benchmarks.step import images_of
from benchmarks.timing import machine, report
from clrkit import stages
from clrkit.config import Pretrain
from clrkit.device import choose_device
from clrkit.experiments.presets import preset

SEEDS, EPOCHS = (0, 1, 2), 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="mini", help="one whose images are embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    options = parser.parse_args()
    config, device = preset(options.preset).finetune.pretrain, choose_device(options.device)
    result = {"preset": options.preset, "batch_size": config.batch_size}
    result |= accuracy(config, device) | {"machine": machine(device)}
    report(f"precision-{options.preset}-{device.type}", result, options.json)


def accuracy(config: Pretrain, device: torch.device) -> dict[str, Any]:
    """KNN accuracy within the training images after short runs, by precision, and their difference."""
    data = images_of(config.data)
    reached: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for seed in SEEDS:
        for precision, values in reached.items():
            short = {"precision": precision, "seed": seed, "epochs": EPOCHS, "monitor_epochs": EPOCHS}
            run = replace(config, **short)  # type: ignore[arg-type]
            for step in stages.pretrain(run, data, stages.begin(run, data, device)):
                if step.metrics:
                    values.append(step.metrics["knn"])
    pairs = zip(reached["bfloat16"], reached["float32"], strict=True)
    differences = [round(low - full, 4) for low, full in pairs]
    kept = {name: round(mean(values), 4) for name, values in reached.items()}
    return {"epochs": EPOCHS, "seeds": SEEDS, "knn": kept, "bfloat16_minus_float32": differences}


if __name__ == "__main__":
    main()
