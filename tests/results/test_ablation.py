"""The ablation: which runs lie along a setting, which are missing, what figures show and sentences say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic

from clrkit.config import Distill, Finetune, Stage
from clrkit.errors import ConfigError
from clrkit.experiments.ablation_settings import FACTORS
from clrkit.experiments.fields import with_fields
from clrkit.experiments.grid import AblationGrid, ExperimentGrid, LabelSchedule
from clrkit.experiments.presets import preset
from clrkit.notebook.ablation_figures import as_published, compare, crossed, found, side_by_side
from clrkit.results import ablation as ablations
from clrkit.results.ablation import Ablation, ablation, leads_by_more
from clrkit.results.style import FigureWithData
from clrkit.runs.store import Run, Store, read_run

SMOKE = preset("smoke")
LABELLED = (
    LabelSchedule(fraction=0.01, epochs=2, batch_size=40),
    LabelSchedule(fraction=0.1, epochs=1, batch_size=100),
)
EXPERIMENT = replace(
    SMOKE,
    distill=with_fields(SMOKE.distill, {"teacher.pretrain.width": 0.5}),
    grid=ExperimentGrid(
        seeds=(0, 1, 2),
        networks=tuple(replace(SMOKE.pretrain.network, width=width) for width in (0.5, 1.0)),
        self_temperature=1.0,
        labelled=LABELLED,
        head_layers=(2, 3),
        tap_layers=(0, 1, 2, 3),
        memory_size=500,
        ablations=(AblationGrid(outcomes=("finetuned",), settings={"crop_area": (0.2, 0.5)}),),
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


def refreshed(lab: Ablation) -> Ablation:
    lab.recorded.refresh()
    return lab


def hollow(drawing: FigureWithData) -> list[tuple[float, float]]:
    """Places of the hollow markers."""
    lines = [line for line in drawing.figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    return [(float(x), float(y)) for line in lines for x, y in np.asarray(line.get_xydata())]


def put_along(lab: Ablation, store: Store, outcome: str, along: str, top1: dict[float, list[float]]) -> None:
    """Records along a setting: accuracies by value, a seed each."""
    series = lab.series(outcome, along)
    for value, levels in top1.items():
        configs = [config for each, config in series.missing if each == value]
        for config, level in zip(configs, levels, strict=False):
            put(store, config, level)
    lab.recorded.refresh()


def test_settings_take_the_values_of_the_preset_of_own_runs_and_those_that_are_tried(store: Store) -> None:
    put(store, with_fields(EXPERIMENT.finetune, {"pretrain.color_strength": 0.5}), 50.0)
    put(store, with_fields(EXPERIMENT.distill, {"temperature": 3.0}), 50.0)
    lab = ablation(EXPERIMENT, store, temperature=1)
    assert lab.choices == {
        "fraction": (0.01, 0.1),
        "head_layers": (2, 3),
        "tap_layer": (0, 1, 2, 3),
        "width": (0.5, 1.0),
        "temperature": (0.2, 1.0),
        "color_strength": (0.5, 1.0),
        "crop_area": (0.2, 0.5),
        "batch_size": (250,),
        "memory": (False, True),
        "distill_temperature": (1.0, 3.0),
        "label_weight": (0.0,),
    }
    assert lab.varied == [name for name, values in lab.choices.items() if len(values) > 1]


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


@pytest.mark.parametrize(
    ("outcome", "along", "message"),
    [
        ("finetuned", "taplayer", "Unknown setting 'taplayer'; did you mean tap_layer"),
        ("tuned", "tap_layer", "Unknown outcome 'tuned'; did you mean finetuned"),
        ("linear", "fraction", "The linear probe does not depend on fraction"),
    ],
)
def test_what_cannot_be_asked_is_an_error(lab: Ablation, outcome: str, along: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lab.series(outcome, along)


def test_the_runs_along_a_setting_are_those_the_preset_makes(lab: Ablation) -> None:
    made = {run for run in EXPERIMENT.runs if isinstance(run, Finetune)}
    taps = {config for _, config in lab.series("finetuned", "tap_layer").missing}
    assert len(taps) == 4 * 3
    assert taps <= made


def test_a_layer_the_head_does_not_have_is_neither_recorded_nor_missing(lab: Ablation) -> None:
    assert lab.series("finetuned", "head_layers", tap_layer=3).lacking == [3]


def test_a_point_is_the_mean_over_seeds_with_its_standard_error(lab: Ablation, store: Store) -> None:
    put_along(lab, store, "finetuned", "tap_layer", {1: [50.0, 60.0, 70.0]})
    drawing = compare(lab, "finetuned", "tap_layer", [{}])
    (cell,) = drawing.data.to_dict("records")
    assert (cell["value"], cell["mean"], cell["seeds"]) == (1, pytest.approx(60), 3)
    assert cell["stderr"] == pytest.approx(10 / 3**0.5)
    assert drawing.alt == "Fine-tuned: accuracy by start layer. start layer: 1 60.0%, 9 runs missing."


def test_markers_are_hollow_where_seeds_are_missing(lab: Ablation, store: Store) -> None:
    put_along(lab, store, "finetuned", "tap_layer", {1: [50.0, 60.0, 70.0], 2: [40.0, 44.0]})
    drawing = compare(lab, "finetuned", "tap_layer", [{}])
    assert hollow(drawing) == [(2, 42), (0, 0.0), (3, 0.0)]  # the latter on the axis


def test_runs_are_read_once_and_found_when_they_appear(
    lab: Ablation, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_along(lab, store, "finetuned", "tap_layer", {0: [1.0], 1: [2.0]})
    read: list[Path] = []

    def noting(folder: Path) -> Run | None:
        read.append(folder)
        return read_run(folder)

    monkeypatch.setattr(ablations, "read_run", noting)
    assert not lab.recorded.refresh()
    config = lab.series("finetuned", "tap_layer").missing[-1][1]
    put(store, config, 3.0)
    assert lab.recorded.find(config) is None
    assert lab.recorded.refresh()
    assert read == [store.path(config)]
    shutil.rmtree(store.path(config))
    assert lab.recorded.refresh()
    assert lab.recorded.find(config) is None


def test_own_runs_come_before_those_of_the_reference(lab: Ablation, store: Store) -> None:
    configs = [config for value, config in lab.series("finetuned", "tap_layer").missing if value == 1]
    for config in configs:
        put(store.reference, config, 40.0)
    assert refreshed(lab).series("finetuned", "tap_layer").sources == "the committed reference"
    put(store, configs[0], 70.0)
    series = refreshed(lab).series("finetuned", "tap_layer")
    assert series.sources == "own runs and the committed reference"
    assert series.cells["mean"].tolist() == [pytest.approx(50)]


def test_what_is_to_be_made_comes_after_what_it_builds_on_and_the_reference_cannot_be_built_on(
    lab: Ablation, store: Store
) -> None:
    put(store.reference, EXPERIMENT.pretrain, 0.0)
    lacking, seconds = refreshed(lab).recorded.todo([EXPERIMENT.finetune])
    assert lacking == [EXPERIMENT.pretrain, EXPERIMENT.finetune]
    assert seconds is None
    put(store, EXPERIMENT.pretrain, 0.0)
    put(store, with_fields(EXPERIMENT.finetune, {"epochs": 4}), 0.0)  # 12.5 s
    lacking, seconds = refreshed(lab).recorded.todo([EXPERIMENT.finetune])
    assert lacking == [EXPERIMENT.finetune]
    assert seconds == pytest.approx(12.5 * EXPERIMENT.finetune.epochs / 4)


def test_supervised_runs_stand_beside_those_of_the_network_that_is_measured(
    lab: Ablation, store: Store
) -> None:
    for width, top1 in ((0.5, 30.0), (1.0, 35.0)):
        for seed in EXPERIMENT.grid.seeds:
            put(store, with_fields(EXPERIMENT.supervised, {"width": width, "seed": seed}), top1)
    refreshed(lab)
    means = {
        outcome: [100 * run.metrics["top1"] for _, run in lab.series(outcome, "width").supervised]
        for outcome in ("linear", "finetuned", "distilled")
    }
    assert means["linear"] == []
    assert means["finetuned"] == pytest.approx([30.0] * 3 + [35.0] * 3)
    assert means["distilled"] == pytest.approx([30.0] * 6)  # the student stays as it is


def test_a_student_stands_beside_its_teacher(lab: Ablation, store: Store) -> None:
    level = {"distill": 80.0, "finetune": 70.0}
    for seed in EXPERIMENT.grid.seeds:
        config = with_fields(EXPERIMENT.distill, {"seed": seed, "network.width": 0.5})
        assert isinstance(config, Distill)
        synthetic.put(store, config, lambda stage: level[stage.name])
    data = compare(refreshed(lab), "distilled", "distill_temperature", [{}]).data
    assert data.set_index("line")["mean"].to_dict() == pytest.approx(
        {"distilled student": 80.0, "its teacher": 70.0}
    )


def test_two_points_stand_side_by_side_on_one_scale_under_what_differs(lab: Ablation, store: Store) -> None:
    put_along(lab, store, "finetuned", "tap_layer", {1: [50.0, 60.0, 70.0]})
    drawing = compare(lab, "finetuned", "tap_layer", [{"fraction": 0.01}, {"fraction": 0.1, "tap_layer": 2}])
    one, other = drawing.figure.axes
    assert [axes.get_title(loc="left") for axes in (one, other)] == [
        "A: label fraction 1%",
        "B: label fraction 10%",
    ]
    assert one.get_ylim() == other.get_ylim()
    same = compare(lab, "finetuned", "tap_layer", [{}, {"label_weight": 0.5}])  # of no effect
    assert same.figure.axes[1].get_title(loc="left") == "B, the same as A"


def test_crossed_settings_are_lines_and_panels_of_what_is_recorded(lab: Ablation, store: Store) -> None:
    put_along(lab, store, "finetuned", "temperature", {0.2: [50.0, 60.0, 70.0]})
    drawing = crossed(lab, "finetuned", "temperature", "crop_area", "fraction")
    assert [axes.get_title(loc="left") for axes in drawing.figure.axes] == [
        "label fraction 1%",
        "label fraction 10%",
    ]  # less than half is recorded of either
    put_along(lab, store, "finetuned", "crop_area", {0.2: [50.0, 60.0, 70.0]})
    drawing = crossed(lab, "finetuned", "temperature", "crop_area", "fraction")
    assert drawing.data["line"].tolist() == ["crop area 20%", "crop area 50%"]
    assert "label fraction 1%: crop area 20%, 0.2 60.0%. crop area 50%, 0.2 60.0%" in drawing.alt
    assert drawing.data["panel"].unique() == ["label fraction 1%"]
    assert len(side_by_side(lab, "linear", ["crop_area", "memory"]).figure.axes) == 2


def test_an_ablation_without_records_draws_what_is_missing(lab: Ablation) -> None:
    drawing = compare(lab, "finetuned", "fraction", [{"tap_layer": 0}])
    assert hollow(drawing) == [(0, 0.0), (1, 0.0)]
    assert "nothing is recorded, 6 runs missing" in drawing.alt
    assert lab.says(lab.series("finetuned", "fraction")) == "Nothing is recorded here."


@pytest.mark.parametrize(
    ("top1", "sentence"),
    [
        ({1: [60.0]}, "Only 1 (60.0%) is recorded. Runs are missing at 0, 1, 2, 3."),
        # Leads over 1: 4, 3 and 5; t(2) is 4.303, so half of the interval is 4.303 * 1 / sqrt(3).
        (
            {1: [50.0, 60.0, 70.0], 2: [54.0, 63.0, 75.0], 0: [9.0, 9.5, 9.0]},
            "2 (64.0%) is best, 4.0 ± 2.5 points (95% interval, 3 seeds) above the next, 1 (60.0%).",
        ),
        # Leads 4, -2 and 1, whose interval has 0 in it.
        (
            {1: [50.0, 60.0, 70.0], 2: [54.0, 58.0, 71.0], 0: [9.0, 9.5, 9.0]},
            "2 (61.0%) is highest; not distinguishable over 3 seeds: 1 (60.0%).",
        ),
        (
            {1: [50.0, 60.0], 2: [48.0, 58.0]},
            "1 (55.0%) is highest, over 2 seeds in common; fewer than 3 decide nothing.",
        ),
        (
            {1: [50.0], 2: [54.0]},
            "2 (54.0%) is highest, over 1 seed in common; fewer than 3 decide nothing.",
        ),
        # A single lucky seed is no best value.
        (
            {1: [50.0, 60.0, 70.0], 0: [9.0, 9.5, 9.0], 2: [99.0]},
            "1 (60.0%) is best, 50.8 ± ",
        ),
        # Seeds that agree to the last image: one image, 0.1 points, is no lead.
        (
            {1: [50.0] * 3, 2: [50.1] * 3},
            "2 (50.1%) is highest; not distinguishable over 3 seeds: 1 (50.0%).",
        ),
        ({1: [50.0] * 3, 2: [50.2] * 3}, "2 (50.2%) is best, 0.2 ± 0.0 points"),
    ],
)
def test_a_sentence_says_the_best_value_and_what_is_not_distinguishable(
    lab: Ablation, store: Store, top1: dict[float, list[float]], sentence: str
) -> None:
    put_along(lab, store, "finetuned", "tap_layer", top1)
    assert lab.says(lab.series("finetuned", "tap_layer")).startswith(sentence)


def test_only_seeds_in_common_count(lab: Ablation, store: Store) -> None:
    configs = lab.series("finetuned", "tap_layer").missing
    first, second = ([config for value, config in configs if value == wanted] for wanted in (1, 2))
    for config, top1 in zip((*first[:2], *second[1:]), (10.0, 70.0, 60.0, 61.0), strict=True):
        put(store, config, top1)
    sentence = lab.says(refreshed(lab).series("finetuned", "tap_layer"))
    assert sentence == "2 (60.5%) is highest, over 1 seed in common; fewer than 3 decide nothing." + (
        " Runs are missing at 0, 1, 2, 3."
    )


def test_a_setting_that_is_on_or_off_is_said_to_be(lab: Ablation, store: Store) -> None:
    put_along(lab, store, "linear", "memory", {False: [60.0, 61.0, 62.0], True: [50.0, 51.0, 52.0]})
    assert lab.says(lab.series("linear", "memory")).startswith("off (61.0%) is best, 10.0 ± 0.0 points")


def test_seeds_that_share_their_pretrainings_are_one_comparison_of_these(store: Store) -> None:
    """Between heads their pretraining's luck is in every difference, between layers of one head in none."""
    shared = ablation(replace(EXPERIMENT, grid=replace(EXPERIMENT.grid, pretrain_seed=0)), store)
    put_along(shared, store, "finetuned", "head_layers", {2: [50.0, 50.0, 50.0], 3: [60.0, 61.0, 62.0]})
    sentence = shared.says(shared.series("finetuned", "head_layers"))
    assert sentence == "3 (61.0%) is highest, over 1 seed in common; fewer than 3 decide nothing."
    put_along(shared, store, "finetuned", "tap_layer", {2: [50.0, 51.0, 52.0]})
    assert shared.says(shared.series("finetuned", "tap_layer")).startswith("1 (61.0%) is best, 10.0 ± ")


def levels(law: str, draw: np.random.Generator, values: int) -> np.ndarray:
    """Accuracies of equally good values over three seeds, (values, seeds), to the last of 1,000 images."""
    noise = draw.normal(size=(values, 3))
    if law == "paired":  # a seed is good or bad luck for all
        noise += 3 * draw.normal(size=3)
    if law == "bimodal":  # a run works or does not
        noise += 20 * (draw.random((values, 3)) < 0.5)
    if law == "uneven":  # values of unequal spread
        noise *= np.logspace(-1, 1, values)[:, None]
    return np.round(60 + noise, 1)


@pytest.mark.parametrize("law", ["normal", "paired", "bimodal", "uneven"])
@pytest.mark.parametrize("values", [2, 5])
def test_of_equally_good_values_one_is_called_best_in_5_percent_of_cases_at_most(
    law: str, values: int
) -> None:
    draw, trials = np.random.default_rng(values), 2000
    best = 0
    for _ in range(trials):
        made = levels(law, draw, values)
        highest = made.mean(axis=1).argmax()
        leads = made[highest] - np.delete(made, highest, axis=0)
        best += all(leads_by_more(lead, 0.1) for lead in leads)
    error = (0.05 * 0.95 / trials) ** 0.5
    assert best / trials <= 0.05 + 3 * error


def test_a_clearly_best_value_is_called_so_nearly_always() -> None:
    """A lead of 10 points over four others, whose differences have a standard deviation of sqrt(2)."""
    draw = np.random.default_rng(0)
    cases = [levels("paired", draw, 5) for _ in range(500)]
    named = [all(leads_by_more(made[0] + 10 - other, 0.1) for other in made[1:]) for made in cases]
    assert np.mean(named) > 0.75


def test_damaged_runs_are_left_out_and_named_until_they_are_whole(lab: Ablation, store: Store) -> None:
    config = EXPERIMENT.finetune
    put(store, config, 50.0)
    record = store.path(config) / "record.json"
    whole = record.read_bytes()
    record.write_text("{}")
    assert lab.recorded.left_out == ""
    recorded = ablation(EXPERIMENT, store).recorded
    assert recorded.find(config) is None
    assert "record.json was changed since it was written" in recorded.left_out
    assert recorded.left_out.endswith("left out here, see: python -m clrkit check.")
    record.write_bytes(whole)
    recorded.refresh()
    assert recorded.left_out == ""
    assert recorded.find(config) is not None


def test_what_the_paper_found_stands_beside_and_says_where(lab: Ablation) -> None:
    text = found(lab, "distilled", "temperature", "label_weight").data
    assert "(SimCLR, Table 5). For small batches" in text
    assert "(SimCLRv2, Table 2, as recalled). | Nothing is recorded here. |" in text


@pytest.mark.parametrize("setting", FACTORS)
def test_published_numbers_are_drawn_apart_from_own_ones(setting: str) -> None:
    drawing = as_published(setting)
    if setting in ("temperature", "color_strength", "batch_size", "memory", "fraction", "width"):
        assert drawing is not None
    if drawing is not None:
        assert drawing.title.startswith("As published, ImageNet")
        assert drawing.data["mean"].between(0, 100).all()


def test_published_values_are_those_of_the_tables() -> None:
    drawing = as_published("temperature")
    assert drawing is not None
    assert drawing.data.set_index("label")["mean"].to_dict() == {
        "0.05": 59.7,
        "0.1": 64.4,
        "0.5": 60.7,
        "1": 58.0,
    }


def test_more_crossed_lines_than_there_are_looks_are_refused(lab: Ablation, store: Store) -> None:
    many = tuple(round(0.1 * place, 1) for place in range(1, 10))
    crossed_with = replace(lab, choices={**lab.choices, "temperature": many})
    assert (
        len(
            crossed(
                replace(lab, choices={**lab.choices, "temperature": many[:8]}),
                "linear",
                "memory",
                "temperature",
            ).data
        )
        == 0
    )
    with pytest.raises(ConfigError, match="9 lines in one figure; at most 8"):
        crossed(crossed_with, "linear", "memory", "temperature")
    put_along(lab, store, "linear", "memory", {False: [60.0, 61.0, 62.0]})  # at one temperature: one line
    assert crossed(crossed_with, "linear", "memory", "temperature").data["line"].tolist() == [
        "temperature 0.2"
    ]
