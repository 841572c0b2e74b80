"""Runs and times in words."""

from __future__ import annotations

import math

import pytest

from clrkit.config import Finetune
from clrkit.experiments.describe import aligned, describe, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7.2, "8 s"),
        (89, "89 s"),
        (240, "4 min"),
        (9000, "2.5 h"),
        (None, "unknown time"),
        (math.nan, "unknown time"),
    ],
)
def test_a_time_has_the_precision_that_a_reader_wants(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_is_named_by_its_stage_labels_layer_and_seed() -> None:
    assert describe(Finetune(fraction=0.01, seed=3)) == "finetune fraction 0.01 tap_layer 1 seed 3"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]
