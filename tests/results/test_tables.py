"""Tables from records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import synthetic

from clrkit.config import Stage
from clrkit.experiments import ablation_settings
from clrkit.experiments.presets import preset
from clrkit.results import tables
from clrkit.results.ablation import ablation_runs_found
from clrkit.results.tables import ablation_table, values_in_words
from clrkit.results.text import Table
from clrkit.runs.store import Run, Store

SMOKE = preset("smoke")


def cell(table: Table, row: str, column: str) -> str:
    line = next(line for line in table.rows if line[0] == row)
    return line[list(table.columns).index(column)]


def test_the_accuracy_table_has_mean_and_standard_error() -> None:
    level = {0: 50.0, 1: 53.0, 2: 59.0}
    table = tables.accuracy_table(synthetic.runs(lambda stage: level[stage.seed]))
    assert cell(table, "R8 1x", "fine-tuned, 1%") == "54.0 ± 2.6"
    assert cell(table, "R8 1x", "parameters") == "78k"
    assert "1% 40, 10% 400, all labels 4,000" in table.remark


def test_one_seed_is_shown_without_an_error() -> None:
    table = tables.accuracy_table(synthetic.runs(lambda stage: 50.0, seeds=[0]))
    assert cell(table, "R8 2x", "supervised, all labels") == "50.0"


def test_the_distillation_table_has_the_four_rows_of_the_paper() -> None:
    table = tables.distillation_table(synthetic.runs())
    assert [row[0] for row in table.rows] == [
        "labels only",
        "labels + distillation on the labelled images",
        "labels + distillation on all images",
        "distillation on all images",
    ]
    assert table.columns[1:] == ["1% labelled", "10% labelled"]


def test_the_head_table_leaves_layers_a_head_does_not_have_open() -> None:
    table = tables.head_table(synthetic.runs())
    shallow = next(row for row in table.rows if row[:2] == ["1%", "2"])
    assert shallow[-1] == "-"


def test_own_and_published_numbers_have_columns_of_their_own() -> None:
    table = tables.published_table(synthetic.runs())
    owners = [column.split(":")[0] for column in table.columns[1:]]
    assert owners == ["own", "own", "published", "published"]
    assert cell(table, "fine-tuned, 1%", "published: ImageNet, R50 1x") == "57.9"
    assert cell(table, "distilled into it, 10%", "published: ImageNet, R50 1x") == "77.5"
    assert cell(table, "supervised, 1%", "published: ImageNet, R50 1x") == "-"


def test_cost_is_summed_by_stage() -> None:
    runs = synthetic.runs(seeds=[0])
    table = tables.cost_table(runs)
    assert cell(table, "probe", "runs") == "8"
    assert cell(table, "probe", "time") == "1.7 min"
    assert cell(table, "probe", "peak memory") == "512 MB"
    assert cell(table, "total", "runs") == str(len(runs))


def test_tables_without_their_runs_are_named() -> None:
    runs = synthetic.runs()
    found, missing = tables.all_tables(runs[runs["stage"] != "distill"])
    assert set(missing) == {"distillation_table"}
    assert {table.name for table in found} == {"accuracy", "head", "published", "cost"}


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
    assert values_in_words("temperature", [(0.2, run)]).endswith("(1 seed)")
    assert values_in_words("temperature", [(0.2, run), (0.2, run)]).endswith("± 0.0")


def test_a_setting_with_one_value_recorded_has_no_row(store: Store) -> None:
    few = {run: found for run, found in ablation_runs_found(SMOKE, store).items() if run.name == "finetune"}
    table = ablation_table(SMOKE, few)
    assert table is not None
    assert [row[1] for row in table.rows] == ["fine-tuned"]
    assert ablation_table(SMOKE, dict([few.popitem()])) is None
