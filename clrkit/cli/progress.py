"""Show on standard error what a command is doing."""

from __future__ import annotations

import math
import sys
import threading
from time import monotonic

from tqdm import tqdm

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
