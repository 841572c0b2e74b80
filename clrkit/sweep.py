"""Many runs: in dependency order, several processes at a time, each run made once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from time import monotonic

from clrkit.config import Stage
from clrkit.provenance import available_cores
from clrkit.runs import NOTE_SECONDS, Progress, RunError, Store

POLL_SECONDS = 0.2


def run_all(
    stages: Sequence[Stage], store: Store, workers: int = 0, device: str = "auto"
) -> Generator[Progress, None, None]:
    """Make every run of a list that is not there yet, with what they build on.

    On the CPU there is one process a core with one thread each: for networks this small that is faster than
    threads, and the numbers do not depend on the number of cores. Closing the generator stops all runs, each
    with a state to go on from.

    Args:
        stages: configs, in any order.
        store: where runs are kept.
        workers: processes; 0 for one a core.
        device: as in `materialise`.

    Raises:
        RunError, ConfigError: the first error of a run, once the other runs have stopped.
    """
    todo = missing(stages, store)
    if not todo:
        return
    workers = min(workers or available_cores(), len(todo))
    context = multiprocessing.get_context("spawn")
    queue: Queue[Progress] = context.Queue()
    stop = context.Event()
    threads = max(1, available_cores() // workers)
    with ProcessPoolExecutor(workers, context, set_up_worker, (queue, stop, threads)) as pool:
        try:
            yield from supervise(todo, store, device, pool, queue, workers)
        except BrokenProcessPool:
            raise RunError(
                "A worker process died (killed, or out of memory); the other runs are safe."
            ) from None
        finally:
            stop.set()


def missing(stages: Sequence[Stage], store: Store) -> list[Stage]:
    """Runs still to be made, what they build on included, each after it."""
    chain = {store.path(stage): stage for last in stages for stage in last.chain}
    return [stage for path, stage in chain.items() if not (path / "record.json").exists()]


def supervise(
    todo: list[Stage],
    store: Store,
    device: str,
    pool: ProcessPoolExecutor,
    queue: Queue[Progress],
    workers: int,
) -> Generator[Progress, None, None]:
    """Hand out runs whose parents are done, as many as there are workers, and pass their progress on."""
    waiting, working = list(todo), dict[Future[None], Stage]()
    while waiting or working:
        open_runs = [*waiting, *working.values()]
        ready = [stage for stage in waiting if stage.source not in open_runs]
        for stage in ready[: workers - len(working)]:
            waiting.remove(stage)
            working[pool.submit(work, stage, store, device)] = stage
        done, _ = wait(working, POLL_SECONDS, FIRST_COMPLETED)
        while not queue.empty():
            yield queue.get()
        for future in done:
            del working[future]
            future.result()


def set_up_worker(queue: Queue[Progress], stop: Event, threads: int) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told, and tells us through `stop`
    torch.set_num_threads(threads)
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
    from clrkit.materialise import materialise

    told = -NOTE_SECONDS
    with closing(materialise(stage, store, device)) as steps:
        for progress in steps:
            if stop_event.is_set():
                return
            if monotonic() - told > NOTE_SECONDS or progress.step == progress.total:
                progress_queue.put(progress)
                told = monotonic()
