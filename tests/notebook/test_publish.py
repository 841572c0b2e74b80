"""Publishing: what is up to date and whole stays, the rest is made anew, by one process at a time."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
import synthetic
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from clrkit.experiments.ablation_settings import ablation_runs
from clrkit.experiments.presets import preset
from clrkit.notebook import publish as module
from clrkit.notebook.papermill import NotebookError
from clrkit.notebook.publish import draw, execute_notebooks, notebooks_of, publishing
from clrkit.runs.check import check
from clrkit.runs.reproduce import complete
from clrkit.runs.store import NOTE_SECONDS, Store, write_sums

SMOKE = preset("smoke")
NAMES = ["00_start.ipynb", "01_next.ipynb"]
CODE = "print(1)"
ERROR = new_output("error", ename="ValueError", evalue="", traceback=[])


def write(path: Path, cells: Sequence[Any]) -> None:
    nbformat.write(new_notebook(cells=list(cells)), path)


class Executions(list[str]):
    """Stands in for Papermill: writes a copy, notes its name; fails, or is stopped, at a notebook.

    (Here a notebook that fails leaves a copy without a trace of it, as where the kernel dies.)
    """

    failing = ""
    stopped = ""

    def __call__(self, source: Path, target: Path, *_: object) -> None:
        self.append(source.name)
        target.parent.mkdir(exist_ok=True)
        write(target, [new_code_cell(CODE, execution_count=1)])
        if source.name == self.failing:
            raise NotebookError(f"{source.name} failed.")
        if source.name == self.stopped:
            raise KeyboardInterrupt


@pytest.fixture
def executions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executions:
    (tmp_path / "notebooks").mkdir()
    for name in NAMES:
        write(tmp_path / "notebooks" / name, [new_code_cell(CODE)])
    noted = Executions()
    monkeypatch.setattr(module, "execute", noted)
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    return noted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results", "smoke")
    for stage in complete(SMOKE.runs):
        synthetic.put(made, stage, lambda stage: 50.0)
    return made


def test_an_executed_copy_stays_unless_it_is_damaged(store: Store, executions: Executions) -> None:
    execute_notebooks(SMOKE, store)
    execute_notebooks(SMOKE, store)
    assert executions == NAMES
    (store.folder / "notebooks" / NAMES[1]).write_text("{}")
    execute_notebooks(SMOKE, store)
    assert executions == [*NAMES, NAMES[1]]
    assert check(store.results).damaged == []


def test_checksums_are_written_of_what_was_executed_and_of_nothing_else(
    store: Store, executions: Executions
) -> None:
    execute_notebooks(SMOKE, store)
    damaged = store.folder / "notebooks" / NAMES[1]
    damaged.write_text("{}")
    (store.folder / "notebooks" / NAMES[0]).unlink()
    executions.failing = NAMES[0]
    with pytest.raises(NotebookError):
        execute_notebooks(SMOKE, store)
    (problem,) = check(store.results).damaged
    assert problem.startswith(f"{damaged} was changed")


def test_a_copy_that_was_stopped_half_way_is_executed_again(store: Store, executions: Executions) -> None:
    executions.stopped = NAMES[1]
    with pytest.raises(KeyboardInterrupt):
        execute_notebooks(SMOKE, store)
    executions.stopped = ""
    execute_notebooks(SMOKE, store)
    assert executions == [*NAMES, NAMES[1]]
    assert check(store.results).damaged == []


def test_a_notebook_with_images_of_its_own_is_executed_for_presets_of_those_images_alone() -> None:
    everything, *others = (notebooks_of(preset(name)) for name in ("mini", "smoke", "cifar10_cpu"))
    assert len(everything) == 8
    assert others == [everything, everything[:6]]


def test_a_notebook_that_failed_is_executed_again(store: Store, executions: Executions) -> None:
    executions.failing = NAMES[0]
    with pytest.raises(NotebookError):
        execute_notebooks(SMOKE, store)
    assert check(store.results).damaged == []
    executions.failing = ""
    execute_notebooks(SMOKE, store)
    assert executions == [NAMES[0], *NAMES]


@pytest.mark.parametrize(
    "cells",
    [
        [new_code_cell(CODE, execution_count=1, outputs=[ERROR])],
        [new_code_cell(CODE)],
        [new_code_cell("print(2)", execution_count=1)],
        [new_code_cell(CODE, execution_count=1), new_markdown_cell("of another version")],
        [],
    ],
    ids=["failed", "not executed", "other code", "a cell more", "a cell less"],
)
def test_a_copy_that_failed_or_has_other_cells_is_executed_again_however_young(
    store: Store, executions: Executions, cells: Sequence[Any]
) -> None:
    execute_notebooks(SMOKE, store)
    folder = store.folder / "notebooks"
    write(folder / NAMES[1], cells)
    write_sums(folder, NAMES)
    execute_notebooks(SMOKE, store)
    assert executions == [*NAMES, NAMES[1]]


def test_a_new_run_of_the_ablation_lab_makes_the_notebooks_anew(store: Store, executions: Executions) -> None:
    execute_notebooks(SMOKE, store)
    (new, *_) = [run for run in ablation_runs(SMOKE) if not store.find(run)]
    os.utime(synthetic.put(store, new), times=(time.time() + 60,) * 2)
    execute_notebooks(SMOKE, store)
    assert executions == [*NAMES, *NAMES]


@pytest.mark.slow
def test_only_one_process_publishes_and_the_other_says_that_it_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = Store(tmp_path, "smoke"), Store(tmp_path, "mini")
    entered = threading.Event()

    def wait() -> None:
        with publishing(other):
            entered.set()

    with publishing(mine):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(NOTE_SECONDS + 0.5)
    thread.join()
    assert entered.is_set()
    assert "waiting for a process that publishes" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.lock"))


def test_runs_that_are_missing_are_named_among_what_is_not_shown(store: Store) -> None:
    (store.results / "reference").mkdir()  # else the checkout's is shown
    gone = [stage for stage in SMOKE.runs if stage.name == "finetune"]
    for stage in gone:
        shutil.rmtree(store.path(stage))
    index, _ = draw(SMOKE, store)
    total = len(complete(SMOKE.runs))
    (line,) = [line for line in index.read_text().splitlines() if line.startswith("- runs: ")]
    assert line.startswith(f"- runs: {len(gone)} of {total} are not recorded: finetune fraction")
    assert line.count("seed 0") == len(gone)
