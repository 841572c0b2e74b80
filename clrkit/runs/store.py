"""The run store: content-addressed, atomic, checked when read. It does not load torch.

A run is a folder `<stage>-<key>` with record.json, history.json, weights.safetensors and SHA256SUMS. Training
works in `<stage>-<key>.partial` under a lock; renaming that folder finishes the run. The committed reference
keeps records only: a run is a line of `records.jsonl`, and git protects it.
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

from filelock import Timeout

from clrkit.config import Stage
from clrkit.data.datasets import fingerprint
from clrkit.data.files import discard_left_over, file_lock, read_json, write_atomically
from clrkit.errors import ConfigError, reason
from clrkit.runs.checksums import SUMS, ChecksumError, read_checked, read_sums, write_sums
from clrkit.runs.keys import key, with_list_contents

if TYPE_CHECKING:
    from clrkit.model import Model

NOTE_SECONDS = 1.0  # between two progress notes for other processes
RECORD, HISTORY, WEIGHTS = "record.json", "history.json", "weights.safetensors"
RECORDS = "records.jsonl"  # the committed runs of a preset, one a line, sorted by key
WEIGHTS_DIGEST = (
    "weights_sha256"  # field of a line: the SHA-256 of the run's weights, which are not committed
)
REFERENCE_FOLDER = "reference"  # in the results folder of the repository
CHECKOUT = Path(__file__).parents[2]

# A sweep would list a large folder once per run. `clrkit.own_images.scan` clears the cache when it scans, and
# `clrkit.runs.run` compares it with the folder before it trains.
fingerprint_once = lru_cache(maxsize=None)(fingerprint)


class RunError(ConfigError):
    """A run cannot be made or read; the message is one sentence."""


class RunLockedError(RunError):
    """Another process works in the partial folder of the run."""


@dataclass(frozen=True)
class Progress:
    """The state of a run in training.

    Attributes:
        config: of the stage that is running.
        step: optimiser steps done.
        total: steps of the whole run.
        loss: last logged loss, nan before the first.
        rate: images per second since the run began or resumed.
        seconds_left: at that rate.
        metrics: last monitored values by name.
        elsewhere: True if another process trains the run; loss and rate are unknown then.
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
    """A finished run: its record, and its folder, which a committed run does not have."""

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
        """Lists `step`, `loss`, `learning_rate`, and lists of [step, value] for each monitored value.

        Raises:
            ChecksumError: if the file was changed.
            RunError: for a committed run, which has a record only.
        """
        if not self.folder.exists():
            raise RunError(f"{self.folder.name} is a committed run; it has a record, but no history.")
        return read_object(self.folder / HISTORY, read_sums(self.folder) or {}, "history")

    def model(self) -> Model:
        """Read the trained model, on the CPU. Raises as `clrkit.runs.model_files.read_model`."""
        from clrkit.runs.model_files import read_model

        return read_model(self.folder)


@dataclass(frozen=True)
class Store:
    """The runs of one preset in a results folder.

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
        """The committed runs of the preset: in `results`, else in the checkout of clrkit."""
        own = self.results / REFERENCE_FOLDER
        return Store(own if own.exists() else CHECKOUT / "results" / REFERENCE_FOLDER, self.preset)

    def path(self, config: Stage) -> Path:
        """The folder of a run, whether it exists or not. A label list counts by its content, not its path."""
        digest = key(with_list_contents(config), fingerprint_once(config.images))
        return self.runs / f"{config.name}-{digest}"

    def find(self, config: Stage) -> Run | None:
        """The finished run of a config, or None. Raises ChecksumError if it was changed."""
        return read_run(self.path(config))

    def find_all(self, stages: Iterable[Stage]) -> list[Run]:
        """The finished runs of these configs."""
        return [run for run in map(self.find, stages) if run]

    def all(self) -> list[Run]:
        """All finished runs, sorted by folder name. Raises ChecksumError if one was changed."""
        return [run for run in map(read_run, self.folders()) if run]

    def folders(self) -> list[Path]:
        """Folders of the finished runs, committed ones included; names with a suffix are unfinished."""
        there = self.runs.iterdir() if self.runs.is_dir() else ()
        finished = {folder for folder in there if "-" in folder.name and not folder.suffix}
        return sorted({*finished, *(self.runs / name for name in read_table(self.folder / RECORDS))})

    def state(self, config: Stage) -> tuple[str, float]:
        """State of a run ("cached", "damaged", "partial" or "missing") and the share of it that is done."""
        path = self.path(config)
        try:
            if read_run(path):
                return "cached", 1.0
        except ChecksumError:
            return "damaged", 0.0
        note = progress_noted(path)
        return ("partial", note[0] / note[1]) if note else ("missing", 0.0)


# Reading


def read_run(folder: Path) -> Run | None:
    """Read the finished run of a folder, or of the table of committed runs, or return None.

    Raises:
        ChecksumError: if its record was changed or is not valid.
    """
    sums, path = read_sums(folder), folder / RECORD
    if sums is None:
        if path.exists():
            raise ChecksumError(folder / SUMS, "is missing")
        record = read_table(folder.parent.parent / RECORDS).get(folder.name)
        return Run(folder, record) if record else None
    record = read_object(path, sums, "record")
    if not is_record(record):
        raise ChecksumError(path, "is not a valid run record")
    if folder.name != name_of(record):
        raise ChecksumError(path, "belongs to another run than its folder")
    return Run(folder, record)


def read_object(path: Path, sums: Mapping[str, str], what: str) -> dict[str, Any]:
    """Read a JSON object of a run. Raises ChecksumError if it was changed or is not an object."""
    content = read_checked(path, sums)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ChecksumError(path, f"is not a valid run {what}")
    return found


def is_record(record: Any) -> bool:
    parts = {"stage": str, "key": str, "config": dict, "metrics": dict}
    return isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in parts.items()
    )


def name_of(record: Mapping[str, Any]) -> str:
    """The name of a run's folder."""
    return f"{record['stage']}-{record['key']}"


def of_reference(run: Run) -> bool:
    """True for a run of the committed reference."""
    return run.folder.absolute().parent.parent.parent.name == REFERENCE_FOLDER


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Read a table of committed runs as records by folder name; empty if there is no table.

    The records are shared by all callers; do not change them.

    Raises:
        ChecksumError: naming the first line that is not a valid record.
    """
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return parse_table(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def parse_table(path: Path, modified: int, size: int) -> dict[str, dict[str, Any]]:
    """`read_table`, parsed again only when the file has changed."""
    records = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {reason(error)}.") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not is_record(record):
            wrong = f"is damaged: line {number} is not a valid run record"
            raise ChecksumError(path, wrong, "restore it from the repository")
        record.pop(WEIGHTS_DIGEST, None)
        records[name_of(record)] = record
    return records


def write_table(path: Path, runs: Iterable[Run]) -> None:
    """Write runs as a table, one a line, sorted by key. Raises OSError."""
    lines = []
    for run in sorted(runs, key=lambda run: run.key):
        weights = (read_sums(run.folder) or {}).get(WEIGHTS)
        lines.append(json.dumps(run.record | ({WEIGHTS_DIGEST: weights} if weights else {})) + "\n")
    write_atomically(path, "".join(lines).encode())


# Runs in training


def partial_of(path: Path) -> Path:
    """The folder in which a run is trained."""
    return path.with_name(path.name + ".partial")


def lock_of(partial: Path) -> Path:
    return partial.with_suffix(".lock")


def progress_file(path: Path) -> Path:
    """The file in which training notes steps done, steps in total, and seconds of work."""
    return partial_of(path) / "progress.json"


def progress_noted(path: Path) -> tuple[int, int] | None:
    """Steps done and in total of a run in training, as last noted; None without a note.

    Raises:
        ConfigError: if the note is damaged.
    """
    note = read_json(file := progress_file(path))
    match note:
        case None:
            return None
        case {"step": int(step), "total": int(total)} if 0 <= step <= total > 0:
            return step, total
    raise RunError(f"{file} cannot be read; delete it.")


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """Create, or take over, the partial folder of a run and hold its lock.

    Raises:
        RunLockedError: if another process holds it.
        RunError: if the results folder cannot be written; existing files stay.
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
    """True if an error may be about files of a folder; a full disk names no file."""
    if isinstance(error, ConnectionError | TimeoutError):
        return False
    named = Path(str(error.filename or folder))
    return named.is_relative_to(folder) or folder.is_relative_to(named)


def unused(partial: Path) -> bool:
    """True if no process works in a partial folder; deletes a lock that a killed process left."""
    try:
        with file_lock(lock_of(partial), timeout=0):
            return True
    except Timeout:
        return False


def discard_unused(partial: Path) -> bool:
    """Delete a partial folder and return True, or return False if a process works in it."""
    try:
        with file_lock(lock_of(partial), timeout=0):
            if partial.exists():  # otherwise the run was finished meanwhile
                shutil.rmtree(partial)
            return True
    except Timeout:
        return False


def discard_results(store: Store) -> None:
    """Delete everything in a store except partial runs and locks, which another process may be using."""
    for path in [*store.runs.glob("*"), *store.folder.glob("*")]:
        if path != store.runs and path.suffix not in (".partial", ".lock"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in (store.runs, store.folder):
        with suppress(OSError):  # not empty
            folder.rmdir()


def conclude(partial: Path, path: Path) -> None:
    """Make a partial folder that holds a record the finished run; delete its checkpoints last."""
    write_run_sums(partial)
    if path.exists():  # a folder without a record
        shutil.rmtree(path)
    partial.rename(path)
    for file in path.iterdir():
        if file.name not in (RECORD, HISTORY, WEIGHTS, SUMS):
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def write_run_sums(folder: Path) -> None:
    """Write the checksums of a run's files as they are now."""
    write_sums(folder, [name for name in (RECORD, HISTORY, WEIGHTS) if (folder / name).exists()])
