"""Show on standard error what a command is doing."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING

from tqdm import tqdm

from clrkit.config import Stage

if TYPE_CHECKING:
    from clrkit.runs.slurm import Cluster
    from clrkit.runs.store import Store

REDRAW_SECONDS, PLAIN_SECONDS = 0.2, 15.0


class Bar(tqdm):  # type: ignore[misc]
    """A bar without a thread of its own and without locks between processes."""

    monitor_interval = 0


Bar.set_lock(threading.RLock())


class ProgressLine:
    """One line, redrawn in place on a terminal and printed every 15 seconds elsewhere."""

    def __init__(self) -> None:
        self.live, self.printed = sys.stderr.isatty(), -math.inf
        self.bar: Bar | None = None

    def show(self, text: str, share: float | None = None) -> None:
        """Show a text, with a bar for the share that is done; an empty text clears the line."""
        if not text:
            self.clear()
        elif self.live:
            self.redraw(text, share)
        elif monotonic() - self.printed >= PLAIN_SECONDS:
            self.printed = monotonic()
            print(text, file=sys.stderr, flush=True)

    def redraw(self, text: str, share: float | None) -> None:
        first = self.bar is None
        if self.bar is None:
            quick = {"mininterval": REDRAW_SECONDS, "miniters": 0, "delay": 1e-9, "dynamic_ncols": True}
            self.bar = Bar(total=1, leave=False, file=sys.stderr, **quick)
        self.bar.bar_format = "{desc}" if share is None else "|{bar:16}| {desc}"
        self.bar.n = share or 0.0
        self.bar.set_description_str(text, refresh=first)
        self.bar.update(0)  # draws if the last time is long enough ago

    def clear(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def make_runs(
    stages: Sequence[Stage],
    store: Store,
    workers: int,
    device: str,
    stopped: Sequence[int],
    cluster: Cluster | None = None,
) -> bool:
    """Train the missing runs, with a progress line; return False if `stopped` fills before the end."""
    from clrkit.data.datasets import fingerprint, prepare
    from clrkit.device import available_cores
    from clrkit.runs.local_workers import missing, run_all, runs_at_once
    from clrkit.runs.reproduce import complete
    from clrkit.runs.status import SweepStatus

    line = ProgressLine()
    for images in dict.fromkeys(stage.images for stage in stages):
        fingerprint(images, line.show)
    store.find_all(complete(stages))  # raises for a damaged run before anything is trained
    todo = missing(stages, store)
    for images in dict.fromkeys(stage.images for stage in todo):
        prepare(images, line.show)
    line.clear()
    if not todo:
        print(f"All {len(complete(stages))} runs are there; nothing is trained.", file=sys.stderr)
        return True
    on_slurm = cluster is not None and cluster.kind == "slurm"  # which decides how many run at once
    at_once = workers or (available_cores() if on_slurm else runs_at_once(device))
    status = SweepStatus(todo, store, at_once)
    with closing(run_all(stages, store, workers, device, cluster)) as news:
        for progress in news:
            if stopped:
                line.clear()
                return False
            line.show(status.text(progress), len(status.done) / len(todo))
    line.clear()
    print(f"{len(todo)} runs made in {status.elapsed()}.", file=sys.stderr)
    return True
