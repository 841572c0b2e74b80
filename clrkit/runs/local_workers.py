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
    """Make every run of a list that is not there yet, with what they build on.

    On the CPU a run has one thread (`clrkit.runs.run`): for networks this small processes are faster than
    threads, and the numbers depend neither on the number of cores nor on that of workers. Closing the
    generator stops all runs, each with a state to go on from.

    Args:
        stages: configs, in any order.
        store: where runs are kept.
        workers: runs at a time; 0 for `runs_at_once`, or as many as a cluster takes.
        device: as in `run_or_load`.
        cluster: makes the runs, in place of processes of this machine.

    Yields:
        Where a run stands; now and then None, so that a caller who waits can stop.

    Raises:
        RunError, ConfigError: the first error of a run, once the other runs have stopped.
    """
    todo = missing(stages, store)
    if not todo:
        return
    with closing(hire(len(todo), store, workers, device, cluster)) as crew:
        yield from supervise(todo, crew)


def missing(stages: Sequence[Stage], store: Store) -> list[Stage]:
    """Runs still to be made, what they build on included, each after it."""
    chain = {store.path(stage): stage for last in stages for stage in last.chain}
    return [stage for path, stage in chain.items() if not (path / "record.json").exists()]


@runtime_checkable
class Crew(Protocol):
    """Whoever makes runs, several at a time: processes of this machine, jobs of a cluster.

    Attributes:
        size: runs at a time.
    """

    size: int

    def begin(self, stages: Sequence[Stage]) -> None:
        """Begin runs; all they build on is there."""

    def ended(self) -> list[Stage]:
        """Runs that have ended since the last call, after a moment's waiting. Raises the error of one."""

    def news(self) -> Iterator[Progress]:
        """Where runs stand."""

    def close(self) -> None:
        """Stop the runs that have not ended."""


def hire(runs: int, store: Store, workers: int, device: str, cluster: Cluster | None) -> Crew:
    """A crew for so many runs."""
    if cluster is None:
        return Pool(store, device, min(workers or runs_at_once(device), runs))
    from clrkit.runs.slurm import Jobs

    return Jobs(store, device, cluster, workers)


def runs_at_once(device: str) -> int:
    """Runs at a time on this machine unless told otherwise: one a core, or one where all go onto one GPU."""
    from clrkit.device import choose_device

    return 1 if choose_device(device).type == "cuda" else available_cores()


def supervise(todo: Sequence[Stage], crew: Crew) -> Generator[Progress | None, None, None]:
    """Hand out runs whose parents are done, as many as the crew can make, and pass their progress on."""
    waiting, working = list(todo), set[Stage]()
    while waiting or working:
        to_be_made = {*waiting, *working}
        ready = [stage for stage in waiting if stage.source not in to_be_made][: crew.size - len(working)]
        if ready:
            crew.begin(ready)
            working |= {*ready}
            waiting = [stage for stage in waiting if stage not in working]
        working -= {*crew.ended()}
        yield from crew.news()
        yield None


class Pool:
    """A crew of processes of this machine."""

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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told, and tells us through `stop`
    globals().update(progress_queue=queue, stop_event=stop)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this worker once the first process is gone, killed perhaps; the last saved state stays."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


progress_queue: Queue[Progress]
stop_event: Event


def work(stage: Stage, store: Store, device: str) -> None:
    """Make one run in a worker process, telling where it stands; stop at the next step when told to."""
    from clrkit.runs.run import run_or_load

    told = -NOTE_SECONDS
    with closing(run_or_load(stage, store, device)) as steps:
        for progress in steps:
            if stop_event.is_set():
                return
            if monotonic() - told > NOTE_SECONDS or progress.step == progress.total:
                progress_queue.put(progress)
                told = monotonic()
