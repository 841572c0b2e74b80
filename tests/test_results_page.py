"""The numbers of docs/results.md are those of the committed records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clrkit.runs import Store

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
TRIALS = Store(ROOT / "results/reference", "cifar10_cpu-trials")


def rows() -> Iterator[list[str]]:
    """The rows of all tables, a text a cell, without emphasis."""
    for line in PAGE.splitlines():
        if line.startswith("| "):
            yield [cell.strip().replace("*", "") for cell in line.strip("|").split("|")]


def percent(record: dict[str, Any]) -> str:
    return f"{100 * record['metrics']['top1']:.1f}"


@pytest.fixture(scope="module")
def trials() -> list[dict[str, Any]]:
    return [run.record for run in TRIALS.all()]


def probes(trials: list[dict[str, Any]], **changes: Any) -> set[str]:
    """Accuracies of linear probes on a pretraining with these values, all others as they were tried from."""
    wanted = {"width": 0.5, "epochs": 8, "rate": 0.004, "temperature": 0.2, "crop": 0.2, "color": 0.5}
    wanted |= {"batch": 128, "memory": False, **changes}
    return {percent(each) for each in trials if each["stage"] == "probe" and tried(each) == wanted}


def tried(record: dict[str, Any]) -> dict[str, Any]:
    source = record["config"]["pretrain"]
    return {
        "width": source["network"]["width"],
        "epochs": source["epochs"],
        "rate": source["optimizer"]["learning_rate"],
        "temperature": source["temperature"],
        "crop": source["augmentation"]["crop_area"],
        "color": source["augmentation"]["color_strength"],
        "batch": source["batch_size"],
        "memory": source["memory"] and source["memory_momentum"],
    }


def test_the_trials_of_the_pretraining_rate_are_as_recorded(trials: list[dict[str, Any]]) -> None:
    (shown,) = [row[1:] for row in rows() if row[0] == "linear, %"]
    rates = (0.001, 0.002, 0.004, 0.008, 0.016)
    assert [{text} for text in shown] == [probes(trials, rate=rate) for rate in rates]


@pytest.mark.parametrize(
    ("name", "setting", "unit"),
    [
        ("temperature", "temperature", 1),
        ("smallest crop", "crop", 0.01),
        ("colour strength", "color", 1),
        ("batch", "batch", 1),
    ],
)
def test_the_trials_of_other_settings_are_as_recorded(
    trials: list[dict[str, Any]], name: str, setting: str, unit: float
) -> None:
    (cells,) = [row[1:] for row in rows() if row[0] == name and ":" in row[1]]
    shown = dict(re.findall(r"([\d.]+)%?: ([\d.]+)", " ".join(cells)))
    assert len(shown) == 3
    for value, accuracy in shown.items():
        assert probes(trials, **{setting: pytest.approx(float(value) * unit)}) == {accuracy}


def test_what_else_was_tried_of_pretraining_is_as_recorded(trials: list[dict[str, Any]]) -> None:
    for rate in (0.004, 0.008):
        (accuracy,) = probes(trials, width=2.0, epochs=3, rate=rate)
        assert f"{accuracy}% at" in PAGE
    for memory in (0.99, 0.9, False):
        (accuracy,) = probes(trials, rate=0.008, memory=memory)
        assert re.search(rf"{accuracy}% (by linear probe at|at {memory}|without)", PAGE)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(("name", "stage"), [("fine-tuned", "finetune"), ("supervised", "supervised")])
def test_the_trials_of_training_on_labels_are_as_recorded(
    trials: list[dict[str, Any]], name: str, stage: str, fraction: float
) -> None:
    (shown,) = [row[1:] for row in rows() if row[0] == f"{name}, {fraction:.0%}"]
    rates = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
    found = {
        each["config"]["optimizer"]["learning_rate"]: percent(each)
        for each in trials
        if each["stage"] == stage and each["config"]["fraction"] == fraction
    }
    assert shown == [found.get(rate, "-") for rate in rates]


def test_the_trials_are_on_images_that_were_held_out_of_the_training_part(
    trials: list[dict[str, Any]],
) -> None:
    assert {(each["dataset"]["part"], each["dataset"]["evaluation"]) for each in trials} == {
        ("validation", 5000)
    }
