"""Runs as jobs of a cluster, through submitit: one job a run, requeued and resumed when it is pre-empted.

See docs/guides/sweeps.md for how to use it, and for what submitit pickles where.
"""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import psutil

from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.describe import describe
from clrkit.runs.local_workers import runs_at_once
from clrkit.runs.store import Progress, RunError, Store, partial_of, progress_noted, unused

if TYPE_CHECKING:
    import submitit

KINDS = ("slurm", "local")
POLL_SECONDS = 1.0
CANCEL_SECONDS = 10.0  # for local jobs to stop after a step when they are cancelled
UNSEEN_SECONDS = 90.0  # NFS may hide a result for a minute
STEP_SECONDS = 20  # a job that must leave waits so long for its step
LARGEST_ARRAY = 1000  # jobs at a time: the longest array that SLURM takes by default
REQUEUES = 100  # after time limits; the run goes on from its state
MINUTES = 240  # the time limit of a job, unless timeout_min is set
ONE_PROCESS = ("nodes", "tasks_per_node", "ntasks_per_node", "use_srun")


@dataclass(frozen=True)
class Cluster:
    """A cluster and the parameters of its jobs.

    Attributes:
        kind: "slurm", or "local" for processes of this machine that behave like jobs.
        parameters: as submitit's `update_parameters` names them.
    """

    kind: str
    parameters: Mapping[str, int | str]

    def executor(self, folder: Path) -> submitit.Executor:
        """Return submitit's executor, with the jobs' files in the folder.

        Raises:
            ConfigError: if submitit or SLURM is missing, or naming a parameter that is not allowed.
        """
        try:
            import submitit
        except ImportError:
            raise ConfigError("A cluster needs submitit: pip install 'clrkit[cluster]'.") from None
        often = {f"{kind}_max_num_timeout": REQUEUES for kind in KINDS}
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.kind, **often)
        except RuntimeError:
            raise ConfigError("This machine is not part of a SLURM cluster: it has no srun.") from None
        executor.update_parameters(name="clrkit", timeout_min=MINUTES)
        for name, value in self.parameters.items():
            set_parameter(executor, name, value)
        return executor


def read_parameters(texts: Sequence[str]) -> dict[str, int | str]:
    """Parse parameters NAME=VALUE; a value of digits is a number.

    Raises:
        ConfigError: for another form, or a parameter that would start several processes a run.
    """
    parameters: dict[str, int | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value.isprintable()):  # a line break would begin a command of its own
            raise ConfigError(f"--cluster_set needs NAME=VALUE, not {text!r}.")
        if name.removeprefix("slurm_") in ONE_PROCESS:
            raise ConfigError(f"--cluster_set {name} is not possible: a job makes a run in one process.")
        parameters[name] = int(value) if value.isascii() and value.isdigit() else value
    return parameters


def set_parameter(executor: submitit.Executor, name: str, value: int | str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it guesses where slurm_ was left out
            executor.update_parameters(**{name: value})
    except (NameError, UserWarning):
        raise ConfigError(
            f"submitit knows no parameter {name!r}; SLURM's begin with slurm_, such as slurm_partition."
        ) from None
    except (AssertionError, TypeError, ValueError):
        raise ConfigError(f"The parameter {name} cannot be {value!r}.") from None


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can open, since its files will be unpickled.

    Raises:
        RunError: if it cannot be made, or belongs to another user.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise RunError(f"{folder} belongs to another user, who could run code in your jobs.")
        folder.chmod(0o700)
    except OSError as error:
        raise RunError(f"{folder} cannot be made private: {error.strerror or error}.") from None
    return folder


class SlurmExecutor:
    """A executor of jobs (`clrkit.runs.local_workers.RunExecutor`); what they make is found in the store."""

    def __init__(self, store: Store, device: str, cluster: Cluster, size: int = 0) -> None:
        self.store, self.device = Store(store.results.absolute(), store.preset), device
        self.kind = cluster.kind
        self.size = size or (LARGEST_ARRAY if cluster.kind == "slurm" else runs_at_once(device))
        self.executor = cluster.executor(private_folder(self.store.folder / "cluster"))
        self.jobs: dict[Stage, submitit.Job[str] | None] = {}  # None: a job that is not ours makes the run
        self.first_seen: dict[Stage, tuple[float, int]] = {}  # when, at which step
        self.over: dict[Stage, float] = {}  # when a job had ended whose run is not seen yet
        self.finished: list[Stage] = []

    def begin(self, stages: Sequence[Stage]) -> None:
        self.jobs |= dict.fromkeys(stages)
        self.submit([stage for stage in stages if not self.made_elsewhere(stage)])

    def made_elsewhere(self, stage: Stage) -> bool:
        """True if another process works on a run, for example a job of a sweep that died."""
        partial = partial_of(self.store.path(stage))
        return partial.exists() and not unused(partial)

    def submit(self, stages: Sequence[Stage]) -> None:
        """Submit runs as jobs, several as one array."""
        from submitit.core.utils import FailedJobError

        if not stages:
            return
        try:
            with uninterrupted(), self.executor.batch():
                made = [self.executor.submit(Job(stage, self.store, self.device)) for stage in stages]
        except FailedJobError as error:
            raise RunError(f"SLURM did not take the jobs: {last_line(str(error))}") from None
        self.jobs |= dict(zip(stages, made, strict=True))

    def ended(self) -> list[Stage]:
        sleep(POLL_SECONDS)
        left = [stage for stage, job in self.jobs.items() if job is None and not self.made_elsewhere(stage)]
        self.finished = [stage for stage in left if self.store.find(stage)]
        self.submit([stage for stage in left if stage not in self.finished])
        over = [(stage, job) for stage, job in self.jobs.items() if job is not None and job.done()]
        self.finished += [stage for stage, job in over if self.is_there(stage, job)]
        for stage in self.finished:
            del self.jobs[stage]
        return self.finished

    def is_there(self, stage: Stage, job: submitit.Job[str]) -> bool:
        """True if the run of a finished job is there; on NFS this machine may see it late.

        Raises RunError with what went wrong in a job that did not finish its run.
        """
        from submitit.core.utils import UncompletedJobError

        if self.store.find(stage):
            return True
        try:
            sentence = job.result()
        except UncompletedJobError:
            said = last_line(job.stderr() or "")
            raise RunError(
                f"Job {job.job_id}, {describe(stage)}, died{f' ({said})' if said else ''}; its last state is "
                f"kept, its log is {job.paths.stderr}."
            ) from None
        if sentence:
            raise RunError(sentence)
        if monotonic() > self.over.setdefault(stage, monotonic()) + UNSEEN_SECONDS:
            path = self.store.path(stage)
            raise RunError(f"Job {job.job_id} has made {path}, which is not there for this machine.")
        return False

    def news(self) -> Iterator[Progress]:
        for stage in self.finished:
            yield Progress(stage, 1, 1, math.nan, 0.0, 0.0, {})
        for stage in self.jobs:
            if note := progress_noted(self.store.path(stage)):
                yield self.progress(stage, *note)

    def progress(self, stage: Stage, step: int, total: int) -> Progress:
        now = monotonic()
        began, first = self.first_seen.setdefault(stage, (now, step))
        rate = (step - first) * stage.batch_size / max(now - began, POLL_SECONDS)
        return Progress(stage, step, total, math.nan, rate, math.nan, {})

    def close(self) -> None:
        """Cancel our waiting and running jobs."""
        ours = [job for job in self.jobs.values() if job is not None]
        if self.kind == "local":
            end_processes(ours)
        else:
            for job in ours:
                job.cancel(check=False)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C inside the block, also in processes started there; this process stops them itself."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_processes(jobs: Sequence[submitit.Job[str]]) -> None:
    """Ask local jobs to stop after a step, and kill those that take too long."""
    late = monotonic() + CANCEL_SECONDS
    while not all(job.done() for job in jobs):
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                for task in psutil.Process(int(job.job_id)).children():
                    task.send_signal(signal.SIGINT if monotonic() < late else signal.SIGKILL)
        sleep(0.1)


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


@dataclass(frozen=True)
class Job:
    """A run as submitit pickles it and calls it on a machine of the cluster."""

    stage: Stage
    store: Store
    device: str

    def __call__(self) -> str:
        """Make the run; return the sentence that says what went wrong, or "".

        On pre-emption or a time limit it stops at the end of a step, with a state.
        """
        try:
            with held_back(requeue_signal(), signal.SIGINT) as told:
                if self.is_made_unless(told):
                    return ""
        except ConfigError as error:
            return str(error)
        signal.raise_signal(told[0])
        return f"{describe(self.stage)} was stopped."

    def is_made_unless(self, told: Sequence[signal.Signals]) -> bool:
        from clrkit.runs.run import run_or_load

        with closing(run_or_load(self.stage, self.store, self.device)) as steps:
            return not any(told for _ in steps)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Requeue the same run; it goes on from its state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue_signal() -> signal.Signals:
    """The signal that announces pre-emption and time limits."""
    from submitit import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


@contextmanager
def held_back(*signals: signal.Signals) -> Iterator[list[signal.Signals]]:
    """Collect signals in a list until the end of a step; after STEP_SECONDS they take effect."""
    told: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (*signals, signal.SIGALRM)}

    def give_back() -> None:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        told.append(signal.Signals(number))
        signal.alarm(STEP_SECONDS)

    def come_through(number: int, frame: object) -> None:
        give_back()
        signal.raise_signal(told[0])

    signal.signal(signal.SIGALRM, come_through)
    for number in signals:
        signal.signal(number, note)
    try:
        yield told
    finally:
        give_back()
