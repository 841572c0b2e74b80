"""A stopped run goes on exactly: record, history and weights are those of one that was never stopped."""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from itertools import count, product
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import numpy as np
import pytest
import torch
from annotations import Record
from PIL import Image
from stopping import NEVER, End, Stop, kill_with_workers_at_work, run

from clrkit.runs.checkpoint import read_state

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PRETRAIN = words("pretrain --batch_size 40 --epochs 4 --monitor_epochs 1")
SHORT = words("pretrain --batch_size 60 --epochs 1 --monitor_epochs 1")
FINETUNE = words(
    "finetune --pretrain.batch_size 40 --finetune.batch_size 10 --fraction 0.3 --finetune.epochs 4"
)
DISTILL = words(
    "distill --pretrain.batch_size 40 --finetune.batch_size 10 --fraction 0.3 --distill.batch_size 40 "
    "--distill.epochs 4"
)
MEMORY = words("--memory yes --memory_size 100 --memory_momentum 0.9 --optimizer lars --scaling linear")
RUNS = {
    "pretraining": PRETRAIN,
    "pretraining with a memory, by LARS": (*PRETRAIN, *MEMORY),
    "pretraining with blur, by AdamW": (*PRETRAIN, *words("--blur yes --optimizer adamw")),
    "a linear probe": words("probe --pretrain.batch_size 40 --probe.batch_size 40 --probe.epochs 4"),
    "supervised training": words("supervised --batch_size 10 --fraction 0.3 --epochs 4 --optimizer sgd"),
    "fine-tuning": FINETUNE,
    "distillation": DISTILL,
    "distillation with labels": (*DISTILL, *words("--label_weight 0.5")),
}
STEPS = 12  # of each of them
SIGNALS = (SIGINT, SIGTERM, SIGKILL)
LOST = {SIGKILL: "the steps since the last state"}


class Bench:
    """A small set of images, and the runs on them that were never stopped.

    Attributes:
        folder: where all of it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = cache(self.make_whole)
        chance = np.random.RandomState(0)
        for part, images in (("train", 24), ("test", 6)):
            for label, number in product("abcde", range(images)):
                file = folder / "images" / part / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(chance.randint(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)

    def arguments(self, command: tuple[str, ...]) -> list[str]:
        images = f"--preset smoke --dataset folder --root {self.folder / 'images'} --image_size 16"
        return [*command, *images.split()]

    def make_whole(self, command: tuple[str, ...]) -> Path:
        """The results folder of a run that was never stopped, and what it builds on."""
        results = Path(tempfile.mkdtemp(prefix="whole-", dir=self.folder)) / "results"
        end = run(self.arguments(command), results, state_seconds=math.inf)
        assert end.status == 0, end.output
        return results

    def results(self, command: tuple[str, ...]) -> Path:
        """A new results folder that holds what a run builds on, and the run not."""
        results = Path(tempfile.mkdtemp(prefix="stopped-", dir=self.folder)) / "results"
        if command[0] in ("probe", "finetune", "distill"):
            shutil.copytree(self.whole(command), results)
            shutil.rmtree(only(results, command[0]))
        return results

    def assert_same(self, command: tuple[str, ...], results: Path) -> None:
        """The run is there, bit for bit as if never stopped, and nothing but a lock is left of its making."""
        there, whole = (only(folder, command[0]) for folder in (results, self.whole(command)))
        assert content(there) == content(whole)
        assert {path.suffix for path in results.glob("smoke/runs/*")} <= {
            "",
            ".lock",
        }  # of the dead, unlocked


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def only(results: Path, stage: str) -> Path:
    """The folder of the one run of a stage."""
    (folder,) = (path for path in results.glob(f"smoke/runs/{stage}-*") if not path.suffix)
    return folder


def content(folder: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    """Weights and history of a run, and its record but for where and when it was made."""
    record = json.loads((folder / "record.json").read_text())
    assert record.pop("provenance")
    weights, history = ((folder / name).read_bytes() for name in ("weights.safetensors", "history.json"))
    return weights, history, record


def saved_step(results: Path) -> int:
    """The step of the state from which a stopped run goes on; 0 without one."""
    contents = [read_state(path / "state") for path in results.glob("smoke/runs/*.partial")]
    states = [torch.load(io.BytesIO(content), weights_only=True) for content in contents if content]
    return int(states[0]["training"]["step"]) if states else 0


def go(arguments: list[str], results: Path, stop: Stop = NEVER) -> End:
    """One session; it begins after the last saved state and, unless it is killed, loses nothing."""
    begins = saved_step(results) + 1
    end = run(arguments, results, stop)
    assert "Traceback" not in end.output
    assert end.steps == list(range(begins, begins + len(end.steps)))
    if end.status == 130:
        assert saved_step(results) == begins + len(end.steps) - 1
    return end


def stop_and_go(bench: Bench, command: tuple[str, ...], numbers: Sequence[Signals], seed: str) -> None:
    """A session for each signal, stopped in or after a random step of it, one to the end, and the result."""
    chance, results, arguments = random.Random(seed), bench.results(command), bench.arguments(command)
    for number in numbers:
        step = saved_step(results) + chance.randint(1, 2)
        delay = chance.choice((0, chance.uniform(0, 0.01)))
        end = go(arguments, results, Stop(number, step, delay))
        assert end.status == (-SIGKILL if number == SIGKILL else 130), (seed, end)
    end = go(arguments, results)
    assert end.status == 0, (seed, end)
    assert end.steps[-1] == STEPS
    bench.assert_same(command, results)


@pytest.mark.slow
def test_a_run_stopped_by_every_signal_in_turn_is_as_if_never_stopped(bench: Bench, fault: Record) -> None:
    stop_and_go(bench, RUNS["pretraining with a memory, by LARS"], SIGNALS, seed="every signal in turn")
    for number in SIGNALS:
        lost = LOST.get(number, "nothing")
        fault("training: one run is stopped again and again", f"{number.name} at a random step", lost)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_stage_stopped_at_random_is_as_if_never_stopped(name: str, bench: Bench, fault: Record) -> None:
    stop_and_go(bench, RUNS[name], random.Random(name).sample(SIGNALS, 3), seed=name)
    for number in SIGNALS:
        fault(f"training: {name} is stopped", f"{number.name} at a random step", LOST.get(number, "nothing"))


@pytest.mark.slow
def test_a_run_killed_before_any_change_on_disk_is_as_if_never_stopped(bench: Bench, fault: Record) -> None:
    """While a state is written, between the last step and the record, in half a record, before the rename."""
    command = SHORT
    arguments, made = bench.arguments(command), set[str]()
    for change in count(1):
        results = bench.results(command)
        end = go(arguments, results, Stop(SIGKILL, change=change))
        if end.status == 0:
            break
        assert end.status == -SIGKILL, end
        made.add(re.sub(r"[-.][0-9a-f]{16}", "", end.changes[-1]))
        assert go(arguments, results).status == 0
        bench.assert_same(command, results)
    for name in ("weights.safetensors", "history.json", "record.json", "SHA256SUMS"):
        assert {f"{event} /pretrain.partial/.{name}.new" for event in ("open", "os.rename")} <= made
    assert {"os.rename /pretrain.partial", "os.remove /pretrain.lock"} <= made
    assert "os.rename /pretrain.partial/.state.new" in made
    assert change > 25  # how many exactly depends on time, by notes of progress
    how = "SIGKILL before each change in the results folder, a file under way cut in half"
    fault("training: a run is killed while it writes a state or its result", how, LOST[SIGKILL], times=25)


@pytest.mark.slow
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_a_run_that_is_asked_to_stop_while_it_writes_keeps_everything(
    number: Signals, bench: Bench, fault: Record
) -> None:
    command = SHORT
    arguments = bench.arguments(command)
    for change in range(1, 24, 3):
        results = bench.results(command)
        end = go(arguments, results, Stop(number, change=change))
        assert len(end.changes) >= change
        assert end.status in (0, 130)
        assert go(arguments, results).status == 0
        bench.assert_same(command, results)
    how = f"{number.name} before a change in the folder"
    fault("training: a run is stopped while it writes", how, "nothing", times=8)


def finished(results: Path) -> dict[Path, int]:
    """The finished runs of a results folder, with the time at which each record was written."""
    records = [path for path in results.glob("smoke/runs/*/record.json") if not path.parent.suffix]
    return {path.parent: path.stat().st_mtime_ns for path in records}


@pytest.mark.slow
def test_a_sweep_whose_first_process_is_killed_ends_and_goes_on(bench: Bench, fault: Record) -> None:
    long = words("pretrain --batch_size 40 --epochs 30 --monitor_epochs 1")
    results = bench.results(long)
    sweep = [sys.executable, "-m", "clrkit", "sweep", *bench.arguments(long), "--seed", "0,1,2,3"]
    sweep += ["--results", str(results), "--workers", "2"]
    process = subprocess.Popen(sweep, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (finished(results) and list(results.glob("smoke/runs/*.partial"))):
        assert process.poll() is None
        time.sleep(0.01)
    kill_with_workers_at_work(process)
    kept, cut = finished(results), list(results.glob("smoke/runs/*.partial"))
    assert 1 <= len(kept) < 4
    subprocess.run(sweep, check=True, capture_output=True)
    assert kept.items() <= finished(results).items()
    assert len(finished(results)) == 4
    for folder in (path.with_suffix("") for path in cut):
        seed = str(content(folder)[2]["config"]["seed"])
        assert content(folder) == content(only(bench.whole((*long, "--seed", seed)), "pretrain"))
    lost = "the steps since the last state of the runs under way"
    fault("processes: the first process of a sweep is killed", "SIGKILL while its workers train", lost)
