"""Configs: bounds and types, fields by name, keys, and the way to JSON and back."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from config_strategies import UNKEYED, stages
from hypothesis import given

from clrkit.config import (
    STAGES,
    Augmentation,
    Config,
    Data,
    Distill,
    Finetune,
    Network,
    Optimizer,
    Pretrain,
    Probe,
)
from clrkit.errors import ConfigError
from clrkit.experiments.fields import from_dict, stage_class, to_dict, value_at, with_fields
from clrkit.runs.keys import key, keyed_fields

KINDS: tuple[type[Config], ...] = (*STAGES, Data, Network, Augmentation, Optimizer)
FIELDS = [
    pytest.param(kind, item, id=f"{kind.__name__}.{item.name}")
    for kind in KINDS
    for item in dataclasses.fields(kind)
    if item.metadata
]


# Types and bounds


@pytest.mark.parametrize(("kind", "item"), FIELDS)
def test_a_value_of_another_type_is_refused_naming_the_field(kind, item):
    with pytest.raises(ConfigError, match=rf"^{item.name} must be .*, not \[1\]\.$"):
        kind(**{item.name: [1]})


@pytest.mark.parametrize(("kind", "item"), FIELDS)
def test_a_value_beyond_its_bounds_is_refused_naming_the_field(kind, item):
    bounds, whole = item.metadata, get_type_hints(kind)[item.name] is int
    beyond: dict[Any, str] = {}
    if bounds["choices"]:
        beyond = {"purple" if not whole else 7: "one of"}
    elif not isinstance(item.default, str | bool):
        step = 1 if whole else 1e-6
        if math.isfinite(bounds["low"]):
            beyond[bounds["low"] - step] = "at least"
        if math.isfinite(bounds["above"]):
            beyond[bounds["above"]] = "above"
        if math.isfinite(bounds["high"]):
            beyond[bounds["high"] + step] = "at most"
        if not whole:
            beyond |= {math.inf: "finite", math.nan: "finite"}
    for value, words in beyond.items():
        with pytest.raises(ConfigError, match=rf"^{item.name} must be .*{words}"):
            kind(**{item.name: value})


@pytest.mark.parametrize("value", [True, 2.5, "3", None])
def test_neither_a_truth_nor_a_fraction_nor_a_text_is_a_whole_number(value):
    with pytest.raises(ConfigError, match=r"^epochs must be a whole number"):
        Pretrain(epochs=value)


def test_every_field_says_what_it_means():
    for kind in KINDS:
        for item in dataclasses.fields(kind):
            assert not item.metadata or len(item.metadata["help"]) > 5, item.name


def test_a_tap_beyond_the_head_is_refused_with_the_depth_of_the_head():
    with pytest.raises(
        ConfigError, match="tap_layer must be at most 2, the depth of the projection head, not 3"
    ):
        Finetune(pretrain=Pretrain(head_layers=2), tap_layer=3)


@pytest.mark.parametrize("size", [1, 257])
def test_a_micro_batch_is_a_part_of_a_batch_with_statistics(size):
    with pytest.raises(ConfigError, match=f"^micro_batch must be 0 or from 2 to 256, .* not {size}"):
        Pretrain(micro_batch=size)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pretrain().epochs = 3


@pytest.mark.parametrize("kind", STAGES)
def test_a_whole_number_where_a_number_is_meant_is_the_same_run(kind):
    whole, exact = (with_fields(kind(), {"weight_decay": value}) for value in (1, 1.0))
    assert whole == exact
    assert type(whole.optimizer.weight_decay) is float
    assert key(whole, "f") == key(exact, "f")


def test_the_chain_begins_with_what_the_others_build_on():
    names = {kind.name: [stage.name for stage in kind().chain] for kind in STAGES}
    assert names == {
        "pretrain": ["pretrain"],
        "probe": ["pretrain", "probe"],
        "supervised": ["supervised"],
        "finetune": ["pretrain", "finetune"],
        "distill": ["pretrain", "finetune", "distill"],
    }


def test_the_images_are_those_of_the_first_stage():
    for kind in STAGES:
        assert with_fields(kind(), {"dataset": "cifar10"}).images.dataset == "cifar10"


def test_an_unknown_stage_is_refused_with_the_nearest():
    assert stage_class("distill") is Distill
    with pytest.raises(ConfigError, match=r"^Unknown stage 'finetunes'; did you mean finetune\?$"):
        stage_class("finetunes")


# Keys


def leaves(config: Config, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dataclasses.Field]]:
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Config):
            yield from leaves(value, (*path, item.name))
        else:
            yield (*path, item.name), item


LEAVES = [
    pytest.param(kind, path, item, id=f"{kind.__name__}.{'.'.join(path)}")
    for kind in STAGES
    for path, item in leaves(kind())
]


def other_value(item: dataclasses.Field, value: Any) -> Any:
    if item.name == "micro_batch":  # 1 image has no batch-norm statistics
        return 2
    if item.metadata["choices"]:
        return next(choice for choice in item.metadata["choices"] if choice != value)
    if isinstance(value, bool | str):
        return "other" if isinstance(value, str) else not value
    return value + 1 if isinstance(value, int) else value / 2 + 1e-3


@pytest.mark.parametrize(("kind", "path", "item"), LEAVES)
def test_a_key_changes_with_every_field_of_the_chain_that_changes_the_mathematics(kind, path, item):
    needed = item.metadata["needs"]
    first = {".".join((*path[:-1], needed)): 2 if needed == "micro_batch" else True} if needed else {}
    stage = with_fields(kind(), first)
    value = other_value(item, value_at(stage, path))
    changed = with_fields(stage, {".".join(path): value})
    assert changed != stage
    assert (key(changed, "f") == key(stage, "f")) == (path[-1] in UNKEYED)
    for before, after in zip(stage.chain, changed.chain, strict=path[-1] != "self_temperature"):
        # A stage that came before the change is not made again.
        assert (key(before, "f") == key(after, "f")) == (before == after or path[-1] in UNKEYED)


def test_a_teacher_may_be_distilled_into_itself_first():
    small = Network(width=0.25)
    stage = with_fields(Distill(), {"seed": 3, "width": 0.25, "label_weight": 0.5, "transfer": "labelled"})
    changed = with_fields(stage, {"self_temperature": 0.1})
    *before, itself, last = changed.chain
    assert (last, before) == (changed, list(stage.chain[:-1]))
    assert itself == dataclasses.replace(
        stage, network=stage.teacher.pretrain.network, temperature=0.1, label_weight=0.0, transfer="all"
    )
    assert last.network == small != itself.network


def test_a_key_changes_with_the_images_and_with_the_stage():
    assert len({key(kind(), data) for kind in STAGES for data in "fg"}) == 2 * len(STAGES)


TABLES = sorted((Path(__file__).parents[2] / "results" / "reference").glob("*/records.jsonl"))


def test_the_committed_runs_keep_the_keys_they_were_recorded_under():
    records = [json.loads(line) for path in TABLES for line in path.read_text().splitlines()]
    assert len(records) >= 1201
    for record in records:
        stage = from_dict(stage_class(record["stage"]), record["config"])
        assert key(stage, record["dataset"]["fingerprint"]) == record["key"]


def test_an_added_field_counts_where_it_is_not_at_its_default():
    plain, added = keyed_fields(Pretrain()), {"memory", "memory_size", "summed_views"}
    assert not added & plain.keys()
    assert keyed_fields(Pretrain(memory=True)) == plain | {"memory": True}
    more = {"memory": True, "memory_size": 9}
    assert keyed_fields(Pretrain(**more)) == plain | more
    assert keyed_fields(Pretrain(memory_size=9)) == plain  # which has no memory


def test_a_key_is_sixteen_hexadecimal_digits():
    assert len(key(Pretrain(), "f")) == 16
    assert int(key(Pretrain(), "f"), 16) >= 0


def test_a_new_version_of_a_stage_renames_its_runs_and_those_built_on_it(monkeypatch):
    before = {kind: key(kind(), "f") for kind in STAGES}
    monkeypatch.setattr(Pretrain, "version", 1000)
    changed = {kind for kind in STAGES if key(kind(), "f") != before[kind]}
    assert changed == {Pretrain, Probe, Finetune, Distill}


# To JSON and back


@given(stages)
def test_a_config_comes_back_from_json_as_it_was(stage):
    restored = from_dict(type(stage), json.loads(json.dumps(to_dict(stage))))
    assert restored == stage
    assert key(restored, "f") == key(stage, "f")


def test_an_unknown_field_in_a_record_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^Unknown field 'depht'; did you mean depth\?$"):
        from_dict(Pretrain, {"network": {"depht": 8}})


def test_a_value_in_a_record_is_checked():
    with pytest.raises(ConfigError, match=r"^epochs must be at least 1, not 0\.$"):
        from_dict(Finetune, {"pretrain": {"epochs": 0}})


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(
        ConfigError, match=r"^warmup_epochs must be at most 5, the epochs of pretrain, not 10\.$"
    ):
        with_fields(Pretrain(), {"epochs": 5, "warmup_epochs": 10})
    assert with_fields(Pretrain(), {"epochs": 5, "warmup_epochs": 5}).optimizer.warmup_epochs == 5
