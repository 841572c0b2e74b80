"""Stop training at a signal or after a time, between two steps."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
TIME_UP = 0  # stands in the list of signals for the end of the time


@contextmanager
def catch_signals(
    *signals: signal.Signals, until: float = math.inf, second_raises: bool = False
) -> Iterator[list[int]]:
    """Collect signals in a list instead of interrupting the code; outside the main thread, none arrive.

    Args:
        signals: which.
        until: when to add TIME_UP to the list, as `time.monotonic`.
        second_raises: whether a second signal raises KeyboardInterrupt at once.
    """
    caught: list[int] = []

    def catch(number: int, _: object) -> None:
        caught.append(number)
        if second_raises and len(caught) > 1:
            raise KeyboardInterrupt

    timer = threading.Timer(min(until - monotonic(), threading.TIMEOUT_MAX), caught.append, [TIME_UP])
    timer.daemon = True
    if until < math.inf:
        timer.start()
    try:
        with handlers(signals, catch):
            yield caught
    finally:
        timer.cancel()


@contextmanager
def raise_on_signals(*signals: signal.Signals) -> Iterator[None]:
    """Raise KeyboardInterrupt at a signal, and in place of any error that the signal caused.

    An extension module that is interrupted while it is imported raises an ImportError, for example.
    """
    caught: list[int] = []

    def interrupt(number: int, _: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    with handlers(signals, interrupt):
        try:
            yield
        except Exception:
            if caught:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def handlers(signals: Sequence[signal.Signals], handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Handle signals with this function, in the main thread; the former handlers come back at the end."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in signals if main}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
