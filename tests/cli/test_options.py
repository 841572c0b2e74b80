"""Every field of every stage is an option, under each of its names, and the help shows it once."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from clrkit.cli.main import main, make_parser
from clrkit.cli.options import nearest, resolved
from clrkit.config import STAGES, Stage
from clrkit.experiments.fields import places
from clrkit.experiments.presets import preset

SMOKE = preset("smoke")
NAMES = sorted({place.path[-1] for kind in STAGES for place in places(kind())})


def parsed(*words: str) -> Any:
    return make_parser(words).parse_args(words)


def stage_of(*words: str) -> Stage:
    options = parsed(*words)
    stage: Stage = resolved(getattr(SMOKE, options.stage), options.fields)
    return stage


@pytest.mark.parametrize("kind", STAGES)
def test_every_field_is_set_by_its_address_and_by_its_path(kind: type[Stage]) -> None:
    parser = make_parser()
    for place in places(kind()):
        for name in (place.address, ".".join(place.path)):
            for option in (f"--{name}", f"--{name.replace('_', '-')}"):
                assert parser.parse_args(["run", option, "1", kind.name]).fields == {name: "1"}


def test_options_stand_before_or_after_positionals_with_or_without_an_equals_sign() -> None:
    for words in (
        ("run", "--pretrain.temperature", "0.3", "finetune", "--tap-layer", "0"),
        ("run", "finetune", "--tap_layer=0", "--pretrain.temperature=0.3"),
    ):
        changes = {"pretrain.temperature": 0.3, "tap_layer": 0}
        assert stage_of(*words) == SMOKE.resolve("finetune", **changes)
    options = parsed("fit", "--flip", "false", "photos")
    assert (str(options.folder), options.fields) == ("photos", {"flip": "false"})


def test_a_name_that_one_stage_has_needs_no_stage() -> None:
    assert stage_of("run", "finetune", "--temperature", "0.3").pretrain.temperature == 0.3  # type: ignore[attr-defined]


def test_the_seed_is_that_of_the_chain_or_of_one_stage() -> None:
    assert [each.seed for each in stage_of("run", "distill", "--seed", "5").chain] == [5, 5, 5]
    one = stage_of("run", "distill", "--seed", "5", "--distill.seed", "1", "--teacher.seed", "2")
    assert [each.seed for each in one.chain] == [5, 2, 1]
    assert [each.seed for each in stage_of("run", "distill", "--distill.seed", "3").chain] == [0, 0, 3]


def test_fields_of_an_earlier_command_line_are_forgotten() -> None:
    assert parsed("run", "pretrain", "--epochs", "3").fields == {"epochs": "3"}
    assert parsed("run", "pretrain").fields == {}


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--lr", "--learning_rate"),
        ("--bs", "--batch_size"),
        ("--wd", "--weight_decay"),
        ("--colour", "--color"),
    ],
)
def test_the_nearest_option_is_found_by_initials_beginning_or_letters(option: str, meant: str) -> None:
    names = ["-h", "--color", "--learning_rate", "--batch_size", "--batch-size", "--weight_decay", "--blur"]
    assert nearest(option, names) == meant
    assert nearest("--zzzz", names) == ""


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


def test_the_help_shows_each_field_once_with_its_choices_and_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of(capsys, "run", "--preset", "smoke")
    shown = re.findall(r"^  --(?:\w+\.)?(\w+)", text, re.M)
    assert sorted(set(shown) & {*NAMES}) == NAMES
    assert [name for name in NAMES if shown.count(name) > 1] == ["temperature"]  # with two meanings
    assert "--pretrain.temperature" in text
    assert "--optimizer {lars,sgd,adamw}" in text
    flat = " ".join(text.split())
    assert "side of a training image, pixels (default 28)" in flat
    assert (
        "passes over the images (default: Pretrain 1, Probe 1, Supervised 2, Finetune 2, Distill 1)" in flat
    )
    assert re.findall(r"^(\w.*):$", text, re.M)[2:4] == ["Every stage", "Pretrain"]
    assert "preset smoke" in flat
    assert "preset mini" in " ".join(help_of(capsys, "sweep").split())


def test_a_command_line_is_read_in_a_fraction_of_a_second() -> None:
    begun = time.process_time()
    parsed("run", "pretrain", "--temperature", "0.1")
    assert time.process_time() - begun < 0.5
