"""How long a run will take, from how long such runs took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from statistics import median
from typing import Any

from clrkit.checksums import Damaged
from clrkit.config import Stage, to_dict
from clrkit.runs import Run, RunError, Store, progress_file, read_json, read_run

Kind = tuple[Any, ...]


def seconds_per_epoch(store: Store, stages: Iterable[Stage]) -> dict[Kind, float]:
    """Median seconds an epoch took, by kind of run: in the store, else in its reference.

    The reference may be from another machine. In the store what is there of these stages counts, too, where
    they are not finished.
    """
    return median_seconds(runs_in(store.reference)) | medians([*times(runs_in(store)), *paces(stages, store)])


def median_seconds(runs: Iterable[Run]) -> dict[Kind, float]:
    """Median seconds an epoch took, by kind of run."""
    return medians(times(runs))


def medians(found: Iterable[tuple[Kind, float]]) -> dict[Kind, float]:
    by_kind = defaultdict[Kind, list[float]](list)
    for kind, seconds in found:
        by_kind[kind].append(seconds)
    return {kind: median(each) for kind, each in by_kind.items()}


def times(runs: Iterable[Run]) -> Iterator[tuple[Kind, float]]:
    """Kind of each run, and seconds an epoch of it took."""
    for run in runs:
        config = run.record["config"]
        seconds = run.record["provenance"]["seconds"]
        yield kind_of(run.record["stage"], config), seconds / config["epochs"]


def paces(stages: Iterable[Stage], store: Store) -> Iterator[tuple[Kind, float]]:
    """Kind of each unfinished run of these, and seconds an epoch takes it so far."""
    for stage in stages:
        with suppress(RunError):
            match read_json(progress_file(store.path(stage))):
                case {"step": int(step), "total": int(total), "seconds": float(seconds)} if 0 < step <= total:
                    yield kind_of(stage.name, to_dict(stage)), seconds / (step / total * stage.epochs)


def runs_in(store: Store) -> Iterator[Run]:
    """The finished runs of a store. Estimates can do without damaged ones, which whoever uses them names."""
    for folder in store.folders():
        with suppress(Damaged):
            if run := read_run(folder):
                yield run


def seconds_expected(config: Stage, known: dict[Kind, float]) -> float | None:
    """Time a run may take, by `seconds_per_epoch`; None where no such run was timed."""
    each = known.get(kind_of(config.name, to_dict(config)))
    return None if each is None else each * config.epochs


def share_done(store: Store, stage: Stage) -> float:
    """How much of a run is done. Estimates take a damaged note of it for none; whoever goes on names that."""
    with suppress(RunError):
        return store.state(stage)[1]
    return 0.0


def kind_of(stage: str, config: dict[str, Any]) -> Kind:
    """What the time of an epoch depends on: stage, networks, memory, and the share of images it goes over."""
    teacher = config.get("teacher", {})
    share = teacher["fraction"] if config.get("transfer") == "labelled" else config.get("fraction")
    networks = [network_of(config), *([network_of(teacher)] if teacher else [])]
    return stage, share, bool(config.get("memory")), *(tuple(sorted(each.items())) for each in networks)


def network_of(values: dict[str, Any]) -> dict[str, Any]:
    """Network of a config given as a dict: its own, else that of what it builds on."""
    while "network" not in values:
        values = values.get("pretrain") or values["teacher"]
    network: dict[str, Any] = values["network"]
    return network
