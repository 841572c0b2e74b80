"""A command in parts of so many minutes: what a part will hold, what it did, and how many more there are."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic

from clrkit.config import Stage, to_dict
from clrkit.console import describe, duration
from clrkit.durations import Kind, network_of, seconds_expected, seconds_per_epoch
from clrkit.runs import Store
from clrkit.sweep import missing

MOST_PIECES = 3  # of a part that are named
UNTIMED = "no such run was timed yet"


@dataclass(frozen=True)
class Piece:
    """A stretch of a run.

    Attributes:
        stage: of the run.
        first, last: the share of its steps that is done before and after.
        seconds: expected; None where no such run was timed.
    """

    stage: Stage
    first: float
    last: float
    seconds: float | None

    def __str__(self) -> str:
        from clrkit.frames import network_name

        epochs = self.stage.epochs
        name = f"{network_name(network_of(to_dict(self.stage)))} {describe(self.stage)}"
        if (self.first, self.last) == (0, 1):
            return name
        begin, end = math.floor(self.first * epochs) + 1, math.ceil(self.last * epochs)
        return f"{name}, epochs {begin:,} to {max(begin, end):,} of {epochs:,}"


class Part:
    """A part of a command.

    Args:
        stages: what the command makes.
        store: where.
        minutes: that the part lasts.
        workers: runs at a time.
    """

    def __init__(self, stages: Sequence[Stage], store: Store, minutes: float, workers: int) -> None:
        self.begun, self.store, self.seconds, self.workers = monotonic(), store, 60 * minutes, workers
        self.stages = missing(stages, store)
        self.before = self.shares()

    def shares(self) -> dict[Stage, float]:
        """How much of each run is done."""
        return {stage: self.store.state(stage)[1] for stage in self.stages}

    def ahead(self) -> list[list[Piece]]:
        """What this part and those after it will hold."""
        known = seconds_per_epoch(self.store, self.stages)
        return cut(left(self.before, known), self.seconds * self.workers)

    def outlook(self) -> str:
        """What this part will hold and cost, and how many come after it."""
        first, *more = self.ahead()
        rest = [piece for part in more for piece in part]
        words = [listed(first), self.cost(first), *([self.more(rest)] if rest or timed(first) else [])]
        return f"part of {duration(self.seconds)}: {'; '.join(words)}"

    def account(self) -> str:
        """What this part did, and how many such parts are left."""
        took, after = monotonic() - self.begun, self.shares()
        known = seconds_per_epoch(self.store, self.stages)
        done = [
            piece(stage, share, after[stage], known)
            for stage, share in self.before.items()
            if after[stage] > share
        ]
        work = sum(each.seconds or 0.0 for each in done)
        rest = self.more(left(after, known), work / took if work else None)
        return f"part over after {duration(took)}: {listed(done) or 'no step done'}; {rest}"

    def cost(self, pieces: Sequence[Piece]) -> str:
        """The time of a part's pieces in words."""
        if not any(timed([each]) for each in pieces):
            return f"time unknown, {UNTIMED}"
        if not timed(pieces):
            return "time unknown, not all were timed yet"
        return f"about {duration(sum(each.seconds or 0 for each in pieces) / self.workers)}"

    def more(self, pieces: Sequence[Piece], pace: float | None = None) -> str:
        """How many more parts these take in words, by the seconds of work done in a second."""
        if not pieces:
            return "nothing is left after it"
        work = sum(each.seconds or 0.0 for each in pieces) / (pace or self.workers)
        untimed = sum(each.seconds is None for each in pieces)
        if not work:
            return f"how many more parts is not known, {UNTIMED}"
        parts = math.ceil(work / self.seconds)
        number = f"{parts:,} more part{'s' if parts > 1 else ''} of {duration(self.seconds)}"
        unknown = f", {untimed:,} run{'s' if untimed > 1 else ''} not timed yet left out" if untimed else ""
        return f"{'at least ' if untimed else ''}{number} ({duration(work)}{unknown})"


@contextmanager
def part(stages: Sequence[Stage], store: Store, minutes: float, workers: int = 1) -> Iterator[None]:
    """Within, a command does a part of its work: what it will hold and what it did goes to standard error.

    Args: as of `Part`; nothing is said where `minutes` is 0, for the whole at once.
    """
    if not minutes:
        yield
        return
    this = Part(stages, store, minutes, workers)
    if this.stages:
        print(this.outlook(), file=sys.stderr)
    yield
    if this.stages:
        print(this.account(), file=sys.stderr)


def left(shares: dict[Stage, float], known: dict[Kind, float]) -> list[Piece]:
    """What is left of runs of which so much is done."""
    return [piece(stage, share, 1.0, known) for stage, share in shares.items() if share < 1]


def piece(stage: Stage, first: float, last: float, known: dict[Kind, float]) -> Piece:
    """A stretch of a run with the time it takes by `seconds_per_epoch`."""
    whole = seconds_expected(stage, known)
    return Piece(stage, first, last, None if whole is None else whole * (last - first))


def timed(pieces: Sequence[Piece]) -> bool:
    return all(each.seconds is not None for each in pieces)


def cut(pieces: Sequence[Piece], seconds: float) -> list[list[Piece]]:
    """Parts of so many seconds of work; a piece that was not timed takes no room."""
    parts, room = [list[Piece]()], seconds
    for whole in pieces:
        rest = whole
        while rest.seconds is not None and rest.seconds > room:
            middle = rest.first + (rest.last - rest.first) * room / rest.seconds
            if room > 0:
                parts[-1].append(replace(rest, last=middle, seconds=room))
            rest = replace(rest, first=middle, seconds=rest.seconds - room)
            parts.append([])
            room = seconds
        parts[-1].append(rest)
        room -= rest.seconds or 0.0
    return parts


def listed(pieces: Sequence[Piece]) -> str:
    """The first pieces by name, the others by number."""
    names, others = "; ".join(map(str, pieces[:MOST_PIECES])), len(pieces) - MOST_PIECES
    return names + (f"; and {others:,} more run{'s' if others > 1 else ''}" if others > 0 else "")


def table(stages: Sequence[Stage], store: Store, minutes: float, workers: int) -> list[str]:
    """The parts ahead, a line each."""
    part = Part(stages, store, minutes, workers)
    if not part.stages:
        return ["No parts are left: all runs are there."]
    at_once = "one run at a time" if workers == 1 else f"{workers} runs at a time"
    lines = [f"{place:>5,}  {part.cost(each)}: {listed(each)}" for place, each in enumerate(part.ahead(), 1)]
    return [f"In parts of {duration(part.seconds)}, {at_once}:", *lines]
