"""The settings of the lab: where each is in a run, and which run measures an outcome at a point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clrkit.cli.main import main
from clrkit.config import Distill, Finetune, Probe, Supervised
from clrkit.errors import ConfigError
from clrkit.experiments.ablation_settings import (
    FACTORS,
    OUTCOMES,
    ablation_runs,
    depends,
    run_at,
    standard_point,
    supervised_at,
    text_of,
    values_in,
)
from clrkit.experiments.fields import to_dict
from clrkit.experiments.presets import preset
from clrkit.runs.keys import key
from clrkit.runs.reproduce import complete

MINI = preset("mini")
OTHER: dict[str, Any] = {
    "fraction": 0.1,
    "head_layers": 2,
    "tap_layer": 0,
    "width": 1.0,
    "temperature": 0.7,
    "color_strength": 0.3,
    "crop_area": 0.9,
    "batch_size": 32,
    "memory": True,
    "distill_temperature": 3.0,
    "label_weight": 0.25,
}


def test_at_the_standard_point_are_the_runs_that_the_preset_makes() -> None:
    assert {run_at(MINI, "finetuned", {}, seed) for seed in MINI.grid.seeds} <= {*MINI.runs}
    assert {run_at(MINI, "linear", {}, seed) for seed in MINI.grid.seeds} <= {*MINI.runs}
    assert {supervised_at(MINI, standard_point(MINI), seed) for seed in MINI.grid.seeds} <= {*MINI.runs}


@pytest.mark.parametrize("name", FACTORS)
def test_a_setting_is_where_the_outcomes_that_depend_on_it_have_it(name: str) -> None:
    for outcome in OUTCOMES:
        standard, changed = (run_at(MINI, outcome, point, seed=0) for point in ({}, {name: OTHER[name]}))
        assert standard is not None
        assert changed is not None
        assert (standard != changed) == depends(outcome, name)
        values = values_in(changed.name, to_dict(changed))
        assert (name in values) == depends(outcome, name)
        assert values.get(name, OTHER[name]) == OTHER[name]


def test_the_outcomes_are_measured_by_their_stages() -> None:
    kinds = {outcome: type(run_at(MINI, outcome, {}, seed=1)) for outcome in OUTCOMES}
    assert kinds == {"linear": Probe, "finetuned": Finetune, "distilled": Distill}
    assert isinstance(supervised_at(MINI, standard_point(MINI), 0), Supervised)


def test_a_seed_is_that_of_the_whole_chain() -> None:
    run = run_at(MINI, "distilled", {}, seed=2)
    assert run is not None
    assert {link.seed for link in run.chain} == {2}


def test_a_fraction_brings_its_epochs_and_batch_and_a_memory_its_size() -> None:
    run = run_at(MINI, "finetuned", {"fraction": 0.1, "memory": True}, seed=0)
    assert isinstance(run, Finetune)
    assert (run.fraction, run.epochs, run.batch_size) == (0.1, 30, 50)
    assert (run.pretrain.memory_size, run.pretrain.memory_momentum) == (1024, 0.9)


def test_a_tap_layer_beyond_the_head_has_no_run() -> None:
    point = {"head_layers": 2, "tap_layer": 3}
    assert run_at(MINI, "finetuned", point, seed=0) is None
    assert run_at(MINI, "distilled", point, seed=0) is None
    assert run_at(MINI, "linear", point, seed=0) is not None  # a probe starts from the encoder


@pytest.mark.parametrize(
    ("outcome", "point", "message"),
    [
        ("finetune", {}, "Unknown outcome 'finetune'; did you mean finetuned"),
        ("linear", {"temprature": 0.5}, "Unknown setting 'temprature'; did you mean temperature"),
        ("linear", {"temperature": -1.0}, "temperature must be above 0"),
    ],
)
def test_unknown_names_and_values_are_refused(outcome: str, point: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_at(MINI, outcome, point, seed=0)


def test_the_grid_of_the_lab_crosses_what_it_says() -> None:
    runs = ablation_runs(MINI)
    assert len(runs) == len({*runs})
    seen = {
        (run.pretrain.temperature, run.pretrain.augmentation.color_strength, run.fraction, run.seed)
        for run in runs
        if isinstance(run, Finetune)
    }
    wanted = MINI.grid.ablations[0].settings
    for temperature in wanted["temperature"]:
        for color in wanted["color_strength"]:
            assert {(temperature, color, 0.01, seed) for seed in (0, 1, 2)} <= seen


def test_a_grid_point_keeps_its_key() -> None:
    """The recorded grid is found by these."""
    point = {"temperature": 0.5, "color_strength": 0.25, "fraction": 0.1}
    run = run_at(MINI, "finetuned", point, seed=1)
    assert run is not None
    assert key(run, "images") == "92f33ea0758aa6a8"


def test_the_runs_of_the_grid_stand_with_what_they_build_on() -> None:
    stages = [stage.name for stage in complete(ablation_runs(preset("smoke")))]
    assert sorted(stages) == ["finetune"] * 2 + ["pretrain"] * 2 + ["probe"] * 2


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("fraction", 0.01, "1%"),
        ("crop_area", 0.08, "8%"),
        ("memory", False, "off"),
        ("width", 0.5, "0.5x"),
        ("batch_size", 64, "64"),
        ("temperature", 0.05, "0.05"),
    ],
)
def test_values_are_shown_in_words(name: str, value: Any, text: str) -> None:
    assert text_of(name, value) == text


def test_the_runs_of_the_lab_are_planned_if_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = []
    for more in ([], ["--ablations"]):
        assert main(["plan", "--preset", "smoke", "--json", "--results", str(tmp_path), *more]) == 0
        planned.append({row["key"] for row in json.loads(capsys.readouterr().out)})
    assert planned[0] < planned[1]
    assert len(planned[1] - planned[0]) == 3  # pretraining, probe and fine-tuning at another temperature
