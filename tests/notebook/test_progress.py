"""What notebooks show while they work: the plan, and the course of a run."""

from __future__ import annotations

import math
import re
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.notebook import progress
from clrkit.notebook.illustrations import Picture
from clrkit.notebook.progress import Course, Interrupted, describe_progress, follow, name_of, plan
from clrkit.results.records import network_name
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.store import Progress, Store

SMOKE = preset("smoke")
NETWORK = network_name(asdict(SMOKE.pretrain.network))
SHORT = SMOKE.resolve("supervised", fraction=0.1, epochs=3)


class Handle:
    """Stands for a display: keeps what it showed; `hook` is called with every update."""

    def __init__(self, shown: Picture) -> None:
        self.shown, self.hook = [shown], lambda: None

    def update(self, picture: Picture) -> None:
        self.shown.append(picture)
        self.hook()


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch) -> list[Handle]:
    made: list[Handle] = []

    def display(picture: Picture, display_id: bool) -> Handle:
        made.append(Handle(picture))
        return made[-1]

    monkeypatch.setattr(progress, "display", display)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "results/reference").mkdir(parents=True)  # else the checkout's is the reference
    return Store(tmp_path / "results", "smoke")


def texts(display: Handle) -> list[str]:
    return [picture.alt for picture in display.shown]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (SMOKE.pretrain, f"pretrain {NETWORK}, 3-layer head, seed 0"),
        (SMOKE.probe, f"probe {NETWORK}, seed 0"),
        (SMOKE.finetune, f"finetune {NETWORK}, from layer 1 of 3, 1% of the labels, seed 0"),
        (SMOKE.distill, f"distill {NETWORK}, taught by {NETWORK}, 1% of the labels, seed 0"),
        (SHORT, f"supervised {NETWORK}, 10% of the labels, seed 0"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_name_of_a_run_has_its_distinguishing_settings(config: Any, name: str) -> None:
    assert name_of(config) == name


def test_a_plan_lists_cached_partial_and_missing_runs(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    other = SMOKE.resolve("supervised", fraction=0.1, epochs=6)
    plan([SHORT], store)
    finish(run_or_load(SHORT, store))
    work = run_or_load(other, store)
    for _ in range(6):
        next(work)
    work.close()
    plan([SHORT, other], store)
    # (How long depends on the reference's times.)
    states = [
        re.sub(r"about \d+ s", "about N s", line.split("seed 0  ")[-1].split("together")[-1].strip())
        for line in capsys.readouterr().out.splitlines()
    ]
    assert states == [
        "will train, time not known yet",
        "time not known yet",
        "cached",
        "partial 10%, will resume, about N s",
        "about N s",
    ]


def test_following_a_run_ends_with_the_picture_that_a_cached_run_shows(
    store: Store, displays: list[Handle]
) -> None:
    run = follow(SHORT, store)
    again = follow(SHORT, store)
    first, second = displays
    assert run.folder == again.folder == store.path(SHORT)
    assert "starting" in texts(first)[0]
    assert texts(first)[-1] == texts(second)[-1]
    assert f"accuracy {run.metrics['top1']:.1%}" in texts(first)[-1]


def test_an_interrupted_run_is_reported_in_one_line_and_can_be_resumed(
    store: Store, displays: list[Handle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0)
    monkeypatch.setattr(Handle, "update", lambda self, picture: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        Interrupted, match=r"^Stopped, supervised .*\. Run this cell again to resume"
    ) as caught:
        follow(SHORT, store)
    assert caught.value._render_traceback_() == [str(caught.value)]
    assert signal.getsignal(signal.SIGINT) is before
    assert store.state(SHORT)[0] == "partial"
    monkeypatch.undo()
    finish(run_or_load(SHORT, store))
    assert store.state(SHORT)[0] == "cached"


def test_a_course_starts_again_with_another_run_and_keeps_what_was_monitored() -> None:
    course = Course(SHORT)
    config = with_fields(SMOKE.pretrain, {"epochs": 4, "monitor_epochs": 2})
    at_first, at_last = {"knn": 0.5}, {"knn": 0.5}  # the last step is kept although it is equal
    for step, loss, metrics in ((1, 3.0, {}), (4, 3.0, at_first), (5, 2.0, at_first), (8, 2.0, at_last)):
        course.note(Progress(config, step, 8, loss, 1.0, 1.0, metrics))
    assert (course.steps, course.loss, course.knn) == ([1, 5], [3.0, 2.0], [[4, 0.5], [8, 0.5]])
    course.note(Progress(SHORT, 1, 9, 1.0, 1.0, 1.0, {}))
    assert (course.config, course.loss, course.knn) == (SHORT, [1.0], [])


def test_a_resumed_course_has_the_step_of_the_last_monitoring() -> None:
    course, config = Course(SMOKE.pretrain), with_fields(SMOKE.pretrain, {"epochs": 4, "monitor_epochs": 2})
    course.note(Progress(config, 7, 8, 2.0, 1.0, 1.0, {"knn": 0.5}))
    assert course.knn == [[4, 0.5]]


def test_a_course_always_has_the_random_weights_and_the_last_step() -> None:
    course, config = Course(SMOKE.pretrain), with_fields(SMOKE.pretrain, {"epochs": 4, "monitor_epochs": 3})
    for step, knn in ((1, 0.1), (6, 0.4), (7, 0.4), (8, 0.5)):
        course.note(Progress(config, step, 8, 2.0, 1.0, 1.0, {"knn": knn}))
    assert course.knn == [[0, 0.1], [6, 0.4], [8, 0.5]]


def test_an_unknown_loss_is_not_a_point_of_the_course() -> None:
    course = Course(SHORT)
    for step in (1, 2, 3):
        course.note(Progress(SHORT, step, 4, math.nan, 0.0, math.nan, {}, elsewhere=True))
    assert (course.steps, course.loss) == ([], [])


def test_a_run_in_another_process_is_reported() -> None:
    progress = Progress(SHORT, 1, 4, math.nan, 0.0, math.nan, {}, elsewhere=True)
    assert describe_progress(progress).endswith("seed 0: 25%, in training by another process; waiting for it")
