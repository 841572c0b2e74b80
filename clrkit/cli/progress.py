"""What the command line shows while it works: one line that lives, times a person can read."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from clrkit.config import Stage
from clrkit.experiments.grid import describe
from clrkit.runs.store import Progress, Store
from clrkit.runs.timing import seconds_expected, seconds_per_epoch, share_done

if TYPE_CHECKING:
    from clrkit.runs.slurm import Cluster

REDRAW_SECONDS, PLAIN_SECONDS = 0.2, 15.0
TIME_UP = 0  # noted where a time is over, as a signal is by its number
MOST_NAMES = 8  # of runs in one line


def duration(seconds: float | None) -> str:
    """A time to the precision a person wants: 8 s, 4 min, 2.5 h."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown time"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


@contextmanager
def noting(*signals: signal.Signals, until: float = math.inf) -> Iterator[list[int]]:
    """Within, these signals only fill the list, and so does a time of `monotonic`: no step is cut in two.

    Outside the main thread, which signals never reach, they do not.
    """
    noted: list[int] = []
    timer = threading.Timer(min(until - monotonic(), threading.TIMEOUT_MAX), noted.append, [TIME_UP])
    timer.daemon = True
    if until < math.inf:
        timer.start()
    try:
        with handled(signals, lambda sent, _: noted.append(sent)):
            yield noted
    finally:
        timer.cancel()


@contextmanager
def interrupting(*signals: signal.Signals) -> Iterator[None]:
    """Within, these signals raise KeyboardInterrupt.

    So does what became of one: an extension module that is interrupted while it is imported, say, raises an
    ImportError.
    """
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    with handled(signals, interrupt):
        try:
            yield
        except Exception:
            if came:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def handled(signals: Sequence[signal.Signals], handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Within, signals are handled like this, in the main thread, which alone they reach."""
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in signals if mine}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class ProgressLine:
    """One line on standard error, redrawn in place on a terminal, else a plain line now and then."""

    def __init__(self) -> None:
        self.drawn = -math.inf
        self.live = sys.stderr.isatty()

    def show(self, text: str, always: bool = False) -> None:
        now = monotonic()
        if not always and now - self.drawn < (REDRAW_SECONDS if self.live else PLAIN_SECONDS):
            return
        self.drawn = now
        print(
            f"\r\x1b[2K{text}" if self.live else text,
            end="" if self.live else "\n",
            file=sys.stderr,
            flush=True,
        )

    def clear(self) -> None:
        if self.live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)

    def run(self, progress: Progress) -> None:
        """Show where a single run stands."""
        share = progress.step / progress.total
        if progress.elsewhere:
            self.show(f"{describe(progress.config)}: {share:.0%}, made by another process")
            return
        loss = "" if math.isnan(progress.loss) else f", loss {progress.loss:.3f}"  # none before the first log
        metrics = "".join(f", {name} {value:.3f}" for name, value in progress.metrics.items())
        self.show(
            f"{describe(progress.config)}: {share:.0%}{loss}{metrics}, "
            f"{progress.rate:,.0f} images/s, {duration(progress.seconds_left)} left",
        )


class SweepLine:
    """The line for many runs: how many are done, the rate, and the time left by what such runs took."""

    def __init__(self, todo: Sequence[Stage], store: Store, workers: int) -> None:
        known = seconds_per_epoch(store, todo)
        self.expected = {stage: seconds_expected(stage, known) for stage in todo}
        self.before = {stage: share_done(store, stage) for stage in todo}
        self.line, self.workers, self.total = ProgressLine(), workers, len(todo)
        self.begun, self.working, self.done = monotonic(), dict[Stage, Progress](), set[Stage]()

    def show(self, progress: Progress | None) -> None:
        """Show where the runs stand, after news of one or none."""
        if progress:
            self.note(progress)
        rate = sum(each.rate for each in self.working.values())
        self.line.show(
            f"{len(self.done)} of {self.total} runs; {self.names()}; "
            f"{rate:,.0f} images/s, {duration(self.left())} left"
        )

    def note(self, progress: Progress) -> None:
        self.working[progress.config] = progress
        if progress.step == progress.total:
            del self.working[progress.config]
            self.done.add(progress.config)

    def names(self) -> str:
        """The runs at work, or the first of very many."""
        names = [describe(stage) for stage in self.working]
        more = f" | and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return " | ".join(names[:MOST_NAMES]) + more or "none at work yet"

    def clear(self) -> None:
        self.line.clear()

    def elapsed(self) -> str:
        return duration(monotonic() - self.begun)

    def left(self) -> float | None:
        """Seconds to the end, at the pace so far against what the runs were expected to take."""
        if None in self.expected.values():
            return None
        whole = sum((seconds or 0) * (1 - self.before[stage]) for stage, seconds in self.expected.items())
        share = {stage: each.step / each.total for stage, each in self.working.items()}
        share |= dict.fromkeys(self.done, 1.0)
        past = sum(
            (self.expected[stage] or 0) * max(part - self.before[stage], 0) for stage, part in share.items()
        )
        elapsed = monotonic() - self.begun
        pace = elapsed / past if past > 0.05 * whole else 1 / self.workers
        return (whole - past) * pace


def make_runs(
    stages: Sequence[Stage],
    store: Store,
    workers: int,
    device: str,
    stopped: Sequence[int],
    cluster: Cluster | None = None,
) -> bool:
    """Make the missing runs, with a progress line; return False if `stopped` fills before the end."""
    from clrkit.data.datasets import fingerprint, prepare
    from clrkit.device import available_cores
    from clrkit.runs.local_workers import missing, run_all, runs_at_once
    from clrkit.runs.reproduce import complete

    show = ProgressLine().show
    for images in dict.fromkeys(stage.images for stage in stages):
        fingerprint(images, show)
    store.find_all(complete(stages))  # raises for a damaged run before anything is trained
    todo = missing(stages, store)
    if not todo:
        print(f"All {len(complete(stages))} runs are there; nothing is trained.", file=sys.stderr)
        return True
    for images in dict.fromkeys(stage.images for stage in todo):
        prepare(images, show)
    on_slurm = cluster is not None and cluster.kind == "slurm"  # which decides how many run at once
    at_once = workers or (available_cores() if on_slurm else runs_at_once(device))
    line = SweepLine(todo, store, at_once)
    with closing(run_all(stages, store, workers, device, cluster)) as news:
        for progress in news:
            if stopped:
                line.clear()
                return False
            line.show(progress)
    line.clear()
    print(f"{len(todo)} runs made in {line.elapsed()}.", file=sys.stderr)
    return True


def plan_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A plan by stage: how many runs are cached, partial or to be made, and about how long that takes."""
    lines = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        lines.append(f"{stage:<11} {plan_summary([row for row in rows if row['stage'] == stage])}")
    return [*lines, f"{'all':<11} {plan_summary(rows)}"]


def plan_summary(rows: Sequence[dict[str, Any]]) -> str:
    """The states of some planned runs in words, with the processor time the missing ones need."""
    states = [row["state"] for row in rows]
    names = {"cached": "cached", "damaged": "damaged", "partial": "partial", "missing": "to train"}
    words = ", ".join(f"{states.count(state)} {names[state]}" for state in names if state in states)
    seconds = [row["seconds"] for row in rows if row["state"] != "cached"]
    if not seconds:
        return words
    if None in seconds:
        return f"{words}: time unknown, no such run was timed yet"
    return f"{words}: about {duration(sum(seconds))} of one core"
