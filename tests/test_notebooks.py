from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

from clrkit.config import STAGES, Augmentation, Config, Data, Labelled, Network, Stage, field_help
from clrkit.grid import Preset
from clrkit.headless import execute, notebooks
from clrkit.presets import PRESETS

ROOT = Path(__file__).parents[1]
SOURCES = notebooks(ROOT / "notebooks")
NAMES = [path.stem for path in SOURCES]
LINES = 15
OWN_KNOBS = {
    "preset",
    "along",
    "interactive",
    "run_missing",
    "checkpoint",
    "expected",
    "folder",
    "name",
    "classes",
    "budget",
}  # those that are no field of a config


def code(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def outputs(path: Path) -> list[Any]:
    """What the cells of an executed copy show."""
    return [output for cell in code(path) for output in cell.outputs]


def pictures(path: Path) -> list[str]:
    """The pictures that a notebook shows, in base 64."""
    shown = [output.get("data", {}) for output in outputs(path)]
    return [data["image/png"] for data in shown if "image/png" in data]


@pytest.fixture(params=SOURCES, ids=NAMES)
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_are_eight_notebooks_in_order() -> None:
    assert NAMES == [
        "00_start_here",
        "01_pretrain",
        "02_finetune",
        "03_distill",
        "04_figures",
        "05_ablations",
        "06_official_checkpoints",
        "07_your_images",
    ]


def test_a_notebook_is_stored_without_outputs(source: Path) -> None:
    assert all(not cell.outputs and cell.execution_count is None for cell in code(source))


def test_the_first_cell_holds_the_parameters_and_they_are_fields(source: Path) -> None:
    cells = code(source)
    assert [cell.metadata.get("tags") for cell in cells].index(["parameters"]) == 0
    names = {target.id for line in ast.parse(cells[0].source).body for target in line.targets}
    kinds: tuple[type[Config], ...] = (Stage, *STAGES, Labelled, Augmentation, Data, Network)
    fields = {name for kind in kinds for name in field_help(kind)}
    assert "preset" in names
    assert names - OWN_KNOBS <= fields


def test_cells_are_short_and_define_nothing(source: Path) -> None:
    for cell in code(source):
        assert len(cell.source.splitlines()) <= LINES, cell.source
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.While}, cell.source


def test_no_notebook_names_an_absolute_path(source: Path) -> None:
    for cell in code(source):
        nodes = list(ast.walk(ast.parse(cell.source)))
        inner = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in inner]
        assert not [text for text in texts if isinstance(text, str) and re.match(r"/.|~", text)]


def test_a_notebook_that_trains_opens_with_its_plan(source: Path) -> None:
    planned, trained = (
        [place for place, cell in enumerate(code(source)) if word in cell.source]
        for word in ("plan(", "follow(")
    )
    assert not trained or min(planned) < min(trained)


def prepared(source: Path, knobs: dict[str, Any]) -> dict[str, Any]:
    """The names that a notebook has after its first two cells."""
    names: dict[str, Any] = {}
    parameters, setup = (cell.source for cell in code(source)[:2])
    exec(parameters, names)
    names.update(knobs)
    exec(setup, names)
    return names


@pytest.mark.parametrize("make", PRESETS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_runs_of_a_seed_are_the_preset_s_own(make: Callable[[], Preset], seed: int) -> None:
    preset = make()
    runs = {*replace(preset, grid=replace(preset.grid, seeds=(seed,))).runs}
    start, one, two, three = (prepared(path, {"preset": preset.name, "seed": seed}) for path in SOURCES[:4])
    assert {start["config"], one["linear"], *two["configs"].values(), *three["configs"].values()} <= runs


@pytest.mark.parametrize("source", SOURCES[:6], ids=NAMES[:6])
def test_no_network_looks_at_a_whole_part_of_the_images(source: Path) -> None:
    """A big network takes hours for tens of thousands of images where there is no GPU."""
    nodes = [node for cell in code(source) for node in ast.walk(ast.parse(cell.source))]
    subsets = set()
    for node in nodes:
        if isinstance(node, ast.Assign) and ".subset(" in ast.unparse(node.value):
            subsets |= {each.id for each in ast.walk(node.targets[0]) if isinstance(each, ast.Name)}
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    looks = [call.args[1] for call in calls if ast.unparse(call.func) in ("extract", "predict")]
    assert {ast.unparse(part) for part in looks} <= subsets


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All notebooks, run headless in order, from empty results."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in SOURCES:
        execute(path, folder / "first" / path.name, {"preset": "smoke"}, folder / "results")
    return folder


def records(results: Path) -> dict[str, int]:
    """Every record with the time it was written."""
    return {str(path): path.stat().st_mtime_ns for path in results.glob("*/runs/*/record.json")}


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_every_notebook_runs_headless_and_shows_figures(executed: Path) -> None:
    for path in SOURCES:
        copy = executed / "first" / path.name
        assert pictures(copy), path.name
        assert not [output.text for output in outputs(copy) if output.get("name") == "stderr"], path.name
        assert "widgets" not in nbformat.read(copy, as_version=4).metadata
        assert str(executed) not in copy.read_text()
        assert str(ROOT) not in copy.read_text()
        assert copy.stat().st_size < 1.5e6


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_a_second_execution_trains_nothing_and_shows_the_same(executed: Path) -> None:
    before = records(executed / "results")
    assert before
    for path in SOURCES[1:4]:
        execute(path, executed / "second" / path.name, {"preset": "smoke"}, executed / "results")
        first, second = (outputs(executed / name / path.name) for name in ("first", "second"))
        pictures = [
            [o.data["image/png"] for o in found if "image/png" in o.get("data", {})]
            for found in (first, second)
        ]
        assert pictures[0] == pictures[1], path.name
    assert records(executed / "results") == before


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_plain_papermill_takes_a_knob_from_any_folder(
    executed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = executed / "results"
    monkeypatch.setenv("CLRKIT_RESULTS", str(results))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = records(results)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(SOURCES[1]), "out.ipynb"]
    knobs = ["-p", "preset", "smoke", "-p", "temperature", "0.1"]
    done = subprocess.run([*command, *knobs], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    added = [json.loads(Path(path).read_text()) for path in records(results).keys() - before.keys()]
    pretrained = [each for each in added if each["stage"] == "pretrain"]
    assert [each["config"]["temperature"] for each in pretrained] == [0.1]
