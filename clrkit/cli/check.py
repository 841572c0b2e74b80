"""python -m clrkit check: what is damaged, what is left over, and damaged runs put aside."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clrkit.runs.check import Findings

Command = Callable[[argparse.Namespace], int]


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add the command to the parser that `command` makes parsers for."""
    made = command("check", check_results, "Verify every file of the results against its checksum.")
    made.add_argument("--preset", help="experiment (default: all there are, the reference too)")
    about = "folder of results (default results)"
    made.add_argument("--results", type=Path, default=Path("results"), help=about)
    about = "rename damaged runs, so that reproduce makes them again; nothing is deleted"
    made.add_argument("--set-aside", action="store_true", help=about)


def check_results(options: argparse.Namespace) -> int:
    """Print a line for everything that is wrong or left over, then a summary; 1 if anything is damaged."""
    from clrkit.runs.check import check, set_aside

    found = check(options.results, options.preset)
    for problem in found.damaged:
        print(f"damaged: {problem}")
    for folder in found.made_again if options.set_aside else ():
        print(f"set aside: {folder} is now {set_aside(folder).name}")
    for remark in found.remarks:
        print(f"remark: {remark}")
    print(summary(found, options.set_aside))
    return 1 if found.damaged else 0


def summary(found: Findings, aside: bool) -> str:
    counted = f"{found.runs} runs and {found.files} other files checked"
    if not found.damaged:
        return f"{counted}; all are what was written."
    advice = "" if aside or not found.made_again else "; --set-aside renames the damaged runs"
    remedy = "`reproduce` makes them again; what is of the reference, restore it from the repository."
    return f"{counted}; {len(found.damaged)} damaged{advice}. {remedy}"
