"""A run under `torchrun`: what it leaves behind, and what one process's misfortune costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from several import free_port

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "support" / "launched.py"
RUN = ["run", "pretrain", "--preset", "smoke", "--epochs", "6", "--batch_size", "200", "--device", "cpu"]


def torchrun(results: Path, *options: str, rest: tuple[str, ...] = ()) -> list[str]:
    """The command for two processes that make one run."""
    started = ["-m", "torch.distributed.run", "--nproc-per-node=2", *options, str(SCRIPT)]
    return [sys.executable, *started, *RUN, *rest, "--results", str(results)]


def environment(results: Path, fault: str = "") -> dict[str, str]:
    there = os.environ | {"OMP_NUM_THREADS": "1", "NOTES": f"{results}.notes"}
    return there | ({"FAULT": fault} if fault else {})


def begun(results: Path) -> list[set[int]]:
    """From which step each process went on, attempt by attempt."""
    notes = [list(map(int, line.split())) for line in Path(f"{results}.notes").read_text().splitlines()]
    steps = [[step for rank, step in notes if rank == process] for process in (0, 1)]
    return [set(attempt) for attempt in zip(*steps, strict=True)]


def launch(results: Path, *options: str, fault: str = "", rest: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit status, and what was said."""
    done = subprocess.run(
        torchrun(results, *options, rest=rest),
        env=environment(results, fault),
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.returncode, done.stdout + done.stderr


def folder(results: Path) -> Path:
    (found,) = (results / "smoke" / "runs").glob("pretrain-*[0-9a-f]")
    return found


def told(results: Path) -> dict[str, Any]:
    """A record without what differs from run to run."""
    record: dict[str, Any] = json.loads((folder(results) / "record.json").read_text())
    del record["provenance"]
    return record


def same_runs(one: Path, other: Path) -> bool:
    files = ("weights.safetensors", "history.json")
    equal = [(folder(one) / name).read_bytes() == (folder(other) / name).read_bytes() for name in files]
    return all(equal) and told(one) == told(other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a run that two processes made in peace."""
    results = tmp_path_factory.mktemp("undisturbed")
    status, said = launch(results)
    assert status == 0, said
    return results


def test_two_processes_leave_what_one_leaves(undisturbed, tmp_path):
    alone = subprocess.run(
        [sys.executable, "-m", "clrkit", *RUN, "--results", str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    assert folder(undisturbed).name == folder(tmp_path).name
    runs = undisturbed / "smoke" / "runs"
    assert [each.name for each in runs.iterdir()] == [folder(undisturbed).name]
    assert {each.name for each in folder(undisturbed).iterdir()} == {
        each.name for each in folder(tmp_path).iterdir()
    }
    record = json.loads((folder(undisturbed) / "record.json").read_text())
    assert record["provenance"]["processes"] == 2
    first, other = (
        json.loads((folder(each) / "history.json").read_text()) for each in (undisturbed, tmp_path)
    )
    assert first["step"] == other["step"]
    assert first["loss"][0] == pytest.approx(other["loss"][0], rel=1e-5)  # later steps amplify roundings
    weights = (load_file(folder(each) / "weights.safetensors") for each in (undisturbed, tmp_path))
    shapes = [{name: value.shape for name, value in each.items()} for each in weights]
    assert shapes[0] == shapes[1]


def test_two_machines_need_no_common_folder(undisturbed, tmp_path):
    """Two agents of torchrun, each with results and a cache of its own; the first one's get the run."""
    port = free_port()
    meeting = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=two")
    started = []
    for name in ("one", "other"):
        command = torchrun(tmp_path / name, *meeting)
        command[command.index("--nproc-per-node=2")] = "--nproc-per-node=1"
        there = environment(tmp_path / name) | {"CLRKIT_CACHE": str(tmp_path / f"cache-{name}")}
        started.append(
            subprocess.Popen(command, env=there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    written = [name for name in ("one", "other") if (tmp_path / name).exists()]
    assert len(written) == 1  # which of the two is the first machine they settle themselves
    assert same_runs(undisturbed, tmp_path / written[0])


def test_a_run_that_is_there_is_only_returned(undisturbed):
    before = (folder(undisturbed) / "record.json").stat().st_mtime_ns
    status, said = launch(undisturbed)
    assert status == 0
    assert said.count("cached: ") == 1
    assert (folder(undisturbed) / "record.json").stat().st_mtime_ns == before


def test_an_error_in_one_process_ends_all_with_one_message(tmp_path, fault):
    status, said = launch(tmp_path, fault="1 error 20")
    assert status != 0
    assert said.count("clrkit: ") == 1
    assert "clrkit: an image that only process 1 reads is broken" in said
    assert "clrkit/__main__.py" not in said  # as a traceback of ours would have it
    fault(
        "processes: one fails in training",
        "an error at step 20 in the second of two",
        "nothing that was saved",
    )


def test_a_command_line_that_cannot_be_is_told_once(tmp_path):
    status, said = launch(tmp_path, rest=("--temprature", "0.1"))
    assert status != 0
    assert said.count("clrkit: run has no option --temprature; did you mean --temperature?") == 1


def test_a_killed_process_is_started_again_and_only_steps_are_lost(undisturbed, tmp_path, fault):
    status, said = launch(tmp_path, "--max-restarts=1", fault="1 kill 30")
    assert status == 0, said
    assert same_runs(undisturbed, tmp_path)
    first, second = begun(tmp_path)
    assert first == {0}
    assert len(second) == 1
    assert 0 < second.pop() <= 30
    fault(
        "processes: one is killed, torchrun starts all again",
        "SIGKILL at step 30 in the second of two",
        "the steps since the last state",
    )


def test_a_stopped_run_goes_on_from_where_it_was(undisturbed, tmp_path, fault):
    process = subprocess.Popen(
        torchrun(tmp_path),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list(tmp_path.glob("smoke/runs/*.partial/state")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    (partial,) = tmp_path.glob("smoke/runs/*.partial")
    step = json.loads((partial / "progress.json").read_text())["step"]
    assert said.count("clrkit: stopped; finished steps are kept") == 1, said
    assert step > 0
    status, said = launch(tmp_path)
    assert status == 0, said
    assert same_runs(undisturbed, tmp_path)
    assert begun(tmp_path) == [{0}, {step}]
    fault("processes: a run of two is stopped", "SIGTERM to torchrun", "nothing")
