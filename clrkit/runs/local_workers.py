"""Many runs: in dependency order, several at a time, in processes or on a cluster, each run made once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from time import monotonic
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from clrkit.config import Stage
from clrkit.device import available_cores
from clrkit.runs.store import NOTE_SECONDS, Progress, RunError, Store

if TYPE_CHECKING:
    from clrkit.runs.slurm import Cluster

POLL_SECONDS = 0.2


def run_all(
    stages: Sequence[Stage],
    store: Store,
    workers: int = 0,
    device: str = "auto",
    cluster: Cluster | None = None,
) -> Generator[Progress | None, None, None]:
    """Make the missing runs of a list and their parents.

    On the CPU each run has one thread (`clrkit.runs.run`): for small networks processes are faster than
    threads, and numbers do not depend on cores or workers. Closing the generator stops all runs, each with a
    saved state.

    Args:
        stages: configs, in any order.
        store: where runs are kept.
        workers: runs at a time; 0 for `runs_at_once`, or as many as a cluster takes.
        device: as in `run_or_load`.
        cluster: makes the runs instead of this machine.

    Yields:
        Progress of a run; from time to time None, so that a waiting caller can stop.

    Raises:
        RunError, ConfigError: the first error of a run, once the other runs have stopped.
    """
    todo = missing(stages, store)
    if not todo:
        return
    with closing(make_executor(len(todo), store, workers, device, cluster)) as executor:
        yield from supervise(todo, executor)


def missing(stages: Sequence[Stage], store: Store) -> list[Stage]:
    """The missing runs and parents, parents first."""
    chain = {store.path(stage): stage for last in stages for stage in last.chain}
    return [stage for path, stage in chain.items() if not (path / "record.json").exists()]


@runtime_checkable
class RunExecutor(Protocol):
    """What makes several runs at a time: processes of this machine or jobs of a cluster.

    Attributes:
        size: runs at a time.
    """

    size: int

    def begin(self, stages: Sequence[Stage]) -> None:
        """Start runs whose parents are finished."""

    def ended(self) -> list[Stage]:
        """Wait a moment and return the runs that ended since the last call. Raises a run's error."""

    def news(self) -> Iterator[Progress]:
        """Progress of the runs under way."""

    def close(self) -> None:
        """Stop the runs under way."""


def make_executor(runs: int, store: Store, workers: int, device: str, cluster: Cluster | None) -> RunExecutor:
    """Return the executor for a number of runs."""
    if cluster is None:
        return LocalExecutor(store, device, min(workers or runs_at_once(device), runs))
    from clrkit.runs.slurm import SlurmExecutor

    return SlurmExecutor(store, device, cluster, workers)


def runs_at_once(device: str) -> int:
    """Default number of runs at a time on this machine: one a core, or one on a GPU."""
    from clrkit.device import choose_device

    return 1 if choose_device(device).type == "cuda" else available_cores()


def supervise(todo: Sequence[Stage], executor: RunExecutor) -> Generator[Progress | None, None, None]:
    """Start runs whose parents are finished, as many as the executor takes, and yield their progress."""
    waiting, working = list(todo), set[Stage]()
    while waiting or working:
        to_be_made = {*waiting, *working}
        ready = [stage for stage in waiting if stage.source not in to_be_made][: executor.size - len(working)]
        if ready:
            executor.begin(ready)
            working |= {*ready}
            waiting = [stage for stage in waiting if stage not in working]
        working -= {*executor.ended()}
        yield from executor.news()
        yield None


class LocalExecutor:
    """Runs in processes of this machine."""

    def __init__(self, store: Store, device: str, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.store, self.device, self.size = store, device, size
        self.queue: Queue[Progress] = context.Queue()
        self.stop = context.Event()
        self.pool = ProcessPoolExecutor(size, context, set_up_worker, (self.queue, self.stop))
        self.working: dict[Future[None], Stage] = {}

    def begin(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            self.working[self.pool.submit(work, stage, self.store, self.device)] = stage

    def ended(self) -> list[Stage]:
        done, _ = wait(self.working, POLL_SECONDS, FIRST_COMPLETED)
        try:
            for future in done:
                future.result()
        except BrokenProcessPool:
            raise RunError(
                "A worker process died (killed, or out of memory); the other runs are safe."
            ) from None
        return [self.working.pop(future) for future in done]

    def news(self) -> Iterator[Progress]:
        while not self.queue.empty():
            yield self.queue.get()

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown()


def set_up_worker(queue: Queue[Progress], stop: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process gets it and sets `stop`
    globals().update(progress_queue=queue, stop_event=stop)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this worker when the first process is gone; the last saved state stays."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


progress_queue: Queue[Progress]
stop_event: Event


def work(stage: Stage, store: Store, device: str) -> None:
    """Make one run in a worker process and report its progress; stop at the next step on request."""
    from clrkit.runs.run import run_or_load

    reported = -NOTE_SECONDS
    with closing(run_or_load(stage, store, device)) as steps:
        for progress in steps:
            if stop_event.is_set():
                return
            if monotonic() - reported > NOTE_SECONDS or progress.step == progress.total:
                progress_queue.put(progress)
                reported = monotonic()
