"""How long a run will take, from how long such runs took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from clrkit.checksums import Damaged
from clrkit.config import Stage, to_dict
from clrkit.runs import Run, Store, read_run

Kind = tuple[Any, ...]


def seconds_per_epoch(store: Store) -> dict[Kind, float]:
    """Median seconds an epoch took in the runs of a store and its reference, by kind of run."""
    folders = [*store.folders(), *store.reference.folders()]
    return median_seconds(run for folder in folders if (run := intact(folder)))


def median_seconds(runs: Iterable[Run]) -> dict[Kind, float]:
    """Median seconds an epoch took, by kind of run."""
    times = defaultdict[Kind, list[float]](list)
    for run in runs:
        config = run.record["config"]
        seconds = run.record["provenance"]["seconds"]
        times[kind_of(run.record["stage"], config)].append(seconds / config["epochs"])
    return {kind: median(each) for kind, each in times.items()}


def intact(folder: Path) -> Run | None:
    """The run of a folder; an estimate can do without a damaged one, which whoever uses it will name."""
    try:
        return read_run(folder)
    except Damaged:
        return None


def seconds_expected(config: Stage, known: dict[Kind, float]) -> float | None:
    """Time a run may take, by `seconds_per_epoch`; None where no such run was timed."""
    each = known.get(kind_of(config.name, to_dict(config)))
    return None if each is None else each * config.epochs


def kind_of(stage: str, config: dict[str, Any]) -> Kind:
    """What the time of an epoch depends on: stage, network and fraction."""
    return stage, config.get("fraction"), *sorted(network_of(config).items())


def network_of(values: dict[str, Any]) -> dict[str, Any]:
    """Network of a config given as a dict: its own, else that of what it builds on."""
    while "network" not in values:
        values = values.get("pretrain") or values["teacher"]
    network: dict[str, Any] = values["network"]
    return network
