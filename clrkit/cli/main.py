"""The command line: python -m clrkit COMMAND."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from clrkit.cli import check, completion, experiment, export, fit, models, report, sweep
from clrkit.cli.extras import needs_extra
from clrkit.cli.options import Command, Parser, UsageError, add_results
from clrkit.device import under_torchrun
from clrkit.errors import ConfigError
from clrkit.experiments.presets import PRESETS

RESUMABLE = ("run", "reproduce", "sweep", "fit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that users cause print one sentence.

    Returns the exit status: 0, 1 for an error, 2 for a wrong command line, 75 at the end of --minutes, 130 if
    stopped by a signal. Raises nothing that users cause.
    """
    words = sys.argv[1:] if arguments is None else arguments
    options, begun, refusal = argparse.Namespace(command=""), monotonic(), None
    try:
        options = make_parser(words).parse_args(words)
    except UsageError as error:
        refusal = error
    try:
        with processes(options), needs_extra(options.command):
            if refusal:
                raise refusal  # here, so that one process of several prints it
            options.begun = begun
            status: int = options.do(options)
            return status
    except ConfigError as error:
        print(f"clrkit: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return experiment.interrupted(options.command in RESUMABLE)
    except BrokenPipeError:
        return 0


@contextmanager
def processes(options: argparse.Namespace) -> Iterator[None]:
    """Join the processes that torchrun started; do nothing in a single process."""
    if not under_torchrun():
        yield
        return
    import torch

    from clrkit.scale import distributed

    with distributed.group(torch.cuda.is_available() and options.__dict__.get("device") in ("auto", "cuda")):
        if options.command not in ("", "run"):
            raise ConfigError(f"torchrun is for `run`; start {options.command} without it.")
        yield


def make_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands; its help shows the defaults of the preset in the arguments."""
    parser = Parser(prog="python -m clrkit", description="SimCLRv2: pretrain, fine-tune, distil, compare.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    presets = [make.__name__ for make in PRESETS]

    def bare(name: str, do: Command, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(do=do)
        return made

    def command(name: str, do: Command, help: str) -> argparse.ArgumentParser:
        made = bare(name, do, help)
        named = "{" + ",".join(presets) + "}"
        made.add_argument("--preset", default="mini", metavar=named, help="experiment (default mini)")
        add_results(made)
        return made

    experiment.add(command, arguments)
    sweep.add(command, arguments)
    report.add(command)
    fit.add(bare)
    models.add(bare)
    export.add(bare)
    check.add(bare)
    completion.add(bare, parser)
    return parser
