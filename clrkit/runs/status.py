"""Where runs stand, in words: a plan, a run or a sweep under way, and what a run builds on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.describe import TITLES, describe, duration
from clrkit.experiments.fields import Path, from_dict, places, value_at
from clrkit.runs.keys import keyed_fields
from clrkit.runs.store import Progress, Run, Store
from clrkit.runs.timing import runs_in, seconds_expected, seconds_per_epoch, share_done

MOST_NAMES = 8  # of runs in one line
MOST_DIFFERENCES = 4  # of fields in one line


def plan_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A plan by stage: how many runs are cached, partial or to be trained, and how long these take."""
    lines = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        lines.append(f"{stage:<11} {plan_summary([row for row in rows if row['stage'] == stage])}")
    return [*lines, f"{'all':<11} {plan_summary(rows)}"]


def plan_summary(rows: Sequence[dict[str, Any]]) -> str:
    """The states of planned runs, and the processor time that the missing ones need."""
    states = [row["state"] for row in rows]
    names = {"cached": "cached", "damaged": "damaged", "partial": "partial", "missing": "to train"}
    words = ", ".join(f"{states.count(state)} {names[state]}" for state in names if state in states)
    seconds = [row["seconds"] for row in rows if row["state"] != "cached"]
    if not seconds:
        return words
    if None in seconds:
        return f"{words}: time unknown, no such run was timed yet"
    return f"{words}: about {duration(sum(seconds))} of one core"


def run_text(progress: Progress) -> str:
    """Where a run stands: share, loss, metrics, speed and time left."""
    begin = f"{describe(progress.config)}: {progress.step / progress.total:.0%}"
    if progress.elsewhere:
        return f"{begin}, made by another process"
    loss = "" if math.isnan(progress.loss) else f", loss {progress.loss:.3f}"  # none before the first log
    metrics = "".join(f", {name} {value:.3f}" for name, value in progress.metrics.items())
    return f"{begin}{loss}{metrics}, {progress.rate:,.0f} images/s, {duration(progress.seconds_left)} left"


class SweepStatus:
    """Where many runs stand: how many are done, the speed, and the time left, estimated from earlier runs."""

    def __init__(self, todo: Sequence[Stage], store: Store, workers: int) -> None:
        known = seconds_per_epoch(store, todo)
        self.expected = {stage: seconds_expected(stage, known) for stage in todo}
        self.before = {stage: share_done(store, stage) for stage in todo}
        self.workers, self.begun = workers, monotonic()
        self.working, self.done = dict[Stage, Progress](), set[Stage]()

    def text(self, progress: Progress | None) -> str:
        """The line to show after news of a run, or after none."""
        if progress:
            self.working[progress.config] = progress
            if progress.step == progress.total:
                del self.working[progress.config]
                self.done.add(progress.config)
        rate = sum(each.rate for each in self.working.values())
        names = [describe(stage) for stage in self.working]
        more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
        return (
            f"{len(self.done)} of {len(self.expected)} runs; "
            f"{' | '.join([*names[:MOST_NAMES], *more]) or 'none at work yet'}; "
            f"{rate:,.0f} images/s, {duration(self.seconds_left())} left"
        )

    def elapsed(self) -> str:
        return duration(monotonic() - self.begun)

    def seconds_left(self) -> float | None:
        """Time to the end: what the runs are expected to take, scaled by the pace of those under way."""
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


def missing_parents(stages: Sequence[Stage], store: Store) -> Iterator[str]:
    """A sentence for every run that these build on and that is missing, with the nearest recorded run."""
    parents = dict.fromkeys(link for stage in stages for link in stage.chain[:-1])
    missing = [stage for stage in parents if stage not in stages and store.state(stage)[0] == "missing"]
    recorded = list(runs_in(store)) if missing else []
    for stage in missing:
        nearest = nearest_run(stage, recorded)
        compared = f" (nearest recorded: {nearest})" if nearest else ""
        yield f"{TITLES[stage.name]} is not recorded and will be trained first{compared}"


def nearest_run(stage: Stage, recorded: Sequence[Run]) -> str:
    """The recorded run of a stage that differs in the fewest fields, and these: recorded/asked value."""
    alike: list[tuple[list[str], str]] = []
    for run in recorded:
        if run.record["stage"] == stage.name:
            with suppress(ConfigError):  # recorded by another version
                other = from_dict(type(stage), run.record["config"])
                alike.append((differences(other, stage), run.folder.name))
    if not alike:
        return ""
    found, name = min(alike, key=lambda pair: len(pair[0]))
    more = [f"{len(found) - MOST_DIFFERENCES} more"] if len(found) > MOST_DIFFERENCES else []
    return f"{name}, differs in {', '.join([*found[:MOST_DIFFERENCES], *more]) or 'its images'}"


def differences(recorded: Stage, asked: Stage) -> list[str]:
    """The fields that change the mathematics and differ, each with both values."""
    keyed = {*leaf_paths(keyed_fields(recorded)), *leaf_paths(keyed_fields(asked))}
    found = []
    for place in places(asked):
        before, now = value_at(recorded, place.path), value_at(asked, place.path)
        if place.path in keyed and before != now:
            name = place.path[-1] if place.stage == asked.name else place.address
            found.append(f"{name} {shown(before)}/{shown(now)}")
    return found


def shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def leaf_paths(values: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    """Paths to the values of nested mappings."""
    for name, value in values.items():
        yield from leaf_paths(value, (*path, name)) if isinstance(value, Mapping) else [(*path, name)]
