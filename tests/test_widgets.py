"""What notebooks show while they work, without a browser: plan, course of a run, ablation panel."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clrkit import widgets
from clrkit.ablation import ablation
from clrkit.frames import network_name
from clrkit.materialise import finish, materialise
from clrkit.pictures import Picture
from clrkit.presets import preset
from clrkit.runs import Store
from clrkit.widgets import AblationPanel, Interrupted, follow, name_of, plan

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

    monkeypatch.setattr(widgets, "display", display)
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
def test_a_run_is_named_by_what_sets_it_apart(config: Any, name: str) -> None:
    assert name_of(config) == name


def test_a_plan_says_what_is_there_and_what_will_be_trained(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    other = SMOKE.resolve("supervised", fraction=0.1, epochs=6)
    plan([SHORT], store)
    finish(materialise(SHORT, store))
    work = materialise(other, store)
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
        "partial 10%, will go on, about N s",
        "about N s",
    ]


def test_following_a_run_ends_with_the_picture_that_a_cached_run_shows(
    store: Store, displays: list[Handle]
) -> None:
    run = follow(SHORT, store)
    again = follow(SHORT, store)
    first, second = displays
    assert run.folder == again.folder == store.path(SHORT)
    assert "beginning" in texts(first)[0]
    assert texts(first)[-1] == texts(second)[-1]
    assert f"accuracy {run.metrics['top1']:.1%}" in texts(first)[-1]


def test_an_interrupted_run_is_one_line_and_goes_on(
    store: Store, displays: list[Handle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widgets, "REDRAW_SECONDS", 0)
    monkeypatch.setattr(Handle, "update", lambda self, picture: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        Interrupted, match=r"^Stopped, supervised .*; run this cell again and it goes on"
    ) as caught:
        follow(SHORT, store)
    assert caught.value._render_traceback_() == [str(caught.value)]
    assert signal.getsignal(signal.SIGINT) is before
    assert store.state(SHORT)[0] == "partial"
    monkeypatch.undo()
    finish(materialise(SHORT, store))
    assert store.state(SHORT)[0] == "cached"


@pytest.fixture
def panel(store: Store) -> Iterator[AblationPanel]:
    panel = AblationPanel(ablation(SMOKE, store))
    yield panel
    panel.stopping.set()
    join(panel)


def join(panel: AblationPanel) -> None:
    """Wait for the panel's thread, if it has one."""
    thread = panel.thread
    if thread is not None:
        thread.join(60)
        assert not thread.is_alive()


def test_a_slider_stops_at_the_values_there_are_and_redraws(panel: AblationPanel) -> None:
    slider = panel.sliders["fraction"]
    assert [value for _, value in slider.options] == [0.01, 0.1]
    before = panel.image.value
    slider.value = 0.1
    assert panel.image.value != before
    assert panel.sliders["tap_layer"].disabled
    panel.along.value = "fraction"
    assert not panel.sliders["tap_layer"].disabled


def test_run_makes_the_missing_runs_and_says_when_it_is_done(panel: AblationPanel, store: Store) -> None:
    assert panel.run.description.startswith("Run the missing 2")
    before = panel.image.value
    panel.run.click()
    panel.run.click()  # a second click changes nothing
    join(panel)
    assert panel.status.value == "Done."
    assert {run.record["stage"] for run in store.all()} == {"pretrain", "finetune"}
    assert len(store.all()) == 3
    assert (panel.run.description, panel.run.disabled, panel.stop.disabled) == (
        "Nothing is missing",
        True,
        True,
    )
    assert panel.image.value != before


def test_stop_leaves_a_partial_run(
    panel: AblationPanel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    monkeypatch.setattr(panel, "show", lambda *told: (begun.set(), panel.stop.click()))
    panel.run.click()
    assert begun.wait(60)
    join(panel)
    assert panel.status.value == "Stopped; Run goes on from there."
    assert store.state(SMOKE.pretrain)[0] == "partial"
    assert not panel.run.disabled


def test_an_error_in_the_thread_is_shown(panel: AblationPanel, store: Store) -> None:
    store.results.joinpath("smoke").write_text("a file where a folder should be")
    panel.run.click()
    join(panel)
    assert "cannot be written" in panel.status.value
    assert not panel.run.disabled
