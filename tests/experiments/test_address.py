"""One address for each field of a chain."""

from __future__ import annotations

import pytest

from clrkit.config import STAGES, Distill, Finetune, Pretrain, Probe, Stage
from clrkit.errors import ConfigError
from clrkit.experiments.fields import address, places, value_at, with_fields


@pytest.mark.parametrize(
    ("stage", "name", "path"),
    [
        (Pretrain(), "temperature", "temperature"),
        (Pretrain(), "pretrain.temperature", "temperature"),
        (Finetune(), "temperature", "pretrain.temperature"),
        (Finetune(), "finetune.epochs", "epochs"),
        (Finetune(), "pretrain.optimizer.learning_rate", "pretrain.optimizer.learning_rate"),
        (Finetune(), "finetune.optimizer", "optimizer.optimizer"),
        (Distill(), "distill.temperature", "temperature"),
        (Distill(), "pretrain.temperature", "teacher.pretrain.temperature"),
        (Distill(), "finetune.epochs", "teacher.epochs"),
        (Distill(), "teacher.epochs", "teacher.epochs"),
        (Distill(), "teacher.pretrain.epochs", "teacher.pretrain.epochs"),
        (Distill(), "teacher.width", "teacher.pretrain.network.width"),
        (Distill(), "distill.width", "network.width"),
        (Distill(), "fraction", "teacher.fraction"),
    ],
)
def test_a_field_has_one_address(stage: Stage, name: str, path: str) -> None:
    assert ".".join(address(stage, name)) == path


@pytest.mark.parametrize("kind", STAGES)
def test_every_field_is_found_by_its_address_and_its_path(kind: type[Stage]) -> None:
    found = places(kind())
    assert len({place.address for place in found}) == len(found)
    for place in found:
        assert address(kind(), place.address) == place.path
        value_at(kind(), place.path)


@pytest.mark.parametrize(
    ("stage", "name", "sentence"),
    [
        (Finetune(), "epochs", "epochs means finetune.epochs or pretrain.epochs here; write one of them."),
        (Distill(), "width", "width means distill.width or pretrain.width here; write one of them."),
        (
            Probe(),
            "optimizer",
            "optimizer means probe.optimizer or pretrain.optimizer here; write one of them.",
        ),
        (Pretrain(), "tap_layer", "tap_layer is a field of finetune, not of pretrain."),
        (Pretrain(), "finetune.epochs", "finetune.epochs is a field of finetune, not of pretrain."),
        (Pretrain(), "epoch", "Unknown field 'epoch'; did you mean epochs?"),
        (Pretrain(), "epochs.width", "epochs is not a group of fields, so epochs.width does not exist."),
    ],
)
def test_a_name_of_several_fields_or_of_none_is_refused(stage: Stage, name: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        address(stage, name)
    assert str(error.value) == sentence


def test_the_seed_of_the_last_stage_can_be_set_alone() -> None:
    stage = with_fields(Distill(), {"distill.seed": 7}, address)
    assert [each.seed for each in stage.chain] == [0, 0, 7]
    with pytest.raises(ConfigError, match="means"):
        with_fields(Distill(), {"epochs": 7}, address)
