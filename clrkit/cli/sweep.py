"""The command `sweep`: the runs of a grid of settings, and a table of what came out."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from clrkit.config import STAGES, Augmentation, Data, Stage
from clrkit.errors import ConfigError
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import preset

if TYPE_CHECKING:
    from clrkit.runs.store import Run, Store
    from clrkit.scale.slurm import Cluster

Command = Callable[[argparse.Namespace], int]
Settings = dict[str, str]

ABOUT = (
    "Make the runs of a grid: every field of a stage but a path may be a list, "
    "such as --temperature 0.05,0.1,0.5."
)
PART_OVER = 75  # EX_TEMPFAIL of sysexits.h
PATHS = ("root", "labels_csv", "label_list", "left_out")  # fields of one value, whatever commas it has
# What a grid is judged by, the first of these that all its runs have: column, scale, decimals.
METRICS = {"top1": ("top-1, %", 100, 1), "knn": ("kNN, %", 100, 1), "loss": ("loss", 1, 3)}
# What pretraining's loss is a loss of: its scale, the negatives it is over, the views that are to agree.
LOSS_OF = {"temperature", "summed_views", "batch_size", "micro_batch", "two_pass", "memory", "memory_size"}
LOSS_OF |= {item.name for kind in (Augmentation, Data) for item in fields(kind)}


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command to the parser that `command` makes parsers for."""
    made = command("sweep", sweep, ABOUT)
    made.add_argument("stage", choices=[stage.name for stage in STAGES], help="stage to run")
    made.add_argument("--json", action="store_true", help="one object a run, in place of the table")
    add_workers(made)
    add_minutes(made)
    return made


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who makes many runs."""
    about = "runs at a time (default: one a core, or one on a GPU; on SLURM, as many as it takes)"
    parser.add_argument("--workers", type=int, default=0, help=about)
    about = "make each run as a job: of SLURM, or of this machine to try it out (docs/sweeps.md)"
    parser.add_argument("--cluster", choices=("slurm", "local"), help=about)
    about = "a parameter of the jobs by submitit's name, such as slurm_partition=gpu; repeatable"
    parser.add_argument(
        "--cluster_set", "--cluster-set", action="append", default=[], metavar="NAME=VALUE", help=about
    )


def add_minutes(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a command do a part of its work."""
    about = "work for so many minutes, then stop with all states kept and exit status 75; again goes on"
    parser.add_argument("--minutes", type=minutes, default=0.0, help=about)


def minutes(text: str) -> float:
    """A number of minutes. Raises argparse's error for one that is not above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def end_of_part(options: argparse.Namespace) -> float:
    """When to stop, as `time.monotonic`; never where the command is to do all its work."""
    return options.begun + 60 * options.minutes if options.minutes else math.inf


def stopped_by(noted: Sequence[int]) -> int:
    """The exit status of a command that its time ended; where it was a signal, KeyboardInterrupt."""
    if any(noted):
        raise KeyboardInterrupt
    return PART_OVER


def chosen_cluster(options: argparse.Namespace) -> Cluster | None:
    """The cluster that the options ask for, or None. Raises ConfigError for settings without one."""
    from clrkit.scale.slurm import Cluster, read_parameters

    if options.cluster:
        return Cluster(options.cluster, read_parameters(options.cluster_set))
    if options.cluster_set:
        raise ConfigError("--cluster_set is for jobs; it needs --cluster slurm or --cluster local.")
    return None


def sweep(options: argparse.Namespace) -> int:
    """Make the runs of a grid, then print what came out."""
    from clrkit.cli.progress import noting
    from clrkit.runs.reproduce import make_runs
    from clrkit.runs.store import Store

    chosen = preset(options.preset)
    store, cluster = Store(options.results, chosen.name), chosen_cluster(options)
    points = grid(chosen, options.stage, options.fields)
    check_all(list(points), store)
    with noting(signal.SIGINT, signal.SIGTERM, until=end_of_part(options)) as stopped:
        work = list(points), store, options.workers, options.device, stopped, cluster
        if not make_runs(*work):
            return stopped_by(stopped)
    made = [(settings, found(stage, store)) for stage, settings in points.items()]
    if options.json:
        print(json.dumps(objects(made), indent=1))
    else:
        print("\n".join(table(made)), flush=True)
        for line in beside_reference([run for _, run in made], store):
            print(line)
    return 0


def found(stage: Stage, store: Store) -> Run:
    """The run of a sweep that is over. Raises RunError where it is not there any more."""
    from clrkit.runs.store import RunError

    run = store.find(stage)
    if run is None:
        raise RunError(f"{store.path(stage)} was made and is not there; the same command makes it again.")
    return run


def grid(chosen: Preset, stage: str, fields: Mapping[str, str]) -> dict[Stage, Settings]:
    """Every run of a grid, with the settings it was asked for by.

    Args:
        chosen: the experiment whose standard run is varied.
        stage: which stage.
        fields: a value, or comma-separated values, by name; a path is one value.

    Raises:
        ConfigError: for an unknown stage or field, or an impossible value.
    """
    values = [
        [text] if name.rpartition(".")[2] in PATHS else text.split(",") for name, text in fields.items()
    ]
    points = [dict(zip(fields, point, strict=True)) for point in itertools.product(*values)]
    return {chosen.resolve(stage, **point): point for point in points}


def check_all(stages: Sequence[Stage], store: Store) -> None:
    """Whether the data allow every run that is to be made, before the first is. Raises ConfigError."""
    from clrkit.cli.progress import ProgressLine
    from clrkit.data.datasets import prepare
    from clrkit.runs.run import load_once
    from clrkit.scale.local_workers import missing
    from clrkit.stages import check

    show = ProgressLine().show
    for stage in missing(stages, store):
        prepare(stage.images, show)
        check(stage, load_once(stage.images))


def objects(made: Iterable[tuple[Settings, Run]]) -> list[dict[str, object]]:
    """What came out, as plain JSON values."""
    return [
        {"stage": run.record["stage"], "key": run.key, "settings": settings, "metrics": run.metrics}
        for settings, run in made
    ]


def table(made: Sequence[tuple[Settings, Run]]) -> list[str]:
    """What came out, as lines: a row for each setting of the varied fields, over its seeds."""
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
    """Why losses say nothing of which setting is better; "" where the varied fields leave them comparable."""
    others = [name for name in varied if name.rpartition(".")[2] in LOSS_OF]
    if not others:
        return ""
    names = " or ".join(others)
    return (
        f" Losses at another {names} cannot be compared, and these runs have no accuracy: no row is better."
    )


def beside_reference(runs: Sequence[Run], store: Store) -> list[str]:
    """How the runs compare with the reference's of the same settings, as lines; none where it has none.

    Reference runs that are damaged are left out; `check` names them.
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
    """A mean, with its standard error where there are several values."""
    from clrkit.results.text import decimal

    mean = decimal(fmean(values), decimals)
    error = f" ± {decimal(stdev(values) / math.sqrt(len(values)), decimals)}" if len(values) > 1 else ""
    return mean + error
