"""python -m clrkit check: verify finished runs, and set damaged ones aside."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Command = Callable[[argparse.Namespace], int]


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add the command to the parser that `command` makes parsers for."""
    made = command("check", check_results, "Verify every run against its checksums.")
    made.add_argument("--preset", help="experiment (default: all, the reference included)")
    about = "folder of results (default results)"
    made.add_argument("--results", type=Path, default=Path("results"), help=about)
    about = "rename damaged runs, so that reproduce makes them again; nothing is deleted"
    made.add_argument("--set-aside", action="store_true", help=about)


def check_results(options: argparse.Namespace) -> int:
    """Print a line per damaged run and a summary; return 1 if anything is damaged."""
    from clrkit.runs.check import check, set_aside

    found = check(options.results, options.preset)
    for path, problem in found.problems.items():
        print(f"damaged: {problem}")
        if options.set_aside and path.is_dir():  # a table of committed runs stays
            print(f"set aside: {path} is now {set_aside(path).name}")
    if not found.damaged:
        print(f"{found.runs} runs checked; all are intact.")
        return 0
    advice = "" if options.set_aside else "; --set-aside renames damaged runs"
    remedy = "`reproduce` makes them again; restore tables of the reference from the repository"
    print(f"{found.runs} runs checked; {len(found.damaged)} damaged{advice}. {remedy}.")
    return 1
