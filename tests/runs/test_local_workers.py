"""Many runs in several processes: each made once, in the order they build on each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import psutil
import pytest
from stopping import kill_with_workers_at_work

from clrkit.config import Stage
from clrkit.experiments.presets import preset
from clrkit.runs.local_workers import missing, run_all, supervise
from clrkit.runs.reproduce import complete
from clrkit.runs.run import run_or_load
from clrkit.runs.store import Progress, RunError, Store

SMOKE = preset("smoke")


@dataclass
class Paper:
    """A executor that makes nothing: it ends its runs one by one, the last begun first."""

    size: int
    working: list[Stage] = field(default_factory=list)
    done: list[Stage] = field(default_factory=list)
    most: int = 0

    def begin(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            assert stage not in [*self.working, *self.done]
            assert stage.source is None or stage.source in self.done
        self.working += stages
        self.most = max(self.most, len(self.working))

    def ended(self) -> list[Stage]:
        self.done.append(self.working.pop())
        return self.done[-1:]

    def news(self) -> Iterator[Progress]:
        yield Progress(self.done[-1], 1, 1, 0.0, 0.0, 0.0, {})

    def close(self) -> None:
        raise AssertionError("a executor is closed by who hired it")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_runs_are_handed_out_once_after_what_they_build_on_and_as_many_as_the_crew_takes(size: int) -> None:
    executor, todo = Paper(size), complete(SMOKE.runs)
    news = [each.config for each in supervise(todo, executor) if each]
    assert news == executor.done
    assert {*executor.done} == {*todo}
    assert len(executor.done) == len(todo)
    assert min(size, 2) <= executor.most <= size


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("results"), "smoke")
    for _ in run_all(SMOKE.runs, store, workers=2):
        pass
    return store


@pytest.mark.slow
def test_a_sweep_makes_every_run_and_what_it_builds_on(made: Store) -> None:
    assert {run.folder for run in made.all()} == {made.path(stage) for stage in complete(SMOKE.runs)}
    assert missing(SMOKE.runs, made) == []
    assert not list(made.runs.glob("*.partial"))


@pytest.mark.slow
def test_a_second_sweep_trains_nothing(made: Store) -> None:
    assert list(run_all(SMOKE.runs, made)) == []


def test_missing_runs_come_parents_first(tmp_path: Path) -> None:
    todo = missing([SMOKE.distill], Store(tmp_path, "smoke"))
    assert [stage.name for stage in todo] == ["pretrain", "finetune", "distill"]


@pytest.mark.slow
def test_closing_a_sweep_leaves_partial_runs_that_go_on(tmp_path: Path) -> None:
    store = Store(tmp_path, "smoke")
    longer = [SMOKE.resolve("pretrain", epochs=40, seed=seed) for seed in (0, 1)]
    work = run_all(longer, store, workers=2)
    next(filter(None, work))
    work.close()
    assert [store.state(stage)[0] for stage in longer].count("partial") >= 1


COMMAND = [sys.executable, "-m", "clrkit", "run", "pretrain", "--preset", "smoke"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_partial_run_and_one_line(tmp_path: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "--epochs", "500", "--results", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("smoke/runs/*.partial/progress.json")):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith("the same command resumes.")
    assert "Traceback" not in errors
    assert list(tmp_path.glob("smoke/runs/*.partial/state"))


@pytest.mark.slow
def test_two_processes_make_one_run_once(tmp_path: Path) -> None:
    command = [*COMMAND, "--results", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({output.split("(")[1] for output in outputs}) == 1
    assert len(list(tmp_path.glob("smoke/runs/*"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_killed_sweep_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clrkit", "reproduce", "--preset", "mini", "--results", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("mini/runs/*.partial")):
        time.sleep(0.05)
    kill_with_workers_at_work(process)


def kill_a_worker(stage: Stage, store: Store) -> None:
    """Make a run in a process of its own, and kill that once it is at work."""
    for progress in run_all([stage], store, workers=1):
        if progress:
            workers = [
                child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())
            ]
            workers[-1].kill()


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence_and_the_next_sweep_goes_on(
    tmp_path: Path, fault: Callable[..., None]
) -> None:
    store, config = Store(tmp_path, "smoke"), SMOKE.resolve("pretrain", epochs=8)
    with closing(run_or_load(config, store)) as steps:
        *_, last = islice(steps, 20)
    with pytest.raises(RunError, match=r"^A worker process died \(killed, or out of memory\)"):
        kill_a_worker(config, store)
    assert next(run_or_load(config, store)).step == last.step + 1
    list(run_all([config], store, workers=1))
    assert store.find(config) is not None
    fault(
        "processes: a worker of a sweep is killed", "SIGKILL, in training", "the steps since the last state"
    )
