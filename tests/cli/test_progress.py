"""The line that the command line shows of a run under way."""

from __future__ import annotations

import math

import pytest

from clrkit.cli.progress import ProgressLine
from clrkit.experiments.presets import preset
from clrkit.runs.store import Progress


def line_of(capsys: pytest.CaptureFixture[str], loss: float, **metrics: float) -> str:
    ProgressLine().run(Progress(preset("smoke").pretrain, 1, 4, loss, 200.0, 30.0, metrics))
    return capsys.readouterr().err.strip()


def test_a_run_s_line_has_no_loss_before_the_first_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    early = line_of(capsys, math.nan, knn=0.25)
    assert early == "pretrain seed 0: 25%, knn 0.250, 200 images/s, 30 s left"
    assert line_of(capsys, 2.5) == "pretrain seed 0: 25%, loss 2.500, 200 images/s, 30 s left"
