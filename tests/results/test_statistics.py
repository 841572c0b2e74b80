"""Statistics over seeds, and the cells of figures and tables."""

from collections import defaultdict
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clrkit.config import Distill, Network, Pretrain, Stage, Supervised
from clrkit.results import claims, statistics
from clrkit.results import records as run_records
from clrkit.results.records import MissingRunsError
from clrkit.results.statistics import TARGETS, holm, mean_and_half_width, p_below, wilson_interval
from clrkit.results.tables import accuracy_table, published_table


@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 5.0, 10.0], list(np.arange(10.0) ** 2)])
def test_the_interval_is_students(values: list[float]) -> None:
    mean, half_width = mean_and_half_width(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_equal_values_have_an_interval_without_width() -> None:
    assert mean_and_half_width([2.0, 2.0, 2.0]) == (2.0, 0.0)


@pytest.mark.parametrize("bound", [-3.0, 0.0, 4.5])
def test_the_p_value_is_that_of_students_one_sided_test(bound: float) -> None:
    values = [-1.0, 0.5, 2.0, 2.5]
    expected = stats.ttest_1samp(values, bound, alternative="less").pvalue
    assert p_below(values, bound) == pytest.approx(expected)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 = 0.04 rises to the 0.06 before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_wilsons_interval_is_that_of_its_formula_and_stays_within_0_and_100() -> None:
    # Newcombe (1998), Table I: 81 of 263 and 15 of 148.
    assert wilson_interval(81 / 263, 263) == pytest.approx((25.53, 36.62), abs=0.01)
    assert wilson_interval(15 / 148, 148) == pytest.approx((6.24, 16.05), abs=0.01)
    assert wilson_interval(0.0, 20)[0] == pytest.approx(0.0)
    assert wilson_interval(1.0, 20)[1] == pytest.approx(100.0)


@given(count=st.integers(1, 10_000), data=st.data())
def test_wilson_s_interval_encloses_the_share(count: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, count)) / count
    low, high = wilson_interval(share, count)
    assert 0 <= low <= 100 * share <= high <= 100


def test_the_accuracy_cells_are_the_means_of_the_records() -> None:
    by_hand = defaultdict(list)
    for record in synthetic.records():
        config = record["config"]
        if record["stage"] == "supervised":
            by_hand["supervised", config["fraction"], config["network"]["width"]].append(record)
        pretrain = config.get("pretrain", {})
        if record["stage"] == "probe" and pretrain["head_layers"] == 3 and not pretrain["memory"]:
            by_hand["linear", 1.0, config["pretrain"]["network"]["width"]].append(record)
    found = statistics.accuracy_cells(synthetic.runs())
    for (method, fraction, width), group in by_hand.items():
        cell = found[
            (found["method"] == method)
            & (found["fraction"] == fraction)
            & (found["network"] == f"R8 {width:g}x")
        ]
        assert cell["mean"].item() == pytest.approx(100 * mean(each["metrics"]["top1"] for each in group))


def test_a_gain_is_relative_to_the_smallest_network_of_the_same_seed() -> None:
    top1 = {(0, 0.5): 40.0, (1, 0.5): 50.0, (0, 1.0): 50.0, (1, 1.0): 55.0, (0, 2.0): 60.0, (1, 2.0): 75.0}
    runs = synthetic.runs(lambda stage: top1[stage.seed, width_of(stage)], seeds=[0, 1])
    found = statistics.gain_cells(runs).query("fraction == 0.01").set_index("network")["mean"]
    assert found.to_dict() == pytest.approx(
        {"R8 0.5x": 0.0, "R8 1x": mean([25.0, 10.0]), "R8 2x": mean([50.0, 50.0])}
    )


def width_of(stage: object) -> float:
    while not hasattr(stage, "network"):
        stage = getattr(stage, "pretrain", None) or stage.teacher  # type: ignore[attr-defined]
    return stage.network.width  # type: ignore[no-any-return]


def test_tables_say_both_budgets_and_have_the_baseline_with_the_whole_one() -> None:
    longer = [
        replace(Supervised(network=Network(width=0.5), fraction=0.01, seed=seed), epochs=1000)
        for seed in synthetic.SEEDS
    ]
    records = [*synthetic.records(), *(synthetic.record(stage, lambda _: 33.3) for stage in longer)]
    accuracy = accuracy_table(synthetic.records_to_frame(records))
    (row,) = [row for row in accuracy.rows if row[0] == "R8 0.5x, whole budget"]
    place = accuracy.columns.index("supervised, 1%")
    assert row.pop(place) == "33.3 ± 0.0"
    assert set(row[2:]) == {"-"}
    published = published_table(synthetic.records_to_frame(records))
    (row,) = [row for row in published.rows if row[0] == "supervised, whole budget, 1%"]
    assert row[1:3] == ["33.3 ± 0.0", "-"]
    epochs = synthetic.LABEL_EPOCHS
    for remark in (accuracy.remark, published.remark):
        assert f"supervised and fine-tuned {epochs} (1%), {epochs} (10%), {epochs} (all labels)." in remark
        assert f"pretrained before, for {Pretrain().epochs} epochs on all images" in remark
        assert "on labels alone: 1,000 (1%) epochs." in remark
    assert "whole budget" not in accuracy_table(synthetic.runs()).remark


def test_a_gain_needs_two_networks() -> None:
    with pytest.raises(MissingRunsError, match=r"there is only R8 1x"):
        statistics.gain_cells(synthetic.runs(widths=[1.0]))


def test_the_head_cells_are_those_of_the_ablations_network() -> None:
    found = statistics.head_cells(synthetic.runs())
    assert set(found["network"]) == {"R8 0.5x"}
    assert set(found["fraction"]) == {0.01, 0.1}
    assert len(found) == 2 * (3 + 4 + 4)


def test_the_best_layer_is_chosen_for_each_head_and_fraction() -> None:
    best = statistics.best_layers(statistics.head_cells(synthetic.runs()))
    assert list(best["tap_layer"]) == [1] * 6
    assert list(best["head_layers"]) == [2, 3, 4] * 2


def test_linear_cells_pair_every_encoder_with_its_probe() -> None:
    found = statistics.linear_cells(synthetic.runs())
    counts = found.groupby("fraction")["network"].count().to_dict()
    assert counts == {0.01: 5, 0.1: 5, 1.0: 3}


def test_students_are_told_apart_by_their_teacher() -> None:
    found = statistics.student_cells(synthetic.runs())
    assert set(zip(found["method"], found["network"], strict=True)) == {
        ("self-distilled", "R8 1x"),
        ("distilled from R8 2x", "R8 0.5x"),
    }


def two_steps(seed: int, fraction: float) -> Distill:
    """A small student of a big teacher that was first distilled into itself."""
    taught = synthetic.distilled(seed, fraction, synthetic.WIDTHS[-1], synthetic.WIDTHS[0])
    return replace(taught, self_temperature=0.5)


@pytest.mark.slow
def test_a_teacher_that_was_distilled_into_itself_makes_a_series_of_its_own() -> None:
    records = synthetic.records()
    records += [synthetic.record(two_steps(seed, share)) for seed in synthetic.SEEDS for share in (0.01, 0.1)]
    runs = synthetic.records_to_frame(records)
    methods = set(statistics.student_cells(runs)["method"])
    assert methods == {"self-distilled", "distilled from R8 2x", "distilled from R8 2x, self-distilled"}
    # What is asked of fine-tuned teachers is answered as without these runs.
    assert statistics.target_cells(runs).equals(statistics.target_cells(synthetic.runs()))
    assert claims.evaluate(runs, synthetic.PRESET) == claims.evaluate(synthetic.runs(), synthetic.PRESET)


def test_of_two_teachers_the_published_table_has_the_one_that_was_distilled_into_itself() -> None:
    def accuracy(stage: Stage) -> float:
        return 88.8 if isinstance(stage, Distill) and stage.self_temperature else synthetic.expected(stage)

    records = synthetic.records(accuracy) + [
        synthetic.record(two_steps(seed, 0.01), accuracy) for seed in synthetic.SEEDS
    ]
    table = published_table(synthetic.records_to_frame(records))
    (row,) = [row for row in table.rows if row[0] == "distilled into it, 1%"]
    assert row[1].startswith("88.8")


def test_the_rows_of_table_2_are_in_the_papers_order() -> None:
    found = statistics.target_cells(synthetic.runs())
    assert list(found["target"]) == [target for target, _, _ in TARGETS] * 2
    assert statistics.target_pair(synthetic.runs()) == ("R8 0.5x", "R8 2x")


def test_table_2_needs_a_label_term() -> None:
    runs = synthetic.runs()
    with pytest.raises(MissingRunsError, match="label term"):
        statistics.target_cells(runs[runs["label_weight"] != 0.5])


def test_without_all_labels_distillation_is_shown_without_their_line() -> None:
    runs = synthetic.runs()
    found = statistics.distillation_cells(run_records.only(runs[runs["fraction"] != 1]))
    assert "supervised, all labels" not in set(found["method"])


def test_the_memory_cells_are_linear_accuracies_with_and_without_of_the_same_networks() -> None:
    found = statistics.memory_cells(synthetic.runs(synthetic.expected))
    assert len(found) == 2 * len(synthetic.WIDTHS)
    wide = found.pivot(index="network", columns="method", values="mean")
    gains = wide[statistics.WITH_MEMORY] - wide[statistics.WITHOUT_MEMORY]
    assert gains.tolist() == pytest.approx([synthetic.MEMORY] * len(synthetic.WIDTHS))


def test_a_network_without_a_memory_is_not_in_its_cells() -> None:
    runs = synthetic.runs()
    found = statistics.memory_cells(runs[~(runs["memory"] & (runs["network"] == "R8 2x"))])
    assert set(found["network"]) == {"R8 0.5x", "R8 1x"}
    apart = runs[runs["memory"] == (runs["network"] == "R8 2x")]
    with pytest.raises(MissingRunsError, match="both with and without a memory"):
        statistics.memory_cells(apart)


@pytest.mark.parametrize(
    ("devices", "threads", "named"),
    [
        (["cpu"] * 3, [2] * 3, "2 CPU threads"),
        (["cpu"] * 3, [2, 1, 2], "1 CPU thread and 2 CPU threads"),
        (["cpu", "A100", "A100"], [1, None, None], "1 CPU thread and A100"),
        (["cpu"] * 3, [None] * 3, "CPU"),
        ([None] * 3, [None] * 3, None),
    ],
)
def test_pretrainings_name_every_device_they_were_made_on(
    devices: list[str | None], threads: list[int | None], named: str | None
) -> None:
    runs = synthetic.runs(widths=[1.0])
    runs = runs[(runs["stage"] == "pretrain") & runs["standard_head"] & ~runs["memory"]].copy()
    assert list(runs["seed"]) == [0, 1, 2]
    runs["device"], runs["threads"] = devices, threads
    made = statistics.pretrainings(runs)
    assert made["device"].tolist() == [named]
