import numpy as np
import pytest
import synthetic

from clrkit.results import tables
from clrkit.results.table import Table, decimal, duration


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


@pytest.mark.parametrize(("seconds", "text"), [(8.25, "8.2 s"), (720, "12.0 min"), (12_240, "3.4 h")])
def test_spans_of_time_have_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_mean_is_the_same_text_in_whatever_order_its_runs_were_added_up() -> None:
    assert 37.55 != np.nextafter(37.55, 38) == 37.550000000000004
    assert decimal(37.55) == decimal(37.550000000000004) == "37.5"
    assert (decimal(-0.25, 2), decimal(38.0)) == ("-0.25", "38.0")


def test_a_table_is_markdown_with_pipes_escaped() -> None:
    table = Table("t", "Title", "Remark.", ["a", "b"], [["1|2", "3"]])
    assert table.markdown() == "Remark.\n\n| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n"


def test_a_table_s_texts_are_no_markdown_but_its_strong_column_is_bold() -> None:
    table = Table("t", "Title", "Remark.", ["", "verdict"], [["*a* <b>", "good"]], strong="verdict")
    assert table.markdown().splitlines()[-1] == r"| \*a\* \<b\> | **good** |"


def test_tables_without_their_runs_are_named() -> None:
    runs = synthetic.runs()
    found, missing = tables.all_tables(runs[runs["stage"] != "distill"])
    assert set(missing) == {"distillation_table"}
    assert {table.name for table in found} == {"accuracy", "head", "published", "cost"}
