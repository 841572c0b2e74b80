"""Commands in parts of so many minutes: the same runs as at once, and what is said before and after."""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clrkit.cli.main import main
from clrkit.cli.progress import TIME_UP, SweepLine, noting
from clrkit.cli.sweep import PART_OVER
from clrkit.config import Stage
from clrkit.experiments.presets import preset
from clrkit.runs.parts import MOST_PARTS, Part, Piece, Schedule, listed, table
from clrkit.runs.provenance import available_cores
from clrkit.runs.reproduce import make_runs
from clrkit.runs.store import Progress, Store, progress_file
from clrkit.scale.local_workers import runs_at_once
from clrkit.scale.slurm import Cluster

SMOKE = preset("smoke")
LONG = SMOKE.resolve("pretrain", epochs=1000)  # of 16 steps
WORDS = ["supervised", "--preset", "smoke", "--epochs", "4"]  # four steps
AN_INSTANT = ["--minutes", "0.00001"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "reference").mkdir()  # else the checkout's is the reference
    return Store(tmp_path, "smoke")


def note(store: Store, stage: Stage, step: int, seconds: float) -> None:
    """An unfinished run."""
    file = progress_file(store.path(stage))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"step": step, "total": 16 * stage.epochs, "seconds": seconds}))


def outcome(results: Path) -> tuple[bytes, bytes, dict[str, float]]:
    (run,) = Store(results, "smoke").all()
    weights, history = ((run.folder / name).read_bytes() for name in ("weights.safetensors", "history.json"))
    return weights, history, run.metrics


def test_a_run_made_in_parts_is_the_one_made_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *WORDS, "--results", str(tmp_path / "whole"), "--minutes", "60"]) == 0
    command = ["run", *WORDS, "--results", str(tmp_path / "parts")]
    assert [main([*command, *AN_INSTANT]) for _ in range(3)] == [PART_OVER] * 3 == [75] * 3
    assert main(command) == 0
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    told = capsys.readouterr()
    parts = [line for line in told.err.splitlines() if line.startswith("part over")]
    name, more = "R8 0.25x supervised fraction 0.01 seed 0", r"[\d,]+ more parts of 1 s \(\d+ s\)"
    steps = [f"{name}, epochs {step} to {step} of 4; {more}" for step in (1, 2, 3)]
    wanted = [rf"part over after \d+ s: {each}" for each in (f"{name}; nothing is left after it", *steps)]
    assert all(re.fullmatch(*each) for each in zip(wanted, parts, strict=True)), parts
    assert told.out.count("done: ") == 2


@pytest.mark.slow
def test_a_sweep_in_parts_makes_what_it_makes_at_once(tmp_path: Path) -> None:
    command = ["sweep", *WORDS, "--workers", "1", "--results"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    assert main([*command, str(tmp_path / "parts"), *AN_INSTANT]) == PART_OVER
    assert Store(tmp_path / "parts", "smoke").state(SMOKE.resolve("supervised", epochs=4))[0] == "partial"
    assert main([*command, str(tmp_path / "parts"), "--minutes", "60"]) == 0
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(("noted", "status"), [(TIME_UP, 75), (signal.SIGTERM, 130)])
@pytest.mark.parametrize("command", [["sweep", "pretrain"], ["reproduce"]])
def test_a_part_that_is_over_and_a_signal_have_statuses_of_their_own(
    command: list[str], noted: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clrkit.runs.reproduce.make_runs", lambda *work: bool(work[4].append(noted)))
    assert main([*command, "--preset", "smoke", "--minutes", "9", "--results", str(tmp_path)]) == status


def test_a_time_is_noted_as_a_signal_is() -> None:
    before = {*threading.enumerate()}
    with noting(until=time.monotonic() + 0.05) as noted:
        assert noted == []
        time.sleep(0.2)
        assert noted == [TIME_UP]
    with noting(until=time.monotonic() + 60) as noted:
        (timer,) = {*threading.enumerate()} - before
    timer.join(5)
    assert not timer.is_alive()


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "ten"])
def test_minutes_are_a_number_above_0(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "pretrain", "--minutes", text])
    assert "argument --minutes" in capsys.readouterr().err


def test_a_part_says_what_it_holds_and_what_it_did(store: Store) -> None:
    note(store, LONG, step=16 * 130, seconds=130 * 4.0)
    part = Part([LONG], store, minutes=10, workers=1)
    name = "part of 10 min: R8 0.25x pretrain seed 0"
    assert (
        part.outlook() == f"{name}, epochs 131 to 280 of 1,000; about 10 min; 5 more parts of 10 min (48 min)"
    )
    part.begun -= 599.5
    note(store, LONG, step=16 * 430, seconds=430 * 4.0)  # twice as fast: 1,200 seconds of work
    account = "part over after 10 min: R8 0.25x pretrain seed 0, epochs 131 to 430 of 1,000"
    assert part.account() == f"{account}; 2 more parts of 10 min (19 min)"


def test_a_part_of_runs_that_were_not_timed_says_so(store: Store) -> None:
    part = Part([SMOKE.probe], store, minutes=10, workers=1)
    names = "R8 0.25x pretrain seed 0; R8 0.25x probe seed 0"
    assert part.outlook() == f"part of 10 min: {names}; time unknown, no such run was timed yet"
    note(store, SMOKE.pretrain, step=8, seconds=60.0)
    assert part.outlook() == f"part of 10 min: {names}; time unknown, not all were timed yet"
    rest = "at least 1 more part of 10 min (1 s, 1 run not timed yet left out)"
    assert part.account().endswith(f"pretrain seed 0, epochs 1 to 1 of 1; {rest}")


def test_runs_at_the_same_time_shorten_the_parts(store: Store) -> None:
    stages = [SMOKE.resolve("pretrain", epochs=600, seed=seed) for seed in (0, 1)]
    note(store, stages[0], step=160, seconds=10.0)
    assert len(table(stages, store, 5.0, workers=1)) == 1 + 4
    assert len(table(stages, store, 5.0, workers=2)) == 1 + 2


def test_the_plan_lists_the_parts_ahead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reference").mkdir()
    store = Store(tmp_path, "smoke")
    note(store, SMOKE.pretrain, step=4, seconds=200.0)
    plan = ["plan", "--preset", "smoke", "--results", str(tmp_path), "--minutes"]
    assert main([*plan, "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(next(line for line in lines if line.startswith("In parts of 2 min, ")))
    first, *more = lines[at + 1 :]
    assert first.startswith("    1  about 2 min: R8 0.25x pretrain seed 0, epochs 1 to 1 of 1")
    assert more
    with pytest.raises(SystemExit, match="2"):
        main([*plan, "2", "--json"])


def test_no_parts_are_ahead_of_what_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clrkit.runs.parts.missing", lambda *_: [])
    assert table([LONG], Store(tmp_path, "smoke"), 10, 1) == ["No parts are left: all runs are there."]


CHAINS = [
    stage
    for seed in (0, 1)
    for stage in (SMOKE.resolve("distill", seed=seed), SMOKE.resolve("probe", seed=seed))
]
LINKS = list(dict.fromkeys(link for stage in CHAINS for link in stage.chain))
TIMES = st.lists(st.floats(0.1, 500) | st.none(), min_size=len(LINKS), max_size=len(LINKS))


@settings(max_examples=50)
@given(TIMES, st.integers(1, 9))
def test_a_schedule_has_a_worker_for_each_run_and_takes_each_after_what_it_builds_on(
    times: list[float | None], workers: int
) -> None:
    schedule = Schedule([Piece(stage, 0, 1, each) for stage, each in zip(LINKS, times, strict=True)], workers)
    spans = {piece.stage: (first, last) for first, last, piece in schedule.pieces}
    took = {stage: each or 0.0 for stage, each in zip(LINKS, times, strict=True)}
    assert set(spans) == set(LINKS)
    for stage, (first, last) in spans.items():
        assert last - first == pytest.approx(took[stage])
        assert stage.source is None or first >= spans[stage.source][1]
        assert sum(begin <= first < end for begin, end in spans.values()) <= workers
    longest, work = max(sum(took[link] for link in stage.chain) for stage in LINKS), sum(took.values())
    least, most = max(longest, work / workers), longest + work / workers  # Graham's bound on list scheduling
    assert least * (1 - 1e-9) <= schedule.seconds <= most * (1 + 1e-9)


@settings(max_examples=25)
@given(TIMES, st.integers(1, 3), st.floats(1, 300))
def test_parts_hold_all_the_work_each_once(times: list[float | None], workers: int, seconds: float) -> None:
    schedule = Schedule([Piece(stage, 0, 1, each) for stage, each in zip(LINKS, times, strict=True)], workers)
    parts = max(1, math.ceil(schedule.seconds / seconds))
    ends = [*(place * seconds for place in range(parts)), math.inf]
    pieces = [piece for begin, end in pairwise(ends) for piece in schedule.within(begin, end)]
    for stage, whole in zip(LINKS, times, strict=True):
        mine = [piece for piece in pieces if piece.stage == stage]
        assert [piece.first for piece in mine[1:]] == pytest.approx([piece.last for piece in mine[:-1]])
        assert (mine[0].first, mine[-1].last) == (0, 1)
        assert sum(piece.seconds or 0 for piece in mine) == pytest.approx(whole or 0)


def test_a_run_takes_as_long_with_many_workers(store: Store) -> None:
    note(store, LONG, step=8000, seconds=3200.0)
    part = Part([LONG], store, minutes=10, workers=16)
    name = "part of 10 min: R8 0.25x pretrain seed 0"
    assert (
        part.outlook() == f"{name}, epochs 501 to 594 of 1,000; about 10 min; 5 more parts of 10 min (43 min)"
    )
    part.begun -= 600
    note(store, LONG, step=9600, seconds=3840.0)
    assert part.account().endswith("epochs 501 to 600 of 1,000; 5 more parts of 10 min (40 min)")


def test_a_run_at_its_last_step_that_is_not_there_has_its_end_left(store: Store) -> None:
    note(store, SMOKE.pretrain, step=16, seconds=60.0)
    part = Part([SMOKE.pretrain], store, minutes=10, workers=1)
    name = "R8 0.25x pretrain seed 0, its end"
    assert part.outlook() == f"part of 10 min: {name}; about 0 s; nothing is left after it"
    assert part.account().endswith("no step done; 1 more part of 10 min (0 s)")
    assert table([SMOKE.pretrain], store, 10, 1)[1:] == [f"    1  about 0 s: {name}"]


def test_a_damaged_note_of_progress_counts_as_nothing_done(store: Store) -> None:
    note(store, LONG, step=8000, seconds=4000.0)
    progress_file(store.path(LONG)).write_text("{")
    assert SweepLine([LONG], store, workers=1).before == {LONG: 0.0}
    assert (
        Part([LONG], store, minutes=10, workers=1).outlook().startswith("part of 10 min: R8 0.25x pretrain")
    )


def test_parts_of_an_instant_cost_nothing(store: Store) -> None:
    note(store, LONG, step=16, seconds=3600.0)
    began = time.monotonic()
    lines = table([LONG], store, 1e-7, workers=1)
    assert len(lines) == 1 + MOST_PARTS + 1
    assert re.fullmatch(r"\.\.\. and 599,39\d,\d{3},\d{3} more", lines[-1])
    assert re.search(r"; 599,39\d,\d{3},\d{3} more parts", Part([LONG], store, 1e-7, workers=1).outlook())
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("kind", "workers", "at_once"),
    [(None, 0, 1), ("local", 0, 1), ("slurm", 0, 7), ("slurm", 3, 3)],
)
def test_the_line_expects_as_many_runs_at_a_time_as_are_made(
    kind: str | None, workers: int, at_once: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("clrkit.runs.reproduce.available_cores", lambda: 7)
    monkeypatch.setattr("clrkit.runs.reproduce.run_all", lambda *_: (None for _ in "1"))
    monkeypatch.setattr("clrkit.runs.reproduce.SweepLine", lambda todo, store, workers: seen.append(workers))
    cluster = Cluster(kind, {}) if kind else None
    with pytest.raises(AttributeError):  # from None, the line
        make_runs([SMOKE.pretrain], store, workers, "auto", [], cluster)
    assert seen == [at_once]


def test_the_time_left_of_runs_that_go_on_is_by_what_was_done_since(store: Store) -> None:
    note(store, LONG, step=8000, seconds=4000.0)
    line = SweepLine([LONG], store, workers=1)
    line.begun -= 100
    assert line.left() == pytest.approx(4000)
    line.note(Progress(LONG, 8800, 16000, 0.0, 0.0, 0.0, {}))  # 400 of these seconds
    assert line.left() == pytest.approx(900, rel=0.01)


def test_of_many_runs_the_first_are_named() -> None:
    pieces = [Piece(SMOKE.resolve("pretrain", seed=seed), 0, 1, 1.0) for seed in range(5)]
    assert listed(pieces).endswith("seed 2; and 2 more runs")
    assert listed(pieces[:4]).endswith("; and 1 more run")


@pytest.mark.parametrize(("device", "gpu", "runs"), [("auto", True, 1), ("cuda", True, 1), ("cpu", True, 0)])
def test_one_gpu_makes_one_run_at_a_time(
    device: str, gpu: bool, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert runs_at_once(device) == (runs or available_cores())
