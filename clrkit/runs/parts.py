"""A command in parts of so many minutes: what a part will hold, what it did, and how many more there are."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from clrkit.cli.progress import describe, duration
from clrkit.config import Stage, to_dict
from clrkit.runs.store import Store
from clrkit.runs.timing import Kind, network_of, seconds_expected, seconds_per_epoch, share_done
from clrkit.scale.local_workers import missing

MOST_PIECES = 3  # of a part that are named
MOST_PARTS = 1000  # that are listed
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
        from clrkit.results.records import network_name

        epochs = self.stage.epochs
        name = f"{network_name(network_of(to_dict(self.stage)))} {describe(self.stage)}"
        if (self.first, self.last) == (0, 1):
            return name
        if self.first == 1:
            return f"{name}, its end"
        begin, end = math.floor(self.first * epochs) + 1, math.ceil(self.last * epochs)
        return f"{name}, epochs {begin:,} to {max(begin, end):,} of {epochs:,}"


class Schedule:
    """When each piece of work is done, so many runs at a time, as `supervise` hands them out.

    A run is made by one worker, after what it builds on; one that was not timed takes no time.

    Attributes:
        pieces: with the seconds at which each begins and ends, by their beginning.
        seconds: until the last ends.
    """

    def __init__(self, pieces: Sequence[Piece], workers: int) -> None:
        places = {piece.stage: place for place, piece in enumerate(pieces)}
        sources = [places.get(piece.stage.source) if piece.stage.source else None for piece in pieces]
        ends, waiting, now = dict[int | None, float]({None: 0.0}), [*range(len(pieces))], 0.0
        self.pieces = list[tuple[float, float, Piece]]()
        while waiting:
            free = workers - sum(end > now for end in ends.values())
            ready = [place for place in waiting if ends.get(sources[place], math.inf) <= now][:free]
            for place in ready:
                ends[place] = now + (pieces[place].seconds or 0.0)
                self.pieces.append((now, ends[place], pieces[place]))
                waiting.remove(place)
            now = now if ready else min(end for end in ends.values() if end > now)
        self.seconds = max(ends.values())

    def within(self, begin: float, end: float) -> list[Piece]:
        """What is done in a stretch of time; what begins at its end is not."""
        return [
            between(piece, (begin - first) / (last - first), (end - first) / (last - first))
            if first < last
            else piece
            for first, last, piece in self.pieces
            if first < end and (begin < last or begin <= first)
        ]


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
        return {stage: share_done(self.store, stage) for stage in self.stages}

    def ahead(self) -> Schedule:
        """What this part and those after it will hold."""
        return Schedule(left(self.before, seconds_per_epoch(self.store, self.stages)), self.workers)

    def outlook(self) -> str:
        """What this part will hold and cost, and how many come after it."""
        ahead = self.ahead()
        first, rest = ahead.within(0, self.seconds), ahead.within(self.seconds, math.inf)
        words = [listed(first), self.cost(first, ahead.seconds)]
        if rest or timed(first):
            words.append(self.more(rest, ahead.seconds - self.seconds))
        return f"part of {duration(self.seconds)}: {'; '.join(words)}"

    def account(self) -> str:
        """What this part did, and how many such parts are left at the pace it had."""
        took, after = monotonic() - self.begun, self.shares()
        known = seconds_per_epoch(self.store, self.stages)
        done = [
            piece(stage, share, after[stage], known)
            for stage, share in self.before.items()
            if after[stage] > share
        ]
        rest = left({stage: after[stage] for stage in missing(self.stages, self.store)}, known)
        expected = Schedule(done, self.workers).seconds
        pace = expected / took if expected else 1.0
        ahead = self.more(rest, Schedule(rest, self.workers).seconds / pace)
        return f"part over after {duration(took)}: {listed(done) or 'no step done'}; {ahead}"

    def cost(self, pieces: Sequence[Piece], seconds: float) -> str:
        """The time of a part's pieces in words, where so much time is left at its beginning."""
        if seconds >= self.seconds or timed(pieces):
            return f"about {duration(min(seconds, self.seconds))}"
        some = any(timed([each]) for each in pieces)
        return f"time unknown, {'not all were timed yet' if some else UNTIMED}"

    def more(self, pieces: Sequence[Piece], seconds: float) -> str:
        """How many more parts these take in words, where those of them that were timed take so long."""
        if not pieces:
            return "nothing is left after it"
        untimed = sum(each.seconds is None for each in pieces)
        if untimed == len(pieces):
            return f"how many more parts is not known, {UNTIMED}"
        parts = max(1, math.ceil(seconds / self.seconds))
        number = f"{parts:,} more part{'s' if parts > 1 else ''} of {duration(self.seconds)}"
        unknown = f", {untimed:,} run{'s' if untimed > 1 else ''} not timed yet left out" if untimed else ""
        return f"{'at least ' if untimed else ''}{number} ({duration(seconds)}{unknown})"


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
    """What is left of runs that are not there, of which so much is done."""
    return [piece(stage, share, 1.0, known) for stage, share in shares.items()]


def piece(stage: Stage, first: float, last: float, known: dict[Kind, float]) -> Piece:
    """A stretch of a run with the time it takes by `seconds_per_epoch`."""
    whole = seconds_expected(stage, known)
    return Piece(stage, first, last, None if whole is None else whole * (last - first))


def timed(pieces: Sequence[Piece]) -> bool:
    return all(each.seconds is not None for each in pieces)


def between(piece: Piece, first: float, last: float) -> Piece:
    """The stretch of a piece between shares of it, or all that there is of that."""
    first, last = max(first, 0.0), min(last, 1.0)
    whole = piece.last - piece.first
    ends = (piece.first + whole * first, piece.first + whole * last if last < 1 else piece.last)
    return Piece(piece.stage, *ends, None if piece.seconds is None else piece.seconds * (last - first))


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
    ahead = part.ahead()
    parts = max(1, math.ceil(ahead.seconds / part.seconds))
    lines = [f"In parts of {duration(part.seconds)}, {at_once}:"]
    for place in range(min(parts, MOST_PARTS)):
        begin = place * part.seconds
        pieces = ahead.within(begin, math.inf if place == parts - 1 else begin + part.seconds)
        lines.append(f"{place + 1:>5,}  {part.cost(pieces, ahead.seconds - begin)}: {listed(pieces)}")
    return lines if parts <= MOST_PARTS else [*lines, f"... and {parts - MOST_PARTS:,} more"]
