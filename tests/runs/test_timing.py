"""Expected times: the median of like runs, own, finished or not, before the reference's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic

from clrkit.config import Stage
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.runs.store import Store, progress_file, write_run_sums
from clrkit.runs.timing import seconds_expected, seconds_per_epoch, share_done

SMOKE = preset("smoke")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "reference").mkdir()  # else the checkout's is the reference
    return Store(tmp_path, "smoke")


def timed(store: Store, seed: int, seconds: float, **settings: object) -> Path:
    """A run that took so long."""
    folder = synthetic.put(store, SMOKE.resolve("finetune", seed=seed, **settings), lambda stage: 50.0)
    record = json.loads((folder / "record.json").read_text())
    record["provenance"]["seconds"] = seconds
    (folder / "record.json").write_text(json.dumps(record))
    write_run_sums(folder)
    return folder


def test_a_run_takes_as_long_an_epoch_as_the_median_of_its_kind(store: Store) -> None:
    epochs = SMOKE.finetune.epochs
    for seed, seconds in enumerate((1.0, 2.0, 9.0)):
        timed(store, seed, seconds * epochs)
    timed(store, 0, 1000, width=1)
    timed(store, 0, 1000, fraction=1)
    known = seconds_per_epoch(store, [])
    assert seconds_expected(SMOKE.resolve("finetune", seed=7, epochs=10), known) == pytest.approx(20)
    assert seconds_expected(SMOKE.resolve("finetune", temperature=0.7), known) == pytest.approx(2 * epochs)
    assert seconds_expected(SMOKE.pretrain, known) is None


def test_the_batch_size_counts_and_the_nearest_that_was_timed_stands_in_for_another(store: Store) -> None:
    epochs = SMOKE.finetune.epochs
    for batch, seconds in ((10, 8.0), (40, 2.0)):
        timed(store, 0, seconds * epochs, batch_size=batch)
    known = seconds_per_epoch(store, [])
    for batch, seconds in ((10, 8.0), (40, 2.0), (4, 8.0), (15, 8.0), (30, 2.0), (400, 2.0)):
        assert seconds_expected(SMOKE.resolve("finetune", batch_size=batch), known) == seconds * epochs


@pytest.mark.parametrize(
    "settings", [{"image_size": 16}, {"precision": "bfloat16"}, {"micro_batch": 5}, {"dataset": "cifar10"}]
)
def test_runs_of_other_images_or_arithmetic_tell_nothing(store: Store, settings: dict[str, object]) -> None:
    timed(store, 0, 3.0)
    assert seconds_expected(SMOKE.resolve("finetune", **settings), seconds_per_epoch(store, [])) is None


def test_runs_on_the_device_of_the_last_one_count_alone(store: Store) -> None:
    epochs = SMOKE.finetune.epochs
    folders = [timed(store, seed, seconds * epochs) for seed, seconds in enumerate((50.0, 60.0, 1.0))]
    record = json.loads((folders[-1] / "record.json").read_text())
    record["provenance"]["device"] = "GPU"
    (folders[-1] / "record.json").write_text(json.dumps(record))
    write_run_sums(folders[-1])
    assert seconds_expected(SMOKE.finetune, seconds_per_epoch(store, [])) == epochs


def test_a_damaged_run_tells_nothing(store: Store) -> None:
    kept, damaged = timed(store, 0, 3.0), timed(store, 1, 99.0)
    (damaged / "record.json").write_text((kept / "record.json").read_text())
    assert seconds_expected(SMOKE.finetune, seconds_per_epoch(store, [])) == pytest.approx(3.0)


def noted(store: Store, stage: Stage, note: object) -> None:
    """What an unfinished run has noted of its progress."""
    file = progress_file(store.path(stage))
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(note))


def test_an_unfinished_run_tells_its_pace(store: Store) -> None:
    stage = SMOKE.resolve("pretrain", epochs=100)
    noted(store, stage, {"step": 50, "total": 1000, "seconds": 20.0})
    assert seconds_expected(stage, seconds_per_epoch(store, [stage])) == pytest.approx(400)
    assert seconds_expected(SMOKE.pretrain, seconds_per_epoch(store, [stage])) == pytest.approx(4)
    assert seconds_expected(stage, seconds_per_epoch(store, [])) is None


@pytest.mark.parametrize(
    "note", [{"step": 3, "total": 8}, {"step": 0, "total": 8, "seconds": 9.0}, "half", {"seconds": 1.0}]
)
def test_a_note_without_a_pace_tells_nothing(store: Store, note: object) -> None:
    noted(store, SMOKE.pretrain, note)
    assert seconds_per_epoch(store, [SMOKE.pretrain]) == {}


def test_what_was_timed_here_counts_before_the_reference_which_stands_in_where_nothing_was(
    store: Store,
) -> None:
    epochs = SMOKE.finetune.epochs
    for seed in range(3):
        timed(store.reference, seed, 100.0 * epochs)
    later = SMOKE.resolve("finetune", seed=9)
    assert seconds_expected(later, seconds_per_epoch(store, [later])) == pytest.approx(100 * epochs)
    noted(store, later, {"step": 1, "total": 2, "seconds": 3.0})
    assert seconds_expected(later, seconds_per_epoch(store, [later])) == pytest.approx(6)
    timed(store, 0, 2.0 * epochs)
    assert seconds_expected(SMOKE.finetune, seconds_per_epoch(store, [])) == pytest.approx(2 * epochs)


def test_a_distilled_run_is_timed_by_the_images_it_goes_over_and_by_its_teacher(store: Store) -> None:
    student = SMOKE.resolve("distill", epochs=10)
    noted(store, student, {"step": 1, "total": 2, "seconds": 50.0})
    few = SMOKE.resolve("distill", epochs=1000, transfer="labelled")
    noted(store, few, {"step": 1, "total": 2, "seconds": 5.0})
    known = seconds_per_epoch(store, [student, few])
    assert seconds_expected(student, known) == pytest.approx(100)
    assert seconds_expected(few, known) == pytest.approx(10)
    fraction, teacher = {"teacher.fraction": 0.5}, {"teacher.pretrain.network.width": 0.5}
    assert seconds_expected(with_fields(student, fraction), known) == pytest.approx(100)
    assert seconds_expected(with_fields(few, fraction), known) is None
    assert seconds_expected(with_fields(student, teacher), known) is None


def test_a_memory_takes_time_in_pretraining_alone(store: Store) -> None:
    remembering = SMOKE.resolve("pretrain", memory=True, memory_size=500, epochs=10)
    noted(store, remembering, {"step": 1, "total": 2, "seconds": 50.0})
    known = seconds_per_epoch(store, [remembering])
    assert seconds_expected(remembering, known) == pytest.approx(100)
    assert seconds_expected(SMOKE.pretrain, known) is None
    timed(store, 0, 3.0, memory=True, memory_size=500)
    assert seconds_expected(SMOKE.finetune, seconds_per_epoch(store, [])) == pytest.approx(3)


def test_what_is_done_of_a_run_is_nothing_where_its_note_is_damaged(store: Store) -> None:
    noted(store, SMOKE.pretrain, {"step": 4, "total": 16, "seconds": 1.0})
    assert share_done(store, SMOKE.pretrain) == 0.25
    progress_file(store.path(SMOKE.pretrain)).write_text('{"step": 9, "total": 0}')
    assert share_done(store, SMOKE.pretrain) == 0.0
