"""Fields by name: the nearest one, or by its one address; values as texts."""

import dataclasses
from dataclasses import dataclass

import pytest

from clrkit.config import STAGES, Config, Distill, Finetune, Optimizer, Pretrain
from clrkit.errors import ConfigError
from clrkit.experiments.fields import address, locate, value_at, walk, with_fields


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


def addresses_of(stage):
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
    found = addresses_of(stage)
    assert len({*found.values()}) == len(found)
    for name, path in found.items():
        assert address(stage, name) == locate(stage, name) == path


@pytest.mark.parametrize("stage", [kind() for kind in STAGES])
def test_a_short_name_is_the_field_of_the_only_stage_that_has_it_or_refused_naming_all(stage):
    found = addresses_of(stage)
    for short in {name.partition(".")[2] for name in found} - {"seed"}:
        those = [name for name in found if name.partition(".")[2] == short]
        if len(those) == 1:
            assert address(stage, short) == found[those[0]]
        else:
            with pytest.raises(ConfigError, match=rf"^{short} means .* here; write one of them\.$") as error:
                address(stage, short)
            named = str(error.value).removeprefix(f"{short} means ").partition(" here;")[0]
            assert sorted(named.split(" or ")) == sorted(those)
