"""The command line: python -m clrkit COMMAND. Fields of the configs are its options, by name."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from clrkit import config as configs
from clrkit.cli import check, export, fit, models, report, sweep
from clrkit.config import STAGES, Config, Stage
from clrkit.device import under_torchrun
from clrkit.errors import ConfigError
from clrkit.experiments.ablation_settings import with_ablations
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import PRESETS, preset

if TYPE_CHECKING:
    from clrkit.runs.store import Store

STOPPING = (signal.SIGINT, signal.SIGTERM)
EPILOG = "Every field of a stage can be set by name, for example --temperature 0.2 or --pretrain.epochs 50."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; user errors print one sentence.

    Raises:
        SystemExit: for arguments that the parser refuses.
    """
    begun = monotonic()
    with nullcontext() if speaks() else redirect_stderr(io.StringIO()):
        options, rest = make_parser().parse_known_args(arguments)
    options.begun = begun
    try:
        with processes(options):
            options.fields = read_fields(rest)
            if options.fields and options.command not in ("run", "sweep", "fit"):
                raise ConfigError(f"{options.command} has no option --{next(iter(options.fields))}.")
            status: int = options.do(options)
            return status
    except ConfigError as error:
        print(f"clrkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.command in ("run", "reproduce", "sweep", "fit"):
            return interrupted()
        print("clrkit: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def speaks() -> bool:
    """Whether this process tells what is wrong with the command line: of several, the first."""
    return not under_torchrun() or os.environ["RANK"] == "0"


@contextmanager
def processes(options: argparse.Namespace) -> Iterator[None]:
    """Makes the processes that torchrun started one run; nothing in a process that is alone."""
    if not under_torchrun():
        yield
        return
    import torch

    from clrkit.scale import distributed

    with distributed.group(torch.cuda.is_available() and options.__dict__.get("device") in ("auto", "cuda")):
        if options.command != "run":
            raise ConfigError(f"torchrun is for `run`; start {options.command} without it.")
        yield


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clrkit", description="SimCLRv2, end to end.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def bare(name: str, do: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, epilog=None)
        made.set_defaults(do=do)
        return made

    def command(name: str, do: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        made = bare(name, do, help)
        made.add_argument(
            "--preset", default="mini", help=f"experiment: {', '.join(preset_names())} (default mini)"
        )
        made.add_argument(
            "--results", type=Path, default=Path("results"), help="folder of results (default results)"
        )
        return made

    planned = command(
        "plan", show_plan, "List the runs of a preset: which are there, which will be made, how long."
    )
    planned.add_argument("--json", action="store_true", help="one object a run")
    run = command(
        "run", run_stage, "Make one run of a stage, and what it builds on; go on where it was stopped."
    )
    run.add_argument("stage", choices=[stage.name for stage in STAGES], help="stage to run")
    run.epilog, run.formatter_class = f"{EPILOG}\n\n{fields_help()}", argparse.RawDescriptionHelpFormatter
    whole = command(
        "reproduce", reproduce, "Make every run, execute the notebooks, draw the figures, compare."
    )
    for made in (planned, whole):
        made.add_argument("--ablations", action="store_true", help="the runs of the ablation lab too")
    sweep.add_workers(whole)
    sweep.add_minutes(whole)
    sweep.add_minutes(run)
    swept = sweep.add(command)
    swept.epilog, swept.formatter_class = run.epilog, run.formatter_class
    for made in (run, whole, swept):
        made.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    command(
        "figures", draw_figures, "Draw figures, tables and INDEX.md from the records; nothing is trained."
    )
    report.add(command)
    claimed = command("claims", show_claims, "Check the paper's claims against the records.")
    claimed.add_argument("--json", action="store_true", help="one object a claim")
    cleaned = command("clean", clean, "Delete partial runs; with --all every own result of the preset.")
    cleaned.add_argument("--all", action="store_true", help="delete finished runs, figures and notebooks too")
    fit.add(bare)
    models.add(bare)
    export.add(bare)
    check.add(bare)
    return parser


def preset_names() -> list[str]:
    return [make.__name__ for make in PRESETS]


def fields_help() -> str:
    """Every field with its meaning, by the config it belongs to."""
    groups: list[type[Config]] = [Stage, *STAGES, configs.Labelled, configs.Data, configs.Network]
    groups += [configs.Augmentation, configs.Optimizer]
    lines: list[str] = []
    inherited: set[str] = set()
    for group in groups:
        own = {name: about for name, about in configs.field_help(group).items() if name not in inherited}
        inherited |= own.keys() if group in (Stage, configs.Labelled) else set()
        if own:
            lines.append(f"{group.__name__.lower()}:")
            lines += [f"  --{name:<16} {help}" for name, (_, help) in own.items()]
    return "\n".join(lines)


def read_fields(rest: Sequence[str]) -> dict[str, str]:
    """Options the parser does not know, as field names and texts: --name value or --name=value."""
    fields, words = {}, list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"Unexpected argument {word!r}; fields are set as --name value.")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"--{name} needs a value.")
            value = words.pop(0)
        fields[name.replace("-", "_")] = value
    return fields


def opened(options: argparse.Namespace) -> tuple[Preset, Store]:
    from clrkit.runs.store import Store

    chosen = preset(options.preset)
    return chosen, Store(options.results, chosen.name)


def run_stage(options: argparse.Namespace) -> int:
    chosen, store = opened(options)
    stage = chosen.resolve(options.stage, **options.fields)

    from clrkit.cli.progress import ProgressLine, noting
    from clrkit.data.datasets import fingerprint, prepare
    from clrkit.runs.run import find, run_or_load
    from clrkit.scale import distributed

    line = ProgressLine()
    show = line.show if distributed.is_first() else lambda _: None
    distributed.in_turn(lambda: fingerprint(stage.images, show))
    cached = find(stage, store)
    if not cached:
        distributed.in_turn(lambda: prepare(stage.images, show))
    over = False
    with (
        noting(*STOPPING, until=sweep.end_of_part(options)) as stopped,
        closing(run_or_load(stage, store, options.device)) as steps,
    ):
        for progress in steps:
            # All processes of a run stop at the same step, whichever was told to.
            if over := distributed.any_of(bool(stopped)):
                break
            if distributed.is_first():
                line.run(progress)
        line.clear()
    if over:
        if distributed.any_of(any(stopped)):
            return interrupted() if distributed.is_first() else 130
        return sweep.PART_OVER
    run = cached or find(stage, store)
    if not distributed.is_first():
        return 0
    assert run is not None
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
    print(f"{'cached' if cached else 'done'}: {run.folder} ({metrics})")
    return 0


def interrupted() -> int:
    """Says how to go on; returns the exit status of an interrupt."""
    print("clrkit: stopped; what was done is kept, the same command goes on from there.", file=sys.stderr)
    return 130


def show_plan(options: argparse.Namespace) -> int:
    from clrkit.cli.progress import plan_lines
    from clrkit.runs.reproduce import plan

    chosen, store = opened(options)
    runs = with_ablations(chosen, options.ablations)
    rows = plan(runs, store)
    print(json.dumps(rows, indent=1) if options.json else "\n".join(plan_lines(rows)))
    return 0


def reproduce(options: argparse.Namespace) -> int:
    from clrkit.cli.progress import ProgressLine, make_runs, noting
    from clrkit.notebook.publish import publish

    chosen, store = opened(options)
    cluster = sweep.chosen_cluster(options)
    runs = with_ablations(chosen, options.ablations)
    with noting(*STOPPING, until=sweep.end_of_part(options)) as stopped:
        work = runs, store, options.workers, options.device, stopped, cluster
        if not make_runs(*work):
            return sweep.stopped_by(stopped)
    line = ProgressLine()
    outcome = publish(chosen, store, lambda text: line.show(text, always=True))
    line.clear()
    print(outcome)
    return 0


def draw_figures(options: argparse.Namespace) -> int:
    from clrkit.notebook.publish import draw

    chosen, store = opened(options)
    index, verdict = draw(chosen, store)
    print(f"{verdict}; see {index}")
    return 0


def show_claims(options: argparse.Namespace) -> int:
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
