"""The command `sweep`: train the runs of a grid of settings and print a table of the results."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from clrkit.cli.experiment import (
    add_minutes,
    add_workers,
    announce,
    chosen_cluster,
    deadline,
    opened,
    status_of,
)
from clrkit.cli.options import AddCommand, add_device, add_option, add_stage, resolved
from clrkit.config import Stage
from clrkit.experiments.grid import Preset

if TYPE_CHECKING:
    from clrkit.cli.progress import ProgressLine
    from clrkit.runs.store import Run, Store

Settings = dict[str, str]

ABOUT = "Train the runs of a grid: every field but a path may be a list, such as --temperature 0.05,0.1,0.5."
PATHS = ("root", "labels_csv", "label_list", "left_out")  # fields whose value may contain commas


def add(command: AddCommand, arguments: Sequence[str]) -> None:
    """Add the command to the parser that `command` makes parsers for."""
    made = command("sweep", sweep, ABOUT)
    add_stage(made, arguments)
    add_option(made, "json", "one object per run instead of the table", action="store_true")
    add_workers(made)
    add_minutes(made)
    add_device(made)


def sweep(options: argparse.Namespace) -> int:
    """Train the runs of a grid, then print their results."""
    from clrkit.cli.progress import ProgressLine, make_runs
    from clrkit.results.sweep_table import beside_reference, sweep_table
    from clrkit.runs.signals import STOPPING, catch_signals
    from clrkit.runs.status import missing_parents

    chosen, store = opened(options)
    cluster, line = chosen_cluster(options), ProgressLine()
    points = grid(chosen, options.stage, options.fields)
    stages = list(points)
    check_all(stages, store, line)
    announce(missing_parents([stage for stage in stages if not store.find(stage)], store))
    with catch_signals(*STOPPING, until=deadline(options)) as stopped:
        if not make_runs(stages, store, options.workers, options.device, stopped, cluster):
            return status_of(stopped)
    made = [(settings, found(stage, store)) for stage, settings in points.items()]
    if options.json:
        print(json.dumps(objects(made), indent=1))
    else:
        print("\n".join(sweep_table(made)), flush=True)
        for text in beside_reference([run for _, run in made], store):
            print(text)
    return 0


def found(stage: Stage, store: Store) -> Run:
    """The finished run of a sweep. Raises RunError if it was deleted meanwhile."""
    from clrkit.runs.store import RunError

    run = store.find(stage)
    if run is None:
        raise RunError(f"{store.path(stage)} was deleted during the sweep; run the same command again.")
    return run


def grid(chosen: Preset, stage: str, given: Mapping[str, str]) -> dict[Stage, Settings]:
    """Every run of a grid, with the settings that it was asked for by.

    Args:
        chosen: the preset whose standard run is varied.
        stage: name of the stage.
        given: a value, or comma-separated values, by field; a path is one value.

    Raises:
        UsageError: for an unknown or ambiguous field, or an impossible value.
    """
    values = [[text] if name.rpartition(".")[2] in PATHS else text.split(",") for name, text in given.items()]
    points = [dict(zip(given, point, strict=True)) for point in itertools.product(*values)]
    return {resolved(getattr(chosen, stage), point): point for point in points}


def check_all(stages: Sequence[Stage], store: Store, line: ProgressLine) -> None:
    """Check that the data allow every missing run. Raises ConfigError."""
    from clrkit.data.datasets import prepare
    from clrkit.runs.local_workers import missing
    from clrkit.runs.run import load_once
    from clrkit.stages import check

    for stage in missing(stages, store):
        prepare(stage.images, line.show)
        check(stage, load_once(stage.images))
    line.clear()


def objects(made: Iterable[tuple[Settings, Run]]) -> list[dict[str, object]]:
    """The results as plain JSON values."""
    return [
        {"stage": run.record["stage"], "key": run.key, "settings": settings, "metrics": run.metrics}
        for settings, run in made
    ]
