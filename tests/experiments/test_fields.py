"""Fields by name: the nearest one, or by its one address; values as texts."""

import dataclasses
from dataclasses import dataclass

import pytest

from clrkit.config import STAGES, Config, Distill, Finetune, Optimizer, Pretrain, Probe, Supervised
from clrkit.errors import ConfigError
from clrkit.experiments.fields import locate, value_at, walk, with_fields


@dataclass(frozen=True, kw_only=True)
class Pair(Config):
    """Two places that are equally near."""

    left: Optimizer = dataclasses.field(default=Optimizer())
    right: Optimizer = dataclasses.field(default=Optimizer())


@pytest.mark.parametrize(
    ("stage", "name", "path"),
    [
        (Pretrain(), "temperature", "temperature"),
        (Pretrain(), "crop_area", "augmentation.crop_area"),
        (Distill(), "temperature", "temperature"),
        (Distill(), "width", "network.width"),
        (Distill(), "fraction", "teacher.fraction"),
        (Distill(), "head_layers", "teacher.pretrain.head_layers"),
        (Distill(), "image_size", "teacher.pretrain.data.image_size"),
        (Finetune(), "epochs", "epochs"),
        (Finetune(), "pretrain.epochs", "pretrain.epochs"),
        (Finetune(), "temperature", "pretrain.temperature"),
        (Distill(), "pretrain.epochs", "teacher.pretrain.epochs"),
        (Distill(), "teacher.width", "teacher.pretrain.network.width"),
        (Distill(), "pretrain.learning_rate", "teacher.pretrain.optimizer.learning_rate"),
        (Finetune(), "optimizer.optimizer", "optimizer.optimizer"),
        (Finetune(), "optimizer", "optimizer.optimizer"),
        (Pair(), "left.momentum", "left.momentum"),
    ],
)
def test_a_name_means_the_field_nearest_to_the_stage(stage, name, path):
    assert ".".join(locate(stage, name)) == path


def test_a_name_in_two_places_equally_near_must_be_completed():
    with pytest.raises(
        ConfigError, match=r"^momentum is in more than one place; write left.momentum or right.mo"
    ):
        locate(Pair(), "momentum")


@pytest.mark.parametrize(
    ("stage", "name", "words"),
    [
        (Pretrain(), "temperatur", "Unknown field 'temperatur'; did you mean temperature?"),
        (Finetune(), "pretrain.epoch", "Unknown field 'epoch'; did you mean epochs?"),
        (Finetune(), "parent.epochs", "Unknown field 'parent'"),
        (Pretrain(), "fraction", "Unknown field 'fraction'"),
        (Pretrain(), "epochs.width", "epochs is not a group of fields, so epochs.width does not exist."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(stage, name, words):
    with pytest.raises(ConfigError) as error:
        locate(stage, name)
    assert str(error.value).startswith(words)


def test_a_name_unlike_any_other_is_refused_with_all_there_are():
    with pytest.raises(
        ConfigError, match=r"^Unknown field 'zzz'; there are augmentation, batch_size, .*width\.$"
    ):
        locate(Pretrain(), "zzz")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "12", 12),
        ("epochs", 12.0, 12),
        ("width", "2", 2.0),
        ("width", 2, 2.0),
        ("weight_decay", "1e-4", 1e-4),
        ("flip", "no", False),
        ("flip", "True", True),
        ("stem", "cifar", "cifar"),
        ("flip", False, False),
    ],
)
def test_a_text_is_read_as_the_field_s_type(name, value, expected):
    changed = with_fields(Pretrain(), {name: value})
    found = value_at(changed, locate(changed, name))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", "many", "epochs must be a whole number, not 'many'."),
        ("epochs", "2.5", "epochs must be a whole number, not '2.5'."),
        ("epochs", 2.5, "epochs must be a whole number, not 2.5."),
        ("flip", "maybe", "flip must be true or false, not 'maybe'."),
        ("width", "wide", "width must be a number, not 'wide'."),
        ("width", "nan", "width must be a finite number, not nan."),
        ("epochs", "0", "epochs must be at least 1, not 0."),
        ("depth", "19", "depth must be one of 8, 14, 20, 18, 34, 50, 101, 152, 200, not 19."),
        ("stem", "big", "stem must be one of imagenet, cifar, stride2, not 'big'."),
        ("augmentation", "blur", "augmentation is a group of fields; set one of crop_area, flip,"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_in_one_sentence(name, value, words):
    with pytest.raises(ConfigError) as error:
        with_fields(Pretrain(), {name: value})
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("stage", [kind() for kind in STAGES])
def test_the_seed_reaches_the_whole_chain(stage):
    assert [each.seed for each in with_fields(stage, {"seed": 7}).chain] == [7] * len(stage.chain)


def test_the_seed_of_a_single_stage_can_be_named():
    stage = with_fields(Distill(), {"teacher.seed": 7})
    assert [each.seed for each in stage.chain] == [0, 7, 0]


def test_none_changes_nothing():
    assert with_fields(Distill(), {"epochs": None, "seed": None, "no_such_field": None}) == Distill()


def test_fields_that_bound_each_other_may_come_in_either_order():
    changes = {"head_layers": 6, "tap_layer": 6}
    deep = with_fields(Finetune(), changes)
    assert with_fields(Finetune(), dict(reversed(changes.items()))) == deep
    shallow = {"head_layers": 1, "tap_layer": 1}
    assert with_fields(deep, shallow) == with_fields(deep, dict(reversed(shallow.items())))


# Addresses, as the command line asks for them


def addresses(stage):
    """Every field of a chain by its address: the stage it belongs to and its name."""
    found = {}
    for path, node in walk(stage):
        owner = [value_at(stage, path[:end]) for end in range(len(path) + 1)]
        name = [each.name for each in owner if hasattr(each, "chain")][-1]
        for item in dataclasses.fields(node):
            if item.metadata:
                found[f"{name}.{item.name}"] = (*path, item.name)
    return found


@pytest.mark.parametrize("stage", [kind() for kind in STAGES])
def test_every_field_of_a_chain_has_one_address(stage):
    found = addresses(stage)
    assert len({*found.values()}) == len(found)
    for address, path in found.items():
        assert locate(stage, address, strict=True) == locate(stage, address) == path


@pytest.mark.parametrize("stage", [kind() for kind in STAGES])
def test_a_short_name_is_the_field_of_the_only_stage_that_has_it_or_refused_naming_all(stage):
    found = addresses(stage)
    for short in {address.partition(".")[2] for address in found} - {"seed"}:
        those = [address for address in found if address.partition(".")[2] == short]
        if len(those) == 1:
            assert locate(stage, short, strict=True) == found[those[0]]
        else:
            with pytest.raises(ConfigError) as error:
                locate(stage, short, strict=True)
            beginning, _, named = str(error.value).removesuffix(".").partition("; write ")
            assert beginning == f"{short} is in more than one place"
            assert sorted(named.split(" or ")) == sorted(those)


@pytest.mark.parametrize(
    ("stage", "name", "path"),
    [
        (Finetune(), "temperature", "pretrain.temperature"),
        (Distill(), "fraction", "teacher.fraction"),
        (Distill(), "distill.temperature", "temperature"),
        (Distill(), "pretrain.temperature", "teacher.pretrain.temperature"),
        (Distill(), "pretrain.optimizer.momentum", "teacher.pretrain.optimizer.momentum"),
        (Distill(), "teacher.pretrain.epochs", "teacher.pretrain.epochs"),
        (Supervised(), "optimizer", "optimizer.optimizer"),
        (Probe(), "image_size", "pretrain.data.image_size"),
    ],
)
def test_a_strict_name_may_be_short_where_it_is_unique_or_name_the_stage_and_the_group(stage, name, path):
    assert ".".join(locate(stage, name, strict=True)) == path


@pytest.mark.parametrize(
    ("stage", "name", "words"),
    [
        (Distill(), "temperature", "temperature is in more than one place; write distill.temperature or pre"),
        (Finetune(), "optimizer.momentum", "optimizer.momentum is in more than one place; write finetune.op"),
        (Finetune(), "finetune.temperature", "finetune has no field temperature."),
        (Finetune(), "temprature", "Unknown field 'temprature'; did you mean temperature?"),
        (Finetune(), "distill.temperature", "Unknown field 'distill'"),
    ],
)
def test_a_strict_name_that_does_not_say_which_field_is_refused(stage, name, words):
    with pytest.raises(ConfigError) as error:
        locate(stage, name, strict=True)
    assert str(error.value).startswith(words)


def test_the_command_line_may_give_the_seed_of_the_whole_chain_and_a_field_once():
    assert [each.seed for each in with_fields(Distill(), {"seed": "7"}, strict=True).chain] == [7] * 3
    both = {"fraction": "0.5", "finetune.fraction": "0.2"}
    with pytest.raises(ConfigError, match=r"^fraction and finetune\.fraction are the same field; give"):
        with_fields(Distill(), both, strict=True)
    changed = with_fields(Finetune(), {"pretrain.epochs": "3", "finetune.epochs": "5"}, strict=True)
    assert (changed.pretrain.epochs, changed.epochs) == (3, 5)
