"""Train a run or load it: train with periodic checkpoints, measure, record."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save

from clrkit import stages
from clrkit.config import Data, Pretrain, Stage
from clrkit.data.datasets import fingerprint, load
from clrkit.data.files import write_atomically, write_json
from clrkit.data.folders import root_of
from clrkit.data.splits import DataSet
from clrkit.device import choose_device
from clrkit.errors import ConfigError
from clrkit.experiments.fields import from_dict, to_dict
from clrkit.fast.compiling import compiling
from clrkit.model import Model, ModelConfig
from clrkit.runs.checkpoint import CheckpointWriter, read_state
from clrkit.runs.health import TrainingError, TrainingMonitor
from clrkit.runs.provenance import provenance
from clrkit.runs.record import describe, encoder_parameters, label_count, measured, model_settings
from clrkit.runs.store import (
    NOTE_SECONDS,
    Progress,
    Run,
    RunError,
    RunLockedError,
    Store,
    conclude,
    fingerprint_once,
    partial_of,
    progress_noted,
    working_folder,
)
from clrkit.scale import distributed
from clrkit.training import Step, Training

STATE_SECONDS = 20.0  # minimum between checkpoints
SPARED = 50  # minimum between checkpoints, in multiples of the time that the last one held training up
HISTORY_ROWS = 200


@lru_cache(maxsize=2)
def loaded(data: Data, digest: str) -> DataSet:
    return load(data)


def load_once(data: Data) -> DataSet:
    """Load a data set, cached for the next run of a sweep by its fingerprint. Raises as `load`."""
    return loaded(data, fingerprint_once(data))


@dataclass
class TrainingLog:
    """The log of a run: losses, learning rates, monitored metrics. Saved in the checkpoint.

    Attributes:
        step, loss, learning_rate: of every logged step.
        monitored: [step, value] pairs by name.
        seconds: training time over all sessions.
        threads: distinct numbers of PyTorch threads over the sessions, in order.
        peak_memory_mb: of the process (CUDA: of the device), sampled.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    monitored: dict[str, list[list[float]]] = field(default_factory=dict)
    seconds: float = 0.0
    threads: list[int] = field(default_factory=list)
    peak_memory_mb: float = 0.0

    def note(self, step: Step) -> None:
        """Log the loss and learning rate of a step."""
        self.step.append(step.step)
        self.loss.append(float(step.loss))
        self.learning_rate.append(step.learning_rate)

    def monitor(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.monitored.setdefault(name, []).append([step, value])

    @property
    def last(self) -> dict[str, float]:
        """The last loss, and the last of each monitored value."""
        return {"loss": self.loss[-1]} | {name: rows[-1][1] for name, rows in self.monitored.items()}

    def history(self) -> dict[str, Any]:
        rows = {"step": self.step, "loss": self.loss, "learning_rate": self.learning_rate}
        return rows | self.monitored


def run_or_load(config: Stage, store: Store, device: str = "auto") -> Generator[Progress, None, Run]:
    """Train a run and its missing parents, or return it if it is finished.

    Closing the generator saves a checkpoint, from which the next call resumes. On a CPU the run has one
    thread, or CLRKIT_THREADS; between its steps the caller has its own number of threads.

    Args:
        config: the run.
        store: of finished runs.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        RunError: if the loss is not finite, or the results folder cannot be written.
        ConfigError: if data set or device do not allow the settings, or own images changed.
    """
    if run := find(config, store):
        return run
    where = choose_device(device)
    with closing(made(config, store, device)) as work:
        while True:
            with run_threads(where):
                try:
                    progress = next(work)
                except StopIteration as end:
                    made_run: Run = end.value
                    return made_run
            yield progress


def made(config: Stage, store: Store, device: str) -> Generator[Progress, None, Run]:
    """Train a missing run with the current number of threads; otherwise as `run_or_load`."""
    distributed.in_turn(lambda: check_unchanged(config))
    stages.check(config, data_of(config))
    check_precision(config, choose_device(device))
    parent = (yield from run_or_load(config.source, store, device)) if config.source else None
    path = store.path(config)
    while not (run := find(config, store)):
        try:
            with common_folder(path) as folder:
                # another process may have finished it meanwhile
                if not find(config, store):
                    work = RunInProgress(config, folder, choose_device(device), parent)
                    yield from work.train()
                    work.conclude(path, parent)
                elif distributed.is_first():
                    folder.rmdir()
        except RunLockedError:
            step, total = progress_noted(path) or (0, 1)
            yield Progress(config, step, total, math.nan, 0.0, math.nan, {}, elsewhere=True)
    return run


def find(config: Stage, store: Store) -> Run | None:
    """The finished run of a config, or None, as the first process sees it."""
    if distributed.world_size() == 1:
        return store.find(config)

    def record() -> bytes:
        run = store.find(config)
        return json.dumps(run.record).encode() if run else b""

    content = distributed.from_first(record)
    return Run(store.path(config), json.loads(content)) if content else None


def check_unchanged(config: Stage) -> None:
    """Raise RunError if own images changed after the run keys were made, and forget these keys."""
    for data in {stage.images for stage in config.chain if stage.images.dataset in ("folder", "images")}:
        if fingerprint(data) != fingerprint_once(data):
            fingerprint_once.cache_clear()
            raise RunError(f"The images of {root_of(data)} have changed; start again by scanning them.")


def data_of(config: Stage) -> DataSet:
    """Load the data set of a stage. Raises ConfigError unless all processes have the same images."""
    data = distributed.in_turn(lambda: load_once(config.images))
    first = distributed.from_first(data.fingerprint.encode).decode()

    def compare() -> None:
        if data.fingerprint != first:
            raise ConfigError(
                f"{platform.node()} has other images of {config.images.dataset} than the first."
            )

    distributed.together(compare)
    return data


@contextmanager
def common_folder(path: Path) -> Iterator[Path]:
    """Hold the partial folder of a run in its first process; raise errors in all processes."""
    with ExitStack() as stack:

        def enter() -> bytes:
            try:
                stack.enter_context(working_folder(path))
            except RunLockedError as error:
                return str(error).encode()
            return b""

        if busy := distributed.from_first(enter):
            raise RunLockedError(busy.decode())
        yield partial_of(path)


def finish(work: Generator[Progress, None, Run], show: Callable[[Progress], None] | None = None) -> Run:
    """Finish a run, showing its progress."""
    try:
        while True:
            progress = next(work)
            if show:
                show(progress)
    except StopIteration as end:
        run: Run = end.value
        return run


class RunInProgress:
    """A run in its partial folder; only the first of its processes writes there."""

    def __init__(self, config: Stage, folder: Path, device: torch.device, parent: Run | None) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.data = data_of(config)
        self.parent = common_model(parent) if parent else None
        self.training = stages.begin(config, self.data, device, self.parent)
        self.log, self.monitor = TrainingLog(), TrainingMonitor(device)
        self.states = CheckpointWriter(folder / "state")
        self.load_state()
        self.kept = self.training.steps_done  # of the last state that was saved; 0 for none

    def train(self) -> Iterator[Progress]:
        """Train to the end, logging, noting progress and saving states on the way."""
        log, training = self.log, self.training
        log.threads = list(dict.fromkeys([*log.threads, torch.get_num_threads()]))
        log.monitor(training.steps_done, monitored_before(self.config, self.data, training))
        every = max(1, training.total // HISTORY_ROWS)
        begun, first, spent = time.monotonic(), training.steps_done, log.seconds
        due, noted = begun + STATE_SECONDS, begun
        try:
            for step in stages.steps(self.config, self.data, training, self.parent):
                self.monitor.see(step.step, step.loss, training)
                now = time.monotonic()
                log.seconds = spent + now - begun
                log.monitor(step.step, step.metrics)
                if step.step % every == 0 or step.step == step.total:
                    self.check()
                    log.note(step)
                if now - noted > NOTE_SECONDS:
                    self.note_progress(step.step)
                    noted = now
                if distributed.any_of(distributed.is_first() and now > due):
                    self.save_state()
                    stall = time.monotonic() - now
                    due = now + max(STATE_SECONDS, SPARED * stall)
                try:
                    yield self.progress(step, (step.step - first) / max(now - begun, 1e-9))
                except GeneratorExit:
                    self.save_state()
                    raise
        finally:
            self.states.wait()

    def check(self) -> None:
        """Whether training goes well. Raises RunError, which says what was kept and what to try."""
        try:
            self.monitor.check()
        except TrainingError as error:
            kept = (
                f"the state of step {self.kept} is kept in {self.folder}"
                if self.kept
                else "no state was kept"
            )
            raise RunError(f"{error}; {kept}.") from None

    def progress(self, step: Step, steps_a_second: float) -> Progress:
        loss = self.log.loss[-1] if self.log.loss else math.nan
        metrics = {name: rows[-1][1] for name, rows in self.log.monitored.items()}
        left = (step.total - step.step) / steps_a_second
        rate = steps_a_second * self.config.batch_size
        return Progress(self.config, step.step, step.total, loss, rate, left, metrics)

    def note_progress(self, step: int) -> None:
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device)
        else:
            memory = psutil.Process().memory_info().rss
        self.log.peak_memory_mb = max(self.log.peak_memory_mb, round(memory / 2**20, 1))
        if distributed.is_first():
            note = {"step": step, "total": self.training.total, "seconds": self.log.seconds}
            write_json(self.folder / "progress.json", note)

    def save_state(self) -> None:
        """Everything a resumed run needs, in one file; a state that has gone wrong is not kept."""
        self.check()
        training = self.training.state_dict() | {"watch": self.monitor.state_dict()}
        state = {"training": training, "log": asdict(self.log)}
        if distributed.is_first():
            self.states.write(state)
        self.kept = self.training.steps_done
        self.note_progress(self.kept)

    def load_state(self) -> None:
        content = distributed.from_first(lambda: read_state(self.states.path))
        if not content:
            return
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            self.training.load_state_dict(state["training"])
            self.monitor.load_state_dict(state["training"]["watch"])
            self.log = TrainingLog(**state["log"])
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:
            raise RunError(
                f"{self.states.path} is of another version; delete {self.folder} to start the run again."
            ) from None

    def conclude(self, path: Path, parent: Run | None) -> None:
        """Measure, record, and make the folder the finished run."""
        record = self.record(path.name.rpartition("-")[2], parent)
        if distributed.is_first():
            self.write(record)
            conclude(self.folder, path)

    def record(self, key: str, parent: Run | None) -> dict[str, Any]:
        self.note_progress(self.training.total)
        return {
            "stage": self.config.name,
            "key": key,
            "parent": parent.key if parent else None,
            "version": self.config.version,
            "config": to_dict(self.config),
            "dataset": describe(self.config, self.data),
            "labels": label_count(self.config, self.data),
            "parameters": encoder_parameters(self.training.model, self.parent),
            "model": model_settings(self.training.model),
            **measured(self.config, self.data, self.training, self.parent, self.log.last),
            "provenance": self.provenance(),
        }

    def write(self, record: dict[str, Any]) -> None:
        """Write weights, history and record; the record last."""
        weights = {name: value.contiguous().cpu() for name, value in self.training.model.state_dict().items()}
        write_atomically(self.folder / "weights.safetensors", save(weights))
        write_json(self.folder / "history.json", self.log.history())
        write_json(self.folder / "record.json", record)

    def provenance(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        threads = torch.get_num_threads()
        before = [number for number in self.log.threads if number != threads]
        return {
            "seconds": round(self.log.seconds, 2),
            "peak_memory_mb": self.log.peak_memory_mb,
            "device": device,
            "threads": threads,
            **({"threads_before": before} if before else {}),  # of sessions that it went on from
            **({"compiled": True} if compiling(self.device) else {}),
            **({"processes": distributed.world_size()} if distributed.world_size() > 1 else {}),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **provenance(),
        }


def common_model(run: Run) -> Model:
    """The model of a finished run in all processes; only the first reads it."""
    if distributed.world_size() == 1:
        return run.model()
    empty = partial(Model, from_dict(ModelConfig, run.record["model"]))
    model = distributed.together(run.model if distributed.is_first() else empty)
    distributed.copy_from_first(model)
    return model.eval()


MOST_THREADS = 1024


@contextmanager
def run_threads(device: torch.device) -> Iterator[None]:
    """Compute with a run's number of threads on a CPU, in this thread; restore the former number afterwards.

    The number of threads changes how sums are rounded, so all runs use the same: one, or CLRKIT_THREADS.

    Raises:
        ConfigError: if CLRKIT_THREADS is not a number of threads.
    """
    if device.type != "cpu":
        yield
        return
    wanted, before = threads_per_run(), torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_per_run() -> int:
    """One, or the value of CLRKIT_THREADS. Raises ConfigError if that is not a number of threads."""
    text = os.environ.get("CLRKIT_THREADS", "1")
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise ConfigError(f"CLRKIT_THREADS must be a whole number from 1 to {MOST_THREADS}, not {text!r}.")
    return int(text)


def check_precision(config: Stage, device: torch.device) -> None:
    """Raise ConfigError if a stage of the chain wants bfloat16 and the device does not compute in it."""
    low = any(stage.precision == "bfloat16" for stage in config.chain)
    if low and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"{name} does not compute in bfloat16; set precision to float32.")


def monitored_before(config: Stage, data: DataSet, training: Training) -> dict[str, float]:
    """Measure before a run's first step: in pretraining, the kNN accuracy of random weights."""
    if not isinstance(config, Pretrain) or training.steps_done > 0:
        return {}
    assert isinstance(training.model, Model)
    return stages.monitor(training.model, data, config.data.image_size, training.device)
