"""The store: content-addressed runs, made once, whole or not at all.

A run is a folder `<stage>-<key>` with record.json, history.json, weights.safetensors and their checksums. It
is worked on in `<stage>-<key>.partial` under a lock; a rename makes it a result, and existing means done.
What is read is checked. Reading the store does not load torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from clrkit.config import Stage
from clrkit.data.datasets import fingerprint
from clrkit.errors import ConfigError, reason
from clrkit.files import discard_left_over, write_atomically
from clrkit.runs.checksums import REFERENCE, SUMS, ChecksumError, digest_of, listing, read_checked, read_sums
from clrkit.runs.keys import key, with_list_contents

if TYPE_CHECKING:
    from clrkit.model import Model


NOTE_SECONDS = 1.0  # between notes of progress for other processes
RECORD, HISTORY, WEIGHTS = "record.json", "history.json", "weights.safetensors"

# Listing a large folder for every run of a sweep would cost more than the rest of a plan. To scan a folder
# (`clrkit.own_images.scan`) clears it; to make a run compares it with what is there (`clrkit.runs.run`).
fingerprint_once = lru_cache(maxsize=None)(fingerprint)


class RunError(ConfigError):
    """A run that cannot be made or read; the message says why in one sentence."""


class RunLockedError(RunError):
    """Another process has the partial folder of a run."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        config: of the stage that is running.
        step: optimiser steps done.
        total: of the whole run.
        loss: last logged, nan before the first.
        rate: images a second since the run began or went on.
        seconds_left: at that rate.
        metrics: last monitored, by name.
        elsewhere: whether it is another process that makes the run; loss and rate are not known then.
    """

    config: Stage
    step: int
    total: int
    loss: float
    rate: float
    seconds_left: float
    metrics: dict[str, float]
    elsewhere: bool = False


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and record."""

    folder: Path
    record: dict[str, Any]

    @property
    def key(self) -> str:
        return str(self.record["key"])

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.record["metrics"])

    @property
    def history(self) -> dict[str, Any]:
        """Logged `step`, `loss`, `learning_rate` as lists, and [step, value] lists of what was monitored.

        Raises Damaged where the file is not what was written.
        """
        return read_object(self.folder / HISTORY, read_sums(self.folder) or {}, "history")

    def model(self) -> Model:
        """The trained model, on the CPU.

        Raises ModelError where its weights are not kept (the reference), Damaged where they were changed.
        """
        from clrkit.runs.model_files import read_model

        return read_model(self.folder)


@dataclass(frozen=True)
class Store:
    """The runs of one preset under a results folder.

    Attributes:
        results: the folder given as --results.
        preset: name of the preset.
    """

    results: Path
    preset: str

    @property
    def folder(self) -> Path:
        return self.results / self.preset

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def reference(self) -> Store:
        """The committed runs of this preset, those of the checkout where `results` holds none."""
        own = self.results / REFERENCE
        return Store(own if own.exists() else Path(__file__).parents[2] / "results" / REFERENCE, self.preset)

    def path(self, config: Stage) -> Path:
        """Folder of the run, there or not. Label lists count by what they hold, not by where they lie."""
        digest = key(with_list_contents(config), fingerprint_once(config.images))
        return self.runs / f"{config.name}-{digest}"

    def find(self, config: Stage) -> Run | None:
        """The finished run of a config, or None. Raises Damaged where it is not what was written."""
        return read_run(self.path(config))

    def find_all(self, stages: Iterable[Stage]) -> list[Run]:
        """The finished ones among these runs."""
        return [run for run in map(self.find, stages) if run]

    def all(self) -> list[Run]:
        """Every finished run, by folder name. Raises Damaged where one is not what was written."""
        return [run for run in map(read_run, self.folders()) if run]

    def folders(self) -> list[Path]:
        """Folders of finished runs; those of partial and damaged ones have an ending."""
        there = self.runs.iterdir() if self.runs.is_dir() else ()
        return sorted(folder for folder in there if "-" in folder.name and not folder.suffix)

    def state(self, config: Stage) -> tuple[str, float]:
        """What is there of a run, "cached", "damaged", "partial" or "missing", and the share that is done."""
        path = self.path(config)
        try:
            if read_run(path):
                return "cached", 1.0
        except ChecksumError:
            return "damaged", 0.0
        note = progress_noted(path)
        return ("partial", note[0] / note[1]) if note else ("missing", 0.0)


def partial_of(path: Path) -> Path:
    """The folder that a run is worked on in until it has its own."""
    return path.with_name(path.name + ".partial")


def progress_file(path: Path) -> Path:
    """Where a run that is being made notes its steps done and in all, and its seconds of work."""
    return partial_of(path) / "progress.json"


def progress_noted(path: Path) -> tuple[int, int] | None:
    """Steps done and in all of a run that is being made, as last noted; None where nothing is.

    Raises RunError where the note is damaged.
    """
    note = read_json(file := progress_file(path))
    match note:
        case None:
            return None
        case {"step": int(step), "total": int(total)} if 0 <= step <= total > 0:
            return step, total
    raise RunError(f"{file} cannot be read; delete it.")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none. Raises RunError where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError):
        raise RunError(f"{path} cannot be read; delete it.") from None


def read_object(path: Path, sums: dict[str, str], what: str) -> dict[str, Any]:
    """What a JSON file of a run holds. Raises Damaged where it is not what was written, or no object."""
    content = read_checked(path, sums)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ChecksumError(path, f"is no {what} of a run")
    return found


def read_run(folder: Path) -> Run | None:
    """The finished run in a folder, or None. Raises Damaged where it is not what was written."""
    sums, path = read_sums(folder), folder / RECORD
    if sums is None:
        if path.exists():
            raise ChecksumError(folder / SUMS, "is missing")
        return None
    record = read_object(path, sums, "record")
    parts = {"stage": str, "key": str, "config": dict, "metrics": dict}
    if not all(isinstance(record.get(name), kind) for name, kind in parts.items()):
        raise ChecksumError(path, "is no record of a run")
    if folder.name != f"{record['stage']}-{record['key']}":
        raise ChecksumError(path, "is the record of another run than its folder is named for")
    return Run(folder, record)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomically(path, json.dumps(content, allow_nan=False).encode())


@contextmanager
def file_lock(lock: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file; a dead process holds none.

    Only who holds the lock deletes its file, and does so while holding it. A process that waited for a file
    which is deleted by then does not hold the lock (filelock looks, since 3.21) and begins anew, so at most
    one process holds the file that has the name.

    Raises:
        Timeout: where another process holds it for longer than `timeout` seconds.
    """
    with FileLock(lock, timeout=timeout):
        try:
            yield
        finally:
            with suppress(PermissionError):  # on Windows, where filelock deletes the file
                lock.unlink(missing_ok=True)


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """The partial folder of a run, ours alone until the end.

    Raises:
        Busy: while another process has it.
        RunError: if the results folder cannot be written, naming it; what is there already stays.
    """
    partial = partial_of(path)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(lock_of(partial), NOTE_SECONDS):
            partial.mkdir(exist_ok=True)
            discard_left_over(partial)
            yield partial
    except Timeout:
        raise RunLockedError(f"Another process is making {path}.") from None
    except OSError as error:
        if not may_concern(error, path.parent):
            raise
        raise RunError(f"{path.parent} cannot be written: {reason(error)}.") from None


def may_concern(error: OSError, folder: Path) -> bool:
    """Whether an error can be about files in a folder; that of a full disk names none."""
    if isinstance(error, ConnectionError | TimeoutError):
        return False
    named = Path(str(error.filename or folder))
    return named.is_relative_to(folder) or folder.is_relative_to(named)


def lock_of(partial: Path) -> Path:
    return partial.with_suffix(".lock")


def unused(partial: Path) -> bool:
    """Whether no process works in a partial folder now; its lock is taken away with it."""
    try:
        with file_lock(lock_of(partial), timeout=0):
            return True
    except Timeout:
        return False


def discard_unused(partial: Path) -> bool:
    """Delete a partial folder while no process can begin to work in it; false where one does already."""
    try:
        with file_lock(lock_of(partial), timeout=0):
            if partial.exists():  # otherwise it has become a result meanwhile
                shutil.rmtree(partial)
            return True
    except Timeout:
        return False


def discard_results(store: Store) -> None:
    """Delete all that a store holds but partial runs and locks, which somebody may have made just now."""
    for path in [*store.runs.glob("*"), *store.folder.glob("*")]:
        if path != store.runs and path.suffix not in (".partial", ".lock"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in (store.runs, store.folder):
        with suppress(OSError):  # not empty
            folder.rmdir()


def conclude(partial: Path, path: Path) -> None:
    """Make a result of a partial folder that holds a record; its states go last, once nobody needs them."""
    write_run_sums(partial)
    if path.exists():  # only a folder without a record can be in the way
        shutil.rmtree(path)
    partial.rename(path)
    for file in path.iterdir():
        if file.name not in (RECORD, HISTORY, WEIGHTS, SUMS):
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def write_run_sums(folder: Path) -> None:
    """Write the checksums of a run's files; whatever it should be is then as it lies there."""
    write_sums(folder, [name for name in (RECORD, HISTORY, WEIGHTS) if (folder / name).exists()])


def write_sums(folder: Path, names: Iterable[str], kept: Mapping[str, str] | None = None) -> None:
    """Write the folder's SHA256SUMS over these of its files, beside digests by name that are kept."""
    digests = {name: digest_of(folder / name) for name in names}
    write_atomically(folder / SUMS, listing({**(kept or {}), **digests}))
