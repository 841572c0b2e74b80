from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter

from clrkit.config import STAGES, Augmentation, Config, Data, Labelled, Network, Stage
from clrkit.errors import ConfigError
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import PRESETS
from clrkit.notebook import parameters
from clrkit.notebook.papermill import execute, notebooks, parameter_names

ROOT = Path(__file__).parents[2]
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


def test_the_first_code_cell_holds_the_parameters_and_their_names_are_fields(source: Path) -> None:
    cells = code(source)
    assert [cell.metadata.get("tags") for cell in cells].index(["parameters"]) == 0
    names = {target.id for line in ast.parse(cells[0].source).body for target in line.targets}
    kinds: tuple[type[Config], ...] = (Stage, *STAGES, Labelled, Augmentation, Data, Network)
    fields = {item.name for kind in kinds for item in dataclasses.fields(kind)}
    assert "preset" in names
    assert names - OWN_KNOBS <= fields


def test_cells_are_short_and_define_nothing(source: Path) -> None:
    for cell in code(source):
        assert len(cell.source.splitlines()) <= LINES, cell.source
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.While}, cell.source


def test_a_notebook_has_no_absolute_path(source: Path) -> None:
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


def prepared(source: Path, knobs: dict[str, Any], cells: int = 3) -> dict[str, Any]:
    """The names that a notebook has after its parameters, their check and its imports."""
    names: dict[str, Any] = {}
    given, *others = (cell.source for cell in code(source)[:cells])
    exec(given, names)
    names.update(knobs)
    for other in others:
        exec(other, names)
    return names


def test_the_cell_after_the_parameters_checks_each_of_them(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: dict[str, Any] = {}
    monkeypatch.setattr(parameters, "check", lambda names, /, **kinds: checked.update(kinds))
    prepared(source, {}, cells=2)
    assert set(checked) == set(parameter_names(source))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("00_start_here", {"seed": 0.5}, r"seed must be a whole number, not 0\.5\."),
    ("01_pretrain", {"interactive": "false"}, "interactive must be True or False, not 'false'"),
    ("02_finetune", {"tap_layer": True}, "tap_layer must be a whole number or None, not True"),
    ("03_distill", {"temperature": "hot"}, "temperature must be a number or None, not 'hot'"),
    ("04_figures", {"preset": 1}, r"preset must be a text, not 1\."),
    ("05_ablations", {"run_missing": 1}, "run_missing must be True or False, not 1"),
    ("06_official_checkpoints", {"root": None}, "root must be a text, not None"),
    ("07_your_images", {"classes": [0, 1, 2]}, r"classes must be a list of texts, not \[0, 1, 2\]"),
    ("07_your_images", {"classes": "cat,dog"}, "classes must be a list of texts, not 'cat,dog'"),
    ("07_your_images", {"name": 2024}, "name must be a text or None, not 2024"),
]


@pytest.mark.parametrize(("name", "knobs", "message"), WRONG)
def test_a_parameter_of_the_wrong_type_is_refused(name: str, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        prepared(SOURCES[NAMES.index(name)], knobs, cells=2)


@pytest.mark.parametrize("make", PRESETS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_runs_of_a_seed_are_runs_of_the_preset(make: Callable[[], Preset], seed: int) -> None:
    preset = make()
    runs = {*replace(preset, grid=replace(preset.grid, seeds=(seed,))).runs}
    start, one, two, three = (prepared(path, {"preset": preset.name, "seed": seed}) for path in SOURCES[:4])
    assert {start["config"], one["linear"], *two["configs"].values(), *three["configs"].values()} <= runs


@pytest.mark.parametrize("source", SOURCES[:6], ids=NAMES[:6])
def test_networks_are_applied_to_samples_of_the_images_only(source: Path) -> None:
    """Without a GPU, a big network takes hours for tens of thousands of images."""
    nodes = [node for cell in code(source) for node in ast.walk(ast.parse(cell.source))]
    subsets = set()
    for node in nodes:
        if isinstance(node, ast.Assign) and ".subset(" in ast.unparse(node.value):
            subsets |= {each.id for each in ast.walk(node.targets[0]) if isinstance(each, ast.Name)}
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    looks = [call.args[1] for call in calls if ast.unparse(call.func) in ("extract", "predict")]
    assert {ast.unparse(part) for part in looks} <= subsets


def readme_line() -> list[str]:
    """The arguments of the README's Papermill command: notebook, copy, options."""
    (line,) = re.findall("^papermill (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    return shlex.split(line)


def papermill(folder: Path, results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Papermill as a user calls it, in a folder."""
    own = os.environ | {"CLRKIT_RESULTS": str(results), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *arguments]
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All notebooks from the repository's root by the README's command, in order, from empty results."""
    folder = tmp_path_factory.mktemp("notebooks")
    first, _, *options = readme_line()
    assert options == ["-p", "preset", "smoke", "-p", "temperature", "0.1"]
    for path in SOURCES:
        source, copy = f"notebooks/{path.name}", folder / path.name
        given = options if source == first else options[:3]
        done = papermill(ROOT, folder / "results", source, str(copy), *given)
        assert done.returncode == 0, (path.name, done.stderr[-2000:])
    return folder


def records(results: Path) -> dict[str, int]:
    """Every record with the time it was written."""
    return {str(path): path.stat().st_mtime_ns for path in results.glob("*/runs/*/record.json")}


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_every_notebook_runs_from_the_root_and_shows_figures(executed: Path) -> None:
    for path in SOURCES:
        copy = executed / path.name
        assert pictures(copy), path.name
        assert not [output.text for output in outputs(copy) if output.get("name") == "stderr"], path.name
        assert "widgets" not in nbformat.read(copy, as_version=4).metadata
        assert copy.stat().st_size < 1.5e6
        for shown in [output for output in outputs(copy) if "data" in output]:
            text = "".join(shown.data.get("text/plain", ""))
            assert not re.match(r"\w+Box\(|<IPython\.core\.display\.Javascript", text), path.name
            assert "image/png" not in shown.data or shown.metadata["image/png"]["alt"], path.name


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_a_panel_is_a_picture_in_headless_runs_and_in_html(executed: Path) -> None:
    panels = {"01_pretrain": 3, "03_distill": 1, "05_ablations": 1, "07_your_images": 1}
    for name, count in panels.items():
        cells = [cell for cell in code(executed / f"{name}.ipynb") if "controls.show(" in cell.source]
        assert len(cells) == count
        assert all("image/png" in cell.outputs[0].data for cell in cells), name
        html, _ = HTMLExporter().from_filename(str(executed / f"{name}.ipynb"))
        assert "widget-view" not in html
        assert html.count('src="data:image/png') == len(pictures(executed / f"{name}.ipynb")), name


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_a_knob_of_plain_papermill_reaches_the_runs(executed: Path) -> None:
    found = [json.loads(Path(path).read_text()) for path in records(executed / "results")]
    assert 0.1 in [each["config"]["temperature"] for each in found if each["stage"] == "pretrain"]


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_a_second_headless_run_trains_nothing_shows_the_same_and_holds_no_machine_path(
    executed: Path,
) -> None:
    before = records(executed / "results")
    assert before
    for source, knobs in zip(SOURCES[1:4], ({"temperature": 0.1}, {}, {}), strict=True):
        copy = executed / "headless" / source.name
        execute(source, copy, {"preset": "smoke", **knobs}, executed / "results")
        assert pictures(copy) == pictures(executed / source.name), source.name
        for trace in (executed, ROOT):
            assert str(trace) not in copy.read_text()
    assert records(executed / "results") == before


@pytest.mark.notebooks
@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        (["-p", "temprature", "0.1"], "Unknown parameter 'temprature'; did you mean temperature?"),
        (["-p", "width", "wide"], "width must be a number or None, not 'wide'."),
    ],
)
def test_plain_papermill_refuses_a_wrong_parameter_in_any_folder(
    tmp_path: Path, knobs: list[str], sentence: str
) -> None:
    done = papermill(tmp_path, tmp_path / "results", str(SOURCES[1]), "out.ipynb", *knobs)
    assert done.returncode != 0
    assert done.stderr.strip().endswith(f"ConfigError: {sentence}")
    (error,) = [output for output in outputs(tmp_path / "out.ipynb") if output.output_type == "error"]
    assert error.traceback == [f"ConfigError: {sentence}"]
    assert not (tmp_path / "results").exists()
