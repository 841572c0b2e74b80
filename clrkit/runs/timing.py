"""How long a run will take, from how long such runs took."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

from clrkit.config import Stage, to_dict
from clrkit.runs.checksums import ChecksumError
from clrkit.runs.store import Run, RunError, Store, progress_file, read_json, read_run

# Fields that runs were recorded without, with what was done then.
ADDED = {"precision": "float32", "micro_batch": 0, "two_pass": True, "memory": False}


class Kind(NamedTuple):
    """What the time of an epoch depends on.

    Attributes:
        batch_size: images a step.
        rest: stage, share of the images, precision, micro-batches, memory, images and networks.
    """

    batch_size: int
    rest: tuple[Any, ...]


def seconds_per_epoch(store: Store, stages: Iterable[Stage]) -> dict[Kind, float]:
    """Median seconds an epoch took, by kind of run: in the store, else in its reference.

    The reference may be from another machine. In the store what is there of these stages counts, too, where
    they are not finished.
    """
    return median_seconds(runs_in(store.reference)) | medians([*times(runs_in(store)), *paces(stages, store)])


def median_seconds(runs: Iterable[Run]) -> dict[Kind, float]:
    """Median seconds an epoch took, by kind of run; of runs on the device on which the last was made."""
    return medians(times(runs))


def medians(found: Iterable[tuple[Kind, float]]) -> dict[Kind, float]:
    by_kind = defaultdict[Kind, list[float]](list)
    for kind, seconds in found:
        by_kind[kind].append(seconds)
    return {kind: median(each) for kind, each in by_kind.items()}


def times(runs: Iterable[Run]) -> Iterator[tuple[Kind, float]]:
    """Kind of each run on the device of the youngest, and seconds an epoch of it took."""
    records = [run.record for run in runs]
    sources = [record["provenance"] for record in records]
    youngest: dict[str, Any] = max(sources, key=lambda each: str(each.get("finished", "")), default={})
    for record, source in zip(records, sources, strict=True):
        if source.get("device") == youngest.get("device"):
            config = record["config"]
            yield kind_of(record["stage"], config), source["seconds"] / config["epochs"]


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
        with suppress(ChecksumError):
            if run := read_run(folder):
                yield run


def seconds_expected(config: Stage, known: dict[Kind, float]) -> float | None:
    """Time a run may take, by `seconds_per_epoch`; None where no such run was timed.

    Where such runs were timed with other batch sizes alone, that of the nearest one stands in.
    """
    kind = kind_of(config.name, to_dict(config))
    alike = [each for each in known if each.rest == kind.rest]
    if not alike:
        return None
    nearest = min(alike, key=lambda each: abs(math.log(each.batch_size / kind.batch_size)))
    return known[nearest] * config.epochs


def share_done(store: Store, stage: Stage) -> float:
    """How much of a run is done. Estimates take a damaged note of it for none; whoever goes on names that."""
    with suppress(RunError):
        return store.state(stage)[1]
    return 0.0


def kind_of(stage: str, config: dict[str, Any]) -> Kind:
    """The kind of a run, from its stage and its config as a dict."""
    teacher = config.get("teacher", {})
    share = teacher["fraction"] if config.get("transfer") == "labelled" else config.get("fraction")
    how = [config.get(name, default) for name, default in ADDED.items()]
    data = inherited(config, "data")
    images = data["dataset"], data["image_size"]
    networks = [inherited(each, "network") for each in (config, teacher) if each]
    rest = stage, share, *how, *images, *(tuple(sorted(each.items())) for each in networks)
    return Kind(config["batch_size"], rest)


def network_of(values: dict[str, Any]) -> dict[str, Any]:
    """Network of a config given as a dict: its own, else that of what it builds on."""
    return inherited(values, "network")


def inherited(values: dict[str, Any], group: str) -> dict[str, Any]:
    """A group of fields of a config given as a dict: its own, else that of what it builds on."""
    while group not in values:
        values = values.get("pretrain") or values["teacher"]
    found: dict[str, Any] = values[group]
    return found
