"""Put runs and times into words, and words into columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clrkit.config import Stage

TITLES = {
    "pretrain": "pretraining",
    "probe": "linear evaluation",
    "supervised": "supervised training",
    "finetune": "fine-tuning",
    "distill": "distillation",
}


def describe(stage: Stage) -> str:
    """A run in a few words: its stage, label fraction, head layer and seed."""
    values = {name: getattr(stage, name) for name in ("fraction", "tap_layer") if hasattr(stage, name)}
    return " ".join(
        [stage.name, *(f"{name} {value:g}" for name, value in values.items()), f"seed {stage.seed}"]
    )


def duration(seconds: float | None) -> str:
    """A time with the precision that a reader wants: 8 s, 4 min, 2.5 h."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown time"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, with every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
