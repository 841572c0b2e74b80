"""The store: content-addressed runs, made once, whole or not at all.

A run is a folder `<stage>-<key>` with record.json, history.json and weights.safetensors. It is worked on
in `<stage>-<key>.partial` under a lock; a rename makes it a result, and existing means done. Reading the
store does not load torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from clrkit import config as configs
from clrkit.config import ConfigError, Stage
from clrkit.data import fingerprint

if TYPE_CHECKING:
    from clrkit.model import Model


NOTE_SECONDS = 1.0  # between notes of progress for other processes

# Listing a large folder for every run of a sweep would cost more than the rest of a plan.
fingerprint_once = lru_cache(maxsize=None)(fingerprint)


class RunError(ConfigError):
    """A run that cannot be made or read; the message says why in one sentence."""


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
    """

    config: Stage
    step: int
    total: int
    loss: float
    rate: float
    seconds_left: float
    metrics: dict[str, float]


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
        """Logged `step`, `loss`, `learning_rate` as lists, and [step, value] lists of what was monitored."""
        return dict(read_json(self.folder / "history.json"))

    def model(self) -> Model:
        """The trained model, on the CPU. Raises ModelError where its weights are not kept (the reference)."""
        from clrkit.model_folder import read_model

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
        own = self.results / "reference"
        return Store(
            own if own.exists() else Path(__file__).parents[1] / "results" / "reference", self.preset
        )

    def path(self, config: Stage) -> Path:
        """Folder of the run, there or not. Label lists count by what they hold, not by where they lie."""
        key = configs.key(with_list_contents(config), fingerprint_once(config.images))
        return self.runs / f"{config.name}-{key}"

    def find(self, config: Stage) -> Run | None:
        """The finished run of a config, or None."""
        return read_run(self.path(config))

    def find_all(self, stages: Iterable[Stage]) -> list[Run]:
        """The finished ones among these runs."""
        return [run for run in map(self.find, stages) if run]

    def all(self) -> list[Run]:
        """Every finished run, by folder name."""
        folders = sorted(folder for folder in self.runs.glob("*-*") if not folder.suffix)
        return [run for run in map(read_run, folders) if run]

    def state(self, config: Stage) -> tuple[str, float]:
        """What is there of a run: ("cached", 1), ("partial", share done) or ("missing", 0)."""
        path = self.path(config)
        if (path / "record.json").exists():
            return "cached", 1.0
        note = read_json(partial_of(path) / "progress.json")
        return ("partial", note["step"] / note["total"]) if note else ("missing", 0.0)


def with_list_contents(config: Stage) -> Stage:
    """The config with the label lists of its chain replaced by the digests of their contents."""
    for path, node in configs.walk(config):
        if isinstance(node, configs.Labelled) and node.label_list:
            try:
                digest = hashlib.sha256(Path(node.label_list).read_bytes()).hexdigest()
            except OSError as error:
                raise ConfigError(f"label_list {node.label_list} cannot be read: {error.strerror}.") from None
            config = configs.with_fields(config, {".".join((*path, "label_list")): digest})
    return config


def partial_of(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError):
        raise RunError(f"{path} cannot be read; delete its folder and the run is made again.") from None


def read_run(folder: Path) -> Run | None:
    record = read_json(folder / "record.json")
    if record is None:
        return None
    if not isinstance(record, dict) or not {"stage", "key", "config", "metrics"} <= record.keys():
        raise RunError(f"{folder / 'record.json'} is no record; delete its folder and the run is made again.")
    return Run(folder, record)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever interrupts."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, allow_nan=False).encode())


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """The partial folder of a run, ours alone until the end; waits while another process has it.

    Raises:
        RunError: if the results folder cannot be written, naming it; what is there already stays.
    """
    partial = partial_of(path)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock")
        with FileLock(lock):
            partial.mkdir(exist_ok=True)
            yield partial
        lock.unlink(missing_ok=True)  # only once the run is there, so nobody who still waits will make it
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written: {error.strerror or error}.") from None


def unused(partial: Path) -> bool:
    """Whether no process works in a partial folder now; its lock is taken away with it."""
    lock = partial.with_suffix(".lock")
    try:
        with FileLock(lock, timeout=0):
            lock.unlink(missing_ok=True)
            return True
    except Timeout:
        return False


def conclude(partial: Path, path: Path) -> None:
    """Make a result of a partial folder that holds a record."""
    for leftover in ("state.pt", "progress.json"):
        (partial / leftover).unlink(missing_ok=True)
    if path.exists():  # only a folder without a record can be in the way
        shutil.rmtree(path)
    partial.rename(path)


def seconds_expected(config: Stage, known: Iterable[Run]) -> float | None:
    """Time a run may take, from known runs of the same stage, network and fraction; None without any."""
    alike = [run.record for run in known if run.record["stage"] == config.name]
    times = [
        record["provenance"]["seconds"] / record["config"]["epochs"] * config.epochs
        for record in alike
        if network_of(record["config"]) == network_of(configs.to_dict(config))
        and record["config"].get("fraction") == getattr(config, "fraction", None)
    ]
    return median(times) if times else None


def network_of(values: dict[str, Any]) -> Any:
    """Network of a config given as a dict: its own, else that of what it builds on."""
    while "network" not in values:
        values = values.get("pretrain") or values["teacher"]
    return values["network"]
