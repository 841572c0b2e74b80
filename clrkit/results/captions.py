"""What figures say in words: their caption, label fractions, and values for the alt text."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from clrkit.results.records import dataset_name, fraction_name, seeds_named

TOP1 = "top-1 accuracy (%)"


def caption(runs: pd.DataFrame, preset: str, cells: pd.DataFrame) -> str:
    """What every plot says of itself: data set, preset, part measured, seeds and error bars."""
    least, most = int(cells["seeds"].min()), int(cells["seeds"].max())
    number = f"{most}" if least == most else f"{least} to {most}"
    seeds = "1 seed" if most == 1 else f"{number} {seeds_named(runs)}"
    spread = f"mean of {seeds}, ± 1 standard error" if most > 1 else f"{seeds}, no error bars"
    train, evaluation, part = runs[["train", "evaluation", "part"]].iloc[0]
    images = f"{train:,} training, {evaluation:,} {part} images"
    return f"{dataset_name(runs)} ({images}), preset {preset}; {spread}"


def share(fraction: float) -> str:
    """A label fraction, for running text."""
    return "all labels" if fraction == 1 else f"{fraction_name(fraction)} of the labels"


def listed(names: Iterable[str], values: Iterable[float], form: str = ".1f", unit: str = "%") -> str:
    """Names with their values, for an alt text."""
    steady = (round(value, 9) for value in values)  # as `clrkit.results.table.decimal`
    return ", ".join(f"{name} {value:{form}}{unit}" for name, value in zip(names, steady, strict=True))
