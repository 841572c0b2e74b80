"""Commands for the runs of a preset: plan, run, reproduce, figures, claims, clean."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from clrkit.cli.options import AddCommand, UsageError, add_device, add_option, add_stage, resolved
from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.ablation_settings import with_ablations
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import preset

if TYPE_CHECKING:
    from clrkit.cli.progress import ProgressLine
    from clrkit.runs.slurm import Cluster
    from clrkit.runs.store import Store

TIME_IS_UP = 75  # exit status; EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130
MOST_PARENTS = 3  # that are named before they are trained


def add(command: AddCommand, arguments: Sequence[str]) -> None:
    """Add these commands to the parser that `command` makes parsers for."""
    planned = command("plan", show_plan, "List the runs of a preset: finished, still to train, and how long.")
    add_option(planned, "json", "one object per run", action="store_true")
    run = command("run", run_stage, "Train one stage and the stages it builds on; resume where it stopped.")
    add_stage(run, arguments)
    add_minutes(run)
    add_device(run)
    whole = command("reproduce", reproduce, "Train all runs, execute the notebooks, draw figures, compare.")
    for made in (planned, whole):
        add_option(made, "ablations", "include the runs of the ablation lab", action="store_true")
    add_workers(whole)
    add_minutes(whole)
    add_device(whole)
    command("figures", draw_figures, "Draw figures, tables and INDEX.md from the records, without training.")
    claimed = command("claims", show_claims, "Check the paper's claims against the records.")
    add_option(claimed, "json", "one object per claim", action="store_true")
    cleaned = command("clean", clean, "Delete partial runs; with --all, all your results of the preset.")
    cleaned.add_argument(
        "--all", action="store_true", help="also delete finished runs, figures and notebooks"
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options for training several runs at once."""
    about = "runs at a time (default: one per core, or one on a GPU; on SLURM, as many as it takes)"
    add_option(parser, "workers", about, type=int, default=0, metavar="N")
    about = "train each run as a job: of SLURM, or of this machine to try it out (docs/guides/sweeps.md)"
    add_option(parser, "cluster", about, choices=("slurm", "local"))
    about = "a submitit parameter of the jobs, such as slurm_partition=gpu; repeatable"
    add_option(parser, "cluster_set", about, action="append", default=[], metavar="NAME=VALUE")


def add_minutes(parser: argparse.ArgumentParser) -> None:
    """Add the option that limits the time of a command."""
    about = "stop after this time with exit status 75 and all states saved; the same command resumes"
    add_option(parser, "minutes", about, type=minutes, default=0.0, metavar="X")


def minutes(text: str) -> float:
    """A number of minutes above 0, for argparse."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def deadline(options: argparse.Namespace) -> float:
    """When to stop, as `time.monotonic`; infinity without --minutes."""
    return options.begun + 60 * options.minutes if options.minutes else math.inf


def status_of(stopped: Sequence[int]) -> int:
    """The exit status after the time is up. Raises KeyboardInterrupt if a signal came."""
    if any(stopped):
        raise KeyboardInterrupt
    return TIME_IS_UP


def chosen_cluster(options: argparse.Namespace) -> Cluster | None:
    """The cluster in the options, or None. Raises UsageError for cluster settings without a cluster."""
    from clrkit.runs.slurm import Cluster, read_parameters

    if options.cluster:
        return Cluster(options.cluster, read_parameters(options.cluster_set))
    if options.cluster_set:
        raise UsageError("--cluster_set is for jobs; it needs --cluster slurm or --cluster local.")
    return None


def opened(options: argparse.Namespace) -> tuple[Preset, Store]:
    """The preset and its store. Raises UsageError for an unknown preset."""
    from clrkit.runs.store import Store

    try:
        chosen = preset(options.preset)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    return chosen, Store(options.results, chosen.name)


def run_stage(options: argparse.Namespace) -> int:
    """Train one run and print its folder and metrics."""
    chosen, store = opened(options)
    stage: Stage = resolved(getattr(chosen, options.stage), options.fields)

    from clrkit.cli.progress import ProgressLine
    from clrkit.data.datasets import fingerprint, prepare
    from clrkit.runs.run import find
    from clrkit.runs.status import missing_parents
    from clrkit.scale import distributed

    line, first = ProgressLine(), distributed.is_first()
    show = line.show if first else lambda _: None
    distributed.in_turn(lambda: fingerprint(stage.images, show))
    cached = find(stage, store)
    if not cached:
        distributed.in_turn(lambda: prepare(stage.images, show))
        line.clear()
        if first:
            announce(missing_parents([stage], store))
    status = train(stage, store, options, line)
    if status:
        return status
    run = cached or find(stage, store)  # all processes ask together
    if not first:
        return 0
    assert run is not None
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
    print(f"{'cached' if cached else 'done'}: {run.folder} ({metrics})")
    return 0


def train(stage: Stage, store: Store, options: argparse.Namespace, line: ProgressLine) -> int:
    """Train a run to its end, to a signal or to the end of the time; return the exit status."""
    from clrkit.runs.run import run_or_load
    from clrkit.runs.signals import STOPPING, catch_signals
    from clrkit.runs.status import run_text
    from clrkit.scale import distributed

    over, first = False, distributed.is_first()
    with (
        catch_signals(*STOPPING, until=deadline(options)) as stopped,
        closing(run_or_load(stage, store, options.device)) as steps,
    ):
        for progress in steps:
            # All processes of a run stop at the same step, whichever received the signal.
            if over := distributed.any_of(bool(stopped)):
                break
            if first:
                line.show(run_text(progress), progress.step / progress.total)
        line.clear()
    if not over:
        return 0
    if not distributed.any_of(any(stopped)):
        return TIME_IS_UP
    return interrupted() if first else INTERRUPTED


def interrupted(resumable: bool = True) -> int:
    """Say that the command was stopped; return its exit status."""
    kept = "; finished steps are kept, and the same command resumes" if resumable else ""
    print(f"clrkit: stopped{kept}.", file=sys.stderr)
    return INTERRUPTED


def announce(sentences: Iterable[str]) -> None:
    """Print what will be trained first, the first few of many."""
    found = list(sentences)
    for sentence in found[:MOST_PARENTS]:
        print(f"{sentence}.", file=sys.stderr)
    if len(found) > MOST_PARENTS:
        print(f"{len(found) - MOST_PARENTS} more runs will be trained first.", file=sys.stderr)


def show_plan(options: argparse.Namespace) -> int:
    """Print the state of every run of a preset."""
    from clrkit.runs.reproduce import plan
    from clrkit.runs.status import plan_lines

    chosen, store = opened(options)
    rows = plan(with_ablations(chosen, options.ablations), store)
    print(json.dumps(rows, indent=1) if options.json else "\n".join(plan_lines(rows)))
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Train the missing runs of a preset, then publish the results."""
    from clrkit.cli.progress import ProgressLine, make_runs
    from clrkit.notebook.publish import publish
    from clrkit.runs.signals import STOPPING, catch_signals

    chosen, store = opened(options)
    cluster, line = chosen_cluster(options), ProgressLine()
    runs = with_ablations(chosen, options.ablations)
    with catch_signals(*STOPPING, until=deadline(options)) as stopped:
        if not make_runs(runs, store, options.workers, options.device, stopped, cluster):
            return status_of(stopped)
    verdict = publish(chosen, store, line.show)
    line.clear()
    print(verdict)
    return 0


def draw_figures(options: argparse.Namespace) -> int:
    """Draw figures, tables and the index of a preset."""
    from clrkit.notebook.publish import draw

    chosen, store = opened(options)
    index, verdict = draw(chosen, store)
    print(f"{verdict}; see {index}")
    return 0


def show_claims(options: argparse.Namespace) -> int:
    """Print the verdict on every claim of the paper."""
    from clrkit.results import claims
    from clrkit.results.records import records_to_frame
    from clrkit.runs.reproduce import gather

    chosen, store = opened(options)
    evidence = gather(chosen, store)
    found = claims.evaluate(records_to_frame(evidence.records, chosen), chosen)
    if options.json:
        print(json.dumps(claims.to_json(found), indent=1))
    else:
        print(f"From {evidence.source} ({chosen.name}):\n")
        print(claims.to_text(found))
    return 0


def clean(options: argparse.Namespace) -> int:
    """Delete partial runs, or everything. Raises ConfigError if a process uses what is to be deleted."""
    from clrkit.runs.store import discard_results, discard_unused

    _, store = opened(options)
    gone = {folder: discard_unused(folder) for folder in sorted(store.runs.glob("*.partial"))}
    for folder, deleted in gone.items():
        print(f"deleted {folder}" if deleted else f"kept {folder}: a process is working on it")
    if options.all and not all(gone.values()):
        raise ConfigError(f"{store.folder} is in use; finished runs, figures and notebooks were kept.")
    if options.all and store.folder.exists():
        discard_results(store)
        print(f"deleted {store.folder}")
    return 0
