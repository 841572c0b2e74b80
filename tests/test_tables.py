import numpy as np
import pandas as pd
import pytest
import synthetic

from clrkit import tables
from clrkit.comparison import DIFFERS, NOT_RUN, REPRODUCED, compare, summary_line, tolerance
from clrkit.config import Finetune, Stage
from clrkit.table import Table, decimal, duration


def cell(table: Table, row: str, column: str) -> str:
    line = next(line for line in table.rows if line[0] == row)
    return line[list(table.columns).index(column)]


def worse(stage: Stage) -> float:
    """Fine-tuning the largest network on 1% of the labels, ten points off."""
    hit = isinstance(stage, Finetune) and stage.fraction == 0.01 and stage.pretrain.network.width == 2
    return synthetic.noisy(stage) - 10 * hit


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


def test_the_same_runs_reproduce_the_reference() -> None:
    runs = synthetic.runs()
    compared = compare(runs, runs)
    settings = runs[runs["stage"] != "pretrain"]["setup"].nunique()
    probes = runs[runs["stage"] == "probe"]["setup"].nunique()
    assert len(compared) == settings + probes
    assert set(compared["text"]) == {REPRODUCED}
    assert compared["cell"].is_unique
    assert (
        summary_line(compared) == f"reproduced: all {len(compared)} cells within tolerance of the reference"
    )


def test_a_cell_that_differs_is_named_with_its_numbers() -> None:
    compared = compare(synthetic.runs(worse), synthetic.runs())
    apart = compared[compared["verdict"] == DIFFERS]
    assert list(apart["cell"]) == ["fine-tuned, 1%, R8 2x, from layer 1"]
    assert apart["text"].item().startswith("differs: own 62.")
    assert "most of all fine-tuned, 1%, R8 2x, from layer 1: own 62." in summary_line(compared)


def test_cells_that_were_not_run_are_told_from_those_that_differ() -> None:
    runs = synthetic.runs()
    compared = compare(runs[runs["stage"] != "distill"], runs)
    absent = compared[compared["verdict"] == NOT_RUN]
    assert set(absent["stage"]) == {"distill"}
    assert summary_line(compared).endswith(f"; {len(absent)} cells not run")
    assert summary_line(compared).startswith("reproduced: ")


def test_nothing_run_is_nothing_compared() -> None:
    reference = synthetic.runs()
    assert summary_line(compare(reference.iloc[:0], reference)).startswith("not compared: none of")


def test_other_images_are_no_reproduction() -> None:
    runs = synthetic.runs()
    compared = compare(runs.assign(fingerprint="other"), runs)
    assert set(compared["text"]) == {"differs: other images"}


def test_the_tolerance_is_three_standard_errors_of_the_difference() -> None:
    assert tolerance(2.0, own=3, reference=3, accuracy=50.0, images=10_000) == pytest.approx(
        3 * 2 * (2 / 3) ** 0.5
    )


def test_the_tolerance_is_no_finer_than_the_test_set() -> None:
    assert tolerance(0.0, own=3, reference=3, accuracy=50.0, images=1000) == pytest.approx(1.58, abs=0.01)
    assert tolerance(0.0, own=3, reference=3, accuracy=100.0, images=1000) > 0


def test_with_one_seed_the_test_set_gives_the_tolerance() -> None:
    expected = 3 * 100 * (0.25 / 1000) ** 0.5 * 2**0.5
    assert tolerance(float("nan"), 1, 1, accuracy=50.0, images=1000) == pytest.approx(expected)


def test_the_spread_is_pooled_over_like_cells() -> None:
    spread = {0.5: 0.0, 1.0: 3.0, 2.0: 6.0}

    def accuracy(stage: Stage) -> float:
        width = stage.chain[0].network.width  # type: ignore[attr-defined]
        return 50 + (stage.seed - 1) * spread[width]  # standard deviation over seeds 0, 1, 2: the spread

    runs = synthetic.runs(accuracy)
    runs = runs[(runs["stage"] == "supervised") & (runs["fraction"] == 0.01)]
    pooled = ((0 + 9 + 36) / 3) ** 0.5
    assert compare(runs, runs)["tolerance"].tolist() == pytest.approx([3 * pooled * (2 / 3) ** 0.5] * 3)


def test_runs_on_one_pretraining_are_one_repetition_of_it() -> None:
    advantage = {0: 0.0, 1: 3.0, 2: 6.0}
    own = synthetic.runs(lambda stage: 50.0 + advantage[stage.seed])
    tuned = own["stage"].isin(["finetune", "supervised"])
    own, reference = own[tuned].assign(pretrain_seed=lambda runs: runs["seed"]), own[tuned]
    shared = own.assign(pretrain_seed=own["pretrain_seed"].where(own["stage"] == "supervised", 0))
    whole, part = compare(own, reference), compare(shared, reference)
    alone = whole["stage"] == "supervised"
    assert set(whole["own_seeds"]) == set(part.loc[alone, "own_seeds"]) == {3}
    assert set(part.loc[~alone, "own_seeds"]) == {1}
    assert set(part["reference_seeds"]) == {3}
    wider = part["tolerance"] / whole["tolerance"]
    assert wider[alone].tolist() == pytest.approx([1.0] * alone.sum())
    assert wider[~alone].tolist() == pytest.approx([2**0.5] * (~alone).sum())  # sqrt((1 + 1/3) / (2/3))
    assert part["own"].tolist() == pytest.approx(whole["own"].tolist())


def test_every_seed_of_labels_on_every_pretraining_counts_pretrainings() -> None:
    runs = synthetic.runs()
    runs = runs[runs["stage"] == "finetune"]
    crossed = pd.concat([runs.assign(seed=seed, top1=runs["top1"] + seed) for seed in (0, 1, 2)])
    compared = compare(crossed, runs)
    assert set(compared["own_seeds"]) == set(compared["reference_seeds"]) == {3}
    assert compared["own"].tolist() == pytest.approx([mean + 1 for mean in compared["reference"]])
    assert compared["tolerance"].tolist() == pytest.approx(compare(runs, runs)["tolerance"].tolist())
