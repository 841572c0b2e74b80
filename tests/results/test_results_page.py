"""The numbers of docs/results.md are those of the committed records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clrkit.cli.main import make_parser
from clrkit.cli.sweep import grid
from clrkit.config import Distill, Finetune, Probe, Stage
from clrkit.experiments.ablation_settings import with_ablations
from clrkit.experiments.presets import preset
from clrkit.results import claims
from clrkit.results.records import network_name, records_to_frame
from clrkit.results.tables import accuracy_table, claims_table, distillation_table, head_table, peers_table
from clrkit.results.text import Table
from clrkit.runs.reproduce import complete
from clrkit.runs.store import Store

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
PRESET = preset("cifar10_cpu")
WANTED = with_ablations(PRESET, True)
TRIALS = Store(ROOT / "results/reference", "cifar10_cpu-trials")
REFERENCE = Store(ROOT / "results", "cifar10_cpu").reference
INDEX = (REFERENCE.folder / "INDEX.md").read_text(encoding="utf-8")


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
        if each["stage"] == stage
        and lasting(each) == ("R8 0.5x", fraction, EPOCHS[fraction], 8 if stage == "finetune" else 0)
    }
    assert shown == [found.get(rate, "-") for rate in rates]


EPOCHS = {each.fraction: each.epochs for each in PRESET.grid.labelled}


def lasting(record: dict[str, Any]) -> tuple[str, float, int, int]:
    """Network, label fraction, epochs on labels and of pretraining."""
    config = record["config"]
    network = network_name(config.get("network") or config["pretrain"]["network"])
    return network, config["fraction"], config["epochs"], config.get("pretrain", {}).get("epochs", 0)


# Stage, learning rate, epochs of pretraining.
METHODS = {"supervised": ("supervised", 0.016, 0), "fine-tuned": ("finetune", 0.008, PRESET.pretrain.epochs)}


def test_the_trials_of_longer_training_are_as_recorded(trials: list[dict[str, Any]]) -> None:
    shown = [row for row in rows() if re.match(r"(supervised|fine-tuned), \d+%, R8", row[0])]
    assert len(shown) == 10
    for name, accuracies in shown:
        method, share, network = name.split(", ")
        stage, rate, pretrained = METHODS[method]
        alike = {
            lasting(each): percent(each)
            for each in trials
            if each["stage"] == stage and each["config"]["optimizer"]["learning_rate"] == rate
        }
        for epochs, accuracy in (each.split(": ") for each in accuracies.split(", ")):
            assert alike[network, float(share.strip("%")) / 100, int(epochs), pretrained] == accuracy


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return records_to_frame((run.record for run in REFERENCE.find_all(complete(PRESET.runs))), PRESET)


@pytest.mark.parametrize("table", [accuracy_table, head_table, distillation_table, peers_table])
def test_a_table_of_results_is_what_the_records_give(
    runs: pd.DataFrame, table: Callable[[pd.DataFrame], Table]
) -> None:
    assert table(runs).markdown() in PAGE


def test_the_verdicts_are_what_the_records_give(runs: pd.DataFrame) -> None:
    assert claims_table(claims.evaluate(runs, PRESET)).markdown() in PAGE


def test_every_number_with_its_error_is_one_of_the_reference() -> None:
    results = PAGE.partition("## What came out")[2].partition("## How the settings were chosen")[0]
    prose = "\n".join(line for line in results.splitlines() if not line.startswith("|"))
    numbers = re.findall(r"[+-]?\d+\.\d ± \d+\.\d", prose)
    assert len(numbers) > 10
    assert [each for each in numbers if each not in INDEX] == []


COMMANDS = re.findall(r"^python -m clrkit sweep (\w+) --preset cifar10_cpu (.*)$", PAGE, re.M)


def read_fields(words: list[str]) -> dict[str, str]:
    """The fields in the options of a command."""
    fields: dict[str, str] = make_parser().parse_args(["sweep", *words, "pretrain"]).fields
    return fields


@pytest.mark.parametrize(("stage", "options"), COMMANDS, ids=[" ".join(each) for each in COMMANDS])
def test_every_command_makes_runs_of_the_preset(stage: str, options: str) -> None:
    made = grid(PRESET, stage, read_fields(options.split()))
    assert made.keys() <= set(WANTED)


def test_there_is_a_command_for_every_kind_of_run() -> None:
    made = {run for stage, options in COMMANDS for run in grid(PRESET, stage, read_fields(options.split()))}
    left_out = [run for run in WANTED if run not in made]
    # Named in words: probes of what is fine-tuned, and the same commands with 10%.
    assert all(isinstance(run, Probe) or labels(run) == 0.1 or heads(run) == 3 for run in left_out)


def labels(run: Stage) -> float:
    return run.teacher.fraction if isinstance(run, Distill) else run.fraction  # type: ignore[attr-defined]


def heads(run: Stage) -> int:
    return run.pretrain.head_layers if isinstance(run, Finetune) else 0


def test_the_trials_are_on_images_that_were_held_out_of_the_training_part(
    trials: list[dict[str, Any]],
) -> None:
    assert {(each["dataset"]["part"], each["dataset"]["evaluation"]) for each in trials} == {
        ("validation", 5000)
    }
