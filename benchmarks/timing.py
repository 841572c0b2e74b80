"""Interleaved rounds, paired ratios, and the record of a benchmark."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from clrkit.runs.provenance import provenance

ROUNDS = 5
LOAD = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"

Work = Callable[[], Any]
Contestant = Callable[[], AbstractContextManager[Work]]  # what is set up before and torn down after a round


def contestant(work: Work) -> Contestant:
    """Work that needs neither setting up nor tearing down."""

    @contextmanager
    def session() -> Iterator[Work]:
        yield work

    return session


def interleaved(
    contestants: Mapping[str, Contestant], least: float, warmup: int = 2, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of one repetition of each contestant's work, by rounds.

    In every round each contestant has its turn, in an order that moves on from round to round, so that what
    disturbs the machine disturbs all of them. Only one is at work at a time: a contestant's worker processes
    are started before its turn and stopped after it, and `warmup` repetitions bring it to its pace.

    Args:
        contestants: by name.
        least: seconds of a turn; work is repeated until they are over.
        warmup: repetitions before the clock starts.
        rounds: turns of each.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with contestants[name]() as work:
                for _ in range(warmup):
                    work()
                seconds[name].append(timed(work, least))
    return seconds


def timed(work: Work, least: float) -> float:
    """Mean seconds of a repetition; a GPU's queue is empty before and after."""
    wait()
    repeats, start = 0, time.perf_counter()
    while time.perf_counter() - start < least:
        work()
        repeats += 1
    wait()
    return (time.perf_counter() - start) / repeats


def wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def summary(values: list[float]) -> dict[str, float]:
    """Median and extremes, to four digits."""
    low, middle, high = min(values), median(values), max(values)
    return {name: float(f"{value:.4g}") for name, value in (("median", middle), ("low", low), ("high", high))}


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> dict[str, float]:
    """How many times as long `slow` takes as `fast`, from pairs of the same round."""
    return summary([one / other for one, other in zip(seconds[slow], seconds[fast], strict=True)])


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, the load of other work (from before the benchmark), and the date."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    load = {} if LOAD is None else {"load_before": LOAD}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"device": name, "threads": torch.get_num_threads(), **load, "date": now, **provenance()}


def report(name: str, result: Mapping[str, Any], to_stdout: bool) -> None:
    """Print a result as JSON, or keep it as results/benchmarks/<name>.json."""
    text = json.dumps(result, indent=1)
    if to_stdout:
        print(text)
    else:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")
