"""Estimate how long a run takes from the runs that were timed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

from clrkit.config import Stage
from clrkit.data.files import read_json
from clrkit.errors import ConfigError
from clrkit.experiments.fields import to_dict
from clrkit.runs.checksums import ChecksumError
from clrkit.runs.store import Run, Store, progress_file, read_run

# Fields that old records lack, with the value that applied then.
ADDED = {"precision": "float32", "micro_batch": 0, "two_pass": True, "memory": False}


class Kind(NamedTuple):
    """The settings that the time of an epoch depends on.

    Attributes:
        batch_size: images per step.
        rest: stage, share of the images, precision, micro-batches, memory, images and networks.
    """

    batch_size: int
    rest: tuple[Any, ...]


def seconds_per_epoch(store: Store, stages: Iterable[Stage]) -> dict[Kind, float]:
    """Median seconds per epoch by kind of run: from the store, else from its reference.

    The reference may come from another machine. Unfinished runs of `stages` count with the store's.
    """
    own = medians([*times(runs_in(store)), *paces(stages, store)])
    return median_seconds(runs_in(store.reference)) | own


def median_seconds(runs: Iterable[Run]) -> dict[Kind, float]:
    """Median seconds per epoch by kind of run, from the runs on the device of the latest run."""
    return medians(times(runs))


def medians(found: Iterable[tuple[Kind, float]]) -> dict[Kind, float]:
    by_kind = defaultdict[Kind, list[float]](list)
    for kind, seconds in found:
        by_kind[kind].append(seconds)
    return {kind: median(each) for kind, each in by_kind.items()}


def times(runs: Iterable[Run]) -> Iterator[tuple[Kind, float]]:
    """Kind and seconds per epoch of each run on the device of the latest run."""
    records = [run.record for run in runs]
    sources = [record["provenance"] for record in records]
    latest: dict[str, Any] = max(sources, key=lambda each: str(each.get("finished", "")), default={})
    for record, source in zip(records, sources, strict=True):
        if source.get("device") == latest.get("device"):
            config = record["config"]
            yield kind_of(record["stage"], config), source["seconds"] / config["epochs"]


def paces(stages: Iterable[Stage], store: Store) -> Iterator[tuple[Kind, float]]:
    """Kind and seconds per epoch of each of these runs that is unfinished."""
    for stage in stages:
        with suppress(ConfigError):
            match read_json(progress_file(store.path(stage))):
                case {"step": int(step), "total": int(total), "seconds": float(seconds)} if 0 < step <= total:
                    yield kind_of(stage.name, to_dict(stage)), seconds / (step / total * stage.epochs)


def runs_in(store: Store) -> Iterator[Run]:
    """The finished runs of a store. Damaged ones are left out; whatever uses them reports them."""
    for folder in store.folders():
        with suppress(ChecksumError):
            if run := read_run(folder):
                yield run


def seconds_expected(config: Stage, known: dict[Kind, float]) -> float | None:
    """Expected seconds of a run by `seconds_per_epoch`; None if no such run was timed.

    If only other batch sizes were timed, the nearest one counts.
    """
    kind = kind_of(config.name, to_dict(config))
    alike = [each for each in known if each.rest == kind.rest]
    if not alike:
        return None
    nearest = min(alike, key=lambda each: abs(math.log(each.batch_size / kind.batch_size)))
    return known[nearest] * config.epochs


def share_done(store: Store, stage: Stage) -> float:
    """The share of a run that is done; 0 if its progress note is damaged, which resuming reports."""
    with suppress(ConfigError):
        return store.state(stage)[1]
    return 0.0


def kind_of(stage: str, config: dict[str, Any]) -> Kind:
    """The kind of a run, from its stage and its config as a dict."""
    teacher = config.get("teacher", {})
    share = teacher["fraction"] if config.get("transfer") == "labelled" else config.get("fraction")
    how = [config.get(name, default) for name, default in ADDED.items()]
    data = inherited(config, "data")
    networks = [inherited(each, "network") for each in (config, teacher) if each]
    network_fields = (tuple(sorted(each.items())) for each in networks)
    rest = (stage, share, *how, data["dataset"], data["image_size"], *network_fields)
    return Kind(config["batch_size"], rest)


def inherited(values: dict[str, Any], group: str) -> dict[str, Any]:
    """A group of fields of a config given as a dict: its own, else that of its nearest parent."""
    while group not in values:
        values = values.get("pretrain") or values["teacher"]
    found: dict[str, Any] = values[group]
    return found
