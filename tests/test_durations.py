"""Expected times: the median of like runs, own and of the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic

from clrkit.durations import seconds_expected, seconds_per_epoch
from clrkit.presets import preset
from clrkit.runs import Store, write_run_sums

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
        timed(store if seed else store.reference, seed, seconds * epochs)
    timed(store, 0, 1000, width=1)
    timed(store, 0, 1000, fraction=1)
    known = seconds_per_epoch(store)
    assert seconds_expected(SMOKE.resolve("finetune", seed=7, epochs=10), known) == pytest.approx(20)
    assert seconds_expected(SMOKE.resolve("finetune", temperature=0.7), known) == pytest.approx(2 * epochs)
    assert seconds_expected(SMOKE.pretrain, known) is None


def test_a_damaged_run_tells_nothing(store: Store) -> None:
    kept, damaged = timed(store, 0, 3.0), timed(store, 1, 99.0)
    (damaged / "record.json").write_text((kept / "record.json").read_text())
    assert seconds_expected(SMOKE.finetune, seconds_per_epoch(store)) == pytest.approx(3.0)
