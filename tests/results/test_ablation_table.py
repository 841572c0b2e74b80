"""The table of the lab's grid, from runs that never were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import synthetic

from clrkit.config import Stage
from clrkit.experiments import ablation_settings
from clrkit.experiments.presets import preset
from clrkit.results.ablation_table import ablation_runs_found, ablation_table, in_words
from clrkit.runs.store import Run, Store

SMOKE = preset("smoke")


def warmer_is_worse(stage: Stage) -> float:
    """Accuracy (%) by temperature, ten points less for a probe."""
    return 90 - 100 * stage.chain[0].temperature - 10 * (stage.name == "probe")  # type: ignore[attr-defined]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results", "smoke")
    (tmp_path / "results" / "reference").mkdir(parents=True)
    for run in ablation_settings.ablation_runs(SMOKE):
        synthetic.put(made, run, warmer_is_worse)
    return made


def test_a_row_tells_what_was_measured_at_each_value_of_a_setting(store: Store) -> None:
    table = ablation_table(SMOKE, ablation_runs_found(SMOKE, store))
    assert table is not None
    assert table.rows == [
        ["temperature", "linear probe", "at 0.2 60.0 (1 seed); at 0.5 30.0 (1 seed)"],
        ["temperature", "fine-tuned", "at 0.2 70.0 (1 seed); at 0.5 40.0 (1 seed)"],
    ]


def test_own_runs_come_before_those_of_the_reference_one_by_one_and_it_is_named(store: Store) -> None:
    own = ablation_table(SMOKE, ablation_runs_found(SMOKE, store))
    for run in ablation_settings.ablation_runs(SMOKE):
        synthetic.put(store.reference, run, lambda stage: 50.0)
    assert ablation_table(SMOKE, ablation_runs_found(SMOKE, store)) == own
    gone = store.path(next(run for run in ablation_settings.ablation_runs(SMOKE) if run.name == "probe"))
    shutil.rmtree(gone)
    mixed = ablation_table(SMOKE, ablation_runs_found(SMOKE, store))
    assert own is not None
    assert mixed is not None
    assert [row[2] for row in mixed.rows] == ["at 0.2 50.0 (1 seed); at 0.5 30.0 (1 seed)", own.rows[1][2]]
    assert mixed.remark == f"{own.remark} Own runs, and where there is none the committed reference's."
    shutil.rmtree(store.runs)
    reference = ablation_table(SMOKE, ablation_runs_found(SMOKE, store))
    assert reference is not None
    assert reference.remark == f"{own.remark} From the committed reference."


def test_a_mean_over_one_seed_is_told_from_one_with_an_error() -> None:
    config = ablation_settings.ablation_runs(SMOKE)[0]
    run = Run(Path("there"), synthetic.record(config, warmer_is_worse))
    assert in_words("temperature", [(0.2, run)]).endswith("(1 seed)")
    assert in_words("temperature", [(0.2, run), (0.2, run)]).endswith("± 0.0")


def test_a_setting_with_one_value_recorded_has_no_row(store: Store) -> None:
    few = {run: found for run, found in ablation_runs_found(SMOKE, store).items() if run.name == "finetune"}
    table = ablation_table(SMOKE, few)
    assert table is not None
    assert [row[1] for row in table.rows] == ["fine-tuned"]
    assert ablation_table(SMOKE, dict([few.popitem()])) is None
