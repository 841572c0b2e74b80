"""Peak memory of a piece of work, in a process of its own. As Linux counts it: resident pages.

Not `ru_maxrss`: a process inherits that of the one that started it.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

LIMIT = 16 * 2**30  # bytes a child may hold: others' work on the same machine shall not die of it

T = TypeVar("T")


def in_child(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, in a fresh process that may hold LIMIT bytes."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=limit) as process:
        return process.submit(work, *arguments).result()


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


def extra_megabytes(work: Callable[[], Any]) -> float:
    """By how many MB (10^6 bytes) memory rises at most while the work is done."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_megabytes()
    work()
    return round(peak_megabytes() - before, 1)


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
