"""Are the recorded ratios still reached? Half a minute, no peers: what CI runs.

    python -m benchmarks.check

A ratio may fall to `SLACK` of the recorded one: CI's machines are other machines, and not quiet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import reduce

import torch

from benchmarks import augmentation, loss, step
from benchmarks.timing import RESULTS, contestant, interleaved, ratio
from clrkit.presets import preset

SLACK = 0.7
SECONDS = 0.5  # of a turn


def main() -> None:
    failed = False
    for (record, *path), measure in CHECKS.items():
        path_of = RESULTS / f"{record}.json"
        if not path_of.exists():
            sys.exit(f"{path_of} is missing; `make bench` writes it.")
        values = json.loads(path_of.read_text())
        recorded = reduce(lambda inner, key: inner[key], path, values)["median"]
        reached = measure()
        failed |= (low := reached < SLACK * recorded)
        name, verdict = " ".join((record, *path)), "too low" if low else "reached"
        print(f"{verdict}: {name}: {reached:.3g}, recorded {recorded:.3g}")
    if failed:
        sys.exit(f"A ratio has fallen below {SLACK:g} of the recorded one.")


def whole_step() -> float:
    """The bare step's share of a whole step."""
    config = preset("mini").finetune.pretrain
    result = step.measure("mini", config, torch.device("cpu"), SECONDS, beside=False)
    return float(result["whole_over_bare"]["median"])


def plain_loss() -> float:
    """Time of the plain NT-Xent over ours."""
    contestants = {name: contestant(loss.step(name, 2048, 0, False)) for name in ("ours", "plain")}
    return ratio(interleaved(contestants, SECONDS), "plain", "ours")["median"]


def compiled_views() -> float:
    """Views a second of the compiled loops over those of PyTorch's operations, on one core."""
    config, load = preset("cifar10_official").finetune.pretrain, augmentation.LOADS["cifar10_official"]
    size = config.data.image_size
    result = augmentation.measure(config.augmentation, size, load, SECONDS, beside=False)
    return float(result["one core"]["ratio_to"]["ours in PyTorch"]["median"])


CHECKS: dict[tuple[str, ...], Callable[[], float]] = {
    ("step-mini-cpu", "whole_over_bare"): whole_step,
    ("loss", "batch", "2048", "ratio_to", "plain"): plain_loss,
    ("augmentation", "32", "one core", "ratio_to", "ours in PyTorch"): compiled_views,
}


if __name__ == "__main__":
    main()
