"""The ablation: which runs lie along a setting, which are missing, and what its figure shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from clrkit.ablation import Ablation, ablation
from clrkit.config import ConfigError, Finetune, Stage, with_fields
from clrkit.drawing import Drawing
from clrkit.grid import Grid, Labelling
from clrkit.presets import preset
from clrkit.runs import Store

SMOKE = preset("smoke")
LABELLED = (
    Labelling(fraction=0.01, epochs=2, batch_size=40),
    Labelling(fraction=0.1, epochs=1, batch_size=100),
)
EXPERIMENT = replace(
    SMOKE,
    distill=with_fields(SMOKE.distill, {"teacher.pretrain.width": 0.5}),
    grid=Grid(
        seeds=(0, 1, 2),
        networks=tuple(replace(SMOKE.pretrain.network, width=width) for width in (0.5, 1.0)),
        self_temperature=1.0,
        labelled=LABELLED,
        head_layers=(2, 3),
        tap_layers=(0, 1, 2, 3),
    ),
)


def put(store: Store, config: Stage, top1: float) -> None:
    """A record of a run that never was."""
    synthetic.put(store, config, lambda stage: top1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "results/reference").mkdir(parents=True)  # else the checkout's is the reference
    return Store(tmp_path / "results", "smoke")


@pytest.fixture
def lab(store: Store) -> Ablation:
    return ablation(EXPERIMENT, store)


def markers(drawing: Drawing) -> list[float]:
    """Places of the hollow markers."""
    lines = [each for each in drawing.figure.axes[0].lines if each.get_markerfacecolor() == "white"]
    return [float(place) for each in lines for place in each.get_xdata()]  # type: ignore[union-attr]


def test_settings_take_the_values_of_the_preset_of_own_runs_and_those_that_are_tried(store: Store) -> None:
    put(store, with_fields(EXPERIMENT.finetune, {"pretrain.color_strength": 0.5}), 50.0)
    lab = ablation(EXPERIMENT, store, temperature=1)
    assert lab.choices == {
        "fraction": (0.01, 0.1),
        "head_layers": (2, 3),
        "tap_layer": (0, 1, 2, 3),
        "width": (0.5, 1.0),
        "temperature": (0.2, 1.0),
        "color_strength": (0.5, 1.0),
    }
    assert lab.varied == list(lab.choices)


@pytest.mark.parametrize(
    ("tried", "message"),
    [
        ({"temprature": 0.5}, "Unknown setting 'temprature'; did you mean temperature"),
        ({"temperature": -1.0}, "temperature must be above 0"),
    ],
)
def test_what_cannot_be_tried_is_an_error(store: Store, tried: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ablation(EXPERIMENT, store, **tried)


def test_an_unknown_setting_is_an_error(lab: Ablation) -> None:
    with pytest.raises(ConfigError, match="Unknown setting 'taplayer'; did you mean tap_layer"):
        lab.series("taplayer")


def test_the_runs_along_a_setting_are_those_the_preset_makes(lab: Ablation) -> None:
    made = {run for run in EXPERIMENT.runs if isinstance(run, Finetune)}
    taps = {config for _, config in lab.series("tap_layer").missing}
    widths = {config for _, config in lab.series("width", fraction=0.1).missing if config.tap_layer == 0}
    assert len(taps) == 4 * 3
    assert taps <= made
    assert widths <= made


def test_a_fraction_the_preset_does_not_have_is_trained_as_the_standard_one(store: Store) -> None:
    lab = ablation(EXPERIMENT, store, fraction=0.05)
    wanted = [config for value, config in lab.series("fraction").missing if value == 0.05]
    assert wanted == [EXPERIMENT.resolve("finetune", fraction=0.05, seed=seed) for seed in (0, 1, 2)]


def test_a_layer_the_head_does_not_have_is_neither_recorded_nor_missing(lab: Ablation) -> None:
    assert {value for value, _ in lab.series("head_layers", tap_layer=3).missing} == {3}


def test_a_point_is_the_mean_over_seeds_with_its_standard_error(lab: Ablation, store: Store) -> None:
    configs = dict.fromkeys(config for value, config in lab.series("tap_layer").missing if value == 1)
    for config, top1 in zip(configs, (50.0, 60.0, 70.0), strict=True):
        put(store, config, top1)
    series = lab.series("tap_layer")
    drawing = lab.draw(series)
    (cell,) = drawing.data.to_dict("records")
    assert (cell["value"], cell["mean"], cell["seeds"]) == (1, pytest.approx(60), 3)
    assert cell["stderr"] == pytest.approx(10 / 3**0.5)
    assert series.sources == "own runs"
    assert markers(drawing) == [0, 2, 3]
    assert drawing.alt == "Fine-tuned accuracy by tap_layer: 1 60.0%. 9 runs are missing."


def test_own_runs_come_before_those_of_the_reference(lab: Ablation, store: Store) -> None:
    configs = [config for value, config in lab.series("tap_layer").missing if value == 1]
    for config in configs:
        put(store.reference, config, 40.0)
    assert lab.series("tap_layer").sources == "the committed reference"
    put(store, configs[0], 70.0)
    series = lab.series("tap_layer")
    assert series.sources == "own runs and the committed reference"
    assert lab.draw(series).data["mean"].tolist() == [pytest.approx(50)]


def test_an_ablation_without_records_draws_what_is_missing(lab: Ablation) -> None:
    drawing = lab.draw(lab.series("fraction", tap_layer=0))
    assert markers(drawing) == [0, 1]
    assert drawing.alt == "Fine-tuned accuracy by fraction: nothing is recorded. 6 runs are missing."


def test_the_supervised_runs_of_the_same_network_stand_beside(lab: Ablation, store: Store) -> None:
    for run in EXPERIMENT.runs:
        if run.name == "supervised":
            put(store, run, 30.0)
    data = lab.draw(lab.series("fraction")).data
    assert data["method"].tolist() == ["supervised"] * 2
    assert data["seeds"].tolist() == [3, 3]


def test_every_point_shows_its_own_runs(lab: Ablation, store: Store) -> None:
    levels = {0: 90.0, 1: 20.0, 2: 60.0, 3: 40.0}
    for seed in EXPERIMENT.grid.seeds:
        for layer, top1 in levels.items():
            tuned = with_fields(EXPERIMENT.finetune, {"tap_layer": layer, "seed": seed, "width": 0.5})
            put(store, tuned, top1)
        put(store, with_fields(EXPERIMENT.supervised, {"width": 0.5, "seed": seed}), 30.0)
    cells = lab.draw(lab.series("tap_layer")).data
    shown = cells[cells["method"] == "fine-tuned"].set_index("value")["mean"].to_dict()
    assert shown == pytest.approx(levels)
    assert list(cells[cells["method"] == "supervised"]["mean"]) == pytest.approx([30.0] * 4)
