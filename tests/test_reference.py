"""The committed reference: all of one's own results but weights, and no image that may not be passed on."""

from __future__ import annotations

import ast
import inspect
import os
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat
import pytest
import synthetic
from nbformat.v4 import new_code_cell, new_notebook, new_output

from clrkit import embedding_map, image_pictures, loss_pictures, pictures, playground, publish
from clrkit import reference as module
from clrkit.__main__ import main
from clrkit.check import check
from clrkit.config import ConfigError
from clrkit.headless import notebooks, own_dataset
from clrkit.presets import preset
from clrkit.reference import make_reference, take_images_out
from clrkit.reproduce import complete
from clrkit.runs import WEIGHTS, Store, write_run_sums, write_sums

ROOT = Path(__file__).parents[1]
SOURCES = [path for path in notebooks(ROOT / "notebooks") if own_dataset(path) is None]
SMOKE = preset("smoke")
NAME = "00_start.ipynb"
PIXELS = "iVBORw0KGgo="
SHOWING = (pictures, image_pictures, loss_pictures, embedding_map, playground)
MARKS = ("Images", "height width", "side side")  # in the annotations of what takes images


def tagged(cell: Any) -> bool:
    return "images" in cell.metadata.get("tags", [])


# Which cells show images


def takers() -> set[str]:
    """What makes pictures of the images it is given, as module.function."""
    found = set()
    for home in SHOWING:
        for name, function in inspect.getmembers(home, inspect.isfunction):
            signature = inspect.signature(function)
            annotations = [str(each.annotation) for each in signature.parameters.values()]
            shown = str(signature.return_annotation) in ("Picture", "Playground", "HTML")
            if shown and any(mark in text for text in annotations for mark in MARKS):
                found.add(f"{home.__name__.rpartition('.')[2]}.{name}")
    return found


def imported(document: Any) -> dict[str, str]:
    """The names that `from clrkit.module import name` brings into a notebook, as module.name."""
    trees = [ast.parse(cell.source) for cell in document.cells if cell.cell_type == "code"]
    nodes = [node for node in chain(*map(ast.walk, trees)) if isinstance(node, ast.ImportFrom)]
    return {
        each.name: f"{(node.module or '').rpartition('.')[2]}.{each.name}"
        for node in nodes
        for each in node.names
    }


def called(cell: Any, names: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.Call):
            yield names.get(ast.unparse(node.func), ast.unparse(node.func))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_cells_that_show_images_are_tagged_and_no_other(source: Path) -> None:
    document = nbformat.read(source, as_version=4)
    cells, names = [cell for cell in document.cells if cell.cell_type == "code"], imported(document)
    showing = [cell.id for cell in cells if takers() & set(called(cell, names))]
    assert showing == [cell.id for cell in cells if tagged(cell)]
    drawing = ("matplotlib", "PIL", "torchvision", "imshow")  # pictures that the scan would not see
    assert not [cell.source for cell in cells if any(word in cell.source for word in drawing)]


def test_the_scan_knows_what_takes_images() -> None:
    assert {"pictures.image_rows", "playground.augmentation", "embedding_map.embedding_map"} < takers()
    assert not {"pictures.similarities", "pictures.embeddings"} & takers()


# What stays of them


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/svg+xml", "text/html", "application/pdf"])
def test_of_a_tagged_cell_words_stay_and_nothing_else(kind: str) -> None:
    picture = new_output(
        "display_data", {kind: PIXELS, "text/plain": "a cat"}, metadata={kind: {"alt": "cat"}}
    )
    printed, told = new_output("stream", text="50 images"), new_output("display_data", {"text/plain": "37"})
    cells = [
        new_code_cell(outputs=[printed, picture, told], metadata={"tags": tags}) for tags in (["images"], [])
    ]
    document = new_notebook(cells=cells)
    take_images_out(document, "CIFAR-10")
    nbformat.validate(document)
    first, second, third = document.cells[0].outputs
    assert (first, third) == (printed, told)
    (words,) = second.data.values()
    assert words.endswith("Images of CIFAR-10 are not passed on; run the notebook to see them here.")
    assert words.startswith("a cat\n") == (kind == "image/png")
    assert not second.metadata
    assert document.cells[1].outputs[1].data[kind] == PIXELS


def test_no_picture_of_a_tagged_cell_survives_in_executed_notebooks() -> None:
    pictures = 0
    for source in SOURCES:
        document = nbformat.read(ROOT / "results/reference/mini/notebooks" / source.name, as_version=4)
        tags = {cell.id: cell.metadata for cell in nbformat.read(source, as_version=4).cells}
        for cell in document.cells:
            cell.metadata = tags.get(cell.id, cell.metadata)
        shown = [cell for cell in document.cells if tagged(cell)]
        pictures += sum("image/png" in output.get("data", {}) for cell in shown for output in cell.outputs)
        take_images_out(document, "CIFAR-10")
        left = {kind for cell in shown for output in cell.outputs for kind in output.get("data", {})}
        assert left <= {"text/plain"}
    assert pictures >= 9


# The whole reference


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Whole results of a preset, made of no training: runs with weights, a notebook with images."""
    monkeypatch.setattr(publish, "project_root", lambda: tmp_path)
    made = Store(tmp_path / "results", "smoke")
    for stage in complete(SMOKE.runs):
        folder = synthetic.put(made, stage)
        (folder / WEIGHTS).write_bytes(b"weights")
        write_run_sums(folder)
    (made.runs / "distill-0123.partial").mkdir()
    output = new_output("display_data", {"image/png": PIXELS, "text/plain": "a digit"})
    for folder, outputs in ((tmp_path / "notebooks", []), (made.folder / "notebooks", [output])):
        folder.mkdir()
        cells = [new_code_cell(outputs=outputs, metadata={"tags": ["images"]})]
        nbformat.write(new_notebook(cells=cells), folder / NAME)
    write_sums(made.folder / "notebooks", [NAME])
    later(made.folder / "notebooks" / NAME)
    return made


def later(path: Path) -> None:
    os.utime(path, times=(time.time() + 60,) * 2)


def make(store: Store) -> Store:
    return make_reference(SMOKE, store)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_reference_is_the_own_results_without_weights_in_the_place_of_the_former(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, own = Store(store.results / "reference", "smoke"), contents(store.folder)
    reference.folder.mkdir(parents=True)
    (reference.folder / "of a former one").touch()
    assert main(["reference", "--preset", "smoke", "--results", str(store.results)]) == 0
    assert f"{len(store.folders())} runs" in capsys.readouterr().out
    made = contents(reference.folder)
    kept = {name for name in own if name.startswith("runs/") and not name.endswith(WEIGHTS)}
    assert {name: own[name] for name in kept} == {name: made[name] for name in made if name[:5] == "runs/"}
    assert made[f"notebooks/{NAME}"] == own[f"notebooks/{NAME}"]
    assert {"INDEX.md", "report.html", "figures/drawn.json"} <= made.keys()
    found = check(reference.results)
    assert (found.damaged, found.remarks) == ([], [])
    assert [path.name for path in reference.results.iterdir()] == ["smoke"]
    assert contents(store.folder) == own


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw", lambda preset, store: None)


@pytest.mark.usefixtures("undrawn")
def test_images_of_a_set_that_is_not_embedded_stay_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMBEDDED", {})
    text = (make(store).folder / "notebooks" / NAME).read_text()
    assert "Images of Tinted MNIST are not passed on" in text
    assert PIXELS not in text
    assert check(store.results / "reference").damaged == []


def lose_a_run(store: Store) -> None:
    store.path(SMOKE.distill).rename(store.runs / "elsewhere")


def change_weights(store: Store) -> None:
    (store.path(SMOKE.distill) / WEIGHTS).write_bytes(b"others")


def change_notebook(store: Store) -> None:
    (store.folder / "notebooks" / NAME).write_text("{}")


def change_source(store: Store) -> None:
    path = store.results.parent / "notebooks" / NAME
    os.utime(path, times=(time.time() + 120,) * 2)


def train_again(store: Store) -> None:
    os.utime(store.path(SMOKE.distill), times=(time.time() + 120,) * 2)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lose_a_run, "lacks 1 of"),
        (change_weights, "weights.safetensors was changed"),
        (change_notebook, "00_start.ipynb was changed"),
        (change_source, "failed, or is older than the notebook or the runs"),
        (train_again, "failed, or is older than the notebook or the runs"),
    ],
)
def test_results_that_are_not_whole_leave_the_reference_as_it_is(
    store: Store, spoil: Callable[[Store], None], why: str
) -> None:
    before = contents(make(store).folder)
    spoil(store)
    with pytest.raises(ConfigError, match=why) as refused:
        make(store)
    assert "\n" not in str(refused.value)
    assert contents(store.results / "reference" / "smoke") == before


@pytest.mark.usefixtures("undrawn")
def test_a_failure_on_the_way_leaves_the_former_reference_and_nothing_beside_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(make(store).folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "draw", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        make(store)
    assert contents(store.results / "reference" / "smoke") == before
    assert [path.name for path in (store.results / "reference").iterdir()] == ["smoke"]
