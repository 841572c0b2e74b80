"""Runs as jobs of a cluster, through submitit: one job a run, requeued and resumed when it is pre-empted.

docs/guides/sweeps.md tells how it is used, and what submitit pickles where.
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

from clrkit.cli.progress import describe
from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.runs.store import Progress, RunError, Store, partial_of, progress_noted, unused
from clrkit.scale.local_workers import runs_at_once

if TYPE_CHECKING:
    import submitit

KINDS = ("slurm", "local")
POLL_SECONDS = 1.0
CANCEL_SECONDS = 10.0  # for local jobs to stop after a step when they are cancelled
UNSEEN_SECONDS = 90.0  # that a result may stay hidden: NFS asks again after a minute at most
STEP_SECONDS = 20  # that a step may last before a job leaves without it
LARGEST_ARRAY = 1000  # jobs at a time: the longest array that SLURM takes unless it is told otherwise
REQUEUES = 100  # after time limits; each time a run goes on from where it was
MINUTES = 240  # a job may last, unless timeout_min is set
ONE_PROCESS = ("nodes", "tasks_per_node", "ntasks_per_node", "use_srun")


@dataclass(frozen=True)
class Cluster:
    """Where jobs go.

    Attributes:
        kind: "slurm", or "local" for processes of this machine that live like jobs.
        parameters: of the jobs, as submitit's `update_parameters` names them.
    """

    kind: str
    parameters: Mapping[str, int | str]

    def executor(self, folder: Path) -> submitit.Executor:
        """What takes jobs, with their files in the folder.

        Raises:
            ConfigError: where submitit or SLURM is not there, or naming a parameter that cannot be.
        """
        try:
            import submitit
        except ImportError:
            raise ConfigError("A cluster needs submitit: pip install 'clrkit[cluster]'.") from None
        often = {f"{kind}_max_num_timeout": REQUEUES for kind in KINDS}
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.kind, **often)
        except RuntimeError:
            raise ConfigError("This machine is no part of a SLURM cluster: it has no srun.") from None
        executor.update_parameters(name="clrkit", timeout_min=MINUTES)
        for name, value in self.parameters.items():
            set_parameter(executor, name, value)
        return executor


def read_parameters(texts: Sequence[str]) -> dict[str, int | str]:
    """Parameters from texts NAME=VALUE; a value of digits is a number, any other a text.

    Raises:
        ConfigError: for a text of another form, or a parameter that would make a run in several processes.
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
    """The folder, there and open to nobody else: what lies in it will be unpickled.

    Raises:
        RunError: where it cannot be made, or is not ours.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise RunError(f"{folder} is somebody else's; jobs would carry out what its owner puts there.")
        folder.chmod(0o700)
    except OSError as error:
        raise RunError(f"{folder} cannot be made private: {error.strerror or error}.") from None
    return folder


class Jobs:
    """A crew of jobs (`clrkit.scale.local_workers.Crew`); what they make is found in the store."""

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
        """Whether somebody works on a run: a job, perhaps, that was left behind by a sweep that died."""
        partial = partial_of(self.store.path(stage))
        return partial.exists() and not unused(partial)

    def submit(self, stages: Sequence[Stage]) -> None:
        """Make jobs of runs: where they are several, one array."""
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
        """Whether the run of a job that is over is there; this machine may see it later than the job's did.

        Raises what went wrong in a job that has not made its run.
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
        """Cancel our jobs that have not ended, waiting and running ones."""
        ours = [job for job in self.jobs.values() if job is not None]
        if self.kind == "local":
            end_processes(ours)
        else:
            for job in ours:
                job.cancel(check=False)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within, Ctrl-C does nothing, nor ever to processes begun here: it is for this process to tell them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_processes(jobs: Sequence[submitit.Job[str]]) -> None:
    """Tell local jobs to stop after a step, and end those that take too long."""
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
    """A run as submitit pickles it, and calls it on whichever machine it is given."""

    stage: Stage
    store: Store
    device: str

    def __call__(self) -> str:
        """Make the run; returns the sentence that says what went wrong, "" where nothing did.

        Told to leave, by pre-emption or a time limit, it does so at the end of a step, with a state.
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
        """What submitit requeues: the same run, which goes on from its state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue_signal() -> signal.Signals:
    """The signal by which submitit has SLURM announce pre-emption and time limits."""
    from submitit import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


@contextmanager
def held_back(*signals: signal.Signals) -> Iterator[list[signal.Signals]]:
    """Within, signals only fill the list, for the end of a step; where none ends soon, they come through."""
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
