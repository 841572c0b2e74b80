import random
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from clrkit.config import Distill, Finetune, Network, Probe, Supervised
from clrkit.results import records as run_records
from clrkit.results import statistics
from clrkit.results.records import MissingRunsError, MixedRunsError


def test_a_record_becomes_a_row_in_percent_and_millions() -> None:
    student = synthetic.distilled(seed=1, fraction=0.1, teacher=2.0, student=0.5)
    row = synthetic.records_to_frame([synthetic.record(student, lambda stage: 75.0)]).iloc[0]
    assert (row["top1"], row["teacher_top1"], row["agreement"]) == pytest.approx((75.0, 75.0, 80.0))
    assert row["parameters"] == pytest.approx(0.0197)
    assert (row["network"], row["teacher"], row["kind"]) == ("R8 0.5x", "R8 2x", "big-to-small")
    assert (row["seed"], row["fraction"], row["labels"]) == (1, 0.1, 400)
    assert (row["head_layers"], row["tap_layer"], row["label_weight"]) == (3, 1, 0.0)


def test_a_network_is_named_as_in_the_paper() -> None:
    named = run_records.network_name({"depth": 152, "width": 3.0, "sk_ratio": 0.0625})
    assert named == "R152 3x SK"


def test_a_label_list_counts_its_labels_in_place_of_the_fraction() -> None:
    listed = replace(synthetic.tuned(0, 1.0, 0.1), label_list="mine.txt")
    record = synthetic.record(listed) | {"labels": 100}
    assert synthetic.records_to_frame([record])["fraction"].iloc[0] == 100 / 4000


def test_the_order_of_records_does_not_matter() -> None:
    records = synthetic.records()
    shuffled = random.Random(0).sample(records, len(records))
    assert synthetic.records_to_frame(records).equals(synthetic.records_to_frame(shuffled))


def test_a_setup_leaves_out_seeds_and_where_the_data_lies() -> None:
    here, there = (synthetic.record(synthetic.tuned(seed, 1.0, 0.1)) for seed in (0, 1))
    there["config"]["pretrain"]["data"]["root"] = "elsewhere"
    assert synthetic.records_to_frame([here, there])["setup"].nunique() == 1


def test_means_and_standard_errors_are_those_of_the_seeds() -> None:
    accuracies = {0: 50.0, 1: 53.0, 2: 59.0}
    runs = synthetic.runs(lambda stage: accuracies[stage.seed])
    cell = statistics.summarise(run_records.finetuned(runs), ["fraction", *run_records.SIZE]).iloc[0]
    assert cell["mean"] == pytest.approx(54.0)
    assert cell["stderr"] == pytest.approx(np.std([50, 53, 59], ddof=1) / np.sqrt(3))
    assert cell["seeds"] == 3


def test_one_seed_has_no_standard_error() -> None:
    cells = statistics.summarise(
        run_records.finetuned(synthetic.runs(seeds=[0])), ["fraction", *run_records.SIZE]
    )
    assert cells["stderr"].isna().all()
    assert (cells["seeds"] == 1).all()


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged() -> None:
    warmer = synthetic.tuned(1, 1.0, 0.1)
    warmer = replace(warmer, pretrain=replace(warmer.pretrain, temperature=0.5))
    runs = synthetic.records_to_frame(
        [synthetic.record(stage) for stage in (synthetic.tuned(0, 1.0, 0.1), warmer)]
    )
    with pytest.raises(MixedRunsError, match=r"finetune runs of R8 1x differ in pretrain\.temperature"):
        statistics.summarise(runs, ["fraction", *run_records.SIZE])


def test_a_stage_of_another_version_or_other_images_is_not_averaged_in() -> None:
    records = [synthetic.record(synthetic.tuned(seed, 1.0, 0.1)) for seed in (0, 1)]
    records[1]["version"] = 2
    with pytest.raises(MixedRunsError, match="differ in version"):
        statistics.by_seed(synthetic.records_to_frame(records), run_records.SIZE)


def test_a_run_with_a_memory_is_no_repetition_of_one_without() -> None:
    plain = [synthetic.tuned(seed, 1.0, 0.1) for seed in (0, 1)]
    remembering = replace(plain[0], seed=2, pretrain=replace(plain[0].pretrain, seed=2, memory=True))
    runs = synthetic.records_to_frame([synthetic.record(stage) for stage in (*plain, remembering)])
    assert runs["memory"].tolist() == [False, False, True]
    assert run_records.finetuned(runs)["seed"].tolist() == [0, 1]
    with pytest.raises(MixedRunsError, match=r"finetune runs of R8 1x differ in pretrain\.memory;"):
        statistics.summarise(runs, ["fraction", *run_records.SIZE])


def test_two_memories_are_not_averaged() -> None:
    base = synthetic.tuned(0, 1.0, 0.1).pretrain
    sizes = [replace(base, seed=seed, memory=True, memory_size=1000 + seed) for seed in (0, 1)]
    probes = [Probe(pretrain=pretrain, seed=pretrain.seed) for pretrain in sizes]
    runs = synthetic.records_to_frame([synthetic.record(stage) for stage in probes])
    with pytest.raises(MixedRunsError, match=r"differ in pretrain\.memory_size;"):
        statistics.summarise(run_records.pick(runs, "probe", memory=True), run_records.SIZE)


def test_selections_leave_out_runs_with_a_memory() -> None:
    runs = synthetic.runs()
    assert runs["memory"].any()
    for chosen in (
        run_records.probed(runs),
        run_records.finetuned(runs),
        run_records.pick(runs, "supervised"),
    ):
        assert not chosen["memory"].any()
    assert run_records.probed(runs, memory=True)["memory"].all()


def test_the_preset_says_whether_pretraining_has_a_memory() -> None:
    def remembering(stage: Finetune) -> Finetune:
        return replace(stage, pretrain=replace(stage.pretrain, memory=True))

    tuned = remembering(synthetic.tuned(0, 0.5, 0.1))
    plain = [synthetic.tuned(0, width, 0.1) for width in (0.5, 1.0, 2.0)]
    alone = Supervised(network=Network(width=1.0), fraction=0.1)
    records = [synthetic.record(stage) for stage in (tuned, *plain, alone)]
    runs = run_records.records_to_frame(records, replace(synthetic.PRESET, distill=Distill(teacher=tuned)))
    assert len(run_records.finetuned(runs)) == len(run_records.pick(runs, "supervised")) == 1
    assert run_records.finetuned(runs)["memory"].all()
    assert len(run_records.finetuned(synthetic.records_to_frame(records))) == 3


def test_a_field_added_since_a_run_was_recorded_is_no_difference() -> None:
    before, after = (synthetic.record(synthetic.tuned(seed, 1.0, 0.1)) for seed in (0, 1))
    for name in ("memory", "memory_size", "memory_momentum", "summed_views"):
        del before["config"]["pretrain"][name]
    runs = synthetic.records_to_frame([before, after])
    assert runs["setup"].nunique() == 1
    assert runs["memory"].tolist() == [False, False]


def test_a_seed_counts_once() -> None:
    twice = [synthetic.record(synthetic.tuned(4, 1.0, 0.1))] * 2
    with pytest.raises(MixedRunsError, match="seed 4 more than once"):
        statistics.summarise(synthetic.records_to_frame(twice), run_records.SIZE)


def test_missing_runs_are_named() -> None:
    with pytest.raises(
        MissingRunsError, match=r"No runs with stage distill, label_weight 0\.25 are recorded"
    ):
        run_records.pick(synthetic.runs(), "distill", label_weight=0.25)
    with pytest.raises(MissingRunsError, match="No runs with stage finetune"):
        run_records.finetuned(synthetic.records_to_frame([]))


def test_size_comparisons_take_the_head_and_layers_of_the_preset() -> None:
    runs = synthetic.runs()
    assert run_records.standard_head(runs) == 3
    tuned = run_records.finetuned(runs)
    assert set(tuned["head_layers"]) == {3}
    assert set(zip(tuned["fraction"], tuned["tap_layer"], strict=True)) == {(0.01, 1), (0.1, 1), (1.0, 0)}


def test_where_most_runs_of_the_presets_layer_are_missing_no_other_takes_its_place() -> None:
    layer_0 = [synthetic.tuned(seed, width, 0.01, 0) for seed in (0, 1, 2) for width in (1.0, 2.0)]
    runs = synthetic.records_to_frame([*synthetic.records(), *map(synthetic.record, layer_0)])
    at_least = runs["fraction"] == 0.01
    gone = at_least & (runs["stage"] == "finetune") & (runs["tap_layer"] == 1) & (runs["network"] != "R8 2x")
    left, whole = run_records.finetuned(runs[~gone]), run_records.finetuned(runs)
    assert set(left.loc[left["fraction"] == 0.01, "network"]) == {"R8 2x"}
    assert (left["tap_layer"] == (left["fraction"] < 1)).all()
    assert left["key"].isin(whole["key"]).all()
    with pytest.raises(MissingRunsError, match="the preset's head layer to start from"):
        run_records.finetuned(runs[runs["tap_layer"] == 2])


def test_a_head_of_two_layers_is_standard_where_the_preset_has_it() -> None:
    stages = [synthetic.tuned(0, width, 0.1, head_layers=2) for width in (0.5, 1.0)]
    records = [synthetic.record(stage) for stage in stages]
    runs = run_records.records_to_frame(
        records, replace(synthetic.PRESET, distill=Distill(teacher=stages[0]))
    )
    assert run_records.standard_head(runs) == 2
    with pytest.raises(MissingRunsError, match="preset's head"):
        run_records.standard_head(synthetic.records_to_frame(records))


def test_supervised_training_for_the_whole_budget_is_no_repetition_of_the_short_one() -> None:
    longer = replace(Supervised(network=Network(width=0.5), fraction=0.01), epochs=1000)
    runs = synthetic.records_to_frame([*synthetic.records(), synthetic.record(longer)])
    assert len(run_records.pick(runs, "supervised", fraction=0.01, network="R8 0.5x")) == 3
    assert run_records.pick(runs, "supervised", whole_budget=True)["epochs"].tolist() == [1000]


def test_networks_are_ordered_by_their_parameters() -> None:
    assert run_records.by_size(synthetic.runs()) == ["R8 0.5x", "R8 1x", "R8 2x"]


def test_stems_tell_networks_of_one_name_apart() -> None:
    first, second = synthetic.tuned(0, 1.0, 0.1), synthetic.tuned(1, 1.0, 0.1)
    second = replace(second, pretrain=replace(second.pretrain, network=Network(width=1.0, stem="cifar")))
    runs = synthetic.records_to_frame([synthetic.record(stage) for stage in (first, second)])
    with pytest.raises(MixedRunsError, match=r"network\.stem"):
        statistics.by_seed(runs, run_records.SIZE)
