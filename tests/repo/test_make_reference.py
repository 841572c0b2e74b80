"""The committed reference: all of one's own results but weights, and no image that may not be passed on."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import runpy
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
import synthetic
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from clrkit.errors import ConfigError
from clrkit.experiments.presets import preset
from clrkit.notebook import (
    embedding_map,
    illustrations,
    illustrations_losses,
    playground,
    publish,
)
from clrkit.notebook.papermill import NotebookError, notebooks, own_dataset
from clrkit.runs.check import check
from clrkit.runs.reproduce import complete
from clrkit.runs.store import RECORDS, WEIGHTS, WEIGHTS_DIGEST, Store, write_run_sums

ROOT = Path(__file__).parents[2]
module = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "make_reference.py")))
GLOBALS = module.main.__globals__  # where its functions look names up
NO_IMAGES, main, take_images_out = module.NO_IMAGES, module.main, module.take_images_out

SOURCES = [path for path in notebooks(ROOT / "notebooks") if own_dataset(path) is None]
SMOKE = preset("smoke")
NAME = "00_start.ipynb"
PIXELS = "iVBORw0KGgo="
SHOWING = (illustrations, illustrations_losses, embedding_map, playground)
MARKS = ("Images", "height width", "side side")  # in the annotations of what takes images


def tagged(cell: Any) -> bool:
    return NO_IMAGES in cell.metadata.get("tags", [])


# Which cells show images


def takers() -> set[str]:
    """What makes pictures of the images it is given, as module.function."""
    found = set()
    for home in SHOWING:
        for name, function in inspect.getmembers(home, inspect.isfunction):
            signature = inspect.signature(function)
            annotations = [str(each.annotation) for each in signature.parameters.values()]
            shown = str(signature.return_annotation) in ("Picture", "Playground", "EmbeddingMap")
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
def test_no_cell_shows_images_that_is_tagged_as_showing_none(source: Path) -> None:
    document = nbformat.read(source, as_version=4)
    cells, names = [cell for cell in document.cells if tagged(cell)], imported(document)
    assert cells
    assert not [cell.source for cell in cells if takers() & set(called(cell, names))]
    drawing = ("matplotlib", "PIL", "torchvision", "imshow")  # pictures that the scan would not see
    assert not [cell.source for cell in cells if any(word in cell.source for word in drawing)]


def test_the_scan_knows_what_takes_images() -> None:
    assert {"illustrations.image_rows", "playground.augmentation", "embedding_map.embedding_map"} < takers()
    assert not {"illustrations.course", "illustrations.embeddings"} & takers()


# What stays of them


@pytest.mark.parametrize(
    "kind", ["image/png", "image/jpeg", "image/svg+xml", "text/html", "text/markdown", "application/pdf"]
)
def test_of_a_cell_without_the_tag_words_stay_and_nothing_else(kind: str) -> None:
    picture = new_output(
        "display_data", {kind: PIXELS, "text/plain": "a cat"}, metadata={kind: {"alt": "cat"}}
    )
    printed, text = new_output("stream", text="50 images"), new_output("display_data", {"text/plain": "37"})
    cells = [
        new_code_cell(outputs=[printed, picture, text], metadata={"tags": tags}) for tags in ([], [NO_IMAGES])
    ]
    document = new_notebook(cells=cells)
    take_images_out(document, deepcopy(document), "CIFAR-10")
    nbformat.validate(document)
    first, second, third = document.cells[0].outputs
    assert (first, third) == (printed, text)
    note = "What may show images of CIFAR-10 is not passed on; run the notebook to see it here."
    assert second.data == {"text/plain": f"a cat\n{note}"}
    assert not second.metadata
    assert document.cells[1].outputs[1].data[kind] == PIXELS


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_of_executed_notebooks_images_are_lost_and_nothing_else(source: Path) -> None:
    document = nbformat.read(ROOT / "results/reference/mini/notebooks" / source.name, as_version=4)
    now = nbformat.read(source, as_version=4)
    tags = {cell.id: cell.metadata for cell in now.cells}
    for cell in document.cells:
        cell.metadata = tags.get(cell.id, cell.metadata)
    before = deepcopy(document)
    take_images_out(document, before, "CIFAR-10")
    lost = [cell.id for cell, was in zip(document.cells, before.cells, strict=True) if cell != was]
    cells, names = [cell for cell in now.cells if cell.cell_type == "code"], imported(now)
    assert lost == [cell.id for cell in cells if takers() & set(called(cell, names))]


# The whole reference


class Executions(list[str]):
    """Stands in for Papermill: copies a notebook that was executed before, or fails."""

    document: Any = None
    failing = False

    def __call__(self, source: Path, target: Path, *_: object) -> None:
        self.append(source.name)
        if self.failing:
            raise NotebookError(f"{source.name} failed.")
        target.parent.mkdir(exist_ok=True)
        nbformat.write(self.document, target)


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> Executions:
    noted = Executions()
    noted.document = new_notebook(cells=[executed("show()", PIXELS)])
    monkeypatch.setattr(publish, "execute", noted)
    return noted


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executions: Executions) -> Store:
    """All runs of a preset without training, with weights; one notebook, which shows images."""
    monkeypatch.setattr(publish, "project_root", lambda: tmp_path)
    made = Store(tmp_path / "results", "smoke")
    for stage in complete(SMOKE.runs):
        folder = synthetic.put(made, stage)
        (folder / WEIGHTS).write_bytes(stage.name.encode())
        write_run_sums(folder)
    (made.runs / "distill-0123.partial").mkdir()
    (tmp_path / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=[new_code_cell("show()")]), tmp_path / "notebooks" / NAME)
    return made


def executed(source: str, pixels: str, tags: Sequence[str] = ()) -> Any:
    """A cell that showed a picture."""
    output = new_output("display_data", {"image/png": pixels, "text/plain": "a digit"})
    return new_code_cell(source, outputs=[output], execution_count=1, metadata={"tags": [*tags]})


def make(store: Store) -> Store:
    made: Store = module.make_reference(SMOKE, store)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_reference_is_a_table_of_the_own_records_with_notebooks_and_figures(
    store: Store, executions: Executions, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, own = Store(store.results / "reference", "smoke"), contents(store.runs)
    reference.folder.mkdir(parents=True)
    (reference.folder / "of a former one").touch()
    assert main(["smoke", "--results", str(store.results)]) == 0
    assert f"{len(store.folders())} runs" in capsys.readouterr().out
    assert executions == [NAME]
    made = contents(reference.folder)
    assert made[f"notebooks/{NAME}"].count(PIXELS.encode()) == 1  # the digits are embedded
    assert {RECORDS, "INDEX.md", "report.html"} <= made.keys()
    assert not [name for name in made if name.endswith(WEIGHTS) or name == "of a former one"]
    assert [run.record for run in reference.all()] == [run.record for run in store.all()]
    assert [path.name for path in reference.results.iterdir()] == ["smoke"]
    assert contents(store.runs) == own
    assert check(store.results).damaged == []


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GLOBALS, "draw", lambda preset, store: None)


@pytest.mark.usefixtures("undrawn")
def test_the_table_has_a_run_a_line_sorted_by_key_with_the_digest_of_its_weights(store: Store) -> None:
    lines = (make(store).folder / RECORDS).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    keys = [record["key"] for record in records]
    assert keys == sorted(run.key for run in store.all())
    digests = {record["stage"]: record[WEIGHTS_DIGEST] for record in records}
    assert digests == {name: hashlib.sha256(name.encode()).hexdigest() for name in digests}
    table = pd.read_json(make(store).folder / RECORDS, lines=True, dtype={"key": str})
    assert table["key"].tolist() == keys


@pytest.mark.usefixtures("undrawn")
def test_images_of_a_set_that_is_not_embedded_stay_out(
    store: Store, executions: Executions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a copy says of its cells, only the notebook's own tag lets a picture pass."""
    monkeypatch.setitem(GLOBALS, "EMBEDDED", {})
    figure, pasted = "ZmlndXJl", {"cat.png": {"image/png": PIXELS}}
    words = new_markdown_cell("![a cat](attachment:cat.png)", attachments=pasted)
    cells = [new_code_cell("show()"), new_code_cell("draw()", metadata={"tags": [NO_IMAGES]}), words]
    nbformat.write(new_notebook(cells=cells), store.results.parent / "notebooks" / NAME)
    first = executed("preset = 1", PIXELS, ["injected-parameters", NO_IMAGES])
    cells = [first, executed("show()", PIXELS, [NO_IMAGES]), executed("draw()", figure), words]
    state = {"application/vnd.jupyter.widget-state+json": {"state": {"a": PIXELS}}}
    executions.document = new_notebook(cells=cells, metadata={"widgets": state})
    text = (make(store).folder / "notebooks" / NAME).read_text()
    assert "What may show images of Tinted MNIST is not passed on" in text
    assert PIXELS not in text
    assert "widget" not in text
    assert (text.count("image/png"), text.count(figure)) == (1, 1)


def lose_a_run(store: Store) -> None:
    store.path(SMOKE.distill).rename(store.runs / "elsewhere")


def change_weights(store: Store) -> None:
    (store.path(SMOKE.distill) / WEIGHTS).write_bytes(b"others")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("spoil", "why"),
    [(lose_a_run, "lacks 1 of"), (change_weights, "weights.safetensors was changed")],
)
def test_runs_that_are_missing_or_damaged_leave_the_reference_as_it_is(
    store: Store, spoil: Callable[[Store], None], why: str
) -> None:
    before = contents(make(store).folder)
    spoil(store)
    with pytest.raises(ConfigError, match=why) as refused:
        make(store)
    assert "\n" not in str(refused.value)
    assert contents(store.results / "reference" / "smoke") == before


@pytest.mark.usefixtures("undrawn")
def test_a_notebook_that_fails_leaves_the_reference_as_it_is(
    store: Store, executions: Executions, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(make(store).folder)
    executions.failing = True
    assert main(["smoke", "--results", str(store.results)]) == 1
    assert f"make_reference: {NAME} failed." in capsys.readouterr().err
    assert contents(store.results / "reference" / "smoke") == before


@pytest.mark.usefixtures("undrawn")
def test_a_failure_on_the_way_leaves_the_former_reference_and_nothing_beside_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(make(store).folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(GLOBALS, "draw", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        make(store)
    assert contents(store.results / "reference" / "smoke") == before
    assert [path.name for path in (store.results / "reference").iterdir()] == ["smoke"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [False, True], ids=["in place of the second", "after the first"])
def test_what_stops_the_exchange_half_way_leaves_the_former_reference(
    store: Store, monkeypatch: pytest.MonkeyPatch, stop: BaseException, before: bool
) -> None:
    former, rename = contents(make(store).folder), Path.rename

    def stopped(path: Path, target: Path) -> Path:
        leaving = target.name == "former"
        if leaving == before and path.name != "former":
            if before:
                rename(path, target)
            raise stop
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stopped)
        with pytest.raises((ConfigError, KeyboardInterrupt)):
            make(store)
    assert contents(store.results / "reference" / "smoke") == former
    assert [path.name for path in (store.results / "reference").iterdir()] == ["smoke"]


def test_of_other_folders_of_results_the_records_are_kept(store: Store) -> None:
    trials = store.folder.rename(store.results / "smoke-trials")
    assert main([trials.name, "--results", str(store.results)]) == 0
    reference = Store(store.results / "reference", "smoke-trials")
    own = Store(store.results, "smoke-trials")
    assert [run.record for run in reference.all()] == [run.record for run in own.all()]
    assert [path.name for path in reference.folder.iterdir()] == [RECORDS]
    assert main(["nothing", "--results", str(store.results)]) == 1
