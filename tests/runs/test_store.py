"""The store under fire: many processes, dead ones, full and read-only disks, ten thousand records."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import synthetic
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from clrkit.config import Stage
from clrkit.data.cache import CacheEntry, read_cache, write_cache
from clrkit.data.files import file_lock, write_json
from clrkit.data.splits import DataSet, PixelArray, Split
from clrkit.errors import DataError
from clrkit.experiments.presets import preset
from clrkit.notebook.publish import draw
from clrkit.results import figures, style
from clrkit.runs import run as module
from clrkit.runs.check import check, set_aside
from clrkit.runs.checksums import ChecksumError
from clrkit.runs.model_files import ModelError
from clrkit.runs.reproduce import complete, plan
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.store import (
    RECORDS,
    Run,
    RunError,
    Store,
    conclude,
    discard_results,
    discard_unused,
    of_reference,
    read_table,
    working_folder,
    write_table,
)

SMOKE = preset("smoke")
CLRKIT = [sys.executable, "-m", "clrkit"]
Record = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", "smoke")


def short(stage: str = "pretrain", **settings: object) -> Stage:
    run: Stage = SMOKE.resolve(stage, **settings)
    return run


# Locks


def test_a_lock_file_is_deleted_only_by_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, deleted = tmp_path / "run.lock", list[bool]()
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        with pytest.raises(Timeout), FileLock(lock, timeout=0):
            pass
        deleted.append(True)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    with pytest.raises(ZeroDivisionError), file_lock(lock):
        raise ZeroDivisionError
    with file_lock(lock):
        assert lock.exists()
    assert deleted == [True, True]
    assert not lock.exists()


def test_a_partial_run_is_deleted_only_while_nobody_can_begin_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rmtree = store.path(short()), shutil.rmtree

    def watched(folder: Path) -> None:
        with pytest.raises(Timeout), file_lock(folder.with_suffix(".lock"), timeout=0):
            pass
        rmtree(folder)

    with working_folder(path) as partial:
        assert not discard_unused(partial)
        assert partial.exists()
    monkeypatch.setattr(shutil, "rmtree", watched)
    assert discard_unused(partial)
    assert list(store.runs.iterdir()) == []


def test_results_are_deleted_but_for_a_run_that_has_begun_meanwhile(store: Store) -> None:
    synthetic.put(store, SMOKE.finetune, lambda stage: 50.0)
    (store.folder / "figures").mkdir()
    (store.folder / "INDEX.md").touch()
    with working_folder(store.path(short())) as partial:
        discard_results(store)
        assert set(store.folder.rglob("*")) == {store.runs, partial, partial.with_suffix(".lock")}
    partial.rmdir()
    discard_results(store)
    assert not store.folder.exists()


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("a process is gone"),
        TimeoutError("a process is silent"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/1.png"),
    ],
)
def test_an_error_that_is_not_about_the_results_stays_what_it_is(store: Store, error: OSError) -> None:
    with pytest.raises(type(error)) as raised, working_folder(store.path(short())):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("place", [None, "{partial}/state", "{results}"])
def test_an_error_about_the_results_names_their_folder(store: Store, place: str | None) -> None:
    file = place and place.format(partial=store.path(short()).with_suffix(".partial"), results=store.results)
    with (
        pytest.raises(RunError, match=f"^{store.runs} cannot be written: No space left on device\\.$"),
        working_folder(store.path(short())),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", file)


def test_of_many_who_take_turns_only_one_is_in_the_folder(store: Store) -> None:
    path, inside, crowded = store.runs / "run-0", list[int](), list[int]()

    def take_turns() -> None:
        done = 0
        while done < 40:
            with file_lock(path.with_suffix(".lock")):
                inside.append(1)
                crowded.extend(inside[1:])
                time.sleep(0)
                inside.pop()
            done += 1

    store.runs.mkdir(parents=True)
    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowded == []


@pytest.mark.slow
def test_who_waits_tells_how_far_the_other_process_is(store: Store) -> None:
    config = short(batch_size=500)
    with working_folder(store.path(config)) as partial:
        write_json(partial / "progress.json", {"step": 3, "total": 8})
        work = run_or_load(config, store)
        waiting = next(work)
    assert (waiting.elsewhere, waiting.step, waiting.total, waiting.config) == (True, 3, 8, config)
    progress = next(work)  # the folder is free, and now it is we who train
    assert not progress.elsewhere
    work.close()


def test_states_are_kept_until_the_run_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.path(short())
    with working_folder(path) as partial:
        write_json(partial / "record.json", synthetic.record(SMOKE.finetune, lambda stage: 50.0))
        for name in ("state", "state.new", "progress.json"):
            (partial / name).write_text("")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", interrupted)
            with pytest.raises(KeyboardInterrupt):
                conclude(partial, path)
        assert (partial / "state").exists()
        conclude(partial, path)
    assert {file.name for file in path.iterdir()} == {"record.json", "SHA256SUMS"}
    assert [file.name for file in store.runs.iterdir()] == [path.name]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(store: Store, fault: Record) -> None:
    config = short(epochs=500)
    command = [*CLRKIT, "run", "pretrain", "--preset", "smoke", "--epochs", "500", "--results"]
    process = subprocess.Popen([*command, str(store.results)], stderr=subprocess.DEVNULL)
    while not list(store.runs.glob("*.partial/progress.json")):
        time.sleep(0.05)
    with pytest.raises(RunError, match="Another process"), working_folder(store.path(config)):
        pass
    process.kill()
    process.wait()
    assert list(store.runs.glob("*.lock"))
    begun = time.monotonic()
    with working_folder(store.path(config)) as partial:
        assert (partial / "progress.json").exists()
    assert time.monotonic() - begun < 1
    assert not list(store.runs.glob("*.lock"))
    fault("processes: who holds a run's lock dies", "SIGKILL while it trains", "nothing of what it had saved")


# Several processes

COUNTER = """
import os, sys

def note(event, arguments):
    if event == "os.rename" and str(arguments[0]).endswith(".partial"):
        with open(os.environ["CLRKIT_TEST_LOG"], "a") as log:
            log.write(f"{os.path.basename(arguments[1])}\\n")

sys.addaudithook(note)
"""


def workshop(folder: Path) -> dict[str, str]:
    """A project with one small notebook; returns the environment that writes down which runs are finished."""
    cell = nbformat.v4.new_code_cell('preset = "smoke"', metadata={"tags": ["parameters"]}, id="first")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "notebooks").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[cell], metadata=kernel), folder / "notebooks/00_start_here.ipynb"
    )
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(COUNTER)
    (folder / "log").touch()
    return {**os.environ, "PYTHONPATH": str(folder / "site"), "CLRKIT_TEST_LOG": str(folder / "log")}


@pytest.mark.slow
def test_processes_that_reproduce_into_one_folder_make_each_run_once(tmp_path: Path, fault: Record) -> None:
    environment, store = workshop(tmp_path), Store(tmp_path / "results", "smoke")
    command = [*CLRKIT, "reproduce", "--preset", "smoke", "--workers", "1"]
    options = {"cwd": tmp_path, "env": environment, "text": True, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, **options) for _ in range(3)]
    while not (tmp_path / "log").read_text():
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGKILL)
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 0, 0], errors
    made = Counter((tmp_path / "log").read_text().split())
    assert made == Counter(store.path(stage).name for stage in complete(SMOKE.runs))
    found = check(store.results)
    assert (found.damaged, found.runs) == ([], len(made))
    assert not list(store.results.rglob("*.partial"))
    assert not list(store.results.rglob("*.lock"))
    assert (store.folder / "notebooks/00_start_here.ipynb").exists()
    fault(
        "processes: three reproduce into one folder",
        "at once, one of them killed",
        "nothing; no run made twice",
    )


# The table of committed runs


@pytest.fixture
def committed(tmp_path: Path) -> Store:
    """A table of a chain of three runs, and no folder."""
    made = Store(tmp_path / "results" / "reference", "smoke")
    for stage in SMOKE.distill.chain:
        synthetic.put(made, stage)
    write_table(made.folder / RECORDS, made.all())
    shutil.rmtree(made.runs)
    return made


def test_committed_runs_are_found_by_config_and_listed_like_folders(store: Store, committed: Store) -> None:
    assert store.reference == committed
    run = committed.find(SMOKE.distill)
    assert run
    assert (run.key, run.folder) == (run.record["key"], committed.path(SMOKE.distill))
    assert committed.find(SMOKE.probe) is None
    assert committed.find_all(SMOKE.distill.chain)[-1] == run
    assert [each.folder for each in committed.all()] == committed.folders()
    assert committed.folders() == sorted(map(committed.path, SMOKE.distill.chain))
    assert committed.state(SMOKE.distill) == ("cached", 1.0)
    assert of_reference(run)
    assert store.all() == []


def test_a_committed_run_has_neither_history_nor_model(committed: Store) -> None:
    run = committed.find(SMOKE.distill)
    assert run
    with pytest.raises(RunError, match=rf"^{run.folder.name} is a committed run; it has a record, "):
        _ = run.history
    with pytest.raises(ModelError, match="is not a model"):
        run.model()


def test_a_table_is_parsed_again_only_when_it_has_changed(committed: Store) -> None:
    path = committed.folder / RECORDS
    first = read_table(path)
    assert read_table(path) is first
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert len(read_table(path)) == len(first) - 1
    path.unlink()
    assert read_table(path) == {}


def test_references_of_older_versions_with_a_folder_a_run_are_still_read(store: Store) -> None:
    old = Store(store.results / "reference", "smoke")
    synthetic.put(old, SMOKE.finetune)
    run = store.reference.find(SMOKE.finetune)
    assert run
    assert of_reference(run)
    assert store.reference.all() == [run]


# Damage


@pytest.mark.slow
def test_a_damaged_run_is_made_again_and_what_builds_on_it_stays(store: Store, fault: Record) -> None:
    config = short("finetune")
    child = finish(run_or_load(config, store))
    parent = store.find(config.chain[0])
    assert parent
    before = {path: path.stat().st_mtime_ns for path in child.folder.iterdir()}
    content = {path.name: path.read_bytes() for path in parent.folder.glob("*.safetensors")}
    for name, read in (
        ("record.json", lambda: store.find(config.chain[0])),
        ("weights.safetensors", parent.model),
    ):
        path = parent.folder / name
        path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
        with pytest.raises(ChecksumError, match=name):
            read()
        with pytest.raises(ChecksumError, match=name):
            finish(run_or_load(short("finetune", tap_layer=0), store))
        set_aside(parent.folder)
        finish(run_or_load(config.chain[0], store))
        assert {path.name: path.read_bytes() for path in parent.folder.glob("*.safetensors")} == content
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(store.runs.glob("*.damaged*"))) == 2
    fault(
        "store: a run's record or weights are changed",
        "twenty bytes written over, `check --set-aside`, then made again",
        "the damaged run, which is made again; none that builds on it",
        times=2,
    )


# Disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def leave(disk: Path, room: int) -> None:
    """Fill a disk but for so many bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    free = shutil.disk_usage(disk).free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - room, 1))


def weights(run: Run) -> dict[str, bytes]:
    return {
        name: value.numpy().tobytes() for name, value in load_file(run.folder / "weights.safetensors").items()
    }


@pytest.mark.slow
def test_a_run_outlives_a_full_disk_at_every_point(
    store: Store, disk: Path, monkeypatch: pytest.MonkeyPatch, fault: Record
) -> None:
    for pause in ("STATE_SECONDS", "SPARED", "NOTE_SECONDS"):
        monkeypatch.setattr(module, pause, 0)  # every step is saved
    config, small = short(batch_size=500), Store(disk, "smoke")
    undisturbed, kept = finish(run_or_load(config, store)), finish(run_or_load(short("supervised"), small))
    refused = list[str]()
    for room in range(0, 2**20, 16 * 1024):
        leave(disk, room)
        try:
            run = finish(run_or_load(config, small))
            break
        except RunError as error:
            refused.append(str(error))
            assert check(disk).damaged == []
    assert len(refused) > 5
    assert all(str(disk) in sentence and "No space left on device" in sentence for sentence in refused)
    assert (weights(run), run.metrics) == (weights(undisturbed), undisturbed.metrics)
    assert run.history == undisturbed.history
    assert small.find(short("supervised")) == kept
    fault(
        "store: the disk is full",
        "a tmpfs with ever more room left, at least six sizes",
        "the steps since the last state",
        times=6,  # how many more depends on the machine's speed: states are written in the background
    )


@pytest.mark.slow
def test_what_is_published_outlives_a_full_disk(
    disk: Path, monkeypatch: pytest.MonkeyPatch, fault: Record
) -> None:
    monkeypatch.setattr(figures, "FIGURES", (figures.method_bars,))
    monkeypatch.setattr(style, "encode", lambda figure, kind: bytes(9000))
    small = Store(disk, "smoke")
    for stage in complete(SMOKE.runs):
        synthetic.put(small, stage, lambda stage: 75.0)
    for room in (0, 4096, 20_000):
        leave(disk, room)
        with pytest.raises(RunError, match=rf"{disk}.* cannot be written: No space left on device"):
            draw(SMOKE, small)
    leave(disk, 2**19)
    draw(SMOKE, small)
    assert check(disk).damaged == []
    fault("store: the disk is full while figures are written", "a tmpfs with little room", "nothing", times=3)


def test_a_cache_that_does_not_fit_is_named_and_nothing_is_left_of_it(
    disk: Path, monkeypatch: pytest.MonkeyPatch, fault: Record
) -> None:
    monkeypatch.setenv("CLRKIT_CACHE", str(disk / "cache"))
    part = Split(
        PixelArray(synthetic.np.zeros((40, 3, 32, 32), "uint8")), synthetic.np.zeros(40, int), ["a"] * 40
    )
    parts = DataSet(part, part, ("one",))
    source = CacheEntry("set-32", "identity", lambda: parts)
    for room in (0, 60_000, 200_000):
        leave(disk, room)
        with pytest.raises(DataError, match=r"cannot be kept in .*No space left on device"):
            write_cache(source, parts)
        assert read_cache(source, pytest.fail) is None
    leave(disk, 2**20)
    write_cache(source, parts)
    assert read_cache(source, pytest.fail)
    assert [path.name for path in (disk / "cache").iterdir()] == ["set-32"]
    fault("store: the disk is full while images are cached", "a tmpfs with little room", "nothing", times=3)


def test_a_read_only_folder_can_be_read_and_is_named_when_written(disk: Path, fault: Record) -> None:
    small = Store(disk, "smoke")
    for stage in SMOKE.finetune.chain:
        synthetic.put(small, stage, lambda stage: 75.0)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert [row["state"] for row in plan([SMOKE.finetune], small)] == ["cached", "cached"]
    assert check(disk).damaged == []
    for write in (lambda: finish(run_or_load(short(seed=9), small)), lambda: draw(SMOKE, small)):
        with pytest.raises(RunError, match=rf"{disk}.* cannot be written: Read-only file system"):
            write()
    fault("store: the results folder is read-only", "a file system mounted so", "nothing", times=2)


# Ten thousand records


def add_others(store: Store, count: int) -> None:
    """Records of runs that are not of the preset, like one of its."""
    record = json.loads((store.folders()[0] / "record.json").read_text())
    for number in range(count):
        record["key"] = f"{number:016x}"
        folder = store.runs / f"{record['stage']}-{number:016x}"
        folder.mkdir()
        content = json.dumps(record).encode()
        (folder / "record.json").write_bytes(content)
        (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  record.json\n")


def seconds_to_read(store: Store) -> float:
    """How long this machine takes to read, parse and hash every record once."""
    begun = time.monotonic()
    for folder in store.folders():
        content = (folder / "record.json").read_bytes()
        assert hashlib.sha256(content).hexdigest() in (folder / "SHA256SUMS").read_text()
        json.loads(content)
    return time.monotonic() - begun


def seconds_of(command: str, results: Path) -> float:
    begun = time.monotonic()
    subprocess.run([*CLRKIT, command, "--results", results], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


@pytest.mark.slow
def test_a_preset_among_ten_thousand_other_runs_is_planned_and_judged_in_seconds(
    tmp_path: Path,
) -> None:
    mini = Store(tmp_path / "results", "mini")
    *others, last = complete(preset("mini").runs)
    for stage in others:
        synthetic.put(mini, stage, lambda stage: 75.0)
    alone = seconds_of("plan", mini.results)
    add_others(mini, 10_000)
    # Five times the time to start and read every record leaves room for other work on the machine.
    allowed = 5 * (alone + seconds_to_read(mini))
    assert seconds_of("plan", mini.results) < allowed  # its time is estimated from all other runs
    synthetic.put(mini, last, lambda stage: 75.0)
    assert seconds_of("claims", mini.results) < allowed
