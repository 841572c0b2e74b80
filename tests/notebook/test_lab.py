"""The ablation panel without a browser: its controls, its figure, and the thread that trains."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as w
import pytest
import synthetic

from clrkit.config import Stage
from clrkit.experiments.ablation_settings import FACTORS, depends, run_at
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.notebook import ablation_figures, progress
from clrkit.notebook import lab as module
from clrkit.notebook.lab import TURN, AblationPanel
from clrkit.results.ablation import Ablation, Series, ablation
from clrkit.runs.run import run_or_load
from clrkit.runs.store import Progress, Store, working_folder

SMOKE = preset("smoke")
SMOKE = replace(SMOKE, distill=with_fields(SMOKE.distill, {"teacher.pretrain.monitor_epochs": 1}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "results/reference").mkdir(parents=True)  # else the checkout's is the reference
    return Store(tmp_path / "results", "smoke")


@pytest.fixture
def panel(store: Store) -> Iterator[AblationPanel]:
    panel = AblationPanel(ablation(SMOKE, store))
    yield panel
    panel.training.stopping.set()
    join(panel)


def join(panel: AblationPanel) -> None:
    """Wait for the panel's thread, if it has one."""
    if thread := panel.training.thread:
        thread.join(60)
        assert not thread.is_alive()


def standard(seed: int = 0) -> Stage:
    config = run_at(SMOKE, "finetuned", {}, seed)
    assert config is not None
    return config


def test_every_setting_has_a_slider_over_its_recorded_values(panel: AblationPanel) -> None:
    sliders = panel.columns[0].sliders
    assert list(sliders) == list(FACTORS)
    assert [value for _, value in sliders["fraction"].options] == [0.01, 0.1]
    before = panel.figure.value
    sliders["fraction"].value = 0.1
    assert panel.figure.value != before


@pytest.mark.parametrize("outcome", ["linear", "finetuned", "distilled"])
def test_sliders_without_effect_are_disabled_and_the_note_explains_why(
    panel: AblationPanel, outcome: str
) -> None:
    panel.outcome.value = outcome
    along = panel.along.value
    for column in panel.columns:
        for name, slider in column.sliders.items():
            assert slider.disabled == (name == along or not depends(outcome, name))
            assert not slider.disabled or FACTORS[name].name in column.note.value


def test_the_horizontal_axis_offers_the_settings_that_the_outcome_depends_on(panel: AblationPanel) -> None:
    panel.outcome.value = "linear"  # does not depend on the start layer
    assert panel.along.value == "temperature"
    assert "fraction" not in dict(panel.along.options).values()
    panel.outcome.value = "distilled"
    assert [name for _, name in panel.along.options] == list(FACTORS)
    assert panel.along.value == "temperature"


def test_a_second_point_is_drawn_beside_the_first_and_its_missing_runs_are_offered(
    panel: AblationPanel,
) -> None:
    _, other = panel.columns
    assert other.box.layout.display == "none"
    assert panel.training.run.description.startswith("Run the missing 2")
    panel.both.value = True
    assert other.box.layout.display != "none"
    assert panel.training.run.description.startswith("Run the missing 2,")  # the same runs
    other.sliders["fraction"].value = 0.1
    assert panel.training.run.description.startswith("Run the missing 4")
    assert "A: label fraction 1%" in panel.findings.value
    assert "B: label fraction 10%" in panel.findings.value


def test_published_numbers_have_their_own_picture(panel: AblationPanel) -> None:
    assert panel.published.value == ""  # for the start layer only a sentence is published
    assert "SimCLRv2, Fig. 5, as recalled" in panel.findings.value
    panel.along.value = "temperature"
    assert 'alt="As published, ImageNet: temperature' in panel.published.value
    assert "As published" not in panel.figure.value


@pytest.mark.slow
def test_run_trains_the_missing_runs_and_reports_when_it_is_done(
    panel: AblationPanel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    watched: list[int] = []
    monkeypatch.setattr(panel.training, "show", lambda course, progress: watched.append(len(course.knn)))
    before = panel.figure.value
    panel.training.run.click()
    panel.training.run.click()  # a second click changes nothing
    join(panel)
    assert "Done." in panel.training.status.value
    assert sorted(run.record["stage"] for run in store.all()) == ["finetune", "finetune", "pretrain"]
    buttons = (panel.training.run.description, panel.training.run.disabled, panel.training.stop.disabled)
    assert buttons == ("Nothing is missing", True, True)
    assert panel.figure.value != before
    assert max(watched) > 0


def test_stop_leaves_a_partial_run(
    panel: AblationPanel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel.training, "show", lambda *_: panel.training.stop.click())
    panel.training.run.click()
    join(panel)
    assert "Stopped. Press Run to resume from here." in panel.training.status.value
    assert store.state(SMOKE.pretrain)[0] == "partial"
    assert not panel.training.run.disabled


def test_the_end_of_the_kernel_waits_until_the_state_is_saved(
    panel: AblationPanel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    monkeypatch.setattr(panel.training, "show", lambda *_: begun.set())
    panel.training.run.click()
    assert begun.wait(60)
    module.end_all()
    assert store.state(SMOKE.pretrain)[0] == "partial"
    assert panel.training.thread is None


@pytest.mark.slow
def test_two_panels_take_turns(panel: AblationPanel, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other, said, lock = AblationPanel(ablation(SMOKE, store)), threading.Event(), threading.Lock()
    other.training.status.observe(
        lambda change: said.set() if "Another panel" in change["new"] else None, "value"
    )

    def alone(config: Stage, store: Store) -> Iterator[Progress]:
        assert lock.acquire(blocking=False)
        try:
            yield from run_or_load(config, store)
        finally:
            lock.release()

    monkeypatch.setattr(module, "run_or_load", alone)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    begun = threading.Event()
    monkeypatch.setattr(panel.training, "show", lambda *_: (begun.set(), said.wait(60)))
    panel.training.run.click()
    assert begun.wait(60)
    other.training.run.click()
    for each in (panel, other):
        join(each)
        assert "Done." in each.training.status.value
    assert said.is_set()
    assert len(store.all()) == 3


def test_a_panel_that_waits_for_another_can_be_stopped(panel: AblationPanel) -> None:
    said = threading.Event()
    panel.training.status.observe(
        lambda change: said.set() if "Another panel" in change["new"] else None, "value"
    )
    with TURN:
        panel.training.run.click()
        assert said.wait(60)
        panel.training.stop.click()
        join(panel)
    assert "Stopped" in panel.training.status.value


def test_a_panel_that_is_closed_is_released(store: Store) -> None:
    closed = weakref.ref(AblationPanel(ablation(SMOKE, store)).training)
    w.Widget.close_all()
    gc.collect()
    assert closed() is None


def test_a_damaged_record_is_left_out_and_reported_and_the_panel_still_works(store: Store) -> None:
    folder = synthetic.put(store, standard(), lambda stage: 50.0)
    (folder / "record.json").write_text("{}")
    panel = AblationPanel(ablation(SMOKE, store))
    before = panel.figure.value
    panel.columns[0].sliders["fraction"].value = 0.1
    assert panel.figure.value != before
    assert f"{folder.name}/record.json was changed" in panel.warning.value
    assert "see: python -m clrkit check" in panel.warning.value


def test_an_unreadable_file_is_reported_and_training_still_ends(
    panel: AblationPanel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made in (SMOKE.pretrain, with_fields(standard(), {"tap_layer": 0})):
        synthetic.put(store, made)  # of a kind whose time is known, as the note is read for what is left
    folder = store.path(standard()).with_suffix(".partial")
    folder.mkdir()
    (folder / "progress.json").write_text("{")
    panel.redraw()
    assert "progress.json cannot be read; delete it." in panel.warning.value
    at_end: list[tuple[bool, str]] = []
    training = panel.training
    monkeypatch.setattr(training, "train", lambda configs: False)
    monkeypatch.setattr(
        training, "redraw", lambda: at_end.append((training.stop.disabled, training.status.value))
    )
    training.run.click()
    join(panel)
    assert at_end == [(True, "Stopped. Press Run to resume from here.")]
    assert not training.run.disabled


def test_an_unreadable_folder_is_reported_and_the_panel_still_works(
    panel: AblationPanel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Store) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(store.runs))

    with monkeypatch.context() as patched:
        patched.setattr(Store, "folders", refused)
        panel.columns[0].sliders["fraction"].value = 0.1
        assert "Permission denied" in panel.warning.value
    before = panel.figure.value
    panel.columns[0].sliders["fraction"].value = 0.01
    assert "Permission denied" not in panel.warning.value
    panel.along.value = "temperature"
    assert panel.figure.value != before


def test_an_unexpected_error_is_shown_above_the_figure_and_raised(
    panel: AblationPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "compare", lambda *_: {}["figure"])
    with pytest.raises(KeyError):
        panel.redraw()
    assert "KeyError: " in panel.warning.value
    assert "The figure does not show these settings." in panel.warning.value


@pytest.mark.slow
def test_the_panel_waits_for_a_run_in_another_process_and_reports_it(
    panel: AblationPanel, store: Store
) -> None:
    said = threading.Event()
    panel.training.status.observe(
        lambda change: said.set() if "in training by another process" in change["new"] else None, "value"
    )
    with working_folder(store.path(SMOKE.pretrain)):
        panel.training.run.click()
        assert said.wait(60)
        panel.training.stop.click()
        join(panel)


def test_an_error_in_the_thread_is_shown(panel: AblationPanel, store: Store) -> None:
    store.results.joinpath("smoke").write_text("a file where a folder should be")
    panel.training.run.click()
    join(panel)
    assert "cannot be written" in panel.training.status.value
    assert not panel.training.run.disabled


def test_a_redraw_reads_every_series_once_and_published_numbers_once_in_all(
    panel: AblationPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel.along.value = "temperature"
    asked: list[str] = []
    series = Ablation.series

    def noting(lab: Ablation, outcome: str, along: str, **held: Any) -> Series:
        asked.append(along)
        return series(lab, outcome, along, **held)

    def refuse(setting: str) -> Any:
        raise AssertionError(f"what was published about {setting} is read again")

    monkeypatch.setattr(Ablation, "series", noting)
    monkeypatch.setattr(ablation_figures, "finding", refuse)
    panel.columns[0].sliders["fraction"].value = 0.1
    assert asked == ["temperature"]
    assert "published" in panel.findings.value
    panel.both.value = True
    assert asked == ["temperature"] * 3


@pytest.mark.slow
def test_the_figure_is_drawn_once_after_every_run(
    panel: AblationPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[int] = []
    monkeypatch.setattr(
        panel.training, "redraw", lambda: finished.append(len(panel.training.store.folders()))
    )
    panel.training.run.click()
    join(panel)
    assert finished == [1, 2, 3]


def test_new_runs_are_found_at_the_next_redraw(panel: AblationPanel, store: Store) -> None:
    synthetic.put(store, standard(), lambda stage: 50.0)
    panel.redraw()
    assert "1 50.0%" in panel.figure.value
    assert panel.training.run.description.startswith("Run the missing 1")
