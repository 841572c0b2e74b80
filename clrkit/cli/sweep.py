"""The command `sweep`: train the runs of a grid of settings and print a table of the results."""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from statistics import fmean, stdev
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
from clrkit.config import Augmentation, Data, Stage
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import preset

if TYPE_CHECKING:
    from clrkit.cli.progress import ProgressLine
    from clrkit.runs.store import Run, Store

Settings = dict[str, str]

ABOUT = "Train the runs of a grid: every field but a path may be a list, such as --temperature 0.05,0.1,0.5."
PATHS = ("root", "labels_csv", "label_list", "left_out")  # fields whose value may contain commas
# What rows are compared by, the first of these that all runs have: heading, scale, decimals.
METRICS = {"top1": ("top-1, %", 100, 1), "knn": ("kNN, %", 100, 1), "loss": ("loss", 1, 3)}
# Fields that change what the contrastive loss measures: its scale, its negatives, its views.
LOSS_OF = {"temperature", "summed_views", "batch_size", "micro_batch", "two_pass", "memory", "memory_size"}
LOSS_OF |= {item.name for kind in (Augmentation, Data) for item in fields(kind)}


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
    from clrkit.cli.progress import ProgressLine
    from clrkit.runs.reproduce import make_runs
    from clrkit.runs.signals import STOPPING, catch_signals
    from clrkit.runs.status import missing_parents

    chosen, store = opened(options)
    cluster, line = chosen_cluster(options), ProgressLine()
    points = grid(chosen, options.stage, options.fields)
    stages = list(points)
    check_all(stages, store, line)
    announce(missing_parents([stage for stage in stages if not store.find(stage)], store))
    with catch_signals(*STOPPING, until=deadline(options)) as stopped:
        if not make_runs(stages, store, options.workers, options.device, stopped, cluster, line.show):
            return status_of(stopped)
    made = [(settings, found(stage, store)) for stage, settings in points.items()]
    if options.json:
        print(json.dumps(objects(made), indent=1))
    else:
        lines = table(made)
        print("\n".join(lines), flush=True)
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
    from clrkit.runs.run import load_once
    from clrkit.scale.local_workers import missing
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


def table(made: Sequence[tuple[Settings, Run]]) -> list[str]:
    """The results as lines: a row for each setting of the varied fields, averaged over seeds."""
    from clrkit.cli.progress import aligned

    metric = next(name for name in METRICS if all(name in run.metrics for _, run in made))
    heading, scale, decimals = METRICS[metric]
    varied = [name for name in made[0][0] if name != "seed" and len({point[name] for point, _ in made}) > 1]
    values: dict[tuple[str, ...], list[float]] = {}
    for settings, run in made:
        row = tuple(settings[name] for name in varied)
        values.setdefault(row, []).append(scale * run.metrics[metric])
    rows = [(*row, spread(found, decimals), str(len(found))) for row, found in values.items()]
    remark = f"{len(made)} runs; {heading} is a mean ± its standard error over seeds."
    incomparable = incomparable_losses(varied) if metric == "loss" else ""
    return [f"{remark}{incomparable}", "", *aligned([(*varied, heading, "seeds"), *rows])]


def incomparable_losses(varied: Sequence[str]) -> str:
    """Why losses do not show which setting is better; "" if the varied fields leave them comparable."""
    others = [name for name in varied if name.rpartition(".")[2] in LOSS_OF]
    if not others:
        return ""
    names = " or ".join(others)
    return f" Losses at different {names} cannot be compared, and these runs have no accuracy."


def beside_reference(runs: Sequence[Run], store: Store) -> list[str]:
    """Compare the runs with the reference runs of the same settings, as lines; none without such runs.

    Damaged reference runs are left out.
    """
    from clrkit.cli.progress import aligned
    from clrkit.config import from_dict, stage_class
    from clrkit.results.comparison import NOT_RUN, compare, summary_line
    from clrkit.results.records import records_to_frame
    from clrkit.results.tables import cells_table
    from clrkit.runs.timing import runs_in

    reference = list(runs_in(store.reference))
    if not reference:
        return []
    records, chosen = [run.record for run in runs], preset(store.preset)
    made = [from_dict(stage_class(record["stage"]), record["config"]) for record in records]
    built_on = store.find_all(list(dict.fromkeys(link for stage in made for link in stage.chain)))
    cells = compare(
        *(records_to_frame((run.record for run in side), chosen) for side in (built_on, reference))
    )
    cells = cells[(cells["verdict"] != NOT_RUN) & (cells["stage"] == records[0]["stage"])]
    if cells.empty:
        return []
    shown = cells_table(cells)
    return ["", *aligned([shown.columns, *shown.rows]), "", summary_line(cells)]


def spread(values: Sequence[float], decimals: int) -> str:
    """A mean, with its standard error if there are several values."""
    from clrkit.results.table import decimal

    mean = decimal(fmean(values), decimals)
    error = f" ± {decimal(stdev(values) / math.sqrt(len(values)), decimals)}" if len(values) > 1 else ""
    return mean + error
