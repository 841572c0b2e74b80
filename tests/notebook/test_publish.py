"""Publishing: notebooks are executed, figures drawn, by one process at a time."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import synthetic

from clrkit.experiments.presets import preset
from clrkit.notebook import publish as module
from clrkit.notebook.papermill import NotebookError
from clrkit.notebook.publish import INDEX, OUTDATED, REPORT, draw, notebooks_of, publish, publishing
from clrkit.results import figures, style
from clrkit.runs.check import check
from clrkit.runs.reproduce import complete
from clrkit.runs.store import NOTE_SECONDS, Store

SMOKE = preset("smoke")
NAMES = ["00_start.ipynb", "01_next.ipynb"]


class Executions(list[str]):
    """Stands in for Papermill: notes the name of each notebook and fails at one."""

    failing = ""

    def __call__(self, source: Path, target: Path, *_: object) -> None:
        self.append(source.name)
        target.parent.mkdir(exist_ok=True)
        target.write_text("{}")
        if source.name == self.failing:
            raise NotebookError(f"{source.name} failed.")


@pytest.fixture
def executions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executions:
    noted = Executions()
    monkeypatch.setattr(module, "execute", noted)
    monkeypatch.setattr(module, "notebooks_of", lambda _: [tmp_path / name for name in NAMES])
    return noted


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """All runs of a preset, without training; one figure, whose pictures are not rendered."""
    monkeypatch.setattr(figures, "FIGURES", (figures.method_bars,))
    monkeypatch.setattr(style, "encode", lambda figure, kind: kind.encode())
    (tmp_path / "results" / "reference").mkdir(parents=True)  # else the reference is that of the checkout
    made = Store(tmp_path / "results", "smoke")
    for stage in complete(SMOKE.runs):
        synthetic.put(made, stage, lambda stage: 75.0)
    return made


def test_every_notebook_is_executed_then_everything_is_drawn(store: Store, executions: Executions) -> None:
    shown: list[str] = []
    for _ in range(2):
        outcome = publish(SMOKE, store, shown.append)
        assert outcome == f"no reference to compare with; see {store.results / INDEX}"
    assert executions == [*NAMES, *NAMES]
    assert shown[:2] == [f"notebook {name}" for name in NAMES]
    for path in (store.results / INDEX, store.folder / INDEX, store.folder / REPORT):
        assert "75.0" in path.read_text()
    assert "00_start" in (store.folder / INDEX).read_text()
    assert check(store.results).damaged == []


def test_a_notebook_that_fails_ends_publishing(store: Store, executions: Executions) -> None:
    executions.failing = NAMES[0]
    with pytest.raises(NotebookError):
        publish(SMOKE, store, lambda _: None)
    assert executions == NAMES[:1]
    assert not (store.results / INDEX).exists()
    assert not list(store.results.glob("*.lock"))


def test_drawing_replaces_whatever_is_there_and_the_notes_of_older_versions(store: Store) -> None:
    draw(SMOKE, store)
    files = [path for path in store.results.rglob("*") if path.is_file() and store.runs not in path.parents]
    contents = {path: path.read_bytes() for path in files}
    assert {path.name for path in files} >= {INDEX, REPORT, "method_bars.svg", "method_bars.csv"}
    for path in files:
        path.write_bytes(b"?")
    (store.folder / "notebooks").mkdir()
    for name in OUTDATED:
        (store.folder / name).write_text("{}")
    draw(SMOKE, store)
    assert {path: path.read_bytes() for path in files} == contents
    assert not any((store.folder / name).exists() for name in OUTDATED)


def test_another_record_makes_another_figure(store: Store) -> None:
    draw(SMOKE, store)
    shutil.rmtree(store.path(SMOKE.finetune))
    synthetic.put(store, SMOKE.finetune, lambda stage: 12.5)
    draw(SMOKE, store)
    assert "12.5" in (store.folder / "figures" / "method_bars.csv").read_text()


def test_a_notebook_with_images_of_its_own_is_executed_for_presets_of_those_images_alone() -> None:
    everything, *others = (notebooks_of(preset(name)) for name in ("mini", "smoke", "cifar10_cpu"))
    assert len(everything) == 8
    assert others == [everything, everything[:6]]


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


def test_missing_runs_are_named_among_what_is_not_shown(store: Store) -> None:
    gone = [stage for stage in SMOKE.runs if stage.name == "finetune"]
    for stage in gone:
        shutil.rmtree(store.path(stage))
    index, _ = draw(SMOKE, store)
    total = len(complete(SMOKE.runs))
    (line,) = [line for line in index.read_text().splitlines() if line.startswith("- runs: ")]
    assert line.startswith(f"- runs: {len(gone)} of {total} are not recorded: finetune fraction")
    assert line.count("seed 0") == len(gone)
